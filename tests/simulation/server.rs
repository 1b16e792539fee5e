//! A tiny Neo4j: what a Bolt server says to each request, byte by byte. It shares the encoders with
//! the proxy, but neither the scanner nor the states.

use crate::random::Random;
use boltmux::wire::message::{
    Failure, HelloSuccess, IGNORED, LogonSuccess, Role, RoutingTable, SUCCESS_EMPTY, tag,
};
use boltmux::wire::packstream::{Reader, Writer};
use boltmux::wire::version::Version;
use std::collections::VecDeque;
use std::time::Duration;

/// What happened to one RUN, by its nonce.
#[derive(Default)]
pub struct Entry {
    pub executed: u32,
    pub is_committed: bool,
    pub is_write: bool,
    /// A client was told that this has not been committed.
    pub is_denied: bool,
}

/// What all connections share.
#[derive(Default)]
pub struct Database {
    pub ledger: Vec<Entry>,
    /// The valid password of each user.
    pub passwords: Vec<(String, String)>,
    /// Logins that were ever accepted, and ever refused.
    pub accepted: Vec<(String, String)>,
    pub refused: Vec<(String, String)>,
    pub failures: Vec<(String, Duration)>,
    pub violation: Option<String>,
    /// Shares of 1,000: what goes wrong on its own.
    pub no_threads: u32,
    pub noops: u32,
}

impl Database {
    fn entry(&mut self, nonce: usize) -> &mut Entry {
        if self.ledger.len() <= nonce {
            self.ledger.resize_with(nonce + 1, Entry::default);
        }
        &mut self.ledger[nonce]
    }

    pub fn is_committed(&self, nonce: usize) -> bool {
        self.ledger.get(nonce).is_some_and(|entry| entry.is_committed)
    }

    pub fn executed(&self, nonce: usize) -> u32 {
        self.ledger.get(nonce).map_or(0, |entry| entry.executed)
    }

    /// The proxy has promised that this will never be committed.
    pub fn deny(&mut self, nonce: usize) {
        let entry = self.entry(nonce);
        entry.is_denied = true;
        if entry.is_committed && entry.is_write {
            self.violate(format!("nonce {nonce} is committed, but its client was told it is not"));
        }
    }

    fn commit(&mut self, nonces: &[usize]) {
        for &nonce in nonces {
            let entry = self.entry(nonce);
            entry.is_committed = true;
            if entry.is_denied && entry.is_write {
                self.violate(format!("nonce {nonce} was committed after its client was told no"));
            }
        }
    }

    pub fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// The code of the failure, if these credentials will not do.
    fn log_in(&mut self, user: &str, password: &str, now: Duration) -> Option<&'static str> {
        let login = (user.to_owned(), password.to_owned());
        self.failures.retain(|(_, at)| now < *at + Duration::from_secs(5));
        if self.failures.iter().filter(|(name, _)| name == user).count() >= 3 {
            return Some("Neo.ClientError.Security.AuthenticationRateLimit");
        }
        if self.passwords.contains(&login) {
            self.failures.retain(|(name, _)| name != user);
            if !self.accepted.contains(&login) {
                self.accepted.push(login);
            }
            return None;
        }
        self.failures.push((user.to_owned(), now));
        if !self.refused.contains(&login) {
            self.refused.push(login);
        }
        Some("Neo.ClientError.Security.Unauthorized")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Negotiation,
    Authentication,
    Ready,
    Auto,
    Transaction,
}

struct Open {
    nonce: usize,
    next: usize,
    rows: usize,
    fails: bool,
}

/// One connection.
pub struct Connection {
    version: Version,
    number: usize,
    raw: Vec<u8>,
    message: Vec<u8>,
    inbox: VecDeque<Vec<u8>>,
    interrupts: u32,
    state: State,
    has_failed: bool,
    user: String,
    is_routed: bool,
    open: Option<Open>,
    /// Records still to be sent for the PULL that is being worked on.
    pulling: Option<usize>,
    nonces: Vec<usize>,
    commit_fails: bool,
    pub is_closed: bool,
    pub out: Vec<u8>,
}

