//! Mounts of this process's own mount namespace.

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::process::{Tool, ToolError};

/// Mounts the file system in the file `image`; its loop device goes with the last mount of it.
pub(crate) async fn mount_image(image: &Path, kind: &str, options: &str, at: &Path) -> Result<(), ToolError> {
    let options = format!("loop,{options}");
    let call = Tool::new("mount").args(["--no-mtab", "--types", kind, "--options", &options]);
    call.arg(image).arg(at).output().await.map(drop)
}

/// Mounts an empty file system in memory of at most `bytes`, for its owner only. Only processes in this process's mount
/// namespace see it.
pub fn mount_tmpfs(at: &Path, bytes: u64) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mount = |huge: &str| {
        let options = CString::new(format!("size={bytes},mode=0700{huge}"))?;
        Ok(rustix::mount::mount("tmpfs", at, "tmpfs", flags, options.as_c_str())?)
    };
    // What is written in large pieces then takes half the time. A kernel without huge pages refuses the option.
    mount(",huge=within_size").or_else(|_: io::Error| mount(""))
}

/// Mounts a small file system in memory with nothing taken away, so that what is bound from it into a user namespace
/// may be given any flags there.
pub(crate) fn mount_plain_tmpfs(at: &Path, bytes: u64) -> io::Result<()> {
    let options = CString::new(format!("size={bytes},mode=0755"))?;
    Ok(rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), options.as_c_str())?)
}

/// Shows `source` at `at`, too, which is of the same kind: a folder without what is mounted below it, or a file.
pub(crate) fn bind(source: &Path, at: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_bind(source, at)?)
}

/// Shows the folder `source` at `at`, where nothing can be changed. Whatever the flags of its file system, those of this
/// mount are the same on every host: a checkpoint carries them, and a user namespace cannot take any away.
pub(crate) fn bind_read_only(source: &Path, at: &Path) -> io::Result<()> {
    bind(source, at)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::RELATIME;
    Ok(rustix::mount::mount_remount(at, flags, c"")?)
}

/// Unmounts, at once if possible, else as soon as nobody uses it any more. Nothing happens if nothing is mounted.
pub fn unmount(at: &Path) -> io::Result<()> {
    let unmounted = rustix::mount::unmount(at, UnmountFlags::empty());
    let unmounted = match unmounted {
        Err(rustix::io::Errno::BUSY) => rustix::mount::unmount(at, UnmountFlags::DETACH),
        other => other,
    };
    match unmounted {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// The mount points below (not at) `folder`, the newest first, so that they can be unmounted in this order.
pub(crate) fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let folder = fs::canonicalize(folder)?;
    let mut points: Vec<_> =
        mount_points(&mounts).filter(|point| *point != folder && point.starts_with(&folder)).collect();
    points.reverse();
    Ok(points)
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    fs::canonicalize(at).is_ok_and(|at| mount_points(&mounts).any(|point| point == at))
}

fn mount_points(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| Some(unescape(line.split(' ').nth(4)?)))
}

/// The kernel writes blanks and such as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let digits = others.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &others[3..];
        } else {
            bytes.push(first);
            rest = others;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let mounts = "\
25 1 0:23 / /a rw - tmpfs tmpfs rw
26 1 0:24 / /a\\040b/c\\134d rw,relatime shared:9 - ext4 /dev/loop0 rw
";
        let points: Vec<_> = mount_points(mounts).collect();
        assert_eq!(points, [Path::new("/a"), Path::new("/a b/c\\d")]);
    }

    #[test]
    fn what_is_not_mounted_is_unmounted_without_fuss() {
        let folder = tempfile::tempdir().unwrap();
        unmount(&folder.path().join("absent")).unwrap();
        assert!(!is_mounted(folder.path()));
        assert!(is_mounted(Path::new("/proc")));
    }
}
