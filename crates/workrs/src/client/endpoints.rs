//! Several nodes to ask: whichever answers counts, and is asked first from then on.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response};
use workrs_store::tls;

use super::ClientError;
use crate::{
    api::Problem,
    tls::{TlsError, Trust},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node may take for an answer, or for its beginning if it is a stream. Longer than a node waits for a state
/// store that does not answer, so that its own words about that arrive.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A node that vanished from the network is noticed after the first pause and three probes, so within ten seconds.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(3);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;
const UNACKNOWLEDGED: Duration = Duration::from_secs(9);

/// A node that was asked, and why it did not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Where it was asked.
    pub server: String,
    /// What came of it.
    pub reason: String,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.server, self.reason)
    }
}

/// Connections to nodes that are believed to be such, on which one that vanishes is noticed.
pub(crate) fn connections(trust: &Trust) -> Result<reqwest::Client, ConnectionError> {
    tls::provide();
    let builder = match trust.config()? {
        Some(config) => reqwest::Client::builder().tls_backend_preconfigured(config),
        None => reqwest::Client::builder(),
    };
    let client = builder
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(KEEPALIVE_AFTER)
        .tcp_keepalive_interval(KEEPALIVE_EVERY)
        .tcp_keepalive_retries(KEEPALIVE_PROBES)
        .tcp_user_timeout(UNACKNOWLEDGED)
        .build()?;
    Ok(client)
}

/// Why there can be no connections.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The client cannot be set up.
    #[error("cannot set up the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// What is to be believed cannot be.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The nodes of a group. Clones share which one answered last.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    http: reqwest::Client,
    servers: Arc<[String]>,
    first: Arc<AtomicUsize>,
    token: Option<String>,
}

impl Endpoints {
    pub(super) fn new(servers: &[String], token: Option<String>, trust: &Trust) -> Result<Self, ClientError> {
        let servers: Arc<[String]> = servers.iter().map(|server| base(server)).collect();
        let http = connections(trust)?;
        Ok(Self { http, servers, first: Arc::default(), token: token.filter(|token| !token.is_empty()) })
    }

    /// The servers in the order in which they are to be asked.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = &str> {
        let first = self.first.load(Ordering::Relaxed);
        let (before, from) = self.servers.split_at(first.min(self.servers.len()));
        from.iter().chain(before).map(String::as_str)
    }

    /// This server answered: it is asked first from now on.
    pub(super) fn prefer(&self, server: &str) {
        if let Some(index) = self.servers.iter().position(|known| known == server) {
            self.first.store(index, Ordering::Relaxed);
        }
    }

    /// A request to one server.
    pub(super) fn request(&self, server: &str, method: &Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method.clone(), format!("{server}{path}"));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The whole answer of the first server that gives one, each within `deadline`; without one, each may take its time as
    /// long as its connection lasts.
    pub(super) async fn whole(
        &self,
        method: &Method,
        path: &str,
        deadline: Option<Duration>,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, ClientError> {
        let mut misses = Misses::default();
        for server in self.in_turn() {
            let mut request = build(self.request(server, method, path));
            if let Some(deadline) = deadline {
                request = request.timeout(deadline);
            }
            let answered = async { whole(server, begun(server, request.send().await).await?).await };
            match answered.await {
                Ok(answer) => {
                    self.prefer(server);
                    return Ok(answer);
                }
                Err(error) => misses.add(server, error)?,
            }
        }
        Err(misses.into_error())
    }

    /// The answer of the first server that begins one.
    pub(super) async fn stream(&self, path: &str) -> Result<Response, ClientError> {
        let mut misses = Misses::default();
        for server in self.in_turn() {
            let begins = tokio::time::timeout(ANSWER_TIMEOUT, self.request(server, &Method::GET, path).send());
            let answered = match begins.await {
                Ok(sent) => begun(server, sent).await,
                Err(_) => Err(silent(server, format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
            };
            match answered {
                Ok(response) => {
                    self.prefer(server);
                    return Ok(response);
                }
                Err(error) => misses.add(server, error)?,
            }
        }
        Err(misses.into_error())
    }
}

/// The beginning of every address of a server: `host:port` is enough to name one.
fn base(server: &str) -> String {
    let server = server.trim().trim_end_matches('/');
    if server.contains("://") { server.to_owned() } else { format!("http://{server}") }
}

/// An answer that arrived to its end.
pub(super) struct Answer {
    server: String,
    body: Bytes,
}

impl Answer {
    /// What it says.
    pub(super) fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| ClientError::Foreign { server: self.server.clone(), reason: error.to_string() })
    }
}

/// Reads an answer to its end.
pub(super) async fn whole(server: &str, response: Response) -> Result<Answer, ClientError> {
    match response.bytes().await {
        Ok(body) => Ok(Answer { server: server.to_owned(), body }),
        Err(error) => Err(silent(server, root_cause(&error))),
    }
}

/// What became of a request: an answer, or a refusal.
pub(super) async fn begun(server: &str, sent: Result<Response, reqwest::Error>) -> Result<Response, ClientError> {
    let response = sent.map_err(|error| silent(server, root_cause(&error)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.bytes().await.map_err(|error| silent(server, root_cause(&error)))?;
    if let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
        return Err(ClientError::Refused(Box::new(problem)));
    }
    let reason = format!("status {} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    Err(ClientError::Foreign { server: server.to_owned(), reason: reason.trim().to_owned() })
}

/// A server that gave no answer.
pub(super) fn silent(server: &str, reason: String) -> ClientError {
    ClientError::Unreachable(vec![Tried { server: server.to_owned(), reason }])
}

/// The innermost reason, which is the one that tells something.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it does not answer".to_owned();
    }
    let mut current: &dyn std::error::Error = error;
    while let Some(source) = current.source() {
        current = source;
    }
    let reason = current.to_string();
    // How the TLS library introduces what our own judgement of a certificate says.
    reason.strip_prefix("unexpected error: ").unwrap_or(&reason).to_owned()
}

/// Why the servers that were asked so far did not do.
#[derive(Default)]
pub(super) struct Misses {
    tried: Vec<Tried>,
    /// What the last of them said that said anything.
    said: Option<ClientError>,
}

impl Misses {
    /// Notes why a server did not do. An error that every server would give alike is given back.
    pub(super) fn add(&mut self, server: &str, error: ClientError) -> Result<(), ClientError> {
        match error {
            ClientError::Unreachable(tried) => self.tried.extend(tried),
            ClientError::Refused(problem) if problem.is_passing() => {
                self.said = Some(ClientError::Refused(problem));
            }
            ClientError::Foreign { reason, .. } => {
                self.tried.push(Tried { server: server.to_owned(), reason: reason.clone() });
                // What a node says tells more.
                self.said.get_or_insert(ClientError::Foreign { server: server.to_owned(), reason });
            }
            error => return Err(error),
        }
        Ok(())
    }

    /// What is to be said now that there are no more servers.
    pub(super) fn into_error(self) -> ClientError {
        match self.said {
            Some(ClientError::Foreign { .. }) if self.tried.len() > 1 => ClientError::Unreachable(self.tried),
            Some(error) => error,
            None => ClientError::Unreachable(self.tried),
        }
    }
}
