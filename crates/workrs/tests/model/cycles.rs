//! Looks for worlds that come back: the checker does not, and takes a run that goes on for ever for one that ends well.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
};

use stateright::Model;

use crate::{
    rules::Rules,
    world::{Action, World},
};

/// A world on the way through all of them, depth first.
struct Visit {
    world: World,
    name: u64,
    /// What is still to be tried from here, and what was tried last.
    actions: Vec<Action>,
    tried: Option<Action>,
}

/// Goes through all worlds and gives their number, or the actions by which one comes back.
pub fn find(rules: &Rules) -> Result<usize, Vec<Action>> {
    // By world: whether it is on the path that is being looked at.
    let mut seen: HashMap<u64, bool> = HashMap::new();
    let mut path: Vec<Visit> = rules.init_states().into_iter().map(|world| visit(rules, world)).collect();
    seen.extend(path.iter().map(|visit| (visit.name, true)));
    while let Some(last) = path.last_mut() {
        let Some(action) = last.actions.pop() else {
            seen.insert(last.name, false);
            path.pop();
            continue;
        };
        last.tried = Some(action.clone());
        let Some(world) = rules.next_state(&last.world, action) else { continue };
        let next = visit(rules, world);
        match seen.insert(next.name, true) {
            None => path.push(next),
            Some(false) => drop(seen.insert(next.name, false)),
            Some(true) => {
                let cycle = path.into_iter().skip_while(|visit| visit.name != next.name);
                return Err(cycle.filter_map(|visit| visit.tried).collect());
            }
        }
    }
    Ok(seen.len())
}

fn visit(rules: &Rules, world: World) -> Visit {
    let name = BuildHasherDefault::<DefaultHasher>::default().hash_one(&world);
    let mut actions = Vec::new();
    rules.actions(&world, &mut actions);
    Visit { world, name, actions, tried: None }
}
