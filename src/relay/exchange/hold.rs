//! What cannot go on yet: requests, oldest first, and behind them the first part of the one that is
//! arriving.
//!
//! The first requests may stay in the buffer they came in, one buffer of each client; what comes
//! behind them is copied. So a client that pipelines its whole transaction waits without a copy,
//! and none can take more than one buffer from the others. Invariants: `kept` is older than all of
//! `copied`; a request lies whole in one of the two.

use crate::transport::buffer::Chunk;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::mem;
use zeroize::Zeroize;

/// A request that can go on.
pub enum Taken {
    Kept(Chunk),
    Copied(BytesMut),
}

/// See the module.
#[derive(Default)]
pub struct Hold {
    kept: Option<Chunk>,
    copied: BytesMut,
    /// Wire bytes of each request, and of all: there may be very many.
    lengths: VecDeque<usize>,
    lengths_sum: usize,
}

impl Hold {
    pub fn bytes(&self) -> usize {
        self.kept.as_deref().map_or(0, <[u8]>::len) + self.copied.len()
    }

    /// Requests, without the one that is arriving.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// Whether a buffer is kept from its ring.
    pub fn is_keeping(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether the next request may come in a chunk; if `keep` takes it.
    pub fn can_keep(&self) -> bool {
        self.copied.is_empty()
    }

    /// Keeps a request where it lies; false if it lies neither first nor right behind those kept.
    pub fn keep(&mut self, request: Chunk) -> bool {
        let length = request.len();
        let is_kept = match &mut self.kept {
            Some(kept) => kept.try_join(&request),
            None => {
                self.kept = Some(request);
                true
            }
        };
        if is_kept {
            self.note_request(length);
        }
        is_kept
    }

    /// Holds a copy of a request.
    pub fn copy(&mut self, request: &[u8]) {
        self.copied.extend_from_slice(request);
        self.note_request(request.len());
    }

    /// The next part of the request that is arriving.
    pub fn arrive(&mut self, piece: &[u8]) {
        self.copied.extend_from_slice(piece);
    }

    /// Room for `more` bytes, so that none are moved when they come.
    pub fn reserve(&mut self, more: usize) {
        self.copied.reserve(more);
    }

    pub fn arriving_bytes(&self) -> usize {
        self.bytes() - self.lengths_sum
    }

    pub fn take_arriving(&mut self) -> BytesMut {
        match self.copied.len() - self.arriving_bytes() {
            0 => mem::take(&mut self.copied),
            before => self.copied.split_off(before),
        }
    }

    /// Puts back what `take_arriving` gave: it is a request now, whose rest comes by `grow_last`.
    pub fn hold_arriving(&mut self, bytes: BytesMut) {
        self.note_request(bytes.len());
        self.copied.unsplit(bytes);
    }

    /// More of the last request; it was longer than what is waited for.
    pub fn grow_last(&mut self, piece: &[u8]) {
        self.copied.extend_from_slice(piece);
        *self.lengths.back_mut().expect("a held request") += piece.len();
        self.lengths_sum += piece.len();
    }

    pub fn oldest(&self) -> &[u8] {
        let length = self.lengths.front().copied().unwrap_or(0);
        &self.kept.as_deref().unwrap_or(&self.copied)[..length]
    }

    /// Takes the oldest request, if there is one.
    pub fn take_oldest(&mut self) -> Option<Taken> {
        let length = self.lengths.pop_front()?;
        self.lengths_sum -= length;
        Some(match self.kept.take() {
            Some(whole) if whole.len() == length => Taken::Kept(whole),
            Some(mut kept) => {
                let first = kept.split_to(length);
                self.kept = Some(kept);
                Taken::Kept(first)
            }
            None => Taken::Copied(self.copied.split_to(length)),
        })
    }

    pub fn drop_oldest(&mut self, count: usize) {
        let mut bytes: usize = self.lengths.drain(..count.min(self.lengths.len())).sum();
        self.lengths_sum -= bytes;
        if let Some(mut kept) = self.kept.take() {
            let first = bytes.min(kept.len());
            bytes -= first;
            if first < kept.len() {
                kept.advance(first);
                self.kept = Some(kept);
            }
        }
        self.copied.advance(bytes);
    }

    /// Copies what is kept, and gives its buffer back.
    pub fn copy_kept(&mut self) {
        if let Some(kept) = self.kept.take() {
            let behind = mem::replace(&mut self.copied, BytesMut::from(&*kept));
            self.copied.unsplit(behind);
        }
    }

    /// Puts a request before all others.
    pub fn put_first(&mut self, request: Bytes) {
        self.copy_kept();
        self.lengths.push_front(request.len());
        self.lengths_sum += request.len();
        let behind = mem::replace(&mut self.copied, BytesMut::from(request));
        self.copied.unsplit(behind);
    }

    /// Overwrites what is copied: there may be credentials in it.
    pub fn wipe(&mut self) {
        self.copied.zeroize();
    }

    /// An idle client keeps no memory.
    pub fn settle(&mut self) {
        if self.copied.is_empty() {
            self.copied = BytesMut::new();
        }
    }

    fn note_request(&mut self, length: usize) {
        self.lengths.push_back(length);
        self.lengths_sum += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"abcdefghijkl";

    fn take(hold: &mut Hold) -> Vec<u8> {
        let oldest = hold.oldest().to_vec();
        let taken = match hold.take_oldest() {
            Some(Taken::Kept(chunk)) => chunk.to_vec(),
            Some(Taken::Copied(bytes)) => bytes.to_vec(),
            None => Vec::new(),
        };
        assert_eq!(taken, oldest);
        taken
    }

    /// "abc" and "de" kept, "fgh" copied, and "ij" of a request that is arriving.
    fn filled() -> Hold {
        let (input, mut hold) = (Chunk::from(Bytes::from_static(TEXT)), Hold::default());
        assert!(hold.keep(input.slice(0..3)) && hold.keep(input.slice(3..5)));
        hold.copy(&TEXT[5..8]);
        hold.arrive(&TEXT[8..10]);
        assert_eq!((hold.bytes(), hold.count(), hold.arriving_bytes()), (10, 3, 2));
        assert!(hold.is_keeping() && !hold.can_keep());
        hold
    }

    #[test]
    fn requests_come_out_in_order_wherever_they_lie() {
        for copied_after in 0..=4 {
            let mut hold = filled();
            for (number, request) in [&b"abc"[..], b"de", b"fgh"].into_iter().enumerate() {
                if number == copied_after {
                    hold.copy_kept();
                    assert!(!hold.is_keeping());
                }
                assert_eq!(take(&mut hold), request);
            }
            assert_eq!((take(&mut hold), hold.arriving_bytes()), (Vec::new(), 2));
            assert_eq!(hold.take_arriving(), b"ij"[..]);
            assert_eq!(hold.bytes(), 0);
        }
    }

    #[test]
    fn the_oldest_are_dropped_wherever_they_lie() {
        for dropped in 0..=4 {
            let mut hold = filled();
            hold.drop_oldest(dropped);
            for request in [&b"abc"[..], b"de", b"fgh"].into_iter().skip(dropped) {
                assert_eq!(take(&mut hold), request);
            }
            assert_eq!((hold.count(), hold.take_arriving()), (0, BytesMut::from(&b"ij"[..])));
            assert!(!hold.is_keeping());
        }
    }

    #[test]
    fn only_what_lies_right_behind_is_kept() {
        let (input, mut hold) = (Chunk::from(Bytes::from_static(TEXT)), Hold::default());
        assert!(hold.keep(input.slice(0..3)));
        assert!(!hold.keep(input.slice(4..5)), "a byte between them is nobody's");
        assert!(!hold.keep(input.slice(0..3)), "it would be there twice");
        assert!(!hold.keep(Chunk::from(Bytes::from_static(TEXT)).slice(3..5)), "another buffer");
        assert_eq!((hold.count(), hold.bytes(), take(&mut hold)), (1, 3, b"abc".to_vec()));
    }

    #[test]
    fn a_request_that_arrives_goes_behind_those_held() {
        let mut hold = filled();
        let arriving = hold.take_arriving();
        hold.hold_arriving(arriving);
        hold.grow_last(b"kl");
        hold.put_first(Bytes::from_static(b"zero"));
        for request in [&b"zero"[..], b"abc", b"de", b"fgh", b"ijkl"] {
            assert_eq!(take(&mut hold), request);
        }
        assert_eq!((hold.bytes(), hold.arriving_bytes()), (0, 0));
    }
}
