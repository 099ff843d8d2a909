//! The live nodes.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Extension, Json, extract::State};
use workrs_core::keys;
use workrs_store::state::list_keys;

use super::{Api, NodeView, Problem, visible};
use crate::{access::Caller, node::NodeInfo};

/// Lists the live nodes and what they run, as far as the caller may see it.
#[utoipa::path(get, path = "/api/v1/nodes", responses((status = 200, body = Vec<NodeView>), (status = "default", body = Problem)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<NodeView>>, Problem> {
    let store = &**api.records.store();
    let keys = list_keys(store, keys::RUNNING).await?;
    let jobs = keys.iter().filter_map(|key| Some((keys::job_of_index(key)?, keys::incarnation_of(key)?)));
    let mut running: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (job, incarnation) in visible::only(&api, &caller, jobs.collect()).await? {
        running.entry(incarnation.to_string()).or_default().push(job.to_string());
    }
    let drained: BTreeSet<String> = list_keys(store, keys::DRAINS).await?.into_iter().collect();
    let view = |node: NodeInfo| NodeView {
        jobs: running.get(node.incarnation.as_str()).cloned().unwrap_or_default(),
        drills: node.drills,
        draining: node.draining || drained.contains(&keys::drain(&node.name)),
        name: node.name.to_string(),
        incarnation: node.incarnation.to_string(),
        address: node.address,
        tls_fingerprint: node.tls_fingerprint.map(|fingerprint| fingerprint.to_string()),
        version: node.version,
        started_at: node.started_at.as_millis(),
        cpus: f64::from(node.cpus_milli) / 1_000.0,
        memory_bytes: node.memory_bytes,
        disk_bytes: node.disk_bytes,
        labels: node.labels,
        network: node.network.to_string(),
        engine: node.engine,
        arch: node.arch,
        cpu_features: node.cpu_features,
        kernel: node.kernel,
        criu: node.criu,
        cannot_run: node.cannot_run,
        cannot_dump: node.cannot_dump,
    };
    Ok(Json(NodeInfo::list(&api.records).await?.into_iter().map(view).collect()))
}
