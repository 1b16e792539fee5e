//! One client's side of a conversation: bytes of the server in, requests and outcomes out. Pure.
//!
//! ```text
//! Version -> (Manifest) -> Login -> Idle <-> Busy -> Recovering -> Idle
//! ```
//!
//! Owns what is due and the check that an answer belongs to its request. Does not own the socket,
//! the clock or any count. A session is for one connection; the nonce goes on over connections.

use super::inbox::Inbox;
use super::request::{Due, NONCE_LENGTH, Nonce, Request, Requests};
use super::script::Script;
use crate::wire::handshake::{self, Choice};
use crate::wire::message::{self, Failure, tag};
use crate::wire::version::Version;
use bytes::BytesMut;
use std::fmt;
use std::rc::Rc;

/// The start of the only record of a shape's own query: RECORD, a list of one, a string of 32
/// bytes.
const NONCE_RECORD: [u8; 5] = [0xB1, tag::RECORD, 0x91, 0xD0, NONCE_LENGTH as u8];
/// A server's handshake is at most a manifest: 4 bytes, a count, 64 entries, a mask.
const HANDSHAKE_BYTES_MAX: usize = 512;

/// What bytes of the server led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing yet: more is due.
    Waiting,
    /// Or as far as the shape goes: *handshake* ends before the login.
    LoggedIn,
    Answered(Outcome),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every record was the request's own.
    Fine { records: u64 },
    /// The server said FAILURE with this code; the connection is READY again.
    Failure(String),
    /// An answer that belongs to another request, or not the number of records that was asked for.
    Mismatch,
}

/// Why a connection cannot go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    Handshake(String),
    /// No version in common; what the server has, if it said so.
    NoVersion,
    /// HELLO or LOGON got this code.
    Login(String),
    /// The server sent something that is not due.
    Unexpected(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Handshake(text) => write!(formatter, "handshake: {text}"),
            Fault::NoVersion => {
                write!(formatter, "handshake: no common Bolt version; look at --bolt")
            }
            Fault::Login(code) => write!(formatter, "login refused: {code}"),
            Fault::Unexpected(what) => write!(formatter, "protocol: {what}"),
        }
    }
}

enum Phase {
    Version,
    Manifest,
    /// That many summaries are due.
    Login(u8),
    Idle,
    Busy,
    /// RESET's summary is due, then the failure is the request's outcome.
    Recovering,
}

pub struct Session {
    script: Rc<Script>,
    nonce: Nonce,
    inbox: Inbox,
    phase: Phase,
    version: Option<Version>,
    requests: Option<Rc<Requests>>,
    /// The handshake's bytes as far as they have come.
    handshake: Vec<u8>,
    // Of the request that is being answered:
    picked: usize,
    step: usize,
    place: usize,
    records: u64,
    failure: Option<String>,
    is_mismatch: bool,
    /// Where the nonce was in the last record.
    nonce_at: usize,
}

impl Session {
    /// For a fresh connection; `nonce` is where the client's last one ended.
    pub fn new(script: Rc<Script>, nonce: Nonce) -> Session {
        Session {
            script,
            nonce,
            inbox: Inbox::default(),
            phase: Phase::Version,
            version: None,
            requests: None,
            handshake: Vec::new(),
            picked: 0,
            step: 0,
            place: 0,
            records: 0,
            failure: None,
            is_mismatch: false,
            nonce_at: 0,
        }
    }

    pub fn nonce(&self) -> Nonce {
        self.nonce
    }

    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// The first bytes of the connection.
    pub fn open(&self, out: &mut BytesMut) {
        out.extend_from_slice(&self.script.proposals());
    }

    /// The first bytes of the next request; to be called after `LoggedIn` or `Answered`.
    pub fn ask(&mut self, out: &mut BytesMut) {
        let requests = self.requests.as_ref().expect("logged in, so the version is known");
        self.nonce.advance();
        self.picked = requests.pick(&self.nonce);
        (self.step, self.place, self.records) = (0, 0, 0);
        (self.failure, self.is_mismatch) = (None, false);
        self.phase = Phase::Busy;
        requests.at(self.picked).steps[0].write(&self.nonce, out);
    }

