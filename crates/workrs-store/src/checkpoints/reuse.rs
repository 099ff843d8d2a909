//! Which chunks of a base are named again, and which of its packs are given up: pure.
//!
//! **Bound.** What a chunk costs is its stored bytes and its entry in the pack's index; what a manifest M *names* is
//! the cost of its chunks, and what it *holds* is the cost of all chunks in its packs. [`packs_to_rewrite`] gives up
//! packs until the new manifest holds at most twice what it names. It may need to, and then it can: were all given
//! up, it would hold only its own pack, which has no chunk that it does not name.
//! Let N be stored on M, and both be kept. The packs of N are among those of M and N's own, so both together hold what M holds
//! and N's own pack. All of that is named by N and by no other: held(M, N) = held(M) + own(N) ≤ 2 · named(M) + own(N)
//! ≤ 2 · named(M, N). A manifest that was stored without a base adds only its own pack. Packs that neither of the kept
//! two names are deleted by the collection that follows a commit.
//!
//! Damaged chunks are never named, so a pack that has many of them is given up like one whose chunks died.

use std::collections::{HashMap, HashSet};

use workrs_core::{
    hash::ContentHash,
    manifest::{Content, Manifest},
    ranges::ByteRanges,
};

use super::{
    Base,
    cut::BLOCK_BYTES,
    pack::{ENTRY_BYTES, Entry},
};

/// The most packs that a manifest names: each is a read at least when it is brought back.
const MAX_PACKS: usize = 64;
/// Packs of the base that stay when there would be more than [`MAX_PACKS`]. So packs are joined once in many
/// checkpoints, and these are the smallest.
const PACKS_THAT_STAY: usize = 32;

/// The chunks of a base that can be named again.
pub(super) struct Reuse<'a> {
    base: Option<&'a Manifest>,
    chunks: HashMap<ContentHash, Reusable>,
}

struct Reusable {
    pack: u32,
    entry: Entry,
    named: bool,
}

impl<'a> Reuse<'a> {
    /// All that `base` names, but for what is damaged.
    pub(super) fn new(base: Option<&'a Base>) -> Self {
        // Packs without an index are of before packs were reused.
        let base = base.filter(|base| base.manifest.pack_indexes.len() == base.manifest.packs.len());
        let mut chunks = HashMap::new();
        if let Some(Base { manifest, damaged, .. }) = base {
            for chunk in manifest.contents().flat_map(|content| &content.chunks) {
                if !damaged.contains(&chunk.hash) {
                    let entry = Entry { hash: chunk.hash, len: chunk.len, offset: chunk.offset, stored: chunk.stored };
                    chunks.entry(chunk.hash).or_insert(Reusable { pack: chunk.pack, entry, named: false });
                }
            }
        }
        Self { base: base.map(|base| &*base.manifest), chunks }
    }

    /// The base, if there is one that chunks can be taken from.
    pub(super) fn base(&self) -> Option<&'a Manifest> {
        self.base
    }

    /// Names a chunk again; `false` if the base does not have it.
    pub(super) fn name(&mut self, hash: &ContentHash, len: u32) -> bool {
        let found = self.chunks.get_mut(hash).filter(|chunk| chunk.entry.len == len);
        found.map(|chunk| chunk.named = true).is_some()
    }

    /// Where a chunk of the base is stored.
    pub(super) fn find(&self, hash: &ContentHash) -> Option<(u32, Entry)> {
        self.chunks.get(hash).map(|chunk| (chunk.pack, chunk.entry))
    }

    /// The chunks of the base's image `name` that an image of `len` bytes has too, and what of it has to be read:
    /// ranges of whole blocks, or up to the end.
    pub(super) fn image(&mut self, name: &str, len: u64, changed: Option<&ByteRanges>) -> Unchanged {
        let base = self.base.and_then(|base| base.image(name));
        let base = base.filter(|content| content.len == len && is_in_blocks(content));
        let (Some(base), Some(changed)) = (base, changed) else {
            return Unchanged { chunks: Vec::new(), read: std::iter::once(0..len).collect() };
        };
        let in_blocks = changed.iter().map(|range| {
            let start = range.start / BLOCK_BYTES * BLOCK_BYTES;
            start..range.end.min(len).next_multiple_of(BLOCK_BYTES).min(len)
        });
        let changed: ByteRanges = in_blocks.collect();
        let mut unchanged = Vec::new();
        let mut lost = Vec::new();
        for chunk in &base.chunks {
            let range = chunk.at..chunk.at + u64::from(chunk.len);
            if changed.intersects(range.clone()) {
                continue;
            }
            if self.name(&chunk.hash, chunk.len) {
                unchanged.push((chunk.at, chunk.len, chunk.hash));
            } else {
                lost.push(range);
            }
        }
        Unchanged { chunks: unchanged, read: changed.union(&lost.into_iter().collect()) }
    }

    /// The hashes of the chunks that were named but have to be stored anew, because their packs are given up. `new` is
    /// what the new pack costs so far.
    pub(super) fn to_store_anew(&self, new: u64) -> HashSet<ContentHash> {
        let Some(manifest) = self.base else { return HashSet::new() };
        let mut packs: Vec<_> = (0..manifest.packs.len()).map(|pack| PackCost::of(manifest, pack)).collect();
        for chunk in self.chunks.values().filter(|chunk| chunk.named) {
            packs[chunk.pack as usize].live += u64::from(chunk.entry.stored) + ENTRY_BYTES;
        }
        let given_up = packs_to_rewrite(&packs, new);
        let anew = self.chunks.values().filter(|chunk| chunk.named && given_up[chunk.pack as usize]);
        anew.map(|chunk| chunk.entry.hash).collect()
    }
}

