//! What an image consists of, read from its manifest and its configuration.
//!
//! The forms are those of the [OCI image specification](https://github.com/opencontainers/image-spec) and of Docker's
//! "image manifest version 2, schema 2", which differ in the names of the media types only.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// More layers than any tool makes; the kernel mounts at most 500 one over the other.
pub const MAX_LAYERS: usize = 200;

/// A digest that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest: sha256: and 64 hexadecimal digits")]
pub struct InvalidDigest(String);

/// Names content by its SHA-256: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest(String);

impl ImageDigest {
    /// What digests begin with.
    pub const PREFIX: &str = "sha256:";

    /// Checks and takes a digest.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidDigest> {
        let text = text.into();
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let digits = text.strip_prefix(Self::PREFIX).unwrap_or_default();
        if digits.len() == 64 && digits.bytes().all(is_digit) { Ok(Self(text)) } else { Err(InvalidDigest(text)) }
    }

    /// Of the 32 bytes of a SHA-256.
    pub fn of_sha256(hash: impl AsRef<[u8]>) -> Self {
        let digits: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        debug_assert_eq!(digits.len(), 64);
        Self(format!("{}{digits}", Self::PREFIX))
    }

    /// With its prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits alone, which are safe as a file name.
    pub fn digits(&self) -> &str {
        self.0.strip_prefix(Self::PREFIX).unwrap_or_default()
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ImageDigest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> Self {
        digest.0
    }
}

/// How a layer's archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
}

/// A layer: an archive of what it adds, changes and takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Of the archive as it is stored.
    pub digest: ImageDigest,
    /// Of the archive without compression.
    pub diff_id: ImageDigest,
    /// Length as it is stored.
    pub bytes: u64,
    /// How it is compressed.
    pub compression: Compression,
}

/// How a program is started in an image if nobody says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSettings {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The other arguments, or the program if there is no entry point.
    pub command: Vec<String>,
    /// Environment, `KEY=VALUE` each.
    pub env: Vec<String>,
    /// `USER[:GROUP]`, each a name of the image's own or a number.
    pub user: Option<String>,
    /// Where the program starts.
    pub folder: Option<String>,
}

/// An image: enough to put its root together and to start a program in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Of its manifest; names it.
    pub digest: ImageDigest,
    /// The blob of its configuration.
    pub config: ImageDigest,
    /// The processor architecture, in Rust's words (`x86_64`, `aarch64`, …).
    pub arch: String,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// How a program is started in it.
    pub settings: ImageSettings,
}

/// An image that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImage {
    /// Not of the form that it should have.
    #[error("its {what} cannot be read: {reason}")]
    Form {
        /// Manifest or configuration.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that is not an image that runs, or that this version does not know.
    #[error("it has a {what} of the kind {kind:?}, which this version does not know")]
    Kind {
        /// What has that kind.
        what: &'static str,
        /// The media type.
        kind: String,
    },
    /// Manifest and configuration name different numbers of layers, or too many.
    #[error(
        "its manifest names {manifest} layers, its configuration {config}; both must be the same, at most {MAX_LAYERS}"
    )]
    Layers {
        /// Of the manifest.
        manifest: usize,
        /// Of the configuration.
        config: usize,
    },
    /// For another operating system.
    #[error("it is for {0}, jobs run on linux")]
    OperatingSystem(String),
}

/// A manifest, as far as it is used here.
#[derive(Debug, Clone, Deserialize)]
pub struct ImageManifest {
    /// The configuration's blob.
    pub config: Descriptor,
    /// The layers' blobs, lowest first.
    pub layers: Vec<Descriptor>,
}

/// Names a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its content.
    pub digest: ImageDigest,
    /// Its length.
    pub size: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    architecture: String,
    os: String,
    config: Option<RunConfig>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    diff_ids: Vec<ImageDigest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RunConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
}

impl ImageManifest {
    /// Reads the bytes of a manifest.
    pub fn read(bytes: &[u8]) -> Result<Self, InvalidImage> {
        parse("manifest", bytes)
    }
}

impl Image {
    /// Puts an image together from its manifest and configuration, whose digests the caller has checked.
    pub fn read(digest: ImageDigest, manifest: &ImageManifest, config: &[u8]) -> Result<Self, InvalidImage> {
        let file: ConfigFile = parse("configuration", config)?;
        if !file.os.is_empty() && file.os != "linux" {
            return Err(InvalidImage::OperatingSystem(file.os));
        }
        let counts = (manifest.layers.len(), file.rootfs.diff_ids.len());
        if counts.0 != counts.1 || counts.0 > MAX_LAYERS {
            return Err(InvalidImage::Layers { manifest: counts.0, config: counts.1 });
        }
        let layers = manifest.layers.iter().zip(file.rootfs.diff_ids).map(|(layer, diff_id)| {
            let compression = compression(&layer.media_type)?;
            Ok(Layer { digest: layer.digest.clone(), diff_id, bytes: layer.size, compression })
        });
        let run = file.config.unwrap_or_default();
        let set = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self {
            digest,
            config: manifest.config.digest.clone(),
            arch: arch_in_rust(&file.architecture).to_owned(),
            layers: layers.collect::<Result<_, _>>()?,
            settings: ImageSettings {
                entrypoint: run.entrypoint.unwrap_or_default(),
                command: run.cmd.unwrap_or_default(),
                env: run.env.unwrap_or_default(),
                user: set(run.user),
                folder: set(run.working_dir),
            },
        })
    }

    /// Length of all layers as they are stored.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }
}

