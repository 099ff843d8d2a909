//! Made-up histories: one that is right, and for every rule one that breaks it and must be rejected for that.

use std::collections::BTreeMap;

use bytes::Bytes;
use workrs_core::{
    fit::HostNeeds,
    hash::ContentHash,
    id::{Epoch, Incarnation, JobId, NodeId, OperationId, Owner, Timestamp},
    job::{
        BlobRef, Checkpoint, CheckpointId, CheckpointMode, Declined, Holder, JobEvent, JobRecord, JobState, Outcome,
        Standing, Start,
    },
    keys,
    spec::JobSpec,
};
use workrs_store::envelope::Envelope;

use super::{Tally, Verdict, check};
use crate::history::History;

const AT: Timestamp = Timestamp::from_millis(5);

/// A history of one job, as the program writes it.
struct Story {
    history: History,
    record: JobRecord,
    operations: usize,
}

fn holder(node: &str, epoch: u64) -> Holder {
    let incarnation = Incarnation::new(format!("process-of-{node}")).unwrap();
    Holder { node: NodeId::new(node).unwrap(), incarnation, epoch: Epoch(epoch) }
}

fn checkpoint(epoch: u64, seq: u64, so_far: u64) -> Checkpoint {
    let id = CheckpointId { epoch: Epoch(epoch), seq };
    let name = format!("jobs/job/checkpoints/{id}-operation.manifest");
    Checkpoint {
        id,
        mode: CheckpointMode::Full,
        manifest: Some(BlobRef { name, hash: ContentHash::of(b"m"), len: 1 }),
        standing: Standing::Kept,
        at: AT,
        standstill_ms: 1,
        total_ms: 2,
        size_bytes: 3,
        uploaded_bytes: 4,
        needs: HostNeeds::default(),
        refused_by: Vec::new(),
        declined: Vec::new(),
        run_ms: so_far,
        log_bytes: so_far,
    }
}

impl Story {
    /// Nodes `a` and `b` join, then a job is handed over.
    fn new() -> Self {
        let (id, owner) = (JobId::new("job").unwrap(), Owner::new("me").unwrap());
        let record = JobRecord::submitted(id, owner, JobSpec::new("test", vec!["true".to_owned()]), None, AT);
        let mut story = Self { history: History::default(), record: record.clone(), operations: 0 };
        for node in ["a", "b"] {
            story.put(&node_key(node), Some("{}"));
        }
        story.write(None, record);
        story
    }

    fn commit(&mut self, changes: BTreeMap<String, Option<Bytes>>) {
        let revision = self.history.0.last_key_value().map_or(1, |(revision, _)| revision + 1);
        self.history.0.insert(revision, changes);
    }

    fn put(&mut self, key: &str, value: Option<&'static str>) {
        self.commit([(key.to_owned(), value.map(Bytes::from))].into());
    }

    /// Writes a record with its index keys.
    fn write(&mut self, before: Option<&JobRecord>, after: JobRecord) {
        let mut changes: BTreeMap<String, Option<Bytes>> = BTreeMap::new();
        if let Some(before) = before {
            changes.extend(keys::index_keys(before).into_keys().map(|key| (key, None)));
        }
        let new = keys::index_keys(&after);
        changes.extend(new.into_iter().map(|(key, value)| (key, Some(Bytes::from(value.to_string())))));
        self.operations += 1;
        let operation = OperationId::new(format!("op-{}", self.operations)).unwrap();
        let key = keys::job(&after.id);
        changes.insert(key.clone(), Some(Envelope::new("me", after.clone(), operation).encode(&key)));
        self.commit(changes);
        self.record = after;
    }

    fn event(&mut self, event: &JobEvent) {
        let before = self.record.clone();
        let after = before.apply(event).unwrap();
        self.write(Some(&before), after);
    }

    /// Writes what no event brings about.
    fn force(&mut self, change: impl FnOnce(&mut JobRecord)) {
        let before = self.record.clone();
        let mut after = before.clone();
        change(&mut after);
        self.write(Some(&before), after);
    }