    /// Takes what the server sent; what is to be sent back at once is appended to `out`.
    pub fn take(&mut self, mut input: &[u8], out: &mut BytesMut) -> Result<Event, Fault> {
        if matches!(self.phase, Phase::Version | Phase::Manifest) {
            self.take_handshake(input, out)?;
            let is_ready = matches!(self.phase, Phase::Idle);
            return Ok(if is_ready { Event::LoggedIn } else { Event::Waiting });
        }
        let mut event = Event::Waiting;
        // The inbox lends out payloads while the rest of the session changes.
        let mut inbox = std::mem::take(&mut self.inbox);
        while let Some(payload) = inbox.next(&mut input)? {
            let came = self.take_message(payload, out)?;
            if came != Event::Waiting {
                event = came;
            }
        }
        self.inbox = inbox;
        Ok(event)
    }

    fn take_handshake(&mut self, input: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        self.handshake.extend_from_slice(input);
        if self.handshake.len() > HANDSHAKE_BYTES_MAX {
            return Err(Fault::Unexpected("more bytes than a handshake has"));
        }
        let text = |error: handshake::HandshakeError| Fault::Handshake(error.to_string());
        let Some(&answer) = self.handshake.first_chunk::<4>() else { return Ok(()) };
        let (used, version) = match handshake::parse_answer(&answer).map_err(text)? {
            Choice::None => return Err(Fault::NoVersion),
            Choice::Version(version) => (4, version),
            Choice::Manifest => {
                self.phase = Phase::Manifest;
                let parsed = handshake::parse_manifest(&self.handshake).map_err(text)?;
                let Some((used, versions)) = parsed else { return Ok(()) };
                let version = self.script.choose(&versions).ok_or(Fault::NoVersion)?;
                out.extend_from_slice(&handshake::manifest_choice(version));
                (used, version)
            }
        };
        if !self.script.accepts(version) {
            return Err(Fault::NoVersion);
        }
        if used != self.handshake.len() {
            return Err(Fault::Unexpected("bytes behind the handshake"));
        }
        self.handshake = Vec::new();
        self.version = Some(version);
        self.requests = Some(self.script.requests(version));
        self.phase = match self.script.logs_in() {
            true => Phase::Login(self.script.write_login(version, out)),
            false => Phase::Idle,
        };
        Ok(())
    }

