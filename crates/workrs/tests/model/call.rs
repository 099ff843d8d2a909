//! One change of the record as its sender sees it: `Records::apply` and the settling of lost answers, step by step.

use std::sync::Arc;

use workrs_core::{
    id::OperationId,
    job::{Holder, JobEvent, JobRecord, decide::Decision},
};
use workrs_store::{
    envelope::Envelope,
    records::{Verdict, judge},
    state::Condition,
};

use crate::{
    rules::{Rules, Weakness},
    store::{Store, Write},
};

/// A change that is not settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub operation: OperationId,
    pub write: Arc<Write>,
    /// Whether an answer is awaited; otherwise the last one was lost and the record is to be read.
    pub is_sent: bool,
    /// Whether an answer was lost since the write was computed.
    pub in_doubt: bool,
}

/// Why nothing came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It does not fit the record.
    Illegal,
    /// A guard does not hold.
    Guard,
    /// The store did not take it.
    Unavailable,
}

/// How far a change has come.
pub enum Progress {
    Waiting(Call),
    Settled(Result<Box<JobRecord>, Refused>),
}

impl Call {
    /// Submits the job.
    pub fn submit(record: JobRecord, operation: OperationId) -> Self {
        let envelope = Envelope::new("me", record, operation.clone());
        let write = Write { event: None, guards: Vec::new(), expected: None, envelope };
        Self { operation, write: Arc::new(write), is_sent: true, in_doubt: false }
    }

    /// Reads the record, applies the event to it and sends the outcome.
    pub fn begin(store: &Store, decision: &Decision, operation: OperationId, rules: &Rules) -> Progress {
        let guards = decision.guards.iter().map(Condition::from).collect();
        Self::send(store, decision.event.clone(), guards, operation, rules)
    }

    fn send(
        store: &Store,
        mut event: JobEvent,
        guards: Vec<Condition>,
        operation: OperationId,
        rules: &Rules,
    ) -> Progress {
        let Some(stored) = &store.record else { return Progress::Settled(Err(Refused::Illegal)) };
        let record = &stored.envelope.body;
        if let (Some(Weakness::IgnoresHolder), Some(holder)) = (rules.weakness, record.holder()) {
            assume(&mut event, holder);
        }
        match record.apply(&event) {
            Err(_) => Progress::Settled(Err(Refused::Illegal)),
            Ok(next) if next == *record => Progress::Settled(Ok(Box::new(next))),
            Ok(next) => {
                let envelope = stored.envelope.succeeded_by(next, operation.clone());
                let write = Write { event: Some(event), guards, expected: Some(stored.revision), envelope };
                Progress::Waiting(Self { operation, write: Arc::new(write), is_sent: true, in_doubt: false })
            }
        }
    }

    /// The store has answered.
    pub fn answered(self, applied: bool, store: &Store, rules: &Rules) -> Progress {
        if applied {
            return Progress::Settled(Ok(Box::new(self.write.envelope.body.clone())));
        }
        // Definite for this send; whether an earlier one was applied, the record tells.
        if self.in_doubt && self.verdict(store) == Verdict::Applied { found(store) } else { self.lost(store, rules) }
    }

    /// The answer was lost.
    pub fn unanswered(self) -> Progress {
        Progress::Waiting(Self { is_sent: false, in_doubt: true, ..self })
    }

    /// The store has refused to do anything. Whoever has to get its change through sends it again.
    pub fn refused(self, gives_up: bool, store: &Store, rules: &Rules) -> Progress {
        if self.in_doubt {
            return self.unanswered();
        }
        match &self.write.event {
            Some(event) if !gives_up => {
                Self::send(store, event.clone(), self.write.guards.clone(), self.operation, rules)
            }
            _ => Progress::Settled(Err(Refused::Unavailable)),
        }
    }

    /// Reads the record after an answer was lost.
    pub fn look(self, store: &Store, rules: &Rules) -> Progress {
        match self.verdict(store) {
            Verdict::Applied => found(store),
            Verdict::Open => Progress::Waiting(Self { is_sent: true, ..self }),
            Verdict::Lost => self.lost(store, rules),
        }
    }

    fn verdict(&self, store: &Store) -> Verdict {
        let has_effect = store.record.as_ref().is_some_and(|stored| stored.envelope.written_by(&self.operation));
        judge(self.write.expected, store.revision(), has_effect)
    }

    fn lost(self, store: &Store, rules: &Rules) -> Progress {
        let Some(event) = self.write.event.clone() else {
            // A submit: whoever was first, the job is there.
            return found(store);
        };
        if !self.write.guards.iter().all(|guard| store.holds(guard)) {
            return Progress::Settled(Err(Refused::Guard));
        }
        Self::send(store, event, self.write.guards.clone(), self.operation, rules)
    }
}

/// The change was made; the record may have moved on since.
fn found(store: &Store) -> Progress {
    Progress::Settled(store.record().cloned().map(Box::new).ok_or(Refused::Illegal))
}

/// Replaces the holder in whose name the event is sent.
fn assume(event: &mut JobEvent, current: &Holder) {
    if let JobEvent::Started { holder, .. }
    | JobEvent::CheckpointCommitted { holder, .. }
    | JobEvent::FellBack { holder, .. }
    | JobEvent::Finished { holder, .. }
    | JobEvent::Released { holder, .. }
    | JobEvent::RestoreUnfit { holder, .. }
    | JobEvent::NodeLost { holder, .. } = event
    {
        *holder = current.clone();
    }
}
