//! Every kind of damage is noticed, and none gives wrong data.

use super::*;
use crate::checkpoints::chunks::CHUNK_BYTES;

#[tokio::test]
async fn every_damage_to_any_blob_is_proof_and_never_wrong_data() {
    let (blobs, checkpoints) = in_memory();
    let capture = Capture::typical();
    let stored = capture.store(&checkpoints, id(1, 1), "op").await.unwrap();
    let mut cases = 0;
    for (name, len) in blobs.list("").await.unwrap() {
        let sound = blobs.get_unverified(&name).await.unwrap();
        let places = (0..60).map(|step| step * (len - 1) / 59).collect::<std::collections::BTreeSet<_>>();
        let mut damaged = vec![None];
        for at in places.into_iter().map(|at| at as usize) {
            let mut flipped = sound.to_vec();
            flipped[at] ^= 1 << (at % 8);
            damaged.push(Some(flipped));
            damaged.push(Some(sound[..at].to_vec()));
        }
        for (number, damage) in damaged.into_iter().enumerate() {
            match damage {
                None => blobs.delete(&name).await.unwrap(),
                Some(bytes) => drop(blobs.put(&name, bytes.into()).await.unwrap()),
            }
            let into = tempfile::tempdir().unwrap();
            let result = fetch(&checkpoints, id(1, 1), &stored.manifest, into.path()).await;
            assert!(matches!(result, Err(FetchError::Bad(_))), "{name}, damage {number}: {result:?}");
            cases += 1;
        }
        blobs.put(&name, sound).await.unwrap();
    }
    assert!(cases > 150, "{cases}");
    let into = tempfile::tempdir().unwrap();
    fetch(&checkpoints, id(1, 1), &stored.manifest, into.path()).await.unwrap();
    capture.assert_equals(into.path());
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
    let bytes = blobs.get(&stored.manifest).await.unwrap();
    let sound: serde_json::Value = serde_json::from_slice(&zstd::bulk::decompress(&bytes, 1 << 20).unwrap()).unwrap();
    let chunk = "/parts/1/chunks/0";
    assert!(sound.pointer("/parts/1/content").is_some());
    let chunk = chunk.replace("/chunks", "/content/chunks");
    let changes = [
        (format!("{chunk}/len"), (MAX_CHUNK_BYTES + 1).into()),
        (format!("{chunk}/len"), 0.into()),
        (format!("{chunk}/stored"), 0.into()),
        (format!("{chunk}/stored"), (CHUNK_BYTES + 1).into()),
        (format!("{chunk}/offset"), u64::MAX.into()),
        (format!("{chunk}/at"), (6 << 20).into()),
        (format!("{chunk}/pack"), 1.into()),
        ("/packs/0".to_owned(), "jobs/other/checkpoints/1-1-op.pack".into()),
        ("/parts/1/name".to_owned(), "memory".into()),
        ("/parts/1/name".to_owned(), "../escape".into()),
        ("/parts/0/files/0/name".to_owned(), "a/b".into()),
        ("/parts/0/files/0/name".to_owned(), "none".into()),
        ("/version".to_owned(), 2.into()),
        ("/parts".to_owned(), serde_json::Value::Null),
    ];
    for (pointer, value) in changes {
        let mut changed = sound.clone();
        let place = changed.pointer_mut(&pointer).unwrap_or_else(|| panic!("{pointer}"));
        *place = value;
        let bytes = zstd::bulk::compress(changed.to_string().as_bytes(), 1).unwrap();
        let blob = blobs.put("jobs/job/checkpoints/1-1-x.manifest", bytes.into()).await.unwrap();
        let into = tempfile::tempdir().unwrap();
        let result = fetch(&checkpoints, id(1, 1), &blob, into.path()).await;
        assert!(matches!(result, Err(FetchError::Bad(_))), "{pointer}: {result:?}");
        assert_eq!(names(into.path()), Vec::<String>::new(), "{pointer}");
    }
}
