//! Jobs on a Docker daemon. It makes, starts, checkpoints, restores and removes the containers; all else is as with
//! [`runc`](crate::runc): the same sandbox, disks, images and rules, so the same cut of memory, files and log.
//!
//! What Docker's API has no words for (a user namespace for one container, a root that is not an image of Docker's, a
//! pipe that the job itself writes to, options of CRIU) comes in by the one door that Docker has for it: a *runtime*, the
//! program that it calls in place of `runc`. Ours is this same executable, see [`runtime`]. So the daemon's configuration
//! names it, beside `"experimental"`, which Docker's checkpoints need; [`configuration`] gives the lines.
//!
//! For Docker, a container is one of an empty image. Its folder (see `runc::setup`) stands in its environment, where only
//! the runtime sees it, and holds what node and runtime tell each other:
//!
//! | name | what |
//! |---|---|
//! | `config.json`, `criu.conf` | what the container is to be, in place of what Docker makes of its own settings |
//! | `flags` | what CRIU is told beside, at a checkpoint and at a restore |
//! | `mounts`, `output` | links to the node's mount namespace and to the pipe for the job's output |
//! | `pid` | the container's first process, once it runs |
//! | `held` | there while the node has the container frozen and Docker checkpoint it |
//! | `dump/pid` | the call of `runc checkpoint` |
//! | `signalled` | somebody but the node had Docker send the container a signal |
//! | `oom-kills` | how many of its processes the kernel killed for want of memory, once its cgroup is gone |

mod container;
mod daemon;
pub(crate) mod runtime;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use self::{
    container::{DockerContainer, end_checkpoint},
    daemon::{Daemon, DaemonError},
};

/// The name in the captures of this engine.
pub const ENGINE: &str = "docker";
/// Our runtime's name in the daemon's configuration.
pub const RUNTIME: &str = "workrs";
/// Where Docker's daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// The daemon's configuration unless it is told otherwise.
pub const CONFIGURATION: &str = "/etc/docker/daemon.json";

/// Between two checkpoints of a container: containerd 1.6 refuses one ("already exists") until its garbage collector has taken
/// away what it noted for the one before, which takes some seconds. It is waited for before the job is frozen.
pub(crate) const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(3);

/// Names of files in a container's folder.
pub(crate) const DUMP_PID: &str = "dump/pid";
pub(crate) const HELD: &str = "held";
pub(crate) const MOUNTS: &str = "mounts";
pub(crate) const OOM_KILLS: &str = "oom-kills";
pub(crate) const OUTPUT: &str = "output";
pub(crate) const SIGNALLED: &str = "signalled";
/// The variable that names the folder to the runtime.
const FOLDER_VARIABLE: &str = "WORKRS_CONTAINER_FOLDER";
/// Labels by which a node finds its containers.
const NODE_LABEL: &str = "io.workrs.node";
const NAME_LABEL: &str = "io.workrs.container";

/// The socket that `host`, a path or a URL as in `DOCKER_HOST`, or else Docker's default names. Daemons elsewhere cannot run jobs, as
/// disks and programs of this host are theirs to use.
pub fn socket(host: Option<&str>) -> Result<PathBuf, String> {
    match host.filter(|host| !host.is_empty()) {
        None => Ok(PathBuf::from(DEFAULT_SOCKET)),
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) => Ok(PathBuf::from(path)),
            None => Err(format!("{host} is not a socket of this host (unix:///PATH)")),
        },
    }
}

/// What must stand in the daemon's configuration for this program to use it.
pub fn configuration(program: &Path) -> String {
    let entry = serde_json::json!({ "path": program, "runtimeArgs": ["internal", "runtime"] });
    format!("{{ \"experimental\": true, \"runtimes\": {{ \"{RUNTIME}\": {entry} }} }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_this_host_will_do() {
        assert_eq!(socket(None).unwrap(), Path::new(DEFAULT_SOCKET));
        assert_eq!(socket(Some("")).unwrap(), Path::new(DEFAULT_SOCKET));
        assert_eq!(socket(Some("/run/d.sock")).unwrap(), Path::new("/run/d.sock"));
        assert_eq!(socket(Some("unix:///run/d.sock")).unwrap(), Path::new("/run/d.sock"));
        assert!(socket(Some("tcp://10.0.0.1:2375")).unwrap_err().contains("unix:///PATH"));
    }

    #[test]
    fn the_lines_for_the_daemon_are_json() {
        let lines: serde_json::Value = serde_json::from_str(&configuration(Path::new("/opt/a b/workrs"))).unwrap();
        assert_eq!(lines["experimental"], true);
        assert_eq!(lines["runtimes"]["workrs"]["path"], "/opt/a b/workrs");
    }
}
