//! A whole `Exchange` without sockets: what it says to both sides, and an honest server for it.

use boltmux::backend::approval::LoginOutcome;
use boltmux::backend::identity::{FingerprintKey, Identity};
use boltmux::backend::{Discard, KnownServer, Refusal};
use boltmux::relay::exchange::{Effects, Exchange, Leased, Remainder};
use boltmux::relay::routes::RouteCache;
use boltmux::relay::session::{Action, Context, Release, Session, SessionLimits};
use boltmux::transport::buffer::Chunk;
use boltmux::wire::chunk::{Kind, Scanner};
use boltmux::wire::message::{IGNORED, SUCCESS_EMPTY, tag};
use boltmux::wire::version::Version;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Bytes held for one client at most, as the shell sees to it (`limits.held_bytes`).
pub const HELD_BYTES_MAX: usize = 1 << 20;
/// One event may add what a session holds of one message, and the input itself.
const HELD_SLACK: usize = 256 << 10;

/// What the exchange has done outside.
#[derive(Default)]
pub struct Outside {
    input: Vec<u8>,
    pub to_client: Vec<u8>,
    pub to_server: Vec<u8>,
    pub logins: Vec<Rc<Identity>>,
    pub is_leased: bool,
    pub is_waiting: bool,
    pub is_closed: bool,
    /// A lease is to be waited for.
    pub is_scarce: bool,
}

impl Effects for Outside {
    fn to_server(&mut self, range: Range<usize>) {
        assert!(self.is_leased, "bytes for a server, and none is leased");
        let bytes = self.input[range].to_vec();
        self.to_server.extend(bytes);
    }
    fn to_server_copied(&mut self, bytes: Bytes) {
        assert!(self.is_leased, "bytes for a server, and none is leased");
        self.to_server.extend_from_slice(&bytes);
    }
    /// Sometimes: both ways are to be tried.
    fn keep(&mut self, range: Range<usize>) -> Option<Chunk> {
        let is_kept = range.len().is_multiple_of(2);
        is_kept.then(|| Chunk::from(Bytes::copy_from_slice(&self.input[range])))
    }
    fn to_server_kept(&mut self, chunk: Chunk) {
        assert!(self.is_leased, "bytes for a server, and none is leased");
        self.to_server.extend_from_slice(&chunk);
    }
    fn to_client(&mut self, range: Range<usize>) {
        let bytes = self.input[range].to_vec();
        self.to_client.extend(bytes);
    }
    fn to_client_copied(&mut self, bytes: Bytes) {
        self.to_client.extend_from_slice(&bytes);
    }
    fn acquire(&mut self, _: &Rc<Identity>) -> Leased {
        assert!(!self.is_leased && !self.is_waiting, "a second lease");
        self.is_waiting = self.is_scarce;
        self.is_leased = !self.is_scarce;
        if self.is_scarce { Leased::MustWait } else { Leased::Now }
    }
    fn release(&mut self, _: Release, _: Remainder<'_>) {
        assert!(std::mem::take(&mut self.is_leased), "a lease is given back twice");
        self.to_server.clear();
    }
    fn act(&mut self, action: Action) {
        match action {
            Action::LogIn(login) => {
                let (profile, auth) = *login;
                let key = FingerprintKey::new(&[7; 32]);
                self.logins.push(Rc::new(key.identity(profile, auth, None)));
            }
            Action::Withdraw => assert!(std::mem::take(&mut self.is_waiting), "nothing awaited"),
            Action::Close(_) => self.is_closed = true,
            _ => {}
        }
    }
}

/// A client's exchange and the world around it.
pub struct Conversation {
    pub exchange: Exchange,
    pub outside: Outside,
    known: KnownServer,
    limits: SessionLimits,
    routes: RefCell<RouteCache>,
    now: Duration,
    /// What the honest server has received and not yet answered.
    received: Vec<u8>,
}

impl Conversation {
    pub fn new(version: Version) -> Conversation {
        Conversation {
            exchange: Exchange::new(Session::new(version, false, 1)),
            outside: Outside::default(),
            known: KnownServer { agent: "Neo4j/5.26.0".into(), ..KnownServer::default() },
            limits: SessionLimits::default(),
            routes: RefCell::new(RouteCache::new(Duration::from_secs(60))),
            now: Duration::from_secs(100),
            received: Vec::new(),
        }
    }

