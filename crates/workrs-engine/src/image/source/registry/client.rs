//! Asks one registry for one repository, and says in our words what is wrong.

use std::{error::Error, net::IpAddr, time::Duration};

use oci_client::{
    Client, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciEnvelope, OciErrorCode},
};
use workrs_core::image::ImageDigest;

use super::credentials::Identity;
use crate::image::source::{
    PullOptions, Reference,
    error::SourceError,
    part::{Part, digest_of},
    platform::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, check_document_size},
};

/// How often something is tried that fails for reasons that may pass.
pub(super) const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KINDS: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];
/// How many tags an error names.
const TAGS_NAMED: usize = 10;

/// How long to wait before the attempt that follows this many failures.
pub(super) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE * 2_u32.pow(failures.saturating_sub(1).min(8))
}

/// A registry, asked for one repository.
pub(super) struct Registry {
    pub client: Client,
    /// What was asked for, in the client's form.
    pub reference: oci_client::Reference,
    asked: Reference,
    identity: Identity,
}

impl Registry {
    /// Connects and logs in.
    pub async fn new(asked: &Reference, options: &PullOptions) -> Result<Self, SourceError> {
        provide_tls();
        let identity = Identity::find(asked, options).await;
        let reference = in_clients_form(asked);
        let insecure = is_loopback(asked.registry_host())
            || options.insecure_registries.iter().any(|insecure| insecure == asked.registry());
        let plain = if insecure { vec![reference.resolve_registry().to_owned()] } else { Vec::new() };
        let config = ClientConfig {
            protocol: ClientProtocol::HttpsExcept(plain),
            // Lists are resolved here, where their digests are checked.
            platform_resolver: None,
            read_timeout: Some(options.patience),
            connect_timeout: Some(CONNECT_TIMEOUT.min(options.patience)),
            user_agent: concat!("workrs/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| SourceError::Registry {
            registry: asked.registry().to_owned(),
            reason: innermost(&error),
        })?;
        let registry = Self { client, reference, asked: asked.clone(), identity };
        registry.log_in().await?;
        Ok(registry)
    }

    async fn log_in(&self) -> Result<(), SourceError> {
        let outcome =
            self.again(|| self.client.auth(&self.reference, &self.identity.auth, RegistryOperation::Pull)).await;
        match outcome {
            Ok(_token) => Ok(()),
            // What the token server says to wrong credentials, or to nobody.
            Err(OciDistributionError::AuthenticationFailure(_)) => Err(self.unauthorized()),
            Err(error) => Err(self.error(error)),
        }
    }

    /// The bytes of a manifest, or of a list: of the part that a list names, else of what was asked for.
    pub async fn manifest(&self, part: Option<&Part>) -> Result<Vec<u8>, SourceError> {
        let reference = match part {
            Some(part) => {
                check_document_size("the manifest", part.bytes)?;
                self.reference.clone_with_digest(part.digest.to_string())
            }
            None => self.reference.clone(),
        };
        let answer = self.again(|| self.client.pull_manifest_raw(&reference, &self.identity.auth, &KINDS)).await;
        let bytes = match answer {
            Ok((bytes, _)) => bytes.to_vec(),
            Err(OciDistributionError::DigestError(error)) => return Err(digest_error(error)),
            Err(error) if says_not_there(&error) => {
                return Err(match part {
                    Some(part) => self.part_error(error, part),
                    None => self.nothing_there().await,
                });
            }
            Err(error) => return Err(self.error(error)),
        };
        check_document_size("the manifest", bytes.len() as u64)?;
        let found = digest_of(&bytes);
        match part {
            Some(part) => part.check(bytes.len() as u64, &found)?,
            None => check_pinned(&self.asked, &found)?,
        }
        Ok(bytes)
    }

    /// The bytes of a configuration.
    pub async fn configuration(&self, part: &Part) -> Result<Vec<u8>, SourceError> {
        use tokio::io::AsyncReadExt;

        let mut bytes = Vec::new();
        let mut content = Box::pin(self.layer(part)).take(part.bytes + 1);
        if let Err(error) = content.read_to_end(&mut bytes).await {
            let registry = self.asked.registry().to_owned();
            return Err(error
                .downcast::<SourceError>()
                .unwrap_or_else(|error| SourceError::Registry { registry, reason: error.to_string() }));
        }
        part.check(bytes.len() as u64, &digest_of(&bytes))?;
        Ok(bytes)
    }

    /// Does something again while it fails for reasons that may pass.
    async fn again<T, F>(&self, mut action: impl FnMut() -> F) -> Result<T, OciDistributionError>
    where
        F: Future<Output = Result<T, OciDistributionError>>,
    {
        let mut failures = 0;
        loop {
            let error = match action().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            failures += 1;
            if failures >= ATTEMPTS || !may_pass(&error) {
                return Err(error);
            }
            tracing::debug!(registry = self.asked.registry(), %error, "asking again");
            tokio::time::sleep(pause(failures)).await;
        }
    }

    /// An error for one part of the image.
    pub fn part_error(&self, error: OciDistributionError, part: &Part) -> SourceError {
        if says_not_there(&error) {
            let registry = self.asked.registry().to_owned();
            return SourceError::PartMissing { registry, part: part.kind, digest: part.digest.clone() };
        }
        self.error(error)
    }

