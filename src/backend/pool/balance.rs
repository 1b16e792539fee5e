//! Who gets what: waiters of this shard against each other, and this shard against the others.

use super::{DIALS_MAX, Entry, Order, Pool, ServerId, State, Ticket, WAITERS_MAX, Waiter, Want};
use crate::backend::identity::Identity;
use crate::backend::planted::Bug;
use crate::backend::{Discard, Refusal};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

impl Pool {
    /// Another shard waits: give it what lies idle here.
    pub fn others_wait(&mut self) {
        let mut after = self.shard;
        while let Some((shard, wanted)) = self.permits.waiting_after(after) {
            if shard == self.shard {
                return; // all the way round
            }
            let Some(id) = self.spare_idle(wanted) else { return };
            if self.permits.answer(shard) {
                self.give_up(id, shard, wanted);
            }
            after = shard;
        }
    }

    /// Deadlines: waiters, pauses after failed dials, lifetimes, idle limits, liveness.
    pub fn tick(&mut self, now: Duration) {
        // Kept, `next_deadline` would stay in the past.
        self.down.take_if(|(_, until)| *until <= now);
        while let Some((&ticket, waiter)) = self.waiters.first_key_value() {
            if waiter.deadline > now {
                break;
            }
            self.refuse(ticket, Refusal::TimedOut);
        }
        let idle: Vec<ServerId> = self.idle().collect();
        for id in idle {
            let Some(entry) = self.entry(id) else { continue };
            let (used, proved, expires) = (entry.used, entry.proved, entry.expires);
            if expires <= now {
                self.close(id, Discard::Lifetime);
            } else if used + self.options.idle_timeout <= now {
                self.close(id, Discard::IdleTimeout);
            } else if proved + self.options.liveness_check <= now {
                self.probe(id);
            }
        }
        self.keys.forget_unused();
        self.balance(now);
    }

    /// When `tick` has something to do at the latest: the oldest waiter's deadline or the pause
    /// after a failure.
    pub fn next_deadline(&self) -> Option<Duration> {
        let waiter = self.waiters.first_key_value().map(|(_, waiter)| waiter.deadline);
        let pause = self.down.as_ref().filter(|_| waiter.is_some()).map(|(_, until)| *until);
        let key_pause = self.keys.pause_ends().filter(|_| waiter.is_some());
        waiter.into_iter().chain(pause).chain(key_pause).min()
    }

    /// Refuses whoever waits, closes what is idle; leased ones close when they come back.
    pub fn drain(&mut self) {
        self.is_draining = true;
        let waiting: Vec<Ticket> = self.waiters.keys().copied().collect();
        waiting.into_iter().for_each(|ticket| self.refuse(ticket, Refusal::Draining));
        let idle: Vec<ServerId> = self.idle().collect();
        idle.into_iter().for_each(|id| self.close(id, Discard::Drain));
        self.balance(self.now); // nobody waits here any more, and the others hear of it
    }

    /// Serves waiters with permits, first come, first served, until something has to be waited for.
    pub(super) fn balance(&mut self, now: Duration) {
        self.set_now(now);
        while let Some((key, ticket)) = self.keys.neediest() {
            if !self.may_dial(now) {
                break;
            }
            if self.spare > 0 || self.permits.try_take() {
                self.spare = self.spare.saturating_sub(1);
                self.dial(key, ticket, now);
            } else if self.evicting >= self.keys.uncovered() {
                break;
            } else if let Some(id) = self.turnable(key).filter(|_| self.is_lease(ticket)) {
                self.turn_over(id, key);
            } else if let Some(id) = self.spare_idle(0) {
                self.evict(id);
            } else if !self.announce(key) {
                break;
            }
        }
        // What cannot be used just now must not come back to the hand that gives it away.
        // The word may stand there without `is_announced`: a second look was lucky, or an answer
        // came late.
        if self.keys.is_nobody_waiting() || self.spare > 0 {
            self.is_announced = false;
            self.permits.withdraw(self.shard);
        }
        while self.spare > 0 {
            self.spare -= 1;
            if let Some(shard) = self.permits.release() {
                self.orders.push_back(Order::PassPermit(shard));
            }
        }
        // Nobody here needs what lies idle: a bell that rang while everything was in use is heard
        // now.
        if self.evicting >= self.keys.uncovered() {
            self.others_wait();
        }
    }

