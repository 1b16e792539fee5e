//! What is to be measured: targets, shape, rounds. Values only; nothing is resolved or read here.

use super::mix::{self, MixQuery};
use crate::transport::tls::client::Uplink;
use crate::wire::version::Version;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// More clients than one address has ports for towards one target.
const CLIENTS_MAX: usize = 60_000;
/// What no machine can ask; more is a slip of the finger.
const RATE_MAX: f64 = 100e6;
/// A query longer than this would not fit one chunk together with its parameters, and the place of
/// the nonce must not be cut in two.
pub const QUERY_BYTES_MAX: usize = 32 << 10;

/// One server to measure.
#[derive(Clone)]
pub struct Target {
    /// What the report calls it.
    pub name: String,
    pub address: SocketAddr,
    pub user: String,
    /// Empty together with an empty user: the scheme `none`.
    pub password: String,
    /// `None` takes the highest common one from 5.8 down to 4.4.
    pub version: Option<Version>,
    /// How TLS is spoken, if it is.
    pub tls: Option<Uplink>,
    /// Whether Bolt is spoken in frames of WebSocket.
    pub is_websocket: bool,
}

impl fmt::Debug for Target {
    /// Leaves the password out.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Target({} at {})", self.name, self.address)
    }
}

/// What one request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// RUN and PULL in one write, in a transaction of their own.
    Auto,
    /// BEGIN, RUN with PULL, COMMIT; each is awaited, or BEGIN goes out with RUN and PULL.
    Tx { pipelined_begin: bool },
    /// RUN and PULL of this many records.
    Rows { rows: u64 },
    /// One of the plan's `mix` of queries, as `Auto` asks them.
    Mix,
    /// Connect, log in, RUN and PULL, GOODBYE: every request on a connection of its own.
    Login,
    /// Connect, TLS and WebSocket if the target has them, agree on a version, leave: no login.
    Handshake,
}

impl Shape {
    /// Every request is on a connection of its own.
    pub fn is_connecting(self) -> bool {
        matches!(self, Shape::Login | Shape::Handshake)
    }

    /// The query used when none is given; every record of it holds the nonce.
    pub fn default_query(self) -> &'static str {
        match self {
            Shape::Rows { .. } => "UNWIND range(1, $rows) AS i RETURN i, $nonce AS nonce",
            _ => "RETURN $nonce AS nonce",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Auto => write!(formatter, "auto"),
            Shape::Tx { pipelined_begin: false } => write!(formatter, "tx"),
            Shape::Tx { pipelined_begin: true } => write!(formatter, "tx, BEGIN pipelined"),
            Shape::Rows { rows } => write!(formatter, "rows:{rows}"),
            Shape::Login => write!(formatter, "login"),
            Shape::Handshake => write!(formatter, "handshake"),
            Shape::Mix => write!(formatter, "mix"),
        }
    }
}

/// A process whose CPU time is set against a target's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub target: String,
    pub pid: u32,
}

/// One whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The first one is what the others are compared with.
    pub targets: Vec<Target>,
    pub shape: Shape,
    /// In place of the shape's own; `$nonce` (and `$rows`) are given as parameters, and every
    /// record must hold the nonce.
    pub query: Option<String>,
    /// Of the shape `Mix`.
    pub mix: Vec<MixQuery>,
    pub database: Option<String>,
    /// Marks the transactions as reading (`mode: "r"`).
    pub is_read: bool,
    /// Records asked for at once, as drivers do; -1 asks for all.
    pub fetch_size: i64,
    /// Connections per target, spread over the threads.
    pub clients: usize,
    /// Load threads; every one is an executor with a ring of its own.
    pub threads: usize,
    /// Where the threads are pinned, in turn; empty leaves them to the scheduler.
    pub cpus: Vec<usize>,
    /// Open loop: requests started per second and target, all clients together, whether answers
    /// come or not. `None` is closed loop: a client asks when it has its answer.
    pub rate: Option<f64>,
    /// Before the clock of each round: how long the rate grows, or clients begin one by one.
    pub ramp: Duration,
    /// Closed loop: a client's pause between answer and next request.
    pub think: Duration,
    /// How many requests are asked of each target in the whole run; a round then ends with its
    /// share, at the latest after `slot`.
    pub requests: Option<u64>,
    pub rounds: usize,
    /// How long one target is measured in one round.
    pub slot: Duration,
    /// How long every target is asked before the first round; only what goes wrong then counts.
    pub warm_up: Duration,
    /// Longest wait for a connection with its login.
    pub connect_timeout: Duration,
    /// Longest wait for the answer to one request; the connection is given up then.
    pub request_timeout: Duration,
    pub processes: Vec<Process>,
    /// Whether connections over TLS go on from earlier ones. Of the official drivers few do, so the
    /// default is a full handshake for each.
    pub resumes_tls: bool,
    /// Set from outside, it ends the run early; what was measured until then is reported.
    pub stop: Arc<AtomicBool>,
}

