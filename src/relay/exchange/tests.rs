//! Cases that the simulation found first.

use super::*;
use crate::backend::KnownServer;
use crate::backend::approval::LoginOutcome;
use crate::backend::identity::FingerprintKey;
use crate::relay::reply;
use crate::relay::routes::RouteCache;
use crate::relay::session::SessionLimits;
use crate::wire::message::{
    Auth, COMMIT, Failure, Notifications, RESET, Role, Routing, RoutingTable, SUCCESS_EMPTY,
    ServerHello, encode_begin, encode_hello, encode_pull, encode_route, encode_run,
};
use crate::wire::version::Version;
use std::cell::RefCell;
use std::time::Duration;

const V4_4: Version = Version::new(4, 4);

/// Everything is granted at once, and written down.
#[derive(Default)]
struct Notes {
    input: Vec<u8>,
    /// The client's input, as what lends it its buffer.
    chunk: Option<Chunk>,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    logins: Vec<Action>,
    leases: usize,
    /// Of our own.
    answers: usize,
    released: Vec<Release>,
    /// A lease is to be waited for.
    is_scarce: bool,
    /// Requests may wait in the buffer they came in; what was sent out of it.
    may_keep: bool,
    kept: Vec<u8>,
}

impl Effects for Notes {
    fn to_server(&mut self, range: Range<usize>) {
        self.to_server.extend_from_slice(&self.input[range]);
    }
    fn to_server_copied(&mut self, bytes: Bytes) {
        self.to_server.extend_from_slice(&bytes);
    }
    fn keep(&mut self, range: Range<usize>) -> Option<Chunk> {
        let chunk = self.chunk.as_ref().filter(|_| self.may_keep)?;
        Some(chunk.slice(range))
    }
    fn to_server_kept(&mut self, chunk: Chunk) {
        self.to_server.extend_from_slice(&chunk);
        self.kept.extend_from_slice(&chunk);
    }
    fn to_client(&mut self, range: Range<usize>) {
        self.to_client.extend_from_slice(&self.input[range]);
    }
    fn to_client_copied(&mut self, bytes: Bytes) {
        self.answers += 1;
        self.to_client.extend_from_slice(&bytes);
    }
    fn acquire(&mut self, _: &Rc<Identity>) -> Leased {
        if self.is_scarce {
            return Leased::MustWait;
        }
        self.leases += 1;
        Leased::Now
    }
    fn release(&mut self, how: Release, _: Remainder<'_>) {
        self.leases -= 1;
        self.released.push(how);
    }
    fn act(&mut self, action: Action) {
        self.logins.push(action);
    }
}

struct World {
    exchange: Exchange,
    notes: Notes,
    known: KnownServer,
    limits: SessionLimits,
    routes: RefCell<RouteCache>,
    now: Duration,
}

impl World {
    fn new() -> World {
        let seconds = Duration::from_secs;
        World {
            exchange: Exchange::new(Session::new(V4_4, false, 1)),
            notes: Notes::default(),
            known: KnownServer { recv_timeout_seconds: Some(4), ..KnownServer::default() },
            limits: SessionLimits {
                login_message: 8192,
                query: Some(seconds(2)),
                reset: seconds(5),
                ..SessionLimits::default()
            },
            routes: RefCell::new(RouteCache::new(seconds(60))),
            now: seconds(100),
        }
    }

