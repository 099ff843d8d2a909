//! Whom a client believes that it is a node.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::{Fingerprint, TlsError, provider};

/// Which certificates are believed: any of these pins, or any that leads to one of these authorities. Without either, what
/// the system believes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    authorities: Vec<CertificateDer<'static>>,
    pins: Vec<Fingerprint>,
}

impl Trust {
    /// As the options of a command say: a file with certificates of authorities (PEM), and fingerprints.
    pub fn of(authorities: Option<&Path>, pins: &[String]) -> Result<Self, TlsError> {
        let authorities = authorities.map(read_authorities).transpose()?.unwrap_or_default();
        let pins = pins.iter().filter(|pin| !pin.trim().is_empty()).map(|pin| pin.parse());
        Ok(Self { authorities, pins: pins.collect::<Result<_, _>>()? })
    }

    /// Only this certificate.
    pub fn pinned(pin: Fingerprint) -> Self {
        Self { authorities: Vec::new(), pins: vec![pin] }
    }

    /// For connections; none where the system's own judgement is wanted.
    pub(crate) fn config(&self) -> Result<Option<ClientConfig>, TlsError> {
        if self.authorities.is_empty() && self.pins.is_empty() {
            return Ok(None);
        }
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let authorities = match &*self.authorities {
            [] => None,
            certificates => Some(chains_to(certificates)?),
        };
        let verifier = Verifier { pins: self.pins.clone(), authorities, algorithms };
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        Ok(Some(config.with_no_client_auth()))
    }
}

fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |reason: String| TlsError::File { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match certificates {
        Ok(certificates) if Vec::is_empty(&certificates) => Err(failed("it has no certificate in PEM form".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn chains_to(certificates: &[CertificateDer<'static>]) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone())?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    verifier.map_err(|error| Error::General(error.to_string()).into())
}

/// Believes a certificate that is pinned, whatever its names and dates, or that an authority vouches for. That the other
/// side has its key is proved by the handshake's signature, as always.
#[derive(Debug)]
struct Verifier {
    pins: Vec<Fingerprint>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = Fingerprint::of(end_entity);
        if self.pins.contains(&found) {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(authorities) = &self.authorities else {
            let reason = format!("the fingerprint of its certificate is {found}, which is not among those expected");
            return Err(Error::General(reason));
        };
        authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
