//! What is true of sealed blobs only.

use std::collections::HashSet;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::*;
use crate::blobs::seal::{HEADER_BYTES, SEALED_BYTES, SEGMENT_BYTES};

const NAME: &str = "jobs/j/checkpoints/1-1-op.pack";

/// Bytes in which no 8 that adjoin come twice, so that any that leak are found.
fn distinct(len: usize) -> Bytes {
    (0..len.div_ceil(8) as u64)
        .flat_map(|number| blake3::hash(&number.to_le_bytes()).as_bytes()[..8].to_vec())
        .take(len)
        .collect()
}

async fn stored(blobs: &Blobs, name: &str) -> Vec<u8> {
    let path = stored_path(&format!("{name}.sealed")).unwrap();
    blobs.store.get(&path).await.unwrap().bytes().await.unwrap().to_vec()
}

async fn store_as(blobs: &Blobs, name: &str, bytes: impl Into<Bytes>) {
    let path = stored_path(&format!("{name}.sealed")).unwrap();
    blobs.store.put(&path, bytes.into().into()).await.unwrap();
}

/// Every way to read all of a blob must end in an error, which is given.
async fn refusal(blobs: &Blobs, blob: &BlobRef) -> BlobError {
    let error = blobs.get(blob).await.unwrap_err();
    assert_eq!(blobs.get_unverified(&blob.name).await, Err(error.clone()));
    assert_eq!(collect_stream(blobs, blob).await, Err(error.clone()));
    if blob.len > 0 {
        assert_eq!(blobs.get_range(&blob.name, 0..blob.len).await, Err(error.clone()));
    }
    error
}

async fn assert_mismatch(blobs: &Blobs, blob: &BlobRef, what: &str) {
    assert_eq!(refusal(blobs, blob).await, BlobError::Mismatch(blob.name.clone()), "{what}");
}

#[tokio::test]
async fn blobs_of_any_length_come_back_and_nothing_of_them_is_in_the_store() {
    for Opened { blobs, folder } in keyed_stores() {
        for len in [0, 1, 8, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES + 5, 2 * PART + 77]
        {
            let bytes = distinct(len);
            let put = blobs.put("put", bytes.clone()).await.unwrap();
            let mut writer = blobs.writer_of_parts("written", PART);
            for piece in bytes.chunks(len / 5 + 1) {
                writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            let written = writer.finish().await.unwrap();
            for blob in [put, written] {
                assert_eq!((blob.len, blob.hash), (len as u64, ContentHash::of(&bytes)));
                assert_eq!(blobs.get(&blob).await, Ok(bytes.clone()));
                assert_eq!(collect_stream(&blobs, &blob).await.unwrap(), bytes);
                let sealed = stored(&blobs, &blob.name).await;
                let segments = len.div_ceil(SEGMENT_BYTES).max(1);
                assert_eq!(sealed.len(), HEADER_BYTES + len + 16 * segments);
                let secrets: HashSet<&[u8]> = bytes.chunks_exact(8).collect();
                assert!(!sealed.windows(8).any(|window| secrets.contains(window)), "{len}");
            }
            let listed = ["put", "written"].map(|name| (name.to_owned(), len as u64));
            assert_eq!(blobs.list("").await, Ok(listed.to_vec()));
        }
        if let Some(folder) = folder {
            assert!(files_below(folder.path()).iter().all(|file| file.extension().is_some_and(|end| end == "sealed")));
        }
    }
}

#[test]
fn any_range_is_what_a_slice_is() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let blobs = Blobs::open("memory:").unwrap().with_key(key('1'));
    let lens = [1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES + 5];
    for len in lens {
        runtime.block_on(blobs.put(&format!("{len}"), pattern(len))).unwrap();
    }
    let ranges = prop::sample::select(lens.to_vec())
        .prop_flat_map(|len| (Just(len), 0..=len, 0..=len, 1..3 * SEGMENT_BYTES as u64));
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let check = |(len, one, other, beyond): (usize, usize, usize, u64)| {
        let (name, bytes, start, end) = (format!("{len}"), pattern(len), one.min(other), one.max(other));
        let read = |range| runtime.block_on(blobs.get_range(&name, range));
        prop_assert_eq!(read(start as u64..end as u64), Ok(bytes.slice(start..end)));
        prop_assert_eq!(read(start as u64..len as u64 + beyond), Err(BlobError::Mismatch(name.clone())));
        Ok(())
    };
    TestRunner::new(config).run(&ranges, check).unwrap();
}

