//! What the connections of one thread share, and what the threads of one server share.
//!
//! The counts are atomics with one writer each; the ledger has a lock that only [`Server`] takes
//! besides its thread. Both are fit for a test server, not for the proxy.
//!
//! [`Server`]: crate::synthetic::Server

use crate::synthetic::Options;
use crate::synthetic::faults::Act;
use crate::synthetic::ledger::{Entry, Ledger, Outcome, bounded, nonce_text};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a server has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub connections_open: u64,
    pub connections_max: u64,
    pub connections_total: u64,
    pub logins_ok: u64,
    pub logins_failed: u64,
    pub queries: u64,
    pub commits: u64,
    pub rollbacks: u64,
    pub resets: u64,
    pub routes: u64,
    pub failures: u64,
    /// Requests that were not legal in their state, and messages nobody knows.
    pub violations: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
}

/// One thread's counts, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counts {
    pub logins_ok: AtomicU64,
    pub logins_failed: AtomicU64,
    pub queries: AtomicU64,
    pub commits: AtomicU64,
    pub rollbacks: AtomicU64,
    pub resets: AtomicU64,
    pub routes: AtomicU64,
    pub failures: AtomicU64,
    pub violations: AtomicU64,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
}

impl Counts {
    pub fn add_to(&self, stats: &mut Stats) {
        stats.logins_ok += self.logins_ok.load(Relaxed);
        stats.logins_failed += self.logins_failed.load(Relaxed);
        stats.queries += self.queries.load(Relaxed);
        stats.commits += self.commits.load(Relaxed);
        stats.rollbacks += self.rollbacks.load(Relaxed);
        stats.resets += self.resets.load(Relaxed);
        stats.routes += self.routes.load(Relaxed);
        stats.failures += self.failures.load(Relaxed);
        stats.violations += self.violations.load(Relaxed);
        stats.bytes_received += self.bytes_received.load(Relaxed);
        stats.bytes_sent += self.bytes_sent.load(Relaxed);
    }
}

/// Adds to a count that only this thread writes: a load and a store, no locked instruction.
pub fn count(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// What all threads of one server share.
#[derive(Debug)]
pub struct Shared {
    options: Mutex<Arc<Options>>,
    /// Grows with each change of `options`.
    generation: AtomicU64,
    /// Transactions open now; kept only if there is a limit for them.
    pub workers_busy: AtomicUsize,
    pub ledger_sequence: AtomicU64,
}

impl Shared {
    pub fn new(options: Options) -> Shared {
        Shared {
            options: Mutex::new(Arc::new(options)),
            generation: AtomicU64::new(0),
            workers_busy: AtomicUsize::new(0),
            ledger_sequence: AtomicU64::new(0),
        }
    }

    pub fn options(&self) -> Arc<Options> {
        lock(&self.options).clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut Options)) {
        let mut options = lock(&self.options);
        change(Arc::make_mut(&mut options));
        self.generation.fetch_add(1, Relaxed);
    }
}

/// One thread's share of the server.
pub struct World {
    pub shared: Arc<Shared>,
    pub options: Arc<Options>,
    pub counts: Arc<Counts>,
    pub address: String,
    ledger: Arc<Mutex<Ledger>>,
    has_ledger: bool,
    generation: u64,
    rule_hits: Vec<u64>,
    /// The thread's number and a count make a bookmark unique.
    thread: u32,
    bookmarks: u64,
}

impl World {
    pub fn new(
        shared: Arc<Shared>,
        counts: Arc<Counts>,
        ledger: Arc<Mutex<Ledger>>,
        address: String,
        thread: u32,
    ) -> World {
        let options = shared.options();
        let (generation, has_ledger) = (shared.generation.load(Relaxed), lock(&ledger).is_on());
        World {
            shared,
            options,
            counts,
            address,
            ledger,
            has_ledger,
            generation,
            rule_hits: Vec::new(),
            thread,
            bookmarks: 0,
        }
    }

    /// Takes over changed options; to be called before each batch.
    pub fn refresh(&mut self) {
        let generation = self.shared.generation.load(Relaxed);
        if generation != self.generation {
            self.generation = generation;
            self.options = self.shared.options();
            self.rule_hits.clear();
        }
    }

    /// What a rule wants done about a request of `tag`, if one applies now.
    pub fn act(&mut self, tag: u8) -> Option<Act> {
        let rules = &self.options.faults.rules;
        if rules.is_empty() {
            return None;
        }
        self.rule_hits.resize(rules.len(), 0);
        let mut hits = self.rule_hits.iter_mut();
        let applies = rules.iter().find(|rule| {
            let hits = hits.next().filter(|_| rule.tag == tag);
            hits.is_some_and(|hits| {
                *hits += 1;
                (*hits - 1).is_multiple_of(rule.every_nth.max(1))
            })
        });
        applies.map(|rule| rule.act.clone())
    }

    /// The number that makes the next bookmark.
    pub fn next_bookmark(&mut self) -> u128 {
        self.bookmarks += 1;
        u128::from(self.thread) << 64 | u128::from(self.bookmarks)
    }

    /// Notes an execution; `None` if no ledger is kept.
    pub fn note(
        &self,
        connection: u64,
        user: &str,
        query: &str,
        nonce: Option<&[u8]>,
    ) -> Option<u64> {
        if !self.has_ledger {
            return None;
        }
        let entry = Entry {
            sequence: self.shared.ledger_sequence.fetch_add(1, Relaxed),
            connection,
            user: user.into(),
            query: bounded(query),
            nonce: nonce.map(nonce_text),
            outcome: Outcome::Open,
        };
        Some(lock(&self.ledger).add(entry))
    }

    pub fn settle(&self, entries: &mut Vec<u64>, outcome: Outcome) {
        if !entries.is_empty() {
            let mut ledger = lock(&self.ledger);
            entries.drain(..).for_each(|id| ledger.settle(id, outcome));
        }
    }

    /// Takes a worker for a transaction; false if none is free.
    pub fn take_worker(&self) -> bool {
        let Some(limit) = self.options.worker_limit else { return true };
        let take = |busy: usize| (busy < limit).then_some(busy + 1);
        self.shared.workers_busy.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Gives back what `take_worker` took.
    pub fn free_worker(&self) {
        let free = |busy: usize| busy.checked_sub(1);
        if self.options.worker_limit.is_some() {
            let _ = self.shared.workers_busy.fetch_update(Relaxed, Relaxed, free);
        }
    }
}

/// A lock whose holder panicked still holds plain data.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
