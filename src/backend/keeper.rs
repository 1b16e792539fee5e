//! One shard's server connections as they really are: the shell that carries the pool's orders out.
//!
//! Owns the sockets that no client has leased, the tasks that dial, clean, lend and close them, and
//! the slots in which clients wait. Decides nothing: `Pool` and `Approvals` do.

use crate::backend::approval::{Approvals, LoginOutcome, LoginShares};
use crate::backend::cleaner::{Cleaned, Cleaner};
use crate::backend::connection::{self, DialError, Target};
use crate::backend::identity::{Fingerprint, Identity};
use crate::backend::lease::Lease;
use crate::backend::peers::{PeerMessage, Peers};
use crate::backend::permits::Permits;
use crate::backend::pool::{
    Acquired, DialFailure, Order, Pool, PoolOptions, ServerId, Ticket, Want,
};
use crate::backend::{Discard, KnownServer, Refusal};
use crate::transport::buffer::Chunk;
use crate::transport::driver::{Driver, TICK};
use crate::transport::stream::Stream;
use crate::transport::tls::client::Uplink;
use crate::wire::error::shown;
use crate::wire::message::RESET;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

mod checkout;
mod logins;
mod reauth;
mod sharing;

/// How often lifetimes and idle limits are looked at: they are minutes.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often messages that found another shard's ring full are tried again: a busy shard empties
/// its ring once per tick.
const FLUSH_EVERY: Duration = TICK;

/// What the shell needs to know.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    pub pool: PoolOptions,
    pub approval_ttl: Duration,
    /// `timeouts.reset`: for RESET to prove a connection.
    pub reset_within: Duration,
}

/// A client that waits for a lease.
#[derive(Default)]
struct Slot {
    result: Option<Result<Lease, Refusal>>,
    waker: Option<Waker>,
}

/// See the module.
pub struct Backend {
    pub driver: Rc<Driver>,
    pub(super) pool: RefCell<Pool>,
    conns: RefCell<HashMap<ServerId, Stream>>,
    waiting: RefCell<HashMap<Ticket, Slot>>,
    logins: RefCell<logins::Logins>,
    peers: RefCell<Peers>,
    target: RefCell<Rc<Target>>,
    known: RefCell<Option<Rc<KnownServer>>>,
    options: BackendOptions,
    discarded: RefCell<[u64; Discard::ALL.len()]>,
    keeper: RefCell<Option<Waker>>,
    keeper_due: Cell<Duration>,
    is_noticed: Cell<bool>,
    looked: checkout::Looked,
    /// What the relay has to forget; asked for with every event of a client.
    revoked: RefCell<Vec<Fingerprint>>,
}

impl Backend {
    /// Starts the keeper, which watches idle connections and deadlines.
    pub fn start(
        driver: Rc<Driver>,
        permits: Arc<Permits>,
        peers: Peers,
        target: Target,
        options: BackendOptions,
        seed: u64,
    ) -> Rc<Backend> {
        let shares = LoginShares::new(permits.limit(), peers.shards());
        let logins = logins::Logins::new(options.approval_ttl, shares);
        let pool = Pool::new(peers.shard, permits, options.pool.clone(), seed);
        let backend = Rc::new(Backend {
            driver: driver.clone(),
            pool: RefCell::new(pool),
            conns: RefCell::default(),
            waiting: RefCell::default(),
            logins: RefCell::new(logins),
            peers: RefCell::new(peers),
            target: RefCell::new(Rc::new(target)),
            known: RefCell::new(None),
            options,
            discarded: RefCell::new([0; Discard::ALL.len()]),
            keeper: RefCell::new(None),
            keeper_due: Cell::new(Duration::ZERO),
            is_noticed: Cell::new(false),
            looked: checkout::Looked::default(),
            revoked: RefCell::default(),
        });
        driver.spawn(keep(backend.clone()));
        backend
    }

    pub fn now(&self) -> Duration {
        self.driver.now()
    }

