//! Jobs with network while it is not known whose they are.

use std::{path::Path, time::Duration};

use workrs_core::{job::CheckpointMode, spec::Network};
use workrs_engine::{
    Engine, boottime,
    conformance::{self, Output},
};

use crate::{
    limits::start,
    suite::{NODE, capture, count, on_engine, wait_for_line},
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
    tokio::time::timeout(Duration::from_secs(30), frozen).await.unwrap();
}

async fn goes_on(output: &mut Output) {
    output.drain();
    wait_for_line(output).await;
}

pub fn jobs_with_network_stand_still_while_it_is_not_known_whose_they_are() {
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut spec = conformance::spec("open", 1, count(1_000_000, 10));
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
        goes_on(&mut said).await;
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
