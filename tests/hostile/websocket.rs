//! WebSocket: upgrades that are none, and frames that break a rule of RFC 6455.

use crate::case::{Case, Outcome, Start, Table, hello_with};
use crate::client::{V5_4, proposals};
use crate::frames::{BINARY, CLOSE, PING, frame, request};
use crate::run::run_all;

const PONG: u8 = 0x8A;
const MASK: [u8; 4] = [0xA5, 0x0F, 0x3C, 0x81];
const START: Start = Start::Upgraded;

/// What the Close says: a rule was broken, text came, a message was too long.
const PROTOCOL: u16 = 1002;
const UNSUPPORTED: u16 = 1003;
const TOO_BIG: u16 = 1009;
const NORMAL: u16 = 1000;

fn violates(code: u16) -> Outcome {
    Outcome::Framed(code, "websocket_violation")
}

/// A frame whose header says what it likes; the payload is not masked.
fn raw(first: u8, length: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[first], length, payload].concat()
}

pub fn cases() -> Vec<Case> {
    let mut table = Table::new("websocket");
    upgrades(&mut table);
    headers(&mut table);
    lengths(&mut table);
    fragments(&mut table);
    closes(&mut table);
    payloads(&mut table);
    table.cases
}

fn upgrades(table: &mut Table) {
    let good = request() + "\r\n";
    let key = good.lines().find(|line| line.starts_with("Sec-WebSocket-Key")).unwrap().to_owned();
    let with_key = |text: &str| good.replace(&key, text);
    let http = |status| Outcome::Http(status);
    let two_versions = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13";
    let two_keys = format!("{key}\r\n{key}");
    for (name, text, outcome) in [
        ("version 12 of WebSocket", good.replace(": 13", ": 12"), http("426 ")),
        ("no version of WebSocket", good.replace("Sec-WebSocket-Version", "X"), http("426 ")),
        (
            "two versions of WebSocket",
            good.replace(&two_versions[..25], two_versions),
            http("426 "),
        ),
        ("no key", with_key("X: y"), http("400 ")),
        ("an empty key", with_key("Sec-WebSocket-Key: "), http("400 ")),
        ("a short key", with_key("Sec-WebSocket-Key: AAAA"), http("400 ")),
        ("a long key", with_key(&format!("{key}{}", "A".repeat(100))), http("400 ")),
        (
            "a key of other letters",
            with_key("Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="),
            http("400 "),
        ),
        ("two keys", with_key(&two_keys), http("400 ")),
        ("an upgrade of another path", good.replace("GET /", "GET /db"), http("404 ")),
        ("an upgrade in HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0"), http("400 ")),
        ("an upgrade to something else", good.replace("websocket", "h2c"), http("200 ")),
        ("an upgrade without Connection", good.replace("Connection", "X"), http("200 ")),
        (
            "an upgrade with a header of 9 KiB",
            good.replace("test", &"a".repeat(9 << 10)),
            http("431 "),
        ),
        ("an upgrade with a broken header", good.replace("Host: test", "Host"), http("400 ")),
    ] {
        table.add(name, Start::Connected, text, outcome);
    }
    let many = request() + &"A: b\r\n".repeat(65) + "\r\n";
    table.add("an upgrade with too many headers", Start::Connected, many, http("431 "));
    let post = good.replace("GET", "POST");
    table.add("a POST that asks for WebSocket", Start::Connected, post, {
        Outcome::Silence("unknown_protocol")
    });
    let early = [good.as_bytes(), &frame(BINARY, &proposals(&[]), MASK)].concat();
    table.add("a frame before the upgrade is granted", Start::Connected, early, {
        Outcome::Silence("early_bytes")
    });
    // Cut, the head would be answered before the frame comes.
    table.cases.last_mut().expect("added just now").is_whole_only = true;
    table.add("an upgrade that is not finished", Start::Connected, request(), Outcome::Waits);
    table.add_ended("half an upgrade, then the end", Start::Connected, request(), {
        Outcome::Silence("client_gone")
    });
}

fn headers(table: &mut Table) {
    for bit in [0x40, 0x20, 0x10] {
        let name = format!("the reserved bit {bit:02X}");
        table.add(name, START, frame(BINARY | bit, b"x", MASK), violates(PROTOCOL));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        let name = format!("the opcode {opcode}");
        table.add(name, START, frame(0x80 | opcode, b"x", MASK), violates(PROTOCOL));
    }
    table.add("a text", START, frame(0x81, b"text", MASK), violates(UNSUPPORTED));
    table.add("an empty text", START, frame(0x81, b"", MASK), violates(UNSUPPORTED));
    let plain = raw(BINARY, &[3], b"abc");
    table.add("a frame without a mask", START, plain, violates(PROTOCOL));
    table.add("a Ping without a mask", START, raw(PING, &[0], b""), violates(PROTOCOL));
    table.add("a Close without a mask", START, raw(CLOSE, &[0], b""), violates(PROTOCOL));
    for (name, first) in [("Ping", PING), ("Pong", PONG), ("Close", CLOSE)] {
        let cut = frame(first & 0x7F, b"x", MASK);
        table.add(format!("a {name} in fragments"), START, cut, violates(PROTOCOL));
        let long = frame(first, &[b'x'; 126], MASK);
        table.add(format!("a {name} of 126 bytes"), START, long, violates(PROTOCOL));
    }
    table.add("HTTP after the upgrade", START, "GET / HTTP/1.1\r\n\r\n", violates(PROTOCOL));
    table.add("Bolt without frames", START, proposals(&[V5_4.to_bytes()]), violates(PROTOCOL));
    table.add("FF after the upgrade", START, [0xFF; 16], violates(PROTOCOL));
    table.add("half a header", START, [BINARY], Outcome::Waits);
    table.add("a header without its mask", START, [BINARY, 0x85], Outcome::Waits);
}