    pub fn pool(&self) -> std::cell::Ref<'_, Pool> {
        self.pool.borrow()
    }

    /// The value that is here already for the same clients' identity: thousands share one.
    pub fn known_identity(&self, identity: Identity) -> Rc<Identity> {
        let known = self.pool.borrow().known_identity(&identity);
        known.unwrap_or_else(|| Rc::new(identity))
    }

    /// Connections not kept, by `Discard`.
    pub fn discarded(&self) -> [u64; Discard::ALL.len()] {
        *self.discarded.borrow()
    }

    /// What is known of the server: told by the control core, or learned by a dial.
    pub fn known(&self) -> Option<Rc<KnownServer>> {
        self.known.borrow().clone()
    }

    /// The control core's news.
    pub fn set_server(&self, addresses: Vec<std::net::SocketAddr>, known: Option<&KnownServer>) {
        let target = Target { addresses, ..Target::clone(&self.target.borrow()) };
        self.target.replace(Rc::new(target));
        if let Some(known) = known {
            self.known.replace(Some(Rc::new(known.clone())));
        }
    }

    /// How servers are dialled from now on. `apart` shards resume their own sessions.
    pub fn set_tls(&self, uplink: Option<&Uplink>) {
        let tls = uplink.map(Uplink::apart);
        let target = Target { tls, ..Target::clone(&self.target.borrow()) };
        self.target.replace(Rc::new(target));
    }

    /// A connection of this identity, now or later (`poll_lease`), or why not.
    pub fn acquire(self: &Rc<Self>, identity: &Rc<Identity>) -> Result<LeaseOrTicket, Refusal> {
        let now = self.now();
        loop {
            let acquired = self.pool.borrow_mut().acquire(identity, Want::Lease, now);
            let result = match acquired {
                Acquired::Now(id) => match self.check_out(id) {
                    Some(lease) => Ok(LeaseOrTicket::Lease(lease)),
                    None => continue, // it ended while it lay idle; the next one
                },
                Acquired::Waiting(ticket) => {
                    self.waiting.borrow_mut().insert(ticket, Slot::default());
                    Ok(LeaseOrTicket::Ticket(ticket))
                }
                Acquired::Refused(refusal) => Err(refusal),
            };
            self.carry_out();
            return result;
        }
    }

    /// Waits for the lease that `acquire` gave a ticket for.
    pub fn poll_lease(&self, ticket: Ticket, cx: &Context<'_>) -> Poll<Result<Lease, Refusal>> {
        let mut waiting = self.waiting.borrow_mut();
        let Some(slot) = waiting.get_mut(&ticket) else { return Poll::Pending };
        match slot.result.take() {
            Some(result) => {
                waiting.remove(&ticket);
                Poll::Ready(result)
            }
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Leaves the queue. A lease that came meanwhile goes back.
    pub fn withdraw(self: &Rc<Self>, ticket: Ticket) {
        let slot = self.waiting.borrow_mut().remove(&ticket);
        self.pool.borrow_mut().cancel(ticket, self.now());
        if let Some(Slot { result: Some(Ok(lease)), .. }) = slot {
            lease.check_in();
        }
        self.carry_out();
    }

    /// The lease's connection is READY again.
    pub(super) fn check_in(self: &Rc<Self>, id: ServerId, conn: Stream) {
        if !conn.is_quiet() {
            let why = if conn.has_ended() { Discard::ServerClosed } else { Discard::Unread };
            return self.discard(id, conn, why);
        }
        if !conn.is_flushed() {
            return self.clean(id, conn, Cleaner::new(Default::default(), None, 0), &[]);
        }
        self.keep_idle(id, conn);
        self.pool.borrow_mut().checkin(id, self.now());
        self.carry_out();
    }

    /// Its receive stays armed, and the keeper is told of whatever comes.
    fn keep_idle(&self, id: ServerId, conn: Stream) {
        if let Some(waker) = &*self.keeper.borrow() {
            conn.watch(waker);
        }
        self.conns.borrow_mut().insert(id, conn);
    }

    /// Gives a connection up.
    pub(super) fn discard(self: &Rc<Self>, id: ServerId, conn: Stream, why: Discard) {
        self.conns.borrow_mut().insert(id, conn);
        self.pool.borrow_mut().close(id, why);
        self.carry_out();
    }

    /// RESET and prove; `rest` has come already.
    pub(super) fn clean(
        self: &Rc<Self>,
        id: ServerId,
        conn: Stream,
        mut cleaner: Cleaner,
        rest: &[u8],
    ) {
        self.pool.borrow_mut().begin_cleaning(id);
        let mut state = cleaner.feed_early(rest);
        while state == Cleaned::NotYet
            && let Some(chunk) = conn.take_received()
        {
            state = cleaner.feed_early(&chunk);
        }
        conn.send([Chunk::from_static(RESET)]);
        let backend = self.clone();
        self.driver.spawn(async move {
            let driver = &backend.driver;
            let answered = connection::within(driver, backend.options.reset_within, async {
                while state == Cleaned::NotYet {
                    state = match conn.recv().await {
                        Ok(Some(chunk)) => cleaner.feed(&chunk),
                        Ok(None) | Err(_) => Cleaned::Broken(Discard::ServerClosed),
                    };
                }
                state
            });
            match answered.await {
                Some(Cleaned::Clean) if conn.is_flushed() => backend.check_in(id, conn),
                Some(Cleaned::Broken(why)) => backend.discard(id, conn, why),
                _ => backend.discard(id, conn, Discard::ResetFailed),
            }
        });
    }

    /// Everything the pool has ordered.
    pub fn carry_out(self: &Rc<Self>) {
        loop {
            let order = self.pool.borrow_mut().next_order();
            match order {
                None => break,
                Some(Order::Dial(id, identity)) => {
                    self.driver.spawn(self.clone().dial(id, identity));
                }
                Some(Order::TurnOver(id, identity)) => {
                    self.driver.spawn(self.clone().turn_over(id, identity));
                }
                Some(Order::Grant(ticket, id)) => self.grant(ticket, id),
                Some(Order::LoggedIn(ticket)) => self.login_ended(ticket, LoginOutcome::Accepted),
                Some(Order::Refuse(ticket, refusal)) => self.refuse(ticket, refusal),
                Some(Order::Probe(id)) => {
                    let conn = self.conns.borrow_mut().remove(&id);
                    if let Some(conn) = conn {
                        self.clean(id, conn, Cleaner::new(Default::default(), None, 0), &[]);
                    }
                }
                Some(Order::Close(id, why)) => self.close(id, why),
                Some(Order::Lend(id, shard)) => self.lend(id, shard),
                Some(Order::PassPermit(shard)) => self.tell(shard, PeerMessage::Permit),
                Some(Order::RingOthers) => self.tell_others(|| PeerMessage::SomebodyWaits),
            }
        }
        let due = self.pool.borrow().next_deadline();
        if due.is_some_and(|due| due < self.keeper_due.get()) {
            self.wake_keeper();
        }
    }

    async fn dial(self: Rc<Self>, id: ServerId, identity: Rc<Identity>) {
        let target = self.target.borrow().clone();
        let failure = match connection::dial(&self.driver, &target, &identity).await {
            Ok(dialed) if dialed.credentials_expired && !identity.is_private => {
                connection::close(dialed.conn, true).await;
                self.pool.borrow_mut().dial_expired(id, self.now());
                return self.carry_out();
            }
            Ok(dialed) if identity.profile.utc_patch && !dialed.hello.utc_patch => {
                connection::close(dialed.conn, true).await;
                DialFailure::PatchRefused
            }
            Ok(dialed) => {
                self.learn(&dialed.hello);
                self.keep_idle(id, dialed.conn);
                self.renew(identity.fingerprint);
                drop(identity); // the pool counts who still knows a private one
                self.pool.borrow_mut().dialed(id, self.now());
                return self.carry_out();
            }
            Err(DialError::VersionRefused) => DialFailure::VersionRefused,
            Err(DialError::Failed(failure)) => failure,
        };
        self.discarded.borrow_mut()[Discard::DialFailed as usize] += 1;
        if let DialFailure::Unreachable(text) | DialFailure::Slow(text) = &failure {
            tracing::debug!("dial to {} failed: {}", target.name, shown(text));
        }
        let refused = failure.about_credentials();
        self.pool.borrow_mut().dial_failed(id, failure, self.now());
        self.carry_out();
        if let Some(failure) = refused {
            self.revoke(identity.fingerprint, failure);
        }
    }

    /// What a server says of itself counts more than what a probe without a login took it for; one
    /// that nobody has probed yet is known by its dial.
    fn learn(&self, hello: &crate::wire::message::HelloSuccess) {
        let mut known = self.known.borrow_mut();
        let is_told = known.as_ref().is_some_and(|known| known.agent == hello.server);
        if hello.server.is_empty() || is_told {
            return;
        }
        *known = Some(Rc::new(KnownServer {
            agent: hello.server.clone(),
            recv_timeout_seconds: hello.recv_timeout_seconds,
            // One client's version says nothing of the others.
            versions: known.as_ref().map_or_else(Vec::new, |known| known.versions.clone()),
        }));
    }

    fn refuse(self: &Rc<Self>, ticket: Ticket, refusal: Refusal) {
        if let Some(slot) = self.waiting.borrow_mut().get_mut(&ticket) {
            slot.result = Some(Err(refusal));
            if let Some(waker) = slot.waker.take() {
                self.driver.note_wake();
                waker.wake();
            }
            return;
        }
        self.login_ended(ticket, LoginOutcome::Failed(refusal));
    }

    fn close(self: &Rc<Self>, id: ServerId, why: Discard) {
        self.discarded.borrow_mut()[why as usize] += 1;
        let conn = self.conns.borrow_mut().remove(&id);
        let Some(conn) = conn.filter(|conn| !conn.is_spent()) else {
            return self.pool.borrow_mut().closed(id, self.now());
        };
        let backend = self.clone();
        self.driver.spawn(async move {
            let is_whole = !matches!(why, Discard::HalfMessage | Discard::SessionEnded);
            connection::close(conn, is_whole).await;
            backend.pool.borrow_mut().closed(id, backend.now());
            backend.carry_out();
        });
    }

    /// Refuses whoever waits and closes what is idle.
    pub fn drain(self: &Rc<Self>) {
        self.pool.borrow_mut().drain();
        self.carry_out();
    }

    /// A private identity's client has gone.
    pub fn retire(self: &Rc<Self>, fingerprint: Fingerprint) {
        self.pool.borrow_mut().retire(fingerprint);
        self.carry_out();
    }

    fn wake_keeper(&self) {
        self.is_noticed.set(true);
        if let Some(waker) = &*self.keeper.borrow() {
            self.driver.note_wake();
            waker.wake_by_ref();
        }
    }

    /// Idle connections that are quiet no more.
    fn notice(self: &Rc<Self>) {
        let noisy = |id: &ServerId| {
            let conns = self.conns.borrow();
            let conn = conns.get(id).filter(|conn| !conn.is_quiet())?;
            let why = if conn.has_ended() { Discard::ServerClosed } else { Discard::Unread };
            Some((*id, why))
        };
        let noisy: Vec<_> = self.pool.borrow().idle().filter_map(|id| noisy(&id)).collect();
        for (id, why) in noisy {
            self.pool.borrow_mut().noticed(id, why);
        }
    }
}

/// What `acquire` gave.
pub enum LeaseOrTicket {
    Lease(Lease),
    Ticket(Ticket),
}

/// Wakes for idle connections that got something, and for the pool's deadlines.
async fn keep(backend: Rc<Backend>) {
    loop {
        let now = backend.now();
        backend.notice();
        backend.pool.borrow_mut().tick(now);
        backend.forget_expired_logins(now);
        backend.carry_out();
        let due = backend.pool.borrow().next_deadline();
        let look = if backend.peers.borrow_mut().flush() { SWEEP_EVERY } else { FLUSH_EVERY };
        let due = due.unwrap_or(Duration::MAX).min(now + look);
        backend.keeper_due.set(due);
        let timer = backend.driver.sleep(due.saturating_sub(now));
        let noticed = poll_fn(|cx| {
            let is_first =
                backend.keeper.borrow().as_ref().is_none_or(|waker| !waker.will_wake(cx.waker()));
            if is_first {
                backend.keeper.replace(Some(cx.waker().clone()));
            }
            let is_noisy = || {
                let conns = backend.conns.borrow();
                let mut idle = conns.values();
                idle.any(|conn| !conn.is_quiet())
            };
            match backend.is_noticed.replace(false) || is_noisy() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        futures_lite::future::or(timer, noticed).await;
    }
}
