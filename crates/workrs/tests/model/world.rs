//! The group of the model: a user, two nodes, the store between them, and what is on its way.

use std::sync::Arc;

use stateright::Model;
use workrs_core::{
    id::{NodeId, OperationId, Owner},
    job::{JobEvent, JobRecord, Outcome, decide::Decision},
    keys,
    spec::JobSpec,
};

use crate::{
    call::{Call, Progress},
    process::{AT, Process, Step, Task, failed, job},
    rules::{Faults, Rules, Weakness},
    store::{Doomed, Store, Write},
};

pub const NODES: usize = 2;

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    // Shared with the worlds before and after, until one of them changes it.
    pub store: Arc<Store>,
    pub user: User,
    pub nodes: [Node; NODES],
    /// Writes that nobody awaits an answer of, and that may be applied at any later time.
    pub late: Vec<Arc<Write>>,
    /// Deletions that are under way.
    pub deletions: Vec<Doomed>,
    /// Faults that may still strike.
    pub left: Faults,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct User {
    pub has_submitted: bool,
    pub is_acknowledged: bool,
    pub call: Option<Call>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    pub process: Option<Arc<Process>>,
    /// Processes that it had.
    pub processes: u8,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    User,
    Task(usize),
    Keeper(usize),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Submit,
    Cancel,
    /// The first node is asked to give its jobs back.
    Drain,
    /// The store gets the write and the caller the answer.
    Answer(Caller),
    /// The store gets the write, the caller no answer.
    LoseAnswer(Caller),
    /// The caller gets no answer, the store gets the write some time.
    Delay(Caller),
    /// The store does not take the write and says so.
    Refuse(Caller),
    /// The caller reads the record, as it got no answer.
    Look(Caller),
    /// The store gets a write that nobody awaits.
    ApplyLate(usize),
    Delete(usize),
    Start(usize),
    Crash(usize),
    /// A process's lease ends, dead or alive.
    EndLease(String),
    /// A process that has lost its lease puts its key back under a new one.
    Rejoin(usize),
    Claim(usize),
    Restore(usize),
    FallBack(usize),
    Decline(usize),
    SayWhyItWaits(usize),
    Upload(usize),
    Commit(usize),
    Succeed(usize),
    Fail(usize),
    Release(usize),
    Notice(usize),
    Reap(usize),
    Disown(usize),
}

