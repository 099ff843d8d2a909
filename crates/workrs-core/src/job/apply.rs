//! The job's state machine: one `match` over state and event.

use super::{
    ATTEMPT_HISTORY, Attempt, CHECKPOINT_HISTORY, Checkpoint, CheckpointId, Declined, FirstForecast, Holder,
    IllegalEvent, JobEvent, JobRecord, JobState, KEPT_CHECKPOINTS, LogRange, MAX_CONSECUTIVE_LOSSES, MAX_DECLINE_LEN,
    MAX_DECLINED, MAX_REASON_LEN, Outcome, Resumable, Standing, Start,
};
use crate::{fit::HostNeeds, id::Timestamp, plan::PlanNote};

impl JobRecord {
    /// The record after `event`. An event that the record already reflects changes nothing.
    pub fn apply(&self, event: &JobEvent) -> Result<Self, IllegalEvent> {
        let mut next = self.clone();
        match (&self.state, event) {
            (JobState::Queued { .. }, JobEvent::Claimed { holder, at }) if holder.epoch == self.epoch.next() => {
                next.claim(holder, *at);
            }
            (JobState::Running { holder: current, .. }, JobEvent::Claimed { holder, .. }) if current == holder => {}

            (JobState::Running { holder: current, .. }, JobEvent::Started { holder, at, plan, note })
                if current == holder =>
            {
                if let Some(attempt) = next.attempts.last_mut()
                    && attempt.started_at.is_none()
                {
                    attempt.started_at = Some(*at);
                    if let Some(note) = note {
                        push_note(attempt, note);
                    }
                }
                if let Some(plan) = plan {
                    next.note_plan(plan);
                }
            }
            (JobState::Running { holder: current, .. }, JobEvent::Planned { holder, plan }) if current == holder => {
                next.note_plan(plan);
            }
            (JobState::Running { holder: current, .. }, JobEvent::LogMerged { holder }) if current == holder => {
                next.log = vec![LogRange { epoch: holder.epoch, from: 0 }];
            }
            (JobState::Running { holder: current, .. }, JobEvent::CheckpointCommitted { holder, checkpoint })
                if current == holder =>
            {
                next.add_checkpoint(checkpoint)?;
            }
            (JobState::Running { holder: current, .. }, JobEvent::CheckpointFailed { holder, reason })
                if current == holder =>
            {
                next.resumable = Resumable::No { reason: bounded(reason) };
            }
            (JobState::Running { holder: current, .. }, JobEvent::FellBack { holder, bad, reason })
                if current == holder =>
            {
                next.fall_back(*bad, reason)?;
            }
            (
                JobState::Running { holder: current, cancel, .. },
                JobEvent::Finished { holder, at, outcome, outputs, output_bytes, log_bytes },
            ) if current == holder => {
                next.end_attempt(*at, &describe(outcome));
                let retry =
                    matches!(outcome, Outcome::Failed { .. }) && self.retried < self.spec.retries && cancel.is_none();
                if retry {
                    next.retry(*at, *log_bytes, outcome);
                } else {
                    next.finish(*at, outcome.clone(), *log_bytes);
                    if let JobState::Finished { outputs: slot, .. } = &mut next.state {
                        slot.clone_from(outputs);
                    }
                    next.output_bytes = *output_bytes;
                }
            }
            (JobState::Running { holder: current, cancel, .. }, JobEvent::Released { holder, at, reason })
                if current == holder =>
            {
                next.leave(*at, reason, cancel.is_some());
            }
            (
                JobState::Running { holder: current, cancel, .. },
                JobEvent::RestoreRefused { holder, at, checkpoint, reason },
            ) if current == holder => {
                next.note_refusal(*checkpoint, holder, reason);
                let reason = format!("checkpoint {checkpoint} could not be restored: {reason}");
                next.leave(*at, &reason, cancel.is_some());
            }
            (
                JobState::Running { holder: current, cancel, .. },
                JobEvent::RestoreUnfit { holder, at, checkpoint, reason },
            ) if current == holder => {
                next.note_declined(*checkpoint, holder, reason);
                let reason = format!("checkpoint {checkpoint} cannot be resumed here: {reason}");
                next.leave(*at, &reason, cancel.is_some());
            }
            (JobState::Queued { since, .. }, JobEvent::NoNodeFits { checkpoint, reason })
                if self.resume_point().is_some_and(|point| point.id == *checkpoint) =>
            {
                next.state = JobState::Queued { since: *since, reason: Some(bounded(reason)) };
            }
            (JobState::Running { holder: current, cancel, .. }, JobEvent::NodeLost { holder, at, reason })
                if current == holder =>
            {
                next.lose(*at, reason, cancel.is_some());
            }

            (JobState::Queued { .. }, JobEvent::CancelRequested { at }) => {
                let log_bytes = self.resume_point().map_or(self.log_base, |checkpoint| checkpoint.log_bytes);
                next.finish(*at, Outcome::Cancelled, log_bytes);
            }
            (JobState::Running { .. }, JobEvent::CancelRequested { at }) => {
                if let JobState::Running { cancel, .. } = &mut next.state {
                    cancel.get_or_insert(*at);
                }
            }
            (JobState::Finished { outcome: Outcome::Cancelled, .. }, JobEvent::CancelRequested { .. }) => {}

            (JobState::Finished { outcome: Outcome::Lost, .. }, JobEvent::RunOn { at }) => {
                next.losses = 0;
                next.state = JobState::Queued { since: *at, reason: Some("run on by its user".to_owned()) };
            }
            (JobState::Queued { .. } | JobState::Running { .. }, JobEvent::RunOn { .. }) if self.epoch.0 > 0 => {}

            (JobState::Finished { outcome, .. }, JobEvent::Cleaned) if *outcome != Outcome::Lost => next.cleaned = true,

            // A holder that hears of its own success late: what its claim came to is already in the record.
            (
                _,
                JobEvent::Finished { holder, .. }
                | JobEvent::Released { holder, .. }
                | JobEvent::RestoreRefused { holder, .. }
                | JobEvent::RestoreUnfit { holder, .. }
                | JobEvent::NodeLost { holder, .. },
            ) if self.attempt_ended(holder) => {}
            (_, event) => return Err(self.refuse(event)),
        }
        Ok(next)
    }

