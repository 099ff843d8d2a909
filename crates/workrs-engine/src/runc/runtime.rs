//! The calls of runc, and what can be learned from its logs and CRIU's.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use workrs_core::spec::Network;

use super::criu;
use crate::process::{Tool, ToolError};

/// What CRIU is told at a restore, beside what the bundle names: the same as at the dump.
const CRIU_FLAGS: [&str; 2] = ["--file-locks", "--ext-unix-sk"];
/// The same for a network namespace of its own, which has nothing but `lo`, which the hook brings up.
const OWN_NETWORK_FLAGS: [&str; 3] = ["--tcp-established", "--empty-ns", "network"];
/// The folder of the bundles, beside runc's root.
pub(super) const BUNDLES: &str = "run";

/// What CRIU is told at a restore.
pub(super) fn restore_flags(network: Network) -> Vec<&'static str> {
    let of_network: &[&str] = if network == Network::None { &OWN_NETWORK_FLAGS } else { &[] };
    [&CRIU_FLAGS, of_network].concat()
}

/// What CRIU is told at a dump, where it is not told directly (see `criu`). With the host's network, a connection to a
/// service of the host by a name without a file ends the dump, as the restore would find nobody at its other end.
pub(super) fn dump_flags(network: Network) -> Vec<&'static str> {
    match network {
        Network::None => restore_flags(network),
        Network::Host => vec!["--file-locks"],
    }
}

/// One container as runc sees it.
#[derive(Debug, Clone)]
pub(super) struct Runc {
    /// `runc --root`.
    root: PathBuf,
    /// The bundle: `config.json`, and the logs.
    folder: PathBuf,
    name: String,
}

impl Runc {
    pub(super) fn new(root: PathBuf, folder: PathBuf, name: String) -> Self {
        Self { root, folder, name }
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("runc.log")
    }

    fn call(&self, verb: &str, deadline: Duration) -> Tool {
        // Only what this call logs may be quoted.
        let _absent = fs::remove_file(self.log());
        Tool::new("runc").arg("--root").arg(&self.root).arg("--log").arg(self.log()).arg(verb).deadline(deadline)
    }

    /// Starts the container; its output and, if that fails, runc's complaint go to `output`.
    pub(super) async fn run(&self, output: OwnedFd, deadline: Duration) -> Result<(), ToolError> {
        let call = self.call("run", deadline).args(["--detach", "--bundle"]).arg(&self.folder);
        call.arg("--pid-file").arg(self.pid_file()).arg(&self.name).with_output(output).await
    }

    /// Restores it from CRIU's images, which carry the priorities that its processes had.
    pub(super) async fn restore(
        &self,
        images: &Path,
        network: Network,
        output: OwnedFd,
        deadline: Duration,
    ) -> Result<(), ToolError> {
        let call = self.call("restore", deadline).urgent().args(["--detach", "--bundle"]).arg(&self.folder);
        let call = call
            .args(restore_flags(network))
            .arg("--image-path")
            .arg(images)
            .arg("--work-path")
            .arg(self.folder.join("restore"));
        call.arg("--pid-file").arg(self.pid_file()).arg(&self.name).with_output(output).await
    }

    /// Makes runc forget the container, killing what is left of it.
    pub(super) async fn delete(&self, deadline: Duration) -> Result<(), ToolError> {
        if !self.root.join(&self.name).exists() {
            return Ok(());
        }
        self.call("delete", deadline).arg("--force").arg(&self.name).output().await.map(drop)
    }

