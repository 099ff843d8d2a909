//! Blobs and checkpoints on a real S3 server, which is killed, stopped, wiped and asked with wrong credentials.

#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "services/s3.rs"]
mod service;

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use futures::TryStreamExt;
use service::{BUCKET, S3Server, SECRET};
use workrs_core::{
    hash::ContentHash,
    id::{Epoch, JobId, OperationId},
    job::{BlobRef, CheckpointId, CheckpointMode},
    manifest::RestoreNeeds,
};
use workrs_store::{
    blobs::{BlobError, BlobKey, Blobs},
    checkpoints::{Base, Checkpoints, FetchError, NewCheckpoint, PartSource, Stored},
    conformance,
};

const MARKER: &str = "group-id";

fn open(server: &S3Server, prefix: &str) -> Blobs {
    Blobs::open(&server.url_with_credentials(BUCKET, prefix)).unwrap()
}

/// Blobs with a marker, as a node has them.
async fn open_marked(server: &S3Server) -> Blobs {
    let blobs = open(server, "group");
    blobs.put(MARKER, "mine".into()).await.unwrap();
    blobs.with_marker(MARKER, "mine".into())
}

/// Bytes that zstd cannot shorten, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Asks for a blob in every way, and to write, list and delete; all must be refused, as this gives.
async fn refusals(blobs: &Blobs) -> Vec<String> {
    let blob = BlobRef { name: "jobs/j/x".into(), hash: ContentHash::of(b"x"), len: 1 };
    let list = async { blobs.list("jobs/").await.map(drop) };
    let stream = async { blobs.stream(&blob).await?.try_collect::<Vec<_>>().await.map(drop) };
    let write = async {
        let mut writer = blobs.writer("jobs/j/y");
        writer.write(noise(1, 20 << 20).into()).await?;
        writer.finish().await.map(drop)
    };
    let answers = tokio::join!(
        async { blobs.get(&blob).await.map(drop) },
        async { blobs.get_range(&blob.name, 0..1).await.map(drop) },
        stream,
        list,
        async { blobs.list_modified("jobs/").await.map(drop) },
        async { blobs.put("jobs/j/z", "z".into()).await.map(drop) },
        write,
        blobs.delete("jobs/j/x"),
        blobs.delete_prefix("jobs/"),
    );
    let answers = [
        ("get", answers.0),
        ("get_range", answers.1),
        ("stream", answers.2),
        ("list", answers.3),
        ("list_modified", answers.4),
        ("put", answers.5),
        ("write", answers.6),
        ("delete", answers.7),
        ("delete_prefix", answers.8),
    ];
    let refused = answers.into_iter().map(|(what, answer)| match answer {
        Err(BlobError::Unavailable(text)) => text,
        answer => panic!("{what}: {answer:?}"),
    });
    refused.collect()
}

