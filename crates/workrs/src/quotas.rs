//! Quotas of owners in the state store: what they are, and what the owners have.
//!
//! They are known on each node by a copy that is read anew when somebody asks and it is older than [`STALE`]: so a new quota
//! counts everywhere within that time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};
use workrs_core::{
    id::Owner,
    index::{self, JobNote},
    keys::{self, QueueEntry},
    quota::{Quota, Running, Share},
};
use workrs_store::{
    envelope::Envelope,
    fresh,
    records::{RecordError, Records},
    state::{Change, StateError, StateStore, Transaction},
    values,
};

/// How old what is known of quotas, and of what waits, may be.
pub const STALE: Duration = Duration::from_secs(1);
const PAGE: usize = 500;
/// Tries of a change while its answers are lost.
const TRIES: u32 = 5;

/// Whose quota one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// One owner's.
    One(Owner),
    /// That of everybody who has none of their own.
    Others,
}

impl Whose {
    fn key(&self) -> String {
        match self {
            Self::One(owner) => keys::quota(owner),
            Self::Others => keys::QUOTA_OF_OTHERS.to_owned(),
        }
    }
}

/// All quotas, by their keys.
type Known = Arc<BTreeMap<String, Quota>>;

/// The quotas of a group.
pub struct Quotas {
    store: Arc<dyn StateStore>,
    known: Mutex<Option<(Instant, Known)>>,
    /// How many jobs of each owner wait.
    queued: Mutex<Option<(Instant, BTreeMap<Owner, u32>)>>,
    /// What the jobs of owners have in blobs.
    stored: Mutex<BTreeMap<Owner, (Instant, u64)>>,
}

impl Quotas {
    /// Those in `store`.
    pub fn new(store: Arc<dyn StateStore>) -> Self {
        Self { store, known: Mutex::new(None), queued: Mutex::new(None), stored: Mutex::default() }
    }

    /// The quota that counts for an owner: their own, or that of all others.
    pub async fn of(&self, owner: &Owner) -> Result<Option<Quota>, StateError> {
        let known = self.known().await?;
        Ok(known.get(&keys::quota(owner)).or_else(|| known.get(keys::QUOTA_OF_OTHERS)).cloned())
    }

    /// The quota that was set, as it stands now.
    pub async fn get(&self, whose: &Whose) -> Result<Option<Quota>, StateError> {
        values::read(&self.store, &whose.key()).await
    }

    /// All quotas that were set, as they stand now.
    pub async fn list(&self) -> Result<Vec<(Whose, Quota)>, StateError> {
        *self.known.lock().await = None;
        let known = self.known().await?;
        let whose = |key: &str| match key.strip_prefix(keys::QUOTAS) {
            Some(owner) => Owner::new(owner).ok().map(Whose::One),
            None => Some(Whose::Others),
        };
        Ok(known.iter().filter_map(|(key, quota)| Some((whose(key)?, quota.clone()))).collect())
    }

    /// Sets a quota, or takes it away.
    pub async fn set(&self, whose: &Whose, quota: Option<&Quota>) -> Result<(), StateError> {
        let key = whose.key();
        let change = match quota {
            Some(quota) => Change::Put(key.clone(), Envelope::new("", quota, fresh::operation()).encode(&key), None),
            None => Change::Delete(key),
        };
        let transaction = Transaction { conditions: Vec::new(), changes: vec![change] };
        let mut tries = 0;
        let set = loop {
            tries += 1;
            match self.store.commit(transaction.clone()).await {
                // To set the same twice does no harm.
                Err(StateError::Unknown(_)) if tries < TRIES => {}
                set => break set.map(drop),
            }
        };
        *self.known.lock().await = None;
        set
    }