/// Flips a bit at each of these places, and cuts there; all ways to read must find it.
async fn damage(blobs: &Blobs, len: usize, places: impl Fn(usize) -> Vec<usize>) {
    let blob = blobs.put("b", distinct(len)).await.unwrap();
    let sound = stored(blobs, "b").await;
    for at in places(sound.len()) {
        let mut flipped = sound.clone();
        flipped[at] ^= 1 << (at % 8);
        store_as(blobs, "b", flipped).await;
        assert_mismatch(blobs, &blob, &format!("{len}, flipped at {at}")).await;
        store_as(blobs, "b", sound[..at].to_vec()).await;
        assert_mismatch(blobs, &blob, &format!("{len}, cut at {at}")).await;
    }
    for more in [&b"x"[..], &sound[HEADER_BYTES..], &vec![0; SEALED_BYTES]] {
        store_as(blobs, "b", [&sound, more].concat()).await;
        assert_mismatch(blobs, &blob, &format!("{len}, {} more", more.len())).await;
    }
    store_as(blobs, "b", sound).await;
    assert_eq!(blobs.get(&blob).await, Ok(distinct(len)));
}

#[tokio::test]
async fn every_flipped_byte_and_every_cut_is_found() {
    for Opened { blobs, folder } in keyed_stores() {
        for len in [0, 100] {
            damage(&blobs, len, |stored| (0..stored).collect()).await;
        }
        // Of longer ones around the borders of segments.
        for len in [SEGMENT_BYTES, 2 * SEGMENT_BYTES + 70] {
            let near = [0, 1, 500, SEALED_BYTES - 17, SEALED_BYTES - 16, SEALED_BYTES - 1];
            let borders = |stored: usize| {
                let segments = (HEADER_BYTES..stored).step_by(SEALED_BYTES);
                let places = segments.flat_map(|start| near.map(|offset| start + offset));
                places.chain([20, stored - 1]).filter(|at| *at < stored).collect()
            };
            damage(&blobs, len, borders).await;
        }
        drop(folder);
    }
}

#[tokio::test]
async fn damage_in_one_segment_harms_only_ranges_in_it() {
    let [_, Opened { blobs, .. }] = keyed_stores();
    let bytes = distinct(3 * SEGMENT_BYTES);
    blobs.put("b", bytes.clone()).await.unwrap();
    let mut flipped = stored(&blobs, "b").await;
    flipped[HEADER_BYTES + SEALED_BYTES + 1000] ^= 1;
    store_as(&blobs, "b", flipped).await;
    let segment = SEGMENT_BYTES as u64;
    assert_eq!(blobs.get_range("b", 0..segment).await, Ok(bytes.slice(..SEGMENT_BYTES)));
    assert_eq!(blobs.get_range("b", 2 * segment..3 * segment).await, Ok(bytes.slice(2 * SEGMENT_BYTES..)));
    for range in [segment..segment + 1, segment - 1..segment + 1, 2 * segment - 1..2 * segment + 1] {
        assert_eq!(blobs.get_range("b", range).await, Err(BlobError::Mismatch("b".into())));
    }
}

#[tokio::test]
async fn segments_and_blobs_cannot_change_places() {
    for Opened { blobs, folder } in keyed_stores() {
        let blob = blobs.put("a", pattern(3 * SEGMENT_BYTES)).await.unwrap();
        let other = blobs.put("b", pattern(3 * SEGMENT_BYTES)).await.unwrap();
        let (a, b) = (stored(&blobs, "a").await, stored(&blobs, "b").await);
        assert_ne!(a, b, "equal blobs do not look equal");
        let header = &a[..HEADER_BYTES];
        let segments: Vec<&[u8]> = a[HEADER_BYTES..].chunks(SEALED_BYTES).collect();
        let foreign: Vec<&[u8]> = b[HEADER_BYTES..].chunks(SEALED_BYTES).collect();
        let [zero, one, two] = segments[..] else { panic!("{} segments", segments.len()) };
        for order in [
            vec![one, zero, two],
            vec![zero, two, one],
            vec![zero, zero, two],
            vec![zero, two],
            vec![zero, one],
            vec![zero, one, two, two],
            vec![zero, foreign[1], two],
            vec![zero, one, foreign[2]],
        ] {
            store_as(&blobs, "a", [header, &order.concat()].concat()).await;
            assert_mismatch(&blobs, &blob, "segments changed places").await;
        }
        store_as(&blobs, "a", b).await;
        store_as(&blobs, "b", a).await;
        assert_mismatch(&blobs, &blob, "the other blob").await;
        assert_mismatch(&blobs, &other, "the other blob").await;
        drop(folder);
    }
}

