//! The one suite that every engine passes. It panics where an engine breaks the contract, so it belongs into tests only:
//! [`run`] with what makes the engine do the same things in its own way.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test suite")]

mod changes;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use workrs_core::{id::JobId, image::Image, job::CheckpointMode, spec::Network};

use crate::engine::{
    Capture, CapturedPart, Container, ContainerEnd, ContainerSpec, Engine, EngineError, Frozen, Origin,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// Commands that do these things under the engine. `None` where it cannot do them.
#[derive(Debug, Clone, Copy)]
pub struct Programs {
    /// Prints 1 to n, a line a tick (ms), appends each to `/job/lines`, exits 0.
    pub count: fn(u64, u64) -> Vec<String>,
    /// Exits with this code.
    pub exit: fn(u8) -> Vec<String>,
    /// Ends by this signal.
    pub signal: fn(u8) -> Vec<String>,
    /// Uses more memory than it may.
    pub exhaust_memory: fn() -> Vec<String>,
    /// Writes more than fits its disk, for some seconds.
    pub fill_disk: fn() -> Vec<String>,
    /// Prints the variable `GREETING`, `WORKRS_JOB_ID` and the working folder, a line each.
    pub environment: Option<fn() -> Vec<String>>,
}

/// An engine under test.
pub struct Subject<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// An empty folder of the test.
    pub folder: &'a Path,
    /// What the engine can run.
    pub programs: Programs,
    /// What the programs run in, an image that the engine was provided with; `None` for the host's own files.
    pub image: Option<Arc<Image>>,
    /// Names of all that containers left on the host.
    pub leftovers: &'a (dyn Fn() -> Vec<String> + Sync),
}

impl Subject<'_> {
    /// As [`spec`], in the subject's image.
    pub fn spec(&self, job: &str, attempt: u32, command: Vec<String>) -> ContainerSpec {
        ContainerSpec { image: self.image.clone(), ..spec(job, attempt, command) }
    }
}

/// The read end of a container's output.
pub struct Output {
    pipe: File,
}

impl Output {
    /// A pipe, and its write end for the engine.
    pub fn new() -> (Self, OwnedFd) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        (Self { pipe: read.into() }, write)
    }

    /// What was written and not read before.
    pub fn drain(&mut self) -> String {
        let mut bytes = Vec::new();
        if let Err(error) = self.pipe.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        String::from_utf8(bytes).unwrap()
    }
}

/// A job of one core, 128 MiB of memory and 64 MiB of disk.
pub fn spec(job: &str, attempt: u32, command: Vec<String>) -> ContainerSpec {
    ContainerSpec {
        job: JobId::new(job).unwrap(),
        attempt: attempt.to_string(),
        command,
        folder: "/job".to_owned(),
        image: None,
        network: Network::None,
        env: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        cpus_milli: 1000,
        memory_bytes: 128 << 20,
        disk_bytes: 64 << 20,
    }
}

/// The whole suite.
pub async fn run(subject: &Subject<'_>) {
    ends(subject).await;
    environment(subject).await;
    cannot_start(subject).await;
    limits(subject).await;
    frozen_containers_stand_still(subject).await;
    a_capture_goes_on_exactly(subject).await;
    a_capture_of_files_starts_again(subject).await;
    changes::captures_tell_what_changed(subject).await;
    frozen_containers_can_be_killed(subject).await;
    dropped_containers_end(subject).await;
    impossible_captures_leave_nothing(subject).await;
    assert_eq!((subject.leftovers)(), Vec::<String>::new());
}

async fn start(subject: &Subject<'_>, spec: &ContainerSpec) -> (Box<dyn Container>, Output) {
    let container = subject.engine.prepare(spec, Origin::New).await.unwrap();
    let (output, pipe) = Output::new();
    container.start(pipe).await.unwrap();
    (container, output)
}

async fn run_to_end(subject: &Subject<'_>, spec: &ContainerSpec) -> (ContainerEnd, String) {
    let (container, mut output) = start(subject, spec).await;
    let end = tokio::time::timeout(DEADLINE, container.wait()).await.unwrap();
    assert_eq!(container.wait().await, end, "the end stays the same");
    let printed = output.drain();
    container.destroy().await.unwrap();
    container.destroy().await.unwrap();
    assert_eq!((subject.leftovers)(), Vec::<String>::new());
    (end, printed)
}

async fn ends(subject: &Subject<'_>) {
    for code in [0, 3, 255] {
        let end = run_to_end(subject, &subject.spec("ends", 1, (subject.programs.exit)(code))).await.0;
        assert_eq!(end, ContainerEnd::Exited(code));
    }
    for signal in [9, 15] {
        let end = run_to_end(subject, &subject.spec("ends", 2, (subject.programs.signal)(signal))).await.0;
        assert_eq!(end, ContainerEnd::Signalled(signal));
    }
}

