//! A pretended container: one task that runs the program, and what the node sees of it.

use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, time::Instant};
use workrs_core::{job::CheckpointMode, manifest::RestoreNeeds, ranges::ByteRanges};

use super::{
    FORMAT,
    host::{Boot, Restores, host_error},
    program::{Program, Step},
};
use crate::engine::{Capture, CapturedPart, Container, ContainerEnd, EngineError, Frozen};

/// In what the disk's changes are told, in bytes.
const BLOCK: usize = 4096;

/// A container of a [`super::FakeHost`].
#[derive(Debug)]
pub(super) struct FakeContainer {
    boot: Boot,
    folder: PathBuf,
    job_folder: PathBuf,
    control: Control,
    destroyed: AtomicBool,
    /// The disk of the last successful capture, or of the one that this was prepared from.
    captured: Mutex<Option<Vec<u8>>>,
}

/// What the program's task, the container and the host share.
#[derive(Debug, Clone)]
pub(super) struct Control {
    program: Arc<Mutex<Program>>,
    phase: watch::Sender<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Prepared,
    Running,
    Frozen,
    Ended(ContainerEnd),
    /// The machine crashed: nobody will ever know more.
    Gone,
}

impl Control {
    pub(super) fn crash(&self) {
        self.phase.send_replace(Phase::Gone);
    }

    fn program(&self) -> MutexGuard<'_, Program> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: ContainerEnd) {
        self.change(|phase| !matches!(phase, Phase::Ended(_) | Phase::Gone), Phase::Ended(end));
    }

    /// Goes to `next` if `allowed`, and says whether it did.
    fn change(&self, allowed: impl Fn(Phase) -> bool, next: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let change = allowed(*phase);
            if change {
                *phase = next;
            }
            change
        })
    }

    /// Waits until `time` has passed unfrozen and the program may act; `false` once it has ended.
    async fn sleep(&self, time: Duration) -> bool {
        let mut phase = self.phase.subscribe();
        let mut left = time;
        loop {
            let now = *phase.borrow_and_update();
            match now {
                Phase::Running => {
                    let began = tokio::time::Instant::now();
                    tokio::select! {
                        biased;
                        changed = phase.changed() => if changed.is_err() { return false },
                        () = tokio::time::sleep(left) => return *self.phase.borrow() == Phase::Running,
                    }
                    left = left.saturating_sub(began.elapsed());
                }
                Phase::Prepared | Phase::Frozen => {
                    if phase.changed().await.is_err() {
                        return false;
                    }
                }
                Phase::Ended(_) | Phase::Gone => return false,
            }
        }
    }
}

impl FakeContainer {
    pub(super) fn new(boot: Boot, folder: PathBuf, program: Program, captured: Option<Vec<u8>>) -> Self {
        let control = Control { program: Arc::new(Mutex::new(program)), phase: watch::Sender::new(Phase::Prepared) };
        boot.register(control.clone());
        let (job_folder, destroyed) = (folder.join("job"), AtomicBool::new(false));
        Self { boot, job_folder, folder, control, destroyed, captured: Mutex::new(captured) }
    }

    fn captured(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, output: OwnedFd) -> Result<(), EngineError> {
        self.control.program().next()?;
        if !self.control.change(|phase| phase == Phase::Prepared, Phase::Running) {
            return Err(EngineError::Host("the container is not in a state to be started".to_owned()));
        }
        tokio::spawn(run_program(self.control.clone(), self.job_folder.clone(), File::from(output)));
        Ok(())
    }
}

/// Does what the program says, step by step, never while it is frozen.
async fn run_program(control: Control, job_folder: PathBuf, mut output: File) {
    loop {
        let next = control.program().next();
        match next {
            Ok(Step::Line(after, line)) => {
                if !control.sleep(after).await {
                    return;
                }
                // No await between these, so that a capture sees all of them or none.
                let _reader_may_be_gone = writeln!(output, "{line}");
                if append(&job_folder.join("lines"), &line).is_err() {
                    return control.end(ContainerEnd::Vanished);
                }
                control.program().advance();
            }
            Ok(Step::Write(name, text)) => {
                if !control.sleep(Duration::ZERO).await {
                    return;
                }
                if std::fs::write(job_folder.join(name), text).is_err() {
                    return control.end(ContainerEnd::Exited(1));
                }
                control.program().advance();
            }
            Ok(Step::End(after, end)) => {
                if control.sleep(after).await {
                    control.end(end);
                }
                return;
            }
            Err(_) => return control.end(ContainerEnd::Vanished),
        }
    }
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = File::options().append(true).create(true).open(path)?;
    writeln!(file, "{line}")
}

#[async_trait]
impl Container for FakeContainer {
    fn job_folder(&self) -> &Path {
        &self.job_folder
    }

