//! The one suite that every blob store passes: each sentence of the contract of [`Blobs`] has a check here.
//!
//! A store's test is one call of [`run`]. A check panics if the store breaks the contract.

use bytes::Bytes;
use futures::TryStreamExt;
use workrs_core::{hash::ContentHash, id::Timestamp, job::BlobRef};

use crate::blobs::{BlobError, BlobKey, BlobWriter, Blobs};

/// Names that stores may trip over: they stand in paths of requests, in XML, and in names of files.
const ODD_NAMES: [&str; 8] = [
    "jobs/a b/c",
    "jobs/a+b&c=d",
    "jobs/100;@:$,!'()",
    "jobs/schlüssel/日本/🦀",
    "jobs/a.b/..c/.d",
    "jobs/a-b_c.d/1-2-op.pack",
    "jobs/UPPER/lower",
    "jobs/0",
];
/// More than two parts of an upload.
const MANY_BYTES: usize = 20 << 20;

/// Runs all checks, each on a store of its own, which `make` gives empty: plain ones, then sealed ones.
pub async fn run(make: impl AsyncFn() -> Blobs) {
    let key = BlobKey::parse(&"5a".repeat(32)).expect("a key");
    for key in [None, Some(key)] {
        let open = async || match &key {
            Some(key) => make().await.with_key(key.clone()),
            None => make().await,
        };
        what_was_put_is_read_in_every_way(&open().await).await;
        any_name_is_as_good(&open().await).await;
        a_range_is_what_was_asked_for(&open().await).await;
        what_is_put_anew_is_what_is_read(&open().await).await;
        a_writer_takes_any_length(&open().await).await;
        what_is_not_finished_is_not_seen(&open().await).await;
        lists_keep_to_their_prefix(&open().await).await;
        times_are_those_of_the_writes(&open().await).await;
        what_is_deleted_is_gone(&open().await).await;
        many_blobs_are_listed_and_deleted(&open().await).await;
        other_bytes_are_a_mismatch_and_no_blob_is_missing(&open().await).await;
        absence_is_proof_only_beside_the_marker(&open().await).await;
    }
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|number| (number % 251) as u8).collect::<Vec<_>>().into()
}

async fn put(blobs: &Blobs, name: &str, bytes: impl Into<Bytes>) -> BlobRef {
    blobs.put(name, bytes.into()).await.expect("a blob is put")
}

async fn streamed(blobs: &Blobs, blob: &BlobRef) -> Result<Bytes, BlobError> {
    let pieces: Vec<Bytes> = blobs.stream(blob).await?.try_collect().await?;
    Ok(pieces.concat().into())
}

async fn write(mut writer: BlobWriter, pieces: &[Bytes]) -> BlobWriter {
    for piece in pieces {
        writer.write(piece.clone()).await.expect("a piece is written");
    }
    writer
}

async fn names(blobs: &Blobs, prefix: &str) -> Vec<String> {
    blobs.list(prefix).await.expect("a list").into_iter().map(|(name, _)| name).collect()
}

fn missing<T>(name: &str) -> Result<T, BlobError> {
    Err(BlobError::Missing(name.to_owned()))
}

async fn what_was_put_is_read_in_every_way(blobs: &Blobs) {
    for len in [0, 1, 1000, (1 << 20) + 1] {
        let (name, bytes) = (format!("jobs/j/inputs/{len}"), pattern(len));
        let blob = put(blobs, &name, bytes.clone()).await;
        assert_eq!(blob, BlobRef { name: name.clone(), hash: ContentHash::of(&bytes), len: len as u64 });
        assert_eq!(blobs.get(&blob).await.as_ref(), Ok(&bytes), "{len}");
        assert_eq!(blobs.get_unverified(&name).await.as_ref(), Ok(&bytes), "{len}");
        assert_eq!(streamed(blobs, &blob).await.as_ref(), Ok(&bytes), "{len}");
        assert_eq!(blobs.get_range(&name, 0..len as u64).await.as_ref(), Ok(&bytes), "{len}");
        assert_eq!(blobs.list(&name).await, Ok(vec![(name.clone(), len as u64)]));
    }
}

async fn any_name_is_as_good(blobs: &Blobs) {
    for name in ODD_NAMES {
        put(blobs, name, name).await;
    }
    let mut sorted: Vec<_> = ODD_NAMES.iter().map(|name| ((*name).to_owned(), name.len() as u64)).collect();
    sorted.sort();
    assert_eq!(blobs.list("jobs/").await, Ok(sorted));
    for name in ODD_NAMES {
        assert_eq!(blobs.get_unverified(name).await, Ok(Bytes::from_static(name.as_bytes())));
        let range = blobs.get_range(name, 2..6).await;
        assert_eq!(range, Ok(Bytes::from_static(&name.as_bytes()[2..6])), "{name}");
        blobs.delete(name).await.expect("a blob is deleted");
        assert_eq!(blobs.get_unverified(name).await, missing(name));
    }
    assert_eq!(names(blobs, "").await, Vec::<String>::new());
    for name in ["/a", "a/", "a//b", "a/../b", "."] {
        let refused = blobs.put(name, Bytes::new()).await;
        assert!(matches!(refused, Err(BlobError::Unavailable(_))), "{name:?}: {refused:?}");
    }
}

