//! What runc is told of a container: its `config.json`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{seccomp, stage};
use crate::{
    disk::{ID_BASE, JOB_ID},
    engine::ContainerSpec,
};

/// Folders of the job disk and where the job sees them.
const DISK_MOUNTS: [(&str, &str); 6] = [
    ("job", "/job"),
    ("home", "/home/job"),
    ("tmp", "/tmp"),
    ("var-tmp", "/var/tmp"),
    ("shm", "/dev/shm"),
    ("run", "/run"),
];
/// What of the host is kept from the job: runc mounts an empty file or folder over it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Names under which a restore finds what it mounts in place of file systems in memory, which hold nothing of the job's.
pub(super) const EMPTY: &str = "workrs-empty";
pub(super) const DEV: &str = "workrs-dev";
/// Where the job's init and its status lie, as the job sees them.
const INIT: &str = "/run/workrs/init";
const STATUS: &str = "/run/workrs/status";
/// Processes and threads that a job may have.
const MAX_PROCESSES: u32 = 512;
/// The kernel's usual accounting period of processor time, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
const MIN_CPU_QUOTA_US: u64 = 1_000;
const IDS: u32 = 65536;
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What of the host goes into a bundle.
#[derive(Debug)]
pub(super) struct Host<'a> {
    /// The read-only root.
    pub(super) root: &'a Path,
    /// What is mounted at `/usr`, if anything.
    pub(super) live_usr: Option<&'a Path>,
    /// Where the job disk is mounted.
    pub(super) disk: &'a Path,
    /// The cgroup's absolute path.
    pub(super) cgroup: &'a str,
    /// Whether the kernel limits swap.
    pub(super) limits_swap: bool,
    /// CRIU's configuration file.
    pub(super) criu_config: &'a Path,
    /// The executable that answers to `internal lo-up`.
    pub(super) helper: &'a Path,
}

