//! Which credentials a server has accepted, and who waits to know. Pure.
//!
//! A client is let in only if a server accepted exactly its credentials not longer than
//! `pool.approval_ttl` ago. One login of an identity is in flight at a time, in the whole process:
//! each identity is looked after by one shard (`owner`), the others ask it. So a wrong password
//! that eight clients send at once meets the server once, and does not lock the user out (Neo4j
//! locks after three failures).
//!
//! Nor can wrong passwords take all connections from those who are in: each shard lets so few
//! logins run at a time that all together take at most half of what may be open (`LoginShares`).
//! The others stand in line.

use crate::backend::Refusal;
use crate::backend::identity::Fingerprint;
use crate::backend::pool::DIALS_MAX;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Identities remembered here; past this the expired ones are forgotten at once, and then a new one
/// has to be asked for each time.
pub const APPROVALS_MAX: usize = 65_536;

/// Logins at the server at once that one shard decides on: half of a shard's dials, and enough to
/// keep a server's password hashing busy.
const LOGINS_MAX: u32 = DIALS_MAX / 2;

/// How the process's logins are shared out: they wait in line with those who are in, each may cost
/// these a connection, and all of them may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginShares {
    /// Shards that look after identities: the first ones.
    owners: usize,
    /// Logins that each of them lets run at once.
    of_owner: u32,
}

impl LoginShares {
    /// Of a pool of this size, in connections of the process: half of it, one at least.
    pub fn new(pool_size: u32, shards: usize) -> LoginShares {
        let all = (pool_size / 2).max(1);
        let owners = shards.clamp(1, all as usize);
        LoginShares { owners, of_owner: (all / owners as u32).min(LOGINS_MAX) }
    }

    /// The shard that looks after an identity.
    pub fn owner(self, fingerprint: Fingerprint) -> usize {
        (fingerprint.word() % self.owners as u64) as usize
    }
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
    /// Somebody does already, and the outcome will be told; or others come first.
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
    /// Logins that run, and how many may.
    running: u32,
    running_max: u32,
    /// Whose login begins when another has ended. As long as there are clients.
    line: VecDeque<(Fingerprint, Asker)>,
}

impl Approvals {
    /// `ttl` is `pool.approval_ttl`; 0 means that every login asks the server.
    pub fn new(ttl: Duration, shares: LoginShares) -> Approvals {
        let (known, line) = (HashMap::new(), VecDeque::new());
        Approvals { ttl, known, running: 0, running_max: shares.of_owner, line }
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
        if self.running >= self.running_max {
            self.line.push_back((key, asker));
            return Verdict::Wait;
        }
        self.running += 1;
        Verdict::LogIn
    }

    /// Who is to log in now, of those that came when too many did. Ask after each outcome.
    pub fn next_login(&mut self) -> Option<(Fingerprint, Asker)> {
        if self.running >= self.running_max {
            return None;
        }
        let next = self.line.pop_front();
        self.running += u32::from(next.is_some());
        next
    }

