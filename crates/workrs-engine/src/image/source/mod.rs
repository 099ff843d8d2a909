//! Where images come from: [`pull`] asks a registry, [`import`] reads an archive. Both hand what they find to an
//! [`ImageSink`], part by part.
//!
//! Registries and archives are not trusted. A part is named by the SHA-256 of its bytes, and the reader that a sink gets
//! fails at its end unless they are just those; lengths, counts and what decompression yields are bounded; names inside
//! an archive are looked up, never written to.
//!
//! - [`reference`]: names of images, as Docker writes them.
//! - [`error`]: all that can go wrong, and what to do about it.
//! - `platform`: manifests, and which of several is for this host.
//! - `part`: one part on its way into a sink.
//! - `registry`: pulls.
//! - `archive`: imports.

mod archive;
pub mod error;
pub(crate) mod fuzz;
mod part;
mod platform;
pub mod reference;
#[cfg(feature = "registry")]
mod registry;

use std::{fmt, io, path::Path, path::PathBuf, time::Duration};

use async_trait::async_trait;
use tokio::io::AsyncRead;
use workrs_core::image::{Image, ImageDigest};

pub use self::{
    error::SourceError,
    reference::{InvalidReference, Reference},
};

/// Where the parts of an image go as they are found.
#[async_trait]
pub trait ImageSink: Send + Sync {
    /// Whether the part is there already, so that it need not be brought again.
    async fn has(&self, digest: &ImageDigest) -> io::Result<bool>;

    /// Takes a part (a manifest, a configuration, a layer) of `bytes` length. `content` fails at its end if it is not what
    /// `digest` says, or longer or shorter: then nothing may remain. So it must be read to its end.
    async fn put(
        &self,
        digest: &ImageDigest,
        bytes: u64,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> io::Result<()>;
}

/// How to ask a registry.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Registries (`host` or `host:port`, as references name them) that are asked without TLS. Those on this host's loopback
    /// always are.
    pub insecure_registries: Vec<String>,
    /// Shown to the registry instead of what Docker's configuration has for it.
    pub credentials: Option<Credentials>,
    /// The folder of Docker's `config.json`; `None` means `$DOCKER_CONFIG` or `~/.docker`, as for Docker.
    pub docker_config: Option<PathBuf>,
    /// A registry that is silent for so long is asked again, and given up after some times. A slow one is not.
    pub patience: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            credentials: None,
            docker_config: None,
            patience: Duration::from_secs(30),
        }
    }
}

/// A user of a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password, or a token that takes its place.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// An image that an archive had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The image.
    pub image: Image,
    /// The names that the archive has for it, in full, each once; there may be none.
    pub names: Vec<String>,
}

/// Brings the image that `reference` names, for this host's architecture, from its registry into `sink`. Configuration and
/// layers go first and the manifest last, so an image whose manifest is there is there as a whole. Parts that the sink has
/// are not brought again.
#[cfg_attr(not(feature = "registry"), allow(clippy::unused_async, reason = "it is async where there are registries"))]
pub async fn pull(reference: &Reference, options: &PullOptions, sink: &dyn ImageSink) -> Result<Image, SourceError> {
    #[cfg(feature = "registry")]
    return registry::pull(reference, options, sink).await;
    #[cfg(not(feature = "registry"))]
    {
        let _ = (options, sink);
        Err(SourceError::NotBuilt { reference: reference.to_string() })
    }
}

/// The digest of the manifest that `reference` has now for this host's architecture: the one of the [`Image`] that [`pull`]
/// would give.
#[cfg_attr(not(feature = "registry"), allow(clippy::unused_async, reason = "it is async where there are registries"))]
pub async fn resolve(reference: &Reference, options: &PullOptions) -> Result<ImageDigest, SourceError> {
    #[cfg(feature = "registry")]
    return registry::resolve(reference, options).await;
    #[cfg(not(feature = "registry"))]
    {
        let _ = options;
        Err(SourceError::NotBuilt { reference: reference.to_string() })
    }
}

/// Brings the images that an archive has for this host's architecture into `sink`: at least one, or it fails. The file is one
/// of `docker save`, an OCI layout, or a root file system, which becomes the only layer of an image without names; each as
/// tar, which may be compressed with gzip or zstd. The same file always gives the same images.
pub async fn import(archive: &Path, sink: &dyn ImageSink) -> Result<Vec<Imported>, SourceError> {
    archive::import(archive, sink).await
}
