//! Entries that stand for something else than themselves: whiteouts, and devices that every job has anyway.

use std::{
    ffi::OsStr,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::{
    fs::{FileType, Mode, OFlags, XattrFlags},
    io::Errno,
};

use super::{Refusal, UnpackError, archive::Kind, tree::Adding};

const WHITEOUT: &[u8] = b".wh.";
/// In the folder whose lower contents it hides.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names of other notes of AUFS, which mean nothing to others.
const OTHER_NOTES: &[u8] = b".wh..wh.";
const OPAQUE_ATTRIBUTE: (&str, &[u8]) = ("trusted.overlay.opaque", b"y");
/// Devices that roots commonly have, all of them character devices, and their numbers.
const USUAL_DEVICES: [(&str, u32, u32); 9] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("console", 5, 1),
    ("ptmx", 5, 2),
    ("pts/ptmx", 5, 2),
];

impl Adding<'_> {
    /// Does what such an entry stands for; `false` if it is none.
    pub(super) fn stands_for_something_else(
        &mut self,
        path: &Path,
        above: &Path,
        name: &[u8],
    ) -> Result<bool, UnpackError> {
        if let Kind::Device(is_character, major, minor) = self.entry.kind {
            self.device(path, is_character, major, minor)?;
        } else if name == OPAQUE {
            self.enter(above)?;
            self.set_opaque(self.parent())?;
        } else if name.starts_with(OTHER_NOTES) {
            // Nothing to do.
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            self.hide(above, hidden)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// The usual ones are left out.
    fn device(&self, path: &Path, is_character: bool, major: u32, minor: u32) -> Result<(), UnpackError> {
        let below_dev = path.strip_prefix("dev").ok();
        let is_usual = USUAL_DEVICES
            .iter()
            .any(|usual| below_dev == Some(Path::new(usual.0)) && (usual.1, usual.2) == (major, minor));
        if is_usual && is_character { Ok(()) } else { Err(self.refused(Refusal::Device)) }
    }

    pub(super) fn set_opaque(&self, folder: impl AsFd) -> Result<(), UnpackError> {
        let (name, value) = OPAQUE_ATTRIBUTE;
        rustix::fs::fsetxattr(folder, name, value, XattrFlags::empty()).map_err(|error| self.host(error))
    }

    /// Hides what lower layers have under this name. What this layer itself has there stays.
    fn hide(&mut self, above: &Path, name: &[u8]) -> Result<(), UnpackError> {
        if name.is_empty() || name == b"." || name == b".." {
            return Err(self.refused(Refusal::Name));
        }
        self.enter(above)?;
        let name = OsStr::from_bytes(name);
        let device = rustix::fs::makedev(0, 0);
        match rustix::fs::mknodat(self.parent(), name, FileType::CharacterDevice, Mode::empty(), device) {
            Err(Errno::EXIST) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(self.parent(), name, flags, Mode::empty()) {
                    Ok(folder) => self.set_opaque(folder),
                    Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                    Err(error) => Err(self.host(error)),
                }
            }
            made => made.map_err(|error| self.host(error)),
        }
    }
}
