//! Who may use a node, and its folder.

use crate::{
    harness::{Images, Node, Said},
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
    let Said { code, err: said, .. } = Said::by(&mut node.command());
    host::tell(&format!("said: {said}"));
    assert_eq!(code, Some(1), "{said}");
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
    let Said { code, err: said, .. } = Said::by(second.arg("--data-dir").arg(node.scratch().join("second")));
    host::tell(&format!("said: {said}"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("runs on this machine already") && said.contains("--name"), "{said}");
    let view = node.job(&job);
    assert_eq!((view.state.as_str(), view.totals.attempts), ("running", 1), "{view:#?}");
}

#[test]
fn beyond_loopback_a_node_demands_a_token_and_tls() {
    if !host::can_run() {
        return;
    }
    let options = ["--listen", "0.0.0.0:0", "--tls", "self-made"];
    let refused = Said::by(&mut Node::new(&options, Images::Shared).command());
    assert_eq!(refused.code, Some(1));
    insta::assert_snapshot!(refused.err, @r#"
error: invalid listen: 0.0.0.0:0 can be reached from other machines; set WORKRS_TOKEN to a secret that every request must carry, or listen on 127.0.0.1
hint: see `workrs up --help`
"#);

    let plain = Said::by(&mut Node::new(&options[..2], Images::Shared).with_token("a-secret").command());
    assert_eq!(plain.code, Some(1));
    insta::assert_snapshot!(plain.err, @r#"
error: invalid listen: 0.0.0.0:0 can be reached from other machines, and whoever is on the way could read what goes there, tokens too; use --tls self-made, or --tls-cert and --tls-key for a certificate of yours, or --insecure where nobody else is on the network
hint: see `workrs up --help`
"#);

    let mut node = Node::new(&options, Images::Shared).with_token("a-secret");
    node.restart();
    assert!(node.url().starts_with("https://"), "{}", node.said());
    // Its name is found in the list, with what tells its certificate.
    let listed = node.workrs(&["nodes"]);
    assert!(
        listed.out.contains(&format!("{}: certificate {}", node.name(), node.fingerprint().unwrap())),
        "{listed:?}"
    );
    let mut command = node.client().command(node.url(), &["nodes"]);
    let Said { code, err: said, .. } = Said::by(command.env_remove("WORKRS_TLS_FINGERPRINT"));
    assert!(code != Some(0) && said.contains("certificate") && said.contains("--tls-fingerprint"), "{said}");
    let jobs = format!("{}/api/v1/jobs", node.url());
    for token in [None, Some("another"), Some("")] {
        let answer = Request::get(&jobs).token(token).send().unwrap();
        assert_eq!(answer.status, 401, "{answer:?}");
        let answer = Request::post(&jobs).token(token).json(r#"{"command": ["true"]}"#).send().unwrap();
        assert_eq!(answer.status, 401, "{answer:?}");
        insta::allow_duplicates! { insta::assert_snapshot!(answer.problem(), @"401: the request is not allowed: it carries no valid token (send a token as 'Authorization: Bearer …', or set WORKRS_TOKEN)"); }
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

#[test]
fn tokens_make_owners_of_people() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&[]);
    let refused = node.workrs(&["token", "create", "--owner", "ann", "--role", "user"]);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("has to be an admin's"), "{}", refused.err);

    let root = node.workrs(&["token", "create", "--owner", "root", "--role", "admin"]).out;
    assert!(root.starts_with("workrs_"), "the token alone is on the standard output: {root:?}");
    assert_eq!(node.workrs(&["ls"]).code, Some(1), "from now on everybody needs a token");
    let as_whom = |token: &str, arguments: &[&str]| {
        Said::by(node.client().command(node.url(), arguments).env("WORKRS_TOKEN", token.trim()))
    };
    let create = ["token", "create", "--owner", "ann", "--role", "user", "--expires", "1h", "--json"];
    let created: serde_json::Value = serde_json::from_str(&as_whom(&root, &create).out).unwrap();
    let (ann, id) = (created["token"].as_str().unwrap(), created["id"].as_str().unwrap());
    let job = as_whom(ann, &["run", "--no-fetch", "--disk", "64M", "--id", "of-ann", "--", "true"]);
    assert_eq!(job.code, Some(0), "{}", job.err);
    let of_root = as_whom(&root, &["run", "--no-fetch", "--disk", "64M", "--id", "of-root", "--", "true"]);
    assert_eq!(of_root.code, Some(0), "{}", of_root.err);
    let seen = as_whom(ann, &["ls"]).out;
    assert!(seen.contains("of-ann") && !seen.contains("of-root"), "{seen}");
    let seen = as_whom(&root, &["ls"]).out;
    assert!(seen.contains("of-ann") && seen.contains("of-root"), "{seen}");

    assert_eq!(as_whom(&root, &["quota", "set", "ann", "--cpus", "0.5"]).code, Some(0));
    let refused = as_whom(ann, &["submit", "--disk", "64M", "--", "true"]);
    assert!(refused.err.contains("the quota of ann"), "{}", refused.err);
    let listed = as_whom(&root, &["token", "ls"]).out;
    assert!(listed.contains(id) && !listed.contains(ann), "{listed}");
    assert_eq!(as_whom(&root, &["token", "revoke", id]).code, Some(0));
    let refused = as_whom(ann, &["ls"]);
    assert!(refused.err.contains("its token was revoked"), "{}", refused.err);
    let trail = as_whom(&root, &["audit"]).out;
    assert!(trail.contains("PUT /api/v1/quotas/{owner}") && trail.contains("token-revoked"), "{trail}");
    assert!(!node.said_in_all().contains(ann), "the log has no token");
}
