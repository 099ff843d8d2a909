//! Nodes that die, or seem to.

use std::time::Instant;

use workrs::api::JobView;
use workrs_core::job::MAX_CONSECUTIVE_LOSSES;

use crate::{
    checker,
    cluster::{self, Cluster, LEASE},
    host::{self, tell},
    programs::{self, Pace, Program, Run, check_same},
    tools::wait_until,
};

/// A job of some 15 seconds.
pub fn job() -> Program {
    programs::count().at(Pace { steps: 150, pause: 0.1, megabytes: 0 })
}

/// The job ended well with all that an uninterrupted run brings, and so the history says.
pub fn check_whole(cluster: &Cluster, jobs: &[(&str, Program)]) {
    for (id, program) in jobs {
        let view = cluster.succeeded(id);
        let run = Run { log: cluster.log(id), files: cluster.outputs(id) };
        check_same(&format!("{id}: {view:#?}"), &run, &program.uninterrupted(&cluster.scratch()));
    }
    let ids: Vec<String> = jobs.iter().map(|(id, _)| (*id).to_owned()).collect();
    checker::check(&cluster.history()).assert_all_succeeded(&ids);
}

/// From which checkpoint an attempt went on, and which is the newest that the one before made.
fn resumed_from(view: &JobView, epoch: u64) -> (String, String) {
    let attempt = view.attempts.iter().find(|attempt| attempt.epoch == epoch).unwrap();
    let newest = view.checkpoints.iter().rfind(|checkpoint| checkpoint.epoch < epoch).unwrap();
    (attempt.start.clone(), format!("{}-{}", newest.epoch, newest.seq))
}

#[test]
fn a_dead_nodes_job_goes_on_elsewhere_from_its_newest_checkpoint() {
    if !cluster::can_run() {
        return;
    }
    let mut cluster = Cluster::start(2, 1, &[]);
    cluster.submit("job", &job(), "every=1s");
    let first = cluster.checkpointed("job", 3);
    let name = cluster.nodes[first].name().to_owned();
    cluster.nodes[first].kill();
    let killed = Instant::now();
    let second = cluster.running("job", 2);
    let took = killed.elapsed();
    let view = cluster.job("job");
    tell(&format!("a dead node's job went on after {:.1} s, the lease is {} s", took.as_secs_f64(), LEASE.as_secs()));
    let [lost, resumed] = view.attempts.as_slice() else { panic!("{view:#?}") };
    assert_eq!(lost.notes, [format!("node {name} died")]);
    assert_eq!((second, &*resumed.node), (1 - first, cluster.nodes[1 - first].name()));
    let (start, newest) = resumed_from(&view, 2);
    assert_eq!(start, newest, "{view:#?}");
    cluster.nodes[first].restart();
    check_whole(&cluster, &[("job", job())]);
    assert_eq!(cluster.job("job").totals.losses, 1);
}

/// A machine that sleeps, or a process that the kernel does not run for long: it comes back and finds that others went on.
#[test]
fn a_node_that_was_stopped_finds_itself_fenced_and_cleans_up() {
    if !cluster::can_run() {
        return;
    }
    let mut cluster = Cluster::start(2, 1, &[]);
    cluster.submit("job", &job(), "every=1s");
    let first = cluster.checkpointed("job", 2);
    cluster.nodes[first].pause();
    assert_eq!(cluster.running("job", 2), 1 - first);
    let name = cluster.nodes[first].name().to_owned();
    assert!(!host::jobs_on(&name).is_empty(), "the job of a stopped node runs on");
    cluster.nodes[first].resume();
    wait_until("the node that was stopped has ended its job", || host::jobs_on(&name).is_empty().then_some(()));
    wait_until("it is in the group again", || (cluster.members().len() == 2).then_some(()));
    let view = cluster.succeeded("job");
    assert_eq!(view.attempts.len(), 2, "{view:#?}");
    check_whole(&cluster, &[("job", job())]);
}

/// What kills each node that runs it is given up, and not before it has had all its chances.
#[test]
fn a_job_that_kills_its_nodes_ends_as_lost() {
    if !cluster::can_run() {
        return;
    }
    let mut cluster = Cluster::start(1, 1, &[]);
    cluster.submit("poison", &job(), "none");
    for epoch in 1..=u64::from(MAX_CONSECUTIVE_LOSSES) {
        cluster.running("poison", epoch);
        cluster.nodes[0].kill();
        cluster.nodes[0].restart();
    }
    let view = cluster.wait_for("poison", "it is given up", |job| job.state == "finished");
    assert_eq!((view.outcome.as_deref(), view.totals.losses), (Some("lost"), u64::from(MAX_CONSECUTIVE_LOSSES)));
    let faults = checker::check(&cluster.history()).faults;
    assert!(faults.is_empty(), "{faults:#?}");
}
