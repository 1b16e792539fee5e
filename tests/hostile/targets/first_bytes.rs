//! The first bytes of a connection: detection, the handshake's two sides, HTTP heads.

use boltmux::transport::detect::{Detected, PREFIX_BYTES, detect};
use boltmux::transport::http;
use boltmux::transport::proxy_protocol::{self, HEADER_BYTES_MAX, Parsed, Version as Form};
use boltmux::transport::websocket::upgrade::Origins;
use boltmux::wire::handshake::{self, Choice};
use boltmux::wire::version::Version;

/// Reads the input as both a client's and a server's handshake.
pub fn handshake(data: &[u8]) {
    let found = detect(data);
    let prefix = &data[..data.len().min(PREFIX_BYTES)];
    assert_eq!(detect(prefix), found, "what comes behind changes nothing");
    assert_eq!(found == Detected::NeedMore, data.len() < PREFIX_BYTES);
    let offered = Version::DEFAULT_OFFER;
    if let Some((hello, rest)) = data.split_first_chunk::<20>() {
        let is_bolt = hello.starts_with(&handshake::MAGIC);
        match handshake::parse_hello20(hello) {
            Ok(proposals) => {
                assert!(is_bolt);
                if let Choice::Version(version) = handshake::choose(&proposals, &offered) {
                    assert!(offered.contains(&version), "{version} was not offered");
                }
            }
            Err(error) => assert!(!is_bolt, "{error}"),
        }
        choice(rest, &offered);
    }
    choice(data, &offered);
    manifest(data);
    let versions: Vec<Version> = data.iter().filter_map(|byte| nth_version(*byte)).collect();
    round_trip(&versions);
}

/// A client's choice: what was decided on a part is not decided otherwise on more.
fn choice(data: &[u8], offered: &[Version]) {
    let whole = handshake::parse_manifest_choice(data, offered);
    if let Ok(Some((length, version))) = &whole {
        assert!(*length <= data.len() && version.is_none_or(|one| offered.contains(&one)));
        let exact = handshake::parse_manifest_choice(&data[..*length], offered);
        assert_eq!(exact, whole, "what follows does not matter");
        let shorter = handshake::parse_manifest_choice(&data[..length - 1], offered);
        assert_eq!(shorter, Ok(None), "the last byte matters");
    }
}

/// A server's answer.
fn manifest(data: &[u8]) {
    if let Some(word) = data.first_chunk::<4>()
        && let Ok(Choice::Version(version)) = handshake::parse_answer(word)
    {
        assert!(version.is_known());
    }
    if let Ok(Some((length, versions))) = handshake::parse_manifest(data) {
        assert!(length <= data.len() && versions.iter().all(|version| version.is_known()));
        let exact = handshake::parse_manifest(&data[..length]);
        assert_eq!(exact, Ok(Some((length, versions))), "what follows does not matter");
        assert_eq!(handshake::parse_manifest(&data[..length - 1]), Ok(None));
    }
}

fn nth_version(byte: u8) -> Option<Version> {
    Version::ALL.get(usize::from(byte)).copied()
}

fn round_trip(versions: &[Version]) {
    let bytes = handshake::manifest(versions);
    let Ok(Some((length, read))) = handshake::parse_manifest(&bytes) else {
        panic!("our own manifest cannot be read: {bytes:02x?}");
    };
    assert_eq!(length, bytes.len());
    let mut expected = versions.to_vec();
    expected.sort_unstable();
    expected.dedup();
    expected.reverse();
    assert_eq!(read, expected);
}

/// An HTTP head, at every length; and its answer.
pub fn http(data: &[u8]) {
    let parse = |bytes: &[u8]| http::parse(bytes, &Origins::Any);
    let whole = parse(data);
    match &whole {
        http::Parsed::Request(request) => {
            assert!(request.head_bytes <= data.len() && request.head_bytes <= http::HEAD_BYTES_MAX);
            let exact = parse(&data[..request.head_bytes]);
            assert_eq!(exact, whole, "what follows does not matter");
            let shorter = parse(&data[..request.head_bytes - 1]);
            assert_eq!(shorter, http::Parsed::NeedMore, "the last byte matters");
            let answer = http::answer(request, &http::Health::default());
            match request.wants {
                http::Wants::WebSocket(_) => assert!(answer.starts_with(b"HTTP/1.1 101 ")),
                _ => is_answer(&answer, request.is_head),
            }
        }
        http::Parsed::Broken(fault) => is_answer(&http::refusal(*fault), false),
        http::Parsed::NeedMore => assert!(data.len() < http::HEAD_BYTES_MAX),
    }
}

/// A status line, a length that is right, nothing of what the peer said.
fn is_answer(bytes: &[u8], is_head: bool) {
    let text = std::str::from_utf8(bytes).expect("answers are text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head has an end");
    assert!(head.starts_with("HTTP/1.1 "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
    assert!(if is_head { body.is_empty() } else { body.len() == length }, "{text}");
}

/// A PROXY header: what was decided on a part is not decided otherwise on more, and what we write
/// ourselves is read back.
pub fn proxy(data: &[u8]) {
    let whole = proxy_protocol::parse(data);
    match whole {
        Parsed::Header { bytes, ends } => {
            assert!(bytes <= data.len() && bytes <= HEADER_BYTES_MAX);
            assert_eq!(
                proxy_protocol::parse(&data[..bytes]),
                whole,
                "what follows does not matter"
            );
            let shorter = proxy_protocol::parse(&data[..bytes - 1]);
            assert_eq!(shorter, Parsed::NeedMore, "the last byte matters");
            for form in [Form::One, Form::Two] {
                let own = proxy_protocol::header(form, ends);
                let again = proxy_protocol::parse(&own);
                assert!(matches!(again, Parsed::Header { bytes, .. } if bytes == own.len()));
            }
        }
        Parsed::NeedMore => assert!(data.len() < HEADER_BYTES_MAX),
        Parsed::Broken => {
            let more = [data, b"\r\n\0\0"].concat();
            assert_eq!(proxy_protocol::parse(&more), Parsed::Broken, "no byte mends it");
        }
    }
}
