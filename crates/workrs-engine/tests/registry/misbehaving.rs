//! Hand-made registries that do what real ones do on bad days.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use workrs_engine::image::source::{PullOptions, SourceError};

use super::{
    FolderSink, options, pull_into, refused,
    registry::{CONFIG, LAYER, MANIFEST, arch, configuration, digest_of},
};

const CONTENT: &[u8] = b"what the layer consists of";

/// What is asked for.
struct Request {
    path: String,
    /// The first byte that is wanted, if not all are.
    from: Option<usize>,
}

/// What comes back before the connection is closed.
enum Answer {
    Bytes(Vec<u8>),
    Silence,
}

/// A registry that answers as a function says. Its threads end with the connections.
struct Misbehaving {
    port: u16,
    requests: Arc<AtomicUsize>,
}

impl Misbehaving {
    fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, requests) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, counter) = (Arc::clone(&answer), Arc::clone(&counter));
                std::thread::spawn(move || serve(&stream.unwrap(), &*answer, &counter));
            }
        });
        Self { port, requests }
    }

    /// A registry with the image `image:1`, whose only layer it gives as `answer` says.
    fn with_layer(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let config = configuration(arch(), &json!({}), &[CONTENT]).to_string();
        let describe = |kind: &str, content: &[u8]| json!({ "mediaType": kind, "digest": digest_of(content), "size": content.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": describe(CONFIG, config.as_bytes()), "layers": [describe(LAYER, CONTENT)],
        });
        Self::with_manifest(manifest, config, answer)
    }

    fn with_manifest(
        manifest: Value,
        config: String,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |request| match request.path.as_str() {
            "/v2/" => ok(b"{}"),
            "/v2/image/manifests/1" => ok(manifest.to_string().as_bytes()),
            path if path.ends_with(&digest_of(config.as_bytes())) => ok(config.as_bytes()),
            _ => answer(request),
        })
    }

    fn reference(&self) -> String {
        format!("127.0.0.1:{}/image:1", self.port)
    }
}

fn serve(stream: &TcpStream, answer: &dyn Fn(&Request) -> Answer, counter: &AtomicUsize) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(first) = lines.next() else { return };
    let range = lines.filter_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned)).last();
    let from = range.and_then(|range| range.split('-').next()?.parse().ok());
    let request = Request { path: first.split(' ').nth(1).unwrap_or_default().to_owned(), from };
    counter.fetch_add(1, Ordering::SeqCst);
    match answer(&request) {
        // The other side may have gone.
        Answer::Bytes(bytes) => drop({ stream }.write_all(&bytes)),
        // Until the other side closes.
        Answer::Silence => drop(BufReader::new(stream).lines().count()),
    }
}

fn head(status: &str, length: usize, more: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n").into_bytes()
}

fn ok(body: &[u8]) -> Answer {
    answer("200 OK", body)
}

fn answer(status: &str, body: &[u8]) -> Answer {
    Answer::Bytes([head(status, body.len(), ""), body.to_vec()].concat())
}

/// The layer from where it is wanted, of which the connection gives so many bytes.
fn some_of_the_layer(request: &Request, bytes: usize) -> Answer {
    let from = request.from.unwrap_or(0);
    let rest = &CONTENT[from..];
    let range = format!("Content-Range: bytes {from}-{}/{}\r\n", CONTENT.len() - 1, CONTENT.len());
    let head = if request.from.is_some() {
        head("206 Partial Content", rest.len(), &range)
    } else {
        head("200 OK", rest.len(), "")
    };
    Answer::Bytes([head, rest[..bytes.min(rest.len())].to_vec()].concat())
}

#[tokio::test]
async fn a_layer_goes_on_where_the_connection_broke() {
    let server = Misbehaving::with_layer(|request| some_of_the_layer(request, 10));
    let sink = FolderSink::new();
    let image = pull_into(&sink, &server.reference(), &options()).await.unwrap();
    assert_eq!(sink.content(&image.layers[0].digest), CONTENT);
}

