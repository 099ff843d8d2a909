//! The bytes of a layer: as they are stored, and without compression, both counted and hashed as they pass.

use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use workrs_core::image::{Compression, ImageDigest, Layer};

use super::UnpackError;

const BUFFER: usize = 256 << 10;

/// The stored form.
struct Stored<R> {
    source: R,
    hash: Sha256,
    read: u64,
    expected: u64,
}

impl<R: Read> Read for Stored<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = match self.source.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(io::Error::other(UnpackError::Source(error)));
            }
            read => read?,
        };
        self.hash.update(&buffer[..len]);
        self.read += len as u64;
        if self.read > self.expected {
            return Err(io::Error::other(UnpackError::Length { found: self.read, expected: self.expected }));
        }
        Ok(len)
    }
}

enum Decoder<R: Read> {
    None(BufReader<Stored<R>>),
    Gzip(Box<MultiGzDecoder<BufReader<Stored<R>>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<Stored<R>>>>),
}

impl<R: Read> Decoder<R> {
    fn stored(&mut self) -> &mut Stored<R> {
        match self {
            Self::None(reader) => reader.get_mut(),
            Self::Gzip(decoder) => decoder.get_mut().get_mut(),
            Self::Zstd(decoder) => decoder.get_mut().get_mut(),
        }
    }
}

/// The archive without compression.
pub(super) struct Plain<R: Read> {
    decoder: Decoder<R>,
    hash: Sha256,
    /// How many more bytes there may be.
    left: u64,
    limit: u64,
}

impl<R: Read> Plain<R> {
    pub(super) fn open(source: R, layer: &Layer, limit: u64) -> Result<Self, UnpackError> {
        let stored = Stored { source, hash: Sha256::new(), read: 0, expected: layer.bytes };
        let stored = BufReader::with_capacity(BUFFER, stored);
        let decoder = match layer.compression {
            Compression::None => Decoder::None(stored),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(stored))),
            Compression::Zstd => {
                let decoder = zstd::Decoder::with_buffer(stored);
                Decoder::Zstd(Box::new(decoder.map_err(UnpackError::of_stream)?))
            }
        };
        Ok(Self { decoder, hash: Sha256::new(), left: limit, limit })
    }

    /// Counts bytes that a file has and the archive does not.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), UnpackError> {
        self.left = self.left.checked_sub(bytes).ok_or(UnpackError::TooLarge(self.limit))?;
        Ok(())
    }

    /// Reads what follows the archive's end, if anything, and checks that all of it was what it should be.
    pub(super) fn check_content(&mut self, expected: &ImageDigest) -> Result<(), UnpackError> {
        drain(self)?;
        let found = ImageDigest::of_sha256(self.hash.finalize_reset());
        if found == *expected { Ok(()) } else { Err(UnpackError::Content { found, expected: expected.clone() }) }
    }

    /// Reads what is left of the stored form and checks that all of it was what it should be.
    pub(super) fn check_stored(&mut self, layer: &Layer) -> Result<(), UnpackError> {
        let stored = self.decoder.stored();
        drain(stored)?;
        if stored.read != layer.bytes {
            return Err(UnpackError::Length { found: stored.read, expected: layer.bytes });
        }
        let found = ImageDigest::of_sha256(stored.hash.finalize_reset());
        if found == layer.digest { Ok(()) } else { Err(UnpackError::Stored { found, expected: layer.digest.clone() }) }
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = match &mut self.decoder {
            Decoder::None(reader) => reader.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }?;
        self.hash.update(&buffer[..len]);
        self.charge(len as u64).map_err(io::Error::other)?;
        Ok(len)
    }
}

fn drain(reader: &mut impl Read) -> Result<(), UnpackError> {
    io::copy(reader, &mut io::sink()).map(drop).map_err(UnpackError::of_stream)
}
