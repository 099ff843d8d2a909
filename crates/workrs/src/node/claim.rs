//! Takes queued jobs that fit: the first by priority and age.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use workrs_core::{
    id::JobId,
    job::{JobEvent, JobRecord},
    keys::{self, QueueEntry},
    placement,
};
use workrs_store::{
    fresh,
    records::RecordError,
    state::{Condition, StateError, Watch, WatchEvent},
};

use super::{Cooldown, Order, Shared, Slot, run};
use crate::metrics;

const PAGE: usize = 500;
/// The queue is looked at this often without any notice, for whatever was missed.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The queue as this node knows it, in the order in which jobs are served.
#[derive(Default)]
struct QueueView(BTreeMap<String, (JobId, QueueEntry)>);

impl QueueView {
    fn put(&mut self, key: &str, value: &[u8]) {
        if let (Some(job), Ok(entry)) = (keys::job_of_index(key), serde_json::from_slice(value)) {
            self.0.insert(keys::queue_order(key).to_owned(), (job, entry));
        } else {
            tracing::error!(key, "a queue entry is damaged and left alone");
        }
    }

    fn remove(&mut self, key: &str) {
        self.0.remove(keys::queue_order(key));
    }
}

pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let (mut view, mut watch) = match load(&shared).await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::warn!(%error, "cannot read the queue, will try on");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        loop {
            let freed = shared.freed.notified();
            let pause = take_what_fits(&shared, &view).await;
            let event = tokio::select! {
                event = watch.recv() => event,
                () = freed => continue,
                () = tokio::time::sleep(pause) => continue,
            };
            if !absorb(&mut view, event) || !absorb_waiting(&mut view, &mut watch) {
                break;
            }
        }
    }
}

async fn load(shared: &Shared) -> Result<(QueueView, Watch), StateError> {
    let store = shared.records.store();
    let mut view = QueueView::default();
    let mut after: Option<String> = None;
    let mut revision = None;
    loop {
        let page = store.list(keys::QUEUE, after.as_deref(), PAGE).await?;
        // Events since the first page repeat what later pages show, which does no harm.
        let from = *revision.get_or_insert(page.revision);
        page.entries.iter().for_each(|entry| view.put(&entry.key, &entry.value));
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            return Ok((view, store.watch(keys::QUEUE, from).await?));
        }
    }
}

/// Whether the view still holds after `event`.
fn absorb(view: &mut QueueView, event: Option<WatchEvent>) -> bool {
    match event {
        Some(WatchEvent::Put(entry)) => view.put(&entry.key, &entry.value),
        Some(WatchEvent::Deleted { key, .. }) => view.remove(&key),
        Some(WatchEvent::Compacted) | None => return false,
    }
    true
}

fn absorb_waiting(view: &mut QueueView, watch: &mut Watch) -> bool {
    while let Ok(event) = watch.try_recv() {
        if !absorb(view, Some(event)) {
            return false;
        }
    }
    true
}

/// Claims jobs until none fits; gives the time after which another look may find more.
async fn take_what_fits(shared: &Arc<Shared>, view: &QueueView) -> Duration {
    let mut pause = LOOK_EVERY;
    for (job, entry) in view.0.values() {
        if shared.is_draining() {
            return LOOK_EVERY;
        }
        if let Some(wait) = cooldown(shared, job) {
            pause = pause.min(wait);
            continue;
        }
        if shared.jobs().contains_key(job) || placement::fits(entry, shared.free(), &shared.config.labels).is_err() {
            continue;
        }
        match claim(shared, job, entry).await {
            Ok(()) | Err(RecordError::NotFound | RecordError::Illegal(_)) => {}
            Err(RecordError::GuardFailed) => shared.reconcile.notify_one(),
            Err(error) => {
                tracing::warn!(%job, %error, "cannot claim the job");
                return Duration::from_secs(1);
            }
        }
    }
    pause
}

fn cooldown(shared: &Shared, job: &JobId) -> Option<Duration> {
    let cooldowns = shared.cooldowns();
    let wait = cooldowns.get(job)?.until.saturating_duration_since(Instant::now());
    (!wait.is_zero()).then_some(wait)
}

async fn claim(shared: &Arc<Shared>, job: &JobId, entry: &QueueEntry) -> Result<(), RecordError> {
    let Some(record) = shared.records.get(job).await? else { return Err(RecordError::NotFound) };
    let holder = shared.holder(record.epoch.next());
    let (order, orders) = watch::channel(Order::Run);
    let unsaved_since = Arc::new(Mutex::new(Instant::now()));
    let slot = Slot { entry: entry.clone(), epoch: holder.epoch, order, unsaved_since: Arc::clone(&unsaved_since) };
    shared.jobs().insert(job.clone(), slot);
    let event = JobEvent::Claimed { holder: holder.clone(), at: fresh::now() };
    let guard = Condition::Present(shared.node_key());
    match shared.records.apply(job, &event, &[guard], &fresh::operation()).await {
        Ok(record) => {
            metrics::CLAIMS.add(1);
            tracing::info!(%job, epoch = %record.epoch, "claimed");
            shared.spawn(run::run(Arc::clone(shared), record, holder, orders, unsaved_since));
            Ok(())
        }
        Err(error) => {
            shared.remove(job);
            Err(error)
        }
    }
}

/// Leaves a job alone for a while: twice as long after each failed try, up to a minute.
pub(super) fn cool_down(shared: &Shared, record: &JobRecord, unfit: bool) {
    let now = Instant::now();
    let mut cooldowns = shared.cooldowns();
    let cooldown = cooldowns.entry(record.id.clone()).or_insert(Cooldown { until: now, tries: 0, unfit_since: None });
    cooldown.until =
        now + Duration::from_millis(500).saturating_mul(1 << cooldown.tries.min(7)).min(Duration::from_secs(60));
    cooldown.tries += 1;
    if unfit {
        cooldown.unfit_since.get_or_insert(now);
    }
}
