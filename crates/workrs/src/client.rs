//! The other end of the API: asks the first of several nodes that answers.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::{
    Body, Method, RequestBuilder, Response, StatusCode,
    header::{HeaderMap, HeaderValue},
    multipart::{Form, Part},
};

use crate::api::{JobPage, JobView, LogLine, MODE_HEADER, NodeView, OutputsView, Problem, SubmitRequest};

/// A request that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No node answered.
    #[error("no node answers at {servers}: {reason}")]
    Unreachable {
        /// Where was asked.
        servers: String,
        /// What the last one said.
        reason: String,
    },
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
            Self::Unreachable { .. } => {
                Some("start a node with `workrs up`, or name one with --server or WORKRS_SERVER".to_owned())
            }
            Self::Refused(problem) => problem.hint.clone(),
            Self::Foreign { .. } => Some("check --server or WORKRS_SERVER".to_owned()),
            Self::File { .. } => None,
        }
    }

    /// Whether another try may help: nothing answered, or the node said that it cannot now.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(problem) => problem.status == 503,
            _ => false,
        }
    }
}

/// A file on its way to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Where it lies here.
    pub source: PathBuf,
    /// Its path below `/job`.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its length.
    pub len: u64,
}

/// Speaks to a group.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    servers: Vec<String>,
    token: Option<String>,
}

impl Client {
    /// A client that asks `servers` in turn.
    pub fn new(servers: &[String], token: Option<String>) -> Result<Self, ClientError> {
        let servers: Vec<String> = servers.iter().map(|server| server.trim_end_matches('/').to_owned()).collect();
        let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).no_proxy().build();
        let unusable =
            |error: reqwest::Error| ClientError::Unreachable { servers: servers.join(", "), reason: error.to_string() };
        Ok(Self { http: http.map_err(unusable)?, servers, token: token.filter(|token| !token.is_empty()) })
    }

    /// Asks one server after the other until one answers.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let mut reason = "none is configured".to_owned();
        for server in &self.servers {
            let mut request = build(self.http.request(method.clone(), format!("{server}{path}")));
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            match request.send().await {
                Ok(response) => return checked(server, response).await,
                Err(error) => reason = root_cause(&error),
            }
        }
        Err(ClientError::Unreachable { servers: self.servers.join(", "), reason })
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        parse(self.ask(method, path, |request| request).await?).await
    }

    /// Hands a job over. `progress` is told the bytes that went out so far.
    pub async fn submit(
        &self,
        request: &SubmitRequest,
        script: Option<&InputFile>,
        inputs: &[InputFile],
        progress: impl Fn(u64) + Clone + Send + Sync + 'static,
    ) -> Result<JobView, ClientError> {
        let mut reason = "none is configured".to_owned();
        for server in &self.servers {
            // A form can be sent once only, so every server gets its own.
            let form = form(request, script, inputs, progress.clone()).await?;
            let id = request.id.as_deref().unwrap_or_default();
            let mut outgoing = self.http.post(format!("{server}/api/v1/jobs?id={id}")).multipart(form);
            if let Some(token) = &self.token {
                outgoing = outgoing.bearer_auth(token);
            }
            match outgoing.send().await {
                Ok(response) => return parse(checked(server, response).await?).await,
                Err(error) => reason = root_cause(&error),
            }
        }
        Err(ClientError::Unreachable { servers: self.servers.join(", "), reason })
    }

    /// A job, when it has finished or `wait` is over.
    pub async fn job(&self, id: &str, wait: Option<Duration>) -> Result<JobView, ClientError> {
        let query = wait.map(|wait| format!("?wait={}s", wait.as_secs())).unwrap_or_default();
        self.json(Method::GET, &format!("/api/v1/jobs/{}{query}", encode(id))).await
    }

    /// A page of jobs.
    pub async fn jobs(
        &self,
        after: Option<&str>,
        state: Option<&str>,
        name: Option<&str>,
    ) -> Result<JobPage, ClientError> {
        let query = [("limit", Some("500")), ("after", after), ("state", state), ("name", name)];
        let query: Vec<_> = query.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        parse(self.ask(Method::GET, "/api/v1/jobs", |request| request.query(&query)).await?).await
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

    /// The list of a job's outputs.
    pub async fn outputs(&self, id: &str) -> Result<OutputsView, ClientError> {
        self.json(Method::GET, &format!("/api/v1/jobs/{}/outputs", encode(id))).await
    }

    /// All outputs as a tar stream.
    pub async fn archive(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, reqwest::Error>> + use<>, ClientError> {
        let path = format!("/api/v1/jobs/{}/outputs?archive=tar", encode(id));
        Ok(self.ask(Method::GET, &path, |request| request).await?.bytes_stream())
    }

    /// The log from byte `offset` on, one event after the other. The stream ends early when the node dies.
    pub async fn logs(
        &self,
        id: &str,
        offset: u64,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<LogLine, ClientError>> + use<>, ClientError> {
        let path = format!("/api/v1/jobs/{}/logs?format=events&follow={follow}&offset={offset}", encode(id));
        let response = self.ask(Method::GET, &path, |request| request).await?;
        let server = response.url().to_string();
        let mut buffer = Vec::new();
        let lines =
            response.bytes_stream().map(Some).chain(futures::stream::iter([None])).map(move |piece| match piece {
                Some(Ok(bytes)) => {
                    buffer.extend_from_slice(&bytes);
                    let end = buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                    let rest = buffer.split_off(end);
                    let whole = std::mem::replace(&mut buffer, rest);
                    let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                    lines.map(|line| line_of(&server, line)).collect::<Vec<_>>()
                }
                Some(Err(error)) => {
                    vec![Err(ClientError::Unreachable { servers: server.clone(), reason: root_cause(&error) })]
                }
                None => Vec::new(),
            });
        Ok(lines.flat_map(futures::stream::iter))
    }
}

fn line_of(server: &str, line: &[u8]) -> Result<LogLine, ClientError> {
    serde_json::from_slice(line)
        .map_err(|error| ClientError::Foreign { server: server.to_owned(), reason: error.to_string() })
}

async fn checked(server: &str, response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let foreign = |reason: String| ClientError::Foreign { server: server.to_owned(), reason };
    let body = response.bytes().await.map_err(|error| foreign(error.to_string()))?;
    match serde_json::from_slice(&body) {
        Ok(problem) => Err(ClientError::Refused(Box::new(problem))),
        Err(_) => Err(foreign(format!("status {}", status_text(status)))),
    }
}

fn status_text(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default())
}

async fn parse<T: serde::de::DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let server = response.url().to_string();
    response.json().await.map_err(|error| ClientError::Foreign { server, reason: root_cause(&error) })
}

