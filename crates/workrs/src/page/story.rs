//! What became of each attempt of a job, from what the record notes of it.

use crate::api::AttemptView;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It has not.
    Open,
    /// With the job.
    Succeeded,
    /// By the job's own fault.
    Failed,
    /// By its user's wish.
    Cancelled,
    /// Its node gave the job back.
    Released,
    /// Its node died, or failed it.
    Lost,
}

impl End {
    /// By the last note of the attempt, which says it in the words of the record.
    pub fn of(attempt: &AttemptView) -> Self {
        if attempt.ended_at.is_none() {
            return Self::Open;
        }
        match attempt.notes.last().map(String::as_str).unwrap_or_default() {
            "succeeded" => Self::Succeeded,
            "was cancelled" => Self::Cancelled,
            note if note.starts_with("failed:") => Self::Failed,
            note if note.starts_with("released:") => Self::Released,
            _ => Self::Lost,
        }
    }

    /// As a class that colours it.
    pub fn class(self) -> &'static str {
        match self {
            Self::Open => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Released => "released",
            Self::Lost => "lost",
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Open => "runs",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed by itself",
            Self::Cancelled => "cancelled",
            Self::Released => "given back by the node",
            Self::Lost => "lost with its node",
        }
    }
}

#[cfg(test)]
mod tests {
    use workrs_core::job::{Failure, Outcome, describe};

    use super::*;

    #[test]
    fn ends_are_told_by_the_words_of_the_record() {
        let ended = |note: &str| {
            let attempt = AttemptView {
                epoch: 1,
                node: "n".into(),
                claimed_at: 0,
                start: "clean".into(),
                spared_ms: None,
                started_at: None,
                ended_at: Some(1),
                notes: vec!["checkpoint 1-1 is bad (why); clean start".into(), note.into()],
            };
            End::of(&attempt)
        };
        assert_eq!(ended(&describe(&Outcome::Succeeded)), End::Succeeded);
        assert_eq!(ended(&describe(&Outcome::Cancelled)), End::Cancelled);
        let failed = Outcome::Failed { failure: Failure::Exit { code: 3 } };
        assert_eq!(ended(&describe(&failed)), End::Failed);
        assert_eq!(ended("released: node barn-1 was drained"), End::Released);
        assert_eq!(ended("node barn-1 died"), End::Lost);
    }
}
