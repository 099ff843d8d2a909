mod sealed;

use std::{
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::*;
use crate::{
    conformance::blobs as conformance,
    faulty::{Fault, Faults, FaultyBlobs},
};

/// Small parts, because a cipher that is not optimised is slow.
const PART: usize = 256 << 10;

struct Opened {
    blobs: Blobs,
    /// The root on disk, if there is one.
    folder: Option<tempfile::TempDir>,
}

fn key(digit: char) -> BlobKey {
    BlobKey::parse(&digit.to_string().repeat(64)).unwrap()
}

/// A store in a folder, and one in memory.
fn two_stores() -> [Opened; 2] {
    let folder = tempfile::tempdir().unwrap();
    let file = Blobs::open(&format!("file://{}/new/root", folder.path().display())).unwrap();
    let memory = Blobs::open("memory:").unwrap();
    [Opened { blobs: file, folder: Some(folder) }, Opened { blobs: memory, folder: None }]
}

fn keyed_stores() -> [Opened; 2] {
    two_stores().map(|Opened { blobs, folder }| Opened { blobs: blobs.with_key(key('1')), folder })
}

fn all_stores() -> impl Iterator<Item = Opened> {
    two_stores().into_iter().chain(keyed_stores())
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|number| (number % 251) as u8).collect::<Vec<_>>().into()
}

async fn collect_stream(blobs: &Blobs, blob: &BlobRef) -> Result<Vec<u8>, BlobError> {
    let pieces: Vec<Bytes> = blobs.stream(blob).await?.try_collect().await?;
    Ok(pieces.concat())
}