/// What an image has in common with the base's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unchanged {
    /// Place, length and hash.
    pub(super) chunks: Vec<(u64, u32, ContentHash)>,
    /// All that may be something else.
    pub(super) read: ByteRanges,
}

/// Whether an image was cut as it is now: only then a block without a chunk is known to be zeros.
fn is_in_blocks(content: &Content) -> bool {
    content.chunks.iter().all(|chunk| {
        chunk.at % BLOCK_BYTES == 0 && u64::from(chunk.len) == BLOCK_BYTES.min(content.len.saturating_sub(chunk.at))
    })
}

/// What the chunks of a pack cost, and what those of them cost that are still named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PackCost {
    all: u64,
    live: u64,
}

impl PackCost {
    fn of(manifest: &Manifest, pack: usize) -> Self {
        let entries = manifest.pack_indexes.get(pack).map_or(0, |index| u64::from(index.chunks) * ENTRY_BYTES);
        Self { all: manifest.chunks_end(pack).unwrap_or(0) + entries, live: 0 }
    }

    fn live_part(&self) -> f64 {
        self.live as f64 / self.all as f64
    }
}

/// For each pack of the base, whether none of its chunks may be named any more: the ones with the smallest live part,
/// until what is held is at most twice what is named, and the smallest when a manifest would name more than
/// [`MAX_PACKS`]. `new` is the cost of chunks that are new anyway.
fn packs_to_rewrite(packs: &[PackCost], new: u64) -> Vec<bool> {
    let mut rewrite: Vec<bool> = packs.iter().map(|pack| pack.live == 0).collect();
    let mut stay: Vec<usize> = (0..packs.len()).filter(|pack| !rewrite[*pack]).collect();
    let named = new + packs.iter().map(|pack| pack.live).sum::<u64>();
    let mut held = new + stay.iter().map(|pack| packs[*pack].all).sum::<u64>();
    let mut has_new = new > 0;
    // The most live first, so that the least live is given up next.
    stay.sort_by(|a, b| packs[*b].live_part().total_cmp(&packs[*a].live_part()));
    while held > 2 * named
        && let Some(pack) = stay.pop()
    {
        held -= packs[pack].all.saturating_sub(packs[pack].live);
        (rewrite[pack], has_new) = (true, true);
    }
    if stay.len() + usize::from(has_new) > MAX_PACKS {
        stay.sort_by_key(|pack| packs[*pack].live);
        let surplus = stay.len() - PACKS_THAT_STAY;
        stay.into_iter().take(surplus).for_each(|pack| rewrite[pack] = true);
    }
    rewrite
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(packs: &[(u64, u64)], new: u64, expect: &[usize]) {
        let packs: Vec<_> = packs.iter().map(|(all, live)| PackCost { all: *all, live: *live }).collect();
        let rewrite = packs_to_rewrite(&packs, new);
        let rewritten: Vec<_> = (0..packs.len()).filter(|pack| rewrite[*pack]).collect();
        assert_eq!(rewritten, expect);
    }

    #[test]
    fn as_many_packs_are_rewritten_as_the_bound_needs() {
        check(&[], 1, &[]);
        check(&[(10, 10), (10, 5), (10, 0)], 0, &[2]);
        check(&[(10, 5)], 0, &[]);
        check(&[(10, 4)], 0, &[0]);
        // New chunks make up for dead ones.
        check(&[(10, 4)], 2, &[]);
        check(&[(10, 3), (100, 45), (10, 4)], 5, &[0, 2]);
        check(&[(100, 49), (10, 1), (10, 2)], 0, &[1, 2]);
        // What is live of a pack that is given up is still held, in the new one.
        check(&[(10, 3), (30, 13)], 0, &[0, 1]);
    }

    #[test]
    fn too_many_packs_are_joined_the_smallest_first() {
        let packs: Vec<_> = (0..64).map(|number| (100 + number, 100 + number)).collect();
        check(&packs, 0, &[]);
        check(&packs, 1, &(0..32).collect::<Vec<_>>());
        // A pack that is given up makes room, unless what it has goes into a new one.
        let dying = |all, live| packs.iter().copied().skip(1).chain([(all, live)]).collect::<Vec<_>>();
        check(&dying(10, 0), 1, &[63]);
        check(&[dying(20_000, 4), vec![(7, 7)]].concat(), 0, &[(0..31).collect(), vec![63, 64]].concat());
        check(&[dying(10, 0), vec![(7, 7)]].concat(), 0, &[63]);
    }
}
