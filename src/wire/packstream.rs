//! PackStream: a cursor that reads values, a skipper that passes over them, a writer.
//!
//! Owns the encoding of values, not their meaning. Nothing is allocated by a size that a peer
//! declares, and nothing recurses: depth costs a counter. `Reader` works on a whole value that is
//! in memory, `Skipper` on pieces of any size.

pub use crate::wire::error::PackError;
use crate::wire::limits::PACK_SIZE_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Scalar,
    Bytes,
    String,
    List,
    Map,
    Struct,
}

/// What a marker says: the kind, and either the size itself or how many bytes hold it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub kind: Kind,
    /// Bytes after the marker that hold the size; 0 where `size` is it.
    pub width: u8,
    /// Bytes of a scalar, string or byte array; entries of a list, map or structure.
    pub size: u8,
}

pub(crate) const fn shape(marker: u8) -> Result<Shape, PackError> {
    let (kind, width, size) = match marker {
        0x00..=0x7F | 0xF0..=0xFF | 0xC0 | 0xC2 | 0xC3 => (Kind::Scalar, 0, 0),
        0x80..=0x8F => (Kind::String, 0, marker & 0x0F),
        0x90..=0x9F => (Kind::List, 0, marker & 0x0F),
        0xA0..=0xAF => (Kind::Map, 0, marker & 0x0F),
        0xB0..=0xBF => (Kind::Struct, 0, marker & 0x0F),
        0xC8 => (Kind::Scalar, 0, 1),
        0xC9 => (Kind::Scalar, 0, 2),
        0xCA => (Kind::Scalar, 0, 4),
        0xC1 | 0xCB => (Kind::Scalar, 0, 8),
        // A UUID, legal from PackStream 2 on; where it is not, the server will judge it.
        0xE0 => (Kind::Scalar, 0, 16),
        0xCC => (Kind::Bytes, 1, 0),
        0xCD => (Kind::Bytes, 2, 0),
        0xCE => (Kind::Bytes, 4, 0),
        0xD0 => (Kind::String, 1, 0),
        0xD1 => (Kind::String, 2, 0),
        0xD2 => (Kind::String, 4, 0),
        0xD4 => (Kind::List, 1, 0),
        0xD5 => (Kind::List, 2, 0),
        0xD6 => (Kind::List, 4, 0),
        0xD8 => (Kind::Map, 1, 0),
        0xD9 => (Kind::Map, 2, 0),
        0xDA => (Kind::Map, 4, 0),
        0xDC => (Kind::Struct, 1, 0),
        0xDD => (Kind::Struct, 2, 0),
        _ => return Err(PackError::ReservedMarker(marker)),
    };
    Ok(Shape { kind, width, size })
}

const NULL: u8 = 0xC0;
const FLOAT_64: u8 = 0xC1;
const FALSE: u8 = 0xC2;
const TRUE: u8 = 0xC3;
const INT_8: u8 = 0xC8;
const INT_16: u8 = 0xC9;
const INT_32: u8 = 0xCA;
const INT_64: u8 = 0xCB;

