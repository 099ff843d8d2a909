//! A pretended machine with a real state file and blobs in memory, on which nodes live and die until a job is done.

use std::{future::pending, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use workrs::node::{self, CheckpointQuota, NodeConfig, NodeParts, RunningNode};
use workrs_core::{
    job::{JobEvent, JobRecord, JobState, Outcome},
    keys::BlobNames,
};
use workrs_engine::fake::{self, FakeHost};
use workrs_store::{
    blobs::Blobs,
    faulty::{Faults, FaultyBlobs, FaultyState},
    fresh,
    records::Records,
    redb::{OpenError, RedbStore},
    state::{Change, StateStore, Transaction},
};

use crate::job::{TestJob, node_config, on_paused_clock};

/// Virtual time after which a job that is not done is stuck.
const STUCK: Duration = Duration::from_secs(2 * 60 * 60);

/// What happens to the job besides the enumerated fault, which strikes in the life that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Nothing. The fault strikes in the first life.
    Undisturbed,
    /// Its first node is killed after 5 s. The fault strikes in the second life.
    Killed,
    /// Its first node is told to stop after 5 s. The fault strikes in the first life.
    Stopped,
    /// It is cancelled once that many operations have begun.
    Cancelled {
        /// The number of operations.
        at: u64,
    },
}

/// Operations of the life that matters.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// On state and blobs.
    pub store: u64,
    /// Of the engine.
    pub engine: usize,
}

pub struct World {
    folder: TempDir,
    host: FakeHost,
    job: TestJob,
    quota: CheckpointQuota,
    keep_finished: Option<Duration>,
}

/// A node's life.
struct Life {
    node: RunningNode,
    /// For those who look on: no fault strikes here, and nothing is counted.
    records: Records,
}

impl World {
    /// Lives through `story` to the job's end and checks it.
    pub fn run(story: Story, faults: Faults, engine_fault: Option<(usize, fake::Fault)>) -> Count {
        on_paused_clock(async move {
            let world = Self::new("count", 6).await;
            let mut lives = 0;
            if story == Story::Killed {
                world.live_for(Duration::from_secs(5)).await;
                lives += 1;
            }
            let calls_before = world.host.calls().len();
            if let Some((number, fault)) = engine_fault {
                world.host.inject(calls_before + number, fault);
            }
            world.live(story, &faults).await;
            lives += 1;
            let count = Count { store: faults.count(), engine: world.host.calls().len() - calls_before };
            while !world.is_done().await {
                assert!(lives < 10, "the job is not done after {lives} lives");
                world.live(Story::Undisturbed, &Faults::none()).await;
                lives += 1;
            }
            world.check(story).await;
            count
        })
    }

    /// A job whose checkpoints cannot be restored.
    pub fn refused(restores: fake::Restores) -> JobRecord {
        on_paused_clock(async move {
            let world = Self::new("count", 6).await;
            world.live_for(Duration::from_secs(5)).await;
            world.host.set_restores(restores);
            world.live(Story::Undisturbed, &Faults::none()).await;
            world.job.check_result(&world.record().await).await;
            world.record().await
        })
    }

    /// A job whose node is killed twenty times.
    pub fn killed_often() -> JobRecord {
        on_paused_clock(async move {
            let world = Self::new("count", 70).await;
            for _ in 0..20 {
                world.live_for(Duration::from_millis(3_500)).await;
            }
            world.live(Story::Undisturbed, &Faults::none()).await;
            world.job.check_result(&world.record().await).await;
            world.record().await
        })
    }

    /// A job whose memory cannot be captured.
    pub fn undumpable() -> JobRecord {
        on_paused_clock(async move {
            let world = Self::new("fail-dump", 6).await;
            world.live(Story::Undisturbed, &Faults::none()).await;
            world.job.check_result(&world.record().await).await;
            world.record().await
        })
    }

    /// A job whose checkpoints may not take a single byte.
    pub fn over_quota(quota: CheckpointQuota) -> JobRecord {
        on_paused_clock(async move {
            let mut world = Self::new("count", 20).await;
            world.quota = quota;
            world.live(Story::Undisturbed, &Faults::none()).await;
            world.job.check_result(&world.record().await).await;
            world.record().await
        })
    }

    /// What a job that finished leaves once its time to be kept is over: whether a record, and how many blobs.
    pub fn kept_for(keep: Option<Duration>) -> (bool, usize) {
        on_paused_clock(async move {
            let mut world = Self::new("count", 6).await;
            world.live(Story::Undisturbed, &Faults::none()).await;
            world.keep_finished = keep;
            let life = world.start(&Faults::none()).await.unwrap();
            // Records carry the wall clock, which does not jump with tokio's.
            std::thread::sleep(Duration::from_millis(30));
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            let record = life.records.get(&world.job.id).await.unwrap();
            life.node.stop(Duration::from_secs(1)).await;
            let blobs = world.job.blobs().list(&BlobNames(&world.job.id).prefix()).await.unwrap();
            (record.is_some(), blobs.len())
        })
    }

