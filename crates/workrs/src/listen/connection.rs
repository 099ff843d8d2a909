//! One connection, from its handshake to its end.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::ConnectInfo,
    http::{HeaderValue, Request, Response, StatusCode, header},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, interval_at, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::pace::Paced;
use crate::{api::Problem, tls};

/// A handshake takes a few messages.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// The head of a request is small; between requests a connection may rest as long.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// Requests of one connection that are answered at the same time.
const MOST_STREAMS: u32 = 128;
/// All headers of a request.
const HEADERS_BYTES: u32 = 32 << 10;
/// What is kept of an answer that its client does not take, for each connection.
const UNSENT_BYTES: usize = 256 << 10;
/// The first byte of every TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// Who is at the other end of a request's connection, among the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Serves a connection until it ends. When the node stops, requests that stand are answered to their end.
pub(super) async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    stopping: CancellationToken,
) {
    let Some(tls) = tls else {
        return speak(stream, Peer { address, tls: false }, false, router, stopping).await;
    };
    let peer = Peer { address, tls: true };
    match timeout(HANDSHAKE_WITHIN, shake_hands(stream, tls)).await {
        Ok(Ok(Some(stream))) => {
            let is_h2 = stream.get_ref().1.alpn_protocol() == Some(tls::H2);
            speak(stream, peer, is_h2, router, stopping).await;
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(remote = %address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(remote = %address, "a TLS handshake took too long"),
    }
}

/// The stream inside TLS. To a client that speaks plain HTTP it is said what to do; then there is none.
async fn shake_hands(
    mut stream: TcpStream,
    tls: TlsAcceptor,
) -> std::io::Result<Option<tokio_rustls::server::TlsStream<TcpStream>>> {
    let mut first = [TLS_HANDSHAKE];
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        stream.write_all(plain_answer().as_bytes()).await?;
        stream.shutdown().await?;
        // What it still sends is read, else the answer could be thrown away with it.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        return Ok(None);
    }
    tls.accept(stream).await.map(Some)
}

fn plain_answer() -> String {
    let problem = Problem::new(
        StatusCode::BAD_REQUEST,
        "tls-needed",
        "the request cannot be understood",
        "this node speaks TLS here, and the request came in plain HTTP",
    );
    let body = serde_json::to_string(&problem.hint("use https:// in the node's address")).unwrap_or_default();
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: \
         close\r\n\r\n{body}",
        body.len()
    )
}

async fn speak<S>(stream: S, peer: Peer, is_h2: bool, router: Router, stopping: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::default());
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let (router, busy) = (router.clone(), Busy::new(&activity));
        async move { Ok::<_, Infallible>(tracked(router.call(prepared(request, peer)).await?, busy)) }
    });
    let builder = builder(is_h2);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut looks = interval_at(Instant::now() + HEAD_WITHIN, HEAD_WITHIN);
    let (mut leaving, mut idle) = (false, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(remote = %peer.address, %error, "a connection broke off");
                }
                return;
            }
            () = stopping.cancelled(), if !leaving => {
                if activity.is_new() {
                    return;
                }
                leaving = true;
            }
            // HTTP/1 has its own clock for this; with HTTP/2 a connection may stand for ever without a request.
            _ = looks.tick() => match (activity.rests(), idle) {
                (false, _) => continue,
                (true, false) => (leaving, idle) = (true, true),
                (true, true) => return,
            },
        }
        connection.as_mut().graceful_shutdown();
    }
}

fn builder(is_h2: bool) -> Builder<TokioExecutor> {
    let builder = Builder::new(TokioExecutor::new());
    let mut builder = if is_h2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(UNSENT_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(HEADERS_BYTES)
        .max_send_buf_size(UNSENT_BYTES)
        .keep_alive_interval(HEAD_WITHIN);
    builder
}

/// The request as handlers expect it.
fn prepared(request: Request<Incoming>, peer: Peer) -> Request<Body> {
    let mut request = request.map(|body| Body::new(Paced::new(body)));
    // HTTP/2 says it elsewhere.
    if !request.headers().contains_key(header::HOST)
        && let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    request.extensions_mut().insert(ConnectInfo(peer.address));
    request.extensions_mut().insert(peer);
    request
}

/// What a connection does.
#[derive(Debug, Default)]
struct Activity {
    /// Requests so far.
    begun: AtomicU64,
    /// Those whose answers have been sent.
    answered: AtomicU64,
    /// What `begun` was when it was last looked at.
    seen: AtomicU64,
}

impl Activity {
    /// Whether no request has come yet.
    fn is_new(&self) -> bool {
        self.begun.load(Ordering::SeqCst) == 0
    }

    /// Whether no request stands, and none came since this was last asked.
    fn rests(&self) -> bool {
        let begun = self.begun.load(Ordering::SeqCst);
        begun == self.answered.load(Ordering::SeqCst) && begun == self.seen.swap(begun, Ordering::SeqCst)
    }
}

/// A request that is being answered.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::SeqCst);
    }
}

fn tracked(response: Response<Body>, busy: Busy) -> Response<Tracked> {
    response.map(|body| Tracked { body, _busy: busy })
}

/// A body that counts as being sent while it is there.
struct Tracked {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
