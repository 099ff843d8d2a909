//! Tags of JSON answers: a client that has the very same answer already is told so, and sent nothing.

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use workrs_core::hash::ContentHash;

use super::{
    Problem,
    download::{self, is_known},
};

const JSON: &str = "application/json";

/// Tags what a read gives, if it is JSON, by its content.
pub(super) async fn tag(request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let conditions = request.headers().clone();
    let response = next.run(request).await;
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !is_read || response.status() != StatusCode::OK || content_type != Some(JSON) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It lies in memory already.
    let bytes = match to_bytes(body, usize::MAX).await {
        Ok(bytes) => bytes,
        Err(error) => return Problem::bad_request(error).into_response(),
    };
    let tag = download::tag(ContentHash::of(&bytes));
    let Ok(value) = HeaderValue::from_str(&tag) else { return Response::from_parts(parts, Body::from(bytes)) };
    parts.headers.insert(header::ETAG, value);
    // Kept as long as one likes, but asked for again before it is used.
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if is_known(&conditions, &tag) {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(bytes))
}
