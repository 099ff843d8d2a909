//! What checkpoints cost, and what is told of it: only what changed is stored, quotas hold, blobs are sealed, and the
//! planner says why.

use std::fs;

use workrs::api::JobView;

use crate::{
    harness::{Images, Node, Said},
    host,
    tools::program,
};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// CRIU cannot dump a POSIX message queue.
const HAS_A_QUEUE: &str = "import ctypes, time\nassert ctypes.CDLL('librt.so.1').mq_open(b'/queue', 0o102, 0o600, None) >= 0\ntime.sleep(600)";

fn submit(node: &Node, checkpoint: &str, steps: u32) -> String {
    let steps = format!("STEPS={steps}");
    let script = program("slowly.py");
    node.submit(&["--checkpoint", checkpoint, "--env", &steps, "--env", "PAUSE=0.05", "--forecast", "5m", &script])
}

/// Bytes of all blobs of the job's checkpoints.
fn stored(node: &Node, job: &str) -> u64 {
    node.blobs(job, "checkpoints/").iter().map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len())).sum()
}

#[test]
fn a_job_that_changes_slowly_stores_little_and_says_when_and_why() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start(&[]);
    let job = submit(&node, "every=1s", 150);
    let before = node.checkpointed(&job, 3);
    node.kill();
    node.restart();
    // The first checkpoint after a resume builds on the one before it, too.
    let view =
        node.wait_for(&job, "it is checkpointed again", |job| job.totals.checkpoints > before.totals.checkpoints + 1);
    let memory = 40_000_000;
    for checkpoint in view.checkpoints.iter().filter(|checkpoint| (checkpoint.epoch, checkpoint.seq) != (1, 1)) {
        // CRIU's page of the interpreter's counters and the like change, too; a store without reuse would take it all.
        assert!(checkpoint.uploaded_bytes < memory / 8, "{checkpoint:#?}");
        assert!(checkpoint.size_bytes > memory, "{checkpoint:#?}");
    }
    assert!(stored(&node, &job) < 3 * memory, "{} bytes are stored", stored(&node, &job));
    let plan = view.plan.decision.as_ref().expect("the node says what it plans");
    assert!(plan.reason.contains("as every=1s") && plan.reason.contains("left"), "{plan:#?}");
    assert!(plan.work_left_s.is_some_and(|left| left < 300.0) && plan.checkpoint_cost_s > 0.0, "{plan:#?}");
    assert!(plan.mtbf_s < 3_000.0, "the node has noticed its own death: {plan:#?}");
    assert!(view.plan.first_forecast.is_some());
    node.succeeded(&job);
    assert_eq!(node.log(&job), undisturbed(150));
    assert_eq!(stored(&node, &job), 0, "checkpoints of a finished job go");
}

/// What the job prints when nothing happens to it.
fn undisturbed(steps: u32) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("/usr/bin/python3")
        .arg(program("slowly.py"))
        .envs([("STEPS", steps.to_string()), ("PAUSE", "0".to_owned())])
        .current_dir(folder.path())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_early_checkpoint_tells_whether_a_job_is_resumable() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&[]);
    let resumable = submit(&node, "auto", 1_000);
    let not = node.submit(&["--checkpoint", "auto", "--", "python3", "-c", HAS_A_QUEUE]);
    let known = |job: &JobView| job.resumable.yes.is_some();
    let view = node.wait_for(&resumable, "it is known to be resumable", known);
    assert_eq!(view.resumable.yes, Some(true), "{view:#?}");
    assert!(view.checkpoints[0].run_ms < 60_000, "early: {view:#?}");
    let view = node.wait_for(&not, "it is known not to be resumable", known);
    assert_eq!(view.resumable.yes, Some(false), "{view:#?}");
    assert!(view.resumable.reason.is_some(), "{view:#?}");
    for job in [&resumable, &not] {
        node.workrs(&["cancel", job]);
        node.finished(job);
    }
}

#[test]
fn over_its_quota_a_job_runs_on_with_the_checkpoints_that_it_has() {
    if !host::can_run() {
        return;
    }
    let node = Node::start(&["--job-checkpoint-quota", "10M"]);
    let large = submit(&node, "every=1s", 60);
    let steps = "STEPS=60".to_owned();
    let small =
        node.submit(&["--checkpoint", "every=1s", "--env", &steps, "--env", "PAUSE=0.05", &program("count.py")]);
    let view = node.wait_for(&large, "it is over its quota", |job| job.resumable.yes == Some(false));
    let reason = view.resumable.reason.unwrap();
    assert!(reason.contains("this job") && reason.contains("quota of 10 MiB"), "{reason}");
    assert_eq!(stored(&node, &large), 0, "what does not fit leaves nothing");
    assert!(node.succeeded(&small).totals.checkpoints > 0);
    assert_eq!(node.succeeded(&large).totals.checkpoints, 0);
}

#[test]
fn encrypted_blobs_tell_nothing_and_bring_a_job_back() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::new(&[], Images::Shared);
    let key = node.scratch().join("key");
    fs::write(&key, KEY).unwrap();
    node.set_option("--encryption-key-file", key.to_str().unwrap());
    node.restart();
    let secret = node.scratch().join("secret.txt");
    fs::write(&secret, "the hidden word is swordfish").unwrap();
    let (steps, script) = ("STEPS=80".to_owned(), program("count.py"));
    let options = ["--checkpoint", "every=1s", "--env", &steps, "--env", "PAUSE=0.05"];
    let job = node.submit(&[&options[..], &["--input", secret.to_str().unwrap(), &script]].concat());
    node.checkpointed(&job, 2);
    node.kill();
    let blobs = node.blobs(&job, "");
    assert!(blobs.len() >= 4, "{blobs:?}");
    for path in &blobs {
        let bytes = fs::read(path).unwrap();
        assert!(bytes.starts_with(b"wrkseal"), "{} is not sealed", path.display());
        assert!(!bytes.windows(9).any(|window| window == b"swordfish"), "{}", path.display());
    }
    node.restart();
    let view = node.succeeded(&job);
    assert!(view.attempts.last().unwrap().start.starts_with("1-"), "{view:#?}");
    let expected: String = (1..=80).map(|n| format!("{n}\n")).collect();
    assert_eq!(node.log(&job), expected);
    assert_eq!(node.outputs(&job)["lines"], expected.into_bytes());
    node.terminate();
    // Without the key the node does not start, and says why.
    fs::write(&key, KEY.replace("00", "ff")).unwrap();
    let refused = Said::by(&mut node.command());
    assert!(refused.code != Some(0) && refused.err.contains("key"), "{refused:?}");
}
