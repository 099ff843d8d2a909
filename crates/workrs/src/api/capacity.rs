//! The largest job that any node of the group could run.

use std::{collections::BTreeSet, time::Duration};

use axum::http::StatusCode;
use tokio::{sync::Mutex, time::Instant};
use workrs_core::spec::{JobSpec, Network, format_size};
use workrs_store::{records::Records, state::StateError};

use super::Problem;
use crate::node::NodeInfo;

/// How long it is believed that a node is there.
const HOLDS: Duration = Duration::from_secs(10);

/// What the group's nodes have, asked for now and then: a submit costs the same however many nodes there are.
pub struct GroupCapacity {
    records: Records,
    known: Mutex<Option<(Instant, Largest)>>,
}

/// The most that a node has, or allows, of each; of no nodes nothing is known.
#[derive(Debug, Clone, Default)]
struct Largest {
    cpus_milli: Option<u64>,
    memory_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    network: Option<Network>,
    /// Their processor architectures.
    archs: BTreeSet<String>,
}

impl GroupCapacity {
    /// Of the nodes that stand beside `records`.
    pub fn new(records: Records) -> Self {
        Self { records, known: Mutex::new(None) }
    }

    /// Refuses what no live node could run even if it ran nothing else.
    pub(super) async fn check(&self, spec: &JobSpec) -> Result<(), Problem> {
        let mut known = self.known.lock().await;
        if let Some((_, largest)) = known.as_ref().filter(|(at, _)| at.elapsed() < HOLDS)
            && largest.admits(spec).is_ok()
        {
            return Ok(());
        }
        // A larger node may have come meanwhile.
        let largest = Largest::of(&self.records).await?;
        let (_, largest) = known.insert((Instant::now(), largest));
        largest.admits(spec)
    }
}

impl Largest {
    async fn of(records: &Records) -> Result<Self, StateError> {
        let mut nodes = NodeInfo::list(records).await?;
        nodes.retain(|node| node.cannot_run.is_none());
        let most = |value: fn(&NodeInfo) -> u64| nodes.iter().map(value).max();
        Ok(Self {
            cpus_milli: most(|node| u64::from(node.cpus_milli)),
            memory_bytes: most(|node| node.memory_bytes),
            disk_bytes: most(|node| node.disk_bytes),
            archs: nodes.iter().map(|node| node.arch.clone()).collect(),
            network: nodes.iter().map(|node| node.network).max_by_key(|network| *network == Network::Host),
        })
    }

    fn admits(&self, spec: &JobSpec) -> Result<(), Problem> {
        if self.network.is_some_and(|allowed| !spec.network.is_within(allowed)) {
            let detail = "no node of the group lets jobs use its network";
            let hint = "bring the data as inputs, or start a node with --allow-network host";
            return Err(no_room("network", detail).hint(hint));
        }
        // Nodes of early versions do not say what they are.
        let knows = |arch: &&String| !self.archs.is_empty() && !self.archs.contains("") && !self.archs.contains(*arch);
        if let Some(arch) = spec.image_arch.as_ref().filter(knows) {
            let others = self.archs.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let detail = format!("it is for {arch}, the nodes of the group are {others}");
            return Err(no_room("image", &detail).hint(format!("use one for {others}, or start a node that is {arch}")));
        }
        let limits = [
            ("cpus", u64::from(spec.cpus_milli), self.cpus_milli),
            ("memory", spec.memory_bytes, self.memory_bytes),
            ("disk", spec.disk_bytes.saturating_mul(2), self.disk_bytes),
        ];
        for (field, wanted, largest) in limits {
            // Without any node nothing is known: the job waits for one.
            let Some(largest) = largest.filter(|largest| wanted > *largest) else { continue };
            let show = |amount: u64| match field {
                "cpus" => (amount as f64 / 1_000.0).to_string(),
                "disk" => format_size(amount / 2),
                _ => format_size(amount),
            };
            let detail =
                format!("the job asks for {}, the largest node of the group has {}", show(wanted), show(largest));
            return Err(no_room(field, &detail).hint("ask for less, or start a larger node"));
        }
        Ok(())
    }
}

/// The job is right, and the group as it is now has no place for it.
fn no_room(field: &str, detail: &str) -> Problem {
    let detail = format!("{field}: {detail}");
    Problem::new(StatusCode::CONFLICT, "no-room", "the job cannot be accepted", detail).field(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_node_allows_is_refused_and_what_may_yet_come_waits() {
        let largest = |network| Largest { network, ..Largest::default() };
        let mut spec = JobSpec::new("n", vec!["true".to_owned()]);
        assert!(largest(Some(Network::None)).admits(&spec).is_ok());
        spec.network = Network::Host;
        assert!(largest(Some(Network::Host)).admits(&spec).is_ok());
        assert!(largest(None).admits(&spec).is_ok(), "there are no nodes yet");
        let refused = largest(Some(Network::None)).admits(&spec).unwrap_err();
        assert_eq!(refused.detail, "network: no node of the group lets jobs use its network");
        assert!(refused.hint.unwrap().contains("--allow-network host"));
    }

    #[test]
    fn an_image_that_no_node_can_run_is_refused() {
        let nodes =
            |archs: &[&str]| Largest { archs: archs.iter().map(ToString::to_string).collect(), ..Largest::default() };
        let mut spec = JobSpec::new("n", vec!["true".to_owned()]);
        assert!(nodes(&["x86_64"]).admits(&spec).is_ok());
        spec.image_arch = Some("aarch64".to_owned());
        for may_run in [&["aarch64", "x86_64"][..], &["", "x86_64"], &[]] {
            assert!(nodes(may_run).admits(&spec).is_ok(), "{may_run:?}");
        }
        let refused = nodes(&["riscv64", "x86_64"]).admits(&spec).unwrap_err();
        assert_eq!(refused.detail, "image: it is for aarch64, the nodes of the group are riscv64, x86_64");
    }
}
