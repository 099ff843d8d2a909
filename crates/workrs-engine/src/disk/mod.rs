//! The job disks: each a sparse ext4 image, loop-mounted. The images lie where files can be cloned: in a folder of the
//! data folder if its file system can, else in an XFS volume of our own, a preallocated file in the data folder.
//! Whatever lies here is of use to the running process only; checkpoints are kept elsewhere.

mod extents;
mod job;
mod reference;

#[cfg(test)]
mod real;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::FallocateFlags;

pub(crate) use self::{job::JobDisk, reference::ImageClone};
use crate::{
    EngineError, mounts,
    process::{Tool, ToolError},
};

/// What a container's ids 0-65535 are outside, the same on all nodes, as disk and memory images carry it. It lies
/// above the ranges that distributions give to users' and systemd's containers.
pub(crate) const ID_BASE: u32 = 0x7000_0000;
/// How many ids there are within a container.
pub(crate) const IDS: u32 = 65536;
/// The job's user and group within the container, where its image names no other.
pub(crate) const JOB_ID: u32 = 1000;
/// xfsprogs makes no smaller file system.
const SMALLEST_VOLUME: u64 = 300 << 20;
/// One part in this many of the volume is left to its own books.
const METADATA_SHARE: u64 = 64;

/// Where job disks lie, and how much of it is spoken for.
#[derive(Debug)]
pub(crate) struct Pool {
    folder: PathBuf,
    capacity: u64,
    reserved: Arc<Mutex<u64>>,
}

/// A share of the pool, given back when dropped.
#[derive(Debug)]
struct Reservation {
    bytes: u64,
    reserved: Arc<Mutex<u64>>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
    }
}

/// Whether files in `folder` can be cloned, found out by a real clone and change.
pub(crate) fn has_reflinks(folder: &Path) -> io::Result<bool> {
    let name = |kind: &str| folder.join(format!(".workrs-probe-{}-{kind}", std::process::id()));
    let (source, target) = (name("source"), name("target"));
    let probed = probe(&source, &target);
    for path in [&source, &target] {
        let _not_made = fs::remove_file(path);
    }
    probed
}

fn probe(source: &Path, target: &Path) -> io::Result<bool> {
    const BLOCK: usize = 4096;
    fs::write(source, [1u8; 2 * BLOCK])?;
    let cloned = File::create(target)?;
    if rustix::fs::ioctl_ficlone(&cloned, File::open(source)?).is_err() {
        return Ok(false);
    }
    cloned.write_all_at(&[2u8; BLOCK], 0)?;
    cloned.sync_all()?;
    Ok(fs::read(source)? == [1u8; 2 * BLOCK] && fs::read(target)? == [[2u8; BLOCK], [1u8; BLOCK]].concat())
}

/// The file of the XFS volume, where one is needed.
pub(crate) fn volume_file(data_dir: &Path) -> PathBuf {
    data_dir.join("disks.xfs")
}

impl Pool {
    /// Makes `<data_dir>/disks` ready. What an earlier process left there stays until [`Pool::clear`].
    pub(crate) async fn open(data_dir: &Path, bytes: u64) -> Result<Self, EngineError> {
        let folder = data_dir.join("disks");
        make_folder(&folder)?;
        let mut capacity = bytes;
        if !mounts::is_mounted(&folder) && !has_reflinks(data_dir).map_err(|error| io_error(data_dir, &error))? {
            open_volume(&volume_file(data_dir), bytes, &folder).await?;
        }
        if mounts::is_mounted(&folder) {
            let space = rustix::fs::statvfs(&folder).map_err(|error| io_error(&folder, &error.into()))?;
            let usable = space.f_blocks.saturating_mul(space.f_frsize);
            capacity = usable - usable / METADATA_SHARE;
        }
        Ok(Self { folder, capacity, reserved: Arc::default() })
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Removes every disk and clone; nothing may be mounted or in use.
    pub(crate) fn clear(&self) -> Result<(), EngineError> {
        let entries = fs::read_dir(&self.folder).map_err(|error| io_error(&self.folder, &error))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| io_error(&path, &error))?;
        }
        Ok(())
    }

    /// Takes the disk twice: once for the image and once for its last clone, which is uploaded and then compared with.
    fn reserve(&self, disk_bytes: u64) -> Result<Reservation, EngineError> {
        let bytes = disk_bytes.saturating_mul(2);
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.capacity.saturating_sub(*reserved);
        if bytes > free {
            let text =
                format!("a disk of {disk_bytes} bytes takes twice that of the pool, of which {free} bytes are free");
            return Err(EngineError::Host(text));
        }
        *reserved += bytes;
        Ok(Reservation { bytes, reserved: Arc::clone(&self.reserved) })
    }
}

async fn open_volume(file: &Path, bytes: u64, at: &Path) -> Result<(), EngineError> {
    let usable = fs::metadata(file).is_ok_and(|metadata| metadata.len() == bytes);
    if usable || is_in_use(file) {
        match mounts::mount_image(file, "xfs", "noatime", at).await {
            Ok(()) => return Ok(()),
            Err(error) if is_in_use(file) => return Err(tool_error(&error)),
            Err(error) => {
                tracing::warn!(%error, "the volume of job disks is damaged and is made anew; it held no checkpoints");
            }
        }
    }
    tracing::info!(bytes, file = %file.display(), "making the volume of job disks");
    make_volume(file, bytes).await?;
    mounts::mount_image(file, "xfs", "noatime", at).await.map_err(|error| tool_error(&error))
}

/// Whether a loop device holds the file, as one of a process that is still ending does.
fn is_in_use(file: &Path) -> bool {
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices
        .filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok())
        .any(|backing| Path::new(backing.trim_end()) == file)
}

async fn make_volume(file: &Path, bytes: u64) -> Result<(), EngineError> {
    if bytes < SMALLEST_VOLUME {
        let text = format!(
            "the disk pool has {bytes} bytes, but its volume needs at least {SMALLEST_VOLUME}; raise --disk-pool"
        );
        return Err(EngineError::Host(text));
    }
    let allocate = || {
        let _absent = fs::remove_file(file);
        let volume = File::create(file)?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
        rustix::fs::fallocate(&volume, FallocateFlags::empty(), 0, bytes)?;
        volume.sync_all()
    };
    if let Err(error) = allocate() {
        let _partial = fs::remove_file(file);
        let hint = "make room, lower --disk-pool or choose another --data-dir";
        return Err(EngineError::Host(format!(
            "no {bytes} bytes for job disks at {}: {error}; {hint}",
            file.display()
        )));
    }
    // Without -K the blocks just allocated would be given back.
    let made = Tool::new("mkfs.xfs").args(["-q", "-f", "-K", "-m", "reflink=1"]).arg(file).output().await;
    made.map(drop).map_err(|error| tool_error(&error))
}

fn make_folder(path: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(path).map_err(|error| io_error(path, &error))
}

pub(crate) fn io_error(path: &Path, error: &io::Error) -> EngineError {
    EngineError::Host(format!("{}: {error}", path.display()))
}

pub(crate) fn tool_error(error: &ToolError) -> EngineError {
    EngineError::Host(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_never_lends_space_twice() {
        let pool = Pool { folder: "/nowhere".into(), capacity: 100, reserved: Arc::default() };
        let first = pool.reserve(30).unwrap();
        assert!(matches!(pool.reserve(30), Err(EngineError::Host(_))));
        let _second = pool.reserve(20).unwrap();
        drop(first);
        pool.reserve(30).unwrap();
        assert!(pool.reserve(u64::MAX).is_err());
    }

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        has_reflinks(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
