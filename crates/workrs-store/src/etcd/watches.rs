//! All watches of a store, on one stream of etcd.
//!
//! One task owns the stream. If it breaks, the task opens one with the next member, and every watch goes on where it
//! was: it knows the revision that it saw last and, as a revision may come in pieces, which of its keys. Nobody waits
//! for a watcher: one that does not keep up is ended with [`WatchEvent::Compacted`].

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use etcd_client::{Event, EventType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout},
};

use super::{ANSWER_BYTES, Keys, Range, members::Members, number, revision};
use crate::state::{Entry, Revision, Watch, WatchEvent};

/// Events that a watcher may lag behind.
const WATCH_BACKLOG: usize = 4_096;
/// How long it may take until a member begins a stream.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// How often the stream is looked after: whether watchers are gone, and whether the member still is there.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A member that is asked for its progress and says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Stands in answers that are about all watches.
const ALL: i64 = -1;

/// Takes new watches. The task ends when this is dropped, and with it all watches.
pub(super) struct Watches {
    keys: Keys,
    new: mpsc::UnboundedSender<Watcher>,
}

impl Watches {
    pub(super) fn start(members: Arc<Members>, keys: Keys) -> Self {
        let (new, incoming) = mpsc::unbounded_channel();
        // So that the streams of many processes spread over the members.
        let member = rand::random_range(0..members.all().len());
        let watchers = Watchers { keys: keys.clone(), running: BTreeMap::new(), last_id: 0 };
        tokio::spawn(Task { members, member, incoming, watchers }.run());
        Self { keys, new }
    }

    pub(super) fn watch(&self, prefix: &str, from: Revision) -> Watch {
        // One place is kept free for the last word, `Compacted`.
        let (sender, watch) = mpsc::channel(WATCH_BACKLOG + 1);
        let (next, told) = (from.0.saturating_add(1), HashSet::new());
        let watcher = Watcher { range: self.keys.below(prefix), next, told, is_created: false, sender };
        // The task lives as long as this store, except when the runtime ends: then the watch ends, too.
        let _ = self.new.send(watcher);
        watch
    }
}

/// One watch.
struct Watcher {
    range: Range,
    /// The first revision of which it may not have been told everything.
    next: u64,
    /// Keys of that revision of which it was told; a transaction changes a key once.
    told: HashSet<String>,
    /// Whether the stream that is open has confirmed it.
    is_created: bool,
    sender: mpsc::Sender<WatchEvent>,
}

impl Watcher {
    fn options(&self, id: i64) -> WatchOptions {
        let options = WatchOptions::new().with_range(self.range.end.clone());
        let options = options.with_start_revision(number(Revision(self.next)));
        options.with_watch_id(id).with_fragment()
    }

    /// Tells it of an event, unless it knows. Gives whether the watch goes on.
    fn tell(&mut self, event: WatchEvent) -> bool {
        let (key, revision) = match &event {
            WatchEvent::Put(entry) => (&entry.key, entry.revision.0),
            WatchEvent::Deleted { key, revision } => (key, revision.0),
            WatchEvent::Compacted => {
                let _gone = self.sender.try_send(event);
                return false;
            }
        };
        if revision > self.next {
            self.next = revision;
            self.told.clear();
        }
        if revision < self.next || !self.told.insert(key.clone()) {
            return true;
        }
        let keeps_up = self.sender.capacity() > 1;
        self.sender.try_send(if keeps_up { event } else { WatchEvent::Compacted }).is_ok() && keeps_up
    }

    /// Everything up to `revision` was told.
    fn advance(&mut self, revision: u64) {
        if self.is_created && revision >= self.next {
            self.next = revision + 1;
            self.told.clear();
        }
    }
}

/// The watches that run, by their ids on the stream.
struct Watchers {
    keys: Keys,
    running: BTreeMap<i64, Watcher>,
    last_id: i64,
}

impl Watchers {
    fn add(&mut self, watcher: Watcher) -> i64 {
        self.last_id += 1;
        self.running.insert(self.last_id, watcher);
        self.last_id
    }

    /// Ends those whose receivers were dropped, and gives their ids.
    fn remove_dropped(&mut self) -> Vec<i64> {
        let dropped = self.running.iter().filter(|(_, watcher)| watcher.sender.is_closed()).map(|(id, _)| *id);
        let dropped: Vec<_> = dropped.collect();
        self.running.retain(|_, watcher| !watcher.sender.is_closed());
        dropped
    }

    /// Takes an answer of etcd. Gives watches that ended of themselves, of which etcd has to be told, or why the stream
    /// is of no use any more.
    fn take(&mut self, answer: &WatchResponse) -> Result<Option<i64>, String> {
        let id = answer.watch_id();
        if answer.canceled() {
            let is_known = self.running.contains_key(&id);
            if is_known && answer.compact_revision() > 0 {
                self.running.remove(&id).map(|mut watcher| watcher.tell(WatchEvent::Compacted));
                return Ok(None);
            }
            // One that was cancelled by this side is not known any more.
            let is_ours = !is_known && id != ALL;
            return if is_ours { Ok(None) } else { Err(format!("etcd ended a watch: {}", answer.cancel_reason())) };
        }
        if id == ALL {
            let told = answer.header().map_or(0, |header| header.revision().unsigned_abs());
            self.running.values_mut().for_each(|watcher| watcher.advance(told));
            return Ok(None);
        }
        let Some(watcher) = self.running.get_mut(&id) else { return Ok(None) };
        watcher.is_created |= answer.created();
        let goes_on = answer.events().iter().filter_map(|event| event_of(&self.keys, event)).all(|e| watcher.tell(e));
        if goes_on {
            return Ok(None);
        }
        self.running.remove(&id);
        Ok(Some(id))
    }
}

