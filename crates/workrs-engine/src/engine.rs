//! What an engine does for the node.
//!
//! The order of a container's life: [`Engine::prepare`] → the node puts the inputs into [`Container::job_folder`]
//! → [`Container::start`] or [`Container::restore`] → any number of freezes → [`Container::wait`] →
//! the node reads the outputs → [`Container::destroy`].

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{io::AsyncRead, time::Instant};
use workrs_core::{
    id::JobId,
    image::{Image, Layer},
    job::CheckpointMode,
    manifest::RestoreNeeds,
    ranges::ByteRanges,
    spec::Network,
};

/// What this host can do with an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Jobs can be run at all; otherwise why not.
    pub run: Result<(), String>,
    /// The memory of running jobs can be captured and restored; otherwise why not.
    pub dump: Result<(), String>,
}

/// What a container is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The job; one container a job at a time on a node.
    pub job: JobId,
    /// Tells this attempt's container from those of earlier attempts; a file name.
    pub attempt: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where it is started, an absolute path as the job sees it.
    pub folder: String,
    /// What it runs in: an image that was [provided](Engine::provide), or `None` for this node's own `/usr`.
    pub image: Option<Arc<Image>>,
    /// What of the network it sees.
    pub network: Network,
    /// The job's own environment, which comes over the image's.
    pub env: BTreeMap<String, String>,
    /// Processor time, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory limit.
    pub memory_bytes: u64,
    /// Size of the job disk.
    pub disk_bytes: u64,
}

/// What the job disk begins as.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there is one a container, and it does not stay")]
pub enum Origin {
    /// Empty.
    New,
    /// The parts of a capture, brought back into this folder as [`Capture::parts`] named them. The engine takes
    /// the files over and may move them.
    Captured {
        /// Where the parts lie: `<folder>/<part name>`.
        folder: PathBuf,
        /// What was captured. With `Files` the program starts again and only what lies in `/job`, in its home and,
        /// in an image, what it changed in its root stays.
        mode: CheckpointMode,
        /// What the capture needs.
        needs: RestoreNeeds,
    },
}

/// How a container's program ended, as the engine saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEnd {
    /// It exited with this code.
    Exited(u8),
    /// A signal ended it.
    Signalled(u8),
    /// The kernel killed it, or one of its processes, for want of memory, and it failed.
    OutOfMemory,
    /// It filled its disk, and was ended for it or failed by it.
    DiskFull,
    /// The engine cannot tell: the container vanished without a trace. A fault of the host, not of the job.
    Vanished,
}

/// What a frozen container consisted of.
#[derive(Debug)]
pub struct Capture {
    /// What a restore needs of a host.
    pub needs: RestoreNeeds,
    /// Every part. Folders lie in the folder that was named for the capture, images where the engine keeps its disks.
    pub parts: Vec<CapturedPart>,
}

/// One part of a capture. The file or folder stays until the caller removes it or, if it lies outside the folder that was
/// named for the capture, destroys the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CapturedPart {
    /// A folder of regular files without subfolders.
    Folder {
        /// Its name, a file name.
        name: String,
        /// Where it lies.
        path: PathBuf,
    },
    /// A sparse file.
    Image {
        /// Its name, a file name.
        name: String,
        /// Where it lies.
        path: PathBuf,
        /// Where it may differ from this part of the container's last successful capture, or of the capture that the
        /// container was prepared from; `None` means anywhere.
        changed: Option<ByteRanges>,
    },
}

/// Why an engine did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// This capture can never be restored here or elsewhere; the text is the proof.
    #[error("the checkpoint cannot be restored: {0}")]
    Refused(String),
    /// This host does not have what the capture needs; another may.
    #[error("this host does not fit the checkpoint: {0}")]
    Unfit(String),
    /// The job cannot be captured as it is now; it runs on.
    #[error("the job cannot be checkpointed: {0}")]
    CannotCapture(String),
    /// The program cannot be started: a fault of the job, such as a command that does not exist.
    #[error("the job cannot be started: {0}")]
    CannotStart(String),
    /// The job disk gave an error: nothing that lies on it can be trusted.
    #[error("the job disk failed: {0}")]
    DiskFailed(String),
    /// The host failed: trying again here or elsewhere may help.
    #[error("{0}")]
    Host(String),
}

