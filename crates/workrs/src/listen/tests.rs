//! Clients that are slow, silent or many, over real connections, while another one wants an answer.

use axum::{
    body::{Body, Bytes},
    extract::Request,
    response::IntoResponse,
    routing::{get, post},
};
use futures::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;
use crate::tls::{Certificates, Source, Trust};

/// A server with routes that clients can be slow at.
struct Server {
    address: SocketAddr,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(tls: Option<Arc<ServerConfig>>, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endless = || async {
            let piece = Bytes::from(vec![b'x'; 64 << 10]);
            Body::from_stream(stream::repeat(piece).map(Ok::<_, std::convert::Infallible>)).into_response()
        };
        let upload = |request: Request| async move {
            match axum::body::to_bytes(request.into_body(), usize::MAX).await {
                Ok(bytes) => format!("{} bytes", bytes.len()).into_response(),
                Err(_) => axum::http::StatusCode::REQUEST_TIMEOUT.into_response(),
            }
        };
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/endless", get(endless))
            .route("/upload", post(upload));
        let stopping = CancellationToken::new();
        let task = tokio::spawn(serve(listener, tls, limits, router, stopping.clone()));
        Self { address, stopping, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn says_hello(&self) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("http://{}/", self.address)).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "hello");
    }

    /// A connection on which this was sent, and nothing more comes.
    async fn half_said(&self, said: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(said.as_bytes()).await.unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const LIMITS: Limits = Limits { connections: 1_000, per_address: 100 };

#[tokio::test]
async fn whoever_is_slow_or_silent_keeps_nobody_waiting() {
    workrs_store::tls::provide();
    let server = Server::start(None, LIMITS).await;
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(server.connect().await);
        held.push(server.half_said("GET / HTTP/1.1\r\nhost: x\r\nslow").await);
        held.push(server.half_said("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf").await);
        // Its answer has no end, and is not read.
        held.push(server.half_said("GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await);
    }
    server.says_hello().await;
    drop(held);
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::open(&Source::SelfMade, folder.path(), &["localhost".to_owned()]).unwrap();
    let server = Server::start(Some(certificates.config().unwrap()), LIMITS).await;
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(server.connect().await);
        held.push(server.half_said("\u{16}\u{3}\u{1}").await);
    }
    let trust = Trust::pinned(*certificates.fingerprint().borrow());
    let client = crate::client::connections(&trust).unwrap();
    let answer = client.get(format!("https://{}/", server.address)).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "hello");
    drop(held);
}

/// Reads until the server closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    // An error means closed, too: what was sent and not read.
    let _closed = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

/// With a paused clock, time passes as soon as nothing else can happen.
#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_in_time_is_let_go() {
    let server = Server::start(None, LIMITS).await;
    assert_eq!(rest(server.connect().await).await, "");
    let slow = rest(server.half_said("GET / HTTP/1.1\r\nhost: x\r\nslow").await).await;
    assert!(slow.is_empty() || slow.contains("408"), "{slow}");
    let stalled = server.half_said("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf").await;
    assert!(rest(stalled).await.contains("408"));
    let rests = rest(server.half_said("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
    assert!(rests.ends_with("hello"), "it was answered, and let go when nothing more came: {rests}");
}

#[tokio::test]
async fn above_the_limit_a_connection_is_closed_and_the_others_stay() {
    workrs_store::tls::provide();
    let server = Server::start(None, Limits { connections: 0, per_address: 0 }).await;
    let mut held = Vec::new();
    for _ in 0..RESERVE {
        let mut stream = server.half_said("GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        held.push(stream);
    }
    assert_eq!(rest(server.half_said("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await).await, "");
    held.clear();
    // Places come back as soon as the server sees that their clients are gone.
    loop {
        if rest(server.half_said("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await).await.contains("200")
        {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn an_address_of_another_machine_has_a_share_of_the_places() {
    let (all, others, addresses) = (Places::new(7), Places::new(4), Places::new(2));
    let take = |address: &str| seat(&all, &others, &addresses, address.parse().unwrap());
    let first = take("192.0.2.1:1").unwrap();
    let _second = take("192.0.2.1:2").unwrap();
    assert!(take("192.0.2.1:3").is_none());
    let _other = take("192.0.2.2:1").unwrap();
    drop(first);
    let _again = take("192.0.2.1:3").unwrap();
    let _last = take("192.0.2.3:1").unwrap();
    assert!(take("192.0.2.4:1").is_none(), "no more for other machines");
    let local: Vec<_> = (0..3).map(|_| take("127.0.0.1:1").expect("there is a reserve")).collect();
    assert!(take("[::1]:1").is_none());
    drop(local);
}

#[tokio::test]
async fn when_the_node_stops_no_new_connection_is_taken_and_quiet_ones_end() {
    let mut server = Server::start(None, LIMITS).await;
    let quiet = server.connect().await;
    let mut asked = server.half_said("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut first = [0];
    asked.read_exact(&mut first).await.unwrap();
    server.stopping.cancel();
    assert!(rest(asked).await.ends_with("hello"));
    assert_eq!(rest(quiet).await, "");
    (&mut server.task).await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
