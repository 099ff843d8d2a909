//! Two machines whose nodes have the same name.

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;
use workrs::node::{self, NodeConfig, NodeInfo, NodeParts, RunningNode, StartError};
use workrs_engine::fake::FakeHost;
use workrs_store::{
    blobs::Blobs,
    faulty::{Faults, FaultyState, TimedLeases},
    records::Records,
    redb::RedbStore,
    state::StateStore,
};

use crate::job::{node_config, on_paused_clock};

const LEASE: Duration = Duration::from_secs(5);

struct Machines {
    folder: TempDir,
    state: Arc<dyn StateStore>,
}

impl Machines {
    fn new() -> Self {
        let state = Arc::new(TimedLeases::new(Arc::new(RedbStore::in_memory())));
        Self { folder: tempfile::tempdir().unwrap(), state }
    }

    /// Starts the node "pi" on a machine; `link` is what connects it to the store.
    async fn start(&self, machine: &str, link: &Faults) -> Result<RunningNode, StartError> {
        let folder = self.folder.path().join(machine);
        std::fs::create_dir_all(&folder).unwrap();
        let records = Records::new(Arc::new(FaultyState::new(self.state.clone(), link.clone())));
        let engine = Arc::new(FakeHost::new(folder.clone()).engine());
        let parts = NodeParts { records, blobs: Blobs::open("memory:").unwrap(), engine };
        let config = NodeConfig { host: machine.to_owned(), lease: LEASE, ..node_config("pi", folder.join("work")) };
        node::start(config, parts).await
    }

    async fn live(&self) -> Vec<String> {
        let nodes = NodeInfo::list(&Records::new(self.state.clone())).await.unwrap();
        nodes.into_iter().map(|node| node.host).collect()
    }
}

#[test]
fn a_name_stays_with_the_node_that_has_it_though_its_lease_ends_for_a_moment() {
    on_paused_clock(async {
        let (machines, link, well) = (Machines::new(), Faults::none(), Faults::none());
        let _first = machines.start("one", &link).await.unwrap();
        let away = async {
            link.cut_off(true);
            // Its lease ends, and the other one sees that.
            while !machines.live().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            link.cut_off(false);
        };
        let (second, ()) = tokio::join!(machines.start("two", &well), away);
        assert!(matches!(second, Err(StartError::NameTaken { .. })));
        assert_eq!(machines.live().await, ["one"]);
    });
}

#[test]
fn a_name_is_free_once_its_node_is_gone() {
    on_paused_clock(async {
        let machines = Machines::new();
        machines.start("one", &Faults::none()).await.unwrap().crash().await;
        assert_eq!(machines.live().await, ["one"], "its lease has not ended yet");
        let _second = machines.start("two", &Faults::none()).await.unwrap();
        assert_eq!(machines.live().await, ["two"]);
    });
}

#[test]
fn of_two_nodes_that_start_under_one_name_at_once_one_gives_way() {
    on_paused_clock(async {
        let machines = Machines::new();
        let (one, two) = (Faults::none(), Faults::none());
        let (first, second) = tokio::join!(machines.start("one", &one), machines.start("two", &two));
        let started = [&first, &second].into_iter().filter(|node| node.is_ok()).count();
        assert_eq!((started, machines.live().await.len()), (1, 1));
    });
}