    /// Says that this shard waits, and looks again. True if there is a permit after all.
    fn announce(&mut self, key: u32) -> bool {
        let wanted = self.keys[key as usize].identity.fingerprint.word();
        self.interleave.run();
        self.permits.announce(self.shard, wanted);
        if !self.planted.has(Bug::NoSecondLook) && self.permits.try_take() {
            self.spare += 1;
            return true;
        }
        if !std::mem::replace(&mut self.is_announced, true) {
            self.orders.push_back(Order::RingOthers);
        }
        false
    }

    /// Where a connection that has just become READY goes.
    pub(super) fn place(&mut self, id: ServerId, key: u32, now: Duration) {
        self.set_now(now);
        // One that came for a waiter here serves it first: two shards that both wait would else
        // hand it to and fro for ever.
        let has_served = self.entry(id).is_some_and(|entry| entry.has_served);
        let is_above_claim = self.entries.len() as u32 > self.options.claim;
        if (self.waiters.is_empty() || is_above_claim && has_served)
            && let Some((shard, wanted)) = self.permits.waiting_after(self.shard)
            && shard != self.shard
            && self.permits.answer(shard)
        {
            return self.give_up(id, shard, wanted);
        }
        let same = self.keys[key as usize].queue.front().copied();
        // A permit is of no use to whoever waits for a pause to end.
        if self.may_dial(now)
            && let Some((other, ticket)) = self.keys.neediest()
            && other != key
            && self.is_preferred(other, ticket, key, same)
        {
            let can_turn = self.is_lease(ticket) && self.dialing < DIALS_MAX;
            return match can_turn && self.may_turn(key, other) {
                true => self.turn_over(id, other),
                false => self.evict(id),
            };
        }
        match same {
            Some(ticket) => {
                let deadline = self.waiters.get(&ticket).map(|waiter| waiter.deadline);
                self.finish(ticket);
                self.check_out(id);
                self.entry(id).expect("the caller has looked it up").granted =
                    deadline.map(|deadline| (ticket, deadline));
                self.orders.push_back(Order::Grant(ticket, id));
            }
            None => {
                let entry = self.entry(id).expect("the caller has looked it up");
                entry.state = State::Idle;
                let used = entry.used;
                let (entries, idle) = (&self.entries, &mut self.keys[key as usize].idle);
                // A probed connection goes back to its place; all others to the end.
                let is_older = |other: &ServerId| entries[other.index as usize].used <= used;
                let at = idle.iter().rposition(is_older).map_or(0, |at| at + 1);
                idle.insert(at, id);
            }
        }
    }

    /// Whether a permit could be used now.
    fn may_dial(&self, now: Duration) -> bool {
        let is_paused = self.down.as_ref().is_some_and(|(_, until)| now < *until);
        self.dialing < DIALS_MAX && !is_paused
    }

    /// Whether a waiter of another key should have the permit of a connection of `key`. Older
    /// waiters come first, but only towards balance: else two busy identities would close each
    /// other's connections for ever.
    fn is_preferred(&self, other: u32, ticket: Ticket, key: u32, same: Option<Ticket>) -> bool {
        if self.evicting >= self.keys.uncovered() {
            return false;
        }
        if self.permits.open() < self.permits.limit() {
            return false; // a dial serves the other
        }
        let Some(same) = same else { return true };
        // It may be wrong, and those who are in are about to have one more that it could take.
        if !self.is_lease(ticket) && self.keys[key as usize].dialing > 0 {
            return false;
        }
        let (theirs, ours) = (self.keys[other as usize].held, self.keys[key as usize].held);
        ticket < same && (theirs == 0 || ours > theirs + 1)
    }