#[tokio::test]
async fn without_the_right_key_nothing_is_known_of_a_blob() {
    for Opened { blobs, folder } in keyed_stores() {
        let blob = blobs.put(NAME, pattern(100_000)).await.unwrap();
        let keyless = Blobs { keyed: None, ..blobs.clone() };
        let wrong = keyless.clone().with_key(key('2'));
        for (reader, own) in [(&keyless, "no key".to_owned()), (&wrong, key('2').id().to_string())] {
            let BlobError::Unavailable(text) = refusal(reader, &blob).await else { panic!("not unavailable") };
            assert!(text.contains(&key('1').id().to_string()) && text.contains(&own) && text.contains(NAME), "{text}");
            assert!(text.contains("give it the key of its group"), "{text}");
            assert!(!format!("{reader:?}").contains("1111"), "the key is shown");
            assert_eq!(reader.list("").await, Ok(vec![(NAME.to_owned(), 100_000)]));
            assert_eq!(reader.get_unverified("other").await, Err(BlobError::Missing("other".into())));
            assert_eq!(reader.get_range("other", 0..1).await, Err(BlobError::Missing("other".into())));
        }
        // Whether a damaged blob is of this key cannot be told; without any, it is not even asked.
        store_as(&blobs, NAME, "short").await;
        assert!(matches!(refusal(&keyless, &blob).await, BlobError::Unavailable(_)));
        keyless.delete(NAME).await.unwrap();
        assert_eq!(blobs.get(&blob).await, Err(BlobError::Missing(NAME.into())));
        drop(folder);
    }
}

#[tokio::test]
async fn a_form_of_a_later_version_is_no_damage() {
    let [_, Opened { blobs, .. }] = keyed_stores();
    let blob = blobs.put("b", pattern(10)).await.unwrap();
    let mut later = stored(&blobs, "b").await;
    later[7] = 2;
    let check = blake3::hash(&later[..35]);
    later[35..40].copy_from_slice(&check.as_bytes()[..5]);
    store_as(&blobs, "b", later).await;
    let BlobError::Unavailable(text) = refusal(&blobs, &blob).await else { panic!("not unavailable") };
    assert!(text.contains("upgrade"), "{text}");
}

#[tokio::test]
async fn plain_blobs_stay_readable_when_a_group_gets_a_key() {
    for Opened { blobs: plain, folder } in two_stores() {
        let bytes = pattern(200_000);
        let old = plain.put("jobs/a.sealed/old", bytes.clone()).await.unwrap();
        let blobs = plain.clone().with_key(key('1'));
        let new = blobs.put("jobs/a.sealed/new", bytes.clone()).await.unwrap();
        for blob in [&old, &new] {
            assert_eq!(blobs.get(blob).await, Ok(bytes.clone()));
            assert_eq!(collect_stream(&blobs, blob).await.unwrap(), bytes);
            for range in [0..200_000, 70_000..70_001] {
                let slice = bytes.slice(range.start as usize..range.end as usize);
                assert_eq!(blobs.get_range(&blob.name, range).await, Ok(slice));
            }
            assert_eq!(blobs.get_range(&blob.name, 0..200_001).await, Err(BlobError::Mismatch(blob.name.clone())));
        }
        // A retry of a write may have another key than the first attempt: the name is listed once.
        blobs.put("jobs/a.sealed/old", bytes).await.unwrap();
        let listed = ["new", "old"].map(|name| (format!("jobs/a.sealed/{name}"), 200_000));
        assert_eq!(blobs.list("jobs/a.sealed/").await, Ok(listed.to_vec()));
        let modified = blobs.list_modified("jobs/a.sealed/").await.unwrap();
        assert!(modified.iter().all(|(name, _)| [&old.name, &new.name].contains(&name)), "{modified:?}");
        blobs.delete(&old.name).await.unwrap();
        assert_eq!(blobs.get_range(&old.name, 0..1).await, Err(BlobError::Missing(old.name)));
        plain.delete_prefix("jobs/a.sealed/").await.unwrap();
        assert_eq!(blobs.list("").await, Ok(Vec::new()));
        drop(folder);
    }
}

#[tokio::test]
async fn content_never_decides_how_it_is_read() {
    let [_, Opened { blobs, .. }] = keyed_stores();
    let plain = Blobs { keyed: None, ..blobs.clone() };
    blobs.put("a", pattern(70_000)).await.unwrap();
    // A user may hand in what looks like a sealed blob, or is one.
    for bytes in [Bytes::from_static(b"wrkseal"), stored(&blobs, "a").await.into()] {
        for writer in [&plain, &blobs] {
            let blob = writer.put("b", bytes.clone()).await.unwrap();
            for reader in [writer, &blobs] {
                assert_eq!(reader.get(&blob).await, Ok(bytes.clone()));
                assert_eq!(collect_stream(reader, &blob).await.unwrap(), bytes);
                assert_eq!(reader.get_range("b", 1..blob.len).await, Ok(bytes.slice(1..)));
                assert_eq!(reader.list("b").await, Ok(vec![("b".to_owned(), blob.len)]));
            }
        }
        blobs.delete("b").await.unwrap();
    }
}

