//! Pure decisions of Workrs.
//!
//! Nothing here reads a clock, a file, the network or a random source: times and random draws are
//! arguments, so every decision can be tested by value.
//!
//! - [`id`]: names of jobs, nodes and operations, and points in time.
//! - [`spec`]: what the user asked for, and the units that people write.
//! - [`job`]: the job record, its states and events; [`job::JobRecord::apply`] is the only maker of states.
//! - [`keys`]: where records and their indexes stand in the state store.
//! - [`plan`]: when the next checkpoint is due.
//! - [`placement`]: which node may run or resume which job.
//! - [`manifest`]: what a checkpoint consists of.
//! - [`ranges`]: sets of bytes of a file.

pub mod hash;
pub mod id;
pub mod job;
pub mod keys;
pub mod manifest;
pub mod placement;
pub mod plan;
pub mod ranges;
pub mod spec;
