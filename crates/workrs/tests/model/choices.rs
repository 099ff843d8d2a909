//! What can happen next in a world.

use workrs_core::{
    id::Incarnation,
    job::{JobRecord, JobState},
    keys,
};

use crate::{
    process::{Process, Task, says_why_it_waits},
    rules::{Rules, Weakness},
    world::{Action, CALLERS, World},
};

impl World {
    /// Everything that can happen next.
    pub fn choices(&self, rules: &Rules, actions: &mut Vec<Action>) {
        self.user_actions(actions);
        for caller in CALLERS {
            let Some(call) = self.call(caller) else { continue };
            if !call.is_sent {
                actions.push(Action::Look(caller));
                continue;
            }
            actions.push(Action::Answer(caller));
            if self.left.lost_answers > 0 {
                actions.extend([Action::LoseAnswer(caller), Action::Delay(caller)]);
            }
            if self.left.refusals > 0 {
                actions.push(Action::Refuse(caller));
            }
        }
        actions.extend((0..self.late.len()).map(Action::ApplyLate));
        actions.extend((0..self.deletions.len()).map(Action::Delete));
        for (number, node) in self.nodes.iter().enumerate() {
            match &node.process {
                Some(process) => self.process_actions(number, process, rules, actions),
                None => actions.push(Action::Start(number)),
            }
        }
        let leases = self.store.keys.iter().filter(|key| key.starts_with(keys::NODES));
        let ending = leases.filter(|key| self.left.pauses > 0 || !self.is_alive(key));
        actions.extend(ending.cloned().map(Action::EndLease));
    }

    /// Whether the process with this key lives, also if it is no member of the group.
    pub fn is_alive(&self, key: &str) -> bool {
        self.nodes.iter().flat_map(|node| &node.process).any(|process| process.key == key)
    }

    /// Whether the node's process does not have what the job's newest checkpoint needs.
    pub fn has_declined(&self, number: usize) -> bool {
        let process = self.nodes[number].process.as_deref();
        process.is_some_and(|process| self.declined(&process.incarnation))
    }

    fn declined(&self, incarnation: &Incarnation) -> bool {
        let point = self.store.record().and_then(JobRecord::resume_point);
        point.is_some_and(|point| point.declined.iter().any(|declined| declined.incarnation == *incarnation))
    }

    /// Whether a node that takes jobs may have what the job's newest checkpoint needs.
    fn is_there_one_that_fits(&self) -> bool {
        let mut members = self.store.keys.iter().filter(|key| key.starts_with(keys::NODES));
        let takes_jobs =
            |key: &str| keys::node_of(key).is_some_and(|node| !self.store.keys.contains(&keys::drain(&node)));
        members.any(|key| takes_jobs(key) && keys::incarnation_of(key).is_some_and(|process| !self.declined(&process)))
    }

    fn user_actions(&self, actions: &mut Vec<Action>) {
        if !self.user.has_submitted {
            actions.push(Action::Submit);
        }
        let is_done = self.store.record().is_some_and(JobRecord::is_finished);
        if self.user.is_acknowledged && self.user.call.is_none() && self.left.cancels > 0 && !is_done {
            actions.push(Action::Cancel);
        }
        if self.left.drains > 0 {
            actions.push(Action::Drain);
        }
    }

    fn process_actions(&self, number: usize, process: &Process, rules: &Rules, actions: &mut Vec<Action>) {
        self.task_actions(number, process, rules, actions);
        self.loop_actions(number, process, rules, actions);
        if !self.store.keys.contains(&process.key) {
            actions.push(Action::Rejoin(number));
        }
        if self.left.crashes > 0 {
            actions.push(Action::Crash(number));
        }
    }

    /// What can become of the job here.
    fn task_actions(&self, number: usize, process: &Process, rules: &Rules, actions: &mut Vec<Action>) {
        let state = self.store.record().map(|record| &record.state);
        match &process.task {
            Task::Idle => {
                // Time is not modelled: whoever finds that no live node fits may have waited long enough.
                let may_resume = !self.has_declined(number) || !self.is_there_one_that_fits();
                if process.may_claim && may_resume && matches!(state, Some(JobState::Queued { .. })) {
                    actions.push(Action::Claim(number));
                }
            }
            Task::BringingUp(_, point) => {
                let is_there = point.is_none_or(|id| self.store.is_durable(id));
                let gives_up = self.has_declined(number);
                if is_there && !gives_up {
                    actions.push(Action::Restore(number));
                }
                if point.is_some() && self.left.unfit > 0 && !gives_up {
                    actions.push(Action::Decline(number));
                }
                if !is_there || gives_up || (point.is_some() && self.left.bad_checkpoints > 0) {
                    actions.push(Action::FallBack(number));
                }
            }
            Task::Running(run) => {
                actions.push(Action::Succeed(number));
                if self.left.failures > 0 {
                    actions.push(Action::Fail(number));
                }
                if run.upload.is_some() {
                    actions.push(Action::Commit(number));
                } else if run.seq < rules.checkpoints {
                    actions.push(Action::Upload(number));
                }
            }
            Task::Claiming(..) | Task::FallingBack(..) | Task::Committing(..) | Task::Ending(_) => {}
        }
        if let Some(mine) = process.holder() {
            let is_mine = matches!(state, Some(JobState::Running { holder, cancel: None, .. }) if holder == mine);
            if !is_mine {
                actions.push(Action::Notice(number));
            }
            if self.store.keys.contains(&keys::drain(&process.node)) {
                actions.push(Action::Release(number));
            }
        }
    }

    /// What the loops beside the job can do.
    fn loop_actions(&self, number: usize, process: &Process, rules: &Rules, actions: &mut Vec<Action>) {
        let state = self.store.record().map(|record| &record.state);
        if let (Some(record), Some(JobState::Queued { .. }), None) = (self.store.record(), state, &process.keeper)
            && !self.is_there_one_that_fits()
            && !says_why_it_waits(record)
        {
            actions.push(Action::SayWhyItWaits(number));
        }
        if let (Some(JobState::Running { holder, .. }), None) = (state, &process.keeper) {
            let is_here = holder.incarnation == process.incarnation;
            let has_left = !self.store.keys.contains(&keys::node(&holder.node, &holder.incarnation));
            if has_left || (rules.weakness == Some(Weakness::ReapsUnguarded) && !is_here) {
                actions.push(Action::Reap(number));
            }
            if is_here && process.task == Task::Idle && rules.weakness != Some(Weakness::NeverCompares) {
                actions.push(Action::Disown(number));
            }
        }
    }
}
