//! Tests of the wire layer across its modules: byte vectors, every split, slow twins, states.

mod fields;
mod handshake;
mod malformed;
mod messages;
mod packstream;
mod scanner;
mod states;
mod vectors;

use crate::wire::chunk::{Head, Kind, Scanner};

/// A small seeded generator (the multiplier is Knuth's, from MMIX), so that a failure replays.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % bound
    }

    /// Cuts `bytes` into pieces of 1 to `piece_bytes_max` bytes.
    pub fn cut<'a>(&mut self, mut bytes: &'a [u8], piece_bytes_max: usize) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let length = (1 + self.below(piece_bytes_max)).min(bytes.len());
            let (piece, rest) = bytes.split_at(length);
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}

/// Reads `00 2A B1`; spaces do not matter.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .map(|letter| letter.to_digit(16).expect("test vectors are hexadecimal") as u8)
        .collect();
    assert_eq!(digits.len() % 2, 0, "half a byte in {text}");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// One message or no-op, with the wire bytes it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Noop,
    Message { wire_length: usize, payload: Vec<u8> },
}

/// Runs a scanner over pieces as a connection would: what it does not take waits for more. Checks
/// on the way all that a scanner says about itself.
pub fn scan(pieces: &[&[u8]]) -> Vec<Item> {
    let mut scanner = Scanner::default();
    let mut items = Vec::new();
    let mut waiting: Vec<u8> = Vec::new();
    let mut wire_length = 0;
    let mut payload = Vec::new();
    for piece in pieces {
        waiting.extend_from_slice(piece);
        loop {
            let was_between = scanner.is_between_messages();
            let next = scanner.next_with(&waiting, |piece| {
                assert!(!piece.is_empty());
                payload.extend_from_slice(piece);
            });
            let Some(span) = next else {
                assert!(waiting.is_empty() || was_between && waiting.len() == 1);
                break;
            };
            assert!(0 < span.length && span.length <= waiting.len());
            waiting.drain(..span.length);
            let Kind::Message { starts, ends } = span.kind else {
                assert!(was_between && span.length == 2);
                items.push(Item::Noop);
                continue;
            };
            assert_eq!(starts, was_between);
            assert_eq!(ends, scanner.is_between_messages());
            assert_eq!(scanner.payload_length(), payload.len() as u64);
            let first = payload.first_chunk::<2>();
            assert_eq!(scanner.head(), first.map(|first| Head::of(*first)));
            wire_length += span.length;
            if ends {
                let payload = std::mem::take(&mut payload);
                items.push(Item::Message { wire_length, payload });
                wire_length = 0;
            } else {
                assert!(waiting.is_empty(), "a span ends before the message only with the input");
            }
        }
    }
    items
}
