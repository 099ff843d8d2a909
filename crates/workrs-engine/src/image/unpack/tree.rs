//! The files that an archive's entries become.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, fchown},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    Refusal, UnpackError, Unpacked,
    archive::{Archive, Entry, Kind},
};
use crate::disk::{ID_BASE, IDS};

const MAX_PATH: usize = 4000;
const MAX_NAME: usize = 255;
const BUFFER: usize = 128 << 10;
const BLOCK: u64 = 4096;
const FOLDER: Mode = Mode::from_raw_mode(0o755);

/// A layer's folder while it is filled.
pub(super) struct Tree {
    root: OwnedFd,
    /// The folder that the last entry lay in.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Times of folders, which change until all is there.
    times: Vec<(PathBuf, (i64, i64))>,
    implied: BTreeSet<PathBuf>,
    bytes: u64,
    buffer: Vec<u8>,
}

/// What stood in an entry's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Folder,
    Whiteout,
}

impl Tree {
    pub(super) fn open(folder: &Path) -> Result<Self, UnpackError> {
        let failed = |error: io::Error| UnpackError::host(folder.as_os_str().as_bytes(), error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, folder, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        rustix::fs::fchmod(&root, FOLDER).map_err(|error| failed(error.into()))?;
        fchown(&root, Some(ID_BASE), Some(ID_BASE)).map_err(failed)?;
        let (times, implied) = (Vec::new(), BTreeSet::new());
        Ok(Self { root, parent: None, times, implied, bytes: 0, buffer: vec![0; BUFFER] })
    }

    /// Makes what `entry` says, with the content that `archive` has next.
    pub(super) fn add<R: Read>(&mut self, entry: &Entry, archive: &mut Archive<'_, R>) -> Result<(), UnpackError> {
        let path = clean(&entry.path).map_err(|why| UnpackError::refused(&entry.path, why))?;
        let mut adding = Adding { tree: self, entry };
        let Some(name) = path.file_name().map(OsStr::as_bytes) else { return adding.root() };
        let above = path.parent().unwrap_or(Path::new(""));
        if adding.stands_for_something_else(&path, above, name)? {
            return Ok(());
        }
        adding.make(&path, above, OsStr::from_bytes(name), archive)
    }

    /// Sets what had to wait.
    pub(super) fn finish(mut self) -> Result<Unpacked, UnpackError> {
        self.parent = None;
        for (path, modified) in std::mem::take(&mut self.times) {
            let opened = self.open_below(&path);
            let set = opened.and_then(|folder| rustix::fs::futimens(&folder, &times(modified)));
            match set {
                // Something else took its place.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => (),
                Err(error) => return Err(UnpackError::host(path.as_os_str().as_bytes(), error)),
            }
        }
        Ok(Unpacked { bytes: self.bytes, implied: self.implied.into_iter().collect() })
    }

    /// A folder of the tree, reached through folders of the tree only.
    fn open_below(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }
}

/// One entry that is being added.
pub(super) struct Adding<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) entry: &'a Entry,
}

