//! The life cycle of a job in a group of two nodes, model-checked: every order of claims, commits, crashes, lost answers,
//! late writes, ended leases and deletions within the bounds, on the real record, the real decisions of claim, reap and
//! release, the real envelope and the real rule for lost answers.
//!
//! Each bound is on the number of faults. A test says how many worlds it saw.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod call;
mod choices;
mod cycles;
mod digest;
mod process;
mod properties;
mod rules;
mod store;
mod world;

use stateright::{Checker, HasDiscoveries, Model};

use crate::{
    properties::*,
    rules::{Faults, Rules, Weakness},
};

/// Looks at every world, by how it can come about, and finds no fault with any.
fn holds(faults: Faults, checkpoints: u64) {
    let began = std::time::Instant::now();
    let checker = Rules { faults, checkpoints, weakness: None }.checker().threads(2).spawn_bfs().join();
    let (worlds, steps, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    println!("{faults:?}: {worlds} worlds, {steps} steps, at most {depth} in a row, {:.1?}", began.elapsed());
    assert!(worlds > 1_000, "only {worlds} worlds: the model is not what it is meant to be");
    checker.assert_properties();
}

/// Finds a world in which `property` does not hold because of the weakness. The bounds lie within those of a test in which
/// it always holds.
fn breaks(weakness: Weakness, property: &'static str, faults: Faults, checkpoints: u64) {
    let checker = Rules { faults, checkpoints, weakness: Some(weakness) }.checker();
    let found = checker.finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
    let path = found.discovery(property).unwrap_or_else(|| panic!("{weakness:?} goes unnoticed"));
    println!("{weakness:?} breaks {property:?}: {:?}", path.into_actions());
}

#[test]
fn two_crashes() {
    holds(Faults { crashes: 2, ..Faults::default() }, 1);
}

#[test]
fn a_crash_with_many_checkpoints_of_which_one_is_bad() {
    holds(Faults { crashes: 1, bad_checkpoints: 1, ..Faults::default() }, 3);
}

#[test]
fn a_crash_and_a_lost_answer() {
    holds(Faults { crashes: 1, lost_answers: 1, ..Faults::default() }, 1);
}

#[test]
fn a_lease_that_ends_under_a_live_process_and_a_lost_answer() {
    holds(Faults { pauses: 1, lost_answers: 1, ..Faults::default() }, 1);
}

#[test]
fn a_store_that_refuses_and_loses() {
    holds(Faults { lost_answers: 1, refusals: 1, cancels: 1, ..Faults::default() }, 1);
}

#[test]
fn nodes_that_do_not_fit_a_checkpoint() {
    holds(Faults { unfit: 2, crashes: 1, ..Faults::default() }, 1);
    holds(Faults { unfit: 1, crashes: 1, lost_answers: 1, ..Faults::default() }, 1);
    holds(Faults { unfit: 2, drains: 1, cancels: 1, ..Faults::default() }, 2);
}

#[test]
fn a_cancel_and_a_crash() {
    holds(Faults { crashes: 1, cancels: 1, ..Faults::default() }, 2);
}

#[test]
fn a_node_that_drains_while_an_answer_is_lost_or_its_lease_ends() {
    holds(Faults { drains: 1, lost_answers: 1, ..Faults::default() }, 2);
    holds(Faults { drains: 1, pauses: 1, ..Faults::default() }, 1);
}

#[test]
fn a_program_that_fails_and_is_tried_again_while_a_node_dies() {
    holds(Faults { crashes: 1, failures: 1, ..Faults::default() }, 1);
}

/// Nodes do not pass a job to and fro for ever: no world comes back. So what holds where nothing more can happen holds at
/// the end of every run.
#[test]
fn every_run_ends() {
    for (faults, checkpoints) in [
        (Faults { crashes: 1, lost_answers: 1, ..Faults::default() }, 1),
        (Faults { pauses: 1, refusals: 1, ..Faults::default() }, 0),
        (Faults { unfit: 2, crashes: 1, ..Faults::default() }, 1),
        (Faults { drains: 1, bad_checkpoints: 1, failures: 1, cancels: 1, ..Faults::default() }, 1),
    ] {
        let worlds = cycles::find(&Rules { faults, checkpoints, weakness: None }).unwrap();
        println!("{faults:?}: no cycle in {worlds} worlds");
    }
    let faults = Faults { drains: 1, ..Faults::default() };
    let stubborn = Rules { faults, checkpoints: 0, weakness: Some(Weakness::ClaimsAgain) };
    let cycle = cycles::find(&stubborn).unwrap_err();
    println!("{:?} comes back by {cycle:?}", Weakness::ClaimsAgain);
}

#[test]
fn claims_need_their_guards() {
    let faults = Faults { crashes: 1, ..Faults::default() };
    breaks(Weakness::ClaimsUnguarded, CLAIMED_BY_MEMBERS, faults, 0);
    breaks(Weakness::ClaimsUnguarded, CLAIMED_BY_MEMBERS, Faults { drains: 1, ..Faults::default() }, 0);
}

#[test]
fn reaps_need_their_guard() {
    breaks(Weakness::ReapsUnguarded, TAKEN_FROM_THE_DEAD, Faults::default(), 0);
}

#[test]
fn commits_need_their_holder() {
    let faults = Faults { pauses: 1, ..Faults::default() };
    breaks(Weakness::IgnoresHolder, ONE_RESULT, faults, 0);
}

#[test]
fn writes_need_the_revision() {
    let faults = Faults { pauses: 1, lost_answers: 1, ..Faults::default() };
    for property in [ONE_ORDER, NO_WORK_LOST, ONE_RESULT] {
        breaks(Weakness::WritesBlindly, property, faults, 1);
    }
}

#[test]
fn commits_need_the_upload() {
    breaks(Weakness::CommitsBeforeUpload, DURABLE, Faults::default(), 1);
}

#[test]
fn collection_spares_newer_epochs() {
    let faults = Faults { pauses: 1, lost_answers: 1, ..Faults::default() };
    breaks(Weakness::DeletesNewerEpochs, DURABLE, faults, 1);
}

#[test]
fn nothing_is_deleted_in_doubt() {
    let faults = Faults { lost_answers: 1, ..Faults::default() };
    breaks(Weakness::DeletesInDoubt, DURABLE, faults, 1);
}

#[test]
fn records_need_to_be_compared_with_what_runs() {
    let faults = Faults { pauses: 1, lost_answers: 1, ..Faults::default() };
    breaks(Weakness::NeverCompares, ENDS, faults, 0);
}
