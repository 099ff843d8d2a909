//! Images: list, pull, import, take names away.

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use workrs_core::{
    id::{JobId, Owner},
    image::ImageDigest,
    spec::HOST_IMAGE,
};
use workrs_engine::image::source::{Credentials, Reference, SourceError};
use workrs_store::blobs::BlobError;

use super::{
    Api, Problem,
    archive::{self, Upload},
    extract::{Body, Path, Query, begins_an_object},
    problem::unavailable,
    program::ChosenImage,
    visible,
};
use crate::{
    access::{Caller, Role},
    images::{Archive, ImageError, KnownImage, Wanted},
};

/// The longest body of a pull.
const MAX_PULL: usize = 64 << 10;

/// An image of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// Of its manifest: `sha256:` and 64 digits.
    pub digest: String,
    /// Its names, in full.
    pub names: Vec<String>,
    /// The processor architecture, in Rust's words.
    pub arch: String,
    /// Length of its layers as they are stored.
    pub bytes: u64,
    /// How many layers it has.
    pub layers: u64,
    /// When the group got it; milliseconds since 1970-01-01T00:00:00Z.
    pub added_at: u64,
    /// Who brought it.
    pub added_by: String,
    /// Jobs that run in it, or may yet.
    pub jobs: Vec<String>,
}

impl From<KnownImage> for ImageView {
    fn from(image: KnownImage) -> Self {
        Self {
            digest: image.digest.to_string(),
            names: image.names,
            arch: image.note.arch,
            bytes: image.note.bytes,
            layers: image.note.layers.len() as u64,
            added_at: image.note.added_at.as_millis(),
            added_by: image.note.added_by.to_string(),
            jobs: image.jobs.iter().map(JobId::to_string).collect(),
        }
    }
}

/// An image that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PulledView {
    /// The image.
    #[serde(flatten)]
    #[schema(inline)]
    pub image: ImageView,
    /// The group did not have it under this name before.
    pub is_new: bool,
}

/// Names that were taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedView {
    /// The image.
    pub digest: String,
    /// The names that it had and has no more.
    pub removed: Vec<String>,
    /// The names that it still has.
    pub names: Vec<String>,
    /// Jobs that run in it, or may yet. Without names and jobs it goes within minutes.
    pub jobs: Vec<String>,
}

/// Which image to pull, and how. Everything can also be in the query, but for the credentials.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PullRequest {
    /// The image's name, as Docker takes it, or `sha256:…` of one that the group has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// `missing` (the default): only if the group has none of that name. `always`: ask the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull: Option<String>,
    /// A user of the registry, instead of what the node's Docker configuration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Which image to pull, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PullQuery {
    /// The image's name, as Docker takes it, or `sha256:…` of one that the group has.
    reference: Option<String>,
    /// `missing` (the default): only if the group has none of that name. `always`: ask the registry.
    pull: Option<String>,
}

/// What an imported image is called.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// Instead of what the archive says; one that says nothing needs it.
    name: Option<String>,
}

/// Lists the images that the group has.
#[utoipa::path(get, path = "/api/v1/images", responses((status = 200, body = Vec<ImageView>), (status = "default", body = Problem)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<ImageView>>, Problem> {
    let mut views = Vec::new();
    for image in api.images.list().await? {
        views.push(view(&api, &caller, image).await?);
    }
    Ok(Json(views))
}

/// The image, with those of its jobs that the caller may see.
async fn view(api: &Api, caller: &Caller, mut image: KnownImage) -> Result<ImageView, Problem> {
    let jobs = image.jobs.drain(..).map(|job| (job, ())).collect();
    image.jobs = visible::only(api, caller, jobs).await?.into_iter().map(|(job, ())| job).collect();
    Ok(image.into())
}

