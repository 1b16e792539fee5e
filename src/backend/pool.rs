//! One shard's connections to one server, and who waits for them. Pure.
//!
//! Owns: which connection is idle, leased, being dialled, cleaned, lent or closed; the queue of
//! waiters; how many dials are in flight. Does not own sockets: every change that needs one is an
//! `Order`, and the shell reports back with the method of the same event.
//!
//! ```text
//!   acquire ──► Dialing ──dialed──► Leased ⇄ Idle ──► Lending ──lent──► gone
//!                  │  ▲               │ checkin │
//!                  │  └─another user──│─────────┤
//!                  │ dial_failed      ▼ dirty   ▼ tick, noticed, eviction
//!                  │               Cleaning ─► Closing ──closed──► permit freed
//! ```
//!
//! `pool/balance.rs` decides who gets a free connection or permit, `pool/keys.rs` knows who is next
//! of all identities, `pool/reauth.rs` turns connections over to another user.
//!
//! Invariants: a connection is in exactly one state; each holds one permit from before its dial
//! until `closed` or `lent`; an idle one is READY, with nothing unread; no waiter waits while a
//! connection of its key is idle.

mod balance;
mod keys;
mod orders;
mod reauth;
mod refusals;

use crate::backend::identity::{Fingerprint, Identity};
use crate::backend::permits::Permits;
use crate::backend::planted::{Bug, Interleave, Planted};
use crate::backend::{Discard, Refusal};
use crate::wire::message::Failure;
use keys::{Key, Keys};
use slab::Slab;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use orders::{Acquired, DialFailure, Order, Want};

/// Dials in flight per server and shard: logins cost a server a password hash each.
pub const DIALS_MAX: u32 = 8;
/// Of these, for leases of one identity: a user whose logins take long must leave some to others.
pub const DIALS_OF_KEY_MAX: usize = 6;
/// Clients that may wait in one shard: as many as can be connected with 16-bit ports to one
/// address.
pub const WAITERS_MAX: usize = 65_536;
/// First pause after a failed dial; doubles up to the other bound. Up to a quarter is added, so
/// that shards do not dial together. Who waits makes a shard look again within a second.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(800);

/// Names a connection for as long as the process runs; numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId {
    pub index: u32,
    serial: u32,
}

/// Names a waiter; older ones are smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The bounds a pool works within.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    pub acquisition_timeout: Duration,
    pub max_lifetime: Duration,
    /// By how much each connection's lifetime is varied up or down.
    pub max_lifetime_jitter_percent: u32,
    pub idle_timeout: Duration,
    pub liveness_check: Duration,
    /// Idle connections may be turned over to users whose credentials the server has accepted not
    /// longer ago than this; `None` is never.
    pub reauth: Option<Duration>,
    /// This shard's share of the limit: above it a released connection goes to a shard that waits.
    pub claim: u32,
}

/// What a pool has done, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolCounters {
    pub opened: u64,
    pub closed: u64,
    pub borrowed: u64,
    pub lent: u64,
    pub acquired: u64,
    pub returned: u64,
    pub turned_over: u64,
    pub waited: u64,
    pub dial_failures: u64,
    pub double_returns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For a lease, or for the login with this ticket.
    Dialing(Option<Ticket>),
    Leased,
    Idle,
    Cleaning,
    Lending,
    Closing,
}

struct Entry {
    serial: u32,
    key: u32,
    state: State,
    born: Duration,
    /// When a client last returned it, or it came here.
    used: Duration,
    /// When it was last known to be READY.
    proved: Duration,
    /// Being cleaned because it lay idle for long, not because a client left it so.
    is_probed: bool,
    expires: Duration,
    /// The shard that gets the permit when it has closed.
    pass_to: Option<usize>,
    /// Closed so that a waiter here gets the permit.
    is_evicted: bool,
    /// Its login began before the server refused these credentials.
    is_stale: bool,
    /// Being turned over to another user: open, and counted so, while it is `Dialing`.
    is_turned: bool,
    /// For whom it was checked out, and until when that one would have waited.
    granted: Option<(Ticket, Duration)>,
    /// Checked out by a client at least once more than returned.
    is_counted: bool,
    /// A client of this shard has had it since it came here.
    has_served: bool,
}

