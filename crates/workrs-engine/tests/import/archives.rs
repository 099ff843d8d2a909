//! Archives of images, made for tests.

use std::io::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A tar with these files, in order.
pub struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub fn file(mut self, name: &str, content: &[u8]) -> Self {
        self.0.append_data(&mut header(EntryType::Regular, content.len()), name, content).unwrap();
        self
    }

    pub fn folder(mut self, name: &str) -> Self {
        self.0.append_data(&mut header(EntryType::Directory, 0), name, std::io::empty()).unwrap();
        self
    }

    pub fn link(mut self, kind: EntryType, name: &str, target: &str) -> Self {
        self.0.append_link(&mut header(kind, 0), name, target).unwrap();
        self
    }

    /// With the mark of its end.
    pub fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn header(kind: EntryType, bytes: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(bytes as u64);
    header
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

pub fn digest_of(content: &[u8]) -> String {
    format!("sha256:{}", digits_of(content))
}

pub fn digits_of(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// This host's architecture, in the words of images.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Two layers that differ.
pub fn layers() -> [Vec<u8>; 2] {
    [Tar::new().folder("usr").file("usr/a", &[1; 5000]).end(), Tar::new().file("b", b"second").end()]
}

pub fn config(arch: &str, layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest_of(layer)).collect();
    let config = json!({
        "architecture": arch, "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    config.to_string().into_bytes()
}

/// As Docker up to 24 saves: the third layer is the first again, as a symbolic link.
pub fn docker_save() -> Vec<u8> {
    let [first, second] = layers();
    let config = config(arch(), &[&first, &second, &first]);
    let name = format!("{}.json", digits_of(&config));
    let manifest = json!([{
        "Config": name, "RepoTags": ["tool:1", "registry:5000/team/tool:2"],
        "Layers": ["one/layer.tar", "two/layer.tar", "three/layer.tar"],
    }]);
    Tar::new()
        .folder("one")
        .file("one/VERSION", b"1.0")
        .file("one/layer.tar", &first)
        .link(EntryType::Symlink, "three/layer.tar", "../one/layer.tar")
        .file("two/layer.tar", &second)
        .file(&name, &config)
        .file("manifest.json", manifest.to_string().as_bytes())
        .file("repositories", b"{}")
        .end()
}

/// An OCI layout that grows.
pub struct Layout {
    blobs: Vec<Vec<u8>>,
    pub entries: Vec<Value>,
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

impl Layout {
    pub fn new() -> Self {
        Self { blobs: Vec::new(), entries: Vec::new() }
    }

    pub fn blob(&mut self, media_type: &str, content: &[u8]) -> Value {
        if !self.blobs.iter().any(|blob| blob == content) {
            self.blobs.push(content.to_vec());
        }
        json!({ "mediaType": media_type, "digest": digest_of(content), "size": content.len() })
    }

    /// An image with these layers, each as it is stored and of what kind, and without compression.
    pub fn image(&mut self, arch: &str, layers: &[(&[u8], &str, &[u8])]) -> Value {
        let plain: Vec<&[u8]> = layers.iter().map(|(_, _, plain)| *plain).collect();
        let config = self.blob(CONFIG, &config(arch, &plain));
        let layers: Vec<Value> = layers.iter().map(|(stored, kind, _)| self.blob(kind, stored)).collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.blob(MANIFEST, manifest.to_string().as_bytes())
    }

    pub fn entry(&mut self, entry: Value) {
        self.entries.push(entry);
    }

    pub fn index(&self) -> Vec<u8> {
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.entries }).to_string().into_bytes()
    }

    /// The tar but for its index.
    pub fn without_index(&self) -> Tar {
        let tar = Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        self.blobs.iter().fold(tar, |tar, blob| tar.file(&format!("blobs/sha256/{}", digits_of(blob)), blob))
    }

    pub fn end(&self) -> Vec<u8> {
        self.without_index().file("index.json", &self.index()).end()
    }
}

/// A layout with one image, with a layer compressed and one not.
pub fn layout() -> Vec<u8> {
    let [first, second] = layers();
    let mut layout = Layout::new();
    let gzipped = gzip(&first);
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let mut image = layout.image(arch(), &[(&gzipped, kind, &first), (&second, LAYER, &second)]);
    image["annotations"] = json!({ "org.opencontainers.image.ref.name": "tool:1" });
    layout.entry(image);
    layout.end()
}

/// A root file system.
pub fn root() -> Vec<u8> {
    Tar::new()
        .folder("./")
        .folder("./bin")
        .file("./bin/sh", &[2; 3000])
        .link(EntryType::Symlink, "./etc", "/usr/etc")
        .file("./manifest.json", b"of something else")
        .end()
}
