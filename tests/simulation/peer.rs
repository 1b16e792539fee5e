//! A client that knows what a server may say: it sends requests at its own pace and judges every
//! answer.

use crate::random::Random;
use crate::server::Database;
use boltmux::relay::close::CloseReason;
use boltmux::wire::message::{
    Auth, COMMIT, Failure, GOODBYE, LOGOFF, Notifications, RESET, ROLLBACK, Routing, RoutingTable,
    ServerHello, encode_begin, encode_discard, encode_hello, encode_logon, encode_pull,
    encode_route, encode_run, read_fields, tag,
};
use boltmux::wire::packstream::{Reader, Writer};
use boltmux::wire::version::Version;
use std::collections::VecDeque;

/// What the clients of a run do, each as a share of 1,000.
#[derive(Clone, Debug, Default)]
pub struct Habits {
    pub versions: Vec<Version>,
    pub users: Vec<&'static str>,
    pub eagerness: u32,
    pub transactions: u32,
    pub failures: u32,
    pub expiry: u32,
    pub resets: u32,
    pub goodbyes: u32,
    pub vanishing: u32,
    pub logoffs: u32,
    pub routes: u32,
    pub illegal: u32,
    pub long: u32,
    pub wrong_passwords: u32,
    pub has_limits: bool,
    pub has_no_threads: bool,
}

pub struct Asked {
    tag: u8,
    nonce: usize,
    kind: u8,
    rows: usize,
    /// LOGON's and HELLO's credentials, ROUTE's database.
    text: (String, String),
}

/// As far as requests have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Hello,
    Authentication,
    Ready,
    Auto(usize),
    Transaction(Option<usize>),
    Over,
}

/// As far as answers have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Hello,
    Authentication,
    Ready,
    Auto,
    Transaction,
}

pub struct Peer {
    pub version: Version,
    is_routed: bool,
    /// Of the latest LOGON sent, and of the latest that was answered.
    sent_user: String,
    user: String,
    address: String,
    sent: Sent,
    pub asked: VecDeque<Asked>,
    state: State,
    has_failed: bool,
    open: Option<(usize, usize, usize)>,
    unit: Vec<usize>,
    is_unknown: bool,
    has_said_goodbye: bool,
    expects_close: bool,
    /// A server connection of this client was lost.
    pub has_lost: bool,
    is_weary: bool,
    raw: Vec<u8>,
    message: Vec<u8>,
}

/// What the client does next.
pub enum Step {
    Nothing,
    Send(Vec<u8>),
    Vanish,
}

fn violation<T>(text: impl Into<String>) -> Result<T, String> {
    Err(text.into())
}

impl Peer {
    pub fn new(habits: &Habits, random: &mut Random) -> Peer {
        Peer {
            version: random.pick(&habits.versions),
            is_routed: random.chance(300),
            sent_user: String::new(),
            user: String::new(),
            address: format!("proxy{}:7687", random.below(2)),
            sent: Sent::Hello,
            asked: VecDeque::new(),
            state: State::Hello,
            has_failed: false,
            open: None,
            unit: Vec::new(),
            is_unknown: false,
            has_said_goodbye: false,
            expects_close: false,
            has_lost: false,
            is_weary: false,
            raw: Vec::new(),
            message: Vec::new(),
        }
    }

    pub fn describe(&self) -> String {
        let tags: Vec<_> = self.asked.iter().map(|asked| tag::name(asked.tag)).collect();
        format!(
            "client {} {} sent {:?}, is in {:?} failed={} and waits for {tags:?}",
            self.version, self.sent_user, self.sent, self.state, self.has_failed
        )
    }

    /// Nothing more is begun: what is open is reset, then GOODBYE.
    pub fn grow_weary(&mut self) {
        self.is_weary = true;
    }

    pub fn act(&mut self, habits: &Habits, base: &Database, random: &mut Random) -> Step {
        if self.sent == Sent::Over {
            return Step::Nothing;
        }
        if self.is_weary {
            return self.finish(random);
        }
        if random.chance(habits.vanishing) {
            return Step::Vanish;
        }
        if self.has_said_goodbye || self.asked.len() >= 12 {
            return Step::Nothing;
        }
        if !self.asked.is_empty() && !random.chance(habits.eagerness) {
            return Step::Nothing;
        }
        let mut out = Vec::new();
        self.request(habits, base, random, &mut out);
        while random.chance(habits.eagerness) && self.asked.len() < 12 && self.sent != Sent::Over {
            self.request(habits, base, random, &mut out);
        }
        Step::Send(out)
    }

