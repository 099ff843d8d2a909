//! The other end of the API. It knows several nodes of the group, and one that does not answer, or answers that it
//! cannot now, is followed by the next ([`endpoints`]).

mod access;
mod endpoints;
mod images;
mod inputs;
mod lines;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use reqwest::Method;
use tokio::time::Instant;

pub use self::endpoints::ConnectionError;
pub(crate) use self::endpoints::connections;
use self::endpoints::{ANSWER_TIMEOUT, Endpoints, Misses, begun, silent, whole};
pub use self::{
    endpoints::Tried,
    inputs::{InputFile, collect_inputs},
};
use crate::{
    api::{DrainView, DrillView, JobPage, JobView, LogLine, NodeView, OutputsView, Problem, SubmitRequest},
    tls::Trust,
};

/// An upload that has not moved for so long is given up.
const STALLED: Duration = Duration::from_secs(60);

/// A request that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No node answered.
    #[error("no node answers: {}", list(.0))]
    Unreachable(Vec<Tried>),
    /// A node refused.
    #[error("{}: {}", .0.title, .0.detail)]
    Refused(Box<Problem>),
    /// An answer that is none of Workrs.
    #[error("the answer of {server} is not one of Workrs: {reason}")]
    Foreign {
        /// Who answered.
        server: String,
        /// What is wrong.
        reason: String,
    },
    /// No connection can be made at all.
    #[error(transparent)]
    Connections(#[from] ConnectionError),
    /// A file of this machine.
    #[error("cannot read {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl ClientError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable(tried) if tried.iter().any(|tried| tried.reason.contains("certificate")) => Some(
                "if it is the node's own, believe it by --tls-fingerprint (WORKRS_TLS_FINGERPRINT), with what `workrs up` \
                 printed on it; if it comes from an authority of yours, by --tls-ca (WORKRS_TLS_CA)"
                    .to_owned(),
            ),
            Self::Unreachable(_) => {
                Some("start a node with `workrs up`, or name one with --server or WORKRS_SERVER".to_owned())
            }
            Self::Refused(problem) => problem.hint.clone(),
            Self::Foreign { .. } => Some("check --server or WORKRS_SERVER".to_owned()),
            Self::Connections(_) => Some("check --tls-ca and --tls-fingerprint".to_owned()),
            Self::File { .. } => None,
        }
    }

    /// Whether another try may help: nothing answered, or the node said that it cannot now.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(problem) => problem.is_passing(),
            _ => false,
        }
    }
}