fn event_of(keys: &Keys, event: &Event) -> Option<WatchEvent> {
    let stored = event.kv()?;
    // What is not ours, or no text, was not written by this store.
    let key = keys.key(stored.key())?.to_owned();
    let revision = revision(stored.mod_revision());
    Some(match event.event_type() {
        EventType::Put => WatchEvent::Put(Entry { key, value: stored.value().to_vec().into(), revision }),
        EventType::Delete => WatchEvent::Deleted { key, revision },
    })
}

struct Task {
    members: Arc<Members>,
    /// Index of the member that gets the next stream, counted on over the end.
    member: usize,
    incoming: mpsc::UnboundedReceiver<Watcher>,
    watchers: Watchers,
}

/// Why a stream was closed.
enum Closed {
    /// Nobody watches any more.
    Idle,
    /// The store was dropped.
    Done,
}

impl Task {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            if self.watchers.running.is_empty() {
                let Some(watcher) = self.incoming.recv().await else { return };
                self.watchers.add(watcher);
            }
            let opened = Instant::now();
            match self.serve().await {
                Ok(Closed::Done) => return,
                Ok(Closed::Idle) => {}
                Err(why) => {
                    tracing::debug!("watching etcd with the next member: {why}");
                    self.member += 1;
                    pause = if opened.elapsed() > LONGEST_PAUSE { FIRST_PAUSE } else { pause };
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Serves all watches from one stream, until it breaks.
    async fn serve(&mut self) -> Result<Closed, String> {
        self.watchers.remove_dropped();
        let mut stream = match self.watchers.running.first_key_value() {
            Some((first, _)) => self.open(*first).await?,
            None => return Ok(Closed::Idle),
        };
        loop {
            tokio::select! {
                watcher = self.incoming.recv() => match watcher {
                    Some(watcher) => stream.requests.push_back(Request::Create(self.watchers.add(watcher))),
                    None => return Ok(Closed::Done),
                },
                answer = stream.answers.message() => {
                    stream.heard = Instant::now();
                    let answer = answer.map_err(|error| error.to_string())?.ok_or("etcd closed the stream")?;
                    stream.requests.extend(self.watchers.take(&answer)?.map(Request::Cancel));
                }
                sent = send(&mut stream.sender, stream.requests.front(), &self.watchers) => {
                    sent.map_err(|error| error.to_string())?;
                    stream.requests.pop_front();
                }
                _ = stream.check.tick() => {
                    stream.requests.extend(self.watchers.remove_dropped().into_iter().map(Request::Cancel));
                    stream.ask_for_progress()?;
                }
            }
            if self.watchers.running.is_empty() {
                return Ok(Closed::Idle);
            }
        }
    }

    /// Opens a stream with the watch `first`; the others follow.
    async fn open(&mut self, first: i64) -> Result<Stream, String> {
        let members = self.members.all();
        let member = &members[self.member % members.len()];
        let watcher = &self.watchers.running[&first];
        let opened = timeout(CONNECT_DEADLINE, async {
            let client = member.watch_client().await?;
            // The rights of a stream are those of the token with which it was opened.
            client.refresh_token().await?;
            let mut client = client.watch_client().max_decoding_message_size(ANSWER_BYTES);
            client.watch(watcher.range.from.clone(), Some(watcher.options(first))).await
        });
        let opened = opened.await.map_err(|_| format!("{} does not answer", member.endpoint()))?;
        let (sender, answers) = opened.map_err(|error| format!("{}: {error}", member.endpoint()))?.split();
        self.watchers.running.values_mut().for_each(|watcher| watcher.is_created = false);
        let requests = self.watchers.running.keys().filter(|id| **id != first).map(|id| Request::Create(*id)).collect();
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Stream { sender, answers, requests, check, heard: Instant::now() })
    }
}

/// A stream of etcd.
struct Stream {
    sender: WatchRequestSender,
    answers: WatchResponseStream,
    /// Sent one by one, while answers are taken: a member whose answers nobody takes takes no requests.
    requests: VecDeque<Request>,
    check: Interval,
    /// When the last answer came.
    heard: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Create(i64),
    Cancel(i64),
    /// Up to where everything was told: an answer shows that the member lives, and from there a watch can go on
    /// although what is older was compacted.
    Progress,
}

impl Stream {
    /// Asks a member that is silent, and gives it up if it stays so.
    fn ask_for_progress(&mut self) -> Result<(), String> {
        if self.heard.elapsed() > SILENCE {
            return Err("etcd says nothing any more".to_owned());
        }
        if self.heard.elapsed() >= CHECK_INTERVAL && !self.requests.contains(&Request::Progress) {
            self.requests.push_back(Request::Progress);
        }
        Ok(())
    }
}

async fn send(
    sender: &mut WatchRequestSender,
    request: Option<&Request>,
    watchers: &Watchers,
) -> Result<(), etcd_client::Error> {
    match request {
        Some(Request::Create(id)) => match watchers.running.get(id) {
            Some(watcher) => sender.watch(watcher.range.from.clone(), Some(watcher.options(*id))).await,
            None => Ok(()),
        },
        Some(Request::Cancel(id)) => sender.cancel(*id).await,
        Some(Request::Progress) => sender.request_progress().await,
        None => std::future::pending().await,
    }
}
