//! A state store on which faults strike.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Fault, Faults};
use crate::state::{Entry, LeaseId, Page, Revision, StateError, StateStore, Transaction, Usage, Watch};

/// A state store on which faults strike.
pub struct FaultyState {
    inner: Arc<dyn StateStore>,
    faults: Faults,
}

impl FaultyState {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn StateStore>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

fn refused() -> StateError {
    StateError::Unavailable("refused by the test".to_owned())
}

fn lost() -> StateError {
    StateError::Unknown("the test lost the answer".to_owned())
}

#[async_trait]
impl StateStore for FaultyState {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StateError> {
        self.faults.run(self.inner.get(key), refused, refused).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StateError> {
        self.faults.run(self.inner.list(prefix, after, limit), refused, refused).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StateError> {
        let fault = self.faults.next().await;
        if let Some(Fault::LoseAnswerThenApply(pause)) = fault {
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                let _ = inner.commit(transaction).await;
            });
            return Err(lost());
        }
        self.faults.run_with(fault, self.inner.commit(transaction), refused, lost).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StateError> {
        let mut watch = self.faults.run(self.inner.watch(prefix, from), refused, refused).await?;
        // Nothing comes through to a process that is cut off.
        let (sender, receiver) = mpsc::channel(watch.max_capacity());
        let faults = self.faults.clone();
        tokio::spawn(async move {
            let forward = async {
                while let Some(event) = watch.recv().await {
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                biased;
                () = faults.no_contact() => {}
                () = sender.closed() => {}
                () = forward => {}
            }
        });
        Ok(receiver)
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StateError> {
        self.faults.run(self.inner.grant_lease(ttl), refused, refused).await
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StateError> {
        self.faults.run(self.inner.renew_lease(lease), refused, refused).await
    }

    fn leases_end_by_time(&self) -> bool {
        self.inner.leases_end_by_time()
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StateError> {
        self.faults.run(self.inner.revoke_lease(lease), refused, refused).await
    }

    async fn usage(&self) -> Result<Usage, StateError> {
        self.faults.run(self.inner.usage(), refused, refused).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StateError> {
        self.faults.run(self.inner.compact(before), refused, refused).await
    }
}
