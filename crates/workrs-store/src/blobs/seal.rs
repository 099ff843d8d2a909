//! The form of a sealed blob, and its sealing and opening, segment by segment.
//!
//! A blob `<name>` that is sealed stands in the store as `<name>.sealed`; so a blob's content never decides how it is
//! read, and a listing tells the length of what is inside. It is a header and then segments:
//!
//! | bytes | header |
//! |---|---|
//! | 7 | `wrkseal` |
//! | 1 | version: 1 |
//! | 8 | id of the key |
//! | 19 | nonce prefix: new for each blob that is written, from the operating system's random source |
//! | 5 | the first bytes of the BLAKE3 hash of the above: it tells damage from another key |
//!
//! Each segment is 64 KiB of plaintext sealed with XChaCha20-Poly1305, and its tag of 16 bytes. The last one may be
//! shorter, and is empty only if the blob is. The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO
//! 2015) with a 32-bit counter, which opens any segment by itself:
//!
//! - nonce: prefix, number of the segment from 0 (4 bytes, big-endian), 1 for the last segment or else 0;
//! - associated data: the header, then the blob's name.
//!
//! So segments that were changed, moved, dropped or taken from another blob do not open, nor does a blob under
//! another's name. Lengths and names of blobs are not hidden.

use std::ops::Range;

use chacha20poly1305::{AeadInOut, Tag, XNonce};
use rand::{TryRng, rngs::SysRng};

use super::{
    BlobError,
    key::{BlobKey, KeyId},
};

/// Ends the stored name of a sealed blob.
pub(super) const SUFFIX: &str = ".sealed";
pub(super) const HEADER_BYTES: usize = 40;
/// Plaintext of a segment.
pub(super) const SEGMENT_BYTES: usize = 64 << 10;
/// A segment in the store.
pub(super) const SEALED_BYTES: usize = SEGMENT_BYTES + TAG_BYTES;
const TAG_BYTES: usize = 16;
const MAGIC: &[u8; 7] = b"wrkseal";
const VERSION: u8 = 1;
const KEY_ID: Range<usize> = 8..16;
const PREFIX: Range<usize> = 16..35;
const CHECK: Range<usize> = 35..HEADER_BYTES;

type Header = [u8; HEADER_BYTES];

/// One sealed blob: all that it takes to seal or open its segments.
#[derive(Debug, Clone)]
pub(super) struct Seal {
    key: BlobKey,
    name: String,
    header: Header,
}

impl Seal {
    /// Begins to seal a blob.
    pub(super) fn new(key: &BlobKey, name: &str) -> Result<Self, BlobError> {
        let mut header = [0; HEADER_BYTES];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        header[MAGIC.len()] = VERSION;
        header[KEY_ID].copy_from_slice(key.id().as_bytes());
        let drawn = SysRng.try_fill_bytes(&mut header[PREFIX]);
        drawn.map_err(|error| BlobError::Unavailable(format!("no random numbers from the system: {error}")))?;
        let check = check(&header);
        header[CHECK].copy_from_slice(&check);
        Ok(Self { key: key.clone(), name: name.to_owned(), header })
    }

