//! Unpacks a layer, an archive of unknown origin, into a folder of its own in the form of an overlay's lower folder.
//!
//! - [`stream`]: the archive's bytes, decompressed and checked on the way.
//! - [`archive`]: the entries in them.
//! - [`tree`]: the files that they become; [`special`] are those that become none.
//!
//! While the layer streams, its length and digest as it is stored and its digest without compression are checked; the caller
//! keeps the folder only if this succeeds. Whatever the archive holds, nothing is made or changed outside the folder: every
//! entry's parent is opened beneath it without following links. An entry is never written through another; one that comes
//! again takes the place of the former, but not of a folder that has something in it.
//!
//! An entry's parent that the layer does not name is made as a plain folder, as containerd does, whatever lower layers have
//! there: layers are unpacked without knowing what they will lie on.
//!
//! Kept are modes (also set-user-ID bits: roots are mounted `nosuid`), owners, shifted by [`ID_BASE`](crate::disk::ID_BASE),
//! times and attributes in `user.`; of others none, so that no archive sets those of the overlay itself. The whiteouts of
//! archives become the overlay's: an entry `.wh.<name>` a device 0:0 in place of the name, `.wh..wh..opq` the attribute
//! `trusted.overlay.opaque` of its folder. Devices are refused, but for the usual ones of `/dev`, which are left out, as every
//! job has a `/dev` of its own.

mod archive;
mod special;
mod stream;
mod tree;

#[cfg(test)]
mod tests;

use std::{
    io::{self, Read},
    path::Path,
};

use workrs_core::image::{ImageDigest, Layer};

use self::{archive::Archive, stream::Plain, tree::Tree};

/// How much a layer may unpack to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes without compression, holes included.
    pub(crate) bytes: u64,
    /// Files, folders and everything else.
    pub(crate) entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 2_000_000 }
    }
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// One entry is not as it may be.
    #[error("{path:?} {why}")]
    Refused {
        /// Its name in the archive.
        path: String,
        /// What is wrong with it.
        why: Refusal,
    },
    /// Not an archive, or not in the compression that it should have.
    #[error("its archive is damaged: {0}")]
    Damaged(String),
    /// Its content is not what the image's configuration says.
    #[error("its content is {found}, but should be {expected}")]
    Content {
        /// The digest that it has.
        found: ImageDigest,
        /// The digest that it should have.
        expected: ImageDigest,
    },
    /// As it is stored it is not what the image's manifest says.
    #[error("its stored form is {found}, but should be {expected}")]
    Stored {
        /// The digest that it has.
        found: ImageDigest,
        /// The digest that it should have.
        expected: ImageDigest,
    },
    /// As it is stored it is longer or shorter than the image's manifest says.
    #[error("its stored form has {found} bytes, but should have {expected}")]
    Length {
        /// Bytes that were read.
        found: u64,
        /// Bytes that it should have.
        expected: u64,
    },
    /// More bytes than any layer may have.
    #[error("it unpacks to more than {0} bytes")]
    TooLarge(u64),
    /// More entries than any layer may have.
    #[error("it has more than {0} entries")]
    TooMany(u64),
    /// The source failed.
    #[error("failed to read it: {0}")]
    Source(io::Error),
    /// This host failed.
    #[error("failed to write {path:?}: {error}")]
    Host {
        /// What could not be written.
        path: String,
        /// Why.
        error: io::Error,
    },
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("has an absolute path")]
    Absolute,
    #[error("leads out of the image by `..`")]
    Outside,
    #[error("has a name that is empty, too long or not one of a file")]
    Name,
    #[error("lies below something that is not a folder of its layer")]
    BelowNoFolder,
    #[error("is a link to {0:?}, which is not a file of its layer")]
    LinkTarget(String),
    #[error("is a device")]
    Device,
    #[error("belongs to the user or group {0}; only 0 to 65535 exist in a job")]
    Owner(u64),
    #[error("is of a kind ({0:?}) that this version does not know")]
    Kind(char),
    #[error("would take the place of a folder that has something in it")]
    ReplacesFolder,
    #[error("is a sparse file whose holes cannot be read")]
    Sparse,
    #[error("has an attribute {0:?} that is too large")]
    Attribute(String),
}

impl UnpackError {
    fn refused(path: &[u8], why: Refusal) -> Self {
        Self::Refused { path: String::from_utf8_lossy(path).into_owned(), why }
    }

    fn host(path: &[u8], error: impl Into<io::Error>) -> Self {
        Self::Host { path: String::from_utf8_lossy(path).into_owned(), error: error.into() }
    }

    /// An error that came through the readers, where errors of this type travel inside those of the standard library.
    fn of_stream(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(|error| Self::Damaged(error.to_string()))
    }

    /// Whether the bytes are to blame, and therefore, if they are those that the image names, the image.
    fn is_of_the_content(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Damaged(_) | Self::Content { .. } | Self::TooLarge(_) | Self::TooMany(_)
        )
    }

    /// Whether there is no room left on the file system of the folder.
    pub(crate) fn is_of_a_full_disk(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Host { error, .. } if full.contains(&error.kind()))
    }

    /// Whether the image is of no use anywhere. If not, another try, or the layer stored anew, may help.
    pub(crate) fn is_final(&self) -> bool {
        self.is_of_the_content()
    }
}

/// What became of a layer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// About what it takes on the disk.
    pub(crate) bytes: u64,
    /// Folders that the archive did not name, but that others lie in, relative to the root, sorted.
    pub(crate) implied: Vec<std::path::PathBuf>,
}

/// Unpacks `stored`, which is `layer` as it is stored, into the empty folder `folder`. On an error the folder is to be removed.
pub(crate) fn unpack(
    stored: impl Read,
    layer: &Layer,
    folder: &Path,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let mut plain = Plain::open(stored, layer, limits.bytes)?;
    let unpacked = unpack_archive(&mut plain, folder, limits).and_then(|unpacked| {
        plain.check_content(&layer.diff_id)?;
        Ok(unpacked)
    });
    match unpacked {
        Ok(unpacked) => plain.check_stored(layer).map(|()| unpacked),
        // What was damaged where it is stored says nothing of the image.
        Err(error) if error.is_of_the_content() => Err(plain.check_stored(layer).err().unwrap_or(error)),
        Err(error) => Err(error),
    }
}

fn unpack_archive<R: Read>(plain: &mut Plain<R>, folder: &Path, limits: &Limits) -> Result<Unpacked, UnpackError> {
    let mut tree = Tree::open(folder)?;
    let mut archive = Archive::new(plain);
    let mut entries = 0;
    while let Some(entry) = archive.next_entry()? {
        entries += 1;
        if entries > limits.entries {
            return Err(UnpackError::TooMany(limits.entries));
        }
        tree.add(&entry, &mut archive)?;
    }
    tree.finish()
}
