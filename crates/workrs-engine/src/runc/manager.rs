//! Who calls runc for a container: this process itself, or a Docker daemon.

use std::{fs, os::fd::OwnedFd, path::Path, sync::atomic::Ordering, time::Duration};

use super::{
    Shared,
    container::Inner,
    criu::{self, Criu},
    runtime,
};
use crate::{engine::EngineError, preflight::Finding, process::ToolError};

#[cfg(feature = "docker")]
use std::sync::{Arc, PoisonError};

#[cfg(feature = "docker")]
use crate::{
    docker::{self, Daemon, DockerContainer},
    preflight,
};

/// Who calls runc.
#[derive(Debug)]
pub(super) enum Manager {
    /// This process.
    Direct,
    /// A daemon.
    #[cfg(feature = "docker")]
    Docker(Arc<Daemon>),
}

/// Who is ready to dump a container.
#[derive(Debug)]
pub(super) enum Dumper {
    /// A CRIU that waits for its order.
    Criu(Box<Criu>),
    /// The container's daemon.
    #[cfg(feature = "docker")]
    Docker,
}

impl Manager {
    /// The engine's name, as captures carry it.
    pub(super) fn engine(&self) -> &'static str {
        match self {
            Self::Direct => super::ENGINE,
            #[cfg(feature = "docker")]
            Self::Docker(_) => docker::ENGINE,
        }
    }

    /// Whether it can do its part; `program` is what it is to call.
    pub(super) async fn check(&self, program: &Path) -> Vec<Finding> {
        match self {
            Self::Direct => Vec::new(),
            #[cfg(feature = "docker")]
            Self::Docker(daemon) => preflight::check_docker(daemon.socket(), program).await,
        }
    }

    /// Kills and removes what the daemon has of this node's, and gives the containers' names.
    pub(super) async fn sweep(&self, shared: &Shared) -> Result<Vec<String>, EngineError> {
        match self {
            Self::Direct => {
                runtime::kill_orphans(&shared.runc_root());
                Ok(Vec::new())
            }
            #[cfg(feature = "docker")]
            Self::Docker(daemon) => {
                for container in fs::read_dir(shared.run_folder()).into_iter().flatten().flatten() {
                    docker::end_checkpoint(&container.path());
                }
                let removed = daemon.remove_all_of(&shared.config.node).await;
                removed.map_err(|error| EngineError::Host(error.to_string()))
            }
        }
    }
}

impl Inner {
    /// Starts the container with its output going to `output`.
    pub(super) async fn run(&self, output: OwnedFd, deadline: Duration) -> Result<(), ToolError> {
        match &self.shared.manager {
            Manager::Direct => self.runc.run(output, deadline).await,
            #[cfg(feature = "docker")]
            Manager::Docker(daemon) => self.in_docker(daemon).run(output, deadline).await,
        }
    }

    /// Restores it from CRIU's images.
    pub(super) async fn restore_from(
        &self,
        images: &Path,
        output: OwnedFd,
        deadline: Duration,
    ) -> Result<(), ToolError> {
        match &self.shared.manager {
            Manager::Direct => self.runc.restore(images, self.network, output, deadline).await,
            #[cfg(feature = "docker")]
            Manager::Docker(daemon) => self.in_docker(daemon).restore(images, output, deadline).await,
        }
    }

    /// Makes runc, and who calls it, forget the container, killing what is left of it.
    pub(super) async fn delete(&self, deadline: Duration) -> Result<(), ToolError> {
        match &self.shared.manager {
            Manager::Direct => self.runc.delete(deadline).await,
            #[cfg(feature = "docker")]
            Manager::Docker(daemon) => self.in_docker(daemon).delete(deadline).await,
        }
    }

    /// Does what can be done for a dump before the container is frozen.
    pub(super) async fn start_dumper(&self) -> Result<Dumper, ToolError> {
        match &self.shared.manager {
            Manager::Direct => self.start_criu().await.map(|criu| Dumper::Criu(Box::new(criu))),
            #[cfg(feature = "docker")]
            Manager::Docker(_) => {
                let former = self.docker_checkpointed.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(former) = former {
                    tokio::time::sleep_until(former + docker::BETWEEN_CHECKPOINTS).await;
                }
                Ok(Dumper::Docker)
            }
        }
    }

    /// Dumps the frozen processes into an empty folder. A dump that is cut off, by its deadline, by CRIU's death or by
    /// dropping this, stays noted.
    pub(super) async fn dump(&self, dumper: Dumper, images: &Path, deadline: Duration) -> Result<(), ToolError> {
        match (dumper, &self.shared.manager) {
            (Dumper::Criu(criu), _) => self.dump_by_criu(*criu, images, deadline).await,
            #[cfg(feature = "docker")]
            (Dumper::Docker, Manager::Docker(daemon)) => {
                let container = self.in_docker(daemon);
                let dumped = container.checkpoint(images, deadline, &self.cut_off).await;
                let now = tokio::time::Instant::now();
                *self.docker_checkpointed.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                if dumped.is_err() && criu::dump_died(&self.runc.dump_folder()) {
                    self.cut_off.store(true, Ordering::SeqCst);
                }
                dumped
            }
            #[cfg(feature = "docker")]
            (Dumper::Docker, Manager::Direct) => Err(ToolError::NotFound(docker::ENGINE.to_owned())),
        }
    }

    /// How many of its processes the kernel killed for want of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        let counted = self.group.oom_kills();
        #[cfg(feature = "docker")]
        let counted = {
            let noted = fs::read_to_string(self.folder.join(docker::OOM_KILLS)).ok();
            counted.max(noted.and_then(|text| text.parse().ok()).unwrap_or(0))
        };
        counted
    }

    /// Whether somebody but the node had its manager end it.
    pub(super) fn was_ended_from_outside(&self) -> bool {
        #[cfg(feature = "docker")]
        return self.folder.join(docker::SIGNALLED).exists();
        #[cfg(not(feature = "docker"))]
        false
    }

    #[cfg(feature = "docker")]
    fn in_docker<'a>(&'a self, daemon: &'a Arc<Daemon>) -> DockerContainer<'a> {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        DockerContainer { daemon, node: &self.shared.config.node, name, folder: &self.folder }
    }
}
