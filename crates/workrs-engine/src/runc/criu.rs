//! Dumps by CRIU, which is called directly: runc's `checkpoint` would start first itself and then CRIU twice, all while
//! the job stands still. Here CRIU is started while the job still runs, and waits to be told what to dump.
//!
//! It is told by its own protocol (`criu swrk`; `images/rpc.proto` in its source): each message is one packet in the
//! form of protocol buffers. What it is told is what runc would tell it, so that `runc restore` takes the images.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

use rustix::{
    net::{AddressFamily, SendFlags, SocketFlags, SocketType},
    process::Pid,
};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};
use workrs_core::spec::Network;

use crate::process::{Started, Tool, ToolError};

const PROGRAM: &str = "criu";
/// It takes milliseconds.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// More than an answer has, which may quote an error.
const MAX_ANSWER: usize = 1 << 16;
/// The log has the steps and the errors; one level more would take 3 ms for each process.
const LOG_LEVEL: u64 = 3;
/// CRIU's name for the namespaces that are made anew: the network's, which has nothing but `lo`.
const EMPTY_NETWORK: u64 = 0x4000_0000;
/// Complaints of CRIU that mean nothing here.
const HARMLESS: &str = "RLIMIT_NOFILE";
/// The most of a log that is quoted, in bytes.
const MAX_QUOTE: usize = 200;

/// What is to be dumped, and how.
#[derive(Debug)]
pub(super) struct Dump<'a> {
    /// The container's first process.
    pub(super) init: Pid,
    /// The folder of the frozen cgroup.
    pub(super) freezer: &'a Path,
    /// The container's root, as this host sees it.
    pub(super) root: &'a Path,
    /// Mount points whose content is not dumped, and the names by which a restore knows what to mount there.
    pub(super) external: &'a [(String, String)],
    /// Which network it has: connections within its own are part of it, others are not.
    pub(super) network: Network,
    /// More options, in a file.
    pub(super) config: &'a Path,
    /// An existing folder for the images.
    pub(super) images: &'a Path,
}

/// A CRIU that waits for its order. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Criu {
    /// Not a pipe, but read like one: a packet at a time.
    socket: Receiver,
    _process: Started,
}

impl Criu {
    /// Starts it in `folder`, where it logs to `dump.log`, and waits until it is ready.
    pub(super) async fn start(folder: &Path) -> Result<Self, ToolError> {
        // What an earlier one logged must not be taken for this one's.
        let _absent = fs::remove_file(folder.join("dump.log"));
        let flags = SocketFlags::CLOEXEC;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (ours, its) = pair.map_err(|error| failed_io(error.into()))?;
        let process = Tool::new(PROGRAM).args(["swrk", "0"]).urgent().start(its, folder)?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|error| failed_io(error.into()))?;
        let socket = Receiver::from_owned_fd_unchecked(ours).map_err(failed_io)?;
        let mut criu = Self { socket, _process: process };
        let ready = async {
            criu.send(&Message::default().number(REQUEST_TYPE, VERSION).number(KEEP_OPEN, 1))?;
            criu.receive().await
        };
        within(START_DEADLINE, ready).await?.check()?;
        Ok(criu)
    }

    /// Dumps, once. After success, and after [`ToolError::Failed`], all processes are as they were before.
    pub(super) async fn dump(&mut self, dump: &Dump<'_>, folder: &Path, deadline: Duration) -> Result<(), ToolError> {
        let images = File::open(dump.images).map_err(failed_io)?;
        let work = File::open(folder).map_err(failed_io)?;
        let options = options(dump, &images, &work);
        self.send(&Message::default().number(REQUEST_TYPE, DUMP).bytes(OPTIONS, &options.0))?;
        // CRIU opens both folders by their numbers in this process, which therefore stay open until it is done.
        let answer = within(deadline, self.receive()).await;
        drop((images, work));
        answer?.check()
    }

    fn send(&self, message: &Message) -> Result<(), ToolError> {
        let sent = rustix::net::send(&self.socket, &message.0, SendFlags::NOSIGNAL);
        sent.map(drop).map_err(|error| failed_io(error.into()))
    }

    async fn receive(&mut self) -> Result<Answer, ToolError> {
        let mut packet = vec![0; MAX_ANSWER];
        let len = self.socket.read(&mut packet).await.map_err(failed_io)?;
        let no_answer = || failed_io(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without an answer"));
        Answer::read(packet.get(..len).unwrap_or_default()).ok_or_else(no_answer)
    }
}

