//! Who provides TLS to the HTTP clients of this process.

/// Makes ring the provider, unless there is one. In a build with S3 or registries every HTTP client asks for it, also one that speaks no
/// TLS, and does not do without: call this before one is made.
pub fn provide() {
    #[cfg(feature = "tls")]
    {
        // An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
