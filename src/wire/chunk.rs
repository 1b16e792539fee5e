//! Chunking: finds messages and no-op chunks in bytes cut anywhere.
//!
//! A message is chunks of a two-byte length and that many bytes, ended by `00 00`; the same `00 00`
//! outside a message is a no-op (Bolt specification, chunking). Owns no bytes: a `Scanner` is a few
//! counters, so a message of any size costs the same.
//!
//! Invariant: between messages no byte has been consumed that a `Span` has not told of; half a
//! chunk length is held back only inside a message.

use crate::wire::limits::CHUNK_PAYLOAD_MAX;

/// A no-op chunk, as sent to keep a waiting peer patient.
pub const NOOP: [u8; 2] = [0, 0];

/// What a run of bytes belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Noop,
    /// A message or a part of one: whether its first and its last byte are among these bytes.
    Message {
        starts: bool,
        ends: bool,
    },
}

/// One message, or as much of it as was there, or one no-op chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Bytes of the input covered, chunk lengths and end marker included; never zero.
    pub length: usize,
    pub kind: Kind,
}

/// The first two payload bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of fields, where it is a structure.
    pub fields: u8,
    pub tag: u8,
    /// The first byte is a structure's marker, `B0` to `BF`; a message is nothing else.
    pub is_struct: bool,
}

impl Head {
    pub fn of(first: [u8; 2]) -> Head {
        Head { fields: first[0] & 0x0F, tag: first[1], is_struct: first[0] & 0xF0 == 0xB0 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Between,
    /// Inside a message, before a chunk's length.
    Length,
    /// Inside a message, after the first byte of a chunk's length.
    HalfLength,
    /// Inside a chunk; `chunk_left` is not zero.
    Chunk,
}

/// Where in the stream of chunks a connection's reading side is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    payload_length: u64,
    chunk_left: u16,
    first: [u8; 2],
    length_high: u8,
    phase: Phase,
}

impl Scanner {
    /// The next span at the start of `input`, to the end of the message or of the input, whatever
    /// comes first. `None`: nothing can be said yet, since the input is empty, or between messages
    /// and of one byte; present that byte again with more.
    #[inline]
    pub fn next(&mut self, input: &[u8]) -> Option<Span> {
        self.next_with(input, |_| {})
    }

    /// As `next`; also shows every piece of payload in the span, in order, none of them empty.
    #[inline]
    pub fn next_with(
        &mut self,
        input: &[u8],
        mut each_payload_piece: impl FnMut(&[u8]),
    ) -> Option<Span> {
        if self.phase != Phase::Between {
            return self.resume(input, each_payload_piece);
        }
        let [high, low, rest @ ..] = input else { return None };
        let length = u16::from_be_bytes([*high, *low]);
        let size = usize::from(length);
        if size == 0 {
            return Some(Span { length: 2, kind: Kind::Noop });
        }
        // Nearly every message is one chunk that has arrived whole.
        if let Some((payload, [0, 0, ..])) = rest.split_at_checked(size)
            && let [first, second, ..] = payload
        {
            self.payload_length = u64::from(length);
            self.first = [*first, *second];
            each_payload_piece(payload);
            return Some(Span {
                length: size + 4,
                kind: Kind::Message { starts: true, ends: true },
            });
        }
        self.payload_length = 0;
        self.chunk_left = length;
        self.phase = Phase::Chunk;
        let (length, ends) = self.walk(rest, &mut each_payload_piece);
        Some(Span { length: length + 2, kind: Kind::Message { starts: true, ends } })
    }

    /// First bytes of the message in progress or just ended; `None` until two of them were seen.
    #[inline]
    pub fn head(&self) -> Option<Head> {
        (self.payload_length >= 2).then(|| Head::of(self.first))
    }

    /// Payload bytes of that message seen so far.
    #[inline]
    pub fn payload_length(&self) -> u64 {
        self.payload_length
    }

    #[inline]
    pub fn is_between_messages(&self) -> bool {
        self.phase == Phase::Between
    }

    fn resume(&mut self, input: &[u8], mut each: impl FnMut(&[u8])) -> Option<Span> {
        if input.is_empty() {
            return None;
        }
        let (length, ends) = self.walk(input, &mut each);
        Some(Span { length, kind: Kind::Message { starts: false, ends } })
    }

    /// Goes on inside a message: bytes covered, and whether its end is the last of them.
    fn walk(&mut self, input: &[u8], each: &mut impl FnMut(&[u8])) -> (usize, bool) {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let length = match self.phase {
                Phase::Chunk => {
                    at += self.consume_chunk(rest, each);
                    if self.chunk_left > 0 {
                        return (at, false);
                    }
                    self.phase = Phase::Length;
                    continue;
                }
                Phase::Length => match rest {
                    [high, low, ..] => {
                        at += 2;
                        [*high, *low]
                    }
                    [high] => {
                        self.length_high = *high;
                        self.phase = Phase::HalfLength;
                        return (at + 1, false);
                    }
                    [] => return (at, false),
                },
                Phase::HalfLength => match rest {
                    [low, ..] => {
                        at += 1;
                        [self.length_high, *low]
                    }
                    [] => return (at, false),
                },
                Phase::Between => return (at, true),
            };
            self.chunk_left = u16::from_be_bytes(length);
            self.phase = if self.chunk_left == 0 { Phase::Between } else { Phase::Chunk };
        }
    }

    fn consume_chunk(&mut self, rest: &[u8], each: &mut impl FnMut(&[u8])) -> usize {
        let size = rest.len().min(usize::from(self.chunk_left));
        let piece = &rest[..size];
        if size == 0 {
            return 0;
        }
        if self.payload_length < 2 {
            let seen = self.payload_length as usize;
            for (slot, byte) in self.first[seen..].iter_mut().zip(piece) {
                *slot = *byte;
            }
        }
        self.payload_length += size as u64;
        self.chunk_left -= size as u16;
        each(piece);
        size
    }
}

/// Payload of one complete chunked message that lies contiguous: borrowed when it is one chunk,
/// else joined into `scratch`.
pub fn payload<'a>(message: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    if let [high, low, rest @ ..] = message {
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        if rest.len() == size + 2 {
            return &rest[..size];
        }
    }
    scratch.clear();
    Scanner::default().next_with(message, |piece| scratch.extend_from_slice(piece));
    scratch
}

/// Wraps a payload into chunks and the end marker. An empty payload, which no message has, would
/// be a no-op.
pub fn chunked(payload: &[u8]) -> Vec<u8> {
    let chunks = payload.len().div_ceil(CHUNK_PAYLOAD_MAX);
    let mut message = Vec::with_capacity(payload.len() + 2 * chunks + 2);
    for piece in payload.chunks(CHUNK_PAYLOAD_MAX) {
        message.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        message.extend_from_slice(piece);
    }
    message.extend_from_slice(&NOOP);
    message
}
