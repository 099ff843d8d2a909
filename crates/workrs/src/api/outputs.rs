//! The files that a job left.

use std::ops::Range;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;
use workrs_core::{
    id::JobId,
    job::{BlobRef, JobState},
};
use workrs_store::blobs::{BlobError, Blobs};

use super::{
    Api, OutputLinkView, OutputView, OutputsView, Problem,
    download::{self, Wanted},
    extract::{Path, Query},
    jobs::find,
};
use crate::{
    access::Caller,
    node::{ARCHIVE_NAME, FileEntry, FileIndex, folder_of, read_index},
};

const PIECE: u64 = 4 << 20;

/// In which form.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OutputQuery {
    /// `tar`: everything in one archive.
    archive: Option<String>,
}

pub(super) async fn index(api: &Api, caller: &Caller, id: &JobId) -> Result<Option<(BlobRef, FileIndex)>, Problem> {
    match find(api, caller, id).await?.state {
        JobState::Finished { outputs: Some(blob), .. } => {
            let files = read_index(&api.blobs, &blob).await?;
            Ok(Some((blob, files)))
        }
        JobState::Finished { outputs: None, .. } => Ok(None),
        state => Err(Problem::new(
            axum::http::StatusCode::CONFLICT,
            "not-finished",
            "there are no outputs yet",
            format!("the job is {}; outputs are read when it has finished", state.name()),
        )
        .hint("wait for it: GET /api/v1/jobs/ID?wait=60s")),
    }
}

/// Lists the outputs of a finished job, or streams all of them.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/outputs", params(("id" = String, Path), OutputQuery), responses((status = 200, body = OutputsView), (status = "default", body = Problem)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<OutputQuery>,
) -> Result<Response, Problem> {
    let id = JobId::new(id)?;
    let found = index(&api, &caller, &id).await?;
    match query.archive.as_deref() {
        None => {
            let files = found.map(|(_, files)| files).unwrap_or_default();
            Ok(Json(OutputsView::from(files)).into_response())
        }
        Some("tar") => {
            let disposition = format!("attachment; filename=\"{id}.tar\"");
            let headers =
                [(header::CONTENT_TYPE, "application/x-tar".to_owned()), (header::CONTENT_DISPOSITION, disposition)];
            let (sender, receiver) = tokio::sync::mpsc::channel(4);
            tokio::spawn(async move {
                let (blob, files) = found.unwrap_or_else(|| (no_blob(), FileIndex::default()));
                if let Err(error) = archive(&api.blobs, &blob, files, &sender).await {
                    // The client sees a body that breaks off; whether it still listens is its affair.
                    let _ = sender.send(Err(error)).await;
                }
            });
            Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
        }
        Some(other) => {
            Err(Problem::bad_request(format!("{other:?} is not an archive format; use tar")).field("archive"))
        }
    }
}

fn no_blob() -> BlobRef {
    BlobRef { name: String::new(), hash: workrs_core::hash::ContentHash::of(b""), len: 0 }
}

type Pieces = tokio::sync::mpsc::Sender<Result<Bytes, std::io::Error>>;

/// Streams a tar archive of all files and links.
async fn archive(blobs: &Blobs, index: &BlobRef, files: FileIndex, pieces: &Pieces) -> Result<(), std::io::Error> {
    let gone = || std::io::Error::other("the client has gone");
    for (number, file) in files.files.iter().enumerate() {
        pieces.send(Ok(tar_header(&file.path, file.len, file.mode, None)?)).await.map_err(|_| gone())?;
        let mut content = content(blobs, index, number, file).await.map_err(std::io::Error::other)?;
        while let Some(piece) = content.next().await {
            pieces.send(Ok(piece.map_err(std::io::Error::other)?)).await.map_err(|_| gone())?;
        }
        let padding = usize::try_from(file.len.next_multiple_of(512) - file.len).unwrap_or_default();
        pieces.send(Ok(Bytes::from(vec![0; padding]))).await.map_err(|_| gone())?;
    }
    for link in &files.links {
        pieces.send(Ok(tar_header(&link.path, 0, 0o777, Some(&link.target))?)).await.map_err(|_| gone())?;
    }
    pieces.send(Ok(Bytes::from_static(&[0; 1024]))).await.map_err(|_| gone())
}

