//! What the cache keeps and what it removes.

use std::{
    io::Cursor,
    sync::atomic::{AtomicUsize, Ordering},
};

use sha2::{Digest, Sha256};
use tokio::io::AsyncRead;
use workrs_core::image::{Compression, ImageSettings};

use super::*;

/// Layers of one file each, by their content.
#[derive(Default)]
struct Source {
    stored: HashMap<ImageDigest, Vec<u8>>,
    opened: AtomicUsize,
}

impl Source {
    /// A layer with a file `name` of `bytes` bytes.
    fn layer(&mut self, name: &str, bytes: usize) -> Layer {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, name, vec![b'x'; bytes].as_slice()).unwrap();
        let stored = archive.into_inner().unwrap();
        let digest = ImageDigest::of_sha256(Sha256::digest(&stored));
        let bytes = stored.len() as u64;
        self.stored.insert(digest.clone(), stored);
        Layer { digest: digest.clone(), diff_id: digest, bytes, compression: Compression::None }
    }
}

#[async_trait::async_trait]
impl LayerSource for Source {
    async fn open(&self, layer: &Layer) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let stored = self.stored.get(&layer.digest).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Cursor::new(stored.clone())))
    }
}

fn image(layers: &[&Layer]) -> Image {
    let names: String = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let digest = ImageDigest::of_sha256(Sha256::digest(names));
    Image {
        digest: digest.clone(),
        config: digest,
        arch: String::new(),
        layers: layers.iter().map(|layer| (*layer).clone()).collect(),
        settings: ImageSettings::default(),
    }
}

/// One that keeps nothing for containers to come.
fn open(data: &Path, limit: u64) -> Arc<LayerCache> {
    let mut cache = LayerCache::open(data, limit).unwrap();
    cache.kept_for_containers = Duration::ZERO;
    Arc::new(cache)
}

fn names(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("images/layers")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_two_want_at_once_is_unpacked_once() {
    let data = tempfile::tempdir().unwrap();
    let mut source = Source::default();
    let (one, two) = (source.layer("one", 10), source.layer("two", 10));
    let cache = open(data.path(), 1 << 30);
    // The same layer twice in an image, too.
    let (first, second) = (image(&[&one, &two, &one]), image(&[&two, &one]));
    let (first_provided, second_provided) =
        tokio::join!(cache.provide(&first, &source), cache.provide(&second, &source));
    first_provided.and(second_provided).unwrap();
    assert_eq!(source.opened.load(Ordering::SeqCst), 2);
    let layers = cache.layers(&first).unwrap();
    let roots: Vec<_> = layers.roots().into_iter().map(|(root, _)| root).collect();
    assert!(roots[0].join("one").exists() && roots[1].join("two").exists() && roots[2] == roots[0]);
    cache.write_back(&[one.diff_id.digits().to_owned()]);
    let again = open(data.path(), 1 << 30);
    again.provide(&first, &source).await.unwrap();
    assert_eq!(source.opened.load(Ordering::SeqCst), 2, "kept from one process to the next");
    // As after a power cut: only what was written back counts. That goes on in the background.
    while cache.notes(two.diff_id.digits()).unwrap().boot.is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut notes = cache.notes(two.diff_id.digits()).unwrap();
    notes.boot = Some("another".to_owned());
    fs::write(cache.folder.join(two.diff_id.digits()).join(NOTES), serde_json::to_vec(&notes).unwrap()).unwrap();
    let after = open(data.path(), 1 << 30);
    assert!(after.layers(&image(&[&one])).is_ok() && after.layers(&image(&[&two])).is_err());
}

#[tokio::test]
async fn what_is_not_used_goes_and_what_is_used_stays() {
    let data = tempfile::tempdir().unwrap();
    let mut source = Source::default();
    let layers = ["a", "b", "c", "d"].map(|name| source.layer(name, 100_000));
    let digits = |at: usize| layers[at].diff_id.digits().to_owned();
    let cache = open(data.path(), 250_000);
    let images = [0, 1, 2, 3].map(|at: usize| image(&[&layers[at]]));
    cache.provide(&images[0], &source).await.unwrap();
    let held = cache.layers(&images[0]).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    for (at, days) in [(1, 2), (2, 1)] {
        cache.provide(&images[at], &source).await.unwrap();
        let mark = fs::File::options().write(true).open(cache.folder.join(digits(at)).join(USE_MARK)).unwrap();
        mark.set_modified(long_ago - Duration::from_secs(days)).unwrap();
    }
    cache.provide(&images[3], &source).await.unwrap();
    let there = |at: usize| cache.layers(&images[at]).is_ok();
    assert_eq!([0, 1, 2, 3].map(there), [true, false, false, true], "the oldest went, but for the one in use");
    assert!(held.roots()[0].0.join("a").exists());
    let too_large = image(&[&layers[0], &layers[1], &layers[2], &layers[3]]);
    let kind = LayerCache::open(data.path(), 1).map(Arc::new).unwrap();
    kind.provide(&too_large, &source).await.unwrap();
    assert!(kind.layers(&too_large).is_ok(), "larger than the cache, and yet it runs");
}

#[tokio::test]
async fn what_fails_leaves_nothing_and_can_be_tried_again() {
    let data = tempfile::tempdir().unwrap();
    let mut source = Source::default();
    let layer = source.layer("file", 100_000);
    let image = image(&[&layer]);
    let cache = open(data.path(), 1 << 30);
    let whole = source.stored.insert(layer.digest.clone(), vec![0; 1000]).unwrap();
    let failed = cache.provide(&image, &source).await.unwrap_err();
    assert!(matches!(&failed, EngineError::Host(why) if why.contains("1000 bytes")), "{failed}");
    let absent = source.stored.remove(&layer.digest);
    assert!(absent.is_some() && matches!(cache.provide(&image, &source).await, Err(EngineError::Host(_))));
    assert_eq!(names(data.path()), [NONE]);
    assert!(cache.layers(&image).is_err());
    source.stored.insert(layer.digest.clone(), whole);
    let mut lying = layer.clone();
    lying.diff_id = ImageDigest::of_sha256([7; 32]);
    let failed = cache.provide(&self::image(&[&lying]), &source).await.unwrap_err();
    assert!(matches!(failed, EngineError::CannotStart(_)), "of no use anywhere: {failed}");
    assert_eq!(names(data.path()), [NONE]);
    cache.provide(&image, &source).await.unwrap();
    assert!(cache.layers(&image).is_ok());
}

#[tokio::test]
async fn what_a_crash_left_goes_when_the_cache_is_opened() {
    let data = tempfile::tempdir().unwrap();
    let mut source = Source::default();
    let layer = source.layer("file", 10);
    open(data.path(), 1 << 30).provide(&image(&[&layer]), &source).await.unwrap();
    let folder = data.path().join("images/layers");
    let half = "f".repeat(64);
    for name in [format!(".new-{half}"), format!(".old-{half}"), half, "strange".to_owned()] {
        fs::create_dir_all(folder.join(name).join(ROOT)).unwrap();
    }
    let cache = open(data.path(), 1 << 30);
    let mut expected = vec![layer.diff_id.digits().to_owned(), NONE.to_owned()];
    expected.sort();
    assert_eq!(names(data.path()), expected);
    assert!(cache.layers(&image(&[&layer])).is_ok() && cache.layers(&image(&[])).is_ok(), "also without any layers");
}
