//! A job whose files change, and its checkpoints.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use workrs_core::{
    id::{Epoch, JobId},
    job::{BlobRef, CheckpointId, CheckpointMode},
    spec::Network,
};
use workrs_engine::{
    CapturedPart, Container, ContainerSpec, Engine, Origin,
    runc::{RuncConfig, RuncEngine},
};
use workrs_store::{
    blobs::Blobs,
    checkpoints::{Base, Checkpoints, NewCheckpoint, PartSource},
    fresh,
};

use crate::{
    Round, changes,
    snapshot::{difference, snapshot},
};

/// On the file system of `/usr`, as a node's data folder commonly is; the copies of `/usr` are kept from run to run.
pub const DATA: &str = "/var/tmp/workrs-files-test";
pub const POOL: u64 = 1 << 30;
const DEADLINE: Duration = Duration::from_secs(60);

/// Holds files that have no name any more, and tells their content, inode and length over and over.
const HOLDER: &str = r#"
import hashlib, os, time
held = []
for number in range(3):
    path = f"/tmp/held-{number}"
    file = open(path, "w+b")
    file.write(os.urandom(100_000 * number + 5))
    file.flush()
    os.unlink(path)
    held.append(file)
while True:
    time.sleep(0.02)
    words = []
    for file in held:
        file.seek(0)
        seen = os.fstat(file.fileno())
        words.append(f"{hashlib.sha256(file.read()).hexdigest()[:16]}:{seen.st_size}:{seen.st_nlink}")
    print(" ".join(words), flush=True)
"#;

/// A job that runs, with what was captured of it so far.
struct Job<'a> {
    engine: &'a RuncEngine,
    checkpoints: Checkpoints,
    folder: &'a Path,
    container: Box<dyn Container>,
    output: BufReader<File>,
    base: Option<Base>,
    stored: VecDeque<(CheckpointId, CheckpointMode, BlobRef)>,
    epoch: u64,
    seq: u64,
}

/// Lives through all rounds; an error tells what did not come back as it was.
pub async fn live(rounds: &[Round]) -> anyhow::Result<()> {
    let helper = std::env::current_exe()?;
    let config = RuncConfig {
        data_dir: DATA.into(),
        node: "files-test".to_owned(),
        disk_pool_bytes: POOL,
        image_cache_bytes: POOL,
        helper,
    };
    let engine = RuncEngine::open(config).await?;
    engine.sweep().await?;
    let folder = tempfile::tempdir_in("/var/tmp")?;
    let blobs = Blobs::open(&format!("file://{}", folder.path().join("blobs").display()))?;
    let mut job = Job::start(&engine, Checkpoints::new(blobs), folder.path()).await?;
    let lived = job.live(rounds).await;
    job.container.destroy().await?;
    lived
}

pub fn clean_up() {
    let _nothing_there = fs::remove_dir_all(PathBuf::from(DATA).join("run"));
}

fn id() -> JobId {
    JobId::new("files").unwrap()
}

fn spec(epoch: u64) -> ContainerSpec {
    ContainerSpec {
        job: id(),
        attempt: epoch.to_string(),
        command: ["python3", "-c", HOLDER].map(str::to_owned).to_vec(),
        folder: "/job".to_owned(),
        image: None,
        network: Network::None,
        env: std::collections::BTreeMap::default(),
        cpus_milli: 1_000,
        memory_bytes: 256 << 20,
        disk_bytes: 64 << 20,
    }
}

fn pipe() -> anyhow::Result<(BufReader<File>, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((BufReader::new(File::from(read)), write))
}

impl<'a> Job<'a> {
    async fn start(engine: &'a RuncEngine, checkpoints: Checkpoints, folder: &'a Path) -> anyhow::Result<Self> {
        let container = engine.prepare(&spec(1), Origin::New).await?;
        let (output, write) = pipe()?;
        container.start(write).await?;
        let stored = VecDeque::new();
        let mut job = Self { engine, checkpoints, folder, container, output, base: None, stored, epoch: 1, seq: 0 };
        job.held()?;
        Ok(job)
    }

