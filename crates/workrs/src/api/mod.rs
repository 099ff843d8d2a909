//! The HTTP API. Any node answers any request for any job: handlers read and write the stores and never call the
//! node's loops; only the live log comes from the node that runs the job.

mod access;
mod capacity;
mod drain;
mod events;
mod health;
mod jobs;
mod logs;
mod nodes;
mod openapi;
mod outputs;
mod problem;
mod requests;
mod submit;
#[cfg(test)]
mod tests;
mod trace;
mod views;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use workrs_store::{blobs::Blobs, records::Records, state::StateError};

pub use self::{
    capacity::GroupCapacity,
    drain::{DrainNote, DrainView},
    health::Fullness,
    logs::{LogLine, QUIET},
    openapi::document as openapi_document,
    problem::Problem,
    requests::*,
    submit::MODE_HEADER,
    views::*,
};
use crate::joblog::{LiveLogs, Peers};

/// What the API needs.
#[derive(Clone)]
pub struct Api {
    /// The group's jobs.
    pub records: Records,
    /// The group's blobs.
    pub blobs: Blobs,
    /// The logs of the jobs that run here.
    pub live_logs: LiveLogs,
    /// The nodes that run the others.
    pub peers: Peers,
    /// Whether the state store has room for more jobs.
    pub fullness: Arc<Fullness>,
    /// The largest job that any node could run.
    pub capacity: Arc<GroupCapacity>,
    /// Who may ask.
    pub access: Arc<Access>,
    /// Ends streams when the node stops.
    pub stopping: CancellationToken,
}

/// Who may use the API.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where it listens.
    pub address: SocketAddr,
    /// What a request must carry; none on loopback.
    pub token: Option<String>,
}

/// The largest request body that is no upload.
const MAX_BODY: usize = 256 << 10;
/// How long a request may take until its answer begins, unless it waits for something. Longer than a change waits for a
/// state store that does not answer, so that this is never the shorter of the two.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);

/// All routes. What requests log stands in the span that is current now.
pub fn router(api: Api) -> Router {
    let v1 = Router::new()
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/run-on", post(jobs::run_on))
        .route("/jobs/{id}/logs", get(logs::logs))
        .route("/jobs/{id}/logs/live", get(logs::live))
        .route("/jobs/{id}/outputs", get(outputs::list))
        .route("/jobs/{id}/outputs/{*path}", get(outputs::file))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{name}/drain", post(drain::drain).delete(drain::undo))
        .route("/events", get(events::stream))
        .layer(middleware::from_fn(bounded))
        // It waits as long as it is asked to.
        .route("/jobs/{id}", get(jobs::show))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        // An upload is bounded by the job's disk, not here.
        .route("/jobs", post(submit::submit).layer(DefaultBodyLimit::disable()));
    Router::new()
        .nest("/api/v1", v1)
        .route("/api/openapi.json", get(openapi::serve))
        .route("/metrics", get(health::metrics))
        .route("/readyz", get(health::ready))
        .route("/", get(root))
        .layer(middleware::from_fn_with_state(Arc::clone(&api.access), access::check))
        // Asked by whatever watches the process, which has no token.
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(tracing::Span::current(), trace::log))
        .with_state(api)
}

/// Serves the API until `stopping` is cancelled.
pub async fn serve(listener: TcpListener, api: Api) -> std::io::Result<()> {
    let stopping = api.stopping.clone();
    axum::serve(listener, router(api)).with_graceful_shutdown(stopping.cancelled_owned()).await
}

async fn root() -> Response {
    let text = concat!(
        "workrs ",
        env!("CARGO_PKG_VERSION"),
        "\n\n",
        "hand a job over:  curl -F script=@train.py $NODE/api/v1/jobs\n",
        "see all jobs:     curl $NODE/api/v1/jobs\n",
        "follow its log:   curl -N \"$NODE/api/v1/jobs/ID/logs?follow=true\"\n",
        "get its outputs:  curl \"$NODE/api/v1/jobs/ID/outputs?archive=tar\" | tar x\n",
        "all routes:       $NODE/api/openapi.json\n",
    );
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// No handler hangs, whatever the stores do.
async fn bounded(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::from(StateError::Unavailable("it does not answer".to_owned())).into_response(),
    }
}

async fn unknown(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-route", "there is nothing at this address", uri.path())
        .hint("all routes are listed at /api/openapi.json")
}