    fn on<T>(&mut self, work: impl FnOnce(&mut Exchange, Context<'_>, &mut Outside) -> T) -> T {
        self.now += Duration::from_millis(1);
        let cx = Context {
            now: self.now,
            server: Some(&self.known),
            limits: &self.limits,
            own_address: "proxy:7687",
            routes: &self.routes,
        };
        let result = work(&mut self.exchange, cx, &mut self.outside);
        let held = self.exchange.held_bytes();
        assert!(held <= HELD_BYTES_MAX + HELD_SLACK, "{held} bytes are held");
        if self.outside.is_closed {
            assert!(!self.outside.is_leased && !self.outside.is_waiting, "a lease outlives it");
        }
        result
    }

    /// As the shell does it: nothing is read beyond what may be held.
    pub fn client_says(&mut self, bytes: &[u8]) {
        if self.outside.is_closed || self.exchange.held_bytes() >= HELD_BYTES_MAX {
            return;
        }
        self.outside.input = bytes.to_vec();
        self.on(|exchange, cx, outside| exchange.client_bytes(bytes, cx, outside));
    }

    pub fn server_says(&mut self, bytes: &[u8]) {
        if !self.outside.is_leased {
            return;
        }
        self.outside.input = bytes.to_vec();
        let result = self.on(|exchange, cx, outside| exchange.server_bytes(bytes, cx, outside));
        if let Err(why) = result {
            self.server_lost(why);
        }
    }

    pub fn server_lost(&mut self, why: Discard) {
        self.on(|exchange, cx, outside| exchange.server_lost(why, cx, outside));
    }

    /// Whatever login is asked for succeeds, or fails.
    pub fn logins_end(&mut self, outcome: &LoginOutcome) {
        for identity in std::mem::take(&mut self.outside.logins) {
            self.on(|exchange, cx, outside| {
                exchange.session.login_done(identity, outcome, cx);
                exchange.after(cx, outside);
            });
        }
    }

    /// The lease that is waited for is there, or not to be had.
    pub fn wait_ends(&mut self, is_granted: bool) {
        if !std::mem::take(&mut self.outside.is_waiting) {
            return;
        }
        if is_granted {
            self.outside.is_leased = true;
            return self.on(|exchange, cx, outside| exchange.granted(cx, outside));
        }
        self.on(|exchange, cx, outside| exchange.refused(&Refusal::TimedOut, cx, outside));
    }

    /// Time passes: NOOPs and limits.
    pub fn time_passes(&mut self) {
        self.now += Duration::from_secs(10);
        self.on(|exchange, cx, outside| {
            exchange.session.deadline_passed(cx);
            exchange.after(cx, outside);
        });
    }

    /// An honest server answers all it has got whole; true if that was anything.
    pub fn server_answers(&mut self) -> bool {
        if !self.outside.is_leased {
            self.received.clear();
            return false;
        }
        self.received.append(&mut self.outside.to_server);
        let (requests, used) = messages(&self.received);
        self.received.drain(..used);
        let mut tags: VecDeque<u8> =
            requests.iter().filter_map(|one| one.get(1).copied()).collect();
        let has_any = !tags.is_empty();
        while let Some(request) = tags.pop_front() {
            // Of several RESETs only the last succeeds; what one overtakes is answered, too.
            let is_overtaken = request == tag::RESET && tags.contains(&tag::RESET);
            self.server_says(if is_overtaken { IGNORED } else { SUCCESS_EMPTY });
        }
        has_any
    }
}

/// The payloads of the whole messages in `bytes`, and how many bytes these are.
pub fn messages(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
    let (mut scanner, mut found, mut payload) = (Scanner::default(), Vec::new(), Vec::new());
    let (mut at, mut used) = (0, 0);
    while let Some(span) = scanner.next_with(&bytes[at..], |piece| payload.extend_from_slice(piece))
    {
        at += span.length;
        match span.kind {
            Kind::Noop => used = at,
            Kind::Message { ends: true, .. } => {
                found.push(std::mem::take(&mut payload));
                used = at;
            }
            Kind::Message { .. } => {}
        }
    }
    (found, used)
}

/// The tags of what the client was told; every message must be one that Bolt has.
pub fn told(conversation: &Conversation) -> Vec<u8> {
    let (answers, used) = messages(&conversation.outside.to_client);
    let is_whole = used == conversation.outside.to_client.len();
    assert!(is_whole || conversation.outside.is_closed || conversation.outside.is_leased);
    let tag_of = |payload: &Vec<u8>| {
        let tag = payload.get(1).copied().expect("a message has a tag");
        assert!(matches!(tag, tag::SUCCESS | tag::FAILURE | tag::IGNORED | tag::RECORD));
        tag
    };
    answers.iter().map(tag_of).collect()
}
