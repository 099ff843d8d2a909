//! Names of images, as Docker writes them.
//!
//! The grammar is that of [distribution's references](https://github.com/distribution/reference), and so is what is filled
//! in: `docker.io`, `library/` and `:latest`.

use std::{fmt, str::FromStr};

use workrs_core::image::ImageDigest;

/// Where images without a registry are looked for.
pub const DOCKER_HUB: &str = "docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// A name that no image can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot be the name of an image: {reason}")]
pub struct InvalidReference {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Names an image of a registry: by a tag, which may come to mean another image, by a digest, which never does, or by both,
/// of which the digest counts. Written in full; see [`familiar`](Self::familiar).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<ImageDigest>,
}

impl Reference {
    /// Reads a name, and fills in what it leaves out.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        Self::read(text).map_err(|reason| InvalidReference { text: text.to_owned(), reason })
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("it is empty");
        }
        if text.contains("://") {
            return Err("it is an address; leave out the part up to ://");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(read_digest(digest)?)),
            None => (text, None),
        };
        // A colon before the last slash is that of a port.
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_start..].split_once(':') {
            Some((last, tag)) => (&rest[..name_start + last.len()], Some(read_tag(tag)?)),
            None => (rest, None),
        };
        let (registry, path) = split_registry(name);
        check_registry(registry)?;
        let mut repository = path.to_owned();
        if registry == DOCKER_HUB && !path.contains('/') {
            repository.insert_str(0, OFFICIAL);
        }
        check_repository(&repository)?;
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The registry: a host name or address, with its port if one is named.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The name of the image within its registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none if only a digest is named.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, of a manifest or of a list of manifests.
    pub fn digest(&self) -> Option<&ImageDigest> {
        self.digest.as_ref()
    }

    /// As people write it: without what is filled in, such as `python:3.13-slim`. Reads back to the same.
    pub fn familiar(&self) -> String {
        let short = self.repository.strip_prefix(OFFICIAL).filter(|short| !short.contains('/'));
        let short = short.unwrap_or(&self.repository);
        // The first part of docker.io/localhost/x would be taken for a registry.
        let is_clear = self.registry == DOCKER_HUB && split_registry(short).0 == DOCKER_HUB;
        let name = if is_clear { short.to_owned() } else { self.with_registry() };
        let tag = self.tag.as_deref().filter(|tag| *tag != DEFAULT_TAG || self.digest.is_some());
        format!("{name}{}", self.suffix(tag))
    }

    /// The repository with its registry, without tag and digest.
    pub fn with_registry(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    fn suffix(&self, tag: Option<&str>) -> String {
        let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }

    /// The host of the registry, without its port.
    pub fn registry_host(&self) -> &str {
        split_port(&self.registry).0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix(self.tag()))
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// The first part is a registry only if it cannot be a part of a repository's name: Docker's rule.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (if first == "index.docker.io" { DOCKER_HUB } else { first }, rest)
        }
        _ => (DOCKER_HUB, name),
    }
}

fn split_port(registry: &str) -> (&str, Option<&str>) {
    // The colons of an IPv6 address lie between brackets.
    let after_address = registry.rfind(']').map_or(0, |end| end + 1);
    match registry[after_address..].split_once(':') {
        Some((host, port)) => (&registry[..after_address + host.len()], Some(port)),
        None => (registry, None),
    }
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = split_port(registry);
    if port.is_some_and(|port| port.starts_with('+') || port.parse::<u16>().is_err()) {
        return Err("what follows the registry's colon is no port");
    }
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').map(str::parse::<std::net::Ipv6Addr>);
        return if matches!(address, Some(Ok(_))) { Ok(()) } else { Err("what is in brackets is no IPv6 address") };
    }
    let label_is_good = |label: &str| {
        let of_host = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.bytes().all(of_host) && !label.starts_with('-') && !label.ends_with('-')
    };
    if host.split('.').all(label_is_good) { Ok(()) } else { Err("the registry is no host name") }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.len() > MAX_REPOSITORY {
        return Err("the name is longer than 255 characters");
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the name has upper-case letters, which only tags may have");
    }
    if repository.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err("each part of the name has lower-case letters and digits, with single '.', '_', '__' or '-' between them")
    }
}

