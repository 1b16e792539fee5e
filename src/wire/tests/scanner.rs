//! The scanner against a slow, obvious twin, and joining and wrapping payloads.

use super::{Item, Random, scan};
use crate::wire::chunk::{Kind, NOOP, Scanner, Span, chunked, payload};

/// Reads whole chunks one by one; what is not complete at the end is left out.
fn twin(mut bytes: &[u8]) -> Vec<Item> {
    let mut items = Vec::new();
    let mut wire_length = 0;
    let mut payload = Vec::new();
    while bytes.len() >= 2 {
        let size = usize::from(bytes[0]) * 256 + usize::from(bytes[1]);
        if bytes.len() < 2 + size {
            break;
        }
        wire_length += 2 + size;
        payload.extend_from_slice(&bytes[2..2 + size]);
        bytes = &bytes[2 + size..];
        if size == 0 && payload.is_empty() {
            items.push(Item::Noop);
            wire_length = 0;
        } else if size == 0 {
            items.push(Item::Message { wire_length, payload: std::mem::take(&mut payload) });
            wire_length = 0;
        }
    }
    items
}

fn random_stream(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(12) {
        if random.below(3) == 0 {
            bytes.extend_from_slice(&NOOP);
            continue;
        }
        for _ in 0..1 + random.below(4) {
            let size = if random.below(8) == 0 { 300 } else { 1 + random.below(6) };
            bytes.extend_from_slice(&(size as u16).to_be_bytes());
            // Many zeros, since those are what could be taken for an end marker.
            bytes.extend((0..size).map(|_| random.below(3) as u8));
        }
        bytes.extend_from_slice(&[0, 0]);
    }
    bytes.truncate(bytes.len() - random.below(4).min(bytes.len()));
    bytes
}

#[test]
fn scanner_agrees_with_its_twin_on_random_streams() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let bytes = random_stream(&mut random);
        let expected = twin(&bytes);
        assert_eq!(scan(&[&bytes]), expected, "seed {seed}, whole");
        let size = 1 + random.below(9);
        assert_eq!(scan(&random.cut(&bytes, size)), expected, "seed {seed}, pieces <= {size}");
        assert_eq!(scan(&random.cut(&bytes, 1)), expected, "seed {seed}, byte by byte");
    }
}

#[test]
fn one_byte_between_messages_waits_for_its_second() {
    let mut scanner = Scanner::default();
    assert_eq!(scanner.next(&[]), None);
    assert_eq!(scanner.next(&[0]), None);
    assert_eq!(scanner.next(&[0, 0]), Some(Span { length: 2, kind: Kind::Noop }));
    let starts = Kind::Message { starts: true, ends: false };
    assert_eq!(scanner.next(&[0, 2]), Some(Span { length: 2, kind: starts }));
    assert_eq!(scanner.next(&[]), None);
    assert_eq!(scanner.head(), None);
}

#[test]
fn a_message_of_one_payload_byte_has_no_head() {
    let mut scanner = Scanner::default();
    let whole = Kind::Message { starts: true, ends: true };
    assert_eq!(scanner.next(&[0, 1, 0xB0, 0, 0]), Some(Span { length: 5, kind: whole }));
    assert_eq!(scanner.head(), None);
    assert_eq!(scanner.payload_length(), 1);
}

#[test]
fn the_head_outlives_the_message_and_a_noop() {
    let mut scanner = Scanner::default();
    scanner.next(&[0, 2, 0xB3, 0x10, 0, 0]);
    scanner.next(&NOOP);
    let head = scanner.head().expect("two bytes were seen");
    assert_eq!((head.fields, head.tag, head.is_struct), (3, 0x10, true));
    scanner.next(&[0, 2, 0xA1, 0x80, 0, 0]);
    assert!(!scanner.head().expect("two bytes were seen").is_struct);
}

#[test]
fn a_scanner_is_small() {
    assert!(size_of::<Scanner>() <= 32);
}

#[test]
fn wrapping_and_joining_are_inverse_at_every_chunk_border() {
    for length in [1, 2, 65_534, 65_535, 65_536, 131_070, 131_071] {
        let bytes: Vec<u8> = (0..length).map(|index| index as u8).collect();
        let message = chunked(&bytes);
        let expected = Item::Message { wire_length: message.len(), payload: bytes.clone() };
        assert_eq!(scan(&[&message]), [expected], "{length} bytes");
        let mut scratch = vec![9];
        assert_eq!(payload(&message, &mut scratch), bytes, "{length} bytes");
        if length <= 65_535 {
            assert_eq!(scratch, [9], "{length} bytes fit one chunk and are borrowed");
        }
    }
}

#[test]
fn joining_half_a_message_gives_what_is_there() {
    let mut scratch = Vec::new();
    assert_eq!(payload(&[], &mut scratch), b"");
    assert_eq!(payload(&[0], &mut scratch), b"");
    assert_eq!(payload(&[0, 5, 1, 2], &mut scratch), [1, 2]);
    assert_eq!(payload(&[0, 1, 7, 0, 1, 8, 0, 0], &mut scratch), [7, 8]);
}
