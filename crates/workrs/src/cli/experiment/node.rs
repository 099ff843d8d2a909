//! The node under test: a process of this program, killed and started again on the same data folder.

use std::{
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::client::Client;

/// The first start copies the host's programs.
const START_PATIENCE: Duration = Duration::from_secs(300);
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// A node with a data folder of its own. Its process ends with this one, however that ends.
pub struct Node {
    program: PathBuf,
    name: String,
    folder: PathBuf,
    options: Vec<String>,
    child: Option<Child>,
}

impl Node {
    /// A node that is not started yet. `folder` is an absolute path, `options` are further ones of `up`.
    pub fn new(folder: &Path, options: &[String]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        create_open(folder)?;
        // Nodes of one name on one host end each other's jobs: every data folder has its own, for all its starts.
        let hash = blake3::hash(folder.as_os_str().as_encoded_bytes()).to_hex();
        let name = format!("experiment-{}", &hash[..8]);
        Ok(Self { program, name, folder: folder.to_owned(), options: options.to_owned(), child: None })
    }

    /// Where its data lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    /// Starts it and returns once it is ready.
    pub async fn start(&mut self) -> anyhow::Result<Client> {
        let log = File::create(self.log()).with_context(|| format!("cannot write {}", self.log().display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
        command
            .args(["up", "--listen", "127.0.0.1:0", "--name", &self.name, "--data-dir"])
            .arg(self.folder.join("data"));
        command.args(&self.options);
        // The user's own settings are about another node.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WORKRS_")) {
            command.env_remove(name);
        }
        // Interrupts of the terminal are for this process, which then stops the node.
        command.process_group(0).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().context("cannot run setpriv (package util-linux)")?);
        match timeout(START_PATIENCE, self.ready()).await {
            Ok(ready) => ready,
            Err(_) => bail!("the node is not ready after {} s: {}", START_PATIENCE.as_secs(), self.last_words()),
        }
    }

    async fn ready(&mut self) -> anyhow::Result<Client> {
        loop {
            if let Some(status) = self.ended()? {
                bail!("the node ended ({status}): {}", self.last_words());
            }
            let said = fs::read_to_string(self.log()).unwrap_or_default();
            if let Some(url) = address(&said) {
                let client = Client::new(&[url], None)?;
                // A node answers once its loops run.
                if client.nodes().await.is_ok_and(|nodes| !nodes.is_empty()) {
                    return Ok(client);
                }
            }
            sleep(POLL).await;
        }
    }

    fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let said = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Fails if it ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            Some(status) => bail!("the node ended by itself ({status}): {}", self.last_words()),
            None => Ok(()),
        }
    }

    /// Kills it with SIGKILL.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.context("cannot kill the node")?;
        }
        Ok(())
    }

    /// Stops it with SIGTERM, and with SIGKILL if that takes too long.
    pub async fn stop(&mut self) {
        let Some(child) = self.child.as_mut() else { return };
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // One that has ended already needs no signal.
            let _ = kill_process(pid, Signal::TERM);
        }
        let began = Instant::now();
        while began.elapsed() < STOP_PATIENCE && matches!(self.ended(), Ok(None)) {
            sleep(POLL).await;
        }
        if let Err(error) = self.kill().await {
            eprintln!("warning: {error:#}");
        }
        remove_cgroups(&self.name);
    }
}

/// Removes the empty cgroups of a node that has ended, in every hierarchy; one that is in use stays.
fn remove_cgroups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let folders = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.is_dir()).collect()
    };
    for hierarchy in folders(root).into_iter().chain([root.to_owned()]) {
        let node = hierarchy.join("workrs").join(name);
        for cgroup in folders(&node).into_iter().chain([node]) {
            let _in_use_or_not_there = fs::remove_dir(cgroup);
        }
    }
}

/// Creates a folder that jobs, which run under ids of their own, get through to their files.
pub fn create_open(folder: &Path) -> anyhow::Result<()> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
    created.with_context(|| format!("cannot create {}", folder.display()))
}

/// The address in what a node says once it is up.
fn address(said: &str) -> Option<String> {
    let line = said.lines().find(|line| line.starts_with("node ") && line.contains(" is up: "))?;
    Some(line.split(" is up: ").nth(1)?.split(',').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_greeting() {
        let said = "2026-01-01 INFO starting\nnode experiment is up: http://127.0.0.1:4711, 2 cores, 1 GiB memory\n";
        assert_eq!(address(said).as_deref(), Some("http://127.0.0.1:4711"));
        assert_eq!(address("node is coming up"), None);
    }
}
