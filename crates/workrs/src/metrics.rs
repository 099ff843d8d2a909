//! Counters of this process, for operators. One process is one node, so they are global.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

/// A number that only grows.
pub struct Counter {
    name: &'static str,
    help: &'static str,
    value: AtomicU64,
}

impl Counter {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, value: AtomicU64::new(0) }
    }

    /// Adds to it.
    pub fn add(&self, amount: u64) {
        self.value.fetch_add(amount, Ordering::Relaxed);
    }
}

/// Jobs that this node claimed.
pub static CLAIMS: Counter = Counter::new("workrs_claims_total", "Jobs that this node claimed.");
/// Claims that another node was quicker with.
pub static CLAIM_CONFLICTS: Counter =
    Counter::new("workrs_claim_conflicts_total", "Jobs that another node claimed first.");
/// Jobs of dead nodes that this node gave back to the queue.
pub static REAPS: Counter = Counter::new("workrs_reaps_total", "Jobs of dead nodes that this node gave back.");
/// Checkpoints that this node committed.
pub static CHECKPOINTS: Counter = Counter::new("workrs_checkpoints_total", "Checkpoints that this node committed.");
/// Checkpoints that failed on this node.
pub static CHECKPOINT_FAILURES: Counter =
    Counter::new("workrs_checkpoint_failures_total", "Checkpoints that failed on this node.");
/// How long jobs stood still on this node.
pub static STANDSTILL_MS: Counter =
    Counter::new("workrs_standstill_milliseconds_total", "How long jobs stood still for checkpoints.");
/// What this node uploaded for checkpoints.
pub static UPLOADED_BYTES: Counter =
    Counter::new("workrs_checkpoint_uploaded_bytes_total", "Bytes uploaded for checkpoints.");
/// Parts of checkpoints that were found damaged when they were read back.
pub static DAMAGED_CHUNKS: Counter =
    Counter::new("workrs_checkpoint_damaged_chunks_total", "Chunks of checkpoints that were found damaged.");
/// Jobs that this node resumed from a checkpoint.
pub static RESUMES: Counter = Counter::new("workrs_resumes_total", "Jobs that this node resumed from a checkpoint.");
/// Jobs that finished on this node.
pub static FINISHED: Counter = Counter::new("workrs_finished_total", "Jobs that finished on this node.");

/// All counters in the form that Prometheus reads.
pub fn render() -> String {
    let counters = [
        &CLAIMS,
        &CHECKPOINTS,
        &CHECKPOINT_FAILURES,
        &STANDSTILL_MS,
        &UPLOADED_BYTES,
        &DAMAGED_CHUNKS,
        &RESUMES,
        &FINISHED,
    ];
    let mut text = String::new();
    for Counter { name, help, value } in counters {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", value.load(Ordering::Relaxed));
    }
    text
}
