//! What the tests of checkpoints share: captures to store, and stores that fail.

mod collect;
mod crashes;
mod damage;
mod faults;
mod forms;
mod histories;
mod limits;
mod reuse;
mod round_trips;

use std::{fs::File, os::unix::fs::FileExt, path::Path, sync::Arc};

use object_store::ObjectStore;
use workrs_core::{
    id::Epoch,
    job::CheckpointMode,
    manifest::{Manifest, MappedFile},
};

use super::*;
use crate::faulty::{Faults, FaultyBlobs};

fn job() -> JobId {
    JobId::new("job").unwrap()
}

fn operation(name: &str) -> OperationId {
    OperationId::new(name).unwrap()
}

fn id(epoch: u64, seq: u64) -> CheckpointId {
    CheckpointId { epoch: Epoch(epoch), seq }
}

fn needs() -> RestoreNeeds {
    let mapped = vec![MappedFile { path: "/usr/bin/x".into(), len: 3, hash: workrs_core::hash::ContentHash::of(b"x") }];
    RestoreNeeds { engine: "fake".into(), format: 1, arch: "x86_64".into(), mapped, ..RestoreNeeds::default() }
}

/// Bytes that zstd cannot shorten, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A capture in a folder of its own.
#[derive(Debug)]
struct Capture {
    folder: tempfile::TempDir,
    /// What is said to have changed of the disk.
    changed: Option<ByteRanges>,
}

impl Capture {
    /// `files` and one image `disk` of `len` bytes, with extents of data at some places.
    fn new(files: &[(&str, Vec<u8>)], len: u64, extents: &[(u64, Vec<u8>)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("memory")).unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join("memory").join(name), bytes).unwrap();
        }
        let disk = File::create(folder.path().join("disk")).unwrap();
        disk.set_len(len).unwrap();
        for (at, bytes) in extents {
            let end = (at + bytes.len() as u64).min(len);
            disk.write_all_at(&bytes[..end.saturating_sub(*at) as usize], *at).unwrap();
        }
        Self { folder, changed: None }
    }

    /// A few files, some of them alike, and a disk with holes.
    fn typical() -> Self {
        let files = [
            ("pages", noise(1, 300_000)),
            ("same", noise(1, 300_000)),
            ("core", b"text".repeat(9_999)),
            ("none", vec![]),
        ];
        Self::new(
            &files,
            5 << 20,
            &[(0, noise(2, 5_000)), (3 << 20, b"journal ".repeat(10_000)), ((5 << 20) - 1, vec![7])],
        )
    }

    fn parts(&self) -> [PartSource; 2] {
        [
            PartSource::Folder { name: "memory".into(), path: self.folder.path().join("memory") },
            PartSource::Image {
                name: "disk".into(),
                path: self.folder.path().join("disk"),
                changed: self.changed.clone(),
            },
        ]
    }

    async fn store(&self, checkpoints: &Checkpoints, id: CheckpointId, op: &str) -> Result<Stored, CheckpointError> {
        self.store_on(checkpoints, id, op, None, None).await
    }

    async fn store_on(
        &self,
        checkpoints: &Checkpoints,
        id: CheckpointId,
        op: &str,
        base: Option<&Base>,
        limit_bytes: Option<u64>,
    ) -> Result<Stored, CheckpointError> {
        let new = NewCheckpoint {
            job: &job(),
            id,
            operation: &operation(op),
            mode: CheckpointMode::Full,
            needs: needs(),
            run_ms: 11,
            log_bytes: 22,
            parts: &self.parts(),
            base,
            limit_bytes,
        };
        checkpoints.store(new).await
    }

    /// Whether a checkpoint brings exactly this capture back.
    async fn assert_fetched(&self, checkpoints: &Checkpoints, id: CheckpointId, manifest: &BlobRef) {
        let into = tempfile::tempdir().unwrap();
        fetch(checkpoints, id, manifest, into.path()).await.unwrap();
        self.assert_equals(into.path());
    }

    /// Whether `folder` holds exactly this capture.
    fn assert_equals(&self, folder: &Path) {
        assert_eq!(names(folder), ["disk", "memory"]);
        let files = names(&self.folder.path().join("memory"));
        assert_eq!(names(&folder.join("memory")), files);
        for name in files.iter().map(|name| format!("memory/{name}")).chain(["disk".to_owned()]) {
            let expected = std::fs::read(self.folder.path().join(&name)).unwrap();
            assert!(std::fs::read(folder.join(&name)).unwrap() == expected, "{name} differs");
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn fetch(
    checkpoints: &Checkpoints,
    id: CheckpointId,
    blob: &BlobRef,
    into: &Path,
) -> Result<Manifest, FetchError> {
    checkpoints.fetch(&job(), id, blob, into).await
}

fn in_memory() -> (Blobs, Checkpoints) {
    let blobs = Blobs::open("memory:").unwrap();
    (blobs.clone(), Checkpoints::new(blobs))
}

fn faulty(memory: &Arc<dyn ObjectStore>, faults: &Faults) -> Checkpoints {
    Checkpoints::new(Blobs::new(Arc::new(FaultyBlobs::new(Arc::clone(memory), faults.clone()))))
}

/// A base of what was just stored.
fn base(stored: &Stored) -> Base {
    Base::new(Arc::clone(&stored.contents))
}

/// Names and lengths of a job's blobs, without what they have in common.
async fn checkpoint_blobs(blobs: &Blobs) -> Vec<(String, u64)> {
    let prefix = workrs_core::keys::BlobNames(&job()).checkpoints();
    let blobs = blobs.list(&prefix).await.unwrap();
    blobs.into_iter().map(|(name, len)| (name[prefix.len()..].to_owned(), len)).collect()
}