    fn claim(&mut self, holder: &Holder, at: Timestamp) {
        let resume_point = self.resume_point();
        let start = resume_point.map_or(Start::Clean, Start::from);
        let from = resume_point.map_or(self.log_base, |checkpoint| checkpoint.log_bytes);
        self.epoch = holder.epoch;
        self.totals.attempts += 1;
        self.set_log_start(from);
        self.attempts.push(Attempt {
            epoch: holder.epoch,
            node: holder.node.clone(),
            claimed_at: at,
            start,
            started_at: None,
            ended_at: None,
            notes: Vec::new(),
        });
        let surplus = self.attempts.len().saturating_sub(ATTEMPT_HISTORY);
        self.attempts.drain(..surplus);
        self.state = JobState::Running { holder: holder.clone(), since: at, cancel: None };
    }

    /// The newest plan counts; the first forecast stays, so that it can be judged by what came true.
    fn note_plan(&mut self, plan: &PlanNote) {
        if self.plan.as_ref().is_some_and(|known| known.at > plan.at) {
            return;
        }
        if let Some(expected_s) = plan.expected_finish_in_s {
            let end_at = Timestamp::from_millis(plan.at.as_millis().saturating_add((expected_s * 1e3) as u64));
            self.forecast.get_or_insert(FirstForecast { at: plan.at, end_at });
        }
        self.plan = Some(plan.clone());
    }

    /// From `from` on the log is the current epoch's; what others wrote there is void.
    fn set_log_start(&mut self, from: u64) {
        let epoch = self.epoch;
        self.log.retain(|range| range.from < from && range.epoch != epoch);
        self.log.push(LogRange { epoch, from });
    }