#[tokio::test]
async fn many_ranges_of_a_blob_cost_one_look_at_its_header() {
    for sealed in [true, false] {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let writer = Blobs::new(Arc::clone(&memory));
        let writer = if sealed { writer.with_key(key('1')) } else { writer };
        let bytes = pattern(10 * SEGMENT_BYTES);
        writer.put("b", bytes.clone()).await.unwrap();
        let faults = Faults::none();
        let blobs = Blobs::new(Arc::new(FaultyBlobs::new(memory, faults.clone()))).with_key(key('1'));
        let ranges = (0..10).map(|number| number * SEGMENT_BYTES as u64..(number + 1) * SEGMENT_BYTES as u64);
        let read: Vec<_> = ranges.map(|range| blobs.get_range("b", range)).collect();
        assert_eq!(futures::future::try_join_all(read).await.unwrap().concat(), bytes);
        assert_eq!(faults.count(), 11, "one header and ten ranges");
    }
}

#[tokio::test]
async fn what_is_remembered_of_a_blob_is_never_proof() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let open = || Blobs::new(Arc::clone(&memory)).with_key(key('1'));
    let (reader, writer) = (open(), open());
    let plain = Blobs::new(Arc::clone(&memory));
    let range = 0..70_000;
    let bytes = pattern(70_000);
    let missing = Err(BlobError::Missing("b".into()));
    for _ in 0..3 {
        assert_eq!(reader.get_range("b", range.clone()).await, missing);
        writer.put("b", bytes.clone()).await.unwrap();
        assert_eq!(reader.get_range("b", range.clone()).await, Ok(bytes.clone()));
        // A late retry of the same writer: other nonces.
        writer.put("b", bytes.clone()).await.unwrap();
        assert_eq!(reader.get_range("b", range.clone()).await, Ok(bytes.clone()));
        writer.put("b", bytes.slice(..1000)).await.unwrap();
        assert_eq!(reader.get_range("b", range.clone()).await, Err(BlobError::Mismatch("b".into())));
        writer.put("b", [&bytes[..], &bytes].concat().into()).await.unwrap();
        assert_eq!(reader.get_range("b", range.clone()).await, Ok(bytes.clone()));
        writer.delete("b").await.unwrap();
        plain.put("b", bytes.clone()).await.unwrap();
        assert_eq!(reader.get_range("b", range.clone()).await, Ok(bytes.clone()));
        plain.delete("b").await.unwrap();
        writer.put("b", bytes.clone()).await.unwrap();
        assert_eq!(reader.get_range("b", range.clone()).await, Ok(bytes.clone()));
        writer.delete("b").await.unwrap();
    }
    // More blobs than are remembered.
    for number in (0..100).chain(0..100) {
        let name = format!("n/{number}");
        if number % 2 == 0 { &writer } else { &plain }.put(&name, name.clone().into()).await.unwrap();
        assert_eq!(reader.get_range(&name, 0..3).await, Ok(Bytes::copy_from_slice(&name.as_bytes()[..3])));
    }
}

#[tokio::test]
async fn under_every_fault_a_blob_that_is_there_is_never_missing_or_bad() {
    let bytes = pattern(2 * SEGMENT_BYTES);
    for (written_sealed, read_keyed) in [(true, true), (true, false), (false, true), (false, false)] {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let open = |store, keyed| if keyed { Blobs::new(store).with_key(key('1')) } else { Blobs::new(store) };
        let blob = open(Arc::clone(&memory), written_sealed).put("b", bytes.clone()).await.unwrap();
        for number in 1..=4 {
            for fault in [Fault::Refuse, Fault::LoseAnswer] {
                let faulty = || Arc::new(FaultyBlobs::new(Arc::clone(&memory), Faults::at(number, fault)));
                let reader = || open(faulty(), read_keyed);
                for read in [
                    reader().get(&blob).await,
                    reader().get_range("b", 0..blob.len).await,
                    collect_stream(&reader(), &blob).await.map(Bytes::from),
                ] {
                    let is_sound = match &read {
                        Ok(read) => *read == bytes && (read_keyed || !written_sealed),
                        Err(error) => matches!(error, BlobError::Unavailable(_)),
                    };
                    assert!(is_sound, "{number} {fault:?}: {:?}", read.map(|read| read.len()));
                }
            }
        }
    }
}
