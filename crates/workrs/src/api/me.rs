//! Who asks.

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workrs_core::id::Timestamp;

use super::{Api, Problem, QuotaView, quotas};
use crate::access::{Caller, Role};

/// Who asks, and what they may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MeView {
    /// Whose jobs theirs are.
    pub owner: String,
    /// What they may do.
    pub role: Role,
    /// The id of their token, if it is one of the group's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When it expires, if it does; milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// What their owner may have of the group, and has.
    pub quota: QuotaView,
}

/// Tells who asks, and what they may do.
#[utoipa::path(get, path = "/api/v1/me", responses((status = 200, body = MeView), (status = "default", body = Problem)))]
pub async fn show(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<MeView>, Problem> {
    let expires_at = match &caller.token {
        Some(id) => api.access.tokens().get(id).await?.and_then(|note| note.expires_at),
        None => None,
    };
    Ok(Json(MeView {
        owner: caller.owner.to_string(),
        role: caller.role,
        token: caller.token.as_ref().map(ToString::to_string),
        expires_at: expires_at.map(Timestamp::as_millis),
        quota: quotas::of(&api, &caller.owner).await?,
    }))
}
