//! The pretended programs: what they do at a tick, and what a capture of them holds.

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use workrs_core::job::CheckpointMode;

use crate::engine::{ContainerEnd, EngineError};

/// A program and how far it is; its "memory".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Program {
    command: Vec<String>,
    /// Ticks done.
    done: u64,
}

/// What a program does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Sleep this long (unfrozen), then print and write this line.
    Line(Duration, String),
    /// Sleep this long, then end.
    End(Duration, ContainerEnd),
    /// Write this file, then go on.
    Write(String, String),
}

impl Program {
    pub(super) fn new(command: &[String]) -> Self {
        Self { command: command.to_vec(), done: 0 }
    }

    /// The program as captured, or with `Files` from its beginning.
    pub(super) fn restored(command: &[String], folder: &Path, mode: CheckpointMode) -> Result<Self, EngineError> {
        if mode == CheckpointMode::Files {
            return Ok(Self::new(command));
        }
        let memory = std::fs::read(folder.join("memory").join("state.json"));
        let program = memory
            .map_err(|error| error.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
        program.map_err(|error| EngineError::Refused(format!("the fake memory cannot be read: {error}")))
    }

    pub(super) fn memory(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Why the memory cannot be captured.
    pub(super) fn capture_obstacle(&self) -> Option<String> {
        (self.word(0) == "fail-dump").then(|| "the test program forbids it".to_owned())
    }

    pub(super) fn advance(&mut self) {
        self.done += 1;
    }

    /// What comes next, or why the program cannot be started.
    pub(super) fn next(&self) -> Result<Step, EngineError> {
        let end = |end| Ok(Step::End(Duration::ZERO, end));
        match self.word(0) {
            "count" | "fail-dump" if self.done < self.number(1)? => {
                Ok(Step::Line(Duration::from_millis(self.number(2)?), (self.done + 1).to_string()))
            }
            "sleep" if self.done == 0 => Ok(Step::End(Duration::from_millis(self.number(1)?), ContainerEnd::Exited(0))),
            "write" if self.done == 0 => Ok(Step::Write(self.word(1).to_owned(), self.word(2).to_owned())),
            "count" | "fail-dump" | "sleep" | "write" => end(ContainerEnd::Exited(0)),
            "exit" => end(ContainerEnd::Exited(self.number(1)? as u8)),
            "signal" => end(ContainerEnd::Signalled(self.number(1)? as u8)),
            "oom" => end(ContainerEnd::OutOfMemory),
            "fill-disk" => end(ContainerEnd::DiskFull),
            "vanish" => end(ContainerEnd::Vanished),
            other => Err(EngineError::CannotStart(format!("{other}: not found"))),
        }
    }

    fn word(&self, index: usize) -> &str {
        self.command.get(index).map_or("", String::as_str)
    }

    fn number(&self, index: usize) -> Result<u64, EngineError> {
        let word = self.word(index);
        word.parse().map_err(|_| EngineError::CannotStart(format!("{word:?} is not a number")))
    }
}
