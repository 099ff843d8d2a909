//! A token: the text that a caller shows, and what the state says of it.
//!
//! The text is `workrs_<id>_<secret>` with a secret of 256 random bits. The state has a BLAKE3 hash of the whole text. A fast
//! hash is enough: slow ones are there for passwords, which can be guessed, and nobody guesses 256 random bits, however fast
//! each guess is checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use workrs_core::{
    hash::ContentHash,
    id::{Owner, Timestamp, TokenId},
};

use super::Role;

const PREFIX: &str = "workrs_";
const SECRET_BYTES: usize = 32;

/// What stands at a token's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenNote {
    /// Of the whole text.
    pub hash: ContentHash,
    /// Who shows it.
    pub owner: Owner,
    /// What they may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: Owner,
    /// From when on it counts no more, by the clock of the node that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// Whether a token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// It does.
    Valid,
    /// It did until its time was over.
    Expired,
    /// It did until somebody took it back.
    Revoked,
}

impl TokenNote {
    /// Whether it counts at `now`.
    pub fn state(&self, now: Timestamp) -> TokenState {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => TokenState::Revoked,
            (None, Some(expires_at)) if expires_at <= now => TokenState::Expired,
            _ => TokenState::Valid,
        }
    }
}

/// The text of a new token.
pub(super) fn draw(id: &TokenId) -> String {
    format!("{PREFIX}{id}_{}", hex(&rand::random::<[u8; SECRET_BYTES]>()))
}

/// The id in a text that has the form of a token.
pub(super) fn id_of(text: &str) -> Option<TokenId> {
    let (id, secret) = text.strip_prefix(PREFIX)?.rsplit_once('_')?;
    let is_secret = secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
    TokenId::new(id).ok().filter(|_| is_secret)
}

/// Whether `text` has this hash; the time that this takes tells nothing of where the two differ.
pub(super) fn has_hash(text: &str, hash: &ContentHash) -> bool {
    // `blake3::Hash` compares in constant time, arrays do not.
    blake3::hash(text.as_bytes()) == blake3::Hash::from_bytes(*hash.as_bytes())
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_id_and_nothing_else_does() {
        let id = TokenId::new("01k8").unwrap();
        let text = draw(&id);
        assert_eq!(id_of(&text), Some(id.clone()));
        assert_ne!(text, draw(&id));
        assert!(has_hash(&text, &ContentHash::of(text.as_bytes())));
        assert!(!has_hash(&text[1..], &ContentHash::of(text.as_bytes())));
        let cut = &text[..text.len() - 1];
        for other in ["", "workrs_", "workrs__", "s3cret", "workrs_a_b", cut, &format!("{cut}x"), &text[1..]] {
            assert_eq!(id_of(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_is_revoked_is_not_said_to_be_expired() {
        let at = Timestamp::from_millis;
        let note = |expires_at: Option<u64>, revoked_at: Option<u64>| TokenNote {
            hash: ContentHash::of(b""),
            owner: Owner::new("ann").unwrap(),
            role: Role::User,
            created_at: at(0),
            created_by: Owner::new("ann").unwrap(),
            expires_at: expires_at.map(at),
            revoked_at: revoked_at.map(at),
            unknown: BTreeMap::new(),
        };
        assert_eq!(note(None, None).state(at(u64::MAX)), TokenState::Valid);
        assert_eq!(note(Some(5), None).state(at(4)), TokenState::Valid);
        assert_eq!(note(Some(5), None).state(at(5)), TokenState::Expired);
        assert_eq!(note(Some(5), Some(3)).state(at(9)), TokenState::Revoked);
    }
}