async fn environment(subject: &Subject<'_>) {
    let Some(program) = subject.programs.environment else { return };
    let (end, printed) = run_to_end(subject, &subject.spec("environment", 1, program())).await;
    assert_eq!((end, printed.as_str()), (ContainerEnd::Exited(0), "hello\nenvironment\n/job\n"));
}

async fn cannot_start(subject: &Subject<'_>) {
    let spec = subject.spec("absent", 1, vec!["no-such-program".to_owned()]);
    let container = subject.engine.prepare(&spec, Origin::New).await.unwrap();
    let failed = container.start(Output::new().1).await.unwrap_err();
    assert!(matches!(&failed, EngineError::CannotStart(why) if why.starts_with("no-such-program")), "{failed}");
    container.destroy().await.unwrap();
}

async fn limits(subject: &Subject<'_>) {
    let (end, printed) = run_to_end(subject, &subject.spec("memory", 1, (subject.programs.exhaust_memory)())).await;
    assert_eq!(end, ContainerEnd::OutOfMemory, "{printed}");
    let (end, printed) = run_to_end(subject, &subject.spec("disk", 1, (subject.programs.fill_disk)())).await;
    assert_eq!(end, ContainerEnd::DiskFull, "{printed}");
}

/// Waits until the program has printed `lines` lines in all and gives them.
async fn read_lines(output: &mut Output, lines: usize) -> String {
    let mut printed = String::new();
    let read = async {
        while printed.lines().count() < lines {
            printed.push_str(&output.drain());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, read).await.unwrap();
    printed
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> String {
    range.fold(String::new(), |lines, number| lines + &number.to_string() + "\n")
}

async fn frozen_containers_stand_still(subject: &Subject<'_>) {
    let (container, mut output) = start(subject, &subject.spec("freeze", 1, (subject.programs.count)(40, 20))).await;
    let mut printed = read_lines(&mut output, 5).await;
    for thaw_by_drop in [false, true] {
        let frozen = container.freeze().await.unwrap();
        printed.push_str(&output.drain());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(output.drain(), "", "a frozen container went on");
        if thaw_by_drop {
            drop(frozen);
        } else {
            frozen.thaw().await.unwrap();
        }
        printed.push_str(&read_lines(&mut output, 5).await);
    }
    assert_eq!(container.wait().await, ContainerEnd::Exited(0));
    printed.push_str(&output.drain());
    assert_eq!(printed, numbers(1..=40));
    let refused = container.freeze().await.err();
    assert!(matches!(refused, Some(EngineError::Host(_))), "an ended container cannot be frozen");
    container.destroy().await.unwrap();
}

/// Brings the parts together as the node does before a restore. They stay for another one.
pub fn gather(capture: &Capture, mode: CheckpointMode, folder: &Path) -> Origin {
    let _former = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).unwrap();
    for part in &capture.parts {
        match part {
            CapturedPart::Folder { name, path } => {
                fs::create_dir(folder.join(name)).unwrap();
                for entry in fs::read_dir(path).unwrap() {
                    let entry = entry.unwrap();
                    assert!(entry.file_type().unwrap().is_file(), "a part has more than regular files");
                    fs::copy(entry.path(), folder.join(name).join(entry.file_name())).unwrap();
                }
            }
            CapturedPart::Image { name, path, .. } => _ = fs::copy(path, folder.join(name)).unwrap(),
        }
    }
    Origin::Captured { folder: folder.to_path_buf(), mode, needs: capture.needs.clone() }
}

/// Removes the parts, as the node does when they are stored.
pub fn discard(capture: &Capture) {
    for part in &capture.parts {
        match part {
            CapturedPart::Folder { path, .. } => fs::remove_dir_all(path).unwrap(),
            CapturedPart::Image { path, .. } => fs::remove_file(path).unwrap(),
        }
    }
}

fn empty_folder(subject: &Subject<'_>, name: &str) -> PathBuf {
    let folder = subject.folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

async fn capture(frozen: &mut Box<dyn Frozen + '_>, mode: CheckpointMode, into: &Path) -> Capture {
    frozen.capture(mode, into, DEADLINE).await.unwrap()
}

async fn a_capture_goes_on_exactly(subject: &Subject<'_>) {
    let program = (subject.programs.count)(60, 20);
    let (container, mut output) = start(subject, &subject.spec("capture", 1, program.clone())).await;
    let before = read_lines(&mut output, 5).await;
    let into = empty_folder(subject, "full");
    let mut frozen = container.freeze().await.unwrap();
    let captured = capture(&mut frozen, CheckpointMode::Full, &into).await;
    let before = before + &output.drain();
    frozen.thaw().await.unwrap();
    // It goes on as if nothing had happened, and what it does now must not be part of the capture.
    read_lines(&mut output, 5).await;
    container.kill().await.unwrap();
    assert_eq!(container.wait().await, ContainerEnd::Signalled(9));
    let origins = [2, 3].map(|attempt| {
        let folder = subject.folder.join(format!("restore-{attempt}"));
        (attempt, gather(&captured, CheckpointMode::Full, &folder))
    });
    discard(&captured);
    container.destroy().await.unwrap();
    for (attempt, origin) in origins {
        let again = subject.engine.prepare(&subject.spec("capture", attempt, program.clone()), origin).await.unwrap();
        let (mut output, pipe) = Output::new();
        again.restore(pipe).await.unwrap();
        // A restored container can be captured in its turn.
        let after = read_lines(&mut output, 5).await;
        let into = empty_folder(subject, &format!("full-{attempt}"));
        let mut frozen = again.freeze().await.unwrap();
        let second = capture(&mut frozen, CheckpointMode::Full, &into).await;
        frozen.thaw().await.unwrap();
        discard(&second);
        assert_eq!(tokio::time::timeout(DEADLINE, again.wait()).await.unwrap(), ContainerEnd::Exited(0));
        assert_eq!(before.clone() + &after + &output.drain(), numbers(1..=60));
        assert_eq!(fs::read_to_string(again.job_folder().join("lines")).unwrap(), numbers(1..=60));
        again.destroy().await.unwrap();
    }
}

async fn a_capture_of_files_starts_again(subject: &Subject<'_>) {
    let program = (subject.programs.count)(10, 20);
    let (container, mut output) = start(subject, &subject.spec("files", 1, program.clone())).await;
    fs::write(container.job_folder().join("input"), "kept").unwrap();
    read_lines(&mut output, 5).await;
    let into = empty_folder(subject, "files");
    let mut frozen = container.freeze().await.unwrap();
    let captured = capture(&mut frozen, CheckpointMode::Files, &into).await;
    let done = fs::read_to_string(container.job_folder().join("lines")).unwrap();
    drop(frozen);
    let origin = gather(&captured, CheckpointMode::Files, &subject.folder.join("restore-files"));
    discard(&captured);
    container.destroy().await.unwrap();
    let again = subject.engine.prepare(&subject.spec("files", 2, program), origin).await.unwrap();
    let (mut output, pipe) = Output::new();
    again.start(pipe).await.unwrap();
    assert_eq!(again.wait().await, ContainerEnd::Exited(0));
    assert_eq!(output.drain(), numbers(1..=10));
    let read = |name: &str| fs::read_to_string(again.job_folder().join(name)).unwrap();
    assert_eq!((read("input").as_str(), read("lines")), ("kept", done + &numbers(1..=10)));
    again.destroy().await.unwrap();
}

async fn frozen_containers_can_be_killed(subject: &Subject<'_>) {
    let (container, mut output) = start(subject, &subject.spec("kill", 1, (subject.programs.count)(1000, 20))).await;
    read_lines(&mut output, 2).await;
    let frozen = container.freeze().await.unwrap();
    container.kill().await.unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, container.wait()).await.unwrap(), ContainerEnd::Signalled(9));
    drop(frozen);
    container.destroy().await.unwrap();
    let never_started =
        subject.engine.prepare(&subject.spec("kill", 2, (subject.programs.exit)(0)), Origin::New).await.unwrap();
    never_started.kill().await.unwrap();
    assert_eq!(never_started.wait().await, ContainerEnd::Signalled(9));
    never_started.destroy().await.unwrap();
}

