//! What an owner may take of the group, and in words why something does not go beside what it has.
//!
//! Jobs that run, their cores and their memory are limited by letting further jobs wait; queued jobs and stored bytes by
//! refusing further ones when they are handed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{id::Owner, keys::QueueEntry, spec::format_size};

/// The most that an owner may have; `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Jobs that run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u32>,
    /// Processor time of those, in thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus_milli: Option<u32>,
    /// Memory of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Jobs that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<u32>,
    /// Inputs, checkpoints, outputs and logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// What a running job takes: the value of its key below its owner's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Processor time, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory.
    pub memory_bytes: u64,
}

/// What an owner's running jobs take together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Running {
    /// How many there are.
    pub jobs: u32,
    /// Processor time, in thousandths of a core.
    pub cpus_milli: u64,
    /// Memory.
    pub memory_bytes: u64,
}

impl FromIterator<Share> for Running {
    fn from_iter<T: IntoIterator<Item = Share>>(shares: T) -> Self {
        shares.into_iter().fold(Self::default(), |all, share| Self {
            jobs: all.jobs + 1,
            cpus_milli: all.cpus_milli + u64::from(share.cpus_milli),
            memory_bytes: all.memory_bytes.saturating_add(share.memory_bytes),
        })
    }
}

/// Something that an owner's quota does not allow now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the quota of {owner}: {what}")]
pub struct OverQuota {
    owner: Owner,
    what: String,
}

impl Quota {
    /// Whether it limits what runs.
    pub fn limits_running(&self) -> bool {
        self.running.is_some() || self.cpus_milli.is_some() || self.memory_bytes.is_some()
    }

    /// Whether a job of the owner may start beside those that run.
    pub fn may_start(&self, owner: &Owner, running: Running, job: &QueueEntry) -> Result<(), OverQuota> {
        let over = |what| Err(OverQuota { owner: owner.clone(), what });
        let cores = |milli: u64| milli as f64 / 1_000.0;
        if let Some(limit) = self.running.filter(|limit| running.jobs >= *limit) {
            return over(format!("{} of at most {limit} jobs run", running.jobs));
        }
        let asked = u64::from(job.cpus_milli);
        if let Some(limit) = self.cpus_milli.map(u64::from).filter(|limit| running.cpus_milli + asked > *limit) {
            let (taken, limit, asked) = (cores(running.cpus_milli), cores(limit), cores(asked));
            return over(format!("{taken} of at most {limit} cores are taken, and the job asks for {asked}"));
        }
        let (taken, asked) = (running.memory_bytes, job.memory_bytes);
        if let Some(limit) = self.memory_bytes.filter(|limit| taken.saturating_add(asked) > *limit) {
            let [taken, limit, asked] = [taken, limit, asked].map(format_size);
            return over(format!("{taken} of at most {limit} memory are taken, and the job asks for {asked}"));
        }
        Ok(())
    }

    /// Whether one more job may wait, where `queued` do.
    pub fn may_queue(&self, owner: &Owner, queued: u32) -> Result<(), OverQuota> {
        match self.queued.filter(|limit| queued >= *limit) {
            Some(limit) => {
                Err(OverQuota { owner: owner.clone(), what: format!("{queued} of at most {limit} jobs wait already") })
            }
            None => Ok(()),
        }
    }

    /// Whether `more` bytes may be stored beside `stored`.
    pub fn may_store(&self, owner: &Owner, stored: u64, more: u64) -> Result<(), OverQuota> {
        let Some(limit) = self.stored_bytes.filter(|limit| stored.saturating_add(more) > *limit || stored >= *limit)
        else {
            return Ok(());
        };
        let [stored, limit, more] = [stored, limit, more].map(format_size);
        let what = format!("{stored} of at most {limit} are stored, and the job brings {more}");
        Err(OverQuota { owner: owner.clone(), what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner::new("ann").unwrap()
    }

    fn job(cpus_milli: u32, memory_bytes: u64) -> QueueEntry {
        QueueEntry {
            owner: Some(owner()),
            cpus_milli,
            memory_bytes,
            disk_bytes: 0,
            constraints: BTreeMap::new(),
            network: crate::spec::Network::None,
            image: false,
            arch: None,
            resume: None,
        }
    }

    #[test]
    fn a_job_starts_if_it_goes_beside_those_that_run() {
        let check = |quota: &Quota, shares: &[(u32, u64)], expected: Result<(), &str>| {
            let running = shares
                .iter()
                .map(|(cpus_milli, memory_bytes)| Share { cpus_milli: *cpus_milli, memory_bytes: *memory_bytes });
            let verdict = quota.may_start(&owner(), running.collect(), &job(2_000, 1 << 30));
            let verdict = verdict.map_err(|over| over.to_string());
            assert_eq!(verdict, expected.map_err(|what| format!("the quota of ann: {what}")));
        };
        let two = [(1_000, 1 << 30), (500, 512 << 20)];
        check(&Quota::default(), &two, Ok(()));
        let jobs = |limit| Quota { running: Some(limit), ..Quota::default() };
        check(&jobs(3), &two, Ok(()));
        check(&jobs(2), &two, Err("2 of at most 2 jobs run"));
        let cpus = |limit| Quota { cpus_milli: Some(limit), ..Quota::default() };
        check(&cpus(3_500), &two, Ok(()));
        check(&cpus(3_400), &two, Err("1.5 of at most 3.4 cores are taken, and the job asks for 2"));
        let memory = |limit| Quota { memory_bytes: Some(limit), ..Quota::default() };
        check(&memory(2_560 << 20), &two, Ok(()));
        check(&memory(2 << 30), &two, Err("1.5 GiB of at most 2 GiB memory are taken, and the job asks for 1 GiB"));
        assert!(jobs(1).limits_running() && !Quota { queued: Some(1), ..Quota::default() }.limits_running());
    }

    #[test]
    fn what_is_handed_over_is_held_against_what_is_there() {
        let quota = Quota { queued: Some(2), stored_bytes: Some(100), ..Quota::default() };
        assert!(quota.may_queue(&owner(), 1).is_ok());
        assert_eq!(
            quota.may_queue(&owner(), 2).unwrap_err().to_string(),
            "the quota of ann: 2 of at most 2 jobs wait already"
        );
        assert!(quota.may_store(&owner(), 60, 40).is_ok());
        assert!(quota.may_store(&owner(), 60, 41).is_err());
        assert!(quota.may_store(&owner(), 100, 0).is_err(), "a job without inputs stores something, too");
        assert!(Quota::default().may_store(&owner(), u64::MAX, 1).is_ok());
    }

    #[test]
    fn a_quota_stands_as_what_it_limits() {
        let quota = Quota { running: Some(1), ..Quota::default() };
        assert_eq!(serde_json::to_string(&quota).unwrap(), r#"{"running":1}"#);
    }
}
