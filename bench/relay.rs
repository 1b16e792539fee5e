//! What the rules cost: session and exchange with everything outside left away, and the pool's
//! checkout and checkin. In memory; see `bench/measure.rs` for how it is run.

mod measure;

use boltmux::backend::KnownServer;
use boltmux::backend::approval::LoginOutcome;
use boltmux::backend::identity::{FingerprintKey, Identity, Profile};
use boltmux::backend::permits::Permits;
use boltmux::backend::pool::{Acquired, Order, Pool, PoolOptions, ServerId, Want};
use boltmux::relay::exchange::{Effects, Exchange, Leased, Remainder};
use boltmux::relay::routes::RouteCache;
use boltmux::relay::session::{Action, Context, Release, Session, SessionLimits};
use boltmux::transport::buffer::Chunk;
use boltmux::wire::chunk::chunked;
use boltmux::wire::message::{
    Auth, COMMIT, Notifications, SUCCESS_EMPTY, ServerHello, encode_begin, encode_hello,
    encode_logon, encode_pull, encode_run, tag,
};
use boltmux::wire::packstream::Writer;
use boltmux::wire::version::Version;
use bytes::Bytes;
use measure::Case;
use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Range;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const VERSION: Version = Version::new(5, 4);
/// Records of one result, as drivers ask for them at once.
const RECORDS: u64 = 1000;
/// What one receive brings at most, as `transport.buffer_size` has it.
const BUFFER_BYTES: usize = 16 << 10;
/// Connections of the pool, and clients that want one in the waiting case.
const CONNECTIONS: usize = 32;

fn main() -> ExitCode {
    measure::run(vec![auto(), tx(), rows(), rows_cut(), rows_cut_in_heads(), checkout(), waiting()])
}

/// Counts what would leave; grants every lease at once.
#[derive(Default)]
struct Counts {
    to_client: u64,
    to_server: u64,
    copied: u64,
    leases: i64,
    releases: u64,
    login: Option<Box<(Profile, Auth)>>,
}

impl Effects for Counts {
    fn to_server(&mut self, range: Range<usize>) {
        self.to_server += range.len() as u64;
    }
    fn to_server_copied(&mut self, bytes: Bytes) {
        self.to_server += bytes.len() as u64;
        self.copied += bytes.len() as u64;
    }
    fn keep(&mut self, _: Range<usize>) -> Option<Chunk> {
        None
    }
    fn to_server_kept(&mut self, chunk: Chunk) {
        self.to_server += chunk.len() as u64;
    }
    fn to_client(&mut self, range: Range<usize>) {
        self.to_client += range.len() as u64;
    }
    fn to_client_copied(&mut self, bytes: Bytes) {
        self.to_client += bytes.len() as u64;
        self.copied += bytes.len() as u64;
    }
    fn acquire(&mut self, _: &Rc<Identity>) -> Leased {
        self.leases += 1;
        Leased::Now
    }
    fn release(&mut self, how: Release, _: Remainder<'_>) {
        assert_eq!(how, Release::Clean);
        self.leases -= 1;
        self.releases += 1;
    }
    fn act(&mut self, action: Action) {
        match action {
            Action::LogIn(login) => self.login = Some(login),
            other => panic!("nothing else happens in these cases, but {other:?}"),
        }
    }
}

/// One client and what it is told of the world.
struct World {
    exchange: Exchange,
    counts: Counts,
    known: KnownServer,
    limits: SessionLimits,
    routes: RefCell<RouteCache>,
    now: Duration,
}

impl World {
    /// A client that is logged in.
    fn serving() -> World {
        let mut world = World {
            exchange: Exchange::new(Session::new(VERSION, false, 1)),
            counts: Counts::default(),
            known: KnownServer::default(),
            limits: SessionLimits::default(),
            routes: RefCell::new(RouteCache::new(Duration::from_secs(60))),
            now: Duration::from_secs(100),
        };
        let auth = Auth::from_parts("basic", "alice", "test-password");
        let hello = ServerHello {
            user_agent: "bench/1",
            bolt_agent: "bench/1",
            routing: None,
            utc_patch: false,
            notifications: &Notifications::default(),
            auth: None,
        };
        world.client(&encode_hello(VERSION, &hello));
        world.client(&encode_logon(&auth));
        let (profile, auth) = *world.counts.login.take().expect("LOGON asks for a login");
        let identity = Rc::new(FingerprintKey::new(&[7; 32]).identity(profile, auth, None));
        world.on(|exchange, cx, counts| {
            exchange.session.login_done(identity, &LoginOutcome::Accepted, cx);
            exchange.after(cx, counts);
        });
        world.counts = Counts::default();
        world
    }

