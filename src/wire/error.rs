//! What can be wrong with Bolt bytes: closed enums, one for each part that reads them.
//!
//! Each text says what was expected, what came and what to do. None holds a byte of a value, since
//! a value may be a secret; markers and tags are structure and may be shown.

use crate::wire::limits;
use crate::wire::message::tag;
use crate::wire::state::{ServerState, Summary};
use std::fmt;

/// Most of a text of a peer's that a line of a log shows: an agent with its platform fits.
pub const SHOWN_LETTERS_MAX: usize = 200;

/// A text that a peer has a part in, for a line of a log: what could end the line or change how it
/// looks is escaped, and what is too long is cut.
pub fn shown(text: &str) -> String {
    shown_up_to(text, SHOWN_LETTERS_MAX)
}

/// The same for a text of our own that quotes a peer.
pub fn shown_up_to(text: &str, letters_max: usize) -> String {
    let mut shown: String = text.chars().take(letters_max).map(harmless).collect();
    if text.chars().nth(letters_max).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Escapes control characters, and those that turn text round or have no width.
fn harmless(letter: char) -> String {
    let is_odd = matches!(letter, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{FEFF}');
    match letter.is_control() || is_odd {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    }
}

/// A PackStream value cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackError {
    /// The bytes end inside a value.
    Truncated,
    /// A marker that no version of PackStream defines.
    ReservedMarker(u8),
    /// Another type was expected here.
    Unexpected { expected: &'static str, marker: u8 },
    /// A map key that is no string.
    KeyNotString(u8),
    /// A string that is no UTF-8.
    NotUtf8,
    /// A header that declares more than any implementation can hold.
    SizeTooLarge(u32),
    /// More nested values than can be counted.
    TooManyValues,
    /// Bytes after the end of the message's structure.
    TrailingBytes,
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PackError::Truncated => {
                write!(f, "expected the rest of a PackStream value, but the message ends there")
            }
            PackError::ReservedMarker(marker) => {
                write!(f, "expected a PackStream marker, got the reserved byte {marker:02X}")
            }
            PackError::Unexpected { expected, marker } => {
                write!(f, "expected {expected}, got a value with marker {marker:02X}")
            }
            PackError::KeyNotString(marker) => {
                write!(f, "expected a string as map key, got a value with marker {marker:02X}")
            }
            PackError::NotUtf8 => write!(f, "expected a string in UTF-8, got other bytes"),
            PackError::SizeTooLarge(size) => write!(
                f,
                "expected a declared size of at most {}, got {size}",
                limits::PACK_SIZE_MAX
            ),
            PackError::TooManyValues => {
                write!(f, "expected fewer nested values than 64 bits can count, got more")
            }
            PackError::TrailingBytes => {
                write!(f, "expected the message to end with its structure, got more bytes")
            }
        }
    }
}

impl std::error::Error for PackError {}

/// A message is not what its place in the conversation demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// A value inside cannot be read.
    Pack(PackError),
    /// Another message came.
    NotThis { expected: &'static str, fields: usize, tag: u8 },
    /// A mandatory key is absent.
    MissingKey { message: &'static str, key: &'static str },
    /// A key holds a value of another type.
    WrongType { message: &'static str, key: &'static str, expected: &'static str },
    /// A container of a login message holds more entries than Neo4j allows there.
    TooManyElements { count: usize },
    /// A login message nests deeper than Neo4j allows there.
    TooDeep,
}

impl From<PackError> for MessageError {
    fn from(error: PackError) -> MessageError {
        MessageError::Pack(error)
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::Pack(error) => error.fmt(f),
            MessageError::NotThis { expected, fields, tag } => {
                write!(f, "expected {expected}, got a message {tag:02X} with {fields} fields")
            }
            MessageError::MissingKey { message, key } => {
                write!(f, "expected the key `{key}` in {message}, but it is absent; send it")
            }
            MessageError::WrongType { message, key, expected } => {
                write!(f, "expected `{key}` in {message} to be {expected}, got another type")
            }
            MessageError::TooManyElements { count } => write!(
                f,
                "expected at most {} entries in a value before login, got {count}",
                limits::LOGIN_ELEMENTS_MAX
            ),
            MessageError::TooDeep => write!(
                f,
                "expected at most {} levels of nesting before login, got more",
                limits::LOGIN_DEPTH_MAX
            ),
        }
    }
}

