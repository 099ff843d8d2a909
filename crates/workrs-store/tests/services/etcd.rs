//! A real etcd cluster on this machine, for tests: used through `#[path]` by those of other crates, too.
//!
//! Its members end with the test, however that ends, and so do their files.

#![allow(dead_code, clippy::unwrap_used, reason = "not every test uses everything")]

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);
/// Ports that the kernel gave may be taken by somebody else before a member takes them.
const TRIES: usize = 5;

/// Where etcd is. If it is missing, says so; in CI that is a failure.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/local/sbin".into(), "/usr/local/bin".into()]);
    let found = folders.map(|folder| folder.join("etcd")).find(|program| program.is_file());
    if found.is_none() {
        let required = ["CI", "WORKRS_REQUIRE_REAL"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!required, "etcd must be installed: scripts/setup.sh does it");
        tell("skipped: etcd not found");
    }
    found
}

/// Tells the person who runs the tests something, although output of tests that pass is not shown.
pub fn tell(text: &str) {
    // Unlike that of `eprintln!`, this is never held back.
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// A cluster of one or three members.
pub struct Cluster {
    members: Vec<Member>,
    folder: tempfile::TempDir,
}

struct Member {
    arguments: Vec<String>,
    client_port: u16,
    health_port: u16,
    program: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// Certificates for TLS: `ca.pem`, and `server` and `client` with `.pem` and `-key.pem` each.
pub struct Certificates(tempfile::TempDir);

impl Cluster {
    /// Starts a cluster and waits until it can be used; `None` if etcd is not installed.
    pub fn start(members: usize) -> Option<Self> {
        Self::start_with(members, &[])
    }

    /// Starts a cluster whose members get some more options.
    pub fn start_with(members: usize, options: &[&str]) -> Option<Self> {
        Self::start_on(members, "http", options)
    }

    /// Starts a cluster that talks to clients by TLS only, and wants to see their certificates.
    pub fn start_with_tls(members: usize, certificates: &Certificates) -> Option<Self> {
        let file = |name: &str| certificates.file(name).to_string_lossy().into_owned();
        let (ca, cert, key) = (file("ca.pem"), file("server.pem"), file("server-key.pem"));
        let options = ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
        Self::start_on(members, "https", &options)
    }

    fn start_on(members: usize, scheme: &str, options: &[&str]) -> Option<Self> {
        let program = program()?;
        for _ in 0..TRIES {
            let mut cluster = Self::new(&program, members, scheme, options);
            for member in 0..members {
                cluster.spawn(member);
            }
            if (0..members).all(|member| cluster.wait_until_healthy(member)) {
                return Some(cluster);
            }
        }
        panic!("etcd did not start in {TRIES} tries");
    }

    fn new(program: &Path, members: usize, scheme: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports(members * 3);
        let peer = |member: usize| format!("http://127.0.0.1:{}", ports[member * 3]);
        let all: Vec<_> = (0..members).map(|member| format!("m{member}={}", peer(member))).collect();
        let members = (0..members).map(|member| {
            let (client_port, health_port) = (ports[member * 3 + 1], ports[member * 3 + 2]);
            let client = format!("{scheme}://127.0.0.1:{client_port}");
            let health = format!("http://127.0.0.1:{health_port}");
            let data = folder.path().join(format!("m{member}")).to_string_lossy().into_owned();
            let fixed = [
                ("--name", format!("m{member}")),
                ("--data-dir", data),
                ("--listen-peer-urls", peer(member)),
                ("--initial-advertise-peer-urls", peer(member)),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-metrics-urls", health),
                ("--initial-cluster", all.join(",")),
                ("--log-level", "warn".to_owned()),
            ];
            let fixed = fixed.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
            let arguments = fixed.chain(options.iter().map(|&option| option.to_owned())).collect();
            let log = folder.path().join(format!("m{member}.log"));
            Member { arguments, client_port, health_port, program: program.to_owned(), log, child: None }
        });
        Self { members: members.collect(), folder }
    }

    /// `host:port` of all members, for clients.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.client_port)).collect()
    }

    /// The URL of a store in this cluster.
    pub fn url(&self, prefix: &str) -> String {
        format!("etcd://{}/{prefix}", self.endpoints().join(","))
    }

    /// Kills a member as a power cut would.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts a member that was killed, and waits until it can be used.
    pub fn restart(&mut self, member: usize) {
        self.kill(member);
        self.spawn(member);
        assert!(self.wait_until_healthy(member), "m{member} did not start again: {}", self.log(member));
    }

    /// Starts all members that do not run, and waits until they can be used.
    pub fn restart_all(&mut self) {
        let dead: Vec<_> = (0..self.members.len()).filter(|member| self.members[*member].child.is_none()).collect();
        for member in &dead {
            self.spawn(*member);
        }
        for member in dead {
            assert!(self.wait_until_healthy(member), "m{member} did not start again: {}", self.log(member));
        }
    }

    /// Stops a member: its connections stay, but nobody answers.
    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::STOP);
    }

    /// Lets a member go on that was stopped, and waits until it can be used.
    pub fn resume(&mut self, member: usize) {
        self.signal(member, Signal::CONT);
        assert!(self.wait_until_healthy(member), "m{member} did not go on: {}", self.log(member));
    }

    /// What a member complained about.
    pub fn log(&self, member: usize) -> String {
        std::fs::read_to_string(&self.members[member].log).unwrap_or_default()
    }

    /// One of the numbers that a member tells of itself.
    pub fn metric(&self, member: usize, name: &str) -> u64 {
        let text = ask(self.members[member].health_port, "/metrics").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the member has this metric").parse::<f64>().unwrap() as u64
    }

    fn signal(&self, member: usize, signal: Signal) {
        let child = self.members[member].child.as_ref().expect("the member runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn spawn(&mut self, member: usize) {
        let member = &mut self.members[member];
        let log = File::options().create(true).append(true).open(&member.log).unwrap();
        // Whoever ends the tests by force ends their servers, too.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&member.program).args(&member.arguments);
        // The user's own settings are about another cluster.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        member.child = Some(child.expect("setpriv, which is in util-linux"));
    }

    /// Whether a member comes to answer linearizable reads; not if it ended.
    fn wait_until_healthy(&mut self, member: usize) -> bool {
        let begun = Instant::now();
        let member = &mut self.members[member];
        while !is_healthy(member.health_port) {
            if member.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            assert!(begun.elapsed() < PATIENCE, "etcd is not ready after {PATIENCE:?}");
            std::thread::sleep(POLL);
        }
        true
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let (_ended, _reaped) = (child.kill(), child.wait());
        }
    }
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

fn is_healthy(port: u16) -> bool {
    ask(port, "/health").is_ok_and(|answer| answer.contains(r#""health":"true""#))
}

fn ask(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Certificates {
    /// Makes an authority, and certificates for members on this machine and for a client; `None` without openssl.
    pub fn make() -> Option<Self> {
        let made = Self(tempfile::tempdir().unwrap());
        if Command::new("openssl").arg("version").output().is_err() {
            return None;
        }
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let authority = ["req", "-x509", "-subj", "/CN=test authority", "-keyout", "ca-key.pem", "-out", "ca.pem"];
        made.openssl(&[&authority[..], &new_key].concat());
        for name in ["server", "client"] {
            let (key, out) = (format!("{name}-key.pem"), format!("{name}.pem"));
            let subject = format!("/CN={name}");
            let signed = ["req", "-x509", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-subj", &subject];
            let files = ["-keyout", &key, "-out", &out, "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"];
            let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
            made.openssl(&[&signed[..], &files, &leaf, &new_key].concat());
        }
        Some(made)
    }

    /// One of the files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
