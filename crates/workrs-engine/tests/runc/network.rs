//! Jobs with the host's network, and without.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use workrs_core::{job::CheckpointMode, spec::Network};
use workrs_engine::{
    ContainerEnd, ContainerSpec, Engine, EngineError, Origin,
    conformance::{self, Output},
};

use crate::{
    limits::start,
    suite::{capture, on_engine, python, wait_for_line},
};

const PATIENCE: Duration = Duration::from_secs(180);

/// Listens, and keeps a connection to the port in its first argument; says each line that comes, and when the connection
/// has ended; then it connects anew and answers whoever connects to it.
const CLIENT: &str = r#"
import select, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
port = int(sys.argv[1])
inner = socket.socketpair()
within = socket.create_connection(listener.getsockname()), listener.accept()[0]
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 0))
link = socket.create_connection(("127.0.0.1", port))
link.sendall(b"first\n")
print(link.makefile().readline().strip(), listener.getsockname()[1], datagrams.getsockname()[1], flush=True)
print("received", link.recv(100), flush=True)
try:
    link.sendall(b"x")
    print("sent", flush=True)
except BrokenPipeError:
    print("broken pipe", flush=True)
print("within", within[0].recv(100), within[1].recv(100), flush=True)
inner[0].sendall(b"kept")
print(inner[1].recv(100).decode(), flush=True)
link = socket.create_connection(("127.0.0.1", port))
link.sendall(b"second\n")
print(link.makefile().readline().strip(), flush=True)
print(datagrams.recv(100).decode(), flush=True)
other, _ = listener.accept()
other.sendall(b"still listening\n")
"#;

fn with_network(job: &str, attempt: u32, command: Vec<String>) -> ContainerSpec {
    let mut spec = conformance::spec(job, attempt, command);
    spec.network = Network::Host;
    spec
}

/// Answers the first line of each connection with `hello` and it, and keeps the connections.
fn server() -> (u16, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, connections) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut line = String::new();
            BufReader::new(&connection).read_line(&mut line).unwrap();
            connection.write_all(format!("hello {line}").as_bytes()).unwrap();
            if sender.send(connection).is_err() {
                return;
            }
        }
    });
    (port, connections)
}

pub fn connections_outside_are_closed_by_a_restore() {
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (port, connections) = server();
        let mut command = python(CLIENT);
        command.push(port.to_string());
        let (container, mut output) = start(&engine, &with_network("client", 1, command.clone())).await;
        let said = wait_for_line(&mut output).await;
        let [hello, first, listens, datagrams] = said.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{said}")
        };
        assert_eq!((hello, first), ("hello", "first"));
        let listens: u16 = listens.parse().unwrap();
        let captured = capture(&*container, CheckpointMode::Full, &folder.path().join("into")).await;
        // The capture leaves the connection as it is.
        let mut first = connections.recv_timeout(PATIENCE).unwrap();
        first.write_all(b"still there\n").unwrap();
        assert_eq!(wait_for_line(&mut output).await.lines().next(), Some("received b'still there\\n'"));
        let again = conformance::gather(&captured, CheckpointMode::Full, &folder.path().join("from"));
        let again = engine.prepare(&with_network("client", 2, command.clone()), again).await.unwrap();
        // While the port is taken, the restore is refused with the reason.
        let (_, pipe) = Output::new();
        let refused = again.restore(pipe).await;
        assert!(
            matches!(&refused, Err(EngineError::Refused(why)) if why.contains("Address already in use")),
            "{refused:?}"
        );
        again.destroy().await.unwrap();
        let again = conformance::gather(&captured, CheckpointMode::Full, &folder.path().join("from"));
        container.destroy().await.unwrap();
        let again = engine.prepare(&with_network("client", 3, command), again).await.unwrap();
        let (mut output, pipe) = Output::new();
        again.restore(pipe).await.unwrap();
        connections.recv_timeout(PATIENCE).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"a datagram", ("127.0.0.1", datagrams.parse().unwrap())).unwrap();
        let mut line = String::new();
        let connection = TcpStream::connect(("127.0.0.1", listens)).unwrap();
        BufReader::new(connection).read_line(&mut line).unwrap();
        assert_eq!(line, "still listening\n");
        assert_eq!(again.wait().await, ContainerEnd::Exited(0));
        let expected = "received b''\nbroken pipe\nwithin b'' b''\nkept\nhello second\na datagram\n";
        assert_eq!(output.drain(), expected);
        again.destroy().await.unwrap();
    });
}

/// What there is to see of a network, of `/sys` and of names.
const LOOKS: &str = r#"
import os, socket
print(*sorted(name for _, name in socket.if_nameindex()))
print(*sorted(os.listdir("/sys/class/net")))
print(os.path.exists("/sys/devices/system/cpu/online"), os.listdir("/sys/fs/cgroup"), socket.gethostbyname("localhost"))
for try_it in [lambda: socket.create_server(("127.0.0.1", 80)), lambda: open("/sys/kernel/mm/ksm/run", "w")]:
    try:
        try_it()
    except OSError as error:
        print(type(error).__name__)
