//! That each fault does what its name says: otherwise the tests that rely on it prove nothing.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    redb::RedbStore,
    state::{Change, Revision, StateError, StateStore, Transaction, WatchEvent},
};

const PAUSE: Duration = Duration::from_secs(5);

async fn put(store: &dyn StateStore) -> Result<(), StateError> {
    let changes = vec![Change::Put("k".into(), "v".into(), None)];
    store.commit(Transaction { conditions: Vec::new(), changes }).await.map(drop)
}

async fn is_there(store: &dyn StateStore) -> bool {
    store.get("k").await.unwrap().is_some()
}

/// A commit under `fault`: its result (`None`: it never came), whether it was applied by then, and `PAUSE` later.
async fn check(fault: Fault, expect: (Option<Result<(), StateError>>, bool, bool)) {
    let inner: Arc<dyn StateStore> = Arc::new(RedbStore::in_memory());
    let faults = Faults::at(2, fault);
    let store = FaultyState::new(Arc::clone(&inner), faults.clone());
    assert!(!is_there(&store).await, "the first operation goes well");
    let started = tokio::time::Instant::now();
    let result = tokio::select! {
        result = put(&store) => Some(result),
        () = faults.crashed() => None,
    };
    if matches!(fault, Fault::Delay(_)) {
        assert!(started.elapsed() >= PAUSE);
    }
    let at_once = is_there(&*inner).await;
    tokio::time::sleep(PAUSE * 2).await;
    let kind = result.map(|result| result.map_err(without_text));
    assert_eq!((kind, at_once, is_there(&*inner).await), expect, "{fault:?}");
    let later = tokio::time::timeout(PAUSE, store.get("k")).await;
    assert_eq!(later.is_err(), matches!(fault, Fault::CrashBefore | Fault::CrashAfter), "{fault:?}");
    assert_eq!(faults.count(), if later.is_err() { 2 } else { 3 }, "a dead process does nothing");
}

fn without_text(error: StateError) -> StateError {
    match error {
        StateError::Unavailable(_) => StateError::Unavailable(String::new()),
        StateError::Unknown(_) => StateError::Unknown(String::new()),
        error => error,
    }
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    let unavailable = || Some(Err(StateError::Unavailable(String::new())));
    let unknown = || Some(Err(StateError::Unknown(String::new())));
    check(Fault::Refuse, (unavailable(), false, false)).await;
    check(Fault::LoseAnswer, (unknown(), true, true)).await;
    check(Fault::LoseAnswerThenApply(PAUSE), (unknown(), false, true)).await;
    check(Fault::Delay(PAUSE), (Some(Ok(())), true, true)).await;
    check(Fault::CrashBefore, (None, false, false)).await;
    check(Fault::CrashAfter, (None, true, true)).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_stops_what_was_under_way_elsewhere() {
    let inner: Arc<dyn StateStore> = Arc::new(RedbStore::in_memory());
    let faults = Faults::plan([(1, Fault::Delay(PAUSE)), (2, Fault::CrashBefore)]);
    let (one, other) = (FaultyState::new(Arc::clone(&inner), faults.clone()), FaultyState::new(inner, faults.clone()));
    tokio::select! {
        _ = put(&one) => panic!("the first outlived the crash"),
        _ = put(&other) => panic!("the second outlived the crash"),
        () = async { faults.crashed().await; tokio::time::sleep(PAUSE * 3).await } => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_when_it_was_not_renewed_for_its_time() {
    let store = TimedLeases::new(Arc::new(RedbStore::in_memory()));
    let lease = store.grant_lease(PAUSE).await.unwrap();
    let changes = vec![Change::Put("k".into(), "v".into(), Some(lease))];
    store.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(PAUSE * 4 / 5).await;
        store.renew_lease(lease).await.unwrap();
        assert!(is_there(&store).await);
    }
    tokio::time::sleep(PAUSE * 4 / 5).await;
    assert!(is_there(&store).await);
    tokio::time::sleep(PAUSE * 2 / 5).await;
    assert!(!is_there(&store).await);
    assert_eq!(store.renew_lease(lease).await, Err(StateError::LeaseEnded));
    let revoked = store.grant_lease(PAUSE).await.unwrap();
    store.revoke_lease(revoked).await.unwrap();
    assert_eq!(store.renew_lease(revoked).await, Err(StateError::LeaseEnded));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_cut_off_hears_nothing_until_it_is_back() {
    let inner: Arc<dyn StateStore> = Arc::new(RedbStore::in_memory());
    let faults = Faults::none();
    let store = FaultyState::new(Arc::clone(&inner), faults.clone());
    let mut watch = store.watch("k", Revision(0)).await.unwrap();
    put(&store).await.unwrap();
    assert!(matches!(watch.recv().await, Some(WatchEvent::Put(_))));
    faults.cut_off(true);
    assert_eq!(put(&store).await.map_err(without_text), Err(StateError::Unavailable(String::new())));
    assert_eq!(watch.recv().await, None);
    faults.cut_off(false);
    put(&store).await.unwrap();
}
