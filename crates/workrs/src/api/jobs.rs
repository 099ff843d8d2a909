//! Jobs: list, show, wait for, cancel, run on.

use std::{fmt::Display, str::FromStr, time::Duration};

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use workrs_core::{
    id::{JobId, Timestamp},
    job::{JobEvent, JobRecord, JobState},
    keys::{self, QueueEntry},
    spec::parse_duration,
};
use workrs_store::{fresh, records::RecordError, state::WatchEvent};

use super::{
    Api, CountsView, JobPage, JobView, Problem,
    extract::{Path, Query},
    quotas,
};
use crate::{
    access::{Caller, Role},
    index::{Filter, Order, Row},
    node::why_nobody_could_start,
};

/// The longest that a request waits for a job to finish; clients ask again.
const MAX_WAIT: Duration = Duration::from_secs(300);
const MAX_PAGE: usize = 500;
const DEFAULT_PAGE: usize = 100;
/// How long a change waits for a state store that does not answer.
pub(super) const SETTLE: Duration = Duration::from_secs(20);

/// Which jobs; what is not given lets all through.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// The `next` of the page before, as it is.
    #[param(
        max_length = 120,
        pattern = "^~[0-9a-f]{1,16}~[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        example = "~19a3b1c2d4e~sum-1"
    )]
    after: Option<String>,
    /// At most this many, 100 by default.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// `desc` (the default): the newest first, by the time of the submit; `asc`: the oldest first.
    #[param(pattern = "^(asc|desc)$")]
    order: Option<String>,
    /// Only those in this state: `queued`, `running` or `finished`.
    #[param(pattern = "^(queued|running|finished)$")]
    state: Option<String>,
    /// Only those that ended like this: `succeeded`, `failed`, `cancelled` or `lost`.
    #[param(pattern = "^(succeeded|failed|cancelled|lost)$")]
    outcome: Option<String>,
    /// Only those of this name.
    name: Option<String>,
    /// Only those with this text in their name, id or owner, whatever its case.
    search: Option<String>,
    /// Only those of this owner.
    #[param(max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    owner: Option<String>,
    /// Only those that this node runs.
    #[param(max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    node: Option<String>,
    /// Only those that were handed over then or later; milliseconds since 1970-01-01T00:00:00Z.
    #[param(minimum = 0)]
    since: Option<u64>,
    /// Only those that were handed over before then.
    #[param(minimum = 0)]
    until: Option<u64>,
}

impl ListQuery {
    fn filter(self) -> Result<Filter, Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(refused("limit", format!("must lie between 1 and {MAX_PAGE}")));
        }
        let order = match self.order.as_deref() {
            None | Some("desc") => Order::Desc,
            Some("asc") => Order::Asc,
            Some(other) => return Err(refused("order", format!("{other:?} is not one of asc, desc"))),
        };
        Ok(Filter {
            state: parsed("state", self.state.as_deref())?,
            outcome: parsed("outcome", self.outcome.as_deref())?,
            name: self.name,
            search: self.search,
            owner: parsed("owner", self.owner.as_deref())?,
            node: parsed("node", self.node.as_deref())?,
            since: self.since.map(Timestamp::from_millis),
            until: self.until.map(Timestamp::from_millis),
            order,
            after: parsed("after", self.after.as_deref())?,
            limit,
        })
    }
}

fn parsed<T: FromStr<Err: Display>>(field: &str, text: Option<&str>) -> Result<Option<T>, Problem> {
    text.map(str::parse).transpose().map_err(|error| refused(field, error))
}

fn refused(field: &str, reason: impl Display) -> Problem {
    Problem::bad_request(reason).field(field)
}

/// Lists jobs, the newest first, and counts all that the filter lets through.
#[utoipa::path(get, path = "/api/v1/jobs", params(ListQuery), responses((status = 200, body = JobPage), (status = "default", body = Problem)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ListQuery>,
) -> Result<Json<JobPage>, Problem> {
    let filter = query.filter()?;
    let sees_only = (caller.role != Role::Admin).then_some(&caller.owner);
    let page = api.index.query(&filter, sees_only).await?;
    let records = api.index.read(&page.rows).await?;
    // A job that moved on while the page was read may be in it no more.
    let jobs = records.iter().filter(|record| filter.admits(&Row::of(record))).map(JobView::from).collect();
    let (next, counts) = (page.next.map(|next| next.to_string()), CountsView::from(page.counts));
    Ok(Json(JobPage { jobs, next, total: page.total as u64, counts }))
}

