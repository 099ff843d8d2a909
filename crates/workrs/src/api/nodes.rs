//! The live nodes.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State};
use workrs_core::keys;
use workrs_store::state::list_keys;

use super::{Api, NodeView, Problem};
use crate::node::NodeInfo;

/// Lists the live nodes and what they run.
#[utoipa::path(get, path = "/api/v1/nodes", responses((status = 200, body = Vec<NodeView>), (status = "default", body = Problem)))]
pub async fn list(State(api): State<Api>) -> Result<Json<Vec<NodeView>>, Problem> {
    let store = &**api.records.store();
    let mut running: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for key in list_keys(store, keys::RUNNING).await? {
        if let (Some(incarnation), Some(job)) = (keys::incarnation_of(&key), keys::job_of_index(&key)) {
            running.entry(incarnation.to_string()).or_default().push(job.to_string());
        }
    }
    let drained: BTreeSet<String> = list_keys(store, keys::DRAINS).await?.into_iter().collect();
    let view = |node: NodeInfo| NodeView {
        jobs: running.get(node.incarnation.as_str()).cloned().unwrap_or_default(),
        draining: node.draining || drained.contains(&keys::drain(&node.name)),
        name: node.name.to_string(),
        incarnation: node.incarnation.to_string(),
        address: node.address,
        version: node.version,
        started_at: node.started_at.as_millis(),
        cpus: f64::from(node.cpus_milli) / 1_000.0,
        memory_bytes: node.memory_bytes,
        disk_bytes: node.disk_bytes,
        labels: node.labels,
        engine: node.engine,
        cannot_run: node.cannot_run,
        cannot_dump: node.cannot_dump,
    };
    Ok(Json(NodeInfo::list(&api.records).await?.into_iter().map(view).collect()))
}
