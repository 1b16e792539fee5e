//! What peers must not send: each case meets its own typed error, and nothing ever panics.

use super::vectors::{all, payload_of};
use super::{Random, hex, vectors};
use crate::wire::error::{MessageError, PackError};
use crate::wire::message::*;
use crate::wire::packstream::{Reader, Skipper};
use crate::wire::version::Version;

const V5_8: Version = Version::new(5, 8);

#[test]
fn values_that_cannot_be_passed_over() {
    use PackError::*;
    let cases = [
        ("", Truncated),
        ("C4", ReservedMarker(0xC4)),
        ("C5", ReservedMarker(0xC5)),
        ("C6", ReservedMarker(0xC6)),
        ("C7", ReservedMarker(0xC7)),
        ("CF", ReservedMarker(0xCF)),
        ("D3", ReservedMarker(0xD3)),
        ("D7", ReservedMarker(0xD7)),
        ("DB", ReservedMarker(0xDB)),
        ("DE", ReservedMarker(0xDE)),
        ("DF", ReservedMarker(0xDF)),
        ("E1", ReservedMarker(0xE1)),
        ("EF", ReservedMarker(0xEF)),
        ("92 01 C4", ReservedMarker(0xC4)),
        ("A1 81 61 DF", ReservedMarker(0xDF)),
        ("B1 70", Truncated),
        ("B0", Truncated),
        ("82 61", Truncated),
        ("C8", Truncated),
        ("C9 01", Truncated),
        ("CB 01 02 03 04 05 06 07", Truncated),
        ("C1 00", Truncated),
        ("E0 01 02", Truncated),
        ("CC", Truncated),
        ("CC 05 01", Truncated),
        ("D0", Truncated),
        ("D1 00", Truncated),
        ("D2 7F FF FF FF 61", Truncated),
        ("D2 80 00 00 00 61", SizeTooLarge(0x8000_0000)),
        ("CE FF FF FF FF 61", SizeTooLarge(0xFFFF_FFFF)),
        ("D6 7F FF FF FF", Truncated),
        ("D6 80 00 00 00", SizeTooLarge(0x8000_0000)),
        ("DA 7F FF FF FF", Truncated),
        ("DA FF FF FF FF", SizeTooLarge(0xFFFF_FFFF)),
        ("DD FF FF 4E", Truncated),
        ("91 91 91 91 91 91", Truncated),
        ("D6 7F FF FF FF D6 7F FF FF FF D6 7F FF FF FF", Truncated),
    ];
    for (text, expected) in cases {
        let bytes = hex(text);
        assert_eq!(Reader::new(&bytes).skip(), Err(expected), "{text}");
        let mut skipper = Skipper::new();
        let outcome = bytes.chunks(1).try_for_each(|byte| skipper.feed(byte).map(|_| ()));
        let verdict = outcome.and(if skipper.is_done() { Ok(()) } else { Err(Truncated) });
        assert_eq!(verdict, Err(expected), "{text} byte by byte");
        assert!(expected.to_string().starts_with("expected"), "{expected}");
    }
}

#[test]
fn headers_that_promise_too_much_are_refused_at_once() {
    let count_bomb = hex("D6 7F FF FF FF 01");
    assert_eq!(Reader::new(&count_bomb).take_list_header(), Err(PackError::Truncated));
    let map_bomb = hex("DA 7F FF FF FF 01 01");
    assert_eq!(Reader::new(&map_bomb).take_map_header(), Err(PackError::Truncated));
    assert_eq!(Reader::new(&hex("A2 80 01 80")).take_map_header(), Err(PackError::Truncated));
    assert_eq!(Reader::new(&hex("B2 70 01")).take_struct_header(), Err(PackError::Truncated));
    let huge = hex("D2 7F FF FF FF 61");
    assert_eq!(Reader::new(&huge).take_string(), Err(PackError::Truncated));
    assert_eq!(Reader::new(&hex("82 C3 28")).take_string(), Err(PackError::NotUtf8));
    assert_eq!(Reader::new(&hex("01")).take_key(), Err(PackError::KeyNotString(1)));
    let unexpected = Err(PackError::Unexpected { expected: "a boolean", marker: 0xC0 });
    assert_eq!(Reader::new(&hex("C0")).take_bool(), unexpected);
}

