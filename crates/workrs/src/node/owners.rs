//! Quotas of owners, as far as they limit what runs: which job may start, and that two nodes do not both start the last one.
//!
//! What an owner's jobs take is the sum of the keys that stand below theirs while jobs run. To see that there is room and to
//! take it are two steps, so claims for an owner with such a quota take turns: each is committed on the condition that the
//! owner's turn is the one before which it looked, and makes the next. Owners without such a quota cost nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use workrs_core::{
    id::Owner,
    keys::{self, QueueEntry},
    quota::Quota,
};
use workrs_store::{
    fresh,
    records::RecordError,
    state::{Change, Condition},
};

use super::{Shared, queue::Waiting};
use crate::quotas::{self, Quotas};

/// How long a job that does not go beside its owner's others is left alone by this node.
const HOLD: Duration = Duration::from_secs(1);

/// An owner, and what a job of theirs asks for.
type Ask = (Owner, u32, u64);

fn ask(entry: &QueueEntry) -> Option<Ask> {
    Some((entry.owner.clone()?, entry.cpus_milli, entry.memory_bytes))
}

/// What this node knows of owners and their quotas.
pub(super) struct Owners {
    quotas: Quotas,
    /// What did not go beside the rest of its owner's, and until when it is not tried again.
    held: Mutex<HashMap<Ask, Instant>>,
    /// Claims of this node for owners with quotas go one after the other: side by side they would only spoil each other's turn.
    one_by_one: tokio::sync::Mutex<()>,
}

impl Owners {
    pub(super) fn new(quotas: Quotas) -> Self {
        Self { quotas, held: Mutex::default(), one_by_one: tokio::sync::Mutex::default() }
    }

    /// For how long this node is to leave the job alone, as its owner's others take what it asks for.
    pub(super) fn hold(&self, waiting: &Waiting) -> Duration {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_empty() {
            return Duration::ZERO;
        }
        let now = Instant::now();
        held.retain(|_, until| *until > now);
        ask(&waiting.entry).and_then(|ask| held.get(&ask).copied()).map_or(Duration::ZERO, |until| until - now)
    }

    fn hold_back(&self, entry: &QueueEntry) {
        if let Some(ask) = ask(entry) {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(ask, Instant::now() + HOLD);
        }
    }
}

/// What a claim has to be committed with.
#[derive(Default)]
pub(super) struct Turn {
    /// Holds until another claim for the same owner is committed.
    pub(super) condition: Option<Condition>,
    /// Lets others notice that this one was.
    pub(super) change: Option<Change>,
}

/// Runs a claim with its owner's turn, if the owner's quota allows it; whether the job is this node's now.
pub(super) async fn in_turn(
    shared: &Arc<Shared>,
    entry: &QueueEntry,
    claim: impl AsyncFnOnce(Turn) -> Result<bool, RecordError>,
) -> Result<bool, RecordError> {
    let quota = match &entry.owner {
        Some(owner) => shared.owners.quotas.of(owner).await?.filter(Quota::limits_running),
        None => None,
    };
    let (Some(owner), Some(quota)) = (&entry.owner, quota) else { return claim(Turn::default()).await };
    let _one_by_one = shared.owners.one_by_one.lock().await;
    let store = shared.records.store();
    let key = keys::quota_turn(owner);
    // Before the look at what runs: whoever starts a job after that makes the turn another one.
    let before = store.get(&key).await?.map(|entry| entry.revision);
    let running = quotas::running(&**store, owner).await?;
    if let Err(over) = quota.may_start(owner, running, entry) {
        tracing::debug!(%over, "a job waits");
        shared.owners.hold_back(entry);
        return Ok(false);
    }
    let condition = match before {
        Some(revision) => Condition::Unchanged(key.clone(), revision),
        None => Condition::Absent(key.clone()),
    };
    let change = Change::Put(key.clone(), fresh::id().into(), None);
    match claim(Turn { condition: Some(condition), change: Some(change) }).await {
        // It may be the turn alone that was lost.
        Err(RecordError::GuardFailed) if store.get(&key).await?.map(|entry| entry.revision) != before => Ok(false),
        claimed => claimed,
    }
}
