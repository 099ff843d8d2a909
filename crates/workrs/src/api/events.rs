//! Changes of jobs and nodes, as server-sent events.
//!
//! All streams of a node share one [`Feed`]: it watches the state store while anybody listens, and reads each job that
//! changed once for all of them.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Request, State},
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, StreamExt, future, stream};
use serde_json::json;
use tokio::{
    sync::{
        Mutex,
        broadcast::{self, error::RecvError},
    },
    time::Instant,
};
use workrs_core::{
    id::{JobId, Owner},
    keys,
};
use workrs_store::{
    records::Records,
    state::{StateError, Watch, WatchEvent},
};

use super::{Api, JobView, Problem, fairness};
use crate::{access::Caller, metrics};

/// What a reader may be behind before it misses something.
const BACKLOG: usize = 1_024;
/// Jobs are told no more often than this; one that changes several times meanwhile is told once.
const GATHER: Duration = Duration::from_millis(50);
/// The first change after some quiet is told after this: much of what happens to a job comes in twos.
const MOMENT: Duration = Duration::from_millis(2);
/// Of more jobs than this at once it is only said that something changed.
const MOST_AT_ONCE: usize = 500;
/// Between tries to watch a store that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// What is told to everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// A job of this owner, as JSON.
    Job(Owner, Arc<str>),
    /// A node that came or went, as JSON.
    Node(Arc<str>),
    /// There was more than could be told.
    Missed,
}

impl Told {
    /// Whether this caller may know it.
    fn is_for(&self, caller: &Caller) -> bool {
        match self {
            Self::Job(owner, _) => caller.may_see(owner),
            Self::Node(_) | Self::Missed => true,
        }
    }

    fn event(&self) -> Event {
        match self {
            Self::Job(_, json) => Event::default().event("job").data(&**json),
            Self::Node(json) => Event::default().event("node").data(&**json),
            Self::Missed => Event::default().event("missed").data("{}"),
        }
    }
}

/// The changes that this node tells. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    /// Where they are told now; nowhere while nobody listens.
    current: Arc<Mutex<Option<broadcast::Sender<Told>>>>,
}

impl Feed {
    /// Everything that changes from now on.
    async fn listen(&self, api: &Api) -> Result<broadcast::Receiver<Told>, StateError> {
        let mut current = self.current.lock().await;
        if let Some(sender) = &*current {
            return Ok(sender.subscribe());
        }
        let watches = Watches::begin(&api.records).await?;
        let (sender, receiver) = broadcast::channel(BACKLOG);
        *current = Some(sender.clone());
        let (feed, records, stopping) = (self.clone(), api.records.clone(), api.stopping.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tell(&records, watches, &sender) => {}
                () = feed.deserted(&sender) => {}
            }
        });
        Ok(receiver)
    }

    /// Returns once nobody listens, and nobody who comes now takes `sender` for one that is still fed.
    async fn deserted(&self, sender: &broadcast::Sender<Told>) {
        loop {
            sender.closed().await;
            let mut current = self.current.lock().await;
            if sender.receiver_count() == 0 {
                *current = None;
                return;
            }
        }
    }
}

/// Streams `job` events (the job as it now is, if the caller may see it), `node` events (a node came or went) and `missed` when there was
/// more than this client took: list again then.
#[utoipa::path(get, path = "/api/v1/events", responses((status = 200, content_type = "text/event-stream"), (status = "default", body = Problem)))]
pub async fn stream(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let place = fairness::who(&request).map(|who| api.fairness.stream(&who)).transpose()?;
    let told = heard(api.events.listen(&api).await?).filter_map(move |told| {
        // The place is taken as long as the stream is.
        let _kept = &place;
        future::ready(told.is_for(&caller).then(|| Ok(told.event())))
    });
    let stopping = api.stopping.clone();
    let told = told.take_until(async move { stopping.cancelled().await });
    Ok(Sse::new(told).keep_alive(KeepAlive::default()))
}

