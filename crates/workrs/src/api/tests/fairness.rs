//! Many streams and fast callers beside others.

use std::net::SocketAddr;

use axum::{body::Body, http};
use futures::stream;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::listen::Peer;

const MANY: usize = 1_000;

/// Each stream takes two files of this process, one for either end.
fn allow_many_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most).unwrap();
}

/// An event stream that has begun.
struct Events {
    stream: tokio::net::TcpStream,
    read: String,
}

impl Events {
    async fn open(url: &str) -> Self {
        let mut stream = tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
        let request = format!("GET /api/v1/events HTTP/1.1\r\nhost: n\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self { stream, read: String::new() };
        events.until("\r\n\r\n").await;
        assert!(events.read.starts_with("HTTP/1.1 200"), "{}", events.read);
        events
    }

    /// Reads on until this has come.
    async fn until(&mut self, wanted: &str) {
        let mut piece = [0; 4_096];
        while !self.read.contains(wanted) {
            let len = self.stream.read(&mut piece).await.unwrap();
            assert_ne!(len, 0, "the stream ended: {}", self.read);
            self.read.push_str(&String::from_utf8_lossy(&piece[..len]));
        }
    }
}

#[tokio::test]
async fn a_thousand_event_streams_share_what_they_cost_and_keep_nobody_waiting() {
    allow_many_files();
    let faults = Faults::none();
    let group = Group::new(faults.clone()).await;
    let node = TestNode::start(&group, "n").await;
    let mut streams = vec![Events::open(&node.url).await];
    let one = faults.count();
    while streams.len() < MANY {
        streams.push(Events::open(&node.url).await);
    }
    assert_eq!(faults.count(), one, "what is watched is watched once");
    let id = group.submit("job").await;
    // While half of them read nothing.
    for stream in &mut streams[MANY / 2..] {
        stream.until("event: job").await;
    }
    assert_eq!(node.get("/api/v1/jobs/job").await.0, 200);
    assert_eq!(node.client().job(id.as_str(), None).await.unwrap().state, "queued");
    for stream in &mut streams[..MANY / 2] {
        stream.until("event: job").await;
    }
    assert!(streams.iter().all(|stream| stream.read.contains(r#""id":"job""#)));
}

#[tokio::test]
async fn after_the_last_stream_nothing_is_watched_and_the_next_one_begins_anew() {
    let faults = Faults::none();
    let group = Group::new(faults.clone()).await;
    let node = TestNode::start(&group, "n").await;
    let mut first = Events::open(&node.url).await;
    group.submit("first").await;
    first.until("event: job").await;
    drop(first);
    // It costs something again once the node has seen that the one before is gone.
    loop {
        let before = faults.count();
        let mut next = Events::open(&node.url).await;
        let began_anew = faults.count() > before;
        group.submit(&fresh::id()).await;
        next.until("event: job").await;
        if began_anew {
            break;
        }
    }
}

/// The answers to requests of the same caller, one after the other.
async fn answers(router: &Router, address: &str, token: &str, count: usize) -> Vec<Response> {
    let peer = Peer { address: SocketAddr::new(address.parse().unwrap(), 1), tls: false };
    let ask = |_| {
        let request = http::Request::get("/api/v1/nodes").header(header::AUTHORIZATION, format!("Bearer {token}"));
        let request = request.extension(peer).body(Body::empty()).unwrap();
        let router = TowerToHyperService::new(router.clone());
        async move { router.call(request).await.unwrap() }
    };
    stream::iter(0..count).then(ask).collect().await
}

fn statuses(answers: &[Response]) -> Vec<u16> {
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status().as_u16()).collect();
    statuses.dedup();
    statuses
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_asks_too_fast_is_told_when_to_come_again() {
    let group = Group::new(Faults::none()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut api = api(&group, folder.path());
    api.fairness = Arc::new(Fairness::new(Some(5)));
    let router = router(api);
    let mut answered = answers(&router, "192.0.2.1", TOKEN, 12).await;
    assert_eq!(answered.iter().filter(|answer| answer.status() == 200).count(), 10, "twice the rate at once");
    let last = answered.pop().unwrap();
    assert_eq!((last.status().as_u16(), &last.headers()[header::RETRY_AFTER]), (429, &"1".parse().unwrap()));
    let problem = axum::body::to_bytes(last.into_body(), MAX_BODY).await.unwrap();
    let problem: Problem = serde_json::from_slice(&problem).unwrap();
    assert_eq!(problem.kind, "urn:workrs:problem:rate-limited");
    assert_eq!(statuses(&answers(&router, "192.0.2.2", TOKEN, 5).await), [200], "others are not held up");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(statuses(&answers(&router, "192.0.2.1", TOKEN, 6).await), [200, 429]);
}

#[tokio::test(start_paused = true)]
async fn tokens_cannot_be_guessed_at_speed() {
    let group = Group::new(Faults::none()).await;
    let folder = tempfile::tempdir().unwrap();
    let router = router(api(&group, folder.path()));
    assert_eq!(statuses(&answers(&router, "192.0.2.1", "wrong", 200).await), [401, 429]);
    assert_eq!(statuses(&answers(&router, "192.0.2.1", TOKEN, 1).await), [429], "nor is a good guess confirmed");
    assert_eq!(statuses(&answers(&router, "192.0.2.2", TOKEN, 1).await), [200]);
    // On this machine one user must not lock out another.
    assert_eq!(statuses(&answers(&router, "127.0.0.1", "wrong", 200).await), [401]);
    assert_eq!(statuses(&answers(&router, "127.0.0.1", TOKEN, 1).await), [200]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(statuses(&answers(&router, "192.0.2.1", TOKEN, 1).await), [200]);
}