    fn add_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), IllegalEvent> {
        if self.checkpoints.iter().any(|known| known.id == checkpoint.id) {
            return Ok(());
        }
        let newest = self.checkpoints.last().map(|known| known.id);
        if checkpoint.id.epoch != self.epoch || newest.is_some_and(|newest| checkpoint.id <= newest) {
            return Err(IllegalEvent::Contradiction("a checkpoint must be newer than those before it"));
        }
        if checkpoint.standing != Standing::Kept || checkpoint.manifest.is_none() {
            return Err(IllegalEvent::Contradiction("a checkpoint is committed with its manifest"));
        }
        self.checkpoints.push(checkpoint.clone());
        self.totals.checkpoints += 1;
        self.totals.standstill_ms += checkpoint.standstill_ms;
        self.totals.uploaded_bytes += checkpoint.uploaded_bytes;
        self.losses = 0;
        self.resumable = Resumable::Yes;
        let mut newer_good = 0;
        for known in self.checkpoints.iter_mut().rev() {
            if newer_good >= KEPT_CHECKPOINTS {
                drop_checkpoint(known);
            }
            newer_good += usize::from(known.standing == Standing::Kept);
        }
        self.bound_checkpoints();
        Ok(())
    }

    /// Forgets the oldest dropped entries first, then the oldest bad ones, never a kept one.
    fn bound_checkpoints(&mut self) {
        while self.checkpoints.len() > CHECKPOINT_HISTORY {
            let position = |wanted: fn(&Standing) -> bool| self.checkpoints.iter().position(|c| wanted(&c.standing));
            let oldest =
                position(|s| *s == Standing::Dropped).or_else(|| position(|s| *s != Standing::Kept)).unwrap_or(0);
            self.checkpoints.remove(oldest);
        }
    }

    fn fall_back(&mut self, bad: CheckpointId, reason: &str) -> Result<(), IllegalEvent> {
        let Some(checkpoint) = self.checkpoints.iter_mut().find(|checkpoint| checkpoint.id == bad) else {
            return Err(IllegalEvent::Contradiction("no such checkpoint"));
        };
        match checkpoint.standing {
            Standing::Bad { .. } => return Ok(()),
            Standing::Dropped => return Err(IllegalEvent::Contradiction("the checkpoint was dropped before")),
            Standing::Kept => checkpoint.standing = Standing::Bad { reason: bounded(reason) },
        }
        // Nobody will be asked for it again, and the record has to stay small.
        checkpoint.declined.clear();
        checkpoint.needs = HostNeeds::default();
        let resume_point = self.resume_point();
        let start = resume_point.map_or(Start::Clean, Start::from);
        let from = resume_point.map_or(self.log_base, |checkpoint| checkpoint.log_bytes);
        self.set_log_start(from);
        let step = match &start {
            Start::Clean => "no good checkpoint is left: clean start".to_owned(),
            Start::Checkpoint { id, .. } => format!("fell back to checkpoint {id}"),
        };
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.start = start;
            // The step is told in full, however long the reason is.
            let around = format!("checkpoint {bad} is bad (); {step}").len();
            let reason = cut(reason, MAX_REASON_LEN.saturating_sub(around));
            push_note(attempt, &format!("checkpoint {bad} is bad ({reason}); {step}"));
        }
        Ok(())
    }

    fn note_refusal(&mut self, id: CheckpointId, holder: &Holder, reason: &str) {
        if let Some(checkpoint) = self.checkpoints.iter_mut().find(|checkpoint| checkpoint.id == id)
            && !checkpoint.refused_by.contains(&holder.node)
        {
            checkpoint.refused_by.push(holder.node.clone());
        }
        self.note_declined(id, holder, reason);
    }

    fn note_declined(&mut self, id: CheckpointId, holder: &Holder, reason: &str) {
        let Some(checkpoint) = self.checkpoints.iter_mut().find(|checkpoint| checkpoint.id == id) else { return };
        let Holder { node, incarnation, .. } = holder;
        // A former process of the node is gone.
        checkpoint.declined.retain(|declined| declined.node != *node);
        let reason = cut(reason, MAX_DECLINE_LEN).to_owned();
        checkpoint.declined.push(Declined { node: node.clone(), incarnation: incarnation.clone(), reason });
        let surplus = checkpoint.declined.len().saturating_sub(MAX_DECLINED);
        checkpoint.declined.drain(..surplus);
    }

    fn end_attempt(&mut self, at: Timestamp, note: &str) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.ended_at = Some(at);
            push_note(attempt, note);
        }
    }

    fn finish(&mut self, at: Timestamp, outcome: Outcome, log_bytes: u64) {
        if outcome != Outcome::Lost {
            self.checkpoints.iter_mut().for_each(drop_checkpoint);
        }
        self.state = JobState::Finished { at, outcome, outputs: None, log_bytes };
    }

    fn retry(&mut self, at: Timestamp, log_bytes: u64, outcome: &Outcome) {
        self.checkpoints.iter_mut().for_each(drop_checkpoint);
        self.retried += 1;
        self.losses = 0;
        self.log_base = log_bytes;
        let reason = format!("{}; try {} of {}", describe(outcome), self.retried + 1, self.spec.retries + 1);
        self.state = JobState::Queued { since: at, reason: Some(bounded(&reason)) };
    }

    fn leave(&mut self, at: Timestamp, reason: &str, cancelled: bool) {
        self.end_attempt(at, &format!("released: {reason}"));
        self.requeue(at, reason, cancelled);
    }

    fn lose(&mut self, at: Timestamp, reason: &str, cancelled: bool) {
        self.losses += 1;
        self.totals.losses += 1;
        self.end_attempt(at, reason);
        if self.losses >= MAX_CONSECUTIVE_LOSSES && !cancelled {
            let log_bytes = self.resume_point().map_or(self.log_base, |checkpoint| checkpoint.log_bytes);
            self.finish(at, Outcome::Lost, log_bytes);
        } else {
            self.requeue(at, reason, cancelled);
        }
    }

    fn requeue(&mut self, at: Timestamp, reason: &str, cancelled: bool) {
        if cancelled {
            let log_bytes = self.resume_point().map_or(self.log_base, |checkpoint| checkpoint.log_bytes);
            self.finish(at, Outcome::Cancelled, log_bytes);
        } else {
            self.state = JobState::Queued { since: at, reason: Some(bounded(reason)) };
        }
    }

    fn attempt_ended(&self, holder: &Holder) -> bool {
        self.attempts.iter().any(|a| a.epoch == holder.epoch && a.node == holder.node && a.ended_at.is_some())
    }

    fn refuse(&self, event: &JobEvent) -> IllegalEvent {
        match event.holder() {
            Some(holder) if self.holder() != Some(holder) && !matches!(event, JobEvent::Claimed { .. }) => {
                IllegalEvent::Fenced { epoch: holder.epoch }
            }
            _ => IllegalEvent::WrongState { state: self.state.name(), event: event.name() },
        }
    }
}