/// Pulls an image into the group, if it is not there. Answers when it is durable.
#[utoipa::path(post, path = "/api/v1/images", params(PullQuery), request_body(content = PullRequest), responses((status = 201, body = PulledView, description = "brought"), (status = 200, body = PulledView, description = "it was there"), (status = "default", body = Problem)))]
pub async fn pull(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<PullQuery>,
    Body(body): Body,
) -> Result<(StatusCode, Json<PulledView>), Problem> {
    caller.must_be(Role::User)?;
    let request = pull_request(&body)?;
    let reference = query.reference.or(request.reference).ok_or_else(|| {
        Problem::bad_request("no image is named").field("reference").hint("name one: ?reference=python:3.13-slim")
    })?;
    let always = match query.pull.or(request.pull).as_deref() {
        None | Some("missing") => false,
        Some("always") => true,
        Some(other) => {
            return Err(Problem::bad_request(format!("{other:?} is not one of missing, always")).field("pull"));
        }
    };
    let credentials = match (request.username, request.password) {
        (Some(username), Some(password)) => Some(Credentials { username, password }),
        (None, None) => None,
        _ => return Err(Problem::bad_request("username and password go together").field("username")),
    };
    let wanted = parse(&reference)?;
    api.fullness.check().await?;
    let brought = api.pulls.bring(&api.images, &wanted, always, credentials, &caller.owner).await?;
    let image = api.images.get(&brought.digest).await?.ok_or(ImageError::Unknown(reference))?;
    let status = if brought.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(PulledView { image: view(&api, &caller, image).await?, is_new: brought.is_new })))
}

fn pull_request(body: &[u8]) -> Result<PullRequest, Problem> {
    if body.is_empty() {
        return Ok(PullRequest::default());
    }
    if body.len() > MAX_PULL {
        return Err(Problem::bad_request("the body is longer than any pull"));
    }
    if !begins_an_object(body) {
        return Err(Problem::bad_request("the pull's JSON is not an object"));
    }
    // What stands in it is not repeated: it may be a password.
    serde_json::from_slice(body).map_err(|error| {
        let at = format!("line {} column {}", error.line(), error.column());
        Problem::bad_request(format!("the pull's JSON is not valid at {at}"))
    })
}

/// Brings the images of an archive into the group: of `docker save`, an OCI layout, or a tar of a root file system.
#[utoipa::path(method(post, put), path = "/api/v1/images/import", params(ImportQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 201, body = Vec<ImageView>), (status = "default", body = Problem)))]
pub async fn import(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ImportQuery>,
    request: Request,
) -> Result<(StatusCode, Json<Vec<ImageView>>), Problem> {
    caller.must_be(Role::User)?;
    let len = archive::length(&request);
    let mut body = request.into_body().into_data_stream();
    let received = async {
        let name = query.name.as_deref().map(reference).transpose()?;
        api.fullness.check().await?;
        Ok::<_, Problem>((name, Upload::receive(&mut body, len, &api.work_dir).await?))
    };
    let received = received.await;
    if received.is_err() {
        archive::drain(&mut body).await;
    }
    let (name, upload) = received?;
    let archive = Archive { path: upload.path(), name: name.as_ref() };
    // Where the archive lies on this node tells its sender nothing.
    let found = api.images.add(&archive, &caller.owner).await.map_err(|error| upload.told(error.into()))?;
    let mut views = Vec::new();
    for found in found {
        if let Some(image) = api.images.get(&found.image.digest).await? {
            views.push(view(&api, &caller, image).await?);
        }
    }
    Ok((StatusCode::CREATED, Json(views)))
}

/// Takes a name away, or with `sha256:…` all names of an image. Without a name it goes once no job uses it.
#[utoipa::path(delete, path = "/api/v1/images/{name}", params(("name" = String, Path)), responses((status = 200, body = RemovedView), (status = "default", body = Problem)))]
pub async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<RemovedView>, Problem> {
    caller.must_be(Role::Admin)?;
    let wanted = parse(&name)?;
    let unknown = || ImageError::Unknown(name.clone());
    let (digest, mut removed) = match &wanted {
        Wanted::Name(reference) => {
            let name = reference.to_string();
            (api.images.named(&name).await?.ok_or_else(unknown)?, vec![name])
        }
        Wanted::Digest(digest) => (digest.clone(), Vec::new()),
    };
    let image = api.images.get(&digest).await?;
    if let Wanted::Digest(_) = wanted {
        removed = image.as_ref().ok_or_else(unknown)?.names.clone();
    }
    api.images.remove_names(&removed).await?;
    let (mut names, jobs) = image.map(|image| (image.names, image.jobs)).unwrap_or_default();
    names.retain(|name| !removed.contains(name));
    let jobs = jobs.iter().map(JobId::to_string).collect();
    Ok(Json(RemovedView { digest: digest.to_string(), removed, names, jobs }))
}

