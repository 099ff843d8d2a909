//! Gives all jobs back, saved if time allows: when the node stops, and when it is told to drain.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use workrs_core::{id::JobId, keys};
use workrs_store::state::{StateError, WatchEvent};

use super::{Order, Shared, Slot, lease};

const RETRY: Duration = Duration::from_secs(1);
/// Ending a container and committing its release takes no more than moments; what hangs is reaped.
const LET_GO: Duration = Duration::from_secs(10);

/// What became of the jobs of a node that stopped or was drained.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StopReport {
    /// Given back with a checkpoint of their very last state.
    pub saved: Vec<JobId>,
    /// Given back at an older checkpoint, or at none: the work since then is done again.
    pub released: Vec<JobId>,
}

/// Checkpoints every job, those with most work at risk first, and gives them back. What is not saved when `timeout` is
/// over is given back at its newest checkpoint.
pub(super) async fn give_all_back(shared: &Shared, timeout: Duration) -> StopReport {
    let deadline = Instant::now() + timeout;
    let unsaved_since = |slot: &Slot| *slot.unsaved_since.lock().unwrap_or_else(PoisonError::into_inner);
    let mut held: Vec<_> = shared.jobs().iter().map(|(id, slot)| (unsaved_since(slot), id.clone())).collect();
    held.sort();
    // Dumps take turns in this order; while one job is dumped, those before it are uploaded.
    for (_, id) in &held {
        shared.order(id, Order::Save);
    }
    let all_gone = || async {
        for (_, id) in &held {
            shared.gone(id).await;
        }
    };
    let _ = tokio::time::timeout_at(deadline, all_gone()).await;
    for (_, id) in &held {
        shared.order(id, Order::Release);
    }
    let _ = tokio::time::timeout(LET_GO, all_gone()).await;
    let mut report = std::mem::take(&mut *shared.left.lock().unwrap_or_else(PoisonError::into_inner));
    report.released.extend(shared.jobs().keys().cloned());
    report
}

/// Drains the node while its key below `drains/` stands.
pub(super) async fn watch(shared: Arc<Shared>) {
    let key = keys::drain(&shared.config.id);
    loop {
        if let Err(error) = follow(&shared, &key).await {
            tracing::warn!(%error, "cannot see whether this node is to drain, will try on");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether the node was drained when it was started.
pub(super) async fn is_asked_for(shared: &Shared) -> Result<bool, StateError> {
    Ok(shared.records.store().get(&keys::drain(&shared.config.id)).await?.is_some())
}

/// Does as the key says until it cannot be watched on.
async fn follow(shared: &Arc<Shared>, key: &str) -> Result<(), StateError> {
    let store = shared.records.store();
    let page = store.list(key, None, 1).await?;
    let mut watch = store.watch(key, page.revision).await?;
    obey(shared, page.entries.iter().any(|entry| entry.key == key)).await;
    while let Some(event) = watch.recv().await {
        match event {
            WatchEvent::Put(entry) if entry.key == key => obey(shared, true).await,
            WatchEvent::Deleted { key: deleted, .. } if deleted == key => obey(shared, false).await,
            WatchEvent::Compacted => break,
            // Of a node whose name begins like this one's.
            WatchEvent::Put(_) | WatchEvent::Deleted { .. } => {}
        }
    }
    Ok(())
}

async fn obey(shared: &Arc<Shared>, drain: bool) {
    if shared.drained.swap(drain, Ordering::SeqCst) == drain {
        return;
    }
    shared.show();
    let mut said = lease::say_anew(shared).await;
    if drain {
        tracing::info!(jobs = shared.jobs().len(), "told to drain: saving all jobs and giving them back");
        let report = give_all_back(shared, shared.config.stop_timeout).await;
        let (saved, released) = (report.saved.len(), report.released.len());
        tracing::info!(saved, released, "drained: this node holds no jobs");
    } else {
        tracing::info!("no longer drained: this node takes jobs again");
        shared.freed.notify_one();
    }
    // The others count on it, or do not, by what its key says.
    while let Err(error) = said {
        tracing::warn!(%error, "cannot tell the group, will try on");
        tokio::time::sleep(RETRY).await;
        said = lease::say_anew(shared).await;
    }
}
