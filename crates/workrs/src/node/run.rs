//! One task a job, from its claim to its end here: fetch, prepare, start or restore, watch over, finish.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{sync::watch, time::Instant};
use workrs_core::{
    job::{Checkpoint, CheckpointMode, Failure, Holder, JobEvent, JobRecord, JobState, Outcome},
    keys, plan,
};
use workrs_engine::{Container, ContainerEnd, ContainerSpec, EngineError, Origin};
use workrs_store::{blobs::BlobError, checkpoints::FetchError, fresh, records::RecordError, state::WatchEvent};

use super::{
    Order, Shared,
    checkpoint::{self, CaptureError, Captured, Committed, Upload},
    claim,
    clock::RunClock,
    inputs, outputs,
};
use crate::{
    joblog::{LogPump, PumpError},
    metrics,
};

/// A restore that fails is tried this often before the failure counts as proof that the checkpoint is bad.
const RESTORE_TRIES: u32 = 2;

/// Why an attempt ends without the program's own end.
#[derive(Debug)]
enum Leave {
    /// The record is somebody else's: commit nothing.
    Fenced,
    /// All is committed.
    Done,
    /// Back to the queue, at the newest checkpoint.
    Release { reason: String, cool_down: bool, unfit: bool },
    /// A fault of this host, counted as the loss of a node.
    HostFault(String),
    /// The job can be ended for good.
    Finish(Outcome),
}

impl Leave {
    fn host(reason: impl ToString) -> Self {
        Self::Release { reason: reason.to_string(), cool_down: true, unfit: false }
    }
}

impl From<RecordError> for Leave {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Illegal(_) | RecordError::NotFound | RecordError::GuardFailed => Self::Fenced,
            error => Self::host(error),
        }
    }
}

/// A claimed job, before and while its container exists.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) record: JobRecord,
    pub(super) holder: Holder,
    pub(super) work_dir: PathBuf,
    orders: watch::Receiver<Order>,
    at_risk_ms: Arc<AtomicU64>,
}

/// A job whose container runs.
pub(super) struct Live {
    pub(super) container: Box<dyn Container>,
    pub(super) pump: LogPump,
    pub(super) clock: RunClock,
    /// The log is durable up to here.
    pub(super) log_stored: u64,
    /// Number of the newest checkpoint that was tried in this epoch.
    pub(super) seq: u64,
    /// Tries that failed since the last that worked.
    failures: u32,
    /// Run time at the newest checkpoint, or at the newest try.
    checkpointed_at: Duration,
}

pub(super) async fn run(
    shared: Arc<Shared>,
    record: JobRecord,
    holder: Holder,
    orders: watch::Receiver<Order>,
    at_risk_ms: Arc<AtomicU64>,
) {
    let work_dir = shared.config.work_dir.join(format!("{}-{}", record.id, record.epoch));
    let id = record.id.clone();
    let mut run = Run { shared: Arc::clone(&shared), record, holder, work_dir, orders, at_risk_ms };
    let leave = run.attempt().await;
    run.leave(leave).await;
    shared.live_logs.remove(&id, run.holder.epoch);
    if let Err(error) = tokio::fs::remove_dir_all(&run.work_dir).await {
        tracing::debug!(job = %id, %error, "cannot remove the attempt's folder");
    }
    shared.remove(&id);
}

impl Run {
    async fn attempt(&mut self) -> Leave {
        if let Err(error) = tokio::fs::create_dir_all(&self.work_dir).await {
            return Leave::host(format!("cannot create {}: {error}", self.work_dir.display()));
        }
        let mut live = match self.bring_up().await {
            Ok(live) => live,
            Err(leave) => return leave,
        };
        let leave = self.watch_over(&mut live).await.unwrap_or_else(|leave| leave);
        if let Err(error) = live.container.destroy().await {
            tracing::error!(job = %self.record.id, %error, "cannot remove the job's container");
        }
        leave
    }

