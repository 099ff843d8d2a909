//! All that ever stood in a group's state, transaction by transaction, as a watch from the beginning on tells it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::runtime::Runtime;
use workrs_store::{
    fresh,
    state::{Change, Revision, StateStore, Transaction, WatchEvent},
};

use crate::tools::wait_until;

/// A watch that was lost this often without telling anything new is lost for good.
const MAX_BARREN_WATCHES: u32 = 200;

/// What each transaction put at which key; `None` where it removed it. A transaction is known by its revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History(pub BTreeMap<u64, BTreeMap<String, Option<Bytes>>>);

impl History {
    fn add(&mut self, event: WatchEvent) {
        let (revision, key, value) = match event {
            WatchEvent::Put(entry) => (entry.revision, entry.key, Some(entry.value)),
            WatchEvent::Deleted { key, revision } => (revision, key, None),
            WatchEvent::Compacted => return,
        };
        self.0.entry(revision.0).or_default().insert(key, value);
    }

    fn newest(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(revision, _)| *revision)
    }
}

/// Writes a history down while it happens.
pub struct Recorder {
    runtime: Runtime,
    store: Arc<dyn StateStore>,
    history: Arc<Mutex<History>>,
}

impl Recorder {
    /// Records all from the beginning on.
    pub fn start(open: impl Future<Output = Arc<dyn StateStore>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = runtime.block_on(open);
        let history = Arc::new(Mutex::new(History::default()));
        runtime.spawn(record(Arc::clone(&store), Arc::clone(&history)));
        Self { runtime, store, history }
    }

    /// Runs something beside the recording.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The history up to now, whole.
    pub fn history(&self) -> History {
        let mark = format!("seen/{}", fresh::id());
        let mut put = || {
            let change = Change::Put(mark.clone(), Bytes::new(), None);
            let commit = self.store.commit(Transaction { conditions: Vec::new(), changes: vec![change] });
            self.block_on(commit).ok()
        };
        // A repeated put of the mark is as good as the first.
        let Revision(marked) = wait_until("the state store takes writes", &mut put);
        wait_until("the history is written down", || {
            let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            (history.newest() >= marked).then(|| history.clone())
        })
    }
}

/// Watches from behind what is known, again and again. The newest known transaction is asked for once more, as the
/// watch may have ended in the middle of it.
async fn record(store: Arc<dyn StateStore>, history: Arc<Mutex<History>>) {
    let newest = || history.lock().unwrap_or_else(PoisonError::into_inner).newest();
    let mut barren = 0;
    while barren < MAX_BARREN_WATCHES {
        let known = newest();
        if let Ok(mut watch) = store.watch("", Revision(known.saturating_sub(1))).await {
            while let Some(event) = watch.recv().await {
                history.lock().unwrap_or_else(PoisonError::into_inner).add(event);
            }
        }
        barren = if newest() > known { 0 } else { barren + 1 };
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use workrs_store::redb::RedbStore;

    use super::*;

    #[test]
    fn every_transaction_is_written_down_once_and_whole() {
        let store: Arc<dyn StateStore> = Arc::new(RedbStore::in_memory());
        let recorder = Recorder::start(async { Arc::clone(&store) });
        let put = |key: &str, value: &'static str| Change::Put(key.to_owned(), value.into(), None);
        let commit = |changes| {
            let commit = store.commit(Transaction { conditions: Vec::new(), changes });
            recorder.block_on(commit).unwrap().0
        };
        let first = commit(vec![put("a", "1"), put("b", "1")]);
        let second = commit(vec![put("a", "2"), Change::Delete("b".to_owned())]);
        let mut history = recorder.history();
        assert_eq!(history.0.len(), 3, "the last is the recorder's own: {history:?}");
        history.0.pop_last();
        let value = |text: &'static str| Some(Bytes::from(text));
        let whole = [
            (first, [("a".to_owned(), value("1")), ("b".to_owned(), value("1"))].into()),
            (second, [("a".to_owned(), value("2")), ("b".to_owned(), None)].into()),
        ];
        assert_eq!(history, History(whole.into()));
    }
}
