//! What a fetch has to read, and where it belongs: pure.

use std::{collections::HashSet, ops::Range};

use workrs_core::{
    job::CheckpointId,
    keys::BlobNames,
    manifest::{Chunk, Content, Manifest, Part},
};

use super::{FetchError, pack::is_possible};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) chunk: Chunk,
    /// Index into [`Plan::targets`].
    pub(super) target: usize,
}

impl Piece {
    fn place(&self) -> (u32, u64, usize, u64) {
        (self.chunk.pack, self.chunk.offset, self.target, self.chunk.at)
    }
}

/// One read of a pack, and the pieces that it brings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) pack: String,
    pub(super) range: Range<u64>,
    pub(super) pieces: Vec<Piece>,
}

impl Read {
    /// The stored bytes of a chunk, of those that were read.
    pub(super) fn stored<'a>(&self, chunk: &Chunk, bytes: &'a [u8]) -> &'a [u8] {
        let start = (chunk.offset - self.range.start) as usize;
        &bytes[start..start + chunk.stored as usize]
    }
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
        plan.reads = coalesce(pieces, &manifest.packs);
        Ok(plan)
    }

    fn add(&mut self, path: String, content: &Content, pieces: &mut Vec<Piece>) -> Result<(), FetchError> {
        let target = self.targets.len();
        for chunk in &content.chunks {
            let possible =
                is_possible(chunk.len, chunk.stored) && chunk.offset.checked_add(u64::from(chunk.stored)).is_some();
            if !possible {
                return Err(FetchError::Bad(format!("a chunk of {path:?} has impossible lengths")));
            }
            pieces.push(Piece { chunk: *chunk, target });
        }
        self.targets.push(Target { path, len: content.len });
        Ok(())
    }
}

/// Makes few large reads of many pieces. In each, pieces stand in the order of their places in the pack.
pub(super) fn coalesce(mut pieces: Vec<Piece>, packs: &[String]) -> Vec<Read> {
    pieces.sort_unstable_by_key(Piece::place);
    let mut reads: Vec<Read> = Vec::new();
    for piece in pieces {
        let chunk = &piece.chunk;
        let end = chunk.offset + u64::from(chunk.stored);
        let pack = &packs[chunk.pack as usize];
        let joins = reads.last().is_some_and(|read| {
            read.pack == *pack
                && chunk.offset <= read.range.end.saturating_add(MAX_GAP_BYTES)
                && end.max(read.range.end) - read.range.start <= MAX_READ_BYTES
        });
        match reads.last_mut() {
            Some(read) if joins => {
                read.range.end = read.range.end.max(end);
                read.pieces.push(piece);
            }
            _ => reads.push(Read { pack: pack.clone(), range: chunk.offset..end, pieces: vec![piece] }),
        }
    }
    reads
}

#[cfg(test)]
mod tests {
    use workrs_core::hash::ContentHash;

    use super::{super::MAX_CHUNK_BYTES, *};

    fn piece(pack: u32, offset: u64, stored: u32) -> Piece {
        let chunk = Chunk { at: 0, len: stored, hash: ContentHash::of(b""), pack, offset, stored };
        Piece { chunk, target: 0 }
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
