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
mod fence;
mod fit;
mod guard;
mod kernel;
#[cfg_attr(not(feature = "docker"), allow(unused_imports, unused_variables, reason = "there is but one manager"))]
mod manager;
mod runtime;
mod seccomp;
mod setup;
pub(crate) mod stage;
mod sweep;
mod yard;

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use workrs_core::{
    id::JobId,
    image::{Image, ImageDigest},
    job::CheckpointMode,
    manifest::RestoreNeeds,
    spec::Network,
};

use self::{container::RuncContainer, fence::Fence, guard::Guard, kernel::KernelNotes, manager::Manager, stage::Stage};
use crate::{
    cgroup::Hierarchy,
    container::mapped::MappedFiles,
    disk::{JobDisk, Pool, io_error},
    engine::{Capabilities, Container, ContainerSpec, Engine, EngineError, LayerSource, Origin},
    image::{Base, HostImage, Images, LayerCache},
    preflight,
};

#[cfg(feature = "docker")]
use crate::docker::{Daemon, DaemonError};

pub use self::guard::{guard, lo_up};
#[cfg(feature = "docker")]
pub(crate) use self::{container::open_to_criu, setup::FLAGS};

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
    /// About what the unpacked layers of images may take.
    pub image_cache_bytes: u64,
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
    layers: Arc<LayerCache>,
    hierarchy: Hierarchy,
    mapped: MappedFiles,
    kernel_notes: KernelNotes,
    stage: Stage,
    fence: Fence,
    manager: Manager,
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

    fn thaw(&self, container: &str) -> io::Result<()> {
        self.hierarchy.group(&format!("{}/{container}", self.node_cgroup())).thaw()
    }
}

impl RuncEngine {
    /// Takes hold of the data folder, mounts the job disks and starts the guard. Waits a little for what a former
    /// process of this node leaves behind to end.
    pub async fn open(config: RuncConfig) -> Result<Self, EngineError> {
        Self::open_under(Manager::Direct, config).await
    }

    /// The same, with a Docker daemon that listens at `socket` calling runc.
    #[cfg(feature = "docker")]
    pub async fn open_in_docker(config: RuncConfig, socket: &std::path::Path) -> Result<Self, EngineError> {
        let failed = |error: DaemonError| EngineError::Host(error.to_string());
        let daemon = Daemon::connect(socket).await.map_err(failed)?;
        daemon.prepare_image().await.map_err(failed)?;
        Self::open_under(Manager::Docker(daemon), config).await
    }

