//! A frozen container, and the capture of it.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::MutexGuard;
use workrs_core::{
    job::CheckpointMode,
    manifest::{MappedFile, RestoreNeeds},
};

use super::{FORMAT, container::Inner, manager::Dumper};
use crate::{
    container::{vfork, zombies},
    disk::io_error,
    engine::{Capture, CapturedPart, EngineError, Frozen},
    process::ToolError,
};

/// For how long a freeze is tried again at other moments, and the shortest and longest time between two of them. A job that
/// has used up its share of the processor may not run at all for a tenth of a second.
const LOOK_FOR: Duration = Duration::from_secs(2);
const BETWEEN_MOMENTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

/// Thaws when dropped.
pub(super) struct RuncFrozen<'a> {
    inner: &'a Arc<Inner>,
    _alone: MutexGuard<'a, ()>,
    frozen: bool,
    since: tokio::time::Instant,
    /// Started beforehand; `None` once used.
    dumper: Option<Result<Dumper, ToolError>>,
}

impl<'a> RuncFrozen<'a> {
    /// Does beforehand what would hold the frozen job up: writes its disk back, hashes what it has mapped, starts CRIU.
    pub(super) async fn freeze(
        inner: &'a Arc<Inner>,
        alone: MutexGuard<'a, ()>,
        deadline: Duration,
    ) -> Result<Self, EngineError> {
        if !inner.is_running() {
            return Err(EngineError::Host("the container does not run".to_owned()));
        }
        let flushed = blocking(inner, |inner| {
            inner.base.mark_used();
            inner.disk.flush()?;
            mapped(inner).map(drop)
        });
        let (flushed, dumper) = tokio::join!(flushed, inner.start_dumper());
        flushed?;
        // From here on, as this can be dropped at any await.
        let since = tokio::time::Instant::now();
        let mut frozen = Self { inner, _alone: alone, frozen: true, since, dumper: Some(dumper) };
        if let Err(error) = frozen.freeze_at_a_good_moment(deadline).await {
            frozen.thaw_now();
            return Err(EngineError::Host(format!("failed to freeze the container: {error}")));
        }
        Ok(frozen)
    }

