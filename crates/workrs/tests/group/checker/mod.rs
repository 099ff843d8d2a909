//! Proves from a group's history that no work was lost and that every job has one result.
//!
//! Each transaction is held against what stood before it. This shares the records' form and the names of their index
//! keys with the program, but none of its decisions: what a change may be is written down here once more, in
//! [`change`].

mod change;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use workrs_core::{
    id::JobId,
    job::{JobRecord, JobState, Outcome},
    keys,
};
use workrs_store::envelope::Envelope;

use crate::history::History;

/// What happened to a job over its whole life, counted from its changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub claims: u64,
    pub losses: u64,
    pub releases: u64,
    pub checkpoints: u64,
    pub fallbacks: u64,
    /// Claims that went on from a checkpoint.
    pub resumes: u64,
}

/// What a history proves.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Whatever must not be, in words.
    pub faults: Vec<String>,
    pub jobs: BTreeMap<JobId, Tally>,
    /// How each job stood at the end.
    pub records: BTreeMap<JobId, JobRecord>,
    /// Transactions that were looked at.
    pub transactions: usize,
}

impl Verdict {
    /// The sum over all jobs.
    pub fn total(&self) -> Tally {
        self.jobs.values().fold(Tally::default(), |sum, job| Tally {
            claims: sum.claims + job.claims,
            losses: sum.losses + job.losses,
            releases: sum.releases + job.releases,
            checkpoints: sum.checkpoints + job.checkpoints,
            fallbacks: sum.fallbacks + job.fallbacks,
            resumes: sum.resumes + job.resumes,
        })
    }

    /// Fails unless the history is right and every job of `expected` succeeded, and no other was there.
    pub fn assert_all_succeeded(&self, expected: &[String]) {
        let mut faults = self.faults.clone();
        let mut missing: Vec<&str> = expected.iter().map(String::as_str).collect();
        for (id, record) in &self.records {
            match missing.iter().position(|expected| *expected == id.as_str()) {
                Some(at) => drop(missing.swap_remove(at)),
                None => faults.push(format!("{id}: nobody submitted this job")),
            }
            if !matches!(&record.state, JobState::Finished { outcome: Outcome::Succeeded, .. }) {
                faults.push(format!("{id}: it did not succeed: {:?}", record.state));
            }
        }
        faults.extend(missing.into_iter().map(|id| format!("{id}: the job is gone")));
        assert!(faults.is_empty(), "the history is wrong:\n{}", faults.join("\n"));
    }
}

/// What stands in the store while the history is gone through.
#[derive(Default)]
struct World {
    keys: BTreeMap<String, Bytes>,
    records: BTreeMap<JobId, JobRecord>,
    tallies: BTreeMap<JobId, Tally>,
}

/// Goes through a history that is whole: it must begin with the first transaction of all.
pub fn check(history: &History) -> Verdict {
    let mut world = World::default();
    let mut faults = Vec::new();
    for (revision, changes) in &history.0 {
        let mut say = |text: String| faults.push(format!("revision {revision}: {text}"));
        let before: Vec<_> = changes.keys().filter_map(|key| job_of_record(key)).collect();
        let before: Vec<_> = before.into_iter().map(|id| (world.records.get(&id).cloned(), id)).collect();
        let present = |key: &str| world.keys.contains_key(key);
        let mut after = Vec::new();
        for (known, id) in &before {
            let key = keys::job(id);
            let record = match &changes[&key] {
                None => Err("the record was deleted".to_owned()),
                Some(value) => Envelope::<JobRecord>::decode(&key, value).map_err(|error| error.to_string()),
            };
            match record {
                Ok(envelope) => {
                    let tally = world.tallies.entry(id.clone()).or_default();
                    let mut found = Vec::new();
                    change::check(known.as_ref(), &envelope.body, tally, &present, &mut found);
                    for fault in found {
                        say(format!("{id}: {fault}"));
                    }
                    after.push((id.clone(), envelope.body));
                }
                Err(fault) => say(format!("{id}: {fault}")),
            }
        }
        apply(&mut world.keys, changes);
        world.records.extend(after);
        for (known, id) in &before {
            for fault in check_index(&world, known.as_ref(), id) {
                say(format!("{id}: {fault}"));
            }
        }
    }
    faults.extend(check_all_indexes(&world));
    Verdict { faults, jobs: world.tallies, records: world.records, transactions: history.0.len() }
}

fn apply(keys: &mut BTreeMap<String, Bytes>, changes: &BTreeMap<String, Option<Bytes>>) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(keys.insert(key.clone(), value.clone())),
            None => drop(keys.remove(key)),
        }
    }
}

fn job_of_record(key: &str) -> Option<JobId> {
    JobId::new(key.strip_prefix(keys::JOBS)?).ok()
}

/// The index keys of a job changed together with its record.
fn check_index(world: &World, before: Option<&JobRecord>, id: &JobId) -> Vec<String> {
    let index = |record: Option<&JobRecord>| record.map(keys::index_keys).unwrap_or_default();
    let (before, after) = (index(before), index(world.records.get(id)));
    let missing = after.keys().filter(|key| !world.keys.contains_key(*key)).map(|key| format!("{key} is missing"));
    let stale = before.keys().filter(|key| !after.contains_key(*key) && world.keys.contains_key(*key));
    missing.chain(stale.map(|key| format!("{key} still stands"))).collect()
}

/// At the end there is no index key that belongs to no record.
fn check_all_indexes(world: &World) -> Vec<String> {
    let wanted: Vec<_> = world.records.values().flat_map(keys::index_keys).map(|(key, _)| key).collect();
    let prefixes =
        [keys::QUEUE, keys::RUNNING, keys::CLEANUP, keys::FINISHED, keys::IMAGE_USES, "owner/", "running-of/"];
    let indexes = world.keys.keys().filter(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)));
    indexes.filter(|key| !wanted.contains(key)).map(|key| format!("{key} belongs to no record")).collect()
}