/// The header of one entry, with extensions for long names.
fn tar_header(path: &str, len: u64, mode: u32, link: Option<&str>) -> Result<Bytes, std::io::Error> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    let mut builder = tar::Builder::new(Vec::new());
    header.set_size(0);
    if let Some(target) = link {
        header.set_entry_type(tar::EntryType::Symlink);
        builder.append_link(&mut header, path, target)?;
    } else {
        builder.append_data(&mut header, path, std::io::empty())?;
    }
    let mut bytes = builder.get_ref().clone();
    if link.is_none() {
        // The builder wrote an empty file; its last block is the header, which gets the true length.
        let at = bytes.len() - 512;
        let mut last = tar::Header::new_gnu();
        last.as_mut_bytes().copy_from_slice(&bytes[at..]);
        last.set_size(len);
        last.set_cksum();
        bytes[at..].copy_from_slice(last.as_bytes());
    }
    Ok(bytes.into())
}

type Content = futures::stream::BoxStream<'static, Result<Bytes, BlobError>>;

/// Streams a file. One that is sent whole is verified at its end.
async fn content(blobs: &Blobs, index: &BlobRef, number: usize, file: &FileEntry) -> Result<Content, BlobError> {
    if file.offset.is_some() {
        return Ok(part(blobs, index, number, file, 0..file.len));
    }
    let blob = BlobRef { name: own_blob(index, number), hash: file.hash, len: file.len };
    Ok(blobs.stream(&blob).await?.boxed())
}

/// The blob of a file that does not lie in the archive.
fn own_blob(index: &BlobRef, number: usize) -> String {
    format!("{}{number}", folder_of(&index.name))
}

/// Streams some bytes of a file.
fn part(blobs: &Blobs, index: &BlobRef, number: usize, file: &FileEntry, bytes: Range<u64>) -> Content {
    let (name, offset) = match file.offset {
        Some(offset) => (format!("{}{ARCHIVE_NAME}", folder_of(&index.name)), offset),
        None => (own_blob(index, number), 0),
    };
    let blobs = blobs.clone();
    let pieces = futures::stream::unfold(bytes.start, move |at| {
        let (blobs, name) = (blobs.clone(), name.clone());
        async move {
            let end = bytes.end.min(at + PIECE);
            if at == end {
                return None;
            }
            Some((blobs.get_range(&name, offset + at..offset + end).await, end))
        }
    });
    pieces.boxed()
}

/// Downloads one output, or a range of its bytes. It is data, whatever it is: browsers are told never to show it as a page.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/outputs/{path}", params(("id" = String, Path), ("path" = String, Path)), responses((status = 200, content_type = "application/octet-stream"), (status = "default", body = Problem)))]
pub async fn file(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((id, path)): Path<(String, String)>,
    conditions: HeaderMap,
) -> Result<Response, Problem> {
    let id = JobId::new(id)?;
    let not_found = || Problem::not_found(format!("job {id} has no output {path:?}"));
    let (blob, files) = index(&api, &caller, &id).await?.ok_or_else(not_found)?;
    let (number, file) = files.files.iter().enumerate().find(|(_, file)| file.path == path).ok_or_else(not_found)?;
    let tag = download::tag(file.hash);
    let wanted = Wanted::read(&conditions, file.len, &tag)?;
    let content = match &wanted {
        Wanted::NotModified => futures::stream::empty().boxed(),
        Wanted::Whole => content(&api.blobs, &blob, number, file).await?,
        Wanted::Part(bytes) => part(&api.blobs, &blob, number, file, bytes.clone()),
    };
    let (status, mut headers) = wanted.head(file.len, &tag);
    headers.extend([
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, "attachment".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CONTENT_SECURITY_POLICY, "sandbox".to_owned()),
    ]);
    Ok((status, AppendHeaders(headers), Body::from_stream(content)).into_response())
}

impl From<FileIndex> for OutputsView {
    fn from(index: FileIndex) -> Self {
        let file = |file: FileEntry| OutputView {
            path: file.path,
            len: file.len,
            mode: file.mode,
            hash: file.hash.to_string(),
        };
        Self {
            files: index.files.into_iter().map(file).collect(),
            links: index
                .links
                .into_iter()
                .map(|link| OutputLinkView { path: link.path, target: link.target })
                .collect(),
            skipped: index.skipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_make_a_readable_archive() {
        let long = "d/".repeat(150) + "file";
        let mut bytes = Vec::new();
        for path in ["a.txt", &long] {
            bytes.extend(tar_header(path, 3, 0o755, None).unwrap());
            bytes.extend(b"abc");
            bytes.extend([0; 509]);
        }
        bytes.extend(tar_header("link", 0, 0o777, Some("a.txt")).unwrap());
        bytes.extend([0; 1024]);
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries: Vec<_> = archive.entries().unwrap().map(|entry| entry.unwrap()).collect();
        let paths: Vec<_> = entries.iter().map(|entry| entry.path().unwrap().display().to_string()).collect();
        assert_eq!(paths, ["a.txt", &long, "link"]);
        assert_eq!(entries[1].size(), 3);
        assert_eq!(entries[1].header().mode().unwrap(), 0o755);
    }
}
