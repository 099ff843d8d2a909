//! Jobs with network while it is not known whose they are.

use std::{path::Path, pin::pin, time::Duration};

use workrs_core::{job::CheckpointMode, spec::Network};
use workrs_engine::{
    Container, Engine, EngineError, boottime,
    conformance::{self, Output},
    runc::RuncEngine,
};

use crate::{
    limits::start,
    suite::{NODE, capture, count, on_engine, python, wait_for_line},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Whether every process of a container stands still.
fn is_frozen(container: &str) -> bool {
    let read = |path: String| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).unwrap_or_default();
    read(format!("freezer/workrs/{NODE}/{container}/freezer.state")).trim() == "FROZEN"
        || read(format!("workrs/{NODE}/{container}/cgroup.events")).lines().any(|line| line == "frozen 1")
}

async fn wait_until_frozen(container: &str) {
    let frozen = async {
        while !is_frozen(container) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), frozen).await.unwrap();
}

/// Renews the lease meanwhile, as a node does. The guard may hear of the lease only after the node has let a job go on, and
/// stop it once more; then it goes on with the next renewal.
async fn renewed<T>(engine: &RuncEngine, joined: Duration, wait: impl Future<Output = T>) -> T {
    let mut wait = pin!(wait);
    loop {
        match tokio::time::timeout(Duration::from_millis(50), &mut wait).await {
            Ok(done) => return done,
            Err(_) => engine.lease_holds(joined, joined + HOUR),
        }
    }
}

const TICKS: &str = "import time\nwhile True: print(time.time(), flush=True); time.sleep(0.01)";

/// Its child starts a program once somebody has opened `gate`, and not before; it waits for that.
const STARTS_A_PROGRAM: &str = r#"
import os, time
os.mkfifo("gate")
print("ready", flush=True)
os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 5, "gate", os.O_RDONLY, 0)])
os.wait()
print("started", flush=True)
while True: time.sleep(1)
"#;

async fn goes_on(output: &mut Output) {
    output.drain();
    wait_for_line(output).await;
}

pub fn jobs_with_network_stand_still_while_it_is_not_known_whose_they_are() {
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        // It starts no program, and so can be captured wherever it is stopped.
        let mut spec = conformance::spec("open", 1, python(TICKS));
        spec.network = Network::Host;
        let (open, mut said) = start(&engine, &spec).await;
        let (shut, mut said_inside) = start(&engine, &conformance::spec("shut", 1, count(1_000_000, 10))).await;
        goes_on(&mut said).await;

        let joined = boottime::now();
        engine.lease_holds(joined, joined + Duration::from_millis(300));
        wait_until_frozen("open-1").await;
        goes_on(&mut said_inside).await;
        assert!(!is_frozen("shut-1"), "nothing of it can be seen outside");

        // A capture that the node made meanwhile ends, and to know whose it is is of no use without a lease.
        drop(open.freeze().await.unwrap());
        engine.is_ours(&spec.job, "1", boottime::now());
        wait_until_frozen("open-1").await;

        // Nor is what was known before there was a gap in the lease.
        let joined = boottime::now();
        engine.lease_holds(joined, joined + HOUR);
        engine.is_ours(&spec.job, "1", joined.saturating_sub(Duration::from_millis(1)));
        conformance::discard(&capture(&*open, CheckpointMode::Full, &folder.path().join("into")).await);
        assert!(is_frozen("open-1"));
        engine.is_ours(&spec.job, "1", boottime::now());
        renewed(&engine, joined, goes_on(&mut said)).await;
        conformance::discard(&capture(&*open, CheckpointMode::Full, &folder.path().join("again")).await);
        goes_on(&mut said).await;

        // One that stands still can be ended.
        engine.lease_holds(joined, boottime::now());
        wait_until_frozen("open-1").await;
        for container in [&open, &shut] {
            container.destroy().await.unwrap();
        }
        assert_eq!(crate::suite::leftovers(), Vec::<String>::new());
    });
}

/// Why there is no capture now.
async fn why_not_captured(container: &dyn Container) -> Option<String> {
    let into = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut frozen = container.freeze().await.unwrap();
    match frozen.capture(CheckpointMode::Full, into.path(), HOUR).await {
        Ok(captured) => {
            conformance::discard(&captured);
            None
        }
        Err(EngineError::CannotCapture(reason)) => Some(reason),
        Err(error) => panic!("{error}"),
    }
}

/// The lease can end while a job starts a program: it is stopped where CRIU cannot seize it.
pub fn a_job_that_is_stopped_while_it_starts_a_program_is_captured_later() {
    on_engine(async |engine| {
        let mut spec = conformance::spec("starting", 1, python(STARTS_A_PROGRAM));
        spec.network = Network::Host;
        let (container, mut said) = start(&engine, &spec).await;
        assert_eq!(wait_for_line(&mut said).await, "ready\n");
        let slow = loop {
            if let Some(reason) = why_not_captured(&*container).await {
                break reason;
            }
        };
        assert_eq!(slow, "a process of it waits for a child to start a program, which takes long");

        let joined = boottime::now();
        engine.lease_holds(joined, joined);
        wait_until_frozen("starting-1").await;
        let in_doubt = why_not_captured(&*container).await.unwrap();
        assert!(in_doubt.ends_with("while it is not known whose it is"), "{in_doubt}");
        assert!(is_frozen("starting-1"));

        let joined = boottime::now();
        engine.lease_holds(joined, joined + HOUR);
        engine.is_ours(&spec.job, "1", boottime::now());
        drop(std::fs::File::options().write(true).open(container.job_folder().join("gate")).unwrap());
        assert_eq!(renewed(&engine, joined, wait_for_line(&mut said)).await, "started\n");
        assert_eq!(why_not_captured(&*container).await, None);
        container.destroy().await.unwrap();
        assert_eq!(crate::suite::leftovers(), Vec::<String>::new());
    });
}
