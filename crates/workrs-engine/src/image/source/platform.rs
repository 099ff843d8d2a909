//! Manifests, and which of several is for this host.

use serde::Deserialize;
use workrs_core::image::{Image, ImageDigest, ImageManifest, InvalidImage, MAX_LAYERS, arch_in_go};

use super::{
    error::SourceError,
    part::{CONFIGURATION, LAYER, Part},
};

/// More than any manifest, list of manifests or configuration has.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// More than any image has, in all its layers.
const MAX_IMAGE: u64 = 1 << 40;
/// Lists of lists of manifests are not followed deeper than this.
pub(super) const MAX_DEPTH: usize = 3;

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// This host's architecture, in the words of images.
pub(super) fn this_arch() -> &'static str {
    arch_in_go(std::env::consts::ARCH)
}

/// What a digest led to.
#[derive(Debug)]
pub(super) enum Document {
    /// The manifest of an image.
    Manifest(Manifest),
    /// A list of manifests.
    Index(Vec<Entry>),
}

/// A manifest whose form was checked.
#[derive(Debug)]
pub(super) struct Manifest {
    form: ImageManifest,
}

/// What a list says of one of its manifests.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Entry {
    pub digest: ImageDigest,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// What an image is made for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    pub architecture: String,
    pub os: String,
    pub variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    /// Only whether there are any.
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct List {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Elsewhere {
    layers: Vec<Addresses>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Addresses {
    media_type: String,
    digest: ImageDigest,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl Document {
    /// Reads what is either. `name` is the image's, for errors.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, SourceError> {
        let invalid = |source| SourceError::Invalid { name: name.to_owned(), source };
        let kind: Kind = parse("manifest", bytes).map_err(invalid)?;
        if kind.schema_version != 2 {
            let reason = format!("it is of version {}, and only 2 is known", kind.schema_version);
            return Err(invalid(InvalidImage::Form { what: "manifest", reason }));
        }
        match kind.media_type.as_deref() {
            Some(OCI_INDEX | DOCKER_LIST) => Self::list(bytes).map_err(invalid),
            None if kind.manifests.is_some() => Self::list(bytes).map_err(invalid),
            None | Some(OCI_MANIFEST | DOCKER_MANIFEST) => Manifest::read(name, bytes).map(Self::Manifest),
            Some(other) => Err(invalid(InvalidImage::Kind { what: "manifest", kind: other.to_owned() })),
        }
    }

    fn list(bytes: &[u8]) -> Result<Self, InvalidImage> {
        Ok(Self::Index(parse::<List>("list of manifests", bytes)?.manifests))
    }
}

impl Manifest {
    fn read(name: &str, bytes: &[u8]) -> Result<Self, SourceError> {
        let invalid = |source| SourceError::Invalid { name: name.to_owned(), source };
        let elsewhere: Elsewhere = parse("manifest", bytes).map_err(invalid)?;
        for layer in elsewhere.layers {
            let is_foreign = ["nondistributable", "foreign"].iter().any(|word| layer.media_type.contains(word));
            if is_foreign || layer.urls.is_some_and(|urls| !urls.is_empty()) {
                return Err(SourceError::Foreign { name: name.to_owned(), digest: layer.digest });
            }
        }
        let form = ImageManifest::read(bytes).map_err(invalid)?;
        if !matches!(form.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            let kind = form.config.media_type;
            return Err(invalid(InvalidImage::Kind { what: "configuration", kind }));
        }
        if form.layers.len() > MAX_LAYERS {
            let count = form.layers.len();
            return Err(invalid(InvalidImage::Layers { manifest: count, config: count }));
        }
        let total = form.layers.iter().try_fold(0_u64, |sum, layer| sum.checked_add(layer.size));
        if total.is_none_or(|total| total > MAX_IMAGE) {
            return Err(SourceError::TooLarge { what: name.to_owned(), limit: MAX_IMAGE });
        }
        check_document_size("the configuration", form.config.size)?;
        Ok(Self { form })
    }

    /// The configuration's blob.
    pub fn config(&self) -> Part {
        Part { kind: CONFIGURATION, digest: self.form.config.digest.clone(), bytes: self.form.config.size }
    }

    /// The layers' blobs, each once, lowest first.
    pub fn layers(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::with_capacity(self.form.layers.len());
        for layer in &self.form.layers {
            let part = Part { kind: LAYER, digest: layer.digest.clone(), bytes: layer.size };
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        parts
    }

    /// The image, if it is for this host.
    pub fn image(&self, name: &str, digest: ImageDigest, config: &[u8]) -> Result<Image, SourceError> {
        let image = Image::read(digest, &self.form, config)
            .map_err(|source| SourceError::Invalid { name: name.to_owned(), source })?;
        if image.arch == std::env::consts::ARCH {
            Ok(image)
        } else {
            Err(no_architecture(name, vec![format!("linux/{}", arch_in_go(&image.arch))]))
        }
    }
}

/// The entry for this host. Of several variants of its architecture it is the one that asks least of the processor, as the
/// job may later move to another.
pub(super) fn choose<'a>(name: &str, entries: impl IntoIterator<Item = &'a Entry>) -> Result<&'a Entry, SourceError> {
    let (mut fitting, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        match &entry.platform {
            Some(platform) if platform.fits() => fitting.push((platform.variant.as_deref(), entry)),
            Some(platform) if platform.is_known() => others.push(platform.to_string()),
            _ => {}
        }
    }
    let chosen = fitting.into_iter().min_by_key(|(variant, _)| *variant).map(|(_, entry)| entry);
    chosen.ok_or_else(|| no_architecture(name, others))
}

pub(super) fn no_architecture(name: &str, mut others: Vec<String>) -> SourceError {
    others.sort();
    others.dedup();
    others.truncate(20);
    SourceError::NoArchitecture { name: name.to_owned(), arch: this_arch().to_owned(), others }
}

impl Platform {
    /// Whether it is this host's.
    pub fn fits(&self) -> bool {
        self.os == "linux" && self.architecture == this_arch()
    }

    /// What is not made for anything, such as a signature, says so.
    fn is_known(&self) -> bool {
        self.os != "unknown"
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = self.variant.as_deref().filter(|variant| !variant.is_empty()) {
            write!(f, "/{variant}")?;
        }
        Ok(())
    }
}

/// Documents are read into memory.
pub(super) fn check_document_size(what: &str, bytes: u64) -> Result<(), SourceError> {
    if bytes > MAX_DOCUMENT {
        return Err(SourceError::TooLarge { what: what.to_owned(), limit: MAX_DOCUMENT });
    }
    Ok(())
}

pub(super) fn parse<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, InvalidImage> {
    serde_json::from_slice(bytes).map_err(|error| InvalidImage::Form { what, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn digest(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    fn manifest() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": { "mediaType": OCI_CONFIG, "digest": digest("c"), "size": 10 },
            "layers": [
                { "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest("a"), "size": 100 },
                { "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest("a"), "size": 100 },
            ],
        })
    }

    fn read(value: &Value) -> Result<Document, SourceError> {
        Document::read("x", value.to_string().as_bytes())
    }

    fn entry(digit: &str, architecture: &str, variant: Option<&str>) -> Value {
        let platform = json!({ "os": "linux", "architecture": architecture, "variant": variant });
        json!({ "mediaType": OCI_MANIFEST, "digest": digest(digit), "size": 10, "platform": platform })
    }

    #[test]
    fn a_layer_that_comes_twice_is_one_part() {
        let Ok(Document::Manifest(manifest)) = read(&manifest()) else { panic!("it is a manifest") };
        assert_eq!(manifest.layers().len(), 1);
    }

    #[test]
    fn manifests_that_cannot_be_used_are_refused() {
        let refused = |change: fn(&mut Value)| {
            let mut changed = manifest();
            change(&mut changed);
            read(&changed).unwrap_err().to_string()
        };
        for (error, expect) in [
            (refused(|m| m["schemaVersion"] = 1.into()), "version 1"),
            (refused(|m| m["mediaType"] = "text/html".into()), "text/html"),
            (refused(|m| m["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into()), "helm"),
            (refused(|m| m["layers"][0]["urls"] = json!(["http://elsewhere/"])), "at other addresses"),
            (refused(|m| m["config"]["size"] = (5 << 20).into()), "larger than"),
            (refused(|m| m["layers"][0]["size"] = u64::MAX.into()), "larger than"),
            (refused(|m| m["layers"][0]["size"] = (-1).into()), "cannot be read"),
        ] {
            assert!(error.contains(expect), "{error}");
        }
        assert!(matches!(Document::read("x", b"<html>"), Err(SourceError::Invalid { .. })));
    }

    #[test]
    fn the_manifest_for_this_host_is_chosen() {
        let attestation =
            json!({ "digest": digest("e"), "size": 1, "platform": { "os": "unknown", "architecture": "unknown" } });
        let list = json!({ "schemaVersion": 2, "manifests": [
            attestation, entry("1", "s390x", None), entry("2", this_arch(), Some("v3")), entry("3", this_arch(), None),
        ]});
        let Ok(Document::Index(entries)) = read(&list) else { panic!("it is a list") };
        assert_eq!(choose("x", &entries).unwrap().digest.as_str(), digest("3"));
        let error = choose("x", &entries[..2]).unwrap_err();
        assert!(error.to_string().ends_with("but for linux/s390x"), "{error}");
    }
}
