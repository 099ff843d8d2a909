//! Takes jobs: streams the inputs to blobs first, then creates the record. Once the answer is out, the job is
//! durable, and so is its image; before it, nothing of the submit counts.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Extension, Json,
    extract::{FromRequest, Multipart, Request, State, multipart::Field},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;
use workrs_core::{
    hash::ContentHash,
    id::{InvalidName, JobId, OperationId, Owner},
    job::{BlobRef, JobRecord},
    keys::{self, BlobNames},
    spec::{JobSpec, format_size},
};
use workrs_store::{
    blobs::Blobs,
    fresh,
    records::{RecordError, Submitted},
    state::Condition,
};

use super::{
    Api, JobView, Problem, SubmitRequest,
    extract::{Query, begins_an_object},
    images,
    jobs::SETTLE,
    program::{Program, Script},
    quotas,
};
use crate::{
    access::{Caller, Role},
    images::ImageError,
    node::{FileEntry, FileIndex, INDEX_NAME, check_path},
};

/// The most input files of one job.
const MAX_INPUTS: usize = 10_000;
/// The longest text field.
const MAX_TEXT: usize = 64 << 10;
/// As much of a script's beginning as is needed to tell what it is.
const HEAD: usize = 64;
/// Tries of a submit whose image is removed again and again.
const TRIES: u32 = 3;
/// How long a refused upload may go on.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(30);
/// The header by which a client names a submit without choosing an id.
const KEY_HEADER: &str = "idempotency-key";
/// The longest such name.
const MAX_KEY: usize = 255;
/// As much of its hash as makes an id that no other key has.
const KEY_DIGITS: usize = 40;
/// The header of an input part that carries its permission bits in octal.
pub const MODE_HEADER: &str = "x-workrs-mode";

/// How to submit.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SubmitQuery {
    /// The job's id, so that a retry is the same job.
    id: Option<String>,
}

/// Hands a job over: as JSON (a command without inputs), or as a form with the parts `script` (a file), `input`
/// (files, any number), `spec` (the JSON), or the JSON's fields as parts of their own.
#[utoipa::path(post, path = "/api/v1/jobs", params(SubmitQuery), request_body(content = SubmitRequest), responses((status = 201, body = JobView, description = "accepted and durable"), (status = 200, body = JobView, description = "accepted before"), (status = "default", body = Problem)))]
pub async fn submit(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<SubmitQuery>,
    request: Request,
) -> Result<Response, Problem> {
    caller.must_be(Role::User)?;
    let content_type =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = content_type.to_ascii_lowercase();
    let id_of_key = id_of_key(request.headers(), &caller.owner)?;
    let received = if content_type.starts_with("multipart/form-data") {
        let mut form = Multipart::from_request(request, &()).await.map_err(Problem::bad_request)?;
        let received = match api.fullness.check().await {
            Ok(()) => receive(&api.blobs, &mut form, query.id.or(id_of_key)).await,
            Err(full) => Err(full),
        };
        if received.is_err() {
            drain(&mut form).await;
        }
        received?
    } else if content_type.starts_with("application/json") {
        let body = axum::body::to_bytes(request.into_body(), MAX_TEXT).await;
        let body = body.map_err(|_| Problem::too_large())?;
        let request: SubmitRequest = parse_json(&body)?;
        let id = choose_id(query.id.or_else(|| request.id.clone()).or(id_of_key))?;
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
    accept(&api, &caller, received).await
}

pub(super) fn parse_json(bytes: &[u8]) -> Result<SubmitRequest, Problem> {
    if !bytes.is_empty() && !begins_an_object(bytes) {
        return Err(Problem::bad_request("the job's JSON is not an object").field("spec"));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::bad_request(format!("the job's JSON is not valid: {error}")).field("spec"))
}

/// The id that a client's `Idempotency-Key` means: the same for the same owner and key, and no one else's.
fn id_of_key(headers: &HeaderMap, owner: &Owner) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get(KEY_HEADER) else { return Ok(None) };
    let key = key.as_bytes();
    if !(1..=MAX_KEY).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
        let detail = format!("it must have 1 to {MAX_KEY} printable ASCII characters without spaces");
        return Err(Problem::bad_request(detail).field(KEY_HEADER));
    }
    let hash = ContentHash::of(&[owner.as_str().as_bytes(), b"/", key].concat());
    Ok(Some(format!("key-{}", &hash.to_string()[..KEY_DIGITS])))
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

