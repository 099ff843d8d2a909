//! Reads a capture, and makes pack and manifest of it: on one thread, in bounded memory.
//!
//! Everything is cut and hashed once. Chunks that neither the base nor the pack has are packed at once. After that it
//! is known how much of each of the base's packs is still live, and chunks of packs that are given up are read again
//! and packed too. Memory: a piece of a file that is read, the batches of [`PackWriter`], and about 200 bytes a chunk.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::sync::mpsc;
use workrs_core::{
    hash::ContentHash,
    manifest::{Chunk, Content, FileContent, Manifest, PackIndex, Part},
    ranges::ByteRanges,
};

use super::{
    Base, CheckpointError, PartSource,
    cut::{BLOCK_BYTES, PAGE_BYTES, Source},
    form,
    pack::{Entry, PackWriter},
    reuse::Reuse,
};

/// What a capture came to, once its last batch was handed over.
pub(super) struct Captured {
    pub(super) manifest: Manifest,
    /// The manifest as it is to be stored.
    pub(super) written: Bytes,
    /// The chunks in the new pack; the index follows them.
    pub(super) entries: Vec<Entry>,
}

/// Hands a new pack over in `batches`. `head` is the manifest without packs and parts.
pub(super) fn read(
    sources: &[PartSource],
    base: Option<&Base>,
    mut head: Manifest,
    pack_name: String,
    batches: mpsc::Sender<Bytes>,
) -> Result<Captured, CheckpointError> {
    let writer = PackWriter::new(batches).map_err(|error| CheckpointError::Capture(error.to_string()))?;
    let mut capture = Capture { writer, reuse: Reuse::new(base) };
    for source in sources {
        head.parts.push(match source {
            PartSource::Folder { name, path } => Part::Folder { name: name.clone(), files: capture.folder(path)? },
            PartSource::Image { name, path, changed } => {
                let content = capture.image(name, path, changed.as_ref())?;
                Part::Image { name: name.clone(), content }
            }
        });
    }
    let anew = capture.reuse.to_store_anew(capture.writer.cost());
    capture.store_anew(anew, sources, &head.parts)?;
    let Capture { mut writer, reuse } = capture;
    let index = writer.finish().map_err(|error| CheckpointError::Capture(error.to_string()))?;
    name_packs(&mut head, &reuse, &writer, index.map(|index| (pack_name, index)))?;
    head.validate(&head.job, head.id).map_err(|error| CheckpointError::Capture(error.to_string()))?;
    let written = form::encode(&head).map_err(|error| CheckpointError::Capture(error.to_string()))?;
    Ok(Captured { manifest: head, written, entries: writer.into_entries() })
}

struct Capture<'a> {
    writer: PackWriter,
    reuse: Reuse<'a>,
}

impl Capture<'_> {
    fn folder(&mut self, path: &Path) -> Result<Vec<FileContent>, CheckpointError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|error| capture_error(path, &error))? {
            let name = entry.map_err(|error| capture_error(path, &error))?.file_name().into_string();
            names.push(name.map_err(|name| CheckpointError::Capture(format!("{} is not UTF-8", name.display())))?);
        }
        names.sort();
        let file = |name: String| {
            let path = path.join(&name);
            let (file, len) = open(&path)?;
            let source = Source { file: &file, block: PAGE_BYTES, forget: false };
            let chunks = self.cut(&path, &source, &std::iter::once(0..len).collect())?;
            Ok(FileContent { name, content: Content { len, chunks } })
        };
        names.into_iter().map(file).collect()
    }

    fn image(&mut self, name: &str, path: &Path, changed: Option<&ByteRanges>) -> Result<Content, CheckpointError> {
        let (file, len) = open(path)?;
        let unchanged = self.reuse.image(name, len, changed);
        let source = Source { file: &file, block: BLOCK_BYTES, forget: true };
        let mut chunks = self.cut(path, &source, &unchanged.read)?;
        chunks.extend(unchanged.chunks.into_iter().map(|(at, len, hash)| unplaced(at, len, hash)));
        chunks.sort_unstable_by_key(|chunk| chunk.at);
        Ok(Content { len, chunks })
    }

    /// The chunks in some ranges of a file; where they are stored is not yet said.
    fn cut(&mut self, path: &Path, source: &Source<'_>, ranges: &ByteRanges) -> Result<Vec<Chunk>, CheckpointError> {
        let mut chunks = Vec::new();
        let mut take = |at, bytes: &[u8]| {
            self.writer.check_wanted()?;
            let (hash, len) = (ContentHash::of(bytes), bytes.len() as u32);
            if !self.reuse.name(&hash, len) {
                self.writer.store(hash, bytes)?;
            }
            chunks.push(unplaced(at, len, hash));
            Ok::<_, io::Error>(())
        };
        for range in ranges.iter() {
            source.cut(range, &mut take).map_err(|error| capture_error(path, &error))?;
        }
        Ok(chunks)
    }

    /// Reads chunks again that the base has, but in packs that are given up, and stores them.
    fn store_anew(
        &mut self,
        mut anew: HashSet<ContentHash>,
        sources: &[PartSource],
        parts: &[Part],
    ) -> Result<(), CheckpointError> {
        let mut buffer = Vec::new();
        for (path, content) in sources.iter().zip(parts).flat_map(|(source, part)| files(source, part)) {
            let mut wanted = content.chunks.iter().filter(|chunk| anew.remove(&chunk.hash)).peekable();
            if wanted.peek().is_none() {
                continue;
            }
            let file = File::open(&path).map_err(|error| capture_error(&path, &error))?;
            for chunk in wanted {
                buffer.resize(chunk.len as usize, 0);
                file.read_exact_at(&mut buffer, chunk.at).map_err(|error| capture_error(&path, &error))?;
                if ContentHash::of(&buffer) != chunk.hash {
                    let (path, at) = (path.display(), chunk.at);
                    return Err(CheckpointError::Capture(format!("{path} changed at {at}, where it must not have")));
                }
                self.writer.store(chunk.hash, &buffer).map_err(|error| capture_error(&path, &error))?;
            }
        }
        Ok(())
    }
}