fn files_below(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn blobs_in_memory_and_in_a_folder_keep_the_contract() {
    conformance::run(async || Blobs::open("memory:").unwrap()).await;
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    let open = async || {
        let root = folder.path().join(count.fetch_add(1, Ordering::SeqCst).to_string());
        Blobs::open(&format!("file://{}", root.display())).unwrap()
    };
    conformance::run(open).await;
}

#[tokio::test]
async fn what_was_put_is_read_in_every_way() {
    for Opened { blobs, folder } in all_stores() {
        for len in [0, 1, 1000, (1 << 20) + 1] {
            let bytes = pattern(len);
            let name = format!("jobs/j.1/inputs/op/{len}");
            let blob = blobs.put(&name, bytes.clone()).await.unwrap();
            assert_eq!(blob, BlobRef { name: name.clone(), hash: ContentHash::of(&bytes), len: len as u64 });
            assert_eq!(blobs.get(&blob).await, Ok(bytes.clone()));
            assert_eq!(blobs.get_unverified(&name).await, Ok(bytes.clone()));
            assert_eq!(collect_stream(&blobs, &blob).await.unwrap(), bytes);
            let (start, end) = (len / 3, len.div_ceil(2));
            if start < end {
                let range = blobs.get_range(&name, start as u64..end as u64).await;
                assert_eq!(range, Ok(bytes.slice(start..end)));
            }
        }
        drop(folder);
    }
}

#[tokio::test]
async fn a_writer_takes_any_length_and_any_pieces() {
    for Opened { blobs, folder } in all_stores() {
        for len in [0, 1, PART - 1, PART, PART + 1, 3 * PART + 5] {
            let bytes = pattern(len);
            let mut writer = blobs.writer_of_parts("jobs/j/log/1", PART);
            for piece in [&bytes[..len / 7], &bytes[len / 7..len / 7 * 3], &bytes[len / 7 * 3..]] {
                writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            let blob = writer.finish().await.unwrap();
            assert_eq!((blob.len, blob.hash), (len as u64, ContentHash::of(&bytes)), "{len}");
            assert_eq!(blobs.get(&blob).await, Ok(bytes));
        }
        drop(folder);
    }
}

#[tokio::test]
async fn an_unfinished_blob_is_never_seen() {
    for Opened { blobs, folder } in all_stores() {
        for abort in [true, false] {
            for len in [1, 2 * PART + 1] {
                let mut writer = blobs.writer_of_parts("jobs/j/log/1", PART);
                writer.write(pattern(len)).await.unwrap();
                assert_eq!(blobs.list("").await, Ok(Vec::new()));
                if abort {
                    writer.abort().await.unwrap();
                } else {
                    drop(writer);
                }
                assert_eq!(blobs.list("").await, Ok(Vec::new()));
                assert_eq!(blobs.get_unverified("jobs/j/log/1").await, Err(BlobError::Missing("jobs/j/log/1".into())));
            }
        }
        let Some(folder) = folder else { continue };
        // Dropped writers clean up behind the scenes.
        for _ in 0..1000 {
            if files_below(folder.path()).is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(files_below(folder.path()), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn lists_go_by_the_very_prefix_and_deletes_too() {
    for Opened { blobs, folder } in all_stores() {
        for name in ["jobs/a/x", "jobs/a/y/z", "jobs/ab/x", "jobs/b", "images/x"] {
            blobs.put(name, pattern(name.len())).await.unwrap();
        }
        let names = async |prefix: &str| {
            let listed = blobs.list(prefix).await.unwrap();
            assert!(listed.iter().all(|(name, len)| name.len() as u64 == *len));
            listed.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names("").await, ["images/x", "jobs/a/x", "jobs/a/y/z", "jobs/ab/x", "jobs/b"]);
        assert_eq!(names("jobs/a/").await, ["jobs/a/x", "jobs/a/y/z"]);
        assert_eq!(names("jobs/a").await, ["jobs/a/x", "jobs/a/y/z", "jobs/ab/x"]);
        assert_eq!(names("jobs/c/").await, Vec::<String>::new());
        blobs.delete("jobs/a/x").await.unwrap();
        blobs.delete("jobs/a/x").await.unwrap();
        blobs.delete_prefix("jobs/a/").await.unwrap();
        blobs.delete_prefix("jobs/a/").await.unwrap();
        assert_eq!(names("").await, ["images/x", "jobs/ab/x", "jobs/b"]);
        if let Some(folder) = folder {
            assert!(!folder.path().join("new/root/jobs/a").exists(), "empty folders go");
        }
    }
}

#[tokio::test]
async fn a_changed_blob_is_a_mismatch_and_a_missing_one_is_missing() {
    for Opened { blobs, folder } in all_stores() {
        let bytes = pattern(100_000);
        let blob = blobs.put("b", bytes.clone()).await.unwrap();
        let mut flipped = bytes.to_vec();
        flipped[77_777] ^= 1;
        let longer = [&bytes[..], b"x"].concat();
        for wrong in [flipped, bytes[..99_999].to_vec(), longer, Vec::new()] {
            blobs.put("b", wrong.clone().into()).await.unwrap();
            assert_eq!(blobs.get(&blob).await, Err(BlobError::Mismatch("b".into())));
            assert_eq!(collect_stream(&blobs, &blob).await, Err(BlobError::Mismatch("b".into())));
            let range = blobs.get_range("b", 99_990..100_000).await;
            if wrong.len() < 100_000 {
                assert_eq!(range, Err(BlobError::Mismatch("b".into())), "{} bytes", wrong.len());
            } else {
                assert_eq!(range, Ok(bytes.slice(99_990..)));
            }
        }
        blobs.delete("b").await.unwrap();
        assert_eq!(blobs.get(&blob).await, Err(BlobError::Missing("b".into())));
        assert_eq!(blobs.stream(&blob).await.err(), Some(BlobError::Missing("b".into())));
        assert_eq!(blobs.get_range("b", 0..1).await, Err(BlobError::Missing("b".into())));
        drop(folder);
    }
}

#[tokio::test]
async fn the_folder_is_its_owners_and_leftovers_of_dead_writers_go() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("deep/root");
    let blobs = Blobs::open(&format!("file://{}", root.display())).unwrap();
    for made in [&root, &folder.path().join("deep")] {
        assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
    blobs.put("jobs/a/x", Bytes::new()).await.unwrap();
    blobs.put("jobs/b/x", Bytes::new()).await.unwrap();
    // What a writer that was killed leaves.
    for name in ["jobs/a/log/1#1", "jobs/a/log/2.sealed#1", "jobs/a/x#12", "jobs/b/y#1"] {
        std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        std::fs::write(root.join(name), b"unfinished").unwrap();
    }
    assert_eq!(blobs.list("jobs/a/").await, Ok(vec![("jobs/a/x".to_owned(), 0)]));
    blobs.delete_prefix("jobs/a/").await.unwrap();
    let mut left = files_below(&root);
    left.sort();
    assert_eq!(left, [root.join("jobs/b/x"), root.join("jobs/b/y#1")]);
    Blobs::open(&format!("file://{}", root.display())).unwrap();
}

#[test]
fn urls_and_names_that_cannot_be_used_are_refused() {
    for url in ["", "S3:bucket", "file:relative", "file://host/path", "/path", "memory"] {
        let refused = Blobs::open(url);
        let Err(BlobError::InvalidUrl(text)) = refused else { panic!("{url}: {refused:?}") };
        assert!(text.contains("file:///"), "{text}");
    }
    assert!(matches!(Blobs::open("file:///proc/nothing/here"), Err(BlobError::InvalidUrl(_))));
    for name in ["a b#1\n", "/a", "a/", "a//b", "a/../b", ".", "a.sealed"] {
        assert!(path(name).is_err(), "{name:?}");
    }
    assert_eq!(path("jobs/a-b_c.d/1-2-op.pack").unwrap().as_ref(), "jobs/a-b_c.d/1-2-op.pack");
}

#[test]
fn a_full_disk_is_found_behind_other_errors() {
    let io = |code| Box::new(std::io::Error::from_raw_os_error(code));
    let generic = |source| object_store::Error::Generic { store: "test", source };
    let (enospc, edquot, eio) = (28, 122, 5);
    for code in [enospc, edquot] {
        assert!(matches!(convert("b", &generic(io(code))), BlobError::Full(_)));
        let nested = generic(Box::new(std::io::Error::other(generic(io(code)))));
        assert!(matches!(convert("b", &nested), BlobError::Full(_)));
    }
    assert!(matches!(convert("b", &generic(io(eio))), BlobError::Unavailable(_)));
}

#[tokio::test]
async fn a_writer_under_every_fault_errs_or_its_blob_is_whole() {
    let bytes = pattern(2 * PART + 9);
    let write = async |blobs: &Blobs| {
        let mut writer = blobs.writer_of_parts("b", PART);
        writer.write(bytes.clone()).await?;
        writer.finish().await
    };
    let plain: fn(Arc<dyn ObjectStore>) -> Blobs = Blobs::new;
    let sealed: fn(Arc<dyn ObjectStore>) -> Blobs = |store| Blobs::new(store).with_key(key('1'));
    let faults = Faults::none();
    write(&plain(Arc::new(FaultyBlobs::new(Arc::new(InMemory::new()), faults.clone())))).await.unwrap();
    assert!(faults.count() >= 5, "start, three parts, completion");
    for (number, open) in (1..=faults.count()).flat_map(|number| [(number, plain), (number, sealed)]) {
        for fault in [Fault::Refuse, Fault::LoseAnswer] {
            let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let result = write(&open(Arc::new(FaultyBlobs::new(Arc::clone(&memory), Faults::at(number, fault))))).await;
            assert!(matches!(result, Err(BlobError::Unavailable(_))), "{number} {fault:?}: {result:?}");
            let sound = open(memory);
            match sound.get_unverified("b").await {
                Ok(found) => assert_eq!(found, bytes, "{number} {fault:?}"),
                Err(error) => assert_eq!(error, BlobError::Missing("b".into())),
            }
            let blob = write(&sound).await.unwrap();
            assert_eq!(sound.get(&blob).await, Ok(bytes.clone()));
        }
    }
}

#[tokio::test]
async fn lengths_are_told_without_reading() {
    for opened in all_stores() {
        let blobs = &opened.blobs;
        assert_eq!(blobs.len_of("a/b").await, Err(BlobError::Missing("a/b".to_owned())));
        blobs.put("a/b", pattern(100_000)).await.unwrap();
        assert_eq!(blobs.len_of("a/b").await, Ok(100_000));
        let wiped = blobs.clone().with_marker("group", "x".into());
        assert!(matches!(wiped.len_of("a/c").await, Err(BlobError::Unavailable(_))), "no proof without the marker");
    }
}

#[tokio::test]
async fn only_what_nobody_writes_to_any_more_is_abandoned() {
    let [opened, _] = two_stores();
    let mut writer = opened.blobs.writer_of_parts("images/a", PART);
    writer.write(pattern(4 * PART)).await.unwrap();
    let root = opened.folder.as_ref().unwrap().path().to_owned();
    assert_eq!(files_below(&root).len(), 1, "it is written to a file of its own");
    opened.blobs.sweep_abandoned("images/", Duration::from_secs(3_600)).await.unwrap();
    assert_eq!(files_below(&root).len(), 1);
    opened.blobs.sweep_abandoned("images/", Duration::ZERO).await.unwrap();
    assert!(files_below(&root).is_empty());
    drop(writer);
}