    fn on(&mut self, work: impl FnOnce(&mut Exchange, Context<'_>, &mut Counts)) {
        self.now += Duration::from_micros(10);
        let cx = Context {
            now: self.now,
            server: Some(&self.known),
            limits: &self.limits,
            own_address: "proxy:7687",
            routes: &self.routes,
        };
        work(&mut self.exchange, cx, &mut self.counts);
    }

    fn client(&mut self, bytes: &[u8]) {
        self.on(|exchange, cx, counts| exchange.client_bytes(black_box(bytes), cx, counts));
    }

    fn server(&mut self, bytes: &[u8]) {
        self.on(|exchange, cx, counts| {
            let read = exchange.server_bytes(black_box(bytes), cx, counts);
            assert!(read.is_ok(), "expected what Bolt allows");
        });
    }

    /// One more request is over, and so many more bytes have gone on, none of them copied.
    fn check(&mut self, up: usize, down: usize) {
        let counts = std::mem::take(&mut self.counts);
        assert_eq!((counts.to_server, counts.to_client), (up as u64, down as u64));
        assert_eq!((counts.releases, counts.leases), (1, 0));
    }
}

fn request() -> Vec<u8> {
    let mut parameters = Writer::new();
    parameters.map_header(1).string("nonce").string("0123456789abcdef0123456789abcdef");
    let run = encode_run("RETURN $nonce AS nonce", parameters.bytes(), &[0xA0]);
    [run, encode_pull(VERSION, RECORDS as i64)].concat()
}

/// SUCCESS of RUN, as Neo4j sends it.
fn run_success() -> Vec<u8> {
    let mut writer = Writer::new();
    writer.struct_header(1, tag::SUCCESS).map_header(2);
    writer.string("t_first").int(1).string("fields").list_header(1).string("nonce");
    writer.into_message()
}

/// The last SUCCESS of a result, as Neo4j sends it.
fn pull_success() -> Vec<u8> {
    let mut writer = Writer::new();
    writer.struct_header(1, tag::SUCCESS).map_header(4);
    writer.string("bookmark").string("FB:kcwQ4VfJ2cSKQVmq0dLrUzDfNskGkA==");
    writer.string("type").string("r").string("t_last").int(1).string("db").string("neo4j");
    writer.into_message()
}

fn record(bytes: usize) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.struct_header(1, tag::RECORD).list_header(1).string(&"x".repeat(bytes));
    chunked(writer.bytes())
}

/// RUN with PULL in one write, and the three answers in one.
fn auto() -> Case {
    let (request, mut world) = (request(), World::serving());
    let answer = [run_success(), record(32), pull_success()].concat();
    Case::of_messages("exchange: auto", 5, move || {
        world.client(&request);
        world.server(&answer);
        assert_eq!(world.counts.copied, 0);
        world.check(request.len(), answer.len());
    })
}

/// BEGIN, RUN with PULL, COMMIT; each is awaited.
fn tx() -> Case {
    let (request, mut world) = (request(), World::serving());
    let begin = encode_begin(&[0xA0]);
    let answer = [run_success(), record(32), pull_success()].concat();
    let up = begin.len() + request.len() + COMMIT.len();
    Case::of_messages("exchange: tx", 9, move || {
        world.client(&begin);
        world.server(SUCCESS_EMPTY);
        world.client(&request);
        world.server(&answer);
        world.client(COMMIT);
        world.server(SUCCESS_EMPTY);
        assert_eq!(world.counts.copied, 0);
        world.check(up, answer.len() + 2 * SUCCESS_EMPTY.len());
    })
}

/// A result whose pieces end with a record.
fn rows() -> Case {
    let (request, mut world) = (request(), World::serving());
    let part = record(100).repeat(100);
    let (first, last) = (run_success(), pull_success());
    let parts = RECORDS as usize / 100;
    let down = first.len() + parts * part.len() + last.len();
    Case::of_messages("exchange: rows", RECORDS + 4, move || {
        world.client(&request);
        world.server(&first);
        (0..parts).for_each(|_| world.server(&part));
        world.server(&last);
        assert_eq!(world.counts.copied, 0);
        world.check(request.len(), down);
    })
}

/// A result cut where receive buffers end, mostly inside a record.
fn rows_cut() -> Case {
    let (request, mut world) = (request(), World::serving());
    let body = record(100).repeat(RECORDS as usize);
    let answer = [run_success(), body, pull_success()].concat();
    let pass = move || {
        world.client(&request);
        answer.chunks(BUFFER_BYTES).for_each(|piece| world.server(piece));
        assert_eq!(world.counts.copied, 0);
        world.check(request.len(), answer.len());
    };
    Case::of_messages("exchange: rows cut by buffers", RECORDS + 4, pass)
}

