//! Brings a checkpoint back into a folder. Nothing is written whose hash does not lead back to the record.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use workrs_core::{
    id::JobId,
    job::{BlobRef, CheckpointId},
    keys::BlobNames,
    manifest::Manifest,
};

use super::{
    Checkpoints, FetchError,
    form::{self, Written},
    pack::{self, Unpacker},
    plan::{Plan, Read, Target},
};
use crate::blobs::{BlobError, Blobs};

/// Reads at once, of up to 8 MiB each.
const READS_AT_ONCE: usize = 4;
/// Bytes that are written at once, unless a chunk is longer.
const WRITE_BYTES: usize = 256 << 10;
/// Indexes of packs that are read at once.
const INDEXES_AT_ONCE: usize = 8;

impl Checkpoints {
    /// The manifest of a checkpoint, which says what a restore needs before its many bytes are there.
    pub async fn manifest(&self, job: &JobId, id: CheckpointId, manifest: &BlobRef) -> Result<Manifest, FetchError> {
        let manifest = read_manifest(&self.blobs, manifest).await.map_err(FetchError::from)?;
        manifest.validate(job, id).map_err(|error| FetchError::Bad(error.to_string()))?;
        Ok(manifest)
    }

    /// Brings a checkpoint back as `<into>/<part>`: folders with files, images as sparse files, for their owner only.
    /// After an error `into` holds an unfinished rest, which is the caller's to delete.
    pub async fn fetch(
        &self,
        job: &JobId,
        id: CheckpointId,
        manifest: &BlobRef,
        into: &Path,
    ) -> Result<Manifest, FetchError> {
        let manifest = self.manifest(job, id, manifest).await?;
        self.fetch_parts(job, id, &manifest, into).await?;
        Ok(manifest)
    }

    /// The same with a manifest that is known.
    pub async fn fetch_parts(
        &self,
        job: &JobId,
        id: CheckpointId,
        manifest: &Manifest,
        into: &Path,
    ) -> Result<(), FetchError> {
        let Plan { folders, targets, reads } = Plan::new(manifest, &BlobNames(job), id)?;
        let (root, targets) = (into.to_owned(), Arc::new(targets));
        let made = Arc::clone(&targets);
        blocking(move || make(&root, &folders, &made)).await?;
        let bring = |read: Read| {
            let (root, targets) = (into.to_owned(), Arc::clone(&targets));
            async move {
                let bytes = self.blobs.get_range(&read.pack, read.range.clone()).await?;
                blocking(move || place(&root, &targets, &read, &bytes)).await
            }
        };
        futures::stream::iter(reads).map(bring).buffer_unordered(READS_AT_ONCE).try_collect::<()>().await
    }
}

/// Reads a manifest whose bytes must be those that `blob` names, and its packs' indexes.
async fn read_manifest(blobs: &Blobs, blob: &BlobRef) -> Result<Manifest, BlobError> {
    let (manifest, runs) = match read_written(blobs, blob).await? {
        Written::Whole(manifest) => return Ok(manifest),
        Written::Runs { manifest, runs } => (manifest, runs),
    };
    let read_index = |pack: usize| {
        let (name, index) = (&manifest.packs[pack], manifest.pack_indexes.get(pack));
        let place = index.zip(manifest.chunks_end(pack));
        async move {
            let (index, start) = place.ok_or_else(|| BlobError::Mismatch(blob.name.clone()))?;
            let bytes = blobs.get_range(name, start..start + index.bytes).await?;
            pack::decode_index(&bytes, index).ok_or_else(|| BlobError::Mismatch(name.clone()))
        }
    };
    let indexes = futures::stream::iter(0..manifest.packs.len()).map(read_index).buffered(INDEXES_AT_ONCE);
    let indexes: Vec<_> = indexes.try_collect().await?;
    form::expand(manifest, &runs, &indexes).ok_or_else(|| BlobError::Mismatch(blob.name.clone()))
}

/// Reads the names of the packs that a manifest needs.
pub(super) async fn read_pack_names(blobs: &Blobs, blob: &BlobRef) -> Result<Vec<String>, BlobError> {
    let (Written::Whole(manifest) | Written::Runs { manifest, .. }) = read_written(blobs, blob).await?;
    Ok(manifest.packs)
}

async fn read_written(blobs: &Blobs, blob: &BlobRef) -> Result<Written, BlobError> {
    let bytes = blobs.get(blob).await?;
    // The hash is right, so these bytes were written; they can only be of a form that this version cannot read.
    form::decode(&bytes).map_err(|_| BlobError::Mismatch(blob.name.clone()))
}

/// Makes folders and files, all of them holes.
fn make(root: &Path, folders: &[String], targets: &[Target]) -> Result<(), FetchError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(root).map_err(|error| host(root, &error))?;
    for folder in folders {
        let path = root.join(folder);
        builder.create(&path).map_err(|error| host(&path, &error))?;
    }
    for target in targets {
        let path = root.join(&target.path);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|file| file.set_len(target.len)).map_err(|error| host(&path, &error))?;
    }
    Ok(())
}

/// Verifies the pieces of one read and writes them where they belong.
fn place(root: &Path, targets: &[Target], read: &Read, bytes: &Bytes) -> Result<(), FetchError> {
    let mut unpacker = Unpacker::new().map_err(|error| FetchError::Host(error.to_string()))?;
    let mut file = None;
    for piece in &read.pieces {
        let (chunk, target) = (&piece.chunk, piece.target);
        let Some(bytes) = unpacker.unpack(read.stored(chunk, bytes), chunk) else {
            let (path, at, pack) = (&targets[target].path, chunk.at, &read.pack);
            return Err(FetchError::Bad(format!("a chunk of {path:?} at {at} differs from its hash, in {pack}")));
        };
        if file.as_ref().is_none_or(|open: &TargetWriter| open.target != target) {
            file.take().map_or(Ok(()), TargetWriter::flush)?;
            file = Some(TargetWriter::open(root, targets, target)?);
        }
        if let Some(file) = &mut file {
            file.write(chunk.at, bytes)?;
        }
    }
    file.take().map_or(Ok(()), TargetWriter::flush)
}

/// Writes what belongs to one file, neighbours together.
struct TargetWriter {
    target: usize,
    path: PathBuf,
    file: File,
    /// Where the bytes that wait belong.
    at: u64,
    waiting: Vec<u8>,
}

impl TargetWriter {
    fn open(root: &Path, targets: &[Target], target: usize) -> Result<Self, FetchError> {
        let path = root.join(&targets[target].path);
        let file = OpenOptions::new().write(true).open(&path).map_err(|error| host(&path, &error))?;
        Ok(Self { target, path, file, at: 0, waiting: Vec::new() })
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), FetchError> {
        let follows = at == self.at + self.waiting.len() as u64;
        if !follows || self.waiting.len() + bytes.len() > WRITE_BYTES {
            self.write_waiting()?;
            self.at = at;
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    fn write_waiting(&mut self) -> Result<(), FetchError> {
        self.file.write_all_at(&self.waiting, self.at).map_err(|error| host(&self.path, &error))?;
        self.waiting.clear();
        Ok(())
    }

    fn flush(mut self) -> Result<(), FetchError> {
        self.write_waiting()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(FetchError::Host(error.to_string())))
}

fn host(path: &Path, error: &io::Error) -> FetchError {
    FetchError::Host(format!("{}: {error}", path.display()))
}
