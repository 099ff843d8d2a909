//! The group's tokens: made and revoked in the state store, and known on each node by a copy that is read anew when
//! somebody asks and it is older than [`STALE`].
//!
//! All are read at once: a group has few, and so it costs the same however many wrong ones are tried. They are never deleted:
//! a group that had a token once wants one for ever, and who shows an old one is told what became of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};
use workrs_core::{
    hash::ContentHash,
    id::{Owner, Timestamp, TokenId},
    keys,
};
use workrs_store::{
    envelope::Envelope,
    fresh,
    state::{Change, StateError, StateStore, Transaction},
    values,
};

use super::{
    Role,
    token::{TokenNote, TokenState, draw, has_hash, id_of},
};

/// A token that was revoked is let in for so long at most.
pub const STALE: Duration = Duration::from_secs(1);
/// A token that is not known may have been made on another node a moment ago: the copy has to be this new to say no.
const STALE_TO_REFUSE: Duration = Duration::from_millis(100);
/// How long the store may take to tell.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const PAGE: usize = 500;
/// Tries to write a new token while the answers are lost.
const TRIES: u32 = 5;

/// What a token is to allow, and to whom.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Who will show it.
    pub owner: Owner,
    /// What they may do.
    pub role: Role,
    /// For how long it counts; for ever if nothing is said.
    pub lasts: Option<Duration>,
    /// Who makes it.
    pub created_by: Owner,
}

/// A token that was not made or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// From the first token on everybody needs one, and only admins make more.
    #[error(
        "the group's first token has to be an admin's: from then on every request needs a token, and only an admin can make more"
    )]
    FirstIsNoAdmin,
    /// Nobody could make tokens any more.
    #[error("it is the last token of an admin that counts; without one nobody could make or revoke tokens")]
    LastAdmin,
    /// There is none of this id.
    #[error("the group has no token {0}")]
    Unknown(TokenId),
    /// The store.
    #[error(transparent)]
    State(#[from] StateError),
}

/// All tokens, as they were read.
type Notes = Arc<BTreeMap<TokenId, TokenNote>>;

/// What was last read, and when.
type Known = (Instant, Result<Notes, StateError>);

/// The tokens of a group.
pub struct Tokens {
    store: Arc<dyn StateStore>,
    known: Mutex<Option<Known>>,
}

impl Tokens {
    /// Those in `store`.
    pub fn new(store: Arc<dyn StateStore>) -> Self {
        Self { store, known: Mutex::new(None) }
    }

    /// Whether there is any; one that counts no more is one, too.
    pub async fn are_used(&self) -> Result<bool, StateError> {
        Ok(!self.known(STALE).await?.is_empty())
    }

    /// What is known of the token whose text this is, and whether it counts.
    pub async fn find(&self, text: &str) -> Result<Option<(TokenId, TokenNote, TokenState)>, StateError> {
        let Some(id) = id_of(text) else { return Ok(None) };
        let mut notes = self.known(STALE).await?;
        if !notes.contains_key(&id) {
            notes = self.known(STALE_TO_REFUSE).await?;
        }
        let Some(note) = notes.get(&id).filter(|note| has_hash(text, &note.hash)) else { return Ok(None) };
        Ok(Some((id, note.clone(), note.state(fresh::now()))))
    }

    /// What is known of a token.
    pub async fn get(&self, id: &TokenId) -> Result<Option<TokenNote>, StateError> {
        Ok(self.known(STALE).await?.get(id).cloned())
    }

    /// All tokens, the oldest first.
    pub async fn list(&self) -> Result<Vec<(TokenId, TokenNote)>, StateError> {
        let notes = self.known(Duration::ZERO).await?;
        Ok(notes.iter().map(|(id, note)| (id.clone(), note.clone())).collect())
    }

