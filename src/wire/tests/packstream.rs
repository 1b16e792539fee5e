//! Reader, writer and skipper; the skipper against a slow, recursive twin.

use super::Random;
use crate::wire::packstream::{PackError, Reader, Skipper, Writer};

/// Length of the first value, by plain recursion.
fn twin(bytes: &[u8]) -> Result<usize, PackError> {
    let marker = *bytes.first().ok_or(PackError::Truncated)?;
    let number = |width: usize| -> Result<usize, PackError> {
        let digits = bytes.get(1..1 + width).ok_or(PackError::Truncated)?;
        let value = digits.iter().fold(0u64, |value, digit| value * 256 + u64::from(*digit));
        if value > 0x7FFF_FFFF {
            Err(PackError::SizeTooLarge(value as u32))
        } else {
            Ok(value as usize)
        }
    };
    let nibble = usize::from(marker % 16);
    let width = |lowest: u8| [1, 2, 4][usize::from(marker - lowest)];
    let (header, raw, values) = match marker {
        0..=0x7F | 0xF0..=0xFF | 0xC0 | 0xC2 | 0xC3 => (1, 0, 0),
        0x80..=0x8F => (1, nibble, 0),
        0x90..=0x9F => (1, 0, nibble),
        0xA0..=0xAF => (1, 0, 2 * nibble),
        0xB0..=0xBF => (1, 1, nibble),
        0xC1 | 0xCB => (1, 8, 0),
        0xC8 => (1, 1, 0),
        0xC9 => (1, 2, 0),
        0xCA => (1, 4, 0),
        0xE0 => (1, 16, 0),
        0xCC..=0xCE => (1 + width(0xCC), number(width(0xCC))?, 0),
        0xD0..=0xD2 => (1 + width(0xD0), number(width(0xD0))?, 0),
        0xD4..=0xD6 => (1 + width(0xD4), 0, number(width(0xD4))?),
        0xD8..=0xDA => (1 + width(0xD8), 0, 2 * number(width(0xD8))?),
        0xDC | 0xDD => (1 + width(0xDC), 1, number(width(0xDC))?),
        _ => return Err(PackError::ReservedMarker(marker)),
    };
    let mut at = header + raw;
    if bytes.len() < at {
        return Err(PackError::Truncated);
    }
    for _ in 0..values {
        at += twin(&bytes[at..])?;
    }
    Ok(at)
}

/// A legal value, headers now and then wider than needed.
fn push_value(random: &mut Random, bytes: &mut Vec<u8>, depth: usize) {
    let size = random.below(4);
    let wide = random.below(3) == 0;
    let kinds = if depth > 4 { 5 } else { 8 };
    let mut header = |tiny: u8, long: u8| match (wide, tiny) {
        (false, 1..) => bytes.push(tiny + size as u8),
        _ => bytes.extend_from_slice(&[long + 1, 0, size as u8]),
    };
    match random.below(kinds) {
        0 => bytes.push([0xC0, 0xC2, 0xC3, 0x05, 0xF3][random.below(5)]),
        1 => bytes.extend_from_slice(&[0xC9, 0x12, 0x34]),
        2 => bytes.extend_from_slice([[0xE0; 17].as_slice(), &[0xC1; 9]][random.below(2)]),
        3 => {
            header(0x80, 0xD0);
            bytes.resize(bytes.len() + size, b'x');
        }
        4 => {
            header(0, 0xCC);
            bytes.resize(bytes.len() + size, 0xFF);
        }
        kind => {
            header([0x90, 0xA0, 0xB0][kind - 5], [0xD4, 0xD8, 0xDC][kind - 5]);
            if kind == 7 {
                bytes.push(0x4E);
            }
            for _ in 0..size * if kind == 6 { 2 } else { 1 } {
                push_value(random, bytes, depth + 1);
            }
        }
    }
}

/// The skipper's verdict on bytes in pieces, in the twin's words.
fn skip_pieces(pieces: &[&[u8]]) -> Result<usize, PackError> {
    let mut skipper = Skipper::new();
    let mut length = 0;
    for piece in pieces {
        let consumed = skipper.feed(piece)?;
        length += consumed;
        assert!(consumed == piece.len() || skipper.is_done());
    }
    if skipper.is_done() { Ok(length) } else { Err(PackError::Truncated) }
}

#[test]
fn skipper_agrees_with_its_twin_on_random_values() {
    let mut outcomes = [0; 2];
    for seed in 0..3000 {
        let mut random = Random(seed);
        let mut bytes = Vec::new();
        push_value(&mut random, &mut bytes, 0);
        for _ in 0..random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
        bytes.truncate(bytes.len() - random.below(3).min(bytes.len()));
        let expected = twin(&bytes);
        outcomes[usize::from(expected.is_ok())] += 1;
        assert_eq!(skip_pieces(&[&bytes]), expected, "seed {seed}, whole");
        assert_eq!(skip_pieces(&random.cut(&bytes, 5)), expected, "seed {seed}, pieces");
        assert_eq!(skip_pieces(&random.cut(&bytes, 1)), expected, "seed {seed}, bytes");
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.take_raw().map(<[u8]>::len), expected, "seed {seed}, reader");
        assert_eq!(reader.rest().len(), bytes.len() - expected.unwrap_or(0), "seed {seed}");
    }
    assert!(outcomes.iter().all(|count| *count > 300), "both outcomes are tried: {outcomes:?}");
}

