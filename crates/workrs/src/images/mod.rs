//! The images that jobs run in. A group has each of their parts once in its blobs, whoever brought it, so every node can run
//! every job, also one that reaches no registry.
//!
//! - `add`: brings an image into the group; `origin`: from a registry or an archive.
//! - `parts`: manifests, configurations and layers in blobs, one blob a digest.
//! - `notes`: what the state says: which images there are, what they are called, who uses them.
//! - `collect`: removes images that have no name and no job, and blobs that no image has.
//!
//! An image that the state names has all its parts in blobs. Whoever adds one relies on parts that are there already, while
//! another node removes parts that nobody needs: `collect` says how they keep out of each other's way.

mod add;
mod collect;
#[cfg(test)]
pub(crate) mod made;
mod notes;
mod origin;
mod parts;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use workrs_core::image::{ImageDigest, InvalidImage};
use workrs_engine::image::source::SourceError;
use workrs_store::{
    blobs::{BlobError, Blobs},
    state::{StateError, StateStore},
};

pub use self::{
    add::{Found, Origin},
    collect::Collected,
    notes::{ImageNote, KnownImage},
    origin::{Archive, Brought, Pulls, Registry, Wanted},
    parts::Layers,
};

/// The images of a group.
#[derive(Clone)]
pub struct Images {
    store: Arc<dyn StateStore>,
    blobs: Blobs,
}

impl Images {
    /// Those that stand in `store` and lie in `blobs`.
    pub fn new(store: Arc<dyn StateStore>, blobs: Blobs) -> Self {
        Self { store, blobs }
    }
}

/// An image that was not found, brought or read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The group has none of this name or digest.
    #[error("the group has no image {0}")]
    Unknown(String),
    /// Where it was to come from.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its parts do not make an image that can be run.
    #[error("the image {digest} cannot be used: {reason}")]
    Invalid {
        /// Which.
        digest: ImageDigest,
        /// Why.
        reason: InvalidImage,
    },
    /// A part of it is not in the blobs, or not what it was, or the blobs cannot be asked.
    #[error("a part of the image {digest} cannot be read: {error}")]
    Part {
        /// Of which image.
        digest: ImageDigest,
        /// What is wrong.
        error: BlobError,
    },
    /// An archive that does not say what its image is called.
    #[error("the archive does not say what its image is called")]
    Nameless,
    /// One name for several images.
    #[error("the archive has {0} images, which cannot all have one name")]
    OneNameForMany(usize),
    /// The state cannot be asked or changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The blobs cannot be asked or changed.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// Others changed the group's images again and again.
    #[error("the group's images were changed again and again meanwhile")]
    Unsettled,
}
