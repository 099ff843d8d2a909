//! The HTTP API. Any node answers any request for any job: handlers read and write the stores and never call the
//! node's loops; only the live log comes from the node that runs the job.

mod access;
mod archive;
mod audit;
mod capacity;
mod contract;
mod download;
mod drain;
mod drill;
mod etag;
mod events;
pub(crate) mod extract;
mod fairness;
pub(crate) mod fuzz;
mod health;
mod images;
pub(crate) mod inside;
mod jobs;
mod kinds;
mod login;
mod logs;
mod me;
mod nodes;
mod openapi;
mod outputs;
mod problem;
mod program;
mod quotas;
mod requests;
mod shapes;
mod submit;
#[cfg(test)]
mod tests;
mod tokens;
mod trace;
mod views;
mod visible;

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use workrs_store::{blobs::Blobs, records::Records, state::StateError};

pub use self::{
    audit::{AuditPage, AuditView},
    capacity::GroupCapacity,
    drain::{DrainNote, DrainView},
    drill::DrillView,
    events::Feed,
    fairness::Fairness,
    health::Fullness,
    images::{ImageView, PullRequest, PulledView, RemovedView},
    kinds::{KINDS, Kind},
    login::LoginPage,
    logs::{LogLine, QUIET},
    me::MeView,
    openapi::document as openapi_document,
    problem::Problem,
    program::Program,
    quotas::{LimitsView, QuotaRequest, QuotaView, UsedView},
    requests::*,
    submit::MODE_HEADER,
    tokens::{TokenCreatedView, TokenRequest, TokenView},
    views::*,
};
pub use crate::access::Access;
use crate::{
    access::Caller,
    images::{Images, Pulls},
    index::JobIndex,
    joblog::{LiveLogs, Peers},
    listen::{self, Limits},
    page,
    quotas::Quotas,
    tls::{Certificates, TlsError},
};

/// What the API needs.
#[derive(Clone)]
pub struct Api {
    /// The group's jobs.
    pub records: Records,
    /// The group's blobs.
    pub blobs: Blobs,
    /// The group's images.
    pub images: Images,
    /// Brings others from registries.
    pub pulls: Arc<Pulls>,
    /// Where archives stay while they are read.
    pub work_dir: PathBuf,
    /// The logs of the jobs that run here.
    pub live_logs: LiveLogs,
    /// The nodes that run the others.
    pub peers: Peers,
    /// Whether the state store has room for more jobs.
    pub fullness: Arc<Fullness>,
    /// The largest job that any node could run.
    pub capacity: Arc<GroupCapacity>,
    /// All jobs at a glance.
    pub index: Arc<JobIndex>,
    /// How much of the group owners may have.
    pub quotas: Arc<Quotas>,
    /// Who may ask.
    pub access: Arc<Access>,
    /// How much each of them may.
    pub fairness: Arc<Fairness>,
    /// What changes, told to all who listen.
    pub events: Feed,
    /// What the node shows of itself; nothing where it speaks plain HTTP.
    pub certificates: Option<Arc<Certificates>>,
    /// Ends streams when the node stops.
    pub stopping: CancellationToken,
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
        .route("/nodes/{name}/drill", post(drill::drill))
        .route("/events", get(events::stream))
        .route("/default-quota", get(quotas::show_default).put(quotas::set_default).delete(quotas::remove_default))
        .route("/quotas", get(quotas::list))
        .route("/quotas/{owner}", get(quotas::show).put(quotas::set).delete(quotas::remove))
        .route("/audit", get(audit::list))
        .route("/me", get(me::show))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}", delete(tokens::revoke))
        .route("/images", get(images::list))
        .route("/images/{*name}", delete(images::remove))
        .layer(middleware::from_fn(etag::tag))
        .layer(middleware::from_fn(bounded))
        // It waits as long as it is asked to.
        .route("/jobs/{id}", get(jobs::show).layer(middleware::from_fn(etag::tag)).delete(jobs::remove))
        // A registry may take its time.
        .route("/images", post(images::pull))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        // An archive is bounded by the node's disk.
        .route("/images/import", post(images::import).put(images::import).layer(DefaultBodyLimit::disable()))
        // An upload is bounded by the job's disk, not here.
        .route("/jobs", post(submit::submit).layer(DefaultBodyLimit::disable()));
    Router::new()
        .nest("/api/v1", v1)
        .route("/api/openapi.json", get(openapi::serve))
        .route("/metrics", get(health::metrics))
        .route("/readyz", get(health::ready))
        .route("/", get(root))
        .merge(page::router())
        .layer(middleware::from_fn_with_state(Arc::clone(&api.fairness), fairness::of_requests))
        .layer(middleware::from_fn_with_state(Arc::clone(&api.access), access::check))
        .layer(middleware::from_fn_with_state(Arc::clone(&api.fairness), fairness::of_refusals))
        // Asked by whatever watches the process, which has no token.
        .route("/healthz", get(health::alive))
        .route("/login", get(login::page).post(login::login))
        .route("/logout", post(login::logout))
        .merge(page::assets())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&api.access), audit::note))
        .layer(middleware::from_fn(page::dress))
        .layer(middleware::from_fn(access::careful))
        .layer(middleware::from_fn_with_state(tracing::Span::current(), trace::log))
        .with_state(api)
}

/// Serves the API until `stopping` is cancelled.
pub async fn serve(listener: TcpListener, api: Api) -> Result<(), TlsError> {
    let stopping = api.stopping.clone();
    let tls = api.certificates.as_ref().map(Certificates::config).transpose()?;
    listen::serve(listener, tls, Limits::here(), router(api), stopping).await;
    Ok(())
}

/// What to do here: for people with a browser a list of their jobs.
#[utoipa::path(get, path = "/", responses((status = 200, body = String, content_type = "text/plain")))]
async fn root(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if page::is_wanted(&headers) {
        return page::home(&api, &caller, &uri, &headers).await;
    }
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
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

/// No handler hangs, whatever the stores do.
async fn bounded(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::from(StateError::Unavailable("it does not answer".to_owned())).into_response(),
    }
}

async fn wrong_method(method: Method) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong-method",
        "this address takes another method",
        format!("{method} is not one of those that it takes; see the header Allow"),
    )
    .hint("all routes are listed at /api/openapi.json")
}

async fn unknown(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-route", "there is nothing at this address", uri.path())
        .hint("all routes are listed at /api/openapi.json")
}
