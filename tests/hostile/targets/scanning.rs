//! The chunk scanner against a slow, obvious twin, wherever the bytes are cut.

use super::pieces;
use boltmux::wire::chunk::{self, Kind, Scanner};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Noop,
    /// A message's payload.
    Message(Vec<u8>),
}

/// The first byte says how the rest is cut.
pub fn scanner(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else { return };
    let expected = twin(bytes);
    assert_eq!(scan([bytes].into_iter()), expected, "whole");
    assert_eq!(scan(pieces(bytes, seed)), expected, "cut by {seed}");
    assert_eq!(scan(bytes.chunks(1)), expected, "byte by byte");
    for item in &expected {
        let Item::Message(payload) = item else { continue };
        let wire = chunk::chunked(payload);
        assert_eq!(chunk::payload(&wire, &mut Vec::new()), payload, "wrapped and unwrapped");
    }
}

/// Reads whole chunks one by one; what is not complete at the end is left out.
fn twin(mut bytes: &[u8]) -> Vec<Item> {
    let (mut items, mut payload) = (Vec::new(), Vec::new());
    while let [high, low, rest @ ..] = bytes {
        let size = usize::from(*high) * 256 + usize::from(*low);
        if rest.len() < size {
            break;
        }
        payload.extend_from_slice(&rest[..size]);
        bytes = &rest[size..];
        if size == 0 && payload.is_empty() {
            items.push(Item::Noop);
        } else if size == 0 {
            items.push(Item::Message(std::mem::take(&mut payload)));
        }
    }
    items
}

fn scan<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Item> {
    let (mut scanner, mut items) = (Scanner::default(), Vec::new());
    let (mut loose, mut payload) = (Vec::new(), Vec::new());
    for piece in pieces {
        loose.extend_from_slice(piece);
        let mut at = 0;
        while let Some(span) = scanner.next_with(&loose[at..], |part| {
            assert!(!part.is_empty());
            payload.extend_from_slice(part);
        }) {
            assert!(span.length > 0 && at + span.length <= loose.len());
            at += span.length;
            match span.kind {
                Kind::Noop => items.push(Item::Noop),
                Kind::Message { ends: true, .. } => {
                    assert_eq!(scanner.payload_length(), payload.len() as u64);
                    assert_eq!(scanner.head().is_some(), payload.len() >= 2);
                    items.push(Item::Message(std::mem::take(&mut payload)));
                }
                Kind::Message { .. } => {}
            }
            assert!(payload.is_empty() || !scanner.is_between_messages());
        }
        assert!(loose.len() - at <= 1, "no more than half a length is left");
        loose.drain(..at);
    }
    items
}
