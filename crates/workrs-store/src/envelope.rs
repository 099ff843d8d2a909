//! How a value stands in a state store: one line of JSON that begins with a checksum over key and rest.
//!
//! ```text
//! {"checksum":"0123456789abcdef","version":1,"operations":["…"],"owner":"…","body":{…}}
//! ```
//! The ids of the last eight operations that wrote the value let a writer whose answer was lost find out whether
//! its write was applied. The checksum covers the very bytes behind it, so nothing depends on how JSON is written.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use workrs_core::id::OperationId;

/// The version of the envelope's form that this code writes.
pub const ENVELOPE_VERSION: u32 = 1;
/// Operations that an envelope remembers.
pub const REMEMBERED_OPERATIONS: usize = 8;

const CHECKSUM_DIGITS: usize = 16;
const PREFIX: &str = "{\"checksum\":\"";
const INFIX: &str = "\",";

/// A value with what the store's users need to know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`ENVELOPE_VERSION`].
    pub version: u32,
    /// Who wrote the value last, newest at the end, at most [`REMEMBERED_OPERATIONS`].
    pub operations: Vec<OperationId>,
    /// Whose value this is.
    pub owner: String,
    /// The value.
    pub body: T,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// A value that cannot be what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEnvelope {
    /// Bit rot, or not written by this project.
    #[error("the value of {0:?} does not have its checksum")]
    Checksum(String),
    /// Written by a newer version.
    #[error("the value of {0:?} has version {1}, this version reads {ENVELOPE_VERSION}")]
    Version(String, u32),
    /// Not what was expected there.
    #[error("the value of {0:?} cannot be read: {1}")]
    Body(String, String),
}

impl<T> Envelope<T> {
    /// A new value, written by `operation`.
    pub fn new(owner: impl Into<String>, body: T, operation: OperationId) -> Self {
        let unknown = BTreeMap::new();
        Self { version: ENVELOPE_VERSION, operations: vec![operation], owner: owner.into(), body, unknown }
    }

    /// The next value at the same key, perhaps of another kind, written by `operation`.
    #[must_use]
    pub fn succeeded_by<U>(&self, body: U, operation: OperationId) -> Envelope<U> {
        let mut operations = self.operations.clone();
        operations.retain(|known| *known != operation);
        operations.push(operation);
        operations.drain(..operations.len().saturating_sub(REMEMBERED_OPERATIONS));
        let (owner, unknown) = (self.owner.clone(), self.unknown.clone());
        Envelope { version: ENVELOPE_VERSION, operations, owner, body, unknown }
    }

    /// Whether `operation` is among the last that wrote the value.
    pub fn written_by(&self, operation: &OperationId) -> bool {
        self.operations.contains(operation)
    }
}

impl<T: Serialize> Envelope<T> {
    /// The bytes to put at `key`.
    pub fn encode(&self, key: &str) -> Bytes {
        let json = serde_json::to_string(self).expect("records have no map keys but strings");
        let rest = &json[1..];
        Bytes::from(format!("{PREFIX}{}{INFIX}{rest}", checksum(key, rest.as_bytes())))
    }
}

impl<T: DeserializeOwned> Envelope<T> {
    /// Reads what stands at `key`, its checksum verified.
    pub fn decode(key: &str, value: &[u8]) -> Result<Self, InvalidEnvelope> {
        let rest = verified(key, value).ok_or_else(|| InvalidEnvelope::Checksum(key.to_owned()))?;
        let json = [b"{", rest].concat();
        let invalid = |error: serde_json::Error| InvalidEnvelope::Body(key.to_owned(), error.to_string());
        let version: VersionOnly = serde_json::from_slice(&json).map_err(invalid)?;
        if version.version != ENVELOPE_VERSION {
            return Err(InvalidEnvelope::Version(key.to_owned(), version.version));
        }
        serde_json::from_slice(&json).map_err(invalid)
    }
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// What the checksum covers, if it is right.
fn verified<'a>(key: &str, value: &'a [u8]) -> Option<&'a [u8]> {
    let (digits, rest) = value.strip_prefix(PREFIX.as_bytes())?.split_at_checked(CHECKSUM_DIGITS)?;
    let rest = rest.strip_prefix(INFIX.as_bytes())?;
    (digits == checksum(key, rest).as_bytes()).then_some(rest)
}

fn checksum(key: &str, rest: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key.as_bytes()).update(rest);
    hasher.finalize().to_hex()[..CHECKSUM_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(number: usize) -> OperationId {
        OperationId::new(format!("op-{number}")).unwrap()
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let envelope = Envelope::new("me", serde_json::json!({"a": 0.1, "b": [1, 2]}), operation(1));
        let value = envelope.encode("k");
        assert_eq!(Envelope::decode("k", &value), Ok(envelope));
        assert!(serde_json::from_slice::<serde_json::Value>(&value).is_ok(), "a value is JSON as a whole");
        for bit in 0..value.len() * 8 {
            let mut rotten = value.to_vec();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(Envelope::<serde_json::Value>::decode("k", &rotten).is_err(), "bit {bit}");
        }
        for end in 0..value.len() {
            assert!(Envelope::<serde_json::Value>::decode("k", &value[..end]).is_err(), "cut at {end}");
        }
        assert!(Envelope::<serde_json::Value>::decode("other", &value).is_err());
    }

    #[test]
    fn the_last_eight_writers_are_remembered_and_unknown_fields_kept() {
        let mut envelope = Envelope::new("me", 0, operation(0));
        envelope.unknown.insert("later".into(), true.into());
        for number in 1..10 {
            envelope = envelope.succeeded_by(number, operation(number));
        }
        let envelope: Envelope<usize> = Envelope::decode("k", &envelope.encode("k")).unwrap();
        assert_eq!(envelope.operations, (2..10).map(operation).collect::<Vec<_>>());
        assert!(!envelope.written_by(&operation(1)));
        assert_eq!(envelope.unknown["later"], true);
    }

    #[test]
    fn a_newer_form_is_refused_by_its_version() {
        let mut envelope = Envelope::new("me", 1, operation(0));
        envelope.version = 2;
        let refused = Envelope::<String>::decode("k", &envelope.encode("k"));
        assert_eq!(refused, Err(InvalidEnvelope::Version("k".into(), 2)));
    }
}
