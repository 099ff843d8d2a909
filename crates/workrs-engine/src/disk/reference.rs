//! What a disk's image is compared with: itself as it was when it was cloned last, or as it came.
//!
//! The reference is another name of the last clone's file, so that it takes no space of its own while that is uploaded,
//! and at most the disk once more until the next clone is there. It goes before the disk is written to
//! again, so that never more than the image and one clone of it grow apart. (XFS frees the blocks of a removed file a
//! little later, but waits for that before it says that there is no space.)
//!
//! Clones of captures that failed are references all the same; what had changed up to them is kept in mind until a
//! capture succeeds.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use workrs_core::ranges::ByteRanges;

use super::extents;

/// A clone of a disk's image. The file is removed when this is dropped, unless the capture that it is part of succeeded.
#[derive(Debug)]
pub(crate) struct ImageClone {
    number: u64,
    path: PathBuf,
    /// Where it may differ from the clone of the last successful capture, or from the image as it came; `None`: anywhere.
    changed: Option<ByteRanges>,
    captured: bool,
}

impl Drop for ImageClone {
    fn drop(&mut self) {
        if !self.captured {
            let _gone_with_the_disk = fs::remove_file(&self.path);
        }
    }
}

/// The clones of one image, in order.
#[derive(Debug)]
pub(super) struct References {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many clones were made; the number of the one that the reference is.
    clones: u64,
    /// Whether there is a reference.
    kept: bool,
    /// Where the reference may differ from the last successful capture, or from the image as it came; `None`: anywhere.
    since_captured: Option<ByteRanges>,
}

impl References {
    /// For an image that no capture has yet, or none that is known, in the disk's folder.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, state: Mutex::default() }
    }

    /// Makes the image, which is as it was captured, the reference.
    pub(super) fn begin_with(&self, image: &Path) {
        let mut state = self.state();
        match clone_file(image, &self.file()) {
            Ok(()) => *state = State { kept: true, since_captured: Some(ByteRanges::new()), ..State::default() },
            Err(error) => tracing::debug!(%error, "the first capture of a job disk cannot be compared"),
        }
    }

    /// Clones the image, to which nobody may write now, and makes the clone the reference.
    pub(super) fn clone_image(&self, image: &Path) -> io::Result<ImageClone> {
        let mut state = self.state();
        state.clones += 1;
        let path = self.folder.join(format!("clone-{}", state.clones));
        let mut clone = ImageClone { number: state.clones, path, changed: None, captured: false };
        clone_file(image, &clone.path)?;
        let before = state.since_captured.take();
        if state.kept {
            // If one of these steps fails, the next capture knows nothing.
            let since = before.and_then(|before| Some(before.union(&extents::changed(&self.file(), &clone.path)?)));
            fs::remove_file(self.file())?;
            state.since_captured = since;
            state.kept = false;
        }
        clone.changed.clone_from(&state.since_captured);
        match fs::hard_link(&clone.path, self.file()) {
            Ok(()) => state.kept = true,
            Err(error) => tracing::debug!(%error, "the next capture of a job disk cannot be compared"),
        }
        Ok(clone)
    }

    /// Notes that the capture with this clone succeeded: what it differs in is known to the caller from now on, who
    /// gets the file, too.
    pub(super) fn captured(&self, mut clone: ImageClone) -> (PathBuf, Option<ByteRanges>) {
        clone.captured = true;
        let mut state = self.state();
        // Another clone may have been made since, by a capture that was given up.
        state.since_captured = (clone.number == state.clones && state.kept).then(ByteRanges::new);
        (std::mem::take(&mut clone.path), clone.changed.take())
    }

    fn file(&self) -> PathBuf {
        self.folder.join("reference")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn clone_file(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (File::open(from)?, File::create_new(to)?);
    rustix::fs::ioctl_ficlone(&target, &source).map_err(|error| {
        let _empty = fs::remove_file(to);
        error.into()
    })
}
