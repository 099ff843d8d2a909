//! What all loops do with what they share: run tasks, look at the jobs that are held here, and count what is free.

use std::{
    collections::HashMap,
    sync::{MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tracing::{Instrument, Span};
use workrs_core::{
    id::{Epoch, JobId},
    job::Holder,
    keys,
    placement::Capacity,
};

use super::{Cooldown, Order, Shared, Slot};
use crate::metrics;

impl Shared {
    /// Runs a task until it ends or the node does. What it logs stands in the node's span.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_in(self.span.clone(), task);
    }

    /// The same, and what it logs is said to be of this job.
    pub(super) fn spawn_for_job(&self, job: &JobId, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_in(tracing::info_span!(parent: &self.span, "job", %job), task);
    }

    pub(super) fn spawn_in(&self, span: Span, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        let task = async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = task => {}
            }
        };
        self.tasks.spawn(task.instrument(span));
    }

    pub(super) fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Slot>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cooldowns(&self) -> MutexGuard<'_, HashMap<JobId, Cooldown>> {
        self.cooldowns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn node_key(&self) -> String {
        keys::node(&self.config.id, &self.incarnation)
    }

    pub(super) fn holder(&self, epoch: Epoch) -> Holder {
        Holder { node: self.config.id.clone(), incarnation: self.incarnation.clone(), epoch }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::SeqCst)
    }

    /// Whether it takes no jobs: it stops, or was told to drain.
    pub(super) fn takes_none(&self) -> bool {
        self.stopping.load(Ordering::SeqCst) || self.is_drained()
    }

    /// The share of this node that is taken, from 0 to 1.
    pub(super) fn busy(&self, free: Capacity) -> f64 {
        let share = |free: f64, total: f64| if total > 0.0 { 1.0 - free / total } else { 1.0 };
        let cpus = share(f64::from(free.cpus_milli), f64::from(self.config.cpus_milli));
        cpus.max(share(free.memory_bytes as f64, self.config.memory_bytes as f64)).clamp(0.0, 1.0)
    }

    /// What is neither taken nor promised.
    pub(super) fn free(&self) -> Capacity {
        let total = Capacity {
            cpus_milli: self.config.cpus_milli,
            memory_bytes: self.config.memory_bytes,
            disk_bytes: self.disk_bytes,
        };
        self.jobs().values().fold(total, |free, slot| free.without(&slot.entry))
    }

    pub(super) fn order(&self, id: &JobId, order: Order) {
        if let Some(slot) = self.jobs().get(id) {
            let _ = slot.order.send(order);
        }
    }

    /// Returns once this node no longer holds `id`.
    pub(super) async fn gone(&self, id: &JobId) {
        loop {
            let freed = self.freed.notified();
            if !self.jobs().contains_key(id) {
                return;
            }
            // Also woken by time, as another waiter may have taken the notice.
            let _ = tokio::time::timeout(Duration::from_millis(50), freed).await;
        }
    }

    /// Shows in the metrics what is free, and whether the node takes jobs.
    pub(super) fn show(&self) {
        let free = self.free();
        metrics::JOBS.set(self.jobs().len() as f64);
        metrics::FREE_CPUS.set(f64::from(free.cpus_milli) / 1_000.0);
        metrics::FREE_MEMORY.set(free.memory_bytes as f64);
        metrics::FREE_DISK.set(free.disk_bytes as f64);
        metrics::DRAINING.set(f64::from(u8::from(self.is_drained())));
    }

    pub(super) fn remove(&self, id: &JobId) {
        self.jobs().remove(id);
        self.usage.forget(id);
        self.show();
        self.freed.notify_waiters();
        self.freed.notify_one();
    }
}