struct Waiter {
    key: u32,
    want: Want,
    deadline: Duration,
}

/// See the module.
pub struct Pool {
    shard: usize,
    permits: Arc<Permits>,
    options: PoolOptions,
    keys: Keys,
    entries: Slab<Entry>,
    waiters: BTreeMap<Ticket, Waiter>,
    orders: VecDeque<Order>,
    serial: u32,
    next_ticket: u64,
    /// Permits in hand that no connection uses yet.
    spare: u32,
    evicting: usize,
    dialing: u32,
    is_announced: bool,
    is_draining: bool,
    /// Of the present event.
    now: Duration,
    down: Option<(String, Duration)>,
    failures: u32,
    seed: u64,
    pub counters: PoolCounters,
    pub planted: Planted,
    /// Runs between finding no permit and saying that this shard waits.
    pub interleave: Interleave,
}

impl Pool {
    /// `seed` makes the jitter of lifetimes and pauses.
    pub fn new(shard: usize, permits: Arc<Permits>, options: PoolOptions, seed: u64) -> Pool {
        Pool {
            shard,
            permits,
            options,
            keys: Keys::default(),
            entries: Slab::new(),
            waiters: BTreeMap::new(),
            orders: VecDeque::new(),
            serial: 0,
            next_ticket: 0,
            spare: 0,
            evicting: 0,
            dialing: 0,
            is_announced: false,
            is_draining: false,
            now: Duration::ZERO,
            down: None,
            failures: 0,
            seed,
            counters: PoolCounters::default(),
            planted: Planted::default(),
            interleave: Interleave::default(),
        }
    }

    /// The next thing the shell is to do.
    pub fn next_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// Checks a connection out, or queues for one.
    pub fn acquire(&mut self, identity: &Rc<Identity>, want: Want, now: Duration) -> Acquired {
        let key = self.key(identity);
        if want == Want::Lease {
            if let Some(failure) = &self.keys[key as usize].refused
                && !self.planted.has(Bug::StaleApproval)
            {
                return Acquired::Refused(Refusal::Server(failure.clone()));
            }
            if let Some(id) = self.keys[key as usize].idle.pop_back() {
                self.check_out(id);
                return Acquired::Now(id);
            }
        }
        if let Some(refusal) = self.refusal() {
            return Acquired::Refused(refusal);
        }
        let ticket = self.enqueue(key, want, now);
        self.balance(now);
        Acquired::Waiting(ticket)
    }

    /// The connection is READY, nothing is in flight and nothing unread.
    pub fn checkin(&mut self, id: ServerId, now: Duration) {
        let is_out = |entry: &&mut Entry| matches!(entry.state, State::Leased | State::Cleaning);
        if self.entry(id).filter(is_out).is_none() {
            self.counters.double_returns += 1;
            return;
        }
        let entry = self.entry(id).expect("looked up just now");
        let (key, expires) = (entry.key, entry.expires);
        entry.proved = now;
        // Else a probe would keep a connection from its idle limit for ever.
        if !std::mem::take(&mut entry.is_probed) {
            entry.used = now;
        }
        let was_counted = std::mem::take(&mut entry.is_counted);
        self.counters.returned += u64::from(was_counted);
        if self.is_draining {
            return self.close(id, Discard::Drain);
        }
        if self.keys[key as usize].refused.is_some() && !self.planted.has(Bug::StaleApproval) {
            return self.close(id, Discard::Revoked);
        }
        let identity = &self.keys[key as usize].identity;
        if identity.is_private && Rc::strong_count(identity) == 1 {
            return self.close(id, Discard::Private); // its one client has gone
        }
        if expires <= now {
            return self.close(id, Discard::Lifetime);
        }
        self.place(id, key, now);
        self.balance(now);
    }

    /// The connection needs a RESET before anybody else may have it; `checkin` or `close` follows.
    pub fn begin_cleaning(&mut self, id: ServerId) {
        if let Some(entry) = self.entry(id) {
            entry.state = State::Cleaning;
        }
    }

