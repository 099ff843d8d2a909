//! The log of a job that runs elsewhere.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
};

use crate::{
    cluster::{self, Cluster},
    deaths::{check_whole, job},
    tools::{PATIENCE, wait_until},
};

/// A follower asks nodes that do not run the job. The one that it reads from dies, then the one that runs the job, which
/// starts anew: what the follower prints is the log, every line once.
#[test]
fn a_log_is_followed_through_other_nodes_while_they_die() {
    if !cluster::can_run() {
        return;
    }
    // The nodes believe each other by what they say of themselves in the state, the client by what they printed.
    let mut cluster = Cluster::start(3, 1, &["--tls", "self-made"]);
    // Nothing of the log is stored before the job's end, so what is read before comes from its node.
    cluster.submit("job", &job(), "every=1h");
    let holder = cluster.running("job", 1);
    let others: Vec<usize> = (0..3).filter(|node| *node != holder).collect();
    let servers: Vec<_> = others.iter().map(|node| cluster.nodes[*node].url()).collect();
    let mut command = cluster.client().command(&servers.join(","), &["logs", "--follow", "job"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (sender, receiver) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _nobody_waits = sender.send(line);
        }
    });
    let mut read = Vec::new();
    let mut read_more = |count: usize| {
        let wanted = read.len() + count;
        while read.len() < wanted {
            read.push(receiver.recv_timeout(PATIENCE).expect("the log goes on"));
        }
    };
    read_more(20);
    cluster.nodes[others[0]].kill();
    read_more(20);
    cluster.nodes[holder].kill();
    let status = wait_until("the follower ends with the job", || child.try_wait().unwrap());
    reader.join().unwrap();
    read.extend(receiver.try_iter());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert!(status.success(), "{status}: {said}");
    let expected: Vec<_> = (1..=150).map(|number: u32| number.to_string()).collect();
    assert_eq!(read, expected, "{said}");
    check_whole(&cluster, &[("job", job())]);
}
