//! Where a client may begin to say one byte at a time: every phase before its login, through each
//! of the layers that may lie around it.

use crate::client::{MAGIC, PASSWORD, V5_4, chunked, encode, hello, logon, proposals};
use crate::frames::{BINARY, PING, frame, request};
use boltmux::wire::message::tag;

const MASK: [u8; 4] = [0xA5, 0x0F, 0x3C, 0x81];
/// A header of the PROXY protocol, version 1: of a balancer's client.
const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";

/// One step of a client before it becomes slow.
#[derive(Clone)]
pub enum Step {
    /// Says this and does not wait.
    Say(Vec<u8>),
    /// Says this and takes the answer.
    Ask(Vec<u8>),
    /// Agrees on TLS; the rest is said through it.
    Encrypt,
    /// The first half of that: the server's answer is taken and left unanswered.
    HalfEncrypt,
    /// What is said from here on is no TLS, whatever was agreed.
    Raw,
    /// As `Ask`; from here on it is a stranger again, and has as much time.
    Leave(Vec<u8>),
}

/// Where a client begins to say one byte at a time.
pub struct Phase {
    pub name: &'static str,
    /// Its listener is one for balancers.
    pub is_balanced: bool,
    pub before: Vec<Step>,
    /// Said one by one, from the beginning again when all is said.
    pub drips: Vec<Vec<u8>>,
    /// Whether the deadline is that of the login, or of the first bytes.
    pub is_login: bool,
}

impl Phase {
    fn balanced(mut self) -> Phase {
        self.is_balanced = true;
        self
    }
}

pub fn phases() -> Vec<Phase> {
    [first_bytes(), websocket(), tls(), balancers(), logins(), layered_logins()]
        .into_iter()
        .flatten()
        .collect()
}

/// Cut when the time for the first bytes is over.
fn first(name: &'static str, before: Vec<Step>, drips: Vec<Vec<u8>>) -> Phase {
    Phase { name, is_balanced: false, before, drips, is_login: false }
}

/// Cut when the time for the login is over.
fn login(name: &'static str, before: Vec<Step>, drips: Vec<Vec<u8>>) -> Phase {
    Phase { name, is_balanced: false, before, drips, is_login: true }
}

fn bytes(all: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
    all.as_ref().iter().map(|byte| vec![*byte]).collect()
}

/// A frame around each byte.
fn frames(all: &[u8]) -> Vec<Vec<u8>> {
    all.iter().map(|byte| framed(&[*byte])).collect()
}

fn framed(payload: &[u8]) -> Vec<u8> {
    frame(BINARY, payload, MASK)
}

fn upgrade() -> Step {
    Step::Ask((request() + "\r\n").into_bytes())
}

fn agreed() -> Vec<u8> {
    proposals(&[V5_4.to_bytes()])
}

fn greeting() -> Vec<u8> {
    hello(V5_4, "neo4j", PASSWORD)
}

/// A message below the limit, longer than there is time for.
fn long(tag: u8) -> Vec<u8> {
    encode(tag, &[(*"x".repeat(7000)).into()])
}

/// No version that there is.
fn nothing() -> Vec<u8> {
    [&MAGIC[..], &[0; 15]].concat()
}

fn first_bytes() -> Vec<Phase> {
    let get = [b"GET /".to_vec(), vec![b'a'; 6000]].concat();
    let choice = [&[0, 0, 8, 5][..], &[0x80; 9]].concat();
    vec![
        first("says nothing", vec![], vec![]),
        first("the magic and proposals of zero", vec![], bytes(nothing())),
        first("a path of HTTP", vec![], bytes(get)),
        first(
            "a choice out of the manifest",
            vec![Step::Ask(proposals(&[[0, 0, 1, 0xFF]]))],
            bytes(choice),
        ),
    ]
}

fn websocket() -> Vec<Phase> {
    let unfinished = request() + "X: ";
    let head = || bytes(unfinished.clone() + &"x".repeat(4000));
    let lines = || (0..60).map(|_| b"X: y\r\n".to_vec()).collect();
    let cut = || bytes([&[0x02, 0xFE, 16, 0, 0, 0, 0, 0], &MAGIC[..]].concat());
    vec![
        first("a head of an upgrade", vec![], head()),
        first("a head of an upgrade over TLS", vec![Step::Encrypt], head()),
        first("header after header", vec![Step::Say(request().into_bytes())], lines()),
        first("a frame", vec![upgrade()], cut()),
        first("a frame over TLS", vec![Step::Encrypt, upgrade()], cut()),
        first("a handshake of small frames", vec![upgrade()], frames(&nothing())),
        first("Pings behind WebSocket", vec![upgrade()], bytes(frame(PING, b"", MASK))),
        first(
            "whole Pings behind WebSocket over TLS",
            vec![Step::Encrypt, upgrade()],
            vec![frame(PING, b"", MASK)],
        ),
    ]
}

