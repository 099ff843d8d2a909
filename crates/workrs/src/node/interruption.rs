//! What makes a job end here before its program does: an order of this node, or its record.

use std::{sync::Arc, time::Duration};

use workrs_core::{
    id::JobId,
    job::{Holder, JobRecord, JobState, Outcome},
    keys,
};
use workrs_store::{
    records::Known,
    state::{Watch, WatchEvent},
};

use super::{
    Order, Shared,
    run::{Leave, Run},
};

/// The pause before a record whose watch broke off is read anew.
const RETRY: Duration = Duration::from_millis(500);

impl Run {
    /// Returns once somebody wants the job to end here: by an order of this node, or by its record.
    pub(super) fn interruption(&self) -> impl Future<Output = Leave> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let record = self.record.clone();
        let holder = self.holder.clone();
        let mut orders = self.orders.clone();
        async move {
            let ordered = async {
                match orders.wait_for(|order| *order != Order::Run).await.map(|order| *order) {
                    Ok(Order::Abandon) | Err(_) => Leave::Fenced,
                    Ok(Order::Fail) => Leave::by_drill(),
                    Ok(_) => Leave::as_ordered(&shared),
                }
            };
            tokio::select! {
                biased;
                leave = ordered => leave,
                leave = by_record(&shared, &record, &holder) => leave,
            }
        }
    }
}

/// Returns once the record says that the job is cancelled or somebody else's. What the watch tells is enough to see that, so
/// the holder's own changes cost no reads.
async fn by_record(shared: &Shared, claimed: &Known, holder: &Holder) -> Leave {
    if let Some(leave) = meaning(Some(claimed), holder) {
        return leave;
    }
    let mut watch = shared.records.watch_from(claimed).await;
    loop {
        match watch {
            Ok(mut watch) => {
                if let Some(leave) = follow(shared, &claimed.id, holder, &mut watch).await {
                    return leave;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot watch the job's record, will try on"),
        }
        tokio::time::sleep(RETRY).await;
        watch = match shared.records.watch(&claimed.id).await {
            Ok((record, watch)) => match meaning(record.as_ref(), holder) {
                Some(leave) => return leave,
                None => Ok(watch),
            },
            Err(error) => Err(error),
        };
    }
}

/// Waits for a change of the record that ends the job here; `None` if the watch does not tell any more.
async fn follow(shared: &Shared, id: &JobId, holder: &Holder, watch: &mut Watch) -> Option<Leave> {
    let key = keys::job(id);
    while let Some(event) = watch.recv().await {
        match event {
            WatchEvent::Put(entry) if entry.key == key => {
                let record = shared.records.told(&entry).await.ok()?;
                if let Some(leave) = meaning(Some(&record), holder) {
                    return Some(leave);
                }
            }
            WatchEvent::Deleted { key: deleted, .. } if deleted == key => return Some(Leave::Fenced),
            WatchEvent::Compacted => return None,
            // Of a job whose id begins like this one's.
            WatchEvent::Put(_) | WatchEvent::Deleted { .. } => {}
        }
    }
    None
}

/// What the record means for its holder; `None`: run on.
fn meaning(record: Option<&JobRecord>, holder: &Holder) -> Option<Leave> {
    match record.map(|record| &record.state) {
        Some(JobState::Running { holder: current, cancel, .. }) if current == holder => {
            cancel.is_some().then_some(Leave::Finish(Outcome::Cancelled))
        }
        _ => Some(Leave::Fenced),
    }
}
