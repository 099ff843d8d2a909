//! What one change of a record may be.

use workrs_core::{
    job::{
        Attempt, Checkpoint, CheckpointId, Holder, JobRecord, JobState, MAX_CONSECUTIVE_LOSSES, Outcome, Standing,
        Start,
    },
    keys::{self, BlobNames},
};

use super::Tally;

/// A change that is being looked at.
struct Change<'a> {
    before: &'a JobRecord,
    after: &'a JobRecord,
    /// Whether something stood at a key before the change.
    present: &'a dyn Fn(&str) -> bool,
    faults: &'a mut Vec<String>,
}

/// Holds a record against the one before it, adds up what happened, and says what must not be.
pub fn check(
    before: Option<&JobRecord>,
    after: &JobRecord,
    tally: &mut Tally,
    present: &dyn Fn(&str) -> bool,
    faults: &mut Vec<String>,
) {
    let Some(before) = before else {
        let is_new = matches!(after.state, JobState::Queued { .. }) && after.epoch.0 == 0 && after.attempts.is_empty();
        if !is_new || !after.checkpoints.is_empty() {
            faults.push(format!("it was not there before, but begins as {}", after.state.name()));
        }
        return;
    };
    let mut change = Change { before, after, present, faults };
    change.same_job();
    match (&before.state, &after.state) {
        (JobState::Queued { .. }, JobState::Running { holder, .. }) => change.claim(holder, tally),
        (JobState::Running { holder, .. }, JobState::Running { holder: now, .. }) => {
            change.progress(holder, now, tally);
        }
        (JobState::Running { holder, .. }, JobState::Queued { .. }) => change.requeue(holder, tally),
        (JobState::Queued { .. }, JobState::Queued { reason, .. }) => change.says_why_it_waits(reason.as_deref()),
        (JobState::Running { .. }, JobState::Finished { outcome, log_bytes, .. }) => {
            change.finish(outcome, *log_bytes, tally);
        }
        (JobState::Finished { .. }, JobState::Finished { .. }) => change.after_the_end(),
        (from, to) => change.say(format!("it was {} and became {}", from.name(), to.name())),
    }
    change.sums(tally);
}

