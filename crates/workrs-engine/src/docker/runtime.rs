//! The runtime: what a Docker daemon calls in place of `runc`, `internal runtime [global options] <verb> …`.
//!
//! It calls `runc` in its turn, with what the node prepared for the container (see [the folder](super)), within the node's
//! mount namespace. Containers that are not a node's pass through unchanged. It never freezes or thaws a container: the
//! node does, at moments of its own choice.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::{fs::FileTypeExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{process::Pid, thread::LinkNameSpaceType};
use serde_json::Value;

use super::{DUMP_PID, FOLDER_VARIABLE, HELD, MOUNTS, OOM_KILLS, OUTPUT, SIGNALLED};
use crate::{
    cgroup::Hierarchy,
    process::{SEARCH_PATH, find},
    runc,
};

/// The container's folder, in what `runc` notes of it.
const FOLDER_ANNOTATION: &str = "io.workrs.folder";
/// Global options of `runc` that have a value.
const WITH_VALUE: [&str; 5] = ["--root", "--log", "--log-format", "--criu", "--rootless"];
/// Makes `runc` ask systemd for cgroups; ours are made directly.
const SYSTEMD_CGROUP: &str = "--systemd-cgroup";

/// Does what the daemon asks for and gives the exit code, unless `runc` takes this process's place.
pub(crate) fn runtime(args: &[String]) -> Result<i32, String> {
    let mut call = Call::parse(args);
    match call.verb.as_str() {
        "create" | "restore" => {
            let Some(folder) = call.value_of("--bundle").and_then(|bundle| folder_in_bundle(Path::new(&bundle))) else {
                return Err(call.exec());
            };
            call.bring_up(&folder)
        }
        _ => {
            let Some(folder) = call.folder_in_notes() else { return Err(call.exec()) };
            match call.verb.as_str() {
                "checkpoint" => call.prepare_checkpoint(&folder)?,
                // Docker wants the container to stand still for a checkpoint; it does.
                "pause" | "resume" if folder.join(HELD).exists() => return Ok(0),
                "pause" | "resume" => {
                    return Err("it is for its node alone to freeze and thaw this container".to_owned());
                }
                "kill" => note(&folder.join(SIGNALLED), ""),
                "delete" => note_oom_kills(&folder),
                _ => (),
            }
            Err(call.exec())
        }
    }
}

/// A call of `runc`.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    global: Vec<String>,
    verb: String,
    rest: Vec<String>,
}

impl Call {
    fn parse(args: &[String]) -> Self {
        let mut at = 0;
        while let Some(word) = args.get(at).filter(|word| word.starts_with('-')) {
            at += if WITH_VALUE.contains(&word.as_str()) { 2 } else { 1 };
        }
        let (global, rest) = args.split_at(at.min(args.len()));
        let (verb, rest) =
            rest.split_first().map_or((String::new(), [].as_slice()), |(verb, rest)| (verb.clone(), rest));
        Self { global: global.to_vec(), verb, rest: rest.to_vec() }
    }

    fn value_of(&self, option: &str) -> Option<String> {
        let words = || self.global.iter().chain(&self.rest);
        words().zip(words().skip(1)).find(|(word, _)| *word == option).map(|(_, value)| value.clone())
    }

    fn set_value(&mut self, option: &str, value: &Path) {
        let at = self.rest.iter().position(|word| word == option);
        let value = value.to_string_lossy().into_owned();
        match at.and_then(|at| self.rest.get_mut(at + 1)) {
            Some(former) => *former = value,
            None => _ = self.rest.splice(0..0, [option.to_owned(), value]),
        }
    }

    /// What CRIU is told of this container, a line for each verb.
    fn add_flags(&mut self, folder: &Path) {
        let lines = fs::read_to_string(folder.join(runc::FLAGS)).unwrap_or_default();
        let mine = lines.lines().find_map(|line| line.strip_prefix(self.verb.as_str())).unwrap_or_default();
        self.rest.splice(0..0, mine.split_whitespace().map(str::to_owned));
    }

    /// The folder of a container that `runc` knows.
    fn folder_in_notes(&self) -> Option<PathBuf> {
        let root = PathBuf::from(self.value_of("--root")?);
        // Its id has no fixed place among the arguments.
        let mut ids = self.rest.iter().filter(|word| !word.starts_with('-') && !word.contains('/'));
        let state = ids.find_map(|id| fs::read(root.join(id).join("state.json")).ok())?;
        let state: Value = serde_json::from_slice(&state).ok()?;
        let mut labels = state["config"]["labels"].as_array()?.iter().filter_map(Value::as_str);
        let prefix = format!("{FOLDER_ANNOTATION}=");
        labels.find_map(|label| label.strip_prefix(&prefix)).map(PathBuf::from).filter(|folder| folder.exists())
    }

    /// Creates or restores the container as the node wants it, with the node's mounts and its pipe as output, and leaves
    /// word of its first process.
    fn bring_up(mut self, folder: &Path) -> Result<i32, String> {
        let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let bundle = self.value_of("--bundle").unwrap_or_default();
        replace_configuration(Path::new(&bundle), folder).map_err(told("the container's configuration"))?;
        self.global.retain(|word| word != SYSTEMD_CGROUP);
        if self.verb == "restore" {
            self.add_flags(folder);
            self.set_value("--work-path", &folder.join("restore"));
            let images = self.value_of("--image-path").unwrap_or_default();
            runc::open_to_criu(Path::new(&images)).map_err(told("the checkpoint"))?;
        }
        let output = open_output(&folder.join(OUTPUT)).map_err(told("the pipe for the job's output"))?;
        let errors = output.try_clone().map_err(told("the pipe for the job's output"))?;
        enter_mounts(folder).map_err(told("the node's mounts"))?;
        let status =
            self.command()?.stdin(Stdio::null()).stdout(output).stderr(errors).status().map_err(told("runc"))?;
        if status.success() {
            let pid = self.value_of("--pid-file").unwrap_or_default();
            fs::copy(&pid, folder.join("pid")).map_err(told("the container's process"))?;
        }
        Ok(status.code().unwrap_or(1))
    }

