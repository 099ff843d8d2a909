//! What fuzzers call of this module.

use workrs_core::{
    hash::ContentHash,
    keys::BlobNames,
    manifest::{Manifest, PackIndex},
};

use super::{
    form::{self, Written},
    pack::{self, ENTRY_BYTES, Entry},
    plan::Plan,
};

/// The index of a pack. The first byte is how many chunks a manifest says that it has.
pub fn pack_index(data: &[u8]) {
    if let Some((count, stored)) = data.split_first() {
        index(*count, stored);
    }
}

/// A manifest without its compression. Before it stands what is the index of each of its packs: a byte, which is the number
/// of chunks, and 40 bytes for each.
pub fn manifest(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else { return };
    let Some((stored, json)) = rest.split_at_checked(usize::from(*count) * ENTRY_BYTES as usize) else { return };
    let Some(entries) = index(*count, stored) else { return };
    match form::parse(json) {
        Ok(Written::Whole(manifest)) => plan(&manifest),
        Ok(Written::Runs { manifest, runs }) => {
            let packs = vec![entries; manifest.packs.len()];
            if let Some(manifest) = form::expand(manifest, &runs, &packs) {
                plan(&manifest);
            }
        }
        Err(_) => {}
    }
}

fn index(count: u8, stored: &[u8]) -> Option<Vec<Entry>> {
    let index = PackIndex { chunks: count.into(), bytes: stored.len() as u64, hash: ContentHash::of(stored) };
    let entries = pack::decode_index(stored, &index)?;
    assert_eq!(entries.len(), usize::from(count));
    Some(entries)
}

/// Whatever is planned lies within the files that it makes.
fn plan(manifest: &Manifest) {
    let Ok(plan) = Plan::new(manifest, &BlobNames(&manifest.job), manifest.id) else { return };
    for read in &plan.reads {
        assert!(read.range.start < read.range.end && manifest.packs.contains(&read.pack));
    }
    for content in manifest.contents() {
        for chunk in &content.chunks {
            assert!(chunk.at + u64::from(chunk.len) <= content.len);
        }
    }
}
