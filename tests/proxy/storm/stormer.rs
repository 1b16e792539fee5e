//! One client of the storm: asks, cuts, is cut, and remembers what it was told about its writes.

use crate::client::{
    Client, Message, Said, V5_4, Way, begin, commit, goodbye, pull, reset, rollback, run,
};
use crate::storm::{Sky, USERS};
use crate::value::Value;
use boltmux::wire::message::tag;
use boltmux::wire::version::Version;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// All shapes of FAILURE are among these.
const VERSIONS: [Version; 4] = [Version::new(4, 4), Version::new(5, 0), V5_4, Version::new(5, 8)];
const FAILING: &str = "Neo.ClientError.Statement.SyntaxError";
const UNKNOWN: &str = "Neo.DatabaseError.Transaction.TransactionCommitFailed";

/// What a client knows about one of its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was told so.
    Committed,
    /// It was told that it may try again, or it never sent what commits.
    NotCommitted,
    /// It was told that nobody knows, or it went away before the answer.
    Unknown,
}

/// What clients have seen.
#[derive(Default)]
pub struct Summary {
    pub answers: u64,
    pub fates: Vec<(String, Fate)>,
    /// Answers that were FAILUREs of the proxy, for want of the server.
    pub retryable: u64,
    pub unknown: u64,
    /// Connections that the proxy ended in the middle of an answer.
    pub ended: u64,
    /// Connections that the client cut.
    pub cut: u64,
    pub logins: u64,
    pub logins_refused: u64,
}

impl Summary {
    pub fn add(&mut self, other: Summary) {
        self.answers += other.answers;
        self.fates.extend(other.fates);
        self.retryable += other.retryable;
        self.unknown += other.unknown;
        self.ended += other.ended;
        self.cut += other.cut;
        self.logins += other.logins;
        self.logins_refused += other.logins_refused;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} writes, {} retryable failures, {} unknown outcomes, {} ended by the proxy, \
             {} cut by clients, {} logins, {} refused",
            self.fates.len(),
            self.retryable,
            self.unknown,
            self.ended,
            self.cut,
            self.logins,
            self.logins_refused,
        )
    }
}

/// One request, and what its records must be.
struct Request {
    bytes: Vec<u8>,
    /// Records of a PULL with the nonce in their first column; more when there are more pages.
    records: Option<u64>,
}

/// How a pipeline of requests went.
enum Went {
    /// All were answered by SUCCESS.
    Well,
    /// With this code; the connection is READY again.
    Failed(String),
    /// The proxy ended the connection.
    Ended,
}

pub struct Stormer {
    number: usize,
    user: &'static str,
    version: Version,
    way: Way,
    random: u64,
    sequence: u64,
    sky: Arc<Sky>,
    client: Option<Client>,
    summary: Summary,
}

