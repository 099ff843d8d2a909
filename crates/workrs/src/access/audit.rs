//! The audit trail: who changed what, when and with which outcome, and who was refused.
//!
//! A request that changed something is answered once its note is durable. Notes of requests that come together are written
//! together, so that many changes at once cost few writes. A note that cannot be written within [`WAIT`] is only in the log:
//! the change stands, and whoever asked must not be kept.
//!
//! Anybody can be refused as often as they like, so refusals of one kind are noted once a minute for each who is refused, with
//! how many there were.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use workrs_core::{
    id::{self, Owner, Timestamp, TokenId},
    keys,
};
use workrs_store::{
    envelope::Envelope,
    fresh,
    state::{Change, StateError, StateStore, Transaction},
    values,
};

/// How long an answer waits for its note.
const WAIT: Duration = Duration::from_secs(5);
/// Notes in one write.
const BATCH: usize = 64;
/// Notes that wait for their write.
const WAITING: usize = 1_024;
/// The pause before a write is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// Refusals of one kind are noted so often.
const REFUSALS_EVERY: Duration = Duration::from_secs(60);
/// Kinds of refusals that are counted; more are noted as they come, until the oldest are forgotten.
const MAX_KINDS: usize = 10_000;
/// Notes that one write removes.
const REMOVE_AT_ONCE: usize = 100;

/// One line of the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditNote {
    /// When it was asked for.
    pub at: Timestamp,
    /// Who asked, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// By which of the group's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// What was to be done: method and route, such as `POST /api/v1/jobs/{id}/cancel`.
    pub action: String,
    /// To what: the path, or what was made.
    pub target: String,
    /// How it was answered; nothing if nobody waited for the answer, so that it may have happened or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The kind of problem, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How many like it came before it and were not noted.
    #[serde(default)]
    pub repeated: u32,
}

impl AuditNote {
    /// Whether somebody was not let in, or may not do it.
    fn is_refusal(&self) -> bool {
        matches!(self.status, Some(401 | 403 | 429))
    }

    fn log(&self) {
        let (owner, token) = (self.owner.as_ref().map(Owner::as_str), self.token.as_ref().map(TokenId::as_str));
        let address = self.address.map(|address| address.to_string());
        let Self { action, target, status, problem, repeated, .. } = self;
        tracing::info!(target: "audit", owner, token, address, action, target, status, problem, repeated, "audit");
    }
}

/// Whose refusals, and of which kind.
type Kind = (Option<IpAddr>, Option<Owner>, Option<String>);

struct Line {
    note: AuditNote,
    written: oneshot::Sender<()>,
}

/// Takes notes.
pub struct Trail {
    sender: mpsc::Sender<Line>,
    refusals: Mutex<HashMap<Kind, (Instant, u32)>>,
}

impl Trail {
    /// Whose notes go to `store`, as long as it is kept. Needs a runtime.
    pub fn new(store: Arc<dyn StateStore>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(keep(store, receiver));
        Self { sender, refusals: Mutex::default() }
    }

    /// Takes a note, and returns when it is durable, or is given up.
    pub async fn note(&self, mut note: AuditNote) {
        if note.is_refusal() {
            match self.refused_before(&note) {
                Some(repeated) => note.repeated = repeated,
                None => return,
            }
        }
        note.log();
        let (written, is_written) = oneshot::channel();
        let noted = async {
            // Without its receiver there is no runtime any more.
            let _ = self.sender.send(Line { note, written }).await;
            // What is not written is told by who writes.
            let _ = is_written.await;
        };
        if tokio::time::timeout(WAIT, noted).await.is_err() {
            tracing::warn!(target: "audit", "the note above is not durable yet: the state store does not answer");
        }
    }

    /// Takes a note that nobody waits for.
    pub fn note_later(&self, note: AuditNote) {
        note.log();
        if self.sender.try_send(Line { note, written: oneshot::channel().0 }).is_err() {
            tracing::error!(target: "audit", "the note above is not in the audit trail: too many wait to be written");
        }
    }

    /// How many refusals like this one came since the last that was noted; `None` if that is not long ago.
    fn refused_before(&self, note: &AuditNote) -> Option<u32> {
        let kind = (note.address, note.owner.clone(), note.problem.clone());
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= MAX_KINDS {
            refusals.retain(|_, (since, _)| since.elapsed() < REFUSALS_EVERY);
        }
        let is_full = refusals.len() >= MAX_KINDS;
        match refusals.get_mut(&kind) {
            Some((since, count)) if since.elapsed() < REFUSALS_EVERY => {
                *count += 1;
                None
            }
            Some(known) => Some(std::mem::replace(known, (Instant::now(), 0)).1),
            None if is_full => Some(0),
            None => {
                refusals.insert(kind, (Instant::now(), 0));
                Some(0)
            }
        }
    }
}

/// Ids of notes, which sort by time, and those of one millisecond by the order in which they were drawn.
#[derive(Debug, Default)]
struct Ids {
    newest: Option<(Timestamp, u128)>,
}

impl Ids {
    fn next(&mut self, at: Timestamp) -> String {
        let random = match self.newest {
            Some((newest, random)) if newest == at => random.wrapping_add(1),
            _ => rand::random(),
        };
        self.newest = Some((at, random));
        id::generate(at, random)
    }
}

