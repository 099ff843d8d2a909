//! A group as tests see it: some nodes on machines of their own, the servers that they share, and what stood in the
//! state from the first moment on.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use workrs::api::{JobPage, JobView, NodeView, OutputsView};
use workrs_store::{
    blobs::Blobs,
    etcd::{EtcdOptions, EtcdStore},
    state::StateStore,
};

use crate::{
    harness::{Client, Images, Node, Said},
    history::{History, Recorder},
    host,
    http::{Answer, Request},
    network::{self, Machine, Network},
    programs::Program,
    services::{self, Etcd, Garage},
    tools::{PATIENCE, wait_until},
};

/// The port of the nodes, each at an address of its own.
const PORT: u16 = 7480;
/// All nodes and clients have this one.
const TOKEN: &str = "token-of-the-group";
/// Addresses of servers: number 1 is that of the tests, then come etcd's members, then Garage.
const FIRST_MEMBER: u8 = 2;
const GARAGE: u8 = 9;
const POLL: Duration = Duration::from_millis(100);
/// The lease of the nodes. Short, so that deaths are noticed soon, but with the shortest, of 2 s, a node loses it when etcd gives
/// no answer for 1.5 s, as is seen now and then when compilers run beside.
pub const LEASE: Duration = Duration::from_secs(3);

/// What a node can be cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Etcd,
    S3,
    /// All other nodes.
    Peers,
}

/// A group.
pub struct Cluster {
    pub nodes: Vec<Node>,
    machines: Vec<Machine>,
    recorder: Recorder,
    pub etcd: Etcd,
    garage: Garage,
    blobs: Blobs,
    network: Network,
    folder: tempfile::TempDir,
}

/// Whether groups can be started here. If not, says so; in CI that is a failure.
pub fn can_run() -> bool {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let missing = || services::missing().or_else(network::missing);
    host::can_run() && host::nothing_missing(MISSING.get_or_init(missing).as_deref())
}

