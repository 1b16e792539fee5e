//! The handshake, both roles: magic, four proposals with ranges, and manifest version 1.
//!
//! Works on bytes the caller has collected; asks for more by `Ok(None)`. Owns no connection and
//! decides nothing about what to offer.

pub use crate::wire::error::HandshakeError;
use crate::wire::limits::{MANIFEST_ENTRIES_MAX, VARINT_BYTES_MAX};
use crate::wire::version::Version;

/// The first bytes of every Bolt client.
pub const MAGIC: [u8; 4] = [0x60, 0x60, 0xB0, 0x17];
/// Proposes, and as an answer begins, manifest version 1: the major byte `FF` is no version.
const MANIFEST_1: [u8; 4] = [0, 0, 1, 0xFF];
const NO_VERSION: [u8; 4] = [0; 4];

/// One of a client's four proposals: `major.minor` and the `range` minors below it. All zero is a
/// filler; major 255 asks for a manifest, and the minor is then the manifest's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub major: u8,
    pub minor: u8,
    pub range: u8,
}

impl Proposal {
    fn of(bytes: [u8; 4]) -> Proposal {
        Proposal { major: bytes[3], minor: bytes[2], range: bytes[1] }
    }

    /// Ranges end at minor 0 and never reach another major version.
    fn covers(self, version: Version) -> bool {
        let lowest = self.minor.saturating_sub(self.range);
        version.major == self.major && (lowest..=self.minor).contains(&version.minor)
    }
}

/// How the handshake goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Version(Version),
    /// The server lists its versions, the client picks one.
    Manifest,
    /// No common version; the connection is closed after the answer.
    None,
}

/// A client's first 20 bytes.
pub fn parse_hello20(bytes: &[u8; 20]) -> Result<[Proposal; 4], HandshakeError> {
    let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if word(0) != MAGIC {
        return Err(HandshakeError::WrongMagic(word(0)));
    }
    Ok([4, 8, 12, 16].map(|at| Proposal::of(word(at))))
}

/// Takes the proposals in the client's order, as Neo4j does; within a range the highest minor.
pub fn choose(proposals: &[Proposal; 4], offered: &[Version]) -> Choice {
    let mut choices = proposals.iter().filter_map(|proposal| {
        if proposal.major == MANIFEST_1[3] {
            let is_known = proposal.minor == MANIFEST_1[2] && !offered.is_empty();
            return is_known.then_some(Choice::Manifest);
        }
        let fitting = offered.iter().filter(|version| proposal.covers(**version));
        fitting.max().map(|version| Choice::Version(*version))
    });
    choices.next().unwrap_or(Choice::None)
}

/// As `choose`, but of several versions that both sides speak the first in `preferred` is taken,
/// whatever the client likes best: so that clients meet on few versions.
pub fn choose_preferred(proposals: &[Proposal; 4], preferred: &[Version]) -> Choice {
    let is_proposed =
        |version: &&Version| proposals.iter().any(|proposal| proposal.covers(**version));
    match choose(proposals, preferred) {
        Choice::Version(version) => {
            Choice::Version(*preferred.iter().find(is_proposed).unwrap_or(&version))
        }
        other => other,
    }
}

/// The server's four bytes. For a manifest they are only its beginning: send `manifest` instead.
pub fn answer(choice: Choice) -> [u8; 4] {
    match choice {
        Choice::Version(version) => version.to_bytes(),
        Choice::Manifest => MANIFEST_1,
        Choice::None => NO_VERSION,
    }
}

/// The server's whole part of the manifest, highest version first, without capabilities. To be
/// written in one piece: some drivers read it out of a single received buffer.
pub fn manifest(offered: &[Version]) -> Vec<u8> {
    let mut versions = offered.to_vec();
    versions.sort_unstable();
    versions.dedup();
    let mut entries: Vec<[u8; 4]> = Vec::new();
    let mut lowest: Option<Version> = None;
    for version in versions.into_iter().rev() {
        let extends = |low: Version| {
            low.major == version.major && version.minor.checked_add(1) == Some(low.minor)
        };
        match entries.last_mut() {
            Some(entry) if lowest.is_some_and(extends) => entry[1] += 1,
            _ => entries.push(version.to_bytes()),
        }
        lowest = Some(version);
    }
    let mut bytes = MANIFEST_1.to_vec();
    push_varint(&mut bytes, entries.len() as u64);
    bytes.extend(entries.iter().flatten());
    push_varint(&mut bytes, 0);
    bytes
}

