//! One job's disk.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use workrs_core::ranges::ByteRanges;

use super::{ID_BASE, ImageClone, JOB_ID, Pool, Reservation, io_error, make_folder, reference::References, tool_error};
use crate::{
    EngineError, mounts,
    process::{Tool, ToolError},
};

/// Folders of the disk and their modes; the job owns what it may write and others may not.
const FOLDERS: [(&str, u32, u32); 8] = [
    ("job", 0o755, JOB_ID),
    ("home", 0o755, JOB_ID),
    ("tmp", 0o1777, 0),
    ("var-tmp", 0o1777, 0),
    ("shm", 0o1777, 0),
    ("run", 0o755, 0),
    ("run/lock", 0o1777, 0),
    // Sticky: the job's init may add its status, nobody may replace the init.
    ("run/workrs", 0o1777, 0),
];

/// The most of a disk that comes free again after a write failed for want of space.
const MAX_GIVEN_BACK: u64 = 1 << 20;

/// A job's disk, mounted. Dropping it unmounts and removes it.
#[derive(Debug)]
pub(crate) struct JobDisk {
    /// The folder of its image, mount point and clones.
    folder: PathBuf,
    references: References,
    _reservation: Reservation,
}

impl JobDisk {
    /// An empty one.
    pub(crate) async fn create(pool: &Pool, name: &str, bytes: u64) -> Result<Self, EngineError> {
        let disk = Self::new(pool, name, bytes)?;
        let image = File::create(disk.image()).and_then(|image| image.set_len(bytes));
        image.map_err(|error| io_error(&disk.image(), &error))?;
        let extended = format!("lazy_itable_init=1,nodiscard,root_owner={ID_BASE}:{ID_BASE}");
        let make = Tool::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-E", &extended]);
        make.arg(disk.image()).output().await.map_err(|error| tool_error(&error))?;
        disk.mount().await?;
        make_folders(&disk.mount_point())?;
        Ok(disk)
    }

    /// One that was captured; the image is taken over.
    pub(crate) async fn adopt(pool: &Pool, name: &str, captured: &Path) -> Result<Self, EngineError> {
        let metadata = fs::symlink_metadata(captured).map_err(|error| io_error(captured, &error))?;
        if !metadata.is_file() {
            return Err(EngineError::Refused("its disk is not a file".to_owned()));
        }
        let disk = Self::new(pool, name, metadata.len())?;
        let (from, to) = (captured.to_path_buf(), disk.image());
        let moved = tokio::task::spawn_blocking(move || {
            take_over(&from, &to)?;
            // Before anything is changed in it.
            disk.references.begin_with(&to);
            Ok(disk)
        });
        let moved = moved.await.map_err(io::Error::other).flatten();
        let disk = moved.map_err(|error| io_error(captured, &error))?;
        check(&disk.image()).await?;
        disk.mount().await?;
        Ok(disk)
    }

    fn new(pool: &Pool, name: &str, bytes: u64) -> Result<Self, EngineError> {
        let reservation = pool.reserve(bytes)?;
        let folder = pool.folder.join(name);
        // Not over that of a container that is still there.
        fs::create_dir(&folder).map_err(|error| io_error(&folder, &error))?;
        let disk = Self { references: References::new(folder.clone()), folder, _reservation: reservation };
        make_folder(&disk.mount_point())?;
        Ok(disk)
    }

    async fn mount(&self) -> Result<(), EngineError> {
        let mounted = mounts::mount_image(&self.image(), "ext4", "nosuid,nodev,discard", &self.mount_point()).await;
        mounted.map_err(|error| tool_error(&error))
    }

    fn image(&self) -> PathBuf {
        self.folder.join("image")
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.folder.join("mount")
    }

    /// Writes everything back; an error means that nothing on the disk can be trusted.
    pub(crate) fn flush(&self) -> Result<(), EngineError> {
        let failed = |error: io::Error| EngineError::DiskFailed(format!("writing it back: {error}"));
        let root = File::open(self.mount_point()).map_err(failed)?;
        rustix::fs::syncfs(&root).map_err(|error| failed(error.into()))?;
        let device = root.metadata().map_err(failed)?.dev();
        match noted_errors(device) {
            0 => Ok(()),
            errors => Err(EngineError::DiskFailed(format!("the kernel noted {errors} errors of its file system"))),
        }
    }

    /// Clones the image as it is now, and compares. While this runs nobody may write to the disk.
    pub(crate) fn clone_image(&self) -> Result<ImageClone, EngineError> {
        let cloned = self.references.clone_image(&self.image());
        cloned.map_err(|error| EngineError::DiskFailed(format!("cloning it: {error}")))
    }

    /// To be called when the capture with this clone has succeeded. Gives the clone's file, which is the caller's, but goes
    /// with the disk at the latest and may not be written to, and where it may differ from that of the last successful capture
    /// or from the image that was adopted; `None`: anywhere.
    pub(crate) fn captured(&self, clone: ImageClone) -> (PathBuf, Option<ByteRanges>) {
        self.references.captured(clone)
    }

    /// Whether no block or no name is left.
    pub(crate) fn is_full(&self) -> bool {
        rustix::fs::statvfs(self.mount_point()).is_ok_and(|space| space.f_bavail == 0 || space.f_favail == 0)
    }

