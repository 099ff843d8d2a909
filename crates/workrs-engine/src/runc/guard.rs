//! The guard: a process that outlives the node by as long as it takes to end the node's jobs. It holds the read end of a
//! pipe from the node; when that closes, however the node died, it kills every process in the node's cgroups.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use rustix::{
    fs::FlockOperation,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
    thread::LinkNameSpaceType,
};

use super::{Shared, runtime};
use crate::{cgroup::Hierarchy, disk::io_error, engine::EngineError};

/// How long a new node waits for the guard of a former one to finish.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is being forked or killed just now shows up within this time.
const AFTERMATH: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(20);
/// What the node writes when it ends in order.
const FAREWELL: &[u8] = b"q";

/// The node's end of the guard's pipe.
#[derive(Debug)]
pub(super) struct Guard {
    pipe: Mutex<Option<ChildStdin>>,
    /// Shared with the guard: free once both are gone.
    _lock: File,
}

/// Takes the data folder's lock.
pub(super) async fn lock(data_dir: &Path) -> Result<File, EngineError> {
    let path = data_dir.join("engine.lock");
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| io_error(&path, &error))?;
    let began = Instant::now();
    while let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io_error(&path, &error.into()));
        }
        if began.elapsed() > PATIENCE {
            let text = format!("another node uses {}; give each its own --data-dir", data_dir.display());
            return Err(EngineError::Host(text));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(lock)
}

impl Guard {
    /// Starts it in a session of its own, so that neither Ctrl-C nor a terminal's end reaches it.
    pub(super) fn start(shared: &Shared, lock: File) -> Result<Self, EngineError> {
        let failed = |error: io::Error| EngineError::Host(format!("failed to start the guard: {error}"));
        let mut child = Command::new(&shared.config.helper)
            .args(["internal", "guard", &shared.node_cgroup()])
            .arg(shared.runc_root())
            .stdin(Stdio::piped())
            .stdout(lock.try_clone().map_err(failed)?)
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let pipe = Mutex::new(child.stdin.take());
        // Nobody waits for it but this thread; the process table would keep it otherwise.
        std::thread::spawn(move || child.wait());
        Ok(Self { pipe, _lock: lock })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(Some(pipe)) = self.pipe.get_mut().map(Option::take).as_mut() {
            let _it_died_first = pipe.write_all(FAREWELL);
        }
    }
}

/// What the guard process does: `internal guard <cgroup> <runc's root>`.
pub fn guard(cgroup: &str, runc_root: &Path) -> Result<i32, String> {
    let _leads_one_already = rustix::process::setsid();
    let mut word = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut word);
    if read.is_ok() && word == FAREWELL {
        return Ok(0);
    }
    let hierarchy = Hierarchy::detect()?;
    let node = hierarchy.group(cgroup);
    let mut last_seen = Instant::now();
    while last_seen.elapsed() < AFTERMATH {
        // A start or restore under way would go on to bring processes into a cgroup.
        if runtime::kill_orphans(runc_root) {
            last_seen = Instant::now();
        }
        for child in node.children() {
            let group = hierarchy.group(&format!("{cgroup}/{child}"));
            if !group.processes().is_empty() {
                group.kill();
                last_seen = Instant::now();
            }
        }
        std::thread::sleep(POLL);
    }
    Ok(0)
}

/// What the hook of every container does, with the container's state as JSON on standard input: brings `lo` up in its
/// network namespace, which begins without. `internal lo-up`.
pub fn lo_up() -> Result<i32, String> {
    let state: serde_json::Value = serde_json::from_reader(io::stdin().lock()).map_err(|error| error.to_string())?;
    let pid = state["pid"].as_u64().ok_or("the state names no process")?;
    let namespace = File::open(format!("/proc/{pid}/ns/net")).map_err(|error| error.to_string())?;
    enter_and_bring_up(&namespace).map_err(|error| format!("failed to bring lo up: {error}"))?;
    Ok(0)
}

fn enter_and_bring_up(namespace: &File) -> io::Result<()> {
    use std::os::fd::AsFd;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // What is sent without an address goes to the kernel.
    rustix::net::send(&socket, &lo_up_request(), SendFlags::empty())?;
    let mut answer = [0u8; 1024];
    let (received, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // An answer is a header of 16 bytes and an error number, 0 for success.
    let error = answer.get(16..20).filter(|_| received >= 20).and_then(|bytes| bytes.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// RTM_NEWLINK that sets IFF_UP of interface 1, which is always `lo`: a netlink header, then an `ifinfomsg`.
fn lo_up_request() -> Vec<u8> {
    const LEN: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const LO: i32 = 1;
    const IFF_UP: u32 = 1;
    let mut request = Vec::new();
    request.extend(LEN.to_ne_bytes());
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(REQUEST_AND_ACK.to_ne_bytes());
    request.extend([0; 8]); // sequence number and sender
    request.extend([0; 4]); // family, padding, type
    request.extend(LO.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes()); // the flags …
    request.extend(IFF_UP.to_ne_bytes()); // … and which of them to change
    debug_assert_eq!(request.len(), LEN as usize);
    request
}