    fn finish(&mut self, random: &mut Random) -> Step {
        if !self.asked.is_empty() || self.has_said_goodbye {
            return Step::Nothing;
        }
        if matches!(self.sent, Sent::Hello | Sent::Authentication) || random.chance(300) {
            return Step::Vanish;
        }
        let mut out = Vec::new();
        if self.sent != Sent::Ready || self.has_failed {
            self.ask(tag::RESET, RESET, &mut out);
            self.sent = Sent::Ready;
        } else {
            self.has_said_goodbye = true;
            out.extend_from_slice(GOODBYE);
        }
        Step::Send(out)
    }

    fn ask(&mut self, tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
        self.ask_more(tag, bytes, out, Default::default(), (0, b'o', 0));
    }

    fn ask_more(
        &mut self,
        tag: u8,
        bytes: &[u8],
        out: &mut Vec<u8>,
        text: (String, String),
        (nonce, kind, rows): (usize, u8, usize),
    ) {
        self.asked.push_back(Asked { tag, nonce, kind, rows, text });
        out.extend_from_slice(bytes);
    }

    fn request(
        &mut self,
        habits: &Habits,
        base: &Database,
        random: &mut Random,
        out: &mut Vec<u8>,
    ) {
        match self.sent {
            Sent::Hello => return self.hello(habits, base, random, out),
            Sent::Authentication => return self.log_on(habits, base, random, out),
            _ => {}
        }
        let knows_failure = self.has_failed && self.asked.is_empty();
        // The answer to LOGOFF decides who asks next: nobody RESETs before that.
        let is_unsure = self.asked.iter().any(|asked| asked.tag == tag::LOGOFF);
        if random.chance(habits.resets) && !is_unsure || knows_failure && random.chance(700) {
            self.sent = Sent::Ready;
            return self.ask(tag::RESET, RESET, out);
        }
        if random.chance(habits.illegal) {
            let name = match self.sent {
                Sent::Ready => tag::COMMIT,
                Sent::Auto(_) => tag::COMMIT,
                _ => tag::LOGOFF,
            };
            let bytes = if name == tag::COMMIT { COMMIT } else { LOGOFF };
            if name == tag::LOGOFF && !self.version.has_logon() {
                return;
            }
            return self.ask(name, bytes, out);
        }
        match self.sent {
            Sent::Ready => self.ready(habits, base, random, out),
            Sent::Auto(left) => {
                self.sent = match self.stream(left, random, out) {
                    0 => Sent::Ready,
                    left => Sent::Auto(left),
                };
            }
            Sent::Transaction(open) => self.transaction(open, habits, random, out),
            _ => {}
        }
    }

    fn hello(&mut self, habits: &Habits, base: &Database, random: &mut Random, out: &mut Vec<u8>) {
        let (auth, text) = self.credentials(habits, base, random);
        let notifications = Notifications::default();
        let address = self.address.clone();
        let hello = ServerHello {
            user_agent: "peer/1",
            bolt_agent: "peer/1",
            routing: self.is_routed.then_some((&address, &[])),
            utc_patch: false,
            notifications: &notifications,
            auth: Some(&auth),
        };
        self.ask_more(tag::HELLO, &encode_hello(self.version, &hello), out, text, (0, b'o', 0));
        self.sent = Sent::Ready;
        if self.version.has_logon() {
            self.sent = Sent::Authentication;
            if random.chance(800) {
                self.log_on(habits, base, random, out);
            }
        }
    }

    fn credentials(
        &mut self,
        habits: &Habits,
        base: &Database,
        random: &mut Random,
    ) -> (Auth, (String, String)) {
        let user = random.pick(&habits.users).to_owned();
        let right = base.passwords.iter().find(|(name, _)| *name == user);
        let password = match right {
            Some((_, password)) if !random.chance(habits.wrong_passwords) => password.clone(),
            _ => "wrong".to_owned(),
        };
        self.sent_user = user.clone();
        (Auth::from_parts("basic", &user, &password), (user, password))
    }

