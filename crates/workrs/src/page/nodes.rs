//! The nodes: what each has, runs and is known to suffer, and what an operator may do with it.

use std::collections::BTreeMap;

use askama::{Template, filters::HtmlSafe};
use axum::{Extension, extract::State, http::HeaderMap, response::Response};
use futures::{StreamExt, stream};
use workrs_core::{id::JobId, plan::Observed};

use super::{
    Shell, Viewer, html, is_part,
    parts::{Progress, When},
    words,
};
use crate::{
    access::Caller,
    api::{Api, JobView, NodeView, Problem, inside},
    node,
};

/// Running jobs of which more than the id is shown.
const MAX_JOBS: usize = 300;
/// Records that are read at once.
const READS_AT_ONCE: usize = 16;

#[derive(Template)]
#[template(path = "nodes.html")]
struct NodesPage {
    shell: Shell,
    part: NodesPart,
}

/// What changes while the page is open.
#[derive(Template)]
#[template(path = "nodes_part.html")]
struct NodesPart {
    nodes: Vec<Node>,
    summary: String,
    is_admin: bool,
}

impl HtmlSafe for NodesPart {}

struct Node {
    name: String,
    /// For addresses.
    component: String,
    class: &'static str,
    word: &'static str,
    /// Why it runs no jobs, or cannot save them.
    warning: Option<String>,
    address: String,
    engine: String,
    system: String,
    version: String,
    since: When,
    labels: Vec<(String, String)>,
    network: Option<String>,
    cpus: Load,
    memory: Load,
    faults: String,
    jobs: Vec<RunningJob>,
    /// Jobs of others, which this viewer may not see, or that are too many.
    other_jobs: u64,
    draining: bool,
    allows_drills: bool,
}

/// How much of something jobs have been given.
struct Load {
    percent: u8,
    text: String,
}

impl Load {
    fn new(used: f64, all: f64, text: String) -> Self {
        let share = if all > 0.0 { used / all } else { 0.0 };
        Self { percent: (share * 100.0).round().clamp(0.0, 100.0) as u8, text }
    }
}

struct RunningJob {
    id: String,
    name: String,
    progress: Option<Progress>,
    running_for: Option<String>,
    can_drill: bool,
}

pub(super) async fn page(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let part = part(&api, &caller).await?;
    Ok(if is_part(&headers) {
        html(&part)
    } else {
        html(&NodesPage { shell: Shell::new("Nodes", "nodes", &caller), part })
    })
}

async fn part(api: &Api, caller: &Caller) -> Result<NodesPart, Problem> {
    let viewer = Viewer::from(caller);
    let nodes = inside::live_nodes(api, caller).await?;
    let faults = node::known_faults(api.records.store()).await?;
    let ids = nodes.iter().flat_map(|node| &node.jobs).take(MAX_JOBS).filter_map(|id| JobId::new(id.clone()).ok());
    let jobs: BTreeMap<String, JobView> = stream::iter(ids.collect::<Vec<_>>())
        .map(|id| async move { api.records.get(&id).await })
        .buffer_unordered(READS_AT_ONCE)
        .filter_map(|record| async move { record.ok().flatten() })
        .map(|record| (record.id.to_string(), JobView::from(&record)))
        .collect()
        .await;
    let now = words::now();
    let running = nodes.iter().map(|node| node.jobs.len() as u64).sum();
    let summary = format!("{}, {} running", words::count(nodes.len() as u64, "node"), words::count(running, "job"));
    let nodes = nodes.into_iter().map(|node| Node::new(node, &jobs, &faults, &viewer, now)).collect();
    Ok(NodesPart { nodes, summary, is_admin: viewer.is_admin })
}

impl Node {
    fn new(
        node: NodeView,
        jobs: &BTreeMap<String, JobView>,
        faults: &BTreeMap<String, Observed>,
        viewer: &Viewer,
        now: u64,
    ) -> Self {
        let running: Vec<_> = node.jobs.iter().filter_map(|id| jobs.get(id)).collect();
        let asked = |field: &str| running.iter().filter_map(|job| job.spec[field].as_f64()).sum::<f64>();
        let (cpus, memory) = (asked("cpus_milli") / 1_000.0, asked("memory_bytes"));
        let (class, word) = match (&node.cannot_run, node.draining) {
            (Some(_), _) => ("failed", "runs no jobs"),
            (None, true) => ("queued", "drained"),
            (None, false) => ("succeeded", "up"),
        };
        let allows_drills = node.drills && viewer.is_admin;
        let running = running.into_iter().filter(|job| viewer.may_see(&job.owner));
        let shown: Vec<_> = running.map(|job| RunningJob::new(job, allows_drills, now)).collect();
        let kernel = if node.kernel.is_empty() { String::new() } else { format!(", Linux {}", node.kernel) };
        let criu = if node.criu.is_empty() { String::new() } else { format!(", CRIU {}", node.criu) };
        Self {
            component: words::component(&node.name),
            class,
            word,
            warning: node.cannot_run.or(node.cannot_dump),
            address: node.address,
            engine: node.engine,
            system: format!("{}{kernel}{criu}", node.arch),
            version: node.version,
            since: When::new(node.started_at, now),
            labels: node.labels.into_iter().collect(),
            network: Some(node.network).filter(|network| network != "none"),
            cpus: Load::new(cpus, node.cpus, format!("{cpus} of {} cores", node.cpus)),
            memory: Load::new(
                memory,
                node.memory_bytes as f64,
                format!("{} of {}", words::size(memory as u64), words::size(node.memory_bytes)),
            ),
            faults: told(faults.get(&node.name).copied()),
            other_jobs: node.jobs.len() as u64 - shown.len() as u64,
            jobs: shown,
            draining: node.draining,
            allows_drills,
            name: node.name,
        }
    }
}

impl RunningJob {
    fn new(job: &JobView, can_drill: bool, now: u64) -> Self {
        let progress = Progress::of(job, now);
        let started = job.attempts.last().and_then(|attempt| attempt.started_at);
        Self {
            id: job.id.clone(),
            name: job.name.clone(),
            running_for: started.filter(|_| progress.is_none()).map(|at| words::age(now.saturating_sub(at))),
            progress,
            can_drill,
        }
    }
}

/// What is known of a node's faults, in words.
fn told(seen: Option<Observed>) -> String {
    let seen = seen.unwrap_or_default();
    let up = words::span_s(seen.seconds);
    match seen.faults {
        0 if seen.seconds < 1.0 => "nothing is known yet".to_owned(),
        0 => format!("none in {up} up"),
        faults => {
            let every = words::span_s(seen.seconds / faults as f64);
            format!("{} in {up} up, one in {every}", words::count(faults, "fault"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_rates_are_told_as_seen() {
        assert_eq!(told(None), "nothing is known yet");
        assert_eq!(told(Some(Observed { faults: 0, seconds: 7_200.0 })), "none in 2 h up");
        assert_eq!(told(Some(Observed { faults: 2, seconds: 7_200.0 })), "2 faults in 2 h up, one in 1 h");
    }
}