async fn assert_refused(blobs: &Blobs, expect: &str) {
    for text in Box::pin(refusals(blobs)).await {
        assert!(text.contains(expect) && !text.contains(SECRET) && text.len() < 400, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_the_contract_of_blobs() {
    let Some(server) = S3Server::start() else { return };
    let count = AtomicU32::new(0);
    let make = async || open(&server, &format!("a/{}", count.fetch_add(1, Ordering::SeqCst)));
    conformance::blobs::run(make).await;
    // Of all that lies beside it a store sees nothing.
    open(&server, "a/other").put("x", "x".into()).await.unwrap();
    assert_eq!(open(&server, "a/oth").list("").await, Ok(Vec::new()));
    assert_eq!(open(&server, "a").list("other").await, Ok(vec![("other/x".to_owned(), 1)]));
    let whole = Blobs::open(&server.url_with_credentials(BUCKET, "")).unwrap();
    assert_eq!(whole.get_unverified("a/other/x").await, Ok("x".into()));
}

#[tokio::test]
async fn what_is_refused_says_why_and_is_never_missing() {
    let Some(mut server) = S3Server::start() else { return };
    let marked = open_marked(&server).await;
    assert!(!format!("{marked:?}").contains(SECRET));
    assert_eq!(marked.get_unverified("none").await, Err(BlobError::Missing("none".into())));

    let file = server.write_credentials("wrong", &SECRET.replace("c0ffee", "facade"));
    let url = format!("{}&credentials={}", server.url(BUCKET, "group"), file.display());
    Box::pin(assert_refused(&Blobs::open(&url).unwrap(), "see that the access key and its secret are right")).await;

    let other = Blobs::open(&server.url_with_credentials("other", "")).unwrap();
    Box::pin(assert_refused(&other, "create the bucket")).await;

    let region = server.url_with_credentials(BUCKET, "group").replace("region=garage", "region=elsewhere");
    Box::pin(assert_refused(&Blobs::open(&region).unwrap(), "?region=")).await;

    let elsewhere = server.url_with_credentials(BUCKET, "group").replace(&server.endpoint(), &web_server());
    Box::pin(assert_refused(&Blobs::open(&elsewhere).unwrap(), "does not look like an S3 store")).await;
}

/// A server that knows nothing of S3.
fn web_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            std::thread::spawn(move || {
                let mut connection = connection.unwrap();
                let mut request = vec![0; 1 << 16];
                let _some = connection.read(&mut request);
                let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\nConnection: close\r\n\r\n<h1>Nothing</h1";
                let _closed = connection.write_all(answer.as_bytes());
                // Whoever closes before all was read takes the answer back.
                let _rest = std::io::copy(&mut connection, &mut std::io::sink());
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_server_that_is_gone_is_given_up_on() {
    let Some(mut server) = S3Server::start() else { return };
    let blobs = open_marked(&server).await;
    server.kill();
    Box::pin(assert_refused(&blobs, "see that the server runs")).await;
    server.restart();
    assert_eq!(blobs.get_unverified("none").await, Err(BlobError::Missing("none".into())));
}

#[tokio::test]
async fn a_server_that_comes_back_soon_is_waited_for() {
    let Some(mut server) = S3Server::start() else { return };
    let blobs = open_marked(&server).await;
    server.kill();
    let read = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.get_unverified(MARKER).await }
    });
    server.restart();
    assert_eq!(read.await.unwrap(), Ok("mine".into()));
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_on() {
    let Some(server) = S3Server::start() else { return };
    let blobs = open_marked(&server).await;
    let mut writer = blobs.writer("jobs/j/begun");
    writer.write(noise(1, 9 << 20).into()).await.unwrap();
    server.pause();
    let begun = Instant::now();
    let rest = async {
        writer.write(noise(2, 20 << 20).into()).await?;
        writer.finish().await
    };
    let (written, ()) = tokio::join!(rest, assert_refused(&blobs, "see that the server runs"));
    assert!(matches!(written, Err(BlobError::Unavailable(_))), "{written:?}");
    println!("given up on after {:?}", begun.elapsed());
    server.resume();
    assert_eq!(blobs.get_unverified("none").await, Err(BlobError::Missing("none".into())));
}

#[tokio::test]
async fn an_upload_that_the_server_did_not_survive_can_be_done_again() {
    let Some(mut server) = S3Server::start() else { return };
    let blobs = open_marked(&server).await;
    let bytes = Bytes::from(noise(7, 30 << 20));
    let mut writer = blobs.writer("jobs/j/x");
    writer.write(bytes.slice(..12 << 20)).await.unwrap();
    server.kill();
    let rest = async {
        writer.write(bytes.slice(12 << 20..)).await?;
        writer.finish().await
    };
    let refused = rest.await;
    assert!(matches!(refused, Err(BlobError::Unavailable(_))), "{refused:?}");
    server.restart();
    assert_eq!(blobs.list("jobs/").await, Ok(Vec::new()));
    let mut writer = blobs.writer("jobs/j/x");
    writer.write(bytes.clone()).await.unwrap();
    let blob = writer.finish().await.unwrap();
    assert!(blobs.get(&blob).await == Ok(bytes));
}

#[tokio::test]
async fn a_store_that_was_wiped_proves_nothing() {
    let Some(mut server) = S3Server::start() else { return };
    let blobs = open_marked(&server).await;
    blobs.put("jobs/j/x", "x".into()).await.unwrap();
    server.wipe(BUCKET);
    for answer in [
        blobs.get_unverified("jobs/j/x").await.map(drop),
        blobs.get_range("jobs/j/x", 0..1).await.map(drop),
        blobs.list("jobs/").await.map(drop),
        blobs.delete_prefix("jobs/").await,
    ] {
        let Err(BlobError::Unavailable(text)) = answer else { panic!("{answer:?}") };
        assert!(text.contains(MARKER), "{text}");
    }
    server.wipe("another");
    Box::pin(assert_refused(&blobs, "create the bucket")).await;
}

/// A folder of one file and an image, as an engine captures them.
struct Capture(tempfile::TempDir);

impl Capture {
    fn new(pages: &[u64]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("memory")).unwrap();
        let bytes: Vec<u8> = pages.iter().flat_map(|seed| noise(*seed, 1 << 20)).collect();
        std::fs::write(folder.path().join("memory/pages"), &bytes).unwrap();
        std::fs::write(folder.path().join("disk"), noise(99, 3 << 20)).unwrap();
        Self(folder)
    }

    async fn store(&self, checkpoints: &Checkpoints, seq: u64, base: Option<&Stored>) -> Stored {
        let path = |name: &str| self.0.path().join(name);
        let parts = [
            PartSource::Folder { name: "memory".into(), path: path("memory") },
            PartSource::Image { name: "disk".into(), path: path("disk"), changed: None },
        ];
        let base = base.map(|base| Base::new(Arc::clone(&base.contents)));
        let new = NewCheckpoint {
            job: &job(),
            id: id(seq),
            operation: &OperationId::new("op").unwrap(),
            mode: CheckpointMode::Full,
            needs: RestoreNeeds { engine: "fake".into(), format: 1, arch: "x86_64".into(), ..RestoreNeeds::default() },
            run_ms: 1,
            log_bytes: 2,
            parts: &parts,
            base: base.as_ref(),
            limit_bytes: None,
        };
        checkpoints.store(new).await.unwrap()
    }

    async fn assert_fetched(&self, checkpoints: &Checkpoints, seq: u64, stored: &Stored) {
        let into = tempfile::tempdir().unwrap();
        fetch(checkpoints, seq, stored, into.path()).await.unwrap();
        for name in ["memory/pages", "disk"] {
            let same =
                std::fs::read(into.path().join(name)).unwrap() == std::fs::read(self.0.path().join(name)).unwrap();
            assert!(same, "{name} differs");
        }
    }
}

fn job() -> JobId {
    JobId::new("job").unwrap()
}

fn id(seq: u64) -> CheckpointId {
    CheckpointId { epoch: Epoch(1), seq }
}

async fn fetch(checkpoints: &Checkpoints, seq: u64, stored: &Stored, into: &Path) -> Result<(), FetchError> {
    checkpoints.fetch(&job(), id(seq), &stored.manifest, into).await.map(drop)
}

async fn refused(checkpoints: &Checkpoints, seq: u64, stored: &Stored) -> FetchError {
    fetch(checkpoints, seq, stored, tempfile::tempdir().unwrap().path()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_come_back_or_are_known_to_be_bad() {
    let Some(mut server) = S3Server::start() else { return };
    let plain = open_marked(&server).await;
    let key = BlobKey::parse(&"ab".repeat(32)).unwrap();
    for blobs in [plain.clone(), plain.with_key(key)] {
        let checkpoints = Checkpoints::new(blobs.clone());
        let (first, second) = (Capture::new(&(0..20).collect::<Vec<_>>()), Capture::new(&(1..21).collect::<Vec<_>>()));
        let stored = first.store(&checkpoints, 1, None).await;
        assert!(stored.uploaded_bytes > 20 << 20, "more than a part: {}", stored.uploaded_bytes);
        first.assert_fetched(&checkpoints, 1, &stored).await;
        let next = second.store(&checkpoints, 2, Some(&stored)).await;
        assert!(next.uploaded_bytes < 3 << 20, "what is there is not stored again: {}", next.uploaded_bytes);
        second.assert_fetched(&checkpoints, 2, &next).await;

        let pack = &next.contents.packs[0];
        let sound = blobs.get_unverified(pack).await.unwrap();
        let mut flipped = sound.to_vec();
        flipped[sound.len() / 2] ^= 1;
        blobs.put(pack, flipped.into()).await.unwrap();
        assert!(matches!(refused(&checkpoints, 2, &next).await, FetchError::Bad(_)));
        blobs.delete(pack).await.unwrap();
        assert!(matches!(refused(&checkpoints, 2, &next).await, FetchError::Bad(_)));
        blobs.put(pack, sound).await.unwrap();
        second.assert_fetched(&checkpoints, 2, &next).await;

        // The first pack stays, because the second checkpoint needs it.
        let collected = checkpoints.collect(&job(), &[&next.manifest], Epoch(1), None).await.unwrap();
        assert_eq!(collected.freed_bytes, stored.manifest.len);
        second.assert_fetched(&checkpoints, 2, &next).await;
        checkpoints.collect(&job(), &[], Epoch(1), None).await.unwrap();
        assert_eq!(blobs.list("jobs/").await, Ok(Vec::new()));

        // Without the store nothing is known of a checkpoint.
        let stored = first.store(&checkpoints, 3, None).await;
        server.wipe("another");
        assert!(matches!(refused(&checkpoints, 3, &stored).await, FetchError::Unavailable(_)));
        server.wipe(BUCKET);
        assert!(matches!(refused(&checkpoints, 3, &stored).await, FetchError::Unavailable(_)));
        blobs.put(MARKER, "mine".into()).await.unwrap();
        assert!(matches!(refused(&checkpoints, 3, &stored).await, FetchError::Bad(_)));
    }
}
