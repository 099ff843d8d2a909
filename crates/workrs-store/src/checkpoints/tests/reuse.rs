//! What a base has is not stored again, and what it no longer needs does not stay for ever.

use workrs_core::manifest::{Content, Part};

use super::*;
use crate::checkpoints::cut::{BLOCK_BYTES, PAGE_BYTES};

const PAGE: usize = PAGE_BYTES as usize;
const BLOCK: usize = BLOCK_BYTES as usize;

/// A memory of pages with noise of these seeds.
fn memory(seeds: &[u64]) -> Capture {
    let pages: Vec<u8> = seeds.iter().flat_map(|seed| noise(*seed, PAGE)).collect();
    Capture::new(&[("pages", pages)], 0, &[])
}

/// A disk of eight blocks with noise of these seeds, 0 for a hole.
fn disk(seeds: [u64; 8]) -> Capture {
    let blocks = (0u64..).zip(seeds).filter(|(_, seed)| *seed != 0);
    let extents: Vec<_> = blocks.map(|(number, seed)| (number * BLOCK_BYTES, noise(seed, BLOCK))).collect();
    Capture::new(&[], 8 * BLOCK_BYTES, &extents)
}

fn changed(blocks: &[u64]) -> ByteRanges {
    // Anything in the block.
    blocks.iter().map(|number| number * BLOCK_BYTES + 77..number * BLOCK_BYTES + 78).collect()
}

/// Stores captures on each other, and demands of each that it comes back. Gives what was stored.
async fn chain(checkpoints: &Checkpoints, captures: &[Capture]) -> Vec<Stored> {
    let mut history: Vec<Stored> = Vec::new();
    for (seq, capture) in (1..).zip(captures) {
        let base = history.last().map(base);
        let stored = capture.store_on(checkpoints, id(1, seq), "op", base.as_ref(), None).await.unwrap();
        capture.assert_fetched(checkpoints, id(1, seq), &stored.manifest).await;
        history.push(stored);
    }
    history
}

/// The packs of a manifest by the number of their checkpoint, and the number of chunks in its own.
fn packs(stored: &Stored) -> (Vec<u64>, u32) {
    let contents = &stored.contents;
    let seqs: Vec<_> =
        contents.packs.iter().map(|name| workrs_core::keys::parse_checkpoint(name).unwrap().seq).collect();
    let own = seqs.iter().position(|seq| *seq == contents.id.seq);
    (seqs, own.map_or(0, |own| contents.pack_indexes[own].chunks))
}

#[tokio::test]
async fn only_pages_that_the_base_does_not_have_are_stored() {
    let (_, checkpoints) = in_memory();
    let captures =
        [&[1, 2, 3, 4, 5][..], &[1, 2, 3, 4, 5], &[1, 2, 9, 4, 5], &[0, 1, 2, 9, 9, 4], &[4, 2, 1]].map(memory);
    let history = chain(&checkpoints, &captures).await;
    let stored: Vec<_> = history.iter().map(packs).collect();
    assert_eq!(stored[0], (vec![1], 5));
    assert_eq!(stored[1], (vec![1], 0), "no new chunk, no new pack");
    assert_eq!(stored[2], (vec![1, 3], 1));
    assert_eq!(stored[3], (vec![1, 3, 4], 1), "pages that moved are found");
    assert_eq!(stored[4], (vec![1], 0), "packs that are not needed are not named");
    assert!(history[1].uploaded_bytes < 1000, "{}", history[1].uploaded_bytes);
    assert!(history[2].uploaded_bytes < 1000 + PAGE_BYTES, "{}", history[2].uploaded_bytes);
}

#[tokio::test]
async fn blocks_that_did_not_change_are_not_even_read() {
    let (_, checkpoints) = in_memory();
    let first = disk([1, 2, 0, 4, 0, 6, 7, 8]);
    let stored = first.store(&checkpoints, id(1, 1), "op").await.unwrap();
    let expected = disk([1, 0, 0, 14, 15, 6, 7, 8]);
    // In the blocks that are not said to have changed the file holds something else: it is not looked at.
    let mut second = disk([99, 0, 99, 14, 15, 99, 7, 0]);
    second.changed = Some(changed(&[1, 3, 4, 6]));
    let next = second.store_on(&checkpoints, id(1, 2), "op", Some(&base(&stored)), None).await.unwrap();
    expected.assert_fetched(&checkpoints, id(1, 2), &next.manifest).await;
    assert_eq!(packs(&next), (vec![1, 2], 2));
}

