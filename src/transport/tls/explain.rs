//! TLS errors in words: what was expected, what came, what to do.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use x509_parser::time::ASN1Time;

/// One line; the reader knows whom the connection was with.
pub fn error(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => {
            "expected a certificate from the peer, it has shown none".into()
        }
        Error::AlertReceived(alert) => received(*alert),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "expected TLS, the peer speaks something else: is its TLS turned on?".into()
        }
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "the peer offers no cipher suite that is believed safe".into()
        }
        other => format!("the peer breaks TLS: {other}"),
    }
}

fn certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::Expired => "the peer's certificate has expired: renew it".into(),
        E::ExpiredContext { not_after, .. } => format!(
            "the peer's certificate has expired, on {}: renew it",
            date(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX))
        ),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "the peer's certificate is not valid yet: is the clock right?".into()
        }
        E::UnknownIssuer => "the issuer of the peer's certificate is not known: name its \
             authority (uplink.ca_file for servers, listen.client_ca for clients)"
            .into(),
        E::NotValidForName => "the peer's certificate is for another name".into(),
        E::NotValidForNameContext { expected, presented } => format!(
            "the peer's certificate is not for {}, but for {}: use one of its names",
            expected.to_str(),
            if presented.is_empty() { "no name at all".into() } else { presented.join(", ") }
        ),
        E::ApplicationVerificationFailure => {
            "the client's certificate has none of the names in listen.client_names".into()
        }
        E::BadSignature => "the peer's certificate is not signed by its issuer".into(),
        other => format!("the peer's certificate is not good: {other}"),
    }
}

/// What the other side says of us.
fn received(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let reason = match alert {
        A::UnknownCA => "does not know the issuer of the certificate",
        A::CertificateExpired => "finds the certificate expired",
        A::BadCertificate | A::CertificateUnknown => "does not believe the certificate",
        A::CertificateRequired => "wants a certificate (uplink.client_cert)",
        A::AccessDenied => "does not let this certificate in",
        A::ProtocolVersion => "speaks no common version of TLS",
        A::HandshakeFailure => "finds nothing in common, or wants a certificate",
        A::UnrecognisedName => "does not know the name asked for",
        _ => return format!("the peer ended TLS with the alert {alert:?}"),
    };
    format!("the peer {reason}")
}

/// A time in seconds since 1970, for people.
pub fn date(time_s: i64) -> String {
    ASN1Time::from_timestamp(time_s).map_or_else(|_| "a far day".into(), |time| time.to_string())
}