#[test]
fn fields_that_cannot_be_read() {
    use PackError::*;
    let map = |marker| Unexpected { expected: "a map", marker };
    let head = |marker| Unexpected { expected: "a message with other fields", marker };
    let cases = [
        ("", Truncated),
        ("B3", Truncated),
        ("B3 10", Truncated),
        ("B3 10 80 A0", Truncated),
        ("B3 10 80 A0 A1", Truncated),
        ("B3 10 80 A0 A1 84 6D 6F 64 65", Truncated),
        ("B3 10 80 A0 C0", map(0xC0)),
        ("B3 10 80 A0 90", map(0x90)),
        ("B3 10 80 A0 A0 00", TrailingBytes),
        ("B3 10 C4 A0 A0", ReservedMarker(0xC4)),
        ("B2 10 80 A0", head(0xB2)),
        ("A1 11 A0", head(0xA1)),
        ("B1 11 A1 01 01", KeyNotString(0x01)),
        ("B1 11 A1 C0 01", KeyNotString(0xC0)),
        ("B1 70 DA 80 00 00 00", SizeTooLarge(0x8000_0000)),
        ("B1 70 DA 7F FF FF FF 80 01", Truncated),
        ("B1 70 DF", ReservedMarker(0xDF)),
        ("B1 70 A0 A0", TrailingBytes),
        ("B1 70 A1 88 68 61 73 5F 6D 6F 72 65 C3 C3", TrailingBytes),
    ];
    for (text, expected) in cases {
        assert_eq!(read_fields(&hex(text)), Err(expected), "{text}");
    }
    let wrong_tag = FieldScan::new(tag::BEGIN).feed(&[0xB1, tag::SUCCESS]);
    assert!(matches!(wrong_tag, Err(Unexpected { marker: tag::SUCCESS, .. })));
}

fn hello(map: &str) -> Result<Hello, MessageError> {
    Hello::parse(V5_8, &hex(&format!("B1 01 {map}")))
}

const USER_AGENT: &str = "8A 75 73 65 72 5F 61 67 65 6E 74";
const BOLT_AGENT: &str = "8A 62 6F 6C 74 5F 61 67 65 6E 74";
const PRODUCT: &str = "87 70 72 6F 64 75 63 74";
const ROUTING: &str = "87 72 6F 75 74 69 6E 67";

#[test]
fn hellos_that_are_refused() {
    let missing = |key| MessageError::MissingKey { message: "HELLO", key };
    let wrong = |key, expected| MessageError::WrongType { message: "HELLO", key, expected };
    let strings = "a map of strings";
    let whole = format!("{USER_AGENT} 81 61 {BOLT_AGENT} A1 {PRODUCT} 81 62");
    let cases = [
        ("A0".into(), missing("user_agent")),
        (format!("A1 {USER_AGENT} 81 61"), missing("bolt_agent")),
        (format!("A1 {USER_AGENT} 01"), wrong("user_agent", "a string")),
        (format!("A1 {USER_AGENT} C0"), wrong("user_agent", "a string")),
        (format!("A2 {USER_AGENT} 81 61 {BOLT_AGENT} A0"), missing("bolt_agent.product")),
        (format!("A2 {USER_AGENT} 81 61 {BOLT_AGENT} C0"), wrong("bolt_agent", strings)),
        (
            format!("A2 {USER_AGENT} 81 61 {BOLT_AGENT} A1 {PRODUCT} 01"),
            wrong("bolt_agent", strings),
        ),
        (format!("A3 {whole} {ROUTING} 90"), wrong("routing", strings)),
        (format!("A3 {whole} {ROUTING} A1 81 61 01"), wrong("routing", strings)),
        (format!("A3 {whole} {ROUTING} A1 01 01"), PackError::KeyNotString(1).into()),
        (format!("A3 {whole} 81 61 C7"), PackError::ReservedMarker(0xC7).into()),
        (format!("A2 {whole} 00"), PackError::TrailingBytes.into()),
        (format!("A3 {whole}"), PackError::Truncated.into()),
        (format!("A3 {whole} 81 61 D6 7F FF FF FF"), PackError::Truncated.into()),
        (format!("A3 {whole} 81 61 {} 01", "91 ".repeat(4)), MessageError::TooDeep),
        (format!("A3 {whole} 81 61 {}", "91 ".repeat(4000)), MessageError::TooDeep),
        (
            format!("A3 {whole} 81 61 D4 41 {}", "01 ".repeat(65)),
            MessageError::TooManyElements { count: 65 },
        ),
        (format!("D8 41 {}", "80 01 ".repeat(65)), MessageError::TooManyElements { count: 65 }),
    ];
    for (map, expected) in cases {
        assert_eq!(hello(&map).err(), Some(expected), "{map}");
        assert!(expected.to_string().starts_with("expected"), "{expected}");
    }
    assert!(hello(&format!("A2 {whole}")).is_ok());
    assert!(hello(&format!("A3 {whole} 81 61 D4 40 {}", "01 ".repeat(64))).is_ok());
    assert!(hello(&format!("A3 {whole} 81 61 {} 01", "91 ".repeat(3))).is_ok());
}

