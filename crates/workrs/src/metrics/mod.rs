//! Figures of this process, for operators. One process is one node, so they are global; what they cost does not grow
//! with the group.
//!
//! Each is a static, and [`ALL`] names those that are shown. Whoever knows something sets it: the loops of the node,
//! [`MeteredState`] and [`MeteredBlobs`], which measure every operation of a store, and the API itself.

mod blobs;
mod kinds;
mod state;

use self::kinds::{Counter, Gauge, Histogram, Metric};
pub use self::{blobs::MeteredBlobs, state::MeteredState};

/// Jobs that this node claimed.
pub static CLAIMS: Counter = Counter::new("workrs_claims_total", "Jobs that this node claimed.");
/// Claims that another node won.
pub static CLAIM_CONFLICTS: Counter =
    Counter::new("workrs_claim_conflicts_total", "Claims of this node that came to nothing, as the job had changed.");
/// Jobs of dead nodes that this node gave back to the queue.
pub static REAPS: Counter =
    Counter::new("workrs_reaps_total", "Jobs of dead nodes that this node gave back to the queue.");
/// Times that this node saw another one go.
pub static NODES_GONE: Counter =
    Counter::new("workrs_nodes_gone_total", "Times that this node saw the key of another node go.");
/// Jobs that this node gave back itself.
pub static RELEASES: Counter =
    Counter::new("workrs_releases_total", "Jobs that this node gave back to the queue itself.");
/// Jobs that were taken from this node while it ran them.
pub static FENCED: Counter =
    Counter::new("workrs_fenced_total", "Jobs that this node ended because another node has them by now.");
/// Renewals of this node's lease, by outcome: `ok`, `failed` or `ended`.
pub static LEASE_RENEWALS: Counter = Counter::with_labels(
    "workrs_lease_renewals_total",
    "Renewals of this node's lease, by outcome: ok, failed (no answer), ended (too late).",
    &["outcome"],
);
/// Watches that broke off and were begun anew, by what they watched.
pub static WATCH_RESTARTS: Counter = Counter::with_labels(
    "workrs_watch_restarts_total",
    "Watches of the state store that broke off and were begun anew, by what they watch.",
    &["of"],
);
/// Connections that were closed at once.
pub static REFUSED_CONNECTIONS: Counter = Counter::new(
    "workrs_refused_connections_total",
    "Connections that were closed at once, as there were too many from their address or in all.",
);
/// Requests that came too fast, by what there was too much of.
pub static RATE_LIMITED: Counter = Counter::with_labels(
    "workrs_rate_limited_total",
    "Requests answered with 429, by what their caller had too much of: requests, refusals (no valid token), streams.",
    &["of"],
);
/// Checkpoints that this node committed.
pub static CHECKPOINTS: Counter = Counter::new("workrs_checkpoints_total", "Checkpoints that this node committed.");
/// Checkpoints that failed on this node.
pub static CHECKPOINT_FAILURES: Counter =
    Counter::new("workrs_checkpoint_failures_total", "Checkpoints that failed on this node.");
/// What this node uploaded for checkpoints.
pub static UPLOADED_BYTES: Counter =
    Counter::new("workrs_checkpoint_uploaded_bytes_total", "Bytes uploaded for checkpoints.");
/// Parts of checkpoints that were found damaged when they were read back.
pub static DAMAGED_CHUNKS: Counter =
    Counter::new("workrs_checkpoint_damaged_chunks_total", "Chunks of checkpoints that were found damaged.");
/// How long jobs stood still on this node.
pub static STANDSTILL_MS: Counter =
    Counter::new("workrs_standstill_milliseconds_total", "How long jobs stood still for checkpoints.");
/// Jobs that this node resumed from a checkpoint.
pub static RESUMES: Counter = Counter::new("workrs_resumes_total", "Jobs that this node resumed from a checkpoint.");
/// Jobs that finished on this node.
pub static FINISHED: Counter = Counter::new("workrs_finished_total", "Jobs that finished on this node.");

/// Jobs that this node holds.
pub static JOBS: Gauge =
    Gauge::new("workrs_jobs", "Jobs that this node holds: claimed, and neither ended nor given back.");