#[tokio::test]
async fn a_registry_that_cannot_resume_is_asked_for_all() {
    let tries = AtomicUsize::new(0);
    let server = Misbehaving::with_layer(move |request| {
        let all = Request { path: request.path.clone(), from: None };
        some_of_the_layer(&all, 5 + 10 * tries.fetch_add(1, Ordering::SeqCst))
    });
    let sink = FolderSink::new();
    let image = pull_into(&sink, &server.reference(), &options()).await.unwrap();
    assert_eq!(sink.content(&image.layers[0].digest), CONTENT);
}

#[tokio::test]
async fn a_layer_that_always_ends_early_is_given_up() {
    let server = Misbehaving::with_layer(|request| {
        let all = Request { path: request.path.clone(), from: None };
        some_of_the_layer(&all, 10)
    });
    let error = refused(&server.reference(), &options()).await;
    assert!(matches!(error, SourceError::CutShort { got: 10, wanted: 26, .. }), "{error}");
}

#[tokio::test]
async fn a_silent_registry_is_given_up() {
    let impatient = PullOptions { patience: Duration::from_millis(100), ..options() };
    let server = Misbehaving::start(|_| Answer::Silence);
    let error = refused(&server.reference(), &impatient).await;
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    let server = Misbehaving::with_layer(|_| Answer::Silence);
    let error = refused(&server.reference(), &impatient).await;
    assert!(matches!(error, SourceError::CutShort { got: 0, .. }), "{error}");
}

#[tokio::test]
async fn a_registry_that_fails_for_a_moment_is_asked_again() {
    let tries = AtomicUsize::new(0);
    let server = Misbehaving::with_layer(move |request| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => answer("503 Service Unavailable", b"restarting"),
        _ => some_of_the_layer(request, usize::MAX),
    });
    pull_into(&FolderSink::new(), &server.reference(), &options()).await.unwrap();
}

#[tokio::test]
async fn more_than_was_named_is_not_taken() {
    let endless = |_: &Request| {
        let body = [CONTENT, &vec![0; 1 << 20]].concat();
        // Without a length, so that the bytes alone can tell.
        Answer::Bytes([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(), body].concat())
    };
    let error = refused(&Misbehaving::with_layer(endless).reference(), &options()).await;
    assert!(matches!(error, SourceError::TooLong { wanted: 26, .. }), "{error}");
}

#[tokio::test]
async fn refusals_are_told_in_the_registrys_words() {
    let says = |status: &'static str, code: &str| {
        let body = json!({ "errors": [{ "code": code, "message": "not\n you" }] }).to_string();
        Misbehaving::start(move |request| match request.path.as_str() {
            "/v2/" => ok(b"{}"),
            _ => answer(status, body.as_bytes()),
        })
    };
    let error = refused(&says("403 Forbidden", "DENIED").reference(), &options()).await;
    assert!(matches!(error, SourceError::NotAllowed { .. }), "{error}");
    assert!(error.to_string().ends_with("does not let anybody read image: not you"), "{error}");
    let error = refused(&says("429 Too Many Requests", "TOOMANYREQUESTS").reference(), &options()).await;
    assert!(matches!(error, SourceError::TooManyRequests { .. }), "{error}");
    let server = says("400 Bad Request", "NAME_INVALID");
    let error = refused(&server.reference(), &options()).await;
    assert!(matches!(error, SourceError::Registry { .. }), "{error}");
    assert_eq!(server.requests.load(Ordering::SeqCst), 3, "what will not pass is not tried again");
}

#[tokio::test]
async fn what_is_no_registry_is_said_to_be_none() {
    let server = Misbehaving::start(|_| ok(b"<html>hello</html>"));
    let error = refused(&server.reference(), &options()).await;
    assert!(matches!(error, SourceError::Invalid { .. }), "{error}");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(&format!("{nobody}/image:1"), &options()).await;
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn layers_are_not_fetched_from_other_addresses() {
    let layer = json!({ "mediaType": LAYER, "digest": digest_of(CONTENT), "size": CONTENT.len(), "urls": ["http://127.0.0.1:1/"] });
    let config = configuration(arch(), &json!({}), &[CONTENT]).to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer],
        "config": { "mediaType": CONFIG, "digest": digest_of(config.as_bytes()), "size": config.len() },
    });
    let server = Misbehaving::with_manifest(manifest, config, |_| answer("404 Not Found", b""));
    let error = refused(&server.reference(), &options()).await;
    assert!(matches!(error, SourceError::Foreign { .. }), "{error}");
}
