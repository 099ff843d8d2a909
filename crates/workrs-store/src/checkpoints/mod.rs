//! Stores what an engine captured, and brings it back, every byte verified.
//!
//! A checkpoint is two blobs: a pack of compressed chunks, and a manifest that leads to every chunk by place and
//! hash, in this pack and in those of former checkpoints. Chunks that a former checkpoint has are not stored again.
//! The pack is durable and was read back before the manifest is written, and the caller commits the manifest's hash to
//! the record after that; so nothing is restored that does not lead back to the record, and what a crash leaves is
//! garbage.
//!
//! - `cut`, `pack`, `form`: how files become chunks, chunks a pack, and a manifest bytes.
//! - `capture`, `store`: a capture becomes a checkpoint; `reuse` decides what of the base it names.
//! - `plan`, `fetch`: a checkpoint becomes files again. `verify` reads packs to see that they are sound.
//! - `collect`: deletes what nothing names any more.

mod background;
mod capture;
mod collect;
mod cut;
mod fetch;
mod form;
pub(crate) mod fuzz;
mod pack;
mod plan;
mod reuse;
mod store;
#[cfg(test)]
mod tests;
mod verify;

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use workrs_core::{
    hash::ContentHash,
    id::{JobId, OperationId},
    job::{BlobRef, CheckpointId, CheckpointMode},
    manifest::{Manifest, RestoreNeeds},
    ranges::ByteRanges,
};

use crate::blobs::{BlobError, Blobs};

/// The checkpoints of all jobs, in a blob store.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    blobs: Blobs,
}

/// Where a part of a capture lies until it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartSource {
    /// A folder of regular files without subfolders.
    Folder {
        /// Its name among the parts.
        name: String,
        /// The folder.
        path: PathBuf,
    },
    /// One sparse file.
    Image {
        /// Its name among the parts.
        name: String,
        /// The file.
        path: PathBuf,
        /// Where it may differ from the base's image of this name; `None` means anywhere.
        changed: Option<ByteRanges>,
    },
}

/// A checkpoint to be stored. Its files must not change until that is done.
#[derive(Debug, Clone)]
pub struct NewCheckpoint<'a> {
    /// Whose.
    pub job: &'a JobId,
    /// Which.
    pub id: CheckpointId,
    /// Ends the names of its blobs; the same one only to store the same capture on the same base again.
    pub operation: &'a OperationId,
    /// What it holds.
    pub mode: CheckpointMode,
    /// What a restore needs of the host.
    pub needs: RestoreNeeds,
    /// How long the job had run, unfrozen.
    pub run_ms: u64,
    /// Length of the log at the cut.
    pub log_bytes: u64,
    /// What the engine captured.
    pub parts: &'a [PartSource],
    /// A durable checkpoint of the job, newest first choice, whose chunks need not be stored again.
    pub base: Option<&'a Base>,
    /// The most that may be written for it, in bytes: pack and manifest together.
    pub limit_bytes: Option<u64>,
}

/// A durable checkpoint whose chunks the next one can name instead of storing them again. Its blobs must stay until
/// that one is stored.
#[derive(Debug, Clone)]
pub struct Base {
    manifest: Arc<Manifest>,
    /// Chunks that were found damaged: they are stored anew.
    damaged: HashSet<ContentHash>,
    /// Packs that were rechecked; the others are next.
    checked: HashSet<String>,
}

impl Base {
    /// A base of a checkpoint that the job's record names.
    pub fn new(manifest: Arc<Manifest>) -> Self {
        Self { manifest, damaged: HashSet::new(), checked: HashSet::new() }
    }

    /// The base that follows once the checkpoint with this manifest, stored on this base, is committed. It goes on
    /// with the recheck of packs where this one is; all that was found damaged is stored anew in that checkpoint.
    #[must_use]
    pub fn followed_by(&self, manifest: Arc<Manifest>) -> Self {
        let checked = manifest.packs.iter().filter(|pack| self.checked.contains(*pack)).cloned().collect();
        Self { manifest, damaged: HashSet::new(), checked }
    }

    /// The checkpoint.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The oldest pack that was not rechecked since all were; none if there is no pack.
    fn next_to_check(&mut self) -> Option<usize> {
        let next = self.manifest.packs.iter().position(|pack| !self.checked.contains(pack));
        next.or_else(|| {
            self.checked.clear();
            (!self.manifest.packs.is_empty()).then_some(0)
        })
    }
}

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Bytes of the blobs that it deleted.
    pub freed_bytes: u64,
    /// Bytes of all other blobs of the job's checkpoints, without what is being written.
    pub kept_bytes: u64,
}

/// A checkpoint that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What the record has to name.
    pub manifest: BlobRef,
    /// What that names.
    pub contents: Arc<Manifest>,
    /// Bytes that a restore brings back, without holes.
    pub size_bytes: u64,
    /// Bytes that were written to blobs.
    pub uploaded_bytes: u64,
}

/// Why a checkpoint was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The capture cannot be read, or is not of the agreed form.
    #[error("the capture cannot be stored: {0}")]
    Capture(String),
    /// More bytes would have to be written than are allowed.
    #[error("it needs more than the {limit_bytes} bytes that are left for it")]
    OverLimit {
        /// [`NewCheckpoint::limit_bytes`].
        limit_bytes: u64,
    },
    /// The blob store failed.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

/// Why a checkpoint was not brought back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Proof that it can never be brought back: something differs from its hash, a named blob does not exist, or
    /// the manifest is not valid.
    #[error("the checkpoint is bad: {0}")]
    Bad(String),
    /// The blob store cannot be asked; this says nothing about the checkpoint.
    #[error("{0}")]
    Unavailable(String),
    /// This host failed: no space, or its disk refused.
    #[error("the checkpoint cannot be written here: {0}")]
    Host(String),
}

impl From<BlobError> for FetchError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Missing(_) | BlobError::Mismatch(_) => Self::Bad(error.to_string()),
            BlobError::Full(_) | BlobError::Unavailable(_) | BlobError::InvalidUrl(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}

impl Checkpoints {
    /// The checkpoints in `blobs`.
    pub fn new(blobs: Blobs) -> Self {
        Self { blobs }
    }
}

/// The suffixes of a checkpoint's blobs.
const MANIFEST: &str = "manifest";
const PACK: &str = "pack";
/// The largest chunk that a manifest may name: what one chunk may cost in memory.
const MAX_CHUNK_BYTES: u32 = 16 << 20;