async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T, ToolError>>) -> Result<T, ToolError> {
    let late = |_| ToolError::Deadline(PROGRAM.to_owned(), deadline);
    tokio::time::timeout(deadline, call).await.map_err(late)?
}

fn failed_io(error: io::Error) -> ToolError {
    ToolError::Io(PROGRAM.to_owned(), error)
}

fn failed(complaint: &str) -> ToolError {
    ToolError::Failed { program: PROGRAM.to_owned(), code: None, complaint: complaint.to_owned() }
}

// Numbers of the fields of `criu_req` and `criu_resp`, and values of their `type`.
const REQUEST_TYPE: u64 = 1;
const OPTIONS: u64 = 2;
const KEEP_OPEN: u64 = 4;
const SUCCESS: u64 = 2;
const ERROR_MESSAGE: u64 = 9;
const DUMP: u64 = 1;
const VERSION: u64 = 10;

/// `criu_opts`, by the numbers of its fields.
fn options(dump: &Dump<'_>, images: &File, work: &File) -> Message {
    let fd = |file: &File| u64::from(file.as_raw_fd().unsigned_abs());
    let mut message = Message::default()
        .number(1, fd(images)) // images_dir_fd
        .number(2, u64::from(dump.init.as_raw_pid().unsigned_abs())) // pid
        .number(3, 1) // leave_running
        .number(8, 1) // file_locks
        .number(9, LOG_LEVEL) // log_level
        .bytes(10, b"dump.log") // log_file
        .bytes(13, dump.root.as_os_str().as_encoded_bytes()) // root
        .number(17, fd(work)) // work_dir_fd
        .number(24, 1) // manage_cgroups
        .bytes(44, dump.freezer.as_os_str().as_encoded_bytes()) // freeze_cgroup
        .number(50, 1) // orphan_pts_master
        .bytes(51, dump.config.as_os_str().as_encoded_bytes()); // config_file
    message = match dump.network {
        // ext_unix_sk, tcp_established, empty_ns
        Network::None => message.number(4, 1).number(5, 1).number(38, EMPTY_NETWORK),
        // tcp_skip_in_flight, tcp_close. A connection to a service of the host by a name without a file ends the dump, as
        // the restore would find nobody at its other end.
        Network::Host => message.number(46, 1).number(52, 1),
    };
    for (mount_point, name) in dump.external {
        let mapping = Message::default().bytes(1, mount_point.as_bytes()).bytes(2, name.as_bytes());
        message = message.bytes(23, &mapping.0); // ext_mnt
    }
    message
}

/// A message in the form of protocol buffers.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }
}

/// What of an answer matters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    success: bool,
    error: String,
}

impl Answer {
    /// `None` if it is not one.
    fn read(mut packet: &[u8]) -> Option<Self> {
        let mut answer = Self::default();
        if packet.is_empty() {
            return None;
        }
        while !packet.is_empty() {
            let key = read_varint(&mut packet)?;
            let value = read_varint(&mut packet)?;
            match (key & 7, key >> 3) {
                (0, SUCCESS) => answer.success = value != 0,
                (0, _) => (),
                (2, field) => {
                    let (bytes, rest) = packet.split_at_checked(usize::try_from(value).ok()?)?;
                    packet = rest;
                    if field == ERROR_MESSAGE {
                        answer.error = String::from_utf8_lossy(bytes).into_owned();
                    }
                }
                _ => return None,
            }
        }
        Some(answer)
    }

    fn check(self) -> Result<(), ToolError> {
        if self.success { Ok(()) } else { Err(failed(self.error.trim())) }
    }
}

