//! A real S3 server on this machine, for tests: used through `#[path]` by those of other crates, too.
//!
//! It is a Garage of one node. It ends with the test, however that ends, and so do its files.

#![allow(dead_code, clippy::unwrap_used, reason = "not every test uses everything")]

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The bucket that is there from the start.
pub const BUCKET: &str = "blobs";
pub const ACCESS_KEY: &str = "GK0123456789abcdef01234567";
pub const SECRET: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
const REGION: &str = "garage";
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);
/// Ports that the kernel gave may be taken by somebody else before the server takes them.
const TRIES: usize = 5;

/// Where Garage is. If it is missing, says so; in CI that is a failure.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/local/sbin".into(), "/usr/local/bin".into()]);
    let found = folders.map(|folder| folder.join("garage")).find(|program| program.is_file());
    if found.is_none() {
        let required = ["CI", "WORKRS_REQUIRE_REAL"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!required, "garage must be installed: scripts/setup.sh does it");
        // Unlike that of `eprintln!`, this is not held back when a test passes.
        let _closed = writeln!(std::io::stderr(), "skipped: garage not found");
    }
    found
}

/// An S3 server.
pub struct S3Server {
    program: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    bucket: String,
    child: Option<Child>,
}

impl S3Server {
    /// Starts a server that has the bucket [`BUCKET`], and waits until it can be used; `None` if there is none.
    pub fn start() -> Option<Self> {
        let program = program()?;
        let mut said = String::new();
        for _ in 0..TRIES {
            let mut server = Self::new(&program);
            server.spawn();
            if server.wait_until_ready() {
                return Some(server);
            }
            said = server.log();
        }
        panic!("garage did not start in {TRIES} tries: {said}");
    }

    fn new(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [port, rpc_port] = free_ports();
        let (root, rpc_secret) = (folder.path().display(), "5a".repeat(32));
        let config = format!(
            r#"
metadata_dir = "{root}/meta"
data_dir = "{root}/data"
db_engine = "lmdb"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc_port}"
rpc_public_addr = "127.0.0.1:{rpc_port}"
rpc_secret = "{rpc_secret}"

[s3_api]
api_bind_addr = "127.0.0.1:{port}"
s3_region = "{REGION}"
root_domain = ".localhost"
"#
        );
        std::fs::write(folder.path().join("garage.toml"), config).unwrap();
        let mut server = Self { program: program.to_owned(), folder, port, bucket: BUCKET.to_owned(), child: None };
        server.write_credentials("credentials", SECRET);
        server
    }

    /// Where a client finds it.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A URL of blobs, to be used with the credentials in [`Self::env`].
    pub fn url(&self, bucket: &str, prefix: &str) -> String {
        format!("s3://{bucket}/{prefix}?endpoint={}&region={REGION}", self.endpoint())
    }

    /// A URL of blobs that names a file with the credentials.
    pub fn url_with_credentials(&self, bucket: &str, prefix: &str) -> String {
        let file = self.folder.path().join("credentials");
        format!("{}&credentials={}", self.url(bucket, prefix), file.display())
    }

    /// Writes a file of credentials with this secret.
    pub fn write_credentials(&mut self, name: &str, secret: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        writeln!(file, "[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}").unwrap();
        path
    }

    /// Kills the server as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts the server again, and waits until it can be used.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
        assert!(self.wait_until_ready(), "garage did not start again: {}", self.log());
    }

    /// Sets up the server anew at the same place, with nothing but this bucket.
    pub fn wipe(&mut self, bucket: &str) {
        self.kill();
        for name in ["meta", "data"] {
            std::fs::remove_dir_all(self.folder.path().join(name)).unwrap();
        }
        bucket.clone_into(&mut self.bucket);
        self.restart();
    }

    /// Stops the server: its connections stay, but nobody answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets the server go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// What the server said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        // Whoever ends the tests by force ends their servers, too.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
        command.arg("-c").arg(self.folder.path().join("garage.toml"));
        command.args(["server", "--single-node", "--default-bucket"]);
        // The user's own settings are about another server.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GARAGE_")) {
            command.env_remove(name);
        }
        command.env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY).env("GARAGE_DEFAULT_SECRET_KEY", SECRET);
        command.env("GARAGE_DEFAULT_BUCKET", &self.bucket);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.expect("setpriv, which is in util-linux"));
    }

    /// Whether the server comes to answer requests; not if it ended.
    fn wait_until_ready(&mut self) -> bool {
        let begun = Instant::now();
        // Whoever has no key is refused.
        while !ask(self.port).is_ok_and(|answer| answer.starts_with("HTTP/1.1 403")) {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            assert!(begun.elapsed() < PATIENCE, "garage is not ready after {PATIENCE:?}: {}", self.log());
            std::thread::sleep(POLL);
        }
        true
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let (_ended, _reaped) = (child.kill(), child.wait());
        }
    }
}

fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /{BUCKET}/x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
