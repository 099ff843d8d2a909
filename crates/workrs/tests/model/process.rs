//! What a node's process does with the job: from the claim to the end, and the loops beside it.

use workrs_core::{
    fit::HostNeeds,
    hash::ContentHash,
    id::{Incarnation, JobId, NodeId, OperationId, Timestamp},
    job::{
        BlobRef, Checkpoint, CheckpointId, CheckpointMode, Failure, Holder, JobEvent, JobRecord, JobState, Outcome,
        Standing,
        decide::{self, Decision},
    },
    keys::{self, BlobNames},
};

use crate::{
    call::{Call, Progress, Refused},
    rules::{Rules, Weakness},
    store::{Doomed, Store, output_name},
};

const WAITS: &str = "no node fits";

/// Whether the record of a queued job says that no live node fits.
pub fn says_why_it_waits(record: &JobRecord) -> bool {
    matches!(&record.state, JobState::Queued { reason: Some(reason), .. } if reason == WAITS)
}

/// All times are the same: no decision of a job's life depends on them.
pub const AT: Timestamp = Timestamp::from_millis(0);

#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// It stands in the store while the process is a member of the group.
    pub key: String,
    /// Whether it believes that it is a member of the group and may take jobs.
    pub may_claim: bool,
    pub task: Task,
    /// The reaper's change, or that of the comparison of records with what runs here.
    pub keeper: Option<Call>,
    operations: u32,
}

/// What is done with the job here.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    Idle,
    Claiming(Holder, Call),
    /// On the way to a running program, from the checkpoint that the record says.
    BringingUp(Holder, Option<CheckpointId>),
    FallingBack(Holder, Call),
    Running(Run),
    Committing(Run, Call),
    Ending(Call),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    pub holder: Holder,
    /// What the next checkpoint builds on.
    pub base: Option<CheckpointId>,
    /// Checkpoints that were tried.
    pub seq: u64,
    /// One that is stored and not committed.
    pub upload: Option<CheckpointId>,
}

impl Process {
    pub fn new(node: NodeId, number: u8) -> Self {
        let incarnation = Incarnation::new(format!("{node}{number}")).unwrap();
        let key = keys::node(&node, &incarnation);
        Self { node, incarnation, key, may_claim: true, task: Task::Idle, keeper: None, operations: 0 }
    }

    fn operation(&mut self) -> OperationId {
        self.operations += 1;
        OperationId::new(format!("{}-{}", self.incarnation, self.operations)).unwrap()
    }

    /// The claim under which the job is here, if it is.
    pub fn holder(&self) -> Option<&Holder> {
        match &self.task {
            Task::BringingUp(holder, _) => Some(holder),
            Task::Running(run) => Some(&run.holder),
            _ => None,
        }
    }

    pub fn claim(&mut self, store: &Store, rules: &Rules) -> Option<Doomed> {
        let epoch = store.record()?.epoch.next();
        let holder = Holder { node: self.node.clone(), incarnation: self.incarnation.clone(), epoch };
        let mut decision = decide::claim(&holder, AT);
        if rules.weakness == Some(Weakness::ClaimsUnguarded) {
            decision.guards.clear();
        }
        let progress = Call::begin(store, &decision, self.operation(), rules);
        self.task_moves(Step::Claim(holder), progress, store, rules)
    }

    /// The checkpoint that the job is to go on from is there and works, or none is named.
    pub fn restore(&mut self) {
        if let Task::BringingUp(holder, base) = &self.task {
            self.task = Task::Running(Run { holder: holder.clone(), base: *base, seq: 0, upload: None });
        }
    }

    /// The checkpoint that the job is to go on from is missing or does not work.
    pub fn fall_back(&mut self, store: &Store, rules: &Rules) -> Option<Doomed> {
        let Task::BringingUp(holder, point) = &self.task else { return None };
        let (holder, bad) = (holder.clone(), (*point)?);
        let event = JobEvent::FellBack { holder: holder.clone(), bad, reason: "damaged".to_owned() };
        let progress = Call::begin(store, &unguarded(event), self.operation(), rules);
        self.task_moves(Step::FallBack(holder), progress, store, rules)
    }

