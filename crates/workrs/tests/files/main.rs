//! Files come back bit for bit: random changes of a job's files, captured from the real job disk, stored with only what
//! changed, fetched and mounted again. Needs root, runc and CRIU.
//!
//! This executable is also the helper that the engine calls, and it runs itself in a mount namespace of its own, so that
//! whatever happens no mount is left on the host.
#![allow(clippy::unwrap_used, reason = "a test")]

mod changes;
mod job;
mod snapshot;

use std::{os::unix::process::CommandExt, path::Path, process::Command, time::Instant};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use workrs_engine::{
    internal,
    preflight::{self, Level},
};

use self::changes::Change;

const INSIDE: &str = "WORKRS_TEST_INSIDE";
/// Each takes a second or two of real dumps and restores.
const CASES: u32 = 10;

/// What happens to the job between two captures.
#[derive(Debug, Clone)]
struct Round {
    changes: Vec<Change>,
    /// Memory too, or only files.
    full: bool,
    /// Whether the node "dies" after the capture, so that the job goes on from it.
    resume: bool,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let round = (prop::collection::vec(changes::change(), 1..25), any::<bool>(), any::<bool>());
    let round = round.prop_map(|(changes, full, resume)| Round { changes, full, resume });
    prop::collection::vec(round, 2..5)
}

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
    if arguments.iter().any(|argument| argument == "--list") {
        println!("any_sequence_of_changes_comes_back: test");
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let findings = runtime.block_on(preflight::check(Path::new(job::DATA), job::POOL));
    if let Some(missing) = findings.into_iter().find(|finding| finding.level == Level::Missing) {
        println!("skipped: {}: {}", missing.what, missing.detail);
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
    let began = Instant::now();
    let config = Config { cases: CASES, max_shrink_iters: 30, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&rounds(), |rounds| {
        runtime.block_on(job::live(&rounds)).map_err(|difference| TestCaseError::fail(format!("{difference:#}")))
    });
    job::clean_up();
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("test any_sequence_of_changes_comes_back ... ok ({:.1} s)", began.elapsed().as_secs_f64());
}
