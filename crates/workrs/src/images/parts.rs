//! The parts of images in blobs: written once, read by whoever runs a job.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::StreamReader;
use workrs_core::{
    image::{Image, ImageDigest, ImageManifest, Layer},
    keys,
};
use workrs_engine::{LayerSource, image::source::ImageSink};
use workrs_store::blobs::{BlobError, Blobs};

use super::{ImageError, Images};

/// The longest manifest and configuration.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Bytes that are gathered before they are written.
const PIECE: usize = 1 << 20;
/// Bytes of a layer that are asked for at once, and how many such requests are under way: memory is bounded by both.
const RANGE: u64 = 4 << 20;
const RANGES_AT_ONCE: usize = 2;

impl Images {
    /// Reads what an image consists of, down to the digests that lead to it.
    pub async fn read(&self, digest: &ImageDigest) -> Result<Image, ImageError> {
        let invalid = |reason| ImageError::Invalid { digest: digest.clone(), reason };
        let failed = |error| ImageError::Part { digest: digest.clone(), error };
        let manifest = document(&self.blobs, digest).await.map_err(failed)?;
        let manifest = ImageManifest::read(&manifest).map_err(invalid)?;
        let config = document(&self.blobs, &manifest.config.digest).await.map_err(failed)?;
        Image::read(digest.clone(), &manifest, &config).map_err(invalid)
    }

    /// The layers of its images, for an engine.
    pub fn layers(&self) -> Layers {
        Layers { blobs: self.blobs.clone(), failure: Arc::default() }
    }
}

/// Reads a manifest or a configuration, verified.
async fn document(blobs: &Blobs, digest: &ImageDigest) -> Result<Bytes, BlobError> {
    let name = keys::image_blob(digest);
    if blobs.len_of(&name).await? > MAX_DOCUMENT {
        return Err(BlobError::Mismatch(name));
    }
    let bytes = blobs.get_unverified(&name).await?;
    if ImageDigest::of_sha256(Sha256::digest(&bytes)) == *digest { Ok(bytes) } else { Err(BlobError::Mismatch(name)) }
}

/// Whether a part is in the blobs.
pub(super) async fn is_there(blobs: &Blobs, digest: &ImageDigest) -> Result<bool, BlobError> {
    match blobs.len_of(&keys::image_blob(digest)).await {
        Ok(_) => Ok(true),
        Err(BlobError::Missing(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts parts into the blobs.
pub(super) struct Sink {
    pub(super) blobs: Blobs,
    /// Brings also what is there already.
    pub(super) anew: bool,
}

#[async_trait]
impl ImageSink for Sink {
    async fn has(&self, digest: &ImageDigest) -> io::Result<bool> {
        if self.anew { Ok(false) } else { is_there(&self.blobs, digest).await.map_err(to_io) }
    }

    async fn put(
        &self,
        digest: &ImageDigest,
        bytes: u64,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> io::Result<()> {
        let name = keys::image_blob(digest);
        let mut writer = self.blobs.writer(&name);
        let copied = async {
            let mut len = 0;
            let mut buffer = BytesMut::with_capacity(PIECE);
            loop {
                let read = content.read_buf(&mut buffer).await?;
                len += read as u64;
                if read == 0 || buffer.len() >= PIECE {
                    writer.write(buffer.split().freeze()).await.map_err(to_io)?;
                    buffer.reserve(PIECE);
                }
                if read == 0 {
                    return Ok(len);
                }
            }
        };
        match copied.await {
            Ok(len) if len == bytes => writer.finish().await.map(drop).map_err(to_io),
            Ok(len) => {
                give_up(writer).await;
                let text = format!("{digest} has {len} bytes and should have {bytes}");
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            Err(error) => {
                give_up(writer).await;
                Err(error)
            }
        }
    }
}

async fn give_up(writer: workrs_store::blobs::BlobWriter) {
    if let Err(error) = writer.abort().await {
        tracing::debug!(%error, "what was written of a part of an image stays until it is swept");
    }
}

/// The layers of a group's images. It remembers why it could not give one, which the engine's words do not tell.
#[derive(Clone)]
pub struct Layers {
    blobs: Blobs,
    failure: Arc<Mutex<Option<BlobError>>>,
}

impl Layers {
    /// Why the last layer that could not be read could not be.
    pub fn take_failure(&self) -> Option<BlobError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, error: BlobError) -> io::Error {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        to_io(error)
    }
}

#[async_trait]
impl LayerSource for Layers {
    async fn open(&self, layer: &Layer) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let name = keys::image_blob(&layer.digest);
        let len = self.blobs.len_of(&name).await.map_err(|error| self.note(error))?;
        if len != layer.bytes {
            return Err(self.note(BlobError::Mismatch(name)));
        }
        let this = self.clone();
        let read = move |start: u64| {
            let (this, name) = (this.clone(), name.clone());
            async move {
                let range = start..(start + RANGE).min(len);
                this.blobs.get_range(&name, range).await.map_err(|error| this.note(error))
            }
        };
        let starts = (0..len.div_ceil(RANGE)).map(|number| number * RANGE);
        let pieces = stream::iter(starts).map(read).buffered(RANGES_AT_ONCE);
        Ok(Box::new(StreamReader::new(Box::pin(pieces))))
    }
}

/// The same as an I/O error, of which a full store can be told from others.
fn to_io(error: BlobError) -> io::Error {
    let kind = match &error {
        BlobError::Missing(_) => io::ErrorKind::NotFound,
        BlobError::Mismatch(_) => io::ErrorKind::InvalidData,
        BlobError::Full(_) => io::ErrorKind::StorageFull,
        BlobError::Unavailable(_) | BlobError::InvalidUrl(_) => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
