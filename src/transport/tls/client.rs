//! TLS towards servers: whom to believe, and as whom to come.

use crate::transport::tls::certificate::Certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::sync::Arc;
use std::time::Duration;
use x509_parser::parse_x509_certificate;

/// Sessions kept for resumption, of one server: as many as rustls' default.
const SESSIONS_MAX: usize = 256;

/// How to dial the server, and by which name it has to be known.
#[derive(Clone, Debug)]
pub struct Uplink {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

/// Whom to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Who is certified by one of these for the name dialled, or shows one of `exact` that is for
    /// it: servers have certificates that are their own authority.
    Authorities { roots: Arc<RootCertStore>, exact: Arc<[CertificateDer<'static>]> },
    /// Anybody: keeps listeners out, not impostors.
    Anybody,
}

/// The authorities that this system believes. Reads files.
pub fn system_authorities() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err("this system has no certificate authorities: install ca-certificates".into()),
        false => Ok(roots),
    }
}

impl Uplink {
    /// `host` is a name or an address literal, without brackets.
    pub fn new(
        host: &str,
        trust: &Trust,
        own: Option<&Certificate>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Uplink, String> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| format!("expected a host name for TLS, not {host:?}"))?;
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match trust {
            Trust::Authorities { roots, exact } => {
                let inner =
                    WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
                        .build()
                        .map_err(|error| error.to_string())?;
                let verifier = Certified { inner, exact: exact.clone() };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            Trust::Anybody => {
                let anybody = Anybody { provider: provider.clone() };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(anybody))
            }
        };
        let config = match own {
            Some(own) => {
                let own = SingleCertAndKey::from(own.key.clone());
                builder.with_client_cert_resolver(Arc::new(own))
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Uplink { config: Arc::new(config), name })
    }

    /// The same with sessions of its own to resume: one per shard, so that none waits for another.
    pub fn apart(&self) -> Uplink {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Uplink { config: Arc::new(config), name: self.name.clone() }
    }

    /// The same with a full handshake for every connection.
    pub fn without_resumption(&self) -> Uplink {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        Uplink { config: Arc::new(config), name: self.name.clone() }
    }
}

/// Believes who is certified, and who shows a certificate that it was given.
#[derive(Debug)]
struct Certified {
    inner: Arc<WebPkiServerVerifier>,
    exact: Arc<[CertificateDer<'static>]>,
}

impl ServerCertVerifier for Certified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.exact.iter().any(|one| one == end_entity) {
            let inner = &self.inner;
            return inner.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
        }
        let bad = |_| Error::from(CertificateError::BadEncoding);
        let (_, parsed) = parse_x509_certificate(end_entity).map_err(bad)?;
        let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let not_after_s = parsed.validity().not_after.timestamp();
        if now_s > not_after_s {
            let not_after_s = u64::try_from(not_after_s).unwrap_or(0);
            let not_after = UnixTime::since_unix_epoch(Duration::from_secs(not_after_s));
            return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
        }
        if now_s < parsed.validity().not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
        Ok(ServerCertVerified::assertion())
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

/// Believes every certificate, but checks that the server has its key.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