impl ImageSettings {
    /// The program and arguments for a user who gave `arguments`, or nothing: as with `docker run`, they take the place of
    /// the image's own and follow its entry point. Empty if there is nothing to run.
    pub fn command_for(&self, arguments: &[String]) -> Vec<String> {
        let rest = if arguments.is_empty() { &self.command } else { arguments };
        self.entrypoint.iter().chain(rest).cloned().collect()
    }

    /// The environment; of two values for one name the later.
    pub fn env_map(&self) -> BTreeMap<String, String> {
        let pairs = self.env.iter().filter_map(|line| line.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, InvalidImage> {
    serde_json::from_slice(bytes).map_err(|error| InvalidImage::Form { what, reason: error.to_string() })
}

fn compression(media_type: &str) -> Result<Compression, InvalidImage> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Ok(Compression::None)
        }
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Ok(Compression::Gzip)
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(Compression::Zstd),
        kind => Err(InvalidImage::Kind { what: "layer", kind: kind.to_owned() }),
    }
}

/// The architecture in Rust's words, given in Go's.
pub fn arch_in_rust(arch: &str) -> &str {
    match arch {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "x86",
        "ppc64le" => "powerpc64",
        other => other,
    }
}

/// The architecture in Go's words, which images use, given in Rust's.
pub fn arch_in_go(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    fn read(manifest: &serde_json::Value, config: &serde_json::Value) -> Result<Image, InvalidImage> {
        let manifest = ImageManifest::read(manifest.to_string().as_bytes())?;
        Image::read(ImageDigest::new(digest("f")).unwrap(), &manifest, config.to_string().as_bytes())
    }

    fn manifest(layer_type: &str) -> serde_json::Value {
        serde_json::json!({
            "schemaVersion": 2,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest("c"), "size": 10 },
            "layers": [{ "mediaType": layer_type, "digest": digest("a"), "size": 100 }],
        })
    }

    fn config() -> serde_json::Value {
        serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Entrypoint": ["/run.sh"], "Cmd": ["a"], "Env": ["PATH=/bin", "X=1=2"], "User": "", "WorkingDir": "/app" },
            "rootfs": { "type": "layers", "diff_ids": [digest("b")] },
        })
    }

    #[test]
    fn both_forms_of_manifests_are_read() {
        for (kind, expect) in [
            ("application/vnd.oci.image.layer.v1.tar", Compression::None),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::Gzip),
        ] {
            let image = read(&manifest(kind), &config()).unwrap();
            assert_eq!((image.layers[0].compression, image.bytes(), image.arch.as_str()), (expect, 100, "x86_64"));
            assert_eq!(image.layers[0].diff_id.digits(), "b".repeat(64));
            assert_eq!(image.settings.folder.as_deref(), Some("/app"));
            assert_eq!(image.settings.user, None, "an empty user is none");
            assert_eq!(image.settings.env_map()["X"], "1=2");
        }
    }

    #[test]
    fn what_cannot_be_an_image_is_refused() {
        let foreign = read(&manifest("application/vnd.in-toto+json"), &config());
        assert!(matches!(foreign, Err(InvalidImage::Kind { .. })));
        let mut other = config();
        other["os"] = "windows".into();
        let layer = "application/vnd.oci.image.layer.v1.tar";
        assert_eq!(read(&manifest(layer), &other), Err(InvalidImage::OperatingSystem("windows".to_owned())));
        other = config();
        other["rootfs"]["diff_ids"] = serde_json::json!([]);
        assert_eq!(read(&manifest(layer), &other), Err(InvalidImage::Layers { manifest: 1, config: 0 }));
        other["rootfs"]["diff_ids"] = serde_json::json!(["sha256:../../etc"]);
        assert!(matches!(read(&manifest(layer), &other), Err(InvalidImage::Form { .. })));
    }

    #[test]
    fn arguments_follow_the_entry_point() {
        let settings = read(&manifest("application/vnd.oci.image.layer.v1.tar"), &config()).unwrap().settings;
        assert_eq!(settings.command_for(&[]), ["/run.sh", "a"]);
        assert_eq!(settings.command_for(&["b".to_owned()]), ["/run.sh", "b"]);
    }

    #[test]
    fn digests_are_safe_as_names() {
        assert!(ImageDigest::new(digest("0")).is_ok());
        for text in ["", "sha256:", "sha256:ABC", "sha512:00", &digest("G"), &format!("{}/", digest("0"))] {
            assert!(ImageDigest::new(text).is_err(), "{text:?}");
        }
        assert_eq!(ImageDigest::of_sha256([0xab; 32]).digits(), "ab".repeat(32));
    }
}
