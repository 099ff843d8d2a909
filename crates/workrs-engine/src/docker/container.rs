//! One container, as Docker sees it.

use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig};
use rustix::process::{Pid, Signal};

use super::{
    DUMP_PID, Daemon, DaemonError, FOLDER_VARIABLE, HELD, MOUNTS, NAME_LABEL, NODE_LABEL, OUTPUT, RUNTIME,
    daemon::IMAGE, runtime,
};
use crate::process::ToolError;

/// The name of the one checkpoint that a container is started from.
const CHECKPOINT: &str = "workrs";

/// A container of a node.
#[derive(Debug)]
pub(crate) struct DockerContainer<'a> {
    pub(crate) daemon: &'a Arc<Daemon>,
    /// The node's name.
    pub(crate) node: &'a str,
    /// The container's name on this node.
    pub(crate) name: String,
    /// Its folder.
    pub(crate) folder: &'a Path,
}

impl DockerContainer<'_> {
    /// Docker's name for it.
    fn docker_name(&self) -> String {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
        let name = format!("workrs-{}-{}", self.node, self.name);
        name.chars().map(|letter| if allowed(letter) { letter } else { '-' }).collect()
    }

    /// Starts it with its output going to `output`.
    pub(crate) async fn run(&self, output: OwnedFd, deadline: Duration) -> Result<(), ToolError> {
        let run = async {
            self.create(&output).await?;
            self.daemon.start(&self.docker_name()).await.map_err(DaemonError::into_tool_error)
        };
        within(deadline, run).await
    }

    /// Restores it from CRIU's images, which it takes over.
    pub(crate) async fn restore(&self, images: &Path, output: OwnedFd, deadline: Duration) -> Result<(), ToolError> {
        let restore = async {
            let id = self.create(&output).await?;
            let root = self.daemon.data_root().await.map_err(DaemonError::into_tool_error)?;
            let at = root.join("containers").join(&id).join("checkpoints").join(CHECKPOINT);
            move_files(images, &at).map_err(|error| failed_io(&at, &error))?;
            self.daemon.start_from(&id, CHECKPOINT).await.map_err(DaemonError::into_tool_error)
        };
        within(deadline, restore).await
    }

    /// Kills what is left of it and makes Docker forget it.
    pub(crate) async fn delete(&self, deadline: Duration) -> Result<(), ToolError> {
        let removed = async { self.daemon.remove(&self.docker_name()).await.map_err(DaemonError::into_tool_error) };
        within(deadline, removed).await
    }

    /// Has Docker dump the frozen container into the empty folder `images`. If that is cut off, by its deadline, by the
    /// daemon's death or by dropping it, this is noted in `cut_off`, and the runtime is killed with its CRIU.
    pub(crate) async fn checkpoint(
        &self,
        images: &Path,
        deadline: Duration,
        cut_off: &AtomicBool,
    ) -> Result<(), ToolError> {
        let parent = self.folder.join("checkpoints");
        let made = parent.join(CHECKPOINT);
        let (held, pid) = (self.folder.join(HELD), self.folder.join(DUMP_PID));
        let _absent = fs::remove_dir_all(&parent);
        // What an earlier one left must not be taken for this one's.
        for path in [&pid, &self.folder.join("dump/dump.log")] {
            let _absent = fs::remove_file(path);
        }
        fs::create_dir(&parent).and_then(|()| fs::write(&held, "")).map_err(|error| failed_io(&held, &error))?;
        let mut hold = Hold { held, pid, cut_off: Some(cut_off) };
        let name = self.docker_name();
        let dumped = tokio::time::timeout(deadline, self.daemon.checkpoint(&name, &parent, CHECKPOINT)).await;
        if matches!(dumped, Ok(Ok(()) | Err(DaemonError::Refused(_)))) {
            hold.cut_off = None;
        }
        drop(hold);
        dumped.map_err(|_| late(deadline))?.map_err(DaemonError::into_tool_error)?;
        move_files(&made, images).map_err(|error| failed_io(&made, &error))
    }

    /// Gives Docker's id for it.
    async fn create(&self, output: &OwnedFd) -> Result<String, ToolError> {
        let process = format!("/proc/{}", std::process::id());
        let links = [(OUTPUT, format!("{process}/fd/{}", output.as_raw_fd())), (MOUNTS, format!("{process}/ns/mnt"))];
        for (name, target) in links {
            let link = self.folder.join(name);
            symlink(target, &link).map_err(|error| failed_io(&link, &error))?;
        }
        let body = self.body().map_err(|error| failed_io(self.folder, &error))?;
        self.daemon.create(&self.docker_name(), body).await.map_err(DaemonError::into_tool_error)
    }

    /// What Docker is told: who runs, with which limits. The rest is the runtime's.
    fn body(&self) -> io::Result<ContainerCreateBody> {
        let config: serde_json::Value = serde_json::from_slice(&fs::read(self.folder.join("config.json"))?)?;
        let words = |value: &serde_json::Value| {
            value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
        };
        let resources = &config["linux"]["resources"];
        let user = &config["process"]["user"];
        let labels = [(NODE_LABEL, self.node), (NAME_LABEL, self.name.as_str())];
        let host = HostConfig {
            runtime: Some(RUNTIME.to_owned()),
            network_mode: Some("none".to_owned()),
            // The job writes into the node's pipe.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            memory: resources["memory"]["limit"].as_i64(),
            memory_swap: resources["memory"]["swap"].as_i64(),
            cpu_period: resources["cpu"]["period"].as_i64(),
            cpu_quota: resources["cpu"]["quota"].as_i64(),
            pids_limit: resources["pids"]["limit"].as_i64(),
            ..HostConfig::default()
        };
        Ok(ContainerCreateBody {
            user: Some(format!("{}:{}", user["uid"], user["gid"])),
            cmd: Some(words(&config["process"]["args"])),
            env: Some(vec![format!("{FOLDER_VARIABLE}={}", self.folder.display())]),
            labels: Some(HashMap::from(labels.map(|(key, value)| (key.to_owned(), value.to_owned())))),
            network_disabled: Some(true),
            host_config: Some(host),
            image: Some(IMAGE.to_owned()),
            ..ContainerCreateBody::default()
        })
    }
}

