//! The entries of a tar archive: plain ones, and with the extensions of POSIX (`pax`) and GNU that images have.
//!
//! The fields are read by the crate `tar`; the entries are walked here, as an archive of unknown origin may give its names
//! any length, which that crate reads into memory.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{Refusal, UnpackError, stream::Plain};

const BLOCK: usize = 512;
/// The longest extended header or long name that is read into memory.
const MAX_EXTENSION: u64 = 4 << 20;
/// The most pieces of a sparse file.
const MAX_PIECES: usize = 1 << 17;
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file of this length; of these pieces, each a position and a length, if it has holes.
    File {
        len: u64,
        pieces: Option<Vec<(u64, u64)>>,
    },
    Folder,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Fifo,
    /// Whether it is a character device, and its numbers.
    Device(bool, u32, u32),
}

/// One entry. Of a file the content follows, to be read from the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// As the archive has it, not to be trusted.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, i64),
    /// Extended attributes by their full name.
    pub(super) attributes: Vec<(OsString, Vec<u8>)>,
}

/// What precedes an entry and changes it.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, i64)>,
    attributes: Vec<(OsString, Vec<u8>)>,
    is_sparse: bool,
}

/// Reads one entry after the other.
pub(super) struct Archive<'a, R: Read> {
    plain: &'a mut Plain<R>,
    /// Of the last entry: what was not read of its content, and the padding after it.
    content_left: u64,
    padding: u64,
}

