//! Saves a running job: one consistent cut while it is frozen, everything else once it runs again.
//!
//! Flush → freeze → dump memory → clone the disk → drain the log pipe → thaw, then in the background log segment,
//! pack, manifest, commit. The commit is the checkpoint: what a crash leaves before it is garbage.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;
use workrs_core::{
    fit::HostNeeds,
    id::Timestamp,
    job::{Checkpoint, CheckpointId, CheckpointMode, Holder, JobEvent, JobRecord, Standing},
    manifest::RestoreNeeds,
};
use workrs_engine::{CapturedPart, EngineError};
use workrs_store::{
    checkpoints::{Base, CheckpointError, NewCheckpoint, PartSource},
    fresh,
    records::{Known, RecordError},
};

use super::{
    Shared, capture_deadline,
    quota::Allowance,
    run::{Live, Run},
};
use crate::{joblog, metrics};

/// How often a pack that a job's checkpoints need is read back.
const RECHECK_EVERY: Duration = Duration::from_secs(10 * 60);

/// What becomes of the job after the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It runs on.
    Thaw,
    /// It ends here: nothing may happen behind the cut.
    Kill,
}

/// The files of a cut, removed when dropped.
struct CutFiles {
    folder: PathBuf,
    parts: Vec<PartSource>,
}