fn read_varint(packet: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = packet.split_first()?;
        *packet = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Whether a dump that was killed, and logged in `folder`, may have left its own code in the job's processes: from the
/// first one that it enters to the end.
pub(super) fn dump_was_cut_off_within(folder: &Path) -> bool {
    let log = fs::read(folder.join("dump.log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    log.contains(") Dumping task (pid") && !log.contains("Dumping finished successfully")
}

/// Whether a dump that failed, and logged in `folder`, was not ended by CRIU itself, which first mends what it did.
#[cfg(feature = "docker")]
pub(super) fn dump_died(folder: &Path) -> bool {
    let log = fs::read(folder.join("dump.log")).unwrap_or_default();
    dump_was_cut_off_within(folder) && !String::from_utf8_lossy(&log).contains("Dumping FAILED")
}

/// The first errors in a log of CRIU, shortened.
pub(super) fn complaint(log: &Path) -> Option<String> {
    let log = String::from_utf8_lossy(&fs::read(log).ok()?).into_owned();
    let errors: Vec<_> = log
        .lines()
        .filter(|line| !line.contains(HARMLESS))
        .filter_map(|line| line.split_once(" Error (")?.1.split_once("): "))
        .map(|(_place, text)| text.trim())
        .take(2)
        .collect();
    (!errors.is_empty()).then(|| quote(&format!("criu: {}", errors.join("; "))))
}

/// The beginning of a text.
pub(super) fn quote(text: &str) -> String {
    let mut end = text.len().min(MAX_QUOTE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_form_of_protocol_buffers() {
        let message = Message::default().number(1, 10).number(38, EMPTY_NETWORK).bytes(23, b"ab");
        assert_eq!(message.0, *b"\x08\x0a\xb0\x02\x80\x80\x80\x80\x04\xba\x01\x02ab");
    }

    #[test]
    fn answers_are_read_and_nonsense_is_not() {
        let check = |packet: &[u8], expected: Option<(bool, &str)>| {
            let expected = expected.map(|(success, error)| Answer { success, error: error.to_owned() });
            assert_eq!(Answer::read(packet), expected, "{packet:?}");
        };
        check(b"\x08\x0a\x10\x01\x52\x04\x08\x04\x10\x02", Some((true, "")));
        check(b"\x08\x01\x10\x00\x4a\x02no", Some((false, "no")));
        check(b"", None);
        check(b"\x08\x01\x10", None);
        check(b"\x08\x01\x4a\x7fno", None);
        check(b"\x0d\x01\x01\x01\x01", None);
    }

    #[test]
    fn only_what_was_cut_off_within_the_processes_counts() {
        let folder = tempfile::tempdir().unwrap();
        let check = |log: &str, expected: bool| {
            fs::write(folder.path().join("dump.log"), log).unwrap();
            assert_eq!(dump_was_cut_off_within(folder.path()), expected, "{log}");
        };
        assert!(!dump_was_cut_off_within(folder.path()));
        check("(00.01) Dumping processes (pid: 7 comm: init)\n(00.02) Seized task 7, state 1\n", false);
        check("(00.02) Seized task 7, state 1\n(00.03) Dumping task (pid: 7 comm: init)\n", true);
        check("(00.03) Dumping task (pid: 7 comm: init)\n(00.09) Dumping finished successfully\n", false);
        #[cfg(feature = "docker")]
        for (end, died) in
            [("(00.04) Dumping page", true), ("(00.04) Error (criu/cr-dump.c:1): Dumping FAILED.", false)]
        {
            fs::write(folder.path().join("dump.log"), format!("(00.03) Dumping task (pid: 7 comm: a)\n{end}\n"))
                .unwrap();
            assert_eq!(dump_died(folder.path()), died, "{end}");
        }
    }

    #[test]
    fn the_first_real_errors_of_criu_are_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("dump.log");
        assert_eq!(complaint(&log), None);
        fs::write(
            &log,
            "(00.01) Running\n(00.04) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self\n",
        )
        .unwrap();
        assert_eq!(complaint(&log), None);
        fs::write(
            &log,
            "(00.04) Error (criu/util.c:1): Can't setup RLIMIT_NOFILE\n\
             (00.05) Error (criu/files-reg.c:1790): Can't lookup mount=43 for fd=1\n\
             (00.05) 12: Error (criu/cr-dump.c:1545): Dump files failed\n\
             (00.06) Error (criu/cr-dump.c:1975): Dumping FAILED.\n",
        )
        .unwrap();
        assert_eq!(complaint(&log).unwrap(), "criu: Can't lookup mount=43 for fd=1; Dump files failed");
    }

    #[tokio::test]
    async fn a_criu_that_cannot_start_is_a_failure() {
        let started = Criu::start(Path::new("/nonexistent/folder")).await;
        assert!(matches!(started, Err(ToolError::Io(..) | ToolError::NotFound(_))), "{started:?}");
    }
}
