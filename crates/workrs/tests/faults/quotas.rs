//! Owners with quotas on two machines with room for everything: their jobs wait for each other, and those of others do not.

use std::{sync::Arc, time::Duration};

use object_store::memory::InMemory;
use workrs::{
    node::{self, NodeConfig, NodeParts},
    quotas::{self, Quotas, Whose},
};
use workrs_core::{
    id::{JobId, Owner},
    job::{JobRecord, JobState},
    quota::Quota,
    spec::JobSpec,
};
use workrs_engine::fake::FakeHost;
use workrs_store::{blobs::Blobs, faulty::TimedLeases, fresh, records::Records, redb::RedbStore, state::StateStore};

use crate::job::{node_config, on_paused_clock};

/// Jobs of the owner with the quota, each of one core and 512 MB for two seconds.
const JOBS: usize = 8;
/// Jobs of the other one.
const OTHERS: usize = 3;
/// Virtual time after which a job that is not done is stuck.
const STUCK: Duration = Duration::from_secs(10 * 60);

/// Runs all jobs; gives the most jobs of the owner with `quota` that ever ran, and how many of them had ended when the last
/// of the others had begun.
pub fn the_most_that_ran(quota: Quota) -> (usize, usize) {
    on_paused_clock(async move {
        let folder = tempfile::tempdir().unwrap();
        let state: Arc<dyn StateStore> = Arc::new(TimedLeases::new(Arc::new(RedbStore::in_memory())));
        let (records, blobs) = (Records::new(state.clone()), Blobs::new(Arc::new(InMemory::new())));
        let (ann, ben) = (Owner::new("ann").unwrap(), Owner::new("ben").unwrap());
        Quotas::new(state.clone()).set(&Whose::One(ann.clone()), Some(&quota)).await.unwrap();
        for number in 0..JOBS {
            submit(&records, &ann, number).await;
        }
        for number in 0..OTHERS {
            submit(&records, &ben, number).await;
        }
        let mut nodes = Vec::new();
        for name in ["first", "second"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            let host = FakeHost::new(folder.path().join(name));
            let parts = NodeParts { records: records.clone(), blobs: blobs.clone(), engine: Arc::new(host.engine()) };
            let config = NodeConfig {
                cpus_milli: 16_000,
                memory_bytes: 16 << 30,
                ..node_config(name, folder.path().join(name).join("work"))
            };
            nodes.push(node::start(config, parts).await.unwrap());
        }
        let seen = tokio::time::timeout(STUCK, watch(&state, &records, &ann)).await.expect("jobs are stuck");
        for node in nodes {
            node.stop(Duration::from_secs(1)).await;
        }
        seen
    })
}

async fn submit(records: &Records, owner: &Owner, number: usize) {
    let id = JobId::new(format!("{owner}-{number}")).unwrap();
    let spec = JobSpec::new("test", vec!["sleep".to_owned(), "2000".to_owned()]);
    let record = JobRecord::submitted(id, owner.clone(), spec, None, fresh::now());
    records.submit(record, &fresh::operation()).await.unwrap();
}

/// Looks at all jobs again and again until they have ended.
async fn watch(state: &Arc<dyn StateStore>, records: &Records, ann: &Owner) -> (usize, usize) {
    let (mut most, mut ended_before) = (0, None);
    loop {
        let all = records.list(None, 100).await.unwrap().0;
        let (of_ann, of_others): (Vec<_>, Vec<_>) = all.iter().partition(|record| record.owner == *ann);
        let is_running = |record: &&&JobRecord| matches!(record.state, JobState::Running { .. });
        most = most.max(of_ann.iter().filter(is_running).count());
        if ended_before.is_none() && of_others.iter().all(|record| record.epoch.0 > 0) {
            ended_before = Some(of_ann.iter().filter(|record| record.is_finished()).count());
        }
        if all.iter().all(JobRecord::is_finished) {
            let running = quotas::running(&**state, ann).await.unwrap();
            assert_eq!(running.jobs, 0, "keys of jobs that do not run are left");
            return (most, ended_before.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
