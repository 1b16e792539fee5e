//! Frames of RFC 6455 as bytes. Pure: no socket, clock or buffer of its own.
//!
//! Owns: where a stream is within a frame and a message, and the rules that a frame must keep. Does
//! not own: the sockets, the upgrade, when something is sent. Borders of frames mean nothing to
//! Bolt: payloads are one stream of bytes, handed on as they come.
//!
//! ```text
//!  Header ─complete─► Data ─────all of it─┐      a control frame may stand between two fragments
//!     ▲      └──────► Control ─all of it──┤      of a message, never inside a frame
//!     └───────────────────────────────────┘
//!  any of them ─Close, or a rule broken─► Ended: nothing is read any more
//! ```
//!
//! Invariant: what comes out does not depend on how the bytes were cut.

use std::ops::Range;

/// Longest frame, and longest message of several fragments, that is taken: as Neo4j has it.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Longest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Two bytes, eight of an extended length, four of a mask (RFC 6455, 5.2).
const HEADER_BYTES_MAX: usize = 14;

const FINAL: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASKED: u8 = 0x80;
/// In place of a length: two or eight bytes with the length follow.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// Why a connection is ended (RFC 6455, 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    Normal = 1000,
    GoingAway = 1001,
    Protocol = 1002,
    Unsupported = 1003,
    Policy = 1008,
    TooBig = 1009,
    TryAgainLater = 1013,
}

/// The rule that a peer has broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    ReservedBits,
    UnknownOpcode,
    /// Bolt is binary.
    Text,
    FragmentedControl,
    LongControl,
    NothingToContinue,
    MessageUnfinished,
    /// From a client; a server must not mask.
    Mask,
    LengthNotMinimal,
    TooLong,
    /// A Close whose code may not be sent, or whose reason is no UTF-8.
    Close,
}

impl Fault {
    /// What the peer is told.
    pub fn code(self) -> CloseCode {
        match self {
            Fault::Text => CloseCode::Unsupported,
            Fault::TooLong => CloseCode::TooBig,
            _ => CloseCode::Protocol,
        }
    }
}

/// What a control frame asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// To be answered by a Pong with the same payload.
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// To be answered by a Close with the same code; nothing follows.
    Close(Option<u16>),
}

/// What a slice of the stream held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Where its payload lies now, unmasked and in one piece.
    pub payload: Range<usize>,
    /// Bytes of it that were moved, to lie behind those of the frame before.
    pub moved: usize,
    /// What ended the stream; the payload came before it.
    pub fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Header,
    Data,
    Control,
    Ended,
}

/// One direction of a connection, as its receiver reads it.
#[derive(Clone, Debug)]
pub struct Decoder {
    phase: Phase,
    /// A client's frames are masked, a server's are not.
    is_masked: bool,
    message_bytes_max: usize,
    /// The header that is arriving; in the phases of payloads, the one that they belong to.
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: u8,
    /// The control payload that is arriving.
    control: [u8; CONTROL_BYTES_MAX],
    control_bytes: u8,
    mask: [u8; 4],
    /// Payload bytes of this frame that came, and that are due.
    done: usize,
    left: usize,
    /// Length of the message's fragments; `None` between messages.
    message: Option<usize>,
}

impl Decoder {
    /// Reads what a client sends.
    pub fn of_client() -> Decoder {
        Decoder {
            phase: Phase::Header,
            is_masked: true,
            message_bytes_max: MESSAGE_BYTES_MAX,
            header: [0; HEADER_BYTES_MAX],
            header_bytes: 0,
            control: [0; CONTROL_BYTES_MAX],
            control_bytes: 0,
            mask: [0; 4],
            done: 0,
            left: 0,
            message: None,
        }
    }

    /// Reads what a server sends; it may send messages of any length.
    pub fn of_server() -> Decoder {
        let message_bytes_max = usize::MAX;
        Decoder { is_masked: false, message_bytes_max, ..Decoder::of_client() }
    }

