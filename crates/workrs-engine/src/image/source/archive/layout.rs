//! [OCI layouts](https://github.com/opencontainers/image-spec/blob/main/image-layout.md), which `docker save` makes today, too.

use std::collections::BTreeMap;

use super::{
    Found, docker,
    file::Span,
    full_names,
    opened::{NAME, Opened, blob_name, damaged},
};
use crate::image::source::{
    error::SourceError,
    part::{LAYER, MANIFEST, Part},
    platform::{Document, Entry, MAX_DEPTH, Manifest, choose, no_architecture},
};

/// The file that makes it such a layout.
pub(super) const INDEX: &str = "index.json";
/// A full name, by containerd and Docker.
const FULL_NAME: &str = "io.containerd.image.name";
/// A full name or only a tag, depending on who wrote it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MAX_IMAGES: usize = 100;

pub(super) fn images(archive: &mut Opened) -> Result<Vec<Found>, SourceError> {
    let bytes = archive.document(INDEX)?;
    let Document::Index(entries) = Document::read(NAME, &bytes)? else {
        return Err(damaged(format!("{INDEX} is no list")));
    };
    let (mut images, mut others, mut of_no_use) = (Vec::new(), Vec::new(), None);
    for (entry, names) in candidates(&entries)? {
        match image(archive, entry.clone()) {
            Ok(mut found) => {
                found.names = names;
                found.names.extend(docker::names_of(archive, &found.image.config)?);
                images.push(found);
            }
            Err(SourceError::NoArchitecture { others: found, .. }) => others.extend(found),
            // Signatures and the like lie beside images.
            Err(error @ SourceError::Invalid { .. }) => {
                tracing::warn!(digest = %entry.digest, %error, "left out of the import");
                of_no_use = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match (images.is_empty(), of_no_use) {
        (false, _) => Ok(images),
        (true, Some(error)) if others.is_empty() => Err(error),
        (true, _) => Err(no_architecture(NAME, others)),
    }
}

/// What may lead to an image for this host, and its names: of entries that share a name and are for several hosts, one.
fn candidates(entries: &[Entry]) -> Result<Vec<(&Entry, Vec<String>)>, SourceError> {
    let (mut candidates, mut others) = (Vec::new(), Vec::new());
    let mut by_name: BTreeMap<Vec<String>, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        if entry.platform.is_some() {
            by_name.entry(entry.names()).or_default().push(entry);
        } else {
            candidates.push((entry, entry.names()));
        }
    }
    for (names, entries) in by_name {
        match choose(NAME, entries) {
            Ok(entry) => candidates.push((entry, names)),
            Err(SourceError::NoArchitecture { others: found, .. }) => others.extend(found),
            Err(error) => return Err(error),
        }
    }
    if candidates.is_empty() {
        return Err(no_architecture(NAME, others));
    }
    if candidates.len() > MAX_IMAGES {
        return Err(damaged(format!("it has {} images, more than {MAX_IMAGES}", candidates.len())));
    }
    Ok(candidates)
}

fn image(archive: &mut Opened, entry: Entry) -> Result<Found, SourceError> {
    let (form, manifest) = resolve(archive, entry)?;
    let config = archive.blob(&form.config())?;
    let parts = form.layers();
    let spans = parts.iter().map(|part| place(archive, part)).collect::<Result<Vec<Span>, _>>()?;
    archive.examine(&spans)?;
    let placed: Vec<(Part, Span)> = parts.into_iter().zip(spans).collect();
    let found = Found::new((form, manifest), config, placed)?;
    check_layers(archive, &found)?;
    Ok(found)
}

/// The manifest for this host, through lists of manifests if need be.
fn resolve(archive: &mut Opened, mut entry: Entry) -> Result<(Manifest, Vec<u8>), SourceError> {
    for _ in 0..=MAX_DEPTH {
        let part = Part { kind: MANIFEST, digest: entry.digest, bytes: entry.size };
        let bytes = archive.blob(&part)?;
        entry = match Document::read(NAME, &bytes)? {
            Document::Manifest(manifest) => return Ok((manifest, bytes)),
            Document::Index(entries) => choose(NAME, &entries)?.clone(),
        };
    }
    Err(damaged("it has lists of lists of manifests"))
}

fn place(archive: &Opened, part: &Part) -> Result<Span, SourceError> {
    let span = archive.find(&blob_name(&part.digest))?;
    // The digest is checked when it is read.
    part.check(span.bytes, &part.digest)?;
    Ok(span)
}

/// Layers are what manifest and configuration say.
fn check_layers(archive: &Opened, found: &Found) -> Result<(), SourceError> {
    for layer in &found.image.layers {
        let Some((part, span)) = found.layers.iter().find(|(part, _)| part.digest == layer.digest) else {
            return Err(damaged("a layer was not read"));
        };
        let facts = archive.facts(*span)?;
        part.check(span.bytes, &facts.digest)?;
        if facts.diff_id != layer.diff_id {
            let (wanted, found) = (layer.diff_id.to_string(), facts.diff_id.to_string());
            return Err(SourceError::WrongDigest { part: LAYER, wanted, found });
        }
        if facts.compression != layer.compression {
            return Err(damaged(format!("the layer {} is not compressed as its manifest says", layer.digest)));
        }
    }
    Ok(())
}

impl Entry {
    fn names(&self) -> Vec<String> {
        let annotations = self.annotations.as_ref();
        let annotation = |key: &str| annotations.and_then(|annotations| annotations.get(key)).map(String::as_str);
        let ref_name = || annotation(REF_NAME).filter(|name| name.contains([':', '/']));
        full_names(annotation(FULL_NAME).or_else(ref_name))
    }
}
