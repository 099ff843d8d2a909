//! Jobs: list, show, wait for, cancel, run on.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::Deserialize;
use utoipa::IntoParams;
use workrs_core::{
    id::JobId,
    job::{JobEvent, JobRecord},
    keys,
    spec::parse_duration,
};
use workrs_store::{fresh, records::RecordError, state::WatchEvent};

use super::{Api, JobPage, JobView, Problem};

/// The longest that a request waits for a job to finish; clients ask again.
const MAX_WAIT: Duration = Duration::from_secs(300);
const MAX_PAGE: usize = 500;
/// At most this many records are read for one page; a list of few among many comes as short pages.
const MAX_READ: usize = 2_000;
/// How long a change waits for a state store that does not answer.
pub(super) const SETTLE: Duration = Duration::from_secs(20);

/// Which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Behind this id.
    after: Option<String>,
    /// At most this many, 100 by default, 500 at most.
    limit: Option<usize>,
    /// Only those in this state.
    state: Option<String>,
    /// Only those of this name.
    name: Option<String>,
}

/// Lists jobs in the order of their ids. A page may be short, even empty, and still have a next one.
#[utoipa::path(get, path = "/api/v1/jobs", params(ListQuery), responses((status = 200, body = JobPage), (status = "default", body = Problem)))]
pub async fn list(State(api): State<Api>, Query(query): Query<ListQuery>) -> Result<Json<JobPage>, Problem> {
    let limit = query.limit.unwrap_or(100).clamp(1, MAX_PAGE);
    if let Some(state) = &query.state
        && !["queued", "running", "finished"].contains(&state.as_str())
    {
        return Err(Problem::bad_request(format!("{state:?} is not one of queued, running, finished")).field("state"));
    }
    let mut after = query.after.map(JobId::new).transpose()?;
    let mut jobs = Vec::new();
    let mut read = 0;
    loop {
        let (records, more) = api.records.list(after.as_ref(), limit).await?;
        read += records.len();
        after = records.last().map(|record| record.id.clone());
        let wanted = records.iter().filter(|record| {
            query.state.as_ref().is_none_or(|state| record.state.name() == state)
                && query.name.as_ref().is_none_or(|name| record.spec.name == *name)
        });
        for record in wanted {
            if jobs.len() == limit {
                let next = jobs.last().map(|job: &JobView| job.id.clone());
                return Ok(Json(JobPage { jobs, next }));
            }
            jobs.push(JobView::from(record));
        }
        if !more {
            return Ok(Json(JobPage { jobs, next: None }));
        }
        if jobs.len() == limit || read >= MAX_READ {
            let next = after.map(|id| id.to_string());
            return Ok(Json(JobPage { jobs, next }));
        }
    }
}

/// How to show a job.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ShowQuery {
    /// Wait this long for the job to finish, such as `60s`; 5 minutes at most.
    wait: Option<String>,
}

/// Shows a job, at once or when it has finished.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", params(("id" = String, Path), ShowQuery), responses((status = 200, body = JobView), (status = "default", body = Problem)))]
pub async fn show(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<ShowQuery>,
) -> Result<Json<JobView>, Problem> {
    let id = JobId::new(id)?;
    let wait = query
        .wait
        .as_deref()
        .map(parse_duration)
        .transpose()
        .map_err(|error| Problem::bad_request(error).field("wait"))?;
    let waited = match wait {
        None => None,
        Some(wait) => tokio::time::timeout(wait.min(MAX_WAIT), until_finished(&api, &id)).await.ok(),
    };
    let record = match waited {
        Some(record) => record?,
        None => tokio::time::timeout(SETTLE, find(&api, &id)).await.map_err(|_| no_answer())??,
    };
    Ok(Json(JobView::from(&record)))
}

fn no_answer() -> RecordError {
    RecordError::Unavailable("it does not answer".to_owned())
}

async fn until_finished(api: &Api, id: &JobId) -> Result<JobRecord, Problem> {
    let key = keys::job(id);
    let store = api.records.store();
    loop {
        let mut watch = store.watch(&key, store.list(&key, None, 1).await?.revision).await?;
        let record = find(api, id).await?;
        if record.is_finished() {
            return Ok(record);
        }
        loop {
            tokio::select! {
                event = watch.recv() => match event {
                    Some(WatchEvent::Put(entry)) if entry.key != key => {}
                    None => { tokio::time::sleep(Duration::from_millis(200)).await; break }
                    Some(_) => break,
                },
                () = api.stopping.cancelled() => return Ok(record),
            }
        }
    }
}

pub(super) async fn find(api: &Api, id: &JobId) -> Result<JobRecord, Problem> {
    api.records.get(id).await?.ok_or_else(|| Problem::not_found(format!("no job has the id {id}")))
}

/// Cancels a job: a queued one ends at once, a running one within moments.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", params(("id" = String, Path)), responses((status = 200, body = JobView), (status = "default", body = Problem)))]
pub async fn cancel(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<JobView>, Problem> {
    let record = apply(&api, &JobId::new(id)?, &JobEvent::CancelRequested { at: fresh::now() }).await?;
    if record.is_finished() {
        let (records, blobs, record) = (api.records.clone(), api.blobs.clone(), record.clone());
        tokio::spawn(async move { crate::node::clean(&records, &blobs, &record).await });
    }
    Ok(Json(JobView::from(&record)))
}

/// Lets a job that was lost run on from its newest checkpoint.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/run-on", params(("id" = String, Path)), responses((status = 200, body = JobView), (status = "default", body = Problem)))]
pub async fn run_on(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<JobView>, Problem> {
    let record = apply(&api, &JobId::new(id)?, &JobEvent::RunOn { at: fresh::now() }).await?;
    Ok(Json(JobView::from(&record)))
}

async fn apply(api: &Api, id: &JobId, event: &JobEvent) -> Result<JobRecord, Problem> {
    let operation = fresh::operation();
    let applied = tokio::time::timeout(SETTLE, api.records.apply(id, event, &[], &operation)).await;
    let timed_out = |_| RecordError::Unavailable("it does not answer; the outcome is unknown".to_owned());
    Ok(applied.map_err(timed_out)??)
}
