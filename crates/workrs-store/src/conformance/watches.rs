//! Watches: in order, no gap, nothing twice.

use std::{collections::BTreeMap, sync::Arc};

use super::{PATIENCE, commit, delete, must_commit, put, value};
use crate::state::{Condition, Entry, Revision, StateStore, Watch, WatchEvent};

async fn next(watch: &mut Watch) -> WatchEvent {
    let event = tokio::time::timeout(PATIENCE, watch.recv()).await;
    event.expect("an event in time").expect("the watch goes on")
}

fn written(key: &str, value: &'static str, revision: Revision) -> WatchEvent {
    WatchEvent::Put(Entry { key: key.into(), value: value.into(), revision })
}

fn gone(key: &str, revision: Revision) -> WatchEvent {
    WatchEvent::Deleted { key: key.into(), revision }
}

/// The events of one transaction have no order of their own.
async fn next_sorted(watch: &mut Watch, count: usize) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(next(watch).await);
    }
    events.sort_by_key(|event| match event {
        WatchEvent::Put(entry) => entry.key.clone(),
        WatchEvent::Deleted { key, .. } => key.clone(),
        WatchEvent::Compacted => String::new(),
    });
    events
}

pub(super) async fn a_watch_tells_what_happens(store: &dyn StateStore) {
    let start = must_commit(store, [put("w/before", "0")]).await;
    let mut watch = store.watch("w/", start).await.expect("a watch");
    let mut narrow = store.watch("w/b", start).await.expect("a watch");
    let first = must_commit(store, [put("w/a", "1"), put("w/b", "1"), put("x/a", "1")]).await;
    let second = must_commit(store, [put("w/a", "2"), delete("w/b"), delete("w/absent")]).await;
    commit(store, [Condition::Absent("w/a".into())], [put("w/c", "lost")]).await.expect_err("w/a is there");
    let third = must_commit(store, [delete("w/a")]).await;
    assert_eq!(next_sorted(&mut watch, 2).await, [written("w/a", "1", first), written("w/b", "1", first)]);
    assert_eq!(next_sorted(&mut watch, 2).await, [written("w/a", "2", second), gone("w/b", second)]);
    assert_eq!(next(&mut watch).await, gone("w/a", third));
    assert_eq!(next(&mut narrow).await, written("w/b", "1", first));
    assert_eq!(next(&mut narrow).await, gone("w/b", second));
    assert!(watch.try_recv().is_err() && narrow.try_recv().is_err(), "nothing else happened");
}

pub(super) async fn a_watch_replays_the_past(store: &dyn StateStore) {
    let values = ["0", "1", "2", "3"];
    let mut revisions = Vec::new();
    for value in values {
        revisions.push(must_commit(store, [put("w/k", value), put("x", value)]).await);
    }
    let mut watches = Vec::new();
    for from in &revisions {
        watches.push(store.watch("w/", *from).await.expect("a watch"));
    }
    let live = must_commit(store, [put("w/k", "live")]).await;
    for (from, watch) in watches.iter_mut().enumerate() {
        for later in from + 1..values.len() {
            assert_eq!(next(watch).await, written("w/k", values[later], revisions[later]), "from {from}");
        }
        assert_eq!(next(watch).await, written("w/k", "live", live), "from {from}");
        assert!(watch.try_recv().is_err(), "nothing twice");
    }
}

pub(super) async fn list_then_watch_misses_nothing(store: Arc<dyn StateStore>) {
    const WRITES: u32 = 200;
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0..WRITES {
                let key = format!("w/{}", number % 7);
                let change = if number % 5 == 4 { delete(&key) } else { put(&key, number.to_string()) };
                must_commit(&*store, [change]).await;
            }
            must_commit(&*store, [put("w/end", "")]).await;
        })
    };
    tokio::task::yield_now().await;
    let page = store.list("w/", None, usize::MAX).await.expect("a list");
    let mut watch = store.watch("w/", page.revision).await.expect("a watch");
    let mut copy: BTreeMap<_, _> = page.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let mut newest = page.revision;
    while !copy.contains_key("w/end") {
        let revision = match next(&mut watch).await {
            WatchEvent::Put(entry) => {
                copy.insert(entry.key, entry.value);
                entry.revision
            }
            WatchEvent::Deleted { key, revision } => {
                assert!(copy.remove(&key).is_some(), "{key} was deleted, but not known");
                revision
            }
            WatchEvent::Compacted => panic!("a few events are not compacted"),
        };
        assert!(revision > newest, "{revision:?} after {newest:?}");
        newest = revision;
    }
    writer.await.expect("no panic");
    for (key, copied) in &copy {
        assert_eq!(value(&*store, key).await.as_ref(), Some(copied), "{key}");
    }
    assert_eq!(super::keys(&*store, "w/").await.len(), copy.len());
}

pub(super) async fn a_dropped_watch_disturbs_nobody(store: &dyn StateStore) {
    let dropped = store.watch("", Revision(0)).await.expect("a watch");
    let mut kept = store.watch("", Revision(0)).await.expect("a watch");
    drop(dropped);
    let revision = must_commit(store, [put("k", "v")]).await;
    assert_eq!(next(&mut kept).await, written("k", "v", revision));
}