/// Makes containers on this host.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Its name, as checkpoints carry it.
    fn name(&self) -> &'static str;

    /// The version of the form of its captures.
    fn format(&self) -> u32;

    /// The oldest version of the form that it can restore.
    fn oldest_format(&self) -> u32 {
        self.format()
    }

    /// The version of CRIU that it captures and restores memory with; empty if it has none, or does not know.
    async fn criu_version(&self) -> String {
        String::new()
    }

    /// What this host can do, found out anew.
    async fn capabilities(&self) -> Capabilities;

    /// Space for job disks in bytes, all in all.
    async fn disk_capacity(&self) -> u64;

    /// Ends everything that a former process of this node left running, and returns only once it is gone.
    /// Gives the names of what it found. Called once, before any [`prepare`](Self::prepare).
    async fn sweep(&self) -> Result<Vec<String>, EngineError>;

    /// The most of this host's network that it can give to a container.
    fn network(&self) -> Network {
        Network::None
    }

    /// The node's lease has held without a gap since `since`, and holds until `until`, both by [`boottime`](crate::boottime).
    /// When that is over without another word, every container with network is frozen by a process other than the node,
    /// and stays so until [`is_ours`](Self::is_ours). Before the first word nothing is frozen: there are leases that do not
    /// end by time. An engine that gives the network to no container need not listen.
    fn lease_holds(&self, since: Duration, until: Duration) {
        let _ = (since, until);
    }

    /// The job's record, when it was read at `read_at` or later, named this attempt as the one that runs it: its container
    /// may go on, if the lease that holds now held at `read_at`.
    fn is_ours(&self, job: &JobId, attempt: &str, read_at: Duration) {
        let _ = (job, attempt, read_at);
    }

    /// Makes the layers of an image ready to be run on, so that [`prepare`](Self::prepare) finds them. Quick if they are. What
    /// is ready may go again when the space is needed, but not while a container of this node runs on it.
    /// [`EngineError::CannotStart`] means that the image is of no use here or elsewhere.
    async fn provide(&self, image: &Image, layers: &dyn LayerSource) -> Result<(), EngineError>;

    /// Whether this host has what a capture of memory needs, as far as can be told before its parts are there:
    /// [`EngineError::Unfit`] if it has not. [`prepare`](Self::prepare) looks again, so an engine may leave all to it; then
    /// a host that does not fit fetches the capture in vain.
    async fn check(&self, _spec: &ContainerSpec, _needs: &RestoreNeeds) -> Result<(), EngineError> {
        Ok(())
    }

    /// Makes disk and root of a container ready, without running anything. With a capture that is
    /// [`Unfit`](EngineError::Unfit) or [`Refused`](EngineError::Refused) nothing is left behind.
    async fn prepare(&self, spec: &ContainerSpec, origin: Origin) -> Result<Box<dyn Container>, EngineError>;
}

/// Where an engine gets the layers of an image that it does not have yet.
#[async_trait]
pub trait LayerSource: Send + Sync {
    /// The layer as it is stored, which may be compressed. The engine checks its digest.
    async fn open(&self, layer: &Layer) -> io::Result<Box<dyn AsyncRead + Send + Unpin>>;
}

/// A container on this host. Dropping it without [`destroy`](Self::destroy) kills it in the background.
#[async_trait]
pub trait Container: Send + Sync {
    /// `/job` as this host sees it. Inputs go there before the start, owned by [`job_user`](Self::job_user);
    /// outputs are read from there once the container has ended. What lies in it is the job's: follow no link.
    fn job_folder(&self) -> &Path;

    /// User and group id, as this host sees them, that the job's files belong to.
    fn job_user(&self) -> (u32, u32);

    /// Starts the program with its output going to `output`, the write end of a pipe, which the engine closes on
    /// its side.
    async fn start(&self, output: OwnedFd) -> Result<(), EngineError>;

    /// Lets the captured processes go on, with their output going to `output`. `Ok` means that they run.
    async fn restore(&self, output: OwnedFd) -> Result<(), EngineError>;

    /// Waits for the program's end. May be called again afterwards and gives the same.
    async fn wait(&self) -> ContainerEnd;

    /// Freezes every process of the container. Dropping the guard, or [`Frozen::thaw`], thaws it, also when
    /// this fails half-way.
    async fn freeze(&self) -> Result<Box<dyn Frozen + '_>, EngineError>;

    /// Kills every process at once, frozen or not. [`wait`](Self::wait) then returns.
    async fn kill(&self) -> Result<(), EngineError>;

    /// Kills what still runs and removes disk and root.
    async fn destroy(&self) -> Result<(), EngineError>;
}

/// A frozen container: what is captured of it is one consistent cut of memory and disk, and, as nothing is
/// written meanwhile, of its output.
#[async_trait]
pub trait Frozen: Send {
    /// When the container stopped: what was done before that held nobody up.
    fn since(&self) -> Instant;

    /// About how many bytes the folders of a full capture will have.
    fn memory_bytes(&self) -> u64;

    /// Captures, folders into the empty folder `into`, which may be on any file system. What a failed capture leaves
    /// in it is of no use.
    async fn capture(&mut self, mode: CheckpointMode, into: &Path, deadline: Duration) -> Result<Capture, EngineError>;

    /// Lets the container go on. After a capture that was cut off, by its deadline or by dropping it, the processes may be
    /// past saving: then they are ended, this fails with [`EngineError::Host`] and the container has
    /// [`Vanished`](ContainerEnd::Vanished). So deadlines should be generous.
    async fn thaw(self: Box<Self>) -> Result<(), EngineError>;
}
