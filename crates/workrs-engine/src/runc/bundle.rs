//! What runc is told of a container: its `config.json`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use workrs_core::spec::Network;

use super::{fit::Fit, seccomp, stage};
use crate::{
    disk::{ID_BASE, IDS},
    engine::ContainerSpec,
    image::User,
};

/// Folders of the job disk and where the job sees them.
pub(super) const DISK_MOUNTS: [(&str, &str); 6] = [
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
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What of the host goes into a bundle.
#[derive(Debug)]
pub(super) struct Host<'a> {
    /// The root.
    pub(super) root: &'a Path,
    /// Whether the job may change nothing in it.
    pub(super) is_read_only: bool,
    /// How it is used.
    pub(super) fit: &'a Fit,
    /// What is mounted at `/usr`, if anything.
    pub(super) live_usr: Option<&'a Path>,
    /// Where the job disk is mounted.
    pub(super) disk: &'a Path,
    /// The host's `/sys`, without what is mounted in it.
    pub(super) sys: &'a Path,
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
    let own_network = (spec.network == Network::None).then_some("network");
    let kinds = ["user", "mount", "pid", "ipc", "uts", "cgroup"].into_iter().chain(own_network);
    let namespaces: Vec<_> = kinds.map(|kind| json!({ "type": kind })).collect();
    let mappings = json!([{ "containerID": 0, "hostID": ID_BASE, "size": IDS }]);
    // Brings `lo` up when the container starts and, unlike anything done from within, also when it is restored.
    let lo_up = json!({ "path": host.helper, "args": [host.helper, "internal", "lo-up"], "timeout": 30 });
    let hooks: Vec<_> = own_network.map(|_| lo_up).into_iter().collect();
    json!({
        "ociVersion": "1.0.2",
        "hostname": "job",
        "root": { "path": host.root, "readonly": host.is_read_only },
        "process": process(spec, &host.fit.user),
        "mounts": mounts(host, spec.network),
        "annotations": { "org.criu.config": host.criu_config },
        "hooks": { "createRuntime": hooks },
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

fn process(spec: &ContainerSpec, user: &User) -> Value {
    let name = user.name.as_deref().unwrap_or("job");
    let ours = [
        ("PATH", PATH),
        ("HOME", "/home/job"),
        ("USER", name),
        ("LOGNAME", name),
        ("LANG", "C.UTF-8"),
        ("WORKRS_JOB_ID", spec.job.as_str()),
    ];
    let mut environment: BTreeMap<_, _> = ours.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    // Each wins over the former.
    environment.extend(spec.image.iter().flat_map(|image| image.settings.env_map()));
    environment.extend(spec.env.clone());
    let environment: Vec<_> = environment.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let arguments: Vec<_> = [INIT, STATUS].into_iter().chain(spec.command.iter().map(String::as_str)).collect();
    json!({
        "terminal": false,
        "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
        "args": arguments,
        "env": environment,
        "cwd": spec.folder,
        "noNewPrivileges": true,
        "capabilities": { "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] },
    })
}

fn mounts(host: &Host<'_>, network: Network) -> Vec<Value> {
    let special = |at: &str, kind: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": kind, "options": options });
    let bind = |source: PathBuf, at: &str, options: &[&str]| json!({ "destination": at, "type": "bind", "source": source, "options": options });
    let mut mounts = vec![
        special("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        // Not strictatime, as runtimes commonly have it: in its place a restore mounts a part of the stage, and a user
        // namespace cannot change that flag.
        special("/dev", "tmpfs", &["nosuid", "noexec", "mode=755", "size=64k"]),
        special("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        match network {
            Network::None => special("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            // The kernel lets nobody mount it anew who does not own the network that it shows.
            Network::Host => bind(host.sys.to_path_buf(), "/sys", &["bind", "ro", "nosuid", "noexec", "nodev"]),
        },
    ];
    if let Some(usr) = host.live_usr {
        mounts.push(bind(usr.to_path_buf(), "/usr", &["rbind", "ro", "nosuid", "nodev"]));
    }
    let places = host.fit.places.iter();
    mounts.extend(places.map(|(folder, at)| bind(host.disk.join(folder), at, &["bind", "rw", "nosuid", "nodev"])));
    mounts
}

/// The mounts whose content is not dumped, by mount point, each with the name of what a restore mounts there. `seen` is the
/// container's root as its processes see it. What runc mounts is named as its own `checkpoint` would; what is in memory
/// CRIU would pack with `tar`, which takes 4-15 ms each.
pub(super) fn external_mounts(seen: &Path, fit: &Fit, has_live_usr: bool, network: Network) -> Vec<(String, String)> {
    let itself = |at: &str| (at.to_owned(), at.to_owned());
    let mut external: Vec<_> = fit.places.iter().map(|(_, at)| itself(at)).collect();
    external.extend(has_live_usr.then(|| itself("/usr")));
    external.extend((network == Network::Host).then(|| itself("/sys")));
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
            folder: "/job".to_owned(),
            image: None,
            network: Network::None,
            env: [("HOME".to_owned(), "/job".to_owned()), ("A".to_owned(), "b=c".to_owned())].into(),
            cpus_milli: 1500,
            memory_bytes: 64 << 20,
            disk_bytes: 1 << 30,
        }
    }

    fn on_host() -> Fit {
        Fit { places: DISK_MOUNTS.map(|(folder, at)| (folder, at.to_owned())).into(), user: User::default() }
    }

    fn made() -> Value {
        made_for(&spec())
    }

    fn made_for(spec: &ContainerSpec) -> Value {
        let host = Host {
            root: Path::new("/data/root"),
            is_read_only: true,
            fit: &on_host(),
            live_usr: None,
            disk: Path::new("/data/disk"),
            sys: Path::new("/data/sys"),
            cgroup: "/workrs/n/j1-2",
            limits_swap: true,
            criu_config: Path::new("/data/criu.conf"),
            helper: Path::new("/bin/workrs"),
        };
        config(spec, &host)
    }

    #[test]
    fn the_job_has_no_rights_and_its_own_environment() {
        let process = &made()["process"];
        assert_eq!(process["args"], json!([INIT, STATUS, "python3", "x.py"]));
        assert_eq!(process["user"], json!({ "uid": 1000, "gid": 1000, "additionalGids": [] }));
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
        let external = external_mounts(seen.path(), &on_host(), true, Network::None);
        let name = |at: &str| external.iter().find(|(one, _)| one == at).map(|(_, name)| name.as_str());
        assert_eq!((name("/dev"), name("/dev/null")), (Some(DEV), Some("/dev/null")));
        assert_eq!(
            (name("/proc/acpi"), name("/proc/kcore"), name("/proc/scsi")),
            (Some(EMPTY), Some("/dev/null"), None)
        );
        assert_eq!((name("/job"), name("/usr"), name("/proc")), (Some("/job"), Some("/usr"), None));
        assert_eq!(name("/sys"), None);
        let with_network = external_mounts(seen.path(), &on_host(), false, Network::Host);
        assert!(with_network.contains(&("/sys".to_owned(), "/sys".to_owned())));
    }

    #[test]
    fn only_a_job_with_network_shares_that_of_its_host() {
        let kinds = |made: &Value| {
            let namespaces = made["linux"]["namespaces"].as_array().unwrap().clone();
            namespaces.iter().map(|one| one["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let (none, host) = (made(), made_for(&ContainerSpec { network: Network::Host, ..spec() }));
        assert!(kinds(&none).contains(&"network".to_owned()) && kinds(&none).contains(&"user".to_owned()));
        assert!(!kinds(&host).contains(&"network".to_owned()) && kinds(&host).contains(&"user".to_owned()));
        assert_eq!(none["hooks"]["createRuntime"].as_array().unwrap().len(), 1);
        assert_eq!(host["hooks"]["createRuntime"], json!([]), "it must not touch the host's lo");
        assert_eq!(host["linux"]["seccomp"], none["linux"]["seccomp"]);
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
