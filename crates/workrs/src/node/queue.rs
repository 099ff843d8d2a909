//! The part of the queue that a node watches, in the order in which jobs are served, and looks into the rest.

use std::collections::{BTreeMap, BTreeSet};

use futures::{
    StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use workrs_core::{
    id::JobId,
    keys::{self, QUEUE_SHARDS, QueueEntry},
    placement::{Capacity, name_hash},
};
use workrs_store::state::{Entry, StateError, StateStore, WatchEvent};

const PAGE: usize = 500;

/// A queued job.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) job: JobId,
    pub(super) entry: QueueEntry,
    /// The job's name, as placement takes it.
    pub(super) hash: u64,
    pub(super) shard: u8,
    pub(super) priority: u8,
    /// When this node first saw it here.
    pub(super) seen: Instant,
}

impl Waiting {
    fn read(entry: &Entry) -> Option<Self> {
        let mut parts = entry.key.strip_prefix(keys::QUEUE)?.split('/');
        let (shard, priority) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let job = keys::job_of_index(&entry.key)?;
        let hash = name_hash(job.as_str());
        let entry = serde_json::from_slice(&entry.value).ok()?;
        Some(Self { job, entry, hash, shard, priority, seen: Instant::now() })
    }
}

/// What a job asks for.
type Ask = (u32, u64, u64);

fn ask(entry: &QueueEntry) -> Ask {
    (entry.cpus_milli, entry.memory_bytes, entry.disk_bytes)
}

/// Queued jobs, the first to be served first.
#[derive(Default)]
pub(super) struct Jobs {
    all: BTreeMap<String, Waiting>,
    /// How many of them ask for what, so that a full node need not look at each.
    asks: BTreeMap<Ask, usize>,
    /// Those with a checkpoint that not every node can resume.
    resuming: BTreeSet<String>,
}

/// Some parts of the queue, and what happens there.
pub(super) struct Queue {
    pub(super) jobs: Jobs,
    /// Ends with `None` for each part that cannot be watched on.
    events: SelectAll<BoxStream<'static, Option<WatchEvent>>>,
}

impl Queue {
    /// Lists and watches these parts of the queue.
    pub(super) async fn open(store: &dyn StateStore, shards: &[u8]) -> Result<Self, StateError> {
        let mut queue = Self { jobs: Jobs::default(), events: SelectAll::new() };
        if shards.len() == usize::from(QUEUE_SHARDS) {
            queue.watch(store, keys::QUEUE).await?;
        } else {
            for shard in shards {
                queue.watch(store, &keys::queue_shard(*shard)).await?;
            }
        }
        Ok(queue)
    }

    async fn watch(&mut self, store: &dyn StateStore, prefix: &str) -> Result<(), StateError> {
        let mut after: Option<String> = None;
        let mut revision = None;
        loop {
            let page = store.list(prefix, after.as_deref(), PAGE).await?;
            // Events since the first page repeat what later pages show, which does no harm.
            let from = *revision.get_or_insert(page.revision);
            page.entries.iter().for_each(|entry| self.jobs.put(entry));
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                let events = ReceiverStream::new(store.watch(prefix, from).await?).map(Some);
                self.events.push(events.chain(stream::iter([None])).boxed());
                return Ok(());
            }
        }
    }

    /// Waits for changes and takes them in. Whether the queue can be watched on; if not, open it anew.
    pub(super) async fn changed(&mut self) -> bool {
        let Some(first) = self.events.next().await else { return std::future::pending().await };
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                Some(WatchEvent::Put(entry)) => self.jobs.put(&entry),
                Some(WatchEvent::Deleted { key, .. }) => self.jobs.remove(&key),
                Some(WatchEvent::Compacted) | None => return false,
            }
            next = futures::FutureExt::now_or_never(self.events.next()).flatten();
        }
        true
    }
}

