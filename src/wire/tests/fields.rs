//! The scan for the deciding fields against a reader of whole messages, in pieces of any size.

use super::Random;
use super::vectors::all;
use crate::wire::message::{FieldScan, Fields, read_fields, tag};
use crate::wire::packstream::{PackError, Reader, Writer};

fn scan(tag: u8, pieces: &[&[u8]]) -> Result<Fields, PackError> {
    let mut scan = FieldScan::new(tag);
    for piece in pieces {
        scan.feed(piece)?;
    }
    scan.finish()
}

/// Reads the whole map, as plainly as can be.
fn twin(payload: &[u8]) -> Fields {
    let mut reader = Reader::new(payload);
    let (_, tag) = reader.take_struct_header().expect("legal");
    if tag == tag::RUN {
        reader.skip().expect("legal");
        reader.skip().expect("legal");
    }
    let mut fields = Fields::default();
    for _ in 0..reader.take_map_header().expect("legal") {
        let key = reader.take_string().expect("legal");
        let raw = reader.take_raw().expect("legal");
        let text = Reader::new(raw).take_string();
        let is_null = raw == [0xC0];
        match key {
            "mode" => fields.is_read = text == Ok("r"),
            "db" => fields.has_database = !is_null && text != Ok(""),
            "imp_user" => fields.has_imp_user = !is_null,
            "has_more" => fields.has_more = raw == [0xC3],
            _ => {}
        }
    }
    reader.finish().expect("legal");
    fields
}

const KEYS: [&str; 9] = [
    "mode",
    "db",
    "imp_user",
    "has_more",
    "modes",
    "",
    "bookmarks",
    "notifications_minimum_severity",
    "t_last",
];

fn push_text(random: &mut Random, writer: &mut Writer, text: &str) {
    let size = text.len() as u8;
    match random.below(4) {
        0 => writer.raw(&[0xD0, size]).raw(text.as_bytes()),
        1 => writer.raw(&[0xD1, 0, size]).raw(text.as_bytes()),
        2 => writer.raw(&[0xD2, 0, 0, 0, size]).raw(text.as_bytes()),
        _ => writer.string(text),
    };
}

fn random_message(random: &mut Random) -> Vec<u8> {
    let mut writer = Writer::new();
    match random.below(3) {
        0 => {
            writer.struct_header(3, tag::RUN).string("RETURN $x AS x, 1 AS one");
            writer.map_header(1).string("mode").list_header(2).string("r").null();
        }
        1 => _ = writer.struct_header(1, tag::BEGIN),
        _ => _ = writer.struct_header(1, tag::SUCCESS),
    }
    let pairs = random.below(7);
    match random.below(3) {
        0 => writer.raw(&[0xD8, pairs as u8]),
        1 => writer.raw(&[0xDA, 0, 0, 0, pairs as u8]),
        _ => writer.map_header(pairs),
    };
    for _ in 0..pairs {
        let key = KEYS[random.below(KEYS.len())];
        push_text(random, &mut writer, key);
        match random.below(8) {
            0 => _ = writer.null(),
            1 => _ = writer.bool(true),
            2 => _ = writer.bool(false),
            3 => push_text(random, &mut writer, "r"),
            4 => push_text(random, &mut writer, "w"),
            5 => push_text(random, &mut writer, ""),
            6 => _ = writer.string("a string much longer than what is kept of an item"),
            _ => _ = writer.map_header(1).string("mode").string("r"),
        }
    }
    writer.into_bytes()
}

#[test]
fn scan_agrees_with_its_twin_on_random_messages() {
    let mut seen = [0; 4];
    for seed in 0..1500 {
        let mut random = Random(seed);
        let payload = random_message(&mut random);
        let expected = twin(&payload);
        let flags =
            [expected.is_read, expected.has_more, expected.has_database, expected.has_imp_user];
        seen.iter_mut().zip(flags).for_each(|(count, flag)| *count += usize::from(flag));
        let tag = payload[1];
        assert_eq!(read_fields(&payload), Ok(expected), "seed {seed}");
        assert_eq!(scan(tag, &random.cut(&payload, 7)), Ok(expected), "seed {seed}, pieces");
        assert_eq!(scan(tag, &random.cut(&payload, 1)), Ok(expected), "seed {seed}, bytes");
        let end = random.below(payload.len());
        assert_eq!(read_fields(&payload[..end]), Err(PackError::Truncated), "seed {seed} {end}");
    }
    assert!(seen.iter().all(|count| *count > 30), "each field is found sometimes: {seen:?}");
}

#[test]
fn the_short_way_agrees_with_the_scan_whatever_comes() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let mut payload = random_message(&mut random);
        for _ in 0..random.below(3) {
            let at = random.below(payload.len());
            // Markers of all kinds, and bytes of any kind.
            let markers = [0x80, 0x81, 0x92, 0xA1, 0xB1, 0xC0, 0xC3, 0xC8, 0xCB, 0xD0, 0xD4, 0xE0];
            payload[at] = match random.below(2) {
                0 => markers[random.below(markers.len())],
                _ => random.below(256) as u8,
            };
        }
        let expected = scan(payload[1], &[&payload]);
        assert_eq!(read_fields(&payload), expected, "seed {seed}: {payload:02X?}");
        if expected.is_ok() { right += 1 } else { wrong += 1 }
    }
    assert!(right > 2000 && wrong > 2000, "both are tried: {right} right, {wrong} wrong");
}

#[test]
fn scan_of_every_vector_that_has_fields_is_the_same_at_every_cut() {
    for (tag, message) in all() {
        if !matches!(tag, tag::RUN | tag::BEGIN | tag::SUCCESS) {
            continue;
        }
        let payload = &message[2..message.len() - 2];
        let expected = Ok(twin(payload));
        for at in 0..=payload.len() {
            assert_eq!(scan(tag, &[&payload[..at], &payload[at..]]), expected, "{tag:02X} {at}");
        }
    }
}

#[test]
fn the_last_of_duplicate_keys_counts_and_null_is_absent() {
    let mut writer = Writer::new();
    writer.struct_header(1, tag::BEGIN).map_header(5);
    writer.string("mode").string("r").string("db").string("neo4j").string("mode").string("w");
    writer.string("db").null().string("imp_user").string("someone");
    let expected = Fields { has_imp_user: true, ..Fields::default() };
    assert_eq!(read_fields(writer.bytes()), Ok(expected));
}

#[test]
fn parameters_of_many_megabytes_pass_in_constant_memory() {
    let piece = [b'x'; 65_535];
    let mut head = Writer::new();
    head.struct_header(3, tag::RUN).string("RETURN $x").map_header(1).string("x");
    head.raw(&[0xD2]).raw(&(piece.len() as u32 * 100).to_be_bytes());
    let mut scan = FieldScan::new(tag::RUN);
    scan.feed(head.bytes()).expect("legal");
    for _ in 0..100 {
        scan.feed(&piece).expect("legal");
    }
    assert_eq!(scan.finish(), Err(PackError::Truncated));
    scan.feed(b"\xA1\x84mode\x81r").expect("legal");
    assert_eq!(scan.finish(), Ok(Fields { is_read: true, ..Fields::default() }));
    assert_eq!(scan.feed(&[0x01]), Err(PackError::TrailingBytes));
    assert!(size_of::<FieldScan>() <= 64);
}