/// The worst cut: each buffer ends behind the first three bytes of a record. Nobody knows yet what
/// it is, so these bytes wait in memory of their own: for each buffer, never for each message.
fn rows_cut_in_heads() -> Case {
    let (request, mut world) = (request(), World::serving());
    let (part, parts) = (record(100).repeat(100), RECORDS as usize / 100);
    let (first, last) = (run_success(), pull_success());
    let answer = [first.clone(), part.repeat(parts), last.clone()].concat();
    let cuts: Vec<usize> = (0..parts).map(|at| first.len() + at * part.len() + 3).collect();
    let pass = move || {
        world.client(&request);
        let mut start = 0;
        for &end in &cuts {
            world.server(&answer[start..end]);
            start = end;
        }
        world.server(&answer[start..]);
        assert_eq!(world.counts.copied, 3 * cuts.len() as u64);
        world.check(request.len(), answer.len());
    };
    let name = "exchange: rows cut in heads";
    // The bytes, and what lets two owners share them.
    let allocations_max = 2 * parts as u64;
    Case { allocations_max, ..Case::of_messages(name, RECORDS + 4, pass) }
}

fn pool() -> (Pool, Rc<Identity>) {
    let options = PoolOptions {
        acquisition_timeout: Duration::from_secs(60),
        max_lifetime: Duration::from_secs(3000),
        max_lifetime_jitter_percent: 10,
        idle_timeout: Duration::from_secs(600),
        liveness_check: Duration::from_secs(300),
        reauth: None,
        claim: CONNECTIONS as u32,
    };
    let profile = Profile {
        version: VERSION,
        routing: None,
        notifications: Notifications::default(),
        utc_patch: false,
    };
    let auth = Auth::from_parts("basic", "alice", "test-password");
    let identity = FingerprintKey::new(&[7; 32]).identity(profile, auth, None);
    let permits = Arc::new(Permits::new(CONNECTIONS as u32));
    (Pool::new(0, permits, options, 1), Rc::new(identity))
}

/// Dials until every connection is leased.
fn lease_all(pool: &mut Pool, identity: &Rc<Identity>, now: Duration) -> Vec<ServerId> {
    let mut leased = Vec::new();
    (0..CONNECTIONS).for_each(|_| drop(pool.acquire(identity, Want::Lease, now)));
    while let Some(order) = pool.next_order() {
        match order {
            Order::Dial(id, _) => pool.dialed(id, now),
            Order::Grant(_, id) => leased.push(id),
            other => panic!("expected dials and grants, not {other:?}"),
        }
    }
    assert_eq!(leased.len(), CONNECTIONS);
    leased
}

/// A connection is there: checkout and checkin of a quarter of the pool.
fn checkout() -> Case {
    let (mut pool, identity) = pool();
    let now = Duration::from_secs(100);
    let leased = lease_all(&mut pool, &identity, now);
    leased.into_iter().for_each(|id| pool.checkin(id, now));
    let count = CONNECTIONS / 4;
    let mut held = Vec::with_capacity(count);
    let pass = move || {
        for _ in 0..count {
            match pool.acquire(black_box(&identity), Want::Lease, now) {
                Acquired::Now(id) => held.push(id),
                other => panic!("expected an idle connection, got {other:?}"),
            }
        }
        held.drain(..).for_each(|id| pool.checkin(id, now));
        assert!(pool.next_order().is_none());
    };
    let name = "pool: checkout and checkin";
    Case { unit: "lease", ..Case::of_messages(name, count as u64, pass) }
}

/// Every connection is out: a client waits, and gets the next that comes back.
fn waiting() -> Case {
    let (mut pool, identity) = pool();
    let now = Duration::from_secs(100);
    let mut leased: std::collections::VecDeque<_> = lease_all(&mut pool, &identity, now).into();
    let pass = move || {
        for _ in 0..CONNECTIONS {
            let acquired = pool.acquire(black_box(&identity), Want::Lease, now);
            let Acquired::Waiting(ticket) = acquired else { panic!("expected to wait") };
            let id = leased.pop_front().expect("every connection is leased");
            while let Some(order) = pool.next_order() {
                assert!(matches!(order, Order::RingOthers), "{order:?}");
            }
            pool.checkin(id, now);
            let Some(Order::Grant(granted, id)) = pool.next_order() else { panic!("a grant") };
            assert_eq!(granted, ticket);
            leased.push_back(id);
        }
    };
    let name = "pool: wait and checkin";
    Case { unit: "lease", ..Case::of_messages(name, CONNECTIONS as u64, pass) }
}
