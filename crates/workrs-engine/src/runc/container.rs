//! A container: from the prepared disk to the end of the last process.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rustix::process::PidfdFlags;
use tokio::{
    net::unix::pipe::Receiver,
    sync::{Mutex, watch},
};
use workrs_core::spec::Network;

use super::{
    Shared,
    capture::RuncFrozen,
    dump::freezer,
    fit::{Fit, fit},
    runtime::Runc,
    setup,
    stage::Place,
};
use crate::{
    cgroup::Group,
    container::end::{Evidence, Status, judge, read_status},
    disk::{ID_BASE, JobDisk, io_error},
    engine::{Container, ContainerEnd, ContainerSpec, EngineError, Frozen},
    image::Base,
};

const START_DEADLINE: Duration = Duration::from_secs(60);
/// Memory of many gigabytes is read in this time.
const RESTORE_DEADLINE: Duration = Duration::from_secs(600);
const KILL_DEADLINE: Duration = Duration::from_secs(30);
const DELETE_DEADLINE: Duration = Duration::from_secs(30);
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);
/// How often the disk is looked at. What fills it in less time fails by itself.
const DISK_POLL: Duration = Duration::from_millis(200);
/// How often the init's first word is looked for; it usually stands there when runc returns.
const STATUS_POLL: Duration = Duration::from_millis(1);

/// Where a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Prepared,
    Running,
    Ended(ContainerEnd),
}

/// A container; dropping it without `destroy` ends and removes it in the background.
#[derive(Debug)]
pub(super) struct RuncContainer {
    inner: Arc<Inner>,
    job_folder: PathBuf,
}

/// What the container, its supervisor and its frozen guard share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    /// Its root and disk as it sees them; goes before the disk itself.
    pub(super) place: Place,
    pub(super) disk: JobDisk,
    pub(super) base: Base,
    pub(super) fit: Fit,
    pub(super) group: Group,
    /// The group's folder in which it is frozen.
    pub(super) freezer: PathBuf,
    pub(super) runc: Runc,
    /// The bundle's folder.
    pub(super) folder: PathBuf,
    pub(super) network: Network,
    /// Its name, as the guard knows it.
    name: String,
    /// CRIU's images, if the container is to be restored.
    memory: Option<PathBuf>,
    life: watch::Sender<Life>,
    killed: AtomicBool,
    disk_full: AtomicBool,
    /// A dump was cut off, maybe within the job's processes: whatever they do from then on is not their doing.
    pub(super) cut_off: AtomicBool,
    /// When Docker was last asked for a checkpoint.
    #[cfg(feature = "docker")]
    pub(super) docker_checkpointed: std::sync::Mutex<Option<tokio::time::Instant>>,
    /// They were ended for it.
    harmed: AtomicBool,
    destroyed: AtomicBool,
    /// Held by whoever starts, freezes or destroys.
    operation: Mutex<()>,
}

impl RuncContainer {
    /// Takes the mounted disk and writes the bundle.
    pub(super) fn prepare(
        shared: Arc<Shared>,
        spec: &ContainerSpec,
        name: String,
        disk: JobDisk,
        base: Base,
        memory: Option<PathBuf>,
    ) -> Result<Self, EngineError> {
        // First, as nothing is to be left behind of one that cannot be.
        let notes = disk.notes()?;
        let folder = shared.run_folder().join(&name);
        let cgroup = format!("{}/{name}", shared.node_cgroup());
        let (group, freezer) = (shared.hierarchy.group(&cgroup), freezer(&shared.hierarchy, &cgroup));
        let place = shared.stage.place(&name, &base, &disk.mount_point())?;
        let fit = fit(&base, &place.root(), &disk, spec).map_err(|error| match error {
            // It ran once, so that it is the job itself that made its root unfit.
            EngineError::CannotStart(why) if memory.is_some() => EngineError::Refused(why),
            other => other,
        })?;
        let runc = Runc::new(shared.runc_root(), folder.clone(), name.clone());
        let job_folder = disk.mount_point().join("job");
        let inner = Inner {
            shared,
            place,
            disk,
            base,
            fit,
            group,
            freezer,
            runc,
            folder,
            network: spec.network,
            name,
            memory,
            life: watch::Sender::new(Life::Prepared),
            killed: AtomicBool::new(false),
            disk_full: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            #[cfg(feature = "docker")]
            docker_checkpointed: std::sync::Mutex::default(),
            harmed: AtomicBool::new(false),
            destroyed: AtomicBool::new(false),
            operation: Mutex::new(()),
        };
        setup::write_bundle(&inner.shared, &inner.base, &inner.place, &inner.fit, spec, &inner.folder)?;
        // A restored init is the one on the disk.
        let init = inner.memory.is_none().then_some(setup::INIT);
        setup::write_notes(&notes, init, spec)?;
        Ok(Self { inner: Arc::new(inner), job_folder })
    }
}