/// How to show a job.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ShowQuery {
    /// Wait this long for the job to finish, such as `60s`; 5 minutes at most.
    wait: Option<String>,
}

/// Shows a job, at once or when it has finished.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", params(("id" = String, Path), ShowQuery), responses((status = 200, body = JobView), (status = "default", body = Problem)))]
pub async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
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
        Some(wait) => tokio::time::timeout(wait.min(MAX_WAIT), until_finished(&api, &caller, &id)).await.ok(),
    };
    let record = match waited {
        Some(record) => record?,
        None => tokio::time::timeout(SETTLE, find(&api, &caller, &id)).await.map_err(|_| no_answer())??,
    };
    view(&api, &record).await.map(Json)
}

/// A job, and if it is queued, why it waits as things stand.
pub(crate) async fn view(api: &Api, record: &JobRecord) -> Result<JobView, Problem> {
    let mut view = JobView::from(record);
    if matches!(record.state, JobState::Queued { .. }) {
        let of_now = match quotas::why_it_waits(api, record).await? {
            None => why_nobody_could_start(&api.records, &QueueEntry::of(record)).await?,
            reason => reason,
        };
        view.reason = of_now.or(view.reason);
    }
    Ok(view)
}

fn no_answer() -> RecordError {
    RecordError::Unavailable("it does not answer".to_owned())
}

async fn until_finished(api: &Api, caller: &Caller, id: &JobId) -> Result<JobRecord, Problem> {
    let key = keys::job(id);
    let store = api.records.store();
    loop {
        let mut watch = store.watch(&key, store.list(&key, None, 1).await?.revision).await?;
        let record = find(api, caller, id).await?;
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

/// A job that exists for the caller. Another's does not: not even its id is told.
pub(crate) async fn find(api: &Api, caller: &Caller, id: &JobId) -> Result<JobRecord, Problem> {
    let record = api.records.get(id).await?.filter(|record| caller.may_see(&record.owner));
    record.ok_or_else(|| Problem::not_found(format!("no job has the id {id}")))
}

/// Cancels a job: a queued one ends at once, a running one within moments.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", params(("id" = String, Path)), responses((status = 200, body = JobView), (status = "default", body = Problem)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    let record = apply(&api, &caller, &JobId::new(id)?, &JobEvent::CancelRequested { at: fresh::now() }).await?;
    if record.is_finished() {
        let (records, blobs, record) = (api.records.clone(), api.blobs.clone(), record.clone());
        tokio::spawn(async move { crate::node::clean(&records, &blobs, &record).await });
    }
    Ok(Json(JobView::from(&record)))
}

/// Lets a job that was lost run on from its newest checkpoint.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/run-on", params(("id" = String, Path)), responses((status = 200, body = JobView), (status = "default", body = Problem)))]
pub async fn run_on(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    let record = apply(&api, &caller, &JobId::new(id)?, &JobEvent::RunOn { at: fresh::now() }).await?;
    Ok(Json(JobView::from(&record)))
}

/// Deletes a job that has ended: its record, outputs, log and whatever else is kept of it.
#[utoipa::path(delete, path = "/api/v1/jobs/{id}", params(("id" = String, Path)), responses((status = 204, description = "it is gone"), (status = "default", body = Problem)))]
pub async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.must_be(Role::User)?;
    let id = JobId::new(id)?;
    find(&api, &caller, &id).await?;
    let deleted = tokio::time::timeout(SETTLE, crate::node::delete_job(&api.records, &api.blobs, &id)).await;
    deleted.map_err(|_| RecordError::Unavailable("it does not answer; the outcome is unknown".to_owned()))??;
    Ok(StatusCode::NO_CONTENT)
}

async fn apply(api: &Api, caller: &Caller, id: &JobId, event: &JobEvent) -> Result<JobRecord, Problem> {
    caller.must_be(Role::User)?;
    let operation = fresh::operation();
    let applied = async {
        find(api, caller, id).await?;
        Ok::<_, Problem>(api.records.apply(id, event, &[], &operation).await?)
    };
    let timed_out = |_| RecordError::Unavailable("it does not answer; the outcome is unknown".to_owned());
    tokio::time::timeout(SETTLE, applied).await.map_err(timed_out)?
}