    /// Makes a token, and gives its text, which is known nowhere else. `locked` says that nobody could get in without an
    /// admin's token.
    pub async fn create(&self, new: NewToken, locked: bool) -> Result<(TokenId, TokenNote, String), TokenError> {
        let notes = self.known(Duration::ZERO).await?;
        if locked && new.role != Role::Admin && !has_admin(&notes, fresh::now()) {
            return Err(TokenError::FirstIsNoAdmin);
        }
        let id = TokenId::new(fresh::id()).expect("a generated id is a name");
        let text = draw(&id);
        let now = fresh::now();
        let expires_at = new.lasts.map(|lasts| {
            Timestamp::from_millis(now.as_millis().saturating_add(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX)))
        });
        let note = TokenNote {
            hash: ContentHash::of(text.as_bytes()),
            owner: new.owner,
            role: new.role,
            created_at: now,
            created_by: new.created_by.clone(),
            expires_at,
            revoked_at: None,
            unknown: BTreeMap::new(),
        };
        self.put_new(&id, &note).await?;
        self.forget().await;
        Ok((id, note, text))
    }

    /// Revokes a token; to ask twice is to ask once. `locked` as in [`create`](Self::create).
    pub async fn revoke(&self, id: &TokenId, locked: bool) -> Result<TokenNote, TokenError> {
        let notes = self.known(Duration::ZERO).await?;
        let note = notes.get(id).ok_or_else(|| TokenError::Unknown(id.clone()))?;
        let now = fresh::now();
        if locked && note.role == Role::Admin && note.state(now) == TokenState::Valid {
            let mut others = (*notes).clone();
            others.remove(id);
            if !has_admin(&others, now) {
                return Err(TokenError::LastAdmin);
            }
        }
        let revoke = |known: Option<&TokenNote>| {
            let known = known.filter(|known| known.revoked_at.is_none())?;
            Some(TokenNote { revoked_at: Some(now), ..known.clone() })
        };
        values::update(&self.store, &keys::token(id), note.owner.as_str(), revoke).await?;
        self.forget().await;
        Ok(TokenNote { revoked_at: note.revoked_at.or(Some(now)), ..note.clone() })
    }

    async fn put_new(&self, id: &TokenId, note: &TokenNote) -> Result<(), StateError> {
        let key = keys::token(id);
        let value = Envelope::new(note.owner.as_str(), note, fresh::operation()).encode(&key);
        // Nobody else knows the id: to write the same twice does no harm.
        let put = Transaction { conditions: Vec::new(), changes: vec![Change::Put(key, value, None)] };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.store.commit(put.clone()).await {
                Ok(_) => return Ok(()),
                Err(StateError::Unknown(_)) if tries < TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn forget(&self) {
        *self.known.lock().await = None;
    }

    /// All tokens as they stood at most `stale` ago. Whoever asks meanwhile waits for the same answer, also if it is none.
    async fn known(&self, stale: Duration) -> Result<Notes, StateError> {
        let mut known = self.known.lock().await;
        match known.as_ref() {
            Some((at, Ok(notes))) if at.elapsed() < stale => return Ok(Arc::clone(notes)),
            Some((at, Err(error))) if at.elapsed() < STALE => return Err(error.clone()),
            _ => {}
        }
        let began = Instant::now();
        let read = tokio::time::timeout(ANSWER_WITHIN, self.read()).await;
        let notes =
            read.unwrap_or_else(|_| Err(StateError::Unavailable("it does not answer".to_owned()))).map(Arc::new);
        // What was read tells how things stood when that began, or later.
        let at = if notes.is_ok() { began } else { Instant::now() };
        *known = Some((at, notes.clone()));
        notes
    }

    async fn read(&self) -> Result<BTreeMap<TokenId, TokenNote>, StateError> {
        let mut notes = BTreeMap::new();
        let mut after = keys::TOKENS.to_owned();
        loop {
            let some = values::read_some::<TokenNote>(&self.store, keys::TOKENS, &after, PAGE).await?;
            let (is_last, last) = (some.len() < PAGE, some.last().map(|(key, _)| key.clone()));
            for (key, note) in some {
                let damaged = || StateError::Damaged(format!("{key:?} does not name a token"));
                let id = key.strip_prefix(keys::TOKENS).and_then(|id| TokenId::new(id).ok()).ok_or_else(damaged)?;
                notes.insert(id, note);
            }
            match last {
                Some(last) if !is_last => after = last,
                _ => return Ok(notes),
            }
        }
    }
}

fn has_admin(notes: &BTreeMap<TokenId, TokenNote>, now: Timestamp) -> bool {
    notes.values().any(|note| note.role == Role::Admin && note.state(now) == TokenState::Valid)
}
