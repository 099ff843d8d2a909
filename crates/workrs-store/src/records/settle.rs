//! A commit whose outcome is known in the end.
//!
//! The rule for a lost answer: re-read. Own operation among the last that wrote the value: applied. Value still the
//! one that the condition names: send the same bytes again under the same condition, until an answer is definite.
//! Moved on with neither: lost, which is like a conflict. An earlier send cannot be applied later on: its condition
//! names a revision that is past. Only where another condition of the change failed is the record unchanged after a
//! definite refusal: an earlier send can then be applied once that condition holds again. The caller hears
//! [`RecordError::GuardFailed`]; a claim that comes true in this way is given back when its node compares records with
//! what it runs.

use std::time::Duration;

use workrs_core::id::OperationId;

use super::{RecordError, Records, Stored};
use crate::state::{Condition, Revision, StateError, Transaction};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What came of a commit.
pub(super) enum Settled {
    /// Applied, as it was sent, by the transaction of this number.
    Applied(Revision),
    /// Applied, as a re-read showed: the record as it stands now, which may have moved on.
    Found(Box<Option<Stored>>),
    /// A condition did not hold, or somebody else was first.
    Lost,
}

/// What a re-read tells of a commit whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was applied.
    Applied,
    /// It was not applied, but may yet be: the same bytes are to be sent again.
    Open,
    /// It was not applied and never will be.
    Lost,
}

/// Judges a commit under the condition that the record is at `expected`, from where the record stands now and whether it
/// shows the commit's effect. `None` means that there is no record.
pub fn judge(expected: Option<Revision>, now: Option<Revision>, has_effect: bool) -> Verdict {
    match (now == expected, has_effect) {
        // A record that is unchanged was not written by this commit, even if it names the operation: the caller used
        // it before.
        (true, _) => Verdict::Open,
        (false, true) => Verdict::Applied,
        (false, false) => Verdict::Lost,
    }
}

/// A pause that doubles.
pub(super) struct Pause(Duration);

impl Pause {
    pub(super) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// What the transaction would leave at the record's key, to recognise it by.
pub(super) enum Effect<'a> {
    /// A value that names the operation.
    Written(&'a OperationId),
    /// Nothing.
    Deleted,
}

impl Records {
    /// Commits a change of the record at `key` under the condition that it is at `expected` (`None`: absent).
    pub(super) async fn commit_settled(
        &self,
        key: &str,
        expected: Option<Revision>,
        mut transaction: Transaction,
        effect: Effect<'_>,
    ) -> Result<Settled, RecordError> {
        let key_owned = key.to_owned();
        transaction.conditions.push(match expected {
            Some(revision) => Condition::Unchanged(key_owned, revision),
            None => Condition::Absent(key_owned),
        });
        let mut pause = Pause::new();
        let mut in_doubt = false;
        loop {
            match self.store.commit(transaction.clone()).await {
                Ok(revision) => return Ok(Settled::Applied(revision)),
                Err(StateError::Conflict) if !in_doubt => return Ok(Settled::Lost),
                Err(StateError::Damaged(text)) => return Err(RecordError::Damaged(text)),
                Err(StateError::Conflict) => {
                    // Definite for this send; whether an earlier one was applied, the value tells.
                    return Ok(match self.look(key, expected, &effect, &mut pause).await? {
                        (Verdict::Applied, stored) => Settled::Found(Box::new(stored)),
                        (Verdict::Open | Verdict::Lost, _) => Settled::Lost,
                    });
                }
                Err(StateError::Unknown(_)) => in_doubt = true,
                Err(error) if !in_doubt => return Err(error.into()),
                Err(_) => {}
            }
            pause.wait().await;
            match self.look(key, expected, &effect, &mut pause).await? {
                (Verdict::Applied, stored) => return Ok(Settled::Found(Box::new(stored))),
                (Verdict::Open, _) => {}
                (Verdict::Lost, _) => return Ok(Settled::Lost),
            }
        }
    }

    /// Looks for the effect of a commit until the store can be read.
    async fn look(
        &self,
        key: &str,
        expected: Option<Revision>,
        effect: &Effect<'_>,
        pause: &mut Pause,
    ) -> Result<(Verdict, Option<Stored>), RecordError> {
        let stored = loop {
            match self.read(key).await {
                Ok(stored) => break stored,
                Err(RecordError::Unavailable(_)) => pause.wait().await,
                Err(error) => return Err(error),
            }
        };
        let has_effect = match (effect, &stored) {
            (Effect::Written(operation), Some(stored)) => stored.envelope.written_by(operation),
            (Effect::Deleted, None) => true,
            _ => false,
        };
        Ok((judge(expected, stored.as_ref().map(|stored| stored.revision), has_effect), stored))
    }
}