    async fn open_under(manager: Manager, mut config: RuncConfig) -> Result<Self, EngineError> {
        fs::create_dir_all(&config.data_dir).map_err(|error| io_error(&config.data_dir, &error))?;
        // Mounts and bundles name it by absolute path.
        config.data_dir = fs::canonicalize(&config.data_dir).map_err(|error| io_error(&config.data_dir, &error))?;
        let hierarchy = Hierarchy::detect().map_err(EngineError::Host)?;
        let lock = guard::lock(&config.data_dir).await?;
        let pool = Pool::open(&config.data_dir, config.disk_pool_bytes).await?;
        let images = Arc::new(Images::open(&config.data_dir)?);
        let layers = Arc::new(LayerCache::open(&config.data_dir, config.image_cache_bytes)?);
        let stage = Stage::open(&config.node)?;
        let kernel_notes = KernelNotes::make(stage.folder()).await;
        let mapped = MappedFiles::default();
        let fence = Fence::default();
        let shared =
            Arc::new(Shared { config, pool, images, layers, hierarchy, mapped, kernel_notes, stage, fence, manager });
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

    /// What to run in: the image that `spec` names, which a capture must have run in, too, or this node's own files.
    async fn choose_base(&self, spec: &ContainerSpec, origin: &Origin) -> Result<Base, EngineError> {
        let memory_needs = match origin {
            Origin::New => None,
            Origin::Captured { needs, mode, .. } => {
                check_image(spec.image.as_deref(), needs)?;
                (*mode == CheckpointMode::Full).then_some(needs)
            }
        };
        let engine = self.shared.manager.engine();
        memory_needs.map_or(Ok(()), |needs| check_needs(needs, engine))?;
        match (&spec.image, memory_needs) {
            (None, None) => self.shared.images.current().await.map(Base::Host),
            (None, Some(needs)) => self.host_image_for(needs).await.map(Base::Host),
            (Some(image), _) => {
                check_arch(image)?;
                self.shared.layers.layers(image).map(Base::Image)
            }
        }
    }

    /// The first copy of `/usr` that has all that a capture of memory had mapped.
    async fn host_image_for(&self, needs: &RestoreNeeds) -> Result<Arc<HostImage>, EngineError> {
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

/// What a job changed in the root of one image makes no sense in that of another.
fn check_image(image: Option<&Image>, needs: &RestoreNeeds) -> Result<(), EngineError> {
    let here = image.map(|image| &image.digest);
    if here == needs.image.as_ref() {
        return Ok(());
    }
    let name = |digest: Option<&ImageDigest>| digest.map_or("no image".to_owned(), ToString::to_string);
    let (then, now) = (name(needs.image.as_ref()), name(here));
    Err(EngineError::Unfit(format!("it was captured in {then}, the job is to run in {now}")))
}

fn check_arch(image: &Image) -> Result<(), EngineError> {
    let arch = std::env::consts::ARCH;
    if image.arch == arch {
        return Ok(());
    }
    let text = format!("its image {} is for the architecture {}, this host has {arch}", image.digest, image.arch);
    Err(EngineError::CannotStart(text))
}

fn container_name(job: &JobId, attempt: &str) -> String {
    format!("{job}-{attempt}")
}

fn check_needs(needs: &RestoreNeeds, engine: &str) -> Result<(), EngineError> {
    let arch = std::env::consts::ARCH;
    let unfit = |text: String| Err(EngineError::Unfit(text));
    if needs.engine != engine || !(OLDEST_FORMAT..=FORMAT).contains(&needs.format) {
        let (theirs, format) = (&needs.engine, needs.format);
        return unfit(format!("it was captured by {theirs} in format {format}, here is {engine} in format {FORMAT}"));
    }
    if needs.arch != arch {
        return unfit(format!("it was captured on {}, this is {arch}", needs.arch));
    }
    Ok(())
}

#[async_trait]
impl Engine for RuncEngine {
    fn name(&self) -> &'static str {
        self.shared.manager.engine()
    }

    fn format(&self) -> u32 {
        FORMAT
    }

    fn oldest_format(&self) -> u32 {
        OLDEST_FORMAT
    }

    async fn criu_version(&self) -> String {
        preflight::criu_version().await.unwrap_or_default()
    }

    async fn capabilities(&self) -> Capabilities {
        let config = &self.shared.config;
        let mut findings = preflight::check(&config.data_dir, config.disk_pool_bytes).await;
        findings.extend(self.shared.manager.check(&config.helper).await);
        preflight::capabilities(&findings)
    }

    async fn disk_capacity(&self) -> u64 {
        self.shared.pool.capacity()
    }

    async fn sweep(&self) -> Result<Vec<String>, EngineError> {
        sweep::sweep(&self.shared).await
    }

    fn network(&self) -> Network {
        match &self.shared.manager {
            Manager::Direct => Network::Host,
            #[cfg(feature = "docker")]
            Manager::Docker(_) => Network::None,
        }
    }

    fn lease_holds(&self, since: Duration, until: Duration) {
        self.shared.fence.holds(since, until, |name| {
            if let Err(error) = self.shared.thaw(name) {
                tracing::error!(%error, name, "a container that may run cannot be thawed");
            }
        });
    }

    fn is_ours(&self, job: &JobId, attempt: &str, read_at: Duration) {
        let name = container_name(job, attempt);
        if let Err(error) = self.shared.fence.is_ours(&name, read_at, || self.shared.thaw(&name)) {
            tracing::error!(%error, name, "a container that may go on cannot be thawed");
        }
    }

    async fn provide(&self, image: &Image, layers: &dyn LayerSource) -> Result<(), EngineError> {
        check_arch(image)?;
        self.shared.layers.provide(image, layers).await
    }

    async fn check(&self, spec: &ContainerSpec, needs: &RestoreNeeds) -> Result<(), EngineError> {
        check_image(spec.image.as_deref(), needs)?;
        check_needs(needs, self.shared.manager.engine())?;
        match &spec.image {
            None => self.host_image_for(needs).await.map(drop),
            Some(image) => check_arch(image),
        }
    }

    async fn prepare(&self, spec: &ContainerSpec, origin: Origin) -> Result<Box<dyn Container>, EngineError> {
        let base = self.choose_base(spec, &origin).await?;
        base.mark_used();
        let name = container_name(&spec.job, &spec.attempt);
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
        let container = RuncContainer::prepare(Arc::clone(&self.shared), spec, name, disk, base, memory)?;
        Ok(Box::new(container))
    }
}
