//! The store in etcd, on real clusters: the contract, and what happens when members die, stop, fill up or want to know
//! who asks.

#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod access;
mod failures;
mod records;
#[path = "../services/etcd.rs"]
mod services;
mod space;
mod watches;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use services::Cluster;
use workrs_store::{
    conformance,
    etcd::{EtcdOptions, EtcdStore},
    faulty::{Faults, FaultyState},
    state::{Change, Condition, LeaseId, Revision, StateError, StateStore, Transaction, Watch, WatchEvent},
};

const PATIENCE: Duration = Duration::from_secs(180);

async fn open(cluster: &Cluster, prefix: &str) -> Arc<EtcdStore> {
    let options: EtcdOptions = cluster.url(prefix).parse().unwrap();
    Arc::new(EtcdStore::open(&options).await.unwrap())
}

fn put(key: &str, value: impl Into<Bytes>) -> Change {
    Change::Put(key.to_owned(), value.into(), None)
}

async fn commit(
    store: &dyn StateStore,
    conditions: impl Into<Vec<Condition>>,
    change: Change,
) -> Result<Revision, StateError> {
    store.commit(Transaction { conditions: conditions.into(), changes: vec![change] }).await
}

async fn must_put(store: &dyn StateStore, key: &str, value: &str) -> Revision {
    commit(store, [], put(key, value.to_owned())).await.expect("a commit")
}

async fn next(watch: &mut Watch) -> WatchEvent {
    let event = tokio::time::timeout(PATIENCE, watch.recv()).await;
    event.expect("an event in time").expect("the watch goes on")
}

fn put_key(event: WatchEvent) -> String {
    match event {
        WatchEvent::Put(entry) => entry.key,
        other => panic!("{other:?} is no put"),
    }
}

/// Prefixes that nobody used before, within each other's names as far as that is allowed.
fn fresh_prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test{}", COUNT.fetch_add(1, Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept_also_behind_a_wrapper() {
    for members in [1, 3] {
        let Some(cluster) = Cluster::start(members) else { return };
        conformance::run(async || open(&cluster, &fresh_prefix()).await as Arc<_>).await;
        conformance::run(async || {
            let inner = open(&cluster, &fresh_prefix()).await;
            Arc::new(FaultyState::new(inner, Faults::none())) as Arc<_>
        })
        .await;
    }
}

#[tokio::test]
async fn stores_of_one_cluster_do_not_see_each_other() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (one, other) = (open(&cluster, "group").await, open(&cluster, "group2").await);
    let mut watch = one.watch("", Revision(0)).await.unwrap();
    must_put(&*other, "k", "other").await;
    assert_eq!(one.get("k").await.unwrap(), None);
    assert_eq!(one.list("", None, 10).await.unwrap().entries, []);
    let revision = must_put(&*one, "l", "one").await;
    assert_eq!(next(&mut watch).await, WatchEvent::Put(one.get("l").await.unwrap().unwrap()));
    assert_eq!(one.list("", None, 10).await.unwrap().revision, revision);
    assert_eq!(other.list("", None, 10).await.unwrap().entries.len(), 1);
}

/// More entries than are asked for at once, and more bytes than an answer may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_come_whole_and_in_pages() {
    const SMALL: usize = 2_300;
    const LARGE: usize = 90;
    let Some(cluster) = Cluster::start_with(1, &["--max-txn-ops", "1000"]) else { return };
    let store = open(&cluster, "lists").await;
    let keys: Vec<_> = (0..SMALL).map(|number| format!("small/{number:05}")).collect();
    for keys in keys.chunks(500) {
        let changes = keys.iter().map(|key| put(key, key.clone())).collect();
        store.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
    }
    for number in 0..LARGE {
        commit(&*store, [], put(&format!("large/{number:03}"), vec![number as u8; 1 << 20])).await.unwrap();
    }
    for limit in [1, 999, 1000, 1001, SMALL - 1, SMALL, SMALL + 1, usize::MAX] {
        let page = store.list("small/", None, limit).await.unwrap();
        assert_eq!((page.entries.len(), page.more), (limit.min(SMALL), limit < SMALL), "limit {limit}");
        assert!(page.entries.iter().map(|entry| &entry.key).eq(&keys[..limit.min(SMALL)]));
    }
    let large = store.list("large/", None, usize::MAX).await.unwrap();
    assert_eq!((large.entries.len(), large.more), (LARGE, false));
    assert!(large.entries.iter().enumerate().all(|(number, entry)| entry.value == vec![number as u8; 1 << 20]));
    let none = store.list("small/", None, 0).await.unwrap();
    assert_eq!((none.entries.len(), none.more, none.revision), (0, true, large.revision));
    assert!(!store.list("none/", None, 0).await.unwrap().more);
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends_with_its_keys() {
    // Longer than a busy machine keeps a renewal waiting.
    const KEPT_MS: u64 = 6_000;
    let Some(cluster) = Cluster::start(1) else { return };
    let store = open(&cluster, "leases").await;
    let (kept, left) = (grant(&*store, KEPT_MS).await, grant(&*store, 1_001).await);
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    for (key, lease) in [("kept", kept), ("left", left)] {
        commit(&*store, [], Change::Put(key.into(), "v".into(), Some(lease))).await.unwrap();
        assert_eq!(put_key(next(&mut watch).await), key);
    }
    let begun = Instant::now();
    let gone = loop {
        store.renew_lease(kept).await.expect("is renewed in time");
        match tokio::time::timeout(Duration::from_millis(300), watch.recv()).await {
            Ok(event) => break event.unwrap(),
            Err(_) => assert!(begun.elapsed() < PATIENCE, "the lease does not end"),
        }
    };
    assert!(matches!(&gone, WatchEvent::Deleted { key, .. } if key == "left"), "{gone:?}");
    assert!(begun.elapsed() > Duration::from_secs(1), "after {:?}", begun.elapsed());
    assert_eq!(store.renew_lease(left).await, Err(StateError::LeaseEnded));
    while begun.elapsed() < Duration::from_millis(KEPT_MS + 1_000) {
        store.renew_lease(kept).await.expect("is renewed in time");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    store.renew_lease(kept).await.unwrap();
    assert!(store.get("kept").await.unwrap().is_some());
}

async fn grant(store: &dyn StateStore, ttl_ms: u64) -> LeaseId {
    store.grant_lease(Duration::from_millis(ttl_ms)).await.expect("a lease")
}
