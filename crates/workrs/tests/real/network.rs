//! Jobs with the network of their node.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
};

use crate::{
    harness::{Images, Node, Said},
    host,
    http::Request,
};

const TOKEN: &str = "a-secret";
const STEPS: u64 = 60;

/// Answers each number with its square.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = |connection: std::net::TcpStream| {
        let mut replies = connection.try_clone().unwrap();
        // Whoever asks may vanish at any time.
        for line in BufReader::new(connection).lines().map_while(Result::ok) {
            let number: u64 = line.parse().unwrap();
            if writeln!(replies, "{}", number * number).is_err() {
                return;
            }
        }
    };
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || answer(connection));
        }
    });
    port
}

#[test]
fn jobs_get_the_network_only_where_the_operator_wants_it_and_a_token_guards_the_node() {
    if !host::can_run() {
        return;
    }
    let refused = Said::by(&mut Node::new(&["--allow-network", "host"], Images::Shared).command());
    assert_eq!(refused.code, Some(1));
    insta::assert_snapshot!(refused.err, @r#"
error: invalid allow-network: jobs with the network of this machine reach the node's own API; set WORKRS_TOKEN to a secret that every request must carry
hint: see `workrs up --help`
"#);
    let node = Node::start(&[]);
    let refused = node.workrs(&["run", "--network", "host", "--", "true"]);
    let said = [refused.err.contains("no node of the group lets jobs use its network"), refused.err.contains("hint: ")];
    assert_eq!((refused.code, said), (Some(125), [true, true]), "{refused:?}");
}

#[test]
fn a_job_with_network_connects_anew_after_the_death_of_its_node() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::new(&["--allow-network", "host"], Images::Shared).with_token(TOKEN);
    node.restart();
    let (port, steps) = (format!("PORT={}", server()), format!("STEPS={STEPS}"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jobs/client.py");
    let options = ["--network", "host", "--checkpoint", "every=1s", "--env", &port, "--env", &steps];
    let job = node.submit(&[&options[..], &["--input", script, "--", "python3", "client.py"]].concat());
    // Its API is guarded from it, also on loopback.
    let answer = Request::get(&format!("{}/api/v1/jobs", node.url())).token(None).send().unwrap();
    assert_eq!(answer.status, 401);
    node.checkpointed(&job, 2);
    node.kill();
    node.restart();
    let view = node.succeeded(&job);
    assert!(view.attempts.len() > 1 && view.attempts.last().unwrap().start != "clean", "{view:#?}");
    let log = node.log(&job);
    let numbers: Vec<u64> = log.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(numbers, (1..=STEPS).collect::<Vec<_>>(), "{log}");
    assert_eq!(log.lines().filter(|line| *line == "connected anew").count(), 1, "{log}");
}