    /// Reads the stream's next bytes, unmasks payloads where they lie and closes the gaps between
    /// them. Control frames are told in their order among each other.
    pub fn decode(&mut self, bytes: &mut [u8], mut each: impl FnMut(Event<'_>)) -> Decoded {
        let (mut at, mut decoded) = (0, Decoded::default());
        while at < bytes.len() {
            let result = match self.phase {
                Phase::Header => self.take_header(bytes[at]).map(|()| at += 1),
                Phase::Data => {
                    at += self.take_data(bytes, at, &mut decoded);
                    Ok(())
                }
                Phase::Control => self.take_control(&bytes[at..]).map(|taken| at += taken),
                Phase::Ended => break,
            };
            let result = result.and_then(|()| self.end_of_frame(&mut each));
            if let Err(fault) = result {
                self.phase = Phase::Ended;
                decoded.fault = Some(fault);
            }
        }
        decoded
    }

    /// Whether the peer has ended the stream, or broken a rule.
    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// One more byte of a header. Rules are checked in the order in which the bytes come, so that a
    /// verdict does not depend on cuts.
    fn take_header(&mut self, byte: u8) -> Result<(), Fault> {
        let place = usize::from(self.header_bytes);
        self.header[place] = byte;
        self.header_bytes += 1;
        match place {
            0 => self.check_opcode(byte)?,
            1 => self.check_length(byte)?,
            _ => {}
        }
        let extended = match self.header[1] & !MASKED {
            _ if place == 0 => return Ok(()),
            LENGTH_16 => 2,
            LENGTH_64 => 8,
            _ => 0,
        };
        // The length is judged before the mask has come.
        if place + 1 == 2 + extended {
            self.left = self.length(extended)?;
        }
        if place + 1 == 2 + extended + if self.is_masked { 4 } else { 0 } {
            self.begin_payload(2 + extended)?;
        }
        Ok(())
    }

    fn check_opcode(&self, byte: u8) -> Result<(), Fault> {
        if byte & RESERVED_BITS != 0 {
            return Err(Fault::ReservedBits);
        }
        match (byte & 0x0F, self.message) {
            (opcode::CONTINUATION, None) => Err(Fault::NothingToContinue),
            (opcode::TEXT | opcode::BINARY, Some(_)) => Err(Fault::MessageUnfinished),
            (opcode::TEXT, _) => Err(Fault::Text),
            (opcode::CONTINUATION | opcode::BINARY, _) => Ok(()),
            (opcode::CLOSE | opcode::PING | opcode::PONG, _) if byte & FINAL == 0 => {
                Err(Fault::FragmentedControl)
            }
            (opcode::CLOSE | opcode::PING | opcode::PONG, _) => Ok(()),
            _ => Err(Fault::UnknownOpcode),
        }
    }

    fn check_length(&self, byte: u8) -> Result<(), Fault> {
        if (byte & MASKED != 0) != self.is_masked {
            return Err(Fault::Mask);
        }
        if self.is_control() && usize::from(byte & !MASKED) > CONTROL_BYTES_MAX {
            return Err(Fault::LongControl);
        }
        Ok(())
    }

    /// The frame's length, once all of its bytes are there.
    fn length(&self, extended: usize) -> Result<usize, Fault> {
        let length = match extended {
            0 => u64::from(self.header[1] & !MASKED),
            _ => {
                self.header[2..2 + extended].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
            }
        };
        let minimum = match extended {
            0 => 0,
            2 => u64::from(LENGTH_16),
            _ => 1 << 16,
        };
        if length < minimum {
            return Err(Fault::LengthNotMinimal);
        }
        let before = if self.is_control() { 0 } else { self.message.unwrap_or(0) };
        let length = usize::try_from(length).map_err(|_| Fault::TooLong)?;
        match before.checked_add(length) {
            Some(all) if all <= self.message_bytes_max => Ok(length),
            _ => Err(Fault::TooLong),
        }
    }

    fn begin_payload(&mut self, mask_at: usize) -> Result<(), Fault> {
        if self.is_masked {
            self.mask.copy_from_slice(&self.header[mask_at..mask_at + 4]);
        }
        (self.done, self.control_bytes) = (0, 0);
        self.phase = if self.is_control() { Phase::Control } else { Phase::Data };
        if !self.is_control() {
            self.message = Some(self.message.unwrap_or(0) + self.left);
        }
        Ok(())
    }

    /// Payload bytes from `at` on; returns how many there were.
    fn take_data(&mut self, bytes: &mut [u8], at: usize, decoded: &mut Decoded) -> usize {
        let count = self.left.min(bytes.len() - at);
        if self.is_masked {
            apply_mask(&mut bytes[at..at + count], self.mask, self.done);
        }
        let before = decoded.payload.clone();
        decoded.payload = match before.len() {
            0 => at..at + count,
            _ if before.end == at => before.start..at + count,
            // The shorter of both comes to the other: of a long frame's end and the next one's
            // beginning, one is often a few bytes.
            length if length < count => {
                bytes.copy_within(before, at - length);
                decoded.moved += length;
                at - length..at + count
            }
            _ => {
                bytes.copy_within(at..at + count, before.end);
                decoded.moved += count;
                before.start..before.end + count
            }
        };
        (self.done, self.left) = (self.done + count, self.left - count);
        count
    }

    fn take_control(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let count = self.left.min(bytes.len());
        let start = usize::from(self.control_bytes);
        let place = &mut self.control[start..start + count];
        place.copy_from_slice(&bytes[..count]);
        if self.is_masked {
            apply_mask(place, self.mask, start);
        }
        self.control_bytes += count as u8;
        self.left -= count;
        Ok(count)
    }

    /// What a frame means, if this was its last byte; one without payload ends with its header.
    fn end_of_frame(&mut self, each: &mut impl FnMut(Event<'_>)) -> Result<(), Fault> {
        if self.phase == Phase::Header || self.left > 0 {
            return Ok(());
        }
        let (first, is_control) = (self.header[0], self.phase == Phase::Control);
        (self.phase, self.header_bytes) = (Phase::Header, 0);
        if !is_control {
            if first & FINAL != 0 {
                self.message = None;
            }
            return Ok(());
        }
        let payload = &self.control[..usize::from(self.control_bytes)];
        match first & 0x0F {
            opcode::PING => each(Event::Ping(payload)),
            opcode::PONG => each(Event::Pong(payload)),
            _ => {
                let code = close_code(payload)?;
                self.phase = Phase::Ended;
                each(Event::Close(code));
            }
        }
        Ok(())
    }

    fn is_control(&self) -> bool {
        self.header[0] & 0x08 != 0
    }
}

/// The code in a Close, if it has one (RFC 6455, 5.5.1 and 7.4).
fn close_code(payload: &[u8]) -> Result<Option<u16>, Fault> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Fault::Close) };
    };
    let code = u16::from_be_bytes(*code);
    // 1004 to 1006 and 1015 are never sent; what lies between 1016 and 2999 has no meaning yet.
    let is_allowed = matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999);
    if !is_allowed || std::str::from_utf8(reason).is_err() {
        return Err(Fault::Close);
    }
    Ok(Some(code))
}

