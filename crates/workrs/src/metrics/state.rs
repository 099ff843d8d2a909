//! A state store whose operations are measured.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;
use workrs_store::state::{Entry, LeaseId, Page, Revision, StateError, StateStore, Transaction, Usage, Watch, Written};

use super::STATE_TIME;

/// A state store whose operations are measured in [`STATE_TIME`].
pub struct MeteredState(Arc<dyn StateStore>);

impl MeteredState {
    /// Measures `inner`.
    pub fn new(inner: Arc<dyn StateStore>) -> Self {
        Self(inner)
    }
}

async fn measured<T>(
    operation: &'static str,
    work: impl Future<Output = Result<T, StateError>>,
) -> Result<T, StateError> {
    let began = Instant::now();
    let result = work.await;
    let outcome = match &result {
        Ok(_) => "ok",
        Err(StateError::Conflict) => "conflict",
        Err(StateError::Unavailable(_)) => "unavailable",
        Err(StateError::Unknown(_)) => "unknown",
        Err(StateError::LeaseEnded) => "lease_ended",
        Err(StateError::Damaged(_)) => "damaged",
    };
    STATE_TIME.observe_of(&[operation, outcome], began.elapsed());
    result
}

#[async_trait]
impl StateStore for MeteredState {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StateError> {
        measured("get", self.0.get(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StateError> {
        measured("list", self.0.list(prefix, after, limit)).await
    }

    async fn list_written(&self, prefix: &str, since: Revision) -> Result<Written, StateError> {
        measured("list_written", self.0.list_written(prefix, since)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StateError> {
        measured("commit", self.0.commit(transaction)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StateError> {
        measured("watch", self.0.watch(prefix, from)).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StateError> {
        measured("grant_lease", self.0.grant_lease(ttl)).await
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StateError> {
        measured("renew_lease", self.0.renew_lease(lease)).await
    }

    fn leases_end_by_time(&self) -> bool {
        self.0.leases_end_by_time()
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StateError> {
        measured("revoke_lease", self.0.revoke_lease(lease)).await
    }

    async fn usage(&self) -> Result<Usage, StateError> {
        measured("usage", self.0.usage()).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StateError> {
        measured("compact", self.0.compact(before)).await
    }
}

#[cfg(test)]
mod tests {
    use workrs_store::{
        faulty::{Fault, Faults, FaultyState},
        redb::RedbStore,
        state::Condition,
    };

    use super::*;

    #[tokio::test]
    async fn every_operation_is_measured_by_its_outcome() {
        let faults = Faults::at(3, Fault::Refuse);
        let store = MeteredState::new(Arc::new(FaultyState::new(Arc::new(RedbStore::in_memory()), faults)));
        store.get("k").await.unwrap();
        let impossible = vec![Condition::Present("k".into())];
        let conflict = store.commit(Transaction { conditions: impossible, changes: Vec::new() }).await;
        assert_eq!(conflict, Err(StateError::Conflict));
        store.usage().await.unwrap_err();
        let text = crate::metrics::render();
        for series in [
            r#"operation="get",outcome="ok""#,
            r#"operation="commit",outcome="conflict""#,
            r#"operation="usage",outcome="unavailable""#,
        ] {
            assert!(text.contains(&format!("workrs_state_operation_seconds_count{{{series}}} ")), "{series} in {text}");
        }
    }
}