impl Stormer {
    pub fn new(number: usize, seed: u64, sky: Arc<Sky>) -> Stormer {
        let mixed = (seed << 20 | number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Stormer {
            number,
            user: USERS[number % USERS.len()],
            version: VERSIONS[number / USERS.len() % VERSIONS.len()],
            way: if number.is_multiple_of(3) { Way::WebSocket } else { Way::Plain },
            random: mixed,
            // Both waves write nonces of their own.
            sequence: seed * 1_000_000,
            sky,
            client: None,
            summary: Summary::default(),
        }
    }

    /// Until the sky has enough answers; the connection lives on if there is one.
    pub fn run(mut self) -> (Summary, Option<Client>) {
        while self.sky.answers.load(Relaxed) < self.sky.answers_wanted {
            if self.client.is_none() {
                self.connect();
            }
            self.act();
        }
        (self.summary, self.client)
    }

    fn connect(&mut self) {
        loop {
            self.summary.logins += 1;
            let password = crate::client::PASSWORD;
            let client = Client::connect_by(self.way, self.sky.address);
            match client.agree(self.version).log_in(self.user, password) {
                Ok(client) if self.sky.is_lopsided && client.serial() % self.sky.shards != 0 => {}
                Ok(client) => return self.client = Some(client),
                Err(Said::Message(message)) => {
                    assert!(is_retryable(message.code()), "login: {message:?}");
                    self.summary.logins_refused += 1;
                    self.back_off();
                }
                Err(said) => panic!("client {}: login: {said:?}", self.number),
            }
        }
    }

    fn act(&mut self) {
        self.sequence += 1;
        let nonce = format!("{}/{}/{}", self.user, self.number, self.sequence);
        match self.below(100) {
            0..=29 => self.echo(&nonce),
            30..=49 => self.write(&nonce),
            50..=64 => self.transaction(&nonce, true),
            65..=71 => self.transaction(&nonce, false),
            72..=81 => self.rows(&nonce),
            82..=86 => self.fail(&nonce),
            87..=91 => self.reset_stream(&nonce),
            92..=93 => self.reset_write(&nonce),
            94..=95 => self.provoke(&nonce),
            96..=98 => self.cut(&nonce),
            _ => self.leave(),
        }
    }

    fn echo(&mut self, nonce: &str) {
        let requests = [plain(run("RETURN $nonce AS nonce", nonce)), pulled(-1, 1)];
        let _ = self.ask(nonce, &requests, true);
    }

    fn write(&mut self, nonce: &str) {
        let requests = [plain(run("WRITE $nonce", nonce)), pulled(-1, 0)];
        let is_pipelined = self.below(2) == 0;
        let went = self.ask(nonce, &requests, is_pipelined);
        self.remember(nonce, fate(&went));
    }

    fn transaction(&mut self, nonce: &str, commits: bool) {
        let mut requests = vec![plain(begin())];
        if self.below(2) == 0 {
            requests.extend([plain(run("RETURN $nonce AS nonce", nonce)), pulled(-1, 1)]);
        }
        requests.extend([plain(run("WRITE $nonce", nonce)), pulled(-1, 0)]);
        requests.push(plain(if commits { commit() } else { rollback() }));
        let is_pipelined = self.below(2) == 0;
        let went = self.ask(nonce, &requests, is_pipelined);
        self.remember(nonce, if commits { fate(&went) } else { Fate::NotCommitted });
    }

    fn rows(&mut self, nonce: &str) {
        let (count, bytes) = (1 + self.below(40), self.below(2000));
        let query = format!("ROWS {count} {bytes}");
        let page = if self.below(2) == 0 { -1 } else { 7 };
        let requests = [plain(run(&query, nonce)), pulled(page, count)];
        let _ = self.ask(nonce, &requests, true);
    }

    fn fail(&mut self, nonce: &str) {
        let moment = if self.below(2) == 0 { "" } else { "AT PULL " };
        let query = format!("FAIL {moment}{FAILING}");
        let went = self.ask(nonce, &[plain(run(&query, nonce)), pulled(-1, 0)], true);
        if let Went::Well = went {
            panic!("client {}: SUCCESS where FAILURE was asked for", self.number);
        }
    }

    /// RESET while a result streams: what was asked before it ends, in whatever way.
    fn reset_stream(&mut self, nonce: &str) {
        let query = format!("ROWS 500 {}", self.below(500));
        let mut bytes = [run(&query, nonce), pull(-1)].concat();
        if self.below(2) == 0 {
            bytes.extend(reset());
            self.answers_until_reset(nonce, bytes);
            return;
        }
        let is_sent = self.client().try_send(&bytes).is_ok();
        let Said::Message(first) = self.hear(is_sent) else { return };
        if first.tag == tag::FAILURE {
            // What was pipelined behind it is IGNORED.
            self.check_failure(&first);
        }
        self.answers_until_reset(nonce, reset());
    }

    fn reset_write(&mut self, nonce: &str) {
        let bytes = [run("SLEEP 3 WRITE $nonce", nonce), pull(-1), reset()].concat();
        match self.answers_until_reset(nonce, bytes) {
            Some(answers) => {
                let codes: Vec<&str> = answers.iter().map(Message::code).collect();
                let is_done = answers.len() == 2 && answers[1].tag == tag::SUCCESS;
                let is_unknown = codes.contains(&UNKNOWN);
                let fate = match (is_done, is_unknown) {
                    (true, _) => Fate::Committed,
                    (_, true) => Fate::Unknown,
                    _ => Fate::NotCommitted,
                };
                self.remember(nonce, fate);
            }
            None => self.remember(nonce, Fate::Unknown),
        }
    }

    /// Summaries up to RESET's, which is SUCCESS; `None` if the connection ended.
    fn answers_until_reset(&mut self, nonce: &str, bytes: Vec<u8>) -> Option<Vec<Message>> {
        let is_sent = self.client().try_send(&bytes).is_ok();
        let mut answers = Vec::new();
        // RUN, PULL, RESET; RUN may have been heard before.
        loop {
            let Said::Message(message) = self.hear(is_sent) else { return None };
            match message.tag {
                tag::RECORD => self.check_record(nonce, &message),
                tag::FAILURE => {
                    self.check_failure(&message);
                    answers.push(message);
                }
                tag::IGNORED => answers.push(message),
                _ => {
                    // Of SUCCESSes only RESET's has nothing to say.
                    let is_last = message.fields == [Value::Map(Vec::new())];
                    if is_last {
                        if bytes.len() > reset().len() {
                            self.count();
                        }
                        return Some(answers);
                    }
                    answers.push(message);
                }
            }
            assert!(answers.len() <= 2, "client {}: {answers:?}", self.number);
        }
    }

    /// The server dies in the middle of its answer.
    fn provoke(&mut self, nonce: &str) {
        let at = self.below(3000);
        let query = format!("DIE AT PULL AT BYTE {at} ROWS 30 100");
        let _ = self.ask(nonce, &[plain(run(&query, nonce)), pulled(-1, 30)], true);
    }

    /// Goes away in the middle of its request or of the answer.
    fn cut(&mut self, nonce: &str) {
        let is_transaction = self.below(2) == 0;
        let write = [run("WRITE $nonce", nonce), pull(-1)].concat();
        let bytes = if is_transaction { [begin(), write, commit()].concat() } else { write };
        let sent = match self.below(2) {
            0 => bytes.len(),
            _ => self.below(bytes.len() as u64) as usize,
        };
        let is_sent = self.client().try_send(&bytes[..sent]).is_ok();
        // The last two bytes of PULL or COMMIT are its end.
        let is_whole = sent == bytes.len();
        self.remember(nonce, if is_whole { Fate::Unknown } else { Fate::NotCommitted });
        if is_whole && is_sent && self.below(2) == 0 && matches!(self.hear(true), Said::EndOfFile) {
            return;
        }
        self.summary.cut += 1;
        let client = self.client.take().expect("connected");
        match self.below(2) {
            0 => client.reset_connection(),
            _ => drop(client),
        }
    }

    fn leave(&mut self) {
        let _ = self.client().try_send(&goodbye());
        self.client = None;
    }

    /// Sends requests, all at once or one after the other, and checks every answer.
    fn ask(&mut self, nonce: &str, requests: &[Request], is_pipelined: bool) -> Went {
        let mut is_sent = true;
        if is_pipelined {
            let bytes: Vec<u8> = requests.iter().flat_map(|it| it.bytes.clone()).collect();
            is_sent = self.client().try_send(&bytes).is_ok();
        }
        let mut failure = None;
        for request in requests {
            if !is_pipelined && failure.is_none() {
                is_sent = self.client().try_send(&request.bytes).is_ok();
            } else if !is_pipelined {
                break;
            }
            match self.answer(nonce, request, is_sent, failure.is_some()) {
                Ok(None) => {}
                Ok(Some(code)) => failure = Some(code),
                Err(()) => return Went::Ended,
            }
        }
        let is_refused = failure.as_deref().is_some_and(is_retryable);
        if !is_refused {
            self.count();
        }
        let Some(code) = failure else { return Went::Well };
        match self.answers_until_reset(nonce, reset()) {
            Some(answers) if answers.is_empty() => {
                if is_refused {
                    self.back_off();
                }
                Went::Failed(code)
            }
            Some(answers) => panic!("client {}: {answers:?} before RESET's", self.number),
            None => Went::Failed(code),
        }
    }

    /// One request's records and summary; the code of its FAILURE.
    fn answer(
        &mut self,
        nonce: &str,
        request: &Request,
        is_sent: bool,
        has_failed: bool,
    ) -> Result<Option<String>, ()> {
        let mut records = 0;
        loop {
            let Said::Message(message) = self.hear(is_sent) else { return Err(()) };
            match message.tag {
                tag::RECORD if request.records.is_some() && !has_failed => {
                    self.check_record(nonce, &message);
                    records += 1;
                }
                tag::SUCCESS if !has_failed => {
                    let has_more = message.fields[0].get("has_more") == Some(&Value::Bool(true));
                    if has_more {
                        let is_sent = self.client().try_send(&request.bytes).is_ok();
                        if !is_sent {
                            continue;
                        }
                    } else {
                        let wanted = request.records.unwrap_or(0);
                        assert_eq!(records, wanted, "client {}: records of {nonce}", self.number);
                        return Ok(None);
                    }
                }
                tag::FAILURE if !has_failed => {
                    self.check_failure(&message);
                    return Ok(Some(message.code().into()));
                }
                tag::IGNORED if has_failed => return Ok(None),
                _ => panic!("client {}: {message:?} to {nonce}", self.number),
            }
        }
    }

    /// The next message; a connection that has ended is given up.
    fn hear(&mut self, is_sent: bool) -> Said {
        let number = self.number;
        let said = self.client().next();
        match &said {
            Said::Message(_) => {}
            Said::EndOfFile => {
                self.summary.ended += 1;
                self.client = None;
            }
            Said::Reset if !is_sent => {
                self.summary.ended += 1;
                self.client = None;
                return Said::EndOfFile;
            }
            Said::Reset | Said::Nothing => panic!("client {number}: {said:?}"),
        }
        said
    }

    fn check_record(&self, nonce: &str, record: &Message) {
        let first = match &record.fields[..] {
            [Value::List(row)] => row.first().and_then(Value::text),
            _ => None,
        };
        assert_eq!(first, Some(nonce), "client {}: somebody else's record", self.number);
    }

    fn check_failure(&mut self, failure: &Message) {
        match failure.code() {
            UNKNOWN => self.summary.unknown += 1,
            // Neo4j's word for what RESET ended.
            FAILING | "Neo.ClientError.Transaction.Terminated" => {}
            code if is_retryable(code) => self.summary.retryable += 1,
            _ => panic!("client {}: {failure:?}", self.number),
        }
    }

    /// As drivers do before they try again; theirs is a second.
    fn back_off(&mut self) {
        std::thread::sleep(Duration::from_millis(1 + self.below(20)));
    }

    /// An answer of the server's, checked.
    fn count(&mut self) {
        self.summary.answers += 1;
        self.sky.answers.fetch_add(1, Relaxed);
    }

    fn remember(&mut self, nonce: &str, fate: Fate) {
        self.summary.fates.push((nonce.into(), fate));
    }

    fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("connected")
    }

    /// Splitmix.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % bound
    }
}

fn plain(bytes: Vec<u8>) -> Request {
    Request { bytes, records: None }
}

fn pulled(n: i64, records: u64) -> Request {
    Request { bytes: pull(n), records: Some(records) }
}

fn is_retryable(code: &str) -> bool {
    code.starts_with("Neo.TransientError.")
}

fn fate(went: &Went) -> Fate {
    match went {
        Went::Well => Fate::Committed,
        Went::Failed(code) if code == UNKNOWN => Fate::Unknown,
        Went::Failed(_) => Fate::NotCommitted,
        Went::Ended => Fate::Unknown,
    }
}