    fn on(&mut self, work: impl FnOnce(&mut Exchange, Context<'_>, &mut Notes)) -> Vec<u8> {
        let cx = Context {
            now: self.now,
            server: Some(&self.known),
            limits: &self.limits,
            own_address: "proxy:7687",
            routes: &self.routes,
        };
        work(&mut self.exchange, cx, &mut self.notes);
        mem::take(&mut self.notes.to_client)
    }

    fn client(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.notes.input = bytes.to_vec();
        self.notes.chunk = Some(Chunk::from(Bytes::copy_from_slice(bytes)));
        self.on(|exchange, cx, notes| exchange.client_bytes(bytes, cx, notes))
    }

    fn server(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.notes.input = bytes.to_vec();
        self.on(|exchange, cx, notes| {
            exchange.server_bytes(bytes, cx, notes).expect("what Bolt allows");
        })
    }

    fn lost(&mut self) -> Vec<u8> {
        self.on(|exchange, cx, notes| exchange.server_lost(Discard::ServerClosed, cx, notes))
    }

    fn hello(&mut self) -> Vec<u8> {
        let auth = Auth::from_parts("basic", "alice", "test-password");
        let hello = ServerHello {
            user_agent: "test/1",
            bolt_agent: "test/1",
            routing: None,
            utc_patch: false,
            notifications: &Notifications::default(),
            auth: Some(&auth),
        };
        self.client(&encode_hello(V4_4, &hello))
    }

    fn let_in(&mut self) -> Vec<u8> {
        let Some(Action::LogIn(login)) = self.notes.logins.pop() else { panic!("no login") };
        let (profile, auth) = *login;
        let identity = Rc::new(FingerprintKey::new(&[7; 32]).identity(profile, auth, None));
        self.on(|exchange, cx, notes| {
            exchange.session.login_done(identity, &LoginOutcome::Accepted, cx);
            exchange.after(cx, notes);
        })
    }

    fn serving() -> World {
        let mut world = World::new();
        world.hello();
        world.let_in();
        world
    }

    fn deadline(&self) -> Option<Duration> {
        self.exchange.session.deadline(&self.limits)
    }
}

fn run() -> Vec<u8> {
    encode_run("RETURN 1", &[0xA0], &[0xA0])
}

/// Tags of the messages in `bytes`.
fn tags(bytes: &[u8]) -> Vec<u8> {
    let (mut scanner, mut at, mut tags) = (Scanner::default(), 0, Vec::new());
    while let Some(span) = scanner.next(&bytes[at..]) {
        at += span.length;
        tags.extend(scanner.head().filter(|_| span.kind != Kind::Noop).map(|head| head.tag));
    }
    tags
}

fn syntax_error() -> Vec<u8> {
    Failure::new("Neo.ClientError.Statement.SyntaxError", "42001", "no").encode(V4_4)
}

#[test]
fn a_reset_held_behind_a_login_drops_only_what_came_before_it() {
    let mut world = World::new();
    world.hello();
    let pull = encode_pull(V4_4, -1);
    assert!(world.client(&[&run(), &pull[..], RESET, &run()].concat()).is_empty());
    let answers = world.let_in();
    assert_eq!(tags(&answers), [tag::SUCCESS, tag::IGNORED, tag::IGNORED, tag::SUCCESS]);
    assert_eq!(world.notes.to_server, run());
}

#[test]
fn a_loss_after_a_failure_is_not_told_again() {
    let mut world = World::serving();
    world.client(&[run(), encode_pull(V4_4, -1)].concat());
    assert_eq!(tags(&world.server(&syntax_error())), [tag::FAILURE]);
    assert_eq!(world.lost(), IGNORED);
    assert_eq!(world.notes.leases, 0);
}

#[test]
fn a_routing_table_is_rewritten_also_with_a_reset_behind_it() {
    let mut world = World::serving();
    let route = encode_route(V4_4, &Routing::default(), None, None);
    world.client(&[&route, RESET].concat());
    let servers = vec![(Role::Read, vec!["inner:7687".to_owned()])];
    let table = RoutingTable { ttl_seconds: 300, database: Some("neo4j".into()), servers };
    let answer = world.server(&table.encode(V4_4));
    assert!(!answer.windows(10).any(|bytes| bytes == b"inner:7687"), "{answer:02X?}");
    assert_eq!(world.server(SUCCESS_EMPTY), SUCCESS_EMPTY);
}

/// Each would cost ten times its bytes.
#[test]
fn very_many_held_requests_are_ignored_in_one_answer() {
    const MANY: usize = 1000;
    let mut world = World::serving();
    world.notes.is_scarce = true;
    world.client(&[run(), encode_pull(V4_4, -1).repeat(MANY)].concat());
    world.notes.answers = 0;
    assert_eq!(world.client(RESET), [&IGNORED.repeat(MANY + 1), SUCCESS_EMPTY].concat());
    assert!(world.notes.answers <= 2, "{} answers", world.notes.answers);
}

/// The table of a ROUTE that is too long to be read is kept under no name, and not under that of
/// one that failed before it.
#[test]
fn a_routing_table_is_kept_for_none_but_the_request_it_answers() {
    let mut world = World::serving();
    let named = |name: &str| encode_route(V4_4, &Routing::default(), Some(name), None);
    world.client(&named("first"));
    world.server(&reply::invalid("no such database").encode(V4_4));
    assert_eq!(world.client(RESET), SUCCESS_EMPTY);
    let long = named(&"x".repeat(REQUEST_HELD_MAX + 1));
    let (begin, end) = long.split_at(long.len() - 3); // it does not come at once
    assert!(world.client(begin).is_empty() && world.client(end).is_empty());
    let servers = vec![(Role::Read, vec!["inner:7687".to_owned()])];
    let table = RoutingTable { ttl_seconds: 300, database: Some("other".into()), servers };
    assert!(!world.server(&table.encode(V4_4)).is_empty());
    let answer = world.client(&named("first"));
    assert!(answer.is_empty() && world.notes.leases == 1, "not asked again: {answer:02X?}");
}

#[test]
fn no_deadline_stays_in_the_past() {
    let mut world = World::serving();
    world.client(&[&run(), RESET].concat());
    world.now += Duration::from_secs(3);
    world.on(|exchange, cx, _| exchange.session.deadline_passed(cx));
    assert!(world.deadline().is_none_or(|due| due > world.now), "behind a client's RESET");

    let mut world = World::serving();
    world.client(&[run(), encode_pull(V4_4, -1)].concat());
    let record = [0, 9, 0xB1, tag::RECORD, 0x91];
    world.server(&[SUCCESS_EMPTY, &record].concat());
    world.limits.query = None;
    world.now += Duration::from_secs(3);
    world.on(|exchange, cx, _| exchange.session.deadline_passed(cx));
    assert!(world.deadline().is_none_or(|due| due > world.now), "inside a message");
}

#[test]
fn a_time_limit_in_failed_is_not_told_again() {
    let mut world = World::serving();
    world.client(&[run(), encode_pull(V4_4, -1)].concat());
    world.server(&syntax_error());
    world.now += Duration::from_secs(3);
    world.on(|exchange, cx, notes| {
        exchange.session.deadline_passed(cx);
        exchange.after(cx, notes);
    });
    assert_eq!(world.server(&[IGNORED, SUCCESS_EMPTY].concat()), IGNORED);
    assert_eq!(world.notes.leases, 0);
}

/// Our own RESET was all that the lost server owed: the client has its answers.
#[test]
fn a_loss_after_the_last_answer_is_not_told() {
    let mut world = World::serving();
    world.client(&[encode_begin(&[0xA0]), COMMIT.to_vec()].concat());
    assert_eq!(world.server(SUCCESS_EMPTY), SUCCESS_EMPTY);
    world.now += Duration::from_secs(3);
    world.on(|exchange, cx, notes| {
        exchange.session.deadline_passed(cx);
        exchange.after(cx, notes);
    });
    assert!(world.notes.to_server.ends_with(RESET));
    assert_eq!(world.server(SUCCESS_EMPTY), SUCCESS_EMPTY, "the COMMIT was faster");
    assert!(world.lost().is_empty());
    world.notes.to_server.clear();
    assert!(world.client(&run()).is_empty(), "nothing has failed");
    assert_eq!((world.notes.to_server.clone(), world.notes.leases), (run(), 1));
}

#[test]
fn silence_counts_from_the_request_on() {
    let mut world = World::serving();
    world.limits.query = None;
    world.client(&run());
    assert_eq!(world.deadline(), Some(world.now + Duration::from_secs(2)));
}

/// Seconds of one core, were the rest of the line moved up for each of them.
#[test]
fn a_long_line_of_requests_is_answered() {
    const COUNT: usize = 150_000;
    let mut world = World::serving();
    world.client(&[run(), encode_pull(V4_4, -1)].concat());
    for _ in 0..COUNT / 1000 {
        world.client(&COMMIT.repeat(1000));
    }
    assert!(world.exchange.held_bytes() > COUNT * COMMIT.len() / 2);
    world.server(&syntax_error());
    let answers = world.server(&[IGNORED, SUCCESS_EMPTY].concat());
    assert_eq!(answers.len(), IGNORED.len() * (COUNT + 1));
}

#[test]
fn a_slow_reader_is_no_slow_query() {
    let mut world = World::serving();
    world.client(&[run(), encode_pull(V4_4, -1)].concat());
    world.server(SUCCESS_EMPTY);
    let start = world.now;
    let is_reset_at = |world: &mut World, milliseconds| {
        world.now = start + Duration::from_millis(milliseconds);
        world.on(|exchange, cx, notes| {
            exchange.session.deadline_passed(cx);
            exchange.after(cx, notes);
        });
        world.notes.to_server.ends_with(RESET)
    };
    assert!(!is_reset_at(&mut world, 1000));
    world.exchange.session.client_takes(false, world.now);
    assert!(!is_reset_at(&mut world, 60_000), "the client is waited for, not the server");
    world.exchange.session.client_takes(true, world.now);
    // The second before that counts.
    assert!(!is_reset_at(&mut world, 60_900));
    assert!(is_reset_at(&mut world, 61_000));
}

/// A client that waits for a lease with BEGIN, RUN and PULL, all in one buffer or in copies.
fn waiting(may_keep: bool) -> (World, Vec<u8>) {
    let mut world = World::serving();
    (world.notes.is_scarce, world.notes.may_keep) = (true, may_keep);
    let requests = [encode_begin(&[0xA0]), run(), encode_pull(V4_4, -1)].concat();
    world.client(&requests);
    assert_eq!(
        (world.exchange.held_bytes(), world.exchange.is_keeping()),
        (requests.len(), may_keep)
    );
    assert!(world.notes.to_server.is_empty());
    (world, requests)
}

fn grant(world: &mut World) {
    (world.notes.is_scarce, world.notes.leases) = (false, 1);
    world.on(|exchange, cx, notes| exchange.granted(cx, notes));
}

#[test]
fn what_waited_goes_out_of_the_buffer_it_came_in() {
    for (may_keep, is_copied_later) in [(true, false), (true, true), (false, false)] {
        let (mut world, requests) = waiting(may_keep);
        if is_copied_later {
            world.exchange.copy_kept();
        }
        grant(&mut world);
        assert_eq!(world.notes.to_server, requests);
        let is_kept = may_keep && !is_copied_later;
        assert_eq!(world.notes.kept, if is_kept { requests } else { Vec::new() });
        assert_eq!((world.exchange.held_bytes(), world.exchange.is_keeping()), (0, false));
    }
}

#[test]
fn a_reset_drops_what_waits_and_gives_its_buffer_back() {
    for may_keep in [true, false] {
        let (mut world, _) = waiting(may_keep);
        let answers = [&IGNORED.repeat(3), SUCCESS_EMPTY].concat();
        assert_eq!(world.client(RESET), answers);
        assert_eq!((world.exchange.held_bytes(), world.exchange.is_keeping()), (0, false));
        assert!(world.notes.to_server.is_empty());
    }
}

#[test]
fn what_comes_behind_the_buffer_that_waits_is_copied_and_stays_behind() {
    let (mut world, requests) = waiting(true);
    let more = [encode_pull(V4_4, 7), COMMIT.to_vec()].concat();
    let (first, second) = more.split_at(3);
    world.client(first);
    world.client(second);
    assert_eq!(world.exchange.held_bytes(), requests.len() + more.len());
    grant(&mut world);
    assert_eq!(world.notes.to_server, [requests.clone(), more].concat());
    assert!(requests.starts_with(&world.notes.kept) && !world.notes.kept.is_empty());
}

/// What is copied is wiped; a buffer of the ring is not.
#[test]
fn no_secret_waits_in_a_buffer() {
    let mut world = World::new();
    world.notes.may_keep = true;
    world.hello();
    assert_eq!((world.exchange.held_bytes(), world.notes.logins.len()), (0, 1));
    world.hello();
    assert!(world.exchange.held_bytes() > 0 && !world.exchange.is_keeping());
}
