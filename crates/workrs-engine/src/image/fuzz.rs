//! What fuzzers call of this module. Not an interface.

use std::path::Path;

use sha2::{Digest, Sha256};
use workrs_core::image::{Compression, ImageDigest, Layer};

use super::unpack::{Limits, unpack};

/// Unpacks a layer into the empty folder `folder`. The first byte tells its compression; its digests are right, as those of
/// any image are that somebody made on purpose.
pub fn layer(data: &[u8], folder: &Path) {
    let Some((kind, stored)) = data.split_first() else { return };
    let compression = match kind % 3 {
        0 => Compression::None,
        1 => Compression::Gzip,
        _ => Compression::Zstd,
    };
    let digest = ImageDigest::of_sha256(Sha256::digest(stored));
    let layer = Layer { digest: digest.clone(), diff_id: digest, bytes: stored.len() as u64, compression };
    // Enough for all that a fuzzer tries; what is larger is another branch of the same code.
    let limits = Limits { bytes: 1 << 22, entries: 1_000 };
    // Whether it can be unpacked is not the question, but what becomes of the rest of the machine.
    let _outcome = unpack(stored, &layer, folder, &limits);
}
