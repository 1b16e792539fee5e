//! What a refused dial or login means for those who wait.

use super::*;
use std::time::Duration;

/// After a FAILURE like "too many logins" or "no threads": Neo4j's lock after failed logins is 5 s
/// (`auth_lock_time`), and a try a second is cheap.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

impl Pool {
    /// The server let the login in, but only to change the password; the socket has ended.
    pub fn dial_expired(&mut self, id: ServerId, now: Duration) {
        let Some(entry) = self.entry(id) else { return };
        let State::Dialing(login) = entry.state else { return };
        let key = entry.key;
        self.counters.closed += u64::from(entry.is_turned);
        self.end_dial(key, login);
        self.remove(id);
        self.spare += 1;
        self.login_expired(key, login);
        self.balance(now);
    }

    /// A connection that was granted has ended on its way: whoever waited for it waits on, with the
    /// place and the deadline of before. Say `close` first.
    pub fn grant_lost(&mut self, id: ServerId, now: Duration) {
        let Some(entry) = self.entry(id) else { return };
        let (key, granted) = (entry.key, entry.granted.take());
        if let Some((ticket, deadline)) = granted {
            self.wait_again(key, ticket, deadline);
            self.balance(now);
        }
    }

    /// Nothing can be dialled: whoever waits for that is told, and the next try comes after a
    /// pause.
    pub(super) fn server_down(&mut self, login: Option<Ticket>, text: String, now: Duration) {
        let until = match self.down {
            // This dial was in flight when the pause began: one outage, not the next.
            Some((_, until)) if now < until => until,
            _ => {
                let pause = BACKOFF_MAX.min(BACKOFF_MIN * (1 << self.failures.min(6)));
                self.failures += 1;
                now + pause + self.spread(pause / 4)
            }
        };
        let refusal = Refusal::Unreachable(text.clone());
        if let Some(ticket) = login {
            self.refuse(ticket, refusal.clone());
        }
        self.down = Some((text, until));
        // One that is being turned over is open, and will serve.
        let is_of_no_help = |entry: &Entry| match entry.state {
            State::Dialing(_) => !entry.is_turned,
            state => state == State::Closing,
        };
        let is_alone = self.entries.iter().all(|(_, entry)| is_of_no_help(entry));
        if is_alone {
            let waiting: Vec<Ticket> = self.waiters.keys().copied().collect();
            waiting.into_iter().for_each(|ticket| self.refuse(ticket, refusal.clone()));
        }
    }

    /// The server did not answer a login in time; other users are not concerned. Whoever has
    /// connections goes on with them, and the dial is tried again later.
    pub(super) fn login_slow(&mut self, key: u32, login: Option<Ticket>, text: String) {
        match login {
            Some(ticket) => self.refuse(ticket, Refusal::Unanswered(text)),
            None => self.keys.pause(key, self.now + REFUSED_PAUSE, self.now),
        }
    }

    /// The server answered a login with FAILURE.
    pub(super) fn login_refused(&mut self, key: u32, login: Option<Ticket>, failure: Box<Failure>) {
        if let Some(ticket) = login {
            self.refuse(ticket, Refusal::Server(failure.clone()));
        }
        if failure.is_about_credentials() {
            self.refuse_key(key, &failure, true);
        } else if login.is_none() && failure.is_passing() {
            // Whoever has connections goes on with them; the dial is tried again later.
            self.keys.pause(key, self.now + REFUSED_PAUSE, self.now);
        } else if login.is_none()
            && let Some(&ticket) = self.keys[key as usize].queue.front()
        {
            // One dial, one waiter: the next may fare better.
            self.refuse(ticket, Refusal::Server(failure));
        }
    }

    /// Back into the line, at the place that the ticket says.
    pub(super) fn wait_again(&mut self, key: u32, ticket: Ticket, deadline: Duration) {
        self.waiters.insert(ticket, Waiter { key, want: Want::Lease, deadline });
        let queue = &mut self.keys[key as usize].queue;
        let at = queue.partition_point(|other| *other < ticket);
        queue.insert(at, ticket);
        self.keys.settle(key, self.now);
        let refused = self.keys[key as usize].refused.clone();
        if let Some(failure) = refused {
            self.refuse(ticket, Refusal::Server(failure));
        } else if self.is_draining {
            self.refuse(ticket, Refusal::Draining);
        }
    }

    /// Nobody who waits for this version will get it; other versions are not concerned.
    pub(super) fn version_refused(&mut self, key: u32) {
        let version = self.keys[key as usize].identity.profile.version;
        let text = format!("it does not speak Bolt {version} any more");
        self.refuse_waiters(key, &Refusal::Unanswered(text));
    }

    /// Whoever waits for a connection of this key or for its login.
    pub(super) fn refuse_waiters(&mut self, key: u32, refusal: &Refusal) {
        let is_of_key = |waiter: &Waiter| waiter.key == key;
        let waiting = self.waiters.iter().filter(|(_, waiter)| is_of_key(waiter));
        let waiting: Vec<Ticket> = waiting.map(|(ticket, _)| *ticket).collect();
        for ticket in waiting {
            self.refuse(ticket, refusal.clone());
        }
    }

    /// Who waits for such a login is told; others of the key fail one by one.
    pub(super) fn login_expired(&mut self, key: u32, login: Option<Ticket>) {
        let waiting = self.keys[key as usize].queue.front().copied();
        if let Some(ticket) = login.or(waiting) {
            self.refuse(ticket, Refusal::Expired);
        }
    }

    /// Ends everything of a key but its leases: these end when they come back. A waiting login is
    /// the way out of a refusal that was met elsewhere; only a refused login speaks for it.
    pub(super) fn refuse_key(&mut self, key: u32, failure: &Failure, with_logins: bool) {
        if self.planted.has(Bug::StaleApproval) {
            return;
        }
        let Key { queue, logins, idle, .. } = &self.keys[key as usize];
        let logins = logins.iter().filter(|_| with_logins);
        let waiting: Vec<Ticket> = queue.iter().chain(logins).copied().collect();
        let idle: Vec<ServerId> = idle.iter().copied().collect();
        let entry = &mut self.keys[key as usize];
        (entry.refused, entry.approved_at) = (Some(Box::new(failure.clone())), None);
        entry.refused_at = self.now;
        for ticket in waiting {
            self.refuse(ticket, Refusal::Server(Box::new(failure.clone())));
        }
        idle.into_iter().for_each(|id| self.close(id, Discard::Revoked));
        for (_, entry) in &mut self.entries {
            entry.is_stale |= entry.key == key && entry.state == State::Dialing(None);
        }
    }
}
