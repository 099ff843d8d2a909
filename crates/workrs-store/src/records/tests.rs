//! Every operation under every single fault, enumerated, and what concurrent writers see of each other.

use std::time::Duration;

use workrs_core::{
    id::{Epoch, Incarnation, NodeId, Owner, Timestamp},
    job::{Holder, JobState, Outcome},
    spec::JobSpec,
};

use super::*;
use crate::{
    faulty::{Fault, Faults, FaultyState},
    fresh,
    redb::RedbStore,
};

const AT: Timestamp = Timestamp::from_millis(5);
const NODE_KEY: &str = "nodes/node/process";

fn id() -> JobId {
    JobId::new("job").unwrap()
}

fn record(name: &str, owner: &str) -> JobRecord {
    let spec = JobSpec::new(name, vec!["true".to_owned()]);
    JobRecord::submitted(id(), Owner::new(owner).unwrap(), spec, None, AT)
}

fn holder() -> Holder {
    Holder { node: NodeId::new("node").unwrap(), incarnation: Incarnation::new("process").unwrap(), epoch: Epoch(1) }
}

fn claimed() -> JobEvent {
    JobEvent::Claimed { holder: holder(), at: AT }
}

fn finished() -> JobEvent {
    JobEvent::Finished {
        holder: holder(),
        at: AT,
        outcome: Outcome::Succeeded,
        outputs: None,
        output_bytes: 0,
        log_bytes: 0,
    }
}

fn guard() -> Condition {
    Condition::Present(NODE_KEY.to_owned())
}

async fn store_with_node() -> Arc<dyn StateStore> {
    let store = Arc::new(RedbStore::in_memory());
    let changes = vec![Change::Put(NODE_KEY.to_owned(), Bytes::new(), None)];
    store.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
    store
}

/// Record and index keys must fit each other at any time.
async fn check_consistent(store: &Arc<dyn StateStore>) {
    let entries = store.list("", None, usize::MAX).await.unwrap().entries;
    let records = Records::new(Arc::clone(store)).list(None, 10).await.unwrap().0;
    let mut expected: Vec<String> = vec![NODE_KEY.to_owned()];
    for record in &records {
        expected.push(keys::job(&record.id));
        expected.extend(keys::index_keys(record).into_keys());
    }
    expected.sort();
    assert_eq!(entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>(), expected);
}

/// One operation on a job in some state, and how the job has to stand once it has succeeded.
#[derive(Debug, Clone, Copy)]
enum Step {
    Submit,
    Claim,
    Finish,
    Delete,
}

impl Step {
    const ALL: [Self; 4] = [Self::Submit, Self::Claim, Self::Finish, Self::Delete];

    async fn run(self, records: &Records) -> Result<(), RecordError> {
        let operation = fresh::operation();
        match self {
            Self::Submit => records.submit(record("a", "me"), &operation).await.map(drop),
            Self::Claim => records.apply(&id(), &claimed(), &[guard()], &operation).await.map(drop),
            Self::Finish => records.apply(&id(), &finished(), &[guard()], &operation).await.map(drop),
            Self::Delete => records.delete(&id()).await,
        }
    }

    fn state_after(self) -> Option<&'static str> {
        match self {
            Self::Submit => Some("queued"),
            Self::Claim => Some("running"),
            Self::Finish => Some("finished"),
            Self::Delete => None,
        }
    }

    /// Leads a new store to where this step begins.
    async fn prepare(self) -> Arc<dyn StateStore> {
        let store = store_with_node().await;
        let records = Records::new(Arc::clone(&store));
        for step in Self::ALL.into_iter().take(self as usize) {
            step.run(&records).await.unwrap();
        }
        store
    }

    fn state_before(self) -> Option<&'static str> {
        (self as usize).checked_sub(1).and_then(|before| Self::ALL[before].state_after())
    }
}

async fn state(store: &Arc<dyn StateStore>) -> Option<&'static str> {
    let record = Records::new(Arc::clone(store)).get(&id()).await.unwrap();
    record.map(|record| record.state.name())
}

