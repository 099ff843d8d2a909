//! Nodes that must not join.

use crate::{
    cluster::{self, Cluster},
    harness::Said,
    host,
};

#[test]
fn a_node_that_would_harm_the_group_is_refused() {
    if !cluster::can_run() {
        return;
    }
    // Long enough for a machine that is busy: once its lease has ended, a node's name is free.
    let mut cluster = Cluster::start(1, 1, &["--lease", "20s"]);
    let refusal = |said: &Said, reason: &str| {
        assert_ne!(said.code, Some(0), "{said:?}");
        assert!(said.err.contains(reason), "{said:?}");
    };
    let mut local = cluster.stranger();
    local.set_option("--blobs", &format!("file://{}/blobs", local.folder().display()));
    let said = Said::by(&mut local.command());
    refusal(&said, "--blobs-shared");
    let named = cluster.stranger().with_name(cluster.nodes[0].name());
    let said = Said::by(&mut named.command());
    host::tell(&said.err);
    refusal(&said, cluster.nodes[0].name());
}
