//! Jobs that are cancelled, wherever they stand.

use std::time::{Duration, Instant};

use workrs::api::JobView;

use crate::{
    harness::Node,
    host::{self, tell},
    tools::{program, wait_until},
};

/// What the product promises on a machine that does nothing else.
const PROMISED: Duration = Duration::from_secs(2);

fn cancel(node: &Node, job: &str, state: &str) -> JobView {
    let began = Instant::now();
    let said = node.workrs(&["cancel", job]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let view = wait_until("the job is cancelled", || Some(node.job(job)).filter(|view| view.state == "finished"));
    let took = began.elapsed();
    tell(&format!("cancelled a job that was {state} in {} ms (promised: {PROMISED:?})", took.as_millis()));
    assert_eq!(view.outcome.as_deref(), Some("cancelled"), "{state}: {view:#?}");
    assert_eq!(node.workrs(&["wait", job]).code, Some(120));
    view
}

#[test]
fn a_job_is_cancelled_wherever_it_stands() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start(&["--label", "here=yes", "--disk-pool", "2G"]);
    let queued = node.submit(&["--constraint", "here=no", "--", "sleep", "1000"]);
    cancel(&node, &queued, "queued");

    let starting = node.submit(&["--", "sleep", "1000"]);
    node.wait_for(&starting, "it is claimed", |job| job.state == "running");
    cancel(&node, &starting, "starting");

    let running = node.submit(&["--", "sleep", "1000"]);
    node.running(&running);
    cancel(&node, &running, "running");

    let big = big(&node, "every=1s");
    node.checkpointed(&big, 1);
    // Dumps of it follow each other closely: what is cancelled is most likely in one.
    let other = self::big(&node, "every=1s");
    node.checkpointed(&other, 1);
    wait_until("it is frozen", || is_frozen(&node, &big).then_some(()));
    cancel(&node, &big, "in the middle of a checkpoint");

    node.kill();
    node.restart();
    node.wait_for(&other, "it is claimed again", |job| job.epoch == 2);
    let cancelled = cancel(&node, &other, "being restored");
    tell(&format!(
        "the restore had {}",
        if cancelled.attempts[1].started_at.is_some() { "ended" } else { "not ended" }
    ));
}

fn big(node: &Node, checkpoint: &str) -> String {
    let options = ["--checkpoint", checkpoint, "--env", "STEPS=10000", "--env", "PAUSE=0.1", "--env", "MEGABYTES=300"];
    node.submit(&[&options[..], &[&program("memory.py")]].concat())
}

/// Whether the job's processes are frozen right now.
fn is_frozen(node: &Node, job: &str) -> bool {
    host::cgroups(node.name()).iter().any(|group| {
        let group = group.join(format!("{job}-1"));
        let read = |file: &str| std::fs::read_to_string(group.join(file)).unwrap_or_default();
        read("freezer.state").starts_with("FROZEN") || read("cgroup.events").contains("frozen 1")
    })
}