    fn log_on(&mut self, habits: &Habits, base: &Database, random: &mut Random, out: &mut Vec<u8>) {
        let (auth, text) = self.credentials(habits, base, random);
        self.ask_more(tag::LOGON, &encode_logon(&auth), out, text, (0, b'o', 0));
        self.sent = Sent::Ready;
    }

    fn ready(&mut self, habits: &Habits, base: &Database, random: &mut Random, out: &mut Vec<u8>) {
        if random.chance(habits.goodbyes) {
            self.has_said_goodbye = true;
            self.sent = Sent::Over;
            return out.extend_from_slice(GOODBYE);
        }
        if self.version.has_logon() && random.chance(habits.logoffs) {
            self.ask(tag::LOGOFF, LOGOFF, out);
            return self.log_on(habits, base, random, out);
        }
        if random.chance(habits.routes) {
            let database = random.chance(500).then(|| "movies".to_owned());
            let routing = Routing { address: Some(self.address.clone()), entries: Vec::new() };
            let bytes = encode_route(self.version, &routing, database.as_deref(), None);
            let text = (database.unwrap_or_default(), String::new());
            return self.ask_more(tag::ROUTE, &bytes, out, text, (0, b'o', 0));
        }
        if self.version.has_telemetry() && random.chance(100) {
            self.ask(tag::TELEMETRY, &[0, 3, 0xB1, tag::TELEMETRY, 2, 0, 0], out);
        }
        if random.chance(habits.transactions) {
            self.sent = Sent::Transaction(None);
            return self.ask(tag::BEGIN, &encode_begin(mode(random)), out);
        }
        let extra = mode(random);
        let rows = self.run(extra, habits, random, out);
        self.sent = Sent::Auto(rows);
    }

    fn run(
        &mut self,
        extra: &[u8],
        habits: &Habits,
        random: &mut Random,
        out: &mut Vec<u8>,
    ) -> usize {
        let kind = match random.chance(habits.failures) {
            true if random.chance(habits.expiry) => b'e',
            true => random.pick(b"fpci"),
            false => b'o',
        };
        let rows = random.pick(&[0, 1, 1, 2, 3, 8]);
        let nonce = NONCES.with(|last| {
            last.set(last.get() + 1);
            last.get()
        });
        let mut parameters = Writer::new();
        let is_long = random.chance(habits.long);
        parameters.map_header(2 + usize::from(is_long));
        let whoami = format!("{}/{}/{}", self.sent_user, self.version, self.is_routed);
        parameters.string("nonce").int(nonce as i64).string("whoami").string(&whoami);
        if is_long {
            parameters.string("pad").string(&"p".repeat(60_000 + random.below(20_000)));
        }
        let query = format!("{}{rows}", char::from(kind));
        let bytes = encode_run(&query, parameters.bytes(), extra);
        self.ask_more(tag::RUN, &bytes, out, Default::default(), (nonce, kind, rows));
        rows
    }

    /// PULL or DISCARD; returns how many records are left.
    fn stream(&mut self, left: usize, random: &mut Random, out: &mut Vec<u8>) -> usize {
        let n = if random.chance(700) { -1 } else { 1 + random.below(3) as i64 };
        match random.chance(800) {
            true => self.ask(tag::PULL, &encode_pull(self.version, n), out),
            false => {
                let bytes = encode_discard(self.version, n);
                let skipped = (0, b'o', n.max(0) as usize);
                self.ask_more(tag::DISCARD, &bytes, out, Default::default(), skipped);
            }
        }
        if n < 0 { 0 } else { left.saturating_sub(n as usize) }
    }

    fn transaction(
        &mut self,
        open: Option<usize>,
        habits: &Habits,
        random: &mut Random,
        out: &mut Vec<u8>,
    ) {
        if let Some(left) = open
            && random.chance(850)
        {
            let left = self.stream(left, random, out);
            self.sent = Sent::Transaction(Some(left).filter(|left| *left > 0));
        } else if random.chance(500) {
            let rows = self.run(&[0xA0], habits, random, out);
            self.sent = Sent::Transaction(Some(rows));
        } else {
            self.sent = Sent::Ready;
            match random.chance(800) {
                true => self.ask(tag::COMMIT, COMMIT, out),
                false => self.ask(tag::ROLLBACK, ROLLBACK, out),
            }
        }
    }

