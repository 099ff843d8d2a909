//! Where the cgroup file systems are, in the form in which CRIU takes it (`--cgroup-yard`): a folder with a link for each
//! hierarchy. Without it CRIU mounts all of them again at every dump and restore, which takes 5-15 ms.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// Makes `folder`. Gives whether every hierarchy is in it; CRIU is not to use one that lacks any.
pub(super) fn make(folder: &Path) -> io::Result<bool> {
    let Some(trees) = trees(&fs::read_to_string("/proc/self/cgroup")?, &fs::read_to_string("/proc/self/mountinfo")?)
    else {
        return Ok(false);
    };
    fs::create_dir(folder)?;
    trees.into_iter().try_for_each(|(name, tree)| symlink(tree, folder.join(name)))?;
    Ok(true)
}

/// CRIU's name for each of this process's hierarchies, and where it is mounted; `None` unless all of them are mounted in
/// full.
fn trees(cgroups: &str, mountinfo: &str) -> Option<Vec<(String, PathBuf)>> {
    cgroups
        .lines()
        .map(|line| {
            let controllers = line.split(':').nth(1)?;
            let name = if controllers.is_empty() { "unified" } else { controllers.trim_start_matches("name=") };
            let tree = mountinfo.lines().find_map(|mount| mount_point_of(controllers, mount))?;
            Some((name.to_owned(), tree))
        })
        .collect()
}

fn mount_point_of(controllers: &str, mount: &str) -> Option<PathBuf> {
    let (before, after) = mount.split_once(" - ")?;
    let (mut before, mut after) = (before.split(' ').skip(3), after.split(' '));
    let (root, point, kind) = (before.next()?, before.next()?, after.next()?);
    let options: Vec<_> = after.nth(1)?.split(',').collect();
    let is_it = match kind {
        "cgroup" => !controllers.is_empty() && controllers.split(',').all(|controller| options.contains(&controller)),
        "cgroup2" => controllers.is_empty(),
        _ => false,
    };
    (is_it && root == "/").then(|| PathBuf::from(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CGROUPS: &str = "4:cpu,cpuacct:/a\n3:memory:/a\n1:name=systemd:/\n0::/\n";
    const MOUNTS: &str = "\
20 1 0:20 / / rw - ext4 /dev/sda rw
26 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
27 25 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
28 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
29 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
";

    #[test]
    fn every_hierarchy_is_found_or_none_counts() {
        let found = trees(CGROUPS, MOUNTS).unwrap();
        let at = |name: &str| PathBuf::from(format!("/sys/fs/cgroup/{name}"));
        let names = ["cpu,cpuacct", "memory", "systemd", "unified"];
        assert_eq!(found, names.map(|name| (name.to_owned(), at(name))));
        assert_eq!(trees(CGROUPS, &MOUNTS.replace("rw,memory", "rw,pids")), None);
        assert_eq!(trees(CGROUPS, &MOUNTS.replace("0:25 / ", "0:25 /docker ")), None, "a part of it");
        let version_2 = "25 1 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(trees("0::/x\n", version_2), Some(vec![("unified".to_owned(), "/sys/fs/cgroup".into())]));
    }
}
