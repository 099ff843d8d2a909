//! Much data, and disks that are full.

use std::fs::{self, File};

use crate::{
    harness::{Images, Node},
    host::{self, tell},
    http::{self, Request, file_part, text_part},
    tools::{program, wait_until},
};

/// The most memory that the process `pid` ever had, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn an_input_of_two_gigabytes_needs_little_memory() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&["--disk-pool", "7G"]);
    let big = node.scratch().join("big");
    File::create(&big).unwrap().set_len(2 << 30).unwrap();
    let before = peak_memory(node.pid());
    let input = ["--disk", "3G", "--checkpoint", "none", "--input", big.to_str().unwrap()];
    let job = node.submit(&[&input[..], &["--", "wc", "-c", "big"]].concat());
    node.succeeded(&job);
    assert_eq!(node.log(&job), "2147483648 big\n");
    let after = peak_memory(node.pid());
    tell(&format!("the node's memory peaked at {} MiB, before the upload at {} MiB", after >> 20, before >> 20));
    assert!(after < 100 << 20, "{after} bytes");
}

#[test]
fn a_full_disk_for_blobs_is_told_and_harms_no_job() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::new(&[], Images::Shared).with_small_blobs(48 << 20);
    node.restart();
    let options = ["--checkpoint", "every=1s", "--env", "STEPS=200", "--env", "PAUSE=0.05"];
    let job = node.submit(&[&options[..], &[&program("count.py")]].concat());
    node.checkpointed(&job, 1);
    let submit = |megabytes: usize| {
        let input = file_part("input", "big", &"x".repeat(megabytes << 20));
        let parts = [file_part("script", "a.sh", "wc -c big"), text_part("disk", "100M"), input];
        Request::post(&format!("{}/api/v1/jobs", node.url())).form(&parts).send().unwrap()
    };
    let refused = submit(80);
    assert_eq!(refused.status, 507, "{refused:?}");
    tell(&format!("said: {}", refused.problem()));
    let big = node.scratch().join("big");
    File::create(&big).unwrap().set_len(80 << 20).unwrap();
    let said = node.workrs(&["submit", "--disk", "100M", "--input", big.to_str().unwrap(), "--", "true"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.starts_with("error: there is no space left: "), "{said:?}");
    assert!(
        said.err.ends_with("hint: free space in the blob store, or hand over less; nothing was accepted\n"),
        "{said:?}"
    );
    assert_eq!(node.jobs().len(), 1);
    assert_eq!(http::get(&format!("{}/readyz", node.url())).unwrap().status, 200);

    // What had been stored of it is gone, so that there is room again.
    let accepted = wait_until("there is room again", || {
        let answer = submit(8);
        assert!([201, 507].contains(&answer.status), "{answer:?}");
        (answer.status == 201).then_some(answer)
    });
    let id = accepted.json()["id"].as_str().unwrap().to_owned();
    node.succeeded(&id);
    assert_eq!(node.log(&id), "8388608 big\n");
    let view = node.succeeded(&job);
    assert_eq!((view.totals.attempts, view.totals.losses), (1, 0), "{view:#?}");
    assert_eq!(node.outputs(&job)["lines"], (1..=200).map(|n| format!("{n}\n")).collect::<String>().into_bytes());
}
