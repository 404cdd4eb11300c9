//! The TLS client configuration of every connection to PostgreSQL.
//!
//! The crypto provider is always named; nothing is installed for the whole process, because
//! QUIC links in the same process have a configuration of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// How a connection is protected on its way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain text. Always so on a Unix socket, where PostgreSQL has no TLS.
    Disable,
    /// TLS if the server offers it, else plain text; the certificate is not checked.
    Prefer,
    /// TLS or no connection; the certificate is not checked, as libpq does without a root.
    Require,
    /// TLS or no connection; the certificate must lead to our root and carry the host's name.
    VerifyFull,
}

/// Why a root certificate file cannot be used.
#[derive(Debug, Error)]
pub enum RootCertError {
    /// The file is missing, not readable, or not PEM.
    #[error("cannot read {}: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system or the PEM parser said.
        reason: String,
    },
    /// The file is PEM, but has no certificate in it.
    #[error("{} contains no certificate", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate in the file is not one we can verify with.
    #[error("a certificate in {} is not usable: {reason}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        reason: String,
    },
}

/// Builds the client configuration: verified against the certificates in `root_cert` (PEM, one
/// or more), or encrypted without verification when there is none.
///
/// # Errors
/// The file cannot be read, holds no certificate, or one that is no trust anchor.
pub fn client_config(root_cert: Option<&Path>) -> Result<ClientConfig, RootCertError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring supports the protocol versions rustls enables by default");
    let config = match root_cert {
        Some(path) => builder.with_root_certificates(roots(path)?).with_no_client_auth(),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(danger::AnyCertificate::new(provider)))
            .with_no_client_auth(),
    };
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, RootCertError> {
    let unreadable = |reason: String| RootCertError::Unreadable { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| unreadable(e.to_string()))?;
        store.add(certificate).map_err(|e| RootCertError::Unusable {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
    }
    if store.is_empty() {
        return Err(RootCertError::Empty { path: path.to_owned() });
    }
    Ok(store)
}

mod danger {
    //! What makes `sslmode=require` without a root as weak as libpq's: it keeps eavesdroppers
    //! out, not impostors.

    use super::{Arc, CertificateDer, CryptoProvider};
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    /// Accepts every certificate, but still checks that the server holds its private key.
    #[derive(Debug)]
    pub(super) struct AnyCertificate {
        provider: Arc<CryptoProvider>,
    }

    impl AnyCertificate {
        pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
            Self { provider }
        }
    }

    impl ServerCertVerifier for AnyCertificate {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let schemes = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, cert, dss, schemes)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let schemes = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, cert, dss, schemes)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_file_without_certificate_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("root.pem");
        assert!(matches!(client_config(Some(&path)), Err(RootCertError::Unreadable { .. })));
        std::fs::write(&path, "no pem here\n").expect("write");
        assert!(matches!(client_config(Some(&path)), Err(RootCertError::Empty { .. })));
        let bogus = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, bogus).expect("write");
        assert!(matches!(client_config(Some(&path)), Err(RootCertError::Unusable { .. })));
    }
}