impl Adding<'_> {
    pub(super) fn refused(&self, why: Refusal) -> UnpackError {
        UnpackError::refused(&self.entry.path, why)
    }

    pub(super) fn host(&self, error: impl Into<io::Error>) -> UnpackError {
        let error = error.into();
        if error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error()) {
            return self.refused(Refusal::Name);
        }
        UnpackError::host(&self.entry.path, error)
    }

    fn owner(&self) -> Result<(u32, u32), UnpackError> {
        let shifted = |id: u64| match u32::try_from(id) {
            Ok(small) if small < IDS => Ok(ID_BASE + small),
            _ => Err(self.refused(Refusal::Owner(id))),
        };
        Ok((shifted(self.entry.uid)?, shifted(self.entry.gid)?))
    }

    fn mode(&self) -> Mode {
        Mode::from_raw_mode(self.entry.mode & 0o7777)
    }

    /// The root itself, whose name is empty.
    fn root(&mut self) -> Result<(), UnpackError> {
        if self.entry.kind != Kind::Folder {
            return Err(self.refused(Refusal::Name));
        }
        let root = self.tree.open_below(Path::new("")).map_err(|error| self.host(error))?;
        self.describe(&root)?;
        self.tree.times.push((PathBuf::new(), self.entry.modified));
        Ok(())
    }

    /// Opens the folder that the entry lies in, made if the archive did not name it.
    pub(super) fn enter(&mut self, above: &Path) -> Result<(), UnpackError> {
        if self.tree.parent.as_ref().is_some_and(|(path, _)| path == above) {
            return Ok(());
        }
        let folder = match self.tree.open_below(above) {
            Err(Errno::NOENT) => self.make_implied(above)?,
            opened => opened.map_err(|error| self.not_entered(error))?,
        };
        self.tree.parent = Some((above.to_path_buf(), folder));
        Ok(())
    }

    fn not_entered(&self, error: Errno) -> UnpackError {
        match error {
            Errno::NOTDIR | Errno::LOOP | Errno::XDEV => self.refused(Refusal::BelowNoFolder),
            other => self.host(other),
        }
    }

    fn make_implied(&mut self, path: &Path) -> Result<OwnedFd, UnpackError> {
        let mut folder = self.tree.open_below(Path::new("")).map_err(|error| self.host(error))?;
        let mut walked = PathBuf::new();
        for name in path {
            walked.push(name);
            match rustix::fs::mkdirat(&folder, name, FOLDER) {
                Err(Errno::EXIST) => (),
                made => {
                    made.map_err(|error| self.host(error))?;
                    self.tree.implied.insert(walked.clone());
                    self.tree.bytes += BLOCK;
                }
            }
            let next = self.tree.open_below(&walked).map_err(|error| self.not_entered(error))?;
            if self.tree.implied.contains(&walked) {
                rustix::fs::fchmod(&next, FOLDER).map_err(|error| self.host(error))?;
                fchown(&next, Some(ID_BASE), Some(ID_BASE)).map_err(|error| self.host(error))?;
            }
            folder = next;
        }
        Ok(folder)
    }

    /// The entered folder.
    pub(super) fn parent(&self) -> &OwnedFd {
        self.tree.parent.as_ref().map_or(&self.tree.root, |(_, folder)| folder)
    }

    fn make<R: Read>(
        &mut self,
        path: &Path,
        above: &Path,
        name: &OsStr,
        archive: &mut Archive<'_, R>,
    ) -> Result<(), UnpackError> {
        let (uid, gid) = self.owner()?;
        if let Kind::HardLink(target) = &self.entry.kind {
            return self.link(above, name, target);
        }
        self.enter(above)?;
        let is_folder = self.entry.kind == Kind::Folder;
        let found = self.make_room(name, is_folder)?;
        self.tree.bytes += BLOCK;
        match &self.entry.kind {
            Kind::Folder => return self.folder(path, name, found),
            Kind::File { len, pieces } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(self.parent(), name, flags, Mode::RUSR | Mode::WUSR);
                let file = std::fs::File::from(file.map_err(|error| self.host(error))?);
                self.write(&file, *len, pieces.as_deref(), archive)?;
                self.describe(&file)?;
                rustix::fs::futimens(&file, &times(self.entry.modified)).map_err(|error| self.host(error))?;
                return Ok(());
            }
            Kind::Symlink(target) => {
                let is_sound = !target.is_empty() && target.len() <= MAX_PATH && !target.contains(&0);
                let target = OsStr::from_bytes(if is_sound { target } else { return Err(self.refused(Refusal::Name)) });
                rustix::fs::symlinkat(target, self.parent(), name).map_err(|error| self.host(error))?;
            }
            Kind::Fifo => {
                let made = rustix::fs::mknodat(self.parent(), name, FileType::Fifo, self.mode(), 0);
                made.map_err(|error| self.host(error))?;
            }
            Kind::HardLink(_) | Kind::Device(..) => return Err(self.refused(Refusal::Device)),
        }
        let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(self.parent(), name, owner, group, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.host(error))?;
        if self.entry.kind == Kind::Fifo {
            // It was just made, so that it is no link.
            let set = rustix::fs::chmodat(self.parent(), name, self.mode(), AtFlags::empty());
            set.map_err(|error| self.host(error))?;
        }
        let times = times(self.entry.modified);
        let set = rustix::fs::utimensat(self.parent(), name, &times, AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(|error| self.host(error))
    }

    fn folder(&mut self, path: &Path, name: &OsStr, found: Found) -> Result<(), UnpackError> {
        if found != Found::Folder {
            rustix::fs::mkdirat(self.parent(), name, FOLDER).map_err(|error| self.host(error))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(self.parent(), name, flags, Mode::empty()).map_err(|error| self.host(error))?;
        self.describe(&folder)?;
        if found == Found::Whiteout {
            // What was taken away must not show through.
            self.set_opaque(&folder)?;
        }
        self.tree.implied.remove(path);
        self.tree.times.push((path.to_path_buf(), self.entry.modified));
        Ok(())
    }

    /// Owner, mode and attributes of an open file or folder, in this order, as a new owner takes away bits of the mode.
    fn describe(&self, file: impl AsFd) -> Result<(), UnpackError> {
        let (uid, gid) = self.owner()?;
        fchown(&file, Some(uid), Some(gid)).map_err(|error| self.host(error))?;
        rustix::fs::fchmod(&file, self.mode()).map_err(|error| self.host(error))?;
        for (name, value) in &self.entry.attributes {
            let bytes = name.as_bytes();
            if !bytes.starts_with(b"user.") || bytes.starts_with(b"user.overlay.") || bytes.contains(&0) {
                continue;
            }
            match rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()) {
                // The file system has none.
                Ok(()) | Err(Errno::NOTSUP) => (),
                Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => {
                    return Err(self.refused(Refusal::Attribute(name.to_string_lossy().into_owned())));
                }
                Err(error) => return Err(self.host(error)),
            }
        }
        Ok(())
    }

    fn write<R: Read>(
        &mut self,
        file: &std::fs::File,
        len: u64,
        pieces: Option<&[(u64, u64)]>,
        archive: &mut Archive<'_, R>,
    ) -> Result<(), UnpackError> {
        let whole = [(0, len)];
        for (start, bytes) in pieces.unwrap_or(&whole) {
            let (mut at, mut left) = (*start, *bytes);
            while left > 0 {
                let next = left.min(BUFFER as u64) as usize;
                let buffer = &mut self.tree.buffer[..next];
                archive.read_content(buffer)?;
                let written = file.write_all_at(buffer, at);
                written.map_err(|error| UnpackError::host(&self.entry.path, error))?;
                (at, left) = (at + next as u64, left - next as u64);
            }
            self.tree.bytes += bytes.next_multiple_of(BLOCK);
        }
        if pieces.is_some() {
            file.set_len(len).map_err(|error| self.host(error))?;
        }
        Ok(())
    }

    /// A further name of a file that the layer has already. An absolute name is one from the image's root.
    fn link(&mut self, above: &Path, name: &OsStr, target: &[u8]) -> Result<(), UnpackError> {
        let unusable = || Refusal::LinkTarget(String::from_utf8_lossy(target).into_owned());
        let start = target.iter().position(|byte| *byte != b'/').unwrap_or(target.len());
        let path = clean(&target[start..]).map_err(|_| self.refused(unusable()))?;
        let (Some(target_name), Some(target_above)) = (path.file_name(), path.parent()) else {
            return Err(self.refused(unusable()));
        };
        if (target_above, target_name) == (above, name) {
            return Err(self.refused(unusable()));
        }
        let folder = self.tree.open_below(target_above).map_err(|_| self.refused(unusable()))?;
        let found = rustix::fs::statat(&folder, target_name, AtFlags::SYMLINK_NOFOLLOW);
        let kind = found.map(|stat| FileType::from_raw_mode(stat.st_mode));
        if !matches!(kind, Ok(FileType::RegularFile | FileType::Symlink | FileType::Fifo)) {
            return Err(self.refused(unusable()));
        }
        self.enter(above)?;
        self.make_room(name, false)?;
        let linked = rustix::fs::linkat(&folder, target_name, self.parent(), name, AtFlags::empty());
        linked.map_err(|error| self.host(error))
    }

    /// Takes away what stands in the entry's place, unless both are folders.
    fn make_room(&mut self, name: &OsStr, is_folder: bool) -> Result<Found, UnpackError> {
        let found = match rustix::fs::statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            found => found.map_err(|error| self.host(error))?,
        };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory if is_folder => Ok(Found::Folder),
            FileType::Directory => {
                match rustix::fs::unlinkat(self.parent(), name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTEMPTY | Errno::EXIST) => return Err(self.refused(Refusal::ReplacesFolder)),
                    removed => removed.map_err(|error| self.host(error))?,
                }
                Ok(Found::Nothing)
            }
            kind => {
                let removed = rustix::fs::unlinkat(self.parent(), name, AtFlags::empty());
                removed.map_err(|error| self.host(error))?;
                Ok(if kind == FileType::CharacterDevice { Found::Whiteout } else { Found::Nothing })
            }
        }
    }
}

/// A relative path without anything but names.
fn clean(path: &[u8]) -> Result<PathBuf, Refusal> {
    if path.starts_with(b"/") {
        return Err(Refusal::Absolute);
    }
    if path.is_empty() || path.len() > MAX_PATH || path.contains(&0) {
        return Err(Refusal::Name);
    }
    let mut clean = PathBuf::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => (),
            b".." => return Err(Refusal::Outside),
            long if long.len() > MAX_NAME => return Err(Refusal::Name),
            name => clean.push(OsStr::from_bytes(name)),
        }
    }
    Ok(clean)
}

fn times((seconds, nanoseconds): (i64, i64)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}