    fn claim(&mut self, node: &str, epoch: u64) {
        self.event(&JobEvent::Claimed { holder: holder(node, epoch), at: AT });
        self.event(&JobEvent::Started { holder: holder(node, epoch), at: AT, plan: None, note: None });
    }

    fn save(&mut self, node: &str, epoch: u64, seq: u64, so_far: u64) {
        let checkpoint = checkpoint(epoch, seq, so_far);
        self.event(&JobEvent::CheckpointCommitted { holder: holder(node, epoch), checkpoint });
    }

    fn lose(&mut self, node: &str, epoch: u64) {
        let reason = format!("node {node} died");
        self.event(&JobEvent::NodeLost { holder: holder(node, epoch), at: AT, reason });
    }

    fn end(&mut self, node: &str, epoch: u64) {
        let (holder, outcome) = (holder(node, epoch), Outcome::Succeeded);
        self.event(&JobEvent::Finished { holder, at: AT, outcome, outputs: None, output_bytes: 0, log_bytes: 90 });
    }

    /// Up to a death of node `a` with two checkpoints.
    fn until_death() -> Self {
        let mut story = Self::new();
        story.claim("a", 1);
        for seq in 1..=3 {
            story.save("a", 1, seq, seq * 10);
        }
        story.put(&node_key("a"), None);
        story.lose("a", 1);
        story
    }

    /// A job that was resumed by node `b`.
    fn resumed() -> Self {
        let mut story = Self::until_death();
        story.claim("b", 2);
        story
    }

    fn verdict(&self) -> Verdict {
        check(&self.history)
    }

    /// The checker says this of the history, among what else follows from it.
    fn expect(&self, fault: &str) {
        let faults = self.verdict().faults;
        assert!(faults.iter().any(|said| said.contains(fault)), "nobody says {fault:?}: {faults:#?}");
    }
}

fn node_key(node: &str) -> String {
    keys::node(&holder(node, 0).node, &holder(node, 0).incarnation)
}

#[test]
fn a_right_history_is_accepted() {
    let mut story = Story::resumed();
    let bad = CheckpointId { epoch: Epoch(1), seq: 3 };
    story.event(&JobEvent::FellBack { holder: holder("b", 2), bad, reason: "hash differs".to_owned() });
    story.save("b", 2, 1, 40);
    let stopped = "node b stopped, all work saved".to_owned();
    story.event(&JobEvent::Released { holder: holder("b", 2), at: AT, reason: stopped });
    story.claim("b", 3);
    story.end("b", 3);
    story.event(&JobEvent::Cleaned);
    let verdict = story.verdict();
    verdict.assert_all_succeeded(&["job".to_owned()]);
    let tally = Tally { claims: 3, losses: 1, releases: 1, checkpoints: 4, fallbacks: 1, resumes: 2 };
    assert_eq!(verdict.total(), tally);
}

#[test]
fn a_node_that_does_not_fit_is_no_loss_and_the_job_may_say_why_it_waits() {
    let mut story = Story::resumed();
    let checkpoint = CheckpointId { epoch: Epoch(1), seq: 3 };
    let (holder, reason) = (holder("b", 2), "other files".to_owned());
    story.event(&JobEvent::RestoreUnfit { holder, at: AT, checkpoint, reason });
    let reason = "waits for a node that fits checkpoint 1-3: b: other files".to_owned();
    story.event(&JobEvent::NoNodeFits { checkpoint, reason });
    story.claim("b", 3);
    story.end("b", 3);
    story.event(&JobEvent::Cleaned);
    let verdict = story.verdict();
    verdict.assert_all_succeeded(&["job".to_owned()]);
    assert_eq!((verdict.total().losses, verdict.total().releases), (1, 1));
}

#[test]
fn a_queued_job_may_change_in_nothing_but_why_it_waits() {
    let mut story = Story::until_death();
    story.force(|record| record.losses += 1);
    story.expect("it changed in the queue");
    let mut story = Story::until_death();
    story.event(&JobEvent::NoNodeFits {
        checkpoint: CheckpointId { epoch: Epoch(1), seq: 3 },
        reason: "waits for a node that fits checkpoint 1-2: none".to_owned(),
    });
    story.expect("it waits for no checkpoint of its own");
}

