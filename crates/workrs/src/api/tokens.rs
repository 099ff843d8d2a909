//! Tokens: make, list, revoke. For admins.

use axum::{
    Extension, Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workrs_core::{
    id::{Owner, Timestamp, TokenId},
    spec::parse_duration,
};
use workrs_store::fresh;

use super::{
    Api, Problem,
    extract::{JsonBody, Path},
};
use crate::access::{Caller, NewToken, Role, TokenNote, TokenState};

/// What a token is to allow, and to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Who will show it: their jobs are theirs.
    pub owner: String,
    /// What they may do.
    pub role: Role,
    /// For how long it counts, such as `30d`; for ever if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// What is known of a token; not the token itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Its id, which is part of it.
    pub id: String,
    /// Who shows it.
    pub owner: String,
    /// What they may do.
    pub role: Role,
    /// `valid`, `expired` or `revoked`.
    pub state: String,
    /// When it was made; milliseconds since 1970-01-01T00:00:00Z, as all times.
    pub created_at: u64,
    /// Who made it.
    pub created_by: String,
    /// When it expires, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// When it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<u64>,
}

impl TokenView {
    fn new(id: &TokenId, note: &TokenNote) -> Self {
        let state = match note.state(fresh::now()) {
            TokenState::Valid => "valid",
            TokenState::Expired => "expired",
            TokenState::Revoked => "revoked",
        };
        Self {
            id: id.to_string(),
            owner: note.owner.to_string(),
            role: note.role,
            state: state.to_owned(),
            created_at: note.created_at.as_millis(),
            created_by: note.created_by.to_string(),
            expires_at: note.expires_at.map(Timestamp::as_millis),
            revoked_at: note.revoked_at.map(Timestamp::as_millis),
        }
    }
}

/// A new token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCreatedView {
    /// The token itself, which is shown this once.
    pub token: String,
    /// What is known of it.
    #[serde(flatten)]
    #[schema(inline)]
    pub view: TokenView,
}

/// Makes a token. The group's first has to be an admin's: from then on every request needs one.
#[utoipa::path(post, path = "/api/v1/tokens", request_body(content = TokenRequest), responses((status = 201, body = TokenCreatedView), (status = "default", body = Problem)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<TokenRequest>,
) -> Result<Response, Problem> {
    caller.must_be(Role::Admin)?;
    let lasts = request
        .expires
        .as_deref()
        .map(parse_duration)
        .transpose()
        .map_err(|error| Problem::bad_request(error).field("expires"))?;
    if lasts.is_some_and(|lasts| lasts.is_zero()) {
        return Err(Problem::bad_request("a token cannot expire before it is used").field("expires"));
    }
    let owner = Owner::new(request.owner).map_err(|error| Problem::from(error).field("owner"))?;
    let new = NewToken { owner, role: request.role, lasts, created_by: caller.owner };
    let (id, note, token) = api.access.tokens().create(new, !api.access.has_node_token()).await?;
    let location = [(header::LOCATION, format!("/api/v1/tokens/{id}"))];
    let view = TokenCreatedView { token, view: TokenView::new(&id, &note) };
    Ok((StatusCode::CREATED, location, Json(view)).into_response())
}

/// Lists all tokens, the oldest first, also those that count no more.
#[utoipa::path(get, path = "/api/v1/tokens", responses((status = 200, body = Vec<TokenView>), (status = "default", body = Problem)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<TokenView>>, Problem> {
    caller.must_be(Role::Admin)?;
    let tokens = api.access.tokens().list().await?;
    Ok(Json(tokens.iter().map(|(id, note)| TokenView::new(id, note)).collect()))
}

/// Revokes a token: within a second no node lets it in. To ask twice is to ask once.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", params(("id" = String, Path)), responses((status = 200, body = TokenView), (status = "default", body = Problem)))]
pub async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<TokenView>, Problem> {
    caller.must_be(Role::Admin)?;
    let id = TokenId::new(id)?;
    let note = api.access.tokens().revoke(&id, !api.access.has_node_token()).await?;
    Ok(Json(TokenView::new(&id, &note)))
}
