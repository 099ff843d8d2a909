//! What a tar has, by name.
//!
//! The headers are read here, by the `tar` crate's own reading of one header, because its iterator takes names and extended
//! headers of any length into memory.

use std::{collections::HashMap, io, io::Read};

use tar::{EntryType, Header, PaxExtensions};

use super::file::{Reader, Span};

const BLOCK: u64 = 512;
/// More than any name, link or extended header has.
const MAX_EXTENSION: u64 = 1 << 20;
/// The members of an archive of images lie no deeper, and are no more.
const MAX_DEPTH: usize = 4;
const MAX_MEMBERS: usize = 100_000;
const MAX_LINKS: usize = 8;

/// Why there are no members.
pub(super) enum ScanError {
    /// The file begins with something else than a tar.
    NoTar,
    /// What is wrong with it further on.
    Broken(io::Error),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// The members that those of an archive of images may be among.
#[derive(Default)]
pub(super) struct Members {
    by_name: HashMap<String, Member>,
    /// Some were left out, as there are too many.
    pub are_too_many: bool,
    /// There is a regular file.
    pub have_files: bool,
    /// There is a folder at the top that root file systems have, and archives of images never.
    pub have_root_folders: bool,
}

enum Member {
    File(Span),
    /// Leads to this name, if it leads to one within the archive.
    Link(Option<String>),
    /// A folder, a sparse file or another kind of no use here.
    Other,
}

/// What extended headers say of the member that follows.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: Option<u64>,
    is_sparse: bool,
}

impl Members {
    /// Goes through an archive to its end.
    pub fn scan(reader: &mut Reader) -> Result<Self, ScanError> {
        let mut members = Self::default();
        let mut extension = Extension::default();
        while let Some(header) = next_header(reader)? {
            let (kind, start) = (header.entry_type(), reader.at());
            match kind {
                EntryType::GNULongName => extension.name = Some(read_text(reader, &header)?),
                EntryType::GNULongLink => extension.link = Some(read_text(reader, &header)?),
                EntryType::XHeader => extension.read(&read_extension(reader, &header)?),
                _ => {}
            }
            let is_extension = matches!(
                kind,
                EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
            );
            let mut bytes = header.entry_size()?;
            let mut start = start;
            if !is_extension {
                let said = std::mem::take(&mut extension);
                bytes = said.bytes.unwrap_or(bytes);
                start += skip_sparse_map(reader, &header)?;
                members.add(&header, &said, Span::inside(start, bytes));
            }
            let end = bytes.checked_next_multiple_of(BLOCK).and_then(|padded| start.checked_add(padded));
            reader.go_to(end.ok_or_else(|| broken("a member has an impossible length"))?)?;
        }
        // What compresses it has a check sum at its end.
        io::copy(reader, &mut io::sink())?;
        Ok(members)
    }

    fn add(&mut self, header: &Header, said: &Extension, span: Span) {
        let raw = said.name.as_deref().map_or_else(|| header.path_bytes(), Into::into);
        let Some(name) = std::str::from_utf8(&raw).ok().and_then(|name| within("", name)) else { return };
        let kind = header.entry_type();
        let is_file = kind.is_file() || kind == EntryType::Continuous;
        self.have_files |= is_file;
        self.have_root_folders |= matches!(name.split('/').next(), Some("bin" | "usr" | "etc"));
        if name.is_empty() || name.split('/').count() > MAX_DEPTH {
            return;
        }
        if self.by_name.len() >= MAX_MEMBERS {
            self.are_too_many = true;
            return;
        }
        let target = || {
            let raw = said.link.as_deref().map_or_else(|| header.link_name_bytes(), |link| Some(link.into()))?;
            // A symbolic link begins where it lies, a hard link at the root.
            let base = if kind.is_symlink() { name.rsplit_once('/').map_or("", |(folder, _)| folder) } else { "" };
            within(base, std::str::from_utf8(&raw).ok()?)
        };
        let member = match kind {
            _ if is_file && !said.is_sparse => Member::File(span),
            EntryType::Link | EntryType::Symlink => Member::Link(target()),
            _ => Member::Other,
        };
        // Of two with one name the later counts, as when they are unpacked.
        self.by_name.insert(name, member);
    }

