//! Takes jobs: streams the inputs to blobs first, then creates the record. Once the answer is out, the job is
//! durable; before it, nothing of the submit counts.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{FromRequest, Multipart, Query, Request, State, multipart::Field},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;
use workrs_core::{
    id::{InvalidName, JobId, OperationId, Owner},
    job::{BlobRef, JobRecord},
    keys::BlobNames,
    spec::{command_for_script, format_size},
};
use workrs_store::{
    blobs::Blobs,
    fresh,
    records::{RecordError, Submitted},
};

use super::{Api, JobView, Problem, SubmitRequest, jobs::SETTLE};
use crate::node::{FileEntry, FileIndex, INDEX_NAME, check_path};

/// The most input files of one job.
const MAX_INPUTS: usize = 10_000;
/// The longest text field.
const MAX_TEXT: usize = 64 << 10;
/// As much of a script's beginning as is needed to tell what it is.
const HEAD: usize = 64;
/// How long a refused upload may go on.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(30);
/// The header of an input part that carries its permission bits in octal.
pub const MODE_HEADER: &str = "x-workrs-mode";

/// How to submit.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SubmitQuery {
    /// The job's id, so that a retry is the same job.
    id: Option<String>,
}

/// Hands a job over: as JSON (a command without inputs), or as a form with the parts `script` (a file), `input`
/// (files, any number), `spec` (the JSON), or the JSON's fields as parts of their own.
#[utoipa::path(post, path = "/api/v1/jobs", params(SubmitQuery), request_body(content = SubmitRequest), responses((status = 201, body = JobView, description = "accepted and durable"), (status = 200, body = JobView, description = "accepted before"), (status = "default", body = Problem)))]
pub async fn submit(
    State(api): State<Api>,
    Query(query): Query<SubmitQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let content_type =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let received = if content_type.starts_with("multipart/form-data") {
        let mut form = Multipart::from_request(request, &()).await.map_err(Problem::bad_request)?;
        let received = match api.fullness.check().await {
            Ok(()) => receive(&api.blobs, &mut form, query.id).await,
            Err(full) => Err(full),
        };
        if received.is_err() {
            drain(&mut form).await;
        }
        received?
    } else if content_type.starts_with("application/json") {
        let body = axum::body::to_bytes(request.into_body(), MAX_TEXT).await;
        let body = body
            .map_err(|_| Problem::bad_request(format!("the body is longer than {}", format_size(MAX_TEXT as u64))))?;
        let request: SubmitRequest = parse_json(&body)?;
        let id = choose_id(query.id.or_else(|| request.id.clone()))?;
        api.fullness.check().await?;
        Received { request, script: None, upload: Upload::new(&api.blobs, id) }
    } else {
        let detail = format!("a submit is application/json or multipart/form-data, not {content_type:?}");
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "the request cannot be understood",
            detail,
        )
        .hint("try: curl -F script=@train.py http://127.0.0.1:7480/api/v1/jobs"));
    };
    accept(&api, received).await
}

fn parse_json(bytes: &[u8]) -> Result<SubmitRequest, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::bad_request(format!("the job's JSON is not valid: {error}")).field("spec"))
}

fn choose_id(id: Option<String>) -> Result<JobId, InvalidName> {
    JobId::new(id.unwrap_or_else(fresh::id))
}

/// A whole request.
struct Received {
    request: SubmitRequest,
    script: Option<Script>,
    upload: Upload,
}

struct Script {
    name: String,
    head: Vec<u8>,
}

async fn accept(api: &Api, received: Received) -> Result<Response, Problem> {
    let Received { request, script, mut upload } = received;
    let (command, default_name) = command(&request, script.as_ref())?;
    let spec = request.resolve(command, &default_name)?;
    let input_bytes: u64 = upload.files.iter().map(|file| file.len).sum();
    if input_bytes > spec.disk_bytes {
        let detail = format!(
            "the inputs have {} and the job's disk only {}",
            format_size(input_bytes),
            format_size(spec.disk_bytes)
        );
        return Err(Problem::invalid("disk", detail).hint("ask for a larger disk (--disk)"));
    }
    let capacity = tokio::time::timeout(SETTLE, api.capacity.check(&spec)).await;
    capacity.map_err(|_| RecordError::Unavailable("it does not answer; nothing was accepted".to_owned()))??;
    let inputs = upload.finish().await?;
    let owner = Owner::new("local")?;
    let record = JobRecord::submitted(upload.id.clone(), owner, spec, inputs, fresh::now());
    let submitted = tokio::time::timeout(SETTLE, api.records.submit(record, &upload.operation)).await;
    let (status, record) = match submitted {
        Ok(Ok(Submitted::New(record))) => {
            upload.keep();
            (StatusCode::CREATED, record)
        }
        Ok(Ok(Submitted::Existing(record))) => (StatusCode::OK, record),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => {
            // It may have been accepted: its inputs must stay.
            upload.keep();
            return Err(RecordError::Unavailable(
                "it does not answer; whether the job was accepted is unknown".to_owned(),
            )
            .into());
        }
    };
    let location = format!("/api/v1/jobs/{}", record.id);
    Ok((status, [(header::LOCATION, location)], Json(JobView::from(&record))).into_response())
}

