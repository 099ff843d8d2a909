//! Jobs of every kind on a node that is killed again and again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use workrs::api::{CheckpointView, JobView};

use crate::{
    harness::Node,
    host::{self, tell},
    programs::{self, Program, Run, check_same},
    tools::{Random, now_ms, wait_until},
};

const KILLS: u64 = 5;
/// With a dozen jobs two cores are busy with checkpoints alone if these are much closer.
const INTERVAL: Duration = Duration::from_secs(4);
const INTERVAL_ALONE: Duration = Duration::from_secs(2);
/// A node is killed at some moment of so many intervals, once all jobs run.
const LIFE_INTERVALS: u32 = 3;

#[test]
fn jobs_of_every_kind_survive_five_deaths_of_their_node() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start(&["--disk-pool", "4G"]);
    let scratch = node.scratch();
    let (programs, missing) = programs::all(&scratch);
    for program in missing {
        tell(&format!("skipped: there is no {program} here"));
    }
    check_survival(&mut node, &programs, INTERVAL);
}

/// Without others to wait for, what is done again is an interval and what its own checkpoint takes.
#[test]
fn a_job_alone_repeats_an_interval_at_most() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start(&[]);
    check_survival(&mut node, &[programs::count()], INTERVAL_ALONE);
}

/// Runs the programs, kills their node at random moments, and compares with what uninterrupted runs bring.
fn check_survival(node: &mut Node, programs: &[Program], interval: Duration) {
    let checkpoint = format!("every={}s", interval.as_secs());
    let jobs: Vec<_> = programs.iter().map(|program| (program.submit(node, &checkpoint), program)).collect();
    let mut before = wait_for_all(node, |job| job.totals.checkpoints > 0);
    let mut random = Random::seeded();
    for death in 1..=KILLS {
        std::thread::sleep(Duration::from_millis(random.below((interval * LIFE_INTERVALS).as_millis() as u64)));
        let died_at = now_ms();
        node.kill();
        let killed = Instant::now();
        node.restart();
        let up = killed.elapsed();
        let after = wait_for_all(node, |job| job.epoch == death + 1 && newest_started(job));
        tell(&format!("up after {:.1} s, all resumed after {:.1} s", up.as_secs_f64(), killed.elapsed().as_secs_f64()));
        // Dumps run one after another: a job that is due waits for the others' and works on meanwhile.
        let turn_ms: u64 = after.values().map(|job| longest(job, |checkpoint| checkpoint.standstill_ms)).sum();
        for (id, job) in &after {
            check_resume(&before[id], job, died_at, interval.as_millis() as u64 + turn_ms);
        }
        before = after;
    }
    let scratch = node.scratch();
    for (id, program) in &jobs {
        let job = node.succeeded(id);
        assert_eq!((job.totals.losses, job.totals.attempts), (KILLS, KILLS + 1), "{}: {job:#?}", program.name);
        let run = Run { log: node.log(id), files: node.outputs(id) };
        check_same(program.name, &run, &program.uninterrupted(&scratch));
    }
}

fn newest_started(job: &JobView) -> bool {
    job.attempts.last().is_some_and(|attempt| attempt.started_at.is_some())
}

fn wait_for_all(node: &Node, holds: impl Fn(&JobView) -> bool) -> BTreeMap<String, JobView> {
    wait_until("all jobs are there", || {
        let jobs = node.jobs();
        if let Some(job) = jobs.values().find(|job| job.state == "finished") {
            panic!("{} finished too early: {job:#?}\nits log:\n{}", job.name, node.log(&job.id));
        }
        std::thread::sleep(Duration::from_millis(100));
        jobs.values().all(&holds).then_some(jobs)
    })
}

/// The job went on from a checkpoint, and all that it does again is what came after that: at most `due_ms`, when its
/// next one was begun, and what that one takes.
fn check_resume(before: &JobView, after: &JobView, died_at: u64, due_ms: u64) {
    let name = &after.name;
    let [.., ended, newest] = after.attempts.as_slice() else { panic!("{name}: {after:#?}") };
    assert_ne!(newest.start, "clean", "{name}: {after:#?}");
    assert_eq!(newest.notes, [""; 0], "{name}: {after:#?}");
    assert_eq!(ended.notes, [format!("node {} died", ended.node)], "{name}: {after:#?}");
    let standstill: u64 =
        after.checkpoints.iter().filter(|c| c.epoch == ended.epoch).map(|checkpoint| checkpoint.standstill_ms).sum();
    let lived = died_at.saturating_sub(ended.started_at.unwrap()).saturating_sub(standstill);
    let kept = run_ms(after, &newest.start) - run_ms(before, &ended.start);
    let again = lived.saturating_sub(kept);
    // One that was under way at the death may have been slower than all before it.
    let most = due_ms + 2 * longest(after, |checkpoint| checkpoint.total_ms) + 250;
    tell(&format!("  {name}: resumed from {}, {again} ms (at most {most}) of {lived} are done again", newest.start));
    assert!(again <= most, "{name}: {again} ms are done again: {after:#?}");
}

fn longest(job: &JobView, time_ms: impl Fn(&CheckpointView) -> u64) -> u64 {
    job.checkpoints.iter().map(time_ms).max().unwrap_or_default()
}

/// Run time at a start: at its checkpoint, or none.
fn run_ms(job: &JobView, start: &str) -> u64 {
    let checkpoint =
        job.checkpoints.iter().find(|checkpoint| format!("{}-{}", checkpoint.epoch, checkpoint.seq) == start);
    checkpoint.map_or(0, |checkpoint| checkpoint.run_ms)
}