async fn a_range_is_what_was_asked_for(blobs: &Blobs) {
    let bytes = pattern(200_000);
    put(blobs, "b", bytes.clone()).await;
    for range in [0..1, 0..200_000, 65_535..65_537, 131_072..199_999, 199_999..200_000] {
        let expect = bytes.slice(range.start as usize..range.end as usize);
        assert_eq!(blobs.get_range("b", range.clone()).await, Ok(expect), "{range:?}");
    }
    for range in [0..200_001, 199_999..200_001, 200_000..200_001, 300_000..300_001] {
        let beyond = blobs.get_range("b", range.clone()).await;
        assert_eq!(beyond, Err(BlobError::Mismatch("b".into())), "{range:?}");
    }
    assert_eq!(blobs.get_range("b", 7..7).await, Ok(Bytes::new()));
}

async fn what_is_put_anew_is_what_is_read(blobs: &Blobs) {
    for len in [10, 3, 100_000, 0, 9] {
        let blob = put(blobs, "b", pattern(len)).await;
        assert_eq!(blobs.get(&blob).await, Ok(pattern(len)));
        assert_eq!(blobs.list("").await, Ok(vec![("b".to_owned(), len as u64)]));
    }
}

async fn a_writer_takes_any_length(blobs: &Blobs) {
    for len in [0, 1, 100_000, MANY_BYTES + 7] {
        let bytes = pattern(len);
        let (some, rest) = (bytes.slice(..len / 7), bytes.slice(len / 7..));
        let writer = write(blobs.writer("jobs/j/log"), &[some, Bytes::new(), rest]).await;
        let blob = writer.finish().await.expect("the blob is finished");
        assert_eq!((blob.len, blob.hash), (len as u64, ContentHash::of(&bytes)));
        assert_eq!(blobs.list("").await, Ok(vec![("jobs/j/log".to_owned(), len as u64)]));
        assert!(blobs.get(&blob).await.as_ref() == Ok(&bytes), "{len} bytes differ");
        assert!(streamed(blobs, &blob).await.as_ref() == Ok(&bytes), "{len} bytes differ when streamed");
        if let Some(middle) = (len > 1000).then(|| len / 2..len / 2 + 500) {
            let range = blobs.get_range(&blob.name, middle.start as u64..middle.end as u64).await;
            assert_eq!(range, Ok(bytes.slice(middle)));
        }
    }
}

async fn what_is_not_finished_is_not_seen(blobs: &Blobs) {
    for len in [0, 1000, MANY_BYTES] {
        for abort in [true, false] {
            let writer = write(blobs.writer("b"), &[pattern(len)]).await;
            assert_eq!(names(blobs, "").await, Vec::<String>::new());
            if abort {
                writer.abort().await.expect("the blob is given up");
            } else {
                drop(writer);
            }
            assert_eq!(names(blobs, "").await, Vec::<String>::new());
            assert_eq!(blobs.get_unverified("b").await, missing("b"));
        }
    }
    // What was given up does not get into the way of what is written later under the name.
    let blob = write(blobs.writer("b"), &[pattern(MANY_BYTES)]).await.finish().await.expect("the blob is finished");
    assert!(blobs.get(&blob).await == Ok(pattern(MANY_BYTES)));
}

async fn lists_keep_to_their_prefix(blobs: &Blobs) {
    for name in ["jobs/a/x", "jobs/a/y/z", "jobs/ab/x", "jobs/b", "images/x"] {
        put(blobs, name, pattern(name.len())).await;
    }
    let listed = blobs.list("").await.expect("a list");
    assert!(listed.iter().all(|(name, len)| name.len() as u64 == *len), "{listed:?}");
    assert_eq!(names(blobs, "").await, ["images/x", "jobs/a/x", "jobs/a/y/z", "jobs/ab/x", "jobs/b"]);
    assert_eq!(names(blobs, "jobs/a/").await, ["jobs/a/x", "jobs/a/y/z"]);
    assert_eq!(names(blobs, "jobs/a").await, ["jobs/a/x", "jobs/a/y/z", "jobs/ab/x"]);
    assert_eq!(names(blobs, "jobs/a/y").await, ["jobs/a/y/z"]);
    assert_eq!(names(blobs, "jobs/c/").await, Vec::<String>::new());
    let modified = blobs.list_modified("jobs/a/").await.expect("a list");
    let mut modified: Vec<_> = modified.into_iter().map(|(name, _)| name).collect();
    modified.sort();
    assert_eq!(modified, ["jobs/a/x", "jobs/a/y/z"]);
}