/// The node's hold of a container that Docker checkpoints. Dropping it ends the hold and, unless it is settled how that
/// ended, the dump.
struct Hold<'a> {
    held: PathBuf,
    pid: PathBuf,
    cut_off: Option<&'a AtomicBool>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        // First, so that a dump that has not begun yet never does.
        let _absent = fs::remove_file(&self.held);
        let Some(cut_off) = self.cut_off else { return };
        // Before CRIU's death lets the processes go.
        cut_off.store(true, Ordering::SeqCst);
        kill_checkpoint(&self.pid);
    }
}

/// Ends the checkpoint that a former process of the node may have had under way, in the container of this folder: while it
/// lasts, the daemon neither kills nor removes the container.
pub(crate) fn end_checkpoint(folder: &Path) {
    let _absent = fs::remove_file(folder.join(HELD));
    kill_checkpoint(&folder.join(DUMP_PID));
}

/// Kills the call of `runc checkpoint` that is noted in the file, with its CRIU.
fn kill_checkpoint(note: &Path) {
    let pid = fs::read_to_string(note).ok().and_then(|text| Pid::from_raw(text.parse().ok()?));
    if let Some(pid) = pid.filter(|pid| runtime::is_checkpoint(*pid)) {
        let _already_gone = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

/// Moves the files of a folder into another, which need not exist and may be on another file system. What is no regular
/// file stays.
fn move_files(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_file() && fs::rename(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target)?;
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T, ToolError>>) -> Result<T, ToolError> {
    tokio::time::timeout(deadline, call).await.map_err(|_| late(deadline))?
}

fn late(deadline: Duration) -> ToolError {
    ToolError::Deadline("docker".to_owned(), deadline)
}

fn failed_io(path: &Path, error: &io::Error) -> ToolError {
    ToolError::Io("docker".to_owned(), io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
