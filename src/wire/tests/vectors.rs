//! Byte vectors made with an official driver's packer: read, written and cut in every way.

use super::{Item, hex, scan};
use crate::wire::chunk::{NOOP, payload};
use crate::wire::message::*;
use crate::wire::packstream::{Reader, Writer};
use crate::wire::version::Version;

pub const HELLO: &str = "00 2A B1 01 A2 8A 75 73 65 72 5F 61 67 65 6E 74 83 70 2F 31 8A 62 6F 6C \
    74 5F 61 67 65 6E 74 A1 87 70 72 6F 64 75 63 74 83 70 2F 31 00 00";
pub const LOGON: &str = "00 2F B1 6A A3 86 73 63 68 65 6D 65 85 62 61 73 69 63 89 70 72 69 6E 63 \
    69 70 61 6C 85 6E 65 6F 34 6A 8B 63 72 65 64 65 6E 74 69 61 6C 73 82 70 77 00 00";
pub const BEGIN: &str = "00 13 B1 11 A2 84 6D 6F 64 65 81 72 82 64 62 85 6E 65 6F 34 6A 00 00";
pub const RUN: &str = "00 1D B3 10 88 52 45 54 55 52 4E 20 31 A0 A2 84 6D 6F 64 65 81 72 82 64 62 \
    85 6E 65 6F 34 6A 00 00";
pub const PULL_1000: &str = "00 08 B1 3F A1 81 6E C9 03 E8 00 00";
pub const PULL_ALL: &str = "00 06 B1 3F A1 81 6E FF 00 00";
pub const DISCARD_ALL: &str = "00 06 B1 2F A1 81 6E FF 00 00";
pub const TELEMETRY: &str = "00 03 B1 54 02 00 00";
pub const ROUTE: &str = "00 1D B3 66 A1 87 61 64 64 72 65 73 73 86 68 3A 37 36 38 37 90 A1 82 64 \
    62 85 6E 65 6F 34 6A 00 00";
pub const HAS_MORE: &str = "00 0D B1 70 A1 88 68 61 73 5F 6D 6F 72 65 C3 00 00";
pub const RECORD: &str = "00 04 B1 71 91 01 00 00";
pub const TABLE: &str = "00 79 B1 70 A1 82 72 74 A3 83 74 74 6C C9 01 2C 82 64 62 85 6E 65 6F 34 \
    6A 87 73 65 72 76 65 72 73 93 \
    A2 89 61 64 64 72 65 73 73 65 73 91 86 68 3A 37 36 38 37 84 72 6F 6C 65 85 57 52 49 54 45 \
    A2 89 61 64 64 72 65 73 73 65 73 91 86 68 3A 37 36 38 37 84 72 6F 6C 65 84 52 45 41 44 \
    A2 89 61 64 64 72 65 73 73 65 73 91 86 68 3A 37 36 38 37 84 72 6F 6C 65 85 52 4F 55 54 45 \
    00 00";

/// Every message vector with its tag.
pub fn all() -> Vec<(u8, Vec<u8>)> {
    let texts = [
        (tag::HELLO, HELLO),
        (tag::LOGON, LOGON),
        (tag::LOGOFF, "00 02 B0 6B 00 00"),
        (tag::RESET, "00 02 B0 0F 00 00"),
        (tag::GOODBYE, "00 02 B0 02 00 00"),
        (tag::COMMIT, "00 02 B0 12 00 00"),
        (tag::ROLLBACK, "00 02 B0 13 00 00"),
        (tag::BEGIN, BEGIN),
        (tag::RUN, RUN),
        (tag::PULL, PULL_1000),
        (tag::PULL, PULL_ALL),
        (tag::DISCARD, DISCARD_ALL),
        (tag::TELEMETRY, TELEMETRY),
        (tag::ROUTE, ROUTE),
        (tag::SUCCESS, "00 03 B1 70 A0 00 00"),
        (tag::IGNORED, "00 02 B0 7E 00 00"),
        (tag::SUCCESS, HAS_MORE),
        (tag::RECORD, RECORD),
        (tag::SUCCESS, TABLE),
    ];
    texts.into_iter().map(|(tag, text)| (tag, hex(text))).collect()
}

pub fn payload_of(text: &str) -> Vec<u8> {
    payload(&hex(text), &mut Vec::new()).to_vec()
}

const V5_8: Version = Version::new(5, 8);

