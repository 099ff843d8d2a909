//! Nodes that are cut off from etcd or S3, and etcd that is away.

use workrs::api::JobView;

use crate::{
    cluster::{self, Cluster, LEASE, Target},
    deaths::{check_whole, job},
    host,
    tools::wait_until,
};

/// How much the job has printed behind `offset`, as the node that runs it knows.
fn printed(cluster: &Cluster, at: usize, id: &str, offset: usize) -> usize {
    let answer = cluster.ask(at, &format!("/api/v1/jobs/{id}/logs?offset={offset}"));
    answer.ok().filter(|answer| answer.status == 200).map_or(0, |answer| answer.body.len())
}

/// Asks until node `at` answers a request with 503 and a problem that says which store it cannot reach.
fn wait_for_problem(cluster: &Cluster, at: usize, path: &str, store: &str) {
    wait_until(&format!("{path} says what is wrong"), || {
        let answer = cluster.ask(at, path).ok().filter(|answer| answer.status == 503)?;
        assert_eq!(answer.kind, "application/problem+json", "{answer:?}");
        assert!(answer.problem().contains(store), "{answer:?}");
        Some(())
    });
}

#[test]
fn a_node_that_is_cut_off_from_etcd_is_fenced_and_cleans_up() {
    if !cluster::can_run() {
        return;
    }
    let cluster = Cluster::start(2, 1, &[]);
    cluster.submit("job", &job(), "every=1s");
    let first = cluster.checkpointed("job", 2);
    cluster.cut(first, Target::Etcd);
    let other = cluster.nodes[1 - first].name().to_owned();
    let is_taken =
        |job: &JobView| job.attempts.last().is_some_and(|last| last.node == other && last.started_at.is_some());
    wait_until("another node has resumed it", || {
        let answer = cluster.ask(1 - first, "/api/v1/jobs/job").ok().filter(|answer| answer.status == 200)?;
        is_taken(&serde_json::from_str(&answer.body).unwrap()).then_some(())
    });
    let name = cluster.nodes[first].name();
    assert!(!host::jobs_on(name).is_empty(), "a job without network runs on where it is");
    cluster.join(first, Target::Etcd);
    wait_until("the node that was cut off has ended its job", || host::jobs_on(name).is_empty().then_some(()));
    wait_until("it is in the group again", || (cluster.members().len() == 2).then_some(()));
    check_whole(&cluster, &[("job", job())]);
}

/// Nobody else is there to take its job.
#[test]
fn a_node_alone_that_is_cut_off_from_etcd_goes_on_without_loss() {
    if !cluster::can_run() {
        return;
    }
    let cluster = Cluster::start(1, 1, &[]);
    cluster.submit("job", &job(), "every=1s");
    cluster.checkpointed("job", 2);
    cluster.cut(0, Target::Etcd);
    wait_for_problem(&cluster, 0, "/api/v1/jobs/job", "state");
    std::thread::sleep(LEASE * 3);
    assert!(!host::jobs_on(cluster.nodes[0].name()).is_empty(), "the job runs on");
    cluster.join(0, Target::Etcd);
    check_whole(&cluster, &[("job", job())]);
    let view = cluster.job("job");
    assert_eq!((view.totals.attempts, view.totals.losses), (1, 0), "{view:#?}");
}

#[test]
fn while_s3_is_away_jobs_run_on_and_checkpoints_wait() {
    if !cluster::can_run() {
        return;
    }
    let cluster = Cluster::start(1, 1, &[]);
    cluster.submit("job", &job(), "every=1s");
    cluster.checkpointed("job", 2);
    let before = cluster.log("job").len();
    cluster.cut(0, Target::S3);
    wait_for_problem(&cluster, 0, "/readyz", "blob");
    let checkpoints = cluster.job("job").totals.checkpoints;
    wait_until("the job runs on", || (printed(&cluster, 0, "job", before) > 20).then_some(()));
    assert!(cluster.job("job").totals.checkpoints <= checkpoints + 1, "one may have been on its way");
    cluster.join(0, Target::S3);
    cluster.wait_for("job", "checkpoints go on", |job| job.totals.checkpoints > checkpoints + 1);
    check_whole(&cluster, &[("job", job())]);
    let view = cluster.job("job");
    assert_eq!((view.totals.attempts, view.totals.losses), (1, 0), "{view:#?}");
}

#[test]
fn while_etcd_is_away_jobs_run_on_and_all_catches_up() {
    if !cluster::can_run() {
        return;
    }
    let mut cluster = Cluster::start(2, 1, &[]);
    cluster.submit("job", &job(), "every=1s");
    let holder = cluster.checkpointed("job", 2);
    cluster.etcd.kill(0);
    for node in 0..2 {
        wait_for_problem(&cluster, node, "/api/v1/jobs/job", "state");
    }
    std::thread::sleep(LEASE * 2);
    assert!(!host::jobs_on(cluster.nodes[holder].name()).is_empty(), "the job runs on");
    cluster.etcd.restart(0);
    let checkpoints = 3;
    cluster.wait_for("job", "checkpoints go on", |job| job.totals.checkpoints > checkpoints);
    check_whole(&cluster, &[("job", job())]);
    let view = cluster.job("job");
    assert_eq!((view.totals.attempts, view.totals.losses), (1, 0), "{view:#?}");
}

/// While a node is cut off the member that it spoke to dies; the others, to which it has old connections, live.
#[test]
fn a_node_finds_etcd_again_after_a_cut_during_which_a_member_died() {
    if !cluster::can_run() {
        return;
    }
    let mut cluster = Cluster::start(1, 3, &[]);
    for round in 0..3 {
        cluster.cut(0, Target::Etcd);
        std::thread::sleep(LEASE / 4);
        cluster.etcd.kill(round);
        wait_for_problem(&cluster, 0, "/readyz", "state");
        std::thread::sleep(LEASE * 3);
        cluster.etcd.restart(round);
        cluster.join(0, Target::Etcd);
        let began = std::time::Instant::now();
        wait_until("the node is ready again", || {
            cluster.ask(0, "/readyz").ok().filter(|answer| answer.status == 200).map(drop)
        });
        host::tell(&format!("found again after {:.1} s", began.elapsed().as_secs_f64()));
    }
}
