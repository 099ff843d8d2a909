//! The cgroups of jobs, `/workrs/<node>/<container>`, with either version of the kernel's interface. runc makes
//! them; they are watched, frozen, killed and removed here.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

/// What jobs are limited and held with.
const CONTROLLERS: [&str; 4] = ["cpu", "freezer", "memory", "pids"];
/// How often the kernel is asked whether it is done; it usually is at once.
const POLL: Duration = Duration::from_micros(500);

/// The cgroup file systems of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// One tree for each controller, by controller.
    V1(BTreeMap<String, PathBuf>),
    /// One tree.
    V2(PathBuf),
}

impl Hierarchy {
    /// Finds them among this process's mounts.
    pub(crate) fn detect() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        Self::from_mounts(&mounts).ok_or_else(|| "no cgroup file system is mounted".to_owned())
    }

    fn from_mounts(mountinfo: &str) -> Option<Self> {
        let mut trees = BTreeMap::new();
        let mut unified = None;
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(point) = before.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut after = after.split(' ');
            match (after.next(), after.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    for option in options.split(',').filter(|option| !matches!(*option, "rw" | "ro")) {
                        trees.entry(option.to_owned()).or_insert_with(|| point.clone());
                    }
                }
                (Some("cgroup2"), _) => unified = Some(point),
                _ => (),
            }
        }
        // A cgroup2 tree beside version 1's holds no controllers that jobs need.
        if trees.contains_key("memory") { Some(Self::V1(trees)) } else { unified.map(Self::V2) }
    }

    /// For people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::V1(_) => "cgroup v1",
            Self::V2(_) => "cgroup v2",
        }
    }

    pub(crate) fn missing_controllers(&self) -> Vec<&'static str> {
        let has: Box<dyn Fn(&str) -> bool> = match self {
            Self::V1(trees) => Box::new(|name| trees.contains_key(name)),
            Self::V2(root) => {
                let list = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
                // The version 2 freezer is part of every group.
                Box::new(move |name| name == "freezer" || list.split_whitespace().any(|one| one == name))
            }
        };
        CONTROLLERS.into_iter().filter(|name| !has(name)).collect()
    }

    /// Whether the kernel can limit memory and swap together.
    pub(crate) fn limits_swap(&self) -> bool {
        match self {
            Self::V1(trees) => {
                trees.get("memory").is_some_and(|tree| tree.join("memory.memsw.limit_in_bytes").exists())
            }
            Self::V2(_) => Path::new("/proc/swaps").exists(),
        }
    }

    /// The group at an absolute path within the hierarchy. It need not exist.
    pub(crate) fn group(&self, path: &str) -> Group {
        let within = path.trim_start_matches('/');
        match self {
            Self::V1(trees) => {
                let mut folders: Vec<_> = trees.values().map(|tree| tree.join(within)).collect();
                folders.sort();
                folders.dedup();
                let of = |name: &str| trees.get(name).map_or_else(PathBuf::new, |tree| tree.join(within));
                Group { version: Version::V1, main: of("freezer"), memory: of("memory"), folders }
            }
            Self::V2(root) => {
                let folder = root.join(within);
                Group { version: Version::V2, main: folder.clone(), memory: folder.clone(), folders: vec![folder] }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// One cgroup.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    version: Version,
    /// Where processes are listed and frozen.
    main: PathBuf,
    memory: PathBuf,
    /// Its folder in every tree.
    folders: Vec<PathBuf>,
}

impl Group {
    /// The processes in it, not in groups below.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let list = fs::read_to_string(self.main.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
    }

    /// How many of its processes the kernel killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let name = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(self.memory.join(name)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }

    /// Memory of its processes that no file stands for.
    pub(crate) fn anonymous_bytes(&self) -> u64 {
        let names: &[&str] = match self.version {
            Version::V1 => &["total_rss ", "total_shmem "],
            Version::V2 => &["anon ", "shmem "],
        };
        let text = fs::read_to_string(self.memory.join("memory.stat")).unwrap_or_default();
        let value = |line: &str| names.iter().find_map(|name| line.strip_prefix(name)?.parse::<u64>().ok());
        text.lines().filter_map(value).sum()
    }

    /// Starts to freeze and waits until every process stands still.
    pub(crate) async fn freeze(&self, deadline: Duration) -> io::Result<()> {
        let began = Instant::now();
        while !self.try_freeze()? {
            if began.elapsed() > deadline {
                self.thaw()?;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel could not freeze every process"));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Whether every process stands still, as somebody has asked for.
    pub(crate) fn is_frozen(&self) -> bool {
        let (file, wanted) = match self.version {
            Version::V1 => ("freezer.state", "FROZEN"),
            Version::V2 => ("cgroup.events", "frozen 1"),
        };
        fs::read_to_string(self.main.join(file)).is_ok_and(|text| text.lines().any(|line| line == wanted))
    }

    /// Whether every process stands still; asks for it.
    pub(crate) fn try_freeze(&self) -> io::Result<bool> {
        match self.version {
            Version::V1 => {
                let file = self.main.join("freezer.state");
                // Written again each time: a process that forks meanwhile can hold FREEZING up.
                fs::write(&file, "FROZEN")?;
                Ok(fs::read_to_string(&file)?.trim() == "FROZEN")
            }
            Version::V2 => {
                fs::write(self.main.join("cgroup.freeze"), "1")?;
                let events = fs::read_to_string(self.main.join("cgroup.events"))?;
                Ok(events.lines().any(|line| line == "frozen 1"))
            }
        }
    }

    /// Lets every process go on; nothing happens if none is frozen or the group is gone.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        let written = match self.version {
            Version::V1 => fs::write(self.main.join("freezer.state"), "THAWED"),
            Version::V2 => fs::write(self.main.join("cgroup.freeze"), "0"),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Kills every process once, frozen or not; they are gone a little later.
    pub(crate) fn kill(&self) {
        if self.version == Version::V2 && fs::write(self.main.join("cgroup.kill"), "1").is_ok() {
            let _ = self.thaw();
            return;
        }
        // Frozen first, a process cannot fork away from the list; a frozen one dies when thawed.
        let _ = self.try_freeze();
        for process in self.processes() {
            let _already_gone = rustix::process::kill_process(process, Signal::KILL);
        }
        let _ = self.thaw();
    }

    /// Kills again and again until nothing is left, or the deadline passes. Gives whether nothing is left.
    pub(crate) async fn kill_all(&self, deadline: Duration) -> bool {
        let began = Instant::now();
        loop {
            if self.processes().is_empty() {
                return true;
            }
            if began.elapsed() > deadline {
                return false;
            }
            self.kill();
            tokio::time::sleep(POLL).await;
        }
    }

    /// The groups directly below, by name.
    pub(crate) fn children(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for folder in &self.folders {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            names.extend(folders.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        }
        names.sort();
        names.dedup();
        names
    }

    /// Removes the empty group from every tree.
    pub(crate) fn remove(&self) {
        for folder in &self.folders {
            let _not_there_or_busy = fs::remove_dir(folder);
        }
    }
}

const ENODEV: i32 = 19;

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 1 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
27 25 0:25 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
28 25 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn version_1_wins_where_both_are_mounted() {
        let hierarchy = Hierarchy::from_mounts(HYBRID).unwrap();
        assert_eq!(hierarchy.missing_controllers(), ["freezer", "pids"]);
        let group = hierarchy.group("/workrs/n/c");
        assert_eq!(group.memory, Path::new("/sys/fs/cgroup/memory/workrs/n/c"));
        assert!(group.folders.contains(&PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/workrs/n/c")));
    }

    #[test]
    fn version_2_is_one_tree() {
        let mount = "25 1 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hierarchy = Hierarchy::from_mounts(mount).unwrap();
        assert_eq!(hierarchy, Hierarchy::V2("/sys/fs/cgroup".into()));
        assert_eq!(Hierarchy::from_mounts("1 0 8:1 / / rw - ext4 /dev/sda rw\n"), None);
    }

    /// A folder with the files of a version 2 group in place of the kernel's.
    fn fixture() -> (tempfile::TempDir, Group) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("workrs/n/c");
        fs::create_dir_all(folder.join("below")).unwrap();
        for (name, content) in [
            ("cgroup.procs", ""),
            ("cgroup.events", "populated 1\nfrozen 1\n"),
            ("cgroup.freeze", "0"),
            ("cgroup.kill", ""),
            ("memory.stat", "anon 4096\nfile 99999\nanon_thp 50\nshmem 1000\n"),
            ("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n"),
        ] {
            fs::write(folder.join(name), content).unwrap();
        }
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        let hierarchy = Hierarchy::V2(root.path().to_path_buf());
        assert!(hierarchy.missing_controllers().is_empty());
        (root, hierarchy.group("/workrs/n/c"))
    }

    #[tokio::test]
    async fn version_2_files_are_read_and_written_as_the_kernel_wants_them() {
        let (root, group) = fixture();
        let read = |name: &str| fs::read_to_string(root.path().join("workrs/n/c").join(name)).unwrap();
        assert_eq!(group.oom_kills(), 3);
        assert_eq!(group.anonymous_bytes(), 5096);
        group.freeze(Duration::from_secs(1)).await.unwrap();
        assert_eq!(read("cgroup.freeze"), "1");
        group.kill();
        assert_eq!((read("cgroup.kill").as_str(), read("cgroup.freeze").as_str()), ("1", "0"));
        assert_eq!(group.children(), ["below"]);
        assert!(group.kill_all(Duration::ZERO).await, "an empty group has nothing to kill");
    }

    #[tokio::test]
    async fn a_group_that_does_not_freeze_in_time_is_thawed() {
        let (root, group) = fixture();
        fs::write(root.path().join("workrs/n/c/cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let error = group.freeze(Duration::from_millis(5)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(fs::read_to_string(root.path().join("workrs/n/c/cgroup.freeze")).unwrap(), "0");
    }
}
