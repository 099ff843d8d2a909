//! Watches, served from memory: the newest events, and who wants to hear of the next.
//!
//! Bounded on both sides: events beyond the ring are forgotten, and a watcher that does not keep up is ended with
//! [`WatchEvent::Compacted`] instead of holding up commits.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::state::{Revision, Watch, WatchEvent};

/// Events that are kept for watches that begin in the past.
pub(super) const RING_EVENTS: usize = 10_000;
/// Bytes of keys and values that are kept for them.
const RING_BYTES: usize = 32 << 20;
/// Events that a watcher may lag behind.
pub(super) const WATCH_BACKLOG: usize = 4_096;

pub(super) struct Hub {
    ring: VecDeque<WatchEvent>,
    ring_bytes: usize,
    /// Events up to here are forgotten, perhaps not all of this revision itself.
    forgotten: Revision,
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: String,
    from: Revision,
    sender: mpsc::Sender<WatchEvent>,
}

impl Hub {
    /// A hub that knows nothing of what happened up to `now`.
    pub(super) fn new(now: Revision) -> Self {
        Self { ring: VecDeque::new(), ring_bytes: 0, forgotten: now, watchers: Vec::new() }
    }

    /// Replays what happened behind `from`, and goes on with what happens next.
    pub(super) fn watch(&mut self, prefix: &str, from: Revision) -> Watch {
        if from < self.forgotten {
            let (sender, watch) = mpsc::channel(1);
            let _ = sender.try_send(WatchEvent::Compacted);
            return watch;
        }
        let missed: Vec<_> = self.ring.iter().filter(|event| concerns(event, prefix, from)).cloned().collect();
        // One place is kept free for the last word, `Compacted`.
        let (sender, watch) = mpsc::channel(missed.len() + WATCH_BACKLOG + 1);
        for event in missed {
            let _ = sender.try_send(event);
        }
        self.watchers.retain(|watcher| !watcher.sender.is_closed());
        self.watchers.push(Watcher { prefix: prefix.to_owned(), from, sender });
        watch
    }

    /// Tells every watcher whom it concerns, in order.
    pub(super) fn publish(&mut self, events: Vec<WatchEvent>) {
        self.watchers.retain(|watcher| events.iter().all(|event| watcher.tell(event)));
        for event in events {
            self.ring_bytes += weight(&event);
            self.ring.push_back(event);
        }
        while self.ring.len() > RING_EVENTS || self.ring_bytes > RING_BYTES {
            let Some(event) = self.ring.pop_front() else { break };
            self.ring_bytes -= weight(&event);
            self.forgotten = revision(&event);
        }
    }

    /// Ends all watches: what happened up to `now` is not known for certain.
    pub(super) fn forget(&mut self, now: Revision) {
        for watcher in self.watchers.drain(..) {
            let _ = watcher.sender.try_send(WatchEvent::Compacted);
        }
        *self = Self::new(now);
    }
}

impl Watcher {
    /// Whether the watcher stays.
    fn tell(&self, event: &WatchEvent) -> bool {
        if !concerns(event, &self.prefix, self.from) {
            return !self.sender.is_closed();
        }
        let keeps_up = self.sender.capacity() > 1;
        let event = if keeps_up { event.clone() } else { WatchEvent::Compacted };
        self.sender.try_send(event).is_ok() && keeps_up
    }
}

fn concerns(event: &WatchEvent, prefix: &str, from: Revision) -> bool {
    let key = match event {
        WatchEvent::Put(entry) => &entry.key,
        WatchEvent::Deleted { key, .. } => key,
        WatchEvent::Compacted => return false,
    };
    revision(event) > from && key.starts_with(prefix)
}

fn revision(event: &WatchEvent) -> Revision {
    match event {
        WatchEvent::Put(entry) => entry.revision,
        WatchEvent::Deleted { revision, .. } => *revision,
        WatchEvent::Compacted => Revision::default(),
    }
}

fn weight(event: &WatchEvent) -> usize {
    match event {
        WatchEvent::Put(entry) => entry.key.len() + entry.value.len(),
        WatchEvent::Deleted { key, .. } => key.len(),
        WatchEvent::Compacted => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(revision: u64) -> WatchEvent {
        WatchEvent::Deleted { key: format!("k/{revision}"), revision: Revision(revision) }
    }

    fn drain(watch: &mut Watch) -> Vec<WatchEvent> {
        std::iter::from_fn(|| watch.try_recv().ok()).collect()
    }

    #[test]
    fn what_the_ring_forgot_is_compacted() {
        let mut hub = Hub::new(Revision(5));
        assert_eq!(drain(&mut hub.watch("", Revision(4))), [WatchEvent::Compacted]);
        let events = RING_EVENTS as u64;
        hub.publish((6..=events + 6).map(deleted).collect());
        assert_eq!(drain(&mut hub.watch("", Revision(5))), [WatchEvent::Compacted]);
        assert_eq!(drain(&mut hub.watch("k/", Revision(6))).len(), RING_EVENTS);
        assert_eq!(drain(&mut hub.watch("other/", Revision(6))), []);
    }

    #[test]
    fn a_slow_watcher_is_ended_and_nobody_waits_for_it() {
        let mut hub = Hub::new(Revision(0));
        let mut slow = hub.watch("", Revision(0));
        let mut other = hub.watch("other", Revision(0));
        hub.publish((1..=WATCH_BACKLOG as u64 + 3).map(deleted).collect());
        let got = drain(&mut slow);
        assert_eq!(got.len(), WATCH_BACKLOG + 1);
        assert_eq!(got[WATCH_BACKLOG - 1], deleted(WATCH_BACKLOG as u64));
        assert_eq!(got[WATCH_BACKLOG], WatchEvent::Compacted);
        assert!(slow.is_closed(), "its sender is gone");
        assert_eq!(drain(&mut other), []);
        assert!(!other.is_closed());
    }
}
