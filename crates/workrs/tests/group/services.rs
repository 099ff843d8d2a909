//! The servers of a group: etcd with one member or three, and Garage. They end with their owner, or with the test.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{http, tools::wait_until};

const CLIENTS: u16 = 2379;
const PEERS: u16 = 2380;
const S3: u16 = 3900;
const RPC: u16 = 3901;
/// The only bucket.
const BUCKET: &str = "workrs";
const REGION: &str = "garage";
const ACCESS_KEY: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What is missing to start these servers, if anything is.
pub fn missing() -> Option<String> {
    ["etcd", "garage"].into_iter().find_map(|name| {
        let works = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        works.err().map(|error| format!("{name}: {error}"))
    })
}

/// A server that can be killed and started again.
struct Server {
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Server {
    fn new(arguments: Vec<String>, environment: Vec<(&'static str, String)>, log: PathBuf) -> Self {
        Self { arguments, environment, log, child: None }
    }

    fn start(&mut self) {
        assert!(self.child.is_none(), "the server runs: {:?}", self.arguments);
        let log = || fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.child = Some(command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended_already = child.kill();
            child.wait().unwrap();
        }
    }

    /// Waits until `ready` is true; a server that ended instead fails the test with what it said.
    fn wait_until(&mut self, what: &str, ready: impl Fn() -> bool) {
        wait_until(what, || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("{what}: it ended with {status}: {}", fs::read_to_string(&self.log).unwrap_or_default());
            }
            ready().then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An etcd of some members.
pub struct Etcd {
    members: Vec<Server>,
    addresses: Vec<Ipv4Addr>,
}

impl Etcd {
    /// A new one with a member at each of these addresses and its data in `folder`, once it can be used.
    pub fn start(folder: &Path, addresses: &[Ipv4Addr]) -> Self {
        let names = addresses.iter().enumerate().map(|(number, address)| (format!("member-{number}"), address));
        let cluster: Vec<_> = names.clone().map(|(name, at)| format!("{name}=http://{at}:{PEERS}")).collect();
        let members = names.map(|(name, address)| {
            let (clients, peers) = (format!("http://{address}:{CLIENTS}"), format!("http://{address}:{PEERS}"));
            let data = folder.join(&name).to_string_lossy().into_owned();
            let options = [
                ("--name", &name),
                ("--data-dir", &data),
                ("--listen-client-urls", &clients),
                ("--advertise-client-urls", &clients),
                ("--listen-peer-urls", &peers),
                ("--initial-advertise-peer-urls", &peers),
                ("--initial-cluster", &cluster.join(",")),
            ];
            let mut arguments = vec!["etcd".to_owned()];
            arguments.extend(options.into_iter().flat_map(|(option, value)| [option.to_owned(), value.clone()]));
            Server::new(arguments, Vec::new(), folder.join(format!("{name}.log")))
        });
        let mut etcd = Self { members: members.collect(), addresses: addresses.to_vec() };
        etcd.members.iter_mut().for_each(Server::start);
        (0..addresses.len()).for_each(|number| etcd.wait_until_ready(number));
        etcd
    }

    /// Where its members are.
    pub fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.addresses.iter().map(|address| format!("http://{address}:{CLIENTS}")).collect()
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Starts a member that was killed.
    pub fn restart(&mut self, member: usize) {
        self.members[member].start();
    }

    /// Waits until a member can reach the others and answers.
    pub fn wait_until_ready(&mut self, member: usize) {
        let url = format!("{}/health", self.endpoints()[member]);
        let healthy = || {
            let answer = http::Request::get(&url).within(Duration::from_secs(5)).send();
            answer.is_ok_and(|answer| answer.status == 200)
        };
        self.members[member].wait_until("etcd answers", healthy);
    }
}

/// An S3 server with one bucket.
pub struct Garage {
    _server: Server,
    address: Ipv4Addr,
}

impl Garage {
    /// A new one at this address with its data in `folder`, once it can be used.
    pub fn start(folder: &Path, address: Ipv4Addr) -> Self {
        let config = folder.join("garage.toml");
        let shown = folder.display();
        let text = format!(
            "metadata_dir = '{shown}/garage-meta'\ndata_dir = '{shown}/garage-data'\nreplication_factor = 1\n\
             rpc_bind_addr = '{address}:{RPC}'\nrpc_public_addr = '{address}:{RPC}'\nrpc_secret = '{SECRET}'\n\
             [s3_api]\ns3_region = '{REGION}'\napi_bind_addr = '{address}:{S3}'\n"
        );
        fs::write(&config, text).unwrap();
        let config = config.to_string_lossy().into_owned();
        let arguments = ["garage", "-c", &config, "server", "--single-node", "--default-bucket"];
        let environment = vec![
            ("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY.to_owned()),
            ("GARAGE_DEFAULT_SECRET_KEY", SECRET.to_owned()),
            ("GARAGE_DEFAULT_BUCKET", BUCKET.to_owned()),
        ];
        let arguments = arguments.map(str::to_owned).into();
        let mut server = Server::new(arguments, environment, folder.join("garage.log"));
        server.start();
        let url = format!("http://{address}:{S3}/");
        // Whoever does not say who they are is refused once the server works.
        server.wait_until("Garage answers", || http::get(&url).is_ok_and(|answer| answer.status == 403));
        Self { _server: server, address }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The URL of a folder in the bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint=http://{}:{S3}", self.address)
    }

    /// The same for a client that has nothing in its environment: it reads a file in this folder.
    pub fn url_with_credentials(&self, prefix: &str, folder: &Path) -> String {
        let file = folder.join("credentials");
        let text = format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET}\n");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        format!("{}&region={REGION}&credentials={}", self.url(prefix), file.display())
    }

    /// What a client has to find in its environment.
    pub fn environment() -> [(&'static str, &'static str); 3] {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", REGION)]
    }
}
