//! Logins across shards: asks the identity's shard, logs in where told to, spreads the outcome.
//!
//! Invariant: whatever is said of an identity is for clients that ask for that one. A client that
//! asks for another by then has an answer of its own to come.

use super::*;
use crate::backend::approval::{Asker, LoginShares, Verdict};
use crate::wire::message::Failure;

/// The shell's part of logins.
pub(super) struct Logins {
    /// Of the identities that this shard looks after.
    approvals: Approvals,
    /// Clients here that wait for an outcome.
    askers: HashMap<u64, Waiting>,
    /// Logins of this shard at the server: identity, and the client that it was started for.
    running: HashMap<Ticket, (Fingerprint, u64)>,
    shares: LoginShares,
    /// Logins of the line are being started.
    is_starting: bool,
}

struct Waiting {
    identity: Rc<Identity>,
    outcome: Option<LoginOutcome>,
    waker: Option<Waker>,
}

impl Logins {
    pub fn new(ttl: Duration, shares: LoginShares) -> Logins {
        let (askers, running) = (HashMap::new(), HashMap::new());
        let approvals = Approvals::new(ttl, shares);
        Logins { approvals, askers, running, shares, is_starting: false }
    }

    /// A client here, if this identity is what it waits for.
    fn asker(&mut self, key: Fingerprint, client: u64) -> Option<&mut Waiting> {
        self.askers.get_mut(&client).filter(|waiting| waiting.identity.fingerprint == key)
    }
}

impl Backend {
    /// Asks if the server accepts this identity; `poll_login` tells. `client` is unique in this
    /// shard.
    pub fn log_in(self: &Rc<Self>, identity: &Rc<Identity>, client: u64) {
        let key = identity.fingerprint;
        let waiting = Waiting { identity: identity.clone(), outcome: None, waker: None };
        self.logins.borrow_mut().askers.insert(client, waiting);
        let (shard, owner) = (self.shard(), self.owner(key));
        if owner != shard {
            return self.tell(owner, PeerMessage::Ask { key, client, shard });
        }
        let asker = Asker { shard, client };
        let verdict = self.logins.borrow_mut().approvals.ask(key, asker, self.now());
        self.judged(key, client, verdict);
    }