/// A cursor over borrowed bytes. A call that fails leaves it where it was.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// An error where bytes are left.
    pub fn finish(self) -> Result<(), PackError> {
        if self.is_at_end() { Ok(()) } else { Err(PackError::TrailingBytes) }
    }

    /// The marker of the next value, which stays unread.
    pub fn peek_marker(&self) -> Result<u8, PackError> {
        self.rest.first().copied().ok_or(PackError::Truncated)
    }

    /// Reads a null if the next value is one; tells whether it was.
    pub fn take_null(&mut self) -> Result<bool, PackError> {
        let is_null = self.peek_marker()? == NULL;
        if is_null {
            self.rest = &self.rest[1..];
        }
        Ok(is_null)
    }

    pub fn take_bool(&mut self) -> Result<bool, PackError> {
        let value = match self.peek_marker()? {
            FALSE => false,
            TRUE => true,
            marker => return Err(PackError::Unexpected { expected: "a boolean", marker }),
        };
        self.rest = &self.rest[1..];
        Ok(value)
    }

    /// An integer of any width; non-minimal ones are legal.
    pub fn take_integer(&mut self) -> Result<i64, PackError> {
        let marker = self.peek_marker()?;
        let body = &self.rest[1..];
        let (value, width) = match marker {
            0x00..=0x7F | 0xF0..=0xFF => (i64::from(marker as i8), 0),
            INT_8 => (i64::from(i8::from_be_bytes(array(body)?)), 1),
            INT_16 => (i64::from(i16::from_be_bytes(array(body)?)), 2),
            INT_32 => (i64::from(i32::from_be_bytes(array(body)?)), 4),
            INT_64 => (i64::from_be_bytes(array(body)?), 8),
            _ => return Err(PackError::Unexpected { expected: "an integer", marker }),
        };
        self.rest = &body[width..];
        Ok(value)
    }

    pub fn take_float(&mut self) -> Result<f64, PackError> {
        let marker = self.peek_marker()?;
        if marker != FLOAT_64 {
            return Err(PackError::Unexpected { expected: "a float", marker });
        }
        let value = f64::from_be_bytes(array(&self.rest[1..])?);
        self.rest = &self.rest[9..];
        Ok(value)
    }

    pub fn take_string(&mut self) -> Result<&'a str, PackError> {
        let mut next = *self;
        let bytes = next.take_sized(Kind::String, "a string")?;
        let text = std::str::from_utf8(bytes).map_err(|_| PackError::NotUtf8)?;
        *self = next;
        Ok(text)
    }

    /// A string, or `None` for null.
    pub fn take_optional_string(&mut self) -> Result<Option<&'a str>, PackError> {
        if self.take_null()? { Ok(None) } else { self.take_string().map(Some) }
    }

    pub fn take_bytes(&mut self) -> Result<&'a [u8], PackError> {
        self.take_sized(Kind::Bytes, "a byte array")
    }

    /// A map's key; `KeyNotString` where it is none.
    pub fn take_key(&mut self) -> Result<&'a str, PackError> {
        self.take_string().map_err(|error| match error {
            PackError::Unexpected { marker, .. } => PackError::KeyNotString(marker),
            other => other,
        })
    }

    /// Number of items that follow. It is never more than the bytes left could hold.
    pub fn take_list_header(&mut self) -> Result<usize, PackError> {
        self.take_count(Kind::List, "a list", 1)
    }

    /// Number of pairs that follow. It is never more than the bytes left could hold.
    pub fn take_map_header(&mut self) -> Result<usize, PackError> {
        self.take_count(Kind::Map, "a map", 2)
    }

    /// Number of fields that follow, and the tag.
    pub fn take_struct_header(&mut self) -> Result<(usize, u8), PackError> {
        let mut next = *self;
        let count = next.take_count(Kind::Struct, "a structure", 1)?;
        let (tag, rest) = next.rest.split_first().ok_or(PackError::Truncated)?;
        if count > rest.len() {
            return Err(PackError::Truncated);
        }
        self.rest = rest;
        Ok((count, *tag))
    }

    /// Passes over one value of any type.
    pub fn skip(&mut self) -> Result<(), PackError> {
        self.take_raw().map(|_| ())
    }

    /// The bytes of one value of any type.
    pub fn take_raw(&mut self) -> Result<&'a [u8], PackError> {
        let mut skipper = Skipper::new();
        let length = skipper.feed(self.rest)?;
        if !skipper.is_done() {
            return Err(PackError::Truncated);
        }
        let (value, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(value)
    }

    fn take_sized(&mut self, kind: Kind, expected: &'static str) -> Result<&'a [u8], PackError> {
        let (size, rest) = self.header(kind, expected)?;
        let (value, rest) = rest.split_at_checked(size).ok_or(PackError::Truncated)?;
        self.rest = rest;
        Ok(value)
    }

    /// A count of entries, each of which takes `entry_bytes_min` of the bytes left.
    fn take_count(
        &mut self,
        kind: Kind,
        expected: &'static str,
        entry_bytes_min: usize,
    ) -> Result<usize, PackError> {
        let (count, rest) = self.header(kind, expected)?;
        if count > rest.len() / entry_bytes_min {
            return Err(PackError::Truncated);
        }
        self.rest = rest;
        Ok(count)
    }

    fn header(&self, kind: Kind, expected: &'static str) -> Result<(usize, &'a [u8]), PackError> {
        let marker = self.peek_marker()?;
        let shape = shape(marker)?;
        if shape.kind != kind {
            return Err(PackError::Unexpected { expected, marker });
        }
        let body = &self.rest[1..];
        let size = match shape.width {
            0 => u32::from(shape.size),
            1 => u32::from(array::<1>(body)?[0]),
            2 => u32::from(u16::from_be_bytes(array(body)?)),
            _ => u32::from_be_bytes(array(body)?),
        };
        if size > PACK_SIZE_MAX {
            return Err(PackError::SizeTooLarge(size));
        }
        Ok((size as usize, &body[usize::from(shape.width)..]))
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], PackError> {
    bytes.first_chunk().copied().ok_or(PackError::Truncated)
}

/// Passes over values that arrive in pieces, in constant memory: a counter of the values still to
/// come stands for the nesting.
#[derive(Clone, Copy, Debug)]
pub struct Skipper {
    /// Values still to begin.
    pending: u64,
    /// Bytes of the present value still to pass.
    skip_left: u64,
    /// Bytes of the present header still to read, and what the earlier ones said.
    size_left: u8,
    size: u32,
    kind: Kind,
}

impl Skipper {
    /// For one value.
    pub fn new() -> Skipper {
        Skipper::of(1)
    }

    /// For so many values in a row.
    pub fn of(values: u64) -> Skipper {
        Skipper { pending: values, skip_left: 0, size_left: 0, size: 0, kind: Kind::Scalar }
    }

    /// Every value has ended.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.pending == 0 && self.skip_left == 0 && self.size_left == 0
    }

    /// Goes on with the next bytes; how many of them still belong to the values. Fewer than given
    /// only where the values have ended.
    pub fn feed(&mut self, input: &[u8]) -> Result<usize, PackError> {
        let mut at = 0;
        while at < input.len() {
            if self.skip_left > 0 {
                let left = input.len() - at;
                let passed = usize::try_from(self.skip_left).map_or(left, |size| size.min(left));
                self.skip_left -= passed as u64;
                at += passed;
            } else if self.size_left > 0 {
                self.size = self.size << 8 | u32::from(input[at]);
                self.size_left -= 1;
                at += 1;
                if self.size_left == 0 {
                    self.begin(self.kind, self.size)?;
                }
            } else if self.pending > 0 {
                let shape = shape(input[at])?;
                self.pending -= 1;
                at += 1;
                if shape.width == 0 {
                    self.begin(shape.kind, u32::from(shape.size))?;
                } else {
                    (self.kind, self.size, self.size_left) = (shape.kind, 0, shape.width);
                }
            } else {
                break;
            }
        }
        Ok(at)
    }

    /// A header is complete: its value takes bytes, or further values.
    #[inline]
    fn begin(&mut self, kind: Kind, size: u32) -> Result<(), PackError> {
        if size > PACK_SIZE_MAX {
            return Err(PackError::SizeTooLarge(size));
        }
        let values = match kind {
            Kind::Scalar | Kind::Bytes | Kind::String => {
                self.skip_left = u64::from(size);
                return Ok(());
            }
            Kind::List => u64::from(size),
            Kind::Map => 2 * u64::from(size),
            Kind::Struct => {
                self.skip_left = 1; // the tag
                u64::from(size)
            }
        };
        self.pending = self.pending.checked_add(values).ok_or(PackError::TooManyValues)?;
        Ok(())
    }
}