#[tokio::test]
async fn without_an_image_of_that_length_everything_may_have_changed() {
    let (_, checkpoints) = in_memory();
    let small = Capture::new(&[], 5 * BLOCK_BYTES, &[(0, noise(1, BLOCK))]);
    let in_pages = Capture::new(&[("disk", noise(1, BLOCK))], 8 * BLOCK_BYTES, &[]);
    let mut capture = disk([1, 2, 0, 4, 0, 6, 7, 8]);
    capture.changed = Some(changed(&[]));
    for (seq, other) in [(1, small), (3, in_pages)] {
        let stored = other.store(&checkpoints, id(1, seq), "op").await.unwrap();
        let mut base = base(&stored);
        if seq == 3 {
            // An image, but not cut as images are now.
            let mut manifest = (*stored.contents).clone();
            let Part::Folder { files, .. } = manifest.parts.remove(0) else { panic!("no folder") };
            let content = Content { len: 8 * BLOCK_BYTES, ..files[0].content.clone() };
            manifest.parts = vec![Part::Image { name: "disk".into(), content }];
            base = Base::new(Arc::new(manifest));
        }
        let next = capture.store_on(&checkpoints, id(1, seq + 1), "op", Some(&base), None).await.unwrap();
        capture.assert_fetched(&checkpoints, id(1, seq + 1), &next.manifest).await;
    }
    // Without a base there is nothing that it can be compared with.
    let stored = capture.store(&checkpoints, id(1, 9), "op").await.unwrap();
    capture.assert_fetched(&checkpoints, id(1, 9), &stored.manifest).await;
}

#[tokio::test]
async fn a_pack_of_which_little_is_live_is_rewritten() {
    let (_, checkpoints) = in_memory();
    let captures = [&[1, 2, 3, 4, 5, 6][..], &[1, 2, 3, 9], &[1, 2, 9], &[1, 9], &[1, 9]].map(memory);
    let history = chain(&checkpoints, &captures).await;
    let stored: Vec<_> = history.iter().map(packs).collect();
    assert_eq!(stored, [(vec![1], 6), (vec![1, 2], 1), (vec![2, 3], 2), (vec![2, 3], 0), (vec![2, 3], 0)]);

    // Of a disk, what did not change is read all the same.
    let mut captures =
        [disk([1, 2, 3, 4, 5, 6, 7, 8]), disk([1, 2, 0, 0, 0, 0, 0, 18]), disk([1, 2, 0, 0, 0, 0, 0, 18])];
    captures[1].changed = Some(changed(&[2, 3, 4, 5, 6, 7]));
    captures[2].changed = Some(changed(&[]));
    let stored: Vec<_> = chain(&checkpoints, &captures).await.iter().map(packs).collect();
    assert_eq!(stored, [(vec![1], 8), (vec![2], 3), (vec![2], 0)]);
}

#[tokio::test]
async fn a_disk_that_changed_where_it_must_not_have_is_refused_when_that_is_seen() {
    let (blobs, checkpoints) = in_memory();
    let stored = disk([1, 2, 3, 4, 5, 6, 7, 8]).store(&checkpoints, id(1, 1), "op").await.unwrap();
    let mut lie = disk([99, 2, 0, 0, 0, 0, 0, 0]);
    lie.changed = Some(changed(&[2, 3, 4, 5, 6, 7]));
    let refused = lie.store_on(&checkpoints, id(1, 2), "op", Some(&base(&stored)), None).await;
    assert!(
        matches!(&refused, Err(CheckpointError::Capture(reason)) if reason.contains("changed at 0")),
        "{refused:?}"
    );
    assert_eq!(checkpoint_blobs(&blobs).await.len(), 2, "nothing of it is left");
}

#[tokio::test]
async fn a_manifest_names_few_packs_however_long_the_history() {
    let (_, checkpoints) = in_memory();
    let captures: Vec<_> = (0..70).map(|step| memory(&(0..=step).collect::<Vec<_>>())).collect();
    let history = chain(&checkpoints, &captures).await;
    let counts: Vec<_> = history.iter().map(|stored| stored.contents.packs.len()).collect();
    assert_eq!(counts[..64], (1..=64).collect::<Vec<_>>());
    assert_eq!(counts[64..67], [33, 34, 35], "the smallest are joined");
}

#[tokio::test]
async fn a_base_of_another_job_is_none() {
    let (_, checkpoints) = in_memory();
    let capture = memory(&[1, 2, 3]);
    let mut other = (*capture.store(&checkpoints, id(1, 1), "op").await.unwrap().contents).clone();
    other.job = JobId::new("other").unwrap();
    let base = Base::new(Arc::new(other));
    let stored = capture.store_on(&checkpoints, id(1, 2), "op", Some(&base), None).await.unwrap();
    assert_eq!(packs(&stored), (vec![2], 3));
}

#[tokio::test]
async fn rechecks_go_round_all_packs_also_over_new_bases() {
    let (_, checkpoints) = in_memory();
    let captures = [&[1, 2, 3][..], &[1, 2, 3, 4], &[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6]].map(memory);
    let history = chain(&checkpoints, &captures).await;
    let mut now = base(&history[2]);
    for expected in [0, 1] {
        assert_eq!(now.next_to_check(), Some(expected));
        assert_eq!(checkpoints.recheck(&mut now).await, Ok(0));
    }
    let mut now = now.followed_by(Arc::clone(&history[3].contents));
    for expected in [2, 3, 0, 1] {
        assert_eq!(now.next_to_check(), Some(expected));
        assert_eq!(checkpoints.recheck(&mut now).await, Ok(0));
    }
    let empty = Capture::new(&[], 1 << 20, &[]).store(&checkpoints, id(1, 9), "op").await.unwrap();
    assert_eq!(checkpoints.recheck(&mut base(&empty)).await, Ok(0));
}
