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
    hash::ContentHash,
    id::JobId,
    job::{BlobRef, CheckpointId},
    keys::BlobNames,
    manifest::Manifest,
};

use super::{
    Checkpoints, FetchError, chunks,
    plan::{Plan, Read, Target},
};
use crate::blobs::{BlobError, Blobs};

/// Reads at once, of up to 8 MiB each.
const READS_AT_ONCE: usize = 4;
/// The largest manifest, decompressed.
const MAX_MANIFEST_BYTES: usize = 1 << 30;

impl Checkpoints {
    /// Brings a checkpoint back as `<into>/<part>`: folders with files, images as sparse files, for their owner only.
    /// After an error `into` holds an unfinished rest, which is the caller's to delete.
    pub async fn fetch(
        &self,
        job: &JobId,
        id: CheckpointId,
        manifest: &BlobRef,
        into: &Path,
    ) -> Result<Manifest, FetchError> {
        let manifest = read_manifest(&self.blobs, manifest).await.map_err(FetchError::from)?;
        let Plan { folders, targets, reads } = Plan::new(&manifest, &BlobNames(job), id)?;
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
        futures::stream::iter(reads).map(bring).buffer_unordered(READS_AT_ONCE).try_collect::<()>().await?;
        Ok(manifest)
    }
}

/// Reads a manifest whose bytes must be those that `blob` names.
pub(super) async fn read_manifest(blobs: &Blobs, blob: &BlobRef) -> Result<Manifest, BlobError> {
    let bytes = blobs.get(blob).await?;
    // The hash is right, so these bytes were written; they can only be of a form that this version cannot read.
    decode_manifest(&bytes).map_err(|_| BlobError::Mismatch(blob.name.clone()))
}

fn decode_manifest(bytes: &[u8]) -> io::Result<Manifest> {
    let json = zstd::bulk::decompress(bytes, MAX_MANIFEST_BYTES)?;
    Ok(serde_json::from_slice(&json)?)
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
    let mut open: Option<(usize, PathBuf, File)> = None;
    for piece in &read.pieces {
        let start = (piece.offset - read.range.start) as usize;
        let stored = &bytes[start..start + piece.stored as usize];
        let chunk = chunks::unpack(stored, piece.len as usize).filter(|chunk| ContentHash::of(chunk) == piece.hash);
        let Some(chunk) = chunk else {
            let (path, pack) = (&targets[piece.target].path, &read.pack);
            return Err(FetchError::Bad(format!(
                "a chunk of {path:?} at {} differs from its hash, in {pack}",
                piece.at
            )));
        };
        if open.as_ref().is_none_or(|(target, ..)| *target != piece.target) {
            let path = root.join(&targets[piece.target].path);
            let file = OpenOptions::new().write(true).open(&path).map_err(|error| host(&path, &error))?;
            open = Some((piece.target, path, file));
        }
        if let Some((_, path, file)) = &open {
            file.write_all_at(&chunk, piece.at).map_err(|error| host(path, &error))?;
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(FetchError::Host(error.to_string())))
}

fn host(path: &Path, error: &io::Error) -> FetchError {
    FetchError::Host(format!("{}: {error}", path.display()))
}
