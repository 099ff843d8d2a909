//! What was stored comes back bit for bit, and what cannot be stored is refused.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;
use crate::checkpoints::cut::{BLOCK_BYTES, PAGE_BYTES};

#[tokio::test]
async fn a_checkpoint_comes_back_with_all_that_was_said_of_it() {
    let root = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&format!("file://{}", root.path().join("blobs").display())).unwrap();
    let checkpoints = Checkpoints::new(blobs.clone());
    let capture = Capture::typical();
    let stored = capture.store(&checkpoints, id(2, 3), "op").await.unwrap();
    assert_eq!(stored.manifest.name, "jobs/job/checkpoints/2-3-op.manifest");
    let listed = blobs.list("").await.unwrap();
    assert_eq!(listed.iter().map(|(_, len)| len).sum::<u64>(), stored.uploaded_bytes);

    let into = root.path().join("into");
    let manifest = fetch(&checkpoints, id(2, 3), &stored.manifest, &into).await.unwrap();
    capture.assert_equals(&into);
    assert_eq!((manifest.run_ms, manifest.log_bytes, manifest.mode), (11, 22, CheckpointMode::Full));
    assert_eq!((manifest.needs.clone(), manifest.size_bytes()), (needs(), stored.size_bytes));
    assert_eq!(manifest.packs, ["jobs/job/checkpoints/2-3-op.pack"]);
    for (path, mode) in [("", 0o700), ("memory", 0o700), ("memory/pages", 0o600), ("disk", 0o600)] {
        assert_eq!(into.join(path).metadata().unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
    let allocated = into.join("disk").metadata().unwrap().blocks() * 512;
    assert!(allocated < 1 << 20, "the disk has holes: {allocated} bytes");
}

#[tokio::test]
async fn equal_chunks_are_stored_once_and_zeros_not_at_all() {
    let (_, checkpoints) = in_memory();
    let (page, block) = (noise(1, PAGE_BYTES as usize), noise(2, BLOCK_BYTES as usize));
    let zeros_within = [page.clone(), vec![0; 5 * PAGE_BYTES as usize], page.clone()].concat();
    let files = [("a", page.repeat(3)), ("b", page.clone()), ("zeros", vec![0; 1 << 20]), ("within", zeros_within)];
    let capture = Capture::new(&files, 10 << 20, &[(4 * BLOCK_BYTES, block), (1 << 20, vec![0; 1 << 20])]);
    let stored = capture.store(&checkpoints, id(1, 1), "op").await.unwrap();
    let contents = &stored.contents;
    assert_eq!(contents.chunks_end(0), Some(PAGE_BYTES + BLOCK_BYTES), "two chunks that cannot be shortened");
    assert_eq!(contents.pack_indexes[0].chunks, 2);
    assert_eq!(stored.size_bytes, 6 * PAGE_BYTES + BLOCK_BYTES);
    capture.assert_fetched(&checkpoints, id(1, 1), &stored.manifest).await;
}

#[tokio::test]
async fn a_capture_without_data_has_no_pack() {
    let (blobs, checkpoints) = in_memory();
    let capture = Capture::new(&[("empty", vec![])], 1 << 20, &[]);
    let stored = capture.store(&checkpoints, id(1, 1), "op").await.unwrap();
    assert_eq!(blobs.list("").await.unwrap().len(), 1);
    let into = tempfile::tempdir().unwrap();
    fetch(&checkpoints, id(1, 1), &stored.manifest, into.path()).await.unwrap();
    capture.assert_equals(into.path());
}

#[tokio::test]
async fn a_capture_of_another_form_is_refused_and_leaves_no_blob() {
    let (blobs, checkpoints) = in_memory();
    let with_folder = Capture::typical();
    std::fs::create_dir(with_folder.folder.path().join("memory/sub")).unwrap();
    let with_link = Capture::typical();
    symlink("/etc/passwd", with_link.folder.path().join("memory/link")).unwrap();
    let without_disk = Capture::typical();
    std::fs::remove_file(without_disk.folder.path().join("disk")).unwrap();
    for capture in [with_folder, with_link, without_disk] {
        let refused = capture.store(&checkpoints, id(1, 1), "op").await;
        assert!(matches!(refused, Err(CheckpointError::Capture(_))), "{refused:?}");
        assert_eq!(blobs.list("").await, Ok(Vec::new()));
    }
}

/// Files of up to a few chunks and a sparse disk, with lengths around the chunk's.
fn captures() -> impl Strategy<Value = Capture> {
    let bytes = || {
        let len = prop_oneof![0usize..200, 16_300usize..16_500, 4_000usize..4_200, 0usize..200_000];
        (len, 0u64..4, 0u8..3).prop_map(|(len, seed, kind)| match kind {
            0 => noise(seed, len),
            1 => vec![seed as u8; len],
            _ => b"compressible ".iter().copied().cycle().take(len).collect(),
        })
    };
    let files = prop::collection::vec(bytes(), 0..4);
    let extents = prop::collection::vec((0u64..2_000_000, bytes()), 0..6);
    (files, 0u64..2_000_000, extents).prop_map(|(files, len, extents)| {
        let names = ["a", "b.img", "pages-1.img", "c"];
        let files: Vec<_> = names.into_iter().zip(files).collect();
        Capture::new(&files, len, &extents)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_capture_comes_back_bit_for_bit(capture in captures()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_, checkpoints) = in_memory();
            let stored = capture.store(&checkpoints, id(1, 1), "op").await.unwrap();
            let into = tempfile::tempdir().unwrap();
            fetch(&checkpoints, id(1, 1), &stored.manifest, into.path()).await.unwrap();
            capture.assert_equals(into.path());
        });
    }
}
