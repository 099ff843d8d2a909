//! Group commit: concurrent transactions share one transaction of redb and one sync of the disk.
//!
//! Requests wait in a queue. One blocking task at a time drains it; conditions are checked in the order of the
//! queue, each against what those before it changed, and every request gets its own answer.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use redb::{ReadableTable, Table, WriteTransaction};
use tokio::sync::oneshot;

use super::{
    disk::{Disk, ENTRIES, LEASED, META, REVISION},
    hub::Hub,
    value,
};
use crate::state::{Change, Condition, Entry, LeaseId, Revision, StateError, Transaction, WatchEvent};

type Answer = Result<Revision, StateError>;

/// What can be asked of the writer.
pub(super) enum Request {
    Commit(Transaction),
    Revoke(LeaseId),
}

pub(super) struct Writer {
    pub(super) disk: Disk,
    pub(super) hub: Mutex<Hub>,
    pub(super) leases: Mutex<HashSet<LeaseId>>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Request, oneshot::Sender<Answer>)>,
    draining: bool,
}

impl Writer {
    pub(super) fn new(disk: Disk, now: Revision) -> Self {
        Self { disk, hub: Mutex::new(Hub::new(now)), leases: Mutex::default(), queue: Mutex::default() }
    }

    /// Queues a request. It is carried out even if the caller stops waiting for the answer.
    pub(super) async fn submit(self: &Arc<Self>, request: Request) -> Answer {
        let (reply, answer) = oneshot::channel();
        let start = {
            let mut queue = lock(&self.queue);
            queue.waiting.push((request, reply));
            !std::mem::replace(&mut queue.draining, true)
        };
        if start {
            let writer = Arc::clone(self);
            tokio::task::spawn_blocking(move || writer.drain());
        }
        answer.await.unwrap_or_else(|_| Err(StateError::Unknown("the writer of the state file failed".to_owned())))
    }

    fn drain(&self) {
        let guard = DrainGuard(self);
        loop {
            let batch = {
                let mut queue = lock(&self.queue);
                if queue.waiting.is_empty() {
                    queue.draining = false;
                    break;
                }
                std::mem::take(&mut queue.waiting)
            };
            let (requests, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let answers = self.write(&requests);
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer);
            }
        }
        std::mem::forget(guard);
    }

    fn write(&self, requests: &[Request]) -> Vec<Answer> {
        let all = |error: &StateError| requests.iter().map(|_| Err(error.clone())).collect();
        let transaction = match self.disk.begin_write() {
            Ok(transaction) => transaction,
            Err(error) => return all(&error),
        };
        let batch = match Batch::run(&transaction, requests, &mut lock(&self.leases)) {
            Ok(batch) => batch,
            Err(error) => {
                drop(transaction);
                return all(&self.disk.failed(error));
            }
        };
        if batch.events.is_empty() {
            drop(transaction);
            return batch.answers;
        }
        match self.disk.commit(transaction, batch.revision) {
            Ok(()) => {
                lock(&self.hub).publish(batch.events);
                batch.answers
            }
            Err(error) => {
                lock(&self.hub).forget(batch.revision);
                let fail = |answer: Answer| answer.and(Err(error.clone()));
                batch.answers.into_iter().map(fail).collect()
            }
        }
    }
}

/// If the drain panics, those who wait hear of it (their senders are dropped), and the next request starts anew.
struct DrainGuard<'a>(&'a Writer);

impl Drop for DrainGuard<'_> {
    fn drop(&mut self) {
        self.0.disk.close();
        *lock(&self.0.queue) = Queue::default();
    }
}

/// Several requests within one transaction of redb.
struct Batch {
    revision: Revision,
    answers: Vec<Answer>,
    events: Vec<WatchEvent>,
}

struct Tables<'a> {
    entries: Table<'a, &'static str, &'static [u8]>,
    leased: Table<'a, &'static str, i64>,
}

