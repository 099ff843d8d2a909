//! Stores and hosts that fail: never proof against a checkpoint, and everything can be tried again.

use object_store::memory::InMemory;

use super::*;
use crate::faulty::Fault;

#[tokio::test]
async fn a_store_that_cannot_be_asked_is_never_proof() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let capture = Capture::typical();
    let stored = capture.store(&faulty(&memory, &Faults::none()), id(1, 1), "op").await.unwrap();
    let faults = Faults::none();
    let into = tempfile::tempdir().unwrap();
    fetch(&faulty(&memory, &faults), id(1, 1), &stored.manifest, into.path()).await.unwrap();
    assert!(faults.count() >= 2);
    for number in 1..=faults.count() {
        for fault in [Fault::Refuse, Fault::LoseAnswer] {
            let into = tempfile::tempdir().unwrap();
            let checkpoints = faulty(&memory, &Faults::at(number, fault));
            let result = fetch(&checkpoints, id(1, 1), &stored.manifest, into.path()).await;
            assert!(matches!(result, Err(FetchError::Unavailable(_))), "{number} {fault:?}: {result:?}");
            // And the same folder serves for the next try.
            fetch(&checkpoints, id(1, 1), &stored.manifest, into.path()).await.unwrap();
            capture.assert_equals(into.path());
        }
    }
}

#[tokio::test]
async fn a_host_that_cannot_write_is_not_proof_either() {
    let (_, checkpoints) = in_memory();
    let stored = Capture::typical().store(&checkpoints, id(1, 1), "op").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let occupied = folder.path().join("occupied");
    std::fs::write(&occupied, b"a file").unwrap();
    let result = fetch(&checkpoints, id(1, 1), &stored.manifest, &occupied).await;
    assert!(matches!(result, Err(FetchError::Host(_))), "{result:?}");
}

#[tokio::test]
async fn storing_under_every_fault_errs_or_is_whole_and_can_be_repeated() {
    let capture = Capture::typical();
    let count = {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let faults = Faults::none();
        capture.store(&faulty(&memory, &faults), id(1, 1), "op").await.unwrap();
        faults.count()
    };
    assert_eq!(count, 4, "the pack, its index and chunks read back, the manifest");
    for number in 1..=count {
        for fault in [Fault::Refuse, Fault::LoseAnswer, Fault::CrashBefore, Fault::CrashAfter] {
            let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let faults = Faults::at(number, fault);
            let checkpoints = faulty(&memory, &faults);
            tokio::select! {
                result = capture.store(&checkpoints, id(1, 1), "op") => {
                    assert!(matches!(result, Err(CheckpointError::Blobs(BlobError::Unavailable(_)))), "{number} {fault:?}");
                }
                () = faults.crashed() => {}
            }
            let blobs = Blobs::new(Arc::clone(&memory));
            let left: Vec<_> = blobs.list("").await.unwrap().into_iter().map(|(name, _)| name).collect();
            let has = |suffix: &str| left.iter().any(|name| name.ends_with(suffix));
            assert!(has(PACK) || !has(MANIFEST), "a manifest is never there without its pack");
            let sound = Checkpoints::new(blobs);
            let stored = capture.store(&sound, id(1, 1), "op").await.unwrap();
            let into = tempfile::tempdir().unwrap();
            fetch(&sound, id(1, 1), &stored.manifest, into.path()).await.unwrap();
            capture.assert_equals(into.path());
        }
    }
}

#[test]
fn a_capture_ends_once_nobody_wants_it() {
    let capture = Capture::typical();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_, checkpoints) = in_memory();
    let stored = runtime.block_on(capture.store(&checkpoints, id(1, 1), "op")).unwrap();
    let head = Manifest {
        packs: vec![],
        pack_bytes: vec![],
        pack_indexes: vec![],
        parts: vec![],
        ..(*stored.contents).clone()
    };
    // Whether there is something to send, or nothing.
    for base in [None, Some(base(&stored))] {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        drop(receiver);
        let read = crate::checkpoints::capture::read(&capture.parts(), base.as_ref(), head.clone(), "p".into(), sender);
        assert!(matches!(read, Err(CheckpointError::Capture(reason)) if reason.contains("ended early")));
    }
}