    /// Whether a job runs, is tidied up after and goes when its time is over, while others stand before it in every list whose
    /// records are damaged.
    pub fn beside_damaged_records() -> bool {
        on_paused_clock(async move {
            let mut world = Self::new("count", 6).await;
            let entry = r#"{"cpus_milli":1000,"memory_bytes":1,"disk_bytes":1}"#;
            let put = |key: &str, value: &'static str| Change::Put(key.to_owned(), value.into(), None);
            let changes = vec![
                put("jobs/a", "rotten"),
                put("jobs/b", "rotten"),
                put("queue/00/0/000000000000001/a", entry),
                put("cleanup/b", "{}"),
                put("finished/000000000000001/b", "{}"),
            ];
            let state = open_state(world.folder.path()).await;
            state.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
            state.close().await;
            world.live(Story::Undisturbed, &Faults::none()).await;
            world.job.check_result(&world.record().await).await;
            world.keep_finished = Some(Duration::from_millis(1));
            let life = world.start(&Faults::none()).await.unwrap();
            std::thread::sleep(Duration::from_millis(30));
            tokio::time::sleep(Duration::from_secs(600)).await;
            let is_gone = life.records.get(&world.job.id).await.unwrap().is_none();
            life.node.stop(Duration::from_secs(1)).await;
            is_gone
        })
    }

    async fn new(program: &str, lines: usize) -> Self {
        // Thousands of lives: a file system in memory spares their syncs, where there is one.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let host = FakeHost::new(folder.path());
        let records = Records::new(Arc::new(open_state(folder.path()).await));
        let job = TestJob::submit(program, lines, &records).await;
        Self { host, job, folder, quota: CheckpointQuota::default(), keep_finished: None }
    }

    /// Starts a node through `faults`; `None` if a fault kept it from starting.
    async fn start(&self, faults: &Faults) -> Option<Life> {
        let state: Arc<dyn StateStore> = Arc::new(open_state(self.folder.path()).await);
        let blobs = Blobs::new(Arc::new(FaultyBlobs::new(self.job.blobs.clone(), faults.clone())));
        let records = Records::new(Arc::new(FaultyState::new(state.clone(), faults.clone())));
        let records = records.with_archive(blobs.clone());
        let config = NodeConfig {
            checkpoint_quota: self.quota,
            keep_finished: self.keep_finished,
            ..node_config("node", self.folder.path().join("work"))
        };
        let parts = NodeParts { records, blobs, engine: Arc::new(self.host.engine()) };
        tokio::select! {
            biased;
            () = self.dies(faults) => None,
            started = node::start(config, parts) => Some(Life { node: started.ok()?, records: Records::new(state) }),
        }
    }

    /// Returns when a fault lets the node die.
    async fn dies(&self, faults: &Faults) {
        tokio::select! {
            () = faults.crashed() => {}
            () = self.host.crashed() => {}
        }
    }

    /// A life without faults that ends by kill -9.
    async fn live_for(&self, time: Duration) {
        let life = self.start(&Faults::none()).await.unwrap();
        tokio::time::sleep(time).await;
        self.kill(life).await;
    }

    async fn kill(&self, life: Life) {
        self.host.crash();
        life.node.crash().await;
        drop(life.records);
        self.job.check_restorable(&self.record().await, self.folder.path()).await;
    }

    /// A life, until the job is done, the node died of a fault, or it was stopped.
    async fn live(&self, story: Story, faults: &Faults) {
        let Some(life) = self.start(faults).await else {
            self.host.crash();
            return;
        };
        let told = async {
            match story {
                Story::Stopped => tokio::time::sleep(Duration::from_secs(5)).await,
                Story::Cancelled { at } => {
                    self.cancel(&life.records, faults, at).await;
                    pending::<()>().await;
                }
                Story::Undisturbed | Story::Killed => pending().await,
            }
        };
        let end = tokio::select! {
            biased;
            () = self.dies(faults) => "died",
            () = told => "stopped",
            () = self.done(&life.records) => "done",
            () = tokio::time::sleep(STUCK) => panic!("the job is stuck: {:#?}", life.records.get(&self.job.id).await),
        };
        if end == "died" {
            return self.kill(life).await;
        }
        tokio::select! {
            biased;
            () = self.dies(faults) => {}
            _ = life.node.stop(Duration::from_secs(80)) => {}
        }
        self.host.crash();
    }

    async fn cancel(&self, records: &Records, faults: &Faults, at: u64) {
        while faults.count() < at {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let event = JobEvent::CancelRequested { at: fresh::now() };
        // A job that has finished meanwhile stays as it is.
        let _unless_finished = records.apply(&self.job.id, &event, &[], &fresh::operation()).await;
    }

    /// Returns when the job has finished and the node has let go of it.
    async fn done(&self, records: &Records) {
        loop {
            let record = records.get(&self.job.id).await.unwrap().unwrap();
            if record.is_finished() && self.host.containers().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn record(&self) -> JobRecord {
        Records::new(Arc::new(open_state(self.folder.path()).await)).get(&self.job.id).await.unwrap().unwrap()
    }

    async fn is_done(&self) -> bool {
        self.record().await.is_finished()
    }

    async fn check(&self, story: Story) {
        let record = self.record().await;
        TestJob::check_attempts(&record);
        let JobState::Finished { outcome, .. } = &record.state else { panic!("not finished: {record:#?}") };
        match (story, outcome) {
            (Story::Cancelled { .. }, Outcome::Cancelled) => {}
            (_, Outcome::Succeeded) => self.job.check_result(&record).await,
            (_, outcome) => panic!("ended as {outcome:?}: {record:#?}"),
        }
        // Another life, for as long as it takes to keep house once, must find nothing left to do.
        let life = self.start(&Faults::none()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(180)).await;
        life.node.stop(Duration::from_secs(1)).await;
        assert_eq!(self.host.containers(), [] as [String; 0], "containers are left");
        self.job.check_cleaned().await;
    }
}

/// Opens the state as a new process would: the leases of former ones are gone.
async fn open_state(folder: &Path) -> RedbStore {
    for _ in 0..10_000 {
        match RedbStore::open(&folder.join("state.redb")).await {
            Ok(store) => return store,
            // The last task of the former life still holds it.
            Err(OpenError::Locked) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("a task of a former life never ends");
}
