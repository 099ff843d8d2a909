//! Why an image could not be brought.

use std::io;

use workrs_core::image::{ImageDigest, InvalidImage};

use super::reference::InvalidReference;

/// Why an image could not be brought. The texts fit "cannot pull (import) …:"; [`hint`](Self::hint) says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A name that none can have.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// This build cannot speak to registries.
    #[error("this build of workrs cannot pull {reference}: it was built without the feature `registry`")]
    NotBuilt {
        /// What was asked for.
        reference: String,
    },
    /// The repository is there, the tag is not.
    #[error("{repository} has no tag {tag:?}")]
    NoSuchTag {
        /// With its registry.
        repository: String,
        /// The tag.
        tag: String,
        /// Some of those that it has.
        others: Vec<String>,
    },
    /// The repository is there, the digest is not.
    #[error("{repository} has nothing with the digest {digest}")]
    NoSuchDigest {
        /// With its registry.
        repository: String,
        /// What was asked for.
        digest: String,
    },
    /// The registry does not know the repository.
    #[error("the registry {registry} has no repository {repository:?}")]
    NoSuchRepository {
        /// The registry.
        registry: String,
        /// Without its registry.
        repository: String,
    },
    /// The registry wants to know who asks.
    #[error("the registry {registry} lets nobody read {repository} without credentials, and there are none: {looked}")]
    CredentialsNeeded {
        /// The registry.
        registry: String,
        /// Without its registry.
        repository: String,
        /// Where credentials were looked for, and what was found there.
        looked: String,
    },
    /// The registry does not know the user, or not by that password.
    #[error("the registry {registry} refuses the credentials of {username:?} ({from})")]
    CredentialsRefused {
        /// The registry.
        registry: String,
        /// The user's name there.
        username: String,
        /// Where the credentials are from.
        from: String,
    },
    /// The registry knows who asks, and refuses.
    #[error("the registry {registry} does not let {who} read {repository}: {reason}")]
    NotAllowed {
        /// The registry.
        registry: String,
        /// Without its registry.
        repository: String,
        /// Who asked.
        who: String,
        /// In the registry's words.
        reason: String,
    },
    /// The registry asks for patience.
    #[error("the registry {registry} takes no more requests for now: {reason}")]
    TooManyRequests {
        /// The registry.
        registry: String,
        /// In the registry's words.
        reason: String,
    },
    /// There is no connection to be had.
    #[error("the registry {registry} cannot be reached: {reason}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// Of the last attempt.
        reason: String,
    },
    /// The registry answers with what no registry answers, or with an error of its own.
    #[error("the registry {registry} fails: {reason}")]
    Registry {
        /// The registry.
        registry: String,
        /// What it said.
        reason: String,
    },
    /// A part that the manifest names is not in the registry.
    #[error("the registry {registry} lacks the {part} {digest}, which the image's manifest names")]
    PartMissing {
        /// The registry.
        registry: String,
        /// Manifest, configuration or layer.
        part: &'static str,
        /// Its digest.
        digest: ImageDigest,
    },
    /// Less came than there should be, again and again.
    #[error("the {part} {digest} is cut short: {got} of {wanted} bytes came{}", because(.reason.as_deref()))]
    CutShort {
        /// Manifest, configuration or layer.
        part: &'static str,
        /// Its digest.
        digest: ImageDigest,
        /// How many bytes came.
        got: u64,
        /// How many the manifest names.
        wanted: u64,
        /// What ended the last attempt, if it was no plain end.
        reason: Option<String>,
    },
    /// More came than there should be.
    #[error("the {part} {digest} is longer than the {wanted} bytes that the manifest names")]
    TooLong {
        /// Manifest, configuration or layer.
        part: &'static str,
        /// Its digest.
        digest: ImageDigest,
        /// How many bytes the manifest names.
        wanted: u64,
    },
    /// Content that is not what its digest says.
    #[error("the {part} has the digest {found}, not {wanted}: it was changed or damaged")]
    WrongDigest {
        /// Manifest, configuration or layer.
        part: &'static str,
        /// What it should have.
        wanted: String,
        /// What it has.
        found: String,
    },
    /// No manifest for this host.
    #[error("{name} is not for linux on {arch}, but for {}", list(.others))]
    NoArchitecture {
        /// The image's name, or "the archive".
        name: String,
        /// This host's architecture, in the words of images.
        arch: String,
        /// What there is instead.
        others: Vec<String>,
    },
    /// An image of a form that cannot be used.
    #[error("{name} is no image that can be used: {source}")]
    Invalid {
        /// The image's name, or "the archive".
        name: String,
        /// What is wrong with it.
        source: InvalidImage,
    },
    /// A layer that lies elsewhere.
    #[error("the layer {digest} of {name} is not in the registry but at other addresses, which are never asked")]
    Foreign {
        /// The image's name.
        name: String,
        /// Of the layer.
        digest: ImageDigest,
    },
    /// Something is larger than anything of its kind.
    #[error("{what} is larger than {limit} bytes, which is more than any has")]
    TooLarge {
        /// What it is.
        what: String,
        /// How large it may be.
        limit: u64,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// Where it lies.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A file that is none of the archives that images come in.
    #[error("the file is not an archive of an image: {reason}")]
    NotAnArchive {
        /// What it is instead.
        reason: String,
    },
    /// An archive that does not hold what it should.
    #[error("the archive is damaged: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// What was found could not be kept.
    #[error("the {part} {digest} cannot be stored: {source}")]
    Store {
        /// Manifest, configuration or layer.
        part: &'static str,
        /// Its digest.
        digest: ImageDigest,
        /// Why not.
        source: io::Error,
    },
}

