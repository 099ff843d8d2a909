//! What the page asks for: the same as the routes give, without HTTP in between.

use axum::{Extension, extract::State};
use workrs_core::id::JobId;

use super::{
    Api, AuditView, NodeView, OutputsView, Problem, QuotaView, TokenView,
    audit::{self, AuditQuery},
    extract::Query,
    nodes, outputs, quotas, tokens,
};
use crate::access::Caller;

pub(crate) use super::jobs::{find as find_job, view as view_of_job};

/// The outputs of a job that has finished.
pub(crate) async fn outputs_of(api: &Api, caller: &Caller, id: &JobId) -> Result<OutputsView, Problem> {
    let found = outputs::index(api, caller, id).await?;
    Ok(found.map(|(_, files)| files.into()).unwrap_or_default())
}

/// The live nodes, with the jobs that the caller may see.
pub(crate) async fn live_nodes(api: &Api, caller: &Caller) -> Result<Vec<NodeView>, Problem> {
    Ok(nodes::list(State(api.clone()), Extension(caller.clone())).await?.0)
}

/// The names of the group's images.
pub(crate) async fn image_names(api: &Api) -> Result<Vec<String>, Problem> {
    Ok(api.images.list().await?.into_iter().flat_map(|image| image.names).collect())
}

/// All tokens.
pub(crate) async fn tokens(api: &Api, caller: &Caller) -> Result<Vec<TokenView>, Problem> {
    Ok(tokens::list(State(api.clone()), Extension(caller.clone())).await?.0)
}

/// All quotas.
pub(crate) async fn quotas(api: &Api, caller: &Caller) -> Result<Vec<QuotaView>, Problem> {
    Ok(quotas::list(State(api.clone()), Extension(caller.clone())).await?.0)
}

/// The newest notes of the last day's audit trail, the newest first.
pub(crate) async fn newest_audit(api: &Api, caller: &Caller, count: usize) -> Result<Vec<AuditView>, Problem> {
    const PAGE: usize = 500;
    let mut newest = std::collections::VecDeque::new();
    let mut after = None;
    loop {
        let query = AuditQuery { since: Some("1d".to_owned()), after: after.take(), limit: Some(PAGE) };
        let page = audit::list(State(api.clone()), Extension(caller.clone()), Query(query)).await?.0;
        newest.extend(page.notes);
        newest.drain(..newest.len().saturating_sub(count));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(newest.into_iter().rev().collect()),
        }
    }
}
