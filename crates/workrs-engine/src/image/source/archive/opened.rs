//! The members of an archive as documents, blobs and layers.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use workrs_core::image::{Compression, ImageDigest};

use super::{
    file::{ArchiveFile, Reader, Span, compression_of, decompress, max_yield, yields_too_much},
    members::{Members, ScanError},
};
use crate::image::source::{
    error::SourceError,
    part::{Part, digest_of},
    platform::MAX_DOCUMENT,
};

/// What errors call it: where it lies is known to who gave it.
pub(super) const NAME: &str = "the archive";
const BUFFER_BYTES: usize = 64 << 10;

/// An archive whose members are known.
pub(super) struct Opened {
    file: Arc<ArchiveFile>,
    reader: Reader,
    members: Members,
    /// What was found out about layers.
    layers: HashMap<Span, LayerFacts>,
}

/// What a layer's bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerFacts {
    pub digest: ImageDigest,
    pub diff_id: ImageDigest,
    pub compression: Compression,
}

impl Opened {
    pub fn new(file: &Arc<ArchiveFile>) -> Result<Self, SourceError> {
        let mut reader = Reader::new(file, false);
        let members = Members::scan(&mut reader).map_err(|error| match error {
            ScanError::NoTar => SourceError::NotAnArchive { reason: "it does not begin like a tar".to_owned() },
            ScanError::Broken(error) => file.error(error),
        })?;
        Ok(Self { file: Arc::clone(file), reader, members, layers: HashMap::new() })
    }

    pub fn file(&self) -> &ArchiveFile {
        &self.file
    }

    pub fn members(&self) -> &Members {
        &self.members
    }

    pub fn has(&self, name: &str) -> bool {
        self.members.find(name).is_some()
    }

    /// Where a file lies that another one names.
    pub fn find(&self, name: &str) -> Result<Span, SourceError> {
        let found = self.members.find(name);
        found.ok_or_else(|| {
            let cause = if self.members.are_too_many { " among its first 100,000 members" } else { "" };
            damaged(format!("it has no file {name:?}{cause}"))
        })
    }

    /// A small file, read as a whole.
    pub fn document(&mut self, name: &str) -> Result<Vec<u8>, SourceError> {
        let span = self.find(name)?;
        if span.bytes > MAX_DOCUMENT {
            return Err(SourceError::TooLarge { what: format!("{name} in {NAME}"), limit: MAX_DOCUMENT });
        }
        let mut content = vec![0; span.bytes as usize];
        let read = self.reader.go_to(span.offset).and_then(|()| self.reader.read_exact(&mut content));
        read.map_err(|error| self.file.error(error))?;
        Ok(content)
    }

    /// A small file that a digest names, which is checked.
    pub fn blob(&mut self, part: &Part) -> Result<Vec<u8>, SourceError> {
        let content = self.document(&blob_name(&part.digest))?;
        part.check(content.len() as u64, &digest_of(&content))?;
        Ok(content)
    }

    /// Reads layers, in the order in which they lie there.
    pub fn examine(&mut self, spans: &[Span]) -> Result<(), SourceError> {
        let mut spans = spans.to_vec();
        spans.sort_unstable();
        for span in spans {
            if !self.layers.contains_key(&span) {
                let facts = self.facts_of(span).map_err(|error| self.file.error(error))?;
                self.layers.insert(span, facts);
            }
        }
        Ok(())
    }

    /// What was found out about a layer that was [examined](Self::examine).
    pub fn facts(&self, span: Span) -> Result<&LayerFacts, SourceError> {
        self.layers.get(&span).ok_or_else(|| damaged("a layer was not read"))
    }

    fn facts_of(&mut self, span: Span) -> io::Result<LayerFacts> {
        let mut raw;
        let reader = if span.is_raw() {
            raw = Reader::new(&self.file, true);
            &mut raw
        } else {
            &mut self.reader
        };
        reader.go_to(span.offset)?;
        let mut stored = BufReader::with_capacity(
            BUFFER_BYTES,
            Hashing { inner: reader.take(span.bytes), hash: Sha256::new(), read: 0 },
        );
        let compression = compression_of(stored.fill_buf()?);
        let diff_id = match compression {
            Compression::None => None,
            _ => Some(hash_of(decompress(compression, &mut stored)?, max_yield(span.bytes))?),
        };
        io::copy(&mut stored, &mut io::sink())?;
        let Hashing { hash, read, .. } = stored.into_inner();
        if read < span.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let digest = ImageDigest::of_sha256(hash.finalize());
        Ok(LayerFacts { diff_id: diff_id.unwrap_or_else(|| digest.clone()), digest, compression })
    }
}

pub(super) fn damaged(reason: impl Into<String>) -> SourceError {
    SourceError::Damaged { reason: reason.into() }
}

/// Where an OCI layout keeps a blob.
pub(super) fn blob_name(digest: &ImageDigest) -> String {
    format!("blobs/sha256/{}", digest.digits())
}

fn hash_of(content: impl Read, limit: u64) -> io::Result<ImageDigest> {
    let mut hashing = Hashing { inner: content.take(limit + 1), hash: Sha256::new(), read: 0 };
    io::copy(&mut hashing, &mut io::sink())?;
    if hashing.read > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a layer of it is a bomb: {}", yields_too_much(limit)),
        ));
    }
    Ok(ImageDigest::of_sha256(hashing.hash.finalize()))
}

/// Hashes what is read.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    read: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}
