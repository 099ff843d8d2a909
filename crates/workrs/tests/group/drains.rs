//! Nodes that are drained or told to stop, one after the other.

use workrs::api::JobView;

use crate::{
    cluster::{self, Cluster},
    deaths::{check_whole, job},
    programs::{self, Pace},
    tools::wait_until,
};

/// Every attempt but the last ended because its node gave the job back.
fn saved(view: &JobView) -> bool {
    let former = &view.attempts[..view.attempts.len() - 1];
    former.iter().all(|attempt| attempt.notes.iter().any(|note| note.starts_with("released: ")))
}

#[test]
fn a_drained_node_moves_its_jobs_and_takes_none() {
    if !cluster::can_run() {
        return;
    }
    let cluster = Cluster::start(2, 1, &[]);
    // Nothing is saved but by the drain.
    cluster.submit("job", &job(), "every=1h");
    let first = cluster.running("job", 1);
    let name = cluster.nodes[first].name().to_owned();
    wait_until("it has done something", || (cluster.log("job").lines().count() > 10).then_some(()));
    cluster.succeed(&["drain", &name]);
    let other = cluster.nodes[1 - first].name().to_owned();
    let view = cluster.wait_for("job", "another node has it", |job| job.node.as_deref() == Some(&other));
    assert!(saved(&view), "{view:#?}");
    assert_eq!(view.attempts.last().unwrap().start, "1-1", "{view:#?}");
    // Neither does it take new ones.
    let short = || programs::pipeline().at(Pace { steps: 10, pause: 0.1, megabytes: 0 });
    cluster.submit("other", &short(), "every=1h");
    let view = cluster.succeeded("other");
    assert!(view.attempts.iter().all(|attempt| attempt.node == other), "{view:#?}");
    check_whole(&cluster, &[("job", job()), ("other", short())]);
    let view = cluster.job("job");
    assert_eq!((view.totals.attempts, view.totals.losses), (2, 0), "{view:#?}");
}

#[test]
fn a_rolling_restart_of_the_whole_group_loses_no_work() {
    if !cluster::can_run() {
        return;
    }
    let mut cluster = Cluster::start(3, 3, &[]);
    let names: Vec<_> = (0..4).map(|number| format!("job-{number}")).collect();
    let program = |number: usize| {
        let pace = Pace { steps: 200 + number as u32, pause: 0.1, megabytes: 0 };
        if number.is_multiple_of(2) { programs::count().at(pace) } else { programs::pipeline().at(pace) }
    };
    for (number, id) in names.iter().enumerate() {
        cluster.submit(id, &program(number), "every=1h");
    }
    for id in &names {
        cluster.running(id, 1);
    }
    for node in 0..3 {
        cluster.nodes[node].terminate();
        cluster.nodes[node].restart();
    }
    let jobs: Vec<_> = names.iter().enumerate().map(|(number, id)| (id.as_str(), program(number))).collect();
    check_whole(&cluster, &jobs);
    let views: Vec<_> = names.iter().map(|id| cluster.job(id)).collect();
    assert!(views.iter().all(|view| view.totals.losses == 0 && saved(view)), "{views:#?}");
    assert!(views.iter().any(|view| view.totals.attempts > 1), "no job was on any node: {views:#?}");
}
