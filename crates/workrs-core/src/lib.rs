//! Pure decisions of Workrs.
//!
//! Nothing here reads a clock, a file, the network or a random source: times and random draws are
//! arguments, so every decision can be tested by value.
//!
//! - [`id`]: names of jobs, nodes and operations, and points in time.
//! - [`spec`]: what the user asked for, and the units that people write.
//! - [`image`]: what an image consists of.
//! - [`job`]: the job record, its states and events; [`job::JobRecord::apply`] is the only maker of states.
//! - [`keys`]: where records and their indexes stand in the state store.
//! - [`index`]: what the values of index keys say, for lists.
//! - [`plan`]: when the next checkpoint is due.
//! - [`fit`]: what a checkpoint needs of the host that it is resumed on, and what a node offers.
//! - [`placement`]: which node may run or resume which job.
//! - [`quota`]: what an owner may take of the group.
//! - [`manifest`]: what a checkpoint consists of.
//! - [`ranges`]: sets of bytes of a file.

pub mod fit;
pub mod hash;
pub mod id;
pub mod image;
pub mod index;
pub mod job;
pub mod keys;
pub mod manifest;
pub mod placement;
pub mod plan;
pub mod quota;
pub mod ranges;
pub mod spec;
