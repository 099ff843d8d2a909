//! The bounds of a run of the model, and the rules that can be weakened to see that the checker notices.

/// How often each fault may strike, in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A process dies.
    pub crashes: u8,
    /// A process lives, but its lease ends.
    pub pauses: u8,
    /// An answer of the store is lost; the write is applied before, later, or refused.
    pub lost_answers: u8,
    /// The store refuses an operation.
    pub refusals: u8,
    /// A checkpoint turns out to be damaged.
    pub bad_checkpoints: u8,
    /// A process finds that it does not have what a checkpoint needs.
    pub unfit: u8,
    /// The program fails by its own fault; its user wants one retry.
    pub failures: u8,
    /// The user cancels.
    pub cancels: u8,
    /// Somebody asks the first node to give its jobs back.
    pub drains: u8,
}

/// A rule that is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// Claims do not depend on their node's membership.
    ClaimsUnguarded,
    /// A node to which a claim was refused as it may not take jobs tries again at once.
    ClaimsAgain,
    /// Jobs are taken from nodes that may be back.
    ReapsUnguarded,
    /// Whoever commits does so in the name of the present holder.
    IgnoresHolder,
    /// Writes do not depend on the revision that they were computed from.
    WritesBlindly,
    /// A checkpoint is committed while it is uploaded.
    CommitsBeforeUpload,
    /// Deletes what the record does not name, whoever may be about to commit it.
    DeletesNewerEpochs,
    /// A commit whose answer was lost is taken for one that failed, and what it names is deleted.
    DeletesInDoubt,
    /// Nobody compares the records with what runs on a node.
    NeverCompares,
}

/// How the group of the model behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    pub faults: Faults,
    /// Checkpoints that an attempt takes at most.
    pub checkpoints: u64,
    pub weakness: Option<Weakness>,
}
