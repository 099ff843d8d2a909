//! The live nodes as this one knows them: a copy of what stands below `nodes/`, kept by a watch. A node's key is written when
//! it joins, drains and leaves, never as a sign of life, so the copy costs little to keep.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use workrs_core::{
    fit::name_misfits,
    id::{Incarnation, NodeId},
    job::MAX_REASON_LEN,
    keys::{self, QueueEntry},
    placement::{self, Capacity, Traits},
};
use workrs_store::{
    records::Records,
    state::{Entry, StateError, Watch, WatchEvent},
};

use super::{Shared, lease::NodeInfo};
use crate::metrics;

const PAGE: usize = 500;
const RETRY: Duration = Duration::from_secs(1);

/// What others need to know of a live node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name, as placement takes it.
    pub(super) hash: u64,
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    capacity: Capacity,
    traits: Traits,
    /// Whether it runs jobs at all, and is not draining.
    pub(super) takes_jobs: bool,
}

impl Member {
    /// Whether it could run the job, from its checkpoint on, if it ran nothing else.
    pub(super) fn could_run(&self, entry: &QueueEntry) -> bool {
        self.could_start(entry) && placement::can_resume(entry, &self.traits).is_ok()
    }

    /// Whether it could run the job if it ran nothing else and the job started clean.
    pub(super) fn could_start(&self, entry: &QueueEntry) -> bool {
        self.takes_jobs && placement::fits(entry, self.capacity, &self.traits).is_ok()
    }

    /// Why it could not run the job from its checkpoint on; nothing of a node that is not there for jobs like it.
    pub(super) fn why_not(&self, entry: &QueueEntry) -> Option<String> {
        let fits = placement::fits(entry, self.capacity, &self.traits);
        match (self.takes_jobs, fits, placement::can_resume(entry, &self.traits)) {
            (true, Err(misfit), _) => Some(misfit.to_string()),
            (true, Ok(()), Err(unmet)) => Some(unmet.to_string()),
            (false, Ok(()), Ok(())) => Some("it takes no jobs".to_owned()),
            (true, Ok(()), Ok(())) | (false, ..) => None,
        }
    }

    fn read(entry: &Entry) -> Option<Self> {
        serde_json::from_slice(&entry.value).ok().map(Self::of)
    }

    fn of(info: NodeInfo) -> Self {
        Self {
            hash: placement::name_hash(info.name.as_str()),
            takes_jobs: info.takes_jobs(),
            capacity: Capacity {
                cpus_milli: info.cpus_milli,
                memory_bytes: info.memory_bytes,
                disk_bytes: info.disk_bytes,
            },
            traits: info.traits(),
            node: info.name,
            incarnation: info.incarnation,
        }
    }
}

/// Why no live node could start the job, even if it ran nothing else; `None` if one could.
pub async fn why_nobody_could_start(records: &Records, entry: &QueueEntry) -> Result<Option<String>, StateError> {
    let members: Vec<_> = NodeInfo::list(records).await?.into_iter().map(Member::of).collect();
    if members.iter().any(|member| member.could_start(entry)) {
        return Ok(None);
    }
    let misfits: Vec<_> =
        members.iter().filter_map(|member| Some((member.node.clone(), member.why_not(entry)?))).collect();
    let is_any = !misfits.is_empty();
    Ok(Some(if is_any { name_misfits(&misfits, MAX_REASON_LEN) } else { "no live node takes jobs".to_owned() }))
}

/// A process whose key has gone: it died, was cut off, or left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Departed {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
}

impl Departed {
    fn of_key(key: &str) -> Option<Self> {
        Some(Self { node: keys::node_of(key)?, incarnation: keys::incarnation_of(key)? })
    }
}

/// The live nodes, by name. Each stands once in memory: a change of one does not copy the others.
pub(super) type List = Arc<Vec<Arc<Member>>>;

/// The live nodes, for everybody in this process.
#[derive(Debug)]
pub(super) struct Members(watch::Sender<List>);

impl Members {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }

    pub(super) fn now(&self) -> List {
        Arc::clone(&self.0.borrow())
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<List> {
        self.0.subscribe()
    }
}

/// Keeps the copy, and tells `departed` of every process whose key goes.
pub(super) async fn run(shared: Arc<Shared>, departed: mpsc::UnboundedSender<Departed>) {
    let mut known = BTreeMap::new();
    let tell = |key: &str| {
        if let Some(process) = Departed::of_key(key) {
            // Nobody listens on a node that does not reap.
            let _ = departed.send(process);
        }
    };
    loop {
        let (loaded, mut watch) = match load(&shared).await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::warn!(%error, "cannot read the list of live nodes, will try on");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        known.keys().filter(|key| !loaded.contains_key(*key)).for_each(|key: &String| tell(key));
        known = loaded;
        publish(&shared, &known);
        while let Some(event) = watch.recv().await {
            let mut waiting = vec![event];
            while let Ok(event) = watch.try_recv() {
                waiting.push(event);
            }
            for event in waiting {
                match event {
                    WatchEvent::Put(entry) => put(&mut known, &entry),
                    WatchEvent::Deleted { key, .. } => {
                        known.remove(&key);
                        metrics::NODES_GONE.add(1);
                        tell(&key);
                        if key == shared.node_key() {
                            shared.lease_lost.notify_one();
                        }
                    }
                    WatchEvent::Compacted => watch.close(),
                }
            }
            publish(&shared, &known);
        }
        metrics::WATCH_RESTARTS.add_to(&["nodes"], 1);
    }
}

async fn load(shared: &Shared) -> Result<(BTreeMap<String, Arc<Member>>, Watch), StateError> {
    let store = shared.records.store();
    let mut known = BTreeMap::new();
    let mut after: Option<String> = None;
    let mut revision = None;
    loop {
        let page = store.list(keys::NODES, after.as_deref(), PAGE).await?;
        // What happened since the first page is told again by the watch, which does no harm.
        let from = *revision.get_or_insert(page.revision);
        page.entries.iter().for_each(|entry| put(&mut known, entry));
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            return Ok((known, store.watch(keys::NODES, from).await?));
        }
    }
}

fn put(known: &mut BTreeMap<String, Arc<Member>>, entry: &Entry) {
    if let Some(member) = Member::read(entry) {
        known.insert(entry.key.clone(), Arc::new(member));
    } else {
        tracing::error!(key = entry.key, "what a node says of itself cannot be read; it is not counted on");
    }
}

fn publish(shared: &Shared, known: &BTreeMap<String, Arc<Member>>) {
    let list: Vec<_> = known.values().cloned().collect();
    shared.members.0.send_if_modified(|current| {
        let is_new = **current != list;
        if is_new {
            *current = Arc::new(list);
        }
        is_new
    });
}
