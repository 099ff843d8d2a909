//! Pulls from registries that speak the
//! [OCI distribution specification](https://github.com/opencontainers/distribution-spec), by `oci-client`.
//!
//! - `client`: asks one registry for one repository, and says in our words what is wrong.
//! - `credentials`: who we are there.
//! - `layer`: a layer's bytes, resumed where they broke off.

mod client;
mod credentials;
mod layer;

use futures::{StreamExt, TryStreamExt, stream};
use workrs_core::image::{Image, ImageDigest};

use self::client::Registry;
use super::{
    ImageSink, PullOptions, Reference,
    error::SourceError,
    part::{MANIFEST, Part, digest_of},
    platform::{Document, MAX_DEPTH, Manifest, choose, no_architecture},
};

/// How many layers of an image come at the same time.
const LAYERS_AT_ONCE: usize = 3;

/// A manifest as the registry gave it.
struct Found {
    digest: ImageDigest,
    bytes: Vec<u8>,
    manifest: Manifest,
}

pub(super) async fn pull(
    reference: &Reference,
    options: &PullOptions,
    sink: &dyn ImageSink,
) -> Result<Image, SourceError> {
    let registry = Registry::new(reference, options).await?;
    let found = find(&registry, reference).await?;
    let config = found.manifest.config();
    let config_bytes = registry.configuration(&config).await?;
    let image = found.manifest.image(&reference.familiar(), found.digest.clone(), &config_bytes)?;

    if !config.is_in(sink).await? {
        config.put_bytes(&config_bytes, sink).await?;
    }
    let layers = found.manifest.layers();
    // Collected first: futures that a closure makes of references on the way keep this one from being sent between threads.
    let brought: Vec<_> = layers.iter().map(|layer| bring(&registry, layer, sink)).collect();
    stream::iter(brought).buffer_unordered(LAYERS_AT_ONCE).try_collect::<()>().await?;
    let manifest = Part { kind: MANIFEST, digest: found.digest, bytes: found.bytes.len() as u64 };
    if !manifest.is_in(sink).await? {
        manifest.put_bytes(&found.bytes, sink).await?;
    }
    Ok(image)
}

pub(super) async fn resolve(reference: &Reference, options: &PullOptions) -> Result<ImageDigest, SourceError> {
    let registry = Registry::new(reference, options).await?;
    Ok(find(&registry, reference).await?.digest)
}

async fn bring(registry: &Registry, layer: &Part, sink: &dyn ImageSink) -> Result<(), SourceError> {
    if layer.is_in(sink).await? {
        return Ok(());
    }
    layer.put(&mut Box::pin(registry.layer(layer)), sink).await
}

/// The manifest for this host, through lists of manifests if need be.
async fn find(registry: &Registry, reference: &Reference) -> Result<Found, SourceError> {
    let name = reference.familiar();
    let mut bytes = registry.manifest(None).await?;
    for _ in 0..=MAX_DEPTH {
        let entry = match Document::read(&name, &bytes)? {
            Document::Manifest(manifest) => return Ok(Found { digest: digest_of(&bytes), bytes, manifest }),
            Document::Index(entries) => choose(&name, &entries)?.clone(),
        };
        let part = Part { kind: MANIFEST, digest: entry.digest, bytes: entry.size };
        bytes = registry.manifest(Some(&part)).await?;
    }
    Err(no_architecture(&name, vec!["lists of lists of manifests".to_owned()]))
}
