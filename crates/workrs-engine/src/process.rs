//! Programs that the engine calls: each in a process group of its own, with a deadline at whose end the whole group
//! is killed. Dropping a call kills it, too.

use std::{
    ffi::OsString,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// Where programs are looked for: first where a newer CRIU is put. `runc` finds `criu` by it.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Deadline of tools that take milliseconds when all is well.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
/// The kernel's `nice` goes from here to 19.
const HIGHEST_PRIORITY: i32 = -20;
/// The most of a program's complaint that is quoted, in bytes.
const MAX_COMPLAINT: usize = 400;

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// It is not installed.
    #[error("{0} not found")]
    NotFound(String),
    /// It could not be started or watched.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
    /// It took too long and was killed.
    #[error("{0} took longer than {1:?} and was ended")]
    Deadline(String, Duration),
    /// It said no.
    #[error("{program}: {complaint}")]
    Failed {
        /// Which one.
        program: String,
        /// Its exit code; `None` after a signal.
        code: Option<i32>,
        /// The end of what it wrote to standard error.
        complaint: String,
    },
}

/// A call of a tool.
#[derive(Debug)]
pub(crate) struct Tool {
    program: String,
    arguments: Vec<OsString>,
    deadline: Duration,
    urgent: bool,
}

impl Tool {
    pub(crate) fn new(program: impl Into<String>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), deadline: DEFAULT_DEADLINE, urgent: false }
    }

    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Lets it run before all else of the node's, if this process may say so: a job stands still meanwhile. On a node
    /// whose jobs keep all cores busy, it would else take twice as long.
    pub(crate) fn urgent(mut self) -> Self {
        self.urgent = true;
        self
    }

    /// Runs it to its end and gives what it wrote to standard output.
    pub(crate) async fn output(self) -> Result<String, ToolError> {
        let mut command = self.command()?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let call = async {
            let (child, group) = self.spawn(&mut command)?;
            let output = child.wait_with_output().await.map_err(|error| ToolError::Io(self.program.clone(), error))?;
            group.disarm();
            Ok(output)
        };
        let output = self.within_deadline(call).await?;
        let complaint = tail(&String::from_utf8_lossy(&output.stderr));
        self.judge(output.status, complaint)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it to its end with standard output and error going to `output`; what it leaves running keeps that.
    pub(crate) async fn with_output(self, output: OwnedFd) -> Result<(), ToolError> {
        let mut command = self.command()?;
        let error = output.try_clone().map_err(|error| ToolError::Io(self.program.clone(), error))?;
        command.stdout(output).stderr(error);
        let call = async {
            let (mut child, group) = self.spawn(&mut command)?;
            // The write ends must be closed here, or the reader would wait for the end of its pipe for ever.
            drop(command);
            let status = child.wait().await.map_err(|error| ToolError::Io(self.program.clone(), error))?;
            group.disarm();
            Ok(status)
        };
        let status = self.within_deadline(call).await?;
        self.judge(status, String::new())
    }

    /// Starts it in `folder` with this as its standard input. It has no deadline; dropping what this gives kills it.
    pub(crate) fn start(self, input: OwnedFd, folder: &Path) -> Result<Started, ToolError> {
        let mut command = self.command()?;
        command.stdin(input).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(folder);
        let (child, group) = self.spawn(&mut command)?;
        Ok(Started { _group: group, _child: child })
    }

    fn command(&self) -> Result<Command, ToolError> {
        let path = find(&self.program).ok_or_else(|| ToolError::NotFound(self.program.clone()))?;
        let mut command = Command::new(path);
        command.args(&self.arguments).stdin(Stdio::null());
        command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8");
        command.process_group(0).kill_on_drop(true);
        Ok(command)
    }

    fn spawn(&self, command: &mut Command) -> Result<(Child, Group), ToolError> {
        let child = command.spawn().map_err(|error| ToolError::Io(self.program.clone(), error))?;
        let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(leader) = leader.filter(|_| self.urgent)
            && let Err(error) = rustix::process::setpriority_process(Some(leader), HIGHEST_PRIORITY)
        {
            tracing::debug!(%error, program = self.program, "no higher priority for a tool");
        }
        Ok((child, Group(leader)))
    }

    async fn within_deadline<T>(&self, call: impl Future<Output = Result<T, ToolError>>) -> Result<T, ToolError> {
        let late = |_| ToolError::Deadline(self.program.clone(), self.deadline);
        tokio::time::timeout(self.deadline, call).await.map_err(late)?
    }

    fn judge(&self, status: std::process::ExitStatus, complaint: String) -> Result<(), ToolError> {
        if status.success() {
            return Ok(());
        }
        let complaint = if complaint.is_empty() { status.to_string() } else { complaint };
        Err(ToolError::Failed { program: self.program.clone(), code: status.code(), complaint })
    }
}

/// Where a program is; a path is taken as it is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program));
    }
    SEARCH_PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

/// A tool that runs. Dropping it kills its whole process group.
#[derive(Debug)]
pub(crate) struct Started {
    // The group goes first: once its leader has been waited for, the number may be another's.
    _group: Group,
    _child: Child,
}

/// Kills a process group unless its leader was seen to end.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _already_gone = rustix::process::kill_process_group(leader, Signal::KILL);
        }
    }
}

/// The last bytes of a complaint, on one line.
fn tail(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut start = line.len().saturating_sub(MAX_COMPLAINT);
    while !line.is_char_boundary(start) {
        start += 1;
    }
    line[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_gives_its_output_or_its_complaint() {
        assert_eq!(Tool::new("echo").arg("hi").output().await.unwrap(), "hi\n");
        let failed = Tool::new("sh").args(["-c", "echo no such luck >&2; exit 3"]).output().await.unwrap_err();
        assert_eq!(failed.to_string(), "sh: no such luck");
        assert!(matches!(failed, ToolError::Failed { code: Some(3), .. }));
        let missing = Tool::new("no-such-tool").output().await.unwrap_err();
        assert_eq!(missing.to_string(), "no-such-tool not found");
    }

    #[tokio::test]
    async fn at_the_deadline_the_whole_group_dies() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 100 & echo $! >{}; wait", file.display());
        let call = Tool::new("sh").args(["-c", &script]).deadline(Duration::from_millis(300));
        assert!(matches!(call.output().await, Err(ToolError::Deadline(..))));
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z"),
            Err(_) => true,
        };
        for _ in 0..200 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the tool's child outlived it");
    }
}
