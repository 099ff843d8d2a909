//! Nodes that differ: a job is resumed where its checkpoint fits, and its record says why it waits.

use crate::{
    cluster::{self, Cluster},
    deaths::{check_whole, job},
};

/// What the nodes say that their processors can do, instead of what they find out.
const NEW: &str = "cpu-features=here,new";
const OLD: &str = "cpu-features=here";

#[test]
fn a_job_resumes_only_where_the_processor_can_do_what_it_may_rely_on() {
    if !cluster::can_run() {
        return;
    }
    let mut cluster = Cluster::start(2, 1, &["--label", NEW, "--unfit-wait", "1h"]);
    cluster.submit("job", &job(), "every=1s");
    let first = cluster.checkpointed("job", 2);
    let second = 1 - first;
    cluster.nodes[second].terminate();
    cluster.nodes[second].set_option("--label", OLD);
    cluster.nodes[second].restart();
    cluster.nodes[first].kill();

    let old = cluster.nodes[second].name().to_owned();
    let why = format!("{old}: its processor lacks new; ");
    let says =
        |reason: &String| reason.starts_with("waits for a node that fits checkpoint 1-") && reason.contains(&why);
    let view = cluster.wait_for("job", "it says why it waits", |job| job.reason.as_ref().is_some_and(says));
    assert_eq!((view.state.as_str(), view.attempts.len(), view.totals.losses), ("queued", 1, 1), "{view:#?}");
    let needs = view.checkpoints.last().unwrap().needs.clone().unwrap();
    assert!(needs.starts_with("engine runc, ") && needs.ends_with(", a processor with here new"), "{needs}");

    // Its node comes back, as a new process that fits.
    cluster.nodes[first].restart();
    check_whole(&cluster, &[("job", job())]);
    let view = cluster.job("job");
    let last = view.attempts.last().unwrap();
    assert_eq!((last.node.as_str(), view.attempts.len()), (cluster.nodes[first].name(), 2), "{view:#?}");
    assert_ne!(last.start, "clean", "{view:#?}");
    assert!(last.notes.iter().any(|note| note.contains(&why[..why.len() - 2])), "{view:#?}");
}

#[test]
fn a_job_that_no_node_fits_for_long_starts_clean_and_says_why() {
    if !cluster::can_run() {
        return;
    }
    let mut cluster = Cluster::start(2, 1, &["--label", NEW, "--unfit-wait", "1s"]);
    cluster.submit("job", &job(), "every=1s");
    let first = cluster.checkpointed("job", 2);
    let second = 1 - first;
    cluster.nodes[second].terminate();
    cluster.nodes[second].set_option("--label", OLD);
    cluster.nodes[second].restart();
    cluster.nodes[first].kill();

    check_whole(&cluster, &[("job", job())]);
    let view = cluster.job("job");
    let last = view.attempts.last().unwrap();
    let old = cluster.nodes[second].name();
    assert_eq!((last.node.as_str(), last.start.as_str(), view.attempts.len()), (old, "clean", 2), "{view:#?}");
    let notes = last.notes.join("\n");
    assert!(notes.contains(&format!("no node fits it: {old}: its processor lacks new")), "{notes}");
    assert!(notes.contains("no good checkpoint is left: clean start"), "{notes}");
}