    /// Gives a connection up: leased, idle or being cleaned. `closed` follows.
    pub fn close(&mut self, id: ServerId, why: Discard) {
        let Some(entry) = self.entry(id) else { return };
        if matches!(entry.state, State::Closing | State::Dialing(_)) {
            return;
        }
        let (key, was_idle) = (entry.key, entry.state == State::Idle);
        entry.state = State::Closing;
        self.counters.returned += u64::from(std::mem::take(&mut entry.is_counted));
        if was_idle {
            self.keys[key as usize].idle.retain(|&other| other != id);
        }
        self.orders.push_back(Order::Close(id, why));
    }

    /// The socket has ended; its permit is free.
    pub fn closed(&mut self, id: ServerId, now: Duration) {
        let Some(entry) = self.entry(id) else { return };
        let (pass_to, was_evicted) = (entry.pass_to, entry.is_evicted);
        self.counters.closed += 1;
        self.evicting -= usize::from(was_evicted);
        self.remove(id);
        match pass_to {
            Some(shard) => self.orders.push_back(Order::PassPermit(shard)),
            None => self.spare += 1,
        }
        self.balance(now);
    }

    /// An idle connection got bytes or an end. False if it is not idle: then its owner sees it.
    pub fn noticed(&mut self, id: ServerId, why: Discard) -> bool {
        let is_idle = self.entry(id).is_some_and(|entry| entry.state == State::Idle);
        if is_idle {
            self.close(id, why);
        }
        is_idle
    }

    /// Handshake, HELLO and LOGON have succeeded.
    pub fn dialed(&mut self, id: ServerId, now: Duration) {
        let Some(entry) = self.entry(id) else { return };
        let State::Dialing(login) = entry.state else { return };
        entry.state = State::Leased;
        let (key, is_stale) = (entry.key, entry.is_stale);
        match std::mem::take(&mut entry.is_turned) {
            true => self.counters.turned_over += 1,
            false => self.counters.opened += 1,
        }
        (self.down, self.failures) = (None, 0);
        self.end_dial(key, login);
        if is_stale {
            self.close(id, Discard::Revoked);
            return self.balance(now);
        }
        let entry = &mut self.keys[key as usize];
        (entry.refused, entry.approved_at) = (None, Some(now));
        if let Some(ticket) = login {
            // Nobody is told twice: the waiter may have been refused while its dial was under way.
            if self.finish(ticket) {
                self.orders.push_back(Order::LoggedIn(ticket));
            }
        }
        self.checkin(id, now);
    }

    /// The dial failed and its socket has ended.
    pub fn dial_failed(&mut self, id: ServerId, failure: DialFailure, now: Duration) {
        let Some(entry) = self.entry(id) else { return };
        let State::Dialing(login) = entry.state else { return };
        let (key, was_open) = (entry.key, entry.is_turned);
        match was_open {
            true => self.counters.closed += 1,
            false => self.counters.dial_failures += 1,
        }
        self.set_now(now);
        self.end_dial(key, login);
        self.remove(id);
        self.spare += 1;
        match failure {
            DialFailure::Unreachable(text) => self.server_down(login, text, now),
            DialFailure::Slow(text) => self.login_slow(key, login, text),
            DialFailure::Refused(failure) => self.login_refused(key, login, failure),
            DialFailure::VersionRefused => self.version_refused(key),
            DialFailure::PatchRefused => self.refuse_waiters(key, &Refusal::PatchRefused),
            DialFailure::Lost => {}
        }
        self.balance(now);
    }

    /// A connection that another shard lent has arrived, armed and drained; `checkin` follows.
    /// `None`: nobody here knows its identity any more; close it and report `permit_arrived`.
    pub fn borrowed(
        &mut self,
        fingerprint: Fingerprint,
        born: Duration,
        expires: Duration,
    ) -> Option<ServerId> {
        let key = self.keys.find(fingerprint)?;
        let id = self.insert(key, State::Leased, born, expires);
        self.counters.borrowed += 1;
        self.is_announced = false;
        Some(id)
    }

