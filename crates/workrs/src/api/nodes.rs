//! Nodes, and the figures that operators watch.

use std::{collections::BTreeMap, fmt::Write};

use axum::{Json, extract::State, http::header, response::IntoResponse};
use workrs_core::keys;

use super::{Api, NodeView, Problem};
use crate::{metrics, node::NodeInfo};

const PAGE: usize = 500;

/// Lists the live nodes and what they run.
#[utoipa::path(get, path = "/api/v1/nodes", responses((status = 200, body = Vec<NodeView>), (status = "default", body = Problem)))]
pub async fn list(State(api): State<Api>) -> Result<Json<Vec<NodeView>>, Problem> {
    let mut running: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for key in list_keys(&api, keys::RUNNING).await? {
        if let (Some(incarnation), Some(job)) = (keys::incarnation_of(&key), keys::job_of_index(&key)) {
            running.entry(incarnation.to_string()).or_default().push(job.to_string());
        }
    }
    let view = |node: NodeInfo| NodeView {
        jobs: running.get(node.incarnation.as_str()).cloned().unwrap_or_default(),
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

async fn list_keys(api: &Api, prefix: &str) -> Result<Vec<String>, Problem> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let page = api.records.store().list(prefix, all.last().map(String::as_str), PAGE).await?;
        all.extend(page.entries.into_iter().map(|entry| entry.key));
        if !page.more {
            return Ok(all);
        }
    }
}

/// Figures in the form that Prometheus reads.
pub async fn metrics(State(api): State<Api>) -> Result<impl IntoResponse, Problem> {
    let queued = list_keys(&api, keys::QUEUE).await?.len();
    let running = list_keys(&api, keys::RUNNING).await?.len();
    let nodes = list_keys(&api, keys::NODES).await?.len();
    let mut text = metrics::render();
    for (name, help, value) in [
        ("workrs_group_jobs_queued", "Jobs that wait for a node.", queued),
        ("workrs_group_jobs_running", "Jobs that a node holds.", running),
        ("workrs_group_nodes", "Live nodes.", nodes),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

/// Whether this node can do its work: its state store answers.
pub async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    api.records.store().list(keys::NODES, None, 1).await?;
    Ok("ready\n")
}