/// Names the packs that are needed, and says of each chunk where it is stored.
fn name_packs(
    manifest: &mut Manifest,
    reuse: &Reuse<'_>,
    writer: &PackWriter,
    new: Option<(String, PackIndex)>,
) -> Result<(), CheckpointError> {
    let none = (Vec::new(), Vec::new(), Vec::new());
    let (mut packs, mut pack_bytes, mut indexes) =
        reuse.base().map_or(none, |base| (base.packs.clone(), base.pack_bytes.clone(), base.pack_indexes.clone()));
    let new_pack = packs.len() as u32;
    if let Some((name, index)) = new {
        packs.push(name);
        pack_bytes.push(writer.chunks_end() + index.bytes);
        indexes.push(index);
    }
    let mut numbers = vec![None; packs.len()];
    for chunk in manifest.contents_mut().flat_map(|content| &mut content.chunks) {
        let place = writer.find(&chunk.hash).map(|entry| (new_pack, entry)).or_else(|| reuse.find(&chunk.hash));
        let (pack, entry) = place.ok_or_else(|| CheckpointError::Capture("a chunk was not stored".to_owned()))?;
        numbers[pack as usize] = Some(0);
        *chunk = entry.chunk(chunk.at, pack);
    }
    for (pack, number) in numbers.iter_mut().enumerate().filter(|(_, number)| number.is_some()) {
        *number = Some(manifest.packs.len() as u32);
        manifest.packs.push(std::mem::take(&mut packs[pack]));
        manifest.pack_bytes.push(pack_bytes[pack]);
        manifest.pack_indexes.push(indexes[pack]);
    }
    for chunk in manifest.contents_mut().flat_map(|content| &mut content.chunks) {
        chunk.pack = numbers[chunk.pack as usize].unwrap_or_default();
    }
    Ok(())
}

fn unplaced(at: u64, len: u32, hash: ContentHash) -> Chunk {
    Chunk { at, len, hash, pack: 0, offset: 0, stored: 0 }
}

/// The files of a part, each with its path.
fn files<'a>(source: &'a PartSource, part: &'a Part) -> Vec<(PathBuf, &'a Content)> {
    match (source, part) {
        (PartSource::Folder { path, .. }, Part::Folder { files, .. }) => {
            files.iter().map(|file| (path.join(&file.name), &file.content)).collect()
        }
        (PartSource::Image { path, .. }, Part::Image { content, .. }) => vec![(path.clone(), content)],
        _ => Vec::new(),
    }
}

fn open(path: &Path) -> Result<(File, u64), CheckpointError> {
    let failed = |error: io::Error| capture_error(path, &error);
    if !std::fs::symlink_metadata(path).map_err(failed)?.is_file() {
        return Err(CheckpointError::Capture(format!("{} is not a regular file", path.display())));
    }
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    Ok((file, len))
}

fn capture_error(path: &Path, error: &io::Error) -> CheckpointError {
    CheckpointError::Capture(format!("{}: {error}", path.display()))
}
