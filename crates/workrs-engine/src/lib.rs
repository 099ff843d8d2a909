//! Runs jobs in containers, freezes, captures and restores them.
//!
//! - [`engine`]: the traits [`Engine`] and [`Container`] and their contract.
//! - [`runc`]: the real one, on runc and CRIU.
//! - [`absent`]: stands in where no job can run.
//! - [`fake`]: a pretended one for tests of everything above.
//! - [`conformance`]: the one suite that every engine passes.
//! - [`preflight`]: what this host can do, and how to mend what is missing.
//! - [`internal`]: what the engine's helper processes do; the executable forwards `internal <verb> …` to it.

pub mod absent;
pub mod conformance;
pub mod engine;
pub mod fake;
pub mod internal;
pub mod preflight;
pub mod runc;

mod cgroup;
mod disk;
mod image;
pub mod mounts;
mod process;

pub use self::engine::{
    Capabilities, Capture, CapturedPart, Container, ContainerEnd, ContainerSpec, Engine, EngineError, Frozen, Origin,
};
