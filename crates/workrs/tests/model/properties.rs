//! What holds in every world that can be reached.

use stateright::{Model, Property};
use workrs_core::job::JobRecord;

use crate::{
    process::Task,
    rules::Rules,
    store::{Breach, named},
    world::{CALLERS, World},
};

pub const CLAIMED_BY_MEMBERS: &str = "only members of the group that do not drain get jobs";
pub const TAKEN_FROM_THE_DEAD: &str = "a job is taken only from a process that left the group";
pub const ONE_ORDER: &str = "epochs and checkpoints follow each other";
pub const NO_WORK_LOST: &str = "the resume point goes back only on proof";
pub const ONE_RESULT: &str = "a job has one result, of the attempt that holds it";
pub const DURABLE: &str = "the record names only blobs that are there";
pub const ACKNOWLEDGED: &str = "a job that was acknowledged has a record";
pub const ENDS: &str = "where nothing more can happen the job has ended";

fn never(world: &World, breach: Breach) -> bool {
    !world.store.breaches.contains(&breach)
}

pub fn all() -> Vec<Property<Rules>> {
    vec![
        Property::always(CLAIMED_BY_MEMBERS, |_, world: &World| never(world, Breach::ClaimOfOutsider)),
        Property::always(TAKEN_FROM_THE_DEAD, |_, world: &World| never(world, Breach::TakenFromMember)),
        Property::always(ONE_ORDER, |_, world: &World| {
            never(world, Breach::EpochFell) && never(world, Breach::OlderCheckpoint)
        }),
        Property::always(NO_WORK_LOST, |_, world: &World| never(world, Breach::ResumeWentBack)),
        Property::always(ONE_RESULT, |_, world: &World| {
            never(world, Breach::ResultReplaced) && never(world, Breach::ResultOfOther)
        }),
        Property::always(DURABLE, |_, world: &World| {
            world.store.record().is_none_or(|record| named(record).all(|id| world.store.is_durable(id)))
        }),
        Property::always(ACKNOWLEDGED, |_, world: &World| {
            !world.user.is_acknowledged || world.store.record().is_some()
        }),
        Property::always(ENDS, |rules, world: &World| {
            let has_ended = world.store.record().is_some_and(JobRecord::is_finished)
                && world.nodes.iter().flat_map(|node| &node.process).all(|process| process.task == Task::Idle);
            has_ended || can_go_on(rules, world)
        }),
    ]
}

fn can_go_on(rules: &Rules, world: &World) -> bool {
    if CALLERS.iter().any(|caller| world.call(*caller).is_some()) {
        return true;
    }
    let mut actions = Vec::new();
    rules.actions(world, &mut actions);
    !actions.is_empty()
}
