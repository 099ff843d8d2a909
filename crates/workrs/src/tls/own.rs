//! The certificate that a node makes for itself, once, and keeps in its data folder.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, DnType, KeyPair};

use super::TlsError;

/// Where it lies below the data folder.
const FOLDER: &str = "tls";

/// The files of a certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// The files of the node's own certificate, which is made now if there is none. It never expires and is never made anew: whoever
/// pinned its fingerprint goes on. `names` are names and addresses at which the node is reached.
pub(super) fn ensure(data_dir: &Path, names: &[String]) -> Result<Files, TlsError> {
    let folder = data_dir.join(FOLDER);
    let files = Files { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") };
    if files.certificate.exists() && files.key.exists() {
        return Ok(files);
    }
    let failed =
        |path: &Path, error: std::io::Error| TlsError::File { path: path.to_owned(), reason: error.to_string() };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| failed(&folder, error))?;
    let make = |error: rcgen::Error| TlsError::Make(error.to_string());
    let key = KeyPair::generate().map_err(make)?;
    let mut parameters = CertificateParams::new(names.to_vec()).map_err(make)?;
    parameters.distinguished_name.push(DnType::CommonName, "Workrs node");
    let certificate = parameters.self_signed(&key).map_err(make)?;
    // The key first: a certificate without its key is made anew.
    write(&files.key, &key.serialize_pem()).map_err(|error| failed(&files.key, error))?;
    write(&files.certificate, &certificate.pem()).map_err(|error| failed(&files.certificate, error))?;
    Ok(files)
}

/// Writes a file that only its owner can read; it has its whole content or is not there.
fn write(path: &Path, content: &str) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}