/// What a listener hears: all that is told, or that it missed something.
fn heard(receiver: broadcast::Receiver<Told>) -> impl Stream<Item = Told> {
    stream::unfold(receiver, |mut receiver| async {
        let told = match receiver.recv().await {
            Ok(told) => told,
            Err(RecvError::Lagged(_)) => Told::Missed,
            Err(RecvError::Closed) => return None,
        };
        Some((told, receiver))
    })
}

/// What is watched: a job enters or leaves the queue, or a process's list, whenever its state changes.
struct Watches {
    queue: Watch,
    running: Watch,
    nodes: Watch,
}

impl Watches {
    async fn begin(records: &Records) -> Result<Self, StateError> {
        let store = records.store();
        let from = store.list(keys::NODES, None, 1).await?.revision;
        Ok(Self {
            queue: store.watch(keys::QUEUE, from).await?,
            running: store.watch(keys::RUNNING, from).await?,
            nodes: store.watch(keys::NODES, from).await?,
        })
    }

    /// The next change; `None` if the store does not tell any more.
    async fn next(&mut self) -> Option<Change> {
        let event = tokio::select! {
            event = self.queue.recv() => event,
            event = self.running.recv() => event,
            event = self.nodes.recv() => event,
        };
        let (key, live) = match event? {
            WatchEvent::Put(entry) => (entry.key, true),
            WatchEvent::Deleted { key, .. } => (key, false),
            WatchEvent::Compacted => return None,
        };
        Some(match key.strip_prefix(keys::NODES) {
            Some(node) => Change::Node(node.split('/').next().unwrap_or_default().to_owned(), live),
            None => keys::job_of_index(&key).map_or(Change::Other, Change::Job),
        })
    }
}

enum Change {
    Job(JobId),
    Node(String, bool),
    Other,
}

/// Tells what changes, for ever. Watches that break off are begun anew.
async fn tell(records: &Records, mut watches: Watches, sender: &broadcast::Sender<Told>) {
    // An error of a send means that nobody listens any more, which ends this soon.
    let tell = |told| drop(sender.send(told));
    let mut jobs = BTreeSet::new();
    let (mut told, mut until) = (Instant::now(), Instant::now());
    loop {
        let change = tokio::select! {
            change = watches.next() => change,
            () = tokio::time::sleep_until(until), if !jobs.is_empty() => {
                told = Instant::now();
                tell_jobs(records, std::mem::take(&mut jobs), tell).await;
                continue;
            }
        };
        match change {
            Some(Change::Job(job)) => {
                if jobs.is_empty() {
                    until = (told + GATHER).max(Instant::now() + MOMENT);
                }
                jobs.insert(job);
            }
            Some(Change::Node(name, live)) => {
                tell(Told::Node(json!({ "name": name, "live": live }).to_string().into()));
            }
            Some(Change::Other) => {}
            None => {
                watches = begin_anew(records).await;
                // After that, so that whoever lists again misses nothing that comes later.
                tell(Told::Missed);
            }
        }
    }
}

async fn tell_jobs(records: &Records, jobs: BTreeSet<JobId>, tell: impl Fn(Told)) {
    if jobs.len() > MOST_AT_ONCE {
        return tell(Told::Missed);
    }
    for job in jobs {
        match records.get(&job).await {
            Ok(Some(record)) => {
                if let Ok(json) = serde_json::to_string(&JobView::from(&record)) {
                    tell(Told::Job(record.owner.clone(), json.into()));
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, %job, "cannot tell how a job changed");
                return tell(Told::Missed);
            }
        }
    }
}

async fn begin_anew(records: &Records) -> Watches {
    loop {
        metrics::WATCH_RESTARTS.add_to(&["events"], 1);
        match Watches::begin(records).await {
            Ok(watches) => return watches,
            Err(error) => {
                tracing::debug!(%error, "cannot watch for changes to tell, will try on");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_falls_behind_hears_that_it_missed_something() {
        let (sender, receiver) = broadcast::channel(2);
        let node = |name: &str| Told::Node(name.into());
        for name in ["a", "b", "c", "d"] {
            sender.send(node(name)).unwrap();
        }
        drop(sender);
        assert_eq!(heard(receiver).collect::<Vec<_>>().await, [Told::Missed, node("c"), node("d")]);
    }
}
