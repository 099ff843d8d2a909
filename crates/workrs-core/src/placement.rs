//! Which node may run which job, and which job a node takes first.

use std::{collections::BTreeMap, time::Duration};

use crate::keys::{QUEUE_SHARDS, QueueEntry};

/// What a node can still give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Processor time, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Space for job disks. A job needs twice its disk: for the image and for the clone in flight.
    pub disk_bytes: u64,
}

impl Capacity {
    /// What is left once a job has what it asks for.
    #[must_use]
    pub fn without(self, entry: &QueueEntry) -> Self {
        Self {
            cpus_milli: self.cpus_milli.saturating_sub(entry.cpus_milli),
            memory_bytes: self.memory_bytes.saturating_sub(entry.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(entry.disk_bytes.saturating_mul(2)),
        }
    }
}

/// Why a job cannot run on a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Not enough of something.
    #[error("it asks for more {0} than is free")]
    Short(&'static str),
    /// A label is missing or differs.
    #[error("it needs a node labelled {key}={value}")]
    Label {
        /// The label.
        key: String,
        /// Its wanted value.
        value: String,
    },
}

/// Whether a node with `free` capacity and `labels` may run the job.
pub fn fits(entry: &QueueEntry, free: Capacity, labels: &BTreeMap<String, String>) -> Result<(), Misfit> {
    if let Some((key, value)) = entry.constraints.iter().find(|(key, value)| labels.get(*key) != Some(*value)) {
        return Err(Misfit::Label { key: key.clone(), value: value.clone() });
    }
    let short = [
        (entry.cpus_milli > free.cpus_milli, "processor time"),
        (entry.memory_bytes > free.memory_bytes, "memory"),
        (entry.disk_bytes.saturating_mul(2) > free.disk_bytes, "disk"),
    ];
    match short.into_iter().find(|(is_short, _)| *is_short) {
        Some((_, what)) => Err(Misfit::Short(what)),
        None => Ok(()),
    }
}

/// How many nodes watch each part of the queue, if the group has so many.
pub const WATCHERS: usize = 3;
/// By how much a node that ranks lower waits longer, so that nodes do not fight.
pub const COURTESY: Duration = Duration::from_millis(50);

/// A name as [`affinity`] takes it.
pub fn name_hash(name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    hash.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// How much a node takes to a thing, by rendezvous hashing (Thaler and Ravishankar 1998): all nodes come to the same order
/// of nodes without talking to each other, and one that comes or goes changes nothing in the order of the others. Both are
/// [`name_hash`]es; they are mixed by the finaliser of SplitMix64.
pub fn affinity(thing: u64, node: u64) -> u64 {
    let mixed = thing ^ node.rotate_left(32);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How many of `others` rank before node `me` for a thing.
pub fn rank(thing: u64, me: u64, others: impl IntoIterator<Item = u64>) -> usize {
    let mine = (affinity(thing, me), me);
    others.into_iter().filter(|other| *other != me && (affinity(thing, *other), *other) > mine).count()
}

/// The parts of the queue that node `me` watches: those for which fewer than [`WATCHERS`] of `others` rank before it.
pub fn watched_shards(me: u64, others: &[u64]) -> Vec<u8> {
    (0..QUEUE_SHARDS).filter(|shard| rank(shard_hash(*shard), me, others.iter().copied()) < WATCHERS).collect()
}

/// The nodes of `nodes` that watch a part of the queue, the first in rank first.
pub fn watchers(shard: u8, nodes: &[u64]) -> Vec<u64> {
    let thing = shard_hash(shard);
    let mut ranked: Vec<_> = nodes.iter().map(|node| (affinity(thing, *node), *node)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    ranked.into_iter().take(WATCHERS).map(|(_, node)| node).collect()
}

fn shard_hash(shard: u8) -> u64 {
    // Far from the small numbers, whose mixtures with one node would resemble each other.
    (u64::from(shard) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// How long a node waits before it takes a job that it has just seen: longer the lower it ranks, and behind all others if it
/// has jobs already, so that jobs spread over the group. `rivals` is how many others may take it, `rank` how many of them
/// rank before, `busy` the share of the node that is taken (0 to 1).
pub fn claim_delay(rank: usize, rivals: usize, busy: f64) -> Duration {
    let steps = |count: usize| COURTESY.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
    let behind = if busy > 0.0 { steps(rivals).mul_f64(1.0 + busy.min(1.0)) } else { Duration::ZERO };
    steps(rank.min(rivals)) + behind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_fits_where_everything_it_asks_for_is_free() {
        let free = Capacity { cpus_milli: 2_000, memory_bytes: 100, disk_bytes: 100 };
        let mut entry =
            QueueEntry { cpus_milli: 2_000, memory_bytes: 100, disk_bytes: 50, constraints: BTreeMap::new() };
        let labels = BTreeMap::from([("gpu".to_owned(), "no".to_owned())]);
        assert_eq!(fits(&entry, free, &labels), Ok(()));
        entry.disk_bytes = 51;
        assert_eq!(fits(&entry, free, &labels), Err(Misfit::Short("disk")));
        entry.constraints.insert("gpu".to_owned(), "yes".to_owned());
        assert!(matches!(fits(&entry, free, &labels), Err(Misfit::Label { .. })));
    }

    fn group(size: usize) -> Vec<u64> {
        (0..size).map(|n| name_hash(&format!("node-{n}"))).collect()
    }

    #[test]
    fn all_nodes_come_to_the_same_order() {
        let nodes = group(10);
        let job = name_hash("job");
        let mut ranks: Vec<_> = nodes.iter().map(|node| rank(job, *node, nodes.iter().copied())).collect();
        ranks.sort_unstable();
        assert_eq!(ranks, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn jobs_are_shared_out_evenly() {
        let nodes = group(10);
        let mut first = [0; 10];
        for job in 0..10_000 {
            let job = name_hash(&format!("job-{job}"));
            let best = (0..10).find(|at| rank(job, nodes[*at], nodes.iter().copied()) == 0).unwrap();
            first[best] += 1;
        }
        assert!(first.iter().all(|count| (800..1_200).contains(count)), "{first:?}");
    }

    #[test]
    fn every_part_of_the_queue_has_its_watchers_and_no_node_many() {
        for size in [1, 2, 3, 10, 200] {
            let nodes = group(size);
            let mut watched = BTreeMap::new();
            for node in &nodes {
                for shard in watched_shards(*node, &nodes) {
                    assert!(watchers(shard, &nodes).contains(node));
                    *watched.entry(shard).or_insert(0) += 1;
                }
            }
            assert_eq!(watched.len(), usize::from(QUEUE_SHARDS), "{size} nodes");
            assert!(watched.values().all(|count| *count == size.min(WATCHERS)), "{size} nodes: {watched:?}");
            let most = nodes.iter().map(|node| watched_shards(*node, &nodes).len()).max().unwrap();
            assert!(size < 200 || most < 8, "a node of {size} watches {most} parts");
        }
    }

    #[test]
    fn an_idle_node_goes_before_a_busy_one_that_ranks_first() {
        assert_eq!(claim_delay(0, 2, 0.0), Duration::ZERO);
        assert!(claim_delay(2, 2, 0.0) <= claim_delay(0, 2, 0.1));
        assert!(claim_delay(0, 2, 0.1) < claim_delay(0, 2, 0.9));
        assert_eq!(claim_delay(0, 0, 0.9), Duration::ZERO, "whoever is alone need not wait");
    }
}
