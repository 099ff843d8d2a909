//! The one suite that every state store passes: each sentence of the contract in [`crate::state`] has a check here.
//!
//! A backend's test is one call of [`run`]. A check panics if the store breaks the contract. [`blobs`] is the same for
//! blob stores.

pub mod blobs;
mod leases;
mod reads;
mod transactions;
mod watches;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::state::{Change, Condition, Entry, Revision, StateError, StateStore, Transaction};

/// How long a check waits for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs all checks, each on a store of its own, which `make` gives empty.
pub async fn run(make: impl AsyncFn() -> Arc<dyn StateStore>) {
    transactions::a_condition_holds_or_nothing_is_written(&*make().await).await;
    transactions::all_changes_happen_or_none(&*make().await).await;
    transactions::revisions_rise_with_every_change(&*make().await).await;
    transactions::a_key_is_not_changed_twice(&*make().await).await;
    transactions::one_of_many_wins(make().await).await;
    transactions::no_update_is_lost(make().await).await;
    reads::what_was_put_is_read(&*make().await).await;
    reads::an_acknowledged_commit_is_read(make().await).await;
    reads::lists_are_sorted_and_paged(&*make().await).await;
    reads::lists_keep_to_their_prefix(&*make().await).await;
    reads::what_was_written_since_is_told(&*make().await).await;
    watches::a_watch_tells_what_happens(&*make().await).await;
    watches::a_watch_replays_the_past(&*make().await).await;
    watches::list_then_watch_misses_nothing(make().await).await;
    watches::a_dropped_watch_disturbs_nobody(&*make().await).await;
    leases::a_revoked_lease_takes_its_keys(&*make().await).await;
    leases::an_ended_lease_is_refused(&*make().await).await;
    leases::a_key_follows_its_last_lease(&*make().await).await;
}

fn put(key: &str, value: impl Into<Bytes>) -> Change {
    Change::Put(key.to_owned(), value.into(), None)
}

fn delete(key: &str) -> Change {
    Change::Delete(key.to_owned())
}

async fn commit(
    store: &dyn StateStore,
    conditions: impl Into<Vec<Condition>>,
    changes: impl Into<Vec<Change>>,
) -> Result<Revision, StateError> {
    store.commit(Transaction { conditions: conditions.into(), changes: changes.into() }).await
}

async fn must_commit(store: &dyn StateStore, changes: impl Into<Vec<Change>>) -> Revision {
    commit(store, [], changes).await.expect("an unconditional commit")
}

async fn get(store: &dyn StateStore, key: &str) -> Option<Entry> {
    store.get(key).await.expect("a read")
}

async fn value(store: &dyn StateStore, key: &str) -> Option<Bytes> {
    get(store, key).await.map(|entry| entry.value)
}

async fn keys(store: &dyn StateStore, prefix: &str) -> Vec<String> {
    let page = store.list(prefix, None, usize::MAX).await.expect("a list");
    page.entries.into_iter().map(|entry| entry.key).collect()
}
