//! Quotas of owners: see, set, take away; and hold a submit against its owner's.

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workrs_core::{
    id::Owner,
    job::JobRecord,
    keys::QueueEntry,
    quota::{OverQuota, Quota, Running},
    spec::JobSpec,
};

use super::{
    Api, Problem,
    extract::{JsonBody, Path},
};
use crate::{
    access::{Caller, Role},
    quotas::{self, Whose},
};

/// Who has the quota of all that have none of their own.
const OTHERS: &str = "*";
/// The most jobs and cores that a quota can name; more is no limit.
const MOST: f64 = 1e6;
/// The most bytes.
const MOST_BYTES: f64 = 1e15;

/// What an owner may have; what is left out is not limited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaRequest {
    /// Jobs that run at the same time; more wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub running: Option<u32>,
    /// Cores of those, in steps of a thousandth.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub cpus: Option<f64>,
    /// Memory of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000_000_000_000_i64)]
    pub memory_bytes: Option<u64>,
    /// Jobs that wait; more are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub queued: Option<u32>,
    /// Inputs, checkpoints, outputs and logs; further jobs are refused above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000_000_000_000_i64)]
    pub stored_bytes: Option<u64>,
}

impl QuotaRequest {
    fn quota(&self) -> Result<Quota, Problem> {
        let within = |name: &str, value: Option<f64>, most: f64| match value {
            Some(value) if !(0.0..=most).contains(&value) => {
                Err(Problem::bad_request(format!("{name} must lie between 0 and {most}")).field(name))
            }
            _ => Ok(()),
        };
        within("running", self.running.map(f64::from), MOST)?;
        within("cpus", self.cpus, MOST)?;
        within("memory_bytes", self.memory_bytes.map(|bytes| bytes as f64), MOST_BYTES)?;
        within("queued", self.queued.map(f64::from), MOST)?;
        within("stored_bytes", self.stored_bytes.map(|bytes| bytes as f64), MOST_BYTES)?;
        Ok(Quota {
            running: self.running,
            cpus_milli: self.cpus.map(|cpus| (cpus * 1_000.0).round() as u32),
            memory_bytes: self.memory_bytes,
            queued: self.queued,
            stored_bytes: self.stored_bytes,
            ..Quota::default()
        })
    }
}

/// What an owner may have, and has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QuotaView {
    /// Whose it is; `*` is that of everybody who has none of their own.
    pub owner: String,
    /// Whether it was set for this owner alone.
    pub own: bool,
    /// The most that they may have.
    pub limits: LimitsView,
    /// What they have; left out in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<UsedView>,
}

/// The most that an owner may have; what is left out is not limited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitsView {
    /// Jobs that run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u32>,
    /// Cores of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Jobs that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<u32>,
    /// Inputs, checkpoints, outputs and logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
}

impl From<&Quota> for LimitsView {
    fn from(quota: &Quota) -> Self {
        Self {
            running: quota.running,
            cpus: quota.cpus_milli.map(|milli| f64::from(milli) / 1_000.0),
            memory_bytes: quota.memory_bytes,
            queued: quota.queued,
            stored_bytes: quota.stored_bytes,
        }
    }
}

/// What an owner has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsedView {
    /// Jobs that run.
    pub running: u32,
    /// Cores of those.
    pub cpus: f64,
    /// Memory of those.
    pub memory_bytes: u64,
    /// Jobs that wait; told where that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<u32>,
    /// Inputs, checkpoints, outputs and logs; told where that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
}

/// Lists the quotas that were set. For admins.
#[utoipa::path(get, path = "/api/v1/quotas", responses((status = 200, body = Vec<QuotaView>), (status = "default", body = Problem)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<QuotaView>>, Problem> {
    caller.must_be(Role::Admin)?;
    let view = |(whose, quota): (Whose, Quota)| QuotaView {
        owner: name(&whose),
        own: true,
        limits: LimitsView::from(&quota),
        used: None,
    };
    Ok(Json(api.quotas.list().await?.into_iter().map(view).collect()))
}

/// Shows the quota that counts for an owner, and what they have.
#[utoipa::path(get, path = "/api/v1/quotas/{owner}", params(("owner" = String, Path)), responses((status = 200, body = QuotaView), (status = "default", body = Problem)))]
pub async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(owner): Path<String>,
) -> Result<Json<QuotaView>, Problem> {
    let owner = Owner::new(owner)?;
    if !caller.may_see(&owner) {
        return Err(Problem::not_found(format!("there is nothing of {owner}")));
    }
    Ok(Json(of(&api, &owner).await?))
}

/// Sets the quota of an owner. It counts everywhere within a second.
#[utoipa::path(put, path = "/api/v1/quotas/{owner}", params(("owner" = String, Path)), request_body(content = QuotaRequest), responses((status = 200, body = QuotaView), (status = "default", body = Problem)))]
pub async fn set(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(owner): Path<String>,
    JsonBody(request): JsonBody<QuotaRequest>,
) -> Result<Json<QuotaView>, Problem> {
    caller.must_be(Role::Admin)?;
    put(&api, &Whose::One(Owner::new(owner)?), &request).await
}

