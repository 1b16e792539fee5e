//! The synthetic server's own small codec: framing of requests, a reader of values, writers of
//! answers.
//!
//! It is deliberately not the proxy's: a mistake in one of the two shows as a disagreement instead
//! of being made on both sides. Owns no state besides positions. A declared length or count sizes
//! no allocation, and nothing here recurses.

use bytes::BytesMut;

/// The largest chunk ("Bolt specification, chunking": the header is an unsigned 16-bit length).
const CHUNK_MAX: usize = 65_535;
/// Bytes of a chunk header, and of the end marker.
const MARK: usize = 2;

/// What lies at the start of some received bytes.
pub enum Frame {
    /// The message or no-op is not all there.
    Partial,
    /// Two zero bytes between messages.
    Noop,
    /// A message in one chunk: its payload is `2..2 + length`, the whole frame `4 + length` bytes.
    Single { length: usize },
    /// A message in several chunks, `wire` bytes with all headers.
    Several { wire: usize },
}

/// Looks at the first message of `input`, which must start between messages.
pub fn frame(input: &[u8]) -> Frame {
    let mut position = 0;
    let mut chunks = 0;
    loop {
        let Some(header) = input.get(position..position + MARK) else { return Frame::Partial };
        let length = usize::from(u16::from_be_bytes([header[0], header[1]]));
        if length == 0 {
            return match chunks {
                0 => Frame::Noop,
                1 => Frame::Single { length: position - MARK },
                _ => Frame::Several { wire: position + MARK },
            };
        }
        position += MARK + length;
        chunks += 1;
    }
}

/// Joins the payload of a message of several chunks into `payload`.
pub fn join(mut message: &[u8], payload: &mut Vec<u8>) {
    payload.clear();
    while let Some((header, rest)) = message.split_at_checked(MARK) {
        let length = usize::from(u16::from_be_bytes([header[0], header[1]]));
        let (chunk, rest) = rest.split_at(length.min(rest.len()));
        payload.extend_from_slice(chunk);
        message = rest;
    }
}

/// Why a value could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The message ended inside a value.
    Truncated,
    /// A marker that PackStream reserves.
    Reserved(u8),
    /// A value of another type was expected.
    Type,
}

/// A cursor over one payload.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(payload: &'a [u8]) -> Reader<'a> {
        Reader { rest: payload }
    }

    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes a null if one is next.
    pub fn is_null(&mut self) -> bool {
        let is_null = self.rest.first() == Some(&0xC0);
        self.rest = &self.rest[usize::from(is_null)..];
        is_null
    }

    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = match self.byte()? {
            marker @ 0x80..=0x8F => usize::from(marker & 15),
            marker @ 0xD0..=0xD2 => self.size(marker - 0xD0)?,
            marker => return Err(wrong(marker)),
        };
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed::Type)
    }

    pub fn integer(&mut self) -> Result<i64, Malformed> {
        match self.byte()? {
            marker @ (0x00..=0x7F | 0xF0..=0xFF) => Ok(i64::from(marker as i8)),
            marker @ 0xC8..=0xCB => {
                let bytes = self.take(1 << (marker - 0xC8))?;
                let is_negative = bytes[0] & 0x80 != 0;
                let start = if is_negative { -1 } else { 0 };
                Ok(bytes.iter().fold(start, |value, byte| value << 8 | i64::from(*byte)))
            }
            marker => Err(wrong(marker)),
        }
    }

    /// The number of pairs that follow.
    pub fn map(&mut self) -> Result<usize, Malformed> {
        match self.byte()? {
            marker @ 0xA0..=0xAF => Ok(usize::from(marker & 15)),
            marker @ 0xD8..=0xDA => self.size(marker - 0xD8),
            marker => Err(wrong(marker)),
        }
    }

    /// The number of items that follow.
    pub fn list(&mut self) -> Result<usize, Malformed> {
        match self.byte()? {
            marker @ 0x90..=0x9F => Ok(usize::from(marker & 15)),
            marker @ 0xD4..=0xD6 => self.size(marker - 0xD4),
            marker => Err(wrong(marker)),
        }
    }

    /// Whether a map is next; for a value that may be null or of a wrong type.
    pub fn is_map(&self) -> bool {
        matches!(self.rest.first(), Some(0xA0..=0xAF | 0xD8..=0xDA))
    }

    /// The bytes of the next value, whatever it is.
    pub fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let start = self.rest;
        let mut pending = 1u64;
        while pending > 0 {
            pending = pending - 1 + self.skip_one()?;
            // Each value has a byte: a larger count than that cannot be true.
            if pending > self.rest.len() as u64 {
                return Err(Malformed::Truncated);
            }
        }
        Ok(&start[..start.len() - self.rest.len()])
    }

    /// Skips one marker with its bytes; returns how many values belong to it.
    fn skip_one(&mut self) -> Result<u64, Malformed> {
        let marker = self.byte()?;
        let (skip, values) = match marker {
            0x00..=0x7F | 0xF0..=0xFF | 0xC0 | 0xC2 | 0xC3 => (0, 0),
            0x80..=0x8F => (usize::from(marker & 15), 0),
            0x90..=0x9F => (0, u64::from(marker & 15)),
            0xA0..=0xAF => (0, 2 * u64::from(marker & 15)),
            0xB0..=0xBF => (1, u64::from(marker & 15)),
            0xC1 => (8, 0),
            0xC8..=0xCB => (1 << (marker - 0xC8), 0),
            0xCC..=0xCE => (self.size(marker - 0xCC)?, 0),
            0xD0..=0xD2 => (self.size(marker - 0xD0)?, 0),
            0xD4..=0xD6 => (0, self.size(marker - 0xD4)? as u64),
            0xD8..=0xDA => (0, 2 * self.size(marker - 0xD8)? as u64),
            0xE0 => (16, 0),
            _ => return Err(Malformed::Reserved(marker)),
        };
        self.take(skip)?;
        Ok(values)
    }

    /// A size of 1, 2 or 4 bytes.
    fn size(&mut self, power: u8) -> Result<usize, Malformed> {
        let bytes = self.take(1 << power)?;
        Ok(bytes.iter().fold(0, |size, byte| size << 8 | usize::from(*byte)))
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

fn wrong(marker: u8) -> Malformed {
    match marker {
        0xC4..=0xC7 | 0xCF | 0xD3 | 0xD7 | 0xDB..=0xDF | 0xE1..=0xEF => Malformed::Reserved(marker),
        _ => Malformed::Type,
    }
}

/// Opens a message in `out`; returns where, for [`end`].
pub fn begin(out: &mut BytesMut, fields: u8, tag: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0xB0 | fields, tag]);
    start
}