#[test]
fn skipper_leaves_what_follows_the_value() {
    let mut skipper = Skipper::of(2);
    assert_eq!(skipper.feed(&[0x01, 0x82, b'a']), Ok(3));
    assert!(!skipper.is_done());
    assert_eq!(skipper.feed(&[b'b', 0x07, 0x08]), Ok(1));
    assert!(skipper.is_done());
    assert_eq!(skipper.feed(&[0x07]), Ok(0));
    assert!(Skipper::of(0).is_done());
}

#[test]
fn nesting_of_a_megabyte_costs_a_counter() {
    let mut bytes = vec![0x91; 1 << 20];
    assert_eq!(skip_pieces(&[&bytes]), Err(PackError::Truncated));
    bytes.push(0x01);
    assert_eq!(skip_pieces(&[&bytes]), Ok(bytes.len()));
    assert_eq!(Reader::new(&bytes).skip(), Ok(()));
    assert!(size_of::<Skipper>() <= 32);
}

#[test]
fn counts_multiply_without_overflow() {
    // Each list declares 2^31 - 1 values and holds the next such list; none of it is allocated.
    let bomb = [0xD6, 0x7F, 0xFF, 0xFF, 0xFF].repeat(1000);
    assert_eq!(skip_pieces(&[&bomb]), Err(PackError::Truncated));
    let mut skipper = Skipper::of(u64::MAX);
    assert_eq!(skipper.feed(&[0x01, 0x9F]), Err(PackError::TooManyValues));
}

#[test]
fn integers_survive_at_every_width() {
    let edges = [
        (0, 1),
        (127, 1),
        (-16, 1),
        (-17, 2),
        (-128, 2),
        (128, 3),
        (-129, 3),
        (32767, 3),
        (-32768, 3),
        (32768, 5),
        (-32769, 5),
        (2147483647, 5),
        (-2147483648, 5),
        (2147483648, 9),
        (-2147483649, 9),
        (i64::MAX, 9),
        (i64::MIN, 9),
    ];
    for (value, length) in edges {
        let mut writer = Writer::new();
        writer.int(value);
        assert_eq!(writer.bytes().len(), length, "{value}");
        let mut reader = Reader::new(writer.bytes());
        assert_eq!(reader.take_integer(), Ok(value));
        assert!(reader.is_at_end());
    }
    for wide in
        [&[0xC8, 5][..], &[0xC9, 0, 5], &[0xCA, 0, 0, 0, 5], &[0xCB, 0, 0, 0, 0, 0, 0, 0, 5]]
    {
        assert_eq!(Reader::new(wide).take_integer(), Ok(5));
    }
}

#[test]
fn strings_and_byte_arrays_survive_at_every_header() {
    for length in [0, 1, 15, 16, 255, 256, 65_535, 65_536] {
        let text = "x".repeat(length);
        let mut writer = Writer::new();
        writer.string(&text).byte_array(text.as_bytes());
        let mut reader = Reader::new(writer.bytes());
        assert_eq!(reader.take_string(), Ok(text.as_str()), "{length}");
        assert_eq!(reader.take_bytes(), Ok(text.as_bytes()), "{length}");
        assert_eq!(reader.finish(), Ok(()));
    }
}

#[test]
fn other_values_survive() {
    let mut writer = Writer::new();
    writer
        .null()
        .bool(true)
        .bool(false)
        .float(1.5)
        .optional_string(None)
        .optional_string(Some("a"));
    writer.list_header(300);
    let list = writer.bytes().len();
    writer.raw(&[0x01; 300]).map_header(16).raw(&[0x80; 32]).struct_header(2, 0x58).int(1).int(2);
    let bytes = writer.into_bytes();
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.take_null(), Ok(true));
    assert_eq!(reader.take_null(), Ok(false));
    assert_eq!(reader.take_bool(), Ok(true));
    assert_eq!(reader.take_bool(), Ok(false));
    assert_eq!(reader.take_float(), Ok(1.5));
    assert_eq!(reader.take_optional_string(), Ok(None));
    assert_eq!(reader.take_optional_string(), Ok(Some("a")));
    assert_eq!(reader.take_list_header(), Ok(300));
    assert_eq!(reader.rest().len(), bytes.len() - list);
    (0..300).for_each(|_| assert_eq!(reader.take_integer(), Ok(1)));
    assert_eq!(reader.take_map_header(), Ok(16));
    (0..32).for_each(|_| assert_eq!(reader.take_key(), Ok("")));
    assert_eq!(reader.take_struct_header(), Ok((2, 0x58)));
    assert_eq!(reader.peek_marker(), Ok(1));
    assert_eq!(reader.finish(), Err(PackError::TrailingBytes));
}

#[test]
fn a_failed_take_leaves_the_reader_where_it_was() {
    let bytes = [0xD0, 0x05, b'a'];
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.take_string(), Err(PackError::Truncated));
    assert!(reader.take_integer().is_err());
    assert!(reader.take_struct_header().is_err());
    assert_eq!(reader.rest(), bytes);
}
