//! Certificates and keys out of the text of their files. Pure: no file is read here, and the time
//! is an argument. No error shows a byte of a key.

use crate::transport::tls::explain::date;
use crate::transport::tls::names::Names;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use x509_parser::parse_x509_certificate;

/// A certificate chain with its key, fit for use when it was read.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    pub names: Names,
    /// When it ends, in seconds since 1970.
    pub not_after_s: i64,
}

impl Certificate {
    /// Reads a chain, the certificate itself first, and its key; `now_s` in seconds since 1970.
    pub fn read(
        chain: &[u8],
        key: &[u8],
        now_s: i64,
        provider: &CryptoProvider,
    ) -> Result<Certificate, Fault> {
        let chain = certificates(chain).map_err(Fault::Chain)?;
        let own = chain.first().expect("an empty chain is an error");
        let (_, parsed) = parse_x509_certificate(own)
            .map_err(|error| Fault::Chain(format!("its certificate cannot be read: {error}")))?;
        let (start_s, not_after_s) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        if now_s > not_after_s {
            let text = format!("it has expired, on {}: renew it", date(not_after_s));
            return Err(Fault::Chain(text));
        }
        if now_s < start_s {
            let text = format!("it is valid from {} on only: is the clock right?", date(start_s));
            return Err(Fault::Chain(text));
        }
        let names = Names::of(&parsed);
        let key = private_key(key).map_err(Fault::Key)?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Fault::Key(
                "it is not the key of this certificate: give the two that belong together".into(),
            ),
            error => Fault::Key(format!("it cannot be used: {error}")),
        })?;
        Ok(Certificate { key: Arc::new(key), names, not_after_s })
    }
}

/// What is wrong, and with which of the two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Chain(String),
    Key(String),
}

/// The authorities in a file, each to be believed.
pub fn authorities(text: &[u8]) -> Result<RootCertStore, String> {
    roots(certificates(text)?)
}

/// The same as certificates: whoever shows one of these is believed as well.
pub fn believed(text: &[u8]) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let certificates = certificates(text)?;
    Ok((roots(certificates.clone())?, certificates))
}

fn roots(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| format!("a certificate in it cannot be an authority: {error}"))?;
    }
    Ok(roots)
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err("expected a certificate in PEM form (-----BEGIN CERTIFICATE-----)".into())
        }
        Ok(found) => Ok(found),
        Err(_) => Err("expected certificates in PEM form: it is damaged".into()),
    }
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let is_encrypted = text.windows(9).any(|word| word == b"ENCRYPTED");
    PrivateKeyDer::from_pem_slice(text).map_err(|_| match is_encrypted {
        true => "it is encrypted: give it without a passphrase, readable for boltmux only".into(),
        false => "expected a private key in PEM form (-----BEGIN PRIVATE KEY-----)".into(),
    })
}