/// Writes the chunk header and the end marker of the message opened at `start`.
pub fn end(out: &mut BytesMut, start: usize) {
    let length = out.len() - start - MARK;
    if length <= CHUNK_MAX {
        out[start..start + MARK].copy_from_slice(&(length as u16).to_be_bytes());
    } else {
        let payload = out.split_off(start + MARK);
        out.truncate(start);
        for chunk in payload.chunks(CHUNK_MAX) {
            out.extend_from_slice(&(chunk.len() as u16).to_be_bytes());
            out.extend_from_slice(chunk);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

pub fn put_string(out: &mut BytesMut, text: &str) {
    put_string_header(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// The marker and length of a string whose bytes the caller writes.
pub fn put_string_header(out: &mut BytesMut, length: usize) {
    match length {
        0..=15 => out.extend_from_slice(&[0x80 | length as u8]),
        16..=255 => out.extend_from_slice(&[0xD0, length as u8]),
        256..=65_535 => {
            let [high, low] = (length as u16).to_be_bytes();
            out.extend_from_slice(&[0xD1, high, low]);
        }
        _ => {
            out.extend_from_slice(&[0xD2]);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

pub fn put_integer(out: &mut BytesMut, value: i64) {
    if let (-16..=127, Ok(tiny)) = (value, i8::try_from(value)) {
        out.extend_from_slice(&[tiny as u8]);
    } else if let Ok(value) = i8::try_from(value) {
        out.extend_from_slice(&[0xC8, value as u8]);
    } else if let Ok(value) = i16::try_from(value) {
        out.extend_from_slice(&[0xC9]);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Ok(value) = i32::try_from(value) {
        out.extend_from_slice(&[0xCA]);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.extend_from_slice(&[0xCB]);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub fn put_boolean(out: &mut BytesMut, value: bool) {
    out.extend_from_slice(&[0xC2 | u8::from(value)]);
}

/// Maps and lists here are small: their counts are known when this is compiled, or are bounded.
pub fn put_map(out: &mut BytesMut, pairs: usize) {
    put_count(out, 0xA0, 0xD8, pairs);
}

pub fn put_list(out: &mut BytesMut, items: usize) {
    put_count(out, 0x90, 0xD4, items);
}

fn put_count(out: &mut BytesMut, tiny: u8, first: u8, count: usize) {
    match count {
        0..=15 => out.extend_from_slice(&[tiny | count as u8]),
        16..=255 => out.extend_from_slice(&[first, count as u8]),
        256..=65_535 => {
            let [high, low] = (count as u16).to_be_bytes();
            out.extend_from_slice(&[first + 1, high, low]);
        }
        _ => {
            out.extend_from_slice(&[first + 2]);
            out.extend_from_slice(&(count as u32).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload_length: usize) -> Vec<u8> {
        let mut out = BytesMut::new();
        let start = begin(&mut out, 1, 0x70);
        out.resize(start + MARK + payload_length, 7);
        end(&mut out, start);
        out.to_vec()
    }

    #[test]
    fn what_is_written_is_framed_again() {
        let whole = message(300);
        assert!(matches!(frame(&whole), Frame::Single { length: 300 }));
        for cut in 0..whole.len() {
            assert!(matches!(frame(&whole[..cut]), Frame::Partial), "cut at {cut}");
        }
        let large = message(200_000);
        let Frame::Several { wire } = frame(&large) else { panic!("one chunk cannot hold it") };
        assert_eq!(wire, large.len());
        let mut payload = Vec::new();
        join(&large, &mut payload);
        assert_eq!(payload.len(), 200_000);
        assert!(matches!(frame(&[0, 0, 0]), Frame::Noop));
    }

    #[test]
    fn integers_survive_in_every_width() {
        for value in [0, -16, -17, 127, 128, -128, -129, 32_767, 32_768, 1 << 31, i64::MIN] {
            let mut out = BytesMut::new();
            put_integer(&mut out, value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.integer(), Ok(value));
            assert!(reader.is_at_end());
        }
    }

    #[test]
    fn a_count_bomb_and_a_reserved_marker_are_refused() {
        let bomb = [0xD6, 0x7F, 0xFF, 0xFF, 0xFF, 0x91];
        assert_eq!(Reader::new(&bomb).value(), Err(Malformed::Truncated));
        assert_eq!(Reader::new(&[0x91, 0xC4]).value(), Err(Malformed::Reserved(0xC4)));
        let nested = vec![0x91; 100_000];
        assert_eq!(Reader::new(&nested).value(), Err(Malformed::Truncated));
    }
}