impl Default for Plan {
    /// No targets; 16 clients on one thread, six rounds of a second. A login may take 10 s because
    /// servers hash passwords slowly on purpose, a request 30 s because that is where drivers give
    /// up retrying.
    fn default() -> Plan {
        Plan {
            targets: Vec::new(),
            shape: Shape::Auto,
            query: None,
            mix: Vec::new(),
            database: None,
            is_read: false,
            fetch_size: 1000,
            clients: 16,
            threads: 1,
            cpus: Vec::new(),
            rate: None,
            ramp: Duration::ZERO,
            think: Duration::ZERO,
            requests: None,
            rounds: 6,
            slot: Duration::from_secs(1),
            warm_up: Duration::ZERO,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            processes: Vec::new(),
            resumes_tls: false,
            stop: Arc::default(),
        }
    }
}

impl Plan {
    /// Whether clients wait for moments of the clock.
    pub fn is_paced(&self) -> bool {
        self.rate.is_some() || !self.ramp.is_zero() || !self.think.is_zero()
    }

    pub fn query(&self) -> &str {
        self.query.as_deref().unwrap_or(self.shape.default_query())
    }

    /// Everything that makes no sense, each with what to do about it.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut check = |is_fine: bool, text: String| {
            if !is_fine {
                mistakes.push(text);
            }
        };
        check(!self.targets.is_empty(), "no target; give --uri bolt://HOST:PORT".into());
        for (place, target) in self.targets.iter().enumerate() {
            let is_first = !self.targets[..place].iter().any(|other| other.name == target.name);
            check(is_first, format!("two targets are named {:?}", target.name));
            let is_known = target.version.is_none_or(|version| version.is_known());
            check(is_known, format!("target {}: no such Bolt version", target.name));
        }
        for process in &self.processes {
            let is_target = self.targets.iter().any(|target| target.name == process.target);
            check(is_target, format!("a process for {:?}, which is no target", process.target));
        }
        mistakes.extend(self.load_mistakes());
        mistakes
    }

    /// The same of everything but the targets.
    pub fn load_mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut check = |is_fine: bool, text: String| {
            if !is_fine {
                mistakes.push(text);
            }
        };
        let clients = self.clients;
        check(
            (1..=CLIENTS_MAX).contains(&clients),
            format!("{clients} clients; expected 1 to {CLIENTS_MAX}"),
        );
        check(
            (1..=clients.max(1)).contains(&self.threads),
            format!("{} threads; expected 1 to the number of clients, {clients}", self.threads),
        );
        let rate = self.rate.unwrap_or(1.0);
        check(
            rate > 0.0 && rate <= RATE_MAX,
            format!("a rate of {rate}; expected more than 0 and at most {RATE_MAX} per second"),
        );
        check(
            self.rate.is_none() || self.think.is_zero(),
            "a rate and a time to think; in the open loop nobody waits for answers, so give one"
                .into(),
        );
        let requests = self.requests.unwrap_or(u64::MAX);
        check(
            requests >= self.rounds as u64,
            format!("{requests} requests in {} rounds; give at least one each", self.rounds),
        );
        check(self.rounds > 0, "0 rounds; at least one is needed".into());
        check(!self.slot.is_zero(), "no time to measure; give --seconds".into());
        let fetch = self.fetch_size;
        check(fetch == -1 || fetch > 0, format!("fetch size {fetch}; expected -1 or 1 and more"));
        check(self.shape != Shape::Rows { rows: 0 }, "0 rows; at least one is needed".into());
        check(
            self.query().len() <= QUERY_BYTES_MAX,
            format!("the query is longer than {QUERY_BYTES_MAX} bytes; shorten it"),
        );
        if self.shape == Shape::Mix {
            check(self.query.is_none(), "a query and a mix; put the query into the mix".into());
            mistakes.extend(mix::mistakes(&self.mix));
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> Target {
        Target {
            name: name.into(),
            address: ([127, 0, 0, 1], 7687).into(),
            user: "neo4j".into(),
            password: "test-password".into(),
            version: None,
            tls: None,
            is_websocket: false,
        }
    }

    #[test]
    fn a_plan_with_a_target_is_fine() {
        let plan = Plan { targets: vec![target("a")], ..Plan::default() };
        assert_eq!(plan.mistakes(), Vec::<String>::new());
        assert!(!format!("{plan:?}").contains("test-password"));
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let plan = Plan {
            targets: vec![target("a"), target("a")],
            shape: Shape::Rows { rows: 0 },
            query: Some("x".repeat(QUERY_BYTES_MAX + 1)),
            fetch_size: 0,
            clients: 0,
            threads: 2,
            rate: Some(f64::NAN),
            think: Duration::from_millis(5),
            rounds: 0,
            slot: Duration::ZERO,
            processes: vec![Process { target: "b".into(), pid: 1 }],
            ..Plan::default()
        };
        let mistakes = plan.mistakes();
        assert_eq!(mistakes.len(), 11, "{mistakes:#?}");
        assert_eq!(Plan::default().mistakes(), ["no target; give --uri bolt://HOST:PORT"]);
    }
}
