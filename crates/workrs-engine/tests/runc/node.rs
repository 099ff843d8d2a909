//! What happens to jobs whose node dies.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use workrs_engine::{Engine, conformance};

use crate::{
    limits::start,
    suite::{count, leftovers, on_engine},
};

/// A node with two jobs, one of them frozen, that waits to be killed.
pub fn node_process() {
    on_engine(async |engine| {
        let (_running, _output) = start(&engine, &conformance::spec("running", 1, count(100_000, 20))).await;
        let (frozen, _output) = start(&engine, &conformance::spec("frozen", 1, count(100_000, 20))).await;
        let _frozen = frozen.freeze().await.unwrap();
        println!("ready");
        tokio::time::sleep(Duration::from_secs(300)).await;
    });
}

/// Starts a node and waits until it runs its jobs. It has mounts of its own, as every node.
fn spawn_node() -> Child {
    let unshare = ["--mount", "--propagation", "slave"];
    let mut node = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .arg("as-node")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(node.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert!(!processes().is_empty());
    node
}

/// Everything in the cgroups of the node's jobs.
fn processes() -> Vec<String> {
    let mut all = Vec::new();
    for tree in ["freezer", ""] {
        let node = Path::new("/sys/fs/cgroup").join(tree).join("workrs").join(crate::suite::NODE);
        for entry in std::fs::read_dir(node).into_iter().flatten().flatten() {
            let list = std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
            all.extend(list.lines().map(str::to_owned));
        }
    }
    all
}

pub fn a_dead_node_leaves_nothing_running() {
    let mut node = spawn_node();
    node.kill().unwrap();
    node.wait().unwrap();
    let killed = Instant::now();
    while !processes().is_empty() {
        assert!(killed.elapsed() < Duration::from_secs(180), "the guard did not end the jobs");
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("the guard ended the jobs within {:?}", killed.elapsed());
    next_node_sweeps();
}

pub fn a_node_that_starts_sweeps() {
    let mut node = spawn_node();
    // The guard dies, too: nobody but the next node can end the jobs.
    for child in children(node.id()) {
        kill_process(child, Signal::KILL).unwrap();
    }
    node.kill().unwrap();
    node.wait().unwrap();
    assert!(!processes().is_empty());
    next_node_sweeps();
}

fn next_node_sweeps() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = crate::suite::config(Path::new(crate::suite::DATA), crate::suite::NODE);
        let engine = workrs_engine::runc::RuncEngine::open(config).await.unwrap();
        assert_eq!(engine.sweep().await.unwrap(), ["frozen-1", "running-1"]);
        assert!(processes().is_empty());
        assert_eq!(leftovers(), Vec::<String>::new());
        assert_eq!(engine.sweep().await.unwrap(), Vec::<String>::new());
    });
}

fn children(parent: u32) -> Vec<Pid> {
    let list = std::fs::read_dir(format!("/proc/{parent}/task"))
        .unwrap()
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let list: Vec<String> = list.collect();
    list.iter().flat_map(|line| line.split_whitespace()).filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
