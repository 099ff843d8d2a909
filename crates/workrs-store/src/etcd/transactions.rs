//! Transactions as etcd knows them.

use std::collections::HashSet;

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};

use super::{EtcdStore, Keys, errors::Failure, number};
use crate::state::{Change, Condition, Revision, StateError, StateStore, Transaction};

/// Refuses what changes a key twice; etcd takes two deletions.
pub(super) fn check(transaction: &Transaction) -> Result<(), StateError> {
    let mut changed = HashSet::new();
    for change in &transaction.changes {
        let (Change::Put(key, ..) | Change::Delete(key)) = change;
        if !changed.insert(key) {
            return Err(StateError::Unavailable(format!("the transaction changes {key:?} twice")));
        }
    }
    Ok(())
}

/// What etcd is asked to do.
pub(super) fn request(keys: &Keys, transaction: &Transaction) -> Txn {
    let mut conditions = Vec::with_capacity(transaction.conditions.len());
    for condition in &transaction.conditions {
        match condition {
            Condition::Absent(key) => conditions.push(Compare::version(keys.stored(key), CompareOp::Equal, 0)),
            Condition::Present(key) => conditions.push(Compare::version(keys.stored(key), CompareOp::Greater, 0)),
            Condition::Unchanged(key, revision) => {
                conditions.push(Compare::mod_revision(keys.stored(key), CompareOp::Equal, number(*revision)));
                if *revision == Revision(0) {
                    // For etcd, what is absent was written by it.
                    conditions.push(Compare::version(keys.stored(key), CompareOp::Greater, 0));
                }
            }
        }
    }
    let mut changes = Vec::with_capacity(transaction.changes.len().max(1));
    for change in &transaction.changes {
        changes.push(match change {
            Change::Put(key, value, lease) => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(keys.stored(key), value.to_vec(), options)
            }
            Change::Delete(key) => TxnOp::delete(keys.stored(key), None),
        });
    }
    if changes.is_empty() {
        // A transaction that does nothing is answered from what a member knows; one that reads is linearizable.
        changes.push(TxnOp::get(keys.stored(""), Some(GetOptions::new().with_count_only())));
    }
    Txn::new().when(conditions).and_then(changes)
}

/// What came of a transaction that etcd had no space for. It says so of those that it refused, and of the one that
/// filled it up, which it has applied: the keys tell. Either way it is done with the transaction.
pub(super) async fn settle_no_space(store: &EtcdStore, transaction: &Transaction, failure: &Failure) -> StateError {
    let puts = transaction.changes.iter().filter_map(|change| match change {
        Change::Put(key, value, _) => Some((key, value, guard(transaction, key))),
        Change::Delete(_) => None,
    });
    // All or none were written, so one tells; best one whose revision before is known.
    let Some((key, value, guard)) = puts.max_by_key(|(.., guard)| guard.is_some()) else { return failure.of_write() };
    let Ok(found) = store.get(key).await else { return failure.of_write() };
    let is_untouched = match guard {
        Some(Condition::Unchanged(_, revision)) => found.is_some_and(|found| found.revision == *revision),
        Some(_) => found.is_none(),
        None => found.is_none_or(|found| found.value != *value),
    };
    if is_untouched { StateError::Unavailable(failure.to_string()) } else { failure.of_write() }
}

/// The condition that says how a key stood before.
fn guard<'a>(transaction: &'a Transaction, key: &str) -> Option<&'a Condition> {
    transaction.conditions.iter().find(|condition| match condition {
        Condition::Absent(of) | Condition::Unchanged(of, _) => of == key,
        Condition::Present(_) => false,
    })
}