impl Default for Skipper {
    fn default() -> Skipper {
        Skipper::new()
    }
}

/// Writes values, each in its shortest form, into one growing buffer.
#[derive(Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    /// With room for so many bytes: a writer that never outgrows it leaves no copy of a secret.
    pub fn with_capacity(bytes: usize) -> Writer {
        Writer { bytes: Vec::with_capacity(bytes) }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// What was written, as one chunked message.
    pub fn into_message(self) -> Vec<u8> {
        crate::wire::chunk::chunked(&self.bytes)
    }

    pub fn null(&mut self) -> &mut Writer {
        self.raw(&[NULL])
    }

    pub fn bool(&mut self, value: bool) -> &mut Writer {
        self.raw(&[if value { TRUE } else { FALSE }])
    }

    pub fn int(&mut self, value: i64) -> &mut Writer {
        if (-16..=127).contains(&value) {
            self.raw(&[value as u8])
        } else if let Ok(value) = i8::try_from(value) {
            self.raw(&[INT_8]).raw(&value.to_be_bytes())
        } else if let Ok(value) = i16::try_from(value) {
            self.raw(&[INT_16]).raw(&value.to_be_bytes())
        } else if let Ok(value) = i32::try_from(value) {
            self.raw(&[INT_32]).raw(&value.to_be_bytes())
        } else {
            self.raw(&[INT_64]).raw(&value.to_be_bytes())
        }
    }

    pub fn float(&mut self, value: f64) -> &mut Writer {
        self.raw(&[FLOAT_64]).raw(&value.to_be_bytes())
    }

    pub fn string(&mut self, text: &str) -> &mut Writer {
        self.header(Some(0x80), 0xD0, text.len()).raw(text.as_bytes())
    }

    /// A string, or null for `None`.
    pub fn optional_string(&mut self, text: Option<&str>) -> &mut Writer {
        match text {
            Some(text) => self.string(text),
            None => self.null(),
        }
    }

    pub fn byte_array(&mut self, bytes: &[u8]) -> &mut Writer {
        self.header(None, 0xCC, bytes.len()).raw(bytes)
    }

    /// So many items are to follow.
    pub fn list_header(&mut self, count: usize) -> &mut Writer {
        self.header(Some(0x90), 0xD4, count)
    }

    /// So many pairs are to follow.
    pub fn map_header(&mut self, count: usize) -> &mut Writer {
        self.header(Some(0xA0), 0xD8, count)
    }

    /// So many fields, at most 15, are to follow.
    pub fn struct_header(&mut self, fields: u8, tag: u8) -> &mut Writer {
        debug_assert!(fields <= 15, "no message or value has more fields");
        self.raw(&[0xB0 | (fields & 0x0F), tag])
    }

    /// Bytes that are PackStream already.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Writer {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// `base` is the marker with a size of one byte; those of two and four bytes follow it.
    fn header(&mut self, tiny: Option<u8>, base: u8, size: usize) -> &mut Writer {
        match (tiny, size) {
            (Some(tiny), 0..=15) => self.raw(&[tiny | size as u8]),
            (_, 0..=0xFF) => self.raw(&[base, size as u8]),
            (_, 0x100..=0xFFFF) => self.raw(&[base + 1]).raw(&(size as u16).to_be_bytes()),
            _ => {
                let size = u32::try_from(size).expect("no value we write comes near 4 GiB");
                self.raw(&[base + 2]).raw(&size.to_be_bytes())
            }
        }
    }
}
