//! Logs: what jobs print, in order, standard output and standard error together.
//!
//! A log is addressed by byte offset. [`pump`] takes it from the job's pipe into a file of the attempt, where
//! followers on this node read it ([`live`]), and those on other nodes through this node's API ([`remote`]);
//! [`stored`] keeps it in blobs, as segments that are durable before the checkpoint that counts on them; [`follow`]
//! reads what is stored and what is live, one after the other.

mod follow;
mod live;
mod pump;
mod remote;
mod stored;

pub use self::{
    follow::{Followed, LogEvent, LogSources, follow},
    live::{LiveEvents, live_events},
    pump::{LiveLog, LiveLogs, LogPump, PumpError},
    remote::{OFFSET_HEADER, Peers},
    stored::{LogError, Segment, merge_segments, read_stored, store_segment, stored_len},
};
