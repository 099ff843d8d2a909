//! A node alone whose job has network, and that is cut off from the store for longer than its lease.

use std::{sync::Arc, time::Duration};

use workrs::node::{self, NodeParts};
use workrs_core::{
    job::{JobRecord, decide},
    spec::{CheckpointPolicy, Network},
};
use workrs_engine::fake::FakeHost;
use workrs_store::{
    blobs::Blobs,
    faulty::{Faults, FaultyState, TimedLeases},
    fresh,
    records::{Records, guarded},
    redb::RedbStore,
    state::StateStore,
};

use crate::job::{TestJob, node_config, on_paused_clock};

/// What the job takes.
const SECONDS: usize = 30;
/// Early in it.
const MIDDLE: Duration = Duration::from_millis(3_500);
/// Longer than the lease, and over before the job and the minute between two comparisons of records are.
const CUT: Duration = Duration::from_secs(12);

/// Whether somebody gives the job back meanwhile, as nodes do that see the lease end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    Nothing,
    GivenBack,
}

/// The record when the job is done, and of which containers the engine heard that they may go on.
pub fn cut_off_alone(meanwhile: Meanwhile) -> (JobRecord, Vec<String>) {
    on_paused_clock(async move {
        let folder = tempfile::tempdir().unwrap();
        let host = FakeHost::new(folder.path());
        let state: Arc<dyn StateStore> = Arc::new(TimedLeases::new(Arc::new(RedbStore::in_memory())));
        let records = Records::new(state.clone());
        let job = TestJob::submit_spec("count", SECONDS, &records, |spec| {
            spec.network = Network::Host;
            spec.checkpoint = CheckpointPolicy::Every(Duration::from_secs(2));
        });
        let job = job.await;
        let link = Faults::none();
        let parts = NodeParts {
            records: Records::new(Arc::new(FaultyState::new(state, link.clone()))),
            blobs: Blobs::new(job.blobs.clone()),
            engine: Arc::new(host.engine()),
        };
        let node = node::start(node_config("alone", folder.path().join("work")), parts).await.unwrap();
        tokio::time::sleep(MIDDLE).await;
        link.cut_off(true);
        tokio::time::sleep(CUT).await;
        if meanwhile == Meanwhile::GivenBack {
            let reap = |record: &JobRecord| decide::reap(record, fresh::now()).map(guarded);
            records.decide(&job.id, reap, &fresh::operation()).await.unwrap();
        }
        link.cut_off(false);
        let done = async {
            loop {
                let record = records.get(&job.id).await.unwrap().unwrap();
                if record.is_finished() {
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let record = tokio::time::timeout(Duration::from_secs(600), done).await.expect("the job is stuck");
        job.check_result(&record).await;
        node.stop(Duration::from_secs(1)).await;
        (record, host.may_go_on())
    })
}
