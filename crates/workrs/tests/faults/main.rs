//! Faults at every step, enumerated: a whole life of a job runs once to count the operations on state, blobs and
//! engine; then it runs again for each operation and each fault, and must end the same way every time. The engine
//! is the pretended one and time is tokio's paused clock, so hours pass in moments.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fit;
mod group;
mod job;
mod names;
mod network;
mod quotas;
mod world;

use std::time::Duration;

use workrs::node::CheckpointQuota;
use workrs_core::{job::Resumable, quota::Quota};
use workrs_engine::fake;
use workrs_store::faulty::{Fault, Faults};

use crate::{
    group::{Death, Group, GroupStory},
    network::Meanwhile,
    world::{Story, World},
};

const STORE_FAULTS: [Fault; 5] = [
    Fault::Refuse,
    Fault::LoseAnswer,
    Fault::LoseAnswerThenApply(Duration::from_millis(300)),
    Fault::CrashBefore,
    Fault::CrashAfter,
];
const ENGINE_FAULTS: [fake::Fault; 4] =
    [fake::Fault::FailBefore, fake::Fault::FailAfter, fake::Fault::CrashBefore, fake::Fault::CrashAfter];

/// Runs `story` once without faults, then with every fault at every operation on the stores.
fn every_store_fault(story: Story) {
    let count = World::run(story, Faults::none(), None);
    assert!(count.store > 20, "only {} operations: the story is not what it is meant to be", count.store);
    for number in 1..=count.store {
        for fault in STORE_FAULTS {
            println!("{story:?}: {fault:?} at store operation {number} of {}", count.store);
            World::run(story, Faults::at(number, fault), None);
        }
    }
}

/// The same for every call of the engine.
fn every_engine_fault(story: Story) {
    let count = World::run(story, Faults::none(), None);
    assert!(count.engine >= 5, "only {} calls: the story is not what it is meant to be", count.engine);
    for number in 0..count.engine {
        for fault in ENGINE_FAULTS {
            println!("{story:?}: {fault:?} at engine call {number} of {}", count.engine);
            World::run(story, Faults::none(), Some((number, fault)));
        }
    }
}

#[test]
fn a_job_survives_any_store_fault_of_its_first_node() {
    every_store_fault(Story::Undisturbed);
}

#[test]
fn a_job_survives_any_engine_fault_of_its_first_node() {
    every_engine_fault(Story::Undisturbed);
}

#[test]
fn a_job_survives_any_store_fault_while_it_is_resumed() {
    every_store_fault(Story::Killed);
}

#[test]
fn a_job_survives_any_engine_fault_while_it_is_resumed() {
    every_engine_fault(Story::Killed);
}

#[test]
fn a_job_survives_any_store_fault_while_its_node_stops() {
    every_store_fault(Story::Stopped);
}

#[test]
fn a_cancelled_job_ends_whatever_it_was_doing() {
    let count = World::run(Story::Undisturbed, Faults::none(), None);
    for number in 1..=count.store {
        println!("cancelled at store operation {number} of {}", count.store);
        World::run(Story::Cancelled { at: number }, Faults::none(), None);
    }
}

#[test]
fn a_refused_checkpoint_steps_down_and_says_so() {
    let record = World::refused(fake::Restores::Refused);
    let notes = record.attempts.iter().flat_map(|attempt| &attempt.notes).cloned().collect::<Vec<_>>().join("\n");
    assert!(notes.contains("fell back to checkpoint 1-1"), "{notes}");
    assert!(notes.contains("no good checkpoint is left: clean start"), "{notes}");
}

#[test]
fn a_job_waits_for_a_host_that_fits_and_then_starts_clean() {
    let record = World::refused(fake::Restores::Unfit);
    let notes = record.attempts.iter().flat_map(|attempt| &attempt.notes).cloned().collect::<Vec<_>>().join("\n");
    let why = "the test makes this host unfit";
    let released = format!("released: checkpoint 1-2 cannot be resumed here: {why}");
    assert!(notes.contains(&released), "{notes}");
    assert!(notes.contains(&format!("checkpoint 1-2 is bad (no node fits it: node: {why}); fell back")), "{notes}");
    assert!(notes.contains("no good checkpoint is left: clean start"), "{notes}");
    assert_eq!(record.totals.attempts, 3, "one begins, one finds that it does not fit, one gives the work up");
}

#[test]
fn a_job_that_cannot_be_dumped_runs_on_and_says_why() {
    let record = World::undumpable();
    let Resumable::No { reason } = &record.resumable else { panic!("{:?}", record.resumable) };
    assert!(!reason.is_empty());
    assert_eq!(record.totals.attempts, 1);
}