/// Writes notes until nobody can take any more.
async fn keep(store: Arc<dyn StateStore>, mut receiver: mpsc::Receiver<Line>) {
    let mut lines = Vec::new();
    let mut ids = Ids::default();
    while receiver.recv_many(&mut lines, BATCH).await > 0 {
        let changes = lines.iter().map(|line| {
            let key = format!("{}{}", keys::AUDIT, ids.next(line.note.at));
            let owner = line.note.owner.as_ref().map_or("", Owner::as_str);
            let value = Envelope::new(owner, &line.note, fresh::operation()).encode(&key);
            Change::Put(key, value, None)
        });
        let put = Transaction { conditions: Vec::new(), changes: changes.collect() };
        let written = async {
            // To write the same twice does no harm.
            while let Err(error) = store.commit(put.clone()).await {
                tracing::warn!(%error, "cannot write to the audit trail, will try on");
                tokio::time::sleep(PAUSE).await;
            }
        };
        if tokio::time::timeout(WAIT, written).await.is_err() {
            let count = lines.len();
            tracing::error!(target: "audit", count, "notes of the log are missing in the audit trail");
        }
        for line in lines.drain(..) {
            // It may be waited for no more.
            let _ = line.written.send(());
        }
    }
}

/// Notes behind the id `after`, at most `limit`, the oldest first; with their ids.
pub async fn read(
    store: &Arc<dyn StateStore>,
    after: &str,
    limit: usize,
) -> Result<Vec<(String, AuditNote)>, StateError> {
    let after = format!("{}{after}", keys::AUDIT);
    let notes = values::read_some::<AuditNote>(store, keys::AUDIT, &after, limit).await?;
    Ok(notes.into_iter().map(|(key, note)| (key.trim_start_matches(keys::AUDIT).to_owned(), note)).collect())
}

/// The id before all those of notes that were taken from `at` on.
pub fn before(at: Timestamp) -> String {
    id::generate(at, 0)
}

/// Removes the notes that were taken before `until`.
pub async fn forget(store: &dyn StateStore, until: Timestamp) -> Result<(), StateError> {
    let end = format!("{}{}", keys::AUDIT, before(until));
    loop {
        let page = store.list(keys::AUDIT, None, REMOVE_AT_ONCE).await?;
        let old = page.entries.iter().filter(|entry| entry.key < end);
        let changes: Vec<_> = old.map(|entry| Change::Delete(entry.key.clone())).collect();
        let is_last = changes.len() < REMOVE_AT_ONCE;
        if !changes.is_empty() {
            store.commit(Transaction { conditions: Vec::new(), changes }).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use workrs_store::{
        faulty::{Fault, Faults, FaultyState},
        redb::RedbStore,
    };

    use super::*;

    fn note(at: u64, status: u16) -> AuditNote {
        AuditNote {
            at: Timestamp::from_millis(at),
            owner: Some(Owner::new("ann").unwrap()),
            token: None,
            address: Some(IpAddr::from([192, 0, 2, 7])),
            action: "POST /api/v1/jobs".to_owned(),
            target: "/api/v1/jobs/a".to_owned(),
            status: Some(status),
            problem: None,
            repeated: 0,
        }
    }

    async fn all(store: &Arc<dyn StateStore>) -> Vec<AuditNote> {
        read(store, "", 1_000).await.unwrap().into_iter().map(|(_, note)| note).collect()
    }

    #[test]
    fn notes_of_one_moment_stay_in_their_order() {
        let mut ids = Ids::default();
        let drawn: Vec<_> = [1, 1, 1, 1, 2, 2].map(|at| ids.next(Timestamp::from_millis(at))).into();
        assert!(drawn.is_sorted_by(|one, next| one < next), "{drawn:?}");
    }

    #[tokio::test]
    async fn notes_that_come_together_are_written_together_and_all_of_them() {
        let faults = Faults::none();
        let store: Arc<dyn StateStore> = Arc::new(FaultyState::new(Arc::new(RedbStore::in_memory()), faults.clone()));
        let trail = Trail::new(Arc::clone(&store));
        futures::future::join_all((0..100).map(|at| trail.note(note(at, 200)))).await;
        assert!(faults.count() < 100, "{} writes", faults.count());
        let times: Vec<_> = all(&store).await.iter().map(|note| note.at.as_millis()).collect();
        assert_eq!(times, (0..100).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_whose_answer_is_lost_is_one_note() {
        for fault in [Fault::Refuse, Fault::LoseAnswer] {
            let store: Arc<dyn StateStore> =
                Arc::new(FaultyState::new(Arc::new(RedbStore::in_memory()), Faults::at(1, fault)));
            let trail = Trail::new(Arc::clone(&store));
            trail.note(note(1, 200)).await;
            assert_eq!(all(&store).await, [note(1, 200)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_of_a_kind_are_counted() {
        let store: Arc<dyn StateStore> = Arc::new(RedbStore::in_memory());
        let trail = Trail::new(Arc::clone(&store));
        for at in 0..5 {
            trail.note(note(at, 401)).await;
        }
        tokio::time::advance(REFUSALS_EVERY).await;
        trail.note(note(9, 401)).await;
        assert_eq!(all(&store).await, [note(0, 401), AuditNote { repeated: 4, ..note(9, 401) }]);
    }

    #[tokio::test]
    async fn old_notes_go() {
        let store: Arc<dyn StateStore> = Arc::new(RedbStore::in_memory());
        let trail = Trail::new(Arc::clone(&store));
        futures::future::join_all((0..250).map(|at| trail.note(note(at, 200)))).await;
        forget(&*store, Timestamp::from_millis(240)).await.unwrap();
        let left: Vec<_> = all(&store).await.iter().map(|note| note.at.as_millis()).collect();
        assert_eq!(left, (240..250).collect::<Vec<_>>());
        let since = read(&store, &before(Timestamp::from_millis(245)), 2).await.unwrap();
        assert_eq!(since.iter().map(|(_, note)| note.at.as_millis()).collect::<Vec<_>>(), [245, 246]);
    }
}
