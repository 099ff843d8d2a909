//! Leases, as far as they do not depend on time.

use std::time::Duration;

use super::{PATIENCE, get, keys, must_commit, put};
use crate::state::{Change, LeaseId, StateError, StateStore, Transaction, WatchEvent};

const TTL: Duration = Duration::from_secs(60);

async fn put_under(store: &dyn StateStore, key: &str, lease: LeaseId) -> Result<(), StateError> {
    let changes = vec![Change::Put(key.into(), "v".into(), Some(lease))];
    store.commit(Transaction { conditions: Vec::new(), changes }).await.map(drop)
}

async fn grant(store: &dyn StateStore) -> LeaseId {
    store.grant_lease(TTL).await.expect("a lease")
}

pub(super) async fn a_revoked_lease_takes_its_keys(store: &dyn StateStore) {
    let (one, other) = (grant(store).await, grant(store).await);
    for (key, lease) in [("n/a", one), ("n/b", one), ("n/c", other)] {
        put_under(store, key, lease).await.expect("the lease lives");
    }
    must_commit(store, [put("n/d", "v")]).await;
    store.renew_lease(one).await.expect("the lease lives");
    let page = store.list("n/", None, 10).await.expect("a list");
    let mut watch = store.watch("n/", page.revision).await.expect("a watch");
    store.revoke_lease(one).await.expect("a revocation");
    assert_eq!(keys(store, "n/").await, ["n/c", "n/d"]);
    let mut gone = Vec::new();
    for _ in 0..2 {
        match tokio::time::timeout(PATIENCE, watch.recv()).await.expect("an event in time") {
            Some(WatchEvent::Deleted { key, revision }) => {
                assert!(revision > page.revision);
                gone.push(key);
            }
            other => panic!("{other:?} is not a deletion"),
        }
    }
    gone.sort();
    assert_eq!(gone, ["n/a", "n/b"]);
    store.renew_lease(other).await.expect("the other lease lives");
}

pub(super) async fn an_ended_lease_is_refused(store: &dyn StateStore) {
    let lease = grant(store).await;
    put_under(store, "n/a", lease).await.expect("the lease lives");
    for _ in 0..2 {
        store.revoke_lease(lease).await.expect("to revoke twice is no error");
    }
    assert_eq!(store.renew_lease(lease).await, Err(StateError::LeaseEnded));
    assert_eq!(put_under(store, "n/a", lease).await, Err(StateError::LeaseEnded));
    assert_eq!(get(store, "n/a").await, None);
    assert_ne!(grant(store).await, lease, "a new lease has a new name");
}

pub(super) async fn a_key_follows_its_last_lease(store: &dyn StateStore) {
    let (one, other) = (grant(store).await, grant(store).await);
    for key in ["n/freed", "n/moved"] {
        put_under(store, key, one).await.expect("the lease lives");
    }
    must_commit(store, [put("n/freed", "v")]).await;
    put_under(store, "n/moved", other).await.expect("the lease lives");
    store.revoke_lease(one).await.expect("a revocation");
    assert_eq!(keys(store, "n/").await, ["n/freed", "n/moved"]);
    store.revoke_lease(other).await.expect("a revocation");
    assert_eq!(keys(store, "n/").await, ["n/freed"]);
}
