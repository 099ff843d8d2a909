//! State in an etcd cluster, shared by many processes, for as long as most of the cluster's members live.
//!
//! - Which member is asked, and what happens if it fails, is in module `members`; what etcd's errors mean in `errors`.
//! - A commit is one transaction of etcd; its revisions are etcd's, so they rise with other stores' changes, too.
//! - All watches of a store share one stream (module `watches`).
//! - etcd forgets nothing by itself: somebody has to call [`StateStore::compact`] (module `maintenance`).
//!
//! Values are stored as they are given; etcd notices no bit rot in them, [`crate::envelope`] does.

mod errors;
mod maintenance;
mod members;
mod options;
mod transactions;
mod watches;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use etcd_client::{GetOptions, GetResponse, KeyValue, ResponseHeader};

pub use self::options::{Credentials, DEFAULT_PREFIX, EtcdError, EtcdOptions, Tls};
use self::{errors::Failure, members::Members, watches::Watches};
use crate::state::{
    Entry, LeaseId, Page, Revision, StateError, StateStore, Transaction, Usage, Watch, Written, list_written_by_pages,
};

/// How long a member may take for one answer. A member that is stopped or cut off is noticed by it.
const DEADLINE: Duration = Duration::from_secs(3);
/// The same for a part of a list, which may have to come over a slow network.
const LIST_DEADLINE: Duration = Duration::from_secs(8);
/// The same for the renewal of a lease, and for all its tries together, since etcd's shortest lease is
/// [`SHORTEST_LEASE`].
const RENEWAL_DEADLINE: Duration = Duration::from_millis(700);
const RENEWALS_DEADLINE: Duration = Duration::from_millis(1500);
const SHORTEST_LEASE: Duration = Duration::from_secs(2);
/// Entries that are asked for at once.
const LIST_PART: i64 = 1000;
/// Bytes of an answer that are taken; parts of lists that are larger are asked for in halves.
const ANSWER_BYTES: usize = 64 << 20;
/// A list whose revision is forgotten while it is read begins anew.
const LIST_TRIES: usize = 5;

/// A state store in etcd.
pub struct EtcdStore {
    members: Arc<Members>,
    keys: Keys,
    watches: Watches,
}

impl EtcdStore {
    /// A store in the cluster that `options` names. Nobody is asked yet, so the cluster may come up later.
    pub async fn open(options: &EtcdOptions) -> Result<Self, EtcdError> {
        let members = Arc::new(Members::new(options).await?);
        let keys = Keys::new(&options.prefix);
        let watches = Watches::start(Arc::clone(&members), keys.clone());
        Ok(Self { members, keys, watches })
    }

    async fn range(&self, from: &[u8], options: &GetOptions, deadline: Duration) -> Result<GetResponse, Failure> {
        let range = self.members.call_repeatedly(deadline, |client| {
            let mut client = client.kv_client().max_decoding_message_size(ANSWER_BYTES);
            let (from, options) = (from.to_vec(), options.clone());
            async move { client.get(from, Some(options)).await }
        });
        range.await
    }

    /// Reads a list in parts, all of one revision.
    async fn list_parts(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ListFailure> {
        let range = self.keys.below(prefix);
        let mut from = after.map_or_else(Vec::new, |after| behind(self.keys.stored(after))).max(range.from.clone());
        let mut page = Page { entries: Vec::new(), more: false, revision: Revision(0) };
        if from >= range.end || limit == 0 {
            // Only the revision, and whether there is anything.
            let is_behind = from >= range.end;
            let options = GetOptions::new().with_range(range.end).with_limit(1).with_keys_only();
            let answer = self.range(if is_behind { &range.from } else { &from }, &options, DEADLINE).await?;
            return Ok(Page { more: !is_behind && !answer.kvs().is_empty(), revision: revision_of(&answer), ..page });
        }
        let mut part = LIST_PART;
        loop {
            let wanted = i64::try_from(limit - page.entries.len()).unwrap_or(i64::MAX).min(part);
            let options = GetOptions::new().with_range(range.end.clone()).with_limit(wanted);
            let answer = self.range(&from, &options.with_revision(number(page.revision)), LIST_DEADLINE).await;
            let mut answer = match answer {
                Err(failure) if failure.is_too_large_to_read() && wanted > 1 => {
                    part = wanted / 2;
                    continue;
                }
                answer => answer?,
            };
            if page.revision == Revision(0) {
                page.revision = revision_of(&answer);
            }
            page.more = answer.more();
            for stored in answer.take_kvs() {
                page.entries.push(self.keys.entry(stored)?);
            }
            match page.entries.last() {
                Some(last) if page.more && page.entries.len() < limit => from = behind(self.keys.stored(&last.key)),
                _ => return Ok(page),
            }
        }
    }
}

enum ListFailure {
    Failed(Failure),
    Damaged(StateError),
}

impl From<Failure> for ListFailure {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StateError> for ListFailure {
    fn from(error: StateError) -> Self {
        Self::Damaged(error)
    }
}

#[async_trait]
impl StateStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StateError> {
        let stored = self.keys.stored(key);
        let answer = self.range(&stored, &GetOptions::new(), DEADLINE).await;
        let found = answer.map_err(|failure| failure.of_read())?.take_kvs().pop();
        found.map(|found| self.keys.entry(found)).transpose()
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StateError> {
        let mut tries = LIST_TRIES;
        loop {
            tries -= 1;
            match self.list_parts(prefix, after, limit).await {
                Ok(page) => return Ok(page),
                Err(ListFailure::Failed(failure)) if failure.is_compacted() && tries > 0 => {}
                Err(ListFailure::Failed(failure)) => return Err(failure.of_read()),
                Err(ListFailure::Damaged(error)) => return Err(error),
            }
        }
    }

