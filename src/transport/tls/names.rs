//! The names in a certificate, and which of them fit a wish. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// Whom a certificate is for: its subject alternative names, and without any its common name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Host names, in lower case, perhaps with `*` as the first label.
    pub hosts: Vec<String>,
    /// Addresses, mail addresses, URIs and the common name: what a client may be called besides.
    pub others: Vec<String>,
}

impl Names {
    pub fn of(certificate: &X509Certificate<'_>) -> Names {
        let mut names = Names::default();
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(host) => names.hosts.push(host.to_ascii_lowercase()),
                GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
                    names.others.push((*text).to_owned());
                }
                GeneralName::IPAddress(bytes) => names.others.extend(address(bytes)),
                _ => {}
            }
        }
        let mut common = certificate.subject().iter_common_name();
        if let Some(Ok(name)) = common.next().map(|attribute| attribute.as_str()) {
            if names.hosts.is_empty() {
                names.hosts.push(name.to_ascii_lowercase());
            }
            names.others.push(name.to_owned());
        }
        names
    }

    /// Whether a server with this certificate may answer to `host`, in lower case (RFC 6125: `*`
    /// stands for the whole first label, and for one only).
    pub fn covers(&self, host: &str) -> bool {
        self.hosts.iter().any(|name| covers(name, host))
    }

    /// Whether a client with this certificate is one of those `allowed`: each a whole name, or `*.`
    /// and a domain.
    pub fn is_allowed(&self, allowed: &[String]) -> bool {
        let is_same = |name: &String, one: &String| name.eq_ignore_ascii_case(one);
        let is_host = |one: &String| {
            let one = one.to_ascii_lowercase();
            self.hosts.iter().any(|name| covers(&one, name))
        };
        allowed.iter().any(|one| is_host(one) || self.others.iter().any(|name| is_same(name, one)))
    }

    /// For logs and errors.
    pub fn list(&self) -> String {
        let mut all: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
        all.extend(self.others.iter().map(String::as_str).filter(|name| !self.covers(name)));
        if all.is_empty() { "no name at all".into() } else { all.join(", ") }
    }
}

fn covers(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix("*.") {
        Some(domain) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain)
        }
        None => pattern == host,
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
    let v6 = <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::from(Ipv6Addr::from(octets)));
    v4.or(v6).ok().map(|address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_whole_label() {
        let names = Names { hosts: vec!["*.example.com".into(), "db".into()], others: vec![] };
        for (host, is_covered) in [
            ("a.example.com", true),
            ("a.example.com.", true),
            ("a.b.example.com", false),
            ("example.com", false),
            (".example.com", false),
            ("db", true),
            ("db2", false),
            ("", false),
        ] {
            assert_eq!(names.covers(host), is_covered, "{host}");
        }
    }

    #[test]
    fn clients_are_known_by_any_of_their_names() {
        let names = Names {
            hosts: vec!["app.example.com".into()],
            others: vec!["app@example.com".into(), "The App".into()],
        };
        let is_allowed = |name: &str| names.is_allowed(&["other".into(), name.into()]);
        for name in ["App.example.com", "*.example.com", "app@example.com", "The App"] {
            assert!(is_allowed(name), "{name}");
        }
        for name in ["example.com", "*.com", "*", "App", ""] {
            assert!(!is_allowed(name), "{name}");
        }
        assert!(!names.is_allowed(&[]));
    }
}