impl JobState {
    /// The state's name, as the API gives it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Running { .. } => "running",
            Self::Finished { .. } => "finished",
        }
    }
}

impl JobEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Claimed { .. } => "claimed",
            Self::Started { .. } => "started",
            Self::Planned { .. } => "planned",
            Self::LogMerged { .. } => "given one log",
            Self::CheckpointCommitted { .. } => "checkpointed",
            Self::CheckpointFailed { .. } => "marked as not resumable",
            Self::FellBack { .. } => "resumed from an older checkpoint",
            Self::CancelRequested { .. } => "cancelled",
            Self::Finished { .. } => "finished",
            Self::Released { .. } => "released",
            Self::RestoreRefused { .. } => "refused by a node",
            Self::RestoreUnfit { .. } => "given back by a node that does not fit",
            Self::NoNodeFits { .. } => "said to fit no node",
            Self::NodeLost { .. } => "lost",
            Self::RunOn { .. } => "run on",
            Self::Cleaned => "cleaned",
        }
    }
}

fn drop_checkpoint(checkpoint: &mut Checkpoint) {
    checkpoint.standing = Standing::Dropped;
    checkpoint.manifest = None;
    checkpoint.declined.clear();
    checkpoint.needs = HostNeeds::default();
}

fn push_note(attempt: &mut Attempt, note: &str) {
    // A restore can step down at most once a kept checkpoint, so the list is short by itself.
    attempt.notes.push(bounded(note));
}

fn bounded(reason: &str) -> String {
    cut(reason, MAX_REASON_LEN).to_owned()
}

/// As much of the text's beginning as fits into `len` bytes.
fn cut(text: &str, len: usize) -> &str {
    let mut end = text.len().min(len);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// How a job ended, in words that fit after "the job".
pub fn describe(outcome: &Outcome) -> String {
    use super::Failure;
    use crate::spec::{format_duration, format_size};
    match outcome {
        Outcome::Succeeded => "succeeded".to_owned(),
        Outcome::Cancelled => "was cancelled".to_owned(),
        Outcome::Lost => {
            format!("was lost: its nodes died {MAX_CONSECUTIVE_LOSSES} times in a row without a newer checkpoint")
        }
        Outcome::Failed { failure } => match failure {
            Failure::Exit { code } => format!("failed: exit code {code}"),
            Failure::Signal { signal } => format!("failed: ended by signal {signal}"),
            Failure::OutOfMemory { limit_bytes } => {
                format!("failed: out of memory (limit {})", format_size(*limit_bytes))
            }
            Failure::TimedOut { limit_ms } => {
                format!("failed: timed out after {}", format_duration(std::time::Duration::from_millis(*limit_ms)))
            }
            Failure::DiskFull { limit_bytes } => format!("failed: disk full (limit {})", format_size(*limit_bytes)),
            Failure::CannotStart { reason } => format!("failed: could not be started: {reason}"),
        },
    }
}
