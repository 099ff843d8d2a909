//! Jobs that meet their limits or end badly, also after their node was killed; jobs that try to take the node along.

use workrs::api::JobView;

use crate::{
    harness::Node,
    host, http,
    tools::{program, wait_until},
};

/// A job that is resumed once and then does `then` (see `then.py`).
fn submit(node: &Node, then: &str, options: &[&str]) -> String {
    let then = format!("THEN={then}");
    node.submit(&[&["--checkpoint", "every=1s", "--env", then.as_str()], options, &[&program("then.py")]].concat())
}

fn check(node: &Node, job: &str, failure: &str, text: &str, code: i32) -> JobView {
    let view = node.finished(job);
    let found = (view.outcome.as_deref(), view.failure.as_deref(), view.outcome_text.as_deref());
    assert_eq!(found, (Some("failed"), Some(failure), Some(text)), "{view:#?}\nits log:\n{}", node.log(job));
    assert_eq!(node.workrs(&["wait", job]).code, Some(code), "{failure}");
    assert_eq!(view.totals.losses, 1, "{view:#?}");
    assert_ne!(view.attempts.last().unwrap().start, "clean", "{view:#?}");
    view
}

#[test]
fn ends_are_told_apart_after_a_resume() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start(&["--disk-pool", "2G"]);
    let exits = submit(&node, "exit", &[]);
    let signalled = submit(&node, "signal", &[]);
    let out_of_memory = submit(&node, "memory", &["--memory", "64M"]);
    let disk_full = submit(&node, "disk", &["--disk", "24M"]);
    let timed_out = submit(&node, "sleep", &["--timeout", "6s"]);
    let all = [&exits, &signalled, &out_of_memory, &disk_full, &timed_out];
    for job in all {
        node.checkpointed(job, 1);
    }
    node.kill();
    node.restart();
    check(&node, &exits, "exit", "failed: exit code 7", 7);
    check(&node, &signalled, "signal", "failed: ended by signal 11", 139);
    check(&node, &out_of_memory, "out_of_memory", "failed: out of memory (limit 64 MiB)", 122);
    check(&node, &disk_full, "disk_full", "failed: disk full (limit 24 MiB)", 123);
    let timed_out = check(&node, &timed_out, "timed_out", "failed: timed out after 6s", 124);
    // Work that was done again does not count: the time-out is on what counts.
    let last = timed_out.attempts.last().unwrap();
    let from = timed_out.checkpoints.iter().find(|c| format!("{}-{}", c.epoch, c.seq) == last.start);
    let in_last_ms = timed_out.finished_at.unwrap() - last.started_at.unwrap();
    let before_ms = from.map_or(0, |checkpoint| checkpoint.run_ms);
    host::tell(&format!("timed out after {before_ms} ms before and {in_last_ms} ms after the resume"));
    assert!(before_ms + in_last_ms >= 6_000, "ended too early: {timed_out:#?}");
}

#[test]
fn a_fork_bomb_and_an_endless_log_leave_the_node_usable() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&["--log-limit", "64K"]);
    let bomb = node.submit(&["--checkpoint", "every=1s", "--cpus", "0.5", &program("fork_bomb.py")]);
    let endless = node.submit(&["--checkpoint", "every=1s", "--cpus", "0.5", "--", "yes"]);
    let marker = "\n[workrs] log limit of 64 KiB reached: the rest is not kept\n";
    wait_until("the log is cut", || node.log(&endless).ends_with(marker).then_some(()));
    wait_until("the bomb met its limit", || node.log(&bomb).contains("no more processes").then_some(()));
    assert_eq!(http::get(&format!("{}/readyz", node.url())).unwrap().status, 200);
    let other = node.submit(&["--", "echo", "still", "here"]);
    node.succeeded(&other);
    assert_eq!(node.log(&other), "still here\n");
    assert_eq!(node.workrs(&["cancel", &bomb]).code, Some(0));
    assert_eq!(node.finished(&bomb).outcome.as_deref(), Some("cancelled"));

    // A log that is cut is checkpointed as it is, and is the same after a resume.
    let mut node = node;
    node.checkpointed(&endless, 1);
    node.kill();
    node.restart();
    let view = node.wait_for(&endless, "it goes on", |job| job.epoch == 2 && job.totals.checkpoints > 1);
    assert_eq!(node.log(&endless).len(), (64 << 10) + marker.len(), "{view:#?}");
    assert_eq!(node.workrs(&["cancel", &endless]).code, Some(0));
    assert_eq!(node.finished(&endless).outcome.as_deref(), Some("cancelled"));
}

#[test]
fn what_cannot_be_dumped_runs_on_and_says_why() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&[]);
    let submit = |what: &str| node.submit(&["--checkpoint", "every=1s", &program("undumpable.py"), what]);
    let (queue, zombie) = (submit("queue"), submit("zombie"));
    for (job, why, log) in [
        (&queue, "criu: ", "done\n"),
        (&zombie, "a process of it ended with exit code 200 and has not been waited for", "waited for 200\ndone\n"),
    ] {
        let view = node.wait_for(job, "a checkpoint failed", |job| job.resumable.yes == Some(false));
        let reason = view.resumable.reason.unwrap();
        host::tell(&format!("said: {reason}"));
        assert!(reason.starts_with(why), "{reason}");
        let view = node.succeeded(job);
        assert_eq!((view.totals.attempts, view.totals.checkpoints), (1, 0), "{view:#?}");
        assert_eq!(node.log(job), log);
    }
}
