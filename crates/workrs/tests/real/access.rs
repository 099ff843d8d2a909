//! Who may use a node, and its folder.

use crate::{
    harness::{Images, Node},
    host,
    http::{self, Request},
};

#[test]
fn a_data_folder_is_one_nodes_only() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&[]);
    let job = node.submit(&["--", "sleep", "1000"]);
    node.running(&job);
    let output = node.command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    host::tell(&format!("said: {said}"));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("another") && said.contains(node.data().to_str().unwrap()), "{said}");
    // The first one did not notice.
    assert_eq!(http::get(&format!("{}/readyz", node.url())).unwrap().status, 200);
    let view = node.job(&job);
    assert_eq!((view.state.as_str(), view.totals.attempts), ("running", 1), "{view:#?}");
}

#[test]
fn a_name_is_one_nodes_only_on_a_machine() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&[]);
    let job = node.submit(&["--", "sleep", "1000"]);
    node.running(&job);
    let mut second = host::without_configuration(host::WORKRS);
    second.args(["up", "--listen", "127.0.0.1:0", "--disk-pool", "1G", "--name", node.name()]);
    let output = second.arg("--data-dir").arg(node.scratch().join("second")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    host::tell(&format!("said: {said}"));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("runs on this machine already") && said.contains("--name"), "{said}");
    let view = node.job(&job);
    assert_eq!((view.state.as_str(), view.totals.attempts), ("running", 1), "{view:#?}");
}

#[test]
fn beyond_loopback_a_node_demands_a_token() {
    if !host::can_run() {
        return;
    }
    let options = ["--listen", "0.0.0.0:0"];
    let refused = Node::new(&options, Images::Shared).command().output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    insta::assert_snapshot!(String::from_utf8_lossy(&refused.stderr), @r#"
error: invalid listen: 0.0.0.0:0 can be reached from other machines; set WORKRS_TOKEN to a secret that every request must carry, or listen on 127.0.0.1
hint: see `workrs up --help`
"#);

    let mut node = Node::new(&options, Images::Shared).with_token("a-secret");
    node.restart();
    let jobs = format!("{}/api/v1/jobs", node.url());
    for token in [None, Some("another"), Some("")] {
        let answer = Request::get(&jobs).token(token).send().unwrap();
        assert_eq!(answer.status, 401, "{answer:?}");
        let answer = Request::post(&jobs).token(token).json(r#"{"command": ["true"]}"#).send().unwrap();
        assert_eq!(answer.status, 401, "{answer:?}");
        insta::allow_duplicates! { insta::assert_snapshot!(answer.problem(), @"401: the request is not allowed: it carries no valid token (send the node's token as 'Authorization: Bearer …', or set WORKRS_TOKEN)"); }
    }
    assert_eq!(Request::get(&jobs).token(Some("a-secret")).send().unwrap().status, 200);
    assert_eq!(http::get(&format!("{}/healthz", node.url())).unwrap().status, 200);
    let job = node.submit(&["--", "true"]);
    node.succeeded(&job);
}

#[test]
fn a_page_of_another_site_gets_nothing_done() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&[]);
    let submit = || Request::post(&format!("{}/api/v1/jobs", node.url())).json(r#"{"command": ["true"]}"#);
    assert_eq!(submit().header("origin", "http://evil.example").send().unwrap().status, 403);
    assert_eq!(submit().header("host", "evil.example").send().unwrap().status, 403);
    assert!(node.jobs().is_empty());
}
