//! May this process do what the engine does, and jobs reach what is made for them?

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{Finding, Need};
use crate::runc::stage;

/// Bit of CAP_SYS_ADMIN in the capability sets of `/proc/self/status`.
const SYS_ADMIN: u32 = 21;

pub(super) fn check() -> Finding {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = rustix::process::geteuid().is_root();
    if root && has_sys_admin(&status) {
        return Finding::ok("rights", Need::Run, "root with CAP_SYS_ADMIN");
    }
    let (detail, hint) = if root {
        (
            "root, but CAP_SYS_ADMIN is withheld",
            "use a virtual machine, or a privileged container (docker run --privileged)",
        )
    } else {
        ("not root", "run it as root, e.g. with sudo or as a system service")
    };
    Finding::missing("rights", Need::Run, detail, hint)
}

/// Containers' roots are mounted in `/run/workrs`: the data folder may be closed to others, that may not.
pub(super) fn passage() -> Finding {
    match closed_to_others(Path::new(stage::PARENT)) {
        None => Finding::ok("job roots", Need::Run, stage::PARENT),
        Some(folder) => {
            let folder = folder.display();
            let detail = format!("jobs cannot reach {}, as {folder} is closed to others", stage::PARENT);
            Finding::missing("job roots", Need::Run, detail, format!("chmod o+x {folder}"))
        }
    }
}

/// The first folder on the way to `path`, itself included, that others may not pass; what does not exist yet counts for
/// nothing.
fn closed_to_others(path: &Path) -> Option<PathBuf> {
    let mut folders: Vec<_> = path.ancestors().collect();
    folders.reverse();
    let is_closed = |folder: &&Path| folder.metadata().is_ok_and(|folder| folder.permissions().mode() & 0o001 == 0);
    folders.into_iter().find(is_closed).map(Path::to_path_buf)
}

fn has_sys_admin(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> SYS_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_folder_on_the_way_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("closed/below");
        std::fs::create_dir_all(&below).unwrap();
        let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        set(folder.path(), 0o755);
        assert_eq!(closed_to_others(&below.join("absent")), None);
        set(below.parent().unwrap(), 0o750);
        assert_eq!(closed_to_others(&below).as_deref(), below.parent());
    }

    #[test]
    fn the_effective_set_counts() {
        assert!(has_sys_admin("CapPrm:\t0\nCapEff:\t000001fffeffffff\n"));
        assert!(!has_sys_admin("CapEff:\t00000000a80425fb\nCapBnd:\t000001fffeffffff\n"), "Docker's default set");
        assert!(!has_sys_admin(""));
    }
}
