//! The job disks: each a sparse ext4 image, loop-mounted. The images lie where files can be cloned: in a folder of the
//! data folder if its file system can, else in an XFS volume of our own, a preallocated file in the data folder.
//! Whatever lies here is of use to the running process only; checkpoints are kept elsewhere.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::FallocateFlags;

use crate::{
    EngineError, mounts,
    process::{Tool, ToolError},
};

/// What a container's ids 0-65535 are outside, the same on all nodes, as disk and memory images carry it. It lies
/// above the ranges that distributions give to users' and systemd's containers.
pub(crate) const ID_BASE: u32 = 0x7000_0000;
/// The job's user and group within the container.
pub(crate) const JOB_ID: u32 = 1000;
/// xfsprogs makes no smaller file system.
const SMALLEST_VOLUME: u64 = 300 << 20;
/// One part in this many of the volume is left to its own books.
const METADATA_SHARE: u64 = 64;
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

    /// Takes the disk twice: once for the image and once for the clone that is being uploaded.
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

/// A job's disk, mounted. Dropping it unmounts and removes it.
#[derive(Debug)]
pub(crate) struct JobDisk {
    /// The folder of its image, mount point and clones.
    folder: PathBuf,
    clones: AtomicU64,
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
        let moved = tokio::task::spawn_blocking(move || take_over(&from, &to)).await;
        moved.map_err(io::Error::other).flatten().map_err(|error| io_error(captured, &error))?;
        check(&disk.image()).await?;
        disk.mount().await?;
        Ok(disk)
    }

    fn new(pool: &Pool, name: &str, bytes: u64) -> Result<Self, EngineError> {
        let reservation = pool.reserve(bytes)?;
        let folder = pool.folder.join(name);
        // Not over that of a container that is still there.
        fs::create_dir(&folder).map_err(|error| io_error(&folder, &error))?;
        let disk = Self { folder, clones: AtomicU64::new(0), _reservation: reservation };
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

    /// Clones the image as it is now, in no time. The clone is the caller's, but goes with the disk at the latest.
    pub(crate) fn clone_image(&self) -> Result<PathBuf, EngineError> {
        let path = self.folder.join(format!("clone-{}", self.clones.fetch_add(1, Ordering::Relaxed)));
        let cloned = File::open(self.image()).and_then(|image| {
            let clone = File::create_new(&path)?;
            Ok(rustix::fs::ioctl_ficlone(&clone, &image)?)
        });
        cloned.map_err(|error| EngineError::DiskFailed(format!("cloning it: {error}")))?;
        Ok(path)
    }

    /// Whether no block or no name is left.
    pub(crate) fn is_full(&self) -> bool {
        rustix::fs::statvfs(self.mount_point()).is_ok_and(|space| space.f_bavail == 0 || space.f_favail == 0)
    }

    /// Empties all that does not outlive the program: everything but the job's folder and its home.
    pub(crate) fn forget_program(&self) -> Result<(), EngineError> {
        for name in ["tmp", "var-tmp", "shm", "run"] {
            let path = self.mount_point().join(name);
            fs::remove_dir_all(&path).map_err(|error| io_error(&path, &error))?;
        }
        make_folders(&self.mount_point())
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

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        has_reflinks(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