async fn dropped_containers_end(subject: &Subject<'_>) {
    let (container, mut output) = start(subject, &subject.spec("drop", 1, (subject.programs.count)(100_000, 10))).await;
    read_lines(&mut output, 2).await;
    drop(container);
    let ended = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut one = [0u8];
            if matches!(output.pipe.read(&mut one), Ok(0)) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.unwrap();
}

async fn impossible_captures_leave_nothing(subject: &Subject<'_>) {
    let wait_for_the_dropped = async {
        while !(subject.leftovers)().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _some_engines_keep_it = tokio::time::timeout(Duration::from_secs(10), wait_for_the_dropped).await;
    let program = (subject.programs.count)(1000, 20);
    let (container, mut output) = start(subject, &subject.spec("unfit", 1, program.clone())).await;
    read_lines(&mut output, 1).await;
    let mut frozen = container.freeze().await.unwrap();
    let mut captured = capture(&mut frozen, CheckpointMode::Full, &empty_folder(subject, "unfit")).await;
    drop(frozen);
    captured.needs.format += 1000;
    let unfit = gather(&captured, CheckpointMode::Full, &subject.folder.join("restore-unfit"));
    captured.needs.format -= 1000;
    let broken = gather(&captured, CheckpointMode::Full, &subject.folder.join("restore-broken"));
    fs::write(subject.folder.join("restore-broken/disk"), vec![7u8; 1 << 20]).unwrap();
    discard(&captured);
    container.destroy().await.unwrap();
    let failed = subject.engine.prepare(&subject.spec("unfit", 2, program.clone()), unfit).await.err();
    assert!(matches!(failed, Some(EngineError::Unfit(_))), "{failed:?}");
    let failed = subject.engine.prepare(&subject.spec("unfit", 3, program), broken).await.err();
    assert!(matches!(failed, Some(EngineError::Refused(_))), "{failed:?}");
}
