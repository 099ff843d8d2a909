//! Runs jobs in containers, freezes, captures and restores them.
//!
//! - [`engine`]: the traits [`Engine`] and [`Container`] and their contract.
//! - [`runc`]: the real one, on runc and CRIU.
//! - [`docker`]: the same on a Docker daemon.
//! - [`absent`]: stands in where no job can run.
//! - [`image`]: what containers run in, and where images come from.
//! - [`fake`]: a pretended one for tests of everything above.
//! - [`conformance`]: the one suite that every engine passes.
//! - [`preflight`]: what this host can do, and how to mend what is missing.
//! - [`boottime`]: the clock by which leases are counted.
//! - [`internal`]: what the engine's helper processes do; the executable forwards `internal <verb> …` to it.

pub mod absent;
pub mod boottime;
pub mod conformance;
#[cfg(feature = "docker")]
pub mod docker;
pub mod engine;
pub mod fake;
#[doc(hidden)]
pub mod fuzzing {
    //! What fuzzers call of this crate: parsers of what comes from anybody. Not an interface.
    pub use crate::image::{fuzz::layer, source::fuzz::documents};
}
pub mod internal;
pub mod preflight;
pub mod runc;

mod cgroup;
mod container;
mod disk;
pub mod image;
pub mod mounts;
mod process;

pub use self::engine::{
    Capabilities, Capture, CapturedPart, Container, ContainerEnd, ContainerSpec, Engine, EngineError, Frozen,
    LayerSource, Origin,
};
