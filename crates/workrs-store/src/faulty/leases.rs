//! A state store whose leases end by themselves, for groups of nodes in one process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::state::{Entry, LeaseId, Page, Revision, StateError, StateStore, Transaction, Usage, Watch};

/// A state store whose leases end by tokio's clock unless they are renewed, which one machine's store leaves to the end of
/// the process. Everything else is as in the store within.
pub struct TimedLeases {
    inner: Arc<dyn StateStore>,
    leases: Arc<Mutex<HashMap<LeaseId, Lease>>>,
}

struct Lease {
    ttl: Duration,
    ends: watch::Sender<Instant>,
}

impl TimedLeases {
    /// Wraps `inner`. Leases that it has already are not timed.
    pub fn new(inner: Arc<dyn StateStore>) -> Self {
        Self { inner, leases: Arc::default() }
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<LeaseId, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StateStore for TimedLeases {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StateError> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StateError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StateError> {
        self.inner.commit(transaction).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StateError> {
        self.inner.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StateError> {
        let lease = self.inner.grant_lease(ttl).await?;
        let (ends, mut renewals) = watch::channel(Instant::now() + ttl);
        self.leases().insert(lease, Lease { ttl, ends });
        let (inner, leases) = (Arc::clone(&self.inner), Arc::clone(&self.leases));
        tokio::spawn(async move {
            loop {
                let end = *renewals.borrow_and_update();
                tokio::select! {
                    biased;
                    renewed = renewals.changed() => if renewed.is_err() {
                        return;
                    },
                    () = sleep_until(end) => break,
                }
            }
            leases.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
            if let Err(error) = inner.revoke_lease(lease).await {
                tracing::error!(%error, "cannot end a lease whose time is over");
            }
        });
        Ok(lease)
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StateError> {
        self.inner.renew_lease(lease).await?;
        let leases = self.leases();
        let Some(known) = leases.get(&lease) else { return Err(StateError::LeaseEnded) };
        known.ends.send_replace(Instant::now() + known.ttl);
        Ok(())
    }

    fn leases_end_by_time(&self) -> bool {
        true
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StateError> {
        self.leases().remove(&lease);
        self.inner.revoke_lease(lease).await
    }

    async fn usage(&self) -> Result<Usage, StateError> {
        self.inner.usage().await
    }

    async fn compact(&self, before: Revision) -> Result<(), StateError> {
        self.inner.compact(before).await
    }
}