impl Drop for CutFiles {
    fn drop(&mut self) {
        // What cannot be removed goes with the container and its folder.
        let _ = std::fs::remove_dir_all(&self.folder);
        for part in &self.parts {
            if let PartSource::Image { path, .. } = part {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// A cut, on this host's disk.
pub(super) struct Captured {
    id: CheckpointId,
    mode: CheckpointMode,
    needs: RestoreNeeds,
    files: CutFiles,
    run_time: Duration,
    standstill: Duration,
    began: Instant,
    at: Timestamp,
    log_bytes: u64,
    allowance: Option<Allowance>,
}

/// Why there is no cut. The job runs on, but for `Disk`.
pub(super) enum CaptureError {
    /// It did not work this time.
    Failed(String),
    /// The job disk cannot be trusted any more: the job must not go on.
    Disk(String),
}

impl From<EngineError> for CaptureError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::DiskFailed(_) => Self::Disk(error.to_string()),
            EngineError::CannotCapture(reason) => Self::Failed(reason),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Freezes the job and takes a cut of it. Dropping the future thaws the job.
pub(super) async fn capture(
    run: &Run,
    live: &mut Live,
    mode: CheckpointMode,
    after: After,
) -> Result<Captured, CaptureError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| CaptureError::Failed(format!("{what}: {error}"));
    let allowance = run.shared.usage.allowance(&run.record.id);
    if let Some(allowance) = allowance.filter(|allowance| allowance.bytes == 0) {
        return Err(CaptureError::Failed(allowance.exceeded()));
    }
    let _turn = run.shared.dumps.acquire().await.map_err(|error| failed("cannot wait for a turn", &error))?;
    live.seq += 1;
    let id = CheckpointId { epoch: run.holder.epoch, seq: live.seq };
    let at = fresh::now();
    let began = Instant::now();
    let mut frozen = live.container.freeze().await?;
    let frozen_since = frozen.since();
    let run_time = live.clock.stop();
    let staging = run.shared.staging.choose(if mode == CheckpointMode::Full { frozen.memory_bytes() } else { 0 });
    let folder = staging.join(format!("{}-{id}", run.record.id));
    let mut files = CutFiles { folder: folder.clone(), parts: Vec::new() };
    std::fs::create_dir_all(&folder).map_err(|error| failed("cannot create a folder for the dump", &error))?;
    let capture = frozen.capture(mode, &folder, capture_deadline(run.record.spec.memory_bytes)).await;
    let log_bytes = live.pump.drain().await;
    match after {
        After::Thaw => {
            let thawed = frozen.thaw().await;
            live.clock.start();
            thawed?;
        }
        After::Kill => {
            let killed = live.container.kill().await;
            drop(frozen);
            killed?;
        }
    }
    let standstill = frozen_since.elapsed();
    let capture = capture?;
    files.parts.extend(capture.parts.into_iter().map(|part| match part {
        CapturedPart::Folder { name, path } => PartSource::Folder { name, path },
        CapturedPart::Image { name, path, changed } => PartSource::Image { name, path, changed },
    }));
    live.lineage.note_capture(&mut files.parts);
    let log_bytes = log_bytes.map_err(|error| failed("cannot keep the log", &error))?;
    let mut needs = capture.needs;
    if mode == CheckpointMode::Full {
        let former = live.lineage.base().map(Base::manifest).filter(|manifest| manifest.mode == CheckpointMode::Full);
        needs.note_host(&run.shared.traits.offer, former.map(|manifest| &manifest.needs));
    }
    Ok(Captured { id, mode, needs, files, run_time, standstill, began, at, log_bytes, allowance })
}

/// What came of a cut.
pub(super) enum Committed {
    /// It is the job's newest checkpoint.
    Yes {
        /// The record that says so.
        record: Box<Known>,
        /// What the next one can build on.
        base: Box<Base>,
        /// A pack of it was read back just now.
        rechecked: bool,
        /// The log is durable up to here.
        log_stored: u64,
        /// Run time at the cut.
        run_time: Duration,
    },
    /// The job is no longer ours.
    Fenced,
    /// It was not stored.
    Failed(String),
}

/// A cut on its way to becoming a checkpoint.
pub(super) struct Upload {
    future: BoxFuture<'static, Committed>,
    committing: Arc<AtomicBool>,
}

impl Upload {
    /// Stores and commits a cut while the job runs on.
    pub(super) fn begin(run: &Run, live: &Live, captured: Captured) -> Self {
        let committing = Arc::new(AtomicBool::new(false));
        let task = UploadTask {
            shared: Arc::clone(&run.shared),
            record: run.record.clone(),
            holder: run.holder.clone(),
            log_path: live.pump.path().to_owned(),
            log_from: live.pump.from(),
            log_stored: live.log_stored,
            base: live.lineage.base().cloned(),
            recheck: live.rechecked_at.elapsed() >= RECHECK_EVERY,
            committing: Arc::clone(&committing),
            captured,
        };
        Self { future: task.run().boxed(), committing }
    }

    /// What came of it.
    pub(super) async fn done(self) -> Committed {
        self.future.await
    }
}

/// Waits for an upload, if there is one; for ever otherwise.
pub(super) async fn done(upload: &mut Option<Upload>) -> Committed {
    match upload {
        Some(upload) => Pin::new(&mut upload.future).await,
        None => std::future::pending().await,
    }
}

/// Gives up an upload, but not in the middle of its commit: until that is settled, no second operation on the
/// record may start.
pub(super) async fn settle(upload: Option<Upload>) {
    if let Some(upload) = upload
        && upload.committing.load(Ordering::SeqCst)
    {
        upload.done().await;
    }
}

struct UploadTask {
    shared: Arc<Shared>,
    record: Known,
    holder: Holder,
    log_path: PathBuf,
    log_from: u64,
    log_stored: u64,
    base: Option<Base>,
    recheck: bool,
    committing: Arc<AtomicBool>,
    captured: Captured,
}

impl UploadTask {
    async fn run(self) -> Committed {
        match self.store().await {
            Ok((checkpoint, base)) => self.commit(checkpoint, base).await,
            Err(reason) => Committed::Failed(reason),
        }
    }

    async fn store(&self) -> Result<(Checkpoint, Base), String> {
        let Self { shared, record, captured, .. } = self;
        let segment = joblog::Segment { epoch: self.holder.epoch, from: self.log_stored, to: captured.log_bytes };
        let log = joblog::store_segment(&shared.blobs, &record.id, segment, &self.log_path, self.log_from);
        log.await.map_err(|error| format!("cannot store the log: {error}"))?;
        let new = NewCheckpoint {
            job: &record.id,
            id: captured.id,
            operation: &fresh::operation(),
            mode: captured.mode,
            needs: captured.needs.clone(),
            run_ms: captured.run_time.as_millis() as u64,
            log_bytes: captured.log_bytes,
            parts: &captured.files.parts,
            base: self.base.as_ref(),
            limit_bytes: captured.allowance.map(|allowance| allowance.bytes),
        };
        let stored = shared.checkpoints.store(new).await.map_err(|error| match (error, captured.allowance) {
            (CheckpointError::OverLimit { .. }, Some(allowance)) => allowance.exceeded(),
            (error, _) => format!("cannot store the checkpoint: {error}"),
        })?;
        metrics::UPLOADED_BYTES.add(stored.uploaded_bytes);
        let base = match &self.base {
            Some(base) => base.followed_by(stored.contents),
            None => Base::new(stored.contents),
        };
        let checkpoint = Checkpoint {
            id: captured.id,
            mode: captured.mode,
            manifest: Some(stored.manifest),
            standing: Standing::Kept,
            at: captured.at,
            standstill_ms: captured.standstill.as_millis() as u64,
            total_ms: captured.began.elapsed().as_millis() as u64,
            size_bytes: stored.size_bytes,
            uploaded_bytes: stored.uploaded_bytes,
            run_ms: captured.run_time.as_millis() as u64,
            log_bytes: captured.log_bytes,
            needs: HostNeeds::of(captured.mode, &captured.needs),
            refused_by: Vec::new(),
            declined: Vec::new(),
        };
        Ok((checkpoint, base))
    }

    async fn commit(&self, checkpoint: Checkpoint, mut base: Base) -> Committed {
        self.committing.store(true, Ordering::SeqCst);
        let operation = fresh::operation();
        let event = JobEvent::CheckpointCommitted { holder: self.holder.clone(), checkpoint };
        let mut pause = Duration::from_millis(100);
        let record = loop {
            let decide = |_: &_| Some((event.clone(), Vec::new()));
            match self.shared.records.change(&self.record.id, Some(&self.record), decide, &operation).await {
                Ok(Some(record)) => break record,
                Err(RecordError::Unavailable(_)) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(RecordError::Damaged(reason)) => return Committed::Failed(reason),
                Ok(None) | Err(_) => return Committed::Fenced,
            }
        };
        tracing::info!(
            checkpoint = %self.captured.id,
            standstill_ms = self.captured.standstill.as_millis() as u64,
            "checkpoint committed"
        );
        metrics::CHECKPOINTS.add(1);
        metrics::STANDSTILL.observe(self.captured.standstill);
        metrics::CHECKPOINT_TIME.observe(self.captured.began.elapsed());
        metrics::STANDSTILL_MS.add(self.captured.standstill.as_millis() as u64);
        self.clean_up(&record).await;
        let rechecked = self.recheck && self.read_back(&mut base).await;
        let (log_stored, run_time) = (self.captured.log_bytes, self.captured.run_time);
        Committed::Yes { record: Box::new(record), base: Box::new(base), rechecked, log_stored, run_time }
    }

    /// Deletes what no kept checkpoint needs.
    async fn clean_up(&self, record: &JobRecord) {
        let keep: Vec<_> = record.named_checkpoints().filter_map(|checkpoint| checkpoint.manifest.as_ref()).collect();
        match self.shared.checkpoints.collect(&record.id, &keep, self.holder.epoch, None).await {
            Ok(collected) => self.shared.usage.set(&record.id, collected.kept_bytes),
            Err(error) => {
                tracing::warn!(%error, "cannot remove old checkpoints, the next one will try again");
            }
        }
    }

    /// Looks whether an older pack is still what was written. What is not is stored anew by the next checkpoint.
    async fn read_back(&self, base: &mut Base) -> bool {
        match self.shared.checkpoints.recheck(base).await {
            Ok(0) => true,
            Ok(damaged) => {
                metrics::DAMAGED_CHUNKS.add(damaged as u64);
                tracing::error!(
                    damaged,
                    "blobs of its checkpoints are damaged; the next checkpoint stores these parts anew"
                );
                true
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read a checkpoint back, will try again");
                false
            }
        }
    }
}