#[test]
fn a_node_declines_only_for_itself_and_what_it_was_to_start_from() {
    let release = |change: &dyn Fn(&mut JobRecord)| {
        let mut story = Story::resumed();
        let released = JobEvent::Released { holder: holder("b", 2), at: AT, reason: "busy".to_owned() };
        let released = story.record.apply(&released).unwrap();
        story.force(|record| {
            *record = released;
            change(record);
        });
        story.expect("somebody else declined");
    };
    let declined = |node: &str| {
        let Holder { node, incarnation, .. } = holder(node, 0);
        Declined { node, incarnation, reason: "other files".to_owned() }
    };
    release(&|record| record.checkpoints.last_mut().unwrap().declined.push(declined("a")));
    release(&|record| record.checkpoints.first_mut().unwrap().declined.push(declined("b")));
}

#[test]
fn a_claim_must_count_one_up() {
    let mut story = Story::resumed();
    story.lose("b", 2);
    story.event(&JobEvent::Claimed { holder: holder("b", 3), at: AT });
    story.history.0.pop_last();
    story.force(|record| record.epoch = Epoch(2));
    story.expect("the claim of epoch 2 made 2");
}

#[test]
fn the_epoch_must_not_fall() {
    let mut story = Story::resumed();
    story.force(|record| record.epoch = Epoch(1));
    story.expect("the epoch fell from 2 to 1");
}

#[test]
fn nobody_may_claim_from_outside_or_while_drained() {
    let mut story = Story::new();
    story.put(&node_key("a"), None);
    story.claim("a", 1);
    story.expect("a claimed it without being in the group");
    let mut story = Story::new();
    story.put(&keys::drain(&NodeId::new("a").unwrap()), Some("{}"));
    story.claim("a", 1);
    story.expect("a claimed it while it was drained");
}

#[test]
fn a_resume_must_begin_at_the_newest_checkpoint() {
    let mut story = Story::until_death();
    let id = CheckpointId { epoch: Epoch(1), seq: 2 };
    let older = Start::Checkpoint { id, mode: CheckpointMode::Full, run_ms: 0 };
    let claimed = story.record.apply(&JobEvent::Claimed { holder: holder("b", 2), at: AT }).unwrap();
    story.force(|record| {
        *record = claimed;
        record.attempts.last_mut().unwrap().start = older;
    });
    story.expect("instead of Checkpoint");
    let mut story = Story::until_death();
    let claimed = story.record.apply(&JobEvent::Claimed { holder: holder("b", 2), at: AT }).unwrap();
    story.force(|record| {
        *record = claimed;
        record.log.last_mut().unwrap().from = 20;
    });
    story.expect("instead of 30");
}

#[test]
fn a_job_must_not_be_taken_from_a_node_that_lives() {
    let mut story = Story::new();
    story.claim("a", 1);
    story.lose("a", 1);
    story.expect("taken from a, which lived");
}

#[test]
fn a_job_has_one_holder_and_one_end() {
    let mut story = Story::resumed();
    story.force(|record| {
        let JobState::Running { holder: slot, .. } = &mut record.state else { unreachable!() };
        *slot = holder("a", 2);
    });
    story.expect("became Holder");
    let mut story = Story::resumed();
    story.end("b", 2);
    story.force(|record| {
        let JobState::Finished { log_bytes, .. } = &mut record.state else { unreachable!() };
        *log_bytes += 1;
    });
    story.expect("it changed after its end");
    let mut story = Story::resumed();
    let running = story.record.clone();
    story.end("b", 2);
    story.force(|record| *record = running);
    story.expect("it was finished and became running");
}

#[test]
fn a_checkpoint_must_be_of_its_claim_and_further_than_the_one_before() {
    let mut story = Story::resumed();
    story.force(|record| {
        record.checkpoints.push(checkpoint(1, 9, 50));
        record.totals.checkpoints += 1;
    });
    story.expect("checkpoint 1-9 came under epoch 2");
    let mut story = Story::resumed();
    story.save("b", 2, 1, 29);
    story.expect("checkpoint 2-1 is not as far as 1-3");
    let mut story = Story::resumed();
    story.force(|record| {
        let manifest = None;
        record.checkpoints.push(Checkpoint { manifest, ..checkpoint(2, 1, 50) });
        record.totals.checkpoints += 1;
    });
    story.expect("checkpoint 2-1 has the manifest None");
}

