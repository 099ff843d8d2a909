//! An archive on its way from a client into a file of the node, where it can be read here and there.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    body::{Bytes, HttpBody},
    extract::Request,
    http::StatusCode,
};
use futures::{Stream, StreamExt};
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
};
use workrs_core::spec::format_size;
use workrs_store::fresh;

use super::Problem;

/// What an archive leaves free of the node's disk: jobs need it.
const SPARE: u64 = 256 << 20;
/// How often it is looked at how much is free.
const LOOK_EVERY: u64 = 64 << 20;
/// How long a refused upload may go on.
const DRAIN: Duration = Duration::from_secs(30);

/// An archive that has arrived. Dropping it removes it.
pub(super) struct Upload {
    path: PathBuf,
}

/// The length that a request says it has.
pub(super) fn length(request: &Request) -> Option<u64> {
    request.body().size_hint().exact()
}

impl Upload {
    /// Writes `body`, which is said to have `len` bytes, into a new file of `folder`.
    pub(super) async fn receive<E: std::fmt::Display>(
        body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
        len: Option<u64>,
        folder: &Path,
    ) -> Result<Self, Problem> {
        check_space(folder, len.unwrap_or(0))?;
        let upload = Self { path: folder.join(format!("import-{}", fresh::id())) };
        let failed = |error: io::Error| cannot_keep(&error);
        let mut file = BufWriter::with_capacity(1 << 20, File::create_new(&upload.path).await.map_err(failed)?);
        let mut unseen = 0;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| Problem::bad_request(format!("the upload broke off: {error}")))?;
            unseen += piece.len() as u64;
            if unseen >= LOOK_EVERY {
                check_space(folder, 0)?;
                unseen = 0;
            }
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        Ok(upload)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A problem without the file's place, which is this node's own matter.
    pub(super) fn told(&self, problem: Problem) -> Problem {
        let detail = problem.detail.replace(&self.path.display().to_string(), "what was sent");
        Problem { detail, ..problem }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an archive that was imported");
        }
    }
}

/// Throws away what a refused upload still sends, for a while: a client that finds the connection closed while it
/// writes never reads why.
pub(super) async fn drain<E>(body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin)) {
    let rest = async { while let Some(Ok(_)) = body.next().await {} };
    // Whoever takes longer finds the connection closed.
    let _ = tokio::time::timeout(DRAIN, rest).await;
}

fn check_space(folder: &Path, len: u64) -> Result<(), Problem> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| cannot_keep(&error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= len.saturating_add(SPARE) {
        return Ok(());
    }
    let needed = if len > 0 { format!(", the archive has {}", format_size(len)) } else { String::new() };
    Err(full(format!("the node's data folder has {} free{needed}", format_size(free))))
}

fn cannot_keep(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(error.to_string()),
        _ => {
            let detail = format!("the node cannot keep the archive while it is read: {error}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "node-failed", "the image cannot be brought", detail)
        }
    }
}

fn full(detail: String) -> Problem {
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, "storage-full", "there is no space left", detail)
        .hint("free space on the node's disk, or ask another node; nothing was accepted")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn an_archive_that_does_not_fit_is_refused_before_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let mut body = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"some"))]);
        let Err(problem) = Upload::receive(&mut body, Some(1 << 60), folder.path()).await else { panic!("it is huge") };
        assert_eq!(problem.status, 507, "{}", problem.detail);
        assert_eq!(body.count().await, 1, "nothing was read");
    }

    #[tokio::test]
    async fn a_file_lasts_as_long_as_it_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let mut body = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"so")), Ok(Bytes::from_static(b"me"))]);
        let upload = Upload::receive(&mut body, None, folder.path()).await.unwrap();
        assert_eq!(std::fs::read(upload.path()).unwrap(), b"some");
        let problem = upload.told(Problem::bad_request(format!("{} is no archive", upload.path().display())));
        assert_eq!(problem.detail, "what was sent is no archive");
        drop(upload);
        let mut broken = stream::iter([Ok(Bytes::from_static(b"so")), Err("gone")]);
        assert!(Upload::receive(&mut broken, None, folder.path()).await.is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
