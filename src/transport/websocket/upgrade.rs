//! The request that turns HTTP into WebSocket (RFC 6455, 4). Pure: headers in, an answer out.
//!
//! No subprotocol and no extension is ever agreed on: Bolt has none, and compressed frames would
//! have to be copied.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use httparse::Header;

/// What drivers ask for; Neo4j has no other path either.
const PATH: &str = "/";
const VERSION: &[u8] = b"13";
const SAMPLE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Proves that the answerer knows WebSocket (RFC 6455, 1.3).
const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// 16 random bytes in base64: 22 letters and the padding.
const KEY_LETTERS: usize = 22;
const KEY_BYTES: usize = 24;
/// 20 bytes of SHA-1 in base64.
const ACCEPT_BYTES: usize = 28;
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Which pages may open a WebSocket; browsers name them in `Origin`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// As Neo4j has it.
    #[default]
    Any,
    /// These, and clients that are no browsers and name none.
    Listed(Vec<String>),
}

/// The proof that a key was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept([u8; ACCEPT_BYTES]);

/// Why an upgrade is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Path,
    /// HTTP/1.0 knows no upgrade.
    OldHttp,
    Version,
    Key,
    Origin,
}

impl Refusal {
    /// The status line, with the headers that belong to it, and what is said.
    pub fn status(self) -> (&'static str, &'static str) {
        match self {
            Refusal::Path => ("404 Not Found", "expected the path / for WebSocket"),
            Refusal::OldHttp => ("400 Bad Request", "expected HTTP/1.1 for WebSocket"),
            Refusal::Version => (
                "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
                "expected Sec-WebSocket-Version: 13",
            ),
            Refusal::Key => ("400 Bad Request", "expected one Sec-WebSocket-Key of 16 bytes"),
            Refusal::Origin => {
                ("403 Forbidden", "this origin is not in listen.websocket_origins of boltmux")
            }
        }
    }
}

/// Judges a GET that asks for WebSocket.
pub fn examine(
    path: &str,
    minor_version: u8,
    headers: &[Header<'_>],
    origins: &Origins,
) -> Result<Accept, Refusal> {
    if path.split('?').next() != Some(PATH) {
        return Err(Refusal::Path);
    }
    if minor_version == 0 {
        return Err(Refusal::OldHttp);
    }
    if only(headers, "sec-websocket-version") != Some(VERSION) {
        return Err(Refusal::Version);
    }
    let key = only(headers, "sec-websocket-key").filter(|key| is_key(key)).ok_or(Refusal::Key)?;
    if let Origins::Listed(allowed) = origins {
        let mut named = values(headers, "origin");
        let is_allowed = |origin: &[u8]| {
            allowed.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin))
        };
        if !named.all(is_allowed) {
            return Err(Refusal::Origin);
        }
    }
    Ok(accept(key))
}

/// The whole answer to an upgrade that is granted.
pub fn grant(accept: &Accept) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: "
        .to_vec();
    answer.extend_from_slice(&accept.0);
    answer.extend_from_slice(b"\r\n\r\n");
    answer
}

/// A program's own request, with the key of RFC 6455, 1.3: it asks for no secrecy.
pub fn request(host: &str) -> Vec<u8> {
    format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {SAMPLE_KEY}\r\n\r\n"
    )
    .into_bytes()
}

/// What the server made of `request`: `None` while its answer is not whole, else whether it granted
/// the upgrade and has sent nothing more.
pub fn is_granted(answer: &[u8]) -> Option<bool> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let is_read = response.parse(&answer[..end]).is_ok_and(|status| status.is_complete());
    let proof = accept(SAMPLE_KEY.as_bytes()).0;
    let is_proven = only(response.headers, "sec-websocket-accept") == Some(&proof[..]);
    Some(is_read && response.code == Some(101) && is_proven && answer.len() == end)
}

/// What proves to a client that its key was read.
pub fn accept(key: &[u8]) -> Accept {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, SALT].concat());
    let mut text = [b'='; ACCEPT_BYTES];
    for (letters, bytes) in text.chunks_mut(4).zip(digest.as_ref().chunks(3)) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(*bytes.get(at).unwrap_or(&0)));
        // One letter more than there are bytes; the rest is padding.
        for (at, letter) in letters.iter_mut().enumerate().take(bytes.len() + 1) {
            *letter = LETTERS[bits >> (18 - 6 * at) & 63];
        }
    }
    Accept(text)
}

fn is_key(key: &[u8]) -> bool {
    let (letters, padding) = key.split_at(KEY_LETTERS.min(key.len()));
    key.len() == KEY_BYTES
        && padding == b"=="
        && letters.iter().all(|letter| LETTERS.contains(letter))
}

