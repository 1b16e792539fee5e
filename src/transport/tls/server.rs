//! TLS as a server: which certificate is shown to whom, and which clients are believed.

use crate::transport::tls::certificate::Certificate;
use crate::transport::tls::names::Names;
use crate::transport::tls::tickets::Tickets;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use std::sync::Arc;
use x509_parser::parse_x509_certificate;

/// TLS 1.3 only, or 1.2 too.
pub const VERSIONS_ALL: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];
pub const VERSIONS_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What a listener's configuration is made from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The first is shown to who names no host, or one that none of them has. Never empty.
    pub certificates: Vec<Certificate>,
    pub clients: Option<Clients>,
    pub versions: &'static [&'static SupportedProtocolVersion],
    pub tickets: Tickets,
}

/// Clients must show a certificate.
#[derive(Clone, Debug)]
pub struct Clients {
    pub authorities: Arc<RootCertStore>,
    /// Empty: any name.
    pub names: Arc<[String]>,
}

/// The ring's cryptography: that of aws-lc.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Makes the configuration of a listener.
pub fn configure(parts: &Parts, provider: &Arc<CryptoProvider>) -> Result<ServerConfig, String> {
    let text = |error: Error| error.to_string();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(parts.versions)
        .map_err(text)?;
    let builder = match &parts.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let roots = clients.authorities.clone();
            let inner = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|error| error.to_string())?;
            builder
                .with_client_cert_verifier(Arc::new(Named { inner, names: clients.names.clone() }))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Chooser(parts.certificates.clone())));
    config.ticketer = Arc::new(parts.tickets.clone());
    // Tickets alone: a store of sessions would be a lock that all shards share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Shows each client the certificate of the host that it names.
#[derive(Debug)]
struct Chooser(Vec<Certificate>);

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        choose(&self.0, hello.server_name(), hello.signature_schemes())
    }
}

/// The first certificate for this host that the client can check; else the first that it can check.
fn choose(
    certificates: &[Certificate],
    host: Option<&str>,
    schemes: &[SignatureScheme],
) -> Option<Arc<CertifiedKey>> {
    let host = host.map(str::to_ascii_lowercase);
    let is_usable = |one: &&Certificate| one.key.key.choose_scheme(schemes).is_some();
    let is_named = |one: &&Certificate| host.as_ref().is_some_and(|host| one.names.covers(host));
    let named = certificates.iter().filter(is_usable).find(is_named);
    let chosen = named.or_else(|| certificates.iter().find(is_usable));
    chosen.or(certificates.first()).map(|one| one.key.clone())
}

/// Believes a client whose certificate is good and has an allowed name.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    names: Arc<[String]>,
}

/// Whether a certificate has one of `names`; any will do if there are none.
fn is_named(certificate: &[u8], names: &[String]) -> bool {
    names.is_empty()
        || parse_x509_certificate(certificate)
            .is_ok_and(|(_, parsed)| Names::of(&parsed).is_allowed(names))
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        match is_named(end_entity, &self.names) {
            true => Ok(verified),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