    async fn live(&mut self, rounds: &[Round]) -> anyhow::Result<()> {
        for round in rounds {
            let (uid, _) = self.container.job_user();
            for change in &round.changes {
                changes::make(change, self.container.job_folder(), uid - 1000);
            }
            let before = snapshot(self.container.job_folder());
            let held = self.held()?;
            let mode = if round.full { CheckpointMode::Full } else { CheckpointMode::Files };
            self.checkpoint(mode).await.context("cannot checkpoint")?;
            self.check_all_can_be_fetched().await?;
            if !round.resume {
                continue;
            }
            self.resume(&before).await.context("cannot resume")?;
            let after = self.held()?;
            ensure!(!round.full || held == after, "the files without a name were {held} and are {after}");
        }
        Ok(())
    }

    /// What the job last told of the files that it holds open.
    fn held(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the job has ended");
        Ok(line.trim().to_owned())
    }

    async fn checkpoint(&mut self, mode: CheckpointMode) -> anyhow::Result<()> {
        self.seq += 1;
        let captures = self.folder.join(format!("capture-{}", self.seq));
        fs::create_dir(&captures)?;
        let mut frozen = self.container.freeze().await?;
        let capture = frozen.capture(mode, &captures, DEADLINE).await;
        frozen.thaw().await?;
        let capture = capture?;
        let parts: Vec<_> = capture.parts.into_iter().map(source).collect();
        let checkpoint = CheckpointId { epoch: Epoch(self.epoch), seq: self.seq };
        let new = NewCheckpoint {
            job: &id(),
            id: checkpoint,
            operation: &fresh::operation(),
            mode,
            needs: capture.needs,
            run_ms: 0,
            log_bytes: 0,
            parts: &parts,
            base: self.base.as_ref(),
            limit_bytes: None,
        };
        let stored = self.checkpoints.store(new).await?;
        for part in &parts {
            if let PartSource::Image { path, .. } = part {
                fs::remove_file(path)?;
            }
        }
        fs::remove_dir_all(&captures)?;
        self.base = Some(Base::new(stored.contents));
        self.stored.push_back((checkpoint, mode, stored.manifest));
        while self.stored.len() > 2 {
            self.stored.pop_front();
        }
        let keep: Vec<_> = self.stored.iter().map(|(_, _, manifest)| manifest).collect();
        self.checkpoints.collect(&id(), &keep, Epoch(self.epoch), None).await?;
        Ok(())
    }

    async fn check_all_can_be_fetched(&self) -> anyhow::Result<()> {
        let folder = self.folder.join("check");
        for (checkpoint, _, manifest) in &self.stored {
            self.checkpoints.fetch(&id(), *checkpoint, manifest, &folder).await?;
            fs::remove_dir_all(&folder)?;
        }
        Ok(())
    }

    /// Ends the job as a dying node would, and goes on from the newest checkpoint.
    async fn resume(
        &mut self,
        before: &std::collections::BTreeMap<String, crate::snapshot::Seen>,
    ) -> anyhow::Result<()> {
        self.container.destroy().await?;
        let Some((checkpoint, mode, manifest)) = self.stored.back().cloned() else { bail!("nothing was stored") };
        let folder = self.folder.join("restore");
        let fetched = self.checkpoints.fetch(&id(), checkpoint, &manifest, &folder).await?;
        self.epoch += 1;
        self.seq = 0;
        let origin = Origin::Captured { folder: folder.clone(), mode, needs: fetched.needs.clone() };
        self.container = self.engine.prepare(&spec(self.epoch), origin).await?;
        let after = snapshot(self.container.job_folder());
        if let Some(difference) = difference(before, &after) {
            bail!("after {mode:?} checkpoint {checkpoint} {difference}");
        }
        let (output, write) = pipe()?;
        self.output = output;
        match mode {
            CheckpointMode::Full => self.container.restore(write).await?,
            CheckpointMode::Files => self.container.start(write).await?,
        }
        fs::remove_dir_all(&folder)?;
        self.base = Some(Base::new(Arc::new(fetched)));
        Ok(())
    }
}

fn source(part: CapturedPart) -> PartSource {
    match part {
        CapturedPart::Folder { name, path } => PartSource::Folder { name, path },
        CapturedPart::Image { name, path, changed } => PartSource::Image { name, path, changed },
    }
}