    /// Bytes from the proxy.
    pub fn arrive(
        &mut self,
        bytes: &[u8],
        base: &mut Database,
        habits: &Habits,
    ) -> Result<(), String> {
        self.raw.extend_from_slice(bytes);
        let mut at = 0;
        while let [high, low, rest @ ..] = &self.raw[at..] {
            let size = usize::from(*high) << 8 | usize::from(*low);
            if rest.len() < size {
                break;
            }
            at += 2 + size;
            self.message.extend_from_slice(&rest[..size]);
            if size > 0 {
                continue;
            }
            let message = std::mem::take(&mut self.message);
            if message.is_empty() {
                if self.asked.is_empty() || !self.version.has_noop() {
                    return violation("a no-op came to a client that waits for nothing");
                }
                continue;
            }
            if let Err(text) = self.answer(&message, base, habits) {
                let text = format!("{text}: {:02X?} to {}", &message[..2], self.describe());
                return violation(text);
            }
        }
        self.raw.drain(..at);
        Ok(())
    }

    /// The proxy has ended the connection.
    pub fn ended(&mut self, why: CloseReason) -> Result<(), String> {
        let is_mid = !self.raw.is_empty() || !self.message.is_empty();
        let is_right = match why {
            CloseReason::Goodbye => self.has_said_goodbye,
            CloseReason::InvalidRequest
            | CloseReason::Unauthorized
            | CloseReason::LoginUnavailable => self.expects_close && !is_mid,
            CloseReason::HalfMessage => is_mid && self.has_lost,
            CloseReason::Drain => !is_mid,
            _ => false,
        };
        if is_right {
            return Ok(());
        }
        violation(format!("closed as {why:?} in the middle={is_mid}: {}", self.describe()))
    }

    fn answer(
        &mut self,
        message: &[u8],
        base: &mut Database,
        habits: &Habits,
    ) -> Result<(), String> {
        let has_reset = self.asked.iter().skip(1).any(|asked| asked.tag == tag::RESET);
        if message[1] == tag::RECORD {
            return self.record(message);
        }
        if self.expects_close {
            return violation("an answer after the last one");
        }
        let Some(asked) = self.asked.pop_front() else {
            return violation("an answer to nothing");
        };

        let result = match (message[0], message[1]) {
            (0xB1, tag::SUCCESS) => self.succeeded(&asked, message, base),
            (0xB1, tag::FAILURE) => self.failed(&asked, message, has_reset, base, habits),
            (0xB0, tag::IGNORED) => self.ignored(&asked, has_reset, base),
            _ => violation("no such message"),
        };
        result.map_err(|text| format!("{text}: to {}", tag::name(asked.tag)))
    }

    fn record(&mut self, message: &[u8]) -> Result<(), String> {
        let is_pull = self.asked.front().is_some_and(|asked| asked.tag == tag::PULL);
        let Some((nonce, next, rows)) = self.open.filter(|_| is_pull && !self.has_failed) else {
            return violation("a record that nobody pulled");
        };
        let mut reader = Reader::new(message);
        let mut read = || {
            let (_, _) = reader.take_struct_header()?;
            reader.take_list_header()?;
            let user = reader.take_string()?.to_owned();
            Ok((user, reader.take_integer()?, reader.take_integer()?, reader.take_string()?.len()))
        };
        let read: Result<_, boltmux::wire::PackError> = read();
        let expected = (self.user.clone(), nonce as i64, next as i64, nonce % 7 * 50);
        self.open = Some((nonce, next + 1, rows));
        match read {
            Ok(read) if read == expected && next < rows && reader.is_at_end() => Ok(()),
            other => violation(format!("a wrong record: {other:?} instead of {expected:?}")),
        }
    }

