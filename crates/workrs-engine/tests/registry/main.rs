//! Pulls from a real registry, and from hand-made ones that misbehave.
#![cfg(feature = "registry")]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../services/registry.rs"]
mod registry;
#[path = "../services/sink.rs"]
mod sink;

mod credentials;
mod damage;
mod misbehaving;
mod pulls;

use workrs_core::image::Image;
use workrs_engine::image::source::{PullOptions, Reference, SourceError, pull};

use self::sink::FolderSink;

/// Options under which nothing of this machine's configuration matters.
fn options() -> PullOptions {
    PullOptions { docker_config: Some("/nonexistent".into()), ..PullOptions::default() }
}

async fn pull_into(sink: &FolderSink, reference: &str, options: &PullOptions) -> Result<Image, SourceError> {
    pull(&Reference::parse(reference).unwrap(), options, sink).await
}

/// Pulls what must fail; the sink must then be without anything that is not whole, and without a manifest.
async fn refused(reference: &str, options: &PullOptions) -> SourceError {
    let sink = FolderSink::new();
    let error = pull_into(&sink, reference, options).await.unwrap_err();
    for name in sink.names() {
        let content = std::fs::read_to_string(sink.path(&name)).unwrap_or_default();
        assert_eq!(registry::digest_of(content.as_bytes()), format!("sha256:{name}"), "a part that is not whole");
        assert!(!content.contains("schemaVersion"), "the manifest of an image that is not all there");
    }
    assert!(!error.hint().is_empty());
    error
}
