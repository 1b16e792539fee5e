//! Finds whole messages in bytes cut anywhere, copying only those that arrive in pieces. Pure.
//!
//! Invariant: `held` is empty, or the beginning of one message, or (between messages) the single
//! byte of which nothing can be said yet.

use super::session::Fault;
use crate::wire::chunk::{Kind, Scanner, payload};

/// A longer message ends the connection: whoever wants larger records would measure copying them
/// here.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// What a connection may keep for its next message in pieces.
const KEPT_BYTES_MAX: usize = 16 << 10;

#[derive(Default)]
pub struct Inbox {
    scanner: Scanner,
    held: Vec<u8>,
    /// `held` was handed out whole and is to be emptied.
    is_spent: bool,
    scratch: Vec<u8>,
}

impl Inbox {
    /// The next message's payload; moves `input` behind it. `None`: all of `input` is used up.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Result<Option<&'a [u8]>, Fault> {
        self.empty_if_spent();
        loop {
            if self.scanner.is_between_messages() && !self.held.is_empty() {
                let Some((first, rest)) = input.split_first() else { return Ok(None) };
                *input = rest;
                self.held.push(*first);
                if self.scanner.next(&self.held).is_none_or(|span| span.kind == Kind::Noop) {
                    self.held.clear();
                }
                continue;
            }
            let Some(span) = self.scanner.next(input) else {
                self.held.extend_from_slice(std::mem::take(input));
                return Ok(None);
            };
            let (bytes, rest) = input.split_at(span.length);
            *input = rest;
            match span.kind {
                Kind::Noop => {}
                Kind::Message { starts: true, ends: true } => {
                    return Ok(Some(payload(bytes, &mut self.scratch)));
                }
                Kind::Message { ends, .. } => {
                    if self.held.len() + bytes.len() > MESSAGE_BYTES_MAX {
                        return Err(Fault::Unexpected("a message of more than 64 MiB"));
                    }
                    self.held.extend_from_slice(bytes);
                    if ends {
                        self.is_spent = true;
                        return Ok(Some(payload(&self.held, &mut self.scratch)));
                    }
                }
            }
        }
    }

    fn empty_if_spent(&mut self) {
        if std::mem::take(&mut self.is_spent) {
            self.held.clear();
            self.held.shrink_to(KEPT_BYTES_MAX);
            self.scratch.clear();
            self.scratch.shrink_to(KEPT_BYTES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::chunk::{NOOP, chunked};

    fn messages(inbox: &mut Inbox, mut input: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while let Some(payload) = inbox.next(&mut input).unwrap() {
            found.push(payload.to_vec());
        }
        assert!(input.is_empty());
        found
    }

    #[test]
    fn every_cut_gives_the_same_messages() {
        let payloads = [vec![0xB1, 0x71, 0x91, 1], vec![0xB0, 0x7E], vec![7; 70_000], vec![1; 300]];
        let mut stream = NOOP.to_vec();
        for payload in &payloads {
            stream.extend(chunked(payload));
            stream.extend(NOOP);
        }
        assert_eq!(messages(&mut Inbox::default(), &stream), payloads);
        for size in [1, 2, 3, 5, 7, 64, 4096] {
            let mut inbox = Inbox::default();
            let pieces = stream.chunks(size);
            let found: Vec<_> = pieces.flat_map(|piece| messages(&mut inbox, piece)).collect();
            assert_eq!(found, payloads, "pieces of {size}");
        }
        let cuts = (0..24).chain(stream.len() - 320..stream.len());
        for cut in cuts {
            let mut inbox = Inbox::default();
            let (front, back) = stream.split_at(cut);
            let found = [messages(&mut inbox, front), messages(&mut inbox, back)].concat();
            assert_eq!(found, payloads, "cut at {cut}");
        }
    }
}
