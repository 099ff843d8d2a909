//! How chunks are stored in a pack.
//!
//! ```text
//! chunk chunk … chunk index
//! ```
//! A chunk is stored as zstd made it, or as it is when that is not shorter, which its stored length tells. The index
//! has hashes, lengths and stored lengths of all chunks, in their order, and is stored like a chunk. A manifest
//! names the hash of the index, so that it leads to every chunk without repeating the chunks' hashes.

use std::{collections::HashMap, io};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use workrs_core::{
    hash::ContentHash,
    manifest::{Chunk, PackIndex},
};

use super::MAX_CHUNK_BYTES;

const ZSTD_LEVEL: i32 = 1;
/// Bytes of a pack that are handed over at once.
const BATCH_BYTES: usize = 1 << 20;
/// Batches that may wait for the upload; one more fills up, and one is being written.
pub(super) const BATCHES: usize = 4;
/// The most that a chunk adds to the index of its pack.
pub(super) const ENTRY_BYTES: u64 = 40;

/// A chunk in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) hash: ContentHash,
    pub(super) len: u32,
    pub(super) offset: u64,
    pub(super) stored: u32,
}

impl Entry {
    /// Names it as what belongs at `at`.
    pub(super) fn chunk(&self, at: u64, pack: u32) -> Chunk {
        Chunk { at, len: self.len, hash: self.hash, pack, offset: self.offset, stored: self.stored }
    }
}

/// Makes chunks shorter.
pub(super) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
    /// Whether the last chunk could not be made shorter.
    is_dense: bool,
}

impl Packer {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL)?, buffer: Vec::new(), is_dense: false })
    }

    /// The bytes to store for a chunk, never more than it has.
    pub(super) fn pack<'a>(&'a mut self, chunk: &'a [u8]) -> io::Result<&'a [u8]> {
        // Dense chunks come in rows: after one, a quarter from the middle of the next tells whether to try.
        let quarter = chunk.len() / 4;
        let may_shrink = !self.is_dense || self.shrinks(&chunk[2 * quarter..3 * quarter])?;
        self.is_dense = !(may_shrink && self.shrinks(chunk)?);
        Ok(if self.is_dense { chunk } else { &self.buffer })
    }

    /// Compresses into the buffer; whether that is shorter.
    fn shrinks(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        Ok(self.zstd.compress_to_buffer(bytes, &mut self.buffer)? < bytes.len())
    }
}

/// Undoes [`Packer::pack`], and trusts no bytes.
pub(super) struct Unpacker {
    zstd: zstd::bulk::Decompressor<'static>,
    buffer: Vec<u8>,
}

impl Unpacker {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, buffer: Vec::new() })
    }

    /// The chunk that is stored so; `None` unless it is just that one.
    pub(super) fn unpack<'a>(&'a mut self, stored: &'a [u8], chunk: &Chunk) -> Option<&'a [u8]> {
        let len = chunk.len as usize;
        let bytes = if stored.len() == len {
            stored
        } else {
            self.buffer.resize(len, 0);
            let unpacked = self.zstd.decompress_to_buffer(stored, &mut self.buffer[..]).ok()?;
            &self.buffer[..unpacked]
        };
        (bytes.len() == len && ContentHash::of(bytes) == chunk.hash).then_some(bytes)
    }
}

/// The index as it is stored, and what a manifest says of it.
pub(super) fn encode_index(entries: &[Entry], packer: &mut Packer) -> io::Result<(Vec<u8>, PackIndex)> {
    let mut index = Vec::with_capacity(entries.len() * ENTRY_BYTES as usize);
    index.extend(entries.iter().flat_map(|entry| *entry.hash.as_bytes()));
    index.extend(entries.iter().flat_map(|entry| entry.len.to_le_bytes()));
    index.extend(entries.iter().flat_map(|entry| entry.stored.to_le_bytes()));
    let stored = packer.pack(&index)?.to_vec();
    let chunks = u32::try_from(entries.len()).map_err(|_| io::Error::other("a pack cannot have so many chunks"))?;
    let index = PackIndex { chunks, bytes: stored.len() as u64, hash: ContentHash::of(&stored) };
    Ok((stored, index))
}

