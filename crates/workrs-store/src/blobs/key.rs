//! The key that blobs are sealed with; it comes from outside and is never stored.

use std::{fmt, sync::Arc};

use chacha20poly1305::{KeyInit, XChaCha20Poly1305};

/// Contexts of BLAKE3's key derivation: neither output tells anything about the key or about the other.
const SEALING_CONTEXT: &str = "workrs blob sealing key v1";
const ID_CONTEXT: &str = "workrs blob key id v1";

/// Seals and opens blobs. All nodes of a group need the same one.
#[derive(Clone)]
pub struct BlobKey {
    /// Overwrites its key when it is dropped.
    cipher: Arc<XChaCha20Poly1305>,
    id: KeyId,
}

/// Tells keys apart without disclosing them: people may see it, and each sealed blob carries it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; 8]);

/// A text that is no key. It does not quote the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a blob key is 32 bytes, written as 64 hex digits or in base64, which this is not; \
     `openssl rand -hex 32` makes one"
)]
pub struct InvalidKey;

impl BlobKey {
    /// Takes 64 hex digits, or 32 bytes in base64 (either alphabet, padded or not); space around them is ignored.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let text = text.trim();
        let hex = blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes());
        Ok(Self::new(&hex.or_else(|| from_base64(text)).ok_or(InvalidKey)?))
    }

    fn new(key: &[u8; 32]) -> Self {
        let mut id = KeyId([0; 8]);
        id.0.copy_from_slice(&blake3::derive_key(ID_CONTEXT, key)[..8]);
        Self { cipher: Arc::new(XChaCha20Poly1305::new(&blake3::derive_key(SEALING_CONTEXT, key).into())), id }
    }

    /// Which key this is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn cipher(&self) -> &XChaCha20Poly1305 {
        &self.cipher
    }
}

impl PartialEq for BlobKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for BlobKey {}

impl fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobKey(id {})", self.id)
    }
}

impl KeyId {
    pub(super) fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

fn from_base64(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_suffix('=').unwrap_or(text).as_bytes();
    // 32 bytes are 42 digits of 6 bits and one whose last two bits are zero.
    if digits.len() != 43 {
        return None;
    }
    let (mut bytes, mut filled) = ([0; 32], 0);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes[filled] = (bits >> count) as u8;
            filled += 1;
        }
    }
    (bits & 0b11 == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes 0 to 31, by `openssl base64`.
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn hex_and_base64_give_the_same_key() {
        let key = BlobKey::parse(HEX).unwrap();
        for text in [&HEX.to_uppercase(), &format!(" {HEX}\n"), BASE64, &format!("\t{}\r\n", &BASE64[..43])] {
            assert_eq!(BlobKey::parse(text), Ok(key.clone()), "{text:?}");
        }
        let ones = |digit: &str| BlobKey::parse(&format!("{}8", digit.repeat(42))).unwrap();
        assert_eq!(ones("_"), ones("/"), "both alphabets");
        assert_eq!(ones("-"), ones("+"), "both alphabets");
        assert_ne!(ones("-"), ones("_"));
    }

    #[test]
    fn anything_else_is_refused_with_a_hint_and_without_the_text() {
        for text in ["", "secret", &HEX[1..], &format!("{HEX}0"), &HEX.replace('f', "g"), &BASE64[1..], &"A".repeat(45)]
        {
            let error = BlobKey::parse(text).unwrap_err().to_string();
            assert!(error.contains("`openssl rand -hex 32`") && !error.contains("secret"), "{error}");
        }
        let stray_bits = format!("{}9=", &BASE64[..42]);
        assert_eq!(BlobKey::parse(&stray_bits), Err(InvalidKey), "one key has one text");
    }

    #[test]
    fn nothing_that_is_shown_is_the_key() {
        let key = BlobKey::parse(HEX).unwrap();
        let shown = format!("{key:?} {:?} {}", key.id(), key.id());
        assert!(shown.contains(&key.id().to_string()));
        assert!(!shown.contains("0001") && !shown.contains("1e1f"), "{shown}");
        assert_ne!(key, BlobKey::parse(&HEX.replace("1f", "1e")).unwrap());
    }
}
