//! Room and file system for the job disks.

use std::path::{Path, PathBuf};

use super::{Finding, Need, SETUP};
use crate::{disk, process};

pub(super) fn check(data_dir: &Path, disk_pool_bytes: u64) -> Vec<Finding> {
    let existing = existing_ancestor(data_dir);
    let mut findings = vec![file_system(&existing), free(&existing, data_dir, disk_pool_bytes)];
    findings.push(usr(&existing));
    findings
}

fn file_system(existing: &Path) -> Finding {
    let what = "job disks";
    if disk::has_reflinks(existing).unwrap_or(false) {
        return Finding::ok(what, Need::Run, "the data folder's file system can clone files");
    }
    if process::find("mkfs.xfs").is_some() {
        return Finding::ok(
            what,
            Need::Run,
            "in an XFS volume, since the data folder's file system cannot clone files",
        );
    }
    let detail = "the data folder's file system cannot clone files, and mkfs.xfs was not found";
    Finding::missing(what, Need::Run, detail, format!("{SETUP}, or install the package xfsprogs"))
}

fn free(existing: &Path, data_dir: &Path, wanted: u64) -> Finding {
    let what = "disk pool";
    let held = std::fs::metadata(disk::volume_file(data_dir)).map_or(0, |metadata| metadata.len());
    let free = match rustix::fs::statvfs(existing) {
        Ok(space) => space.f_bavail.saturating_mul(space.f_frsize),
        Err(error) => {
            return Finding::missing(
                what,
                Need::Run,
                format!("{}: {error}", existing.display()),
                "choose another --data-dir",
            );
        }
    };
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1u32 << 30));
    if held.saturating_add(free) >= wanted {
        return Finding::ok(what, Need::Run, format!("{} of {} free", gib(wanted), gib(held.saturating_add(free))));
    }
    let detail = format!("{} wanted, {} free in {}", gib(wanted), gib(free), existing.display());
    Finding::missing(what, Need::Run, detail, "make room, or choose a smaller --disk-pool or another --data-dir")
}

fn usr(existing: &Path) -> Finding {
    let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev).ok();
    if device(Path::new("/usr")) == device(existing) {
        return Finding::ok("host image", Need::Nothing, "a copy of /usr by hard links");
    }
    Finding::warning(
        "host image",
        "/usr is on another file system than the data folder",
        "jobs see the live /usr: a package upgrade ends the checkpoints of the jobs that run",
        "choose a --data-dir on the file system of /usr",
    )
}

fn existing_ancestor(path: &Path) -> PathBuf {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/")).to_path_buf()
}