/// The bounds and rules make the model.
impl Model for Rules {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut world = World {
            store: Arc::default(),
            user: User::default(),
            nodes: [Node::default(), Node::default()],
            late: Vec::new(),
            deletions: Vec::new(),
            left: self.faults,
        };
        (0..NODES).for_each(|node| world.start(node));
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.choices(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.act(action, self);
        if self.weakness != Some(Weakness::WritesBlindly) {
            // It names a revision that is past, and nobody waits for it: it can do nothing any more.
            let revision = next.store.revision();
            next.late.retain(|write| write.expected == revision);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<stateright::Property<Self>> {
        crate::properties::all()
    }
}

pub const CALLERS: [Caller; 5] = [Caller::User, Caller::Task(0), Caller::Keeper(0), Caller::Task(1), Caller::Keeper(1)];

impl World {
    fn act(&mut self, action: Action, rules: &Rules) {
        match action {
            Action::Submit => self.submit(),
            Action::Cancel => self.cancel(rules),
            Action::Drain => {
                self.left.drains -= 1;
                store(self).keys.insert(keys::drain(&node_id(0)));
            }
            Action::Answer(caller) => {
                let Some(call) = self.call(caller) else { return };
                let write = Arc::clone(&call.write);
                let applied = store(self).commit(&write, rules);
                self.move_call(caller, rules, |call, store| call.answered(applied, store, rules));
            }
            Action::LoseAnswer(caller) => {
                self.left.lost_answers -= 1;
                if let Some(write) = self.call(caller).map(|call| Arc::clone(&call.write)) {
                    store(self).commit(&write, rules);
                    self.lose_answer(caller, rules);
                }
            }
            Action::Delay(caller) => {
                self.left.lost_answers -= 1;
                if let Some(write) = self.call(caller).map(|call| Arc::clone(&call.write)) {
                    self.send_late(write);
                    self.lose_answer(caller, rules);
                }
            }
            Action::Refuse(caller) => {
                self.left.refusals -= 1;
                let gives_up = match caller {
                    Caller::User | Caller::Keeper(_) => true,
                    Caller::Task(node) => self.process(node).is_some_and(|p| matches!(p.task, Task::Claiming(..))),
                };
                self.move_call(caller, rules, |call, store| call.refused(gives_up, store, rules));
            }
            Action::Look(caller) => self.move_call(caller, rules, |call, store| call.look(store, rules)),
            Action::ApplyLate(number) => {
                let write = self.late.remove(number);
                store(self).commit(&write, rules);
            }
            Action::Delete(number) => {
                let doomed = self.deletions.remove(number);
                store(self).delete(&doomed);
            }
            Action::Start(node) => self.start(node),
            Action::Crash(node) => self.crash(node),
            Action::EndLease(key) => {
                let is_alive = self.is_alive(&key);
                self.left.pauses -= u8::from(is_alive);
                store(self).keys.remove(&key);
            }
            Action::Rejoin(node) => {
                if let Some(process) = &mut self.nodes[node].process {
                    Arc::make_mut(process).may_claim = true;
                    let key = process.key.clone();
                    store(self).keys.insert(key);
                }
            }
            Action::FallBack(node) => {
                let point = self.process(node).and_then(|process| match &process.task {
                    Task::BringingUp(_, point) => *point,
                    _ => None,
                });
                let is_fault = point.is_some_and(|id| self.store.is_durable(id)) && !self.has_declined(node);
                self.left.bad_checkpoints -= u8::from(is_fault);
                self.with_process(node, |process, store| process.fall_back(store, rules));
            }
            Action::Decline(node) => {
                self.left.unfit -= 1;
                self.with_process(node, |process, store| process.decline(store, rules));
            }
            Action::SayWhyItWaits(node) => self.with_process(node, |process, store| {
                process.say_why_it_waits(store, rules);
                None
            }),
            Action::Fail(node) => {
                self.left.failures -= 1;
                self.with_process(node, |process, store| process.finish(failed(), store, rules));
            }
            Action::Claim(node) => self.with_process(node, |process, store| process.claim(store, rules)),
            Action::Commit(node) => self.with_process(node, |process, store| process.commit(store, rules)),
            Action::Release(node) => self.with_process(node, |process, store| process.release(store, rules)),
            Action::Notice(node) => self.with_process(node, |process, store| process.notice(store, rules)),
            Action::Succeed(node) => {
                self.with_process(node, |process, store| process.finish(Outcome::Succeeded, store, rules));
            }
            Action::Restore(node) => self.with_process(node, |process, _| {
                process.restore();
                None
            }),
            Action::Upload(node) => self.with_process(node, |process, store| {
                process.upload(Arc::make_mut(store), rules);
                None
            }),
            Action::Reap(node) => self.with_process(node, |process, store| {
                process.reap(store, rules);
                None
            }),
            Action::Disown(node) => self.with_process(node, |process, store| {
                process.disown(store, rules);
                None
            }),
        }
    }

    fn submit(&mut self) {
        let mut spec = JobSpec::new("job", vec!["true".to_owned()]);
        spec.retries = 1;
        let record = JobRecord::submitted(job(), Owner::new("me").unwrap(), spec, None, AT);
        self.user.has_submitted = true;
        self.user.call = Some(Call::submit(record, OperationId::new("submit").unwrap()));
    }

    fn cancel(&mut self, rules: &Rules) {
        self.left.cancels -= 1;
        let decision = Decision { event: JobEvent::CancelRequested { at: AT }, guards: Vec::new() };
        let operation = OperationId::new("cancel").unwrap();
        if let Progress::Waiting(call) = Call::begin(&self.store, &decision, operation, rules) {
            self.user.call = Some(call);
        }
    }

    fn start(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.processes += 1;
        let process = Process::new(node_id(number), node.processes);
        let key = process.key.clone();
        node.process = Some(Arc::new(process));
        store(self).keys.insert(key);
    }

    /// The process is gone; what it sent may still be applied.
    fn crash(&mut self, number: usize) {
        self.left.crashes -= 1;
        for caller in [Caller::Task(number), Caller::Keeper(number)] {
            if let Some(call) = self.call(caller).filter(|call| call.is_sent) {
                let write = Arc::clone(&call.write);
                self.send_late(write);
            }
        }
        self.nodes[number].process = None;
    }

    fn send_late(&mut self, write: Arc<Write>) {
        // A write that is on its way twice is applied at most once, as the first changes the revision.
        if !self.late.contains(&write) {
            self.late.push(write);
        }
    }

    fn process(&self, node: usize) -> Option<&Process> {
        self.nodes[node].process.as_deref()
    }

    pub fn call(&self, caller: Caller) -> Option<&Call> {
        match caller {
            Caller::User => self.user.call.as_ref(),
            Caller::Keeper(node) => self.process(node)?.keeper.as_ref(),
            Caller::Task(node) => match &self.process(node)?.task {
                Task::Claiming(_, call)
                | Task::FallingBack(_, call)
                | Task::Committing(_, call)
                | Task::Ending(call) => Some(call),
                Task::Idle | Task::BringingUp(..) | Task::Running(_) => None,
            },
        }
    }

    fn with_process(&mut self, node: usize, act: impl FnOnce(&mut Process, &mut Arc<Store>) -> Option<Doomed>) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let doomed = act(Arc::make_mut(process), &mut self.store);
        self.deletions.extend(doomed.filter(|doomed| *doomed != Doomed::default()));
    }

    fn lose_answer(&mut self, caller: Caller, rules: &Rules) {
        match caller {
            Caller::Task(node) => self.with_process(node, |process, store| process.unanswered(store, rules)),
            _ => self.move_call(caller, rules, |call, _| call.unanswered()),
        }
    }

    fn move_call(&mut self, caller: Caller, rules: &Rules, step: impl FnOnce(Call, &Store) -> Progress) {
        match caller {
            Caller::User => {
                let Some(call) = self.user.call.take() else { return };
                let is_submit = call.write.event.is_none();
                match step(call, &self.store) {
                    Progress::Waiting(call) => self.user.call = Some(call),
                    // The user of a submit that was refused tries again.
                    Progress::Settled(Err(_)) if is_submit => self.user.has_submitted = false,
                    Progress::Settled(_) => self.user.is_acknowledged = true,
                }
            }
            Caller::Keeper(node) => self.with_process(node, |process, store| {
                let call = process.keeper.take()?;
                process.keeper_moves(step(call, store));
                None
            }),
            Caller::Task(node) => self.with_process(node, |process, store| {
                let (purpose, call): (Step, Call) = process.take_call()?;
                let progress = step(call, store);
                process.task_moves(purpose, progress, store, rules)
            }),
        }
    }
}

fn store(world: &mut World) -> &mut Store {
    Arc::make_mut(&mut world.store)
}

fn node_id(number: usize) -> NodeId {
    NodeId::new(["a", "b"][number]).unwrap()
}