/// The image that a submit asks for, in the group by now; `None` means the node's own programs.
///
/// A retry of a submit means the image of the first one, whatever its name has come to mean.
pub(super) async fn choose(
    api: &Api,
    owner: &Owner,
    asked: Option<&str>,
    job: &JobId,
) -> Result<Option<ChosenImage>, Problem> {
    let Some(asked) = asked.filter(|asked| *asked != HOST_IMAGE) else { return Ok(None) };
    let wanted = parse(asked)?;
    let name = wanted.to_string();
    if let Some(before) =
        api.records.get(job).await?.filter(|record| record.owner == *owner && record.spec.image == name)
        && let Some(digest) = before.spec.image_digest
        && let Ok(image) = api.images.read(&digest).await
    {
        return Ok(Some(ChosenImage { name, digest, arch: image.arch, settings: image.settings }));
    }
    let brought = api.pulls.bring(&api.images, &wanted, false, None, owner).await;
    let digest: ImageDigest = brought.map_err(|error| Problem::from(error).field("image"))?.digest;
    let image = api.images.read(&digest).await?;
    Ok(Some(ChosenImage { name, digest, arch: image.arch, settings: image.settings }))
}

fn parse(name: &str) -> Result<Wanted, Problem> {
    Wanted::parse(name).map_err(|error| ImageError::from(SourceError::from(error)).into())
}

fn reference(name: &str) -> Result<Reference, Problem> {
    Reference::parse(name).map_err(|error| ImageError::from(SourceError::from(error)).into())
}

impl From<ImageError> for Problem {
    fn from(error: ImageError) -> Self {
        let text = error.to_string();
        match error {
            ImageError::Unknown(_) => {
                Self::not_found(text).hint("see `workrs image ls`; bring it with `workrs image pull` or `import`")
            }
            ImageError::Source(error) => from_source(&error),
            ImageError::State(error) => error.into(),
            ImageError::Blobs(error) => error.into(),
            ImageError::Part { error: BlobError::Unavailable(reason), .. } => unavailable("blob", reason),
            ImageError::Part { .. } | ImageError::Invalid { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", "stored data is damaged", text)
                    .hint("take the image's names away, wait until it is gone, and bring it again")
            }
            ImageError::Nameless => refused(&text).hint("give it a name (--name)").field("name"),
            ImageError::OneNameForMany(_) => refused(&text)
                .hint("leave the name out; the images keep those that the archive has for them")
                .field("name"),
            ImageError::Unsettled => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the image cannot be brought now", text)
                    .hint("try again")
            }
        }
    }
}

fn refused(detail: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT, "image-refused", "the image cannot be brought", detail)
}

fn from_source(error: &SourceError) -> Problem {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let (text, hint) = (error.to_string(), error.hint());
    let (status, kind) = match error {
        SourceError::Reference(_) => (StatusCode::BAD_REQUEST, "bad-image-name"),
        SourceError::NoSuchTag { .. } | SourceError::NoSuchDigest { .. } | SourceError::NoSuchRepository { .. } => {
            (StatusCode::NOT_FOUND, "no-image")
        }
        SourceError::CredentialsNeeded { .. }
        | SourceError::CredentialsRefused { .. }
        | SourceError::NotAllowed { .. } => (StatusCode::FORBIDDEN, "registry-refused"),
        // Whoever asks chose the registry, so this node has not failed; another one may reach it, and this one later.
        SourceError::Unreachable { .. } | SourceError::TooManyRequests { .. } => {
            (StatusCode::CONFLICT, "registry-unavailable")
        }
        SourceError::Store { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded) => {
            (StatusCode::INSUFFICIENT_STORAGE, "storage-full")
        }
        SourceError::Store { .. } => return unavailable("blob", text),
        SourceError::Registry { .. } | SourceError::PartMissing { .. } | SourceError::CutShort { .. } => {
            (StatusCode::CONFLICT, "registry-failed")
        }
        SourceError::File { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "node-failed"),
        // RFC 9110, 9.3.4: what does not fit what the address holds.
        _ => (StatusCode::CONFLICT, "image-refused"),
    };
    Problem::new(status, kind, "the image cannot be brought", text).hint(hint)
}
