//! A job's life: its record, its states and the events that lead from one to the next.
//!
//! [`JobRecord::submitted`] makes a job, [`JobRecord::apply`] is the only maker of any other state, [`decide`] says
//! which event is due when nodes come and go. All are pure. Invariants, held by property tests: the epoch never falls; the newest good checkpoint is only ever
//! given up for a newer one, for proof that it is bad, or because the job ended or starts anew by its own
//! fault; at most [`KEPT_CHECKPOINTS`] are kept; an event applied twice is an event applied once.

mod apply;
pub mod decide;
mod event;
mod record;
#[cfg(test)]
mod tests;

pub use self::{
    apply::describe,
    event::{IllegalEvent, JobEvent},
    record::*,
};
