//! Several nodes' APIs in one process, over one state and real connections.

mod contract;
mod fairness;
mod images;
mod login;
mod matrix;
mod owners;
mod quotas;
mod tls;

use std::path::Path;

use futures::StreamExt;
use tokio::{sync::watch, task::JoinHandle};
use workrs_core::{
    id::{Epoch, Incarnation, JobId, NodeId, Owner},
    job::{Holder, JobEvent, JobRecord, Outcome},
    keys,
    spec::JobSpec,
};
use workrs_store::{
    faulty::{Fault, Faults, FaultyState},
    fresh,
    redb::RedbStore,
    state::{Change, Transaction},
};

use super::*;
use crate::{
    client::{Client, ClientError},
    joblog::{LiveLog, Segment, store_segment},
    tls::Fingerprint,
    wire::GROUP_BLOB,
};

const TOKEN: &str = "s3cret";

/// The stores of a group.
#[derive(Clone)]
struct Group {
    records: Records,
    blobs: Blobs,
}

impl Group {
    async fn new(faults: Faults) -> Self {
        let state = FaultyState::new(Arc::new(RedbStore::in_memory()), faults);
        let blobs = Blobs::open("memory:").unwrap();
        blobs.put(GROUP_BLOB, "the-group".into()).await.unwrap();
        Self { records: Records::new(Arc::new(state)), blobs }
    }

    async fn submit(&self, id: &str) -> JobId {
        self.submit_for("local", id).await
    }

    async fn submit_for(&self, owner: &str, id: &str) -> JobId {
        let id = JobId::new(id).unwrap();
        let spec = JobSpec::new("n", vec!["true".to_owned()]);
        let record = JobRecord::submitted(id.clone(), Owner::new(owner).unwrap(), spec, None, fresh::now());
        self.records.submit(record, &fresh::operation()).await.unwrap();
        id
    }

    /// Writes the key of a node.
    async fn announce(&self, name: &NodeId, incarnation: &Incarnation, url: &str, certificate: Option<Fingerprint>) {
        let info = serde_json::json!({
            "tls_fingerprint": certificate, "name": name, "incarnation": incarnation, "address": url, "version": "0", "started_at": 0,
            "cpus_milli": 1_000, "memory_bytes": 1_u64 << 30, "disk_bytes": 4_u64 << 30, "engine": "none",
        });
        let changes = vec![Change::Put(keys::node(name, incarnation), info.to_string().into(), None)];
        let put = Transaction { conditions: Vec::new(), changes };
        self.records.store().commit(put).await.unwrap();
    }

    /// What a node's API needs; archives stay in `work_dir` while they are read.
    fn api(&self, incarnation: &Incarnation, access: Access, work_dir: &Path) -> Api {
        Api {
            records: self.records.clone(),
            quotas: Arc::new(Quotas::new(Arc::clone(self.records.store()))),
            blobs: self.blobs.clone(),
            images: Images::new(Arc::clone(self.records.store()), self.blobs.clone()),
            pulls: Arc::new(Pulls::new(Vec::new())),
            work_dir: work_dir.to_owned(),
            live_logs: LiveLogs::default(),
            peers: Peers::new(incarnation.clone(), Some(TOKEN.to_owned())).unwrap(),
            capacity: Arc::new(GroupCapacity::new(self.records.clone())),
            index: Arc::new(JobIndex::new(self.records.clone())),
            fullness: Arc::new(Fullness::new(Arc::clone(self.records.store()))),
            access: Arc::new(access),
            fairness: Arc::new(Fairness::new(None)),
            events: Feed::default(),
            certificates: None,
            stopping: CancellationToken::new(),
        }
    }

    async fn apply(&self, id: &JobId, event: JobEvent) {
        self.records.apply(id, &event, &[], &fresh::operation()).await.unwrap();
    }
}

/// The API of a node that runs nothing.
fn api(group: &Group, work_dir: &Path) -> Api {
    let address = "127.0.0.1:7480".parse().unwrap();
    let access = Access::new(address, Some(TOKEN.to_owned()), Arc::clone(group.records.store()));
    group.api(&fresh::incarnation(), access, work_dir)
}

/// The API of a node whose loops are played by the test.
struct TestNode {
    name: NodeId,
    incarnation: Incarnation,
    url: String,
    live_logs: LiveLogs,
    /// Where archives stay while they are read.
    work_dir: tempfile::TempDir,
    server: JoinHandle<Result<(), TlsError>>,
}

