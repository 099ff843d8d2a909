//! What one node does for the whole group, about once a minute: gives back what was overlooked, tidies up after finished jobs,
//! and keeps the state store small.
//!
//! The node is elected by a conditional write: whoever sees that nobody did the last round's work for a minute writes the next
//! round. No clocks are compared, only how long the key stood unchanged by the watcher's own clock.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use workrs_core::{id::Timestamp, keys};
use workrs_store::{
    envelope::Envelope,
    fresh,
    state::{Change, Condition, Revision, StateError, Transaction},
};

use super::{Shared, StartError, lease::NodeInfo, reap, sweep};
use crate::access::audit;

/// The newest form of the group's data that this version reads and writes.
pub(super) const VERSION: u32 = 1;

const ROUND: Duration = Duration::from_secs(60);
/// History is kept for this many rounds, for watches that fell behind.
const ROUNDS_OF_HISTORY: usize = 5;
/// Blobs of images are looked through once in this many rounds, and whenever an image goes.
const ROUNDS_BETWEEN_IMAGE_SWEEPS: u64 = 60;
/// All blobs are looked through once in this many rounds, about once a day.
const ROUNDS_BETWEEN_SWEEPS: u64 = 24 * 60;

/// What stands at [`keys::HOUSEKEEPING`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rounds {
    /// The number of the newest round.
    number: u64,
    /// Revisions at the beginnings of the newest rounds, the oldest first.
    revisions: Vec<u64>,
}

impl Rounds {
    /// One round more, which began when the store was at `revision`.
    fn next(&self, revision: Revision) -> Self {
        let mut revisions = self.revisions.clone();
        revisions.push(revision.0);
        revisions.drain(..revisions.len().saturating_sub(ROUNDS_OF_HISTORY + 1));
        Self { number: self.number + 1, revisions }
    }

    /// What happened before this is old enough to be forgotten.
    fn forgettable(&self) -> Option<Revision> {
        (self.revisions.len() > ROUNDS_OF_HISTORY).then(|| Revision(self.revisions[0]))
    }
}

pub(super) fn first_version() -> u32 {
    1
}

/// A group that writes what this version cannot read must not be joined.
pub(super) async fn check_version(shared: &Shared) -> Result<(), StartError> {
    let stored = shared.records.store().get(keys::GROUP_VERSION).await.map_err(StartError::Join)?;
    let Some(entry) = stored else { return Ok(()) };
    let text = String::from_utf8_lossy(&entry.value);
    match text.parse::<u32>() {
        Ok(version) if version <= VERSION => Ok(()),
        _ => Err(StartError::TooOld { group: text.into_owned(), supported: VERSION }),
    }
}

pub(super) async fn run(shared: Arc<Shared>) {
    // What the death of the group's last node left.
    if let Err(error) = reap::give_back_all(&shared).await {
        tracing::warn!(%error, "cannot look for jobs of dead nodes, the next round will");
    }
    let mut seen: Option<(Option<Revision>, Instant)> = None;
    loop {
        match try_round(&shared, &mut seen).await {
            Ok(Some(rounds)) => keep_house(&shared, &rounds).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot see who keeps the group's house"),
        }
        // Not all at the same moment.
        let pause = ROUND.mul_f64(0.5 + rand::random::<f64>() / 10.0);
        tokio::time::sleep(pause).await;
    }
}

