//! The chaos test: many jobs on a few nodes while everything that can be away is away now and then.
//!
//! All is drawn from one seed, which is printed; `WORKRS_CHAOS_SEED` repeats it. What cannot be repeated is how the
//! machine schedules all those processes.

mod plan;
mod submits;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use workrs::api::JobView;

use self::{
    plan::Action,
    submits::{Submit, submit_all},
};
use crate::{
    checker,
    cluster::{self, Cluster},
    host::{self, tell},
    programs::{Run, check_same},
    tools::{Random, wait_until},
};

const NODES: usize = 3;
const MEMBERS: u8 = 3;
const JOBS: usize = 60;
/// How long things are disturbed. Jobs that have not ended by then end in peace.
const LENGTH: Duration = Duration::from_secs(90);
/// Much longer than a node may take to stop: its time to save jobs, and what its goodbyes may take while the stores are
/// away.
const STOPS_WITHIN: Duration = Duration::from_secs(180);
/// A node runs so many jobs at once.
const SLOTS: &str = "4";

#[test]
fn sixty_jobs_survive_whatever_happens_to_their_group() {
    if !cluster::can_run() {
        return;
    }
    let mut random = Random::seeded_by("WORKRS_CHAOS_SEED");
    let mut cluster = Cluster::start(NODES, MEMBERS, &["--cpus", SLOTS, "--disk-pool", "768M", "--stop-timeout", "8s"]);
    let submits = submits::draw(&mut random, JOBS, LENGTH / 2);
    let plan = plan::draw(&mut random, NODES, usize::from(MEMBERS), LENGTH);
    let began = Instant::now();
    let client = cluster.nodes[0].client();
    let servers: Vec<_> = cluster.nodes.iter().map(|node| node.url().to_owned()).collect();
    thread::scope(|scope| {
        let submitter = scope.spawn(|| submit_all(&submits, &client, &servers));
        for (at, action) in plan {
            while began.elapsed() < at {
                revive(&mut cluster);
                thread::sleep(Duration::from_millis(50).min(at.saturating_sub(began.elapsed())));
            }
            tell(&format!("{:5.1} s: {action:?}", began.elapsed().as_secs_f64()));
            perform(&mut cluster, action);
        }
        heal(&mut cluster);
        submitter.join().unwrap();
    });
    tell(&format!("{:5.1} s: all is well again", began.elapsed().as_secs_f64()));
    let jobs = wait_for_all(&mut cluster);
    tell(&format!("{:5.1} s: all jobs have ended", began.elapsed().as_secs_f64()));
    check(&cluster, &submits, &jobs);
    tell(&format!("{:5.1} s: all is proved", began.elapsed().as_secs_f64()));
    for node in &mut cluster.nodes {
        node.terminate();
    }
}

fn perform(cluster: &mut Cluster, action: Action) {
    match action {
        Action::KillNode(node) => cluster.nodes[node].kill(),
        Action::StartNode(node) => cluster.nodes[node].spawn(),
        Action::PauseNode(node) => cluster.nodes[node].pause(),
        Action::ResumeNode(node) => cluster.nodes[node].resume(),
        Action::Cut(node, target) => cluster.cut(node, target),
        Action::Join(node, target) => cluster.join(node, target),
        Action::StopNode(node) => cluster.nodes[node].stop(),
        Action::RestartNode(node) => {
            let asked = Instant::now();
            while cluster.nodes[node].ended().is_none() {
                assert!(asked.elapsed() < STOPS_WITHIN, "node {node} does not stop");
                thread::sleep(Duration::from_millis(20));
            }
            cluster.nodes[node].spawn();
        }
        Action::KillMember(member) => cluster.etcd.kill(member),
        Action::StartMember(member) => cluster.etcd.restart(member),
    }
}

/// Starts nodes that ended by themselves, as a machine's own supervisor would.
fn revive(cluster: &mut Cluster) {
    for node in cluster.nodes.iter_mut().filter(|node| !node.is_stopping()) {
        if let Some(status) = node.ended() {
            let said = node.said();
            let last = said.lines().last().unwrap_or_default();
            tell(&format!("         node {} ended by itself ({status}): {last}", node.name()));
            node.spawn();
        }
    }
}

/// Waits until all nodes and members are there: whatever was disturbed is undone already.
fn heal(cluster: &mut Cluster) {
    for member in 0..usize::from(MEMBERS) {
        cluster.etcd.wait_until_ready(member);
    }
    wait_until("all nodes are in the group", || {
        revive(cluster);
        (cluster.members().len() == NODES).then_some(())
    });
}

fn wait_for_all(cluster: &mut Cluster) -> BTreeMap<String, JobView> {
    wait_until("all jobs have ended", || {
        revive(cluster);
        thread::sleep(Duration::from_millis(500));
        let jobs = cluster.jobs();
        let ended = jobs.len() == JOBS && jobs.iter().all(|job| job.state == "finished");
        ended.then(|| jobs.into_iter().map(|job| (job.id.clone(), job)).collect())
    })
}

fn check(cluster: &Cluster, submits: &[Submit], jobs: &BTreeMap<String, JobView>) {
    let ids: Vec<String> = submits.iter().map(|submit| submit.id.clone()).collect();
    let verdict = checker::check(&cluster.history());
    let total = verdict.total();
    tell(&format!("{} transactions; {total:?}", verdict.transactions));
    verdict.assert_all_succeeded(&ids);
    assert!(total.losses > 0 && total.resumes > 0 && total.checkpoints > 0, "nothing happened: {total:?}");
    let scratch = cluster.scratch();
    for Submit { id, program, .. } in submits {
        let run = Run { log: cluster.log(id), files: cluster.outputs(id) };
        check_same(&format!("{id} ({:?})", jobs[id].attempts), &run, &program.uninterrupted(&scratch));
    }
    wait_until("no checkpoint and no input is left in the blobs", || {
        let left = cluster.needless_blobs();
        thread::sleep(Duration::from_millis(500));
        left.is_empty().then_some(())
    });
    for node in &cluster.nodes {
        let left = host::jobs_on(node.name());
        assert!(left.is_empty(), "node {} runs jobs that have ended: {left:#?}", node.name());
    }
}
