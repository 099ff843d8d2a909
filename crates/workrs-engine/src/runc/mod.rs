//! The engine on runc and CRIU. In the data folder it keeps:
//!
//! | path | what |
//! |---|---|
//! | `disks.xfs`, `disks/` | the job disks, see `disk` |
//! | `images/` | the read-only roots, see `image` |
//! | `run/<container>/` | runc's bundle and the logs of runc and CRIU |
//! | `runc/` | runc's own notes of what runs |
//! | `engine.lock` | held by the node and its guard, so that two processes never share the rest |
//!
//! What a container must reach itself lies in `/run/workrs/<node>`, see `stage`.
//!
//! All mounts are made in this process's mount namespace, which should be a private one: then they vanish with the
//! last process of the node, however it ends.

mod bundle;
mod capture;
mod container;
mod criu;
mod dump;
mod end;
mod guard;
mod kernel;
mod mapped;
mod runtime;
mod seccomp;
mod setup;
pub(crate) mod stage;
mod sweep;
mod vfork;
mod yard;
mod zombies;

use std::{fs, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use workrs_core::{job::CheckpointMode, manifest::RestoreNeeds};

use self::{container::RuncContainer, guard::Guard, kernel::KernelNotes, mapped::MappedFiles, stage::Stage};
use crate::{
    cgroup::Hierarchy,
    disk::{JobDisk, Pool, io_error},
    engine::{Capabilities, Container, ContainerSpec, Engine, EngineError, Origin},
    image::{HostImage, Images},
    preflight,
};

pub use self::guard::{guard, lo_up};

/// The name in the captures of this engine.
pub const ENGINE: &str = "runc";
/// Raised when older versions of this engine cannot restore what it captures.
pub const FORMAT: u32 = 2;
/// The oldest that this one can restore.
const OLDEST_FORMAT: u32 = 1;

/// How a [`RuncEngine`] is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuncConfig {
    /// Where the engine keeps what it needs.
    pub data_dir: PathBuf,
    /// The node's name, safe as a file name; two nodes on one host need two names and two folders.
    pub node: String,
    /// Space for job disks.
    pub disk_pool_bytes: u64,
    /// The executable that answers to `internal <verb> …` with [`crate::internal::internal`].
    pub helper: PathBuf,
}

/// Runs jobs with runc and CRIU.
#[derive(Debug)]
pub struct RuncEngine {
    shared: Arc<Shared>,
    warnings: Vec<String>,
    /// Ends what this process leaves running when it dies.
    _guard: Guard,
}

/// What the engine and its containers use together.
#[derive(Debug)]
struct Shared {
    config: RuncConfig,
    pool: Pool,
    images: Arc<Images>,
    hierarchy: Hierarchy,
    mapped: MappedFiles,
    kernel_notes: KernelNotes,
    stage: Stage,
}

impl Shared {
    fn run_folder(&self) -> PathBuf {
        self.config.data_dir.join(runtime::BUNDLES)
    }

    fn runc_root(&self) -> PathBuf {
        self.config.data_dir.join("runc")
    }

    /// The cgroup that all jobs of this node lie in.
    fn node_cgroup(&self) -> String {
        format!("/workrs/{}", self.config.node)
    }
}

impl RuncEngine {
    /// Takes hold of the data folder, mounts the job disks and starts the guard. Waits a little for what a former
    /// process of this node leaves behind to end.
    pub async fn open(config: RuncConfig) -> Result<Self, EngineError> {
        let mut config = config;
        fs::create_dir_all(&config.data_dir).map_err(|error| io_error(&config.data_dir, &error))?;
        // Mounts and bundles name it by absolute path.
        config.data_dir = fs::canonicalize(&config.data_dir).map_err(|error| io_error(&config.data_dir, &error))?;
        let hierarchy = Hierarchy::detect().map_err(EngineError::Host)?;
        let lock = guard::lock(&config.data_dir).await?;
        let pool = Pool::open(&config.data_dir, config.disk_pool_bytes).await?;
        let images = Arc::new(Images::open(&config.data_dir)?);
        let stage = Stage::open(&config.node)?;
        let kernel_notes = KernelNotes::make(stage.folder()).await;
        let mapped = MappedFiles::default();
        let shared = Arc::new(Shared { config, pool, images, hierarchy, mapped, kernel_notes, stage });
        for folder in [shared.run_folder(), shared.runc_root()] {
            fs::create_dir_all(&folder).map_err(|error| io_error(&folder, &error))?;
        }
        let guard = Guard::start(&shared, lock)?;
        let mut warnings = Vec::new();
        if !shared.images.can_link() {
            let text = "jobs see the live /usr, as it is on another file system than the data folder; a package upgrade \
                        ends the checkpoints of the jobs that run";
            warnings.push(text.to_owned());
        }
        Ok(Self { shared, warnings, _guard: guard })
    }

