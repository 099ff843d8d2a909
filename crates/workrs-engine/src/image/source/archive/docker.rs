//! Archives of `docker save` and its like: `manifest.json` names, for each image, the files of its configuration and of its
//! layers. They have no manifest, so one is made, always the same for the same image.

use serde::{Deserialize, Serialize};
use workrs_core::image::{Compression, ImageDigest, MAX_LAYERS};

use super::{
    Found,
    file::Span,
    full_names,
    opened::{LayerFacts, NAME, Opened, damaged},
};
use crate::image::source::{
    error::SourceError,
    part::{LAYER, Part, digest_of},
    platform::{Document, OCI_CONFIG, OCI_MANIFEST, no_architecture, parse},
};

/// The file that makes it such an archive.
pub(super) const MANIFEST: &str = "manifest.json";
/// More than anybody saves into one file.
const MAX_IMAGES: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MadeManifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: MadeDescriptor<'a>,
    layers: Vec<MadeDescriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MadeDescriptor<'a> {
    media_type: &'a str,
    digest: &'a ImageDigest,
    size: u64,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<ImageDigest>,
}

pub(super) fn images(archive: &mut Opened) -> Result<Vec<Found>, SourceError> {
    let (mut images, mut others) = (Vec::new(), Vec::new());
    for saved in list(archive)? {
        match image(archive, &saved) {
            Ok(found) => images.push(found),
            Err(SourceError::NoArchitecture { others: found, .. }) => others.extend(found),
            Err(error) => return Err(error),
        }
    }
    if images.is_empty() { Err(no_architecture(NAME, others)) } else { Ok(images) }
}

/// The names that `manifest.json`, if it is there, has for the image with this configuration.
pub(super) fn names_of(archive: &mut Opened, config: &ImageDigest) -> Result<Vec<String>, SourceError> {
    if !archive.has(MANIFEST) {
        return Ok(Vec::new());
    }
    let saved = list(archive)?.into_iter().filter(|saved| stem(&saved.config) == config.digits());
    Ok(saved.flat_map(|saved| saved.names()).collect())
}

fn list(archive: &mut Opened) -> Result<Vec<Saved>, SourceError> {
    let bytes = archive.document(MANIFEST)?;
    let list: Vec<Saved> = parse(MANIFEST, &bytes).map_err(|error| damaged(error.to_string()))?;
    if list.is_empty() || list.len() > MAX_IMAGES {
        return Err(damaged(format!("{MANIFEST} names {} images, not 1 to {MAX_IMAGES}", list.len())));
    }
    Ok(list)
}

fn image(archive: &mut Opened, saved: &Saved) -> Result<Found, SourceError> {
    let config = archive.document(&saved.config)?;
    let digest = digest_of(&config);
    let named = stem(&saved.config);
    if ImageDigest::new(format!("{}{named}", ImageDigest::PREFIX)).is_ok() && named != digest.digits() {
        let (wanted, found) = (format!("{}{named}", ImageDigest::PREFIX), digest.to_string());
        return Err(SourceError::WrongDigest { part: "configuration", wanted, found });
    }
    if saved.layers.len() > MAX_LAYERS {
        return Err(damaged(format!("an image has {} layers, more than {MAX_LAYERS}", saved.layers.len())));
    }
    let spans = saved.layers.iter().map(|name| archive.find(name)).collect::<Result<Vec<Span>, _>>()?;
    archive.examine(&spans)?;
    check_layers(archive, &spans, &config)?;
    let manifest = make_manifest(archive, &spans, &config)?;
    let Document::Manifest(form) = Document::read(NAME, &manifest)? else {
        return Err(damaged("its manifest is a list"));
    };
    let layers = parts(archive, &spans)?;
    let mut found = Found::new((form, manifest), config, layers)?;
    found.names = saved.names();
    Ok(found)
}

/// Layers are what the configuration says.
fn check_layers(archive: &Opened, spans: &[Span], config: &[u8]) -> Result<(), SourceError> {
    let config: Config = parse("configuration", config).map_err(|error| damaged(error.to_string()))?;
    for (span, diff_id) in spans.iter().zip(&config.rootfs.diff_ids) {
        let facts = archive.facts(*span)?;
        if facts.diff_id != *diff_id {
            let (wanted, found) = (diff_id.to_string(), facts.diff_id.to_string());
            return Err(SourceError::WrongDigest { part: LAYER, wanted, found });
        }
    }
    Ok(())
}

/// The manifest of an image with this configuration and these layers.
pub(super) fn make_manifest(archive: &Opened, spans: &[Span], config: &[u8]) -> Result<Vec<u8>, SourceError> {
    let layers = spans.iter().map(|span| {
        let LayerFacts { digest, compression, .. } = archive.facts(*span)?;
        let media_type = match compression {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        Ok(MadeDescriptor { media_type, digest, size: span.bytes })
    });
    let made = MadeManifest {
        schema_version: 2,
        media_type: OCI_MANIFEST,
        config: MadeDescriptor { media_type: OCI_CONFIG, digest: &digest_of(config), size: config.len() as u64 },
        layers: layers.collect::<Result<_, SourceError>>()?,
    };
    serde_json::to_vec(&made).map_err(|error| damaged(error.to_string()))
}

/// Layers that were examined, and where they lie.
pub(super) fn parts(archive: &Opened, spans: &[Span]) -> Result<Vec<(Part, Span)>, SourceError> {
    let part = |span: &Span| {
        let digest = archive.facts(*span)?.digest.clone();
        Ok((Part { kind: LAYER, digest, bytes: span.bytes }, *span))
    };
    spans.iter().map(part).collect()
}

impl Saved {
    fn names(&self) -> Vec<String> {
        full_names(self.repo_tags.iter().flatten().map(String::as_str))
    }
}

/// A file's name without its folder and its ending: newer archives name `blobs/sha256/<digits>`, older ones `<digits>.json`.
fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.strip_suffix(".json").unwrap_or(name)
}
