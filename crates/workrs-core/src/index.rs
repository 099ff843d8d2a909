//! What the values of index keys say of a job, so that lists of thousands need not read its record.
//!
//! An entry that an earlier version wrote says nothing (`{}`): whoever needs more asks the record.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    id::{NodeId, Timestamp},
    job::{JobRecord, JobState, Outcome},
};

/// At `owner/<owner>/<job>`: what never changes of a job, and what is left of it in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobNote {
    /// What people call it.
    pub name: String,
    /// When it was acknowledged.
    pub submitted_at: Timestamp,
    /// What it has in blobs, once it has ended for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
}

impl JobNote {
    /// What `record` says.
    pub fn of(record: &JobRecord) -> Self {
        let stored_bytes = record.is_over().then(|| record.stored_bytes());
        Self { name: record.spec.name.clone(), submitted_at: record.submitted_at, stored_bytes }
    }
}

/// At `running/<incarnation>/<job>`: who runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunNote {
    /// The node.
    pub node: NodeId,
}

/// At `finished/<when>/<job>` and `archived/<when>/<job>`: how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndNote {
    /// In one word.
    pub outcome: OutcomeKind,
}

impl EndNote {
    /// What `record` says, if the job has ended.
    pub fn of(record: &JobRecord) -> Option<Self> {
        match &record.state {
            JobState::Finished { outcome, .. } => Some(Self { outcome: outcome.into() }),
            JobState::Queued { .. } | JobState::Running { .. } => None,
        }
    }
}

/// How a job ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// Exit code 0.
    Succeeded,
    /// By its own fault.
    Failed,
    /// By its user's wish.
    Cancelled,
    /// Its nodes died too often.
    Lost,
}

impl OutcomeKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Succeeded, Self::Failed, Self::Cancelled, Self::Lost];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for OutcomeKind {
    type Err = UnknownOutcome;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownOutcome(text.to_owned()))
    }
}

/// A word that names no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of succeeded, failed, cancelled, lost")]
pub struct UnknownOutcome(String);

impl From<&Outcome> for OutcomeKind {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Failed { .. } => Self::Failed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Lost => Self::Lost,
        }
    }
}

/// What an index entry says; `None` if an earlier version wrote it.
pub fn read<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_an_earlier_version_say_nothing() {
        assert_eq!(read::<JobNote>(b"{}"), None);
        assert_eq!(read::<RunNote>(b"{}"), None);
        assert_eq!(read::<EndNote>(b"{}"), None);
        let note = JobNote { name: "n".to_owned(), submitted_at: Timestamp::from_millis(7), stored_bytes: Some(5) };
        assert_eq!(read(&serde_json::to_vec(&note).unwrap()), Some(note));
    }

    #[test]
    fn outcomes_are_words() {
        for kind in OutcomeKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        assert!("done".parse::<OutcomeKind>().is_err());
    }
}