    fn is_legal(&self, asked: &Asked) -> bool {
        match self.state {
            State::Hello => asked.tag == tag::HELLO,
            State::Authentication => asked.tag == tag::LOGON,
            State::Ready => matches!(
                asked.tag,
                tag::RUN | tag::BEGIN | tag::ROUTE | tag::TELEMETRY | tag::LOGOFF
            ),
            State::Auto => matches!(asked.tag, tag::PULL | tag::DISCARD),
            State::Transaction => matches!(
                asked.tag,
                tag::RUN | tag::PULL | tag::DISCARD | tag::COMMIT | tag::ROLLBACK
            ),
        }
    }

    fn succeeded(
        &mut self,
        asked: &Asked,
        message: &[u8],
        base: &mut Database,
    ) -> Result<(), String> {
        let is_after_login = !matches!(self.state, State::Hello | State::Authentication);
        if asked.tag == tag::RESET && is_after_login {
            self.forget(base);
            (self.state, self.has_failed) = (State::Ready, false);
            return Ok(());
        }
        if self.has_failed || !self.is_legal(asked) {
            return violation("SUCCESS where it cannot be");
        }
        match asked.tag {
            tag::HELLO if self.version.has_logon() => self.state = State::Authentication,
            tag::HELLO | tag::LOGON => {
                if !base.accepted.contains(&asked.text) {
                    return violation("let in without the server's word");
                }
                (self.state, self.user) = (State::Ready, asked.text.0.clone());
            }
            tag::LOGOFF => (self.state, self.user) = (State::Authentication, String::new()),
            tag::BEGIN => self.state = State::Transaction,
            tag::RUN => {
                if b"fei".contains(&asked.kind) || base.executed(asked.nonce) != 1 {
                    return violation("SUCCESS of what was not executed");
                }
                if self.state == State::Ready {
                    self.state = State::Auto;
                }
                self.unit.push(asked.nonce);
                self.open = Some((asked.nonce, 0, asked.rows));
            }
            tag::PULL | tag::DISCARD => return self.pulled(asked, message, base),
            tag::COMMIT => return self.committed(base),
            tag::ROLLBACK => {
                self.forget(base);
                self.state = State::Ready;
            }
            tag::ROUTE => return self.routed(asked, message),
            _ => {}
        }
        Ok(())
    }

    fn pulled(&mut self, asked: &Asked, message: &[u8], base: &Database) -> Result<(), String> {
        let fields = read_fields(message).map_err(|error| error.to_string())?;
        let Some((nonce, next, rows)) = self.open else { return violation("no result is open") };
        if asked.tag == tag::DISCARD {
            self.open = Some((nonce, next + asked.rows, rows));
        }
        if fields.has_more {
            return if asked.tag == tag::PULL && next >= rows {
                violation("more of nothing")
            } else {
                Ok(())
            };
        }
        if asked.tag == tag::PULL && next != rows {
            return violation(format!("{next} records instead of {rows}"));
        }
        self.open = None;
        if self.state == State::Auto { self.committed(base) } else { Ok(()) }
    }

    fn committed(&mut self, base: &Database) -> Result<(), String> {
        (self.state, self.open) = (State::Ready, None);
        match self.unit.drain(..).find(|&nonce| !base.is_committed(nonce)) {
            Some(nonce) => violation(format!("nonce {nonce} is not committed")),
            None => Ok(()),
        }
    }

    fn routed(&self, asked: &Asked, message: &[u8]) -> Result<(), String> {
        let table = RoutingTable::parse(message).map_err(|error| error.to_string())?;
        let is_ours = |(_, addresses): &(_, Vec<String>)| *addresses == [self.address.clone()];
        let database = match asked.text.0.as_str() {
            "" => format!("home-{}", self.user),
            name => name.to_owned(),
        };
        match table.servers.len() == 3 && table.servers.iter().all(is_ours) {
            true if table.database.as_deref() == Some(&database) => Ok(()),
            _ => violation(format!("a wrong table: {table:?}")),
        }
    }

    /// What was open is not committed, unless nobody knows.
    fn forget(&mut self, base: &mut Database) {
        for nonce in self.unit.drain(..) {
            if !self.is_unknown {
                base.deny(nonce);
            }
        }
        (self.is_unknown, self.open) = (false, None);
    }