impl std::error::Error for MessageError {}

/// The handshake failed; the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The first four bytes are not Bolt's.
    WrongMagic([u8; 4]),
    /// A server's answer that names no version: perhaps another protocol.
    NotAnAnswer([u8; 4]),
    /// A server chose a version that was not proposed or that nobody knows.
    UnknownVersion { major: u8, minor: u8 },
    /// A client chose a version that was not in the manifest, or a range.
    NotOffered([u8; 4]),
    /// A client chose a capability, but none was offered.
    UnofferedCapability(u64),
    /// A number of the manifest does not end, or has more than 64 bits.
    EndlessVarint,
    /// A server's manifest lists more versions than there can be.
    TooManyEntries(u64),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::WrongMagic(bytes) => write!(
                f,
                "expected Bolt's first bytes 60 60 B0 17, got {bytes:02X?}; is it a Bolt client?"
            ),
            HandshakeError::NotAnAnswer(bytes) => {
                write!(f, "expected a Bolt version as answer, got {bytes:02X?}; is it a Bolt port?")
            }
            HandshakeError::UnknownVersion { major, minor } => {
                write!(f, "expected a Bolt version that was proposed, got {major}.{minor}")
            }
            HandshakeError::NotOffered(bytes) => {
                write!(f, "expected one version of the manifest, got {bytes:02X?}")
            }
            HandshakeError::UnofferedCapability(mask) => {
                write!(f, "expected no capabilities, since none were offered, got {mask:#X}")
            }
            HandshakeError::EndlessVarint => write!(
                f,
                "expected a number of at most {} bytes in the manifest, got a longer one",
                limits::VARINT_BYTES_MAX
            ),
            HandshakeError::TooManyEntries(count) => write!(
                f,
                "expected at most {} versions in a manifest, got {count}",
                limits::MANIFEST_ENTRIES_MAX
            ),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// Text that names no version of Bolt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionError {
    pub text: String,
}

impl fmt::Display for VersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected a Bolt version (3.0, 4.0 to 4.4, 5.0 to 5.4, 5.6 to 5.8, 6.0, 6.1), got `{}`",
            self.text.escape_debug()
        )
    }
}

impl std::error::Error for VersionError {}

/// A request or summary that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateError {
    pub state: ServerState,
    pub tag: u8,
    /// The summary that came; `None` where the request itself is not allowed.
    pub summary: Option<Summary>,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StateError { state, tag, summary } = self;
        let name = tag::name(*tag);
        match summary {
            Some(summary) => write!(
                f,
                "expected another answer to {name} in state {state:?}, got {summary:?}; \
                 close the connection"
            ),
            None => write!(f, "expected a request that {state:?} allows, got {name}"),
        }
    }
}

impl std::error::Error for StateError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_makes_no_line_of_its_own() {
        assert_eq!(shown("Neo4j/5.26.0 \"x\" \u{e9}"), "Neo4j/5.26.0 \"x\" \u{e9}");
        let odd = "a\nb\r\u{1b}[31m\u{9b}\u{202e}\u{200b}\u{7f}";
        assert_eq!(shown(odd), "a\\nb\\r\\u{1b}[31m\\u{9b}\\u{202e}\\u{200b}\\u{7f}");
        let whole = "\u{e9}".repeat(SHOWN_LETTERS_MAX);
        assert_eq!(shown(&whole), whole);
        assert_eq!(shown(&(whole.clone() + "x")), whole + "...");
    }
}