    /// Commits an event of this holder and keeps the record up to date.
    pub(super) async fn commit(&mut self, event: JobEvent) -> Result<(), RecordError> {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.shared.records.apply(&self.record.id, &event, &[], &fresh::operation()).await {
                Ok(record) => {
                    self.record = record;
                    return Ok(());
                }
                // The store is away: the job runs on, the event waits.
                Err(RecordError::Unavailable(reason)) => {
                    tracing::warn!(job = %self.record.id, reason, "cannot commit, will try on");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// From the record to a running program, down the steps that proof demands.
    async fn bring_up(&mut self) -> Result<Live, Leave> {
        let mut tries = 0;
        loop {
            let interrupted = self.interruption();
            let resume_point = self.record.resume_point().cloned();
            let brought_up = tokio::select! {
                biased;
                leave = interrupted => return Err(leave),
                brought_up = self.bring_up_from(resume_point.as_ref()) => brought_up,
            };
            let (checkpoint, reason) = match (brought_up, resume_point) {
                (Ok(live), _) => return Ok(live),
                (Err(BringUpError::Leave(leave)), _) => return Err(leave),
                (Err(BringUpError::Refused(reason)), Some(checkpoint)) => {
                    tries += 1;
                    if tries < RESTORE_TRIES {
                        tracing::warn!(job = %self.record.id, reason, "the restore failed, trying once more");
                        continue;
                    }
                    (checkpoint, reason)
                }
                (Err(BringUpError::Bad(reason)), Some(checkpoint)) => (checkpoint, reason),
                (Err(BringUpError::Unfit(reason)), Some(checkpoint)) => {
                    if !self.waited_long_enough() {
                        return Err(Leave::Release { reason, cool_down: true, unfit: true });
                    }
                    (checkpoint, format!("no node fits it: {reason}"))
                }
                (
                    Err(BringUpError::Refused(reason) | BringUpError::Bad(reason) | BringUpError::Unfit(reason)),
                    None,
                ) => {
                    return Err(Leave::host(reason));
                }
            };
            tries = 0;
            tracing::warn!(job = %self.record.id, checkpoint = %checkpoint.id, reason, "the checkpoint is bad, one step down");
            let event = JobEvent::FellBack { holder: self.holder.clone(), bad: checkpoint.id, reason };
            self.commit(event).await?;
        }
    }

    fn waited_long_enough(&self) -> bool {
        let cooldowns = self.shared.cooldowns();
        let since = cooldowns.get(&self.record.id).and_then(|cooldown| cooldown.unfit_since);
        since.is_some_and(|since| since.elapsed() >= self.shared.config.unfit_wait)
    }

    async fn bring_up_from(&self, resume_point: Option<&Checkpoint>) -> Result<Live, BringUpError> {
        let spec = self.container_spec();
        let (origin, mode) = match resume_point {
            None => (Origin::New, CheckpointMode::Files),
            Some(checkpoint) => (self.fetch(checkpoint).await?, checkpoint.mode),
        };
        if mode == CheckpointMode::Full
            && let Err(reason) = &self.shared.capabilities.dump
        {
            return Err(BringUpError::Unfit(format!("it cannot restore memory: {reason}")));
        }
        let container = self.shared.engine.prepare(&spec, origin).await?;
        let live = self.start(&*container, resume_point, mode).await;
        match live {
            Ok((pump, clock)) => Ok(self.live(container, pump, clock, resume_point)),
            Err(error) => {
                if let Err(error) = container.destroy().await {
                    tracing::error!(job = %self.record.id, %error, "cannot remove a container that did not start");
                }
                Err(error)
            }
        }
    }

    fn live(&self, container: Box<dyn Container>, pump: LogPump, clock: RunClock, from: Option<&Checkpoint>) -> Live {
        self.shared.cooldowns().remove(&self.record.id);
        let log_stored = from.map_or(self.record.log_base, |checkpoint| checkpoint.log_bytes);
        let checkpointed_at = clock.elapsed();
        Live { container, pump, clock, log_stored, seq: 0, failures: 0, checkpointed_at }
    }

    async fn start(
        &self,
        container: &dyn Container,
        resume_point: Option<&Checkpoint>,
        mode: CheckpointMode,
    ) -> Result<(LogPump, RunClock), BringUpError> {
        if resume_point.is_none()
            && let Some(index) = &self.record.inputs
        {
            inputs::place(&self.shared.blobs, index, container.job_folder(), container.job_user()).await?;
        }
        let from = resume_point.map_or(self.record.log_base, |checkpoint| checkpoint.log_bytes);
        let (pump, output) =
            LogPump::start(self.holder.epoch, from, self.shared.config.log_limit_bytes, &self.work_dir)?;
        if mode == CheckpointMode::Full {
            container.restore(output).await?;
            metrics::RESUMES.add(1);
        } else {
            container.start(output).await?;
        }
        // What a runtime printed in vain before this is not the job's.
        self.shared.live_logs.insert(self.record.id.clone(), pump.live().clone());
        let mut clock = RunClock::stopped(resume_point.map_or(Duration::ZERO, |c| Duration::from_millis(c.run_ms)));
        clock.start();
        Ok((pump, clock))
    }

    fn container_spec(&self) -> ContainerSpec {
        let spec = &self.record.spec;
        ContainerSpec {
            job: self.record.id.clone(),
            attempt: self.holder.epoch.to_string(),
            command: spec.command.clone(),
            env: spec.env.clone(),
            cpus_milli: spec.cpus_milli,
            memory_bytes: spec.memory_bytes,
            disk_bytes: spec.disk_bytes,
        }
    }

    /// Brings a checkpoint's parts back. An unreachable store is waited for, not taken as proof.
    async fn fetch(&self, checkpoint: &Checkpoint) -> Result<Origin, BringUpError> {
        let Some(manifest) = &checkpoint.manifest else {
            return Err(BringUpError::Bad("the record names no manifest".to_owned()));
        };
        let folder = self.work_dir.join("restore");
        let mut pause = Duration::from_millis(200);
        loop {
            let _ = tokio::fs::remove_dir_all(&folder).await;
            tokio::fs::create_dir_all(&folder).await.map_err(|error| BringUpError::Leave(Leave::host(error)))?;
            match self.shared.checkpoints.fetch(&self.record.id, checkpoint.id, manifest, &folder).await {
                Ok(manifest) => {
                    return Ok(Origin::Captured { folder, mode: manifest.mode, needs: manifest.needs });
                }
                Err(FetchError::Bad(reason)) => return Err(BringUpError::Bad(reason)),
                Err(FetchError::Host(reason)) => return Err(BringUpError::Leave(Leave::host(reason))),
                Err(FetchError::Unavailable(reason)) => {
                    tracing::warn!(job = %self.record.id, reason, "cannot fetch the checkpoint, will try on");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
            }
        }
    }

    /// Runs, checkpointing, until the program ends or must be left; says how to leave it.
    async fn watch_over(&mut self, live: &mut Live) -> Result<Leave, Leave> {
        self.commit(JobEvent::Started { holder: self.holder.clone(), at: fresh::now() }).await?;
        let dump = &self.shared.capabilities.dump;
        let mode = plan::checkpoint_mode(self.record.spec.checkpoint, dump.is_ok());
        if let (None, Err(reason), true) = (mode, dump, self.record.spec.checkpoint.interval().is_some()) {
            let reason = format!("node {} cannot checkpoint memory: {reason}", self.holder.node);
            self.commit(JobEvent::CheckpointFailed { holder: self.holder.clone(), reason }).await?;
        }
        let timeout = self.record.spec.timeout_ms.map(Duration::from_millis);
        let mut upload: Option<Upload> = None;
        let mut interrupted = self.interruption().boxed();
        loop {
            let run_time = live.clock.elapsed();
            let since_checkpoint = run_time.saturating_sub(live.checkpointed_at);
            self.at_risk_ms.store(since_checkpoint.as_millis() as u64, Ordering::Relaxed);
            let due = mode
                .filter(|_| upload.is_none())
                .and_then(|_| plan::next_checkpoint_in(self.record.spec.checkpoint, since_checkpoint, live.failures));
            let left = timeout.map(|timeout| timeout.saturating_sub(run_time));
            tokio::select! {
                biased;
                leave = &mut interrupted => {
                    return self.interrupt(live, leave, upload, mode).await;
                }
                end = live.container.wait() => {
                    checkpoint::settle(upload).await;
                    return self.finish(live, end).await;
                }
                committed = checkpoint::done(&mut upload) => {
                    upload = None;
                    self.note_committed(live, committed).await?;
                }
                () = sleep_for(left) => {
                    let limit_ms = timeout.unwrap_or_default().as_millis() as u64;
                    self.kill(live).await;
                    checkpoint::settle(upload).await;
                    return self.end_with(live, Outcome::Failed { failure: Failure::TimedOut { limit_ms } }).await;
                }
                () = sleep_for(due) => {
                    let mode = mode.unwrap_or(CheckpointMode::Full);
                    let captured = tokio::select! {
                        biased;
                        leave = &mut interrupted => return self.interrupt(live, leave, None, Some(mode)).await,
                        captured = checkpoint::capture(self, live, mode, checkpoint::After::Thaw) => captured,
                    };
                    upload = self.after_capture(live, captured).await?;
                }
            }
        }
    }

    async fn after_capture(
        &mut self,
        live: &mut Live,
        captured: Result<Captured, CaptureError>,
    ) -> Result<Option<Upload>, Leave> {
        live.checkpointed_at = live.clock.elapsed();
        match captured {
            Ok(captured) => Ok(Some(Upload::begin(self, live, captured))),
            // The program ended meanwhile: no failure of the checkpoint.
            Err(CaptureError::Failed(_)) if live.container.wait().now_or_never().is_some() => Ok(None),
            Err(CaptureError::Failed(reason)) => {
                self.note_failed(live, reason).await?;
                Ok(None)
            }
            Err(CaptureError::Disk(reason)) => Err(Leave::HostFault(reason)),
        }
    }

    async fn note_committed(&mut self, live: &mut Live, committed: Committed) -> Result<(), Leave> {
        match committed {
            Committed::Yes { record, log_stored, run_time } => {
                self.record = *record;
                live.failures = 0;
                live.log_stored = log_stored;
                live.checkpointed_at = run_time;
                Ok(())
            }
            Committed::Fenced => Err(Leave::Fenced),
            Committed::Failed(reason) => self.note_failed(live, reason).await,
        }
    }

    async fn note_failed(&mut self, live: &mut Live, reason: String) -> Result<(), Leave> {
        live.failures += 1;
        metrics::CHECKPOINT_FAILURES.add(1);
        tracing::warn!(job = %self.record.id, reason, "the checkpoint failed; the job runs on");
        let event = JobEvent::CheckpointFailed { holder: self.holder.clone(), reason };
        Ok(self.commit(event).await?)
    }

    async fn kill(&self, live: &Live) {
        if let Err(error) = live.container.kill().await {
            tracing::error!(job = %self.record.id, %error, "cannot kill the job");
        }
    }

    /// Somebody wants the job to end here: does what it takes and says how to leave it.
    async fn interrupt(
        &mut self,
        live: &mut Live,
        leave: Leave,
        upload: Option<Upload>,
        mode: Option<CheckpointMode>,
    ) -> Result<Leave, Leave> {
        match leave {
            Leave::Finish(outcome) => {
                self.kill(live).await;
                checkpoint::settle(upload).await;
                self.end_with(live, outcome).await
            }
            Leave::Release { reason, cool_down, unfit } if *self.orders.borrow() == Order::Save => {
                let reason = self.save(live, upload, mode, reason).await?;
                Ok(Leave::Release { reason, cool_down, unfit })
            }
            leave => {
                self.kill(live).await;
                checkpoint::settle(upload).await;
                Ok(leave)
            }
        }
    }

    /// The node stops: one last checkpoint, after which the job is not let go on.
    async fn save(
        &mut self,
        live: &mut Live,
        upload: Option<Upload>,
        mode: Option<CheckpointMode>,
        reason: String,
    ) -> Result<String, Leave> {
        let mut orders = self.orders.clone();
        let no_time = async move {
            // An error means that nobody can give orders any more.
            let _ = orders.wait_for(|order| matches!(order, Order::Release | Order::Abandon)).await;
        };
        let saving = async {
            if let Some(upload) = upload {
                let committed = upload.done().await;
                self.note_committed(live, committed).await?;
            }
            let Some(mode) = mode else { return Ok(false) };
            let captured = checkpoint::capture(self, live, mode, checkpoint::After::Kill).await;
            let Some(upload) = self.after_capture(live, captured).await? else { return Ok(false) };
            let committed = upload.done().await;
            let saved = matches!(committed, Committed::Yes { .. });
            self.note_committed(live, committed).await?;
            Ok::<_, Leave>(saved)
        };
        let saved = tokio::select! {
            saved = saving => saved?,
            () = no_time => false,
        };
        self.kill(live).await;
        let mut left = self.shared.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (list, reason) = if saved {
            (&mut left.saved, format!("{reason}, all work saved"))
        } else {
            (&mut left.released, format!("{reason}, no time or no way to save the newest work"))
        };
        list.push(self.record.id.clone());
        Ok(reason)
    }

    /// What the program's own end means.
    async fn finish(&mut self, live: &mut Live, end: ContainerEnd) -> Result<Leave, Leave> {
        let spec = &self.record.spec;
        let failed = |failure| Outcome::Failed { failure };
        let node_stops = *self.orders.borrow() != Order::Run || self.shared.is_draining();
        let outcome = match end {
            ContainerEnd::Exited(0) => Outcome::Succeeded,
            ContainerEnd::Exited(code) => failed(Failure::Exit { code }),
            // Whoever stops the node may have sent its signal to the jobs too.
            ContainerEnd::Signalled(signal @ (9 | 15)) if node_stops => {
                let reason = format!("ended by signal {signal} while the node stops");
                return Ok(Leave::Release { reason, cool_down: false, unfit: false });
            }
            ContainerEnd::Signalled(signal) => failed(Failure::Signal { signal }),
            ContainerEnd::OutOfMemory => failed(Failure::OutOfMemory { limit_bytes: spec.memory_bytes }),
            ContainerEnd::DiskFull => failed(Failure::DiskFull { limit_bytes: spec.disk_bytes }),
            ContainerEnd::Vanished => return Ok(Leave::HostFault("its container vanished".to_owned())),
        };
        self.end_with(live, outcome).await
    }

    /// Makes log and outputs durable and commits the end. The container has ended, or is being killed.
    async fn end_with(&mut self, live: &mut Live, outcome: Outcome) -> Result<Leave, Leave> {
        live.container.wait().await;
        live.clock.stop();
        let log_bytes = live.pump.finish().await.map_err(|error| Leave::HostFault(error.to_string()))?;
        let operation = fresh::operation();
        let outputs = loop {
            match outputs::store(self, live, log_bytes, &operation).await {
                Ok(outputs) => break outputs,
                Err(outputs::OutputError::Host(reason)) => return Err(Leave::HostFault(reason)),
                // The program has ended; all that is missing is a place for what it made.
                Err(outputs::OutputError::Blobs(error)) => {
                    tracing::warn!(job = %self.record.id, %error, "cannot store the outputs, will try on");
                    let mut orders = self.orders.clone();
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_secs(2)) => {}
                        _ = orders.wait_for(|order| *order != Order::Run) => return Err(self.ordered()),
                    }
                }
            }
        };
        let event = JobEvent::Finished { holder: self.holder.clone(), at: fresh::now(), outcome, outputs, log_bytes };
        self.commit(event).await?;
        metrics::FINISHED.add(1);
        Ok(Leave::Done)
    }

    /// What the present order means for the attempt.
    fn ordered(&self) -> Leave {
        match *self.orders.borrow() {
            Order::Abandon => Leave::Fenced,
            _ => {
                Leave::Release { reason: format!("node {} stopped", self.holder.node), cool_down: false, unfit: false }
            }
        }
    }

    /// Commits how the attempt ended and removes what is no longer needed.
    async fn leave(&mut self, leave: Leave) {
        let at = fresh::now();
        let holder = self.holder.clone();
        let event = match leave {
            Leave::Fenced | Leave::Done => None,
            Leave::Release { reason, cool_down, unfit } => {
                tracing::info!(job = %self.record.id, reason, "released");
                if cool_down {
                    claim::cool_down(&self.shared, &self.record, unfit);
                }
                Some(JobEvent::Released { holder, at, reason })
            }
            Leave::HostFault(reason) => {
                tracing::error!(job = %self.record.id, reason, "lost by a fault of this host");
                claim::cool_down(&self.shared, &self.record, false);
                Some(JobEvent::NodeLost { holder, at, reason })
            }
            Leave::Finish(outcome) => {
                let log_bytes = self.record.resume_point().map_or(self.record.log_base, |c| c.log_bytes);
                Some(JobEvent::Finished { holder, at, outcome, outputs: None, log_bytes })
            }
        };
        if let Some(event) = event
            && let Err(error) = self.commit(event).await
        {
            tracing::warn!(job = %self.record.id, %error, "cannot give the job back; it is no longer held here");
        }
        if self.record.is_finished() {
            super::clean_finished(&self.shared.blobs, &self.record).await;
        }
    }

    /// Returns once somebody wants the job to end here: by an order of this node, or by its record.
    fn interruption(&self) -> impl Future<Output = Leave> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let id = self.record.id.clone();
        let holder = self.holder.clone();
        let mut orders = self.orders.clone();
        let stopped =
            Leave::Release { reason: format!("node {} stopped", holder.node), cool_down: false, unfit: false };
        async move {
            let ordered = async {
                match orders.wait_for(|order| *order != Order::Run).await.map(|order| *order) {
                    Ok(Order::Abandon) | Err(_) => Leave::Fenced,
                    Ok(_) => stopped,
                }
            };
            tokio::select! {
                biased;
                leave = ordered => leave,
                leave = by_record(&shared, &id, &holder) => leave,
            }
        }
    }
}

/// Returns once the record says that the job is cancelled or somebody else's.
async fn by_record(shared: &Shared, id: &workrs_core::id::JobId, holder: &Holder) -> Leave {
    let key = keys::job(id);
    loop {
        let seen = async {
            let page = shared.records.store().list(&key, None, 1).await?;
            shared.records.store().watch(&key, page.revision).await
        };
        let watch = seen.await;
        match shared.records.get(id).await {
            Ok(Some(record)) => match &record.state {
                JobState::Running { holder: current, cancel, .. } if current == holder => {
                    if cancel.is_some() {
                        return Leave::Finish(Outcome::Cancelled);
                    }
                }
                _ => return Leave::Fenced,
            },
            Ok(None) => return Leave::Fenced,
            Err(error) => tracing::warn!(job = %id, %error, "cannot read the job's record, will try on"),
        }
        let Ok(mut watch) = watch else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        loop {
            match watch.recv().await {
                Some(WatchEvent::Put(entry)) if entry.key != key => {}
                Some(WatchEvent::Deleted { key: deleted, .. }) if deleted != key => {}
                None => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    break;
                }
                Some(_) => break,
            }
        }
    }
}