    /// This node does not have what the checkpoint needs that the job is to go on from.
    pub fn decline(&mut self, store: &Store, rules: &Rules) -> Option<Doomed> {
        let Task::BringingUp(holder, point) = &self.task else { return None };
        let (holder, checkpoint) = (holder.clone(), (*point)?);
        self.end(JobEvent::RestoreUnfit { holder, at: AT, checkpoint, reason: "differs".to_owned() }, store, rules)
    }

    /// Says in the record that no live node fits.
    pub fn say_why_it_waits(&mut self, store: &Store, rules: &Rules) {
        let Some(point) = store.record().and_then(|record| record.resume_point()) else { return };
        let event = JobEvent::NoNodeFits { checkpoint: point.id, reason: WAITS.to_owned() };
        let progress = Call::begin(store, &unguarded(event), self.operation(), rules);
        self.keeper_moves(progress);
    }

    /// Stores a checkpoint.
    pub fn upload(&mut self, store: &mut Store, rules: &Rules) {
        if let Task::Running(run) = &mut self.task {
            run.seq += 1;
            let id = CheckpointId { epoch: run.holder.epoch, seq: run.seq };
            run.upload = Some(id);
            if rules.weakness != Some(Weakness::CommitsBeforeUpload) {
                store.upload(id, run.base);
            }
        }
    }

    /// Commits the checkpoint that was stored.
    pub fn commit(&mut self, store: &Store, rules: &Rules) -> Option<Doomed> {
        let Task::Running(run) = &self.task else { return None };
        let (run, id) = (run.clone(), run.upload?);
        let operation = self.operation();
        let event =
            JobEvent::CheckpointCommitted { holder: run.holder.clone(), checkpoint: checkpoint(id, &operation) };
        let progress = Call::begin(store, &unguarded(event), operation, rules);
        self.task_moves(Step::Commit(run), progress, store, rules)
    }

    /// The program has ended. An upload whose commit has not begun is given up.
    pub fn finish(&mut self, outcome: Outcome, store: &Store, rules: &Rules) -> Option<Doomed> {
        let holder = self.holder()?.clone();
        let name = output_name(&job(), holder.epoch);
        let outputs =
            matches!(self.task, Task::Running(_)).then(|| BlobRef { name, hash: ContentHash::of(b""), len: 0 });
        self.end(JobEvent::Finished { holder, at: AT, outcome, outputs, output_bytes: 0, log_bytes: 0 }, store, rules)
    }

    /// Gives the job back.
    pub fn release(&mut self, store: &Store, rules: &Rules) -> Option<Doomed> {
        let holder = self.holder()?.clone();
        self.end(JobEvent::Released { holder, at: AT, reason: "drained".to_owned() }, store, rules)
    }

    fn end(&mut self, event: JobEvent, store: &Store, rules: &Rules) -> Option<Doomed> {
        let progress = Call::begin(store, &unguarded(event), self.operation(), rules);
        self.task_moves(Step::End, progress, store, rules)
    }

    /// Looks at the record of a job that is here: it may be somebody else's, or cancelled.
    pub fn notice(&mut self, store: &Store, rules: &Rules) -> Option<Doomed> {
        match store.record().map(|record| &record.state) {
            Some(JobState::Running { holder, cancel, .. }) if Some(holder) == self.holder() => {
                if cancel.is_some() {
                    self.finish(Outcome::Cancelled, store, rules)
                } else {
                    None
                }
            }
            _ => {
                self.task = Task::Idle;
                None
            }
        }
    }

    /// Takes the job from a process that left the group.
    pub fn reap(&mut self, store: &Store, rules: &Rules) {
        let Some(mut decision) = store.record().and_then(|record| decide::reap(record, AT)) else { return };
        if rules.weakness == Some(Weakness::ReapsUnguarded) {
            decision.guards.clear();
        }
        let progress = Call::begin(store, &decision, self.operation(), rules);
        self.keeper_moves(progress);
    }

    /// Gives back a job that is under this process's name and not here.
    pub fn disown(&mut self, store: &Store, rules: &Rules) {
        let decision = store.record().and_then(|record| decide::disown(record, &self.incarnation, AT));
        let Some(decision) = decision else { return };
        let progress = Call::begin(store, &decision, self.operation(), rules);
        self.keeper_moves(progress);
    }

