//! TLS towards servers: whom to believe, and as whom to come.

use crate::transport::tls::certificate::Certificate;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

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
    /// Who is certified by one of these for the name dialled.
    Authorities(Arc<RootCertStore>),
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
            Trust::Authorities(roots) => builder.with_root_certificates(roots.clone()),
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
