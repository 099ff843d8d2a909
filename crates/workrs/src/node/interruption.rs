//! What makes a job end here before its program does: an order of this node, or its record.

use std::{sync::Arc, time::Duration};

use workrs_core::{
    job::{Holder, JobState, Outcome},
    keys,
};
use workrs_store::state::WatchEvent;

use super::{
    Order, Shared,
    run::{Leave, Run},
};

impl Run {
    /// Returns once somebody wants the job to end here: by an order of this node, or by its record.
    pub(super) fn interruption(&self) -> impl Future<Output = Leave> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let id = self.record.id.clone();
        let holder = self.holder.clone();
        let mut orders = self.orders.clone();
        let stopped =
            Leave::Release { reason: format!("node {} stopped", holder.node), cool_down: false, unfit: false };
        async move {
            let ordered = async {
                match orders.wait_for(|order| *order != Order::Run).await.map(|order| *order) {
                    Ok(Order::Abandon) | Err(_) => Leave::Fenced,
                    Ok(_) => stopped,
                }
            };
            tokio::select! {
                biased;
                leave = ordered => leave,
                leave = by_record(&shared, &id, &holder) => leave,
            }
        }
    }
}

/// Returns once the record says that the job is cancelled or somebody else's.
async fn by_record(shared: &Shared, id: &workrs_core::id::JobId, holder: &Holder) -> Leave {
    let key = keys::job(id);
    loop {
        let watch = match shared.records.watch(id).await {
            Ok((record, watch)) => {
                match record.as_ref().map(|record| &record.state) {
                    Some(JobState::Running { holder: current, cancel, .. }) if current == holder => {
                        if cancel.is_some() {
                            return Leave::Finish(Outcome::Cancelled);
                        }
                    }
                    _ => return Leave::Fenced,
                }
                Ok(watch)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the job's record, will try on");
                Err(())
            }
        };
        let Ok(mut watch) = watch else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        loop {
            match watch.recv().await {
                Some(WatchEvent::Put(entry)) if entry.key != key => {}
                Some(WatchEvent::Deleted { key: deleted, .. }) if deleted != key => {}
                None => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    break;
                }
                Some(_) => break,
            }
        }
    }
}