    fn prepare_checkpoint(&mut self, folder: &Path) -> Result<(), String> {
        // A group of its own, by which it can be killed with its CRIU.
        let _leads_one_already = rustix::process::setpgid(None, None);
        note(&folder.join(DUMP_PID), &std::process::id().to_string());
        if !folder.join(HELD).exists() {
            return Err("its node does not want this container to be checkpointed now".to_owned());
        }
        self.add_flags(folder);
        self.set_value("--work-path", &folder.join("dump"));
        // CRIU's notes on the kernel lie there.
        enter_mounts(folder).map_err(|error| format!("the node's mounts: {error}"))
    }

    fn command(&self) -> Result<Command, String> {
        let mut command = Command::new(find("runc").ok_or("runc not found")?);
        command.args(&self.global).arg(&self.verb).args(&self.rest).env("PATH", SEARCH_PATH);
        Ok(command)
    }

    /// Becomes `runc`; only comes back with an error.
    fn exec(&self) -> String {
        match self.command() {
            Ok(mut command) => format!("runc: {}", command.exec()),
            Err(error) => error,
        }
    }
}

/// The folder that a node named for the container that Docker is about to start.
fn folder_in_bundle(bundle: &Path) -> Option<PathBuf> {
    let config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json")).ok()?).ok()?;
    let prefix = format!("{FOLDER_VARIABLE}=");
    let mut variables = config["process"]["env"].as_array()?.iter().filter_map(Value::as_str);
    variables.find_map(|line| line.strip_prefix(&prefix)).map(PathBuf::from)
}

/// Only a process of one thread may do this.
fn enter_mounts(folder: &Path) -> io::Result<()> {
    let mounts = File::open(folder.join(MOUNTS))?;
    Ok(rustix::thread::move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?)
}

fn replace_configuration(bundle: &Path, folder: &Path) -> io::Result<()> {
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
    config["annotations"][FOLDER_ANNOTATION] = Value::from(folder.to_string_lossy());
    fs::write(bundle.join("config.json"), config.to_string())
}

/// Whatever the link leads to, only a pipe is opened.
fn open_output(link: &Path) -> io::Result<File> {
    if !fs::metadata(link)?.file_type().is_fifo() {
        return Err(io::Error::other("the node that wanted it is gone"));
    }
    File::options().append(true).open(link)
}

/// `runc delete` removes the cgroup, and with it what it counted.
fn note_oom_kills(folder: &Path) {
    let config = fs::read(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let cgroup = config["linux"]["cgroupsPath"].as_str();
    if let (Some(cgroup), Ok(hierarchy)) = (cgroup, Hierarchy::detect()) {
        note(&folder.join(OOM_KILLS), &hierarchy.group(cgroup).oom_kills().to_string());
    }
}

/// The folder goes with the container, maybe just now.
fn note(path: &Path, text: &str) {
    let _no_folder = fs::write(path, text);
}

/// Whether this process is a checkpoint that Docker had made.
pub(super) fn is_checkpoint(pid: Pid) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| word == b"checkpoint")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Call {
        Call::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_verb_comes_after_the_global_options() {
        let made = call("--root /r --log /l/log.json --systemd-cgroup create --bundle /b id");
        assert_eq!((made.verb.as_str(), made.value_of("--bundle").as_deref()), ("create", Some("/b")));
        assert_eq!(made.global.last().unwrap(), SYSTEMD_CGROUP);
        assert_eq!(made.value_of("--root").as_deref(), Some("/r"));
        assert_eq!(call("--version").verb, "");
        assert_eq!(call("--root").verb, "");
    }

    #[test]
    fn options_are_set_anew_or_added() {
        let mut made = call("checkpoint --work-path /w --image-path /i id");
        made.set_value("--work-path", Path::new("/mine"));
        assert_eq!(made, call("checkpoint --work-path /mine --image-path /i id"));
        let mut made = call("restore --image-path /i id");
        made.set_value("--work-path", Path::new("/mine"));
        assert_eq!(made, call("restore --work-path /mine --image-path /i id"));
    }

    #[test]
    fn containers_of_nodes_are_told_by_their_environment_and_notes() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("bundle");
        fs::create_dir(&bundle).unwrap();
        let env = |variables: Value| {
            fs::write(bundle.join("config.json"), serde_json::json!({ "process": { "env": variables } }).to_string())
                .unwrap();
            folder_in_bundle(&bundle)
        };
        assert_eq!(env(serde_json::json!(["PATH=/bin"])), None);
        assert_eq!(env(serde_json::json!(["PATH=/bin", "WORKRS_CONTAINER_FOLDER=/f"])), Some("/f".into()));

        let notes = folder.path().join("id");
        fs::create_dir(&notes).unwrap();
        let label = format!("{FOLDER_ANNOTATION}={}", bundle.display());
        let state = serde_json::json!({ "config": { "labels": ["bundle=/x", label] } });
        fs::write(notes.join("state.json"), state.to_string()).unwrap();
        let line = |id: &str| format!("--root {} kill --all {id} 9", folder.path().display());
        assert_eq!(call(&line("id")).folder_in_notes(), Some(bundle));
        assert_eq!(call(&line("other")).folder_in_notes(), None);
    }

    #[test]
    fn only_a_pipe_is_taken_for_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("output");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(open_output(&link).is_err());
    }
}