/// A client's answer to a manifest: bytes consumed, and the version or, if the client refuses all,
/// `None`. `Ok(None)`: more bytes are needed. HELLO may follow in the same bytes.
pub fn parse_manifest_choice(
    bytes: &[u8],
    offered: &[Version],
) -> Result<Option<(usize, Option<Version>)>, HandshakeError> {
    let Some((word, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let version = match *word {
        NO_VERSION => None,
        [0, 0, minor, major] if offered.contains(&Version::new(major, minor)) => {
            Some(Version::new(major, minor))
        }
        word => return Err(HandshakeError::NotOffered(word)),
    };
    let Some((capabilities, length)) = take_varint(rest)? else { return Ok(None) };
    if capabilities != 0 {
        return Err(HandshakeError::UnofferedCapability(capabilities));
    }
    Ok(Some((4 + length, version)))
}

/// A client's 20 bytes that accept one version only.
pub fn propose_exact(version: Version) -> [u8; 20] {
    propose([version.to_bytes(), NO_VERSION, NO_VERSION, NO_VERSION])
}

/// A client's 20 bytes to learn what a server speaks: the manifest, and for servers older than it
/// the highest version they have.
pub fn propose_manifest() -> [u8; 20] {
    propose([MANIFEST_1, [0, 8, 8, 5], [0, 4, 4, 4], [0, 0, 0, 3]])
}

/// A server's four bytes.
pub fn parse_answer(bytes: &[u8; 4]) -> Result<Choice, HandshakeError> {
    match *bytes {
        NO_VERSION => Ok(Choice::None),
        MANIFEST_1 => Ok(Choice::Manifest),
        [0, 0, minor, major] => {
            let version = Version::new(major, minor);
            if version.is_known() {
                Ok(Choice::Version(version))
            } else {
                Err(HandshakeError::UnknownVersion { major, minor })
            }
        }
        other => Err(HandshakeError::NotAnAnswer(other)),
    }
}

/// A server's manifest, its first four bytes included: bytes consumed, and the versions in it that
/// boltmux knows, highest first. `Ok(None)`: more bytes are needed.
pub fn parse_manifest(bytes: &[u8]) -> Result<Option<(usize, Vec<Version>)>, HandshakeError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    if *prefix != MANIFEST_1 {
        return Err(HandshakeError::NotAnAnswer(*prefix));
    }
    let Some((count, count_length)) = take_varint(rest)? else { return Ok(None) };
    if count > MANIFEST_ENTRIES_MAX {
        return Err(HandshakeError::TooManyEntries(count));
    }
    let rest = &rest[count_length..];
    let entries_length = 4 * count as usize;
    let Some((entries, rest)) = rest.split_at_checked(entries_length) else { return Ok(None) };
    let Some((_, mask_length)) = take_varint(rest)? else { return Ok(None) };
    let lists = |version: &Version| {
        let mut entries = entries.as_chunks::<4>().0.iter();
        entries.any(|entry| Proposal::of(*entry).covers(*version))
    };
    let versions = Version::ALL.into_iter().rev().filter(lists).collect();
    Ok(Some((4 + count_length + entries_length + mask_length, versions)))
}

/// A client's answer to a manifest: this version, no capabilities.
pub fn manifest_choice(version: Version) -> Vec<u8> {
    let mut bytes = version.to_bytes().to_vec();
    push_varint(&mut bytes, 0);
    bytes
}

fn propose(proposals: [[u8; 4]; 4]) -> [u8; 20] {
    let mut bytes = [0; 20];
    let words = [MAGIC].into_iter().chain(proposals);
    for (slot, byte) in bytes.iter_mut().zip(words.flatten()) {
        *slot = byte;
    }
    bytes
}

/// Seven bits a byte, least significant first; the top bit says that more follow.
fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The number and its length; `None` where its end has not arrived.
fn take_varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, HandshakeError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(VARINT_BYTES_MAX) {
        let bits = u64::from(byte & 0x7F);
        // Of the tenth byte only the lowest bit is left in 64.
        if index + 1 == VARINT_BYTES_MAX && bits > 1 {
            return Err(HandshakeError::EndlessVarint);
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= VARINT_BYTES_MAX { Err(HandshakeError::EndlessVarint) } else { Ok(None) }
}