fn list(tried: &[Tried]) -> String {
    match tried {
        [] => "none is configured".to_owned(),
        tried => tried.iter().map(Tried::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Speaks to a group. Clones share which node answered last.
#[derive(Debug, Clone)]
pub struct Client {
    endpoints: Endpoints,
}

impl Client {
    /// A client that asks `servers` in turn, beginning with the one that answered last.
    pub fn new(servers: &[String], token: Option<String>) -> Result<Self, ClientError> {
        Self::trusting(servers, token, &Trust::default())
    }

    /// The same, with other certificates believed than those that the system believes.
    pub fn trusting(servers: &[String], token: Option<String>, trust: &Trust) -> Result<Self, ClientError> {
        Ok(Self { endpoints: Endpoints::new(servers, token, trust)? })
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        self.endpoints.whole(&method, path, Some(ANSWER_TIMEOUT), |request| request).await?.parse()
    }

    /// Hands a job over. `progress` is told the bytes that went out so far. The request has to carry an id, so that the
    /// next node may be asked while it is not known whether the one before took the job.
    pub async fn submit(
        &self,
        request: &SubmitRequest,
        script: Option<&InputFile>,
        files: &[InputFile],
        progress: impl Fn(u64) + Clone + Send + Sync + 'static,
    ) -> Result<JobView, ClientError> {
        let path = format!("/api/v1/jobs?id={}", encode(request.id.as_deref().unwrap_or_default()));
        let mut misses = Misses::default();
        for server in self.endpoints.in_turn() {
            let moved = Arc::new(Mutex::new(Instant::now()));
            let told = {
                let (moved, progress) = (Arc::clone(&moved), progress.clone());
                move |sent| {
                    *moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                    progress(sent);
                }
            };
            // A form can be sent once only, so every server gets its own.
            let form = inputs::form(request, script, files, told).await?;
            let outgoing = self.endpoints.request(server, &Method::POST, &path).multipart(form);
            let sent = async { whole(server, begun(server, outgoing.send().await).await?).await };
            let answered = tokio::select! {
                answered = sent => answered,
                () = stalled(&moved) => Err(silent(server, format!("nothing moved for {} s", STALLED.as_secs()))),
            };
            match answered {
                Ok(answer) => {
                    self.endpoints.prefer(server);
                    return answer.parse();
                }
                Err(error) => misses.add(server, error)?,
            }
        }
        Err(misses.into_error())
    }

    /// A job, when it has finished or `wait` is over.
    pub async fn job(&self, id: &str, wait: Option<Duration>) -> Result<JobView, ClientError> {
        let query = wait.map(|wait| format!("?wait={}s", wait.as_secs())).unwrap_or_default();
        let path = format!("/api/v1/jobs/{}{query}", encode(id));
        let deadline = ANSWER_TIMEOUT + wait.unwrap_or_default();
        self.endpoints.whole(&Method::GET, &path, Some(deadline), |request| request).await?.parse()
    }

    /// A page of jobs, the oldest first.
    pub async fn jobs(
        &self,
        after: Option<&str>,
        state: Option<&str>,
        name: Option<&str>,
    ) -> Result<JobPage, ClientError> {
        let query =
            [("limit", Some("500")), ("order", Some("asc")), ("after", after), ("state", state), ("name", name)];
        let query: Vec<_> = query.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let build = |request: reqwest::RequestBuilder| request.query(&query);
        self.endpoints.whole(&Method::GET, "/api/v1/jobs", Some(ANSWER_TIMEOUT), build).await?.parse()
    }

    /// Cancels a job.
    pub async fn cancel(&self, id: &str) -> Result<JobView, ClientError> {
        self.json(Method::POST, &format!("/api/v1/jobs/{}/cancel", encode(id))).await
    }

    /// Lets a lost job run on.
    pub async fn run_on(&self, id: &str) -> Result<JobView, ClientError> {
        self.json(Method::POST, &format!("/api/v1/jobs/{}/run-on", encode(id))).await
    }

    /// The live nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, ClientError> {
        self.json(Method::GET, "/api/v1/nodes").await
    }

    /// Drains a node, or lets it take jobs again.
    pub async fn drain(&self, node: &str, draining: bool) -> Result<DrainView, ClientError> {
        let method = if draining { Method::POST } else { Method::DELETE };
        self.json(method, &format!("/api/v1/nodes/{}/drain", encode(node))).await
    }

    /// Makes a node fail, or one of its jobs.
    pub async fn drill(&self, node: &str, job: Option<&str>) -> Result<DrillView, ClientError> {
        let what = job.map_or_else(|| "kind=node".to_owned(), |job| format!("kind=job&job={}", encode(job)));
        self.json(Method::POST, &format!("/api/v1/nodes/{}/drill?{what}", encode(node))).await
    }

    /// The list of a job's outputs.
    pub async fn outputs(&self, id: &str) -> Result<OutputsView, ClientError> {
        self.json(Method::GET, &format!("/api/v1/jobs/{}/outputs", encode(id))).await
    }

    /// All outputs as a tar stream, which breaks off if the node dies.
    pub async fn archive(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, reqwest::Error>> + use<>, ClientError> {
        let path = format!("/api/v1/jobs/{}/outputs?archive=tar", encode(id));
        Ok(self.endpoints.stream(&path).await?.bytes_stream())
    }

    /// The log from byte `offset` on, one event after the other. The stream ends early when the node dies.
    pub async fn logs(
        &self,
        id: &str,
        offset: u64,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<LogLine, ClientError>> + use<>, ClientError> {
        let path = format!("/api/v1/jobs/{}/logs?format=events&follow={follow}&offset={offset}", encode(id));
        Ok(lines::lines(self.endpoints.stream(&path).await?))
    }
}

/// Returns once nothing has moved for too long.
async fn stalled(moved: &Mutex<Instant>) {
    loop {
        let until = *moved.lock().unwrap_or_else(PoisonError::into_inner) + STALLED;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

/// One component of a path.
fn encode(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
