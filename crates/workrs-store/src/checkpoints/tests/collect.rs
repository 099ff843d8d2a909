//! A collection takes what nothing names, and never what a kept manifest names.

use object_store::memory::InMemory;
use workrs_core::keys::BlobNames;

use super::*;
use crate::faulty::Fault;

/// Stores several checkpoints, and other blobs beside them.
async fn history(blobs: &Blobs, checkpoints: &Checkpoints) -> Vec<(CheckpointId, Capture, BlobRef)> {
    let mut history = Vec::new();
    for (epoch, seq) in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)] {
        let capture = Capture::new(&[("f", noise(epoch * 10 + seq, 100_000))], 0, &[]);
        let stored = capture.store(checkpoints, id(epoch, seq), "op").await.unwrap();
        history.push((id(epoch, seq), capture, stored.manifest));
    }
    for name in ["jobs/job/checkpoints/2-3-flying.pack", "jobs/job/log/1-0-op", "jobs/job/checkpoints/rubbish"] {
        blobs.put(name, "x".into()).await.unwrap();
    }
    blobs.put("jobs/job2/checkpoints/1-1-op.pack", "x".into()).await.unwrap();
    history
}

async fn checkpoint_names(blobs: &Blobs) -> Vec<String> {
    checkpoint_blobs(blobs).await.into_iter().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn a_collection_leaves_what_is_named_newer_or_in_flight() {
    let (blobs, checkpoints) = in_memory();
    let history = history(&blobs, &checkpoints).await;
    let keep = [&history[1].2, &history[3].2];
    let before: u64 = blobs.list("").await.unwrap().iter().map(|(_, len)| len).sum();
    let flying = operation("flying");
    let collected = checkpoints.collect(&job(), &keep, Epoch(2), Some(&flying)).await.unwrap();
    let after = blobs.list("").await.unwrap();
    assert_eq!(before - collected.freed_bytes, after.iter().map(|(_, len)| len).sum::<u64>());
    let kept: u64 = checkpoint_blobs(&blobs).await.iter().map(|(_, len)| len).sum();
    assert_eq!(collected.kept_bytes, kept - 1, "all that is the job's, but for one byte in flight");
    let expected = [
        "1-2-op.manifest",
        "1-2-op.pack",
        "2-2-op.manifest",
        "2-2-op.pack",
        "2-3-flying.pack",
        "3-1-op.manifest",
        "3-1-op.pack",
        "rubbish",
    ];
    assert_eq!(checkpoint_names(&blobs).await, expected);
    assert!(after.iter().any(|(name, _)| name == "jobs/job/log/1-0-op"));
    assert!(after.iter().any(|(name, _)| name == "jobs/job2/checkpoints/1-1-op.pack"));
    for number in [1, 3, 4] {
        let (id, capture, manifest) = &history[number];
        let into = tempfile::tempdir().unwrap();
        fetch(&checkpoints, *id, manifest, into.path()).await.unwrap();
        capture.assert_equals(into.path());
    }
    let again = checkpoints.collect(&job(), &keep, Epoch(2), Some(&flying)).await;
    assert_eq!(again, Ok(Collected { freed_bytes: 0, ..collected }), "nothing is left to do");
    checkpoints.collect(&job(), &keep, Epoch(2), None).await.unwrap();
    assert!(!checkpoint_names(&blobs).await.contains(&"2-3-flying.pack".to_owned()));
}

#[tokio::test]
async fn while_a_kept_manifest_cannot_be_read_no_pack_is_deleted() {
    for damage in [true, false] {
        let (blobs, checkpoints) = in_memory();
        let history = history(&blobs, &checkpoints).await;
        let keep = [&history[0].2, &history[3].2];
        if damage {
            blobs.put(&keep[0].name, "rotten".into()).await.unwrap();
        } else {
            blobs.delete(&keep[0].name).await.unwrap();
        }
        checkpoints.collect(&job(), &keep, Epoch(9), None).await.unwrap();
        let left = checkpoint_names(&blobs).await;
        assert_eq!(left.iter().filter(|name| name.ends_with(PACK)).count(), 6, "{left:?}");
        assert!(!left.contains(&"2-1-op.manifest".to_owned()), "{left:?}");
    }
}

#[tokio::test]
async fn a_collection_under_every_fault_never_takes_what_is_kept() {
    let count = {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let blobs = Blobs::new(Arc::clone(&memory));
        let history = history(&blobs, &Checkpoints::new(blobs.clone())).await;
        let faults = Faults::none();
        let keep = [&history[1].2, &history[3].2];
        faulty(&memory, &faults).collect(&job(), &keep, Epoch(3), None).await.unwrap();
        faults.count()
    };
    assert!(count > 8, "{count}");
    for number in 1..=count {
        for fault in [Fault::Refuse, Fault::LoseAnswer, Fault::CrashAfter] {
            let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let blobs = Blobs::new(Arc::clone(&memory));
            let sound = Checkpoints::new(blobs.clone());
            let history = history(&blobs, &sound).await;
            let keep = [&history[1].2, &history[3].2];
            let faults = Faults::at(number, fault);
            let (collecting, whose) = (faulty(&memory, &faults), job());
            tokio::select! {
                _ = collecting.collect(&whose, &keep, Epoch(3), None) => {}
                () = faults.crashed() => {}
            }
            for kept in [1, 3] {
                let (id, capture, manifest) = &history[kept];
                let into = tempfile::tempdir().unwrap();
                fetch(&sound, *id, manifest, into.path()).await.unwrap();
                capture.assert_equals(into.path());
            }
            sound.collect(&job(), &keep, Epoch(3), None).await.unwrap();
            assert_eq!(checkpoint_names(&blobs).await.len(), 5, "two checkpoints and a name that is nobody's");
        }
    }
}

#[tokio::test]
async fn what_a_dead_writer_left_is_collected_and_what_a_live_one_writes_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(Blobs::open(&format!("file://{}", folder.path().display())).unwrap());
    let below = folder.path().join(BlobNames(&job()).checkpoints());
    std::fs::create_dir_all(&below).unwrap();
    for name in ["1-1-dead.pack#1", "2-1-dead.manifest#3", "2-2-flying.pack#1", "3-1-other.pack#1"] {
        std::fs::write(below.join(name), b"unfinished").unwrap();
    }
    checkpoints.collect(&job(), &[], Epoch(2), Some(&operation("flying"))).await.unwrap();
    assert_eq!(names(&below), ["2-2-flying.pack#1", "3-1-other.pack#1"]);
}
