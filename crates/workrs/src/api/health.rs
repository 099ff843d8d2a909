//! What operators and their tools ask: whether the node can work, how full the state is, and its figures.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use workrs_core::{keys, spec::format_size};
use workrs_store::{
    blobs::BlobError,
    state::{StateError, StateStore, Usage},
};

use super::{Api, Problem, problem::unavailable};
use crate::{metrics, wire::GROUP_BLOB};

/// How long a store may take to say that it is there.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// How long it is believed how full the state store is.
const USAGE_HOLDS: Duration = Duration::from_secs(10);
/// Above this share of the state store's quota no more jobs are taken: those that are there need the rest.
const FULL_PERCENT: u64 = 70;

/// How full the state store is, asked for now and then.
pub struct Fullness {
    store: Arc<dyn StateStore>,
    /// What it last said, and when it was asked; nothing if it said nothing.
    known: Mutex<Option<(Instant, Option<Usage>)>>,
}

impl Fullness {
    /// Of `store`.
    pub fn new(store: Arc<dyn StateStore>) -> Self {
        Self { store, known: Mutex::new(None) }
    }

    /// How full the store was at most a few seconds ago; `None` if it does not tell.
    async fn usage(&self) -> Option<Usage> {
        let mut known = self.known.lock().await;
        if let Some((_, usage)) = known.as_ref().filter(|(at, _)| at.elapsed() < USAGE_HOLDS) {
            return usage.clone();
        }
        let answer = timeout(READY_WITHIN, self.store.usage()).await;
        let usage = match answer.unwrap_or_else(|_| Err(StateError::Unavailable("it does not answer".to_owned()))) {
            Ok(usage) => Some(usage),
            Err(error) => {
                tracing::warn!(%error, "cannot see how full the state store is: no job is refused for that");
                None
            }
        };
        *known = Some((Instant::now(), usage.clone()));
        usage
    }

    /// Whether there is room for more jobs. A store that does not tell has room: whatever comes next will see.
    pub(super) async fn check(&self) -> Result<(), Problem> {
        match self.usage().await {
            Some(usage) => room(&usage),
            None => Ok(()),
        }
    }
}

fn room(usage: &Usage) -> Result<(), Problem> {
    let used = format_size(usage.used_bytes);
    let detail = match (&usage.alarm, usage.quota_bytes) {
        (Some(alarm), _) => format!("it takes no writes: {alarm}"),
        (None, Some(quota)) if usage.used_bytes.saturating_mul(100) > quota.saturating_mul(FULL_PERCENT) => {
            format!("{used} of its {} are used, and no job is taken above {FULL_PERCENT} %", format_size(quota))
        }
        _ => return Ok(()),
    };
    let title = "the state store is nearly full";
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "state-full", title, detail);
    Err(problem.hint(
        "nothing was accepted. Old history is forgotten within minutes by itself; if that is not enough, let finished \
         jobs go sooner (--keep-finished), or raise the store's quota (etcd: --quota-backend-bytes, then defragment)",
    ))
}

/// Whether the process lives. Whatever watches it has no token.
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "it is so", body = String, content_type = "text/plain")), security(()))]
pub async fn alive() -> &'static str {
    "ok\n"
}

/// Whether this node can do its work: its stores answer.
#[utoipa::path(get, path = "/readyz", responses((status = 200, description = "it is so", body = String, content_type = "text/plain"), (status = 503, description = "it is not", body = Problem, content_type = "application/problem+json")))]
pub async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    let state = async { api.records.store().list(keys::NODES, None, 1).await.map_err(Problem::from) };
    let blobs = async {
        match api.blobs.get_unverified(GROUP_BLOB).await {
            Ok(_) => Ok(()),
            Err(error @ BlobError::Missing(_)) => Err(unavailable("blob", error)),
            Err(error) => Err(Problem::from(error)),
        }
    };
    let late = |store| move |_| unavailable(store, format!("no answer within {} s", READY_WITHIN.as_secs()));
    let (state, blobs) = tokio::join!(timeout(READY_WITHIN, state), timeout(READY_WITHIN, blobs));
    let state = state.map_err(late("state")).flatten();
    let blobs = blobs.map_err(late("blob")).flatten();
    match (state, blobs) {
        (Ok(_), Ok(())) => Ok("ready\n"),
        (Err(problem), Ok(())) | (Ok(_), Err(problem)) => Err(problem),
        (Err(state), Err(blobs)) => {
            let detail = format!("state: {}; blobs: {}", state.detail, blobs.detail);
            let title = "neither the state store nor the blob store can be reached";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", title, detail))
        }
    }
}

/// This node's figures in the form that Prometheus reads.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "it is so", body = String, content_type = "text/plain")))]
pub async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    if let Some(usage) = api.fullness.usage().await {
        metrics::STATE_USED.set(usage.used_bytes as f64);
        if let Some(quota) = usage.quota_bytes {
            metrics::STATE_QUOTA.set(quota as f64);
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_seventy_percent_there_is_no_room() {
        let usage = |used_bytes, quota_bytes| Usage { used_bytes, quota_bytes, alarm: None };
        assert!(room(&usage(u64::MAX, None)).is_ok());
        assert!(room(&usage(70 << 20, Some(100 << 20))).is_ok());
        insta::assert_debug_snapshot!(room(&usage(71 << 20, Some(100 << 20))).unwrap_err());
        let alarm = Usage { alarm: Some("NOSPACE".to_owned()), ..usage(1, Some(100)) };
        insta::assert_snapshot!(room(&alarm).unwrap_err().detail, @"it takes no writes: NOSPACE");
    }
}
