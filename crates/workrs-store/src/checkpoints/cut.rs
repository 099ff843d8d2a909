//! How files are cut into chunks: at fixed multiples of a block length. Holes and blocks of zeros are left out.
//!
//! Memory is cut into pages: a page is what a program changes, and a dump is a sequence of pages, so that any other
//! cut stores unchanged pages along with changed ones, and a page that moved is still found by its hash. Measured with
//! the example `chunking` on dumps of seven programs, cutting at boundaries that the content gives (FastCDC, or hashes
//! of pages) needs two to six times the bytes where a program writes here and there, and saves at most a tenth where
//! it writes in order. What many small chunks cost in the manifest is avoided by its form, see `form`.
//!
//! Images are cut into longer blocks: their changes are less scattered, and a disk can be much larger than a memory,
//! so that what each chunk costs in memory while it is stored counts. Blocks of 16 KiB take 60 % of the bytes that
//! 64 KiB take, where a database writes into an ext4 image; 4 KiB would take 37 %, for four times the chunks.

use std::{fs::File, io, num::NonZeroU64, ops::Range, os::unix::fs::FileExt};

use rustix::{
    fs::{Advice, SeekFrom},
    io::Errno,
};

/// Length of a chunk of a folder's file; the last of a file may be shorter.
pub(super) const PAGE_BYTES: u64 = 4 << 10;
/// Length of a chunk of an image; the last may be shorter.
pub(super) const BLOCK_BYTES: u64 = 16 << 10;
/// Bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// A file to be cut.
pub(super) struct Source<'a> {
    pub(super) file: &'a File,
    /// Length of its chunks.
    pub(super) block: u64,
    /// Whether what was read leaves the page cache. Nobody else reads the clone of a disk, and the job's files need the
    /// room; but files that were just written would be written to the disk first.
    pub(super) forget: bool,
}

impl Source<'_> {
    /// Calls `each` with offset and bytes of every block of `range` that is not all zeros, in order. The range begins
    /// at a multiple of the block length; it ends at one or with the file.
    pub(super) fn cut<E: From<io::Error>>(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; READ_BYTES.min(range.end - range.start) as usize];
        let mut at = range.start;
        while let Some(data) = next_data(self.file, at, range.end)? {
            let end = next_hole(self.file, data, range.end)?.next_multiple_of(self.block).min(range.end);
            at = data / self.block * self.block;
            while at < end {
                let piece = &mut buffer[..READ_BYTES.min(end - at) as usize];
                self.read(piece, at)?;
                for chunk in piece.chunks(self.block as usize) {
                    if !is_zero(chunk) {
                        each(at, chunk)?;
                    }
                    at += chunk.len() as u64;
                }
            }
        }
        Ok(())
    }

    /// Fills `piece` with what stands at `at`.
    pub(super) fn read(&self, piece: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(piece, at)?;
        if self.forget {
            // At worst it stays.
            let _ = rustix::fs::fadvise(self.file, at, NonZeroU64::new(piece.len() as u64), Advice::DontNeed);
        }
        Ok(())
    }
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|piece| *piece == ZEROS[..piece.len()])
}

fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<u64>> {
    if at >= end {
        return Ok(None);
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok((data < end).then_some(data)),
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

fn next_hole(file: &File, data: u64, end: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Hole(data)) {
        Ok(hole) => Ok(hole.clamp(data + 1, end)),
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => Ok(end),
        Err(error) => Err(error.into()),
    }
}
