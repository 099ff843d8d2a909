//! The calls of runc, and what can be learned from its logs and CRIU's.

use std::{
    fs,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal};

use crate::process::{Tool, ToolError};

/// What CRIU is told on every call, beside what the bundle names. The network namespace has nothing but `lo`, which the hook
/// brings up: dumping it would cost 30-40 ms.
const CRIU_FLAGS: [&str; 5] = ["--file-locks", "--tcp-established", "--ext-unix-sk", "--empty-ns", "network"];
/// Complaints of CRIU that mean nothing here.
const HARMLESS: &str = "RLIMIT_NOFILE";
/// The most of a log that is quoted, in bytes.
const MAX_QUOTE: usize = 200;

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

    /// Restores it from CRIU's images.
    pub(super) async fn restore(&self, images: &Path, output: OwnedFd, deadline: Duration) -> Result<(), ToolError> {
        let call = self.call("restore", deadline).args(["--detach", "--bundle"]).arg(&self.folder);
        let call =
            call.args(CRIU_FLAGS).arg("--image-path").arg(images).arg("--work-path").arg(self.folder.join("restore"));
        call.arg("--pid-file").arg(self.pid_file()).arg(&self.name).with_output(output).await
    }

    /// Dumps the frozen container, which stays frozen.
    pub(super) async fn checkpoint(&self, images: &Path, deadline: Duration) -> Result<(), ToolError> {
        let _absent = fs::remove_file(self.dump_log());
        let call = self.call("checkpoint", deadline).arg("--leave-running").args(CRIU_FLAGS);
        let call = call.arg("--image-path").arg(images).arg("--work-path").arg(self.folder.join("dump"));
        call.arg(&self.name).output().await.map(drop)
    }

    /// Makes runc forget the container, killing what is left of it.
    pub(super) async fn delete(&self, deadline: Duration) -> Result<(), ToolError> {
        if !self.root.join(&self.name).exists() {
            return Ok(());
        }
        self.call("delete", deadline).arg("--force").arg(&self.name).output().await.map(drop)
    }

    fn dump_log(&self) -> PathBuf {
        self.folder.join("dump/dump.log")
    }

    /// Whether a dump that was killed may have left its own code in the job's processes: from the first one that it
    /// enters to the end.
    pub(super) fn dump_was_cut_off_within(&self) -> bool {
        let log = fs::read(self.dump_log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.contains(") Dumping task (pid") && !log.contains("Dumping finished successfully")
    }

    /// What CRIU complained of in the dump, or else what runc did.
    pub(super) fn why_no_dump(&self, error: &ToolError) -> String {
        criu_errors(&self.dump_log()).unwrap_or_else(|| self.complaint(error))
    }

    /// What CRIU complained of in the restore; `None` if it never came to it.
    pub(super) fn why_no_restore(&self) -> Option<String> {
        criu_errors(&self.folder.join("restore/restore.log"))
    }

    /// What runc logged last, or else how it ended.
    pub(super) fn complaint(&self, error: &ToolError) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let message =
            log.lines().rev().find_map(|line| line.split_once("msg=")).map(|(_, message)| message.trim_matches('"'));
        match message {
            Some(message) if matches!(error, ToolError::Failed { .. }) => quote(&format!("runc: {message}")),
            _ => error.to_string(),
        }
    }
}

/// Kills the calls of runc on `root` that another process left running, with the CRIU of each. Gives whether there were
/// any.
pub(super) fn kill_orphans(root: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found = false;
    for process in processes {
        let call = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let is_ours = is_call_of_runc(&call, root);
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

/// The first errors in a log of CRIU, shortened.
fn criu_errors(log: &Path) -> Option<String> {
    let log = String::from_utf8_lossy(&fs::read(log).ok()?).into_owned();
    let errors: Vec<_> = log
        .lines()
        .filter(|line| !line.contains(HARMLESS))
        .filter_map(|line| line.split_once(" Error (")?.1.split_once("): "))
        .map(|(_place, text)| text.trim())
        .take(2)
        .collect();
    (!errors.is_empty()).then(|| quote(&format!("criu: {}", errors.join("; "))))
}

fn quote(text: &str) -> String {
    let mut end = text.len().min(MAX_QUOTE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
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
    fn the_first_real_errors_of_criu_are_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("dump.log");
        assert_eq!(criu_errors(&log), None);
        fs::write(
            &log,
            "(00.01) Running\n(00.04) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self\n",
        )
        .unwrap();
        assert_eq!(criu_errors(&log), None);
        fs::write(
            &log,
            "(00.04) Error (criu/util.c:1): Can't setup RLIMIT_NOFILE\n\
             (00.05) Error (criu/files-reg.c:1790): Can't lookup mount=43 for fd=1\n\
             (00.05) 12: Error (criu/cr-dump.c:1545): Dump files failed\n\
             (00.06) Error (criu/cr-dump.c:1975): Dumping FAILED.\n",
        )
        .unwrap();
        assert_eq!(criu_errors(&log).unwrap(), "criu: Can't lookup mount=43 for fd=1; Dump files failed");
    }
}