#[test]
fn a_job_over_its_quota_runs_on_without_new_checkpoints_and_says_why() {
    for (quota, whose) in [
        (CheckpointQuota { job_bytes: Some(1), node_bytes: None }, "of this job"),
        (CheckpointQuota { job_bytes: None, node_bytes: Some(1) }, "of all jobs of this node"),
    ] {
        let record = World::over_quota(quota);
        let Resumable::No { reason } = &record.resumable else { panic!("{:?}", record.resumable) };
        assert!(reason.contains(whose) && reason.contains("quota"), "{reason}");
        assert_eq!((record.totals.checkpoints, record.totals.attempts), (0, 1));
    }
}

#[test]
fn damaged_records_keep_no_other_job_waiting() {
    assert!(World::beside_damaged_records());
}

#[test]
fn a_finished_job_goes_when_its_time_is_over_and_not_before() {
    assert_eq!(World::kept_for(Some(Duration::from_millis(1))), (false, 0));
    let (has_record, blobs) = World::kept_for(Some(Duration::from_secs(3_600)));
    assert!(has_record && blobs > 0);
    assert!(World::kept_for(None).0);
}

#[test]
fn a_job_that_is_killed_often_keeps_every_line_and_a_small_record() {
    let record = World::killed_often();
    assert_eq!(record.totals.losses, 20);
    assert!(record.log.len() <= workrs_core::job::MAX_LOG_RANGES + 1, "{:?}", record.log);
}

/// Longer than the lease: whoever waits for it has been taken for dead meanwhile.
const TOO_LONG: Duration = Duration::from_secs(8);

/// Far more operations than any life takes.
const BUSY: u64 = 5_000;

/// Runs `story` in a group of two, then with every fault at every operation of one of them.
fn every_fault_of_a_node(story: GroupStory) {
    let count = Group::run(story, Faults::none(), Death::ForGood);
    assert!(count > 20, "only {count} operations: the story is not what it is meant to be");
    let faults = [
        (Fault::Refuse, Death::ForGood),
        (Fault::LoseAnswer, Death::ForGood),
        (Fault::LoseAnswerThenApply(Duration::from_millis(300)), Death::ForGood),
        (Fault::LoseAnswerThenApply(TOO_LONG), Death::ForGood),
        (Fault::Delay(TOO_LONG), Death::ForGood),
        (Fault::CrashBefore, Death::ForGood),
        (Fault::CrashAfter, Death::ForGood),
        (Fault::CrashAfter, Death::For(Duration::from_secs(2))),
    ];
    for number in 1..=count {
        for (fault, death) in faults {
            println!("{story:?}: {fault:?} at store operation {number} of {count}, a death is {death:?}");
            let faults = Faults::plan([(number, fault), (BUSY, Fault::CrashBefore)]);
            assert!(Group::run(story, faults, death) < BUSY, "the node asks the store without a pause");
        }
    }
}

#[test]
fn a_group_finishes_a_job_whatever_befalls_its_first_node() {
    every_fault_of_a_node(GroupStory::Undisturbed);
}

#[test]
fn a_group_finishes_a_job_whatever_befalls_the_node_that_takes_over() {
    every_fault_of_a_node(GroupStory::Killed);
}

#[test]
fn a_group_finishes_a_job_whatever_befalls_a_node_that_was_cut_off() {
    every_fault_of_a_node(GroupStory::CutOff);
}

#[test]
fn a_group_finishes_a_job_whatever_befalls_a_node_that_stops() {
    every_fault_of_a_node(GroupStory::Stopped);
}

#[test]
fn a_group_finishes_a_job_whatever_befalls_a_node_that_drains() {
    every_fault_of_a_node(GroupStory::Drained);
}

/// The real engine has frozen it meanwhile; it is told to let it go on, and under which claim.
#[test]
fn a_job_with_network_that_is_still_its_nodes_goes_on() {
    let (record, may_go_on) = network::cut_off_alone(Meanwhile::Nothing);
    assert_eq!((record.totals.attempts, record.losses), (1, 0), "{record:#?}");
    assert!(!may_go_on.is_empty() && may_go_on.iter().all(|container| container == "job-1"), "{may_go_on:?}");
}

/// Nobody has claimed it yet, but what it did since its checkpoint counts no more.
#[test]
fn a_job_with_network_that_was_given_back_is_ended_and_resumed() {
    let (record, may_go_on) = network::cut_off_alone(Meanwhile::GivenBack);
    assert_eq!(record.totals.attempts, 2, "{record:#?}");
    assert!(!may_go_on.contains(&"job-1".to_owned()), "{may_go_on:?}");
}

#[test]
fn jobs_of_an_owner_with_a_quota_wait_for_each_other_and_for_nobody_else() {
    for (quota, expected) in [
        (Quota { running: Some(2), ..Quota::default() }, 2),
        (Quota { cpus_milli: Some(3_000), ..Quota::default() }, 3),
        (Quota { memory_bytes: Some(1 << 30), ..Quota::default() }, 2),
        (Quota { queued: Some(1), ..Quota::default() }, 8),
    ] {
        let (most, ended_before) = quotas::the_most_that_ran(quota.clone());
        assert_eq!(most, expected, "{quota:?}");
        assert_eq!(ended_before, 0, "{quota:?}: jobs of others waited");
    }
}
