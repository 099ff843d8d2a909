//! Whether what lies in packs is still what was written: a new pack is read back, an old one now and then.

use std::{collections::HashSet, io};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use workrs_core::{hash::ContentHash, manifest::Manifest};

use super::{
    Base, CheckpointError, Checkpoints,
    background::background,
    pack::{self, Entry, Unpacker},
    plan::{self, Piece, Read},
};
use crate::blobs::BlobError;

/// Reads at once, of up to 8 MiB each.
const READS_AT_ONCE: usize = 2;

impl Checkpoints {
    /// Reads the newest pack of a manifest back, which has these chunks; any that is damaged is an error.
    pub(super) async fn read_back(&self, manifest: &Manifest, entries: Vec<Entry>) -> Result<(), CheckpointError> {
        let newest = manifest.packs.len() - 1;
        let pieces = entries.iter().map(|entry| Piece { chunk: entry.chunk(0, newest as u32), target: 0 });
        let reads = plan::coalesce(pieces.collect(), &manifest.packs);
        let is_sound = self.has_index(manifest, newest).await? && self.damaged_in(reads).await?.is_empty();
        if is_sound { Ok(()) } else { Err(BlobError::Mismatch(manifest.packs[newest].clone()).into()) }
    }

    /// Reads one pack of the base, another one each time. What is damaged of the chunks that the base needs of it is
    /// stored anew with the next checkpoint; gives the number of such chunks.
    pub async fn recheck(&self, base: &mut Base) -> Result<usize, BlobError> {
        let Some(pack) = base.next_to_check() else { return Ok(0) };
        let manifest = &base.manifest;
        let chunks = manifest.contents().flat_map(|content| &content.chunks);
        let chunks = chunks.filter(|chunk| chunk.pack as usize == pack && !base.damaged.contains(&chunk.hash));
        let mut seen = HashSet::new();
        let pieces: Vec<_> =
            chunks.filter(|chunk| seen.insert(chunk.hash)).map(|chunk| Piece { chunk: *chunk, target: 0 }).collect();
        let damaged = if self.has_index(manifest, pack).await? {
            self.damaged_in(plan::coalesce(pieces, &manifest.packs)).await?
        } else {
            // Without its index nothing in the pack can be found.
            pieces.iter().map(|piece| piece.chunk.hash).collect()
        };
        let name = manifest.packs[pack].clone();
        if !damaged.is_empty() {
            tracing::warn!(pack = name, chunks = damaged.len(), "damaged chunks will be stored anew");
        }
        let count = damaged.len();
        base.damaged.extend(damaged);
        base.checked.insert(name);
        Ok(count)
    }

    /// Whether a pack has the index that the manifest names. In old manifests it names none.
    async fn has_index(&self, manifest: &Manifest, pack: usize) -> Result<bool, BlobError> {
        let Some((index, start)) = manifest.pack_indexes.get(pack).zip(manifest.chunks_end(pack)) else {
            return Ok(true);
        };
        match self.blobs.get_range(&manifest.packs[pack], start..start + index.bytes).await {
            Ok(bytes) => Ok(pack::decode_index(&bytes, index).is_some()),
            Err(BlobError::Missing(_) | BlobError::Mismatch(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The hashes of the chunks that these reads do not bring.
    async fn damaged_in(&self, reads: Vec<Read>) -> Result<Vec<ContentHash>, BlobError> {
        let check = |read: Read| async move {
            match self.blobs.get_range(&read.pack, read.range.clone()).await {
                Ok(bytes) => {
                    let damaged = background(move || damaged(&read, &bytes).map_err(|error| error.to_string()));
                    damaged.await.flatten().map_err(BlobError::Unavailable)
                }
                Err(BlobError::Missing(_) | BlobError::Mismatch(_)) => {
                    Ok(read.pieces.iter().map(|piece| piece.chunk.hash).collect())
                }
                Err(error) => Err(error),
            }
        };
        let damaged: Vec<Vec<_>> =
            futures::stream::iter(reads).map(check).buffered(READS_AT_ONCE).try_collect().await?;
        Ok(damaged.concat())
    }
}

fn damaged(read: &Read, bytes: &Bytes) -> io::Result<Vec<ContentHash>> {
    let mut unpacker = Unpacker::new()?;
    let pieces = read.pieces.iter().map(|piece| &piece.chunk);
    let damaged = pieces.filter(|chunk| unpacker.unpack(read.stored(chunk, bytes), chunk).is_none());
    Ok(damaged.map(|chunk| chunk.hash).collect())
}