    /// A login has ended; returns who waited for it. When there is no server to ask, that is
    /// everybody in line, too.
    pub fn outcome(
        &mut self,
        key: Fingerprint,
        outcome: &LoginOutcome,
        now: Duration,
    ) -> Vec<Asker> {
        self.running = self.running.saturating_sub(1);
        let approval = self.known.entry(key).or_default();
        let mut waiting = std::mem::take(&mut approval.waiting);
        approval.is_asking = false;
        match outcome {
            LoginOutcome::Accepted => approval.accepted_at = Some(now),
            LoginOutcome::Failed(Refusal::Server(_)) => drop(self.known.remove(&key)),
            LoginOutcome::Failed(Refusal::Unreachable(_)) => self.clear_line(&mut waiting),
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

    /// Nobody in line would fare better.
    fn clear_line(&mut self, waiting: &mut Vec<Asker>) {
        for (key, asker) in self.line.drain(..) {
            waiting.push(asker);
            if let Some(approval) = self.known.get_mut(&key) {
                approval.is_asking = false;
                waiting.append(&mut approval.waiting);
            }
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

    fn approvals(ttl: Duration) -> Approvals {
        Approvals::new(ttl, LoginShares::new(64, 1))
    }

    fn asker(client: u64) -> Asker {
        Asker { shard: 0, client }
    }

    #[test]
    fn one_login_for_all_who_ask_at_once() {
        let (mut approvals, now) = (approvals(TTL), Duration::from_secs(5));
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
        let (mut approvals, now) = (approvals(TTL), Duration::from_secs(5));
        approvals.ask(KEY, asker(1), now);
        approvals.outcome(KEY, &LoginOutcome::Accepted, now);
        approvals.revoke(KEY);
        assert_eq!(approvals.ask(KEY, asker(2), now), Verdict::LogIn);
    }

    #[test]
    fn without_a_ttl_everybody_asks() {
        let (mut approvals, now) = (approvals(Duration::ZERO), Duration::from_secs(5));
        assert_eq!(approvals.ask(KEY, asker(1), now), Verdict::LogIn);
        assert_eq!(approvals.ask(KEY, asker(2), now), Verdict::Wait);
        approvals.outcome(KEY, &LoginOutcome::Accepted, now);
        assert_eq!(approvals.ask(KEY, asker(3), now), Verdict::LogIn);
        assert_eq!(approvals.ask(KEY, asker(4), now), Verdict::LogIn);
    }

    #[test]
    fn logins_take_half_of_the_pool_at_most() {
        let shares = |size, shards| {
            let LoginShares { owners, of_owner } = LoginShares::new(size, shards);
            (owners, of_owner)
        };
        assert_eq!(shares(64, 4), (4, 4));
        assert_eq!(shares(8, 4), (4, 1));
        assert_eq!(shares(2, 4), (1, 1), "no second shard decides on logins");
        assert_eq!(shares(1, 4), (1, 1), "else nobody would ever get in");
        assert_eq!(shares(5, 64), (2, 1));
    }

    #[test]
    fn who_logs_in_beyond_the_limit_does_so_in_order() {
        let (mut approvals, now) = (approvals(TTL), Duration::from_secs(5));
        let key = |user: u8| Fingerprint([user; 32]);
        let refused = LoginOutcome::Failed(Refusal::TimedOut);
        let verdicts: Vec<Verdict> =
            (0..10).map(|user| approvals.ask(key(user), asker(user.into()), now)).collect();
        let running = LOGINS_MAX as usize;
        assert!(verdicts[..running].iter().all(|verdict| *verdict == Verdict::LogIn));
        assert!(verdicts[running..].iter().all(|verdict| *verdict == Verdict::Wait));
        assert_eq!(approvals.ask(key(9), asker(99), now), Verdict::Wait);
        for user in running as u8..10 {
            assert_eq!(approvals.next_login(), None);
            approvals.outcome(key(user - running as u8), &refused, now);
            assert_eq!(approvals.next_login(), Some((key(user), asker(user.into()))));
        }
        // Who asked for the same waited for that one's outcome.
        assert_eq!(approvals.outcome(key(9), &LoginOutcome::Accepted, now), [asker(99)]);
        assert_eq!(approvals.next_login(), None);
    }

    #[test]
    fn who_stands_in_line_for_a_server_that_is_away_is_told_at_once() {
        let (mut approvals, now) = (approvals(TTL), Duration::from_secs(5));
        let key = |user: u8| Fingerprint([user; 32]);
        for user in 0..8 {
            approvals.ask(key(user), asker(user.into()), now);
        }
        approvals.ask(key(7), asker(99), now);
        let away = LoginOutcome::Failed(Refusal::Unreachable("gone".into()));
        assert_eq!(approvals.outcome(key(0), &away, now), [4, 5, 6, 7, 99].map(asker));
        assert_eq!(approvals.next_login(), None);
        assert_eq!(approvals.ask(key(7), asker(100), now), Verdict::LogIn);
    }
}
