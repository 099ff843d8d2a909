//! Imports from files.
//!
//! First the file is looked through and all that will be brought is checked, without keeping any of it; then the parts go
//! into the sink. Both go through the file from its start to its end as far as they can, since going back in a compressed
//! one means to begin anew. Nothing is written to disk here, and no layer is held in memory.
//!
//! - `file`: the file's bytes, decompressed.
//! - `members`: what the tar has, by name.
//! - `opened`: members as documents, blobs and layers.
//! - `docker`: archives of `docker save`.
//! - `layout`: OCI layouts.
//! - `root`: root file systems.

mod docker;
mod file;
mod layout;
mod members;
mod opened;
mod root;

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use futures::stream;
use tokio::{io::AsyncRead, sync::mpsc, task::spawn_blocking};
use tokio_util::io::StreamReader;
use workrs_core::image::Image;

use self::{
    file::{ArchiveFile, Reader, Span},
    opened::{NAME, Opened},
};
use super::{
    ImageSink, Imported, Reference,
    error::SourceError,
    part::{CONFIGURATION, MANIFEST, Part, digest_of},
    platform::Manifest,
};

/// How much of a layer goes to the sink at a time.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_AHEAD: usize = 4;

/// An image that was found in an archive and checked.
struct Found {
    image: Image,
    names: Vec<String>,
    manifest: Vec<u8>,
    config: Vec<u8>,
    layers: Vec<(Part, Span)>,
}

pub(super) async fn import(archive: &Path, sink: &dyn ImageSink) -> Result<Vec<Imported>, SourceError> {
    let path = archive.to_owned();
    let looked_through = spawn_blocking(move || {
        let file = Arc::new(ArchiveFile::open(&path)?);
        Ok::<_, SourceError>((look_through(&file)?, file))
    });
    let (images, file) = looked_through.await.map_err(|error| broken_off(archive, &error))??;
    bring_layers(&file, &images, sink).await?;
    for found in &images {
        for (part, bytes) in [(found.config_part(), &found.config), (found.manifest_part(), &found.manifest)] {
            if !part.is_in(sink).await? {
                part.put_bytes(bytes, sink).await?;
            }
        }
    }
    Ok(images.into_iter().map(|found| Imported { image: found.image, names: found.names }).collect())
}

/// What the file has for this host: one image at least.
fn look_through(file: &Arc<ArchiveFile>) -> Result<Vec<Found>, SourceError> {
    let mut opened = Opened::new(file)?;
    let images = if opened.members().have_root_folders {
        // Whatever else is in it.
        vec![root::image(&mut opened)?]
    } else if opened.has(layout::INDEX) {
        layout::images(&mut opened)?
    } else if opened.has(docker::MANIFEST) {
        docker::images(&mut opened)?
    } else {
        vec![root::image(&mut opened)?]
    };
    Ok(merged(images))
}

/// An image that is there under several names is one.
fn merged(images: Vec<Found>) -> Vec<Found> {
    let mut merged: Vec<Found> = Vec::with_capacity(images.len());
    for mut found in images {
        match merged.iter_mut().find(|other| other.image.digest == found.image.digest) {
            Some(other) => other.names.append(&mut found.names),
            None => merged.push(found),
        }
    }
    for found in &mut merged {
        found.names.sort();
        found.names.dedup();
    }
    merged
}

impl Found {
    /// Puts an image together whose parts are `config` and `layers`.
    fn new(manifest: (Manifest, Vec<u8>), config: Vec<u8>, layers: Vec<(Part, Span)>) -> Result<Self, SourceError> {
        let (form, manifest) = manifest;
        let image = form.image(NAME, digest_of(&manifest), &config)?;
        Ok(Self { image, names: Vec::new(), manifest, config, layers })
    }

    fn manifest_part(&self) -> Part {
        Part { kind: MANIFEST, digest: self.image.digest.clone(), bytes: self.manifest.len() as u64 }
    }

    fn config_part(&self) -> Part {
        let bytes = self.config.len() as u64;
        Part { kind: CONFIGURATION, digest: self.image.config.clone(), bytes }
    }
}

/// In full, as far as these are names.
fn full_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    names.into_iter().filter_map(|name| Reference::parse(name).ok()).map(|name| name.to_string()).collect()
}

/// Layers of all images, each once, in the order in which they lie in the file.
async fn bring_layers(file: &Arc<ArchiveFile>, images: &[Found], sink: &dyn ImageSink) -> Result<(), SourceError> {
    let layers: BTreeMap<Span, &Part> =
        images.iter().flat_map(|found| &found.layers).map(|(part, span)| (*span, part)).collect();
    let mut reader = None;
    for (span, part) in layers {
        if part.is_in(sink).await? {
            continue;
        }
        let from = reader.take().unwrap_or_else(|| Reader::new(file, span.is_raw()));
        let (mut content, back) = stream_of(from, span);
        part.put(&mut content, sink).await?;
        reader = back.await.ok().flatten();
    }
    Ok(())
}

/// The bytes of a span, and the reader when they are all read.
fn stream_of(
    mut reader: Reader,
    span: Span,
) -> (impl AsyncRead + Send + Unpin, tokio::task::JoinHandle<Option<Reader>>) {
    let (sender, receiver) = mpsc::channel::<io::Result<io::Cursor<Vec<u8>>>>(CHUNKS_AHEAD);
    let back = spawn_blocking(move || {
        let outcome = reader.for_each_chunk(span, CHUNK_BYTES, |chunk| {
            // Nobody listens any more when the sink failed.
            sender.blocking_send(Ok(io::Cursor::new(chunk.to_vec()))).is_ok()
        });
        match outcome {
            Ok(()) => Some(reader),
            Err(error) => {
                let _ = sender.blocking_send(Err(io::Error::other(reader.error(error))));
                None
            }
        }
    });
    let chunks = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    (StreamReader::new(Box::pin(chunks)), back)
}

fn broken_off(archive: &Path, error: &tokio::task::JoinError) -> SourceError {
    SourceError::File { path: archive.display().to_string(), source: io::Error::other(error.to_string()) }
}
