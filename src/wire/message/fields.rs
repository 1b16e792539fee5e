//! The few fields that decide where a request goes and whether a server is free again.
//!
//! RUN and BEGIN may be huge and their extra map lies at the very end, so it is read in passing,
//! piece by piece, in constant memory. Invariant: `captured` is the beginning of the item (the
//! extra map's header, a key or a value) that is being passed over.

use crate::wire::chunk::Head;
use crate::wire::message::tag;
use crate::wire::packstream::{Kind, PackError, Reader, Skipper, shape};

/// Longest item kept whole: the longest key we know, `imp_user` or `has_more`, with the longest
/// header a string can have. Every value we judge is told by fewer bytes.
const CAPTURED_BYTES_MAX: usize = 8 + 5;

/// What was found. Of duplicate keys the last counts, and null is absent (Bolt specification).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// `mode` is `"r"`; absent means write.
    pub is_read: bool,
    /// `has_more` is true: the stream is not finished.
    pub has_more: bool,
    /// `db` names a database; an empty name asks for the home database like an absent one. In
    /// an answer it is the database that the server resolved.
    pub has_database: bool,
    pub has_imp_user: bool,
}

/// Reads the whole payload of a RUN, BEGIN or SUCCESS.
#[inline]
pub fn read_fields(payload: &[u8]) -> Result<Fields, PackError> {
    // Nearly every SUCCESS that is asked about is one of these two.
    match payload {
        b"\xB1\x70\xA0" => return Ok(Fields::default()),
        b"\xB1\x70\xA1\x88has_more\xC3" => {
            return Ok(Fields { has_more: true, ..Fields::default() });
        }
        _ => {}
    }
    if let Some(fields) = read_usual(payload) {
        return Ok(fields);
    }
    let tag = *payload.get(1).ok_or(PackError::Truncated)?;
    let mut scan = FieldScan::new(tag);
    scan.feed(payload)?;
    scan.finish()
}

/// What `FieldScan` finds, in a tenth of its instructions, in messages as drivers and servers send
/// them: short headers, no structures, nothing malformed. `None` for all others.
fn read_usual(payload: &[u8]) -> Option<Fields> {
    let (&[marker, tag], mut rest) = payload.split_first_chunk()?;
    if marker != if tag == tag::RUN { 0xB3 } else { 0xB1 } {
        return None;
    }
    if tag == tag::RUN {
        rest = pass_usual(pass_usual(rest)?)?; // query and parameters
    }
    let (&header, mut rest) = rest.split_first().filter(|(header, _)| *header & 0xF0 == 0xA0)?;
    let mut fields = Fields::default();
    for _ in 0..header & 0x0F {
        let (&header, behind) = rest.split_first().filter(|(header, _)| *header & 0xF0 == 0x80)?;
        let (key, behind) = behind.split_at_checked(usize::from(header & 0x0F))?;
        rest = pass_usual(behind)?;
        let value = &behind[..behind.len() - rest.len()];
        // A string with a longer header than it needs may mean the same as one without.
        let is_plain = value.first().is_some_and(|marker| *marker != 0xD0);
        match key {
            b"mode" if is_plain => fields.is_read = value == b"\x81r",
            b"db" if is_plain => fields.has_database = !matches!(value, [0xC0 | 0x80]),
            b"imp_user" => fields.has_imp_user = value != [0xC0],
            b"has_more" => fields.has_more = value == [0xC3],
            b"mode" | b"db" => return None,
            _ => {}
        }
    }
    rest.is_empty().then_some(fields)
}

/// What is behind one value, if all of that is there and has no more than one-byte sizes.
fn pass_usual(mut rest: &[u8]) -> Option<&[u8]> {
    let mut pending = 1_usize;
    while pending > 0 {
        let (&marker, behind) = rest.split_first()?;
        let low = usize::from(marker & 0x0F);
        let (bytes, values) = match marker {
            0x00..=0x7F | 0xF0..=0xFF | 0xC0 | 0xC2 | 0xC3 => (0, 0),
            0x80..=0x8F => (low, 0),
            0x90..=0x9F => (0, low),
            0xA0..=0xAF => (0, 2 * low),
            0xD0 => (1 + usize::from(*behind.first()?), 0),
            0xC8 => (1, 0),
            0xC9 => (2, 0),
            0xCA => (4, 0),
            0xC1 | 0xCB => (8, 0),
            _ => return None,
        };
        rest = behind.get(bytes..)?;
        pending = pending - 1 + values; // at most 30 for each byte that is there
    }
    Some(rest)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Before the structure's marker.
    Marker,
    Tag,
    /// Passing over the fields before the map.
    Before,
    MapHeader,
    Key,
    Value(Known),
    /// The map has ended; so must the message.
    End,
    /// It could not be read; nothing that follows can be either.
    Broken,
}

/// The keys we judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Mode,
    Database,
    ImpUser,
    HasMore,
    Other,
}

/// Reads `Fields` out of a RUN, BEGIN or SUCCESS that arrives in pieces.
#[derive(Clone, Copy, Debug)]
pub struct FieldScan {
    tag: u8,
    step: Step,
    skipper: Skipper,
    pairs_left: u32,
    captured: [u8; CAPTURED_BYTES_MAX],
    /// Bytes of the present item so far, at most one more than `captured` holds.
    captured_length: u8,
    fields: Fields,
}

impl FieldScan {
    /// For a message with this tag: RUN, BEGIN or SUCCESS. Others are passed over to the end of
    /// their first field, which has to be a map.
    pub fn new(tag: u8) -> FieldScan {
        FieldScan {
            tag,
            step: Step::Marker,
            skipper: Skipper::new(),
            pairs_left: 0,
            captured: [0; CAPTURED_BYTES_MAX],
            captured_length: 0,
            fields: Fields::default(),
        }
    }

