//! What is asked of the daemon, over its socket.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    container::CreateCheckpointOptions,
    errors::Error,
    models::{ContainerCreateBody, SystemInfo},
    query_parameters::{
        CreateContainerOptions, CreateImageOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        StartContainerOptions,
    },
};
use futures::{StreamExt, TryStreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{NAME_LABEL, NODE_LABEL};
use crate::process::ToolError;

/// The longest that an answer is waited for in seconds; callers have deadlines of their own, which are shorter.
const TIMEOUT: u64 = 1200;
/// The image of every container: it has nothing, as the runtime gives each its own root.
pub(super) const IMAGE: &str = "workrs-empty";
const IMAGE_TAG: &str = "1";
/// An archive without files: two blocks of zeros.
const EMPTY_ARCHIVE: [u8; 1024] = [0; 1024];
const NOT_FOUND: u16 = 404;
const COLLECTION_POLL: Duration = Duration::from_millis(100);
/// How long the daemon may take to say who it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to remove what a former process of the node left, each.
const REMOVE_WITHIN: Duration = Duration::from_secs(60);
/// So many of those at once.
const REMOVALS: usize = 4;

/// Why the daemon did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// Nobody answers at the socket.
    #[error("no Docker daemon answers at {}: {reason}", .socket.display())]
    Absent {
        /// Where.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// It said no.
    #[error("docker: {0}")]
    Refused(String),
}

impl DaemonError {
    /// As the failure of a call of a tool.
    pub(crate) fn into_tool_error(self) -> ToolError {
        let complaint = match self {
            Self::Refused(text) => text,
            absent @ Self::Absent { .. } => absent.to_string(),
        };
        ToolError::Failed { program: "docker".to_owned(), code: None, complaint }
    }
}

fn stuck(what: &str, limit: Duration) -> DaemonError {
    DaemonError::Refused(format!("the daemon did not {what} within {} s; restart the daemon", limit.as_secs()))
}

/// Whether to ask again, after a while, as what containerd still has of an earlier checkpoint was in the way. It stores each
/// under its content, some of which is the same in all of a container's; one that comes before the last one's was
/// collected is refused (<https://github.com/moby/moby/issues/42900>).
async fn is_held_up(answer: &Result<(), DaemonError>) -> bool {
    let held_up = matches!(answer, Err(DaemonError::Refused(complaint)) if is_of_leftovers(complaint));
    if held_up {
        tokio::time::sleep(COLLECTION_POLL).await;
    }
    held_up
}

fn is_of_leftovers(complaint: &str) -> bool {
    complaint.contains("content sha256:") && complaint.trim_end().ends_with(": already exists")
}

/// A Docker daemon of this host.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    socket: PathBuf,
    client: Docker,
}

impl Daemon {
    /// Finds it, and which version of the API it speaks.
    pub(crate) async fn connect(socket: &Path) -> Result<Arc<Self>, DaemonError> {
        let absent = |error: Error| DaemonError::Absent { socket: socket.to_path_buf(), reason: reason(&error) };
        let path = socket.to_string_lossy();
        let client = Docker::connect_with_unix(&path, TIMEOUT, API_DEFAULT_VERSION).map_err(absent)?;
        let client = tokio::time::timeout(ANSWER_WITHIN, client.negotiate_version()).await;
        let client = client.map_err(|_| stuck("tell its version", ANSWER_WITHIN))?.map_err(absent)?;
        Ok(Arc::new(Self { socket: socket.to_path_buf(), client }))
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) async fn info(&self) -> Result<SystemInfo, DaemonError> {
        let info = tokio::time::timeout(ANSWER_WITHIN, self.client.info()).await;
        info.map_err(|_| stuck("tell about itself", ANSWER_WITHIN))?.map_err(|error| self.failed(error))
    }

    /// Where it keeps what it needs, checkpoints among it.
    pub(super) async fn data_root(&self) -> Result<PathBuf, DaemonError> {
        let root = self.info().await?.docker_root_dir.map(PathBuf::from);
        root.ok_or_else(|| DaemonError::Refused("it does not tell its data root".to_owned()))
    }

    /// Makes the empty image, if it is not there.
    pub(crate) async fn prepare_image(&self) -> Result<(), DaemonError> {
        if self.client.inspect_image(&format!("{IMAGE}:{IMAGE_TAG}")).await.is_ok() {
            return Ok(());
        }
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(IMAGE).tag(IMAGE_TAG).build();
        let archive = bollard::body_full(EMPTY_ARCHIVE.to_vec().into());
        let made = self.client.create_image(Some(options), Some(archive), None).try_collect::<Vec<_>>().await;
        made.map(drop).map_err(|error| self.failed(error))
    }

