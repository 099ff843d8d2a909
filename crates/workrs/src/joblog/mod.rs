//! Logs: what jobs print, in order, standard output and standard error together.
//!
//! A log is addressed by byte offset. [`pump`] takes it from the job's pipe into a file of the attempt, where
//! followers on this node read it; [`stored`] keeps it in blobs, as segments that are durable before the
//! checkpoint that counts on them; [`follow`] reads both, one after the other.

mod follow;
mod pump;
mod stored;

pub use self::{
    follow::{Followed, LogEvent, follow},
    pump::{LiveLog, LiveLogs, LogPump, PumpError},
    stored::{LogError, Segment, merge_segments, read_stored, store_segment, stored_len},
};
