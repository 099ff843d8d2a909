//! Which node may run which job, and which job a node takes first.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    id::{JobId, NodeId},
    keys::QueueEntry,
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

/// How long node `me` waits before it claims or reaps `job`: 50 ms for each live node that ranks before it by
/// rendezvous hash (Thaler and Ravishankar 1998), so that nodes do not fight over a job.
pub fn courtesy(job: &JobId, me: &NodeId, live: &[NodeId]) -> Duration {
    let weight = |node: &NodeId| *blake3::hash(format!("{job}/{node}").as_bytes()).as_bytes();
    let mine = weight(me);
    let rank = live.iter().filter(|node| *node != me && weight(node) > mine).count();
    Duration::from_millis(50).saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX))
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

    #[test]
    fn exactly_one_live_node_goes_first() {
        let nodes: Vec<NodeId> = (0..10).map(|n| NodeId::new(format!("n{n}")).unwrap()).collect();
        let job = JobId::new("j").unwrap();
        let mut waits: Vec<_> = nodes.iter().map(|node| courtesy(&job, node, &nodes).as_millis()).collect();
        waits.sort_unstable();
        assert_eq!(waits, (0..10).map(|rank| rank * 50).collect::<Vec<_>>());
    }
}