    async fn list_written(&self, prefix: &str, since: Revision) -> Result<Written, StateError> {
        if since == Revision(0) {
            return list_written_by_pages(self, prefix, since).await;
        }
        let range = self.keys.below(prefix);
        let written = GetOptions::new().with_range(range.end).with_min_mod_revision(number(since).saturating_add(1));
        match self.range(&range.from, &written, LIST_DEADLINE).await {
            Ok(mut answer) => Ok(Written {
                total: usize::try_from(answer.count()).unwrap_or_default(),
                revision: revision_of(&answer),
                entries: answer
                    .take_kvs()
                    .into_iter()
                    .map(|stored| self.keys.entry(stored))
                    .collect::<Result<_, _>>()?,
            }),
            Err(failure) if failure.is_too_large_to_read() => list_written_by_pages(self, prefix, since).await,
            Err(failure) => Err(failure.of_read()),
        }
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StateError> {
        transactions::check(&transaction)?;
        let committed = self.members.call_once(DEADLINE, |client| {
            let mut client = client.kv_client();
            let request = transactions::request(&self.keys, &transaction);
            async move { client.txn(request).await }
        });
        match committed.await {
            Ok(answer) if answer.succeeded() => Ok(revision(answer.header().map_or(0, ResponseHeader::revision))),
            Ok(_) => Err(StateError::Conflict),
            Err(failure) if failure.is_no_space() => {
                Err(transactions::settle_no_space(self, &transaction, &failure).await)
            }
            Err(failure) => Err(failure.of_write()),
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StateError> {
        Ok(self.watches.watch(prefix, from))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StateError> {
        let ttl = ttl.max(SHORTEST_LEASE);
        let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        // One whose answer is lost ends by itself.
        let granted = self.members.call_repeatedly(DEADLINE, |client| {
            let mut client = client.lease_client();
            async move { client.grant(seconds, None).await }
        });
        granted.await.map(|lease| LeaseId(lease.id())).map_err(|failure| failure.of_read())
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StateError> {
        let renewed = self.members.call_repeatedly(RENEWAL_DEADLINE, |client| {
            let mut client = client.lease_client();
            // A lease that is gone is an error of the client.
            async move { client.keep_alive(lease.0).await.map(drop) }
        });
        let renewed = tokio::time::timeout(RENEWALS_DEADLINE, renewed).await;
        match renewed.unwrap_or(Err(Failure::Late(RENEWALS_DEADLINE))) {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_lease_gone() => Err(StateError::LeaseEnded),
            Err(failure) => Err(failure.of_read()),
        }
    }

    fn leases_end_by_time(&self) -> bool {
        true
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StateError> {
        let revoked = self.members.call_repeatedly(DEADLINE, |client| {
            let mut client = client.lease_client();
            async move { client.revoke(lease.0).await }
        });
        match revoked.await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_lease_gone() => Ok(()),
            Err(failure) => Err(failure.of_write()),
        }
    }

    async fn usage(&self) -> Result<Usage, StateError> {
        maintenance::usage(&self.members).await
    }

    /// Two at the same time may leave less than most of the members to answer for a while: let one process do it, and
    /// again while there is an alarm, since members do the work in their own time.
    async fn compact(&self, before: Revision) -> Result<(), StateError> {
        maintenance::compact(&self.members, before).await
    }
}

/// How a store's keys stand in etcd: `<prefix>/<key>`.
#[derive(Clone)]
struct Keys {
    prefix: String,
}

/// Keys from `from` up to, but without, `end`.
#[derive(Clone)]
struct Range {
    from: Vec<u8>,
    end: Vec<u8>,
}

impl Keys {
    fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}/") }
    }

    fn stored(&self, key: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), key.as_bytes()].concat()
    }

    /// All keys that begin with `prefix`.
    fn below(&self, prefix: &str) -> Range {
        let from = self.stored(prefix);
        let mut end = from.clone();
        // No byte of UTF-8 is the greatest, and there is at least one.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Range { from, end }
    }

    fn key<'a>(&self, stored: &'a [u8]) -> Option<&'a str> {
        stored.strip_prefix(self.prefix.as_bytes()).and_then(|key| std::str::from_utf8(key).ok())
    }

    fn entry(&self, stored: KeyValue) -> Result<Entry, StateError> {
        let revision = revision(stored.mod_revision());
        let (stored, value) = stored.into_key_value();
        let foreign = || StateError::Damaged(format!("{:?} is no key of this store", String::from_utf8_lossy(&stored)));
        let key = self.key(&stored).ok_or_else(foreign)?.to_owned();
        Ok(Entry { key, value: value.into(), revision })
    }
}

/// The first key behind one.
fn behind(mut stored: Vec<u8>) -> Vec<u8> {
    stored.push(0);
    stored
}

fn revision_of(answer: &GetResponse) -> Revision {
    revision(answer.header().map_or(0, ResponseHeader::revision))
}

/// A revision for etcd. It has none that are greater than its own numbers.
fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// A revision of etcd, which is never negative.
fn revision(number: i64) -> Revision {
    Revision(number.unsigned_abs())
}
