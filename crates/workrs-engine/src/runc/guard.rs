//! The guard: a process that outlives the node by as long as it takes to end the node's jobs. It holds the read end of a
//! pipe from the node; when that closes, however the node died, it kills every process in the node's cgroups. While the node
//! lives but its lease is over, it freezes the containers that have network, see `fence`.

use std::{
    fs::File,
    io::{self, BufRead},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::FlockOperation,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
    thread::LinkNameSpaceType,
};

use super::{
    Shared,
    fence::{Watch, Word},
    runtime,
};
use crate::{
    boottime,
    cgroup::{Group, Hierarchy},
    container::traced,
    disk::io_error,
    engine::EngineError,
};

/// How long a new node waits for the guard of a former one to finish.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is being forked or killed just now shows up within this time.
const AFTERMATH: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(20);
/// The same while time changes nothing.
const IDLE: Duration = Duration::from_secs(3_600);

/// Lets the guard go when dropped.
#[derive(Debug)]
pub(super) struct Guard {
    shared: Arc<Shared>,
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
    pub(super) fn start(shared: &Arc<Shared>, lock: File) -> Result<Self, EngineError> {
        let failed = |error: io::Error| EngineError::Host(format!("failed to start the guard: {error}"));
        let mut child = Command::new(&shared.config.helper)
            .args(["internal", "guard", &shared.node_cgroup()])
            .arg(shared.runc_root())
            .stdin(Stdio::piped())
            .stdout(lock.try_clone().map_err(failed)?)
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        shared.fence.connect(child.stdin.take()).map_err(failed)?;
        // Nobody waits for it but this thread; the process table would keep it otherwise.
        std::thread::spawn(move || child.wait());
        Ok(Self { shared: Arc::clone(shared), _lock: lock })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.fence.disconnect();
    }
}

/// What the guard process does: `internal guard <cgroup> <runc's root>`.
pub fn guard(cgroup: &str, runc_root: &Path) -> Result<i32, String> {
    let _leads_one_already = rustix::process::setsid();
    let hierarchy = Hierarchy::detect()?;
    if watch(&hierarchy, cgroup) == End::InOrder {
        return Ok(0);
    }
    end_all(&hierarchy, cgroup, runc_root);
    Ok(0)
}

/// How the node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    InOrder,
    Died,
}

/// Freezes what must stand still, until the node ends.
fn watch(hierarchy: &Hierarchy, cgroup: &str) -> End {
    let (sender, words) = mpsc::channel();
    std::thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        // What is not a word is of a newer node than this program, which is replaced on disk, not in memory.
        lines.filter_map(|line| Word::read(&line)).try_for_each(|word| sender.send(word))
    });
    let mut watch = Watch::default();
    let mut said_farewell = false;
    loop {
        // Asked often instead of waited for: waiting does not count the time in suspend.
        let patience = if watch.depends_on_time() { POLL } else { IDLE };
        let word = words.recv_timeout(patience);
        // Also before a new lease is heard of: what the node let go on under the old one stands still.
        for container in watch.must_stand_still(boottime::now()) {
            hold_still(&hierarchy.group(&format!("{cgroup}/{container}")));
        }
        match word {
            Ok(word) => {
                said_farewell = word == Word::Farewell;
                watch.hear(word);
            }
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) if said_farewell => return End::InOrder,
            Err(RecvTimeoutError::Disconnected) => return End::Died,
        }
    }
}

/// Freezes a container, unless it stands still already or is being dumped. CRIU thaws what it dumps, as it has work to do
/// within the processes, which it holds itself: frozen meanwhile, the dump would hang, and in the end take the job with it.
/// What CRIU lets go is frozen by the next look.
fn hold_still(container: &Group) {
    if !container.is_frozen() && !traced::from_outside(&container.processes()) {
        // What is not there or does not stand yet is tried again.
        let _ = container.try_freeze();
    }
}

fn end_all(hierarchy: &Hierarchy, cgroup: &str, runc_root: &Path) {
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
