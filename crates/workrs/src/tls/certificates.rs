//! What a node shows of itself to whoever connects.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::watch;

use super::{
    Fingerprint, TlsError,
    own::{self, Files},
    provider,
};

/// How often the files are looked at. A renewed certificate is there days before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Where a node's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Files in PEM form: the certificate with those that lead to its authority, and its key.
    Files {
        /// The certificates.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The node makes one for itself.
    SelfMade,
}

/// The certificate that a node shows, read anew when its files change. Connections that stand go on with the old one.
#[derive(Debug)]
pub struct Certificates {
    files: Files,
    shown: RwLock<Arc<CertifiedKey>>,
    /// What others are told of it.
    fingerprint: watch::Sender<Fingerprint>,
}

impl Certificates {
    /// Reads, or makes, what `source` says. `data_dir` keeps a self-made one, which is for `names`.
    pub fn open(source: &Source, data_dir: &Path, names: &[String]) -> Result<Arc<Self>, TlsError> {
        let files = match source {
            Source::Files { certificate, key } => Files { certificate: certificate.clone(), key: key.clone() },
            Source::SelfMade => own::ensure(data_dir, names)?,
        };
        let shown = read(&files)?;
        let fingerprint = watch::Sender::new(fingerprint(&shown));
        Ok(Arc::new(Self { files, shown: RwLock::new(Arc::new(shown)), fingerprint }))
    }

    /// The fingerprint of the certificate that is shown, now and later.
    pub fn fingerprint(&self) -> watch::Receiver<Fingerprint> {
        self.fingerprint.subscribe()
    }

    /// For a listener. Browsers hold many streams over one connection with HTTP/2, where HTTP/1.1 allows them six.
    pub(crate) fn config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let resolver = Arc::clone(self) as Arc<dyn ResolvesServerCert>;
        let mut config = config.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![super::H2.to_vec(), super::HTTP1.to_vec()];
        Ok(Arc::new(config))
    }

    /// Looks at the files from time to time, for ever. While they make no sense, the old certificate stays.
    pub async fn follow_files(self: Arc<Self>) {
        let mut complaint = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let looking = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || looking.look()).await {
                Ok(Ok(true)) => {
                    let fingerprint = *self.fingerprint.borrow();
                    tracing::info!(%fingerprint, "the certificate has changed: new connections get the new one");
                    complaint.clear();
                }
                Ok(Ok(false)) => complaint.clear(),
                Ok(Err(error)) if complaint != error.to_string() => {
                    complaint = error.to_string();
                    tracing::warn!(%error, "cannot read the certificate anew: the old one stays in use");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Reads the files; says whether they have another certificate than before.
    pub(super) fn look(&self) -> Result<bool, TlsError> {
        let read = read(&self.files)?;
        let found = fingerprint(&read);
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
        Ok(self.fingerprint.send_if_modified(|told| std::mem::replace(told, found) != found))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn fingerprint(certificate: &CertifiedKey) -> Fingerprint {
    // `read` lets none without a certificate through.
    Fingerprint::of(certificate.cert.first().map_or(&[], |first| first.as_ref()))
}

fn read(files: &Files) -> Result<CertifiedKey, TlsError> {
    let failed = |path: &Path, reason: String| TlsError::File { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
    let chain: Vec<CertificateDer<'static>> = chain.map_err(|error| failed(&files.certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(failed(&files.certificate, "it has no certificate in PEM form".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| failed(&files.key, error.to_string()))?;
    let invalid = |reason| TlsError::Certificate { path: files.certificate.clone(), reason };
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => invalid(format!("the key in {} is another one's", files.key.display())),
        error => invalid(error.to_string()),
    })
}