impl TestNode {
    async fn start(group: &Group, name: &str) -> Self {
        Self::start_showing(group, name, None, None).await
    }

    /// A node that shows these certificates, and says that it shows the one of this fingerprint.
    async fn start_showing(
        group: &Group,
        name: &str,
        certificates: Option<Arc<Certificates>>,
        tls_fingerprint: Option<Fingerprint>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (name, incarnation) = (NodeId::new(name).unwrap(), fresh::incarnation());
        let url = format!("{}://{address}", if certificates.is_some() { "https" } else { "http" });
        group.announce(&name, &incarnation, &url, tls_fingerprint).await;
        let (live_logs, work_dir) = (LiveLogs::default(), tempfile::tempdir().unwrap());
        let access = Access::new(address, Some(TOKEN.to_owned()), Arc::clone(group.records.store()));
        let mut api = group.api(&incarnation, access, work_dir.path());
        api.live_logs = live_logs.clone();
        api.certificates = certificates;
        let server = tokio::spawn(serve(listener, api));
        Self { name, incarnation, url, live_logs, work_dir, server }
    }

    fn client(&self) -> Client {
        Client::new(std::slice::from_ref(&self.url), Some(TOKEN.to_owned())).unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let request = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("{}{path}", self.url));
        let answer = request.bearer_auth(TOKEN).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: &'static str) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.request(method, format!("{}{path}", self.url)).body(body);
        let answer = request.bearer_auth(TOKEN).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    fn holder(&self, epoch: u64) -> Holder {
        Holder { node: self.name.clone(), incarnation: self.incarnation.clone(), epoch: Epoch(epoch) }
    }

