//! What containers are made of, at a place that they can reach: `/run/workrs/<node>`, on a small file system in memory.
//! A container's root user is nobody on the host, so it cannot pass a closed folder (mode 0700) above the data folder.
//!
//! | path | what |
//! |---|---|
//! | `dev/` | what a restored container finds as its `/dev` |
//! | `empty/` | what it finds in place of folders that are kept from it |
//! | `sys/` | the host's `/sys` without what is mounted in it, for containers with the host's network |
//! | `cgroups/` | where the cgroups are, see `yard` |
//! | `kernel` | what CRIU knows of the kernel, see `kernel` |
//! | `<container>/root` | its root, a mount of its own: what runc mounts into it is seen by no other |
//! | `<container>/disk` | its disk |

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::yard;
use crate::{disk::io_error, engine::EngineError, image::Base, mounts};

/// The folders and links take little; files are only mounted over.
const BYTES: u64 = 4 << 20;
/// What runc binds the host's devices to.
const DEVICES: [&str; 6] = ["null", "zero", "full", "tty", "random", "urandom"];
/// Mount points in `/dev`.
const FOLDERS: [&str; 3] = ["pts", "shm", "mqueue"];
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// The folder that holds the nodes' stages.
pub(crate) const PARENT: &str = "/run/workrs";

/// The devices that a container has, as it sees them.
pub(super) fn devices() -> impl Iterator<Item = String> {
    DEVICES.into_iter().map(|name| format!("/dev/{name}"))
}

/// A node's stage; it goes when dropped.
#[derive(Debug)]
pub(super) struct Stage {
    folder: PathBuf,
    has_yard: bool,
}

impl Stage {
    pub(super) fn open(node: &str) -> Result<Self, EngineError> {
        let folder = Path::new(PARENT).join(node);
        let mut stage = Self { folder, has_yard: false };
        stage.fill().map_err(|error| io_error(&stage.folder, &error))?;
        Ok(stage)
    }

    fn fill(&mut self) -> io::Result<()> {
        let parent = Path::new(PARENT);
        make_folder(parent)?;
        if !mounts::is_mounted(parent) {
            mounts::mount_plain_tmpfs(parent, BYTES)?;
            make_folder(parent)?;
        }
        // What a former engine in this process left.
        self.clear()?;
        make_folder(&self.folder)?;
        make_folder(&self.empty())?;
        make_folder(&self.dev())?;
        make_folder(&self.sys())?;
        mounts::bind(Path::new("/sys"), &self.sys())?;
        for name in FOLDERS {
            make_folder(&self.dev().join(name))?;
        }
        for name in DEVICES {
            fs::write(self.dev().join(name), "")?;
        }
        LINKS.into_iter().try_for_each(|(name, target)| symlink(target, self.dev().join(name)))?;
        self.has_yard = yard::make(&self.folder.join("cgroups"))?;
        Ok(())
    }

    fn clear(&self) -> io::Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        mounts::below(&self.folder)?.iter().try_for_each(|point| mounts::unmount(point))?;
        // What is mounted is not ours to remove.
        if let Some(point) = mounts::below(&self.folder)?.first() {
            return Err(io::Error::other(format!("{} cannot be unmounted", point.display())));
        }
        fs::remove_dir_all(&self.folder)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn dev(&self) -> PathBuf {
        self.folder.join("dev")
    }

    pub(super) fn empty(&self) -> PathBuf {
        self.folder.join("empty")
    }

    pub(super) fn sys(&self) -> PathBuf {
        self.folder.join("sys")
    }

    /// What CRIU is to take as `--cgroup-yard`, if anything.
    pub(super) fn yard(&self) -> Option<PathBuf> {
        self.has_yard.then(|| self.folder.join("cgroups"))
    }

    /// Mounts a container's root and disk.
    pub(super) fn place(&self, name: &str, base: &Base, disk: &Path) -> Result<Place, EngineError> {
        let place = Place { folder: self.folder.join(format!("job-{name}")) };
        let failed = |at: &Path, error: io::Error| io_error(at, &error);
        make_folder(&place.folder).map_err(|error| failed(&place.folder, error))?;
        for at in [place.root(), place.disk()] {
            make_folder(&at).map_err(|error| failed(&at, error))?;
        }
        base.mount(disk, &place.root()).map_err(|error| failed(&place.root(), error))?;
        mounts::bind(disk, &place.disk()).map_err(|error| failed(&place.disk(), error))?;
        Ok(place)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, "what the containers were made of stays");
        }
    }
}

/// A container's root and disk on the stage; they go when dropped.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
}

impl Place {
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// Nothing happens the second time. Removes empty folders only, never what is mounted there.
    pub(super) fn clear(&self) -> io::Result<()> {
        for at in [self.disk(), self.root()] {
            mounts::unmount(&at)?;
            remove_folder(&at)?;
        }
        remove_folder(&self.folder)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, "a container's root or disk stays mounted");
        }
    }
}

/// A folder that everybody may pass, whatever the umask.
fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => (),
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_cleared_keeps_what_is_not_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder: folder.path().join("job-1") };
        fs::create_dir_all(place.disk().join("precious")).unwrap();
        assert!(place.clear().is_err() && place.disk().join("precious").exists());
        fs::remove_dir(place.disk().join("precious")).unwrap();
        place.clear().unwrap();
        place.clear().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
