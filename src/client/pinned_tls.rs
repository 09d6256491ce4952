//! TLS to a node that is known by its certificate's fingerprint, or by the cluster's authority.
//!
//! The handshake fails unless the certificate is an expected one and the peer has its key.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::model::fingerprint::{Fingerprint, FingerprintPrefix};

/// A name in the certificate of every control plane node, and of no other: API servers show it too.
/// A joining node has none signed that holds it.
pub(crate) const CONTROL_PLANE_NAME: &str = "kubernetes.default.svc";

/// The peer shows another certificate than the expected one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the certificate has the fingerprint {served}, and {expected} was expected")]
pub struct OtherCertificate {
    /// What the connection strings say, or the connection before showed.
    pub expected: String,
    /// What the peer shows now.
    pub served: Fingerprint,
}

impl OtherCertificate {
    /// Whether a handshake failed because of it.
    pub(crate) fn of(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
            _ => None,
        }
    }
}

/// Which certificates a peer may show: one with one of these fingerprints, or one of a control plane
/// node under this authority. Any, where there is neither.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    fingerprints: Vec<FingerprintPrefix>,
    authority: Option<Arc<WebPkiServerVerifier>>,
}

impl Identity {
    /// The certificate has one of these fingerprints, and may be any where there are none.
    pub fn of(fingerprints: impl IntoIterator<Item = FingerprintPrefix>) -> Self {
        Self {
            fingerprints: fingerprints.into_iter().collect(),
            authority: None,
        }
    }

    /// The certificate is that of a control plane node under this authority (PEM).
    pub(crate) fn control_plane(authority: &str) -> Result<Self, String> {
        let roots = roots(authority)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = verifier.build().map_err(|error| error.to_string())?;
        Ok(Self {
            fingerprints: Vec::new(),
            authority: Some(verifier),
        })
    }

    /// The same, or this certificate.
    #[must_use]
    pub(crate) fn or(mut self, certificate: &[u8]) -> Self {
        self.fingerprints.push(Fingerprint::of(certificate).into());
        self
    }

    fn check(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let served = Fingerprint::of(certificate);
        if self.fingerprints.iter().any(|one| one.matches(&served)) {
            return Ok(());
        }
        let by_authority = self.authority.as_ref().map(|authority| {
            let name = ServerName::try_from(CONTROL_PLANE_NAME)
                .map_err(|error| Error::General(error.to_string()))?;
            authority.verify_server_cert(certificate, &[], &name, &[], now)
        });
        match by_authority {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) if self.fingerprints.is_empty() => Err(error),
            None if self.fingerprints.is_empty() => Ok(()),
            _ => {
                let expected: Vec<_> = self.fingerprints.iter().map(ToString::to_string).collect();
                let expected = expected.join(" or ");
                let other = OtherError(Arc::new(OtherCertificate { expected, served }));
                Err(CertificateError::Other(other).into())
            }
        }
    }
}

/// The certificates of an authority (PEM), to verify others with.
pub(super) fn roots(authority: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for one in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let one = one.map_err(|error| error.to_string())?;
        roots.add(one).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// A configuration for a peer that is to be this one.
pub fn config(expected: Identity) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Pinned {
        expected,
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // Nothing may be resumed that was not verified in this process.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Pinned {
    expected: Identity,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.expected.check(end_entity, now)?;
        Ok(ServerCertVerified::assertion())
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
