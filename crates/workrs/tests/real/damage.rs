//! Checkpoints whose blobs are damaged while the node is down.

use std::{fs, path::Path};

use workrs::api::JobView;

use crate::{harness::Node, host, tools::program};

const STEPS: u32 = 200;

fn submit(node: &Node) -> String {
    let steps = format!("STEPS={STEPS}");
    node.submit(&["--checkpoint", "every=1s", "--env", &steps, "--env", "PAUSE=0.05", &program("count.py")])
}

/// Flips a byte in the middle.
fn corrupt(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

/// Blobs of the job's checkpoint `id`: its manifest or its pack.
fn blob(node: &Node, job: &str, id: &str, kind: &str) -> std::path::PathBuf {
    let all = node.blobs(job, &format!("checkpoints/{id}-"));
    all.into_iter().find(|path| path.to_string_lossy().ends_with(kind)).unwrap()
}

fn kept(job: &JobView) -> Vec<String> {
    let kept = job.checkpoints.iter().filter(|checkpoint| checkpoint.standing == "kept");
    kept.map(|checkpoint| format!("{}-{}", checkpoint.epoch, checkpoint.seq)).collect()
}

/// Ends the node such that nothing is in flight, and gives each job's kept checkpoints, oldest first.
fn stop(node: &mut Node, jobs: &[String]) -> Vec<Vec<String>> {
    for job in jobs {
        node.checkpointed(job, 3);
    }
    node.terminate();
    // A process that takes no jobs shows the records as the former one left them.
    node.set_option("--cpus", "0.001");
    node.restart();
    let all = jobs.iter().map(|job| kept(&node.job(job))).collect();
    node.kill();
    node.set_option("--cpus", "64");
    all
}

fn assert_whole(node: &Node, job: &str) {
    let expected: String = (1..=STEPS).map(|n| format!("{n}\n")).collect();
    assert_eq!(node.log(job), expected);
    assert_eq!(node.outputs(job)["lines"], expected.into_bytes());
}

#[test]
fn a_damaged_checkpoint_is_replaced_by_the_one_before() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start(&[]);
    let jobs = [submit(&node), submit(&node), submit(&node)];
    let kept = stop(&mut node, &jobs);
    corrupt(&blob(&node, &jobs[0], &kept[0][1], ".pack"));
    corrupt(&blob(&node, &jobs[1], &kept[1][1], ".manifest"));
    fs::remove_file(blob(&node, &jobs[2], &kept[2][1], ".pack")).unwrap();
    node.restart();
    for (job, kept) in jobs.iter().zip(&kept) {
        let [before, newest] = kept.as_slice() else { panic!("not two checkpoints are kept: {kept:?}") };
        let view = node.succeeded(job);
        let attempt = view.attempts.last().unwrap();
        assert_eq!(attempt.start, *before, "{view:#?}");
        let note = &attempt.notes[0];
        assert!(note.starts_with(&format!("checkpoint {newest} is bad (")), "{note}");
        assert!(note.ends_with(&format!("; fell back to checkpoint {before}")), "{note}");
        assert_whole(&node, job);
    }
}

#[test]
fn without_a_good_checkpoint_a_job_starts_clean() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start(&[]);
    let jobs = [submit(&node), submit(&node)];
    stop(&mut node, &jobs);
    for pack in node.blobs(&jobs[0], "checkpoints/").iter().filter(|path| path.to_string_lossy().ends_with(".pack")) {
        corrupt(pack);
    }
    for path in node.blobs(&jobs[1], "checkpoints/") {
        fs::remove_file(path).unwrap();
    }
    node.restart();
    for job in &jobs {
        let view = node.succeeded(job);
        let attempt = view.attempts.last().unwrap();
        assert_eq!(attempt.start, "clean", "{view:#?}");
        let last_step = attempt.notes.iter().rev().nth(1).unwrap();
        assert!(last_step.ends_with("; no good checkpoint is left: clean start"), "{view:#?}");
        assert_whole(&node, job);
    }
}
