//! Nodes that differ: where a job is resumed that only some of them fit, how it waits for one of those, and how it gives up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::Instant;
use workrs::node::{self, NodeConfig, NodeParts, RunningNode};
use workrs_core::{
    id::{JobId, Owner},
    job::{CheckpointMode, JobRecord, JobState, Start},
    spec::{CheckpointPolicy, JobSpec},
};
use workrs_engine::fake::{FakeHost, Restores};
use workrs_store::{blobs::Blobs, faulty::TimedLeases, fresh, records::Records, redb::RedbStore, state::StateStore};

use crate::job::{TestJob, node_config, on_paused_clock};

/// Virtual time after which what a test waits for does not come any more.
const STUCK: Duration = Duration::from_secs(2 * 60 * 60);
/// As `node_config` has it.
const UNFIT_WAIT: Duration = Duration::from_secs(600);
/// Longer than a lease, and than nodes take to see each other.
const A_WHILE: Duration = Duration::from_secs(12);
const EVERY_2_S: CheckpointPolicy = CheckpointPolicy::Every(Duration::from_secs(2));
const OLD: &[&str] = &["avx"];
const NEW: &[&str] = &["avx", "avx2"];

/// A group of pretended machines with one store and a job.
struct Fleet {
    folder: TempDir,
    state: Arc<dyn StateStore>,
    job: TestJob,
    hosts: BTreeMap<&'static str, FakeHost>,
    nodes: BTreeMap<&'static str, RunningNode>,
}

impl Fleet {
    /// A group whose job runs on its only node and has checkpoints.
    async fn with_checkpoints() -> Self {
        let mut fleet = Self::new(EVERY_2_S).await;
        fleet.start("first", NEW).await;
        fleet.until(|record| record.totals.checkpoints >= 3).await;
        fleet
    }

