//! What users hand over wrongly. Nothing of it is accepted, and each is told what failed, why, and what to do.

use std::{fs, io::Write, net::TcpStream};

use crate::{
    harness::Node,
    host,
    http::{self, BOUNDARY, Request, file_part, text_part},
    tools::{files_below, program, wait_until},
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
    // A sixteenth of the memory is kept for dumps.
    let node = Node::start(&["--cpus", "2", "--memory", "4G"]);
    insta::assert_snapshot!(json(&node, "{\"command\": [\"true\""), @"400: the request cannot be understood: the job's JSON is not valid: EOF while parsing a list at line 1 column 19 ()");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "colour": "red"}"#), @"400: the request cannot be understood: the job's JSON is not valid: unknown field `colour`, expected one of `id`, `name`, `command`, `args`, `image`, `entrypoint`, `env`, `cpus`, `memory`, `disk`, `timeout`, `retries`, `forecast`, `checkpoint`, `constraints`, `network`, `outputs`, `priority` at line 1 column 30 ()");
    insta::assert_snapshot!(json(&node, "{}"), @"422: the job cannot be accepted: command: there is nothing to run: give a script or a command ()");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "memory": "1"}"#), @"422: the job cannot be accepted: memory: must lie between 8 MiB and 16 TiB ()");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "memory": "lots"}"#), @r#"422: the job cannot be accepted: memory: "lots" is not a size; write a number with K, M, G or T, such as 512M ()"#);
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "memory": "100G"}"#), @"409: the job cannot be accepted: memory: the job asks for 100 GiB, the largest node of the group has 3.8 GiB (ask for less, or start a larger node)");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "cpus": 3}"#), @"409: the job cannot be accepted: cpus: the job asks for 3, the largest node of the group has 2 (ask for less, or start a larger node)");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "cpus": -1}"#), @"422: the job cannot be accepted: cpus: must be a positive number ()");
    // How much of the pool the file system takes for itself depends on its version.
    let disk = json(&node, r#"{"command": ["true"], "disk": "100G"}"#);
    let (most, hint) = disk.rsplit_once(" (").unwrap();
    assert!(
        most.starts_with("409: the job cannot be accepted: disk: the job asks for 100 GiB, the largest node"),
        "{most}"
    );
    assert_eq!(hint, "ask for less, or start a larger node)");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "timeout": "0s"}"#), @"422: the job cannot be accepted: timeout: must be longer than zero ()");
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "checkpoint": "often"}"#), @r#"422: the job cannot be accepted: checkpoint: "often" is not one of auto, none, files, every=DURATION ()"#);
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "image": "A B"}"#), @r#"400: the image cannot be brought: "A B" cannot be the name of an image: the name has upper-case letters, which only tags may have (write it as docker does: [registry[:port]/]name[:tag][@sha256:…])"#);
    insta::assert_snapshot!(json(&node, r#"{"command": ["true"], "id": "../x"}"#), @"400: the name cannot be used: a job id has the character '.'; use letters, digits, '-', '_' and '.', and start with a letter or digit ()");
    let long = "x".repeat(200);
    insta::assert_snapshot!(json(&node, &format!(r#"{{"command": ["true"], "name": "{long}"}}"#)), @"422: the job cannot be accepted: name: has 200 characters, at most 100 are allowed ()");
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
    insta::assert_snapshot!(form(&node, &script("a.sh", "")), @r#"422: the job cannot be accepted: script: "a.sh" is empty ()"#);
    insta::assert_snapshot!(form(&node, &script("notes.txt", "hello")), @r#"422: the job cannot be accepted: script: do not know how to run "notes.txt": it is no ELF program, does not start with #! and has no known extension (.py, .sh, .bash, .js, .mjs, .cjs, .pl, .rb, .php, .lua, .r, .jl, .tcl, .awk, .java, .exs); give a command instead ()"#);
    insta::assert_snapshot!(form(&node, &script("../a.sh", "true")), @r#"400: a file name cannot be used: "../a.sh" is not a usable file name: it must not leave the job's folder ('..') ()"#);
    insta::assert_snapshot!(form(&node, &input("../../etc/passwd")), @r#"400: a file name cannot be used: "../../etc/passwd" is not a usable file name: it must not leave the job's folder ('..') ()"#);
    insta::assert_snapshot!(form(&node, &input("/etc/passwd")), @r#"400: a file name cannot be used: "/etc/passwd" is not a usable file name: it must be relative ()"#);
    insta::assert_snapshot!(form(&node, &input("a\tb")), @r#"400: a file name cannot be used: "a\tb" is not a usable file name: it contains a control character ()"#);
    insta::assert_snapshot!(form(&node, &input(&"x".repeat(300))), @r#"400: a file name cannot be used: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" is not a usable file name: a component is longer than 255 bytes ()"#);
    insta::assert_snapshot!(form(&node, &input("a.sh")), @r#"422: the job cannot be accepted: input: "a.sh" is there twice ()"#);
    insta::assert_snapshot!(form(&node, &[&script("a.sh", "true")[..], &[text_part("colour", "red")]].concat()), @"400: the request cannot be understood: the form is not valid: unknown field `colour`, expected one of `id`, `name`, `command`, `args`, `image`, `entrypoint`, `env`, `cpus`, `memory`, `disk`, `timeout`, `retries`, `forecast`, `checkpoint`, `constraints`, `network`, `outputs`, `priority` ()");
    insta::assert_snapshot!(form(&node, &[&script("a.sh", "true")[..], &[text_part("disk", "8M")], &[file_part("input", "big", &"x".repeat(9 << 20))]].concat()), @"422: the job cannot be accepted: disk: the inputs have 9 MiB and the job's disk only 8 MiB (ask for a larger disk (--disk))");
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
    insta::assert_snapshot!(said("absent.py"), @"error: cannot hand over SCRATCH/absent.py (name a file to hand over, or a command of the node behind `--`): No such file or directory (os error 2)");
    insta::assert_snapshot!(said("empty.py"), @"error: SCRATCH/empty.py is empty");
    insta::assert_snapshot!(said("folder"), @"error: SCRATCH/folder is a folder; name a file to hand over, or a command of the node behind `--`, and folders with --input");
    insta::assert_snapshot!(said("new\nline.py"), @r#"error: "new\nline.py" is not a usable file name: it contains a control character"#);
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
    insta::assert_snapshot!(other.problem(), @"409: the id belongs to another job: a job with this id but another content exists (leave the id out, or choose another one)");
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
        stream.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    wait_until("some of it is stored", || (!files_below(&node.data().join("blobs/jobs")).is_empty()).then_some(()));
    drop(stream);
    assert_nothing_accepted(&node);
}
