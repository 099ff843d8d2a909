//! Whatever a job does between its checkpoints, the two newest come back bit for bit, and hold little that is dead.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::checkpoints::{
    cut::{BLOCK_BYTES, PAGE_BYTES},
    pack::ENTRY_BYTES,
};

/// What a job does between two checkpoints.
#[derive(Debug, Clone)]
enum Step {
    /// Other pages, from this one on, with contents of this seed.
    Write { at: usize, pages: usize, seed: u64 },
    /// New pages in between.
    Insert { at: usize, pages: usize, seed: u64 },
    /// Pages go, often most of them.
    Remove { at: usize, pages: usize },
    /// The disk is written.
    Disk { at: u64, len: usize, seed: u64 },
    /// A hole is made in the disk.
    Discard { at: u64, len: usize },
}

const DISK_BYTES: u64 = 40 * BLOCK_BYTES + 1234;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (at, pages, seed) = (0usize..60, 1usize..40, 0u64..1000);
    let (place, len) = (0..DISK_BYTES, 1usize..100_000);
    let step = prop_oneof![
        (at.clone(), pages.clone(), seed.clone()).prop_map(|(at, pages, seed)| Step::Write { at, pages, seed }),
        (at, pages, seed.clone()).prop_map(|(at, pages, seed)| Step::Insert { at, pages, seed }),
        (0usize..20, 1usize..60).prop_map(|(at, pages)| Step::Remove { at, pages }),
        (place.clone(), len.clone(), seed).prop_map(|(at, len, seed)| Step::Disk { at, len, seed }),
        (place, len).prop_map(|(at, len)| Step::Discard { at, len }),
    ];
    prop::collection::vec(step, 0..5)
}

/// Contents of a page: zeros, noise or text.
fn page(seed: u64) -> Vec<u8> {
    match seed % 5 {
        0 => vec![0; PAGE_BYTES as usize],
        1 => format!("text {seed} ").bytes().cycle().take(PAGE_BYTES as usize).collect(),
        _ => noise(seed, PAGE_BYTES as usize),
    }
}

/// The job, as it is now.
struct Model {
    pages: Vec<Vec<u8>>,
    disk: Vec<u8>,
    changed: Vec<std::ops::Range<u64>>,
}

impl Model {
    fn new() -> Self {
        let mut disk = vec![0; DISK_BYTES as usize];
        disk[..100_000].copy_from_slice(&noise(7, 100_000));
        Self { pages: (0..50).map(|number| page(2000 + number)).collect(), disk, changed: Vec::new() }
    }

    fn apply(&mut self, step: &Step) {
        let count = self.pages.len();
        match step {
            Step::Write { at, pages, seed } => {
                for (page_at, seed) in (*at..(at + pages).min(count)).zip(*seed..) {
                    self.pages[page_at] = page(seed);
                }
            }
            Step::Insert { at, pages, seed } => {
                let at = (*at).min(count);
                self.pages.splice(at..at, (*seed..).take(*pages).map(page));
            }
            Step::Remove { at, pages } => drop(self.pages.drain((*at).min(count)..(at + pages).min(count))),
            Step::Disk { at, len, seed } => self.write(*at, &noise(*seed, *len)),
            Step::Discard { at, len } => self.write(*at, &vec![0; *len]),
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let end = (at + bytes.len() as u64).min(DISK_BYTES);
        self.disk[at as usize..end as usize].copy_from_slice(&bytes[..(end - at) as usize]);
        self.changed.push(at..end);
    }

    fn capture(&self) -> Capture {
        // What is zero becomes a hole.
        let blocks = (0u64..).zip(self.disk.chunks(4096)).filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        let extents: Vec<_> = blocks.map(|(number, block)| (number * 4096, block.to_vec())).collect();
        let files = [("pages-1.img", self.pages.concat()), ("core", noise(self.pages.len() as u64, 700))];
        Capture::new(&files, DISK_BYTES, &extents)
    }
}

/// What the packs hold that these manifests name, and what of it they name, as the bound counts it.
fn held_and_named(kept: &[Stored]) -> (u64, u64) {
    let (mut packs, mut chunks) = (HashSet::new(), HashSet::new());
    let (mut held, mut named) = (0, 0);
    for contents in kept.iter().map(|stored| &stored.contents) {
        for (number, name) in contents.packs.iter().enumerate() {
            if packs.insert(name) {
                held += contents.pack_bytes[number];
            }
        }
        for chunk in contents.contents().flat_map(|content| &content.chunks) {
            if chunks.insert((&contents.packs[chunk.pack as usize], chunk.offset)) {
                named += u64::from(chunk.stored) + ENTRY_BYTES;
            }
        }
    }
    (held, named)
}

/// Each list of steps leads to a checkpoint; where it says so, the newest one is bad and the one before is resumed.
async fn check(history: &[(Vec<Step>, bool)]) {
    let (blobs, checkpoints) = in_memory();
    let (mut model, mut kept) = (Model::new(), Vec::<(CheckpointId, Capture, Stored)>::new());
    for (seq, (steps, falls_back)) in (1..).zip(history) {
        if *falls_back && kept.len() == 2 {
            kept.pop();
            // It is not known what changed since the one before.
            model.changed = std::iter::once(0..DISK_BYTES).collect();
        }
        for step in steps {
            model.apply(step);
        }
        let mut capture = model.capture();
        let base = kept.last().map(|(_, _, stored)| base(stored));
        capture.changed = base.as_ref().map(|_| std::mem::take(&mut model.changed).into_iter().collect());
        let stored = capture.store_on(&checkpoints, id(1, seq), "op", base.as_ref(), None).await.unwrap();
        kept.push((id(1, seq), capture, stored));
        kept.drain(..kept.len().saturating_sub(2));
        let keep: Vec<_> = kept.iter().map(|(_, _, stored)| &stored.manifest).collect();
        let collected = checkpoints.collect(&job(), &keep, Epoch(1), None).await.unwrap();
        for (id, capture, stored) in &kept {
            capture.assert_fetched(&checkpoints, *id, &stored.manifest).await;
        }
        let both: Vec<_> = kept.iter().map(|(_, _, stored)| stored.clone()).collect();
        let (held, named) = held_and_named(&both);
        assert!(held <= 2 * named, "{held} bytes for {named}");
        let (held_by_newest, named_by_newest) = held_and_named(&both[both.len() - 1..]);
        assert!(held_by_newest <= 2 * named_by_newest, "{held_by_newest} bytes for {named_by_newest}");
        let manifests: u64 = keep.iter().map(|manifest| manifest.len).sum();
        assert_eq!(collected.kept_bytes, held + manifests, "nothing else is kept");
        let there: u64 = checkpoint_blobs(&blobs).await.iter().map(|(_, len)| len).sum();
        assert_eq!(there, collected.kept_bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_comes_back_and_holds_little_that_is_dead(
        history in prop::collection::vec((steps(), prop::bool::weighted(0.1)), 2..9),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&history));
    }
}
