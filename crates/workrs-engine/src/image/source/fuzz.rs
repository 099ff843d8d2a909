//! What fuzzers call of this module. Not an interface.

use super::{
    part::digest_of,
    platform::{self, Document},
};

/// A manifest or a list of them; behind a zero byte stands the image's configuration.
pub fn documents(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (manifest, config) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    match Document::read("fuzz", manifest) {
        Ok(Document::Manifest(read)) => {
            let parts = read.layers();
            let Ok(image) = read.image("fuzz", digest_of(manifest), config) else { return };
            // Each layer is one of the parts; a part may be several layers.
            assert!(image.layers.iter().all(|layer| parts.iter().any(|part| part.digest == layer.digest)));
            assert!(parts.len() <= image.layers.len());
        }
        Ok(Document::Index(entries)) => drop(platform::choose("fuzz", &entries)),
        Err(error) => assert!(!error.hint().is_empty()),
    }
}