    fn take_message(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<Event, Fault> {
        let [_, came, ..] = *payload else {
            return Err(Fault::Unexpected("a message of one byte"));
        };
        match &mut self.phase {
            Phase::Version | Phase::Manifest => {
                Err(Fault::Unexpected("a message before a version"))
            }
            Phase::Idle => Err(Fault::Unexpected("a message that was not asked for")),
            Phase::Login(due) => match came {
                tag::SUCCESS if *due > 1 => {
                    *due -= 1;
                    Ok(Event::Waiting)
                }
                tag::SUCCESS => {
                    self.phase = Phase::Idle;
                    Ok(Event::LoggedIn)
                }
                tag::FAILURE => Err(Fault::Login(failure_code(payload)?)),
                _ => Err(Fault::Unexpected("neither SUCCESS nor FAILURE to a login")),
            },
            Phase::Recovering => match came {
                tag::SUCCESS => {
                    self.phase = Phase::Idle;
                    let code = self.failure.take().expect("only a failure is recovered from");
                    Ok(Event::Answered(Outcome::Failure(code)))
                }
                _ => Err(Fault::Unexpected("RESET was not answered with SUCCESS")),
            },
            Phase::Busy => self.take_answer(came, payload, out),
        }
    }

    fn take_answer(
        &mut self,
        came: u8,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> Result<Event, Fault> {
        let requests = self.requests.clone().expect("busy, so the version is known");
        let request = requests.at(self.picked);
        let due = request.steps[self.step].due;
        match (came, due[self.place]) {
            (tag::RECORD, Due::Pull) if self.failure.is_none() => {
                self.check_record(request, payload);
                return Ok(Event::Waiting);
            }
            (tag::SUCCESS, Due::Pull) if self.failure.is_none() => {
                if has_more(payload)? {
                    out.extend_from_slice(&request.pull);
                    return Ok(Event::Waiting);
                }
            }
            (tag::SUCCESS, _) if self.failure.is_none() => {}
            (tag::FAILURE, _) if self.failure.is_none() => {
                self.failure = Some(failure_code(payload)?);
            }
            (tag::IGNORED, _) if self.failure.is_some() => {}
            (tag::RECORD, _) => return Err(Fault::Unexpected("a record that was not pulled")),
            (tag::IGNORED, _) => return Err(Fault::Unexpected("IGNORED without a failure")),
            (tag::SUCCESS | tag::FAILURE, _) => {
                return Err(Fault::Unexpected("a summary where IGNORED was due"));
            }
            _ => return Err(Fault::Unexpected("a message that is no response")),
        }
        self.place += 1;
        if self.place < due.len() { Ok(Event::Waiting) } else { Ok(self.end_step(request, out)) }
    }

    fn end_step(&mut self, request: &Request, out: &mut BytesMut) -> Event {
        if self.failure.is_some() {
            self.phase = Phase::Recovering;
            out.extend_from_slice(message::RESET);
            return Event::Waiting;
        }
        (self.step, self.place) = (self.step + 1, 0);
        if let Some(step) = request.steps.get(self.step) {
            step.write(&self.nonce, out);
            return Event::Waiting;
        }
        self.phase = Phase::Idle;
        let is_count_right = request.records.is_none_or(|count| count == self.records);
        let is_fine = is_count_right && !self.is_mismatch;
        let fine = Outcome::Fine { records: self.records };
        Event::Answered(if is_fine { fine } else { Outcome::Mismatch })
    }

    /// Looks first where the last record had the nonce: all records of a result are alike.
    fn check_record(&mut self, request: &Request, payload: &[u8]) {
        self.records += 1;
        if !request.has_nonce {
            return;
        }
        let nonce = &self.nonce.bytes()[..];
        let is_own = if request.is_nonce_alone {
            payload.strip_prefix(&NONCE_RECORD) == Some(nonce)
        } else if payload.get(self.nonce_at..self.nonce_at + NONCE_LENGTH) == Some(nonce) {
            true
        } else {
            let at = payload.windows(NONCE_LENGTH).position(|window| window == nonce);
            self.nonce_at = at.unwrap_or(0);
            at.is_some()
        };
        self.is_mismatch |= !is_own;
    }
}

fn has_more(payload: &[u8]) -> Result<bool, Fault> {
    let fields = message::read_fields(payload);
    fields.map(|fields| fields.has_more).map_err(|_| Fault::Unexpected("a SUCCESS that is no map"))
}

fn failure_code(payload: &[u8]) -> Result<String, Fault> {
    let failure = Failure::parse(payload);
    failure
        .map(|failure| failure.code.into_owned())
        .map_err(|_| Fault::Unexpected("a FAILURE without a code"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::{Plan, Shape, Target};
    use crate::wire::chunk::chunked;
    use crate::wire::handshake::manifest;
    use crate::wire::packstream::Writer;

    const SUCCESS: &[u8] = message::SUCCESS_EMPTY;
    const HAS_MORE: &[u8] = b"\0\x0D\xB1\x70\xA1\x88has_more\xC3\0\0";

    fn session(plan: Plan, version: Option<Version>) -> Session {
        let target = Target {
            name: "t".into(),
            address: ([127, 0, 0, 1], 1).into(),
            user: "neo4j".into(),
            password: "test-password".into(),
            version,
            tls: None,
            is_websocket: false,
        };
        let plan = Rc::new(Plan { targets: vec![target], ..plan });
        Session::new(Rc::new(Script::new(plan, 0)), Nonce::new(7, 9))
    }

    /// Logged in with 5.4, and the first request asked.
    fn asked(plan: Plan) -> Session {
        let mut session = session(plan, None);
        let mut out = BytesMut::new();
        session.open(&mut out);
        assert_eq!(session.take(&[0, 0, 4, 5], &mut out), Ok(Event::Waiting));
        assert_eq!(session.take(SUCCESS, &mut out), Ok(Event::Waiting));
        assert_eq!(session.take(SUCCESS, &mut out), Ok(Event::LoggedIn));
        session.ask(&mut out);
        session
    }

    fn record(nonce: &[u8]) -> Vec<u8> {
        chunked(&[&NONCE_RECORD, nonce].concat())
    }

    fn failure(code: &str) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.struct_header(1, tag::FAILURE).map_header(2);
        writer.string("code").string(code).string("message").string("no");
        writer.into_message()
    }

    #[test]
    fn a_manifest_is_answered_with_the_highest_version_up_to_5_8() {
        let mut session = session(Plan::default(), None);
        let mut out = BytesMut::new();
        session.open(&mut out);
        assert_eq!(out.split()[..8], [0x60, 0x60, 0xB0, 0x17, 0, 0, 1, 0xFF]);
        for byte in manifest(&Version::ALL) {
            assert!(out.is_empty());
            assert_eq!(session.take(&[byte], &mut out), Ok(Event::Waiting));
        }
        assert_eq!(out[..5], [0, 0, 8, 5, 0]);
        let logins: Vec<_> = out.windows(2).filter(|head| head[0] == 0xB1).collect();
        assert_eq!(logins, [[0xB1, tag::HELLO], [0xB1, tag::LOGON]]);
        assert_eq!(session.version(), Some(Version::new(5, 8)));
    }

    #[test]
    fn no_common_version_and_a_refused_login_are_faults() {
        let mut out = BytesMut::new();
        let old = session(Plan::default(), None).take(&[0, 0, 2, 4], &mut out);
        assert_eq!(old, Err(Fault::NoVersion));
        let none = session(Plan::default(), None).take(&[0; 4], &mut out);
        assert_eq!(none, Err(Fault::NoVersion));
        let http = session(Plan::default(), None).take(b"HTTP", &mut out).unwrap_err();
        assert!(http.to_string().contains("Bolt"), "{http}");
        let mut exact = session(Plan::default(), Some(Version::new(4, 4)));
        exact.open(&mut out);
        assert_eq!(exact.take(&[0, 0, 4, 4], &mut out), Ok(Event::Waiting));
        let refused = exact.take(&failure("Neo.ClientError.Security.Unauthorized"), &mut out);
        assert_eq!(refused, Err(Fault::Login("Neo.ClientError.Security.Unauthorized".into())));
    }

    #[test]
    fn an_answer_cut_anywhere_is_fine() {
        let nonce = *asked(Plan::default()).nonce().bytes();
        let answer = [&[0, 0], SUCCESS, &record(&nonce), &[0, 0], SUCCESS].concat();
        for cut in 0..answer.len() {
            let (mut session, mut out) = (asked(Plan::default()), BytesMut::new());
            assert_eq!(session.take(&answer[..cut], &mut out), Ok(Event::Waiting));
            let event = session.take(&answer[cut..], &mut out);
            assert_eq!(event, Ok(Event::Answered(Outcome::Fine { records: 1 })));
            assert!(out.is_empty());
        }
    }

    #[test]
    fn answers_of_others_and_missing_records_are_mismatches() {
        let (mut session, mut out) = (asked(Plan::default()), BytesMut::new());
        let old = *session.nonce().bytes();
        let answer = |nonce| [SUCCESS, &record(nonce), SUCCESS].concat();
        let fine = session.take(&answer(&old), &mut out);
        assert_eq!(fine, Ok(Event::Answered(Outcome::Fine { records: 1 })));
        session.ask(&mut out);
        let stale = session.take(&answer(&old), &mut out);
        assert_eq!(stale, Ok(Event::Answered(Outcome::Mismatch)));
        session.ask(&mut out);
        let empty = session.take(&[SUCCESS, SUCCESS].concat(), &mut out);
        assert_eq!(empty, Ok(Event::Answered(Outcome::Mismatch)));
        session.ask(&mut out);
        let own = record(session.nonce().bytes());
        let twice = session.take(&[SUCCESS, &own, &own, SUCCESS].concat(), &mut out);
        assert_eq!(twice, Ok(Event::Answered(Outcome::Mismatch)));
    }

    #[test]
    fn every_row_must_hold_the_nonce_wherever_it_is() {
        let plan = Plan { shape: Shape::Rows { rows: 3 }, ..Plan::default() };
        let row = |front: &[u8], nonce: &[u8]| {
            chunked(&[&[0xB1, 0x71, 0x92], front, &[0xD0, 32], nonce].concat())
        };
        for foreign in [false, true] {
            let (mut session, mut out) = (asked(plan.clone()), BytesMut::new());
            let nonce = *session.nonce().bytes();
            let third = if foreign { *b"0000000700000009000000000000000f" } else { nonce };
            let first = [SUCCESS, &row(&[1], &nonce), &row(&[0xC8, 1], &nonce), HAS_MORE].concat();
            assert_eq!(session.take(&first, &mut out), Ok(Event::Waiting));
            assert_eq!(out.split()[3], tag::PULL);
            let event = session.take(&[&row(&[3], &third), SUCCESS].concat(), &mut out);
            let fine = Outcome::Fine { records: 3 };
            let outcome = if foreign { Outcome::Mismatch } else { fine };
            assert_eq!(event, Ok(Event::Answered(outcome)));
        }
    }

    #[test]
    fn a_failure_is_reset_and_then_told_by_its_code() {
        let shape = Shape::Tx { pipelined_begin: true };
        let (mut session, mut out) = (asked(Plan { shape, ..Plan::default() }), BytesMut::new());
        let answer = [SUCCESS, &failure("Neo.X"), message::IGNORED].concat();
        assert_eq!(session.take(&answer, &mut out), Ok(Event::Waiting));
        assert_eq!(out.split()[..], *message::RESET);
        let event = session.take(SUCCESS, &mut out);
        assert_eq!(event, Ok(Event::Answered(Outcome::Failure("Neo.X".into()))));
        session.ask(&mut out);
        let nonce = *session.nonce().bytes();
        out.clear();
        let answer = [SUCCESS, SUCCESS, &record(&nonce), SUCCESS].concat();
        assert_eq!(session.take(&answer, &mut out), Ok(Event::Waiting));
        assert_eq!(out.split()[..], *message::COMMIT);
        let event = session.take(SUCCESS, &mut out);
        assert_eq!(event, Ok(Event::Answered(Outcome::Fine { records: 1 })));
    }

    #[test]
    fn what_is_not_due_is_a_fault() {
        let own = record(asked(Plan::default()).nonce().bytes());
        let failed = failure("Neo.X");
        for wrong in [
            own.clone(),
            message::IGNORED.to_vec(),
            [&failed[..], SUCCESS].concat(),
            [SUCCESS, &failed, &own].concat(),
            [SUCCESS, &own, SUCCESS, SUCCESS].concat(),
            [0, 1, 0xB1, 0, 0].to_vec(),
            message::COMMIT.to_vec(),
            [SUCCESS, &[0, 3, 0xB1, 0x70, 0xDF, 0, 0]].concat(),
        ] {
            let (mut session, mut out) = (asked(Plan::default()), BytesMut::new());
            let result = session.take(&wrong, &mut out);
            assert!(matches!(result, Err(Fault::Unexpected(_))), "{wrong:02X?}: {result:?}");
        }
    }
}