/// The chunks of a pack; `None` unless these bytes are its index.
pub(super) fn decode_index(stored: &[u8], index: &PackIndex) -> Option<Vec<Entry>> {
    if ContentHash::of(stored) != index.hash {
        return None;
    }
    let count = index.chunks as usize;
    let len = count.checked_mul(ENTRY_BYTES as usize)?;
    let bytes = if stored.len() == len { stored.to_vec() } else { zstd::bulk::decompress(stored, len).ok()? };
    if bytes.len() != len {
        return None;
    }
    let (hashes, numbers) = bytes.split_at(count * 32);
    let (lens, storeds) = numbers.split_at(count * 4);
    let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
    let mut entries = Vec::with_capacity(count);
    let mut offset = 0u64;
    for ((hash, len), stored) in hashes.chunks_exact(32).zip(lens.chunks_exact(4)).zip(storeds.chunks_exact(4)) {
        let (len, stored) = (number(len)?, number(stored)?);
        if !is_possible(len, stored) {
            return None;
        }
        entries.push(Entry { hash: ContentHash::from_bytes(hash.try_into().ok()?), len, offset, stored });
        offset += u64::from(stored);
    }
    Some(entries)
}

/// Whether a chunk can have these lengths.
pub(super) fn is_possible(len: u32, stored: u32) -> bool {
    (1..=MAX_CHUNK_BYTES).contains(&len) && (1..=len).contains(&stored)
}

/// Packs chunks, each once, and hands them over in batches.
pub(super) struct PackWriter {
    batches: mpsc::Sender<Bytes>,
    batch: BytesMut,
    packer: Packer,
    offset: u64,
    entries: Vec<Entry>,
    /// The chunks in the pack, by hash: index into `entries`.
    stored: HashMap<ContentHash, u32>,
}

impl PackWriter {
    pub(super) fn new(batches: mpsc::Sender<Bytes>) -> io::Result<Self> {
        let (batch, packer) = (BytesMut::new(), Packer::new()?);
        Ok(Self { batches, batch, packer, offset: 0, entries: Vec::new(), stored: HashMap::new() })
    }

    pub(super) fn store(&mut self, hash: ContentHash, chunk: &[u8]) -> io::Result<()> {
        if self.stored.contains_key(&hash) {
            return Ok(());
        }
        let packed = self.packer.pack(chunk)?;
        self.batch.extend_from_slice(packed);
        let entry = Entry { hash, len: chunk.len() as u32, offset: self.offset, stored: packed.len() as u32 };
        self.offset += u64::from(entry.stored);
        self.stored.insert(hash, self.entries.len() as u32);
        self.entries.push(entry);
        if self.batch.len() >= BATCH_BYTES { self.hand_over() } else { Ok(()) }
    }

    /// Adds the index, unless there is no chunk: then there is no pack.
    pub(super) fn finish(&mut self) -> io::Result<Option<PackIndex>> {
        if self.entries.is_empty() {
            return Ok(None);
        }
        let (stored, index) = encode_index(&self.entries, &mut self.packer)?;
        self.batch.extend_from_slice(&stored);
        self.hand_over()?;
        Ok(Some(index))
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let next = BytesMut::with_capacity(BATCH_BYTES + BATCH_BYTES / 16);
        let batch = std::mem::replace(&mut self.batch, next).freeze();
        self.batches.blocking_send(batch).map_err(|_| unwanted())
    }

    /// An error once nobody takes the pack any more.
    pub(super) fn check_wanted(&self) -> io::Result<()> {
        if self.batches.is_closed() { Err(unwanted()) } else { Ok(()) }
    }

    /// What the chunks so far cost, with their entries in the index.
    pub(super) fn cost(&self) -> u64 {
        self.offset + self.entries.len() as u64 * ENTRY_BYTES
    }

    /// Where the chunks end so far.
    pub(super) fn chunks_end(&self) -> u64 {
        self.offset
    }

    pub(super) fn find(&self, hash: &ContentHash) -> Option<Entry> {
        self.stored.get(hash).map(|number| self.entries[*number as usize])
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}

fn unwanted() -> io::Error {
    io::Error::other("the upload ended early")
}
