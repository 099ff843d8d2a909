//! What fuzzers call: every parser of what comes from outside, by name. Not an interface.
//!
//! The programs in `fuzz/` call these with what the fuzzer makes up, the test `corpora` with what is kept of that.

use std::{
    fs, io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use tokio::io::AsyncRead;
use workrs_core::{
    image::ImageDigest,
    keys,
    spec::{CheckpointPolicy, Network, command_for_script, format_duration, format_size, parse_duration, parse_size},
};
use workrs_engine::image::source::{ImageSink, Reference, import};

use crate::{api, cli, tls::Fingerprint};

/// A parser, and what calls it.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("archive", archive),
    ("checkpoint", workrs_store::fuzzing::manifest),
    ("documents", workrs_engine::fuzzing::documents),
    ("keys", names_of_keys),
    ("layer", layer),
    ("pack_index", workrs_store::fuzzing::pack_index),
    ("record", record),
    ("submit", api::fuzz::submit),
    ("texts", texts),
];

/// Calls the target of this name; does nothing if there is none.
pub fn run(name: &str, data: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(data);
    }
}

/// A record out of the state store, and what is shown of it.
fn record(data: &[u8]) {
    if let Some(record) = workrs_store::fuzzing::record(data) {
        let view = api::JobView::from(&record);
        let _printed = cli::print_job(&view);
        let _indexes = keys::index_keys(&record);
    }
}

/// Names of keys and blobs.
fn names_of_keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _parsed = (
        keys::image_of(text),
        keys::image_part_of(text),
        keys::node_of(text),
        keys::finished_at(text),
        keys::job_of_index(text),
        keys::incarnation_of(text),
        keys::queue_order(text),
        keys::parse_log_segment(text),
        keys::parse_checkpoint(text),
    );
}

/// What people write: sizes, durations, names of images, scripts.
fn texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(size) = parse_size(&text) {
        let _shown = format_size(size);
    }
    if let Ok(duration) = parse_duration(&text) {
        let shown = format_duration(duration);
        assert_eq!(parse_duration(&shown), Ok(duration), "{shown}");
    }
    let _policy = text.parse::<CheckpointPolicy>();
    let _network = text.parse::<Network>();
    if let Ok(fingerprint) = text.parse::<Fingerprint>() {
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    }
    if let Ok(reference) = Reference::parse(&text) {
        let again = Reference::parse(&reference.to_string()).map(|again| again.to_string());
        assert_eq!(again.ok(), Some(reference.to_string()), "a name in full means itself");
        assert!(Reference::parse(&reference.familiar()).is_ok(), "{}", reference.familiar());
    }
    let (name, head) = text.split_once('\n').unwrap_or((&text, ""));
    if let Ok(command) = command_for_script(name, head.as_bytes(), &[]) {
        assert!(!command.is_empty());
    }
    assert!(!cli::clean(&text).contains('\u{1b}'));
}

/// An archive of images.
fn archive(data: &[u8]) {
    let folder = Folder::new();
    let file = folder.0.join("archive");
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let (Ok(()), Ok(runtime)) = (fs::write(&file, data), runtime) else { return };
    let _outcome = runtime.block_on(import(&file, &Checked));
    assert_eq!(folder.entries(), 1, "nothing is written beside the archive");
}

/// A layer that is unpacked.
fn layer(data: &[u8]) {
    let folder = Folder::new();
    let (root, outside) = (folder.0.join("root"), folder.0.join("outside"));
    if fs::create_dir(&root).and_then(|()| fs::write(&outside, "as it was")).is_err() {
        return;
    }
    workrs_engine::fuzzing::layer(data, &root);
    assert_eq!(folder.entries(), 2, "nothing is made outside of the folder");
    assert_eq!(fs::read(&outside).ok().as_deref(), Some(&b"as it was"[..]));
}

/// Takes every part, reads it and forgets it.
struct Checked;

#[async_trait]
impl ImageSink for Checked {
    async fn has(&self, _: &ImageDigest) -> io::Result<bool> {
        Ok(false)
    }

    async fn put(&self, _: &ImageDigest, bytes: u64, content: &mut (dyn AsyncRead + Send + Unpin)) -> io::Result<()> {
        let read = tokio::io::copy(content, &mut tokio::io::sink()).await?;
        assert_eq!(read, bytes);
        Ok(())
    }
}

/// A folder for one call.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("workrs-fuzz-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("there is a folder for temporary files");
        Self(folder)
    }

    fn entries(&self) -> usize {
        fs::read_dir(&self.0).map_or(0, Iterator::count)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Layers may have folders that their owner cannot read; root can.
        let _left = fs::remove_dir_all(&self.0);
    }
}
