//! HTTP on the Bolt port: health checks, discovery and the door to WebSocket. Pure: bytes in, an
//! answer out. After every answer but the grant of an upgrade the connection is closed.
//!
//! Neo4j answers a GET of any path with its discovery document and knows nothing else; the Neo4j
//! Browser takes `{}` for "no discovery". `/health` is ours.

use crate::transport::websocket::upgrade::{self, Accept, Origins, Refusal};
use bytes::Bytes;
use serde::Serialize;

/// A request head of a browser with many cookies fits; nobody sends us more on purpose.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
/// Twice what browsers send.
const HEADERS_MAX: usize = 64;
const HEALTH_PATH: &str = "/health";
/// `Vary` as Neo4j sends it. `Connection: close` because nothing follows.
const COMMON_HEADERS: &str = "Content-Type: application/json\r\n\
    Access-Control-Allow-Origin: *\r\nVary: Accept\r\nConnection: close\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head is not complete; the caller's deadline runs on.
    NeedMore,
    Request(Request),
    Broken(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub wants: Wants,
    /// HEAD: the same answer without its body.
    pub is_head: bool,
    /// Length of the head. Nothing may follow it before an upgrade is granted.
    pub head_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Health,
    Discovery,
    /// The answer is `upgrade::grant`, and frames follow it.
    WebSocket(Accept),
    /// Asked for in a way that is refused.
    OddWebSocket(Refusal),
    /// A method that is neither GET nor HEAD.
    OtherMethod,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Malformed,
    TooLong,
    TooManyHeaders,
}

/// What `/health` tells; `healthy` decides between 200 and 503.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Health {
    pub healthy: bool,
    /// Of this program.
    pub version: &'static str,
    /// The agents of the servers in use, as they call themselves, for instance `Neo4j/5.26.0`.
    pub server_versions: Vec<String>,
    pub servers_up: usize,
    pub servers_known: usize,
    /// Whether new clients are turned away because the program is about to end.
    pub draining: bool,
}

/// Reads a request head from the first bytes of a connection. `origins` are those from which a
/// WebSocket may be opened.
pub fn parse(bytes: &[u8], origins: &Origins) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Parsed::NeedMore,
        Ok(_) => return Parsed::Broken(Fault::TooLong),
        Err(httparse::Error::TooManyHeaders) => return Parsed::Broken(Fault::TooManyHeaders),
        Err(_) => return Parsed::Broken(Fault::Malformed),
    };
    let is_head = request.method == Some("HEAD");
    let path = request.path.unwrap_or_default();
    let wants = match request.method {
        Some("GET") if is_upgrade(request.headers) => {
            let minor_version = request.version.unwrap_or(0);
            match upgrade::examine(path, minor_version, request.headers, origins) {
                Ok(accept) => Wants::WebSocket(accept),
                Err(refusal) => Wants::OddWebSocket(refusal),
            }
        }
        Some("GET" | "HEAD") if is_health(path) => Wants::Health,
        Some("GET" | "HEAD") => Wants::Discovery,
        _ => Wants::OtherMethod,
    };
    Parsed::Request(Request { wants, is_head, head_bytes })
}

/// The whole answer to a request.
pub fn answer(request: &Request, health: &Health) -> Bytes {
    let (status, body) = match request.wants {
        Wants::Health => {
            let body = serde_json::to_string(health).unwrap_or_else(|_| "{}".into());
            (if health.healthy { "200 OK" } else { "503 Service Unavailable" }, body)
        }
        Wants::Discovery => ("200 OK", "{}".into()),
        Wants::WebSocket(accept) => return upgrade::grant(&accept).into(),
        Wants::OddWebSocket(refusal) => {
            let (status, text) = refusal.status();
            (status, error(text))
        }
        Wants::OtherMethod => {
            ("405 Method Not Allowed\r\nAllow: GET, HEAD", error("expected GET or HEAD"))
        }
    };
    render(status, &body, request.is_head)
}

/// The whole answer to something that is no request.
pub fn refusal(fault: Fault) -> Bytes {
    let (status, text) = match fault {
        Fault::Malformed => ("400 Bad Request", "expected an HTTP/1 request or the Bolt handshake"),
        Fault::TooLong => {
            ("431 Request Header Fields Too Large", "expected a request head of at most 8 KiB")
        }
        Fault::TooManyHeaders => {
            ("431 Request Header Fields Too Large", "expected at most 64 headers")
        }
    };
    render(status, &error(text), false)
}

