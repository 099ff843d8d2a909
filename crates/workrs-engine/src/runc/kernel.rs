//! What CRIU has found out about the kernel. It keeps that in `/run/criu.kdat`, but only if `/run` is in memory, as it must
//! not outlive the kernel. Elsewhere each call finds all of it out anew, which takes 40 ms of every standstill and restore.
//! There a file in memory is mounted in its place, in this process's mount namespace.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{mounts, process::Tool};

/// Where CRIU looks.
const NOTES: &str = "/run/criu.kdat";
const TMPFS: i64 = 0x0102_1994;
/// Has CRIU write its notes in a mount namespace where `/run` is in memory, and copies them to `$0`.
const MAKE: &str = "exec 3>\"$0\" && mount -t tmpfs tmpfs /run && { criu check; cat /run/criu.kdat >&3; }";
const DEADLINE: Duration = Duration::from_secs(20);
/// Somebody else's CRIU that finds an empty file in its mount namespace removes it, and with it what is mounted there.
const TRIES: usize = 3;

/// CRIU's notes on the kernel that runs.
#[derive(Debug)]
pub(super) struct KernelNotes {
    /// In memory; `None` if CRIU keeps them itself, or there are none.
    file: Option<PathBuf>,
}

impl KernelNotes {
    /// Has them made in `folder`, which is in memory. Without them all is slower, but works.
    pub(super) async fn make(folder: &Path) -> Self {
        if rustix::fs::statfs("/run").is_ok_and(|run| run.f_type == TMPFS) {
            return Self { file: None };
        }
        if mounts::is_mounted(Path::new(NOTES)) {
            // Of a former engine in this process.
            let _covered_then = mounts::unmount(Path::new(NOTES));
        }
        let file = folder.join("kernel");
        let call = Tool::new("unshare").args(["--mount", "--propagation", "private", "--", "sh", "-c", MAKE]);
        let made = call.arg(&file).deadline(DEADLINE).output().await;
        if made.is_err() || fs::metadata(&file).map_or(0, |file| file.len()) == 0 {
            tracing::debug!(?made, "CRIU leaves no notes on the kernel");
            return Self { file: None };
        }
        Self { file: Some(file) }
    }

    /// Puts them where CRIU looks, if they are not there.
    pub(super) fn lay_out(&self) {
        let Some(file) = &self.file else { return };
        let notes = Path::new(NOTES);
        let mut laid_out = Ok(());
        for _ in 0..TRIES {
            if is_same(file, notes) {
                return;
            }
            let there = File::options().append(true).create(true).open(notes);
            laid_out = there.and_then(|_| mounts::bind(file, notes));
        }
        if let Err(error) = laid_out {
            tracing::debug!(%error, "CRIU's notes on the kernel cannot be laid out");
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    identity(one).is_some_and(|one| Some(one) == identity(other))
}
