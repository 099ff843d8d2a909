//! When two worlds are the same for all that can follow: the checker looks at each such world once.
//!
//! Left out is what no decision depends on: notes and sums in the record, the numbers of revisions and the names of
//! operations. What counts of them is whether a write is of the present revision, and how far back the record remembers
//! an operation that somebody still asks for.

use std::hash::{DefaultHasher, Hash, Hasher};

use workrs_core::job::{JobEvent, JobRecord, JobState, Standing};

use crate::{
    call::Call,
    process::{Process, Task, says_why_it_waits},
    store::{Store, Write},
    world::{CALLERS, Caller, Node, User, World},
};

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { store, user, nodes, late, deletions, left } = self;
        hash_store(store, state);
        let User { has_submitted, is_acknowledged, call } = user;
        (has_submitted, is_acknowledged).hash(state);
        hash_call(call.as_ref(), store, state);
        for Node { process, processes } in nodes {
            processes.hash(state);
            hash_process(process.as_deref(), store, state);
        }
        // Neither order matters; both lists are short.
        late.len().hash(state);
        state.write_u64(sum(late, |write, hasher| {
            hash_write(write, store, hasher);
            // A sender that is in doubt may find it in the record.
            let operation = write.envelope.operations.last();
            let asks = |caller: &Caller| self.call(*caller).is_some_and(|call| Some(&call.operation) == operation);
            CALLERS.iter().position(asks).hash(hasher);
        }));
        state.write_u64(sum(deletions, Hash::hash));
        left.hash(state);
    }
}

/// A digest of a list whose order does not matter.
fn sum<T>(list: &[T], hash: impl Fn(&T, &mut DefaultHasher)) -> u64 {
    let digest = |item| {
        let mut hasher = DefaultHasher::new();
        hash(item, &mut hasher);
        hasher.finish()
    };
    list.iter().map(digest).fold(0, u64::wrapping_add)
}

fn hash_store<H: Hasher>(store: &Store, state: &mut H) {
    let Store { keys, manifests, packs, breaches, .. } = store;
    (keys, manifests, packs, breaches).hash(state);
    store.record().is_some().hash(state);
    if let Some(record) = store.record() {
        hash_record(record, state);
    }
}

fn hash_record<H: Hasher>(record: &JobRecord, state: &mut H) {
    let JobRecord { epoch, checkpoints, attempts, losses, retried, .. } = record;
    (epoch, losses, retried).hash(state);
    match &record.state {
        JobState::Queued { .. } => (0, says_why_it_waits(record)).hash(state),
        JobState::Running { holder, cancel, .. } => (1, holder, cancel.is_some()).hash(state),
        JobState::Finished { outcome, outputs, .. } => (2, format!("{outcome:?}"), outputs).hash(state),
    }
    for checkpoint in checkpoints {
        let standing = match &checkpoint.standing {
            Standing::Kept => 0,
            Standing::Bad { .. } => 1,
            Standing::Dropped => 2,
        };
        (checkpoint.id, standing).hash(state);
        checkpoint.declined.iter().for_each(|declined| declined.incarnation.hash(state));
    }
    for attempt in attempts {
        (attempt.epoch, &attempt.node, attempt.ended_at.is_some()).hash(state);
    }
}

fn hash_process<H: Hasher>(process: Option<&Process>, store: &Store, state: &mut H) {
    process.is_some().hash(state);
    let Some(process) = process else { return };
    process.may_claim.hash(state);
    std::mem::discriminant(&process.task).hash(state);
    let call = match &process.task {
        Task::Idle => None,
        Task::BringingUp(holder, point) => {
            (holder, point).hash(state);
            None
        }
        Task::Running(run) => {
            run.hash(state);
            None
        }
        Task::Claiming(holder, call) | Task::FallingBack(holder, call) => {
            holder.hash(state);
            Some(call)
        }
        Task::Committing(run, call) => {
            run.hash(state);
            Some(call)
        }
        Task::Ending(call) => Some(call),
    };
    hash_call(call, store, state);
    hash_call(process.keeper.as_ref(), store, state);
}

fn hash_call<H: Hasher>(call: Option<&Call>, store: &Store, state: &mut H) {
    call.is_some().hash(state);
    let Some(Call { operation, write, is_sent, in_doubt }) = call else { return };
    (is_sent, in_doubt).hash(state);
    hash_write(write, store, state);
    if let (true, Some(stored)) = (in_doubt, &store.record) {
        stored.envelope.operations.iter().rev().position(|known| known == operation).hash(state);
    }
}

fn hash_write<H: Hasher>(write: &Write, store: &Store, state: &mut H) {
    let Write { event, guards, expected, .. } = write;
    (*expected == store.revision()).hash(state);
    (guards.len(), event.is_some()).hash(state);
    if let Some(event) = event {
        hash_event(event, state);
    }
}

fn hash_event<H: Hasher>(event: &JobEvent, state: &mut H) {
    std::mem::discriminant(event).hash(state);
    event.holder().hash(state);
    match event {
        JobEvent::CheckpointCommitted { checkpoint, .. } => checkpoint.id.hash(state),
        JobEvent::FellBack { bad, .. } => bad.hash(state),
        JobEvent::RestoreUnfit { checkpoint, .. } | JobEvent::NoNodeFits { checkpoint, .. } => checkpoint.hash(state),
        JobEvent::Finished { outcome, outputs, .. } => (format!("{outcome:?}"), outputs).hash(state),
        _ => {}
    }
}
