//! A real registry on this machine, for tests: used through `#[path]` by those of other crates, too.
//!
//! It is the one of Debian's `docker-registry`, with a folder and a port of its own. It ends with the test, however that
//! ends, and so do its files.

#![allow(dead_code, clippy::unwrap_used, reason = "not every test uses everything")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Who may use a registry that was [started with credentials](Registry::start_with_credentials).
pub const USERNAME: &str = "somebody";
pub const PASSWORD: &str = "secret";
/// Of the password, by bcrypt, which is the only form that the registry takes.
const PASSWORD_HASH: &str = "$2b$04$XWs/l4MaOEILViATbT05/.B.PQOsWPH79t28l6jsDVc8F0IDipuXC";
/// `somebody:secret` in base64.
pub const BASIC: &str = "c29tZWJvZHk6c2VjcmV0";

const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);
/// Ports that the kernel gave may be taken by somebody else before the registry takes them.
const TRIES: usize = 5;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Where the registry's program is. If it is missing, says so; in CI that is a failure.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/local/sbin".into(), "/usr/bin".into()]);
    let found = folders.map(|folder| folder.join("docker-registry")).find(|program| program.is_file());
    if found.is_none() {
        let required = ["CI", "WORKRS_REQUIRE_REAL"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!required, "docker-registry must be installed: scripts/setup.sh does it");
        // Unlike that of `eprintln!`, this is not held back when a test passes.
        let _closed = writeln!(std::io::stderr(), "skipped: docker-registry not found");
    }
    found
}

/// A registry.
pub struct Registry {
    folder: tempfile::TempDir,
    port: u16,
    needs_credentials: bool,
    child: Option<Child>,
}

impl Registry {
    /// Starts a registry that everybody may use, and waits until it can be used; `None` if it is not installed.
    pub fn start() -> Option<Self> {
        Self::start_as(false)
    }

    /// Starts a registry that only [`USERNAME`] may use.
    pub fn start_with_credentials() -> Option<Self> {
        Self::start_as(true)
    }

    fn start_as(needs_credentials: bool) -> Option<Self> {
        let program = program()?;
        let mut said = String::new();
        for _ in 0..TRIES {
            let mut registry = Self::new(needs_credentials);
            registry.spawn(&program);
            if registry.wait_until_ready() {
                return Some(registry);
            }
            said = std::fs::read_to_string(registry.folder.path().join("log")).unwrap();
        }
        panic!("docker-registry did not start in {TRIES} tries: {said}");
    }

    fn new(needs_credentials: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let root = folder.path().display();
        let auth = if needs_credentials {
            format!("auth: {{htpasswd: {{realm: test, path: {root}/users}}}}\n")
        } else {
            String::new()
        };
        // Without a cache, so that it sees what a test does to its files.
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {root}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{auth}"
        );
        std::fs::write(folder.path().join("config.yml"), config).unwrap();
        std::fs::write(folder.path().join("users"), format!("{USERNAME}:{PASSWORD_HASH}\n")).unwrap();
        Self { folder, port, needs_credentials, child: None }
    }

    fn spawn(&mut self, program: &Path) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.arg("serve").arg(self.folder.path().join("config.yml"));
        command.env("OTEL_TRACES_EXPORTER", "none").stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn wait_until_ready(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }

    /// Its name in references: `localhost:PORT`.
    pub fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Puts a blob into a repository; gives its descriptor, of this media type.
    pub fn push_blob(&self, repository: &str, media_type: &str, content: &[u8]) -> Value {
        let digest = digest_of(content);
        let (status, headers, _) = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[]);
        assert_eq!(status, 202, "{headers}");
        let location = headers.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
        });
        let location = location.unwrap();
        let path = location.find("/v2/").map(|start| &location[start..]).unwrap();
        let path = format!("{path}&digest={digest}");
        let (status, headers, body) = self.request("PUT", &path, "application/octet-stream", content);
        assert_eq!(status, 201, "{headers}{body}");
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    }

    /// Puts a manifest, or a list of manifests, into a repository under a tag (or its digest); gives its descriptor.
    pub fn push_manifest(&self, repository: &str, tag: &str, manifest: &Value) -> Value {
        let bytes = manifest.to_string().into_bytes();
        let digest = digest_of(&bytes);
        let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
        let tag = if tag.is_empty() { &digest } else { tag };
        let (status, headers, body) =
            self.request("PUT", &format!("/v2/{repository}/manifests/{tag}"), &media_type, &bytes);
        assert_eq!(status, 201, "{headers}{body}");
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Puts an image with these layers, uncompressed archives, into a repository; gives its manifest's descriptor.
    pub fn push_image(&self, repository: &str, tag: &str, settings: &Value, layers: &[&[u8]]) -> Value {
        let config = configuration(arch(), settings, layers);
        let config = self.push_blob(repository, CONFIG, config.to_string().as_bytes());
        let layers: Vec<Value> = layers.iter().map(|layer| self.push_blob(repository, LAYER, layer)).collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.push_manifest(repository, tag, &manifest)
    }

    /// The file in which the registry keeps a blob.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let digits = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&digits[..2]).join(digits).join("data")
    }

    /// One request; gives status, headers and body.
    fn request(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let auth = if self.needs_credentials { format!("Authorization: Basic {BASIC}\r\n") } else { String::new() };
        let kind = if media_type.is_empty() { String::new() } else { format!("Content-Type: {media_type}\r\n") };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{auth}{kind}Content-Length: {}\r\n\r\n",
            self.name(),
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (headers, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        (status, headers.to_owned(), body.to_owned())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

/// The configuration of an image with these layers.
pub fn configuration(arch: &str, settings: &Value, layers: &[&[u8]]) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest_of(layer)).collect();
    json!({
        "architecture": arch, "os": "linux", "config": settings,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

/// This host's architecture, in the words of images.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub fn digest_of(content: &[u8]) -> String {
    let digits: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}
