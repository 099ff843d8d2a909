//! Where the cluster is, and how to get in: `etcd://host:port,host:port/prefix`, or with TLS
//! `etcds://host:port/prefix?ca=FILE&cert=FILE&key=FILE`.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use etcd_client::{Certificate, Identity, TlsOptions};

/// Prefix of a store whose URL names none.
pub const DEFAULT_PREFIX: &str = "workrs";
const DEFAULT_PORT: u16 = 2379;

/// How a store in etcd is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    /// `host:port` of several members of the cluster, best of all: a store works while one of them can be reached
    /// that is in touch with most of the others.
    pub endpoints: Vec<String>,
    /// All keys are stored below it. Stores of one cluster whose prefixes are not the same and not within each other
    /// do not see each other.
    pub prefix: String,
    /// `None` means that nothing is encrypted.
    pub tls: Option<Tls>,
    /// Who asks, if the cluster wants to know. It stands in no URL, since URLs get into logs.
    pub credentials: Option<Credentials>,
}

/// Files in PEM format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The authority that signed the certificates of the members.
    pub ca: PathBuf,
    /// This client's certificate and its private key, if the members want to see one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Its name.
    pub user: String,
    /// Its password, which is never shown.
    pub password: String,
}

/// Why a store in etcd cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// The URL means nothing.
    #[error(
        "invalid URL of an etcd cluster: {0}; write etcd://host:port,host:port/prefix, or with TLS \
         etcds://host:port/prefix?ca=FILE, and &cert=FILE&key=FILE for a client's certificate"
    )]
    InvalidUrl(String),
    /// A certificate or key.
    #[error("cannot use {path} for TLS with etcd: {reason}")]
    Tls {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl FromStr for EtcdOptions {
    type Err = EtcdError;

    fn from_str(url: &str) -> Result<Self, EtcdError> {
        let invalid = |what: &str| Err(EtcdError::InvalidUrl(what.to_owned()));
        let (secure, rest) = match (url.strip_prefix("etcd://"), url.strip_prefix("etcds://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return invalid("it begins with neither etcd:// nor etcds://"),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // Not shown: what stands before the @ may be a password.
        if hosts.contains('@') {
            return invalid("user and password do not belong into it");
        }
        let endpoints = hosts.split(',').map(endpoint).collect::<Result<Vec<_>, _>>()?;
        let prefix = prefix.trim_end_matches('/');
        if prefix.starts_with('/') || prefix.contains("//") {
            return invalid("its prefix has an empty part");
        }
        let prefix = if prefix.is_empty() { DEFAULT_PREFIX } else { prefix }.to_owned();
        let tls = Tls::from_query(query)?;
        match (secure, &tls) {
            (true, None) => invalid("etcds:// needs ca=FILE, the authority that signed the members' certificates"),
            (false, Some(_)) => invalid("ca, cert and key are for etcds://"),
            _ => Ok(Self { endpoints, prefix, tls, credentials: None }),
        }
    }
}

impl EtcdOptions {
    /// The same cluster, asked as a user.
    #[must_use]
    pub fn with_credentials(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { credentials: Some(Credentials { user: user.into(), password: password.into() }), ..self }
    }
}

/// Checks one `host:port`, and adds the port if it is missing.
fn endpoint(text: &str) -> Result<String, EtcdError> {
    let invalid = || EtcdError::InvalidUrl(format!("{text:?} is not host:port"));
    // An IPv6 address stands in brackets: what follows them is the port.
    let (address, rest) = match text.rfind(']') {
        Some(end) => text.split_at(end + 1),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let well_formed = |character: char| character.is_ascii_alphanumeric() || "-._:[]".contains(character);
    if address.is_empty() || !address.chars().all(well_formed) {
        return Err(invalid());
    }
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?,
        None if rest.is_empty() => DEFAULT_PORT,
        None => return Err(invalid()),
    };
    Ok(format!("{address}:{port}"))
}

impl Tls {
    fn from_query(query: &str) -> Result<Option<Self>, EtcdError> {
        let invalid = |what: String| EtcdError::InvalidUrl(what);
        let (mut ca, mut cert, mut key) = (None, None, None);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, file) = part.split_once('=').unwrap_or((part, ""));
            let place = match name {
                "ca" => &mut ca,
                "cert" => &mut cert,
                "key" => &mut key,
                _ => return Err(invalid(format!("{name:?} is none of ca, cert and key"))),
            };
            if file.is_empty() || place.replace(PathBuf::from(file)).is_some() {
                return Err(invalid(format!("{name} must name one file")));
            }
        }
        let identity = match (cert, key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert, key)),
            _ => return Err(invalid("cert and key go together".to_owned())),
        };
        match (ca, identity) {
            (Some(ca), identity) => Ok(Some(Self { ca, identity })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(invalid("cert and key need ca".to_owned())),
        }
    }

    /// Reads the files.
    pub(super) async fn load(&self) -> Result<TlsOptions, EtcdError> {
        let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&self.ca).await?));
        if let Some((cert, key)) = &self.identity {
            options = options.identity(Identity::from_pem(read(cert).await?, read(key).await?));
        }
        Ok(options)
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, EtcdError> {
    let failed = |reason: String| EtcdError::Tls { path: path.to_owned(), reason };
    let bytes = tokio::fs::read(path).await.map_err(|error| failed(error.to_string()))?;
    // What is not PEM would be taken for a list of no certificates.
    let is_pem = bytes.windows(11).any(|window| window == b"-----BEGIN ");
    if is_pem { Ok(bytes) } else { Err(failed("it is not in PEM format".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<EtcdOptions, EtcdError> {
        url.parse()
    }

    #[test]
    fn urls_name_endpoints_prefix_and_files() {
        let plain = |endpoints: &[&str], prefix: &str| EtcdOptions {
            endpoints: endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect(),
            prefix: prefix.to_owned(),
            tls: None,
            credentials: None,
        };
        assert_eq!(parse("etcd://a:1,b.example:2,[::1]:3/p"), Ok(plain(&["a:1", "b.example:2", "[::1]:3"], "p")));
        assert_eq!(parse("etcd://10.0.0.1"), Ok(plain(&["10.0.0.1:2379"], DEFAULT_PREFIX)));
        assert_eq!(parse("etcd://[::1]/"), Ok(plain(&["[::1]:2379"], DEFAULT_PREFIX)));
        assert_eq!(parse("etcd://a/groups/one/"), Ok(plain(&["a:2379"], "groups/one")));
        let tls = parse("etcds://a/p?ca=/ca.pem&key=/k.pem&cert=/c.pem").unwrap().tls;
        let identity = Some(("/c.pem".into(), "/k.pem".into()));
        assert_eq!(tls, Some(Tls { ca: "/ca.pem".into(), identity }));
        assert_eq!(parse("etcds://a?ca=ca.pem").unwrap().tls, Some(Tls { ca: "ca.pem".into(), identity: None }));
    }

    #[test]
    fn what_means_nothing_is_refused_and_says_why() {
        let cases = [
            ("redis://a", "neither"),
            ("etcd://", "not host:port"),
            ("etcd://a:0", "not host:port"),
            ("etcd://a:b", "not host:port"),
            ("etcd://::1", "not host:port"),
            ("etcd://a,,b", "not host:port"),
            ("etcd://a/x//y", "empty part"),
            ("etcd://a//x", "empty part"),
            ("etcd://me:secret@a", "user and password"),
            ("etcds://a", "needs ca"),
            ("etcd://a?ca=x", "etcds://"),
            ("etcds://a?ca=x&cert=y", "together"),
            ("etcds://a?cert=y&key=z", "need ca"),
            ("etcds://a?ca=x&ca=y", "one file"),
            ("etcds://a?ca=", "one file"),
            ("etcds://a?ca=x&user=y", "none of"),
        ];
        for (url, why) in cases {
            let text = parse(url).unwrap_err().to_string();
            assert!(text.contains(why), "{url}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let options = parse("etcd://a").unwrap().with_credentials("me", "secret");
        let shown = format!("{options:?}");
        assert!(shown.contains("me") && !shown.contains("secret"), "{shown}");
    }

    #[tokio::test]
    async fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let tls = Tls { ca: path.clone(), identity: None };
        assert!(tls.load().await.unwrap_err().to_string().contains("ca.pem"));
        std::fs::write(&path, "not a certificate").unwrap();
        assert!(tls.load().await.unwrap_err().to_string().contains("PEM"));
    }
}