    /// Whether a write may have failed for want of space: once it has, the kernel gives back what it had set aside for
    /// that write, so that a few blocks are free again.
    pub(crate) fn was_full(&self) -> bool {
        rustix::fs::statvfs(self.mount_point()).is_ok_and(|space| {
            let left = space.f_bavail.saturating_mul(space.f_frsize);
            let total = space.f_blocks.saturating_mul(space.f_frsize);
            space.f_favail == 0 || left < MAX_GIVEN_BACK.min(total / 64)
        })
    }

    /// Empties all that does not outlive the program: everything but the job's folder, its home and what it changed in the
    /// root of its image.
    pub(crate) fn forget_program(&self) -> Result<(), EngineError> {
        for name in ["tmp", "var-tmp", "shm", "run"] {
            let path = self.mount_point().join(name);
            fs::remove_dir_all(&path).map_err(|error| io_error(&path, &error))?;
        }
        make_folders(&self.mount_point())
    }

    /// The folder of the engine's own notes, which the job sees as `/run/workrs`. While it runs, a job whose user is root can put
    /// something else in its place; so this is checked when none runs, before anything is written there.
    pub(crate) fn notes(&self) -> Result<PathBuf, EngineError> {
        let run = self.mount_point().join("run");
        let notes = run.join("workrs");
        let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        if is_folder(&run) && is_folder(&notes) {
            return Ok(notes);
        }
        Err(EngineError::Refused("the job has removed or replaced its folder /run/workrs".to_owned()))
    }

    /// Gives what the job owns from the beginning to another user, as the container sees it.
    pub(crate) fn give_to(&self, uid: u32, gid: u32) -> Result<(), EngineError> {
        for (name, _, _) in FOLDERS.into_iter().filter(|(_, _, owner)| *owner == JOB_ID) {
            let path = self.mount_point().join(name);
            let given = chown(&path, Some(ID_BASE + uid), Some(ID_BASE + gid));
            given.map_err(|error| io_error(&path, &error))?;
        }
        Ok(())
    }

    /// Unmounts and removes it. Nothing happens the second time.
    pub(crate) fn remove(&self) -> Result<(), EngineError> {
        if !self.folder.exists() {
            return Ok(());
        }
        mounts::unmount(&self.mount_point()).map_err(|error| io_error(&self.mount_point(), &error))?;
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&self.folder, &error)),
            _ => Ok(()),
        }
    }
}

impl Drop for JobDisk {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "a job disk could not be removed");
        }
    }
}

/// Errors that ext4 met on a device since it was made.
fn noted_errors(device: u64) -> u64 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let Ok(link) = fs::read_link(format!("/sys/dev/block/{major}:{minor}")) else { return 0 };
    let name = link.file_name().unwrap_or_default();
    let count = fs::read_to_string(Path::new("/sys/fs/ext4").join(name).join("errors_count"));
    count.ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn make_folders(root: &Path) -> Result<(), EngineError> {
    for (name, mode, owner) in FOLDERS {
        let path = root.join(name);
        let made = match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made,
        };
        let id = ID_BASE + owner;
        made.and_then(|()| chown(&path, Some(id), Some(id)))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .map_err(|error| io_error(&path, &error))?;
    }
    Ok(())
}

/// Repairs what a dump taken while files were open leaves behind, such as the space of deleted ones.
async fn check(image: &Path) -> Result<(), EngineError> {
    match Tool::new("e2fsck").args(["-f", "-p"]).arg(image).output().await {
        Ok(_) | Err(ToolError::Failed { code: Some(1..=3), .. }) => Ok(()),
        Err(ToolError::Failed { complaint, .. }) => {
            Err(EngineError::Refused(format!("its disk is damaged: {complaint}")))
        }
        Err(error) => Err(tool_error(&error)),
    }
}

/// Renames, clones or, between file systems, copies the data without the holes.
fn take_over(from: &Path, to: &Path) -> io::Result<()> {
    if fs::rename(from, to).is_ok() {
        return Ok(());
    }
    let (mut source, mut target) = (File::open(from)?, File::create_new(to)?);
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        let len = source.metadata()?.size();
        target.set_len(len)?;
        copy_data(&mut source, &mut target)?;
    }
    fs::remove_file(from)
}

fn copy_data(source: &mut File, target: &mut File) -> io::Result<()> {
    let mut at = 0;
    // NXIO: no data after this.
    while let Ok(start) = rustix::fs::seek(&*source, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&*source, rustix::fs::SeekFrom::Hole(start))?;
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        let copied = io::copy(&mut Read::by_ref(source).take(end - start), target)?;
        if copied != end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    target.flush()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_sparse_image_is_taken_over_with_its_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let image = File::create(&from).unwrap();
        image.set_len(64 << 20).unwrap();
        image.write_all_at(b"begin", 0).unwrap();
        image.write_all_at(b"end", (32 << 20) - 3).unwrap();
        let (mut source, mut target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
        target.set_len(64 << 20).unwrap();
        copy_data(&mut source, &mut target).unwrap();
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() < 1000, "the holes were filled");
        take_over(&to, &folder.path().join("moved")).unwrap();
        assert!(!to.exists());
    }
}
