//! TLS between clients and nodes, and among nodes.
//!
//! A node shows [`Certificates`], given as files or made by itself; whoever connects judges them by [`Trust`]: the authorities of
//! the system, those of a file, or the [`Fingerprint`] of the very certificate. Nodes pin each other's by what stands in
//! their keys in the state store.

mod certificates;
mod fingerprint;
mod own;
#[cfg(test)]
mod tests;
mod trust;

use std::{path::PathBuf, sync::Arc};

use rustls::crypto::CryptoProvider;

pub use self::{
    certificates::{Certificates, Source},
    fingerprint::{Fingerprint, InvalidFingerprint},
    trust::Trust,
};

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot use {path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificate and key are not of use.
    #[error("cannot use the certificate in {path}: {reason}")]
    Certificate {
        /// Where the certificate is.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No certificate can be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
    /// A fingerprint is none.
    #[error(transparent)]
    Fingerprint(#[from] InvalidFingerprint),
    /// The library refuses.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// The one provider of all TLS in this process.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How HTTP/2 and HTTP/1.1 are called when a handshake settles which it is to be.
pub(crate) const H2: &[u8] = b"h2";
pub(crate) const HTTP1: &[u8] = b"http/1.1";