    /// A connection that is to be lent was taken off the ring. True if nothing was unread: send it
    /// on its way, it is not this shard's any more. Else it is closed, and the other shard gets its
    /// permit.
    pub fn detached(&mut self, id: ServerId, is_quiet: bool) -> bool {
        let is_lent = is_quiet || self.planted.has(Bug::LendUnread);
        match is_lent {
            true => self.lent(id),
            false => self.close(id, Discard::Unread),
        }
        is_lent
    }

    /// The connection is on its way to another shard, with its permit.
    pub fn lent(&mut self, id: ServerId) {
        if self.entry(id).is_some_and(|entry| entry.state == State::Lending) {
            self.counters.lent += 1;
            self.remove(id);
        }
    }

    /// Another shard passed a permit on.
    pub fn permit_arrived(&mut self, now: Duration) {
        self.is_announced = false;
        self.spare += 1;
        self.balance(now);
    }

    /// A waiter has gone. What was granted to it already must be returned by the shell.
    pub fn cancel(&mut self, ticket: Ticket, now: Duration) {
        self.finish(ticket);
        self.balance(now);
    }

    /// The server refuses these credentials: nobody gets a connection of theirs until a login
    /// succeeds.
    /// False if nobody here has used them.
    pub fn revoke(
        &mut self,
        fingerprint: Fingerprint,
        failure: Box<Failure>,
        now: Duration,
    ) -> bool {
        let key = self.keys.find(fingerprint);
        if let Some(key) = key {
            self.set_now(now);
            self.refuse_key(key, &failure, false);
            self.balance(now);
        }
        key.is_some()
    }

    /// A login of these credentials has succeeded at the time `at`, here or in another shard. One
    /// from before a refusal says nothing.
    pub fn forgive(&mut self, identity: &Rc<Identity>, at: Duration) {
        let key = self.key(identity);
        let entry = &mut self.keys[key as usize];
        if entry.refused.is_some() && at < entry.refused_at {
            return;
        }
        (entry.refused, entry.approved_at) = (None, entry.approved_at.max(Some(at)));
    }

    /// A private identity's client has gone: its idle connections are of no use.
    pub fn retire(&mut self, fingerprint: Fingerprint) {
        if let Some(key) = self.keys.find(fingerprint) {
            let idle: Vec<ServerId> = self.keys[key as usize].idle.iter().copied().collect();
            idle.into_iter().for_each(|id| self.close(id, Discard::Private));
        }
    }

    /// When a connection dialled at `born` is too old.
    pub fn expiry(&mut self, born: Duration) -> Duration {
        let jitter = self.options.max_lifetime * self.options.max_lifetime_jitter_percent / 100;
        born + self.options.max_lifetime - jitter + self.spread(jitter * 2)
    }

    /// For the connection's way to another shard: fingerprint, birth and expiry.
    pub fn passport(&mut self, id: ServerId) -> Option<(Fingerprint, Duration, Duration)> {
        let entry =
            self.entries.get(id.index as usize).filter(|entry| entry.serial == id.serial)?;
        let fingerprint = self.keys[entry.key as usize].identity.fingerprint;
        Some((fingerprint, entry.born, entry.expires))
    }

    /// Connections of this shard by state: leased, idle, other.
    pub fn census(&self) -> (usize, usize, usize) {
        let count = |state| self.entries.iter().filter(|(_, entry)| entry.state == state).count();
        let (leased, idle) = (count(State::Leased), count(State::Idle));
        (leased, idle, self.entries.len() - leased - idle)
    }

    /// Ids of the idle connections, for the shell that watches them.
    pub fn idle(&self) -> impl Iterator<Item = ServerId> + '_ {
        self.keys.iter().flat_map(|key| key.idle.iter().copied())
    }

    pub fn waiters(&self) -> usize {
        self.waiters.len()
    }

    fn entry(&mut self, id: ServerId) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(id.index as usize)?;
        (entry.serial == id.serial).then_some(entry)
    }
}

#[cfg(test)]
mod tests;