/// A header's value, if it stands there once.
fn only<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    let mut all = values(headers, name);
    all.next().filter(|_| all.next().is_none())
}

fn values<'a>(headers: &[Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";

    fn examined(path: &str, pairs: &[(&str, &str)], origins: &Origins) -> Result<Accept, Refusal> {
        let headers: Vec<Header<'_>> =
            pairs.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
        examine(path, 1, &headers, origins)
    }

    fn usual() -> Vec<(&'static str, &'static str)> {
        let key = std::str::from_utf8(KEY).unwrap();
        vec![("SEC-websocket-Version", " 13 "), ("sec-webSocket-key", key)]
    }

    #[test]
    fn the_key_of_the_specification_has_its_answer() {
        let answer = grant(&accept(KEY));
        let answer = std::str::from_utf8(&answer).unwrap();
        assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"));
        assert!(!answer.contains("Extensions") && !answer.contains("Protocol:"));
    }

    #[test]
    fn our_own_request_is_granted_and_only_a_grant_is_taken() {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let text = request("a:7687");
        let mut asked = httparse::Request::new(&mut headers);
        assert!(asked.parse(&text).unwrap().is_complete());
        let granted = examine("/", 1, asked.headers, &Origins::Listed(Vec::new())).unwrap();
        let answer = grant(&granted);
        for cut in 0..answer.len() {
            assert_eq!(is_granted(&answer[..cut]), None, "{cut}");
        }
        assert_eq!(is_granted(&answer), Some(true));
        let early = [&answer[..], b"\x82\x00"].concat();
        assert_eq!(is_granted(&early), Some(false));
        for wrong in [&grant(&accept(b"another key"))[..], b"HTTP/1.1 404 Not Found\r\n\r\n"] {
            assert_eq!(is_granted(wrong), Some(false));
        }
    }

    #[test]
    fn keys_are_answered_as_the_twin_answers_them() {
        for number in 0u128..200 {
            let bytes = number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
            let key = tungstenite::handshake::derive_accept_key(&bytes.to_be_bytes());
            // Any 28 letters are a key to `accept`, as they are to the twin.
            let twin = tungstenite::handshake::derive_accept_key(key.as_bytes());
            assert_eq!(accept(key.as_bytes()).0, twin.as_bytes());
        }
    }

    #[test]
    fn an_upgrade_needs_path_version_and_key() {
        let any = Origins::Any;
        let odd = "a".repeat(24);
        let without = |at: usize| {
            let mut pairs = usual();
            pairs.remove(at);
            pairs
        };
        let with = |name, value| {
            let mut pairs = usual();
            pairs.push((name, value));
            pairs
        };
        let twelve = vec![("sec-websocket-version", "12"), usual()[1]];
        let no_padding = vec![usual()[0], ("sec-websocket-key", odd.as_str())];
        for (path, pairs, verdict) in [
            ("/", usual(), Ok(())),
            ("/?a=b", usual(), Ok(())),
            ("/", with("Sec-WebSocket-Extensions", "permessage-deflate"), Ok(())),
            ("/", with("Origin", "https://example.org"), Ok(())),
            ("/bolt", usual(), Err(Refusal::Path)),
            ("*", usual(), Err(Refusal::Path)),
            ("/", without(0), Err(Refusal::Version)),
            ("/", with("sec-websocket-version", "13"), Err(Refusal::Version)),
            ("/", twelve, Err(Refusal::Version)),
            ("/", without(1), Err(Refusal::Key)),
            ("/", no_padding, Err(Refusal::Key)),
        ] {
            let came = examined(path, &pairs, &any).map(|accept| assert_eq!(accept, accept));
            assert_eq!(came, verdict, "{path} {pairs:?}");
        }
        assert_eq!(examine("/", 0, &[], &any), Err(Refusal::OldHttp));
    }

    #[test]
    fn origins_are_checked_if_any_are_listed() {
        let listed = Origins::Listed(vec!["https://browser.example".into()]);
        let from = |origin| {
            let mut pairs = usual();
            pairs.push(("Origin", origin));
            pairs
        };
        assert!(examined("/", &from("https://Browser.example"), &listed).is_ok());
        assert!(examined("/", &usual(), &listed).is_ok(), "programs name no origin");
        for origin in ["https://browser.example.org", "http://browser.example", "null", ""] {
            assert_eq!(examined("/", &from(origin), &listed), Err(Refusal::Origin), "{origin}");
        }
    }
}
