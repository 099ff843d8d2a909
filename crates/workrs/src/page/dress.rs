//! Errors in the dress of the page, for whoever asks with a browser.

use askama::Template;
use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{StatusCode, header},
    middleware::Next,
    response::Response,
};

use super::{Shell, Viewer, html_with, wants_html};
use crate::api::Problem;

/// The longest problem that is drawn.
const MAX_PROBLEM: usize = 64 << 10;

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    shell: Shell,
    problem: Problem,
}

/// Draws problems as pages where a person with a browser asked for a page.
pub(crate) async fn dress(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_page = !path.starts_with("/api/") && !path.starts_with("/assets/");
    if !is_page || !wants_html(request.headers()) || request.headers().contains_key("hx-request") {
        return next.run(request).await;
    }
    let response = next.run(request).await;
    let is_problem = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/problem+json"));
    if !is_problem {
        return response;
    }
    let (head, body) = response.into_parts();
    let problem =
        to_bytes(body, MAX_PROBLEM).await.ok().and_then(|bytes| serde_json::from_slice::<Problem>(&bytes).ok());
    let Some(problem) = problem else { return Response::from_parts(head, Body::empty()) };
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Who asks may be what is wrong.
    let shell = Shell::new(problem.title.clone(), "", Viewer::nobody());
    let mut drawn = html_with(status, &ErrorPage { shell, problem });
    // What else the answer said, such as when to try again, still holds.
    for (name, value) in head.headers {
        if let Some(name) = name.filter(|name| *name != header::CONTENT_TYPE && *name != header::CONTENT_LENGTH) {
            drawn.headers_mut().append(name, value);
        }
    }
    drawn
}
