//! The bytes of an archive's file, decompressed if it is compressed as a whole.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use workrs_core::image::Compression;

use crate::image::source::error::SourceError;

const BUFFER_BYTES: usize = 64 << 10;
/// What is compressed yields at most this, and so many times its own length: far more than archives of programs do, far less
/// than one that is made to fill a disk or to take forever.
const FREE_YIELD: u64 = 1 << 30;
const MAX_YIELD: u64 = 100;

/// How many bytes something of this length may decompress to.
pub(super) fn max_yield(bytes: u64) -> u64 {
    bytes.saturating_mul(MAX_YIELD).saturating_add(FREE_YIELD)
}

/// A file that may be an archive.
pub(super) struct ArchiveFile {
    path: PathBuf,
    file: File,
    length: u64,
    compression: Compression,
}

/// Bytes of an archive, by their place in it without the compression of the whole, or, if `raw`, in the file as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Span {
    raw: bool,
    pub offset: u64,
    pub bytes: u64,
}

impl Span {
    pub fn inside(offset: u64, bytes: u64) -> Self {
        Self { raw: false, offset, bytes }
    }

    pub fn is_raw(self) -> bool {
        self.raw
    }
}

impl ArchiveFile {
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let unreadable = |source| SourceError::File { path: path.display().to_string(), source };
        let no_archive = |reason: &str| SourceError::NotAnArchive { reason: reason.to_owned() };
        // Before it is opened, as opening a pipe waits for somebody to write to it.
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(no_archive("it is a folder; pack it: tar -C FOLDER -cf FILE ."));
        }
        if !metadata.is_file() {
            return Err(no_archive("it is no regular file"));
        }
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        if length == 0 {
            return Err(no_archive("it is empty"));
        }
        let mut start = [0; 6];
        let read = file.read_at(&mut start, 0).map_err(unreadable)?;
        for (magic, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh", "bzip2"), (b"PK\x03\x04", "zip")] {
            if start[..read].starts_with(magic) {
                return Err(no_archive(&format!("it is compressed with {name}; decompress it first")));
            }
        }
        Ok(Self { path: path.to_owned(), file, length, compression: compression_of(&start[..read]) })
    }

    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// All of the file, as it is.
    pub fn whole(&self) -> Span {
        Span { raw: true, offset: 0, bytes: self.length }
    }

    /// In our words: what the file's system says is no fault of the content, all else is.
    pub fn error(&self, error: io::Error) -> SourceError {
        let reason = match (error.raw_os_error(), error.kind()) {
            (Some(_), _) => return SourceError::File { path: self.path.display().to_string(), source: error },
            (None, io::ErrorKind::UnexpectedEof) => "it is cut short".to_owned(),
            (None, _) => error.to_string(),
        };
        SourceError::Damaged { reason }
    }
}

/// By what it begins with.
pub(super) fn compression_of(start: &[u8]) -> Compression {
    if start.starts_with(&[0x1f, 0x8b]) {
        Compression::Gzip
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// Undoes a compression.
pub(super) fn decompress<'a>(
    compression: Compression,
    content: impl BufRead + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(content),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(content)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(content)?),
    })
}

/// Reads an archive, best forwards.
pub(super) struct Reader {
    file: Arc<ArchiveFile>,
    /// With what the file is read; a raw reader takes it as it is.
    compression: Compression,
    stream: Option<Box<dyn Read + Send>>,
    at: u64,
}

impl Reader {
    pub fn new(file: &Arc<ArchiveFile>, raw: bool) -> Self {
        let compression = if raw { Compression::None } else { file.compression };
        Self { file: Arc::clone(file), compression, stream: None, at: 0 }
    }

    pub fn error(&self, error: io::Error) -> SourceError {
        self.file.error(error)
    }

    /// Where the next byte is from.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Goes to a place. What lies past the end of the file is an error.
    pub fn go_to(&mut self, offset: u64) -> io::Result<()> {
        let is_plain = self.compression == Compression::None;
        if is_plain && offset > self.file.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let is_near = self.stream.is_some() && offset >= self.at && offset - self.at <= BUFFER_BYTES as u64;
        if is_plain && !is_near {
            self.stream = None;
            self.at = offset;
        } else if offset < self.at {
            self.stream = None;
            self.at = 0;
        }
        let skip = offset - self.at;
        if io::copy(&mut self.take(skip), &mut io::sink())? < skip {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Goes through the bytes of a span until the function says that it has enough.
    pub fn for_each_chunk(&mut self, span: Span, size: usize, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
        self.go_to(span.offset)?;
        let mut buffer = vec![0; size];
        let mut left = span.bytes;
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = self.read(&mut buffer[..want])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read as u64;
            if !each(&buffer[..read]) {
                break;
            }
        }
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stream.is_none() {
            let offset = if self.compression == Compression::None { self.at } else { 0 };
            let bytes = BufReader::with_capacity(BUFFER_BYTES, At { file: Arc::clone(&self.file), offset });
            self.stream = Some(decompress(self.compression, bytes)?);
        }
        let read = self.stream.as_mut().map_or(Ok(0), |stream| stream.read(buffer))?;
        self.at += read as u64;
        let limit = max_yield(self.file.length);
        if self.compression != Compression::None && self.at > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, yields_too_much(limit)));
        }
        Ok(read)
    }
}

pub(super) fn yields_too_much(limit: u64) -> String {
    format!("it decompresses to more than {limit} bytes, which only archives made to do harm do")
}

/// Reads a file from a place of its own.
struct At {
    file: Arc<ArchiveFile>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
