//! Manifests of all forms: those that are written, older ones, and those that cannot be.

use workrs_core::manifest::Chunk;

use super::*;
use crate::checkpoints::{
    cut::BLOCK_BYTES,
    form::{self, Written},
    pack::{Entry, Packer, decode_index, encode_index},
};

/// A manifest as it was written before packs had an index and manifests had runs.
async fn put_as_before(blobs: &Blobs, manifest: &serde_json::Value) -> BlobRef {
    let bytes = zstd::bulk::compress(manifest.to_string().as_bytes(), 1).unwrap();
    blobs.put("jobs/job/checkpoints/1-1-x.manifest", bytes.into()).await.unwrap()
}

#[tokio::test]
async fn a_manifest_of_before_is_read_and_is_no_base() {
    let (blobs, checkpoints) = in_memory();
    let capture = Capture::typical();
    let stored = capture.store(&checkpoints, id(1, 1), "op").await.unwrap();
    let mut old = (*stored.contents).clone();
    (old.pack_bytes, old.pack_indexes) = (Vec::new(), Vec::new());
    let written = serde_json::to_value(&old).unwrap();
    assert!(written.get("pack_bytes").is_none() && written.get("pack_indexes").is_none());
    let blob = put_as_before(&blobs, &written).await;
    capture.assert_fetched(&checkpoints, id(1, 1), &blob).await;
    let base = Base::new(Arc::new(old));
    let next = capture.store_on(&checkpoints, id(1, 2), "op", Some(&base), None).await.unwrap();
    assert_eq!(next.contents.packs, ["jobs/job/checkpoints/1-2-op.pack"]);
    capture.assert_fetched(&checkpoints, id(1, 2), &next.manifest).await;
    // And what it names is still kept.
    checkpoints.collect(&job(), &[&blob, &next.manifest], Epoch(1), None).await.unwrap();
    capture.assert_fetched(&checkpoints, id(1, 1), &blob).await;
}

#[tokio::test]
async fn a_manifest_that_does_not_belong_here_is_bad() {
    let (_, checkpoints) = in_memory();
    let stored = Capture::typical().store(&checkpoints, id(1, 1), "op").await.unwrap();
    let into = tempfile::tempdir().unwrap();
    let other = JobId::new("other").unwrap();
    for (job, id) in [(&job(), id(1, 2)), (&other, id(1, 1))] {
        let result = checkpoints.fetch(job, id, &stored.manifest, into.path()).await;
        assert!(matches!(result, Err(FetchError::Bad(_))), "{result:?}");
        assert_eq!(names(into.path()), Vec::<String>::new(), "nothing was touched");
    }
}

#[tokio::test]
async fn a_manifest_with_impossible_contents_is_bad_before_anything_is_touched() {
    let (blobs, checkpoints) = in_memory();
    let stored = Capture::typical().store(&checkpoints, id(1, 1), "op").await.unwrap();
    let sound = serde_json::to_value(&*stored.contents).unwrap();
    let chunk = "/parts/1/content/chunks/0";
    let changes = [
        (format!("{chunk}/len"), (MAX_CHUNK_BYTES + 1).into()),
        (format!("{chunk}/len"), 0.into()),
        (format!("{chunk}/stored"), 0.into()),
        (format!("{chunk}/stored"), (BLOCK_BYTES + 1).into()),
        (format!("{chunk}/offset"), u64::MAX.into()),
        (format!("{chunk}/at"), (6 << 20).into()),
        (format!("{chunk}/pack"), 1.into()),
        ("/packs/0".to_owned(), "jobs/other/checkpoints/1-1-op.pack".into()),
        ("/parts/1/name".to_owned(), "memory".into()),
        ("/parts/1/name".to_owned(), "../escape".into()),
        ("/parts/0/files/0/name".to_owned(), "a/b".into()),
        ("/parts/0/files/0/name".to_owned(), "none".into()),
        ("/pack_bytes/0".to_owned(), 7.into()),
        ("/pack_bytes".to_owned(), vec![1, 2].into()),
        ("/version".to_owned(), 2.into()),
        ("/parts".to_owned(), serde_json::Value::Null),
    ];
    for (pointer, value) in changes {
        let mut changed = sound.clone();
        let place = changed.pointer_mut(&pointer).unwrap_or_else(|| panic!("{pointer}"));
        *place = value;
        let blob = put_as_before(&blobs, &changed).await;
        let into = tempfile::tempdir().unwrap();
        let result = fetch(&checkpoints, id(1, 1), &blob, into.path()).await;
        assert!(matches!(result, Err(FetchError::Bad(_))), "{pointer}: {result:?}");
        assert_eq!(names(into.path()), Vec::<String>::new(), "{pointer}");
    }
}