impl Inner {
    fn status(&self) -> Option<Status> {
        read_status(&self.disk.mount_point().join("run/workrs/status"))
    }

    fn life(&self) -> Life {
        *self.life.borrow()
    }

    pub(super) fn is_running(&self) -> bool {
        self.life() == Life::Running
    }

    async fn start(self: &Arc<Self>, output: OwnedFd) -> Result<(), EngineError> {
        let _alone = self.operation.lock().await;
        self.expect_prepared()?;
        self.enter()?;
        let started = self.run(output, START_DEADLINE).await;
        started.map_err(|error| EngineError::Host(self.runc.complaint(&error)))?;
        self.supervise()?;
        let began = Instant::now();
        loop {
            match self.status() {
                Some(Status::CannotStart(why)) => return Err(EngineError::CannotStart(why)),
                Some(_) => return Ok(()),
                None if self.life() != Life::Running || began.elapsed() > START_DEADLINE => return Ok(()),
                None => tokio::time::sleep(STATUS_POLL).await,
            }
        }
    }

    async fn restore(self: &Arc<Self>, output: OwnedFd) -> Result<(), EngineError> {
        let Some(memory) = &self.memory else { return self.start(output).await };
        let _alone = self.operation.lock().await;
        self.expect_prepared()?;
        self.enter()?;
        open_to_criu(memory).map_err(|error| io_error(memory, &error))?;
        self.shared.kernel_notes.lay_out();
        if let Err(error) = self.restore_from(memory, output, RESTORE_DEADLINE).await {
            let complaint = self.runc.complaint(&error);
            return Err(match self.runc.why_no_restore() {
                Some(why) if !self.killed.load(Ordering::SeqCst) => EngineError::Refused(why),
                _ => EngineError::Host(complaint),
            });
        }
        self.supervise()
    }

    fn expect_prepared(&self) -> Result<(), EngineError> {
        match self.life() {
            Life::Prepared => Ok(()),
            _ => Err(EngineError::Host("the container was started or ended before".to_owned())),
        }
    }

