//! Draining: a node that is to take no jobs and to give back those that it has, such as before its machine is switched
//! off. A key stands for it, which the node watches; it outlives the node's restarts.

use std::collections::BTreeMap;

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workrs_core::{
    id::{NodeId, Timestamp},
    keys,
};
use workrs_store::{
    fresh,
    state::{Change, StateError, Transaction, list_keys},
    values,
};

use super::{Api, Problem, extract::Path};
use crate::access::{Caller, Role};

/// Tries to take a drain back while the answers are lost.
const TRIES: u32 = 5;

/// What stands at the key of a node that is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainNote {
    /// Since when.
    pub since: Timestamp,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// Whether a node is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainView {
    /// Its name.
    pub name: String,
    /// Whether it takes no jobs and gives back those that it has.
    pub draining: bool,
    /// Whether it lives now. A drain also counts for its next process.
    pub live: bool,
    /// The jobs that it runs still.
    pub jobs: Vec<String>,
}

/// Drains a node: it takes no more jobs, saves those that it has and gives them back. To ask twice is to ask once.
#[utoipa::path(post, path = "/api/v1/nodes/{name}/drain", params(("name" = String, Path)), responses((status = 200, body = DrainView), (status = "default", body = Problem)))]
pub async fn drain(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<DrainView>, Problem> {
    caller.must_be(Role::Admin)?;
    let node = NodeId::new(name)?;
    let view = known(&api, &node, true).await?;
    let since = fresh::now();
    let note = |known: Option<&DrainNote>| match known {
        Some(_) => None,
        None => Some(DrainNote { since, unknown: BTreeMap::new() }),
    };
    values::update(api.records.store(), &keys::drain(&node), node.as_str(), note).await?;
    Ok(Json(view))
}

/// Lets a node take jobs again. To ask twice is to ask once.
#[utoipa::path(delete, path = "/api/v1/nodes/{name}/drain", params(("name" = String, Path)), responses((status = 200, body = DrainView), (status = "default", body = Problem)))]
pub async fn undo(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<DrainView>, Problem> {
    caller.must_be(Role::Admin)?;
    let node = NodeId::new(name)?;
    let view = known(&api, &node, false).await?;
    let mut tries = 0;
    loop {
        let delete = Transaction { conditions: Vec::new(), changes: vec![Change::Delete(keys::drain(&node))] };
        tries += 1;
        match api.records.store().commit(delete).await {
            Ok(_) => return Ok(Json(view)),
            // To delete it twice does no harm.
            Err(StateError::Unknown(_)) if tries < TRIES => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// How the node stands; a problem if the group knows no such node.
async fn known(api: &Api, node: &NodeId, draining: bool) -> Result<DrainView, Problem> {
    let store = &**api.records.store();
    let processes = list_keys(store, &keys::processes(node)).await?;
    if processes.is_empty() && store.get(&keys::drain(node)).await?.is_none() {
        return Err(Problem::not_found(format!("no live node is named {node}")).hint("see `workrs nodes`"));
    }
    let mut jobs = Vec::new();
    for incarnation in processes.iter().filter_map(|key| keys::incarnation_of(key)) {
        let keys = list_keys(store, &keys::running(&incarnation)).await?;
        jobs.extend(keys.iter().filter_map(|key| keys::job_of_index(key)).map(|job| job.to_string()));
    }
    Ok(DrainView { name: node.to_string(), draining, live: !processes.is_empty(), jobs })
}
