//! Docker daemons of the tests' own, with everything in a folder of theirs.

#![allow(dead_code, reason = "each of the test programs that share this uses a part")]

use std::{
    fs::{self, File},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use workrs_engine::docker;

const PATIENCE: Duration = Duration::from_secs(180);

/// A daemon that runs. Dropping it ends it with all that it runs, and removes its folder.
pub struct Dockerd {
    process: Child,
    folder: tempfile::TempDir,
}

impl Dockerd {
    /// One that is set up as the preflight says.
    pub fn start() -> Self {
        Self::with_configuration(&docker::configuration(&std::env::current_exe().unwrap()))
    }

    /// It must be started, once, by the process's main thread: the kernel ends it with that thread.
    pub fn with_configuration(configuration: &str) -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("daemon.json"), configuration).unwrap();
        let log = File::create(at("log")).unwrap();
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "dockerd", "--bridge=none", "--iptables=false", "--ip-masq=false"])
            .args(["--ip-forward=false", "--storage-driver=overlay2"])
            .arg("--config-file")
            .arg(at("daemon.json"))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg(format!("--host=unix://{}", at("sock").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Self { process, folder };
        daemon.wait_until_it_answers();
        daemon
    }

    fn wait_until_it_answers(&mut self) {
        let began = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.process.try_wait().unwrap();
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && began.elapsed() < PATIENCE, "the daemon does not answer:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    /// The ids of all containers that it knows.
    pub fn containers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("data/containers")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Asks it by Docker's own command.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let host = format!("unix://{}", self.socket().display());
        let done = Command::new("docker").arg("--host").arg(host).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).unwrap();
        let _already_gone = kill_process(pid, Signal::TERM);
        let began = Instant::now();
        while self.process.try_wait().is_ok_and(|ended| ended.is_none()) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _already_gone = self.process.kill();
        let _already_gone = self.process.wait();
        // It ends with its daemon, unless that was killed.
        if let Some(pid) = read_pid(&self.folder.path().join("exec/containerd/containerd.pid")) {
            let _already_gone = kill_process(pid, Signal::KILL);
        }
        for point in mounts_below(self.folder.path()) {
            let _busy = workrs_engine::mounts::unmount(&point);
        }
    }
}

fn read_pid(path: &Path) -> Option<Pid> {
    let pid = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    // Only if the number is still its own.
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Pid::from_raw(pid).filter(|_| name.starts_with("containerd"))
}

fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(folder)).collect();
    points.reverse();
    points
}
