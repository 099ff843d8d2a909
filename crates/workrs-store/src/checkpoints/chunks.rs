//! How files are cut into chunks, and how a chunk is stored.
//!
//! Files are cut at fixed multiples of [`CHUNK_BYTES`]; holes and chunks of zeros are left out. A chunk is stored
//! as zstd made it, or as it is when that is not shorter, which its stored length tells.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::{fs::SeekFrom, io::Errno};

/// Length of a chunk; the last of a file may be shorter.
pub(super) const CHUNK_BYTES: u64 = 64 << 10;
const ZSTD_LEVEL: i32 = 1;

/// Calls `each` with offset and bytes of every chunk of a file of `len` bytes that is not all zeros, in order.
pub(super) fn cut<E: From<io::Error>>(
    file: &File,
    len: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    let mut at = 0;
    while let Some(data) = next_data(file, at, len)? {
        let end = next_hole(file, data, len)?;
        at = data / CHUNK_BYTES * CHUNK_BYTES;
        while at < end {
            let chunk = &mut buffer[..CHUNK_BYTES.min(len - at) as usize];
            file.read_exact_at(chunk, at)?;
            if chunk.iter().any(|byte| *byte != 0) {
                each(at, chunk)?;
            }
            at += chunk.len() as u64;
        }
    }
    Ok(())
}

fn next_data(file: &File, at: u64, len: u64) -> io::Result<Option<u64>> {
    if at >= len {
        return Ok(None);
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok((data < len).then_some(data)),
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

fn next_hole(file: &File, data: u64, len: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Hole(data)) {
        Ok(hole) => Ok(hole.clamp(data + 1, len)),
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => Ok(len),
        Err(error) => Err(error.into()),
    }
}

/// Makes chunks shorter.
pub(super) struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(zstd::bulk::Compressor::new(ZSTD_LEVEL)?))
    }

    /// The bytes to store for a chunk, never more than it has.
    pub(super) fn pack(&mut self, chunk: &[u8]) -> io::Result<Vec<u8>> {
        let packed = self.0.compress(chunk)?;
        Ok(if packed.len() < chunk.len() { packed } else { chunk.to_vec() })
    }
}

/// Undoes [`Packer::pack`] for a chunk of `len` bytes; `None` if these bytes cannot be such a chunk.
pub(super) fn unpack(stored: &[u8], len: usize) -> Option<Vec<u8>> {
    if stored.len() == len {
        return Some(stored.to_vec());
    }
    let chunk = zstd::bulk::decompress(stored, len).ok()?;
    (chunk.len() == len).then_some(chunk)
}