    /// Waits for the outcome.
    pub fn poll_login(&self, client: u64, cx: &Context<'_>) -> Poll<LoginOutcome> {
        let mut logins = self.logins.borrow_mut();
        let Some(waiting) = logins.askers.get_mut(&client) else { return Poll::Pending };
        match waiting.outcome.take() {
            Some(outcome) => {
                logins.askers.remove(&client);
                Poll::Ready(outcome)
            }
            None => {
                waiting.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The client has gone; a login that runs for it goes on for the others who wait.
    pub fn stop_asking(&self, client: u64) {
        self.logins.borrow_mut().askers.remove(&client);
    }

    pub(super) fn forget_expired_logins(&self, now: Duration) {
        self.logins.borrow_mut().approvals.forget_expired(now);
    }

    pub(super) fn renew(&self, key: Fingerprint) {
        let owner = self.owner(key);
        match owner == self.shard() {
            true => self.logins.borrow_mut().approvals.renew(key, self.now()),
            false => self.tell(owner, PeerMessage::Renew { key }),
        }
    }

    /// The server said that it accepts these credentials no more: everywhere, and to everybody.
    pub fn revoke(self: &Rc<Self>, key: Fingerprint, failure: Box<Failure>) {
        self.revoke_here(key, &failure);
        self.tell_others(|| PeerMessage::Revoke {
            key,
            outcome: LoginOutcome::Failed(Refusal::Server(failure.clone())),
        });
    }

    fn revoke_here(self: &Rc<Self>, key: Fingerprint, failure: &Failure) {
        self.logins.borrow_mut().approvals.revoke(key);
        let failure = Box::new(failure.clone());
        if self.pool.borrow_mut().revoke(key, failure, self.now()) {
            self.revoked.borrow_mut().push(key);
        }
        self.carry_out();
    }

    /// Identities of clients here that were revoked since this was last asked, wherever that was
    /// seen.
    pub fn take_revoked(&self) -> Vec<Fingerprint> {
        std::mem::take(&mut *self.revoked.borrow_mut())
    }

    fn owner(&self, key: Fingerprint) -> usize {
        self.logins.borrow().shares.owner(key)
    }

    /// The identity's shard has decided what a client here is to do.
    fn judged(self: &Rc<Self>, key: Fingerprint, client: u64, verdict: Verdict) {
        match verdict {
            Verdict::Approved(at) => self.decided(key, client, LoginOutcome::Accepted, at),
            Verdict::Wait => {}
            Verdict::LogIn => {
                let asker =
                    self.logins.borrow_mut().asker(key, client).map(|it| it.identity.clone());
                match asker {
                    Some(identity) => self.run_login(&identity, client),
                    None => self.report_gone(key, client),
                }
            }
        }
    }

    /// Nobody is here to log in for; those who wait are told to try again.
    fn report_gone(self: &Rc<Self>, key: Fingerprint, client: u64) {
        let gone = Refusal::Unanswered("the client that logged in first has gone".into());
        self.report(key, client, LoginOutcome::Failed(gone));
    }

    fn run_login(self: &Rc<Self>, identity: &Rc<Identity>, client: u64) {
        let key = identity.fingerprint;
        let acquired = self.pool.borrow_mut().acquire(identity, Want::Login, self.now());
        match acquired {
            Acquired::Waiting(ticket) => {
                self.logins.borrow_mut().running.insert(ticket, (key, client));
            }
            Acquired::Refused(refusal) => self.report(key, client, LoginOutcome::Failed(refusal)),
            Acquired::Now(id) => self.pool.borrow_mut().checkin(id, self.now()),
        }
        self.carry_out();
    }

    pub(super) fn login_ended(self: &Rc<Self>, ticket: Ticket, outcome: LoginOutcome) {
        let running = self.logins.borrow_mut().running.remove(&ticket);
        if let Some((key, client)) = running {
            self.report(key, client, outcome);
        }
    }

    fn report(self: &Rc<Self>, key: Fingerprint, client: u64, outcome: LoginOutcome) {
        self.decided(key, client, outcome.clone(), self.now());
        let owner = self.owner(key);
        match owner == self.shard() {
            true => self.spread(key, outcome),
            false => self.tell(owner, PeerMessage::Report { key, outcome }),
        }
    }

    /// As the identity's shard: tells everybody who waited.
    fn spread(self: &Rc<Self>, key: Fingerprint, outcome: LoginOutcome) {
        let now = self.now();
        let waiting = self.logins.borrow_mut().approvals.outcome(key, &outcome, now);
        for Asker { shard, client } in waiting {
            match shard == self.shard() {
                true => self.decided(key, client, outcome.clone(), now),
                false => {
                    let outcome = outcome.clone();
                    self.tell(shard, PeerMessage::Outcome { key, client, outcome, at: now })
                }
            }
        }
        self.start_next();
    }

    /// Lets those log in who stand in line, as many as may.
    fn start_next(self: &Rc<Self>) {
        // What ends at once comes back to here; it must not do so once for each who has gone.
        if std::mem::replace(&mut self.logins.borrow_mut().is_starting, true) {
            return;
        }
        loop {
            let next = self.logins.borrow_mut().approvals.next_login();
            let Some((key, Asker { shard, client })) = next else { break };
            let verdict = Verdict::LogIn;
            match shard == self.shard() {
                true => self.judged(key, client, verdict),
                false => self.tell(shard, PeerMessage::Answer { key, client, verdict }),
            }
        }
        self.logins.borrow_mut().is_starting = false;
    }

    /// `at`: when the server said so.
    fn decided(&self, key: Fingerprint, client: u64, outcome: LoginOutcome, at: Duration) {
        let mut logins = self.logins.borrow_mut();
        let Some(waiting) = logins.asker(key, client) else { return };
        if outcome == LoginOutcome::Accepted {
            self.pool.borrow_mut().forgive(&waiting.identity, at);
        }
        waiting.outcome = Some(outcome);
        if let Some(waker) = waiting.waker.take() {
            self.driver.note_wake();
            waker.wake();
        }
    }

    /// What other shards say about logins.
    pub(super) fn hear_login(self: &Rc<Self>, message: PeerMessage) {
        match message {
            PeerMessage::Ask { key, client, shard } => {
                let asker = Asker { shard, client };
                let verdict = self.logins.borrow_mut().approvals.ask(key, asker, self.now());
                if verdict != Verdict::Wait {
                    self.tell(shard, PeerMessage::Answer { key, client, verdict });
                }
            }
            PeerMessage::Answer { key, client, verdict } => self.judged(key, client, verdict),
            PeerMessage::Report { key, outcome } => self.spread(key, outcome),
            PeerMessage::Outcome { key, client, outcome, at } => {
                self.decided(key, client, outcome, at);
            }
            PeerMessage::Renew { key } => {
                self.logins.borrow_mut().approvals.renew(key, self.now());
            }
            PeerMessage::Revoke { key, outcome } => {
                if let LoginOutcome::Failed(Refusal::Server(failure)) = outcome {
                    self.revoke_here(key, &failure);
                }
            }
            PeerMessage::Lend(_) | PeerMessage::Permit | PeerMessage::SomebodyWaits => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::identity::samples::identity;

    /// An answer may be late: a client has asked for another identity since.
    #[test]
    fn what_is_said_of_one_identity_is_for_no_other() {
        let mut logins = Logins::new(Duration::ZERO, LoginShares::new(64, 1));
        let (alice, bob) = (identity("alice"), identity("bob"));
        let mut ask = |client, identity: &Rc<Identity>| {
            let waiting = Waiting { identity: identity.clone(), outcome: None, waker: None };
            logins.askers.insert(client, waiting);
        };
        ask(1, &alice);
        ask(2, &alice);
        ask(1, &bob);
        let asks = [(&alice, 1), (&alice, 2), (&alice, 3), (&bob, 1), (&bob, 2)]
            .map(|(identity, client)| logins.asker(identity.fingerprint, client).is_some());
        assert_eq!(asks, [false, true, false, true, false]);
    }
}