    /// The container's first process, once it runs.
    pub(super) fn init(&self) -> io::Result<Pid> {
        let text = fs::read_to_string(self.pid_file())?;
        text.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Where the container's standard input and output go to, as runc wants it beside CRIU's images: `descriptors.json`.
    pub(super) fn descriptors(&self) -> io::Result<String> {
        let state = fs::read(self.root.join(&self.name).join("state.json"))?;
        let state: serde_json::Value = serde_json::from_slice(&state)?;
        let descriptors = state.get("external_descriptors").filter(|list| list.is_array());
        descriptors.map(ToString::to_string).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Where CRIU logs a dump.
    pub(super) fn dump_folder(&self) -> PathBuf {
        self.folder.join("dump")
    }

    /// What CRIU complained of in the dump, or else why it was not done.
    pub(super) fn why_no_dump(&self, error: &ToolError) -> String {
        criu::complaint(&self.dump_folder().join("dump.log")).unwrap_or_else(|| error.to_string())
    }

    /// What CRIU complained of in the restore; `None` if it never came to it.
    pub(super) fn why_no_restore(&self) -> Option<String> {
        criu::complaint(&self.folder.join("restore/restore.log"))
    }

    /// What runc logged last, or else how it ended.
    pub(super) fn complaint(&self, error: &ToolError) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let message =
            log.lines().rev().find_map(|line| line.split_once("msg=")).map(|(_, message)| message.trim_matches('"'));
        match message {
            Some(message) if matches!(error, ToolError::Failed { .. }) => criu::quote(&format!("runc: {message}")),
            _ => error.to_string(),
        }
    }
}

/// Kills the calls of runc on `root` that another process left running, with the CRIU of each, and each CRIU that works in
/// a bundle beside it. Gives whether there were any.
pub(super) fn kill_orphans(root: &Path) -> bool {
    let bundles = root.with_file_name(BUNDLES);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found = false;
    for process in processes {
        let call = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let is_ours = is_call_of_runc(&call, root) || is_criu_in(&process.path(), &bundles);
        let pid = process.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        // Every call leads a process group.
        if let Some(pid) = pid.filter(|_| is_ours) {
            found |= rustix::process::kill_process_group(pid, Signal::KILL).is_ok();
        }
    }
    found
}

/// Whether a command line is `runc --root <root> …`.
fn is_call_of_runc(command_line: &[u8], root: &Path) -> bool {
    let mut words = command_line.split(|byte| *byte == 0);
    let program = words.next().is_some_and(|program| program.ends_with(b"runc"));
    program && words.next() == Some(b"--root") && words.next() == Some(root.as_os_str().as_bytes())
}

/// Whether a process, by its folder in `/proc`, is a CRIU below `folder`. It overwrites its command line.
fn is_criu_in(process: &Path, folder: &Path) -> bool {
    let link = |name: &str| fs::read_link(process.join(name)).unwrap_or_default();
    link("cwd").starts_with(folder) && link("exe").file_name().is_some_and(|name| name.as_bytes().starts_with(b"criu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_on_our_own_root_are_orphans_of_ours() {
        let check = |line: &[u8], ours: bool| assert_eq!(is_call_of_runc(line, Path::new("/data/runc")), ours);
        check(b"/usr/sbin/runc\0--root\0/data/runc\0--log\0x\0run\0", true);
        check(b"/usr/sbin/runc\0--root\0/data/runc2\0run\0", false);
        check(b"/usr/sbin/runc\0list\0", false);
        check(b"vi\0--root\0/data/runc\0", false);
        check(b"", false);
    }

    #[test]
    fn only_a_criu_in_one_of_our_bundles_is_an_orphan_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let (bundle, other) = (folder.path().join("run/j-1/dump"), folder.path().join("run2"));
        fs::create_dir_all(&bundle).unwrap();
        fs::create_dir(&other).unwrap();
        let criu = folder.path().join("criu");
        fs::copy("/bin/sleep", &criu).unwrap();
        let check = |program: &Path, cwd: &Path, ours: bool| {
            let mut process = std::process::Command::new(program).arg("100").current_dir(cwd).spawn().unwrap();
            let entry = Path::new("/proc").join(process.id().to_string());
            assert_eq!(is_criu_in(&entry, &folder.path().join("run")), ours, "{program:?} in {cwd:?}");
            process.kill().unwrap();
            process.wait().unwrap();
        };
        check(&criu, &bundle, true);
        check(&criu, &other, false);
        check(Path::new("/bin/sleep"), &bundle, false);
    }
}
