//! The HTTP API. Any node answers any request for any job: handlers read and write the stores and never call the
//! node's loops; only the live log comes from the node that runs the job.

mod access;
mod events;
mod jobs;
mod logs;
mod nodes;
mod openapi;
mod outputs;
mod problem;
mod requests;
mod submit;
mod views;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use workrs_store::{blobs::Blobs, records::Records};

pub use self::{
    logs::LogLine, openapi::document as openapi_document, problem::Problem, requests::*, submit::MODE_HEADER, views::*,
};
use crate::joblog::LiveLogs;

/// What the API needs.
#[derive(Clone)]
pub struct Api {
    /// The group's jobs.
    pub records: Records,
    /// The group's blobs.
    pub blobs: Blobs,
    /// The logs of the jobs that run here.
    pub live_logs: LiveLogs,
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

/// All routes.
pub fn router(api: Api) -> Router {
    let v1 = Router::new()
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::show))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/run-on", post(jobs::run_on))
        .route("/jobs/{id}/logs", get(logs::logs))
        .route("/jobs/{id}/outputs", get(outputs::list))
        .route("/jobs/{id}/outputs/{*path}", get(outputs::file))
        .route("/nodes", get(nodes::list))
        .route("/events", get(events::stream))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        // An upload is bounded by the job's disk, not here.
        .route("/jobs", post(submit::submit).layer(DefaultBodyLimit::disable()));
    Router::new()
        .nest("/api/v1", v1)
        .route("/api/openapi.json", get(openapi::serve))
        .route("/metrics", get(nodes::metrics))
        .route("/readyz", get(nodes::ready))
        .route("/", get(root))
        .layer(middleware::from_fn_with_state(Arc::clone(&api.access), access::check))
        // Asked by whatever watches the process, which has no token.
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(unknown)
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

async fn unknown(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-route", "there is nothing at this address", uri.path())
        .hint("all routes are listed at /api/openapi.json")
}