/// The next round, if it is this node's to do.
async fn try_round(
    shared: &Shared,
    seen: &mut Option<(Option<Revision>, Instant)>,
) -> Result<Option<Rounds>, StateError> {
    let store = shared.records.store();
    let page = store.list(keys::HOUSEKEEPING, None, 1).await?;
    let entry = page.entries.first().filter(|entry| entry.key == keys::HOUSEKEEPING);
    let revision = entry.map(|entry| entry.revision);
    let since = match *seen {
        Some((known, since)) if known == revision => since,
        _ => {
            *seen = Some((revision, Instant::now()));
            return Ok(None);
        }
    };
    if since.elapsed() < ROUND {
        return Ok(None);
    }
    let known = entry.map(|entry| Envelope::<Rounds>::decode(&entry.key, &entry.value)).transpose();
    let known = known.map_err(|error| StateError::Damaged(error.to_string()))?;
    let rounds = known.as_ref().map(|known| known.body.clone()).unwrap_or_default().next(page.revision);
    let operation = fresh::operation();
    let envelope = match &known {
        Some(known) => known.succeeded_by(rounds.clone(), operation),
        None => Envelope::new("group", rounds.clone(), operation),
    };
    let key = keys::HOUSEKEEPING.to_owned();
    let condition = match revision {
        Some(revision) => Condition::Unchanged(key.clone(), revision),
        None => Condition::Absent(key.clone()),
    };
    let changes = vec![Change::Put(key.clone(), envelope.encode(&key), None)];
    match store.commit(Transaction { conditions: vec![condition], changes }).await {
        Ok(_) => Ok(Some(rounds)),
        // Somebody else's round, or perhaps ours, which then is left out.
        Err(StateError::Conflict | StateError::Unknown(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn keep_house(shared: &Shared, rounds: &Rounds) {
    if let Err(error) = reap::give_back_all(shared).await {
        tracing::warn!(%error, "cannot look for jobs of dead nodes");
    }
    if let Err(error) = sweep::tidy_up(shared).await {
        tracing::warn!(%error, "cannot tidy up after finished jobs");
    }
    if rounds.number % ROUNDS_BETWEEN_SWEEPS == 1
        && let Err(error) = sweep::sweep(shared, fresh::now()).await
    {
        tracing::warn!(%error, "cannot look for blobs that nobody needs");
    }
    let is_thorough = rounds.number % ROUNDS_BETWEEN_IMAGE_SWEEPS == 1;
    if let Err(error) = shared.images.tidy_up(fresh::now(), is_thorough).await {
        tracing::warn!(%error, "cannot remove images that nobody needs");
    }
    if let Some(keep) = shared.config.keep_audit {
        let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let until = Timestamp::from_millis(fresh::now().as_millis().saturating_sub(keep));
        if let Err(error) = audit::forget(&**shared.records.store(), until).await {
            tracing::warn!(%error, "cannot remove what is old of the audit trail");
        }
    }
    if let Err(error) = raise_version(shared).await {
        tracing::warn!(%error, "cannot raise the group's version");
    }
    if let Some(before) = rounds.forgettable()
        && let Err(error) = shared.records.store().compact(before).await
    {
        tracing::warn!(%error, "cannot let the state store forget its history");
    }
}

/// The group writes the newest form that all its nodes know.
async fn raise_version(shared: &Shared) -> Result<(), StateError> {
    let nodes = NodeInfo::list(&shared.records).await?;
    let common = nodes.iter().map(|node| node.supports).min().unwrap_or(VERSION).min(VERSION);
    let store = shared.records.store();
    let entry = store.get(keys::GROUP_VERSION).await?;
    let known: u32 = entry.as_ref().and_then(|e| std::str::from_utf8(&e.value).ok()?.parse().ok()).unwrap_or(0);
    if known >= common {
        return Ok(());
    }
    let key = keys::GROUP_VERSION.to_owned();
    let condition = match &entry {
        Some(entry) => Condition::Unchanged(key.clone(), entry.revision),
        None => Condition::Absent(key.clone()),
    };
    let changes = vec![Change::Put(key, common.to_string().into(), None)];
    match store.commit(Transaction { conditions: vec![condition], changes }).await {
        Ok(_) | Err(StateError::Conflict | StateError::Unknown(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_rounds_of_history_are_kept() {
        let mut rounds = Rounds::default();
        for revision in 1..=5 {
            rounds = rounds.next(Revision(revision));
            assert_eq!(rounds.forgettable(), None);
        }
        rounds = rounds.next(Revision(6));
        assert_eq!(rounds.forgettable(), Some(Revision(1)));
        rounds = rounds.next(Revision(9));
        assert_eq!((rounds.forgettable(), rounds.number), (Some(Revision(2)), 7));
    }
}
