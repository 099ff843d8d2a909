//! One task a job, from its claim to its end here: fetch, prepare, start or restore, watch over, finish.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::watch, time::Instant};
use workrs_core::{
    job::{CheckpointId, CheckpointMode, Failure, Holder, JobEvent, MAX_LOG_RANGES, Outcome},
    plan,
};
use workrs_engine::Container;
use workrs_store::{
    fresh,
    records::{Known, RecordError},
};

use super::{
    Order, Shared,
    checkpoint::{self, CaptureError, Captured, Committed, Upload},
    clock::RunClock,
    lineage::Lineage,
    planning::Prospects,
};
use crate::{
    joblog::{self, LogPump},
    metrics,
};

/// Why an attempt ends without the program's own end.
#[derive(Debug)]
pub(super) enum Leave {
    /// The record is somebody else's: commit nothing.
    Fenced,
    /// All is committed.
    Done,
    /// Back to the queue, at the newest checkpoint.
    Release { reason: String, cool_down: bool },
    /// Back to the queue, for another node to try: this one fits the checkpoint, but cannot restore it.
    Refused { checkpoint: CheckpointId, reason: String },
    /// Back to the queue, for a node that has what the checkpoint needs.
    Unfit { checkpoint: CheckpointId, reason: String },
    /// A fault of this host, counted as the loss of a node.
    HostFault(String),
    /// The job can be ended for good.
    Finish(Outcome),
}

impl Leave {
    /// The node gives all its jobs back.
    pub(super) fn as_ordered(shared: &Shared) -> Self {
        let what = if shared.stopping.load(Ordering::SeqCst) { "stopped" } else { "was drained" };
        Self::Release { reason: format!("node {} {what}", shared.config.id), cool_down: false }
    }

    /// Somebody wants to see that it outlives a fault.
    pub(super) fn by_drill() -> Self {
        Self::HostFault("fault drill".to_owned())
    }

    /// Something of this host is in the way for now.
    pub(super) fn host(reason: impl Into<String>) -> Self {
        Self::Release { reason: reason.into(), cool_down: true }
    }
}

impl From<RecordError> for Leave {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Illegal(_) | RecordError::NotFound | RecordError::GuardFailed => Self::Fenced,
            error => Self::host(error.to_string()),
        }
    }
}

/// A claimed job, before and while its container exists.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) record: Known,
    pub(super) holder: Holder,
    /// The checkpoint for which no node that fits came for long: it was claimed to give that up.
    pub(super) given_up: Option<CheckpointId>,
    pub(super) work_dir: PathBuf,
    pub(super) orders: watch::Receiver<Order>,
    unsaved_since: Arc<Mutex<Instant>>,
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
    pub(super) failures: u32,
    /// Run time at the newest checkpoint, or at the newest try.
    pub(super) checkpointed_at: Duration,
    /// Run time at the newest checkpoint that was committed, or at the start.
    pub(super) saved_at: Duration,
    /// What the next checkpoint builds on.
    pub(super) lineage: Lineage,
    /// When a pack was last read back.
    pub(super) rechecked_at: Instant,
    /// What is known of how long it runs.
    pub(super) prospects: Prospects,
    /// Why it was resumed here, until that is in the record.
    pub(super) note: Option<String>,
}

pub(super) async fn run(
    shared: Arc<Shared>,
    record: Known,
    holder: Holder,
    given_up: Option<CheckpointId>,
    orders: watch::Receiver<Order>,
    unsaved_since: Arc<Mutex<Instant>>,
) {
    let work_dir = shared.config.work_dir.join(format!("{}-{}", record.id, record.epoch));
    let id = record.id.clone();
    let mut run = Run { shared: Arc::clone(&shared), record, holder, given_up, work_dir, orders, unsaved_since };
    let leave = run.attempt().await;
    run.leave(leave).await;
    shared.live_logs.remove(&id, run.holder.epoch);
    if let Err(error) = tokio::fs::remove_dir_all(&run.work_dir).await {
        tracing::debug!(%error, "cannot remove the attempt's folder");
    }
    shared.remove(&id);
}

impl Run {
    async fn attempt(&mut self) -> Leave {
        if let Err(error) = tokio::fs::create_dir_all(&self.work_dir).await {
            return Leave::host(format!("cannot create {}: {error}", self.work_dir.display()));
        }
        let mut interrupted = self.interruption().boxed();
        let mut live = match self.bring_up(&mut interrupted).await {
            Ok(live) => live,
            Err(leave) => return leave,
        };
        let leave = self.watch_over(&mut live, interrupted).await.unwrap_or_else(|leave| leave);
        if let Err(error) = live.container.destroy().await {
            tracing::error!(%error, "cannot remove the job's container");
        }
        leave
    }

