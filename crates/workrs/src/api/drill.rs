//! Fault drills: a node, or a job on it, is made to fail, to see that the work goes on. Where the node's operator allows it.

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use workrs_core::{
    id::{JobId, NodeId},
    keys,
};
use workrs_store::fresh;

use super::{
    Api, Problem,
    extract::{Path, Query},
};
use crate::{
    access::{Caller, Role},
    node::{self, Drill, DrillNote, NodeInfo},
};

/// What is to fail.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DrillQuery {
    /// `node`: its process is killed; `job`: one of its jobs is lost.
    #[param(pattern = "^(node|job)$")]
    kind: String,
    /// Which job.
    #[param(max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    job: Option<String>,
}

/// A drill that a node was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillView {
    /// The node.
    pub name: String,
    /// `node` or `job`.
    pub kind: String,
    /// Which job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// Kills a node's process, or makes it lose one of its jobs, which then goes on from its newest checkpoint. For admins, and
/// only where the node was started with `--allow-drills`. The node does it within moments of the answer.
#[utoipa::path(post, path = "/api/v1/nodes/{name}/drill", params(("name" = String, Path), DrillQuery), responses((status = 202, body = DrillView, description = "the node was asked"), (status = "default", body = Problem)))]
pub async fn drill(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(query): Query<DrillQuery>,
) -> Result<(StatusCode, Json<DrillView>), Problem> {
    caller.must_be(Role::Admin)?;
    let name = NodeId::new(name)?;
    let drill = match (query.kind.as_str(), query.job) {
        ("node", None) => Drill::Node,
        ("node", Some(_)) => return Err(Problem::not_found("a drill of kind node has no job").field("job")),
        ("job", Some(job)) => Drill::Job { job: JobId::new(job)? },
        ("job", None) => return Err(Problem::not_found("a drill of kind job needs a job").field("job")),
        (other, _) => return Err(Problem::bad_request(format!("{other:?} is not one of node, job")).field("kind")),
    };
    let nodes = NodeInfo::list(&api.records).await?;
    let node = nodes.into_iter().find(|node| node.name == name);
    let node =
        node.ok_or_else(|| Problem::not_found(format!("no live node is named {name}")).hint("see `workrs nodes`"))?;
    if !node.drills {
        let detail = format!("{name} was started without --allow-drills");
        return Err(Problem::new(StatusCode::CONFLICT, "no-drills", "the node allows no fault drills", detail)
            .hint("start it with --allow-drills"));
    }
    if let Drill::Job { job } = &drill {
        let key = format!("{}{job}", keys::running(&node.incarnation));
        if api.records.store().get(&key).await?.is_none() {
            return Err(Problem::not_found(format!("{name} does not run a job with the id {job}")));
        }
    }
    let view = DrillView {
        name: name.to_string(),
        kind: query.kind,
        job: match &drill {
            Drill::Job { job } => Some(job.to_string()),
            Drill::Node => None,
        },
    };
    tracing::warn!(node = %name, owner = %caller.owner, ?drill, "a fault drill was asked for");
    let note = DrillNote { id: fresh::id(), incarnation: node.incarnation, drill, at: fresh::now(), taken: false };
    node::ask_for_drill(api.records.store(), &name, &note).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}
