//! The API's description, made from the code.

use std::sync::LazyLock;

use axum::Json;
use serde_json::Value;
use utoipa::OpenApi;

use super::{
    AuditPage, AuditView, DrainView, DrillView, ImageView, JobPage, JobView, LimitsView, MeView, NodeView, OutputsView,
    Problem, PullRequest, PulledView, QuotaRequest, QuotaView, RemovedView, SubmitRequest, TokenCreatedView,
    TokenRequest, TokenView, UsedView, contract,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Workrs", description = "Hands compute jobs to a group of edge nodes and never loses their work."),
    paths(
        super::submit::submit,
        super::jobs::list,
        super::jobs::show,
        super::jobs::cancel,
        super::jobs::run_on,
        super::jobs::remove,
        super::logs::logs,
        super::logs::live,
        super::outputs::list,
        super::outputs::file,
        super::images::list,
        super::images::pull,
        super::images::import,
        super::images::remove,
        super::nodes::list,
        super::drain::drain,
        super::drain::undo,
        super::drill::drill,
        super::events::stream,
        super::quotas::list,
        super::quotas::show,
        super::quotas::set,
        super::quotas::remove,
        super::quotas::show_default,
        super::quotas::set_default,
        super::quotas::remove_default,
        super::audit::list,
        super::me::show,
        super::tokens::create,
        super::tokens::list,
        super::tokens::revoke,
        super::health::alive,
        super::health::ready,
        super::health::metrics,
        super::root,
        serve,
    ),
    components(schemas(
        AuditPage,
        AuditView,
        DrainView,
        DrillView,
        ImageView,
        JobPage,
        JobView,
        LimitsView,
        MeView,
        NodeView,
        OutputsView,
        Problem,
        PullRequest,
        PulledView,
        QuotaRequest,
        QuotaView,
        RemovedView,
        SubmitRequest,
        TokenCreatedView,
        TokenRequest,
        TokenView,
        UsedView
    ))
)]
struct Document;

/// The OpenAPI document.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
        contract::complete(&mut document);
        document
    });
    &DOCUMENT
}

/// This document: the description of all that a node answers.
#[utoipa::path(get, path = "/api/openapi.json", operation_id = "openapi", responses((status = 200, content_type = "application/json", body = Object)))]
pub(super) async fn serve() -> Json<&'static Value> {
    Json(document())
}
