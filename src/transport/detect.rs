//! What a new connection speaks, told by its first bytes. Pure: it looks, it takes nothing, so the
//! next phase finds the same bytes.
//!
//! ```text
//! 60 60 B0 17        the Bolt handshake
//! "GET " "HEAD "     HTTP: health, discovery, WebSocket
//! 14..18 03 xx len   a TLS record; a ClientHello begins 16 03
//! anything else      closed without a word, as Neo4j does
//! ```
//!
//! A PROXY protocol header would come before all of these, and TLS is followed by the same question
//! about its plaintext; TLS within TLS is the caller's to refuse.

/// Neo4j decides when so many bytes have come; all of its rules fit into them.
pub const PREFIX_BYTES: usize = 5;

const BOLT_MAGIC: [u8; 4] = [0x60, 0x60, 0xB0, 0x17];
/// change_cipher_spec to heartbeat: the content types of TLS records.
const TLS_CONTENT_TYPES: std::ops::RangeInclusive<u8> = 0x14..=0x18;
/// SSL 3.0 to TLS 1.3, which all say 3.
const TLS_MAJOR: u8 = 3;
const TLS_MINOR_MAX: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    Bolt,
    /// A GET or HEAD; `http::parse` reads on from the first byte.
    Http,
    Tls,
    /// Nothing we know: close, send nothing.
    Close,
    /// Fewer than `PREFIX_BYTES` have come; the caller's deadline for first bytes runs on.
    NeedMore,
}

/// Looks at the first bytes of a connection, however many there are.
pub fn detect(bytes: &[u8]) -> Detected {
    match bytes {
        [] | [_] | [_, _] | [_, _, _] | [_, _, _, _] => Detected::NeedMore,
        _ if bytes.starts_with(&BOLT_MAGIC) => Detected::Bolt,
        // Neo4j knows GET only; HEAD is for health checks.
        _ if bytes.starts_with(b"GET ") || bytes.starts_with(b"HEAD ") => Detected::Http,
        [kind, TLS_MAJOR, 0..=TLS_MINOR_MAX, ..] if TLS_CONTENT_TYPES.contains(kind) => {
            Detected::Tls
        }
        _ => Detected::Close,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [(&[u8], Detected); 16] = [
        (b"\x60\x60\xB0\x17\x00\x00\x01\xFF\x00\x08\x08\x05", Detected::Bolt),
        (b"GET / HTTP/1.1\r\n", Detected::Http),
        (b"GET  ", Detected::Http),
        (b"HEAD /health HTTP/1.1\r\n", Detected::Http),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03", Detected::Tls),
        (b"\x14\x03\x00\x00\x01\x01", Detected::Tls),
        (b"\x18\x03\x04\x00\x03", Detected::Tls),
        (b"\x13\x03\x01\x00\x03", Detected::Close),
        (b"\x19\x03\x01\x00\x03", Detected::Close),
        (b"\x16\x02\x01\x00\x03", Detected::Close),
        (b"\x16\x03\x05\x00\x03", Detected::Close),
        (b"\x60\x60\xB0\x18\x00\x00", Detected::Close),
        (b"POST / HTTP/1.1", Detected::Close),
        (b"get / HTTP/1.1", Detected::Close),
        (b"HEADS", Detected::Close),
        (b"\x00\x00\x00\x00\x00", Detected::Close),
    ];

    #[test]
    fn first_bytes_decide_wherever_they_are_cut() {
        for (bytes, expected) in CASES {
            for cut in 0..=bytes.len() {
                let whole = if cut < PREFIX_BYTES { Detected::NeedMore } else { expected };
                assert_eq!(detect(&bytes[..cut]), whole, "{bytes:02x?} up to {cut}");
            }
        }
    }
}
