//! What a job may and may not do, and what happens when it meets its limits.

use workrs_core::job::CheckpointMode;
use workrs_engine::{
    Container, ContainerEnd, ContainerSpec, Engine, Origin,
    conformance::{self, Output},
    runc::RuncEngine,
};

use crate::suite::{EXHAUST_MEMORY, FILL_DISK, capture, count, on_engine, python, shell, wait_for_line};

pub async fn start(engine: &RuncEngine, spec: &ContainerSpec) -> (Box<dyn Container>, Output) {
    let container = engine.prepare(spec, Origin::New).await.unwrap();
    let (output, pipe) = Output::new();
    container.start(pipe).await.unwrap();
    (container, output)
}

/// Every line is a check that prints nothing if all is as it should be.
const SEES_LITTLE: &str = r#"
import ctypes, os, socket, subprocess
def refused(what, action):
    try: action()
    except OSError: return
    print("was allowed to", what)
for path in ["/x", "/usr/x", "/etc/x", "/dev/x", "/run/x", "/root/x", "/var/x", "/proc/sys/kernel/hostname", "/run/workrs/init"]:
    refused("write " + path, lambda: open(path, "w"))
refused("remove the init", lambda: os.unlink("/run/workrs/init"))
refused("rename the notes", lambda: os.rename("/run/workrs", "/run/w"))
refused("become root", lambda: os.setuid(0))
refused("make a node", lambda: os.mknod("/tmp/null", 0o20666, os.makedev(1, 3)))
for path in ["/job/x", "/tmp/x", "/var/tmp/x", "/dev/shm/x", "/home/job/x", "/run/lock/x"]:
    open(path, "w").write("x")
assert socket.if_nameindex() == [(1, "lo")], socket.if_nameindex()
with socket.create_server(("127.0.0.1", 0)) as server: socket.create_connection(server.getsockname())
status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]:
    assert int(status[capabilities], 16) == 0, capabilities
assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", status
assert os.getuid() == os.getgid() == 1000 and os.getpid() != 1 and os.getgroups() in ([], [1000]), os.getgroups()
assert [pid for pid in os.listdir("/proc") if pid.isdigit()].__len__() <= 3
libc = ctypes.CDLL(None, use_errno=True)
for name, call, arguments in [("io_uring_setup", 425, (8, 0)), ("userfaultfd", 323, (0,)), ("memfd_secret", 447, (0,)),
                              ("perf_event_open", 298, (0, 0, -1, -1, 0)), ("unshare", 272, (0x10000000,)),
                              ("clone", 56, (0x10000011, 0, 0, 0, 0)), ("bpf", 321, (0, 0, 0)), ("keyctl", 250, (0, -3, 0))]:
    if libc.syscall(call, *arguments) != -1: print("was allowed to call", name)
assert subprocess.run(["unshare", "--user", "true"], stderr=subprocess.DEVNULL).returncode != 0
assert open("/run/workrs/attempt").read() == "1\n"
assert os.environ["HOME"] == "/home/job" and "TMPDIR" not in os.environ
tmpfs = [line.split()[1] for line in open("/proc/mounts") if line.split()[2] == "tmpfs"]
for point in tmpfs: refused("write to the tmpfs " + point, lambda: open(point + "/x", "w"))
"#;

pub fn a_job_sees_little_and_can_change_less() {
    on_engine(async |engine| {
        let (container, mut output) = start(&engine, &conformance::spec("sees", 1, python(SEES_LITTLE))).await;
        let end = container.wait().await;
        assert_eq!((output.drain().as_str(), end), ("", ContainerEnd::Exited(0)));
        container.destroy().await.unwrap();
    });
}

const FORK_BOMB: &str = r"
import os, time
children = 0
try:
    while True:
        if os.fork() == 0: time.sleep(1000)
        children += 1
except BlockingIOError: print(children, flush=True)
time.sleep(1000)
";

pub fn a_fork_bomb_is_held() {
    on_engine(async |engine| {
        let mut spec = conformance::spec("bomb", 1, python(FORK_BOMB));
        spec.memory_bytes = 1 << 30;
        let (container, mut output) = start(&engine, &spec).await;
        let children: u32 = wait_for_line(&mut output).await.trim().parse().unwrap();
        assert!((400..512).contains(&children), "{children}");
        container.kill().await.unwrap();
        assert_eq!(container.wait().await, ContainerEnd::Signalled(9));
        container.destroy().await.unwrap();
    });
}

/// One capture of a shell that waits to be told what to do, restored once for each way to end.
pub fn ends_are_told_apart_after_a_restore() {
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let waits = shell("echo ready; while [ ! -e go ]; do sleep 0.02; done; . ./go");
        let (container, mut output) = start(&engine, &conformance::spec("ends", 1, waits.clone())).await;
        wait_for_line(&mut output).await;
        let captured = capture(&*container, CheckpointMode::Full, &folder.path().join("into")).await;
        let ends = [
            ("exit 7".to_owned(), ContainerEnd::Exited(7)),
            ("kill -SEGV $$".to_owned(), ContainerEnd::Signalled(11)),
            (format!("exec python3 -c '{}'", EXHAUST_MEMORY.replace("b'x'", "b\"x\"")), ContainerEnd::OutOfMemory),
            (FILL_DISK.to_owned(), ContainerEnd::DiskFull),
        ];
        for (attempt, (script, expected)) in (2..).zip(ends) {
            let origin = conformance::gather(&captured, CheckpointMode::Full, &folder.path().join("from"));
            let again = engine.prepare(&conformance::spec("ends", attempt, waits.clone()), origin).await.unwrap();
            let (_output, pipe) = Output::new();
            again.restore(pipe).await.unwrap();
            let attempt_file = again.job_folder().with_file_name("run").join("workrs/attempt");
            assert_eq!(std::fs::read_to_string(attempt_file).unwrap(), format!("{attempt}\n"));
            std::fs::write(again.job_folder().join("new"), script).unwrap();
            std::fs::rename(again.job_folder().join("new"), again.job_folder().join("go")).unwrap();
            assert_eq!(again.wait().await, expected);
            again.destroy().await.unwrap();
        }
        container.destroy().await.unwrap();
    });
}

/// The node's own faults are told from the job's.
pub fn an_init_killed_from_outside_is_a_fault_of_the_host() {
    on_engine(async |engine| {
        let (container, mut output) = start(&engine, &conformance::spec("outside", 1, count(1000, 20))).await;
        wait_for_line(&mut output).await;
        let pid_file = std::path::Path::new(crate::suite::DATA).join("run/outside-1/pid");
        let pid = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let init = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
        assert_eq!(container.wait().await, ContainerEnd::Vanished);
        container.destroy().await.unwrap();
    });
}
