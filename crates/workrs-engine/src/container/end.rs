//! How a container ended, from what it left behind.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::engine::ContainerEnd;

/// More than the init ever writes.
const MAX_STATUS: u64 = 4096;
const SIGKILL: u8 = 9;
/// What shells give for a program that cannot be run.
const CANNOT_RUN: u8 = 127;

/// What the container's init noted last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    Running,
    Exit(u8),
    Signal(u8),
    CannotStart(String),
}

/// Reads the init's note, by a path without links of this host. What is above the file may be the job's to write, as the file
/// itself, so it may be anything.
pub(crate) fn read_status(path: &Path) -> Option<Status> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: OwnedFd = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).ok()?;
    let file = File::from(file);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let read: io::Result<_> = file.take(MAX_STATUS).read_to_string(&mut text);
    read.ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<Status> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match word {
        "running" => Some(Status::Running),
        "exit" => Some(Status::Exit(rest.parse().ok()?)),
        "signal" => Some(Status::Signal(rest.parse().ok()?)),
        "cannot-start" => Some(Status::CannotStart(rest.to_owned())),
        _ => None,
    }
}

/// What is known of a container whose last process has ended.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    pub(crate) status: Option<Status>,
    /// The engine did something to its processes that they may not have survived.
    pub(crate) harmed: bool,
    /// The node killed it.
    pub(crate) killed: bool,
    /// Its disk was seen full, now or before.
    pub(crate) disk_full: bool,
    /// Processes that the kernel killed for want of memory.
    pub(crate) oom_kills: u64,
}

/// A job that did well in spite of a full disk or a killed child did well. One that failed and met a limit failed by
/// the limit. One whose init left no word was ended from outside.
pub(crate) fn judge(evidence: &Evidence) -> ContainerEnd {
    if evidence.harmed {
        return ContainerEnd::Vanished;
    }
    let own = match &evidence.status {
        Some(Status::Exit(0)) => return ContainerEnd::Exited(0),
        Some(Status::Exit(code)) => Some(ContainerEnd::Exited(*code)),
        Some(Status::Signal(signal)) => Some(ContainerEnd::Signalled(*signal)),
        Some(Status::CannotStart(_)) => Some(ContainerEnd::Exited(CANNOT_RUN)),
        Some(Status::Running) | None => None,
    };
    let by_limit = if evidence.oom_kills > 0 {
        Some(ContainerEnd::OutOfMemory)
    } else {
        evidence.disk_full.then_some(ContainerEnd::DiskFull)
    };
    match own {
        Some(own) => by_limit.unwrap_or(own),
        None if evidence.disk_full && evidence.killed => ContainerEnd::DiskFull,
        None if evidence.killed => ContainerEnd::Signalled(SIGKILL),
        None => by_limit.unwrap_or(ContainerEnd::Vanished),
    }
}

#[cfg(test)]
mod tests {
    use ContainerEnd::{DiskFull, Exited, OutOfMemory, Signalled, Vanished};

    use super::*;

    #[test]
    fn every_end_has_one_reason() {
        let check =
            |status: Option<&str>, (killed, disk_full, oom_kills): (bool, bool, u64), expected: ContainerEnd| {
                let evidence = Evidence { status: status.and_then(parse), harmed: false, killed, disk_full, oom_kills };
                assert_eq!(judge(&evidence), expected, "{evidence:?}");
                assert_eq!(judge(&Evidence { harmed: true, ..evidence }), Vanished);
            };
        check(Some("exit 0"), (true, true, 3), Exited(0));
        check(Some("exit 3"), (false, false, 0), Exited(3));
        check(Some("exit 1"), (false, false, 1), OutOfMemory);
        check(Some("exit 1"), (false, true, 0), DiskFull);
        check(Some("signal 9"), (false, false, 1), OutOfMemory);
        check(Some("signal 11"), (false, false, 0), Signalled(11));
        check(Some("running"), (true, false, 0), Signalled(9));
        check(Some("running"), (true, true, 0), DiskFull);
        check(Some("running"), (false, false, 1), OutOfMemory);
        check(Some("running"), (false, false, 0), Vanished);
        check(None, (false, false, 0), Vanished);
        check(Some("exit 300"), (false, false, 0), Vanished);
    }

    #[test]
    fn a_status_that_is_not_a_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status");
        assert_eq!(read_status(&path), None);
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(read_status(&path), None, "a link is not followed");
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(read_status(&path), None, "a pipe does not hold the node up");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "cannot-start nope: not found").unwrap();
        assert_eq!(read_status(&path), Some(Status::CannotStart("nope: not found".into())));
    }
}