    fn job_user(&self) -> (u32, u32) {
        (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
    }

    async fn start(&self, output: OwnedFd) -> Result<(), EngineError> {
        self.boot.call("start", || self.run(output)).await
    }

    async fn restore(&self, output: OwnedFd) -> Result<(), EngineError> {
        let restore = || match self.boot.restores() {
            Restores::FailAtStart => Err(EngineError::Refused("the test lets the restore fail".to_owned())),
            _ => self.run(output),
        };
        self.boot.call("restore", restore).await
    }

    async fn wait(&self) -> ContainerEnd {
        let mut phase = self.control.phase.subscribe();
        loop {
            if let Phase::Ended(end) = *phase.borrow_and_update() {
                return end;
            }
            if phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn freeze(&self) -> Result<Box<dyn Frozen + '_>, EngineError> {
        let freeze = || {
            if self.control.change(|phase| phase == Phase::Running, Phase::Frozen) {
                Ok(FakeFrozen { container: self, thawed: false, since: Instant::now() })
            } else {
                Err(EngineError::Host("the container does not run".to_owned()))
            }
        };
        let frozen = self.boot.call("freeze", freeze).await?;
        Ok(Box::new(frozen))
    }

    async fn kill(&self) -> Result<(), EngineError> {
        let kill = || {
            self.control.end(ContainerEnd::Signalled(9));
            Ok(())
        };
        self.boot.call("kill", kill).await
    }

    async fn destroy(&self) -> Result<(), EngineError> {
        let destroy = || {
            self.control.end(ContainerEnd::Signalled(9));
            if self.destroyed.swap(true, Ordering::SeqCst) {
                return Ok(());
            }
            match std::fs::remove_dir_all(&self.folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(host_error(&self.folder, &error)),
                _ => Ok(()),
            }
        };
        self.boot.call("destroy", destroy).await
    }
}

impl Drop for FakeContainer {
    fn drop(&mut self) {
        // What a dead node leaves stays for the next one to sweep.
        if self.boot.alive() && !self.destroyed.load(Ordering::SeqCst) {
            self.control.end(ContainerEnd::Signalled(9));
            let _nobody_to_tell = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A frozen [`FakeContainer`].
struct FakeFrozen<'a> {
    container: &'a FakeContainer,
    thawed: bool,
    since: Instant,
}

impl FakeFrozen<'_> {
    fn thaw_now(&mut self) {
        self.thawed = true;
        self.container.control.change(|phase| phase == Phase::Frozen, Phase::Running);
    }

    /// Gives the bytes of the captured disk, too.
    fn write(&self, mode: CheckpointMode, into: &Path) -> Result<(Capture, Vec<u8>), EngineError> {
        let program = self.container.control.program();
        let disk = into.join("disk");
        let files = read_tree(&self.container.job_folder, Path::new("")).map_err(|error| host_error(&disk, &error))?;
        let bytes = serde_json::to_vec(&files).unwrap_or_default();
        std::fs::write(&disk, &bytes).map_err(|error| host_error(&disk, &error))?;
        let changed = self.container.captured().as_ref().map(|before| differences(before, &bytes));
        let mut parts = vec![CapturedPart::Image { name: "disk".to_owned(), path: disk, changed }];
        if mode == CheckpointMode::Full {
            if let Some(reason) = program.capture_obstacle() {
                return Err(EngineError::CannotCapture(reason));
            }
            let memory = into.join("memory");
            std::fs::create_dir(&memory)
                .and_then(|()| std::fs::write(memory.join("state.json"), program.memory()))
                .map_err(|error| host_error(&memory, &error))?;
            parts.insert(0, CapturedPart::Folder { name: "memory".to_owned(), path: memory });
        }
        let arch = std::env::consts::ARCH.to_owned();
        let engine = self.container.boot.engine_name().to_owned();
        let needs = RestoreNeeds { engine, format: FORMAT, arch, ..RestoreNeeds::default() };
        Ok((Capture { needs, parts }, bytes))
    }
}

/// The blocks in which two disks differ; what only one of them has differs.
fn differences(before: &[u8], after: &[u8]) -> ByteRanges {
    let len = before.len().max(after.len());
    (0..len)
        .step_by(BLOCK)
        .filter(|start| block(before, *start) != block(after, *start))
        .map(|start| start as u64..(start + BLOCK).min(len) as u64)
        .collect()
}

fn block(disk: &[u8], start: usize) -> &[u8] {
    disk.get(start..(start + BLOCK).min(disk.len())).unwrap_or_default()
}

/// Names and contents of the regular files below `folder`, in order.
fn read_tree(folder: &Path, within: &Path) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder.join(within))? {
        let entry = entry?;
        let name = within.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files.extend(read_tree(folder, &name)?);
        } else {
            files.push((name, std::fs::read(entry.path())?));
        }
    }
    files.sort();
    Ok(files)
}

#[async_trait]
impl Frozen for FakeFrozen<'_> {
    fn since(&self) -> Instant {
        self.since
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    async fn capture(
        &mut self,
        mode: CheckpointMode,
        into: &Path,
        _deadline: Duration,
    ) -> Result<Capture, EngineError> {
        let boot = self.container.boot.clone();
        let (capture, disk) = boot.call("capture", || self.write(mode, into)).await?;
        *self.container.captured() = Some(disk);
        Ok(capture)
    }

    async fn thaw(mut self: Box<Self>) -> Result<(), EngineError> {
        let boot = self.container.boot.clone();
        let thaw = || {
            self.thaw_now();
            Ok(())
        };
        boot.call("thaw", thaw).await
    }
}

impl Drop for FakeFrozen<'_> {
    fn drop(&mut self) {
        if !self.thawed {
            self.thaw_now();
        }
    }
}