impl Change<'_> {
    fn say(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    fn demand(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }

    /// What never changes.
    fn same_job(&mut self) {
        let (before, after) = (self.before, self.after);
        let same = before.id == after.id
            && before.owner == after.owner
            && before.spec == after.spec
            && before.inputs == after.inputs
            && before.submitted_at == after.submitted_at;
        self.demand(same, || "it became another job".to_owned());
        self.demand(after.epoch >= before.epoch, || format!("the epoch fell from {} to {}", before.epoch, after.epoch));
    }

    /// A claim counts one up, is made by a node that lives and takes jobs, and goes on from the newest kept checkpoint.
    fn claim(&mut self, holder: &Holder, tally: &mut Tally) {
        let (before, after) = (self.before, self.after);
        tally.claims += 1;
        let epoch = after.epoch;
        self.demand(epoch.0 == before.epoch.0 + 1, || format!("the claim of epoch {} made {epoch}", before.epoch));
        self.demand(holder.epoch == epoch, || format!("the holder's epoch is {}, not {epoch}", holder.epoch));
        let node = keys::node(&holder.node, &holder.incarnation);
        self.demand((self.present)(&node), || format!("{} claimed it without being in the group", holder.node));
        let drained = (self.present)(&keys::drain(&holder.node));
        self.demand(!drained, || format!("{} claimed it while it was drained", holder.node));
        self.demand(before.checkpoints == after.checkpoints, || "a claim changed the checkpoints".to_owned());
        let Some(attempt) = after.attempts.last() else { return self.say("the claim is no attempt") };
        self.demand(attempt.epoch == epoch && attempt.node == holder.node, || format!("not its attempt: {attempt:?}"));
        self.demand(attempt.ended_at.is_none(), || format!("the attempt has ended: {attempt:?}"));
        tally.resumes += u64::from(attempt.start != Start::Clean);
        self.starts_at_newest(attempt);
    }

    /// The attempt begins at the newest checkpoint that can be resumed from, and so does its log.
    fn starts_at_newest(&mut self, attempt: &Attempt) {
        let after = self.after;
        let newest = newest_kept(after);
        let (start, log) = match newest {
            Some(Checkpoint { id, mode, run_ms, log_bytes, .. }) => {
                (Start::Checkpoint { id: *id, mode: *mode, run_ms: *run_ms }, *log_bytes)
            }
            None => (Start::Clean, after.log_base),
        };
        self.demand(attempt.start == start, || format!("it starts from {:?} instead of {start:?}", attempt.start));
        let range = after.log.last().copied();
        let right = range.is_some_and(|range| range.epoch == after.epoch && range.from == log);
        self.demand(right, || format!("its log goes on at {range:?} instead of {log}"));
    }

    /// What a holder may change while it holds the job.
    fn progress(&mut self, holder: &Holder, now: &Holder, tally: &mut Tally) {
        let (before, after) = (self.before, self.after);
        self.demand(holder == now && before.epoch == after.epoch, || format!("{holder:?} became {now:?}"));
        let others = |record: &JobRecord| record.attempts.iter().rev().skip(1).cloned().collect::<Vec<_>>();
        self.demand(others(before) == others(after), || "former attempts changed".to_owned());
        let (bad, added) = self.compare_checkpoints();
        self.demand(bad.len() + added.len() <= 1, || format!("more than one thing at once: {bad:?}, {added:?}"));
        for checkpoint in &added {
            tally.checkpoints += 1;
            self.new_checkpoint(checkpoint);
        }
        if !bad.is_empty() {
            tally.fallbacks += 1;
            let attempt = after.attempts.last().cloned();
            let told = |attempt: &Attempt| attempt.notes.iter().any(|note| note.contains("is bad"));
            self.demand(attempt.as_ref().is_some_and(told), || "it fell back without a reason".to_owned());
            if let Some(attempt) = attempt {
                self.starts_at_newest(&attempt);
            }
        }
    }

    /// Which checkpoints turned bad and which are new, the newest last. Others may only have been dropped.
    fn compare_checkpoints(&mut self) -> (Vec<CheckpointId>, Vec<Checkpoint>) {
        let (before, after) = (self.before, self.after);
        let mut bad = Vec::new();
        let mut added = Vec::new();
        let newest = before.checkpoints.last().map(|checkpoint| checkpoint.id);
        for checkpoint in &after.checkpoints {
            let Some(known) = before.checkpoints.iter().find(|known| known.id == checkpoint.id) else {
                let is_newer = newest.is_none_or(|newest| checkpoint.id > newest);
                self.demand(is_newer, || format!("checkpoint {} came after {newest:?}", checkpoint.id));
                added.push(checkpoint.clone());
                continue;
            };
            match (&known.standing, &checkpoint.standing) {
                (Standing::Kept, Standing::Bad { reason }) => {
                    self.demand(!reason.is_empty(), || format!("checkpoint {} is bad without a reason", known.id));
                    bad.push(known.id);
                }
                (from, to) if from == to => {}
                (_, Standing::Dropped) => {}
                (from, to) => self.say(format!("checkpoint {} was {from:?} and became {to:?}", known.id)),
            }
        }
        let kept = |record: &JobRecord| -> Vec<CheckpointId> {
            record.checkpoints.iter().filter(|c| c.standing == Standing::Kept).map(|c| c.id).collect()
        };
        let (kept_before, kept_after) = (kept(before), kept(after));
        let two_newer = kept_after.len() >= 2;
        for gone in kept_before.iter().filter(|id| !kept_after.contains(id) && !bad.contains(id)) {
            let replaced = two_newer && kept_after.iter().all(|newer| newer > gone);
            self.demand(replaced, || format!("checkpoint {gone} went without two newer ones: {kept_after:?}"));
        }
        (bad, added)
    }

    /// A new checkpoint is of this claim, durable, and further than what it builds on.
    fn new_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let after = self.after;
        let id = checkpoint.id;
        self.demand(id.epoch == after.epoch, || format!("checkpoint {id} came under epoch {}", after.epoch));
        let usable = checkpoint.standing == Standing::Kept;
        self.demand(usable, || format!("checkpoint {id} is new and {:?}", checkpoint.standing));
        let prefix = format!("{}{id}-", BlobNames(&after.id).checkpoints());
        let manifest = checkpoint.manifest.as_ref().map(|manifest| manifest.name.clone());
        let named = manifest.as_ref().is_some_and(|name| name.starts_with(&prefix));
        self.demand(named, || format!("checkpoint {id} has the manifest {manifest:?}"));
        let base = newest_kept(self.before).map(|base| (base.id, base.run_ms, base.log_bytes));
        let Some((base, run_ms, log_bytes)) = base else { return };
        let further = checkpoint.run_ms >= run_ms && checkpoint.log_bytes >= log_bytes;
        self.demand(further, || format!("checkpoint {id} is not as far as {base}: {checkpoint:?}"));
    }

    /// Only the reason changes, and it is that no node fits the checkpoint which the job would go on from.
    fn says_why_it_waits(&mut self, reason: Option<&str>) {
        let (before, after) = (self.before, self.after);
        let same = JobRecord { state: after.state.clone(), ..before.clone() } == *after && before.state != after.state;
        self.demand(same, || format!("it changed in the queue: {:?} to {:?}", before.state, after.state));
        let point = newest_kept(after).map(|point| format!("waits for a node that fits checkpoint {}: ", point.id));
        let says = point.zip(reason).is_some_and(|(words, reason)| reason.starts_with(&words));
        self.demand(says, || format!("it waits for no checkpoint of its own: {reason:?}"));
    }

    /// The job goes back: lost with its node, which must be gone, or given back by its holder.
    fn requeue(&mut self, holder: &Holder, tally: &mut Tally) {
        self.attempt_ends(holder, tally);
        let same = self.before.checkpoints.len() == self.after.checkpoints.len()
            && newest_kept(self.before).map(|c| c.id) == newest_kept(self.after).map(|c| c.id);
        self.demand(same, || "its checkpoints changed when it went back to the queue".to_owned());
        self.declines(holder);
    }

    /// Who declined a checkpoint is noted with the checkpoint that its attempt was to start from, and nobody else.
    fn declines(&mut self, holder: &Holder) {
        for (known, now) in self.before.checkpoints.iter().zip(&self.after.checkpoints) {
            let others = |checkpoint: &Checkpoint| -> Vec<_> {
                checkpoint.declined.iter().filter(|declined| declined.node != holder.node).cloned().collect()
            };
            let (others_before, others_now) = (others(known), others(now));
            let added = now.declined.len() > others_now.len() && known.declined != now.declined;
            let is_its_own = !added || Some(now.id) == newest_kept(self.after).map(|point| point.id);
            // The oldest is forgotten when there are many.
            let are_same = others_before.ends_with(&others_now) && (others_before == others_now || added);
            let told = format!("checkpoint {}: {:?} became {:?}", now.id, known.declined, now.declined);
            self.demand(is_its_own && are_same, || format!("somebody else declined {told}"));
        }
    }

    fn attempt_ends(&mut self, holder: &Holder, tally: &mut Tally) {
        let (before, after) = (self.before, self.after);
        self.demand(before.epoch == after.epoch, || format!("the epoch changed to {}", after.epoch));
        let last = after.attempts.last().cloned();
        let Some(attempt) = last.filter(|attempt| attempt.epoch == before.epoch && attempt.ended_at.is_some()) else {
            return self.say("its attempt has not ended");
        };
        let note = attempt.notes.last().cloned().unwrap_or_default();
        let is_loss = after.totals.losses == before.totals.losses + 1;
        tally.losses += u64::from(is_loss);
        tally.releases += u64::from(!is_loss);
        self.demand(is_loss != note.starts_with("released: "), || format!("losses and reason differ: {note}"));
        if is_loss && note == format!("node {} died", holder.node) {
            let key = keys::node(&holder.node, &holder.incarnation);
            self.demand(!(self.present)(&key), || format!("taken from {}, which lived", holder.node));
        }
    }

    /// The one end.
    fn finish(&mut self, outcome: &Outcome, log_bytes: u64, tally: &mut Tally) {
        let (before, after) = (self.before, self.after);
        self.demand(before.epoch == after.epoch, || format!("the epoch changed to {}", after.epoch));
        if *outcome == Outcome::Lost {
            if let Some(holder) = before.holder() {
                self.attempt_ends(holder, tally);
            }
            let often = after.losses >= MAX_CONSECUTIVE_LOSSES;
            return self.demand(often, || format!("given up after {} losses in a row", after.losses));
        }
        let dropped = after.checkpoints.iter().all(|checkpoint| checkpoint.standing == Standing::Dropped);
        self.demand(dropped, || "it ended and still has checkpoints".to_owned());
        let from = after.log.last().map_or(0, |range| range.from);
        self.demand(log_bytes >= from, || format!("its log ends at {log_bytes}, before it began at {from}"));
    }

    /// Whether its blobs are tidied up is all that changes once a job has ended.
    fn after_the_end(&mut self) {
        let (before, after) = (self.before, self.after);
        let only_cleaned = JobRecord { cleaned: after.cleaned, ..before.clone() } == *after && !before.cleaned;
        self.demand(only_cleaned, || format!("it changed after its end: {:?} to {:?}", before.state, after.state));
    }

    /// The record's own sums are what was seen to happen.
    fn sums(&mut self, tally: &Tally) {
        let totals = self.after.totals;
        let own = (totals.attempts, totals.losses, totals.checkpoints);
        let seen = (tally.claims, tally.losses, tally.checkpoints);
        self.demand(own == seen, || format!("it says {own:?} attempts, losses and checkpoints; it had {seen:?}"));
    }
}

fn newest_kept(record: &JobRecord) -> Option<&Checkpoint> {
    record.checkpoints.iter().filter(|checkpoint| checkpoint.standing == Standing::Kept).max_by_key(|c| c.id)
}
