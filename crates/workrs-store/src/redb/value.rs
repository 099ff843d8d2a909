//! How a value stands in the file: checksum (8 bytes), revision (8 bytes, little endian), then the bytes.
//!
//! The checksum covers key, revision and bytes, so a value that rots or turns up under another key is noticed.

use bytes::Bytes;

use crate::state::{Entry, Revision, StateError};

const CHECKSUM: usize = 8;
const HEADER: usize = 16;

/// A value as it stands in the file.
pub(super) fn encode(key: &str, revision: Revision, value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(HEADER + value.len());
    stored.extend_from_slice(&[0; CHECKSUM]);
    stored.extend_from_slice(&revision.0.to_le_bytes());
    stored.extend_from_slice(value);
    let checksum = checksum(key, &stored[CHECKSUM..]);
    stored[..CHECKSUM].copy_from_slice(&checksum);
    stored
}

/// The value of `key`, its checksum verified.
pub(super) fn decode(key: &str, stored: &[u8]) -> Result<Entry, StateError> {
    let (header, value) = stored.split_at_checked(HEADER).ok_or_else(|| damaged(key))?;
    let (sum, revision) = header.split_at(CHECKSUM);
    if sum != checksum(key, &stored[CHECKSUM..]) {
        return Err(damaged(key));
    }
    let revision = Revision(u64::from_le_bytes(revision.try_into().map_err(|_| damaged(key))?));
    Ok(Entry { key: key.to_owned(), value: Bytes::copy_from_slice(value), revision })
}

fn checksum(key: &str, rest: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key.as_bytes()).update(rest);
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM]);
    sum
}

fn damaged(key: &str) -> StateError {
    StateError::Damaged(format!("the value of {key:?} does not have its checksum"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_or_is_called_damaged() {
        let stored = encode("k", Revision(7), b"value");
        let entry = Entry { key: "k".into(), value: Bytes::from_static(b"value"), revision: Revision(7) };
        assert_eq!(decode("k", &stored), Ok(entry));
        for at in 0..stored.len() {
            let mut rotten = stored.clone();
            rotten[at] ^= 1;
            assert!(matches!(decode("k", &rotten), Err(StateError::Damaged(_))), "byte {at}");
            assert!(matches!(decode("k", &stored[..at]), Err(StateError::Damaged(_))), "cut at {at}");
        }
        assert!(matches!(decode("other", &stored), Err(StateError::Damaged(_))));
    }
}