/// Cores that no job has.
pub static FREE_CPUS: Gauge = Gauge::new("workrs_free_cpus", "Cores of this node that no job has.");
/// Memory that no job has.
pub static FREE_MEMORY: Gauge = Gauge::new("workrs_free_memory_bytes", "Memory of this node that no job has.");
/// Disk space that no job has.
pub static FREE_DISK: Gauge = Gauge::new("workrs_free_disk_bytes", "Space for job disks on this node that no job has.");
/// Whether this node is drained: 1 or 0.
pub static DRAINING: Gauge = Gauge::new("workrs_draining", "1 while this node takes no jobs because it is drained.");
/// Queued jobs that this node knows of.
pub static QUEUE_KNOWN: Gauge = Gauge::new("workrs_queue_known", "Queued jobs that this node knows of.");
/// When the lease was last renewed, in seconds since 1970.
pub static LEASE_RENEWED_AT: Gauge =
    Gauge::new("workrs_lease_renewed_timestamp_seconds", "When this node's lease was last renewed.");
/// What the state store takes.
pub static STATE_USED: Gauge =
    Gauge::new("workrs_state_used_bytes", "What the group's state store takes, its history included.");
/// Where the state store stops to take writes.
pub static STATE_QUOTA: Gauge = Gauge::new(
    "workrs_state_quota_bytes",
    "Where the group's state store stops to take writes; missing without a limit.",
);

/// How long jobs stood still.
pub static STANDSTILL: Histogram =
    Histogram::new("workrs_standstill_seconds", "How long jobs stood still, by checkpoint.");
/// From the freeze until the checkpoint was durable.
pub static CHECKPOINT_TIME: Histogram =
    Histogram::new("workrs_checkpoint_seconds", "From the freeze until the checkpoint was committed.");
/// From the claim until a resumed job ran on.
pub static RESTORE_TIME: Histogram =
    Histogram::new("workrs_restore_seconds", "From the begin of a restore until the job ran on.");
/// Operations of the state store.
pub static STATE_TIME: Histogram = Histogram::with_labels(
    "workrs_state_operation_seconds",
    "Operations of the state store, by kind and outcome.",
    &["operation", "outcome"],
);
/// Operations of the blob store.
pub static BLOB_TIME: Histogram = Histogram::with_labels(
    "workrs_blob_operation_seconds",
    "Operations of the blob store, by kind and outcome.",
    &["operation", "outcome"],
);

/// All that is shown.
static ALL: &[&dyn Metric] = &[
    &CLAIMS,
    &CLAIM_CONFLICTS,
    &REAPS,
    &NODES_GONE,
    &RELEASES,
    &FENCED,
    &LEASE_RENEWALS,
    &WATCH_RESTARTS,
    &REFUSED_CONNECTIONS,
    &RATE_LIMITED,
    &CHECKPOINTS,
    &CHECKPOINT_FAILURES,
    &UPLOADED_BYTES,
    &DAMAGED_CHUNKS,
    &STANDSTILL_MS,
    &RESUMES,
    &FINISHED,
    &JOBS,
    &FREE_CPUS,
    &FREE_MEMORY,
    &FREE_DISK,
    &DRAINING,
    &QUEUE_KNOWN,
    &LEASE_RENEWED_AT,
    &STATE_USED,
    &STATE_QUOTA,
    &STANDSTILL,
    &CHECKPOINT_TIME,
    &RESTORE_TIME,
    &STATE_TIME,
    &BLOB_TIME,
];

/// All figures in the form that Prometheus reads.
pub fn render() -> String {
    let mut text = String::new();
    for metric in ALL {
        metric.render(&mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_a_name_of_its_own_and_is_in_the_guide() {
        let guide = include_str!("../../../../docs/operator-guide.md");
        let text = render();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut names: Vec<_> = types.filter_map(|rest| rest.split(' ').next()).collect();
        for name in &names {
            assert!(guide.contains(&format!("`{name}`")), "docs/operator-guide.md does not tell of {name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
