//! TLS 1.3 with raw public keys on both sides.
//!
//! No session resumption: a resumed session skips the check of the peer's key, so a revoked member
//! could come back with an old ticket; and tickets are bytes on the line. 0-RTT is off with it: it
//! would allow replays.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use landfall_protocol::id::PublicKey;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme,
};

use crate::identity::{self, MemberKey};
use crate::transport::error::TransportError;

/// The protocol both sides must name in the handshake.
pub const ALPN: &[u8] = ALPN_TEXT.as_bytes();
pub(super) const ALPN_TEXT: &str = "landfall/1";

/// The members whose keys are accepted, with their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinnedKeys {
    names: BTreeMap<PublicKey, String>,
}

impl PinnedKeys {
    /// The name of the member with this key.
    pub fn name(&self, key: &PublicKey) -> Option<&str> {
        self.names.get(key).map(String::as_str)
    }

    /// Whether a member has this key.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.names.contains_key(key)
    }

    /// The member's name, or the beginning of the key where no member has it.
    pub(super) fn label(&self, key: &PublicKey) -> String {
        self.name(key).map_or_else(|| format!("key {}", identity::short(key)), str::to_owned)
    }
}

impl<N: Into<String>> FromIterator<(PublicKey, N)> for PinnedKeys {
    fn from_iter<I: IntoIterator<Item = (PublicKey, N)>>(keys: I) -> Self {
        Self { names: keys.into_iter().map(|(key, name)| (key, name.into())).collect() }
    }
}

/// Our side of every handshake.
#[derive(Debug)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    own_key: Arc<CertifiedKey>,
    alpn: Vec<u8>,
}

/// The key the peer presented in one handshake, if it got that far, whether accepted or not.
pub(super) type Presented = Arc<OnceLock<PublicKey>>;

impl Tls {
    pub(super) fn new(key: &MemberKey, alpn: &[u8]) -> Result<Self, TransportError> {
        let pkcs8 = PrivatePkcs8KeyDer::from(key.pkcs8_der());
        let signing = ring::sign::any_eddsa_type(&pkcs8)
            .map_err(|error| TransportError::OwnKey { why: error.to_string() })?;
        let public = CertificateDer::from(identity::spki_der(&key.public()));
        Ok(Self {
            provider: Arc::new(ring::default_provider()),
            own_key: Arc::new(CertifiedKey::new(vec![public], signing)),
            alpn: alpn.to_vec(),
        })
    }

    /// For one connection that arrives: any of `pinned` may come.
    pub(super) fn accepting(&self, pinned: Arc<PinnedKeys>) -> (QuicServerConfig, Presented) {
        let (check, presented) = self.check(Expected::AnyOf(pinned));
        let mut tls = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring supports tls 1.3")
            .with_client_cert_verifier(Arc::new(check))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                self.own_key.clone(),
            )));
        tls.alpn_protocols = vec![self.alpn.clone()];
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        tls.max_early_data_size = 0;
        (tls.try_into().expect("ring has the suite quic starts with"), presented)
    }

    /// For one connection that we dial: only `expected` may answer.
    pub(super) fn dialling(&self, expected: PublicKey) -> (QuicClientConfig, Presented) {
        let (check, presented) = self.check(Expected::Exactly(expected));
        let mut tls = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring supports tls 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(check))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.own_key.clone(),
            )));
        tls.alpn_protocols = vec![self.alpn.clone()];
        tls.resumption = Resumption::disabled();
        tls.enable_early_data = false;
        // Keys are the names here; a host name would only tell listeners whom we call.
        tls.enable_sni = false;
        (tls.try_into().expect("ring has the suite quic starts with"), presented)
    }

    fn check(&self, expected: Expected) -> (KeyCheck, Presented) {
        let presented = Presented::default();
        let provider = self.provider.clone();
        (KeyCheck { expected, presented: presented.clone(), provider }, presented)
    }
}

#[cfg(test)]
impl Tls {
    /// Presents `public`, whose secret key it does not have.
    pub(super) fn claim(&mut self, public: PublicKey) {
        let signing = self.own_key.key.clone();
        let public = CertificateDer::from(identity::spki_der(&public));
        self.own_key = Arc::new(CertifiedKey::new(vec![public], signing));
    }
}

/// The authenticated key in what quinn knows of the peer after the handshake.
pub(super) fn peer_key(connection: &quinn::Connection) -> Option<PublicKey> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    identity::from_spki_der(identity.first()?)
}

#[derive(Debug)]
enum Expected {
    Exactly(PublicKey),
    AnyOf(Arc<PinnedKeys>),
}

/// Decides in one handshake whether the peer's key will do. There is no chain, no name and no date
/// to look at.
#[derive(Debug)]
struct KeyCheck {
    expected: Expected,
    presented: Presented,
    provider: Arc<CryptoProvider>,
}

impl KeyCheck {
    fn check_key(&self, spki: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let key = identity::from_spki_der(spki).ok_or(CertificateError::BadEncoding)?;
        self.presented.get_or_init(|| key);
        let expected = match &self.expected {
            Expected::Exactly(expected) => key == *expected,
            Expected::AnyOf(pinned) => pinned.contains(&key),
        };
        // Sent as the alert "access denied", which the other side recognizes.
        expected.then_some(()).ok_or(CertificateError::ApplicationVerificationFailure.into())
    }

    fn check_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &spki, signature, algorithms)
    }
}

impl ServerCertVerifier for KeyCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check_key(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for KeyCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check_key(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
