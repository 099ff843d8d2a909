//! What the kernel offers.

use std::path::Path;

use super::{Finding, Need};
use crate::cgroup::Hierarchy;

pub(super) fn version() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (5, 10) {
        return Finding::ok("kernel", Need::Run, release);
    }
    Finding::missing("kernel", Need::Run, format!("{release} is older than 5.10"), "use a newer kernel")
}

pub(super) fn cgroups() -> Vec<Finding> {
    let hint = "enable it on the kernel's command line (e.g. cgroup_enable=memory), or mount it";
    let hierarchy = match Hierarchy::detect() {
        Ok(hierarchy) => hierarchy,
        Err(reason) => return vec![Finding::missing("cgroups", Need::Run, reason, "mount the cgroup file systems")],
    };
    let missing = hierarchy.missing_controllers();
    if missing.is_empty() {
        return vec![Finding::ok("cgroups", Need::Run, format!("{}, with all controllers", hierarchy.name()))];
    }
    let detail = |controller: &str| format!("{} without the controller {controller}", hierarchy.name());
    missing.iter().map(|controller| Finding::missing("cgroups", Need::Run, detail(controller), hint)).collect()
}

pub(super) fn features() -> Vec<Finding> {
    let file_systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has_file_system = |name: &str| {
        file_systems.lines().any(|line| line.split_whitespace().next_back() == Some(name)) || is_module(name)
    };
    let features = [
        ("user namespaces", Path::new("/proc/self/ns/user").exists() && user_namespaces_allowed()),
        ("loop devices", Path::new("/dev/loop-control").exists()),
        ("ext4", has_file_system("ext4")),
    ];
    let kernel = "use a kernel that has it, or load its module";
    let no_overlay = (!has_file_system("overlay"))
        .then(|| Finding::warning("overlayfs", "not there", "jobs in images cannot run here", kernel));
    features
        .into_iter()
        .map(|(what, there)| {
            if there {
                Finding::ok(what, Need::Run, "there")
            } else {
                Finding::missing(what, Need::Run, "not there", kernel)
            }
        })
        .chain(no_overlay)
        .collect()
}

fn user_namespaces_allowed() -> bool {
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    limit.trim().parse::<u64>().is_ok_and(|limit| limit > 0)
}

/// Whether the running kernel has a module of that name; the kernel loads it at the first mount.
fn is_module(name: &str) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let list = std::fs::read_to_string(format!("/lib/modules/{release}/modules.dep")).unwrap_or_default();
    list.lines().any(|line| line.split(".ko").next().is_some_and(|path| path.ends_with(&format!("/{name}"))))
}
