//! What users hand over wrongly. Nothing of it is accepted, and each is told what failed, why, and what to do.

use std::{fs, io::Write, net::TcpStream};

use crate::{
    harness::{Node, files_below, program, wait_until},
    host,
    http::{self, BOUNDARY, Request, file_part, text_part},
};

/// Nothing was accepted, and nothing is left of it.
fn assert_nothing_accepted(node: &Node) {
    wait_until("what was uploaded is removed", || {
        files_below(&node.data().join("blobs/jobs")).is_empty().then_some(())
    });
    assert!(node.jobs().is_empty(), "{:#?}", node.jobs());
}

fn json(node: &Node, body: &str) -> String {
    Request::post(&format!("{}/api/v1/jobs", node.url())).json(body).send().unwrap().problem()
}

fn form(node: &Node, parts: &[String]) -> String {
    Request::post(&format!("{}/api/v1/jobs", node.url())).form(parts).send().unwrap().problem()
}

#[test]
fn impossible_jobs_are_refused_with_reasons() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&["--cpus", "2", "--memory", "4G"]);
    insta::assert_snapshot!(json(&node, "{\"command\": [\"true\""), @"");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "colour": "red"}"#), @"");
    insta::assert_snapshot!(json(&node, "{}"), @"");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "memory": "1"}"#), @"");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "memory": "lots"}"#), @"");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "memory": "100G"}"#), @"");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "cpus": 3}"#), @"");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "cpus": -1}"#), @"");
    // How much of the pool the file system takes for itself depends on its version.
    let disk = json(&node, r#"{"command": ["true"], "disk": "100G"}"#);
    let (most, hint) = disk.rsplit_once(" (").unwrap();
    assert!(
        most.starts_with("422: the job cannot be accepted: disk: the job asks for 100 GiB, the largest node"),
        "{most}"
    );
    assert_eq!(hint, "ask for less, or start a larger node)");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "timeout": "0s"}"#), @"");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "checkpoint": "often"}"#), @"");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "image": "alpine"}"#), @"");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "id": "../x"}"#), @"");
    let long = "x".repeat(200);
    insta::assert_snapshot!(json(&node, &format!(r#"{{"command": ["true"], "name": "{long}"}}"#)), @"");
    assert_nothing_accepted(&node);
}

#[test]
fn files_that_cannot_be_are_refused_with_reasons() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&["--disk-pool", "3G"]);
    let script = |name: &str, content: &str| vec![file_part("script", name, content)];
    let input = |name: &str| vec![file_part("script", "a.sh", "true"), file_part("input", name, "x")];
    insta::assert_snapshot!(form(&node, &script("a.sh", "")), @"");
    insta::assert_snapshot!(form(&node, &script("notes.txt", "hello")), @"");
    insta::assert_snapshot!(form(&node, &script("../a.sh", "true")), @"");
    insta::assert_snapshot!(form(&node, &input("../../etc/passwd")), @"");
    insta::assert_snapshot!(form(&node, &input("/etc/passwd")), @"");
    insta::assert_snapshot!(form(&node, &input("a\tb")), @"");
    insta::assert_snapshot!(form(&node, &input(&"x".repeat(300))), @"");
    insta::assert_snapshot!(form(&node, &input("a.sh")), @"");
    insta::assert_snapshot!(form(&node, &[&script("a.sh", "true")[..], &[text_part("colour", "red")]].concat()), @"");
    insta::assert_snapshot!(form(&node, &[&script("a.sh", "true")[..], &[text_part("disk", "8M")], &[file_part("input", "big", &"x".repeat(9 << 20))]].concat()), @"");
    assert_nothing_accepted(&node);
}

#[test]
fn the_command_line_says_what_is_wrong_with_files() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&[]);
    let scratch = node.scratch();
    fs::write(scratch.join("empty.py"), "").unwrap();
    fs::write(scratch.join("new\nline.py"), "print(1)").unwrap();
    fs::create_dir(scratch.join("folder")).unwrap();
    let said = |name: &str| {
        let said = node.workrs(&["submit", scratch.join(name).to_str().unwrap()]);
        assert_eq!(said.code, Some(1), "{said:?}");
        said.err.replace(scratch.to_str().unwrap(), "SCRATCH")
    };
    insta::assert_snapshot!(said("absent.py"), @"");
    insta::assert_snapshot!(said("empty.py"), @"");
    insta::assert_snapshot!(said("folder"), @"");
    insta::assert_snapshot!(said("new\nline.py"), @"");
    assert_nothing_accepted(&node);
}

#[test]
fn an_id_names_one_job() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&[]);
    let post = |command: &str| {
        let body = format!(r#"{{"id": "mine", "command": ["{command}"], "disk": "32M"}}"#);
        Request::post(&format!("{}/api/v1/jobs", node.url())).json(&body).send().unwrap()
    };
    let (first, again, other) = (post("true"), post("true"), post("false"));
    assert_eq!((first.status, again.status), (201, 200), "{first:?} {again:?}");
    assert_eq!(again.json()["id"], "mine");
    insta::assert_snapshot!(other.problem(), @"");
    let job = node.succeeded("mine");
    assert_eq!((node.jobs().len(), job.totals.attempts), (1, 1));
    assert_eq!(post("true").status, 200, "also once it has finished");

    // The same with files, as the command line sends them.
    let submit = |file: &str| {
        node.workrs(&[
            "submit",
            "--id",
            "filed",
            "--disk",
            "32M",
            "--env",
            "STEPS=1",
            "--env",
            "PAUSE=0",
            &program(file),
        ])
    };
    let (first, again, other) = (submit("count.py"), submit("count.py"), submit("threads.py"));
    assert_eq!((first.code, again.code, other.code), (Some(0), Some(0), Some(1)), "{first:?} {again:?} {other:?}");
    assert_eq!((first.out, again.out), ("filed\n".to_owned(), "filed\n".to_owned()));
    node.succeeded("filed");
    assert_eq!(node.log("filed"), "1\n");
}

#[test]
fn a_client_that_vanishes_leaves_nothing() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&[]);
    let mut stream = TcpStream::connect(node.url().trim_start_matches("http://")).unwrap();
    let head = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n\
         --{BOUNDARY}\r\n{}\r\n--{BOUNDARY}\r\n{}",
        http::form_type(),
        100 << 20,
        file_part("script", "a.sh", "true"),
        file_part("input", "big", "")
    );
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..32 {
        stream.write_all(&[b'x'; 1 << 20]).unwrap();
    }
    wait_until("some of it is stored", || (!files_below(&node.data().join("blobs/jobs")).is_empty()).then_some(()));
    drop(stream);
    assert_nothing_accepted(&node);
}