    /// How many jobs of the owner wait, as of at most [`STALE`] ago. It takes a look at the whole queue, so it is asked for
    /// owners with a limit alone.
    pub async fn queued(&self, owner: &Owner) -> Result<u32, StateError> {
        let mut queued = self.queued.lock().await;
        if queued.as_ref().is_none_or(|(at, _)| at.elapsed() >= STALE) {
            let at = Instant::now();
            let mut counts = BTreeMap::new();
            for (_, value) in list(&*self.store, keys::QUEUE).await? {
                // Entries of earlier versions say nothing of their owners.
                if let Some(owner) = serde_json::from_slice::<QueueEntry>(&value).ok().and_then(|entry| entry.owner) {
                    *counts.entry(owner).or_insert(0) += 1;
                }
            }
            *queued = Some((at, counts));
        }
        Ok(queued.as_ref().and_then(|(_, counts)| counts.get(owner)).copied().unwrap_or(0))
    }

    /// What the owner's jobs have in blobs, as far as their records know, as of at most [`STALE`] ago. It takes a look at all
    /// of their jobs, so it is asked for owners with a limit alone.
    pub async fn stored(&self, records: &Records, owner: &Owner) -> Result<u64, RecordError> {
        let mut stored = self.stored.lock().await;
        if let Some((_, bytes)) = stored.get(owner).filter(|(at, _)| at.elapsed() < STALE) {
            return Ok(*bytes);
        }
        let at = Instant::now();
        let mut bytes = 0_u64;
        for (key, value) in list(&*self.store, &keys::owned(owner)).await? {
            // Of jobs that have ended the key says it, of others their record.
            let known = index::read::<JobNote>(&value).and_then(|note| note.stored_bytes);
            let of_job = match (known, keys::job_of_index(&key)) {
                (Some(bytes), _) => bytes,
                (None, Some(job)) => records.get(&job).await?.map_or(0, |record| record.stored_bytes()),
                (None, None) => 0,
            };
            bytes = bytes.saturating_add(of_job);
        }
        stored.insert(owner.clone(), (at, bytes));
        Ok(bytes)
    }

    /// Counts a job that was handed over since the last look.
    pub async fn queued_one_more(&self, owner: &Owner) {
        if let Some((_, counts)) = &mut *self.queued.lock().await {
            *counts.entry(owner.clone()).or_insert(0) += 1;
        }
    }

    async fn known(&self) -> Result<Known, StateError> {
        let mut known = self.known.lock().await;
        if let Some((_, quotas)) = known.as_ref().filter(|(at, _)| at.elapsed() < STALE) {
            return Ok(Arc::clone(quotas));
        }
        let at = Instant::now();
        let mut quotas = BTreeMap::new();
        for (key, value) in list(&*self.store, keys::ALL_QUOTAS).await? {
            match Envelope::<Quota>::decode(&key, &value) {
                Ok(quota) => _ = quotas.insert(key, quota.body),
                // Nobody's jobs wait for that.
                Err(error) => tracing::error!(%error, "a quota cannot be read and does not count; set it anew"),
            }
        }
        let quotas = Arc::new(quotas);
        *known = Some((at, Arc::clone(&quotas)));
        Ok(quotas)
    }
}

/// What the owner's running jobs take, now.
pub async fn running(store: &dyn StateStore, owner: &Owner) -> Result<Running, StateError> {
    let shares = list(store, &keys::running_of(owner)).await?;
    // One that cannot be read counts as a job that takes nothing else.
    Ok(shares.iter().map(|(_, value)| serde_json::from_slice::<Share>(value).unwrap_or_default()).collect())
}

/// All entries below a prefix.
async fn list(store: &dyn StateStore, prefix: &str) -> Result<Vec<(String, bytes::Bytes)>, StateError> {
    let mut all: Vec<(String, bytes::Bytes)> = Vec::new();
    loop {
        let page = store.list(prefix, all.last().map(|(key, _)| key.as_str()), PAGE).await?;
        all.extend(page.entries.into_iter().map(|entry| (entry.key, entry.value)));
        if !page.more {
            return Ok(all);
        }
    }
}