    /// Watches the container's first process, whose number runc wrote down, until it ends.
    fn supervise(self: &Arc<Self>) -> Result<(), EngineError> {
        let failed = |error: io::Error| EngineError::Host(format!("failed to watch the container: {error}"));
        let pid = self.runc.init().map_err(failed)?;
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            // Not a pipe, but all that is asked of it is when it becomes readable.
            Ok(pidfd) => Some(Receiver::from_owned_fd_unchecked(pidfd).map_err(failed)?),
            // It ended and was reaped already.
            Err(rustix::io::Errno::SRCH) => None,
            Err(error) => return Err(failed(error.into())),
        };
        self.life.send_replace(Life::Running);
        let inner = Arc::clone(self);
        tokio::spawn(async move { inner.watch(pidfd).await });
        Ok(())
    }

    async fn watch(&self, pidfd: Option<Receiver>) {
        if let Some(pidfd) = pidfd {
            let mut poll = tokio::time::interval(DISK_POLL);
            loop {
                tokio::select! {
                    _ended = pidfd.readable() => break,
                    _ = poll.tick() => self.end_if_disk_is_full(),
                }
            }
        }
        // The kernel has killed the rest of the namespace by now; should something be left in the cgroup, it goes.
        self.group.kill_all(KILL_DEADLINE).await;
        let end = judge(&Evidence {
            status: self.status(),
            harmed: self.harmed.load(Ordering::SeqCst) || self.was_cut_off_within() || self.was_ended_from_outside(),
            killed: self.killed.load(Ordering::SeqCst),
            disk_full: self.disk_full.load(Ordering::SeqCst) || self.disk.was_full(),
            oom_kills: self.oom_kills(),
        });
        self.life.send_replace(Life::Ended(end));
    }

    fn end_if_disk_is_full(&self) {
        if self.disk.is_full() {
            self.disk_full.store(true, Ordering::SeqCst);
            self.killed.store(true, Ordering::SeqCst);
            self.group.kill();
        }
    }

    /// Lets the processes go on, unless a dump was cut off within them: then they are ended, and the job resumes from its
    /// last checkpoint. Gives whether they go on.
    pub(super) fn thaw(&self) -> io::Result<bool> {
        if self.was_cut_off_within() {
            self.harmed.store(true, Ordering::SeqCst);
            self.group.kill();
            return Ok(false);
        }
        self.cut_off.store(false, Ordering::SeqCst);
        self.let_go().map(|()| true)
    }

    /// Freezes it for the node.
    pub(super) async fn hold(&self, deadline: Duration) -> io::Result<()> {
        self.shared.fence.hold(&self.name);
        self.group.freeze(deadline).await
    }

    /// Thaws it, unless it has to stand still for another reason.
    pub(super) fn let_go(&self) -> io::Result<()> {
        self.shared.fence.let_go(&self.name, || self.group.thaw())
    }

    /// Whether it has to stand still until it is known whose it is.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.shared.fence.is_in_doubt(&self.name)
    }

    /// Before anything of it runs.
    fn enter(&self) -> Result<(), EngineError> {
        if self.network == Network::None {
            return Ok(());
        }
        let entered = self.shared.fence.enter(&self.name);
        entered.map_err(|error| EngineError::Host(format!("the guard of the jobs with network does not hear: {error}")))
    }

    async fn wait(&self) -> ContainerEnd {
        let mut life = self.life.subscribe();
        loop {
            if let Life::Ended(end) = *life.borrow_and_update() {
                return end;
            }
            // The sender lives as long as this.
            let _changed = life.changed().await;
        }
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.killed.store(true, Ordering::SeqCst);
        self.life.send_if_modified(|life| {
            let never_ran = *life == Life::Prepared && self.group.processes().is_empty();
            if never_ran {
                *life = Life::Ended(ContainerEnd::Signalled(9));
            }
            never_ran
        });
        if self.group.kill_all(KILL_DEADLINE).await {
            Ok(())
        } else {
            Err(EngineError::Host("the container's processes cannot be killed".to_owned()))
        }
    }

    async fn destroy(&self) -> Result<(), EngineError> {
        self.kill().await?;
        let _alone = self.operation.lock().await;
        if self.destroyed.load(Ordering::SeqCst) {
            return Ok(());
        }
        // A start or restore that was dropped half-way may have gone on until now.
        self.kill().await?;
        if self.life() == Life::Running {
            let _ended = tokio::time::timeout(KILL_DEADLINE, self.wait()).await;
        }
        self.delete(DELETE_DEADLINE).await.map_err(|error| EngineError::Host(self.runc.complaint(&error)))?;
        self.shared.fence.leave(&self.name);
        self.group.remove();
        self.place.clear().map_err(|error| io_error(&self.folder, &error))?;
        self.disk.remove()?;
        fs::remove_dir_all(&self.folder).map_err(|error| io_error(&self.folder, &error))?;
        self.destroyed.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[async_trait]
impl Container for RuncContainer {
    fn job_folder(&self) -> &Path {
        &self.job_folder
    }

    fn job_user(&self) -> (u32, u32) {
        let user = &self.inner.fit.user;
        (ID_BASE + user.uid, ID_BASE + user.gid)
    }

    async fn start(&self, output: OwnedFd) -> Result<(), EngineError> {
        if self.inner.memory.is_some() {
            return Err(EngineError::Host("a captured container is restored, not started".to_owned()));
        }
        self.inner.start(output).await
    }

    async fn restore(&self, output: OwnedFd) -> Result<(), EngineError> {
        self.inner.restore(output).await
    }

    async fn wait(&self) -> ContainerEnd {
        self.inner.wait().await
    }

    async fn freeze(&self) -> Result<Box<dyn Frozen + '_>, EngineError> {
        let alone = self.inner.operation.lock().await;
        Ok(Box::new(RuncFrozen::freeze(&self.inner, alone, FREEZE_DEADLINE).await?))
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.inner.kill().await
    }

    async fn destroy(&self) -> Result<(), EngineError> {
        self.inner.destroy().await
    }
}

/// CRIU reads the images as the job's own user, so what protects them is the folder above theirs.
pub(crate) fn open_to_criu(images: &Path) -> io::Result<()> {
    for entry in fs::read_dir(images)? {
        fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o644))?;
    }
    fs::set_permissions(images, fs::Permissions::from_mode(0o755))
}

impl Drop for RuncContainer {
    fn drop(&mut self) {
        if self.inner.destroyed.load(Ordering::SeqCst) {
            return;
        }
        self.inner.killed.store(true, Ordering::SeqCst);
        self.inner.group.kill();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let inner = Arc::clone(&self.inner);
            runtime.spawn(async move {
                if let Err(error) = inner.destroy().await {
                    tracing::warn!(%error, "a container could not be removed");
                }
            });
        }
    }
}