    /// Begins to open the blob that has this header.
    pub(super) fn from_header(key: &BlobKey, name: &str, header: &[u8]) -> Result<Self, BlobError> {
        let header = parse(header).ok_or_else(|| BlobError::Mismatch(name.to_owned()))?;
        if header[MAGIC.len()] != VERSION {
            return Err(BlobError::Unavailable(format!(
                "blob {name} is sealed in a form that this version does not know; upgrade this node"
            )));
        }
        if key_id(&header) != key.id() {
            return Err(BlobError::Unavailable(format!(
                "blob {name} is sealed with the key {}, but this node has the key {}; give it the key of its group",
                key_id(&header),
                key.id()
            )));
        }
        Ok(Self { key: key.clone(), name: name.to_owned(), header })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Appends a sealed segment to `out`.
    pub(super) fn seal(&self, number: u64, last: bool, plain: &[u8], out: &mut Vec<u8>) -> Result<(), BlobError> {
        debug_assert!(plain.len() == SEGMENT_BYTES || last && plain.len() < SEGMENT_BYTES);
        let start = out.len();
        out.extend_from_slice(plain);
        let sealed = self.nonce(number, last).and_then(|nonce| {
            let segment = (&mut out[start..]).into();
            self.key.cipher().encrypt_inout_detached(&nonce, &self.associated_data(), segment).ok()
        });
        let tag =
            sealed.ok_or_else(|| BlobError::Unavailable(format!("blob {} is too long to be sealed", self.name)))?;
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// Appends the plaintext of a segment to `out`.
    pub(super) fn open(&self, number: u64, last: bool, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), BlobError> {
        let start = out.len();
        let opened = sealed.split_last_chunk::<TAG_BYTES>().and_then(|(text, tag)| {
            let nonce = self.nonce(number, last)?;
            out.extend_from_slice(text);
            let segment = (&mut out[start..]).into();
            let cipher = self.key.cipher();
            cipher.decrypt_inout_detached(&nonce, &self.associated_data(), segment, &Tag::from(*tag)).ok()
        });
        opened.ok_or_else(|| {
            out.truncate(start);
            BlobError::Mismatch(self.name.clone())
        })
    }

    /// The stored form of a whole blob.
    pub(super) fn seal_all(&self, plain: &[u8]) -> Result<Vec<u8>, BlobError> {
        let segments = segments(plain.len() as u64) as usize;
        let mut out = Vec::with_capacity(HEADER_BYTES + plain.len() + segments * TAG_BYTES);
        out.extend_from_slice(&self.header);
        for number in 0..segments {
            let end = plain.len().min((number + 1) * SEGMENT_BYTES);
            self.seal(number as u64, number + 1 == segments, &plain[number * SEGMENT_BYTES..end], &mut out)?;
        }
        Ok(out)
    }

    /// The plaintext of adjoining segments from number `first`; `to_end` says that the last of them is the blob's.
    pub(super) fn open_all(&self, first: u64, to_end: bool, sealed: &[u8]) -> Result<Vec<u8>, BlobError> {
        let count = sealed.len().div_ceil(SEALED_BYTES).max(1);
        let mut out = Vec::with_capacity(sealed.len());
        for index in 0..count {
            let end = sealed.len().min((index + 1) * SEALED_BYTES);
            let last = to_end && index + 1 == count;
            self.open(first + index as u64, last, &sealed[index * SEALED_BYTES..end], &mut out)?;
        }
        Ok(out)
    }

    fn nonce(&self, number: u64, last: bool) -> Option<XNonce> {
        let mut nonce = [0; 24];
        nonce[..19].copy_from_slice(&self.header[PREFIX]);
        nonce[19..23].copy_from_slice(&u32::try_from(number).ok()?.to_be_bytes());
        nonce[23] = u8::from(last);
        Some(nonce.into())
    }

    fn associated_data(&self) -> Vec<u8> {
        [&self.header, self.name.as_bytes()].concat()
    }
}

/// Which key opens the blob that has this header; `None` if it is damaged.
pub(super) fn key_needed(header: &[u8]) -> Option<KeyId> {
    parse(header).map(|header| key_id(&header))
}

/// Length of the plaintext of a sealed blob of `stored` bytes; a length that no sealed blob has gives 0 or a guess.
pub(super) fn plain_len(stored: u64) -> u64 {
    let body = stored.saturating_sub(HEADER_BYTES as u64);
    body.saturating_sub(body.div_ceil(SEALED_BYTES as u64) * TAG_BYTES as u64)
}

/// The segments that hold a range of the plaintext of a sealed blob.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cover {
    /// Number of the first.
    pub(super) first: u64,
    /// Whether the blob's last segment is among them.
    pub(super) to_end: bool,
    /// Where they lie in the stored blob.
    pub(super) stored: Range<u64>,
    /// Where the wanted bytes lie in their plaintext.
    pub(super) wanted: Range<usize>,
}

/// What to read of a blob of `stored` bytes for a range that is not empty; `None` if the blob is too short for it.
pub(super) fn cover(range: &Range<u64>, stored: u64) -> Option<Cover> {
    if range.end > plain_len(stored) {
        return None;
    }
    let (first, after) = (range.start / SEGMENT_BYTES as u64, range.end.div_ceil(SEGMENT_BYTES as u64));
    let place = |number: u64| HEADER_BYTES as u64 + number * SEALED_BYTES as u64;
    let base = first * SEGMENT_BYTES as u64;
    Some(Cover {
        first,
        to_end: place(after) >= stored,
        stored: place(first)..place(after).min(stored),
        wanted: (range.start - base) as usize..(range.end - base) as usize,
    })
}

/// Seals a blob whose length shows only when it ends, in bounded memory.
pub(super) struct Sealer {
    seal: Seal,
    /// Less than a segment, or a whole one that may be the last.
    pending: Vec<u8>,
    number: u64,
}

impl Sealer {
    pub(super) fn new(seal: Seal) -> Self {
        Self { seal, pending: Vec::new(), number: 0 }
    }

    /// Takes plaintext, and gives what can be stored already.
    pub(super) fn push(&mut self, mut plain: &[u8]) -> Result<Vec<u8>, BlobError> {
        let ready = (self.pending.len() + plain.len()) / SEGMENT_BYTES;
        let mut out = Vec::with_capacity(if ready > 0 { HEADER_BYTES + ready * SEALED_BYTES } else { 0 });
        while self.pending.len() + plain.len() > SEGMENT_BYTES {
            let (filling, rest) = plain.split_at(SEGMENT_BYTES - self.pending.len());
            plain = rest;
            if self.pending.is_empty() {
                self.emit(false, filling, &mut out)?;
            } else {
                let mut segment = std::mem::take(&mut self.pending);
                segment.extend_from_slice(filling);
                self.emit(false, &segment, &mut out)?;
                segment.clear();
                self.pending = segment;
            }
        }
        self.pending.extend_from_slice(plain);
        Ok(out)
    }

    /// Gives what is left to be stored.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, BlobError> {
        let (mut out, segment) = (Vec::new(), std::mem::take(&mut self.pending));
        self.emit(true, &segment, &mut out)?;
        Ok(out)
    }

    fn emit(&mut self, last: bool, plain: &[u8], out: &mut Vec<u8>) -> Result<(), BlobError> {
        if self.number == 0 {
            out.extend_from_slice(self.seal.header());
        }
        self.seal.seal(self.number, last, plain, out)?;
        self.number += 1;
        Ok(())
    }
}

fn segments(plain: u64) -> u64 {
    plain.div_ceil(SEGMENT_BYTES as u64).max(1)
}

fn parse(bytes: &[u8]) -> Option<Header> {
    let header: Header = bytes.try_into().ok()?;
    (header.starts_with(MAGIC) && header[CHECK] == check(&header)).then_some(header)
}

fn check(header: &Header) -> [u8; CHECK.end - CHECK.start] {
    let hash = blake3::hash(&header[..CHECK.start]);
    std::array::from_fn(|index| hash.as_bytes()[index])
}

fn key_id(header: &Header) -> KeyId {
    let mut id = [0; 8];
    id.copy_from_slice(&header[KEY_ID]);
    KeyId::from_bytes(id)
}
