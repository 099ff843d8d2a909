//! Which node may run which job, and which job a node takes first.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    fit::{Offer, Unmet},
    id::Incarnation,
    keys::{QUEUE_SHARDS, QueueEntry},
    spec::Network,
};

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

/// What of a node stays as it is while its process lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traits {
    /// The process.
    pub incarnation: Incarnation,
    /// What jobs may ask for.
    pub labels: BTreeMap<String, String>,
    /// What of its network it lets jobs use.
    pub network: Network,
    /// Whether it can run jobs in images.
    pub images: bool,
    /// What it has for those who want to resume there.
    pub offer: Offer,
}

/// Why a job cannot run on a node; the words fit after the node's name and a colon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Not enough of something.
    #[error("it has too little {0}")]
    Short(&'static str),
    /// A label is missing or differs.
    #[error("it is not labelled {key}={value}")]
    Label {
        /// The label.
        key: String,
        /// Its wanted value.
        value: String,
    },
    /// The node's operator does not let jobs use its network.
    #[error("it lets no jobs use its network")]
    Network,
    /// The node's version cannot run jobs in images.
    #[error("its version runs no images")]
    Images,
    /// The job's image is for another architecture.
    #[error("it is {has}, the job's image is for {needs}")]
    Arch {
        /// The image's.
        needs: String,
        /// The node's.
        has: String,
    },
}

/// Whether a node with `free` capacity may run the job, wherever that starts from.
pub fn fits(entry: &QueueEntry, free: Capacity, node: &Traits) -> Result<(), Misfit> {
    if !entry.network.is_within(node.network) {
        return Err(Misfit::Network);
    }
    let differs = |(key, value): &(&String, &String)| node.labels.get(*key) != Some(*value);
    if let Some((key, value)) = entry.constraints.iter().find(differs) {
        return Err(Misfit::Label { key: key.clone(), value: value.clone() });
    }
    if entry.image && !node.images {
        return Err(Misfit::Images);
    }
    let has = &node.offer.arch;
    if let Some(needs) = entry.arch.as_ref().filter(|needs| !has.is_empty() && *needs != has) {
        return Err(Misfit::Arch { needs: needs.clone(), has: has.clone() });
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

/// Whether the node can go on from the job's checkpoint, as far as others can judge that.
pub fn can_resume(entry: &QueueEntry, node: &Traits) -> Result<(), Unmet> {
    let Some(resume) = &entry.resume else { return Ok(()) };
    if resume.avoid.contains(&node.incarnation) {
        return Err(Unmet::Declined);
    }
    match &node.offer.cannot_dump {
        Some(reason) if resume.memory => Err(Unmet::Memory(reason.clone())),
        _ => resume.needs.met_by(&node.offer),
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
    use crate::{fit::HostNeeds, id::Epoch, job::CheckpointId, keys::Resume};

    fn entry() -> QueueEntry {
        QueueEntry {
            owner: None,
            cpus_milli: 2_000,
            memory_bytes: 100,
            disk_bytes: 50,
            constraints: BTreeMap::new(),
            network: Network::None,
            image: false,
            arch: None,
            resume: None,
        }
    }

    fn traits() -> Traits {
        Traits {
            incarnation: Incarnation::new("process").unwrap(),
            labels: BTreeMap::from([("gpu".to_owned(), "no".to_owned())]),
            network: Network::None,
            images: false,
            offer: Offer { arch: "x86_64".to_owned(), ..Offer::default() },
        }
    }

    #[test]
    fn a_job_fits_where_everything_it_asks_for_is_free() {
        let free = Capacity { cpus_milli: 2_000, memory_bytes: 100, disk_bytes: 100 };
        let mut entry = entry();
        assert_eq!(fits(&entry, free, &traits()), Ok(()));
        entry.network = Network::Host;
        let lets_all = Traits { network: Network::Host, ..traits() };
        assert_eq!(fits(&entry, free, &lets_all), Ok(()));
        assert_eq!(fits(&entry, free, &traits()), Err(Misfit::Network));
        entry.network = Network::None;
        entry.image = true;
        assert_eq!(fits(&entry, free, &traits()), Err(Misfit::Images));
        let runs_images = Traits { images: true, ..traits() };
        entry.arch = Some("aarch64".to_owned());
        assert!(matches!(fits(&entry, free, &runs_images), Err(Misfit::Arch { .. })));
        entry.arch = Some("x86_64".to_owned());
        assert_eq!(fits(&entry, free, &runs_images), Ok(()));
        entry.disk_bytes = 51;
        assert_eq!(fits(&entry, free, &runs_images), Err(Misfit::Short("disk")));
        entry.constraints.insert("gpu".to_owned(), "yes".to_owned());
        assert!(matches!(fits(&entry, free, &traits()), Err(Misfit::Label { .. })));
    }

    #[test]
    fn a_job_resumes_where_its_checkpoint_fits_and_was_not_declined() {
        let resume = |arch: &str, avoid: &[&str]| {
            let needs = HostNeeds { arch: arch.to_owned(), ..HostNeeds::default() };
            let avoid = avoid.iter().map(|process| Incarnation::new(*process).unwrap()).collect();
            let checkpoint = CheckpointId { epoch: Epoch(1), seq: 1 };
            QueueEntry { resume: Some(Resume { checkpoint, epoch: Epoch(1), memory: true, needs, avoid }), ..entry() }
        };
        assert_eq!(can_resume(&entry(), &traits()), Ok(()));
        assert_eq!(can_resume(&resume("x86_64", &["other"]), &traits()), Ok(()));
        assert_eq!(can_resume(&resume("x86_64", &["other", "process"]), &traits()), Err(Unmet::Declined));
        assert!(matches!(can_resume(&resume("aarch64", &[]), &traits()), Err(Unmet::Arch { .. })));
        let offer = Offer { cannot_dump: Some("no CRIU".to_owned()), ..Offer::default() };
        let disabled = Traits { offer, ..traits() };
        assert!(matches!(can_resume(&resume("x86_64", &[]), &disabled), Err(Unmet::Memory(_))));
        assert_eq!(can_resume(&entry(), &disabled), Ok(()));
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