    /// One at which CRIU can seize every process, if there is one soon.
    async fn freeze_at_a_good_moment(&mut self, deadline: Duration) -> io::Result<()> {
        let group = &self.inner.group;
        let began = Instant::now();
        let mut pause = BETWEEN_MOMENTS.0;
        self.inner.hold(deadline).await?;
        while vfork::is_under_way(&group.processes()) && began.elapsed() < LOOK_FOR {
            self.inner.let_go()?;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BETWEEN_MOMENTS.1);
            self.since = tokio::time::Instant::now();
            self.inner.hold(deadline).await?;
        }
        Ok(())
    }

    fn thaw_now(&mut self) {
        if std::mem::take(&mut self.frozen)
            && let Err(error) = self.inner.thaw()
        {
            tracing::error!(%error, "a container could not be thawed");
        }
    }

    /// CRIU's images of the memory, regular files only.
    async fn dump(&mut self, images: &Path, deadline: Duration) -> Result<(), EngineError> {
        if let Some(code) = zombies::code_that_would_change(&self.inner.group.processes()) {
            let text = "and has not been waited for: CRIU would restore it with another code";
            return Err(EngineError::CannotCapture(format!("a process of it ended with exit code {code} {text}")));
        }
        if vfork::is_under_way(&self.inner.group.processes()) {
            let text = if self.inner.is_in_doubt() {
                "it was stopped in the middle of starting a program, and cannot go on while it is not known whose it is"
            } else {
                "a process of it waits for a child to start a program, which takes long"
            };
            return Err(EngineError::CannotCapture(text.to_owned()));
        }
        if self.inner.was_cut_off() {
            return Err(EngineError::CannotCapture("a dump of it was cut off".to_owned()));
        }
        fs::create_dir(images).map_err(|error| io_error(images, &error))?;
        let dumper = match self.dumper.take() {
            Some(started) => started,
            None => self.inner.start_dumper().await,
        };
        let dumped = match dumper {
            Ok(dumper) => self.inner.dump(dumper, images, deadline).await,
            Err(error) => Err(error),
        };
        dumped.map_err(|error| EngineError::CannotCapture(self.inner.runc.why_no_dump(&error)))?;
        let entries = fs::read_dir(images).map_err(|error| io_error(images, &error))?;
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                let name = entry.file_name();
                return Err(EngineError::CannotCapture(format!("{} of the dump is not a file", name.display())));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Frozen for RuncFrozen<'_> {
    fn since(&self) -> tokio::time::Instant {
        self.since
    }

    fn memory_bytes(&self) -> u64 {
        self.inner.group.anonymous_bytes()
    }

    async fn capture(&mut self, mode: CheckpointMode, into: &Path, deadline: Duration) -> Result<Capture, EngineError> {
        let began = Instant::now();
        let images = into.join("memory");
        // The dump does not write to the job disk, so both go on at once.
        let late = move || EngineError::CannotCapture(format!("its disk was not written back within {deadline:?}"));
        let disk = blocking(self.inner, move |inner| {
            inner.disk.flush()?;
            // The capture has been given up, and the disk may be in use again.
            if began.elapsed() >= deadline {
                return Err(late());
            }
            let clone = inner.disk.clone_image()?;
            Ok((clone, mapped(inner)?, Instant::now()))
        });
        let dump = async { if mode == CheckpointMode::Full { self.dump(&images, deadline).await } else { Ok(()) } };
        let (dumped, disk) = tokio::join!(dump, tokio::time::timeout(deadline, disk));
        let (clone, mapped, disk_done) = disk.map_err(|_| late()).flatten()?;
        let ended =
            if self.inner.is_running() { Ok(()) } else { Err(EngineError::CannotCapture("it has ended".to_owned())) };
        dumped.and(ended)?;
        tracing::debug!(dump = ?began.elapsed(), disk = ?disk_done.duration_since(began), "captured");
        let (path, changed) = self.inner.disk.captured(clone);
        let mut parts = vec![CapturedPart::Image { name: "disk".to_owned(), path, changed }];
        let mut needs = RestoreNeeds {
            engine: self.inner.shared.manager.engine().to_owned(),
            format: FORMAT,
            arch: std::env::consts::ARCH.to_owned(),
            image: self.inner.base.digest().cloned(),
            ..RestoreNeeds::default()
        };
        if mode == CheckpointMode::Full {
            parts.insert(0, CapturedPart::Folder { name: "memory".to_owned(), path: images });
            needs.mapped = mapped;
        }
        Ok(Capture { needs, parts })
    }

    async fn thaw(mut self: Box<Self>) -> Result<(), EngineError> {
        self.frozen = false;
        let failed = |error| EngineError::Host(format!("failed to thaw the container: {error}"));
        if self.inner.thaw().map_err(failed)? {
            return Ok(());
        }
        let text = "the dump was ended in the middle of the job's processes, and these with it";
        Err(EngineError::Host(text.to_owned()))
    }
}

impl Drop for RuncFrozen<'_> {
    fn drop(&mut self) {
        self.thaw_now();
    }
}

/// What the job has mapped of this node's own files. Those of an image are the same everywhere.
fn mapped(inner: &Inner) -> Result<Vec<MappedFile>, EngineError> {
    let Some(image) = inner.base.host() else { return Ok(Vec::new()) };
    let files = inner.shared.mapped.of_processes(image, &inner.group.processes());
    files.map_err(|error| EngineError::Host(format!("failed to hash what the job has mapped: {error}")))
}

async fn blocking<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Inner) -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let inner = Arc::clone(inner);
    let done = tokio::task::spawn_blocking(move || work(&inner)).await;
    done.map_err(|error| EngineError::Host(error.to_string()))?
}