impl Cluster {
    /// Some nodes with these options, once all are ready, on an etcd of so many members.
    pub fn start(nodes: usize, members: u8, options: &[&str]) -> Self {
        // If this process is killed, another one's tests know by the name that it may go.
        let name = format!("t{}-group-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&name).tempdir_in(host::base()).unwrap();
        let mut network = Network::new(GARAGE + 1);
        let addresses: Vec<_> = (0..members).map(|member| network.server(FIRST_MEMBER + member)).collect();
        let garage = Garage::start(folder.path(), network.server(GARAGE));
        let etcd = Etcd::start(folder.path(), &addresses);
        let options_of_etcd: EtcdOptions = state_url(&etcd).parse().unwrap();
        let recorder = Recorder::start(async {
            let store = EtcdStore::open(&options_of_etcd).await.unwrap();
            Arc::new(store) as Arc<dyn StateStore>
        });
        let machines: Vec<_> = (0..nodes).map(|_| network.machine()).collect();
        let blobs = Blobs::open(&garage.url_with_credentials("group", folder.path())).unwrap();
        let nodes = machines.iter().map(|machine| new_node(machine, &etcd, &garage, options)).collect();
        let mut cluster = Self { nodes, machines, recorder, etcd, garage, blobs, network, folder };
        cluster.nodes.iter_mut().for_each(Node::spawn);
        cluster.nodes.iter_mut().for_each(Node::wait_until_ready);
        cluster
    }

    /// A folder of the test's own.
    pub fn scratch(&self) -> PathBuf {
        let scratch = self.folder.path().join("scratch");
        fs::create_dir_all(&scratch).unwrap();
        scratch
    }

    /// A node on a machine of its own that could join the group, but is not started.
    pub fn stranger(&mut self) -> Node {
        new_node(&self.network.machine(), &self.etcd, &self.garage, &[])
    }

    /// Cuts a node off.
    pub fn cut(&self, node: usize, target: Target) {
        self.machines[node].cut(&self.addresses(node, target));
    }

    /// Undoes a cut.
    pub fn join(&self, node: usize, target: Target) {
        self.machines[node].join(&self.addresses(node, target));
    }

    fn addresses(&self, node: usize, target: Target) -> Vec<Ipv4Addr> {
        match target {
            Target::Etcd => self.etcd.addresses().to_vec(),
            Target::S3 => vec![self.garage.address()],
            Target::Peers => {
                let others = self.machines.iter().enumerate().filter(|(other, _)| *other != node);
                others.map(|(_, machine)| machine.address).collect()
            }
        }
    }

    /// The URLs of all nodes as a client takes them, those that are up first.
    pub fn servers(&self) -> String {
        let (up, down): (Vec<_>, Vec<_>) = self.nodes.iter().partition(|node| node.is_up());
        up.into_iter().chain(down).map(Node::url).collect::<Vec<_>>().join(",")
    }

    /// Runs a command of the client against the group.
    pub fn workrs(&self, arguments: &[&str]) -> Said {
        Said::by(&mut self.client().command(&self.servers(), arguments))
    }

    /// Whoever uses the group.
    pub fn client(&self) -> Client {
        self.nodes[0].client().believing(self.nodes.iter().filter_map(Node::fingerprint))
    }

    /// Runs a command of the client, again while the group cannot answer.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        wait_until(&format!("{arguments:?} succeeds"), || {
            let said = self.workrs(arguments);
            if said.code != Some(0) {
                host::tell(&format!("{arguments:?}: {}", said.err.trim()));
                std::thread::sleep(POLL);
            }
            (said.code == Some(0)).then_some(said.out)
        })
    }

    /// Hands a job over under this id, once.
    pub fn submit(&self, id: &str, program: &Program, checkpoint: &str) {
        let arguments = program.arguments(checkpoint);
        let own = arguments.iter().map(String::as_str);
        self.succeed(&["submit", "--json", "--disk", "32M", "--id", id].into_iter().chain(own).collect::<Vec<_>>());
    }

    /// What node `at` answers, within seconds.
    pub fn ask(&self, at: usize, path: &str) -> reqwest::Result<Answer> {
        let url = format!("{}{path}", self.nodes[at].url());
        Request::get(&url).token(Some(TOKEN)).within(Duration::from_secs(8)).send()
    }

    /// What a node that is up answers, as soon as one can.
    fn ask_any(&self, path: &str) -> String {
        wait_until(&format!("a node answers {path}"), || {
            let up = (0..self.nodes.len()).filter(|at| self.nodes[*at].is_up());
            let mut answers = up.filter_map(|at| self.ask(at, path).ok());
            answers.find(|answer| answer.status == 200).map(|answer| answer.body)
        })
    }

    pub fn job(&self, id: &str) -> JobView {
        serde_json::from_str(&self.ask_any(&format!("/api/v1/jobs/{id}"))).unwrap()
    }

    /// All jobs, as far as they are on one page.
    pub fn jobs(&self) -> Vec<JobView> {
        let page: JobPage = serde_json::from_str(&self.ask_any("/api/v1/jobs?limit=500")).unwrap();
        page.jobs
    }

    /// The live nodes, as the group sees them.
    pub fn members(&self) -> Vec<NodeView> {
        serde_json::from_str(&self.ask_any("/api/v1/nodes")).unwrap()
    }

    /// Which node holds a job.
    pub fn holder(&self, id: &str) -> Option<usize> {
        let name = self.job(id).node?;
        self.nodes.iter().position(|node| node.name() == name)
    }

    /// Waits until `holds` is true of the job and gives it as it then was.
    pub fn wait_for(&self, id: &str, what: &str, holds: impl Fn(&JobView) -> bool) -> JobView {
        let began = Instant::now();
        loop {
            let job = self.job(id);
            if holds(&job) {
                return job;
            }
            assert!(job.state != "finished", "the job finished before {what}: {job:#?}\nits log:\n{}", self.log(id));
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}: {job:#?}");
            std::thread::sleep(POLL);
        }
    }

    /// Waits until the program of the job runs under a claim of this epoch, and gives who holds it.
    pub fn running(&self, id: &str, epoch: u64) -> usize {
        let runs =
            |job: &JobView| job.attempts.last().is_some_and(|last| last.epoch == epoch && last.started_at.is_some());
        self.wait_for(id, &format!("it runs under epoch {epoch}"), runs);
        self.holder(id).expect("it runs")
    }

    /// Waits until the job has so many checkpoints and gives who holds it.
    pub fn checkpointed(&self, id: &str, count: u64) -> usize {
        let what = format!("it has {count} checkpoints");
        self.wait_for(id, &what, |job| job.totals.checkpoints >= count && job.node.is_some());
        self.holder(id).expect("it has just been held")
    }

    /// Waits until the job has ended well.
    pub fn succeeded(&self, id: &str) -> JobView {
        let job = self.wait_for(id, "it finishes", |job| job.state == "finished");
        assert_eq!(job.outcome.as_deref(), Some("succeeded"), "{job:#?}\nits log:\n{}", self.log(id));
        job
    }

    /// All that the job printed so far.
    pub fn log(&self, id: &str) -> String {
        self.ask_any(&format!("/api/v1/jobs/{id}/logs"))
    }

    /// The job's outputs by path; only texts.
    pub fn outputs(&self, id: &str) -> BTreeMap<String, Vec<u8>> {
        let outputs: OutputsView = serde_json::from_str(&self.ask_any(&format!("/api/v1/jobs/{id}/outputs"))).unwrap();
        let paths = outputs.files.into_iter().map(|file| file.path);
        paths
            .map(|path| (path.clone(), self.ask_any(&format!("/api/v1/jobs/{id}/outputs/{path}")).into_bytes()))
            .collect()
    }

    /// Blobs of jobs that have ended and need them no more.
    pub fn needless_blobs(&self) -> Vec<String> {
        let all = self.recorder.block_on(self.blobs.list("jobs/")).unwrap();
        let needless = |name: &String| name.contains("/checkpoints/") || name.contains("/inputs/");
        all.into_iter().map(|(name, _)| name).filter(needless).collect()
    }

    /// All that ever stood in the state.
    pub fn history(&self) -> History {
        self.recorder.history()
    }
}

/// Says what the nodes said when a test fails, as their files go with them.
impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let said = node.said_in_all();
                host::tell(&format!("node {} at {}:\n{said}", node.name(), node.url()));
            }
        }
    }
}

fn state_url(etcd: &Etcd) -> String {
    format!("etcd://{}/group", etcd.endpoints().join(",").replace("http://", ""))
}

fn new_node(machine: &Machine, etcd: &Etcd, garage: &Garage, options: &[&str]) -> Node {
    let listen = format!("{}:{PORT}", machine.address);
    let lease = format!("{}s", LEASE.as_secs());
    let (state, blobs) = (state_url(etcd), garage.url("group"));
    let own = ["--listen", &listen, "--state", &state, "--blobs", &blobs];
    let lease: &[&str] = if options.contains(&"--lease") { &[] } else { &["--lease", &lease] };
    // Nobody else is on the network of the tests.
    let (scheme, safe): (_, &[&str]) =
        if options.contains(&"--tls") { ("https", &[]) } else { ("http", &["--insecure"]) };
    let node = Node::new(&[&own, lease, safe, options].concat(), Images::Shared);
    let node = node.with_namespace(&machine.namespace).with_token(TOKEN).at(&format!("{scheme}://{listen}"));
    Garage::environment().into_iter().fold(node, |node, (name, value)| node.with_environment(name, value))
}
