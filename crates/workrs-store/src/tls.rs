//! The one provider of cryptography for TLS in this process: ring.

/// Makes ring the provider of all HTTP clients of this process; to be called before one is made. That there is a provider
/// already is fine: it is this one.
pub fn use_ring() {
    #[cfg(feature = "s3")]
    let _ = rustls::crypto::ring::default_provider().install_default();
}