    /// Where the content of a file lies. Links are followed within the archive.
    pub fn find(&self, name: &str) -> Option<Span> {
        let mut name = within("", name)?;
        for _ in 0..=MAX_LINKS {
            match self.by_name.get(&name)? {
                Member::File(span) => return Some(*span),
                Member::Link(target) => name.clone_from(target.as_ref()?),
                Member::Other => return None,
            }
        }
        None
    }

    /// The names of all, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

/// The name that a path, begun in a folder, leads to; `None` if it leads out of the archive.
fn within(folder: &str, path: &str) -> Option<String> {
    let start = if path.starts_with('/') { "" } else { folder };
    let mut parts: Vec<&str> = Vec::new();
    for part in start.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The next header; `None` at the mark of the archive's end, which must be there.
fn next_header(reader: &mut Reader) -> Result<Option<Header>, ScanError> {
    let is_first = reader.at() == 0;
    let mut block = [0; BLOCK as usize];
    let mut filled = 0;
    while filled < block.len() {
        match reader.read(&mut block[filled..])? {
            0 if is_first => return Err(ScanError::NoTar),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => filled += read,
        }
    }
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let header = Header::from_byte_slice(&block);
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    match header.cksum() {
        Ok(expect) if expect == sum => Ok(Some(header.clone())),
        _ if is_first => Err(ScanError::NoTar),
        _ => Err(broken("a header's check sum is wrong").into()),
    }
}

fn read_extension(reader: &mut Reader, header: &Header) -> io::Result<Vec<u8>> {
    let bytes = header.entry_size()?;
    if bytes > MAX_EXTENSION {
        return Err(broken("a name or an extended header is too long"));
    }
    let mut content = vec![0; bytes as usize];
    reader.read_exact(&mut content)?;
    Ok(content)
}

fn read_text(reader: &mut Reader, header: &Header) -> io::Result<Vec<u8>> {
    let mut text = read_extension(reader, header)?;
    while text.pop_if(|byte| *byte == 0).is_some() {}
    Ok(text)
}

/// The blocks that describe the holes of a sparse file, as far as they do not fit into its header; gives their length.
fn skip_sparse_map(reader: &mut Reader, header: &Header) -> io::Result<u64> {
    let mut is_extended =
        header.entry_type() == EntryType::GNUSparse && header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
    let start = reader.at();
    while is_extended {
        let mut block = [0; BLOCK as usize];
        reader.read_exact(&mut block)?;
        is_extended = block[IS_EXTENDED_AT] == 1;
    }
    Ok(reader.at() - start)
}

/// In such a block, after 21 entries of 24 bytes.
const IS_EXTENDED_AT: usize = 21 * 24;

impl Extension {
    fn read(&mut self, content: &[u8]) {
        for extension in PaxExtensions::new(content).filter_map(Result::ok) {
            let value = extension.value_bytes();
            match extension.key_bytes() {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.bytes = extension.value().ok().and_then(|value| value.parse().ok()),
                key if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
                _ => {}
            }
        }
    }
}

fn broken(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_lead_out() {
        for (folder, path, expect) in [
            ("", "./a//b/", Some("a/b")),
            ("", "/a", Some("a")),
            ("x/y", "../z/layer.tar", Some("x/z/layer.tar")),
            ("x", "/z", Some("z")),
            ("x", "..", Some("")),
            ("", "..", None),
            ("x", "../../etc/passwd", None),
            ("", "a/../../a", None),
        ] {
            assert_eq!(within(folder, path).as_deref(), expect, "{folder} {path}");
        }
    }

    #[test]
    fn links_in_a_ring_lead_nowhere() {
        let mut members = Members::default();
        members.by_name.insert("a".to_owned(), Member::Link(Some("b".to_owned())));
        members.by_name.insert("b".to_owned(), Member::Link(Some("a".to_owned())));
        assert_eq!(members.find("a"), None);
        members.by_name.insert("b".to_owned(), Member::File(Span::inside(1, 2)));
        assert_eq!(members.find("./a"), Some(Span::inside(1, 2)));
    }
}
