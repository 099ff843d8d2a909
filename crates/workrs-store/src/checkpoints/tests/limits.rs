//! A checkpoint never writes more than it may.

use super::*;

/// Stores with a limit; whether that was enough.
async fn check(blobs: &Blobs, capture: &Capture, limit: u64) -> bool {
    let checkpoints = Checkpoints::new(blobs.clone());
    match capture.store_on(&checkpoints, id(1, 1), "op", None, Some(limit)).await {
        Ok(stored) => {
            assert!(stored.uploaded_bytes <= limit);
            true
        }
        Err(error) => {
            assert_eq!(error, CheckpointError::OverLimit { limit_bytes: limit });
            assert_eq!(checkpoint_blobs(blobs).await, [], "nothing of it can be seen");
            false
        }
    }
}

#[tokio::test]
async fn pack_and_manifest_count() {
    let (_, checkpoints) = in_memory();
    let capture = Capture::typical();
    let needed = capture.store(&checkpoints, id(1, 1), "op").await.unwrap().uploaded_bytes;
    for (limit, expect) in [(0, false), (1000, false), (needed - 1, false), (needed, true), (u64::MAX, true)] {
        let (blobs, _) = in_memory();
        assert_eq!(check(&blobs, &capture, limit).await, expect, "{limit} of {needed}");
    }
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
    // More than one part of an upload.
    let capture = Capture::new(&[("pages", noise(1, 20 << 20))], 0, &[]);
    assert!(!check(&blobs, &capture, 17 << 20).await);
    Checkpoints::new(blobs).collect(&job(), &[], Epoch(1), None).await.unwrap();
    assert_eq!(files_below(folder.path()), 0);
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}
