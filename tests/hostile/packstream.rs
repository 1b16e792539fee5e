//! PackStream: markers nobody defined, sizes that lie, values that are cut, nesting without end.

use crate::case::{
    Case, INVALID, Outcome, Start, Table, V4_4, hello_with, logon_with, message, refused, run_of,
};
use crate::client::{V5_4, encode};
use crate::run::run_all;
use crate::value::{Value, map};
use boltmux::wire::message::tag;

const LOGIN: Start = Start::Agreed(V5_4);
const GREETED: Start = Start::Greeted(V5_4);
const READY: Start = Start::Ready(V5_4);

/// Markers that no version of PackStream defines.
const RESERVED: [u8; 25] = [
    0xC4, 0xC5, 0xC6, 0xC7, 0xCF, 0xD3, 0xD7, 0xDB, 0xDE, 0xDF, 0xE1, 0xE2, 0xE3, 0xE4, 0xE5, 0xE6,
    0xE7, 0xE8, 0xE9, 0xEA, 0xEB, 0xEC, 0xED, 0xEE, 0xEF,
];

pub fn cases() -> Vec<Case> {
    let mut table = Table::new("packstream");
    for marker in RESERVED {
        let name = format!("HELLO with the reserved marker {marker:02X}");
        table.add(name, LOGIN, hello_with("x", &[marker]), refused());
    }
    for marker in [0xC4, 0xDF, 0xEF] {
        let name = format!("LOGON with the reserved marker {marker:02X}");
        table.add(name, GREETED, logon_with("x", &[marker]), refused());
    }
    cut_values(&mut table);
    lying_sizes(&mut table);
    limits_of_a_login(&mut table);
    keys_and_texts(&mut table);
    login_maps(&mut table);
    after_login(&mut table);
    table.cases
}

/// The last value of a HELLO ends too early: once for each kind of header.
fn cut_values(table: &mut Table) {
    let cut: [(&str, &[u8]); 22] = [
        ("no value at all", &[]),
        ("a float", &[0xC1, 0, 0, 0]),
        ("an integer of 8 bits", &[0xC8]),
        ("an integer of 16 bits", &[0xC9, 1]),
        ("an integer of 32 bits", &[0xCA, 1, 2, 3]),
        ("an integer of 64 bits", &[0xCB, 1, 2, 3, 4, 5, 6, 7]),
        ("a length of bytes, one byte wide", &[0xCC]),
        ("a length of bytes, two bytes wide", &[0xCD, 0]),
        ("a length of bytes, four bytes wide", &[0xCE, 0, 0, 0]),
        ("a length of text, one byte wide", &[0xD0]),
        ("a length of text, two bytes wide", &[0xD1, 0]),
        ("a length of text, four bytes wide", &[0xD2, 0, 0, 0]),
        ("a short text", &[0x85, b'a']),
        ("a text of 200 bytes", &[0xD0, 200, b'a']),
        ("a short list", &[0x92, 1]),
        ("a count of items", &[0xD5, 0]),
        ("a short map", &[0xA1, 0x81, b'k']),
        ("a count of pairs", &[0xD9, 0]),
        ("a structure's tag", &[0xB1]),
        ("a structure's field", &[0xB1, 0x4E]),
        ("a UUID", &[0xE0, 1, 2, 3]),
        ("bytes", &[0xCC, 9, 1, 2]),
    ];
    for (name, raw) in cut {
        table.add(format!("HELLO that is cut in {name}"), LOGIN, hello_with("x", raw), refused());
    }
    for (name, raw) in [("a text", &[0x85, b'a'][..]), ("a map", &[0xA1]), ("no value", &[])] {
        table.add(format!("LOGON that is cut in {name}"), GREETED, logon_with("x", raw), refused());
    }
}

