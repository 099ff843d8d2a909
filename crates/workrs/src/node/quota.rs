//! How much checkpoint data this node's jobs may have in blobs. Over it, jobs run on without new checkpoints.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use workrs_core::{id::JobId, spec::format_size};

/// Limits on checkpoint data in blobs; `None` means none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckpointQuota {
    /// For each job.
    pub job_bytes: Option<u64>,
    /// For all jobs that a node runs, together.
    pub node_bytes: Option<u64>,
}

/// What the jobs of this node have in blobs, as far as is known.
#[derive(Debug)]
pub(super) struct CheckpointUsage {
    quota: CheckpointQuota,
    jobs: Mutex<HashMap<JobId, u64>>,
}

/// What a new checkpoint may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    /// The number of bytes.
    pub(super) bytes: u64,
    quota_bytes: u64,
    whose: &'static str,
}

impl Allowance {
    /// Why a checkpoint that needs more is not made.
    pub(super) fn exceeded(&self) -> String {
        format!(
            "the checkpoint data of {} would go over the quota of {} ({} left)",
            self.whose,
            format_size(self.quota_bytes),
            format_size(self.bytes)
        )
    }
}

impl CheckpointUsage {
    pub(super) fn new(quota: CheckpointQuota) -> Self {
        Self { quota, jobs: Mutex::default() }
    }

    /// What a new checkpoint of `job` may take, beside those that it has; `None` means any amount. Uploads that other
    /// jobs have under way are not counted before they are committed.
    pub(super) fn allowance(&self, job: &JobId) -> Option<Allowance> {
        let jobs = self.jobs();
        let own = jobs.get(job).copied().unwrap_or(0);
        let all = jobs.values().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        let left = |quota: Option<u64>, used: u64, whose| {
            quota.map(|quota_bytes| Allowance { bytes: quota_bytes.saturating_sub(used), quota_bytes, whose })
        };
        let of_job = left(self.quota.job_bytes, own, "this job");
        let of_node = left(self.quota.node_bytes, all, "all jobs of this node");
        of_job.into_iter().chain(of_node).min_by_key(|allowance| allowance.bytes)
    }

    /// Notes what a job has.
    pub(super) fn set(&self, job: &JobId, bytes: u64) {
        self.jobs().insert(job.clone(), bytes);
    }

    /// Notes that a job is no longer this node's.
    pub(super) fn forget(&self, job: &JobId) {
        self.jobs().remove(job);
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, u64>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tighter_limit_counts() {
        let (a, b) = (JobId::new("a").unwrap(), JobId::new("b").unwrap());
        let usage = CheckpointUsage::new(CheckpointQuota { job_bytes: Some(100), node_bytes: Some(150) });
        let left = |job: &JobId| usage.allowance(job).map(|allowance| (allowance.bytes, allowance.whose));
        assert_eq!(left(&a), Some((100, "this job")));
        usage.set(&b, 120);
        assert_eq!(left(&a), Some((30, "all jobs of this node")));
        assert_eq!(left(&b), Some((0, "this job")));
        usage.forget(&b);
        usage.set(&a, 60);
        assert_eq!(left(&a), Some((40, "this job")));
        assert_eq!(CheckpointUsage::new(CheckpointQuota::default()).allowance(&a), None);
    }
}