    /// What the user should know about this host.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Makes the copy of `/usr` that the next job needs, so that it need not wait for it (seconds).
    pub async fn warm_up(&self) -> Result<(), EngineError> {
        self.shared.images.current().await.map(drop)
    }

    /// The root to run on: the current one, or for a capture the first that has all that the capture had mapped.
    async fn choose_image(&self, origin: &Origin) -> Result<Arc<HostImage>, EngineError> {
        let Origin::Captured { needs, mode: CheckpointMode::Full, .. } = origin else {
            return self.shared.images.current().await;
        };
        check_needs(needs)?;
        let mut differs = String::new();
        for image in self.shared.images.all().await? {
            let (shared, candidate, wanted) = (Arc::clone(&self.shared), Arc::clone(&image), needs.mapped.clone());
            let checked =
                tokio::task::spawn_blocking(move || shared.mapped.first_difference(&candidate, &wanted)).await;
            match checked.map_err(|error| EngineError::Host(error.to_string()))? {
                None => return Ok(image),
                Some(difference) if differs.is_empty() => differs = difference,
                Some(_) => (),
            }
        }
        Err(EngineError::Unfit(differs))
    }
}

fn check_needs(needs: &RestoreNeeds) -> Result<(), EngineError> {
    let arch = std::env::consts::ARCH;
    let unfit = |text: String| Err(EngineError::Unfit(text));
    if needs.engine != ENGINE || !(OLDEST_FORMAT..=FORMAT).contains(&needs.format) {
        let (engine, format) = (&needs.engine, needs.format);
        return unfit(format!("it was captured by {engine} in format {format}, here is {ENGINE} in format {FORMAT}"));
    }
    if needs.arch != arch {
        return unfit(format!("it was captured on {}, this is {arch}", needs.arch));
    }
    Ok(())
}

#[async_trait]
impl Engine for RuncEngine {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn format(&self) -> u32 {
        FORMAT
    }

    async fn capabilities(&self) -> Capabilities {
        preflight::capabilities(
            &preflight::check(&self.shared.config.data_dir, self.shared.config.disk_pool_bytes).await,
        )
    }

    async fn disk_capacity(&self) -> u64 {
        self.shared.pool.capacity()
    }

    async fn sweep(&self) -> Result<Vec<String>, EngineError> {
        sweep::sweep(&self.shared).await
    }

    async fn prepare(&self, spec: &ContainerSpec, origin: Origin) -> Result<Box<dyn Container>, EngineError> {
        let image = self.choose_image(&origin).await?;
        image.mark_used();
        let name = format!("{}-{}", spec.job, spec.attempt);
        let (disk, memory) = match origin {
            Origin::New => (JobDisk::create(&self.shared.pool, &name, spec.disk_bytes).await?, None),
            Origin::Captured { folder, mode, .. } => {
                let disk = JobDisk::adopt(&self.shared.pool, &name, &folder.join("disk")).await?;
                if mode == CheckpointMode::Files {
                    disk.forget_program()?;
                }
                (disk, (mode == CheckpointMode::Full).then(|| folder.join("memory")))
            }
        };
        let container = RuncContainer::prepare(Arc::clone(&self.shared), spec, name, disk, image, memory)?;
        Ok(Box::new(container))
    }
}