/// The innermost reason, which is the one that tells something.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}

/// One component of a path.
fn encode(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn form(
    request: &SubmitRequest,
    script: Option<&InputFile>,
    inputs: &[InputFile],
    progress: impl Fn(u64) + Clone + Send + Sync + 'static,
) -> Result<Form, ClientError> {
    let spec = serde_json::to_string(request)
        .map_err(|error| ClientError::Foreign { server: "this request".to_owned(), reason: error.to_string() })?;
    let mut form = Form::new().percent_encode_noop().text("spec", spec);
    let mut sent_before = 0;
    for (name, file) in script.map(|file| ("script", file)).into_iter().chain(inputs.iter().map(|file| ("input", file)))
    {
        form = form.part(name, part(file, sent_before, progress.clone()).await?);
        sent_before += file.len;
    }
    Ok(form)
}

async fn part(
    file: &InputFile,
    sent_before: u64,
    progress: impl Fn(u64) + Send + Sync + 'static,
) -> Result<Part, ClientError> {
    let failed = |error| ClientError::File { path: file.source.clone(), error };
    let source = tokio::fs::File::open(&file.source).await.map_err(failed)?;
    let mut sent = sent_before;
    let pieces = tokio_util::io::ReaderStream::with_capacity(source, 256 << 10).inspect(move |piece| {
        sent += piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
        progress(sent);
    });
    let mut headers = HeaderMap::new();
    if let Ok(mode) = HeaderValue::from_str(&format!("{:o}", file.mode)) {
        headers.insert(MODE_HEADER, mode);
    }
    let body = Body::wrap_stream(pieces);
    Ok(Part::stream_with_length(body, file.len).file_name(file.path.clone()).headers(headers))
}

/// Every file of a path that is handed over: itself, or all below it if it is a folder. Links are followed, as
/// `cp -L` would.
pub fn collect_inputs(path: &Path) -> Result<Vec<InputFile>, ClientError> {
    let failed = |path: &Path, error| ClientError::File { path: path.to_owned(), error };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let is_dir = std::fs::metadata(path).map_err(|error| failed(path, error))?.is_dir();
    let root = match (&name, is_dir) {
        (Some(name), _) => name.clone(),
        // `.` and `..`: what lies in them, without a folder around it.
        (None, _) => String::new(),
    };
    let mut files = Vec::new();
    let mut todo = vec![(path.to_owned(), root)];
    while let Some((source, inner)) = todo.pop() {
        let metadata = std::fs::metadata(&source).map_err(|error| failed(&source, error))?;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(&source).map_err(|error| failed(&source, error))? {
                let entry = entry.map_err(|error| failed(&source, error))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let inner = if inner.is_empty() { name } else { format!("{inner}/{name}") };
                todo.push((entry.path(), inner));
            }
        } else {
            use std::os::unix::fs::PermissionsExt;
            let mode = metadata.permissions().mode() & 0o777;
            files.push(InputFile { source, path: inner, mode, len: metadata.len() });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