    /// Takes out the job's change, with what it is for.
    pub fn take_call(&mut self) -> Option<(Step, Call)> {
        match std::mem::replace(&mut self.task, Task::Idle) {
            Task::Claiming(holder, call) => Some((Step::Claim(holder), call)),
            Task::FallingBack(holder, call) => Some((Step::FallBack(holder), call)),
            Task::Committing(run, call) => Some((Step::Commit(run), call)),
            Task::Ending(call) => Some((Step::End, call)),
            task @ (Task::Idle | Task::BringingUp(..) | Task::Running(_)) => {
                self.task = task;
                None
            }
        }
    }

    /// The answer to the job's change was lost; gives what is to be deleted now, by a rule that is not kept.
    pub fn unanswered(&mut self, store: &Store, rules: &Rules) -> Option<Doomed> {
        match (self.take_call()?, rules.weakness) {
            ((Step::Commit(mut run), _), Some(Weakness::DeletesInDoubt)) => {
                let id = run.upload.take()?;
                self.task = Task::Running(run);
                Some(Doomed { manifests: [id].into(), packs: [id].into() })
            }
            ((step, call), _) => self.task_moves(step, call.unanswered(), store, rules),
        }
    }

    pub fn keeper_moves(&mut self, progress: Progress) {
        self.keeper = match progress {
            Progress::Waiting(call) => Some(call),
            Progress::Settled(_) => None,
        };
    }

    /// The job's change has come a step further; gives what is to be deleted now.
    pub fn task_moves(&mut self, step: Step, progress: Progress, store: &Store, rules: &Rules) -> Option<Doomed> {
        let result = match progress {
            Progress::Waiting(call) => {
                self.task = step.waits(call);
                return None;
            }
            Progress::Settled(result) => result,
        };
        match (step, result) {
            (Step::Claim(holder) | Step::FallBack(holder), Ok(record)) => {
                self.task = Task::BringingUp(holder, record.resume_point().map(|checkpoint| checkpoint.id));
                None
            }
            (Step::Claim(_), Err(refused)) => {
                self.may_claim &= refused != Refused::Guard || rules.weakness == Some(Weakness::ClaimsAgain);
                self.task = Task::Idle;
                None
            }
            (Step::Commit(mut run), Ok(record)) => {
                run.base = run.upload.take();
                let garbage = store.garbage(&record, run.holder.epoch, rules);
                self.task = Task::Running(run);
                Some(garbage)
            }
            (Step::End, Ok(record)) => {
                self.task = Task::Idle;
                let ended = matches!(&record.state, JobState::Finished { outcome, .. } if *outcome != Outcome::Lost);
                ended.then(|| store.everything())
            }
            (Step::FallBack(_) | Step::Commit(_) | Step::End, Err(_)) => {
                self.task = Task::Idle;
                None
            }
        }
    }
}

/// What the job's change is for.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Claim(Holder),
    FallBack(Holder),
    Commit(Run),
    End,
}

impl Step {
    fn waits(self, call: Call) -> Task {
        match self {
            Self::Claim(holder) => Task::Claiming(holder, call),
            Self::FallBack(holder) => Task::FallingBack(holder, call),
            Self::Commit(run) => Task::Committing(run, call),
            Self::End => Task::Ending(call),
        }
    }
}

fn unguarded(event: JobEvent) -> Decision {
    Decision { event, guards: Vec::new() }
}

/// The one job of the model.
pub fn job() -> JobId {
    JobId::new("job").unwrap()
}

fn checkpoint(id: CheckpointId, operation: &OperationId) -> Checkpoint {
    let name = BlobNames(&job()).checkpoint(id, operation, "manifest");
    Checkpoint {
        id,
        mode: CheckpointMode::Full,
        manifest: Some(BlobRef { name, hash: ContentHash::of(b""), len: 0 }),
        standing: Standing::Kept,
        at: AT,
        standstill_ms: 0,
        total_ms: 0,
        size_bytes: 0,
        uploaded_bytes: 0,
        run_ms: 0,
        log_bytes: 0,
        needs: HostNeeds::default(),
        refused_by: Vec::new(),
        declined: Vec::new(),
    }
}

/// The program fails by itself.
pub fn failed() -> Outcome {
    Outcome::Failed { failure: Failure::Exit { code: 1 } }
}
