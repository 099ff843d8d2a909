//! What can happen to a job. Every event carries its time.

use crate::{
    id::{Epoch, Timestamp},
    job::{BlobRef, Checkpoint, CheckpointId, Holder, Outcome},
    plan::PlanNote,
};

/// Something that happened, or is asked for. Applying the same event twice is the same as once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    /// A node takes a queued job; the holder's epoch is the record's next.
    Claimed {
        /// The new holder.
        holder: Holder,
        /// When.
        at: Timestamp,
    },
    /// The program runs: started or restored.
    Started {
        /// Who says so.
        holder: Holder,
        /// When.
        at: Timestamp,
        /// When it is to be checkpointed, and what is to be expected of it.
        plan: Option<PlanNote>,
        /// Why it was resumed here, if there was anything to choose.
        note: Option<String>,
    },
    /// The holder has thought about the job's checkpoints anew.
    Planned {
        /// Who.
        holder: Holder,
        /// What came of it.
        plan: PlanNote,
    },
    /// The log up to where this claim began lies in one segment of this claim: its ranges become one.
    LogMerged {
        /// Who copied it.
        holder: Holder,
    },
    /// A checkpoint is durable, manifest and all.
    CheckpointCommitted {
        /// Who took it.
        holder: Holder,
        /// What was taken, with standing `Kept`.
        checkpoint: Checkpoint,
    },
    /// A try to take a checkpoint failed; the job runs on.
    CheckpointFailed {
        /// Who tried.
        holder: Holder,
        /// Why it failed.
        reason: String,
    },
    /// The checkpoint that the attempt was to start from is proved useless: one step down.
    FellBack {
        /// Who proved it.
        holder: Holder,
        /// The useless one.
        bad: CheckpointId,
        /// The proof.
        reason: String,
    },
    /// Somebody wants the job to end.
    CancelRequested {
        /// When.
        at: Timestamp,
    },
    /// The program ended and its outputs and log are durable.
    Finished {
        /// Who says so.
        holder: Holder,
        /// When.
        at: Timestamp,
        /// How it ended.
        outcome: Outcome,
        /// The blob that lists its outputs.
        outputs: Option<BlobRef>,
        /// Their length, all together.
        output_bytes: u64,
        /// Length of its log.
        log_bytes: u64,
    },
    /// The holder gives the job back, at its newest checkpoint.
    Released {
        /// Who gives it back.
        holder: Holder,
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
    },
    /// The holder fits the checkpoint that it was to start from and has every byte of it, but cannot restore it: it gives
    /// the job back, so that another node can try.
    RestoreRefused {
        /// Who cannot.
        holder: Holder,
        /// When.
        at: Timestamp,
        /// What it cannot restore.
        checkpoint: CheckpointId,
        /// Why not.
        reason: String,
    },
    /// The holder does not have what the checkpoint needs that it was to start from: it gives the job back, so that another
    /// node can try.
    RestoreUnfit {
        /// Who does not fit.
        holder: Holder,
        /// When.
        at: Timestamp,
        /// What it does not fit.
        checkpoint: CheckpointId,
        /// What is missing.
        reason: String,
    },
    /// No live node has what the checkpoint needs that a queued job is to start from: it waits for one.
    NoNodeFits {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// Which nodes lack what, and how long it waits.
        reason: String,
    },
    /// The job was lost by a fault of its node: the node's key is gone, or the container vanished.
    NodeLost {
        /// Who held it.
        holder: Holder,
        /// When that was noticed.
        at: Timestamp,
        /// What happened.
        reason: String,
    },
    /// A `Lost` job is to be run on from its newest checkpoint.
    RunOn {
        /// When.
        at: Timestamp,
    },
    /// The blobs that the finished job no longer needs are gone.
    Cleaned,
}

impl JobEvent {
    /// The claim under which the event happened, for events of a holder.
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Claimed { holder, .. }
            | Self::Started { holder, .. }
            | Self::Planned { holder, .. }
            | Self::LogMerged { holder }
            | Self::CheckpointCommitted { holder, .. }
            | Self::CheckpointFailed { holder, .. }
            | Self::FellBack { holder, .. }
            | Self::Finished { holder, .. }
            | Self::Released { holder, .. }
            | Self::RestoreRefused { holder, .. }
            | Self::RestoreUnfit { holder, .. }
            | Self::NodeLost { holder, .. } => Some(holder),
            Self::CancelRequested { .. } | Self::NoNodeFits { .. } | Self::RunOn { .. } | Self::Cleaned => None,
        }
    }
}

/// An event that does not fit the record. The record is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IllegalEvent {
    /// Somebody else holds the job now, or nobody does: the sender must stop.
    #[error("the job is no longer held under epoch {epoch}")]
    Fenced {
        /// The sender's claim.
        epoch: Epoch,
    },
    /// The job is not in a state in which this can happen.
    #[error("a job that is {state} cannot be {event}")]
    WrongState {
        /// The state's name.
        state: &'static str,
        /// What was to happen.
        event: &'static str,
    },
    /// The event contradicts the record.
    #[error("the event contradicts the record: {0}")]
    Contradiction(&'static str),
}
