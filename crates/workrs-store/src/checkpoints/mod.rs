//! Stores what an engine captured, and brings it back, every byte verified.
//!
//! A checkpoint is two blobs: a pack of compressed chunks, and a manifest that names every chunk by place and hash.
//! The pack is durable before the manifest is written, and the caller commits the manifest's hash to the record
//! after that; so nothing is restored that does not lead back to the record, and what a crash leaves is garbage.

mod chunks;
mod collect;
mod fetch;
mod plan;
mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use workrs_core::{
    id::{JobId, OperationId},
    job::{BlobRef, CheckpointId, CheckpointMode},
    manifest::RestoreNeeds,
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
    },
}

/// A checkpoint to be stored. Its files must not change until that is done.
#[derive(Debug, Clone)]
pub struct NewCheckpoint<'a> {
    /// Whose.
    pub job: &'a JobId,
    /// Which.
    pub id: CheckpointId,
    /// Ends the names of its blobs; the same one only to store the same capture again.
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
}

/// A checkpoint that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What the record has to name.
    pub manifest: BlobRef,
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