/// Masks or unmasks: `done` bytes of the frame's payload lie before these (RFC 6455, 5.3).
pub fn apply_mask(bytes: &mut [u8], mut mask: [u8; 4], done: usize) {
    mask.rotate_left(done % 4);
    let mut wide = [0; 16];
    wide.as_chunks_mut::<4>().0.iter_mut().for_each(|four| *four = mask);
    let wide = u128::from_ne_bytes(wide);
    let (blocks, rest) = bytes.as_chunks_mut::<16>();
    for block in blocks {
        *block = (u128::from_ne_bytes(*block) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Headers of short binary frames, ready to be sent.
static SHORT_HEADERS: [[u8; 2]; LENGTH_16 as usize] = {
    let mut headers = [[FINAL | opcode::BINARY, 0]; LENGTH_16 as usize];
    let mut length = 0;
    while length < headers.len() {
        headers[length][1] = length as u8;
        length += 1;
    }
    headers
};

/// What stands before a server's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    Short(&'static [u8; 2]),
    Medium([u8; 4]),
    Long([u8; 10]),
}

impl AsRef<[u8]> for Header {
    fn as_ref(&self) -> &[u8] {
        match self {
            Header::Short(bytes) => *bytes,
            Header::Medium(bytes) => bytes,
            Header::Long(bytes) => bytes,
        }
    }
}

/// The header of a server's binary frame that is a message by itself.
pub fn binary_header(length: usize) -> Header {
    const FIRST: u8 = FINAL | opcode::BINARY;
    match (SHORT_HEADERS.get(length), u16::try_from(length)) {
        (Some(header), _) => Header::Short(header),
        (None, Ok(length)) => {
            let [high, low] = length.to_be_bytes();
            Header::Medium([FIRST, LENGTH_16, high, low])
        }
        (None, Err(_)) => {
            let mut header = [0; 10];
            (header[0], header[1]) = (FIRST, LENGTH_64);
            header[2..].copy_from_slice(&(length as u64).to_be_bytes());
            Header::Long(header)
        }
    }
}

/// The header of a client's binary frame; `mask` is for its payload.
pub fn masked_header(length: usize, mask: [u8; 4]) -> Vec<u8> {
    let mut header = binary_header(length).as_ref().to_vec();
    header[1] |= MASKED;
    header.extend(mask);
    header
}

/// A server's control frame as a client has to send it. The mask changes nothing: none of these
/// payloads is of a page's making.
pub fn masked_control(mut frame: Vec<u8>) -> Vec<u8> {
    frame[1] |= MASKED;
    frame.splice(2..2, [0; 4]);
    frame
}

/// A server's Ping without payload.
pub const PING: &[u8] = &[FINAL | opcode::PING, 0];

/// A server's Pong; the payload is a Ping's.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    control(opcode::PONG, payload)
}

/// A server's Close.
pub fn close(code: Option<u16>) -> Vec<u8> {
    match code {
        Some(code) => control(opcode::CLOSE, &code.to_be_bytes()),
        None => control(opcode::CLOSE, &[]),
    }
}

fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
    let mut frame = vec![FINAL | opcode, payload.len() as u8];
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests;
