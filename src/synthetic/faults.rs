//! Misbehaviour by rule: for all connections of a server, whatever their queries say.

use crate::synthetic::query::Misdeed;

/// What a server does wrong. The default is nothing.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Seeds the random closes.
    pub seed: u64,
    /// The chance that a request is answered by a connection reset, in millionths.
    pub reset_per_million: u32,
    /// Each new connection is reset after so many bytes of output, the handshake's included.
    pub die_at_byte: Option<u64>,
    /// Rules by request tag; the first that applies is taken.
    pub rules: Vec<Rule>,
    /// No-ops before each answer, to versions that know them.
    pub noops_before_answer: u32,
    /// No-ops that often while an answer is delayed.
    pub keepalive_ms: Option<u64>,
    /// How much later HELLO (up to 5.0) or LOGON is answered.
    pub login_delay_ms: u64,
    /// How much later each RUN is answered.
    pub run_delay_ms: u64,
    /// The handshake's answer is "no version".
    pub refuses_versions: bool,
    /// New connections are closed at once.
    pub refuses_connections: bool,
    /// BEGIN and RESET in one read are answered by `Request.Invalid` and a close (Neo4j 5.26 as
    /// observed: a race it often loses).
    pub loses_reset_race: bool,
}

/// Misbehaviour at requests of one tag.
#[derive(Clone, Debug)]
pub struct Rule {
    pub tag: u8,
    /// Applies to the first such request of each thread, and to every so many after it.
    pub every_nth: u64,
    pub act: Act,
}

#[derive(Clone, Debug)]
pub enum Act {
    /// FAILURE with this code instead of the request's execution.
    Fail(String),
    /// The request is executed and its answer spoilt.
    Spoil(Misdeed),
}

impl Faults {
    /// FAILURE with `code` at every `every_nth` request of `tag`.
    pub fn failing(tag: u8, code: &str, every_nth: u64) -> Faults {
        Faults::with_rule(tag, every_nth, Act::Fail(code.into()))
    }

    /// `misdeed` at every `every_nth` answer to `tag`.
    pub fn spoiling(tag: u8, misdeed: Misdeed, every_nth: u64) -> Faults {
        Faults::with_rule(tag, every_nth, Act::Spoil(misdeed))
    }

    fn with_rule(tag: u8, every_nth: u64, act: Act) -> Faults {
        Faults { rules: vec![Rule { tag, every_nth, act }], ..Faults::default() }
    }
}