/// Sizes that the message does not hold: refused, and nothing is allocated for them.
fn lying_sizes(table: &mut Table) {
    let lying: [(&str, &[u8]); 16] = [
        ("a text of 2 GiB", &[0xD2, 0x7F, 0xFF, 0xFF, 0xFF, b'x']),
        ("a text of 2 GiB and a byte", &[0xD2, 0x80, 0, 0, 0, b'x']),
        ("a text of 4 GiB", &[0xD2, 0xFF, 0xFF, 0xFF, 0xFF, b'x']),
        ("bytes of 2 GiB", &[0xCE, 0x7F, 0xFF, 0xFF, 0xFF, 1]),
        ("bytes of 4 GiB", &[0xCE, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
        ("a list of 65,535 items", &[0xD5, 0xFF, 0xFF, 1]),
        ("a list of 2^31 - 1 items", &[0xD6, 0x7F, 0xFF, 0xFF, 0xFF, 1]),
        ("a list of 2^32 - 1 items", &[0xD6, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
        ("a map of 65,535 pairs", &[0xD9, 0xFF, 0xFF, 0x80, 1]),
        ("a map of 2^31 - 1 pairs", &[0xDA, 0x7F, 0xFF, 0xFF, 0xFF, 0x80, 1]),
        ("a map of 2^32 - 1 pairs", &[0xDA, 0xFF, 0xFF, 0xFF, 0xFF, 0x80, 1]),
        ("a structure of 255 fields", &[0xDC, 0xFF, 0x4E, 1]),
        ("a structure of 65,535 fields", &[0xDD, 0xFF, 0xFF, 0x4E, 1]),
        ("a structure of 15 fields", &[0xBF, 0x4E, 1]),
        ("a text of 64 KiB", &[0xD1, 0xFF, 0xFF, b'x']),
        ("three bombs in a row", {
            &[
                0xD6, 0x7F, 0xFF, 0xFF, 0xFF, 0xD6, 0x7F, 0xFF, 0xFF, 0xFF, 0xD6, 0x7F, 0xFF, 0xFF,
                0xFF,
            ]
        }),
    ];
    for (name, raw) in lying {
        table.add(format!("HELLO with {name}"), LOGIN, hello_with("x", raw), refused());
    }
    for (name, raw) in &lying[..4] {
        table.add(format!("LOGON with {name}"), GREETED, logon_with("x", raw), refused());
    }
    let map_bomb = [&[0xB1, tag::HELLO, 0xDA][..], &[0x7F, 0xFF, 0xFF, 0xFF]].concat();
    table.add("HELLO that is a map of 2^31 - 1 pairs", LOGIN, message(&map_bomb), refused());
}

/// 64 elements and 4 levels, as Neo4j allows before login.
fn limits_of_a_login(table: &mut Table) {
    let nested = |levels: usize| [vec![0x91; levels], vec![1]].concat();
    let maps = |levels: usize| [b"\xA1\x81k".repeat(levels), vec![1]].concat();
    let structs = |levels: usize| [[0xB1, 0x4E].repeat(levels), vec![1]].concat();
    for (name, raw) in [
        ("four lists in one another", nested(4)),
        ("7,000 lists in one another", nested(7000)),
        ("four maps in one another", maps(4)),
        ("2,000 maps in one another", maps(2000)),
        ("four structures in one another", structs(4)),
        ("65 items", [&[0xD4, 65][..], &[1; 65]].concat()),
        ("65 pairs", [&[0xD8, 65][..], &b"\x81k\x01".repeat(65)].concat()),
        ("a structure of 65 fields", [&[0xDC, 65, 0x4E][..], &[1; 65]].concat()),
    ] {
        table.add(format!("HELLO with {name}"), LOGIN, hello_with("x", &raw), refused());
        table.add(format!("LOGON with {name}"), GREETED, logon_with("x", &raw), refused());
    }
    let many = Value::Map((0..65).map(|key| (format!("k{key}"), Value::Null)).collect());
    table.add(
        "HELLO of 65 keys",
        LOGIN,
        encode(tag::HELLO, std::slice::from_ref(&many)),
        refused(),
    );
    table.add("LOGON of 65 keys", GREETED, encode(tag::LOGON, &[many]), refused());
}

fn keys_and_texts(table: &mut Table) {
    for (name, raw) in [
        ("a number as a key", &[0xA1, 1, 1][..]),
        ("null as a key", &[0xA1, 0xC0, 1]),
        ("a list as a key", &[0xA1, 0x90, 1]),
        ("a key that is no UTF-8", &[0xA1, 0x82, 0xFF, 0xFE, 1]),
    ] {
        table.add(format!("HELLO with {name}"), LOGIN, hello_with("routing", raw), refused());
    }
    for (name, raw) in [
        ("a lone continuation byte", &[0x81, 0x80][..]),
        ("an overlong slash", &[0x82, 0xC0, 0xAF]),
        ("a surrogate", &[0x83, 0xED, 0xA0, 0x80]),
        ("a code point beyond Unicode", &[0x84, 0xF4, 0x90, 0x80, 0x80]),
        ("a sequence that is cut", &[0x82, 0xE2, 0x82]),
    ] {
        let bytes = hello_with("user_agent", raw);
        table.add(format!("an agent with {name}"), LOGIN, bytes, refused());
        let bytes = logon_with("scheme", raw);
        table.add(format!("a scheme with {name}"), GREETED, bytes, refused());
    }
}

fn login_maps(table: &mut Table) {
    for (name, key, raw) in [
        ("a number for an agent", "user_agent", &[1][..]),
        ("a null for an agent", "user_agent", &[0xC0]),
        ("a list for the routing context", "routing", &[0x90]),
        ("a number in the routing context", "routing", &[0xA1, 0x81, b'a', 1]),
        ("a text for the driver", "bolt_agent", &[0x81, b'a']),
        ("a driver without a product", "bolt_agent", &[0xA0]),
        ("a number for a product", "bolt_agent", b"\xA1\x87product\x01"),
        ("a number for a severity", "notifications_minimum_severity", &[1]),
        ("a map for categories", "notifications_disabled_categories", &[0xA0]),
    ] {
        table.add(format!("HELLO with {name}"), LOGIN, hello_with(key, raw), refused());
    }
    table.add(
        "HELLO without a driver",
        LOGIN,
        encode(tag::HELLO, &[map(&[("user_agent", "a")])]),
        refused(),
    );
    table.add("HELLO of an empty map", LOGIN, encode(tag::HELLO, &[map(&[])]), refused());
    table.add("HELLO of a list", LOGIN, encode(tag::HELLO, &[Value::List(Vec::new())]), refused());
    table.add("HELLO of null", LOGIN, encode(tag::HELLO, &[Value::Null]), refused());
    table.add("LOGON of null", GREETED, encode(tag::LOGON, &[Value::Null]), refused());
    table.add("LOGON of an empty map", GREETED, encode(tag::LOGON, &[map(&[])]), refused());
    let scheme = logon_with("scheme", &[1]);
    table.add("LOGON with a number for a scheme", GREETED, scheme, refused());
    let missing = encode(tag::LOGON, &[map(&[("principal", "neo4j"), ("credentials", "x")])]);
    table.add("LOGON without a scheme", GREETED, missing, refused());
    let mut behind = vec![0xB1, tag::LOGON];
    map(&[("scheme", "none")]).pack(&mut behind);
    behind.push(1);
    table.add("LOGON with a byte behind it", GREETED, message(&behind), refused());
    let old = encode(tag::HELLO, &[map(&[("user_agent", "a")])]);
    table.add("HELLO of 4.4 without a scheme", Start::Agreed(V4_4), old, refused());
    let old = encode(tag::HELLO, &[map(&[("scheme", "basic")])]);
    table.add("HELLO of 4.4 without an agent", Start::Agreed(V4_4), old, refused());
}

/// What is only relayed is the server's to judge; the proxy outlives its judgement.
fn after_login(table: &mut Table) {
    let refuses = || Outcome::Refuses(&[tag::FAILURE], INVALID);
    for (name, fields) in [
        ("a reserved marker", vec![0xC4, 0xA0, 0xA0]),
        ("a text of 2 GiB", vec![0xD2, 0x7F, 0xFF, 0xFF, 0xFF, b'x']),
        ("parameters of 2^31 - 1 pairs", vec![0x81, b'q', 0xDA, 0x7F, 0xFF, 0xFF, 0xFF]),
        ("an extra that is cut", vec![0x81, b'q', 0xA0, 0xA1, 0x84]),
        ("a key that is a number", vec![0x81, b'q', 0xA0, 0xA1, 1, 1]),
        ("bytes behind its fields", vec![0x81, b'q', 0xA0, 0xA0, 0xA0]),
        ("20,000 lists in one another", [vec![0x81, b'q'], vec![0x91; 20_000]].concat()),
        ("200,000 lists in one another", [vec![0x81, b'q'], vec![0x91; 200_000]].concat()),
        ("a query that is no UTF-8", vec![0x82, 0xFF, 0xFE, 0xA0, 0xA0]),
        ("bombs for all fields", [0xD6, 0x7F, 0xFF, 0xFF, 0xFF].repeat(3)),
    ] {
        table.add(format!("RUN with {name}"), READY, run_of(&fields), refuses());
    }
    for (name, raw) in [
        ("a reserved marker", &[0xC4][..]),
        ("a map that is cut", &[0xA1, 0x82]),
        ("a bomb", &[0xDA, 0x7F, 0xFF, 0xFF, 0xFF]),
    ] {
        let bytes = message(&[&[0xB1, tag::BEGIN], raw].concat());
        table.add(format!("BEGIN with {name}"), READY, bytes, refuses());
        let bytes = message(&[&[0xB3, tag::ROUTE], raw].concat());
        table.add(format!("ROUTE with {name}"), READY, bytes, refuses());
        let bytes = message(&[&[0xB1, tag::PULL], raw].concat());
        table.add(format!("PULL with {name}"), Start::Streaming(V5_4), bytes, refuses());
    }
}

#[test]
fn every_value_of_a_client_meets_its_outcome() {
    run_all(&cases(), 100);
}
