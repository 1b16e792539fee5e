//! Logins across shards: asks the identity's shard, logs in where told to, spreads the outcome.

use super::*;
use crate::backend::approval::{Asker, Verdict, owner};
use crate::backend::pool::{DIALS_MAX, WAITERS_MAX};
use crate::wire::message::Failure;
use std::collections::VecDeque;

/// Logins at the server at once, of one shard: half of the dials. They wait in line with those who
/// are served, and may cost them a connection each, though all of them may be wrong.
const LOGINS_MAX: usize = DIALS_MAX as usize / 2;

/// The shell's part of logins.
pub(super) struct Logins {
    /// Of the identities that this shard looks after.
    approvals: Approvals,
    /// Clients here that wait for an outcome.
    askers: HashMap<u64, Waiting>,
    /// Logins of this shard at the server: identity, and the client that it was started for.
    running: HashMap<Ticket, (Fingerprint, u64)>,
    /// Clients whose login begins when another has ended, with their identities.
    queued: VecDeque<(Rc<Identity>, u64)>,
}

struct Waiting {
    identity: Rc<Identity>,
    outcome: Option<LoginOutcome>,
    waker: Option<Waker>,
}

impl Logins {
    pub fn new(approvals: Approvals) -> Logins {
        let (askers, running) = (HashMap::new(), HashMap::new());
        Logins { approvals, askers, running, queued: VecDeque::new() }
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
        self.judged(client, verdict);
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
        owner(key, self.peers.borrow().shards())
    }

    /// The identity's shard has decided what a client here is to do.
    fn judged(self: &Rc<Self>, client: u64, verdict: Verdict) {
        match verdict {
            Verdict::Approved(at) => self.decided(client, LoginOutcome::Accepted, at),
            Verdict::Wait => {}
            Verdict::LogIn => self.start_login(client),
        }
    }

    fn start_login(self: &Rc<Self>, client: u64) {
        let identity = self.logins.borrow().askers.get(&client).map(|asker| asker.identity.clone());
        let Some(identity) = identity else {
            return; // gone before the answer came: `hear_login` has told the identity's shard
        };
        let mut logins = self.logins.borrow_mut();
        if logins.queued.len() < WAITERS_MAX {
            logins.queued.push_back((identity, client));
            drop(logins);
            return self.start_queued();
        }
        drop(logins);
        self.report(identity.fingerprint, client, LoginOutcome::Failed(Refusal::QueueFull));
    }

    /// Starts as many logins as may run.
    fn start_queued(self: &Rc<Self>) {
        loop {
            let mut logins = self.logins.borrow_mut();
            if logins.running.len() >= LOGINS_MAX {
                return;
            }
            let Some((identity, client)) = logins.queued.pop_front() else { return };
            let is_here = logins.askers.contains_key(&client);
            drop(logins);
            match is_here {
                true => self.run_login(&identity, client),
                false => self.report_gone(identity.fingerprint, client),
            }
        }
    }

    /// Nobody is here to log in for; those who wait are told to try again.
    fn report_gone(self: &Rc<Self>, key: Fingerprint, client: u64) {
        let gone = Refusal::Unreachable("the client that logged in first has gone".into());
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
            self.start_queued();
        }
    }

    fn report(self: &Rc<Self>, key: Fingerprint, client: u64, outcome: LoginOutcome) {
        self.decided(client, outcome.clone(), self.now());
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
                true => self.decided(client, outcome.clone(), now),
                false => {
                    let outcome = outcome.clone();
                    self.tell(shard, PeerMessage::Outcome { client, outcome, at: now })
                }
            }
        }
    }

    /// `at`: when the server said so.
    fn decided(self: &Rc<Self>, client: u64, outcome: LoginOutcome, at: Duration) {
        let mut logins = self.logins.borrow_mut();
        let Some(waiting) = logins.askers.get_mut(&client) else { return };
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
            PeerMessage::Answer { key, client, verdict } => {
                let is_here = self.logins.borrow().askers.contains_key(&client);
                if is_here || verdict != Verdict::LogIn {
                    return self.judged(client, verdict);
                }
                self.report_gone(key, client);
            }
            PeerMessage::Report { key, outcome } => self.spread(key, outcome),
            PeerMessage::Outcome { client, outcome, at } => self.decided(client, outcome, at),
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
