//! Files on their way to a job, and the form that carries them.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use reqwest::{
    Body,
    header::{HeaderMap, HeaderValue},
    multipart::{Form, Part},
};

use super::ClientError;
use crate::api::{MODE_HEADER, SubmitRequest};

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

/// A submit as a form. `progress` is told the bytes that went out so far.
pub(super) async fn form(
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
