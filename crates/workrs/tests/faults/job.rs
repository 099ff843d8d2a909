//! The job of the tests: how it is submitted, the node that it meets, and what must be true of it in the end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use object_store::memory::InMemory;
use workrs::{
    joblog,
    node::{self, CheckpointQuota, FileEntry, FileIndex, NodeConfig, Roles},
};
use workrs_core::{
    id::{JobId, NodeId, Owner},
    job::{BlobRef, JobRecord, JobState, Standing, Start},
    keys::BlobNames,
    spec::{CheckpointPolicy, JobSpec, Network},
};
use workrs_store::{blobs::Blobs, checkpoints::Checkpoints, fresh, records::Records};

/// A job that prints a number a second, to its log and to a file, and all blobs of its group.
pub struct TestJob {
    pub id: JobId,
    /// What the job prints: the numbers from 1 to this.
    pub lines: usize,
    pub blobs: Arc<InMemory>,
}

impl TestJob {
    /// Submits the job, to be checkpointed every two seconds.
    pub async fn submit(program: &str, lines: usize, records: &Records) -> Self {
        Self::submit_with(CheckpointPolicy::Every(Duration::from_secs(2)), program, lines, records).await
    }

    /// Submits it to be checkpointed in this way.
    pub async fn submit_with(policy: CheckpointPolicy, program: &str, lines: usize, records: &Records) -> Self {
        Self::submit_spec(program, lines, records, |spec| spec.checkpoint = policy).await
    }

    /// Submits it with changes.
    pub async fn submit_spec(
        program: &str,
        lines: usize,
        records: &Records,
        change: impl FnOnce(&mut JobSpec),
    ) -> Self {
        let job = Self { id: JobId::new("job").unwrap(), lines, blobs: Arc::new(InMemory::new()) };
        let inputs = store_input(&job.blobs(), &job.id).await;
        let mut spec = JobSpec::new("test", vec![program.to_owned(), lines.to_string(), "1000".to_owned()]);
        change(&mut spec);
        let record = JobRecord::submitted(job.id.clone(), Owner::new("me").unwrap(), spec, Some(inputs), fresh::now());
        records.submit(record, &fresh::operation()).await.unwrap();
        job
    }

    pub fn blobs(&self) -> Blobs {
        Blobs::new(self.blobs.clone())
    }

    /// Whatever happened, the record names only what can be brought back.
    pub async fn check_restorable(&self, record: &JobRecord, folder: &Path) {
        let checkpoints = Checkpoints::new(self.blobs());
        let folder = folder.join("fetched");
        for checkpoint in record.checkpoints.iter().filter(|checkpoint| checkpoint.standing == Standing::Kept) {
            let manifest = checkpoint.manifest.as_ref().expect("a kept checkpoint has a manifest");
            let fetched = checkpoints.fetch(&self.id, checkpoint.id, manifest, &folder).await;
            assert!(fetched.is_ok(), "checkpoint {} is kept, but {fetched:?}: {record:#?}", checkpoint.id);
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }

    /// No attempt began from nothing while there was a checkpoint, unless it says why.
    pub fn check_attempts(record: &JobRecord) {
        for attempt in &record.attempts {
            let older = record.checkpoints.iter().any(|checkpoint| checkpoint.id.epoch < attempt.epoch);
            let silently =
                attempt.start == Start::Clean && older && !attempt.notes.iter().any(|n| n.contains("is bad"));
            assert!(!silently, "silently restarted from zero: {record:#?}");
        }
    }

    /// A job that ended for good has no blobs but its outputs and its log.
    pub async fn check_cleaned(&self) {
        let names = BlobNames(&self.id);
        for prefix in [names.checkpoints(), names.all_inputs()] {
            assert_eq!(self.blobs().list(&prefix).await.unwrap(), [], "blobs are left");
        }
    }

    /// Every line once, in the log and in the output file.
    pub async fn check_result(&self, record: &JobRecord) {
        let expected = (1..=self.lines).map(|line| line.to_string()).collect::<Vec<_>>().join("\n") + "\n";
        let blobs = self.blobs();
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

/// A node as all tests have it.
pub fn node_config(name: &str, work_dir: PathBuf) -> NodeConfig {
    NodeConfig {
        id: NodeId::new(name).unwrap(),
        host: format!("host-of-{name}"),
        address: String::new(),
        tls_fingerprint: None,
        roles: Roles::default(),
        cpu_features: Vec::new(),
        stop_timeout: Duration::from_secs(80),
        cpus_milli: 1_000,
        memory_bytes: 1 << 30,
        labels: BTreeMap::new(),
        allow_network: Network::Host,
        allow_drills: false,
        lease: Duration::from_secs(5),
        log_limit_bytes: 1 << 20,
        unfit_wait: Duration::from_secs(600),
        work_dir,
        memory_dir: None,
        checkpoint_quota: CheckpointQuota::default(),
        prior_mtbf: Duration::from_secs(3_600),
        archive_after: Duration::from_secs(3_600),
        keep_finished: None,
        keep_audit: None,
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
pub fn on_paused_clock<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(work)
}