async fn sleep_for(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep_until(Instant::now() + time).await,
        None => std::future::pending().await,
    }
}

/// Why a program was not brought up.
enum BringUpError {
    /// Proof that the checkpoint is bad.
    Bad(String),
    /// The engine refused the checkpoint; proof, if it happens again.
    Refused(String),
    /// This host cannot restore the checkpoint.
    Unfit(String),
    /// Not a matter of the checkpoint.
    Leave(Leave),
}

impl From<EngineError> for BringUpError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Refused(_) => Self::Refused(error.to_string()),
            EngineError::Unfit(_) => Self::Unfit(error.to_string()),
            EngineError::CannotStart(reason) => {
                Self::Leave(Leave::Finish(Outcome::Failed { failure: Failure::CannotStart { reason } }))
            }
            EngineError::CannotCapture(_) | EngineError::DiskFailed(_) | EngineError::Host(_) => {
                Self::Leave(Leave::host(error))
            }
        }
    }
}

impl From<inputs::InputError> for BringUpError {
    fn from(error: inputs::InputError) -> Self {
        Self::Leave(match error {
            inputs::InputError::Lost(reason) => {
                Leave::Finish(Outcome::Failed { failure: Failure::CannotStart { reason } })
            }
            inputs::InputError::TooBig(reason) => {
                Leave::Finish(Outcome::Failed { failure: Failure::CannotStart { reason } })
            }
            inputs::InputError::Host(reason) => Leave::host(reason),
        })
    }
}

impl From<PumpError> for BringUpError {
    fn from(error: PumpError) -> Self {
        Self::Leave(Leave::host(error))
    }
}

/// Whether trying again may help.
pub(super) fn is_passing(error: &BlobError) -> bool {
    matches!(error, BlobError::Unavailable(_) | BlobError::Full(_))
}