/// Takes an owner's quota away; that there is none is no error.
#[utoipa::path(delete, path = "/api/v1/quotas/{owner}", params(("owner" = String, Path)), responses((status = 204, description = "it is gone"), (status = "default", body = Problem)))]
pub async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(owner): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.must_be(Role::Admin)?;
    api.quotas.set(&Whose::One(Owner::new(owner)?), None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Shows the quota of everybody who has none of their own. For admins.
#[utoipa::path(get, path = "/api/v1/default-quota", operation_id = "show_default_quota", responses((status = 200, body = QuotaView), (status = "default", body = Problem)))]
pub async fn show_default(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<QuotaView>, Problem> {
    caller.must_be(Role::Admin)?;
    let quota = api.quotas.get(&Whose::Others).await?;
    let limits = quota.as_ref().map(LimitsView::from).unwrap_or_default();
    Ok(Json(QuotaView { owner: OTHERS.to_owned(), own: quota.is_some(), limits, used: None }))
}

/// Sets the quota of everybody who has none of their own. It counts everywhere within a second.
#[utoipa::path(put, path = "/api/v1/default-quota", operation_id = "set_default_quota", request_body(content = QuotaRequest), responses((status = 200, body = QuotaView), (status = "default", body = Problem)))]
pub async fn set_default(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<QuotaRequest>,
) -> Result<Json<QuotaView>, Problem> {
    caller.must_be(Role::Admin)?;
    put(&api, &Whose::Others, &request).await
}

/// Takes the quota of everybody who has none of their own away; that there is none is no error.
#[utoipa::path(delete, path = "/api/v1/default-quota", operation_id = "remove_default_quota", responses((status = 204, description = "it is gone"), (status = "default", body = Problem)))]
pub async fn remove_default(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Problem> {
    caller.must_be(Role::Admin)?;
    api.quotas.set(&Whose::Others, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn put(api: &Api, whose: &Whose, request: &QuotaRequest) -> Result<Json<QuotaView>, Problem> {
    let quota = request.quota()?;
    api.quotas.set(whose, Some(&quota)).await?;
    Ok(Json(QuotaView { owner: name(whose), own: true, limits: LimitsView::from(&quota), used: None }))
}

fn name(whose: &Whose) -> String {
    match whose {
        Whose::One(owner) => owner.to_string(),
        Whose::Others => OTHERS.to_owned(),
    }
}

/// The quota that counts for an owner, and what they have.
pub(super) async fn of(api: &Api, owner: &Owner) -> Result<QuotaView, Problem> {
    let own = api.quotas.get(&Whose::One(owner.clone())).await?;
    let counts = match &own {
        Some(own) => Some(own.clone()),
        None => api.quotas.get(&Whose::Others).await?,
    };
    let Running { jobs, cpus_milli, memory_bytes } = quotas::running(&**api.records.store(), owner).await?;
    let limits = counts.as_ref().map(LimitsView::from).unwrap_or_default();
    let queued = match limits.queued {
        Some(_) => Some(api.quotas.queued(owner).await?),
        None => None,
    };
    let stored_bytes = match limits.stored_bytes {
        Some(_) => Some(api.quotas.stored(&api.records, owner).await?),
        None => None,
    };
    let cpus = cpus_milli as f64 / 1_000.0;
    let used = UsedView { running: jobs, cpus, memory_bytes, queued, stored_bytes };
    Ok(QuotaView { owner: owner.to_string(), own: own.is_some(), limits, used: Some(used) })
}

/// Refuses a job that its owner's quota has no room for, or never will.
pub(super) async fn check(api: &Api, owner: &Owner, spec: &JobSpec, input_bytes: u64) -> Result<(), Problem> {
    let Some(quota) = api.quotas.of(owner).await? else { return Ok(()) };
    let alone = quota.may_start(owner, Running::default(), &QueueEntry::fresh(owner, spec));
    alone.map_err(|over| refused(&over).hint("ask for less, or ask an admin of the group for a larger quota"))?;
    if quota.queued.is_some() {
        let over = quota.may_queue(owner, api.quotas.queued(owner).await?);
        over.map_err(|over| refused(&over).hint("wait until some of them run"))?;
    }
    if quota.stored_bytes.is_some() {
        let over = quota.may_store(owner, api.quotas.stored(&api.records, owner).await?, input_bytes);
        over.map_err(|over| refused(&over).hint("finished jobs go by themselves after a while (--keep-finished)"))?;
    }
    Ok(())
}

fn refused(over: &OverQuota) -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "quota", "the job is not accepted", over)
}

/// Why a queued job waits, if it is for its owner's quota.
pub(super) async fn why_it_waits(api: &Api, record: &JobRecord) -> Result<Option<String>, Problem> {
    let Some(quota) = api.quotas.of(&record.owner).await?.filter(Quota::limits_running) else { return Ok(None) };
    let running = quotas::running(&**api.records.store(), &record.owner).await?;
    Ok(quota.may_start(&record.owner, running, &QueueEntry::of(record)).err().map(|over| over.to_string()))
}
