//! What a fetch has to read, and where it belongs: pure.

use std::{collections::HashSet, ops::Range};

use workrs_core::{
    hash::ContentHash,
    job::CheckpointId,
    keys::BlobNames,
    manifest::{Content, Manifest, Part},
};

use super::{FetchError, MAX_CHUNK_BYTES};

/// Bytes of one read.
pub(super) const MAX_READ_BYTES: u64 = 8 << 20;
/// Bytes between two chunks that are read along instead of making a read of their own.
const MAX_GAP_BYTES: u64 = 128 << 10;

/// A file to be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its path below the folder of the fetch: `part` or `part/file`.
    pub(super) path: String,
    pub(super) len: u64,
}

/// A chunk and one place where its bytes belong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    pub(super) pack: u32,
    /// Where its stored bytes lie in the pack.
    pub(super) offset: u64,
    pub(super) stored: u32,
    pub(super) hash: ContentHash,
    pub(super) len: u32,
    /// Index into [`Plan::targets`].
    pub(super) target: usize,
    pub(super) at: u64,
}

/// One read of a pack, and the pieces that it brings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) pack: String,
    pub(super) range: Range<u64>,
    pub(super) pieces: Vec<Piece>,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) folders: Vec<String>,
    pub(super) targets: Vec<Target>,
    pub(super) reads: Vec<Read>,
}

impl Plan {
    /// Checks a manifest and plans its fetch.
    pub(super) fn new(manifest: &Manifest, names: &BlobNames<'_>, id: CheckpointId) -> Result<Self, FetchError> {
        manifest.validate(names.0, id).map_err(|error| FetchError::Bad(error.to_string()))?;
        let prefix = names.checkpoints();
        if let Some(pack) = manifest.packs.iter().find(|pack| !pack.starts_with(&prefix)) {
            return Err(FetchError::Bad(format!("pack {pack:?} is not of this job")));
        }
        let mut plan = Self { folders: Vec::new(), targets: Vec::new(), reads: Vec::new() };
        let mut pieces = Vec::new();
        for part in &manifest.parts {
            match part {
                Part::Image { name, content } => plan.add(name.clone(), content, &mut pieces)?,
                Part::Folder { name, files } => {
                    plan.folders.push(name.clone());
                    for file in files {
                        plan.add(format!("{name}/{}", file.name), &file.content, &mut pieces)?;
                    }
                }
            }
        }
        let mut paths = HashSet::new();
        let all = plan.folders.iter().chain(plan.targets.iter().map(|target| &target.path));
        if let Some(twice) = all.into_iter().find(|path| !paths.insert(path.as_str())) {
            return Err(FetchError::Bad(format!("the manifest names {twice:?} twice")));
        }
        pieces.sort();
        plan.reads = coalesce(pieces, &manifest.packs);
        Ok(plan)
    }

    fn add(&mut self, path: String, content: &Content, pieces: &mut Vec<Piece>) -> Result<(), FetchError> {
        let target = self.targets.len();
        for chunk in &content.chunks {
            let possible = (1..=MAX_CHUNK_BYTES).contains(&chunk.len)
                && (1..=chunk.len).contains(&chunk.stored)
                && chunk.offset.checked_add(u64::from(chunk.stored)).is_some();
            if !possible {
                return Err(FetchError::Bad(format!("a chunk of {path:?} has impossible lengths")));
            }
            pieces.push(Piece {
                pack: chunk.pack,
                offset: chunk.offset,
                stored: chunk.stored,
                hash: chunk.hash,
                len: chunk.len,
                target,
                at: chunk.at,
            });
        }
        self.targets.push(Target { path, len: content.len });
        Ok(())
    }
}

/// Makes few large reads of many pieces, which are sorted by their place.
fn coalesce(pieces: Vec<Piece>, packs: &[String]) -> Vec<Read> {
    let mut reads: Vec<Read> = Vec::new();
    for piece in pieces {
        let end = piece.offset + u64::from(piece.stored);
        let pack = &packs[piece.pack as usize];
        let joins = reads.last().is_some_and(|read| {
            read.pack == *pack
                && piece.offset <= read.range.end.saturating_add(MAX_GAP_BYTES)
                && end.max(read.range.end) - read.range.start <= MAX_READ_BYTES
        });
        match reads.last_mut() {
            Some(read) if joins => {
                read.range.end = read.range.end.max(end);
                read.pieces.push(piece);
            }
            _ => reads.push(Read { pack: pack.clone(), range: piece.offset..end, pieces: vec![piece] }),
        }
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(pack: u32, offset: u64, stored: u32) -> Piece {
        Piece { pack, offset, stored, hash: ContentHash::of(b""), len: stored, target: 0, at: 0 }
    }

    fn check(pieces: &[(u32, u64, u32)], expect: &[(&str, Range<u64>, usize)]) {
        let packs = ["a".to_owned(), "b".to_owned()];
        let pieces = pieces.iter().map(|(pack, offset, stored)| piece(*pack, *offset, *stored)).collect();
        let reads = coalesce(pieces, &packs);
        let got: Vec<_> =
            reads.iter().map(|read| (read.pack.as_str(), read.range.clone(), read.pieces.len())).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn neighbours_are_read_together_and_reads_are_bounded() {
        check(&[], &[]);
        check(&[(0, 0, 10), (0, 10, 10), (0, 40, 10)], &[("a", 0..50, 3)]);
        check(&[(0, 0, 10), (0, 0, 10), (1, 10, 10)], &[("a", 0..10, 2), ("b", 10..20, 1)]);
        check(&[(0, 0, 10), (0, 20 + MAX_GAP_BYTES, 1)], &[("a", 0..10, 1), ("a", 131_092..131_093, 1)]);
        let half = (MAX_READ_BYTES / 2) as u32;
        let (middle, end) = (u64::from(half), MAX_READ_BYTES);
        check(&[(0, 0, half), (0, middle, half), (0, end, 1)], &[("a", 0..end, 2), ("a", end..end + 1, 1)]);
        // A chunk larger than a read is a read of its own.
        check(&[(0, 0, MAX_CHUNK_BYTES)], &[("a", 0..u64::from(MAX_CHUNK_BYTES), 1)]);
    }
}