async fn accept(api: &Api, caller: &Caller, received: Received) -> Result<Response, Problem> {
    let Received { request, script, mut upload } = received;
    let mut inputs = None;
    for _ in 0..TRIES {
        let image = images::choose(api, &caller.owner, request.image.as_deref(), &upload.id).await?;
        let program = Program::new(&request, script.as_ref(), !upload.files.is_empty(), image.as_ref())?;
        let spec = request.resolve(program)?;
        check(api, caller, &spec, &upload).await?;
        if inputs.is_none() {
            inputs = upload.finish().await?;
        }
        // Without its image, which was removed at this very moment and is brought again, there is no job.
        if let Some((status, record)) = create(api, caller, spec, inputs.clone(), &mut upload).await? {
            let location = format!("/api/v1/jobs/{}", record.id);
            return Ok((status, [(header::LOCATION, location)], Json(JobView::from(&record))).into_response());
        }
    }
    Err(ImageError::Unsettled.into())
}

/// Refuses what no node could run, or its owner may not have.
async fn check(api: &Api, caller: &Caller, spec: &JobSpec, upload: &Upload) -> Result<(), Problem> {
    let input_bytes = upload.input_bytes();
    if input_bytes > spec.disk_bytes {
        let detail = format!(
            "the inputs have {} and the job's disk only {}",
            format_size(input_bytes),
            format_size(spec.disk_bytes)
        );
        return Err(Problem::invalid("disk", detail).hint("ask for a larger disk (--disk)"));
    }
    let checks = async {
        api.capacity.check(spec).await?;
        // A job that was accepted is told again, whatever its owner has by now.
        let is_known = api.records.get(&upload.id).await?.is_some();
        if is_known { Ok(()) } else { quotas::check(api, &caller.owner, spec, input_bytes).await }
    };
    let checked = tokio::time::timeout(SETTLE, checks).await;
    checked.map_err(|_| RecordError::Unavailable("it does not answer; nothing was accepted".to_owned()))?
}

/// Creates the record while the job's image stands; `None` if it does not.
async fn create(
    api: &Api,
    caller: &Caller,
    spec: JobSpec,
    inputs: Option<BlobRef>,
    upload: &mut Upload,
) -> Result<Option<(StatusCode, JobRecord)>, Problem> {
    let guards: Vec<_> = spec.image_digest.iter().map(|digest| Condition::Present(keys::image(digest))).collect();
    let mut record = JobRecord::submitted(upload.id.clone(), caller.owner.clone(), spec, inputs, fresh::now());
    record.input_bytes = upload.input_bytes();
    let submitted = tokio::time::timeout(SETTLE, api.records.submit_if(record, &guards, &upload.operation)).await;
    match submitted {
        Ok(Ok(Submitted::New(record))) => {
            upload.keep();
            api.quotas.queued_one_more(&caller.owner).await;
            Ok(Some((StatusCode::CREATED, record)))
        }
        Ok(Ok(Submitted::Existing(record))) => Ok(Some((StatusCode::OK, record))),
        Ok(Err(RecordError::GuardFailed)) => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            // It may have been accepted: its inputs must stay.
            upload.keep();
            let reason = "it does not answer; whether the job was accepted is unknown".to_owned();
            Err(RecordError::Unavailable(reason).into())
        }
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
                let path = match field.file_name() {
                    Some(name) => name.to_owned(),
                    None => unnamed(&name, upload.files.len()),
                };
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

/// What a file is called that its sender did not name.
fn unnamed(part: &str, number: usize) -> String {
    if part == "script" { part.to_owned() } else { format!("{part}-{number}") }
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
pub(super) fn merge(request: SubmitRequest, texts: BTreeMap<String, Vec<String>>) -> Result<SubmitRequest, Problem> {
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

    fn input_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
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