    /// Uses a permit.
    fn dial(&mut self, key: u32, ticket: Ticket, now: Duration) {
        let is_login = !self.is_lease(ticket);
        let expires = self.expiry(now);
        let login = is_login.then_some(ticket);
        let id = self.insert(key, State::Dialing(login), now, expires);
        self.dialing += 1;
        let entry = &mut self.keys[key as usize];
        if is_login {
            entry.logins.retain(|&other| other != ticket);
        } else {
            entry.dialing += 1;
        }
        let identity = entry.identity.clone();
        self.keys.settle(key, self.now);
        self.orders.push_back(Order::Dial(id, identity));
    }

    fn is_lease(&self, ticket: Ticket) -> bool {
        self.waiters.get(&ticket).is_some_and(|waiter| waiter.want == Want::Lease)
    }

    pub(super) fn end_dial(&mut self, key: u32, login: Option<Ticket>) {
        self.dialing -= 1;
        if login.is_none() {
            self.keys[key as usize].dialing -= 1;
        }
        self.keys.settle(key, self.now);
    }

    /// An idle connection to give away: one of the identity `wanted` if there is one, else the
    /// oldest. Private ones come last: their logins may be for one use.
    fn spare_idle(&self, wanted: u64) -> Option<ServerId> {
        let key = |entry: &Entry| &self.keys[entry.key as usize];
        let mut oldest = None;
        for (id, entry) in self.idle_entries() {
            let identity = &key(entry).identity;
            if identity.fingerprint.word() == wanted {
                return key(entry).idle.front().copied();
            }
            let order = (identity.is_private, entry.used, id);
            oldest = Some(oldest.map_or(order, |before| order.min(before)));
        }
        oldest.map(|(.., id)| id)
    }

    /// Idle connections, of which there are `pool.size` at most: identities may be many more.
    pub(super) fn idle_entries(&self) -> impl Iterator<Item = (ServerId, &Entry)> {
        let idle = self.entries.iter().filter(|(_, entry)| entry.state == State::Idle);
        idle.map(|(index, entry)| (ServerId { index: index as u32, serial: entry.serial }, entry))
    }

    /// Lends the connection to another shard if that wants its identity, else closes it and passes
    /// the permit on.
    fn give_up(&mut self, id: ServerId, shard: usize, wanted: u64) {
        let Some(entry) = self.entry(id) else { return };
        entry.pass_to = Some(shard);
        let (key, was_idle) = (entry.key, entry.state == State::Idle);
        if self.keys[key as usize].identity.fingerprint.word() != wanted {
            return self.close(id, Discard::GivenUp);
        }
        if was_idle {
            self.keys[key as usize].idle.retain(|&other| other != id);
        }
        self.entry(id).expect("looked up above").state = State::Lending;
        self.orders.push_back(Order::Lend(id, shard));
    }

    fn evict(&mut self, id: ServerId) {
        if let Some(entry) = self.entry(id) {
            entry.is_evicted = true;
            self.evicting += 1;
            self.close(id, Discard::Evicted);
        }
    }

    /// RESET for an idle connection that has not been used for long.
    fn probe(&mut self, id: ServerId) {
        let Some(entry) = self.entry(id) else { return };
        (entry.state, entry.is_probed) = (State::Cleaning, true);
        let key = entry.key;
        self.keys[key as usize].idle.retain(|&other| other != id);
        self.orders.push_back(Order::Probe(id));
    }