impl Batch {
    fn run(
        transaction: &WriteTransaction,
        requests: &[Request],
        leases: &mut HashSet<LeaseId>,
    ) -> Result<Self, redb::Error> {
        let mut meta = transaction.open_table(META)?;
        let mut tables = Tables { entries: transaction.open_table(ENTRIES)?, leased: transaction.open_table(LEASED)? };
        let revision = Revision(meta.get(REVISION)?.map_or(0, |revision| revision.value()));
        let mut batch = Self { revision, answers: Vec::new(), events: Vec::new() };
        for request in requests {
            let answer = match request {
                Request::Commit(wanted) => batch.commit(&mut tables, wanted, leases)?,
                Request::Revoke(lease) => batch.revoke(&mut tables, *lease, leases)?,
            };
            batch.answers.push(answer);
        }
        if batch.revision > revision {
            meta.insert(REVISION, batch.revision.0)?;
        }
        Ok(batch)
    }

    fn commit(
        &mut self,
        tables: &mut Tables<'_>,
        wanted: &Transaction,
        leases: &HashSet<LeaseId>,
    ) -> Result<Answer, redb::Error> {
        if let Err(error) = check(tables, wanted, leases)? {
            return Ok(Err(error));
        }
        let revision = Revision(self.revision.0 + 1);
        let before = self.events.len();
        for change in &wanted.changes {
            match change {
                Change::Put(key, value, lease) => {
                    tables.entries.insert(key.as_str(), value::encode(key, revision, value).as_slice())?;
                    match lease {
                        Some(lease) => tables.leased.insert(key.as_str(), lease.0)?,
                        None => tables.leased.remove(key.as_str())?,
                    };
                    let value = Bytes::clone(value);
                    self.events.push(WatchEvent::Put(Entry { key: key.clone(), value, revision }));
                }
                Change::Delete(key) => self.delete(tables, key, revision)?,
            }
        }
        if self.events.len() > before {
            self.revision = revision;
        }
        Ok(Ok(self.revision))
    }

    fn revoke(
        &mut self,
        tables: &mut Tables<'_>,
        lease: LeaseId,
        leases: &mut HashSet<LeaseId>,
    ) -> Result<Answer, redb::Error> {
        leases.remove(&lease);
        let mut keys = Vec::new();
        for item in tables.leased.iter()? {
            let (key, of) = item?;
            if of.value() == lease.0 {
                keys.push(key.value().to_owned());
            }
        }
        let revision = Revision(self.revision.0 + 1);
        for key in &keys {
            self.delete(tables, key, revision)?;
        }
        if !keys.is_empty() {
            self.revision = revision;
        }
        Ok(Ok(self.revision))
    }

    fn delete(&mut self, tables: &mut Tables<'_>, key: &str, revision: Revision) -> Result<(), redb::Error> {
        tables.leased.remove(key)?;
        if tables.entries.remove(key)?.is_some() {
            self.events.push(WatchEvent::Deleted { key: key.to_owned(), revision });
        }
        Ok(())
    }
}

fn check(
    tables: &Tables<'_>,
    wanted: &Transaction,
    leases: &HashSet<LeaseId>,
) -> Result<Result<(), StateError>, redb::Error> {
    let mut changed = HashSet::new();
    for change in &wanted.changes {
        let (Change::Put(key, ..) | Change::Delete(key)) = change;
        if !changed.insert(key) {
            return Ok(Err(StateError::Unavailable(format!("the transaction changes {key:?} twice"))));
        }
        if matches!(change, Change::Put(_, _, Some(lease)) if !leases.contains(lease)) {
            return Ok(Err(StateError::LeaseEnded));
        }
    }
    for condition in &wanted.conditions {
        let holds = match condition {
            Condition::Absent(key) => tables.entries.get(key.as_str())?.is_none(),
            Condition::Present(key) => tables.entries.get(key.as_str())?.is_some(),
            Condition::Unchanged(key, revision) => match tables.entries.get(key.as_str())? {
                None => false,
                Some(stored) => match value::decode(key, stored.value()) {
                    Ok(entry) => entry.revision == *revision,
                    Err(error) => return Ok(Err(error)),
                },
            },
        };
        if !holds {
            return Ok(Err(StateError::Conflict));
        }
    }
    Ok(Ok(()))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