impl SourceError {
    /// What the person who asked may do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Reference(_) => "write it as docker does: [registry[:port]/]name[:tag][@sha256:…]".to_owned(),
            Self::NotBuilt { .. } => {
                "build with the feature `registry`, or save the image to a file and use `workrs image import`".to_owned()
            }
            Self::NoSuchTag { others, .. } if others.is_empty() => "check the tag; the repository has none".to_owned(),
            Self::NoSuchTag { others, .. } => format!("check the tag; there are: {}", others.join(", ")),
            Self::NoSuchDigest { .. } => "check the digest, or name a tag instead".to_owned(),
            Self::NoSuchRepository { .. } => {
                "check the name; one without a registry is looked for at docker.io".to_owned()
            }
            Self::CredentialsNeeded { registry, .. } => {
                format!("run `docker login {registry}` as the user that the node runs as, or give credentials with the request")
            }
            Self::CredentialsRefused { registry, .. } => format!("check them with `docker login {registry}`"),
            Self::NotAllowed { .. } => {
                "check the name: registries also say this of repositories that do not exist; else use credentials that may \
                 read it"
                    .to_owned()
            }
            Self::TooManyRequests { .. } => "try again later, or with credentials".to_owned(),
            Self::Unreachable { .. } => {
                "check its name and the network; registries are asked by HTTPS unless they are on loopback or named as \
                 insecure, and this host has to trust their certificates"
                    .to_owned()
            }
            Self::Registry { .. } => "try again later; if it stays, ask who runs the registry".to_owned(),
            Self::PartMissing { .. } | Self::CutShort { .. } | Self::TooLong { .. } | Self::WrongDigest { .. } => {
                "nothing of it was kept; try again, and if it stays, push (save) the image anew".to_owned()
            }
            Self::NoArchitecture { arch, .. } => {
                format!("use an image that was built for linux/{arch}")
            }
            Self::Invalid { .. } | Self::Foreign { .. } | Self::TooLarge { .. } => {
                "use an image made by Docker, podman, buildah or another tool of that kind".to_owned()
            }
            Self::File { .. } => "check that the file is there and may be read".to_owned(),
            Self::NotAnArchive { .. } => {
                "give what `docker save`, `skopeo copy … oci-archive:` or `docker export` made, or a tar of a root file \
                 system; plain or compressed with gzip or zstd"
                    .to_owned()
            }
            Self::Damaged { .. } => "nothing of it was kept; make or copy the archive anew".to_owned(),
            Self::Store { .. } => "check the blobs' space and reach, then try again".to_owned(),
        }
    }
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing that is named".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<SourceError> {
        let digest = ImageDigest::of_sha256([0xab; 32]);
        let (registry, repository) = ("registry:5000".to_owned(), "team/tool".to_owned());
        let (name, part, reason) = ("registry:5000/team/tool:1".to_owned(), "layer", "in its own words".to_owned());
        let file = || io::Error::from(io::ErrorKind::PermissionDenied);
        let form = InvalidImage::OperatingSystem("windows".to_owned());
        vec![
            InvalidReference { text: "A".to_owned(), reason: "so it is" }.into(),
            SourceError::NotBuilt { reference: name.clone() },
            SourceError::NoSuchTag { repository: repository.clone(), tag: "2".to_owned(), others: vec![] },
            SourceError::NoSuchTag {
                repository: repository.clone(),
                tag: "2".to_owned(),
                others: vec!["1".to_owned()],
            },
            SourceError::NoSuchDigest { repository: repository.clone(), digest: digest.to_string() },
            SourceError::NoSuchRepository { registry: registry.clone(), repository: repository.clone() },
            SourceError::CredentialsNeeded {
                registry: registry.clone(),
                repository: repository.clone(),
                looked: "there is no /root/.docker/config.json".to_owned(),
            },
            SourceError::CredentialsRefused {
                registry: registry.clone(),
                username: "me".to_owned(),
                from: "given with the request".to_owned(),
            },
            SourceError::NotAllowed {
                registry: registry.clone(),
                repository,
                who: "\"me\"".to_owned(),
                reason: reason.clone(),
            },
            SourceError::TooManyRequests { registry: registry.clone(), reason: reason.clone() },
            SourceError::Unreachable { registry: registry.clone(), reason: reason.clone() },
            SourceError::Registry { registry: registry.clone(), reason: reason.clone() },
            SourceError::PartMissing { registry, part, digest: digest.clone() },
            SourceError::CutShort { part, digest: digest.clone(), got: 1, wanted: 2, reason: None },
            SourceError::CutShort { part, digest: digest.clone(), got: 1, wanted: 2, reason: Some(reason.clone()) },
            SourceError::TooLong { part, digest: digest.clone(), wanted: 2 },
            SourceError::WrongDigest { part, wanted: digest.to_string(), found: "sha256:cd…".to_owned() },
            SourceError::NoArchitecture { name: name.clone(), arch: "amd64".to_owned(), others: vec![] },
            SourceError::NoArchitecture {
                name: name.clone(),
                arch: "amd64".to_owned(),
                others: vec!["linux/arm64".to_owned(), "linux/s390x".to_owned()],
            },
            SourceError::Invalid { name: name.clone(), source: form },
            SourceError::Foreign { name: name.clone(), digest: digest.clone() },
            SourceError::TooLarge { what: name, limit: 2 },
            SourceError::File { path: "a.tar".to_owned(), source: file() },
            SourceError::NotAnArchive { reason: reason.clone() },
            SourceError::Damaged { reason },
            SourceError::Store { part, digest, source: file() },
        ]
    }

    #[test]
    fn texts() {
        let texts: Vec<String> =
            all().iter().map(|error| format!("error: {error}\nhint: {}\n", error.hint())).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }
}
