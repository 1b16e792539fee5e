//! Two shards with their clients and one server, under a virtual clock: what the shell does,
//! without sockets.

use crate::peer::{Habits, NONCES, Peer, Step};
use crate::random::Random;
use crate::server::{Connection, Database};
use boltmux::backend::approval::{Approvals, Asker, LoginOutcome, LoginShares, Verdict};
use boltmux::backend::cleaner::{Cleaned, Cleaner};
use boltmux::backend::identity::{Fingerprint, FingerprintKey, Identity};
use boltmux::backend::permits::Permits;
use boltmux::backend::planted::Planted;
use boltmux::backend::pool::{
    Acquired, DialFailure, Order, Pool, PoolOptions, ServerId, Ticket, Want,
};
use boltmux::backend::{Discard, KnownServer, Refusal};
use boltmux::relay::close::CloseReason;
use boltmux::relay::exchange::{Effects, Exchange, Leased, Remainder};
use boltmux::relay::routes::RouteCache;
use boltmux::relay::session::{Action, Context, Release, Session, SessionLimits};
use boltmux::wire::chunk::{Kind, Scanner};
use boltmux::wire::message::{
    Failure, GOODBYE, LOGOFF, RESET, ServerHello, encode_hello, encode_logon, tag,
};
use bytes::Bytes;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// One direction of a connection.
#[derive(Default)]
pub struct Pipe {
    bytes: Vec<u8>,
    has_ended: bool,
    is_end_seen: bool,
}

impl Pipe {
    fn push(&mut self, bytes: &[u8]) {
        if !self.has_ended {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn has_news(&self) -> bool {
        !self.bytes.is_empty() || self.has_ended && !self.is_end_seen
    }

    /// The next bytes, cut anywhere; `None` is the end.
    fn take(&mut self, random: &mut Random) -> Option<Vec<u8>> {
        if self.bytes.is_empty() {
            self.is_end_seen = true;
            return None;
        }
        let count = match random.below(8) {
            0 => 1,
            1..=3 => 1 + random.below(self.bytes.len()),
            _ => self.bytes.len(),
        };
        if count == self.bytes.len() {
            return Some(std::mem::take(&mut self.bytes));
        }
        Some(self.bytes.drain(..count).collect())
    }

    /// The peer has died: what was under way arrives in part.
    fn die(&mut self, random: &mut Random) {
        let kept = random.below(self.bytes.len() + 1);
        self.bytes.truncate(kept);
        self.has_ended = true;
    }
}

/// Who looks at what a server connection says.
enum Owner {
    Dialing {
        identity: Rc<Identity>,
        due: usize,
        raw: Vec<u8>,
    },
    /// LOGOFF and LOGON are on their way.
    Turning {
        identity: Rc<Identity>,
        due: usize,
        raw: Vec<u8>,
    },
    Pooled,
    Client(usize),
    Cleaning(Cleaner),
    Lending {
        to: usize,
    },
    Closing,
}

struct Link {
    shard: usize,
    id: ServerId,
    identity: Rc<Identity>,
    owner: Owner,
    up: Pipe,
    down: Pipe,
    server: Connection,
    stalled_until: Duration,
    /// Came while nobody read.
    unread: Vec<u8>,
}

struct Client {
    serial: u64,
    shard: usize,
    exchange: Option<Exchange>,
    peer: Peer,
    up: Pipe,
    down: Pipe,
    identity: Option<Rc<Identity>>,
    /// The slot of the leased connection.
    lease: Option<usize>,
    ticket: Option<Ticket>,
    closed: Option<CloseReason>,
    deadline: Option<Duration>,
    has_vanished: bool,
}

enum Waiter {
    Client(u64),
    Login(u64),
}

struct Shard {
    pool: Rc<RefCell<Pool>>,
    approvals: Approvals,
    identities: HashMap<Fingerprint, Rc<Identity>>,
    tickets: HashMap<Ticket, Waiter>,
    links: HashMap<ServerId, usize>,
    logins: HashMap<u64, Rc<Identity>>,
    /// Identities that the server no longer accepts, as this shard knows it.
    refused: HashMap<Fingerprint, ()>,
    accepted_at: HashMap<Fingerprint, Duration>,
    /// No dials are tried until then.
    paused_until: Duration,
    starving_since: Option<Duration>,
    /// Dials that were ordered and have not ended.
    dials: usize,
    is_draining: bool,
}

enum Event {
    Connect(usize, ServerId, Rc<Identity>, Option<Refusal>),
    LinkTimeout(usize, ServerId, Stage),
    Detach(usize, ServerId),
    Borrowed { slot: usize, expires: Duration, born: Duration },
    Permit(usize),
    Ring(usize),
    Ask(Rc<Identity>, Asker),
    LogIn(Asker),
    Outcome(Rc<Identity>, Asker, LoginOutcome),
    Done(Asker, LoginOutcome, Duration),
    Renew(Fingerprint),
    Revoke(usize, Fingerprint, Box<Failure>),
    Tick,
    Birth(usize),
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Dialing,
    Turning,
    Cleaning,
    Closing,
}

struct Timed(Duration, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Timed) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// What a seed decides for its whole run.
struct Plan {
    habits: Habits,
    limit: u32,
    clients: usize,
    deaths: u32,
    stalls: u32,
    restarts: u32,
    password_changes: u32,
    slow_dials: bool,
    failed_dials: u32,
    late_shards: bool,
    drains: u32,
    stray_noops: u32,
}

/// What sessions are told; apart from the world, so that both can be used at once.
struct Env {
    known: KnownServer,
    limits: SessionLimits,
    routes: [RefCell<RouteCache>; 2],
}

pub struct World {
    random: Random,
    plan: Plan,
    env: Rc<Env>,
    now: Duration,
    events: BinaryHeap<Reverse<Timed>>,
    order: u64,
    last_message: [[Duration; 2]; 2],
    permits: Arc<Permits>,
    fingerprints: FingerprintKey,
    shards: [Shard; 2],
    clients: Vec<Option<Client>>,
    links: Vec<Option<Link>>,
    base: Database,
    down_until: Duration,
    serial: u64,
    servers: usize,
    /// Permits and connections under way between shards.
    travelling: usize,
    /// Closed connections whose report is due: shard and id. A release may come in the midst of the
    /// other's announcement.
    ripe: Rc<RefCell<Vec<(usize, ServerId)>>>,
    clock: Rc<std::cell::Cell<Duration>>,
    approval_ttl: Duration,
    shares: LoginShares,
    is_settling: bool,
    planted: Planted,
    pub trace: Option<Vec<String>>,
    /// What has happened at least once, to see that a sweep is worth something.
    pub seen: std::collections::BTreeSet<&'static str>,
}

#[path = "plan.rs"]
mod plan;
#[path = "shell.rs"]
mod shell;
#[path = "steps.rs"]
mod steps;