/// A record of TLS that holds more than is ever said of it.
fn record(kind: u8) -> Vec<u8> {
    [&[kind, 3, 3, 16, 0][..], &[0; 4096]].concat()
}

fn tls() -> Vec<Phase> {
    // A record of 4,100 bytes, and in it a message of 4,096.
    let hello = [&[0x16, 3, 1, 16, 4, 1, 0, 16, 0, 3, 3][..], &[7; 4094]].concat();
    vec![
        first("a ClientHello", vec![], bytes(hello)),
        first("the second half of a handshake", vec![Step::HalfEncrypt], bytes(record(0x17))),
        first("a record of data", vec![Step::Encrypt, Step::Raw], bytes(record(0x17))),
        first("the magic and proposals over TLS", vec![Step::Encrypt], bytes(nothing())),
    ]
}

fn balancers() -> Vec<Phase> {
    let binary = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x21, 0x11, 4, 0], &[0; 1024]].concat();
    vec![
        first("nothing where a PROXY header is due", vec![], vec![]).balanced(),
        first("a PROXY line", vec![], bytes(&LINE[..LINE.len() - 2])).balanced(),
        first("a binary PROXY header", vec![], bytes(binary)).balanced(),
        first("nothing behind a PROXY header", vec![Step::Say(LINE.to_vec())], vec![]).balanced(),
        first(
            "the magic and proposals behind a PROXY header",
            vec![Step::Say(LINE.to_vec())],
            bytes(nothing()),
        )
        .balanced(),
        first(
            "a frame over TLS behind a PROXY header",
            vec![Step::Say(LINE.to_vec()), Step::Encrypt, upgrade()],
            frames(&nothing()),
        )
        .balanced(),
    ]
}

fn logins() -> Vec<Phase> {
    let greeted = || vec![Step::Ask(agreed()), Step::Ask(greeting())];
    let entered = [greeting(), logon("neo4j", PASSWORD)].concat();
    let left = Step::Leave(encode(tag::LOGOFF, &[]));
    // The first bytes take some seconds, so that a login with a time of its own would be seen to
    // end too late.
    let handshake = agreed();
    let (begun, slow) = handshake.split_at(16);
    vec![
        login("no-ops before HELLO", vec![Step::Ask(agreed())], bytes([0])),
        login("a long HELLO", vec![Step::Ask(agreed())], bytes(long(tag::HELLO))),
        login(
            "a HELLO in chunks of a byte",
            vec![Step::Ask(agreed())],
            bytes(chunked(&long(tag::HELLO)[2..100], 1)),
        ),
        login(
            "a slow handshake and a long HELLO",
            vec![Step::Say(begun.to_vec())],
            bytes([slow, &long(tag::HELLO)].concat()),
        ),
        login("no-ops before LOGON", greeted(), bytes([0])),
        login("whole no-ops before LOGON", greeted(), vec![vec![0, 0]]),
        login("a long LOGON", greeted(), bytes(long(tag::LOGON))),
        login(
            "a LOGON after LOGOFF",
            vec![Step::Ask(agreed()), Step::Ask(entered), left],
            bytes(long(tag::LOGON)),
        ),
    ]
}

fn layered_logins() -> Vec<Phase> {
    let over_websocket = || vec![upgrade(), Step::Ask(framed(&agreed()))];
    let over_tls = || vec![Step::Encrypt, Step::Ask(agreed())];
    let behind_balancer = || vec![Step::Say(LINE.to_vec()), Step::Ask(agreed())];
    let over_both = vec![Step::Encrypt, upgrade(), Step::Ask(framed(&agreed()))];
    vec![
        login("a HELLO behind WebSocket", over_websocket(), bytes(framed(&long(tag::HELLO)))),
        login("a HELLO in small frames", over_websocket(), frames(&long(tag::HELLO))),
        login(
            "a LOGON behind WebSocket",
            [over_websocket(), vec![Step::Ask(framed(&greeting()))]].concat(),
            bytes(framed(&long(tag::LOGON))),
        ),
        login("a HELLO over TLS", over_tls(), bytes(long(tag::HELLO))),
        login(
            "a LOGON over TLS",
            [over_tls(), vec![Step::Ask(greeting())]].concat(),
            bytes(long(tag::LOGON)),
        ),
        login("a HELLO behind WebSocket over TLS", over_both, frames(&long(tag::HELLO))),
        login("a HELLO behind a PROXY header", behind_balancer(), bytes(long(tag::HELLO)))
            .balanced(),
    ]
}
