//! The web page: what the API gives, drawn as HTML by every node.
//!
//! Handlers ask the API's own functions, so that a person sees and may do exactly what a program could; what changes
//! something is sent by the page's script to the API itself. All text comes out of templates that escape it: whatever a
//! job, a file or a person is called is data. There is no inline script or style, so that the policy that the browser is
//! given can forbid all of it.

mod access;
mod assets;
mod dress;
mod group;
mod job;
mod jobs;
mod login;
mod nodes;
mod parts;
mod percent;
mod plot;
mod story;
mod submit;
#[cfg(test)]
mod tests;
mod timeline;
mod viewer;
mod words;

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use self::viewer::Viewer;
pub(crate) use self::{dress::dress, jobs::home, login::login};
use crate::api::{Api, Problem};

/// The pages.
pub(crate) fn router() -> Router<Api> {
    Router::new()
        .route("/jobs/new", get(submit::form))
        .route("/jobs/{id}", get(job::page))
        .route("/nodes", get(nodes::page))
        .route("/group", get(group::page))
        .route("/access", get(access::page))
        .layer(Extension(Arc::new(group::Cache::default())))
}

/// What the pages are made of; anybody may have it, as it says nothing of the group.
pub(crate) fn assets() -> Router<Api> {
    Router::new().route("/assets/{name}", get(assets::serve))
}

/// What stands around every page.
struct Shell {
    title: String,
    /// Which part of the page this is, as its address begins.
    section: &'static str,
    viewer: Viewer,
}

impl Shell {
    fn new(title: impl Into<String>, section: &'static str, viewer: impl Into<Viewer>) -> Self {
        Self { title: title.into(), section, viewer: viewer.into() }
    }

    /// `page` for the link to the section that is shown.
    fn current(&self, section: &str) -> &'static str {
        if self.section == section { "page" } else { "false" }
    }

    /// The address of an asset, which changes with its content.
    #[allow(clippy::unused_self, reason = "templates call what they are given")]
    fn asset(&self, name: &str) -> String {
        assets::address(name)
    }
}

/// Draws a template.
fn html(template: &impl Template) -> Response {
    html_with(StatusCode::OK, template)
}

fn html_with(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => {
            // It shows what was the case when it was asked for, to whom it was shown.
            let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
            (status, headers, text).into_response()
        }
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "node-failed", "the page cannot be drawn", error)
            .into_response(),
    }
}

/// Whether only the part that changes is asked for, by the script of a page that is open.
fn is_part(headers: &HeaderMap) -> bool {
    headers.contains_key("hx-request") && !headers.contains_key("hx-history-restore-request")
}

/// Whether a page is asked for, or something by the script of one that is open.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    wants_html(headers) || headers.contains_key("hx-request")
}

/// Whether a person with a browser asks, rather than a program.
fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|kind| kind.trim().split(';').next() == Some("text/html"))
}
