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
    let mut cluster = Cluster::start(1, 1, &[]);
    let refusal = |said: &Said, reason: &str| {
        assert_ne!(said.code, Some(0), "{said:?}");
        assert!(said.err.contains(reason), "{said:?}");
    };
    let mut local = cluster.stranger();
    local.set_option("--blobs", &format!("file://{}/blobs", local.folder().display()));
    let said = Said::of(&local.command().output().unwrap());
    refusal(&said, "--blobs-shared");
    let named = cluster.stranger().with_name(cluster.nodes[0].name());
    let said = Said::of(&named.command().output().unwrap());
    host::tell(&said.err);
    refusal(&said, cluster.nodes[0].name());
}