fn command(request: &SubmitRequest, script: Option<&Script>) -> Result<(Vec<String>, String), Problem> {
    match (script, request.command.first()) {
        (Some(script), None) => {
            Ok((command_for_script(&script.name, &script.head, &request.args)?, script.name.clone()))
        }
        (None, Some(program)) if request.args.is_empty() => {
            let name = program.rsplit('/').next().unwrap_or(program);
            Ok((request.command.clone(), name.to_owned()))
        }
        (None, Some(_)) => Err(Problem::invalid("args", "are for scripts; a command carries its own arguments")),
        (Some(_), Some(_)) => Err(Problem::invalid("command", "give a script or a command, not both")),
        (None, None) => Err(Problem::invalid("command", "there is nothing to run: give a script or a command")),
    }
}

/// Reads a form, streaming its files to blobs.
async fn receive(blobs: &Blobs, form: &mut Multipart, id: Option<String>) -> Result<Received, Problem> {
    let mut id = id;
    let mut upload: Option<Upload> = None;
    let mut script = None;
    let mut spec = None;
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "script" | "input" => {
                let upload = match &mut upload {
                    Some(upload) => upload,
                    None => upload.insert(Upload::new(blobs, choose_id(id.take())?)),
                };
                let path = field.file_name().unwrap_or_default().to_owned();
                let head = upload.file(field, &path, name == "script").await?;
                if name == "script" {
                    if path.contains('/') {
                        return Err(Problem::invalid(
                            "script",
                            "must not lie in a folder; hand folders over as inputs",
                        ));
                    }
                    if script.replace(Script { name: path, head }).is_some() {
                        return Err(Problem::invalid(
                            "script",
                            "there must be only one; hand other files over as inputs",
                        ));
                    }
                }
            }
            "id" if upload.is_some() => {
                return Err(Problem::bad_request("the id must come before the files").field("id"));
            }
            "id" => id = Some(text(field).await?),
            "spec" => spec = Some(parse_json(text(field).await?.as_bytes())?),
            _ => texts.entry(name).or_default().push(text(field).await?),
        }
    }
    let mut request = match spec {
        Some(request) => merge(request, texts)?,
        None => merge(SubmitRequest::default(), texts)?,
    };
    let upload = match upload {
        Some(upload) => {
            if request.id.as_deref().is_some_and(|wanted| wanted != upload.id.as_str()) {
                return Err(
                    Problem::bad_request("the id must come before the files, or in the query (?id=…)").field("id")
                );
            }
            upload
        }
        None => Upload::new(blobs, choose_id(id.or_else(|| request.id.take()))?),
    };
    Ok(Received { request, script, upload })
}

/// Throws away what a refused upload still sends, for a while: a client that finds the connection closed while it
/// writes never reads why.
async fn drain(form: &mut Multipart) {
    let rest = async {
        while let Ok(Some(mut field)) = form.next_field().await {
            while let Ok(Some(_)) = field.chunk().await {}
        }
    };
    // Whoever takes longer finds the connection closed.
    let _ = tokio::time::timeout(DRAIN, rest).await;
}

fn broken(error: impl std::fmt::Display) -> Problem {
    Problem::bad_request(format!("the form broke off or is not valid: {error}"))
}

async fn text(mut field: Field<'_>) -> Result<String, Problem> {
    let name = field.name().unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        if bytes.len() + chunk.len() > MAX_TEXT {
            return Err(Problem::bad_request(format!("it is longer than {}", format_size(MAX_TEXT as u64))).field(name));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Problem::bad_request("it is not UTF-8").field(name))
}

