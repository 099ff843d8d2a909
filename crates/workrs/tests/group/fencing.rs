//! Jobs whose doings can be seen outside, on nodes that may have lost them.

use crate::{
    cluster::{self, Cluster, Target},
    deaths::{check_whole, job},
    host,
    programs::Program,
    tools::wait_until,
};

const OPEN: [&str; 2] = ["--allow-network", "host"];

fn with_network() -> Program {
    job().with(&["--network", "host"])
}

/// Whoever could see both would see one that stands still and one that runs, never two that run.
#[test]
fn a_stopped_nodes_job_with_network_stands_still_before_another_node_has_it() {
    if !cluster::can_run() {
        return;
    }
    let mut cluster = Cluster::start(2, 1, &OPEN);
    cluster.submit("job", &with_network(), "every=1s");
    let first = cluster.checkpointed("job", 2);
    let name = cluster.nodes[first].name().to_owned();
    cluster.nodes[first].pause();
    cluster.wait_for("job", "it is taken from the node", |job| job.epoch > 1 || job.state == "queued");
    assert!(host::is_frozen(&name, "job-1"), "its job runs on");
    assert_eq!(cluster.running("job", 2), 1 - first);
    assert!(host::is_frozen(&name, "job-1"), "its job runs on");
    cluster.nodes[first].resume();
    wait_until("the node that was stopped has ended its job", || host::jobs_on(&name).is_empty().then_some(()));
    wait_until("it is in the group again", || (cluster.members().len() == 2).then_some(()));
    let view = cluster.succeeded("job");
    assert_eq!(view.attempts.len(), 2, "{view:#?}");
    check_whole(&cluster, &[("job", with_network())]);
}

/// Nobody else took it: it goes on where it stood.
#[test]
fn a_job_with_network_of_a_node_that_is_cut_off_goes_on_once_it_is_known_whose_it_is() {
    if !cluster::can_run() {
        return;
    }
    let cluster = Cluster::start(1, 1, &OPEN);
    cluster.submit("job", &with_network(), "every=1s");
    cluster.checkpointed("job", 2);
    let name = cluster.nodes[0].name().to_owned();
    cluster.cut(0, Target::Etcd);
    wait_until("its job stands still", || host::is_frozen(&name, "job-1").then_some(()));
    cluster.join(0, Target::Etcd);
    wait_until("its job goes on", || (!host::is_frozen(&name, "job-1")).then_some(()));
    check_whole(&cluster, &[("job", with_network())]);
    let view = cluster.job("job");
    assert_eq!((view.totals.attempts, view.totals.losses), (1, 0), "{view:#?}");
}

/// Where jobs may not use the network nobody claims one that asks for it, and where none may the submit says so.
#[test]
fn a_job_with_network_goes_where_the_operator_allows_it() {
    if !cluster::can_run() {
        return;
    }
    let mut cluster = Cluster::start(2, 1, &[]);
    let arguments = ["submit", "--network", "host", "--disk", "32M", "--id", "early", "--", "true"];
    let refused = cluster.workrs(&arguments);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("no node of the group lets jobs use its network"), "{refused:?}");
    assert!(refused.err.contains("--allow-network host"), "{refused:?}");
    cluster.nodes[1].terminate();
    cluster.nodes[1].set_option("--allow-network", "host");
    cluster.nodes[1].restart();
    for id in ["a", "b", "c"] {
        cluster.succeed(&["submit", "--network", "host", "--disk", "32M", "--id", id, "--", "true"]);
    }
    for id in ["a", "b", "c"] {
        let view = cluster.succeeded(id);
        assert_eq!(view.attempts.last().map(|last| last.node.as_str()), Some(cluster.nodes[1].name()), "{view:#?}");
        assert_eq!((view.plan.policy.as_str(), view.spec["network"].as_str()), ("files", Some("host")));
    }
}