fn faulty(store: &Arc<dyn StateStore>, faults: &Faults) -> Records {
    Records::new(Arc::new(FaultyState::new(Arc::clone(store), faults.clone())))
}

#[tokio::test(start_paused = true)]
async fn every_operation_ends_right_under_every_fault() {
    let late = [Duration::from_millis(1), Duration::from_millis(30), Duration::from_secs(10)];
    let mut kinds = vec![Fault::Refuse, Fault::LoseAnswer, Fault::Delay(Duration::from_secs(1))];
    kinds.extend(late.map(Fault::LoseAnswerThenApply));
    for step in Step::ALL {
        let store = step.prepare().await;
        let faults = Faults::none();
        step.run(&faulty(&store, &faults)).await.unwrap();
        assert!(faults.count() >= 1);
        for number in 1..=faults.count() {
            for kind in &kinds {
                let store = step.prepare().await;
                let result = step.run(&faulty(&store, &Faults::at(number, *kind))).await;
                let context = format!("{step:?}, operation {number}, {kind:?}: {result:?}");
                match result {
                    Ok(()) => assert_eq!(state(&store).await, step.state_after(), "{context}"),
                    // Only what can be known for certain is an error, and then nothing was written.
                    Err(RecordError::Unavailable(_)) => {
                        assert_eq!(state(&store).await, step.state_before(), "{context}");
                        step.run(&Records::new(Arc::clone(&store))).await.unwrap();
                    }
                    Err(error) => panic!("{error}: {context}"),
                }
                // What was to be applied later is applied by now, or never.
                tokio::time::sleep(Duration::from_secs(20)).await;
                assert_eq!(state(&store).await, step.state_after(), "{context}");
                check_consistent(&store).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_operation_can_be_repeated_after_a_crash() {
    for step in Step::ALL {
        let store = step.prepare().await;
        let faults = Faults::none();
        step.run(&faulty(&store, &faults)).await.unwrap();
        for number in 1..=faults.count() {
            for kind in [Fault::CrashBefore, Fault::CrashAfter] {
                let store = step.prepare().await;
                let faults = Faults::at(number, kind);
                let records = faulty(&store, &faults);
                tokio::select! {
                    result = step.run(&records) => panic!("{step:?} survived {kind:?} at {number}: {result:?}"),
                    () = faults.crashed() => {}
                }
                check_consistent(&store).await;
                match step.run(&Records::new(Arc::clone(&store))).await {
                    Ok(()) => {}
                    Err(RecordError::NotFound) => assert!(matches!(step, Step::Delete), "{step:?} {kind:?} {number}"),
                    Err(error) => panic!("{step:?} {kind:?} {number}: {error}"),
                }
                assert_eq!(state(&store).await, step.state_after());
                check_consistent(&store).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_store_is_waited_for_only_while_a_write_is_in_doubt() {
    let store = Step::Claim.prepare().await;
    // Read, commit (in doubt), then refusals for half a minute.
    let plan = std::iter::once((2, Fault::LoseAnswer)).chain((3..60).map(|number| (number, Fault::Refuse)));
    let records = faulty(&store, &Faults::plan(plan));
    Step::Claim.run(&records).await.unwrap();
    assert_eq!(state(&store).await, Some("running"));

    // The same, but the first re-read shows that the commit was not applied yet.
    let store = Step::Claim.prepare().await;
    let late = Fault::LoseAnswerThenApply(Duration::from_secs(10));
    let plan = std::iter::once((2, late)).chain((4..60).map(|number| (number, Fault::Refuse)));
    Step::Claim.run(&faulty(&store, &Faults::plan(plan))).await.unwrap();
    assert_eq!(state(&store).await, Some("running"));

    let store = Step::Claim.prepare().await;
    let refused = Step::Claim.run(&faulty(&store, &Faults::at(2, Fault::Refuse))).await;
    assert!(matches!(refused, Err(RecordError::Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn a_late_write_that_somebody_overtook_is_lost_and_done_again() {
    let store = Step::Finish.prepare().await;
    let records = faulty(&store, &Faults::at(2, Fault::LoseAnswerThenApply(Duration::from_secs(5))));
    let others = Records::new(Arc::clone(&store));
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        others.apply(&id(), &JobEvent::CancelRequested { at: AT }, &[], &fresh::operation()).await.unwrap()
    };
    let (finished, _) = futures::join!(Step::Finish.run(&records), cancel);
    finished.unwrap();
    let record = others.get(&id()).await.unwrap().unwrap();
    assert!(matches!(record.state, JobState::Finished { outcome: Outcome::Succeeded, .. }));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(others.get(&id()).await.unwrap().unwrap(), record, "the late write found its condition gone");
}

#[tokio::test]
async fn a_submit_under_a_known_id_is_the_same_job_or_refused() {
    let records = Records::new(store_with_node().await);
    let first = record("a", "me");
    let submit = async |record: &JobRecord| records.submit(record.clone(), &fresh::operation()).await;
    assert_eq!(submit(&first).await, Ok(Submitted::New(first.clone())));
    let mut later = first.clone();
    later.submitted_at = Timestamp::from_millis(999);
    assert_eq!(submit(&later).await, Ok(Submitted::Existing(first.clone())));
    assert_eq!(submit(&record("b", "me")).await, Err(RecordError::IdTaken));
    assert_eq!(submit(&record("a", "you")).await, Err(RecordError::IdTaken));
    let running = records.apply(&id(), &claimed(), &[], &fresh::operation()).await.unwrap();
    assert_eq!(submit(&first).await, Ok(Submitted::Existing(running)));
    check_consistent(records.store()).await;
}

#[tokio::test]
async fn events_that_change_nothing_write_nothing() {
    let records = Records::new(Step::Finish.prepare().await);
    let before = records.store().list("", None, 1).await.unwrap().revision;
    let absent = [Condition::Absent(NODE_KEY.to_owned())];
    let again = records.apply(&id(), &claimed(), &absent, &fresh::operation()).await.unwrap();
    assert_eq!(again.state.name(), "running");
    assert_eq!(records.store().list("", None, 1).await.unwrap().revision, before);
}

#[tokio::test]
async fn a_guard_that_does_not_hold_stops_the_change() {
    let store = Step::Claim.prepare().await;
    let records = Records::new(Arc::clone(&store));
    let revision = store.get(NODE_KEY).await.unwrap().unwrap().revision;
    let failing = [
        Condition::Absent(NODE_KEY.to_owned()),
        Condition::Present("nodes/other".to_owned()),
        Condition::Unchanged(NODE_KEY.to_owned(), Revision(revision.0 + 1)),
    ];
    for guard in failing {
        let refused = records.apply(&id(), &claimed(), std::slice::from_ref(&guard), &fresh::operation()).await;
        assert_eq!(refused, Err(RecordError::GuardFailed), "{guard:?}");
    }
    assert_eq!(state(&store).await, Some("queued"));
    let holding = [guard(), Condition::Unchanged(NODE_KEY.to_owned(), revision)];
    records.apply(&id(), &claimed(), &holding, &fresh::operation()).await.unwrap();
}

#[tokio::test]
async fn concurrent_claims_have_one_winner_and_the_losers_hear_why() {
    let store = Step::Claim.prepare().await;
    let claims = (0..10).map(|number| {
        let records = Records::new(Arc::clone(&store));
        async move {
            let incarnation = Incarnation::new(format!("process-{number}")).unwrap();
            let event = JobEvent::Claimed { holder: Holder { incarnation, ..holder() }, at: AT };
            records.apply(&id(), &event, &[guard()], &fresh::operation()).await
        }
    });
    let results = futures::future::join_all(claims).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for result in results.iter().filter(|result| result.is_err()) {
        assert!(matches!(result, Err(RecordError::Illegal(_))), "{result:?}");
    }
    check_consistent(&store).await;
}

#[tokio::test]
async fn what_is_known_saves_the_read_and_decides_nothing() {
    let faults = Faults::none();
    let records = faulty(&Step::Claim.prepare().await, &faults);
    let change = async |known: Option<&Known>, event: JobEvent| {
        let decide = |_: &JobRecord| Some((event.clone(), Vec::new()));
        records.change(&id(), known, decide, &fresh::operation()).await.map(Option::unwrap)
    };
    let claimed = change(None, claimed()).await.unwrap();
    let before = faults.count();
    let started = JobEvent::Started { holder: holder(), at: AT, plan: None, note: None };
    let running = change(Some(&claimed), started.clone()).await.unwrap();
    assert_eq!(faults.count() - before, 1, "the commit alone");
    assert_eq!(*running, records.get(&id()).await.unwrap().unwrap());

    // The record has moved on: the event is applied to it as it stands.
    let cancelled = change(Some(&claimed), JobEvent::CancelRequested { at: AT }).await.unwrap();
    assert!(matches!(cancelled.state, JobState::Running { cancel: Some(_), .. }));
    assert_eq!(cancelled.attempts, running.attempts);

    // What would change nothing, is illegal, or not wanted by what is known, is so only if the store says so, too.
    assert_eq!(change(Some(&claimed), started.clone()).await.unwrap(), cancelled);
    change(None, finished()).await.unwrap();
    assert!(matches!(change(Some(&cancelled), started).await, Err(RecordError::Illegal(_))));
    let states = std::sync::Mutex::new(Vec::new());
    let look = |record: &JobRecord| {
        states.lock().unwrap().push(record.state.name());
        None
    };
    assert!(records.change(&id(), Some(&cancelled), look, &fresh::operation()).await.unwrap().is_none());
    assert_eq!(*states.lock().unwrap(), ["running", "finished"]);
}

#[tokio::test]
async fn what_is_missing_or_does_not_fit_is_told() {
    let records = Records::new(store_with_node().await);
    assert_eq!(records.get(&id()).await, Ok(None));
    assert_eq!(records.apply(&id(), &claimed(), &[], &fresh::operation()).await, Err(RecordError::NotFound));
    assert_eq!(records.delete(&id()).await, Err(RecordError::NotFound));
    records.submit(record("a", "me"), &fresh::operation()).await.unwrap();
    assert!(matches!(records.delete(&id()).await, Err(RecordError::Illegal(_))));
    let refused = records.apply(&id(), &finished(), &[], &fresh::operation()).await;
    assert!(matches!(refused, Err(RecordError::Illegal(IllegalEvent::Fenced { .. }))));
}

#[tokio::test]
async fn a_record_that_is_not_what_was_written_is_damaged() {
    let store = Step::Claim.prepare().await;
    let records = Records::new(Arc::clone(&store));
    let key = keys::job(&id());
    let sound = store.get(&key).await.unwrap().unwrap().value;
    let mut rotten = sound.to_vec();
    let place = rotten.len() / 2;
    rotten[place] ^= 1;
    let elsewhere = keys::job(&JobId::new("other").unwrap());
    let envelope = Envelope::<JobRecord>::decode(&key, &sound).unwrap();
    // A sound value, but of another job.
    let misplaced = envelope.encode(&elsewhere);
    for (key, value) in [(&key, Bytes::from(rotten)), (&elsewhere, misplaced)] {
        let changes = vec![Change::Put(key.clone(), value, None)];
        store.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
    }
    for id in [id(), JobId::new("other").unwrap()] {
        assert!(matches!(records.get(&id).await, Err(RecordError::Damaged(_))));
        let refused = records.apply(&id, &claimed(), &[], &fresh::operation()).await;
        assert!(matches!(refused, Err(RecordError::Damaged(_))));
    }
    assert!(matches!(records.list(None, 10).await, Err(RecordError::Damaged(_))));
}

#[tokio::test]
async fn lists_are_paged_in_the_order_of_ids() {
    let records = Records::new(store_with_node().await);
    let ids: Vec<_> = ["a", "b", "c"].map(|id| JobId::new(id).unwrap()).into();
    for id in ids.iter().rev() {
        let record = JobRecord { id: id.clone(), ..record("a", "me") };
        records.submit(record, &fresh::operation()).await.unwrap();
    }
    let list = async |after: Option<&JobId>, limit| {
        let (records, more) = records.list(after, limit).await.unwrap();
        (records.into_iter().map(|record| record.id).collect::<Vec<_>>(), more)
    };
    assert_eq!(list(None, 2).await, (ids[..2].to_vec(), true));
    assert_eq!(list(Some(&ids[1]), 2).await, (ids[2..].to_vec(), false));
    assert_eq!(list(Some(&ids[2]), 2).await, (Vec::new(), false));
}

#[tokio::test]
async fn who_reads_an_archived_record_does_not_notice() {
    for fault in [None, Some(Fault::Refuse), Some(Fault::LoseAnswer), Some(Fault::CrashBefore)] {
        let store = store_with_node().await;
        let blobs = Blobs::open("memory:").unwrap();
        let records = Records::new(Arc::clone(&store)).with_archive(blobs.clone());
        for step in [Step::Submit, Step::Claim, Step::Finish] {
            step.run(&records).await.unwrap();
        }
        let before = records.get(&id()).await.unwrap().unwrap();
        let in_store = async || store.get(&keys::job(&id())).await.unwrap().unwrap().value.len();
        assert_eq!(records.apply(&id(), &JobEvent::Cleaned, &[], &fresh::operation()).await.unwrap().id, id());
        // The second operation is the write.
        let faults = fault.map_or_else(Faults::none, |fault| Faults::at(2, fault));
        let faulty =
            Records::new(Arc::new(FaultyState::new(Arc::clone(&store), faults.clone()))).with_archive(blobs.clone());
        let (job, operation) = (id(), fresh::operation());
        tokio::select! {
            result = faulty.archive(&job, &operation) => assert_eq!(result.is_ok(), fault != Some(Fault::Refuse)),
            () = faults.crashed() => {}
        }
        // Once more, and once more for nothing.
        for _ in 0..2 {
            records.archive(&id(), &fresh::operation()).await.unwrap();
        }
        assert!(in_store().await < 600, "{} bytes, however long the record was", in_store().await);
        let after = records.get(&id()).await.unwrap().unwrap();
        assert_eq!(after, JobRecord { cleaned: true, ..before });
        assert_eq!(records.list(None, 10).await.unwrap().0, std::slice::from_ref(&after));
        assert!(matches!(records.submit(record("a", "me"), &fresh::operation()).await, Ok(Submitted::Existing(_))));
        assert_eq!(records.submit(record("b", "me"), &fresh::operation()).await, Err(RecordError::IdTaken));
        let cancel = JobEvent::CancelRequested { at: AT };
        assert!(records.apply(&id(), &cancel, &[], &fresh::operation()).await.is_err());
        records.delete(&id()).await.unwrap();
        let left = store.list("", None, 10).await.unwrap().entries;
        assert_eq!(left.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), [NODE_KEY]);
    }
}

#[tokio::test]
async fn a_submit_holds_only_while_its_guards_do() {
    let store: Arc<dyn StateStore> = Arc::new(RedbStore::in_memory());
    let records = Records::new(Arc::clone(&store));
    let guard = [Condition::Present("images/a".to_owned())];
    let submit = async || records.submit_if(record("a", "me"), &guard, &fresh::operation()).await;
    assert_eq!(submit().await, Err(RecordError::GuardFailed));
    assert_eq!(records.get(&record("a", "me").id).await, Ok(None));
    let put = |changes| Transaction { conditions: Vec::new(), changes };
    store.commit(put(vec![Change::Put("images/a".to_owned(), "".into(), None)])).await.unwrap();
    assert!(matches!(submit().await, Ok(Submitted::New(_))));
    store.commit(put(vec![Change::Delete("images/a".to_owned())])).await.unwrap();
    assert!(matches!(submit().await, Ok(Submitted::Existing(_))), "the job is there already");
}