    /// Commits an event of this holder and keeps the record up to date.
    pub(super) async fn commit(&mut self, event: JobEvent) -> Result<(), RecordError> {
        let mut pause = Duration::from_millis(100);
        loop {
            let decide = |_: &_| Some((event.clone(), Vec::new()));
            let (known, operation) = (Some(&self.record), fresh::operation());
            match self.shared.records.change(&self.record.id, known, decide, &operation).await {
                Ok(record) => {
                    self.record = record.ok_or(RecordError::NotFound)?;
                    return Ok(());
                }
                // The store is away: the job runs on, the event waits.
                Err(RecordError::Unavailable(reason)) => {
                    tracing::warn!(reason, "cannot commit, will try on");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs, checkpointing, until the program ends or must be left; says how to leave it.
    async fn watch_over(
        &mut self,
        live: &mut Live,
        mut interrupted: BoxFuture<'static, Leave>,
    ) -> Result<Leave, Leave> {
        let plan = Some(self.plan_note(live));
        let note = live.note.take();
        self.commit(JobEvent::Started { holder: self.holder.clone(), at: fresh::now(), plan, note }).await?;
        self.merge_log(live).await?;
        let dump = &self.shared.capabilities.dump;
        let mode = plan::checkpoint_mode(self.record.spec.checkpoint, dump.is_ok());
        if let (None, Err(reason), true) = (mode, dump, self.record.spec.checkpoint.interval().is_some()) {
            let reason = format!("node {} cannot checkpoint memory: {reason}", self.holder.node);
            self.commit(JobEvent::CheckpointFailed { holder: self.holder.clone(), reason }).await?;
        }
        let timeout = self.record.spec.timeout_ms.map(Duration::from_millis);
        let mut upload: Option<Upload> = None;
        loop {
            let run_time = live.clock.elapsed();
            let decision = self.decide(live);
            let due = decision.checkpoint_in.filter(|_| mode.is_some() && upload.is_none());
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
                () = sleep_for(decision.replan_in) => self.note_plan(live).await?,
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

    /// A job that was resumed often has a log of many ranges: copies them into one, so that its record stays small.
    async fn merge_log(&mut self, live: &Live) -> Result<(), Leave> {
        if self.record.log.len() <= MAX_LOG_RANGES {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        match joblog::merge_segments(&shared.blobs, &self.record, self.holder.epoch, live.pump.from()).await {
            Ok(()) => Ok(self.commit(JobEvent::LogMerged { holder: self.holder.clone() }).await?),
            Err(error) => {
                tracing::warn!(%error, "cannot merge the log, the next resume will try again");
                Ok(())
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
            Committed::Yes { record, base, rechecked, log_stored, run_time } => {
                self.record = *record;
                live.lineage.note_commit(*base);
                if rechecked {
                    live.rechecked_at = Instant::now();
                }
                live.failures = 0;
                live.log_stored = log_stored;
                live.checkpointed_at = run_time;
                live.saved_at = run_time;
                self.work_is_saved_but_for(live.clock.elapsed().saturating_sub(run_time));
                self.learn_from_checkpoint();
                self.note_plan(live).await
            }
            Committed::Fenced => Err(Leave::Fenced),
            Committed::Failed(reason) => self.note_failed(live, reason).await,
        }
    }

    fn work_is_saved_but_for(&self, unsaved: Duration) {
        let now = Instant::now();
        let since = now.checked_sub(unsaved).unwrap_or(now);
        *self.unsaved_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    async fn note_failed(&mut self, live: &mut Live, reason: String) -> Result<(), Leave> {
        live.failures += 1;
        metrics::CHECKPOINT_FAILURES.add(1);
        tracing::warn!(reason, "the checkpoint failed; the job runs on");
        let event = JobEvent::CheckpointFailed { holder: self.holder.clone(), reason };
        self.commit(event).await?;
        self.note_plan(live).await
    }

    /// Puts the plan as it is now into the record.
    async fn note_plan(&mut self, live: &Live) -> Result<(), Leave> {
        let plan = self.plan_note(live);
        Ok(self.commit(JobEvent::Planned { holder: self.holder.clone(), plan }).await?)
    }

    async fn kill(&self, live: &Live) {
        if let Err(error) = live.container.kill().await {
            tracing::error!(%error, "cannot kill the job");
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
            Leave::Release { reason, cool_down } if *self.orders.borrow() == Order::Save => {
                let reason = self.save(live, upload, mode, reason).await?;
                Ok(Leave::Release { reason, cool_down })
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
        let mut left = self.shared.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (list, reason) = if saved {
            (&mut left.saved, format!("{reason}, all work saved"))
        } else {
            (&mut left.released, format!("{reason}, no time or no way to save the newest work"))
        };
        list.push(self.record.id.clone());
        Ok(reason)
    }
}

async fn sleep_for(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep_until(Instant::now() + time).await,
        None => std::future::pending().await,
    }
}
