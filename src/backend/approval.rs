//! Which credentials a server has accepted, and who waits to know. Pure.
//!
//! A client is let in only if a server accepted exactly its credentials not longer than
//! `pool.approval_ttl` ago. One login of an identity is in flight at a time, in the whole process:
//! each identity is looked after by one shard (`owner`), the others ask it. So a wrong password
//! that eight clients send at once meets the server once, and does not lock the user out (Neo4j
//! locks after three failures).

use crate::backend::Refusal;
use crate::backend::identity::Fingerprint;
use std::collections::HashMap;
use std::time::Duration;

/// Identities remembered here; past this the expired ones are forgotten at once, and then a new one
/// has to be asked for each time.
pub const APPROVALS_MAX: usize = 65_536;

/// The shard that looks after an identity.
pub fn owner(fingerprint: Fingerprint, shards: usize) -> usize {
    (fingerprint.word() % shards as u64) as usize
}

/// How a login ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    Accepted,
    /// Refused by the server, unavailable, or the credentials must be changed first.
    Failed(Refusal),
}

/// A client that wants to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    pub shard: usize,
    /// The client's serial number in its shard.
    pub client: u64,
}

/// What the asker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let the client in: the server accepted these credentials at that time.
    Approved(Duration),
    /// Log in at the server and report the outcome.
    LogIn,
    /// Somebody does already; the outcome will be told.
    Wait,
}

#[derive(Default)]
struct Approval {
    accepted_at: Option<Duration>,
    is_asking: bool,
    waiting: Vec<Asker>,
}

/// The identities one shard looks after.
pub struct Approvals {
    ttl: Duration,
    known: HashMap<Fingerprint, Approval>,
}

impl Approvals {
    /// `ttl` is `pool.approval_ttl`; 0 means that every login asks the server.
    pub fn new(ttl: Duration) -> Approvals {
        Approvals { ttl, known: HashMap::new() }
    }

    /// A client wants in.
    pub fn ask(&mut self, key: Fingerprint, asker: Asker, now: Duration) -> Verdict {
        if let Some(at) = self.accepted_at(key, now) {
            return Verdict::Approved(at);
        }
        if self.known.len() >= APPROVALS_MAX {
            self.forget_expired(now);
        }
        let approval = self.known.entry(key).or_default();
        // Who always asks need not queue once the credentials have been right.
        let is_parallel = self.ttl.is_zero() && approval.accepted_at.is_some();
        if approval.is_asking && !is_parallel {
            approval.waiting.push(asker);
            return Verdict::Wait;
        }
        approval.is_asking = true;
        Verdict::LogIn
    }

    /// A login has ended; returns who waited for it.
    pub fn outcome(
        &mut self,
        key: Fingerprint,
        outcome: &LoginOutcome,
        now: Duration,
    ) -> Vec<Asker> {
        let approval = self.known.entry(key).or_default();
        let waiting = std::mem::take(&mut approval.waiting);
        approval.is_asking = false;
        match outcome {
            LoginOutcome::Accepted => approval.accepted_at = Some(now),
            LoginOutcome::Failed(Refusal::Server(_)) => drop(self.known.remove(&key)),
            LoginOutcome::Failed(_) => {}
        }
        waiting
    }

    /// A dial for a lease logged in: the server accepts these credentials still.
    pub fn renew(&mut self, key: Fingerprint, now: Duration) {
        if let Some(approval) = self.known.get_mut(&key) {
            approval.accepted_at = Some(now);
        }
    }

    /// The server said Unauthorized: the next client has to ask.
    pub fn revoke(&mut self, key: Fingerprint) {
        if let Some(approval) = self.known.get_mut(&key) {
            approval.accepted_at = None;
        }
    }

    /// When the server accepted these credentials, if that was lately.
    fn accepted_at(&self, key: Fingerprint, now: Duration) -> Option<Duration> {
        let accepted_at = self.known.get(&key).and_then(|approval| approval.accepted_at);
        accepted_at.filter(|at| now < *at + self.ttl)
    }

    /// Forgets what is expired and asked for by nobody.
    pub fn forget_expired(&mut self, now: Duration) {
        let ttl = self.ttl;
        self.known.retain(|_, approval| {
            approval.is_asking || approval.accepted_at.is_some_and(|at| now < at + ttl)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Fingerprint = Fingerprint([7; 32]);
    const TTL: Duration = Duration::from_secs(60);

    fn asker(client: u64) -> Asker {
        Asker { shard: 0, client }
    }

    #[test]
    fn one_login_for_all_who_ask_at_once() {
        let (mut approvals, now) = (Approvals::new(TTL), Duration::from_secs(5));
        assert_eq!(approvals.ask(KEY, asker(1), now), Verdict::LogIn);
        assert_eq!(approvals.ask(KEY, asker(2), now), Verdict::Wait);
        let refused = LoginOutcome::Failed(Refusal::TimedOut);
        assert_eq!(approvals.outcome(KEY, &refused, now), [asker(2)]);
        assert_eq!(approvals.ask(KEY, asker(3), now), Verdict::LogIn);
        assert_eq!(approvals.outcome(KEY, &LoginOutcome::Accepted, now), []);
        assert_eq!(approvals.ask(KEY, asker(4), now + TTL / 2), Verdict::Approved(now));
        assert_eq!(approvals.ask(KEY, asker(5), now + TTL), Verdict::LogIn);
    }

    #[test]
    fn unauthorized_ends_an_approval() {
        let (mut approvals, now) = (Approvals::new(TTL), Duration::from_secs(5));
        approvals.ask(KEY, asker(1), now);
        approvals.outcome(KEY, &LoginOutcome::Accepted, now);
        approvals.revoke(KEY);
        assert_eq!(approvals.ask(KEY, asker(2), now), Verdict::LogIn);
    }

    #[test]
    fn without_a_ttl_everybody_asks() {
        let (mut approvals, now) = (Approvals::new(Duration::ZERO), Duration::from_secs(5));
        assert_eq!(approvals.ask(KEY, asker(1), now), Verdict::LogIn);
        assert_eq!(approvals.ask(KEY, asker(2), now), Verdict::Wait);
        approvals.outcome(KEY, &LoginOutcome::Accepted, now);
        assert_eq!(approvals.ask(KEY, asker(3), now), Verdict::LogIn);
        assert_eq!(approvals.ask(KEY, asker(4), now), Verdict::LogIn);
    }
}
