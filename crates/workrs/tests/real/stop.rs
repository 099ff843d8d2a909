//! Nodes that are told to stop.

use crate::{
    harness::Node,
    host,
    tools::{program, wait_until},
};

const STEPS: u32 = 150;

fn count(node: &Node, checkpoint: &str) -> String {
    let steps = format!("STEPS={STEPS}");
    node.submit(&["--checkpoint", checkpoint, "--env", &steps, "--env", "PAUSE=0.05", &program("count.py")])
}

fn lines() -> String {
    (1..=STEPS).map(|n| format!("{n}\n")).collect()
}

fn ids_after<'a>(said: &'a str, beginning: &str) -> Vec<&'a str> {
    let line = said.lines().find_map(|line| line.strip_prefix(beginning));
    line.map(|ids| ids.trim().split(", ").collect()).unwrap_or_default()
}

#[test]
fn a_node_that_stops_saves_its_jobs() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start(&[]);
    // No checkpoint is due before the node stops: all that is kept is what stopping saves.
    let saved = count(&node, "every=1h");
    let unsaved = count(&node, "none");
    let of_files = node.submit(&["--checkpoint", "files", &program("own_state.py")]);
    for job in [&saved, &unsaved, &of_files] {
        node.running(job);
    }
    wait_until("all have done something", || {
        [&saved, &unsaved, &of_files].iter().all(|job| node.log(job).lines().count() > 10).then_some(())
    });
    let said = node.terminate();
    let mut said_saved = ids_after(&said, "saved with all their work: ");
    said_saved.sort_unstable();
    let mut expected = [saved.as_str(), of_files.as_str()];
    expected.sort_unstable();
    assert_eq!(said_saved, expected, "{said}");
    assert_eq!(ids_after(&said, "released at their last checkpoint: "), [&unsaved], "{said}");
    node.restart();
    check_saved(&node, &saved);
    check_unsaved(&node, &unsaved);
    check_own_state(&node, &of_files);
}

/// What every node is checked for at its end would be found, and is gone without a next node to clean up.
#[test]
fn a_killed_node_leaves_no_process_mount_or_loop_device() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start(&[]);
    let job = node.submit(&["--", "sleep", "1000"]);
    node.running(&job);
    let leftovers = host::leftovers(node.name(), &node.folder());
    for kind in ["process", "a mount", "loop device", "cgroup"] {
        assert!(leftovers.iter().any(|found| found.starts_with(kind)), "no {kind}: {leftovers:#?}");
    }
    assert!(leftovers.iter().any(|found| found.contains("sleep 1000")), "{leftovers:#?}");
    node.kill();
    wait_until("only cgroups are left", || {
        let left = host::leftovers(node.name(), &node.folder());
        left.iter().all(|found| found.starts_with("cgroup")).then_some(())
    });
}

fn check_saved(node: &Node, job: &str) {
    let view = node.succeeded(job);
    let [first, second] = view.attempts.as_slice() else { panic!("{view:#?}") };
    assert_eq!((first.start.as_str(), second.start.as_str()), ("clean", "1-1"), "{view:#?}");
    assert_eq!(first.notes, [format!("released: node {} stopped, all work saved", node.name())]);
    assert_eq!(view.totals.losses, 0);
    assert_eq!(node.log(job), lines());
    assert_eq!(node.outputs(job)["lines"], lines().into_bytes());
    // No work is done again: the time that the steps take is spent once, but for what starting takes.
    let run_ms = view.checkpoints[0].run_ms + view.finished_at.unwrap() - second.started_at.unwrap();
    host::tell(&format!("a job of {} s of steps ran for {run_ms} ms over a stop", f64::from(STEPS) * 0.05));
    assert!(u64::from(STEPS) * 50 <= run_ms + 100, "steps are missing: {view:#?}");
}

fn check_unsaved(node: &Node, job: &str) {
    let view = node.succeeded(job);
    let [first, second] = view.attempts.as_slice() else { panic!("{view:#?}") };
    assert_eq!(second.start, "clean", "{view:#?}");
    let note = format!("released: node {} stopped, no time or no way to save the newest work", node.name());
    assert_eq!(first.notes, [note]);
    assert_eq!(node.log(job), lines());
}

/// The program was started anew and went on from what it had written itself.
fn check_own_state(node: &Node, job: &str) {
    let view = node.succeeded(job);
    let [_, second] = view.attempts.as_slice() else { panic!("{view:#?}") };
    assert_eq!((second.start.as_str(), view.checkpoints[0].mode.as_str()), ("1-1", "files"), "{view:#?}");
    let log = node.log(job);
    let starts: Vec<_> = log.lines().filter(|line| line.starts_with("start")).collect();
    assert_eq!(starts.len(), 2, "{log}");
    assert_eq!(starts[0], "start at 0");
    let from: u32 = starts[1].strip_prefix("start at ").unwrap().parse().unwrap();
    assert!(from >= 9, "{log}");
    assert_eq!(node.outputs(job)["state"], b"150");
    // The step in hand when the node stopped may be printed again, as its count was not written yet.
    let mut steps: Vec<u32> = log.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(steps.len() <= 151, "{log}");
    steps.dedup();
    assert!(steps.into_iter().eq(1..=150), "{log}");
}