/// As Neo4j looks for it: `websocket` among the tokens of Upgrade and `upgrade` among those of
/// Connection, in any case.
fn is_upgrade(headers: &[httparse::Header<'_>]) -> bool {
    let has_token = |name: &str, token: &str| {
        let named = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        let mut tokens = named.flat_map(|header| header.value.split(|&byte| byte == b','));
        tokens.any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    };
    has_token("upgrade", "websocket") && has_token("connection", "upgrade")
}

/// A query is allowed and ignored.
fn is_health(path: &str) -> bool {
    path.split('?').next() == Some(HEALTH_PATH)
}

fn error(text: &str) -> String {
    format!("{{\"error\":\"{text}\"}}")
}

fn render(status: &str, body: &str, is_head: bool) -> Bytes {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{COMMON_HEADERS}Content-Length: {length}\r\n\r\n");
    Bytes::from(head + if is_head { "" } else { body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        match parse(text.as_bytes(), &Origins::Any) {
            Parsed::Request(request) => request,
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    fn answered(text: &str, healthy: bool) -> String {
        let health = Health { healthy, version: "0.1.0", ..Health::default() };
        String::from_utf8(answer(&request(text), &health).to_vec()).unwrap()
    }

    #[test]
    fn heads_are_read_wherever_they_are_cut() {
        for (text, wants, is_head) in [
            ("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", Wants::Health, false),
            ("GET /health?full=1 HTTP/1.0\r\n\r\n", Wants::Health, false),
            ("HEAD /health HTTP/1.1\r\n\r\n", Wants::Health, true),
            ("GET /healthy HTTP/1.1\r\n\r\n", Wants::Discovery, false),
            ("GET / HTTP/1.1\r\nAccept: application/json\r\n\r\n", Wants::Discovery, false),
            (
                "GET / HTTP/1.1\r\nUPGRADE: h2c, WebSocket\r\nconnection: keep-alive, Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                Wants::WebSocket(upgrade::accept(b"dGhlIHNhbXBsZSBub25jZQ==")),
                false,
            ),
            ("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", Wants::Discovery, false),
            ("POST / HTTP/1.1\r\n\r\n", Wants::OtherMethod, false),
        ] {
            for cut in 0..text.len() {
                let part = parse(&text.as_bytes()[..cut], &Origins::Any);
                assert_eq!(part, Parsed::NeedMore, "{text:?} to {cut}");
            }
            let expected = Request { wants, is_head, head_bytes: text.len() };
            assert_eq!(request(text), expected);
            assert_eq!(request(&format!("{text}frames")), expected);
        }
    }

    #[test]
    fn what_is_broken_or_too_long_is_refused() {
        for (text, fault, status) in [
            ("GET / HTTP/9\r\n\r\n".to_string(), Fault::Malformed, "400"),
            ("GET \x01 HTTP/1.1\r\n\r\n".to_string(), Fault::Malformed, "400"),
            (format!("GET /{}", "a".repeat(HEAD_BYTES_MAX)), Fault::TooLong, "431"),
            (
                format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(HEAD_BYTES_MAX)),
                Fault::TooLong,
                "431",
            ),
            (
                format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1)),
                Fault::TooManyHeaders,
                "431",
            ),
        ] {
            assert_eq!(parse(text.as_bytes(), &Origins::Any), Parsed::Broken(fault), "{text:?}");
            assert!(refusal(fault).starts_with(format!("HTTP/1.1 {status}").as_bytes()));
        }
        let most = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX));
        assert_eq!(request(&most).wants, Wants::Discovery);
    }

    #[test]
    fn health_is_200_or_503_and_says_why() {
        let get = "GET /health HTTP/1.1\r\n\r\n";
        let (up, down) = (answered(get, true), answered(get, false));
        assert!(up.starts_with("HTTP/1.1 200 OK\r\n"), "{up}");
        assert!(down.starts_with("HTTP/1.1 503 "), "{down}");
        let (_, body) = down.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["healthy"], false);
        assert_eq!(body["version"], "0.1.0");
        let head = answered("HEAD /health HTTP/1.1\r\n\r\n", true);
        assert_eq!(head, up.split_once("\r\n\r\n").unwrap().0.to_string() + "\r\n\r\n");
    }

    #[test]
    fn discovery_has_the_headers_that_browsers_need() {
        let text = answered("GET /db/data HTTP/1.1\r\n\r\n", false);
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
             Access-Control-Allow-Origin: *\r\nVary: Accept\r\nConnection: close\r\n\
             Content-Length: 2\r\n\r\n{}"
        );
    }

    #[test]
    fn other_wishes_get_a_clear_answer() {
        let upgrade = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n";
        let (old, other) =
            (format!("{upgrade}\r\n"), upgrade.replace("GET / ", "GET /db ") + "\r\n");
        for (text, status) in [
            (&*old, "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-V"),
            (&*other, "HTTP/1.1 404 "),
            ("PUT / HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
        ] {
            let text = answered(text, true);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(status), "{head}");
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
            serde_json::from_str::<serde_json::Value>(body).unwrap();
        }
    }
}
