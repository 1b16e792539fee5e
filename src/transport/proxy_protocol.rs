//! The PROXY protocol, versions 1 and 2: what a load balancer says of a client before its first
//! byte, and what boltmux says to servers. Pure: bytes in, an address out, and the other way.
//!
//! Never guessed: it is read where it must come, and nowhere else.

use ppp::{v1, v2};
use std::net::SocketAddr;

/// Longest header that is taken: addresses, and more additions than balancers make.
pub const HEADER_BYTES_MAX: usize = 4 << 10;
/// "The maximum line lengths the receiver must support" (PROXY protocol, 2.1), with its end.
const LINE_BYTES_MAX: usize = 107;
const LINE_PREFIX: &[u8] = b"PROXY ";
const LINE_END: &[u8] = b"\r\n";
/// The signature, version and command, family, and the length of the rest.
const BINARY_HEAD_BYTES: usize = 16;

/// Which form is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// Both ends of a client's connection, as the balancer saw them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub client: SocketAddr,
    pub reached: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// It may still become a header; the caller's deadline runs on.
    NeedMore,
    /// `ends` is `None` where the balancer speaks for itself (LOCAL, UNKNOWN) or names no address
    /// of the internet.
    Header { bytes: usize, ends: Option<Ends> },
    /// No header, or a broken one.
    Broken,
}

/// Reads a header from the first bytes of a connection.
pub fn parse(bytes: &[u8]) -> Parsed {
    let signature = v2::PROTOCOL_PREFIX;
    if bytes.starts_with(signature) {
        parse_binary(bytes)
    } else if bytes.starts_with(LINE_PREFIX) {
        parse_line(bytes)
    } else if signature.starts_with(bytes) || LINE_PREFIX.starts_with(bytes) {
        Parsed::NeedMore
    } else {
        Parsed::Broken
    }
}

fn parse_binary(bytes: &[u8]) -> Parsed {
    let Some(head) = bytes.first_chunk::<BINARY_HEAD_BYTES>() else { return Parsed::NeedMore };
    let length = BINARY_HEAD_BYTES + usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > HEADER_BYTES_MAX {
        return Parsed::Broken;
    }
    let Some(whole) = bytes.get(..length) else { return Parsed::NeedMore };
    let Ok(header) = v2::Header::try_from(whole) else { return Parsed::Broken };
    let is_client = header.command == v2::Command::Proxy && header.protocol == v2::Protocol::Stream;
    let ends = match header.addresses {
        _ if !is_client => None,
        v2::Addresses::IPv4(ends) => Some(Ends {
            client: (ends.source_address, ends.source_port).into(),
            reached: (ends.destination_address, ends.destination_port).into(),
        }),
        v2::Addresses::IPv6(ends) => Some(Ends {
            client: (ends.source_address, ends.source_port).into(),
            reached: (ends.destination_address, ends.destination_port).into(),
        }),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    };
    Parsed::Header { bytes: length, ends }
}

fn parse_line(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.windows(LINE_END.len()).position(|pair| pair == LINE_END) else {
        return if bytes.len() < LINE_BYTES_MAX { Parsed::NeedMore } else { Parsed::Broken };
    };
    let length = end + LINE_END.len();
    if length > LINE_BYTES_MAX {
        return Parsed::Broken; // as if it had come in pieces
    }
    let Ok(header) = v1::Header::try_from(&bytes[..length]) else { return Parsed::Broken };
    let ends = match header.addresses {
        v1::Addresses::Tcp4(ends) => Some(Ends {
            client: (ends.source_address, ends.source_port).into(),
            reached: (ends.destination_address, ends.destination_port).into(),
        }),
        v1::Addresses::Tcp6(ends) => Some(Ends {
            client: (ends.source_address, ends.source_port).into(),
            reached: (ends.destination_address, ends.destination_port).into(),
        }),
        v1::Addresses::Unknown => None,
    };
    Parsed::Header { bytes: length, ends }
}

/// What is said to a server; without `ends` boltmux speaks for itself.
pub fn header(version: Version, ends: Option<Ends>) -> Vec<u8> {
    // Addresses of a socket for both families are told as what they are.
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let ends = ends.map(|ends| (canonical(ends.client), canonical(ends.reached)));
    let ends = ends.filter(|(client, reached)| client.is_ipv4() == reached.is_ipv4());
    match version {
        Version::One => {
            let addresses = ends.map_or(v1::Addresses::Unknown, v1::Addresses::from);
            addresses.to_string().into_bytes()
        }
        Version::Two => {
            let mut bytes = v2::PROTOCOL_PREFIX.to_vec();
            let (command, family, payload) = match ends {
                None => (v2::Command::Local, 0, Vec::new()),
                Some((SocketAddr::V4(client), SocketAddr::V4(reached))) => {
                    let addresses = [client.ip().octets(), reached.ip().octets()].concat();
                    (v2::Command::Proxy, 0x11, with_ports(addresses, client.port(), reached.port()))
                }
                Some((client, reached)) => {
                    let octets = |address: SocketAddr| match address.ip() {
                        std::net::IpAddr::V6(ip) => ip.octets(),
                        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    };
                    let addresses = [octets(client), octets(reached)].concat();
                    (v2::Command::Proxy, 0x21, with_ports(addresses, client.port(), reached.port()))
                }
            };
            bytes.extend([v2::Version::Two | command, family]);
            bytes.extend((payload.len() as u16).to_be_bytes());
            bytes.extend(payload);
            bytes
        }
    }
}

