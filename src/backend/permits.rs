//! The process-wide limit of connections to one server: a few atomic words that all shards share.
//!
//! Touched when a connection is dialled or has closed, and when somebody waits; never per message.
//! A permit is held from before the dial until the connection has ended. A shard without one says
//! so in the waiting word and *looks at the count again*; who gives a permit back lowers the count
//! and then reads the word. With both in sequential consistency one of the two sees the other, so
//! no wake is lost.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// Shards that one waiting word can name.
pub const SHARDS_MAX: usize = 64;

/// The shared words of one server.
#[derive(Debug)]
pub struct Permits {
    limit: u32,
    open: AtomicU32,
    /// One bit per shard that waits for a connection.
    waiting: AtomicU64,
    /// What each of them waits for: `Fingerprint::word` of its oldest waiter.
    wanted: [AtomicU64; SHARDS_MAX],
}

impl Permits {
    /// `limit` is `pool.size`, in connections of the whole process to this server.
    pub fn new(limit: u32) -> Permits {
        Permits {
            limit,
            open: AtomicU32::new(0),
            waiting: AtomicU64::new(0),
            wanted: [const { AtomicU64::new(0) }; SHARDS_MAX],
        }
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Connections that are open, being opened or not yet known to have ended.
    pub fn open(&self) -> u32 {
        self.open.load(SeqCst)
    }

    /// Takes a permit if one is free.
    pub fn try_take(&self) -> bool {
        let more = |open| (open < self.limit).then_some(open + 1);
        self.open.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    /// Gives a permit back. `Some(shard)`: that shard waits, and now owns the permit; tell it.
    #[must_use = "the named shard owns the permit and must be told"]
    pub fn release(&self) -> Option<usize> {
        self.open.fetch_sub(1, SeqCst);
        while self.waiting.load(SeqCst) != 0 {
            if !self.try_take() {
                return None; // a waiter that looked again has it
            }
            let waiting = self.waiting.load(SeqCst);
            let shard = waiting.trailing_zeros() as usize;
            if waiting != 0 && self.answer(shard) {
                return Some(shard);
            }
            self.open.fetch_sub(1, SeqCst); // it has helped itself; look for the next
        }
        None
    }

    /// Says that `shard` waits for a connection of the identity `wanted`. Look at the count again
    /// afterwards.
    pub fn announce(&self, shard: usize, wanted: u64) {
        self.wanted[shard].store(wanted, SeqCst);
        self.waiting.fetch_or(1 << shard, SeqCst);
    }

    /// `shard` waits no more.
    pub fn withdraw(&self, shard: usize) {
        if self.waiting.load(SeqCst) & 1 << shard != 0 {
            self.waiting.fetch_and(!(1 << shard), SeqCst);
        }
    }

    /// The next shard that waits, from `after` on round the circle, and what it wants.
    pub fn waiting_after(&self, after: usize) -> Option<(usize, u64)> {
        let others = self.waiting.load(SeqCst) & !(1 << after);
        if others == 0 {
            return None;
        }
        let turned = others.rotate_right(after as u32);
        let shard = (turned.trailing_zeros() as usize + after) % SHARDS_MAX;
        Some((shard, self.wanted[shard].load(SeqCst)))
    }

    /// Takes on the duty to serve `shard`; false if another has taken it or nothing is wanted any
    /// more.
    pub fn answer(&self, shard: usize) -> bool {
        self.waiting.fetch_and(!(1 << shard), SeqCst) & 1 << shard != 0
    }
}