print(open("/etc/resolv.conf").read(), end="")
"#;

async fn look(engine: &dyn Engine, spec: &ContainerSpec) -> String {
    let container = engine.prepare(spec, Origin::New).await.unwrap();
    let (mut output, pipe) = Output::new();
    container.start(pipe).await.unwrap();
    let end = container.wait().await;
    let said = output.drain();
    assert_eq!(end, ContainerEnd::Exited(0), "{said}");
    container.destroy().await.unwrap();
    said
}

pub fn a_job_sees_the_network_that_it_is_given() {
    const SAME: &str = "True [] 127.0.0.1\nPermissionError\nOSError\n";
    on_engine(async |engine| {
        let none = look(&engine, &conformance::spec("none", 1, python(LOOKS))).await;
        assert_eq!(none, format!("lo\nlo\n{SAME}"));
        let interfaces = std::fs::read_dir("/sys/class/net").unwrap();
        let mut interfaces: Vec<_> =
            interfaces.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        // A file of the drivers, no interface.
        interfaces.retain(|name| name != "bonding_masters");
        interfaces.sort();
        let interfaces = interfaces.join(" ");
        let names = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let host = look(&engine, &with_network("host", 1, python(LOOKS))).await;
        assert_eq!(host, format!("{interfaces}\n{interfaces}\n{SAME}{names}"));
    });
}

/// Waits for an answer that never comes in one thread, and for a connection that is never made in another.
const WAITS: &str = r#"
import socket, sys, threading
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
link.sendall(b"first\n")
assert link.recv(100) == b"hello first\n"
said = {}
def wait():
    said["answer"] = link.recv(100)
def connect():
    try:
        socket.create_connection(("192.0.2.1", 9), timeout=3)
    except OSError as error:
        said["connect"] = type(error).__name__
threads = [threading.Thread(target=wait), threading.Thread(target=connect)]
for thread in threads:
    thread.start()
print("ready", flush=True)
for thread in threads:
    thread.join()
print(said)
"#;

pub fn who_waits_for_an_answer_outside_sees_its_end_after_a_restore() {
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (port, _connections) = server();
        let mut command = python(WAITS);
        command.push(port.to_string());
        let (container, mut output) = start(&engine, &with_network("waits", 1, command.clone())).await;
        wait_for_line(&mut output).await;
        let captured = capture(&*container, CheckpointMode::Full, &folder.path().join("into")).await;
        let origin = conformance::gather(&captured, CheckpointMode::Full, &folder.path().join("from"));
        container.destroy().await.unwrap();
        let again = engine.prepare(&with_network("waits", 2, command), origin).await.unwrap();
        let (mut output, pipe) = Output::new();
        again.restore(pipe).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, again.wait()).await.unwrap();
        let said = output.drain();
        println!("said: {said}");
        assert_eq!(end, ContainerEnd::Exited(0), "{said}");
        assert!(said.contains("'answer': b''"), "{said}");
        again.destroy().await.unwrap();
    });
}

/// Connects to a service of the host by a name that needs no file, for a while.
const HOLDS_A_SERVICE: &str = r#"
import socket, sys, time
link = socket.socket(socket.AF_UNIX)
link.connect("\0" + sys.argv[1])
print("ready", flush=True)
link.recv(100)
link.close()
print("closed", flush=True)
time.sleep(60)
"#;

pub fn a_connection_to_a_service_of_the_host_keeps_from_a_capture_while_it_lasts() {
    use std::os::{linux::net::SocketAddrExt, unix::net};
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let name = format!("workrs-test-{}", std::process::id());
        let address = net::SocketAddr::from_abstract_name(&name).unwrap();
        let service = net::UnixListener::bind_addr(&address).unwrap();
        let mut command = python(HOLDS_A_SERVICE);
        command.push(name);
        let (container, mut output) = start(&engine, &with_network("service", 1, command.clone())).await;
        wait_for_line(&mut output).await;
        let mut link = service.accept().unwrap().0;
        let mut frozen = container.freeze().await.unwrap();
        let failed = frozen.capture(CheckpointMode::Full, folder.path(), Duration::from_secs(30)).await;
        assert!(
            matches!(&failed, Err(EngineError::CannotCapture(why)) if why.contains("External socket")),
            "{failed:?}"
        );
        drop(frozen);
        link.write_all(b"at your service").unwrap();
        assert_eq!(wait_for_line(&mut output).await, "closed\n");
        conformance::discard(&capture(&*container, CheckpointMode::Full, &folder.path().join("into")).await);
        container.destroy().await.unwrap();
    });
}