    /// Gives the new container's id.
    pub(super) async fn create(&self, name: &str, mut body: ContainerCreateBody) -> Result<String, DaemonError> {
        body.image = Some(format!("{IMAGE}:{IMAGE_TAG}"));
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..CreateContainerOptions::default() };
        let made = self.client.create_container(Some(options), body).await;
        made.map(|made| made.id).map_err(|error| self.failed(error))
    }

    pub(super) async fn start(&self, container: &str) -> Result<(), DaemonError> {
        let started = self.client.start_container(container, None::<StartContainerOptions>).await;
        started.map_err(|error| self.failed(error))
    }

    /// Starts it from a checkpoint that lies in its folder `checkpoints`.
    pub(super) async fn start_from(&self, container: &str, checkpoint: &str) -> Result<(), DaemonError> {
        loop {
            let started = self.request_start_from(container, checkpoint).await;
            if !is_held_up(&started).await {
                return started;
            }
        }
    }

    /// The client library has no word for this.
    async fn request_start_from(&self, container: &str, checkpoint: &str) -> Result<(), DaemonError> {
        let request = format!(
            "POST /containers/{container}/start?checkpoint={checkpoint} HTTP/1.0\r\nHost: docker\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let answer = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, io::Error>(answer)
        };
        let absent = |error: io::Error| DaemonError::Absent { socket: self.socket.clone(), reason: error.to_string() };
        judge(&answer.await.map_err(absent)?)
    }

    /// Writes a checkpoint into `<folder>/<name>`, which must not exist. The container runs on, or stays frozen.
    pub(super) async fn checkpoint(&self, container: &str, folder: &Path, name: &str) -> Result<(), DaemonError> {
        let options = CreateCheckpointOptions {
            checkpoint_id: name.to_owned(),
            checkpoint_dir: Some(folder.to_string_lossy().into_owned()),
            exit: false,
        };
        loop {
            let made = self.client.create_checkpoint(container, options.clone()).await;
            let made = made.map_err(|error| self.failed(error));
            if !is_held_up(&made).await {
                return made;
            }
        }
    }

    /// Kills and removes it; nothing happens if it is not there.
    pub(super) async fn remove(&self, container: &str) -> Result<(), DaemonError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.client.remove_container(container, Some(options)).await {
            Err(Error::DockerResponseServerError { status_code: NOT_FOUND, .. }) => Ok(()),
            other => other.map_err(|error| self.failed(error)),
        }
    }

    /// Kills and removes all containers of a node and gives their names.
    pub(crate) async fn remove_all_of(&self, node: &str) -> Result<Vec<String>, DaemonError> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{NODE_LABEL}={node}")])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let found = tokio::time::timeout(REMOVE_WITHIN, self.client.list_containers(Some(options))).await;
        let found =
            found.map_err(|_| stuck("list its containers", REMOVE_WITHIN))?.map_err(|error| self.failed(error))?;
        let removals = found.into_iter().map(|container| async move {
            let id = container.id.unwrap_or_default();
            let removed = tokio::time::timeout(REMOVE_WITHIN, self.remove(&id)).await;
            removed.map_err(|_| stuck(&format!("remove the container {id} of a former run"), REMOVE_WITHIN))??;
            Ok(container.labels.unwrap_or_default().remove(NAME_LABEL))
        });
        let names: Vec<_> = futures::stream::iter(removals).buffer_unordered(REMOVALS).try_collect().await?;
        Ok(names.into_iter().flatten().collect())
    }

    fn failed(&self, error: Error) -> DaemonError {
        match error {
            Error::DockerResponseServerError { message, .. } => DaemonError::Refused(message),
            Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } | Error::IOError { .. } => {
                DaemonError::Absent { socket: self.socket.clone(), reason: reason(&error) }
            }
            other => DaemonError::Refused(other.to_string()),
        }
    }
}

/// The innermost of an error's causes: those outside say no more than that there was one.
fn reason(error: &Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

/// An answer of HTTP/1.0: a status line, headers, and for an error its text as JSON.
fn judge(answer: &[u8]) -> Result<(), DaemonError> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    match head.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => {
            let message: Option<String> = serde_json::from_str::<serde_json::Value>(body)
                .ok()
                .and_then(|body| Some(body.get("message")?.as_str()?.to_owned()));
            Err(DaemonError::Refused(message.unwrap_or_else(|| "it gave no answer".to_owned())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_their_status() {
        assert!(judge(b"HTTP/1.0 204 No Content\r\nApi-Version: 1.41\r\n\r\n").is_ok());
        let refused = judge(b"HTTP/1.0 500 No\r\nX: y\r\n\r\n{\"message\":\"no such checkpoint\"}\n").unwrap_err();
        assert_eq!(refused.to_string(), "docker: no such checkpoint");
        assert!(judge(b"").is_err());
    }

    #[test]
    fn what_is_left_of_earlier_checkpoints_is_told_from_other_refusals() {
        let start = "failed to upload checkpoint to containerd: commit failed: content sha256:c859: already exists";
        assert!(is_of_leftovers(start));
        assert!(is_of_leftovers("Cannot checkpoint container a-1: content sha256:e12d: already exists"));
        assert!(!is_of_leftovers("checkpoint with name workrs already exists for container a-1"));
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_at_is_told() {
        let error = Daemon::connect(Path::new("/nonexistent/docker.sock")).await.unwrap_err().to_string();
        assert!(error.starts_with("no Docker daemon answers at /nonexistent/docker.sock: "), "{error}");
    }
}
