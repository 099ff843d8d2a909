//! The docker engine, on real daemons.
//!
//! They call this executable as their runtime, and it is the engine's helper. It runs itself in a mount namespace of its
//! own, as a node does, so that a run that fails leaves no mounts.
#![allow(clippy::unwrap_used, clippy::zombie_processes, missing_docs, reason = "tests")]

mod daemon;
mod node;
mod resume;
mod suite;

use std::{os::unix::process::CommandExt, path::Path, process::Command, time::Instant};

use workrs_engine::{
    internal,
    preflight::{self, Level},
};

use self::daemon::Dockerd;

/// Set once the process has a mount namespace of its own.
const INSIDE: &str = "WORKRS_ENGINE_TEST_INSIDE";

type Test = fn(&Dockerd);

const TESTS: &[(&str, Test)] = &[
    ("keeps_the_contract_of_an_engine", suite::keeps_the_contract_of_an_engine),
    ("a_busy_job_goes_on_where_it_was", resume::a_busy_job_goes_on_where_it_was),
    ("a_checkpoint_of_one_daemon_resumes_under_another", resume::a_checkpoint_of_one_daemon_resumes_under_another),
    (
        "a_job_that_starts_programs_all_the_time_is_captured",
        resume::a_job_that_starts_programs_all_the_time_is_captured,
    ),
    ("a_dump_that_takes_too_long_is_ended", resume::a_dump_that_takes_too_long_is_ended),
    ("what_cannot_be_captured_runs_on", resume::what_cannot_be_captured_runs_on),
    ("what_docker_is_told_to_end_is_no_fault_of_the_job", node::what_docker_is_told_to_end_is_no_fault_of_the_job),
    ("a_daemon_that_is_not_set_up_is_told", node::a_daemon_that_is_not_set_up_is_told),
    ("a_dead_node_leaves_nothing_running", node::a_dead_node_leaves_nothing_running),
    ("a_node_that_starts_sweeps", node::a_node_that_starts_sweeps),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [internal, verb, rest @ ..] = arguments.as_slice()
        && internal == "internal"
    {
        let code = internal::internal(verb, rest).unwrap_or_else(|error| {
            eprintln!("{error}");
            1
        });
        std::process::exit(code);
    }
    if let [as_node, socket] = arguments.as_slice()
        && as_node == "as-node"
    {
        return node::node_process(Path::new(socket));
    }
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in TESTS {
            println!("{name}: test");
        }
        return;
    }
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    if std::env::var_os(INSIDE).is_none() {
        let failed = Command::new("unshare")
            .args(["--mount", "--propagation", "slave"])
            .arg(std::env::current_exe().unwrap())
            .args(&arguments)
            .env(INSIDE, "1")
            .exec();
        panic!("failed to enter a mount namespace: {failed}");
    }
    let daemon = Dockerd::start();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, test) in TESTS.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str()))) {
        let began = Instant::now();
        test(&daemon);
        println!("test {name} ... ok ({:.1} s)", began.elapsed().as_secs_f64());
    }
    suite::clean_up();
}

/// Why these tests cannot run here.
fn missing() -> Option<String> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&folders).any(|folder| folder.join(program).is_file());
    if let Some(program) = ["dockerd", "containerd"].into_iter().find(|program| !has(program)) {
        return Some(format!("{program} not found"));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let findings = runtime.block_on(preflight::check(Path::new(suite::DATA), suite::POOL));
    let missing = findings.into_iter().find(|finding| finding.level == Level::Missing)?;
    Some(format!("{}: {}", missing.what, missing.detail))
}
