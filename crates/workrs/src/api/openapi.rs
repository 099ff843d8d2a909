//! The API's description, made from the code.

use axum::Json;
use utoipa::OpenApi;

use super::{DrainView, JobPage, JobView, NodeView, OutputsView, Problem, SubmitRequest};

#[derive(OpenApi)]
#[openapi(
    info(title = "Workrs", description = "Hands compute jobs to a group of edge nodes and never loses their work."),
    paths(
        super::submit::submit,
        super::jobs::list,
        super::jobs::show,
        super::jobs::cancel,
        super::jobs::run_on,
        super::logs::logs,
        super::logs::live,
        super::outputs::list,
        super::outputs::file,
        super::nodes::list,
        super::drain::drain,
        super::drain::undo,
        super::events::stream,
    ),
    components(schemas(DrainView, JobPage, JobView, NodeView, OutputsView, Problem, SubmitRequest))
)]
struct Document;

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

pub(super) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