    /// Why nobody may wait here. A server that could not be dialled is no reason: it may be back,
    /// and whoever waits has it looked for when the pause is over.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        if self.is_draining {
            return Some(Refusal::Draining);
        }
        (self.waiters.len() >= WAITERS_MAX).then_some(Refusal::QueueFull)
    }

    pub(super) fn enqueue(&mut self, key: u32, want: Want, now: Duration) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let deadline = now + self.options.acquisition_timeout;
        self.waiters.insert(ticket, Waiter { key, want, deadline });
        self.counters.waited += 1;
        match want {
            Want::Lease => self.keys[key as usize].queue.push_back(ticket),
            Want::Login => self.keys[key as usize].logins.push_back(ticket),
        }
        self.keys.settle(key, self.now);
        ticket
    }

    pub(super) fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        if self.finish(ticket) {
            self.orders.push_back(Order::Refuse(ticket, refusal));
        }
    }

    /// Takes a waiter out of its queue; false if it was not there.
    pub(super) fn finish(&mut self, ticket: Ticket) -> bool {
        let Some(waiter) = self.waiters.remove(&ticket) else { return false };
        let key = &mut self.keys[waiter.key as usize];
        let take = |queue: &mut VecDeque<Ticket>| match queue.front() == Some(&ticket) {
            true => drop(queue.pop_front()),
            false => queue.retain(|&other| other != ticket),
        };
        match waiter.want {
            Want::Lease => take(&mut key.queue),
            Want::Login => take(&mut key.logins),
        }
        self.keys.settle(waiter.key, self.now);
        true
    }

    /// The identity's number here; made at its first use.
    pub(super) fn key(&mut self, identity: &Rc<Identity>) -> u32 {
        self.keys.find(identity.fingerprint).unwrap_or_else(|| self.keys.add(identity))
    }

    /// The same identity as the pool knows it. A private one is told by its own value.
    pub fn known_identity(&self, identity: &Identity) -> Option<Rc<Identity>> {
        let key = self.keys.find(identity.fingerprint)?;
        (!identity.is_private).then(|| self.keys[key as usize].identity.clone())
    }

    /// Time goes on: pauses end.
    pub(super) fn set_now(&mut self, now: Duration) {
        self.now = now;
        self.keys.resume(now);
    }

    pub(super) fn insert(
        &mut self,
        key: u32,
        state: State,
        born: Duration,
        expires: Duration,
    ) -> ServerId {
        self.serial = self.serial.wrapping_add(1);
        let entry = Entry {
            serial: self.serial,
            key,
            state,
            born,
            used: born,
            proved: born,
            is_probed: false,
            expires,
            pass_to: None,
            is_evicted: false,
            is_stale: false,
            is_turned: false,
            granted: None,
            is_counted: false,
            has_served: false,
        };
        self.keys[key as usize].held += 1;
        ServerId { index: self.entries.insert(entry) as u32, serial: self.serial }
    }

    pub(super) fn remove(&mut self, id: ServerId) {
        let entry = self.entries.remove(id.index as usize);
        self.keys[entry.key as usize].held -= 1;
    }

    pub(super) fn check_out(&mut self, id: ServerId) {
        self.counters.acquired += 1;
        let entry = self.entry(id).expect("idle and fresh connections have entries");
        (entry.state, entry.is_counted, entry.has_served) = (State::Leased, true, true);
        entry.granted = None;
    }

    /// A value below `bound` from the pool's own generator (splitmix64).
    pub(super) fn spread(&mut self, bound: Duration) -> Duration {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.seed;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_nanos((value ^ value >> 31) % (bound.as_nanos() as u64).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BACKOFF_MAX, BACKOFF_MIN};
    use super::*;
    use crate::backend::identity::{FingerprintKey, samples};
    use crate::backend::permits::Permits;
    use crate::backend::pool::{Acquired, DialFailure, PoolOptions};
    use std::sync::Arc;

    const NOW: Duration = Duration::from_secs(1);

    fn pool(size: u32) -> (Pool, Arc<Permits>) {
        let minute = Duration::from_secs(60);
        let options = PoolOptions {
            acquisition_timeout: minute,
            max_lifetime: minute,
            max_lifetime_jitter_percent: 0,
            idle_timeout: minute,
            liveness_check: minute,
            reauth: None,
            claim: size,
        };
        let permits = Arc::new(Permits::new(size));
        (Pool::new(0, permits.clone(), options, 1), permits)
    }

    fn identity() -> Rc<Identity> {
        samples::identity("neo4j")
    }

    fn dials(pool: &mut Pool) -> Vec<ServerId> {
        let orders = std::iter::from_fn(|| pool.next_order());
        orders
            .filter_map(|order| match order {
                Order::Dial(id, _) => Some(id),
                Order::PassPermit(shard) => panic!("shard {shard} was given its own permit"),
                _ => None,
            })
            .collect()
    }

    fn unreachable() -> DialFailure {
        DialFailure::Unreachable("gone".into())
    }

    #[test]
    fn a_permit_that_cannot_be_used_during_a_pause_is_free_again() {
        let (mut pool, permits) = pool(2);
        let identity = identity();
        for _ in 0..3 {
            let acquired = pool.acquire(&identity, Want::Lease, NOW);
            assert!(matches!(acquired, Acquired::Waiting(_)));
        }
        let dialled = dials(&mut pool);
        assert_eq!((dialled.len(), permits.open()), (2, 2));
        pool.dialed(dialled[0], NOW);
        pool.dial_failed(dialled[1], unreachable(), NOW);
        assert!(dials(&mut pool).is_empty());
        assert_eq!((permits.open(), pool.waiters()), (1, 2));
        let after = NOW + BACKOFF_MAX;
        pool.tick(after);
        assert_eq!((dials(&mut pool).len(), permits.open()), (1, 2));
    }

    #[test]
    fn a_pause_costs_nobody_else_a_connection() {
        let (mut pool, permits) = pool(8);
        let (warm, other) = (identity(), samples::identity("other"));
        pool.acquire(&warm, Want::Lease, NOW);
        let kept = dials(&mut pool)[0];
        pool.dialed(kept, NOW);
        pool.acquire(&other, Want::Lease, NOW);
        let failing = dials(&mut pool)[0];
        pool.acquire(&other, Want::Lease, NOW);
        let failing_too = dials(&mut pool)[0];
        pool.dial_failed(failing, unreachable(), NOW);
        pool.dial_failed(failing_too, unreachable(), NOW);
        assert!(pool.waiters() > 0, "they wait for the pause to end");
        // Dialling is held up, and not for want of permits: closing this one would help nobody.
        pool.checkin(kept, NOW);
        assert_eq!((pool.census().1, permits.open()), (1, 1));
        pool.tick(NOW + BACKOFF_MAX);
        assert!(!dials(&mut pool).is_empty() && pool.census().1 == 1);
    }

    #[test]
    fn a_word_that_a_late_answer_left_standing_is_withdrawn() {
        let (mut pool, permits) = pool(1);
        let identity = identity();
        pool.acquire(&identity, Want::Lease, NOW);
        let dialled = dials(&mut pool);
        let Acquired::Waiting(ticket) = pool.acquire(&identity, Want::Lease, NOW) else {
            panic!("the only permit is in use")
        };
        pool.dialed(dialled[0], NOW);
        // What others were told before is answered now.
        permits.announce(0, 0);
        pool.cancel(ticket, NOW);
        assert!(!permits.answer(0), "nobody waits here any more");
        pool.close(dialled[0], Discard::ServerClosed);
        pool.closed(dialled[0], NOW);
        assert!(dials(&mut pool).is_empty());
        assert_eq!(permits.open(), 0);
    }

    #[test]
    fn clients_of_one_identity_share_its_value_and_private_ones_do_not() {
        let (mut pool, _) = pool(1);
        let (first, second) = (identity(), identity());
        assert!(pool.known_identity(&second).is_none());
        pool.acquire(&first, Want::Lease, NOW);
        let known = pool.known_identity(&second).unwrap();
        assert!(Rc::ptr_eq(&known, &first));
        let key = FingerprintKey::new(&[7; 32]);
        let private = key.identity(first.profile.clone(), first.auth.clone(), Some(7));
        pool.acquire(
            &Rc::new(key.identity(first.profile.clone(), first.auth.clone(), Some(7))),
            Want::Lease,
            NOW,
        );
        assert!(pool.known_identity(&private).is_none());
    }

    #[test]
    fn dials_that_one_outage_ends_count_once() {
        let (mut pool, _) = pool(8);
        let identity = identity();
        for _ in 0..8 {
            pool.acquire(&identity, Want::Lease, NOW);
        }
        for id in dials(&mut pool) {
            pool.dial_failed(id, unreachable(), NOW);
        }
        // The first pause with its jitter, not the longest.
        pool.acquire(&identity, Want::Lease, NOW);
        pool.tick(NOW + BACKOFF_MIN * 2);
        assert_eq!(dials(&mut pool).len(), 1);
    }

    /// A server that is away for a minute, with somebody always waiting: how often it is dialled,
    /// and when at last after it is back.
    #[test]
    fn who_waits_has_a_lost_server_looked_for_soon_and_not_too_often() {
        const STEP: Duration = Duration::from_millis(10);
        let (mut pool, _) = pool(64);
        let identities: Vec<_> =
            (0..20).map(|user| samples::identity(&format!("user{user}"))).collect();
        let (mut now, mut attempts, mut refused) = (NOW, Vec::new(), 0);
        let back = NOW + Duration::from_secs(60);
        while attempts.last().is_none_or(|at| *at < back) {
            for identity in &identities {
                let acquired = pool.acquire(identity, Want::Lease, now);
                assert!(matches!(acquired, Acquired::Waiting(_)), "nobody is sent away unasked");
            }
            pool.tick(now);
            while let Some(order) = pool.next_order() {
                match order {
                    Order::Dial(id, _) => {
                        attempts.push(now);
                        pool.dial_failed(id, unreachable(), now);
                    }
                    Order::Refuse(..) => refused += 1,
                    _ => {}
                }
            }
            now += STEP;
        }
        let gap = attempts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(gap <= Duration::from_secs(1), "{gap:?} between two attempts");
        let in_second = |second: u32| {
            let from = NOW + Duration::from_secs(1) * second;
            let to = from + Duration::from_secs(1);
            attempts.iter().filter(|&&at| from <= at && at < to).count()
        };
        // Two pauses may end within a second, each with as many dials as may be in flight.
        let busiest = (5..60).map(in_second).max().unwrap();
        assert!(busiest <= 2 * DIALS_MAX as usize, "{busiest} dials in a second");
        assert!(in_second(0) <= 6 * DIALS_MAX as usize, "{} at the beginning", in_second(0));
        assert!(refused > 0, "who waited is told when the dial has failed");
    }

    #[test]
    fn shards_that_lost_a_server_together_do_not_dial_it_together() {
        let second = |seed| {
            let (pool, permits) = pool(8);
            let mut pool = Pool::new(0, permits, pool.options, seed);
            let mut now = NOW;
            for _ in 0..10 {
                pool.acquire(&identity(), Want::Lease, now);
                now = pool.next_deadline().unwrap().min(now + BACKOFF_MAX * 2);
                pool.tick(now);
                dials(&mut pool).into_iter().for_each(|id| {
                    pool.dial_failed(id, unreachable(), now);
                });
            }
            now
        };
        let mut ends: Vec<Duration> = (1..=8).map(second).collect();
        ends.sort();
        ends.dedup();
        assert_eq!(ends.len(), 8);
    }

    /// Thousands of identities wait for one connection: each event looks at a few of them, and they
    /// are served in the order in which they came.
    #[test]
    fn a_checkin_does_not_look_at_all_who_wait() {
        const USERS: usize = 10_000;
        let (mut pool, _) = pool(1);
        let identities: Vec<_> =
            (0..USERS).map(|user| samples::identity(&user.to_string())).collect();
        let mut tickets = Vec::new();
        for identity in &identities {
            match pool.acquire(identity, Want::Lease, NOW) {
                Acquired::Waiting(ticket) => tickets.push(ticket),
                other => panic!("the first dial is under way: {other:?}"),
            }
        }
        let (mut granted, mut dialled) = (Vec::new(), 0);
        while let Some(order) = pool.next_order() {
            match order {
                Order::Dial(id, identity) => {
                    assert!(Rc::ptr_eq(&identity, &identities[dialled]));
                    dialled += 1;
                    pool.dialed(id, NOW);
                }
                Order::Grant(ticket, id) => {
                    granted.push(ticket);
                    pool.checkin(id, NOW);
                }
                Order::Close(id, why) => {
                    assert_eq!(why, Discard::Evicted);
                    pool.closed(id, NOW);
                }
                Order::RingOthers => {}
                other => panic!("{other:?}"),
            }
            // As the keeper does after each event.
            pool.next_deadline();
        }
        assert_eq!(granted, tickets);
        let looks = pool.keys.looks.get();
        assert!(looks < 60 * USERS as u64, "{looks} looks for {USERS} identities");
    }
}
