//! Names and ports of servers, as people and routing tables write them. Resolving is apart: it
//! blocks.
//!
//! Written `host:port`, `host`, `[IPv6]:port` or `bolt://host:port`. Host names keep their spelling
//! and compare without regard to case, as DNS does.

use crate::transport::runtime;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// Bolt's registered port.
pub const PORT_DEFAULT: u16 = 7687;
/// The limit of DNS for a whole name.
const HOST_BYTES_MAX: usize = 253;
/// The schemes of Neo4j's drivers; the ending says which certificates they accept.
const SCHEMES: [&str; 6] = ["bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc"];

#[derive(Clone, Debug)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    pub port: u16,
}

impl Address {
    /// All addresses of the host, in the resolver's order. Runs on the executor's blocking thread.
    #[expect(clippy::disallowed_methods, reason = "it runs on the blocking thread")]
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = (self.host.clone(), self.port);
        let look_up = move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        let addresses: Vec<SocketAddr> = runtime::run_blocking(look_up).await??;
        if addresses.is_empty() {
            let text = format!("expected an address for {self}, the resolver has none");
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        Ok(addresses)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let refuse = |what: &str| format!("expected HOST:PORT, not {text:?}: {what}");
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if SCHEMES.contains(&scheme) => rest,
            Some(_) => return Err(refuse("its scheme is not bolt or neo4j")),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| refuse("no closing ]"))?;
                let is_end_or_port = port.is_empty() || port.starts_with(':');
                let port = is_end_or_port.then(|| port.strip_prefix(':'));
                (host, port.ok_or_else(|| refuse("something else than a port after ]"))?)
            }
            // More than one colon without brackets is an IPv6 address without a port.
            None if rest.matches(':').count() > 1 => (rest, None),
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let is_odd = |byte: u8| byte.is_ascii_control() || b" /?#@[]".contains(&byte);
        if host.is_empty() || host.len() > HOST_BYTES_MAX || host.bytes().any(is_odd) {
            return Err(refuse("the host is missing, too long or has odd characters"));
        }
        let port = port.map_or(Ok(PORT_DEFAULT), str::parse);
        let port = port.map_err(|_| refuse("the port is not a number up to 65535"))?;
        Ok(Address { host: host.to_string(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Address) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(&other.host)
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.host.bytes().for_each(|byte| state.write_u8(byte.to_ascii_lowercase()));
        // No byte of a name: where it ends is part of the hash.
        state.write_u8(0xFF);
        self.port.hash(state);
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address { host: address.ip().to_string(), port: address.port() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, host, port, written) in [
            ("db.example:7688", "db.example", 7688, "db.example:7688"),
            ("db.example", "db.example", 7687, "db.example:7687"),
            ("bolt://localhost:1", "localhost", 1, "localhost:1"),
            ("neo4j+ssc://Core-1/", "Core-1", 7687, "Core-1:7687"),
            ("127.0.0.1:65535", "127.0.0.1", 65535, "127.0.0.1:65535"),
            ("[::1]:7689", "::1", 7689, "[::1]:7689"),
            ("[fe80::1]", "fe80::1", 7687, "[fe80::1]:7687"),
            ("::1", "::1", 7687, "[::1]:7687"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port), "{text}");
            assert_eq!(address.to_string(), written);
            assert_eq!(written.parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":7687",
            "a:",
            "a:65536",
            "a:b",
            "http://a:1",
            "bolt://",
            "[::1",
            "[::1]7687",
            "a b:1",
            "user@host:1",
            "host/path",
            "a:-1",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains("expected HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn names_compare_without_regard_to_case() {
        let parse = |text: &str| text.parse::<Address>().unwrap();
        let set: HashSet<_> = ["A.b:1", "a.B:1", "a.b:2", "a.bc:1"].map(parse).into();
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn names_resolve_off_the_executor() {
        let resolve = || async { "localhost:7687".parse::<Address>().unwrap().resolve().await };
        let handle = runtime::start_executor("test", None, resolve).unwrap();
        let local = handle.join().unwrap().unwrap();
        let is_ours = |address: &SocketAddr| address.ip().is_loopback() && address.port() == 7687;
        assert!(!local.is_empty() && local.iter().all(is_ours));
    }
}
