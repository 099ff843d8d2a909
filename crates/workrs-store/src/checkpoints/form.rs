//! How a manifest is written.
//!
//! A manifest in memory names every chunk. Written, it names runs of chunks that follow each other in a pack, and the
//! packs' indexes, by hash, name the chunks; so it costs little, however many chunks there are. It is
//! `{"manifest": …, "runs": […]}`, compressed, where the manifest's chunks are left out and the runs stand for them,
//! a list for each file. Manifests that name their chunks themselves are still read.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use workrs_core::manifest::{Chunk, Content, FileContent, Manifest, Part};

use super::pack::Entry;

const ZSTD_LEVEL: i32 = 3;
/// The largest manifest, decompressed.
const MAX_BYTES: usize = 1 << 30;

/// Bytes of the file since the run before (or its begin), pack, bytes of that pack since the run before that
/// was in it, number of chunks.
type Run = (u64, u32, i64, u32);

/// A manifest as it is written.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Written {
    /// Its chunks are in the packs' indexes.
    Runs { manifest: Manifest, runs: Vec<Vec<Run>> },
    /// It names its chunks itself.
    Whole(Manifest),
}

#[derive(Serialize)]
struct Runs<'a> {
    manifest: &'a Manifest,
    runs: Vec<Vec<Run>>,
}

/// A manifest as it is written; all its packs have an index.
pub(super) fn encode(manifest: &Manifest) -> io::Result<Bytes> {
    let mut ends = vec![0; manifest.packs.len()];
    let runs = manifest.contents().map(|content| runs_of(&content.chunks, &mut ends)).collect();
    let json = serde_json::to_vec(&Runs { manifest: &without_chunks(manifest), runs })?;
    Ok(zstd::bulk::compress(&json, ZSTD_LEVEL)?.into())
}

pub(super) fn decode(bytes: &[u8]) -> io::Result<Written> {
    parse(&zstd::bulk::decompress(bytes, MAX_BYTES)?)
}

/// The same, without its compression.
pub(super) fn parse(json: &[u8]) -> io::Result<Written> {
    Ok(serde_json::from_slice(json)?)
}

/// Puts the chunks back into a manifest; `None` if packs with these chunks do not have such runs.
pub(super) fn expand(mut manifest: Manifest, runs: &[Vec<Run>], packs: &[Vec<Entry>]) -> Option<Manifest> {
    let mut ends = vec![0; packs.len()];
    let mut runs = runs.iter();
    for content in manifest.contents_mut() {
        content.chunks = chunks_of(content.len, runs.next()?, packs, &mut ends)?;
    }
    runs.next().is_none().then_some(manifest)
}

/// `ends` has, for each pack, the end of the run that was in it last.
fn runs_of(chunks: &[Chunk], ends: &mut [u64]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut former: Option<&Chunk> = None;
    for chunk in chunks {
        let end = &mut ends[chunk.pack as usize];
        let follows = former.is_some_and(|former| {
            former.pack == chunk.pack && former.at + u64::from(former.len) == chunk.at && *end == chunk.offset
        });
        match runs.last_mut() {
            Some((.., count)) if follows => *count += 1,
            _ => {
                let gap = chunk.at - former.map_or(0, |former| former.at + u64::from(former.len));
                runs.push((gap, chunk.pack, chunk.offset.wrapping_sub(*end).cast_signed(), 1));
            }
        }
        *end = chunk.offset + u64::from(chunk.stored);
        former = Some(chunk);
    }
    runs
}

fn chunks_of(len: u64, runs: &[Run], packs: &[Vec<Entry>], ends: &mut [u64]) -> Option<Vec<Chunk>> {
    let mut chunks = Vec::new();
    let mut at = 0u64;
    for (gap, pack, skip, count) in runs {
        let (entries, end) = (packs.get(*pack as usize)?, ends.get_mut(*pack as usize)?);
        let offset = end.wrapping_add_signed(*skip);
        let first = entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        at = at.checked_add(*gap)?;
        for entry in entries.get(first..first.checked_add(*count as usize)?)? {
            chunks.push(entry.chunk(at, *pack));
            at = at.checked_add(u64::from(entry.len)).filter(|at| *at <= len)?;
            *end = entry.offset + u64::from(entry.stored);
        }
    }
    Some(chunks)
}

fn without_chunks(manifest: &Manifest) -> Manifest {
    let empty = |content: &Content| Content { len: content.len, chunks: Vec::new() };
    let file = |file: &FileContent| FileContent { name: file.name.clone(), content: empty(&file.content) };
    let part = |part: &Part| match part {
        Part::Folder { name, files } => Part::Folder { name: name.clone(), files: files.iter().map(file).collect() },
        Part::Image { name, content } => Part::Image { name: name.clone(), content: empty(content) },
    };
    Manifest {
        version: manifest.version,
        job: manifest.job.clone(),
        id: manifest.id,
        mode: manifest.mode,
        needs: manifest.needs.clone(),
        run_ms: manifest.run_ms,
        log_bytes: manifest.log_bytes,
        packs: manifest.packs.clone(),
        pack_bytes: manifest.pack_bytes.clone(),
        pack_indexes: manifest.pack_indexes.clone(),
        parts: manifest.parts.iter().map(part).collect(),
        unknown: manifest.unknown.clone(),
    }
}