#[test]
fn other_messages_that_are_refused() {
    let not_this = |expected, fields, tag| MessageError::NotThis { expected, fields, tag };
    let scheme = MessageError::MissingKey { message: "LOGON", key: "scheme" };
    let logon = |text: &str| parse_logon(&hex(text)).err();
    assert_eq!(logon("B1 6A A0"), Some(scheme));
    assert_eq!(logon("B1 6A A1 86 73 63 68 65 6D 65 C0"), Some(scheme));
    let expected = "a string";
    let wrong = MessageError::WrongType { message: "LOGON", key: "scheme", expected };
    assert_eq!(logon("B1 6A A1 86 73 63 68 65 6D 65 01"), Some(wrong));
    assert_eq!(logon("B0 6B"), Some(not_this("LOGON", 0, 0x6B)));
    assert_eq!(
        logon("A0"),
        Some(PackError::Unexpected { expected: "a structure", marker: 0xA0 }.into())
    );
    assert!(matches!(logon("B1 6A C0"), Some(MessageError::Pack(PackError::Unexpected { .. }))));
    assert_eq!(logon("B1 6A A0 00"), Some(PackError::TrailingBytes.into()));
    let route = |text: &str| Route::parse(V5_8, &hex(text)).err();
    assert_eq!(route("B1 66 A0"), Some(not_this("ROUTE", 1, 0x66)));
    assert!(matches!(route("B3 66 C0 90 A0"), Some(MessageError::WrongType { .. })));
    assert!(matches!(route("B3 66 A0 A0 A0"), Some(MessageError::WrongType { .. })));
    assert!(matches!(route("B3 66 A0 90 C0"), Some(MessageError::WrongType { .. })));
    assert!(matches!(route("B3 66 A0 90 A1 82 64 62 01"), Some(MessageError::WrongType { .. })));
    let table = |text: &str| RoutingTable::parse(&hex(text)).err();
    assert!(matches!(table("B1 70 A0"), Some(MessageError::MissingKey { key: "rt", .. })));
    assert!(matches!(
        table("B1 70 A1 82 72 74 A0"),
        Some(MessageError::MissingKey { key: "ttl", .. })
    ));
    let failure = |text: &str| Failure::parse(&hex(text)).err();
    assert!(matches!(failure("B1 7F A0"), Some(MessageError::MissingKey { key: "code", .. })));
    assert_eq!(failure("B0 7E"), Some(not_this("FAILURE", 0, 0x7E)));
}

/// Every parser on bytes that are nearly a message: a panic or endless loop would show here.
#[test]
fn damaged_messages_never_panic() {
    let mut random = Random(7);
    let mut refused = 0;
    for round in 0..150 {
        for (_, message) in all() {
            let mut payload = message[2..message.len() - 2].to_vec();
            for _ in 0..1 + round % 3 {
                let at = random.below(payload.len());
                payload[at] = random.below(256) as u8;
            }
            payload.truncate(1 + random.below(payload.len() + 20).min(payload.len() - 1));
            for version in [Version::new(3, 0), Version::new(4, 3), V5_8] {
                refused += usize::from(Hello::parse(version, &payload).is_err());
                refused += usize::from(Route::parse(version, &payload).is_err());
            }
            refused += usize::from(parse_logon(&payload).is_err());
            refused += usize::from(RoutingTable::parse(&payload).is_err());
            refused += usize::from(HelloSuccess::parse(&payload).is_err());
            refused += usize::from(LogonSuccess::parse(&payload).is_err());
            refused += usize::from(Failure::parse(&payload).is_err());
            refused += usize::from(read_fields(&payload).is_err());
        }
    }
    assert!(refused > 10_000, "damage is noticed: {refused}");
}

#[test]
fn cut_messages_are_refused_at_every_offset() {
    let hello = payload_of(vectors::HELLO);
    let logon = payload_of(vectors::LOGON);
    let route = payload_of(vectors::ROUTE);
    let table = payload_of(vectors::TABLE);
    let truncated = Some(MessageError::Pack(PackError::Truncated));
    for at in 0..hello.len() {
        assert_eq!(Hello::parse(V5_8, &hello[..at]).err(), truncated, "{at}");
    }
    for at in 0..logon.len() {
        assert_eq!(parse_logon(&logon[..at]).err(), truncated, "{at}");
    }
    for at in 0..route.len() {
        assert_eq!(Route::parse(V5_8, &route[..at]).err(), truncated, "{at}");
    }
    for at in 0..table.len() {
        assert_eq!(RoutingTable::parse(&table[..at]).err(), truncated, "{at}");
    }
}