    /// Runs the job, which has printed `text` so far.
    async fn run(&self, group: &Group, id: &JobId, epoch: u64, text: &str) -> Attempt {
        let holder = self.holder(epoch);
        group.apply(id, JobEvent::Claimed { holder: holder.clone(), at: fresh::now() }).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, text).unwrap();
        let (len, receiver) = watch::channel(text.len() as u64);
        self.live_logs.insert(id.clone(), LiveLog { epoch: Epoch(epoch), from: 0, path, len: receiver });
        Attempt { folder, len, text: text.to_owned() }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Attempt {
    folder: tempfile::TempDir,
    len: watch::Sender<u64>,
    text: String,
}

impl Attempt {
    fn print(&mut self, text: &str) {
        self.text.push_str(text);
        std::fs::write(self.folder.path().join("log"), &self.text).unwrap();
        self.len.send_replace(self.text.len() as u64);
    }
}

fn bytes(offset: u64, data: &str) -> LogLine {
    LogLine::Bytes { offset, data: data.to_owned() }
}

#[tokio::test]
async fn any_node_gives_the_log_of_a_job_that_runs_on_another() {
    let group = Group::new(Faults::none()).await;
    let (asked, other) = (TestNode::start(&group, "asked").await, TestNode::start(&group, "other").await);
    let id = group.submit("job-1").await;
    let mut first = other.run(&group, &id, 1, "one\n").await;

    let client = asked.client();
    let now: Vec<_> = client.logs(id.as_str(), 0, false).await.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(now, [bytes(0, "one\n"), LogLine::End]);
    let behind: Vec<_> = client.logs(id.as_str(), 2, false).await.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(behind, [bytes(2, "e\n"), LogLine::End]);

    let mut lines = Box::pin(client.logs(id.as_str(), 0, true).await.unwrap());
    assert_eq!(lines.next().await.unwrap().unwrap(), bytes(0, "one\n"));
    first.print("two\n");
    assert_eq!(lines.next().await.unwrap().unwrap(), bytes(4, "two\n"));

    // The node dies: what it printed is void, as there is no checkpoint. That is told once.
    let holder = other.holder(1);
    drop((other, first));
    group.apply(&id, JobEvent::NodeLost { holder, at: fresh::now(), reason: "it died".to_owned() }).await;
    assert_eq!(lines.next().await.unwrap().unwrap(), LogLine::Rewound { offset: 0 });
    let third = TestNode::start(&group, "third").await;
    let second = third.run(&group, &id, 2, "one\ntwo again\n").await;
    assert_eq!(lines.next().await.unwrap().unwrap(), bytes(0, "one\ntwo again\n"));

    let segment = Segment { epoch: Epoch(2), from: 0, to: 14 };
    store_segment(&group.blobs, &id, segment, &second.folder.path().join("log"), 0).await.unwrap();
    let (holder, outcome) = (third.holder(2), Outcome::Succeeded);
    let finished =
        JobEvent::Finished { holder, at: fresh::now(), outcome, outputs: None, output_bytes: 0, log_bytes: 14 };
    group.apply(&id, finished).await;
    assert_eq!(lines.next().await.unwrap().unwrap(), LogLine::End);
}

#[tokio::test]
async fn a_follower_leaves_a_node_that_does_not_know_that_it_lost_the_job() {
    let group = Group::new(Faults::none()).await;
    let (asked, other) = (TestNode::start(&group, "asked").await, TestNode::start(&group, "other").await);
    let id = group.submit("job-1").await;
    let _cut_off = other.run(&group, &id, 1, "one\ntwo\n").await;
    let mut lines = Box::pin(asked.client().logs(id.as_str(), 0, true).await.unwrap());
    assert_eq!(lines.next().await.unwrap().unwrap(), bytes(0, "one\ntwo\n"));
    let lost = JobEvent::NodeLost { holder: other.holder(1), at: fresh::now(), reason: "out of reach".to_owned() };
    group.apply(&id, lost).await;
    let _resumed = asked.run(&group, &id, 2, "longer than what the other one printed\n").await;
    assert_eq!(lines.next().await.unwrap().unwrap(), LogLine::Rewound { offset: 0 });
    assert_eq!(lines.next().await.unwrap().unwrap(), bytes(0, "longer than what the other one printed\n"));
}

#[tokio::test]
async fn a_drain_stands_until_it_is_undone() {
    let group = Group::new(Faults::none()).await;
    let (asked, other) = (TestNode::start(&group, "asked").await, TestNode::start(&group, "other").await);
    let id = group.submit("job-1").await;
    let _attempt = other.run(&group, &id, 1, "").await;
    let client = asked.client();
    let refused = client.drain("nobody", true).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused(problem) if problem.status == 404));
    for _ in 0..2 {
        let view = client.drain("other", true).await.unwrap();
        let expect = DrainView { name: "other".into(), draining: true, live: true, jobs: vec!["job-1".into()] };
        assert_eq!(view, expect);
    }
    assert!(group.records.store().get(&keys::drain(&other.name)).await.unwrap().is_some());
    let drained = |nodes: Vec<NodeView>| nodes.into_iter().map(|node| (node.name, node.draining)).collect::<Vec<_>>();
    let expect = [("asked".to_owned(), false), ("other".to_owned(), true)];
    assert_eq!(drained(client.nodes().await.unwrap()), expect);
    for _ in 0..2 {
        assert!(!client.drain("other", false).await.unwrap().draining);
    }
    assert!(group.records.store().get(&keys::drain(&other.name)).await.unwrap().is_none());
}

#[tokio::test]
async fn readiness_names_the_store_that_does_not_answer() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    assert_eq!(node.get("/readyz").await, (200, "ready\n".to_owned()));
    let other_blobs = Group { blobs: Blobs::open("memory:").unwrap(), ..group };
    let (status, text) = TestNode::start(&other_blobs, "m").await.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("the blob store cannot be reached"), "{text}");
    // The first operation announces the node, the second is the question, and takes longer than anybody waits.
    for fault in [Fault::Refuse, Fault::Delay(Duration::from_secs(60))] {
        let node = TestNode::start(&Group::new(Faults::at(2, fault)).await, "n").await;
        let (status, text) = node.get("/readyz").await;
        assert_eq!(status, 503, "{fault:?}");
        assert!(text.contains("the state store cannot be reached"), "{text}");
    }
}

#[tokio::test]
async fn a_scrape_costs_the_same_however_many_jobs_there_are() {
    let faults = Faults::none();
    let group = Group::new(faults.clone()).await;
    let node = TestNode::start(&group, "n").await;
    for number in 0..20 {
        group.submit(&format!("job-{number}")).await;
    }
    let before = faults.count();
    for _ in 0..3 {
        let (status, text) = node.get("/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("# TYPE workrs_state_used_bytes gauge"), "{text}");
    }
    assert_eq!(faults.count() - before, 1, "how full the store is, once");
}
