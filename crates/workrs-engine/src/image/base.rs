//! What a container's root is made of.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use workrs_core::image::ImageDigest;

use super::{HostImage, ImageLayers, root};
use crate::mounts;

/// What a container's root is made of.
#[derive(Debug, Clone)]
pub(crate) enum Base {
    /// This node's `/usr`, read-only.
    Host(Arc<HostImage>),
    /// The layers of an image, under what the job changes.
    Image(ImageLayers),
}

impl Base {
    /// Notes that a job runs on it.
    pub(crate) fn mark_used(&self) {
        match self {
            Self::Host(image) => image.mark_used(),
            Self::Image(layers) => layers.mark_used(),
        }
    }

    /// This node's `/usr`, if that is what it is.
    pub(crate) fn host(&self) -> Option<&HostImage> {
        match self {
            Self::Host(image) => Some(image),
            Self::Image(_) => None,
        }
    }

    /// What is to be mounted at `/usr`, if anything.
    pub(crate) fn live_usr(&self) -> Option<&Path> {
        self.host().and_then(HostImage::live_usr)
    }

    /// The image's digest, if it is one.
    pub(crate) fn digest(&self) -> Option<&ImageDigest> {
        match self {
            Self::Host(_) => None,
            Self::Image(layers) => Some(&layers.digest),
        }
    }

    /// Mounts the root at `at`; what the job changes in it goes to the job disk mounted at `disk`.
    pub(crate) fn mount(&self, disk: &Path, at: &Path) -> std::io::Result<()> {
        match self {
            Self::Host(image) => mounts::bind_read_only(image.root(), at),
            Self::Image(layers) => root::mount(layers, disk, at),
        }
    }
}

/// Where the root of a container on a disk keeps what is known of its user.
pub(crate) fn user_file(disk: &Path) -> PathBuf {
    root::folder(disk).join("user.json")
}