/// Puts form fields over what the JSON said. `env` and `constraints` are `KEY=VALUE`, lists may repeat.
fn merge(request: SubmitRequest, texts: BTreeMap<String, Vec<String>>) -> Result<SubmitRequest, Problem> {
    let mut json = serde_json::to_value(request).map_err(Problem::bad_request)?;
    for (name, values) in texts {
        let slot = &mut json[name.as_str()];
        match name.as_str() {
            "command" | "args" | "outputs" => *slot = values.into(),
            "env" | "constraints" => {
                for value in values {
                    let Some((key, value)) = value.split_once('=') else {
                        return Err(Problem::bad_request(format!("{value:?} is not KEY=VALUE")).field(name));
                    };
                    slot[key] = value.into();
                }
            }
            _ => match <[String; 1]>::try_from(values) {
                Ok([value]) => *slot = value.into(),
                Err(_) => return Err(Problem::bad_request("it is given more than once").field(name)),
            },
        }
    }
    serde_json::from_value(json).map_err(|error| Problem::bad_request(format!("the form is not valid: {error}")))
}

/// Files on their way into blobs. Dropped before [`keep`](Self::keep), it removes what it brought.
struct Upload {
    blobs: Blobs,
    id: JobId,
    operation: OperationId,
    files: Vec<FileEntry>,
    keep: bool,
}

impl Upload {
    fn new(blobs: &Blobs, id: JobId) -> Self {
        Self { blobs: blobs.clone(), id, operation: fresh::operation(), files: Vec::new(), keep: false }
    }

    fn prefix(&self) -> String {
        BlobNames(&self.id).inputs(&self.operation)
    }

    /// Streams one file; gives its beginning.
    async fn file(&mut self, mut field: Field<'_>, path: &str, is_script: bool) -> Result<Vec<u8>, Problem> {
        check_path(path)?;
        if self.files.len() >= MAX_INPUTS {
            return Err(Problem::invalid(
                "input",
                format!("at most {MAX_INPUTS} files can be handed over; pack them into an archive"),
            ));
        }
        let mode = field.headers().get(MODE_HEADER).and_then(|value| value.to_str().ok());
        let default_mode = if is_script { 0o755 } else { 0o644 };
        let mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok()).map_or(default_mode, |mode| mode & 0o777);
        let mut writer = self.blobs.writer(&format!("{}{}", self.prefix(), self.files.len()));
        let mut head = Vec::new();
        while let Some(chunk) = field.chunk().await.map_err(broken)? {
            let missing = HEAD.saturating_sub(head.len()).min(chunk.len());
            head.extend_from_slice(&chunk[..missing]);
            writer.write(chunk).await?;
        }
        let blob = writer.finish().await?;
        let mode = if is_script { mode | 0o500 } else { mode | 0o400 };
        self.files.push(FileEntry { path: path.to_owned(), len: blob.len, mode, hash: blob.hash, offset: None });
        Ok(head)
    }

    /// Makes the list of files durable, if there are any.
    async fn finish(&mut self) -> Result<Option<BlobRef>, Problem> {
        if self.files.is_empty() {
            return Ok(None);
        }
        let mut seen = BTreeSet::new();
        for file in &self.files {
            if !seen.insert(file.path.as_str()) {
                return Err(Problem::invalid("input", format!("{:?} is there twice", file.path)));
            }
        }
        for file in &self.files {
            let mut folder = file.path.as_str();
            while let Some((parent, _)) = folder.rsplit_once('/') {
                if seen.contains(parent) {
                    return Err(Problem::invalid("input", format!("{parent:?} is a file and a folder")));
                }
                folder = parent;
            }
        }
        let index = FileIndex { files: self.files.clone(), ..FileIndex::default() };
        let index = serde_json::to_vec(&index).map_err(Problem::bad_request)?;
        Ok(Some(self.blobs.put(&format!("{}{INDEX_NAME}", self.prefix()), index.into()).await?))
    }

    fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.keep || self.files.is_empty() {
            return;
        }
        let (blobs, prefix) = (self.blobs.clone(), self.prefix());
        tokio::spawn(async move {
            if let Err(error) = blobs.delete_prefix(&prefix).await {
                tracing::warn!(prefix, %error, "cannot remove what an unfinished submit left");
            }
        });
    }
}