fn with_ports(mut addresses: Vec<u8>, client: u16, reached: u16) -> Vec<u8> {
    addresses.extend(client.to_be_bytes());
    addresses.extend(reached.to_be_bytes());
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, reached: &str) -> Option<Ends> {
        Some(Ends { client: client.parse().unwrap(), reached: reached.parse().unwrap() })
    }

    fn binary(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = v2::PROTOCOL_PREFIX.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn headers_are_read_wherever_they_are_cut() {
        let four = [[192, 0, 2, 1], [198, 51, 100, 2], [0x1F, 0x90, 0x1E, 0x07]].concat();
        let mut six = [0; 36];
        (six[15], six[31], six[33], six[35]) = (1, 2, 3, 4);
        let added = [&four[..], &[0x04, 0x00, 0x03, 1, 2, 3]].concat();
        let unix = binary(1, 0x31, &[b'/'; 216]);
        let seen = ends("192.0.2.1:8080", "198.51.100.2:7687");
        for (bytes, ends) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 8080 7687\r\n".to_vec(), seen),
            (b"PROXY TCP6 ::1 ::2 3 4\r\n".to_vec(), ends("[::1]:3", "[::2]:4")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n".to_vec(), None),
            (binary(1, 0x11, &four), seen),
            (binary(1, 0x11, &added), seen),
            (binary(1, 0x21, &six), ends("[::1]:3", "[::2]:4")),
            (binary(0, 0x11, &four), None),
            (binary(0, 0x00, b""), None),
            (binary(1, 0x00, b"whatever"), None),
            (unix, None),
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Parsed::NeedMore, "{bytes:02x?} up to {cut}");
            }
            let whole = Parsed::Header { bytes: bytes.len(), ends };
            assert_eq!(parse(&bytes), whole, "{bytes:02x?}");
            let followed = [&bytes[..], b"\x60\x60\xB0\x17"].concat();
            assert_eq!(parse(&followed), whole, "what follows is left alone");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
        let long_line = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 100]].concat();
        let long = binary(0, 0, &vec![0; HEADER_BYTES_MAX]);
        let mut version = binary(1, 0x11, &[0; 12]);
        version[12] = 0x11;
        for bytes in [
            b"\x60\x60\xB0\x17".to_vec(),
            b"PROXX".to_vec(),
            b"\r\n\r\n\0\r\nQUIX".to_vec(),
            b"\x16\x03\x01".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 8080\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 8080 70000\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 198.51.100.2 8080 1\r\n".to_vec(),
            b"PROXY \xFF\r\n".to_vec(),
            [&long_line[..], b"\r\n"].concat(),
            long_line,
            long[..BINARY_HEAD_BYTES].to_vec(),
            version,
            binary(2, 0x11, &[0; 12]),
            binary(1, 0x11, &[0; 11]),
            binary(1, 0x51, &[0; 12]),
        ] {
            assert_eq!(parse(&bytes), Parsed::Broken, "{bytes:02x?}");
        }
        assert_eq!(parse(b""), Parsed::NeedMore);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mapped = ends("[::ffff:192.0.2.1]:1", "192.0.2.2:2");
        for version in [Version::One, Version::Two] {
            for (said, read) in [
                (ends("192.0.2.1:1", "192.0.2.2:2"), ends("192.0.2.1:1", "192.0.2.2:2")),
                (ends("[::1]:1", "[2001:db8::2]:2"), ends("[::1]:1", "[2001:db8::2]:2")),
                (mapped, ends("192.0.2.1:1", "192.0.2.2:2")),
                (ends("[::1]:1", "192.0.2.2:2"), None),
                (None, None),
            ] {
                let bytes = header(version, said);
                let expected = Parsed::Header { bytes: bytes.len(), ends: read };
                assert_eq!(parse(&bytes), expected, "{bytes:02x?}");
            }
        }
        assert_eq!(header(Version::One, None), b"PROXY UNKNOWN\r\n");
    }
}
