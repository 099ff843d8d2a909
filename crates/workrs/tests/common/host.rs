//! This machine: whether it can run jobs, where test nodes keep their data, and what nodes left on it.
#![allow(dead_code, reason = "each of the test programs that share this uses a part")]

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The binary under test.
pub const WORKRS: &str = env!("CARGO_BIN_EXE_workrs");
/// In the memory of [`fs::statfs`]: a file system without disk.
const TMPFS: &str = "tmpfs";

/// Tells the person who runs the tests something, although output of tests that pass is not shown.
pub fn tell(text: &str) {
    // Unlike that of `eprintln!`, this is never held back.
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// Whether jobs can be run and checkpointed here. If not, says so; in CI that is a failure.
pub fn can_run() -> bool {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    nothing_missing(MISSING.get_or_init(missing).as_deref())
}

/// Whether nothing is missing. If something is, says so; in CI that is a failure.
pub fn nothing_missing(missing: Option<&str>) -> bool {
    let Some(missing) = missing else { return true };
    let required = ["CI", "WORKRS_REQUIRE_REAL"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!required, "this host must be able to run this test, but cannot: {missing}");
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    tell(&format!("skipped: {test}: {missing}"));
    false
}

fn missing() -> Option<String> {
    let output = workrs().args(["doctor", "--json", "--disk-pool", "2G", "--data-dir"]).arg(base()).output().unwrap();
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let missing = findings.iter().find(|finding| finding["level"] == "missing")?;
    Some(format!("{}: {}", missing["what"], missing["detail"]))
}

/// The command, without what the environment would tell it.
pub fn workrs() -> Command {
    without_configuration(WORKRS)
}

/// A program that is not told anything about Workrs by the environment.
pub fn without_configuration(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WORKRS_") {
            command.env_remove(name);
        }
    }
    command
}

/// Whether a program is installed where jobs find it.
pub fn has_program(name: &str) -> bool {
    Path::new("/usr/bin").join(name).exists()
}

/// Where test nodes keep their data: on a disk, and such that jobs, which are nobody here, get through to it.
pub fn base() -> PathBuf {
    let wanted = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let open_to_all =
        wanted.ancestors().all(|folder| fs::metadata(folder).is_ok_and(|m| m.permissions().mode() & 0o001 != 0));
    let parent = if open_to_all && file_system(wanted) != TMPFS { wanted } else { Path::new("/var/tmp") };
    let base = parent.join("workrs-real");
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&base).unwrap();
    base
}

fn file_system(path: &Path) -> String {
    let output = Command::new("stat").args(["--file-system", "--format=%T"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Everything on this machine that belongs to the node `name` with its data in `folder`, in words.
pub fn leftovers(name: &str, folder: &Path) -> Vec<String> {
    // With its end, as the names of other nodes may begin like this one's.
    let folder = format!("{}/", folder.display());
    let mut found = Vec::new();
    for process in numbered(Path::new("/proc")) {
        let read = |file: &str| fs::read(process.join(file)).unwrap_or_default();
        let text = |file: &str| String::from_utf8_lossy(&read(file)).replace('\0', " ");
        let command = text("cmdline");
        let of_node = text("cgroup").contains(&format!("/workrs/{name}/"));
        // What has ended needs only its parent to notice.
        let ended = text("stat").rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
        if !ended && (of_node || command.contains(&folder)) {
            found.push(format!("process {}: {command}", process.display()));
        }
        if text("mountinfo").contains(&folder) {
            found.push(format!("a mount seen by {}: {command}", process.display()));
        }
    }
    for device in fs::read_dir("/sys/block").unwrap().flatten() {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        if file.contains(&folder) {
            found.push(format!("loop device {}: {file}", device.path().display()));
        }
    }
    found.extend(cgroups(name).iter().map(|cgroup| format!("cgroup {}", cgroup.display())));
    found
}

/// The processes of a node's jobs, in words.
pub fn jobs_on(name: &str) -> Vec<String> {
    let inside = format!("/workrs/{name}/");
    let is_job =
        |process: &PathBuf| fs::read_to_string(process.join("cgroup")).is_ok_and(|cgroups| cgroups.contains(&inside));
    let jobs = numbered(Path::new("/proc")).into_iter().filter(is_job);
    jobs.map(|process| {
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        format!("{}: {}", process.display(), String::from_utf8_lossy(&command).replace('\0', " "))
    })
    .collect()
}

/// Whether a node has jobs with these beginnings of their containers' names, and every process of them stands still.
pub fn is_frozen(name: &str, beginning: &str) -> bool {
    let nodes = cgroups(name).into_iter().filter_map(|node| fs::read_dir(node).ok()).flatten().flatten();
    let jobs = nodes.map(|entry| entry.path());
    let mut jobs =
        jobs.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning)));
    jobs.any(|job| {
        let read = |name: &str| fs::read_to_string(job.join(name)).unwrap_or_default();
        read("freezer.state").trim() == "FROZEN" || read("cgroup.events").lines().any(|line| line == "frozen 1")
    })
}

fn numbered(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit())).collect()
}

/// The cgroups of a node's jobs, in every hierarchy.
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let nodes = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join("workrs").join(name));
    nodes.filter(|node| node.is_dir()).collect()
}

/// Removes what tests left that were killed themselves: their nodes, `t<number of the process>-<n>`, died with them.
pub fn remove_abandoned() {
    for entry in fs::read_dir(base()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix('t').and_then(|rest| rest.split_once('-')).map(|(process, _)| process);
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove_cgroups(&name);
            // What is still in use is found by nobody's test; the next run tries again.
            let _in_use = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes the cgroups of a node whose processes have ended.
pub fn remove_cgroups(name: &str) {
    for node in cgroups(name) {
        for job in fs::read_dir(&node).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            // One that is still in use is found by whoever looks for leftovers.
            let _in_use = fs::remove_dir(job.path());
        }
        let _in_use = fs::remove_dir(&node);
    }
}