    /// A group with a job and no nodes.
    async fn new(policy: CheckpointPolicy) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let state: Arc<dyn StateStore> = Arc::new(TimedLeases::new(Arc::new(RedbStore::in_memory())));
        let job = TestJob::submit_with(policy, "count", 30, &Records::new(state.clone())).await;
        Self { folder, state, job, hosts: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    fn host(&mut self, name: &'static str) -> FakeHost {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        self.hosts.entry(name).or_insert_with(|| FakeHost::new(folder)).clone()
    }

    async fn start(&mut self, name: &'static str, cpu_features: &[&str]) {
        let host = self.host(name);
        let config = NodeConfig {
            cpu_features: cpu_features.iter().map(|&feature| feature.to_owned()).collect(),
            ..node_config(name, self.folder.path().join(name).join("work"))
        };
        let (records, blobs) = (Records::new(self.state.clone()), Blobs::new(self.job.blobs.clone()));
        let node = node::start(config, NodeParts { records, blobs, engine: Arc::new(host.engine()) }).await.unwrap();
        self.nodes.insert(name, node);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    async fn kill(&mut self, name: &'static str) {
        self.hosts[name].crash();
        self.nodes.remove(name).unwrap().crash().await;
    }

    /// Submits a job that takes the whole of a node for this long, and waits until it runs there.
    async fn occupy(&self, name: &str, time: Duration) {
        let (id, millis) = (JobId::new("other").unwrap(), time.as_millis().to_string());
        let spec = JobSpec::new("other", vec!["sleep".to_owned(), millis]);
        let record = JobRecord::submitted(id.clone(), Owner::new("me").unwrap(), spec, None, fresh::now());
        let records = Records::new(self.state.clone());
        records.submit(record, &fresh::operation()).await.unwrap();
        let is_there = |record: &JobRecord| record.holder().is_some_and(|holder| holder.node.as_str() == name);
        until(&records, &id, is_there).await;
    }

    async fn until(&self, holds: impl Fn(&JobRecord) -> bool) -> JobRecord {
        until(&Records::new(self.state.clone()), &self.job.id, holds).await
    }

    /// Waits until the record says that the job waits, and why.
    async fn waits(&self, why: &str) -> JobRecord {
        let says = |record: &JobRecord| match &record.state {
            JobState::Queued { reason: Some(reason), .. } => {
                reason.starts_with("waits for a node that fits checkpoint ")
                    && reason.contains(why)
                    && reason.ends_with("; gives that checkpoint up if none comes within 10m")
            }
            _ => false,
        };
        self.until(says).await
    }

    /// Waits for the job's end, which must be good, on this node and from a checkpoint, at the price of one death.
    async fn resumes_on(&self, name: &str) -> JobRecord {
        let record = self.until(JobRecord::is_finished).await;
        self.job.check_result(&record).await;
        let last = record.attempts.last().unwrap();
        assert_eq!(last.node.as_str(), name, "{record:#?}");
        assert!(matches!(last.start, Start::Checkpoint { .. }), "{record:#?}");
        assert_eq!(record.totals.losses, 1, "{record:#?}");
        record
    }

    async fn end(mut self) {
        for host in self.hosts.values() {
            host.crash();
        }
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.crash().await;
        }
    }
}

async fn until(records: &Records, job: &JobId, holds: impl Fn(&JobRecord) -> bool) -> JobRecord {
    let began = Instant::now();
    loop {
        let record = records.get(job).await.unwrap().unwrap();
        if holds(&record) {
            return record;
        }
        assert!(began.elapsed() < STUCK, "it does not come to it: {record:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the attempts' notes say, one a line.
fn notes(record: &JobRecord) -> String {
    let notes = record.attempts.iter().flat_map(|attempt| &attempt.notes);
    notes.cloned().collect::<Vec<_>>().join("\n")
}

#[test]
fn a_job_resumes_on_the_node_whose_processor_can_do_what_it_may_rely_on() {
    on_paused_clock(async {
        let mut fleet = Fleet::with_checkpoints().await;
        fleet.start("old", OLD).await;
        fleet.start("new", NEW).await;
        fleet.kill("first").await;
        let record = fleet.resumes_on("new").await;
        assert_eq!(record.totals.attempts, 2, "nobody else even tried: {record:#?}");
        assert!(notes(&record).contains("; old: its processor lacks avx2"), "{}", notes(&record));
        fleet.end().await;
    });
}

#[test]
fn a_job_that_no_node_fits_waits_for_one_and_says_why() {
    on_paused_clock(async {
        let mut fleet = Fleet::with_checkpoints().await;
        fleet.start("old", OLD).await;
        fleet.kill("first").await;
        fleet.waits(": old: its processor lacks avx2; ").await;
        tokio::time::sleep(UNFIT_WAIT / 2).await;
        // Another node that does not fit changes what is said, and not how long the job waits.
        fleet.host("other").set_engine("other");
        fleet.start("other", NEW).await;
        fleet.waits("other: it has the engine other, not fake").await;
        fleet.start("new", NEW).await;
        let record = fleet.resumes_on("new").await;
        assert_eq!(record.totals.attempts, 2, "{record:#?}");
        fleet.end().await;
    });
}

#[test]
fn a_node_that_fits_begins_the_wait_anew_when_it_goes() {
    on_paused_clock(async {
        let mut fleet = Fleet::with_checkpoints().await;
        fleet.start("old", OLD).await;
        fleet.host("new").set_restores(Restores::Unfit);
        fleet.kill("first").await;
        fleet.waits("old: its processor lacks avx2").await;
        tokio::time::sleep(UNFIT_WAIT * 2 / 3).await;
        fleet.start("new", NEW).await;
        fleet.waits("new: the test makes this host unfit").await;
        fleet.kill("new").await;
        tokio::time::sleep(UNFIT_WAIT * 2 / 3).await;
        fleet.hosts["new"].set_restores(Restores::Work);
        fleet.start("new", NEW).await;
        fleet.resumes_on("new").await;
        fleet.end().await;
    });
}

#[test]
fn a_job_that_waited_long_enough_starts_clean_and_says_why() {
    on_paused_clock(async {
        let mut fleet = Fleet::with_checkpoints().await;
        fleet.host("other").set_engine("other");
        fleet.start("other", NEW).await;
        fleet.start("old", OLD).await;
        fleet.kill("first").await;
        let waiting = fleet.waits("old: its processor lacks avx2").await;
        let began = Instant::now();
        let record = fleet.until(|record| record.totals.attempts > waiting.totals.attempts).await;
        assert!(began.elapsed() + A_WHILE > UNFIT_WAIT, "after {:?}: {record:#?}", began.elapsed());
        let record = fleet.until(JobRecord::is_finished).await;
        fleet.job.check_result(&record).await;
        assert_eq!((record.totals.attempts, record.totals.losses), (2, 1), "{record:#?}");
        assert_eq!(record.attempts.last().unwrap().start, Start::Clean, "{record:#?}");
        let notes = notes(&record);
        let lacks = ["old: its processor lacks avx2", "other: it has the engine other, not fake"];
        assert!(notes.contains("no node fits it: ") && lacks.iter().all(|why| notes.contains(why)), "{notes}");
        assert!(notes.contains("no good checkpoint is left: clean start"), "{notes}");
        fleet.end().await;
    });
}

#[test]
fn what_only_the_node_can_see_is_remembered_and_costs_nothing() {
    on_paused_clock(async {
        let mut fleet = Fleet::with_checkpoints().await;
        fleet.host("changed").set_restores(Restores::Unfit);
        fleet.start("changed", NEW).await;
        fleet.kill("first").await;
        let waiting = fleet.waits(": changed: the test makes this host unfit; ").await;
        assert_eq!((waiting.totals.attempts, waiting.totals.losses, waiting.losses), (2, 1, 1), "{waiting:#?}");
        let calls = fleet.hosts["changed"].calls();
        assert!(!calls.contains(&"prepare"), "it fetched a checkpoint that it does not fit: {calls:?}");
        fleet.start("same", NEW).await;
        let record = fleet.resumes_on("same").await;
        assert!(notes(&record).contains("; changed: the test makes this host unfit"), "{}", notes(&record));
        fleet.end().await;
    });
}

#[test]
fn a_node_that_comes_back_with_what_was_missing_resumes_the_job() {
    on_paused_clock(async {
        let mut fleet = Fleet::with_checkpoints().await;
        fleet.host("changed").set_restores(Restores::Unfit);
        fleet.start("changed", NEW).await;
        fleet.kill("first").await;
        fleet.waits("changed: the test makes this host unfit").await;
        fleet.kill("changed").await;
        fleet.hosts["changed"].set_restores(Restores::Work);
        tokio::time::sleep(A_WHILE).await;
        fleet.start("changed", NEW).await;
        let record = fleet.resumes_on("changed").await;
        assert_eq!(record.totals.attempts, 3, "{record:#?}");
        fleet.end().await;
    });
}

#[test]
fn a_job_waits_for_a_node_that_fits_and_is_full() {
    on_paused_clock(async {
        let mut fleet = Fleet::with_checkpoints().await;
        fleet.start("new", NEW).await;
        fleet.occupy("new", UNFIT_WAIT * 3).await;
        fleet.start("old", OLD).await;
        fleet.kill("first").await;
        tokio::time::sleep(UNFIT_WAIT * 2).await;
        let record = fleet.until(|_| true).await;
        assert!(matches!(record.state, JobState::Queued { .. }), "{record:#?}");
        let record = fleet.resumes_on("new").await;
        assert_eq!(record.totals.attempts, 2, "{record:#?}");
        fleet.end().await;
    });
}

#[test]
fn a_checkpoint_that_a_node_refused_is_tried_elsewhere() {
    on_paused_clock(async {
        let mut fleet = Fleet::with_checkpoints().await;
        fleet.start("busy", NEW).await;
        fleet.occupy("busy", UNFIT_WAIT * 2).await;
        fleet.host("refuses").set_restores(Restores::Refused);
        fleet.start("refuses", NEW).await;
        fleet.kill("first").await;
        let record = fleet.resumes_on("busy").await;
        let nodes: Vec<_> = record.attempts.iter().map(|attempt| attempt.node.as_str()).collect();
        assert_eq!(nodes, ["first", "refuses", "busy"], "{record:#?}");
        fleet.end().await;
    });
}

#[test]
fn a_job_goes_back_to_the_older_checkpoint_that_fits() {
    on_paused_clock(async {
        let mut fleet = Fleet::new(EVERY_2_S).await;
        fleet.start("old", OLD).await;
        fleet.until(|record| record.totals.checkpoints >= 2).await;
        // What runs on the newer processor may look up what that can do.
        fleet.start("new", NEW).await;
        fleet.kill("old").await;
        fleet.until(|record| record.checkpoints.iter().any(|checkpoint| checkpoint.id.epoch.0 == 2)).await;
        fleet.start("older", OLD).await;
        fleet.kill("new").await;
        fleet.waits("checkpoint 2-1: older: its processor lacks avx2").await;
        let record = fleet.until(JobRecord::is_finished).await;
        fleet.job.check_result(&record).await;
        let last = record.attempts.last().unwrap();
        let Start::Checkpoint { id, .. } = last.start else { panic!("{record:#?}") };
        assert_eq!((id.epoch.0, last.node.as_str(), record.totals.attempts), (1, "older", 3), "{record:#?}");
        assert!(notes(&record).contains("fell back to checkpoint 1-"), "{}", notes(&record));
        fleet.end().await;
    });
}

#[test]
fn a_checkpoint_of_files_fits_every_engine_and_processor() {
    on_paused_clock(async {
        let mut fleet = Fleet::new(CheckpointPolicy::Files).await;
        fleet.start("new", NEW).await;
        fleet.until(|record| record.totals.checkpoints > 0).await;
        fleet.host("other").set_engine("other");
        fleet.host("other").set_no_dump(Some("no CRIU"));
        fleet.start("other", OLD).await;
        fleet.kill("new").await;
        let record = fleet.until(JobRecord::is_finished).await;
        let last = record.attempts.last().unwrap();
        assert_eq!((last.node.as_str(), record.totals.attempts), ("other", 2), "{record:#?}");
        let from = matches!(last.start, Start::Checkpoint { mode: CheckpointMode::Files, .. });
        assert!(from, "{record:#?}");
        fleet.end().await;
    });
}