impl Connection {
    pub fn new(version: Version, number: usize) -> Connection {
        Connection {
            version,
            number,
            raw: Vec::new(),
            message: Vec::new(),
            inbox: VecDeque::new(),
            interrupts: 0,
            state: State::Negotiation,
            has_failed: false,
            user: String::new(),
            is_routed: false,
            open: None,
            pulling: None,
            nonces: Vec::new(),
            commit_fails: false,
            is_closed: false,
            out: Vec::new(),
        }
    }

    /// READY, with nothing to do.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
            && !self.has_failed
            && self.interrupts == 0
            && !self.has_work()
            && self.raw.is_empty()
            && self.message.is_empty()
    }

    pub fn has_work(&self) -> bool {
        !self.is_closed && (!self.inbox.is_empty() || self.pulling.is_some())
    }

    pub fn describe(&self) -> String {
        format!(
            "server {} {:?} failed={} interrupts={} inbox={} pulling={:?} raw={:?} user={}",
            self.number,
            self.state,
            self.has_failed,
            self.interrupts,
            self.inbox.len(),
            self.pulling,
            self.raw,
            self.user
        )
    }

    /// The proxy has gone, or the machine is down: what was open is rolled back.
    pub fn end(&mut self) {
        self.is_closed = true;
        self.inbox.clear();
        self.pulling = None;
    }

    pub fn arrive(&mut self, bytes: &[u8]) {
        if self.is_closed {
            return;
        }
        self.raw.extend_from_slice(bytes);
        let mut at = 0;
        while let [high, low, rest @ ..] = &self.raw[at..] {
            let size = usize::from(*high) << 8 | usize::from(*low);
            if rest.len() < size {
                break;
            }
            at += 2 + size;
            self.message.extend_from_slice(&rest[..size]);
            if size == 0 && !self.message.is_empty() {
                let message = std::mem::take(&mut self.message);
                self.interrupts += u32::from(message == [0xB0, tag::RESET]);
                self.inbox.push_back(message);
            }
        }
        self.raw.drain(..at);
    }

    /// Works on one request, or on one record of it.
    pub fn work(&mut self, base: &mut Database, random: &mut Random, now: Duration) {
        if self.is_closed {
            return;
        }
        if random.chance(base.noops) && self.version.has_noop() && self.has_work() {
            self.out.extend_from_slice(&[0, 0]);
        }
        if let Some(left) = self.pulling {
            return self.pull_on(left, base);
        }
        let Some(message) = self.inbox.pop_front() else { return };
        let name = message[1];
        let is_known = (0xB0..=0xB3).contains(&message[0]);
        if !is_known || name == tag::GOODBYE {
            return self.end();
        }
        if name == tag::RESET {
            return self.reset();
        }
        if self.interrupts > 0 || self.has_failed {
            if name == tag::LOGOFF {
                self.fail("Neo.ClientError.Request.Invalid");
                return self.end();
            }
            return self.out.extend_from_slice(IGNORED);
        }
        if random.chance(base.no_threads) && self.state != State::Negotiation {
            self.fail("Neo.TransientError.Request.NoThreadsAvailable");
            return self.end();
        }
        self.execute(name, &message, base, now);
    }

    fn reset(&mut self) {
        if !matches!(self.state, State::Ready | State::Auto | State::Transaction) {
            self.fail("Neo.ClientError.Request.Invalid");
            return self.end();
        }
        self.interrupts -= 1;
        (self.state, self.has_failed, self.open) = (State::Ready, false, None);
        self.nonces.clear();
        let answer = if self.interrupts == 0 { SUCCESS_EMPTY } else { IGNORED };
        self.out.extend_from_slice(answer);
    }

    fn fail(&mut self, code: &'static str) {
        let failure = Failure::new(code, "50N42", "as the simulation wants it");
        self.out.extend_from_slice(&failure.encode(self.version));
        self.has_failed = true;
    }

    fn execute(&mut self, name: u8, message: &[u8], base: &mut Database, now: Duration) {
        use State::*;
        match (name, self.state) {
            (tag::HELLO, Negotiation) => self.hello(message, base, now),
            (tag::LOGON, Authentication) => self.log_on(&message[2..], base, now),
            (tag::LOGOFF, Ready) => {
                self.state = Authentication;
                self.out.extend_from_slice(SUCCESS_EMPTY);
            }
            (tag::ROUTE, Ready) => self.route(message),
            (tag::RUN, Ready | Transaction) => self.run(message, base),
            (tag::BEGIN, Ready) => {
                (self.state, self.commit_fails) = (Transaction, false);
                self.nonces.clear();
                self.out.extend_from_slice(SUCCESS_EMPTY);
            }
            (tag::PULL, Auto | Transaction) => self.pull(message),
            (tag::DISCARD, Auto | Transaction) => self.discard(message, base),
            (tag::COMMIT, Transaction) => {
                (self.state, self.open) = (Ready, None);
                if self.commit_fails {
                    return self.fail("Neo.ClientError.Schema.ConstraintValidationFailed");
                }
                base.commit(&std::mem::take(&mut self.nonces));
                self.out.extend_from_slice(SUCCESS_EMPTY);
            }
            (tag::ROLLBACK, Transaction) => {
                (self.state, self.open) = (Ready, None);
                self.nonces.clear();
                self.out.extend_from_slice(SUCCESS_EMPTY);
            }
            _ => {
                base.violate(format!("{} reached a server in {:?}", tag::name(name), self.state));
                self.fail("Neo.ClientError.Request.Invalid");
                self.end();
            }
        }
    }

    fn hello(&mut self, message: &[u8], base: &mut Database, now: Duration) {
        let mut map = Reader::new(&message[2..]);
        for _ in 0..map.take_map_header().expect("a map") {
            if map.take_key() == Ok("routing") {
                self.is_routed = true;
            }
            map.skip().expect("a value");
        }
        if self.version.has_logon() {
            self.state = State::Authentication;
        } else if !self.is_let_in(&message[2..], base, now) {
            return;
        }
        let success = HelloSuccess {
            server: "Neo4j/5.26.0".into(),
            connection_id: format!("bolt-{}", self.number),
            recv_timeout_seconds: Some(4),
            utc_patch: false,
            credentials_expired: false,
        };
        self.out.extend(success.encode(self.version, false, None, None));
    }

    fn log_on(&mut self, map: &[u8], base: &mut Database, now: Duration) {
        if self.is_let_in(map, base, now) {
            self.out.extend(LogonSuccess::default().encode(self.version));
        }
    }

    fn is_let_in(&mut self, map: &[u8], base: &mut Database, now: Duration) -> bool {
        let (mut user, mut password) = (String::new(), String::new());
        let mut map = Reader::new(map);
        for _ in 0..map.take_map_header().expect("a map") {
            match map.take_key().expect("a key") {
                "principal" => user = map.take_string().expect("a string").to_owned(),
                "credentials" => password = map.take_string().expect("a string").to_owned(),
                _ => map.skip().expect("a value"),
            }
        }
        match base.log_in(&user, &password, now) {
            Some(code) => {
                self.fail(code);
                self.end();
                false
            }
            None => {
                (self.state, self.user) = (State::Ready, user);
                true
            }
        }
    }

    fn whoami(&self) -> String {
        format!("{}/{}/{}", self.user, self.version, self.is_routed)
    }

    fn route(&mut self, message: &[u8]) {
        let database = database_of(self.version, message);
        let table = RoutingTable {
            ttl_seconds: 300,
            database: Some(database.unwrap_or_else(|| format!("home-{}", self.user))),
            servers: [Role::Write, Role::Read, Role::Route]
                .map(|role| (role, vec!["inner:7687".to_owned()]))
                .into(),
        };
        self.out.extend(table.encode(self.version));
    }

    /// The query's first letter says what goes wrong, the number behind it how many records come.
    fn run(&mut self, message: &[u8], base: &mut Database) {
        let mut reader = Reader::new(&message[2..]);
        let query = reader.take_string().expect("a query").to_owned();
        let (mut nonce, mut whoami) = (0, "");
        for _ in 0..reader.take_map_header().expect("parameters") {
            match reader.take_key().expect("a key") {
                "nonce" => nonce = reader.take_integer().expect("a nonce") as usize,
                "whoami" => whoami = reader.take_string().expect("a name"),
                _ => reader.skip().expect("a value"),
            }
        }
        if whoami != self.whoami() {
            base.violate(format!("nonce {nonce} of {whoami} ran as {}", self.whoami()));
        }
        let (kind, rows) = query.split_at(1);
        match kind {
            "f" => return self.fail("Neo.ClientError.Statement.SyntaxError"),
            "e" => return self.fail("Neo.ClientError.Security.AuthorizationExpired"),
            "i" => {
                self.fail("Neo.ClientError.Security.Forbidden");
                return self.end();
            }
            _ => {}
        }
        let is_read = reader.rest() != [0xA0];
        let entry = base.entry(nonce);
        entry.executed += 1;
        entry.is_write = !is_read;
        if entry.executed > 1 {
            base.violate(format!("nonce {nonce} was executed twice"));
        }
        if self.state == State::Ready {
            (self.state, self.commit_fails) = (State::Auto, false);
            self.nonces.clear();
        }
        self.commit_fails |= kind == "c";
        self.nonces.push(nonce);
        let rows = rows.parse().expect("a number of records");
        self.open = Some(Open { nonce, next: 0, rows, fails: kind == "p" });
        let mut writer = Writer::new();
        writer.struct_header(1, tag::SUCCESS).map_header(1);
        writer.string("fields").list_header(1).string("n");
        self.out.extend(writer.into_message());
    }

    fn pull(&mut self, message: &[u8]) {
        match self.open.as_ref() {
            None => self.fail("Neo.ClientError.Request.InvalidFormat"),
            Some(open) if open.fails => self.fail("Neo.ClientError.Statement.ArithmeticError"),
            Some(open) => {
                let left = open.rows - open.next;
                self.pulling = Some(match wanted(message) {
                    -1 => left,
                    n => left.min(n as usize),
                });
            }
        }
    }

    fn pull_on(&mut self, left: usize, base: &mut Database) {
        if self.interrupts > 0 {
            self.pulling = None;
            return self.fail("Neo.ClientError.Transaction.Terminated");
        }
        let open = self.open.as_mut().expect("a result is being pulled");
        if left > 0 {
            let mut writer = Writer::new();
            writer.struct_header(1, tag::RECORD).list_header(4);
            writer.string(&self.user).int(open.nonce as i64).int(open.next as i64);
            // Now and then a record longer than a byte's worth of length.
            writer.string(&"r".repeat(open.nonce % 7 * 50));
            open.next += 1;
            self.pulling = Some(left - 1);
            return self.out.extend(writer.into_message());
        }
        self.pulling = None;
        self.finish_pull(base);
    }

    fn discard(&mut self, message: &[u8], base: &mut Database) {
        match self.open.as_mut() {
            None => self.fail("Neo.ClientError.Request.InvalidFormat"),
            Some(open) if open.fails => self.fail("Neo.ClientError.Statement.ArithmeticError"),
            Some(open) => {
                open.next = match wanted(message) {
                    -1 => open.rows,
                    n => open.rows.min(open.next + n as usize),
                };
                self.finish_pull(base);
            }
        }
    }

    fn finish_pull(&mut self, base: &mut Database) {
        let has_more = self.open.as_ref().is_some_and(|open| open.next < open.rows);
        let mut writer = Writer::new();
        writer.struct_header(1, tag::SUCCESS);
        if has_more {
            writer.map_header(1).string("has_more").bool(true);
            return self.out.extend(writer.into_message());
        }
        self.open = None;
        if self.state == State::Auto {
            self.state = State::Ready;
            if self.commit_fails {
                return self.fail("Neo.ClientError.Schema.ConstraintValidationFailed");
            }
            base.commit(&std::mem::take(&mut self.nonces));
        }
        writer.map_header(2).string("type").string("rw").string("has_more").bool(false);
        self.out.extend(writer.into_message());
    }
}

fn wanted(message: &[u8]) -> i64 {
    let mut reader = Reader::new(&message[2..]);
    assert_eq!(reader.take_map_header(), Ok(1));
    assert_eq!(reader.take_key(), Ok("n"));
    reader.take_integer().expect("n is a number")
}

fn database_of(version: Version, message: &[u8]) -> Option<String> {
    let mut reader = Reader::new(&message[2..]);
    reader.skip().expect("a context");
    reader.skip().expect("bookmarks");
    if version.has_route_extra() {
        let pairs = reader.take_map_header().expect("a map");
        if pairs == 0 {
            return None;
        }
        reader.take_key().expect("a key");
    }
    reader.take_optional_string().expect("a name").map(str::to_owned)
}