async fn times_are_those_of_the_writes(blobs: &Blobs) {
    // A store's clock may count in seconds only.
    const COARSE_MS: u64 = 1000;
    let at = async |name: &str| {
        put(blobs, name, "x").await;
        let listed = blobs.list_modified("jobs/").await.expect("a list");
        listed.into_iter().find(|(listed, _)| listed == name).map(|(_, at)| at).expect("is listed")
    };
    let first = at("jobs/1").await;
    let second = at("jobs/2").await;
    assert!(first > Timestamp::from_millis(0));
    assert!(second.as_millis() + COARSE_MS >= first.as_millis(), "{first:?} {second:?}");
}

async fn what_is_deleted_is_gone(blobs: &Blobs) {
    for name in ["jobs/a/x", "jobs/a/y", "jobs/a/z", "jobs/a/w/z", "jobs/ab", "jobs/c/x", "other"] {
        put(blobs, name, "x").await;
    }
    blobs.delete("jobs/a/x").await.expect("deleted");
    blobs.delete("jobs/a/x").await.expect("deleting what is not there is no error");
    assert_eq!(blobs.get_unverified("jobs/a/x").await, missing("jobs/a/x"));
    blobs.delete_all(["jobs/a/z", "none", "other"]).await.expect("deleted");
    blobs.delete_all([]).await.expect("nothing to delete is no error");
    assert_eq!(names(blobs, "").await, ["jobs/a/w/z", "jobs/a/y", "jobs/ab", "jobs/c/x"]);
    blobs.delete_prefix("jobs/a/").await.expect("deleted");
    blobs.delete_prefix("jobs/a/").await.expect("deleting what is not there is no error");
    assert_eq!(names(blobs, "").await, ["jobs/ab", "jobs/c/x"]);
    blobs.delete_prefix("").await.expect("deleted");
    assert_eq!(names(blobs, "").await, Vec::<String>::new());
    // A name is as good as new afterwards.
    let blob = put(blobs, "jobs/a/x", "again").await;
    assert_eq!(blobs.get(&blob).await, Ok(Bytes::from_static(b"again")));
}

/// More than an answer of S3 tells, and than a request deletes.
async fn many_blobs_are_listed_and_deleted(blobs: &Blobs) {
    const MANY: usize = 1100;
    let all: Vec<String> = (0..MANY).map(|number| format!("jobs/j/{number:04}")).collect();
    let puts = all.iter().map(|name| blobs.put(name, Bytes::from_static(b"x")));
    let puts = futures::stream::iter(puts.map(Ok)).try_buffer_unordered(16);
    puts.try_collect::<Vec<_>>().await.expect("blobs are put");
    assert_eq!(names(blobs, "jobs/j/").await, all);
    blobs.delete_prefix("jobs/").await.expect("deleted");
    assert_eq!(names(blobs, "").await, Vec::<String>::new());
}

async fn other_bytes_are_a_mismatch_and_no_blob_is_missing(blobs: &Blobs) {
    let bytes = pattern(100_000);
    let blob = put(blobs, "b", bytes.clone()).await;
    let mut flipped = bytes.to_vec();
    flipped[77_777] ^= 1;
    for wrong in [flipped, bytes[..99_999].to_vec(), [&bytes[..], b"x"].concat(), Vec::new()] {
        put(blobs, "b", wrong.clone()).await;
        assert_eq!(blobs.get(&blob).await, Err(BlobError::Mismatch("b".into())), "{} bytes", wrong.len());
        assert_eq!(streamed(blobs, &blob).await, Err(BlobError::Mismatch("b".into())), "{} bytes", wrong.len());
    }
    blobs.delete("b").await.expect("deleted");
    assert_eq!(blobs.get(&blob).await, missing("b"));
    assert_eq!(blobs.get_unverified("b").await, missing("b"));
    assert_eq!(streamed(blobs, &blob).await, missing("b"));
    assert_eq!(blobs.get_range("b", 0..1).await, missing("b"));
}

async fn absence_is_proof_only_beside_the_marker(blobs: &Blobs) {
    let marked = blobs.clone().with_marker("group-id", Bytes::from_static(b"mine"));
    let blob = BlobRef { name: "b".into(), hash: ContentHash::of(b"x"), len: 1 };
    let ask = async || {
        [
            marked.get(&blob).await.map(drop),
            marked.get_unverified("b").await.map(drop),
            marked.get_range("b", 0..1).await.map(drop),
            marked.stream(&blob).await.map(drop),
        ]
    };
    let assert_unproven = async |what: &str| {
        for answer in ask().await.into_iter().chain([marked.list("jobs/").await.map(drop)]) {
            let Err(BlobError::Unavailable(text)) = answer else { panic!("{what}: {answer:?}") };
            assert!(text.contains("group-id"), "{text}");
        }
    };
    assert_unproven("no marker").await;
    put(blobs, "group-id", "another").await;
    assert_unproven("another group's marker").await;
    put(blobs, "group-id", "mine").await;
    for answer in ask().await {
        assert_eq!(answer, missing("b"));
    }
    assert_eq!(marked.list("jobs/").await, Ok(Vec::new()));
    put(&marked, "b", "x").await;
    assert_eq!(marked.get(&blob).await, Ok(Bytes::from_static(b"x")));
}