    fn ignored(
        &mut self,
        asked: &Asked,
        has_reset: bool,
        base: &mut Database,
    ) -> Result<(), String> {
        if !has_reset && (!self.has_failed || asked.tag == tag::RESET) {
            return violation("IGNORED without a reason");
        }
        if asked.tag == tag::RUN && !self.is_unknown {
            base.deny(asked.nonce);
        }
        // Behind a RESET in flight nothing is done any more until that has been answered.
        self.has_failed = true;
        Ok(())
    }

    fn failed(
        &mut self,
        asked: &Asked,
        message: &[u8],
        has_reset: bool,
        base: &mut Database,
        habits: &Habits,
    ) -> Result<(), String> {
        let failure = Failure::parse(message).map_err(|error| error.to_string())?;
        let code = failure.code.strip_prefix("Neo.").unwrap_or_default();
        if code == "ClientError.Request.Invalid" {
            let is_right = match self.has_failed {
                true => asked.tag == tag::LOGOFF,
                false => !self.is_legal(asked),
            };
            self.expects_close = true;
            return if is_right { Ok(()) } else { violation("a legal request was refused") };
        }
        let is_news =
            ["LeaderSwitch", "CommitFailed", "TimedOut"].iter().any(|end| code.ends_with(end));
        if asked.tag == tag::RESET || self.has_failed || !is_news && !self.is_legal(asked) {
            return violation(format!("{code} where it cannot be"));
        }
        self.expects_close = matches!(asked.tag, tag::HELLO | tag::LOGON);
        if !self.is_allowed(asked, code, has_reset, base, habits) {
            return violation(format!("{code} cannot be the answer"));
        }
        self.has_failed = true;
        self.is_unknown = code == "DatabaseError.Transaction.TransactionCommitFailed";
        if asked.tag == tag::RUN {
            self.unit.push(asked.nonce);
        }
        if !self.is_unknown {
            self.unit.iter().for_each(|&nonce| base.deny(nonce));
        }
        if failure.idempotent && !code.ends_with("NoThreadsAvailable") && asked.tag == tag::RUN {
            match base.executed(asked.nonce) {
                0 => {}
                _ => return violation("executed, but the client was told to repeat it"),
            }
        }
        Ok(())
    }

    fn is_allowed(
        &self,
        asked: &Asked,
        code: &str,
        has_reset: bool,
        base: &Database,
        habits: &Habits,
    ) -> bool {
        let takes_lease =
            self.state == State::Ready && matches!(asked.tag, tag::RUN | tag::BEGIN | tag::ROUTE);
        let is_login = self.expects_close;
        let is_stream = matches!(asked.tag, tag::PULL | tag::DISCARD);
        match code {
            "TransientError.Request.ResourceExhaustion" => takes_lease || is_login,
            "ClientError.Security.Unauthorized" => {
                takes_lease || is_login && base.refused.contains(&asked.text)
            }
            "ClientError.Security.AuthenticationRateLimit" => is_login || takes_lease,
            "ClientError.Security.AuthorizationExpired" => asked.kind == b'e' || takes_lease,
            "ClientError.Security.Forbidden" => asked.kind == b'i',
            "TransientError.Request.NoThreadsAvailable" => habits.has_no_threads,
            "ClientError.Statement.SyntaxError" => asked.kind == b'f',
            "ClientError.Statement.ArithmeticError" => is_stream,
            "ClientError.Schema.ConstraintValidationFailed" => {
                is_stream || asked.tag == tag::COMMIT
            }
            "ClientError.Transaction.Terminated" => is_stream && has_reset,
            "ClientError.Transaction.TransactionTimedOut" => habits.has_limits && !is_login,
            "TransientError.Transaction.LeaderSwitch" => self.has_lost && !is_login,
            "DatabaseError.Transaction.TransactionCommitFailed" => self.has_lost && !is_login,
            _ => false,
        }
    }
}

thread_local! {
    /// The last number given to a RUN.
    pub static NONCES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Writes are the default; half of the transactions only read.
fn mode(random: &mut Random) -> &'static [u8] {
    if random.chance(500) { b"\xA1\x84mode\x81r" } else { b"\xA0" }
}