#[tokio::test]
async fn runs_that_the_packs_do_not_have_are_bad() {
    let (blobs, checkpoints) = in_memory();
    let stored = Capture::typical().store(&checkpoints, id(1, 1), "op").await.unwrap();
    let bytes = blobs.get(&stored.manifest).await.unwrap();
    let sound: serde_json::Value = serde_json::from_slice(&zstd::bulk::decompress(&bytes, 1 << 20).unwrap()).unwrap();
    let changes = [
        ("/runs/2/0/0", 1.into()),
        ("/runs/2/0/1", 1.into()),
        ("/runs/2/0/2", 1.into()),
        ("/runs/2/0/3", 1_000_000.into()),
        ("/runs/2", serde_json::json!([])),
        ("/runs", serde_json::json!([])),
        ("/manifest/pack_indexes", serde_json::json!([])),
        ("/manifest/pack_indexes/0/chunks", 1.into()),
        ("/manifest/pack_indexes/0/bytes", 1.into()),
        ("/manifest/pack_indexes/0/bytes", u64::MAX.into()),
        ("/manifest/pack_bytes/0", 1.into()),
        ("/manifest/pack_bytes/0", u64::MAX.into()),
        ("/manifest/packs", serde_json::json!([])),
    ];
    for (pointer, value) in changes {
        let mut changed = sound.clone();
        *changed.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        let blob = put_as_before(&blobs, &changed).await;
        let into = tempfile::tempdir().unwrap();
        let result = fetch(&checkpoints, id(1, 1), &blob, into.path()).await;
        assert!(matches!(result, Err(FetchError::Bad(_))), "{pointer}: {result:?}");
        assert_eq!(names(into.path()), Vec::<String>::new(), "{pointer}");
    }
}

/// Chunks of one file: place, pack and number in the pack; each pack has eight chunks of ten bytes.
fn check_runs(chunks: &[(u64, u32, usize)], expect: usize) {
    let hash = |pack: u32, number: u64| workrs_core::hash::ContentHash::of(format!("{pack} {number}").as_bytes());
    let entry = |pack, number| Entry { hash: hash(pack, number), len: 10, offset: number * 7, stored: 7 };
    let packs: Vec<Vec<Entry>> = (0..3).map(|pack| (0..8).map(|number| entry(pack, number)).collect()).collect();
    let named: Vec<Chunk> =
        chunks.iter().map(|(at, pack, number)| packs[*pack as usize][*number].chunk(*at, *pack)).collect();
    let content = workrs_core::manifest::Content { len: 1000, chunks: named };
    let manifest = Manifest {
        packs: vec![String::new(); 3],
        parts: vec![
            workrs_core::manifest::Part::Image { name: "one".into(), content: content.clone() },
            workrs_core::manifest::Part::Image { name: "same again".into(), content },
        ],
        ..empty_manifest()
    };
    let Written::Runs { manifest: written, runs } = form::decode(&form::encode(&manifest).unwrap()).unwrap() else {
        panic!("not written as runs")
    };
    assert_eq!(runs[0].len(), expect, "{runs:?}");
    assert_eq!(form::expand(written, &runs, &packs), Some(manifest));
}

fn empty_manifest() -> Manifest {
    Manifest {
        version: 1,
        job: job(),
        id: id(1, 1),
        mode: CheckpointMode::Full,
        needs: needs(),
        run_ms: 0,
        log_bytes: 0,
        packs: Vec::new(),
        pack_bytes: Vec::new(),
        pack_indexes: Vec::new(),
        parts: Vec::new(),
        unknown: std::collections::BTreeMap::new(),
    }
}

#[test]
fn chunks_that_follow_each_other_are_a_run() {
    check_runs(&[], 0);
    check_runs(&[(0, 0, 0), (10, 0, 1), (20, 0, 2)], 1);
    check_runs(&[(0, 0, 0), (10, 0, 1), (30, 0, 2)], 2);
    check_runs(&[(5, 0, 0), (15, 1, 4), (25, 0, 2)], 3);
    check_runs(&[(0, 0, 3), (10, 0, 3), (20, 0, 3), (30, 0, 4)], 3);
    check_runs(&[(0, 2, 7), (10, 2, 6), (990, 1, 0)], 3);
}

#[test]
fn an_index_tells_every_chunk_and_is_not_taken_for_another() {
    let mut packer = Packer::new().unwrap();
    for count in [1u64, 2, 1000] {
        let mut offset = 0;
        let entry = |number: u64| {
            let stored = (number % 50 + 1) as u32;
            let hash = workrs_core::hash::ContentHash::of(&number.to_le_bytes());
            offset += u64::from(stored);
            Entry { hash, len: stored + 5, offset: offset - u64::from(stored), stored }
        };
        let entries: Vec<_> = (0..count).map(entry).collect();
        let (mut bytes, index) = encode_index(&entries, &mut packer).unwrap();
        assert!(bytes.len() as u64 <= count * crate::checkpoints::pack::ENTRY_BYTES);
        assert_eq!(decode_index(&bytes, &index), Some(entries));
        let more = workrs_core::manifest::PackIndex { chunks: index.chunks + 1, ..index };
        assert_eq!(decode_index(&bytes, &more), None);
        bytes[0] ^= 1;
        assert_eq!(decode_index(&bytes, &index), None);
    }
}
