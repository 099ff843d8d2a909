//! Errors as RFC 9457 problem documents, with types that programs can rely on.

use std::fmt::Display;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workrs_core::{
    id::InvalidName,
    job::IllegalEvent,
    spec::{InvalidScript, InvalidSpec, InvalidUnit},
};
use workrs_store::{blobs::BlobError, records::RecordError, state::StateError};

use super::kinds;
use crate::node::InvalidPath;

/// What went wrong, why, and what to do.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:workrs:problem:<kind>`, stable.
    #[serde(rename = "type")]
    pub kind: String,
    /// What failed.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Why.
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The request's field that is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Problem {
    /// A problem of a stable `kind`.
    pub fn new(status: StatusCode, kind: &str, title: &str, detail: impl Display) -> Self {
        debug_assert!(
            kinds::find(kind).is_some_and(|known| known.status == status.as_u16()),
            "{kind} with {status} is not on the list of kinds (api/kinds.rs)"
        );
        Self {
            kind: format!("urn:workrs:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.to_string(),
            hint: None,
            field: None,
        }
    }

    /// Whether another node may answer otherwise, or this one later.
    pub fn is_passing(&self) -> bool {
        let passing = [":registry-unavailable", ":rate-limited"];
        self.status == StatusCode::SERVICE_UNAVAILABLE.as_u16() || passing.iter().any(|kind| self.kind.ends_with(kind))
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the field at fault.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The request cannot be understood.
    pub fn bad_request(detail: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "the request cannot be understood", detail)
    }

    /// What was asked for cannot be.
    pub fn invalid(field: &str, detail: impl Display) -> Self {
        // A person sees title and detail: "must be longer than zero" alone would not say what.
        let detail = format!("{field}: {detail}");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-job", "the job cannot be accepted", detail).field(field)
    }

    /// The body is longer than what this takes.
    pub fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "the request is too large",
            "its body is longer than what this address takes",
        )
    }

    /// There is no such thing.
    pub fn not_found(what: impl Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is no such thing", what)
    }
}

/// The kind of problem that an answer tells of, in its extensions: for whoever takes notes.
#[derive(Debug, Clone)]
pub(super) struct ProblemKind(pub(super) String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = self.kind.rsplit(':').next().unwrap_or_default().to_owned();
        let mut response = (status, Json(self)).into_response();
        response.extensions_mut().insert(ProblemKind(kind));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl From<InvalidSpec> for Problem {
    fn from(error: InvalidSpec) -> Self {
        Self::invalid(error.field, error.reason)
    }
}

impl From<InvalidUnit> for Problem {
    fn from(error: InvalidUnit) -> Self {
        Self::invalid("quantity", error)
    }
}

impl From<InvalidScript> for Problem {
    fn from(error: InvalidScript) -> Self {
        Self::invalid("script", error)
    }
}

impl From<InvalidPath> for Problem {
    fn from(error: InvalidPath) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-path", "a file name cannot be used", error)
    }
}

impl From<InvalidName> for Problem {
    fn from(error: InvalidName) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-name", "the name cannot be used", error)
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::NotFound => Self::not_found("no job has this id"),
            RecordError::IdTaken => Self::new(
                StatusCode::CONFLICT,
                "id-taken",
                "the id belongs to another job",
                "a job with this id but another content exists",
            )
            .hint("leave the id out, or choose another one"),
            RecordError::Illegal(error @ (IllegalEvent::WrongState { .. } | IllegalEvent::Contradiction(_))) => {
                Self::new(StatusCode::CONFLICT, "wrong-state", "the job is not in a state for this", error)
            }
            RecordError::Illegal(IllegalEvent::Fenced { .. }) | RecordError::GuardFailed => {
                Self::new(StatusCode::CONFLICT, "conflict", "somebody else changed the job", error)
            }
            RecordError::Unavailable(reason) => unavailable("state", reason),
            RecordError::Damaged(reason) => damaged(reason),
        }
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Damaged(reason) => damaged(reason),
            error => unavailable("state", error),
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Full(reason) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage-full", "there is no space left", reason)
                    .hint("free space in the blob store, or hand over less; nothing was accepted")
            }
            BlobError::Missing(_) | BlobError::Mismatch(_) => damaged(error),
            error => unavailable("blob", error),
        }
    }
}

/// A store does not answer.
pub(super) fn unavailable(store: &str, reason: impl Display) -> Problem {
    let title = format!("the {store} store cannot be reached");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &title, reason)
        .hint("try again; a submit with the same id is done at most once")
}

fn damaged(reason: impl Display) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", "stored data is damaged", reason)
}