#[test]
fn a_checkpoint_goes_only_for_newer_ones_or_a_reason() {
    let mut story = Story::resumed();
    story.force(|record| record.checkpoints.retain(|checkpoint| checkpoint.id.seq != 3));
    story.expect("checkpoint 1-3 went without two newer ones");
    let mut story = Story::resumed();
    story.force(|record| record.checkpoints.last_mut().unwrap().standing = Standing::Bad { reason: "rot".to_owned() });
    story.expect("it fell back without a reason");
    story.expect("instead of Checkpoint");
    let mut story = Story::resumed();
    story.force(|record| record.checkpoints.first_mut().unwrap().standing = Standing::Kept);
    story.expect("checkpoint 1-1 was Dropped and became Kept");
}

#[test]
fn sums_and_reasons_must_be_those_that_were_seen() {
    let mut story = Story::resumed();
    story.force(|record| record.totals.losses += 1);
    story.expect("it says (2, 2, 3) attempts, losses and checkpoints; it had (2, 1, 3)");
    let mut story = Story::new();
    story.claim("a", 1);
    let released = JobEvent::Released { holder: holder("a", 1), at: AT, reason: "busy".to_owned() };
    let released = story.record.apply(&released).unwrap();
    story.force(|record| {
        *record = released;
        record.totals.losses += 1;
    });
    story.expect("losses and reason differ: released: busy");
}

#[test]
fn index_keys_must_change_with_their_record() {
    let mut story = Story::new();
    let queued = keys::index_keys(&story.record).into_keys().find(|key| key.starts_with(keys::QUEUE)).unwrap();
    story.claim("a", 1);
    let mut stale = Story::new();
    stale.claim("a", 1);
    let claim = *stale.history.0.keys().rev().nth(1).unwrap();
    stale.history.0.get_mut(&claim).unwrap().remove(&queued);
    stale.expect("still stands");
    story.put("queue/00/5/000000000000005/other", Some("{}"));
    story.expect("belongs to no record");
}

#[test]
fn a_record_must_be_whole_and_stay() {
    let mut story = Story::resumed();
    story.put("jobs/job", Some("rubbish"));
    story.expect("does not have its checksum");
    let mut story = Story::resumed();
    story.put("jobs/job", None);
    story.expect("the record was deleted");
    let mut story = Story::new();
    let running = Story::resumed().record;
    story.history = History::default();
    story.write(None, running);
    story.expect("begins as running");
}

#[test]
fn a_job_must_not_be_given_up_too_early() {
    let mut story = Story::until_death();
    story.claim("b", 2);
    story.put(&node_key("b"), None);
    story.force(|record| {
        *record = record
            .apply(&JobEvent::NodeLost { holder: holder("b", 2), at: AT, reason: "node b died".to_owned() })
            .unwrap();
        record.state = JobState::Finished { at: AT, outcome: Outcome::Lost, outputs: None, log_bytes: 30 };
    });
    story.expect("given up after 2 losses in a row");
}

#[test]
fn jobs_that_are_missing_or_have_not_succeeded_fail_the_test() {
    let story = Story::resumed();
    let failed = |expected: &[String]| std::panic::catch_unwind(|| story.verdict().assert_all_succeeded(expected));
    assert!(failed(&["job".to_owned()]).is_err(), "it runs still");
    let mut story = Story::resumed();
    story.end("b", 2);
    story.verdict().assert_all_succeeded(&["job".to_owned()]);
    let failed = |expected: &[String]| std::panic::catch_unwind(|| story.verdict().assert_all_succeeded(expected));
    assert!(failed(&[]).is_err(), "nobody submitted it");
    assert!(failed(&["job".to_owned(), "other".to_owned()]).is_err(), "another one is missing");
}