#[test]
fn every_cut_of_every_vector_gives_the_same_message() {
    for (_, message) in all() {
        let inner = message[2..message.len() - 2].to_vec();
        let expected = [Item::Message { wire_length: message.len(), payload: inner }];
        assert_eq!(scan(&[&message]), expected);
        for at in 0..=message.len() {
            assert_eq!(scan(&[&message[..at], &message[at..]]), expected, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = message.chunks(1).collect();
        assert_eq!(scan(&bytes), expected, "byte by byte");
    }
}

#[test]
fn chunks_of_one_byte_with_noops_between_give_the_same_payloads() {
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    for (index, (_, message)) in all().into_iter().enumerate() {
        let inner = &message[2..message.len() - 2];
        let start = stream.len();
        for byte in inner {
            stream.extend_from_slice(&[0, 1, *byte]);
        }
        stream.extend_from_slice(&[0, 0]);
        let wire_length = stream.len() - start;
        let mut scratch = Vec::new();
        assert_eq!(payload(&stream[start..], &mut scratch), inner);
        expected.push(Item::Message { wire_length, payload: inner.to_vec() });
        for _ in 0..index % 3 {
            stream.extend_from_slice(&NOOP);
            expected.push(Item::Noop);
        }
    }
    assert_eq!(scan(&[&stream]), expected);
    assert_eq!(scan(&stream.chunks(1).collect::<Vec<_>>()), expected);
    for at in 0..stream.len() {
        assert_eq!(scan(&[&stream[..at], &stream[at..]]), expected, "cut at {at}");
    }
}

#[test]
fn every_vector_is_one_value_with_the_right_head() {
    for (expected_tag, message) in all() {
        let inner = &message[2..message.len() - 2];
        let mut reader = Reader::new(inner);
        assert_eq!(reader.take_raw(), Ok(inner));
        let head = crate::wire::Head::of([inner[0], inner[1]]);
        assert_eq!(head.tag, expected_tag);
        assert_eq!(is_response(head), expected_tag >= tag::SUCCESS, "{expected_tag:02X}");
        assert_eq!(is_request(V5_8, head), expected_tag < tag::FAILURE && !is_response(head));
        assert_ne!(tag::name(expected_tag), "UNKNOWN");
    }
}

#[test]
fn encoders_write_the_vectors() {
    assert_eq!(RESET, hex("00 02 B0 0F 00 00"));
    assert_eq!(GOODBYE, hex("00 02 B0 02 00 00"));
    assert_eq!(LOGOFF, hex("00 02 B0 6B 00 00"));
    assert_eq!(COMMIT, hex("00 02 B0 12 00 00"));
    assert_eq!(ROLLBACK, hex("00 02 B0 13 00 00"));
    assert_eq!(IGNORED, hex("00 02 B0 7E 00 00"));
    assert_eq!(SUCCESS_EMPTY, hex("00 03 B1 70 A0 00 00"));
    assert_eq!(encode_pull(V5_8, 1000), hex(PULL_1000));
    assert_eq!(encode_pull(V5_8, -1), hex(PULL_ALL));
    assert_eq!(encode_discard(V5_8, -1), hex(DISCARD_ALL));
    let mut extra = Writer::new();
    extra.map_header(2).string("mode").string("r").string("db").string("neo4j");
    assert_eq!(encode_begin(extra.bytes()), hex(BEGIN));
    assert_eq!(encode_run("RETURN 1", &[0xA0], extra.bytes()), hex(RUN));
    let routing = Routing { address: Some("h:7687".into()), entries: vec![] };
    assert_eq!(encode_route(V5_8, &routing, Some("neo4j"), None), hex(ROUTE));
    let hello = ServerHello {
        user_agent: "p/1",
        bolt_agent: "p/1",
        routing: None,
        utc_patch: true,
        notifications: &Notifications::default(),
        auth: None,
    };
    assert_eq!(encode_hello(V5_8, &hello), hex(HELLO));
}

#[test]
fn parsers_read_the_vectors() {
    let hello = Hello::parse(V5_8, &payload_of(HELLO)).expect("a driver's HELLO");
    assert_eq!(hello.user_agent, "p/1");
    assert!(hello.routing.is_none() && hello.auth.is_none() && !hello.utc_patch);
    let auth = parse_logon(&payload_of(LOGON)).expect("a driver's LOGON");
    assert_eq!((auth.scheme.as_str(), auth.principal.as_deref()), ("basic", Some("neo4j")));
    assert_eq!(auth.canonical(), Auth::from_parts("basic", "neo4j", "pw").canonical());
    assert_eq!(encode_logon(&auth).len(), hex(LOGON).len());
    let route = Route::parse(V5_8, &payload_of(ROUTE)).expect("a driver's ROUTE");
    assert_eq!(route.routing.address.as_deref(), Some("h:7687"));
    assert_eq!((route.database.as_deref(), route.imp_user), (Some("neo4j"), None));
    assert_eq!(route.bookmarks, [0x90]);
    for text in [RUN, BEGIN] {
        let fields = read_fields(&payload_of(text)).expect("a driver's request");
        let expected = Fields { is_read: true, has_database: true, ..Fields::default() };
        assert_eq!(fields, expected);
    }
    assert!(read_fields(&payload_of(HAS_MORE)).expect("a summary").has_more);
    assert!(!read_fields(&[0xB1, 0x70, 0xA0]).expect("a summary").has_more);
}

#[test]
fn the_routing_table_vector_is_read_and_written() {
    let table = RoutingTable::parse(&payload_of(TABLE)).expect("a server's table");
    let addresses = vec!["h:7687".to_owned()];
    let roles = [Role::Write, Role::Read, Role::Route];
    let expected = RoutingTable {
        ttl_seconds: 300,
        database: Some("neo4j".into()),
        servers: roles.map(|role| (role, addresses.clone())).to_vec(),
    };
    assert_eq!(table, expected);
    assert_eq!(table.encode(V5_8), hex(TABLE));
    let without = RoutingTable { database: None, ..table.clone() };
    assert_eq!(table.encode(Version::new(4, 3)), without.encode(V5_8));
}