/// Letters and digits, and between them one dot, one or two underscores, or any number of dashes.
fn is_path_component(component: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    component.starts_with(is_alphanumeric)
        && component.ends_with(is_alphanumeric)
        && component.split(is_alphanumeric).all(is_separator)
}

fn read_tag(tag: &str) -> Result<String, &'static str> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_good = |byte: u8| is_word(byte) || byte == b'.' || byte == b'-';
    match tag.bytes().next() {
        None => Err("nothing follows the colon; a tag should"),
        Some(first) if is_word(first) && tag.bytes().all(is_good) && tag.len() <= MAX_TAG => Ok(tag.to_owned()),
        Some(_) => Err("a tag has at most 128 letters, digits, '_', '.' and '-', and begins with none of the last two"),
    }
}

fn read_digest(digest: &str) -> Result<ImageDigest, &'static str> {
    ImageDigest::new(digest).map_err(|_| "a digest is sha256: and 64 lower-case hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> String {
        format!("sha256:{}", "f".repeat(64))
    }

    #[test]
    fn names_are_read_as_docker_does() {
        let pinned = format!("test:5000/repo@{}", digest());
        let both = format!("python:3.13@{}", digest());
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox"),
            ("python:3.13-slim", "docker.io/library/python:3.13-slim", "python:3.13-slim"),
            ("opensuse/leap:15.3", "docker.io/opensuse/leap:15.3", "opensuse/leap:15.3"),
            ("docker.io/library/redis", "docker.io/library/redis:latest", "redis"),
            ("index.docker.io/redis:7", "docker.io/library/redis:7", "redis:7"),
            ("test.com:5000", "docker.io/library/test.com:5000", "test.com:5000"),
            ("test.com/repo:Tag_1", "test.com/repo:Tag_1", "test.com/repo:Tag_1"),
            ("localhost/x", "localhost/x:latest", "localhost/x"),
            ("localhost:5000/a/b/c", "localhost:5000/a/b/c:latest", "localhost:5000/a/b/c"),
            ("[::1]:5000/a:1", "[::1]:5000/a:1", "[::1]:5000/a:1"),
            ("docker.io/localhost/x:1", "docker.io/localhost/x:1", "docker.io/localhost/x:1"),
            ("REGISTRY/a", "REGISTRY/a:latest", "REGISTRY/a"),
            ("a__b---c/d.e", "docker.io/a__b---c/d.e:latest", "a__b---c/d.e"),
            (&pinned, &pinned, &pinned),
            (&both, &format!("docker.io/library/{both}"), &both),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (full, familiar));
            assert_eq!(Reference::parse(full).unwrap(), reference);
            assert_eq!(Reference::parse(familiar).unwrap(), reference);
        }
    }

    #[test]
    fn hosts_are_told_from_ports() {
        for (text, host) in
            [("[::1]:5000/a", "[::1]"), ("[::1]/a", "[::1]"), ("localhost:1/a", "localhost"), ("a.b/c", "a.b")]
        {
            assert_eq!(Reference::parse(text).unwrap().registry_host(), host);
        }
    }

    #[test]
    fn what_cannot_be_a_name_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "empty"),
            (":tag", "each part of the name"),
            ("a//b", "each part of the name"),
            ("../a", "registry is no host name"),
            ("a/../b", "each part of the name"),
            ("a.b/../../c", "each part of the name"),
            ("a/b:", "nothing follows the colon"),
            ("a:b:c", "tag has at most"),
            ("Python", "upper-case"),
            ("https://registry/a", "leave out"),
            ("host:port/a", "no port"),
            ("host:99999/a", "no port"),
            ("host:+80/a", "no port"),
            ("[x]/a", "no IPv6"),
            ("a_b.com:80/x", "no host name"),
            ("a@sha256:12", "a digest is"),
            ("a b", "each part of the name"),
            ("a\n", "each part of the name"),
            ("ä", "each part of the name"),
        ] {
            let error = Reference::parse(text).unwrap_err();
            assert!(error.to_string().contains(reason), "{text:?}: {error}");
        }
        assert!(Reference::parse(&format!("a:{}", "x".repeat(129))).is_err());
        assert!(Reference::parse(&"a".repeat(256)).is_err());
    }
}