    /// Registries answer alike whether the tag or the whole repository is missing; the list of tags tells.
    async fn nothing_there(&self) -> SourceError {
        let tags = self.client.list_tags(&self.reference, &self.identity.auth, Some(TAGS_NAMED), None).await;
        if tags.as_ref().is_err_and(says_not_there) {
            let (registry, repository) = (self.asked.registry().to_owned(), self.asked.repository().to_owned());
            return SourceError::NoSuchRepository { registry, repository };
        }
        let repository = self.asked.with_registry();
        if let Some(digest) = self.asked.digest() {
            return SourceError::NoSuchDigest { repository, digest: digest.to_string() };
        }
        let mut others = tags.map(|tags| tags.tags).unwrap_or_default();
        others.truncate(TAGS_NAMED);
        let tag = self.asked.tag().unwrap_or_default().to_owned();
        SourceError::NoSuchTag { repository, tag, others }
    }

    fn unauthorized(&self) -> SourceError {
        let registry = self.asked.registry().to_owned();
        match self.identity.username() {
            Some(username) => SourceError::CredentialsRefused {
                registry,
                username: username.to_owned(),
                from: self.identity.origin.clone(),
            },
            None => SourceError::CredentialsNeeded {
                registry,
                repository: self.asked.repository().to_owned(),
                looked: self.identity.origin.clone(),
            },
        }
    }

    fn not_allowed(&self, reason: String) -> SourceError {
        let who = self.identity.username().map_or_else(|| "anybody".to_owned(), |name| format!("{name:?}"));
        let (registry, repository) = (self.asked.registry().to_owned(), self.asked.repository().to_owned());
        SourceError::NotAllowed { registry, repository, who, reason }
    }

    fn error(&self, error: OciDistributionError) -> SourceError {
        let registry = self.asked.registry().to_owned();
        match error {
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                self.unauthorized()
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let reason = in_registrys_words(&envelope);
                match envelope.errors.first().map(|error| &error.code) {
                    Some(OciErrorCode::Denied | OciErrorCode::Unauthorized) => self.not_allowed(reason),
                    Some(OciErrorCode::Toomanyrequests) => SourceError::TooManyRequests { registry, reason },
                    _ => SourceError::Registry { registry, reason },
                }
            }
            OciDistributionError::ServerError { code: 403, message, .. } => self.not_allowed(shortened(&message)),
            OciDistributionError::ServerError { code: 429, message, .. } => {
                SourceError::TooManyRequests { registry, reason: shortened(&message) }
            }
            OciDistributionError::ServerError { code, message, .. } => {
                SourceError::Registry { registry, reason: format!("it answers {code}: {}", shortened(&message)) }
            }
            OciDistributionError::DigestError(error) => digest_error(error),
            OciDistributionError::RequestError(error) if !error.is_decode() && !error.is_redirect() => {
                SourceError::Unreachable { registry, reason: innermost(&error) }
            }
            error => SourceError::Registry { registry, reason: innermost(&error) },
        }
    }
}

fn in_clients_form(asked: &Reference) -> oci_client::Reference {
    let (registry, repository) = (asked.registry().to_owned(), asked.repository().to_owned());
    match (asked.digest(), asked.tag()) {
        (Some(digest), _) => oci_client::Reference::with_digest(registry, repository, digest.to_string()),
        (None, tag) => oci_client::Reference::with_tag(registry, repository, tag.unwrap_or("latest").to_owned()),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Every HTTP client of this build asks for a provider of TLS. Ring is the one, unless there is one already.
fn provide_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn check_pinned(asked: &Reference, found: &ImageDigest) -> Result<(), SourceError> {
    match asked.digest() {
        Some(wanted) if wanted != found => Err(SourceError::WrongDigest {
            part: crate::image::source::part::MANIFEST,
            wanted: wanted.to_string(),
            found: found.to_string(),
        }),
        _ => Ok(()),
    }
}

fn digest_error(error: oci_client::errors::DigestError) -> SourceError {
    let part = crate::image::source::part::MANIFEST;
    match error {
        oci_client::errors::DigestError::VerificationError { expected, actual } => {
            SourceError::WrongDigest { part, wanted: expected, found: actual }
        }
        other => SourceError::WrongDigest { part, wanted: "one of sha256".to_owned(), found: other.to_string() },
    }
}

/// Whether another attempt may help.
pub(super) fn may_pass(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::RequestError(error) => !error.is_builder() && !error.is_decode() && !error.is_redirect(),
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 408,
        OciDistributionError::IoError(_) => true,
        _ => false,
    }
}

fn says_not_there(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| {
            matches!(
                error.code,
                OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::NotFound
                    | OciErrorCode::BlobUnknown
                    | OciErrorCode::ManifestBlobUnknown
            )
        }),
        OciDistributionError::ServerError { code, .. } => *code == 404,
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        _ => false,
    }
}

fn in_registrys_words(envelope: &OciEnvelope) -> String {
    let words: Vec<&str> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
    shortened(&words.join("; "))
}

/// What a stranger sent, fit for one line.
fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "it does not say why".to_owned() } else { line.chars().take(200).collect() }
}

/// The cause that an error leads back to: what wraps it only says that a request failed.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    shortened(&cause.to_string())
}
