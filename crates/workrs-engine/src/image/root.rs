//! A container's root made of an image: an overlay of its layers, and over them what the job changes, which lies on the job
//! disk and so is part of every checkpoint.
//!
//! | path on the job disk | what |
//! |---|---|
//! | `root/upper` | what the job changed, and what was added for it |
//! | `root/work` | the overlay's own |
//! | `root/user.json` | see [`user`](super::user) |
//!
//! The options are such that a disk fits the same layers on any node, where these have other inode numbers: nothing in the
//! upper folder refers to lower inodes (`index`, `nfs_export` and `metacopy` off), but to paths only (`redirect_dir`).

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags},
};

use super::{ImageLayers, implied::describe_again};
use crate::disk::ID_BASE;

const OPTIONS: [(&str, &str); 5] =
    [("index", "off"), ("nfs_export", "off"), ("metacopy", "off"), ("redirect_dir", "on"), ("xino", "off")];

/// What of a job disk belongs to its root.
pub(crate) fn folder(disk: &Path) -> PathBuf {
    disk.join("root")
}

/// Mounts at `at` the layers under what the job disk mounted at `disk` has of the root. All that is in it belongs to ids
/// from [`ID_BASE`] on.
pub(crate) fn mount(layers: &ImageLayers, disk: &Path, at: &Path) -> io::Result<()> {
    let folder = folder(disk);
    let (upper, work) = (folder.join("upper"), folder.join("work"));
    let layers = layers.roots();
    // A captured disk has it, as the job left it.
    if !upper.exists() {
        make_folder(&folder, 0o700, 0)?;
        make_folder(&work, 0o700, 0)?;
        make_folder(&upper, 0o755, ID_BASE)?;
        let layers: Vec<_> = layers.iter().map(|(root, implied)| (root.as_path(), *implied)).collect();
        describe_again(&layers, &upper)?;
    }
    // By number, as paths may be longer than the kernel takes, and so that the job does not see them.
    let open =
        |path: &Path| rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    // The uppermost comes first.
    let lower = layers.iter().rev().map(|(root, _)| open(root)).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(&upper)?, open(&work)?);
    match mount_by_parts(&lower, &upper, &work, at) {
        // Before Linux 6.5 all lower folders are one option.
        Err(Errno::NOSYS | Errno::INVAL) => mount_at_once(&lower, &upper, &work, at),
        mounted => Ok(mounted?),
    }
}

fn mount_by_parts(lower: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd, at: &Path) -> rustix::io::Result<()> {
    let overlay = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&overlay, "source", "image")?;
    for layer in lower {
        rustix::mount::fsconfig_set_string(&overlay, "lowerdir+", by_number(layer))?;
    }
    rustix::mount::fsconfig_set_string(&overlay, "upperdir", by_number(upper))?;
    rustix::mount::fsconfig_set_string(&overlay, "workdir", by_number(work))?;
    for (option, value) in OPTIONS {
        rustix::mount::fsconfig_set_string(&overlay, option, value)?;
    }
    rustix::mount::fsconfig_create(&overlay)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mounted = rustix::mount::fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    rustix::mount::move_mount(&mounted, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn mount_at_once(lower: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd, at: &Path) -> io::Result<()> {
    let lower: Vec<_> = lower.iter().map(by_number).collect();
    let mut options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), by_number(upper), by_number(work));
    options.extend(OPTIONS.map(|(option, value)| format!(",{option}={value}")));
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("image", at, "overlay", flags, CString::new(options)?.as_c_str())?)
}

fn by_number(folder: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", folder.as_raw_fd())
}

fn make_folder(path: &Path, mode: u32, owner: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    chown(path, Some(owner), Some(owner))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