fn lengths(table: &mut Table) {
    let short = raw(BINARY, &[0xFE, 0, 5], &[0; 9]);
    table.add("a short length in two bytes", START, short, violates(PROTOCOL));
    let short = raw(BINARY, &[0xFF, 0, 0, 0, 0, 0, 0, 0, 5], &[0; 9]);
    table.add("a short length in eight bytes", START, short, violates(PROTOCOL));
    let medium = raw(BINARY, &[0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], &[0; 9]);
    table.add("a medium length in eight bytes", START, medium, violates(PROTOCOL));
    let long = raw(BINARY, &[0xFF, 0, 0, 0, 0, 0, 1, 0, 1], &[0; 9]);
    table.add("a frame of 65,537 bytes", START, long, violates(TOO_BIG));
    let long = raw(BINARY, &[0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], &[0; 9]);
    table.add("a frame of 2^63 - 1 bytes", START, long, violates(TOO_BIG));
    let long = raw(BINARY, &[0xFF; 9], &[0; 9]);
    table.add("a frame of 2^64 - 1 bytes", START, long, violates(TOO_BIG));
}

fn fragments(table: &mut Table) {
    let first = || frame(0x02, b"\x60", MASK);
    table.add("a continuation of nothing", START, frame(0x80, b"x", MASK), violates(PROTOCOL));
    let again = [first(), frame(BINARY, b"x", MASK)].concat();
    table.add("a message inside a message", START, again, violates(PROTOCOL));
    let text = [first(), frame(0x81, b"x", MASK)].concat();
    table.add("a text inside a message", START, text, violates(PROTOCOL));
    let after = [first(), frame(0x80, b"\x60", MASK), frame(0x80, b"x", MASK)].concat();
    table.add("a continuation behind the end", START, after, violates(PROTOCOL));
    let mut long = frame(0x02, &proposals(&[V5_4.to_bytes()]), MASK);
    (0..3).for_each(|_| long.extend(frame(0x00, &[0; 30_000], MASK)));
    table.add("fragments of more than 64 KiB", START, long, violates(TOO_BIG));
    table.add("a message that is not finished", START, first(), Outcome::Waits);
    let empty = frame(0x02, b"", MASK);
    let many = [empty, frame(0x00, b"", MASK).repeat(2000)].concat();
    table.add("two thousand empty fragments", START, many, Outcome::Waits);
}

fn closes(table: &mut Table) {
    let close = |payload: &[u8]| frame(CLOSE, payload, MASK);
    table.add("a Close of one byte", START, close(&[3]), violates(PROTOCOL));
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        let name = format!("a Close with the code {code}");
        table.add(name, START, close(&code.to_be_bytes()), violates(PROTOCOL));
    }
    let reason = [&NORMAL.to_be_bytes()[..], &[0xFF, 0xFE]].concat();
    table.add("a Close whose reason is no text", START, close(&reason), violates(PROTOCOL));
    let gone = || Outcome::Framed(NORMAL, "client_gone");
    table.add("a Close at once", START, close(&NORMAL.to_be_bytes()), gone());
    let behind = [close(&NORMAL.to_be_bytes()), frame(BINARY, &[0; 1000], MASK)].concat();
    table.add("a frame behind a Close", START, behind, gone());
    table.add_ended("half a frame, then the end", START, [BINARY, 0x85, 1, 2, 3], gone());
    table.add_ended("an upgrade and the end", START, [], gone());
}

fn payloads(table: &mut Table) {
    let framed = |bytes: &[u8]| frame(BINARY, bytes, MASK);
    let nested = || Outcome::Framed(PROTOCOL, "nested_layer");
    table.add("TLS within WebSocket", START, framed(b"\x16\x03\x01\0\x05\x01\0\0\x01\0"), nested());
    table.add("HTTP within WebSocket", START, framed(b"GET / HTTP/1.1\r\n\r\n"), nested());
    let unknown = Outcome::Framed(PROTOCOL, "unknown_protocol");
    table.add("garbage within WebSocket", START, framed(&[7; 20]), unknown);
    let nobody = framed(&proposals(&[[0, 0, 0, 9]]));
    table.add("a version that is not there, within WebSocket", START, nobody, {
        Outcome::Framed(NORMAL, "no_version")
    });
    let bad = [framed(&proposals(&[V5_4.to_bytes()])), framed(&hello_with("x", &[0xC4]))].concat();
    table.add("a malformed HELLO within WebSocket", START, bad, {
        Outcome::Framed(PROTOCOL, "invalid_request")
    });
    let pings = frame(PING, b"ping", MASK).repeat(5000);
    let flood = [pings, frame(CLOSE, &NORMAL.to_be_bytes(), MASK)].concat();
    table.add("five thousand Pings", START, flood, Outcome::Framed(NORMAL, "client_gone"));
    let pongs = frame(PONG, b"pong", MASK).repeat(5000);
    table.add("five thousand Pongs nobody asked for", START, pongs, Outcome::Waits);
}

#[test]
fn every_frame_of_a_client_meets_its_outcome() {
    run_all(&cases(), 50);
}
