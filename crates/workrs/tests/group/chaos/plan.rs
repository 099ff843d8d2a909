//! What happens to a group and when, drawn from a seed before anything runs. One thing at a time happens to a node, but
//! all nodes may be in trouble together. Of etcd's members one at a time is away, so that most of them live.

use std::time::Duration;

use crate::{cluster::Target, tools::Random};

/// A disturbance that has begun or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// SIGKILL.
    KillNode(usize),
    StartNode(usize),
    /// SIGSTOP.
    PauseNode(usize),
    /// SIGCONT.
    ResumeNode(usize),
    Cut(usize, Target),
    Join(usize, Target),
    /// SIGTERM: the node saves its jobs and gives them back.
    StopNode(usize),
    /// Starts it as soon as it has stopped.
    RestartNode(usize),
    KillMember(usize),
    StartMember(usize),
}

/// A moment after the beginning, and what happens then.
pub type Step = (Duration, Action);

/// All steps in their order. The last ends what is still disturbed.
pub fn draw(random: &mut Random, nodes: usize, members: usize, length: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    for node in 0..nodes {
        // Shorter than the lease, about as long, and longer: a disturbance that nobody notices is one, too.
        steps.extend(disturb(random, length, (2_000, 11_000), (500, 9_000), |random| match random.below(10) {
            0..=2 => (Action::KillNode(node), Action::StartNode(node)),
            3..=4 => (Action::PauseNode(node), Action::ResumeNode(node)),
            5..=6 => (Action::Cut(node, Target::Etcd), Action::Join(node, Target::Etcd)),
            7 => (Action::Cut(node, Target::S3), Action::Join(node, Target::S3)),
            8 => (Action::Cut(node, Target::Peers), Action::Join(node, Target::Peers)),
            _ => (Action::StopNode(node), Action::RestartNode(node)),
        }));
    }
    steps.extend(disturb(random, length, (3_000, 12_000), (500, 6_000), |random| {
        let member = random.below(members as u64) as usize;
        (Action::KillMember(member), Action::StartMember(member))
    }));
    steps.sort();
    steps
}

/// One disturbance after the other, with pauses and lengths within these bounds, in milliseconds.
fn disturb(
    random: &mut Random,
    length: Duration,
    pause_ms: (u64, u64),
    lasts_ms: (u64, u64),
    mut choose: impl FnMut(&mut Random) -> (Action, Action),
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        at += Duration::from_millis(random.between(pause_ms.0, pause_ms.1));
        let end = at + Duration::from_millis(random.between(lasts_ms.0, lasts_ms.1));
        if end > length {
            return steps;
        }
        let (begin, undo) = choose(random);
        steps.extend([(at, begin), (end, undo)]);
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_plan_and_all_is_undone_in_the_end() {
        let length = Duration::from_secs(90);
        let plan = |seed| draw(&mut Random::from(seed), 3, 3, length);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        for seed in 0..100 {
            check(&plan(seed), length);
        }
    }

    /// Every disturbance is undone, nodes are disturbed in one way at a time, and members one at a time.
    fn check(plan: &[Step], length: Duration) {
        let mut disturbed = [None; 3];
        let mut away = None;
        for (at, action) in plan {
            assert!(*at <= length, "{plan:?}");
            let (slot, undoes) = match action {
                Action::KillNode(node) | Action::PauseNode(node) | Action::StopNode(node) | Action::Cut(node, _) => {
                    (&mut disturbed[*node], None)
                }
                Action::StartNode(node) => (&mut disturbed[*node], Some(Action::KillNode(*node))),
                Action::ResumeNode(node) => (&mut disturbed[*node], Some(Action::PauseNode(*node))),
                Action::RestartNode(node) => (&mut disturbed[*node], Some(Action::StopNode(*node))),
                Action::Join(node, target) => (&mut disturbed[*node], Some(Action::Cut(*node, *target))),
                Action::KillMember(_) => (&mut away, None),
                Action::StartMember(member) => (&mut away, Some(Action::KillMember(*member))),
            };
            assert_eq!(*slot, undoes, "{action:?} in {plan:?}");
            *slot = if undoes.is_none() { Some(*action) } else { None };
        }
        assert_eq!((disturbed, away), ([None; 3], None));
    }
}
