//! Jobs of every kind on a node that is killed again and again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use workrs::api::JobView;

use crate::{
    harness::{Node, Random, now_ms, wait_until},
    host::{self, tell},
    programs::{self, Run},
};

const KILLS: u64 = 5;
const INTERVAL: Duration = Duration::from_secs(4);
/// A node is killed at some moment of this time, once all jobs run.
const LONGEST_LIFE_MS: u64 = 8_000;

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
    let checkpoint = format!("every={}s", INTERVAL.as_secs());
    let jobs: Vec<_> = programs.iter().map(|program| (program.submit(&node, &checkpoint), program)).collect();
    wait_for_all(&node, |job| job.totals.checkpoints > 0);
    let mut random = Random::seeded();
    let mut before = node.jobs();
    for death in 1..=KILLS {
        std::thread::sleep(Duration::from_millis(random.below(LONGEST_LIFE_MS)));
        let died_at = now_ms();
        node.kill();
        let killed = Instant::now();
        node.restart();
        let up = killed.elapsed();
        let after = wait_for_all(&node, |job| job.epoch == death + 1 && newest_started(job));
        tell(&format!("up after {:.1} s, all resumed after {:.1} s", up.as_secs_f64(), killed.elapsed().as_secs_f64()));
        // A job that is due waits until all others have had their turn, and works on meanwhile.
        let turns_ms: u64 = before.values().chain(after.values()).map(longest_checkpoint_ms).sum();
        for (id, job) in &after {
            check_resume(&before[id], job, died_at, turns_ms);
        }
        before = after;
    }
    for (id, program) in &jobs {
        let job = node.succeeded(id);
        assert_eq!((job.totals.losses, job.totals.attempts), (KILLS, KILLS + 1), "{}: {job:#?}", program.name);
        let run = Run { log: node.log(id), files: node.outputs(id) };
        let expected = program.uninterrupted(&scratch);
        assert!(run == expected, "{}: got\n{run:?}\ninstead of\n{expected:?}", program.name);
    }
}

fn newest_started(job: &JobView) -> bool {
    job.attempts.last().is_some_and(|attempt| attempt.started_at.is_some())
}

fn wait_for_all(node: &Node, holds: impl Fn(&JobView) -> bool) -> BTreeMap<String, JobView> {
    wait_until("all jobs are there", || {
        let jobs = node.jobs();
        for job in jobs.values().filter(|job| job.state == "finished") {
            panic!("{} finished too early: {job:#?}\nits log:\n{}", job.name, node.log(&job.id));
        }
        std::thread::sleep(Duration::from_millis(100));
        jobs.values().all(&holds).then_some(jobs)
    })
}

/// The job went on from a checkpoint, and all that it does again is what came after that: no more than an interval,
/// and the time that the checkpoints of all jobs took.
fn check_resume(before: &JobView, after: &JobView, died_at: u64, turns_ms: u64) {
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
    let most = INTERVAL.as_millis() as u64 + turns_ms;
    tell(&format!("  {name}: resumed from {}, {again} ms (at most {most}) of {lived} are done again", newest.start));
    assert!(again <= most, "{name}: {again} ms are done again: {after:#?}");
}

fn longest_checkpoint_ms(job: &JobView) -> u64 {
    job.checkpoints.iter().map(|checkpoint| checkpoint.total_ms).max().unwrap_or_default()
}

/// Run time at a start: at its checkpoint, or none.
fn run_ms(job: &JobView, start: &str) -> u64 {
    let checkpoint =
        job.checkpoints.iter().find(|checkpoint| format!("{}-{}", checkpoint.epoch, checkpoint.seq) == start);
    checkpoint.map_or(0, |checkpoint| checkpoint.run_ms)
}
