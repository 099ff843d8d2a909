//! Images that tests make of programs of this host.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, Cursor},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use sha2::{Digest, Sha256};
use tokio::io::AsyncRead;
use workrs_core::image::{Compression, Image, ImageDigest, ImageSettings, Layer};
use workrs_engine::LayerSource;

/// A layer that is being written.
pub struct LayerBuilder {
    archive: tar::Builder<Vec<u8>>,
    has: BTreeSet<PathBuf>,
}

impl LayerBuilder {
    pub fn new() -> Self {
        Self { archive: tar::Builder::new(Vec::new()), has: BTreeSet::new() }
    }

    fn header(kind: tar::EntryType, mode: u32, owner: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(u64::from(owner));
        header.set_gid(u64::from(owner));
        header.set_mtime(1_000_000_000);
        header.set_size(size as u64);
        header
    }

    pub fn folder(&mut self, path: &str, mode: u32, owner: u32) -> &mut Self {
        let mut header = Self::header(tar::EntryType::Directory, mode, owner, 0);
        self.archive.append_data(&mut header, path, io::empty()).unwrap();
        self
    }

    pub fn file(&mut self, path: &str, mode: u32, owner: u32, content: &[u8]) -> &mut Self {
        let mut header = Self::header(tar::EntryType::Regular, mode, owner, content.len());
        self.archive.append_data(&mut header, path, content).unwrap();
        self
    }

    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0, 0);
        self.archive.append_link(&mut header, path, target).unwrap();
        self
    }

    /// Programs of this host under `/bin`, with the libraries that they need.
    pub fn programs(&mut self, names: &[&str]) -> &mut Self {
        for name in names {
            let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
            let found = found.iter().find(|path| path.exists()).unwrap();
            self.file(&format!("bin/{name}"), 0o755, 0, &std::fs::read(found).unwrap());
            let needs = Command::new("ldd").arg(found).output().unwrap();
            let needs = String::from_utf8(needs.stdout).unwrap();
            for library in needs.split_whitespace().filter(|word| word.starts_with('/')) {
                if self.has.insert(library.into()) {
                    self.file(library.trim_start_matches('/'), 0o755, 0, &std::fs::read(library).unwrap());
                }
            }
        }
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.archive.into_inner().unwrap()
    }
}

fn digest(bytes: &[u8]) -> ImageDigest {
    ImageDigest::of_sha256(Sha256::digest(bytes))
}

/// Layers as a group's store would have them.
#[derive(Default)]
pub struct Store {
    stored: HashMap<ImageDigest, Vec<u8>>,
    pub opened: AtomicUsize,
}

impl Store {
    /// Adds a layer in a compressed form.
    pub fn add(&mut self, plain: &[u8], compression: Compression) -> Layer {
        let stored = match compression {
            Compression::None => plain.to_vec(),
            Compression::Zstd => zstd::encode_all(plain, 1).unwrap(),
            Compression::Gzip => {
                let mut encoder = flate2::read::GzEncoder::new(plain, flate2::Compression::fast());
                let mut stored = Vec::new();
                io::copy(&mut encoder, &mut stored).unwrap();
                stored
            }
        };
        let layer = Layer { digest: digest(&stored), diff_id: digest(plain), bytes: stored.len() as u64, compression };
        self.stored.insert(layer.digest.clone(), stored);
        layer
    }
}

#[async_trait::async_trait]
impl LayerSource for Store {
    async fn open(&self, layer: &Layer) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let stored = self.stored.get(&layer.digest).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Cursor::new(stored.clone())))
    }
}

/// An image of these layers, for this host.
pub fn image(layers: Vec<Layer>, settings: ImageSettings) -> Arc<Image> {
    let names: Vec<_> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    let named = digest(format!("{} {settings:?}", names.join(" ")).as_bytes());
    Arc::new(Image { digest: named.clone(), config: named, arch: std::env::consts::ARCH.to_owned(), layers, settings })
}

/// What the programs of the conformance suite need, in two layers.
pub fn with_a_shell(store: &mut Store) -> Arc<Image> {
    let mut lower = LayerBuilder::new();
    lower.folder("bin", 0o755, 0).programs(&["sh", "sleep", "head"]);
    let mut upper = LayerBuilder::new();
    upper.programs(&["cat", "ls"]).file("etc/motd", 0o644, 0, b"hello\n");
    let layers = vec![store.add(&lower.finish(), Compression::Gzip), store.add(&upper.finish(), Compression::Zstd)];
    image(layers, ImageSettings::default())
}