impl<R: Read> Archive<'_, R> {
    pub(super) fn new(plain: &mut Plain<R>) -> Archive<'_, R> {
        Archive { plain, content_left: 0, padding: 0 }
    }

    /// The next entry, with all that precedes it; `None` at the end.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        self.skip()?;
        let mut extension = Extension::default();
        while let Some(header) = self.header()? {
            let size = header.entry_size().map_err(UnpackError::of_stream)?;
            match header.entry_type() {
                EntryType::GNULongName => extension.path = Some(until_zero(self.extension(size)?)),
                EntryType::GNULongLink => extension.link = Some(until_zero(self.extension(size)?)),
                EntryType::XHeader => extension.read(&self.extension(size)?)?,
                // It says something of all files, such as the commit that they are from.
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                _ => return self.entry(&header, extension, size).map(Some),
            }
        }
        Ok(None)
    }

    /// Fills `buffer` with the next of the content; it must have that many.
    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> Result<(), UnpackError> {
        self.content_left =
            self.content_left.checked_sub(buffer.len() as u64).ok_or_else(|| damaged("a file is too short"))?;
        self.plain.read_exact(buffer).map_err(UnpackError::of_stream)
    }

    fn entry(&mut self, header: &Header, extension: Extension, size: u64) -> Result<Entry, UnpackError> {
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        if extension.is_sparse {
            return Err(UnpackError::refused(&path, Refusal::Sparse));
        }
        let size = extension.size.unwrap_or(size);
        let link =
            || extension.link.clone().or_else(|| Some(header.link_name_bytes()?.into_owned())).unwrap_or_default();
        let kind = match header.entry_type() {
            // Archives of before there were kinds.
            EntryType::Regular if header.as_old().linkflag == [0] && path.ends_with(b"/") => Kind::Folder,
            EntryType::Regular | EntryType::Continuous => Kind::File { len: size, pieces: None },
            EntryType::GNUSparse => self.sparse(header, size, &path)?,
            EntryType::Directory => Kind::Folder,
            EntryType::Symlink => Kind::Symlink(link()),
            EntryType::Link => Kind::HardLink(link()),
            EntryType::Fifo => Kind::Fifo,
            kind @ (EntryType::Char | EntryType::Block) => {
                let number = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or(u32::MAX);
                Kind::Device(kind == EntryType::Char, number(header.device_major()), number(header.device_minor()))
            }
            other => return Err(UnpackError::refused(&path, Refusal::Kind(char::from(other.as_byte())))),
        };
        if let Kind::File { .. } = kind {
            self.expect_content(size);
        }
        let modified = extension.modified.map_or_else(|| Ok((header.mtime()?.cast_signed(), 0)), Ok);
        let ids =
            |id: Option<u64>, of_header: io::Result<u64>| id.map_or(of_header, Ok).map_err(UnpackError::of_stream);
        Ok(Entry {
            path,
            kind,
            mode: header.mode().map_err(UnpackError::of_stream)?,
            uid: ids(extension.uid, header.uid())?,
            gid: ids(extension.gid, header.gid())?,
            modified: modified.map_err(UnpackError::of_stream)?,
            attributes: extension.attributes,
        })
    }

    /// Where the data of a file with holes lie, as GNU tar notes it; it has `size` bytes of data.
    fn sparse(&mut self, header: &Header, size: u64, path: &[u8]) -> Result<Kind, UnpackError> {
        let refused = || UnpackError::refused(path, Refusal::Sparse);
        let gnu = header.as_gnu().ok_or_else(refused)?;
        let mut pieces = pieces(&gnu.sparse).ok_or_else(refused)?;
        let mut more = gnu.is_extended();
        while more {
            let mut next = GnuExtSparseHeader::new();
            self.plain.read_exact(next.as_mut_bytes()).map_err(UnpackError::of_stream)?;
            pieces.extend(self::pieces(next.sparse()).ok_or_else(refused)?);
            more = next.is_extended();
            if pieces.len() > MAX_PIECES {
                return Err(refused());
            }
        }
        let len = gnu.real_size().map_err(|_| refused())?;
        let (mut at, mut data) = (0u64, 0u64);
        for (start, bytes) in &pieces {
            let end = start.checked_add(*bytes).filter(|end| *start >= at && *end <= len).ok_or_else(refused)?;
            (at, data) = (end, data + bytes);
        }
        if data != size {
            return Err(refused());
        }
        self.plain.charge(len - data)?;
        Ok(Kind::File { len, pieces: Some(pieces) })
    }

    fn expect_content(&mut self, size: u64) {
        self.content_left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// What is left of the last entry.
    fn skip(&mut self) -> Result<(), UnpackError> {
        let left = self.content_left.saturating_add(std::mem::take(&mut self.padding));
        self.content_left = 0;
        let skipped = io::copy(&mut Read::by_ref(self.plain).take(left), &mut io::sink());
        if skipped.map_err(UnpackError::of_stream)? == left { Ok(()) } else { Err(damaged("it ends within a file")) }
    }

    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.plain.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(UnpackError::of_stream(error)),
            }
        }
        // A block of zeros ends it, and some writers leave that out.
        if filled == 0 || (filled == BLOCK && block.iter().all(|byte| *byte == 0)) {
            return Ok(None);
        }
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
        if filled < BLOCK || header.cksum().ok() != Some(sum + 8 * u32::from(b' ')) {
            return Err(damaged("it has something that is not an entry"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_EXTENSION {
            return Err(damaged("it has an entry with too long a name or too many attributes"));
        }
        self.expect_content(size);
        let mut content = vec![0; size as usize];
        self.read_content(&mut content)?;
        self.skip()?;
        Ok(content)
    }
}

impl Extension {
    /// Reads an extended header: lines of `<length> <key>=<value>`, the length being that of the whole line.
    fn read(&mut self, mut rest: &[u8]) -> Result<(), UnpackError> {
        let broken = || damaged("it has a broken extended header");
        while !rest.is_empty() {
            let blank = rest.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
            let len = std::str::from_utf8(&rest[..blank]).ok().and_then(|text| text.parse::<usize>().ok());
            let (line, others) = len.and_then(|len| rest.split_at_checked(len)).ok_or_else(broken)?;
            let line = line.get(blank + 1..).and_then(|line| line.strip_suffix(b"\n")).ok_or_else(broken)?;
            let equals = line.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
            self.note(&line[..equals], &line[equals + 1..]).ok_or_else(broken)?;
            rest = others;
        }
        Ok(())
    }

    /// `None` if the value cannot be what the key says.
    fn note(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let text = || std::str::from_utf8(value).ok();
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(text()?.parse().ok()?),
            b"uid" => self.uid = Some(text()?.parse().ok()?),
            b"gid" => self.gid = Some(text()?.parse().ok()?),
            b"mtime" => self.modified = Some(time(text()?)?),
            _ if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.attributes.push((OsString::from_vec(name.to_vec()), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

/// Position and length of each; `None` if one has none.
fn pieces(noted: &[GnuSparseHeader]) -> Option<Vec<(u64, u64)>> {
    let noted = noted.iter().filter(|piece| !piece.is_empty());
    noted.map(|piece| Some((piece.offset().ok()?, piece.length().ok()?))).collect()
}

/// Seconds since 1970 with or without a fraction.
fn time(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (seconds, nanoseconds): (i64, i64) = (seconds.parse().ok()?, digits.parse().ok()?);
    // Before 1970 the fraction counts backwards, in files forwards.
    if text.starts_with('-') && nanoseconds > 0 {
        Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds))
    } else {
        Some((seconds, nanoseconds))
    }
}

fn until_zero(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}

fn damaged(what: &str) -> UnpackError {
    UnpackError::Damaged(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_on_both_sides_of_1970() {
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("1.1234567899"), Some((1, 123_456_789)));
        for nonsense in ["", "x", "1.x", "9223372036854775808", "-9223372036854775808.5"] {
            assert_eq!(time(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn extended_headers_have_values_with_any_byte() {
        let mut extension = Extension::default();
        extension.read(b"12 path=a/b\n29 SCHILY.xattr.user.x=a\nb=c\n").unwrap();
        assert_eq!(extension.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(extension.attributes, [("user.x".into(), b"a\nb=c".to_vec())]);
        for broken in [&b"12"[..], b"99 path=a\n", b"x path=a\n", b"3 a\n", b"1 =\n", b"10 size=x\n"] {
            assert!(Extension::default().read(broken).is_err(), "{broken:?}");
        }
    }
}
