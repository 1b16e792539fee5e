//! The identities that one pool knows, and which of them is served next. Pure.
//!
//! Owns: each identity's queues and what is known of it; the line of those that a dial would help.
//! Does not own: connections, deadlines. An event looks at the identities it is about and at no
//! others, however many wait: only `forget_unused` and whoever wants all idle connections walk.
//!
//! Invariants: after `settle` the line has an identity once, by its oldest waiter that may be
//! dialled for and that no dial in flight will serve; `uncovered` is the sum over the line.

use super::{DIALS_OF_KEY_MAX, ServerId, Ticket};
use crate::backend::identity::{Fingerprint, Identity};
use crate::wire::message::Failure;
use slab::Slab;
#[cfg(test)]
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::{Index, IndexMut};
use std::rc::Rc;
use std::time::Duration;

pub(super) struct Key {
    pub identity: Rc<Identity>,
    /// Least recently used first.
    pub idle: VecDeque<ServerId>,
    pub queue: VecDeque<Ticket>,
    pub logins: VecDeque<Ticket>,
    /// Dials for leases in flight.
    pub dialing: usize,
    /// Connections in any state.
    pub held: u32,
    /// The server's refusal; ends with the next accepted login.
    pub refused: Option<Box<Failure>>,
    /// When that was.
    pub refused_at: Duration,
    /// When the server last accepted these credentials, as far as this shard knows.
    pub approved_at: Option<Duration>,
    /// No dial for a lease before that: the server said "not now" to one.
    paused_until: Duration,
    /// As of the last `settle`.
    settled: Need,
}

/// What an identity waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Need {
    /// The oldest waiter that no dial in flight will serve.
    next: Option<Ticket>,
    /// How many there are of them.
    uncovered: usize,
    has_waiters: bool,
}

/// See the module. Change queues, `dialing` and pauses, then say `settle`.
#[derive(Default)]
pub(super) struct Keys {
    all: Slab<Key>,
    by_fingerprint: HashMap<Fingerprint, u32>,
    line: BTreeSet<(Ticket, u32)>,
    paused: BTreeSet<(Duration, u32)>,
    uncovered: usize,
    /// Keys with waiters.
    needy: usize,
    /// How often a key was looked at.
    #[cfg(test)]
    pub looks: Cell<u64>,
}

impl Keys {
    pub fn find(&self, fingerprint: Fingerprint) -> Option<u32> {
        self.by_fingerprint.get(&fingerprint).copied()
    }

    /// Makes room for an identity that is not known yet.
    pub fn add(&mut self, identity: &Rc<Identity>) -> u32 {
        let key = self.all.insert(Key {
            identity: identity.clone(),
            idle: VecDeque::new(),
            queue: VecDeque::new(),
            logins: VecDeque::new(),
            dialing: 0,
            held: 0,
            refused: None,
            refused_at: Duration::ZERO,
            approved_at: None,
            paused_until: Duration::ZERO,
            settled: Need::default(),
        }) as u32;
        self.by_fingerprint.insert(identity.fingerprint, key);
        key
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.all.iter().map(|(_, key)| {
            self.note_look();
            key
        })
    }

    /// The oldest waiter of all that no dial in flight will serve.
    pub fn neediest(&self) -> Option<(u32, Ticket)> {
        self.line.first().map(|&(ticket, key)| (key, ticket))
    }

    /// Waiters that no dial in flight will serve, and that may be dialled for.
    pub fn uncovered(&self) -> usize {
        self.uncovered
    }

    pub fn is_nobody_waiting(&self) -> bool {
        self.needy == 0
    }

    /// When the next pause ends.
    pub fn pause_ends(&self) -> Option<Duration> {
        self.paused.first().map(|&(until, _)| until)
    }

    /// No dial for a lease of this key until then.
    pub fn pause(&mut self, key: u32, until: Duration, now: Duration) {
        let before = std::mem::replace(&mut self[key as usize].paused_until, until);
        self.paused.remove(&(before, key));
        self.paused.insert((until, key));
        self.settle(key, now);
    }

    /// Ends the pauses that are over.
    pub fn resume(&mut self, now: Duration) {
        while let Some(&(until, key)) = self.paused.first()
            && until <= now
        {
            self.paused.pop_first();
            self.settle(key, now);
        }
    }

    /// Puts the key where it belongs in the line.
    pub fn settle(&mut self, key: u32, now: Duration) {
        let need = self[key as usize].need(now);
        let before = std::mem::replace(&mut self[key as usize].settled, need);
        if before.next != need.next {
            before.next.map(|ticket| self.line.remove(&(ticket, key)));
            need.next.map(|ticket| self.line.insert((ticket, key)));
        }
        self.uncovered = self.uncovered - before.uncovered + need.uncovered;
        self.needy = self.needy - usize::from(before.has_waiters) + usize::from(need.has_waiters);
    }

    /// Keys without connections and waiters whose identity no client has any more.
    pub fn forget_unused(&mut self) {
        let Keys { all, by_fingerprint, paused, .. } = self;
        all.retain(|index, key| {
            let is_used = key.held > 0
                || !key.queue.is_empty()
                || !key.logins.is_empty()
                || Rc::strong_count(&key.identity) > 1;
            if !is_used {
                by_fingerprint.remove(&key.identity.fingerprint);
                paused.remove(&(key.paused_until, index as u32));
            }
            is_used
        });
    }

    fn note_look(&self) {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
    }
}

impl Key {
    fn need(&self, now: Duration) -> Need {
        let room = if self.paused_until <= now { DIALS_OF_KEY_MAX } else { 0 };
        let leases = self.queue.len().min(room).saturating_sub(self.dialing);
        let lease = self.queue.get(self.dialing).filter(|_| leases > 0);
        Need {
            next: lease.into_iter().chain(self.logins.front()).min().copied(),
            uncovered: self.logins.len() + leases,
            has_waiters: !self.queue.is_empty() || !self.logins.is_empty(),
        }
    }
}

impl Index<usize> for Keys {
    type Output = Key;

    fn index(&self, key: usize) -> &Key {
        self.note_look();
        &self.all[key]
    }
}

impl IndexMut<usize> for Keys {
    fn index_mut(&mut self, key: usize) -> &mut Key {
        self.note_look();
        &mut self.all[key]
    }
}
