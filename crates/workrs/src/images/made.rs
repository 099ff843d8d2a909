//! Images that tests make up.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use workrs_core::image::{Image, ImageDigest, ImageManifest};
use workrs_engine::image::source::ImageSink;

use super::{Found, ImageError, Origin};

fn digest_of(bytes: &[u8]) -> ImageDigest {
    ImageDigest::of_sha256(Sha256::digest(bytes))
}

/// An image as a test makes it up: its layers are no archives, which nobody here looks at.
pub(crate) struct Made {
    pub(crate) image: Image,
    pub(crate) name: String,
    /// With their content, the manifest last.
    pub(crate) parts: Vec<(ImageDigest, Bytes)>,
    /// Parts that it had to bring.
    pub(crate) brought: AtomicUsize,
    /// It takes a manifest that is there for proof of the rest.
    pub(crate) trusts_manifest: bool,
}

impl Made {
    pub(crate) fn new(name: &str, layers: &[&[u8]]) -> Self {
        let mut parts: Vec<_> = layers.iter().map(|l| (digest_of(l), Bytes::copy_from_slice(l))).collect();
        let digests: Vec<_> = parts.iter().map(|(digest, _)| digest.clone()).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": { "Entrypoint": ["env"], "Cmd": ["true"] },
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let config = Bytes::from(config.to_string());
        let layer = |(digest, bytes): &(ImageDigest, Bytes)| {
            let kind = "application/vnd.oci.image.layer.v1.tar";
            serde_json::json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
        };
        let kind = "application/vnd.oci.image.config.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": { "mediaType": kind, "digest": digest_of(&config), "size": config.len() },
            "layers": parts.iter().map(layer).collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(manifest.to_string());
        let read = ImageManifest::read(&manifest).unwrap();
        let image = Image::read(digest_of(&manifest), &read, &config).unwrap();
        parts.push((digest_of(&config), config));
        parts.push((digest_of(&manifest), manifest));
        Self { image, name: name.to_owned(), parts, brought: AtomicUsize::new(0), trusts_manifest: false }
    }

    pub(crate) fn digest(&self) -> &ImageDigest {
        &self.image.digest
    }

    /// Parts that were brought since it was last asked.
    pub(crate) fn brought(&self) -> usize {
        self.brought.swap(0, Ordering::SeqCst)
    }
}

#[async_trait]
impl Origin for Made {
    async fn fetch(&self, sink: &dyn ImageSink) -> Result<Vec<Found>, ImageError> {
        let failed = |error: std::io::Error| ImageError::Unknown(error.to_string());
        let found = vec![Found { image: self.image.clone(), names: vec![self.name.clone()] }];
        if self.trusts_manifest && sink.has(self.digest()).await.map_err(failed)? {
            return Ok(found);
        }
        for (digest, bytes) in &self.parts {
            if !sink.has(digest).await.map_err(failed)? {
                sink.put(digest, bytes.len() as u64, &mut &bytes[..]).await.map_err(failed)?;
                self.brought.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(found)
    }
}
