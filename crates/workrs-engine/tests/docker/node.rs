//! What happens to jobs whose node or daemon has trouble.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use workrs_engine::{ContainerEnd, Engine, conformance, docker, preflight};

use crate::{
    daemon::Dockerd,
    suite::{NODE, count, leftovers, on_engine, on_socket, open, start, wait_for_line},
};

pub fn what_docker_is_told_to_end_is_no_fault_of_the_job(daemon: &Dockerd) {
    for signal in ["TERM", "KILL"] {
        on_engine(daemon, async |engine| {
            let (container, mut output) = start(&engine, &conformance::spec("stopped", 1, count(1000, 20))).await;
            wait_for_line(&mut output).await;
            let id = daemon.containers().remove(0);
            daemon.docker(&["kill", "--signal", signal, &id]);
            assert_eq!(container.wait().await, ContainerEnd::Vanished, "after SIG{signal}");
            container.destroy().await.unwrap();
        });
    }
}

pub fn a_daemon_that_is_not_set_up_is_told(_: &Dockerd) {
    let daemon = Dockerd::with_configuration("{}");
    let program = Path::new("/usr/local/bin/workrs");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let findings = runtime.block_on(preflight::check_docker(&daemon.socket(), program));
    let found = preflight::capabilities(&findings);
    assert_eq!(found.run.unwrap_err(), "Docker's runtime: Docker's configuration has no runtime workrs");
    let checkpoints = findings.last().unwrap();
    assert!(checkpoints.detail.contains("\"experimental\""), "{checkpoints:?}");
    assert!(checkpoints.hint.contains(&docker::configuration(program)), "{checkpoints:?}");
}

/// A node with two jobs, one of them frozen, that waits to be killed.
pub fn node_process(socket: &Path) {
    on_socket(socket, async |engine| {
        let (_running, _output) = start(&engine, &conformance::spec("running", 1, count(100_000, 20))).await;
        let (frozen, _output) = start(&engine, &conformance::spec("frozen", 1, count(100_000, 20))).await;
        let _frozen = frozen.freeze().await.unwrap();
        println!("ready");
        tokio::time::sleep(Duration::from_secs(300)).await;
    });
}

/// Starts a node and waits until it runs its jobs. It has mounts of its own, unlike the daemon.
fn spawn_node(daemon: &Dockerd) -> Child {
    let unshare = ["--mount", "--propagation", "slave"];
    let mut node = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .arg("as-node")
        .arg(daemon.socket())
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
        let node = Path::new("/sys/fs/cgroup").join(tree).join("workrs").join(NODE);
        for entry in std::fs::read_dir(node).into_iter().flatten().flatten() {
            let list = std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
            all.extend(list.lines().map(str::to_owned));
        }
    }
    all
}

pub fn a_dead_node_leaves_nothing_running(daemon: &Dockerd) {
    let mut node = spawn_node(daemon);
    node.kill().unwrap();
    node.wait().unwrap();
    let killed = Instant::now();
    while !processes().is_empty() {
        assert!(killed.elapsed() < Duration::from_secs(180), "the guard did not end the jobs");
        std::thread::sleep(Duration::from_millis(5));
    }
    next_node_sweeps(daemon);
}

pub fn a_node_that_starts_sweeps(daemon: &Dockerd) {
    let mut node = spawn_node(daemon);
    // The guard dies, too: nobody but the next node can end the jobs.
    for child in children(node.id()) {
        kill_process(child, Signal::KILL).unwrap();
    }
    node.kill().unwrap();
    node.wait().unwrap();
    assert!(!processes().is_empty());
    next_node_sweeps(daemon);
}

fn next_node_sweeps(daemon: &Dockerd) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = open(&daemon.socket()).await;
        assert_eq!(engine.sweep().await.unwrap(), ["frozen-1", "running-1"]);
        assert!(processes().is_empty());
        assert_eq!(leftovers(daemon), Vec::<String>::new());
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
