//! The audit trail: takes notes of requests, and shows them to admins.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Json,
    extract::{MatchedPath, Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use workrs_core::{id::Timestamp, spec::parse_duration};
use workrs_store::fresh;

use super::{Api, Problem, access::is_safe, extract::Query, login::address, problem::ProblemKind};
use crate::access::{Access, AuditNote, Caller, Role, audit};

/// The longest part of a path that is noted.
const LONGEST: usize = 256;
const MAX_PAGE: usize = 500;

/// Notes every request that changes something, and every one that is refused.
pub(super) async fn note(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    // Nothing changes where there is no route.
    let Some(route) = request.extensions().get::<MatchedPath>() else { return next.run(request).await };
    let note = AuditNote {
        at: fresh::now(),
        owner: None,
        token: None,
        address: Some(address(request.extensions())).filter(|address| !address.is_unspecified()),
        action: format!("{} {}", request.method(), route.as_str()),
        target: request.uri().path().chars().take(LONGEST).collect(),
        status: None,
        problem: None,
        repeated: 0,
    };
    let is_change = !is_safe(request.method());
    let mut unanswered = Unanswered { access: &access, note: is_change.then(|| note.clone()) };
    let response = next.run(request).await;
    unanswered.note = None;
    let is_refused = matches!(response.status().as_u16(), 401 | 403 | 429);
    if response.status() == StatusCode::SERVICE_UNAVAILABLE && is_change {
        // The store does not answer: there is nothing to wait for.
        access.trail().note_later(answered(note, &response));
    } else if is_change || is_refused {
        access.trail().note(answered(note, &response)).await;
    }
    response
}

/// The note of a change that is under way. If its client leaves before the answer, the change may have been made.
struct Unanswered<'a> {
    access: &'a Access,
    note: Option<AuditNote>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(note) = self.note.take() {
            self.access.trail().note_later(note);
        }
    }
}

fn answered(mut note: AuditNote, response: &Response) -> AuditNote {
    let extensions = response.extensions();
    if let Some(caller) = extensions.get::<Caller>() {
        (note.owner, note.token) = (Some(caller.owner.clone()), caller.token.clone());
    }
    // Where there is now what was made.
    let made = response.headers().get(header::LOCATION).filter(|_| response.status() == StatusCode::CREATED);
    if let Some(made) = made.and_then(|made| made.to_str().ok()) {
        made.clone_into(&mut note.target);
    }
    note.status = Some(response.status().as_u16());
    note.problem = extensions.get::<ProblemKind>().map(|ProblemKind(kind)| kind.clone());
    note
}

/// Which notes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only those of the last so long, such as `24h`; all otherwise.
    pub(super) since: Option<String>,
    /// Behind this id.
    pub(super) after: Option<String>,
    /// At most this many, 100 by default, 500 at most.
    pub(super) limit: Option<usize>,
}

/// Who changed what, or was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Of the note; ids sort by time.
    pub id: String,
    /// When it was asked for; milliseconds since 1970-01-01T00:00:00Z.
    pub at: u64,
    /// Who asked, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// By which of the group's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Method and route.
    pub action: String,
    /// The path, or what was made.
    pub target: String,
    /// How it was answered; nothing if nobody waited for the answer, so that it may have happened or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The kind of problem, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How many refusals like it came before it and were not noted.
    #[serde(default)]
    pub repeated: u32,
}

impl AuditView {
    fn new(id: String, note: AuditNote) -> Self {
        Self {
            id,
            at: note.at.as_millis(),
            owner: note.owner.map(String::from),
            token: note.token.map(String::from),
            address: note.address.map(|address: IpAddr| address.to_string()),
            action: note.action,
            target: note.target,
            status: note.status,
            problem: note.problem,
            repeated: note.repeated,
        }
    }
}

/// Some of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The notes, the oldest first.
    pub notes: Vec<AuditView>,
    /// For `after`, if there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Shows who changed what, and who was refused, the oldest first. For admins.
#[utoipa::path(get, path = "/api/v1/audit", params(AuditQuery), responses((status = 200, body = AuditPage), (status = "default", body = Problem)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditPage>, Problem> {
    caller.must_be(Role::Admin)?;
    let limit = query.limit.unwrap_or(100).clamp(1, MAX_PAGE);
    let since = query
        .since
        .as_deref()
        .map(parse_duration)
        .transpose()
        .map_err(|error| Problem::bad_request(error).field("since"))?;
    let since = since.map(|since| {
        let ago = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        audit::before(Timestamp::from_millis(fresh::now().as_millis().saturating_sub(ago)))
    });
    // Ids sort by time, so the later of both is right.
    let after = since.into_iter().chain(query.after).max().unwrap_or_default();
    let notes = audit::read(api.records.store(), &after, limit).await?;
    let next = notes.last().filter(|_| notes.len() == limit).map(|(id, _)| id.clone());
    Ok(Json(AuditPage { notes: notes.into_iter().map(|(id, note)| AuditView::new(id, note)).collect(), next }))
}
