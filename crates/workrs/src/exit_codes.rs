//! Exit codes of the `workrs` command; stable, scripts may rely on them.
//!
//! `run` and `wait` exit with the job's own code (0 to 119 are surely its own), with 128 + n when signal n ended
//! it, and with the codes below when it ended otherwise. Every other command exits with 0 or [`FAILED`]. Wrong
//! usage exits with 2.

/// The command failed.
pub const FAILED: u8 = 1;
/// The job was cancelled.
pub const CANCELLED: u8 = 120;
/// The job was lost: its nodes died too often without a newer checkpoint.
pub const LOST: u8 = 121;
/// The job needed more memory than its limit.
pub const OUT_OF_MEMORY: u8 = 122;
/// The job filled its disk.
pub const DISK_FULL: u8 = 123;
/// The job ran longer than its limit.
pub const TIMED_OUT: u8 = 124;
/// Workrs itself failed; what became of the job is not known here.
pub const WORKRS_FAILED: u8 = 125;
/// The job could not be started.
pub const CANNOT_START: u8 = 126;
/// The user let go of the job, which runs on.
pub const DETACHED: u8 = 130;
