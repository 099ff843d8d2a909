//! The engine on the real runc and CRIU of this host; needs root. Run it with the name of a test to run only that.
//!
//! This executable is also the helper that the engine calls, and it runs itself in a mount namespace of its own, so that
//! whatever happens no mount is left on the host.
#![allow(clippy::unwrap_used, reason = "a test")]

mod fencing;
#[path = "../image/mod.rs"]
mod image;
mod images;
mod limits;
mod network;
mod node;
mod reflinks;
mod resume;
mod stage;
mod suite;
mod timing;

use std::{os::unix::process::CommandExt, path::Path, process::Command, time::Instant};

use workrs_engine::{
    internal,
    preflight::{self, Level},
};

const INSIDE: &str = "WORKRS_TEST_INSIDE";

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("keeps_the_contract_of_an_engine", suite::keeps_the_contract_of_an_engine),
    ("keeps_the_contract_in_an_image", images::keeps_the_contract_in_an_image),
    ("a_job_in_an_image_goes_on_on_another_node", images::a_job_in_an_image_goes_on_on_another_node),
    ("an_image_of_one_program_is_enough", images::an_image_of_one_program_is_enough),
    ("an_image_that_cannot_be_run_says_why", images::an_image_that_cannot_be_run_says_why),
    ("a_root_user_cannot_make_the_engine_write_elsewhere", images::a_root_user_cannot_make_the_engine_write_elsewhere),
    ("an_image_of_as_many_layers_as_may_be_runs", images::an_image_of_as_many_layers_as_may_be_runs),
    ("a_job_sees_little_and_can_change_less", limits::a_job_sees_little_and_can_change_less),
    ("an_init_killed_from_outside_is_a_fault_of_the_host", limits::an_init_killed_from_outside_is_a_fault_of_the_host),
    ("a_fork_bomb_is_held", limits::a_fork_bomb_is_held),
    ("ends_are_told_apart_after_a_restore", limits::ends_are_told_apart_after_a_restore),
    ("a_busy_job_goes_on_where_it_was", resume::a_busy_job_goes_on_where_it_was),
    ("what_cannot_be_captured_runs_on", resume::what_cannot_be_captured_runs_on),
    (
        "a_job_that_starts_programs_all_the_time_is_captured",
        resume::a_job_that_starts_programs_all_the_time_is_captured,
    ),
    ("a_dump_that_takes_too_long_is_ended", resume::a_dump_that_takes_too_long_is_ended),
    ("restores_side_by_side_all_succeed", resume::restores_side_by_side_all_succeed),
    ("a_data_folder_below_a_closed_one_works", stage::a_data_folder_below_a_closed_one_works),
    ("what_criu_knows_of_the_kernel_is_laid_out_again", stage::what_criu_knows_of_the_kernel_is_laid_out_again),
    ("a_data_folder_with_reflinks_needs_no_volume", reflinks::a_data_folder_with_reflinks_needs_no_volume),
    ("connections_outside_are_closed_by_a_restore", network::connections_outside_are_closed_by_a_restore),
    ("a_job_sees_the_network_that_it_is_given", network::a_job_sees_the_network_that_it_is_given),
    (
        "who_waits_for_an_answer_outside_sees_its_end_after_a_restore",
        network::who_waits_for_an_answer_outside_sees_its_end_after_a_restore,
    ),
    (
        "a_connection_to_a_service_of_the_host_keeps_from_a_capture_while_it_lasts",
        network::a_connection_to_a_service_of_the_host_keeps_from_a_capture_while_it_lasts,
    ),
    (
        "jobs_with_network_stand_still_while_it_is_not_known_whose_they_are",
        fencing::jobs_with_network_stand_still_while_it_is_not_known_whose_they_are,
    ),
    (
        "a_job_that_is_stopped_while_it_starts_a_program_is_captured_later",
        fencing::a_job_that_is_stopped_while_it_starts_a_program_is_captured_later,
    ),
    ("a_dead_node_leaves_nothing_running", node::a_dead_node_leaves_nothing_running),
    ("a_node_that_starts_sweeps", node::a_node_that_starts_sweeps),
    ("timing", timing::timing),
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
    if arguments.first().is_some_and(|first| first == "as-node") {
        return node::node_process();
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
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, test) in TESTS.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str()))) {
        let began = Instant::now();
        test();
        println!("test {name} ... ok ({:.1} s)", began.elapsed().as_secs_f64());
    }
    suite::clean_up();
}

/// Why these tests cannot run here.
fn missing() -> Option<String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let findings = runtime.block_on(preflight::check(Path::new(suite::DATA), suite::POOL));
    let missing = findings.into_iter().find(|finding| finding.level == Level::Missing)?;
    Some(format!("{}: {}", missing.what, missing.detail))
}
