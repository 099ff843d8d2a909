//! A pretended machine with a real state file and blobs in memory, on which nodes live and die until a job is done.

use std::{collections::BTreeMap, future::pending, path::PathBuf, sync::Arc, time::Duration};

use object_store::memory::InMemory;
use tempfile::TempDir;
use workrs::{
    joblog,
    node::{self, CheckpointQuota, FileEntry, FileIndex, NodeConfig, NodeParts, Roles, RunningNode},
};
use workrs_core::{
    id::{JobId, NodeId, Owner},
    job::{BlobRef, JobEvent, JobRecord, JobState, Outcome, Standing, Start},
    keys::BlobNames,
    spec::{CheckpointPolicy, JobSpec},
};
use workrs_engine::fake::{self, FakeHost};
use workrs_store::{
    blobs::Blobs,
    checkpoints::Checkpoints,
    faulty::{Faults, FaultyBlobs, FaultyState},
    fresh,
    records::Records,
    redb::{OpenError, RedbStore},
    state::StateStore,
};

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
    blobs: Arc<InMemory>,
    job: JobId,
    /// What the job prints: the numbers from 1 to this.
    lines: usize,
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
            world.check_result(&world.record().await).await;
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
            world.check_result(&world.record().await).await;
            world.record().await
        })
    }

    /// A job whose memory cannot be captured.
    pub fn undumpable() -> JobRecord {
        on_paused_clock(async move {
            let world = Self::new("fail-dump", 6).await;
            world.live(Story::Undisturbed, &Faults::none()).await;
            world.check_result(&world.record().await).await;
            world.record().await
        })
    }

    /// A job whose checkpoints may not take a single byte.
    pub fn over_quota(quota: CheckpointQuota) -> JobRecord {
        on_paused_clock(async move {
            let mut world = Self::new("count", 20).await;
            world.quota = quota;
            world.live(Story::Undisturbed, &Faults::none()).await;
            world.check_result(&world.record().await).await;
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
            let record = life.records.get(&world.job).await.unwrap();
            life.node.stop(Duration::from_secs(1)).await;
            let blobs = Blobs::new(world.blobs.clone()).list(&BlobNames(&world.job).prefix()).await.unwrap();
            (record.is_some(), blobs.len())
        })
    }

    async fn new(program: &str, lines: usize) -> Self {
        // Thousands of lives: a file system in memory spares their syncs, where there is one.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let host = FakeHost::new(folder.path());
        let job = JobId::new("job").unwrap();
        let (blobs, quota) = (Arc::new(InMemory::new()), CheckpointQuota::default());
        let world = Self { host, blobs, job, folder, lines, quota, keep_finished: None };
        let blobs = Blobs::new(world.blobs.clone());
        let inputs = store_input(&blobs, &world.job).await;
        let mut spec = JobSpec::new("test", vec![program.to_owned(), lines.to_string(), "1000".to_owned()]);
        spec.checkpoint = CheckpointPolicy::Every(Duration::from_secs(2));
        let record =
            JobRecord::submitted(world.job.clone(), Owner::new("me").unwrap(), spec, Some(inputs), fresh::now());
        let records = Records::new(Arc::new(world.open_state().await));
        records.submit(record, &fresh::operation()).await.unwrap();
        world
    }

    /// Opens the state as a new process would: the leases of former ones are gone.
    async fn open_state(&self) -> RedbStore {
        for _ in 0..10_000 {
            match RedbStore::open(&self.folder.path().join("state.redb")).await {
                Ok(store) => return store,
                // The last task of the former life still holds it.
                Err(OpenError::Locked) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("a task of a former life never ends");
    }

    /// Starts a node through `faults`; `None` if a fault kept it from starting.
    async fn start(&self, faults: &Faults) -> Option<Life> {
        let state: Arc<dyn StateStore> = Arc::new(self.open_state().await);
        let records = Records::new(Arc::new(FaultyState::new(state.clone(), faults.clone())));
        let blobs = Blobs::new(Arc::new(FaultyBlobs::new(self.blobs.clone(), faults.clone())));
        let config = NodeConfig {
            id: NodeId::new("node").unwrap(),
            host: "host".to_owned(),
            address: String::new(),
            roles: Roles::default(),
            cpu_features: Vec::new(),
            stop_timeout: Duration::from_secs(80),
            cpus_milli: 1_000,
            memory_bytes: 1 << 30,
            labels: BTreeMap::new(),
            lease: Duration::from_secs(5),
            log_limit_bytes: 1 << 20,
            unfit_wait: Duration::from_secs(600),
            work_dir: self.folder.path().join("work"),
            memory_dir: None,
            checkpoint_quota: self.quota,
            prior_mtbf: Duration::from_secs(3_600),
            archive_after: Duration::from_secs(3_600),
            keep_finished: self.keep_finished,
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
        self.check_restorable().await;
    }

    /// Whatever happened, the record names only what can be brought back.
    async fn check_restorable(&self) {
        let record = self.record().await;
        let checkpoints = Checkpoints::new(Blobs::new(self.blobs.clone()));
        let folder = self.folder.path().join("fetched");
        for checkpoint in record.checkpoints.iter().filter(|checkpoint| checkpoint.standing == Standing::Kept) {
            let manifest = checkpoint.manifest.as_ref().expect("a kept checkpoint has a manifest");
            let fetched = checkpoints.fetch(&self.job, checkpoint.id, manifest, &folder).await;
            assert!(fetched.is_ok(), "checkpoint {} is kept, but {fetched:?}: {record:#?}", checkpoint.id);
            std::fs::remove_dir_all(&folder).unwrap();
        }
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
            () = tokio::time::sleep(STUCK) => panic!("the job is stuck: {:#?}", life.records.get(&self.job).await),
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
        let _unless_finished = records.apply(&self.job, &event, &[], &fresh::operation()).await;
    }

    /// Returns when the job has finished and the node has let go of it.
    async fn done(&self, records: &Records) {
        loop {
            let record = records.get(&self.job).await.unwrap().unwrap();
            if record.is_finished() && self.host.containers().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn record(&self) -> JobRecord {
        Records::new(Arc::new(self.open_state().await)).get(&self.job).await.unwrap().unwrap()
    }

    async fn is_done(&self) -> bool {
        self.record().await.is_finished()
    }

    async fn check(&self, story: Story) {
        let record = self.record().await;
        for attempt in &record.attempts {
            let older = record.checkpoints.iter().any(|checkpoint| checkpoint.id.epoch < attempt.epoch);
            let silently =
                attempt.start == Start::Clean && older && !attempt.notes.iter().any(|n| n.contains("is bad"));
            assert!(!silently, "silently restarted from zero: {record:#?}");
        }
        let JobState::Finished { outcome, .. } = &record.state else { panic!("not finished: {record:#?}") };
        match (story, outcome) {
            (Story::Cancelled { .. }, Outcome::Cancelled) => {}
            (_, Outcome::Succeeded) => self.check_result(&record).await,
            (_, outcome) => panic!("ended as {outcome:?}: {record:#?}"),
        }
        // Another life, for as long as it takes to keep house once, must find nothing left to do.
        let life = self.start(&Faults::none()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(180)).await;
        life.node.stop(Duration::from_secs(1)).await;
        assert_eq!(self.host.containers(), [] as [String; 0], "containers are left");
        let blobs = Blobs::new(self.blobs.clone());
        let names = BlobNames(&self.job);
        for prefix in [names.checkpoints(), names.all_inputs()] {
            assert_eq!(blobs.list(&prefix).await.unwrap(), [], "blobs are left");
        }
    }

    /// Every line once, in the log and in the output file.
    async fn check_result(&self, record: &JobRecord) {
        let expected = (1..=self.lines).map(|line| line.to_string()).collect::<Vec<_>>().join("\n") + "\n";
        let blobs = Blobs::new(self.blobs.clone());
        let mut log = Vec::new();
        loop {
            let bytes = joblog::read_stored(&blobs, record, log.len() as u64, u64::MAX).await.unwrap();
            if bytes.is_empty() {
                break;
            }
            log.extend(bytes);
        }
        assert_eq!(String::from_utf8(log).unwrap(), expected, "the log: {record:#?}");
        let JobState::Finished { outputs: Some(index), .. } = &record.state else { panic!("no outputs: {record:#?}") };
        let files = node::read_index(&blobs, index).await.unwrap().files;
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["lines"], "the input is no output");
        let name = format!("{}0", node::folder_of(&index.name));
        let lines = blobs.get(&BlobRef { name, hash: files[0].hash, len: files[0].len }).await.unwrap();
        assert_eq!(String::from_utf8(lines.to_vec()).unwrap(), expected, "the output: {record:#?}");
    }
}

async fn store_input(blobs: &Blobs, job: &JobId) -> BlobRef {
    let folder = BlobNames(job).inputs(&fresh::operation());
    let blob = blobs.put(&format!("{folder}0"), "input".into()).await.unwrap();
    let path = PathBuf::from("folder/input.txt").display().to_string();
    let file = FileEntry { path, len: blob.len, mode: 0o644, hash: blob.hash, offset: None };
    let index = FileIndex { files: vec![file], ..FileIndex::default() };
    let index = serde_json::to_vec(&index).unwrap();
    blobs.put(&format!("{folder}{}", node::INDEX_NAME), index.into()).await.unwrap()
}

/// Everything runs on one thread and time passes only while nobody has anything to do.
fn on_paused_clock<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(work)
}