/// The whole `config.json`.
pub(super) fn config(spec: &ContainerSpec, host: &Host<'_>) -> Value {
    let namespaces = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup"].map(|kind| json!({ "type": kind }));
    let mappings = json!([{ "containerID": 0, "hostID": ID_BASE, "size": IDS }]);
    json!({
        "ociVersion": "1.0.2",
        "hostname": "job",
        "root": { "path": host.root, "readonly": true },
        "process": process(spec),
        "mounts": mounts(host),
        "annotations": { "org.criu.config": host.criu_config },
        // Brings `lo` up when the container starts and, unlike anything done from within, also when it is restored.
        "hooks": { "createRuntime": [{ "path": host.helper, "args": [host.helper, "internal", "lo-up"], "timeout": 30 }] },
        "linux": {
            "uidMappings": mappings,
            "gidMappings": mappings,
            "namespaces": namespaces,
            "cgroupsPath": host.cgroup,
            "resources": resources(spec, host.limits_swap),
            "seccomp": seccomp::profile(),
            "maskedPaths": MASKED,
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn process(spec: &ContainerSpec) -> Value {
    let mut environment = vec![
        PATH.to_owned(),
        "HOME=/home/job".to_owned(),
        "USER=job".to_owned(),
        "LOGNAME=job".to_owned(),
        "LANG=C.UTF-8".to_owned(),
        format!("WORKRS_JOB_ID={}", spec.job),
    ];
    // The job's own come later and win.
    environment.retain(|line| !line.split_once('=').is_some_and(|(key, _)| spec.env.contains_key(key)));
    environment.extend(spec.env.iter().map(|(key, value)| format!("{key}={value}")));
    let arguments: Vec<_> = [INIT, STATUS].into_iter().chain(spec.command.iter().map(String::as_str)).collect();
    json!({
        "terminal": false,
        "user": { "uid": JOB_ID, "gid": JOB_ID },
        "args": arguments,
        "env": environment,
        "cwd": "/job",
        "noNewPrivileges": true,
        "capabilities": { "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] },
    })
}

fn mounts(host: &Host<'_>) -> Vec<Value> {
    let special = |at: &str, kind: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": kind, "options": options });
    let bind = |source: PathBuf, at: &str, options: &[&str]| json!({ "destination": at, "type": "bind", "source": source, "options": options });
    let mut mounts = vec![
        special("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        // Not strictatime, as runtimes commonly have it: in its place a restore mounts a part of the stage, and a user
        // namespace cannot change that flag.
        special("/dev", "tmpfs", &["nosuid", "noexec", "mode=755", "size=64k"]),
        special("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        special("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    if let Some(usr) = host.live_usr {
        mounts.push(bind(usr.to_path_buf(), "/usr", &["rbind", "ro", "nosuid", "nodev"]));
    }
    let disk = DISK_MOUNTS.map(|(folder, at)| bind(host.disk.join(folder), at, &["bind", "rw", "nosuid", "nodev"]));
    mounts.extend(disk);
    mounts
}

/// The mounts whose content is not dumped, by mount point, each with the name of what a restore mounts there. `seen` is the
/// container's root as its processes see it. What runc mounts is named as its own `checkpoint` would; what is in memory
/// CRIU would pack with `tar`, which takes 4-15 ms each.
pub(super) fn external_mounts(seen: &Path, has_live_usr: bool) -> Vec<(String, String)> {
    let itself = |at: &str| (at.to_owned(), at.to_owned());
    let mut external: Vec<_> = DISK_MOUNTS.iter().map(|(_, at)| itself(at)).collect();
    external.extend(has_live_usr.then(|| itself("/usr")));
    external.extend(stage::devices().map(|device| itself(&device)));
    external.push(("/dev".to_owned(), DEV.to_owned()));
    let masked = MASKED.iter().filter_map(|path| {
        let metadata = seen.join(path.trim_start_matches('/')).metadata().ok()?;
        let name = if metadata.is_dir() { EMPTY } else { "/dev/null" };
        Some(((*path).to_owned(), name.to_owned()))
    });
    external.extend(masked);
    external
}

fn resources(spec: &ContainerSpec, limits_swap: bool) -> Value {
    let mut memory = json!({ "limit": spec.memory_bytes });
    if limits_swap {
        memory["swap"] = json!(spec.memory_bytes);
    }
    let quota = (u64::from(spec.cpus_milli) * CPU_PERIOD_US / 1000).max(MIN_CPU_QUOTA_US);
    json!({
        "memory": memory,
        "cpu": { "quota": quota, "period": CPU_PERIOD_US },
        "pids": { "limit": MAX_PROCESSES },
        "devices": [{ "allow": false, "access": "rwm" }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            job: workrs_core::id::JobId::new("j1").unwrap(),
            attempt: "2".to_owned(),
            command: vec!["python3".to_owned(), "x.py".to_owned()],
            env: [("HOME".to_owned(), "/job".to_owned()), ("A".to_owned(), "b=c".to_owned())].into(),
            cpus_milli: 1500,
            memory_bytes: 64 << 20,
            disk_bytes: 1 << 30,
        }
    }

    fn made() -> Value {
        let host = Host {
            root: Path::new("/data/root"),
            live_usr: None,
            disk: Path::new("/data/disk"),
            cgroup: "/workrs/n/j1-2",
            limits_swap: true,
            criu_config: Path::new("/data/criu.conf"),
            helper: Path::new("/bin/workrs"),
        };
        config(&spec(), &host)
    }

    #[test]
    fn the_job_has_no_rights_and_its_own_environment() {
        let process = &made()["process"];
        assert_eq!(process["args"], json!([INIT, STATUS, "python3", "x.py"]));
        assert_eq!(process["user"], json!({ "uid": 1000, "gid": 1000 }));
        assert_eq!(process["noNewPrivileges"], true);
        assert!(process["capabilities"].as_object().unwrap().values().all(|set| *set == json!([])));
        assert_eq!(process["rlimits"], Value::Null, "limits above the node's own fail");
        let environment: Vec<_> = process["env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(environment.contains(&"WORKRS_JOB_ID=j1") && environment.contains(&"A=b=c"));
        assert_eq!(environment.iter().filter(|line| line.starts_with("HOME=")).collect::<Vec<_>>(), [&"HOME=/job"]);
    }

    #[test]
    fn every_mount_that_a_dump_leaves_out_has_something_to_take_its_place() {
        let seen = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(seen.path().join("proc/acpi")).unwrap();
        std::fs::write(seen.path().join("proc/kcore"), "").unwrap();
        let external = external_mounts(seen.path(), true);
        let name = |at: &str| external.iter().find(|(one, _)| one == at).map(|(_, name)| name.as_str());
        assert_eq!((name("/dev"), name("/dev/null")), (Some(DEV), Some("/dev/null")));
        assert_eq!(
            (name("/proc/acpi"), name("/proc/kcore"), name("/proc/scsi")),
            (Some(EMPTY), Some("/dev/null"), None)
        );
        assert_eq!((name("/job"), name("/usr"), name("/proc")), (Some("/job"), Some("/usr"), None));
    }

    #[test]
    fn every_writable_mount_lies_on_the_job_disk() {
        let made = made();
        assert_eq!(made["root"]["readonly"], true);
        for mount in made["mounts"].as_array().unwrap() {
            if mount["type"] == "bind" {
                assert!(mount["source"].as_str().unwrap().starts_with("/data/disk/"), "{mount}");
            }
        }
        assert_eq!(made["linux"]["resources"]["cpu"]["quota"], 150_000);
        assert_eq!(made["linux"]["resources"]["memory"], json!({ "limit": 64 << 20, "swap": 64 << 20 }));
    }
}