    /// Goes on with the next piece of payload; the first begins with the structure's marker.
    pub fn feed(&mut self, payload: &[u8]) -> Result<(), PackError> {
        self.read_on(payload).inspect_err(|_| self.step = Step::Broken)
    }

    fn read_on(&mut self, payload: &[u8]) -> Result<(), PackError> {
        let mut rest = payload;
        while !rest.is_empty() {
            let consumed = match self.step {
                Step::Marker => self.begin(rest[0])?,
                Step::Tag => self.check_tag(rest[0])?,
                Step::MapHeader => self.take_map_header(rest[0])?,
                Step::Before | Step::Key | Step::Value(_) => self.pass(rest)?,
                Step::End | Step::Broken => return Err(PackError::TrailingBytes),
            };
            rest = &rest[consumed..];
        }
        Ok(())
    }

    /// What was found, once all of the payload was fed.
    pub fn finish(&self) -> Result<Fields, PackError> {
        if self.step == Step::End { Ok(self.fields) } else { Err(PackError::Truncated) }
    }

    fn begin(&mut self, marker: u8) -> Result<usize, PackError> {
        let fields = if self.tag == tag::RUN { 3 } else { 1 };
        let head = Head::of([marker, self.tag]);
        if !head.is_struct || head.fields != fields {
            return Err(PackError::Unexpected { expected: "a message with other fields", marker });
        }
        self.step = Step::Tag;
        Ok(1)
    }

    fn check_tag(&mut self, tag: u8) -> Result<usize, PackError> {
        if tag != self.tag {
            return Err(PackError::Unexpected {
                expected: "a message with another tag",
                marker: tag,
            });
        }
        if tag == tag::RUN {
            self.skipper = Skipper::of(2); // query and parameters
            self.step = Step::Before;
        } else {
            self.step = Step::MapHeader;
        }
        Ok(1)
    }

    /// Collects the map's marker and size.
    fn take_map_header(&mut self, byte: u8) -> Result<usize, PackError> {
        self.capture(&[byte]);
        let marker = self.captured[0];
        let shape = shape(marker)?;
        if shape.kind != Kind::Map {
            return Err(PackError::Unexpected { expected: "a map", marker });
        }
        if self.captured_length > shape.width {
            // The pairs are not here yet, so this is not read with `Reader`, which wants them.
            let size = &self.captured[1..usize::from(self.captured_length)];
            let size = size.iter().fold(0, |size, byte| size << 8 | u32::from(*byte));
            let pairs = size | u32::from(shape.size);
            if pairs > crate::wire::limits::PACK_SIZE_MAX {
                return Err(PackError::SizeTooLarge(pairs));
            }
            self.pairs_left = pairs;
            self.next_pair();
        }
        Ok(1)
    }

    /// Passes over the present item, keeps its beginning and judges it when it has ended.
    fn pass(&mut self, rest: &[u8]) -> Result<usize, PackError> {
        let consumed = self.skipper.feed(rest)?;
        if self.step != Step::Before {
            self.capture(&rest[..consumed]);
        }
        if !self.skipper.is_done() {
            return Ok(consumed);
        }
        match self.step {
            Step::Key => {
                self.step = Step::Value(self.known_key()?);
                self.next_item();
            }
            Step::Value(key) => {
                self.judge(key);
                self.next_pair();
            }
            _ => self.step = Step::MapHeader,
        }
        Ok(consumed)
    }

    fn next_pair(&mut self) {
        match self.pairs_left.checked_sub(1) {
            Some(left) => {
                self.pairs_left = left;
                self.step = Step::Key;
                self.next_item();
            }
            None => self.step = Step::End,
        }
    }

    fn next_item(&mut self) {
        self.skipper = Skipper::new();
        self.captured_length = 0;
    }

    fn capture(&mut self, bytes: &[u8]) {
        let from = usize::from(self.captured_length).min(CAPTURED_BYTES_MAX);
        let kept = bytes.len().min(CAPTURED_BYTES_MAX - from);
        self.captured[from..from + kept].copy_from_slice(&bytes[..kept]);
        let is_cut = kept < bytes.len();
        self.captured_length = self.captured_length.max((from + kept + usize::from(is_cut)) as u8);
    }

    fn item(&self) -> &[u8] {
        &self.captured[..usize::from(self.captured_length).min(CAPTURED_BYTES_MAX)]
    }

    fn known_key(&self) -> Result<Known, PackError> {
        let marker = self.captured[0];
        if shape(marker)?.kind != Kind::String {
            return Err(PackError::KeyNotString(marker));
        }
        // A key that does not fit is longer than any we know, and reads as truncated.
        Ok(match Reader::new(self.item()).take_string() {
            Ok("mode") => Known::Mode,
            Ok("db") => Known::Database,
            Ok("imp_user") => Known::ImpUser,
            Ok("has_more") => Known::HasMore,
            _ => Known::Other,
        })
    }

    fn judge(&mut self, key: Known) {
        let mut value = Reader::new(self.item());
        let is_null = value.take_null() == Ok(true);
        match key {
            Known::Mode => self.fields.is_read = value.take_string() == Ok("r"),
            Known::Database => {
                self.fields.has_database = !is_null && value.take_string() != Ok("");
            }
            Known::ImpUser => self.fields.has_imp_user = !is_null,
            Known::HasMore => self.fields.has_more = value.take_bool() == Ok(true),
            Known::Other => {}
        }
    }
}
