//! Fault drills: somebody wants to see that the group's jobs outlive a fault, and asks this node to have one. Only a node
//! that was started with `--allow-drills` does it.
//!
//! A key stands for the newest drill of a node, so that any node's API can ask for one, as with a drain. It names the
//! process that is meant and is marked before anything is done, so a drill strikes once, and never the node's next process.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use workrs_core::{
    id::{Incarnation, JobId, NodeId, Timestamp},
    keys,
};
use workrs_store::{
    state::{StateError, StateStore, WatchEvent},
    values,
};

use super::{Order, Shared};

const RETRY: Duration = Duration::from_secs(1);

/// What is to fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Drill {
    /// The node's process, as by a power cut.
    Node,
    /// One job of it, as if the node had failed it.
    Job {
        /// Which.
        job: JobId,
    },
}

/// What stands at the key of a node's newest drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillNote {
    /// Tells this drill from others.
    pub id: String,
    /// The process that it is for.
    pub incarnation: Incarnation,
    /// What is to fail.
    #[serde(flatten)]
    pub drill: Drill,
    /// When it was asked for.
    pub at: Timestamp,
    /// The node has seen it.
    pub taken: bool,
}

/// Asks the process `note.incarnation` of a node for a drill. One that was asked for before and is not done is replaced.
pub async fn ask(store: &Arc<dyn StateStore>, node: &NodeId, note: &DrillNote) -> Result<(), StateError> {
    let put = |known: Option<&DrillNote>| (known.is_none_or(|known| known.id != note.id)).then(|| note.clone());
    values::update(store, &keys::drill(node), node.as_str(), put).await
}

/// Does the drills that this node is asked for.
pub(super) async fn watch(shared: Arc<Shared>) {
    let key = keys::drill(&shared.config.id);
    loop {
        if let Err(error) = follow(&shared, &key).await {
            tracing::warn!(%error, "cannot see whether a drill is asked for, will try on");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(shared: &Shared, key: &str) -> Result<(), StateError> {
    let store = shared.records.store();
    let revision = store.list(key, None, 1).await?.revision;
    let mut watch = store.watch(key, revision).await?;
    obey(shared, key).await?;
    while let Some(event) = watch.recv().await {
        match event {
            WatchEvent::Put(entry) if entry.key == key => obey(shared, key).await?,
            WatchEvent::Compacted => break,
            // Of a node whose name begins like this one's.
            WatchEvent::Put(_) | WatchEvent::Deleted { .. } => {}
        }
    }
    Ok(())
}

async fn obey(shared: &Shared, key: &str) -> Result<(), StateError> {
    let store = shared.records.store();
    let Some(note) = values::read::<DrillNote>(store, key).await? else { return Ok(()) };
    if note.taken || note.incarnation != shared.incarnation {
        return Ok(());
    }
    let take = |known: Option<&DrillNote>| {
        let known = known.filter(|known| known.id == note.id && !known.taken)?;
        Some(DrillNote { taken: true, ..known.clone() })
    };
    values::update(store, key, shared.config.id.as_str(), take).await?;
    match note.drill {
        Drill::Job { job } => {
            tracing::warn!(%job, "fault drill: this node fails the job");
            shared.order(&job, Order::Fail);
        }
        Drill::Node => {
            tracing::warn!("fault drill: this process kills itself");
            kill_itself();
        }
    }
    Ok(())
}

/// Nothing is said or saved any more: that is what is to be seen.
fn kill_itself() {
    use rustix::process::{Signal, getpid, kill_process};
    if let Err(error) = kill_process(getpid(), Signal::KILL) {
        tracing::error!(%error, "cannot kill this process");
    }
}