impl Jobs {
    /// All of them, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.all.values()
    }

    /// Those with a checkpoint that not every node can resume.
    pub(super) fn resuming(&self) -> impl Iterator<Item = &Waiting> {
        self.resuming.iter().filter_map(|key| self.all.get(key))
    }

    /// Whether there is any job that asks for no more than is free.
    pub(super) fn has_any_within(&self, free: Capacity) -> bool {
        self.asks.keys().any(|(cpus_milli, memory_bytes, disk_bytes)| {
            *cpus_milli <= free.cpus_milli
                && *memory_bytes <= free.memory_bytes
                && disk_bytes.saturating_mul(2) <= free.disk_bytes
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn put(&mut self, entry: &Entry) {
        let Some(mut waiting) = Waiting::read(entry) else {
            tracing::error!(key = entry.key, "a queue entry is damaged and left alone");
            return;
        };
        if let Some(known) = self.all.get(keys::queue_order(&entry.key)) {
            waiting.seen = known.seen;
        }
        self.remove(&entry.key);
        *self.asks.entry(ask(&waiting.entry)).or_insert(0) += 1;
        let key = keys::queue_order(&entry.key).to_owned();
        if waiting.entry.resume.is_some() {
            self.resuming.insert(key.clone());
        }
        self.all.insert(key, waiting);
    }

    fn remove(&mut self, key: &str) {
        let Some(gone) = self.all.remove(keys::queue_order(key)) else { return };
        self.resuming.remove(keys::queue_order(key));
        if let Some(count) = self.asks.get_mut(&ask(&gone.entry)) {
            *count -= 1;
            if *count == 0 {
                self.asks.remove(&ask(&gone.entry));
            }
        }
    }
}

/// At most `limit` queued jobs of any part of the queue, from part `from` on and then from the beginning.
pub(super) async fn look(store: &dyn StateStore, from: u8, limit: usize) -> Result<Vec<Waiting>, StateError> {
    let start = format!("{}{:02}", keys::QUEUE, from % QUEUE_SHARDS);
    let mut found = store.list(keys::QUEUE, Some(&start), limit).await?.entries;
    if found.len() < limit {
        let rest = store.list(keys::QUEUE, None, limit - found.len()).await?.entries;
        found.extend(rest.into_iter().filter(|entry| entry.key.as_str() < start.as_str()));
    }
    Ok(found.iter().filter_map(Waiting::read).collect())
}

#[cfg(test)]
mod tests {
    use workrs_store::{
        redb::RedbStore,
        state::{Change, Transaction},
    };

    use super::*;

    async fn store_with(keys: &[&str]) -> RedbStore {
        let store = RedbStore::in_memory();
        let value = r#"{"cpus_milli":1000,"memory_bytes":10,"disk_bytes":1}"#;
        let changes = keys.iter().map(|key| Change::Put((*key).to_owned(), value.into(), None)).collect();
        store.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
        store
    }

    fn names<'a>(jobs: impl IntoIterator<Item = &'a Waiting>) -> Vec<&'a str> {
        jobs.into_iter().map(|waiting| waiting.job.as_str()).collect()
    }

    #[tokio::test]
    async fn jobs_are_served_by_priority_and_age_whatever_their_part() {
        let store = store_with(&["queue/01/5/2/a", "queue/02/5/1/b", "queue/02/0/9/c", "queue/07/0/1/other"]).await;
        let mut queue = Queue::open(&store, &[1, 2]).await.unwrap();
        assert_eq!(names(queue.jobs.iter()), ["c", "b", "a"]);
        let free = |cpus_milli| Capacity { cpus_milli, memory_bytes: 10, disk_bytes: 2 };
        assert!(queue.jobs.has_any_within(free(1_000)) && !queue.jobs.has_any_within(free(999)));
        let gone = ["queue/01/5/2/a", "queue/02/5/1/b", "queue/02/0/9/c", "queue/07/0/1/other"];
        let changes = gone.iter().map(|key| Change::Delete((*key).to_owned())).collect();
        store.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
        while queue.jobs.len() > 0 {
            assert!(queue.changed().await);
        }
        assert!(!queue.jobs.has_any_within(free(1_000)));
    }

    #[tokio::test]
    async fn a_look_goes_round_all_parts() {
        let store = store_with(&["queue/01/5/1/a", "queue/31/5/1/b", "queue/63/5/1/c"]).await;
        assert_eq!(names(&look(&store, 31, 10).await.unwrap()), ["b", "c", "a"]);
        assert_eq!(names(&look(&store, 31, 1).await.unwrap()), ["b"]);
        assert_eq!(names(&look(&store, 2, 3).await.unwrap()), ["b", "c", "a"]);
    }
}
