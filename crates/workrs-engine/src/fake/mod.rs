//! A pretended engine: its programs count ticks of tokio's clock, so that everything above the engine can be tested
//! without root, in no time, and with faults at every single call.
//!
//! Programs ([`ContainerSpec::command`]):
//!
//! | command | what it does |
//! |---|---|
//! | `count <n> <tick ms>` | prints `1` to `<n>`, one line a tick, appends each to `/job/lines`, exits 0 |
//! | `fail-dump <n> <tick ms>` | the same, but its memory cannot be captured |
//! | `sleep <ms>` | exits 0 after that time |
//! | `exit <code>`, `signal <number>`, `oom`, `fill-disk`, `vanish` | ends at once, in this way |
//! | `write <path in /job> <text>` | writes a file, exits 0 |
//!
//! Anything else cannot be started. Time that a program spends frozen does not count.

mod container;
mod host;
mod program;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use workrs_core::{id::JobId, image::Image, job::CheckpointMode, manifest::RestoreNeeds, spec::Network};

use crate::engine::{Capabilities, Container, ContainerSpec, Engine, EngineError, LayerSource, Origin};

pub use self::host::{FakeHost, Fault, Restores};
use self::{container::FakeContainer, host::Boot, program::Program};

/// The name in the captures of this engine, unless a test gives its host another one.
pub const ENGINE: &str = "fake";
const FORMAT: u32 = 1;

/// The engine of one life of a [`FakeHost`]; after a crash every call of it hangs, as those of a dead process do.
#[derive(Debug, Clone)]
pub struct FakeEngine {
    boot: Boot,
}

#[async_trait]
impl Engine for FakeEngine {
    fn name(&self) -> &'static str {
        self.boot.engine_name()
    }

    fn format(&self) -> u32 {
        FORMAT
    }

    async fn capabilities(&self) -> Capabilities {
        Capabilities { run: Ok(()), dump: self.boot.dump_capability() }
    }

    async fn disk_capacity(&self) -> u64 {
        self.boot.disk_capacity()
    }

    fn network(&self) -> Network {
        Network::Host
    }

    fn is_ours(&self, job: &JobId, attempt: &str, _: Duration) {
        self.boot.note_may_go_on(format!("{job}-{attempt}"));
    }

    async fn sweep(&self) -> Result<Vec<String>, EngineError> {
        self.boot.call("sweep", || self.boot.sweep()).await
    }

    async fn provide(&self, _: &Image, _: &dyn LayerSource) -> Result<(), EngineError> {
        Ok(())
    }

    async fn check(&self, _: &ContainerSpec, needs: &RestoreNeeds) -> Result<(), EngineError> {
        self.boot.call("check", || self.check_memory(needs)).await
    }

    async fn prepare(&self, spec: &ContainerSpec, origin: Origin) -> Result<Box<dyn Container>, EngineError> {
        let made = self.boot.call("prepare", || self.make(spec, &origin)).await?;
        Ok(Box::new(made))
    }
}

impl FakeEngine {
    fn make(&self, spec: &ContainerSpec, origin: &Origin) -> Result<FakeContainer, EngineError> {
        let program = match origin {
            Origin::New => Program::new(&spec.command),
            Origin::Captured { folder, mode, needs } => {
                if *mode == CheckpointMode::Full {
                    self.check_memory(needs)?;
                }
                if self.boot.restores() == Restores::Refused {
                    return Err(EngineError::Refused("the test refuses restores".to_owned()));
                }
                Program::restored(&spec.command, folder, *mode)?
            }
        };
        let folder = self.boot.make_folder(&format!("{}-{}", spec.job, spec.attempt))?;
        let captured = match origin {
            Origin::New => Ok(None),
            Origin::Captured { folder: captured, .. } => unpack(captured, &folder).map(Some),
        };
        match captured {
            Ok(captured) => Ok(FakeContainer::new(self.boot.clone(), folder, program, captured)),
            Err(refused) => {
                let _ = std::fs::remove_dir_all(&folder);
                Err(refused)
            }
        }
    }

    /// Whether a capture of memory with these needs can be restored here.
    fn check_memory(&self, needs: &RestoreNeeds) -> Result<(), EngineError> {
        if needs.engine != self.boot.engine_name() || needs.format != FORMAT {
            return Err(EngineError::Unfit(format!("it was captured by {} {}", needs.engine, needs.format)));
        }
        match self.boot.restores() {
            Restores::Unfit => Err(EngineError::Unfit("the test makes this host unfit".to_owned())),
            Restores::Work | Restores::Refused | Restores::FailAtStart => Ok(()),
        }
    }
}

/// Brings `/job` back from the captured disk, a JSON list of names and contents, and gives the disk's bytes.
fn unpack(captured: &Path, folder: &Path) -> Result<Vec<u8>, EngineError> {
    let refused = |error: String| EngineError::Refused(format!("the fake disk cannot be read: {error}"));
    let bytes = std::fs::read(captured.join("disk")).map_err(|error| refused(error.to_string()))?;
    let files: Vec<(PathBuf, Vec<u8>)> = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    for (name, content) in files {
        let path = folder.join("job").join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| EngineError::Host(error.to_string()))?;
        }
        std::fs::write(path, content).map_err(|error| EngineError::Host(error.to_string()))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
