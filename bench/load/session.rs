//! One client's side of a conversation: bytes of the server in, requests and outcomes out. Pure.
//!
//! ```text
//! Version -> (Manifest) -> Login -> Idle <-> Busy -> Recovering -> Idle
//! ```
//!
//! Owns what is due and the check that an answer belongs to its request. Does not own the socket, the
//! clock or any count. A session is for one connection; the nonce goes on over connections.

use super::inbox::Inbox;
use super::request::{Due, NONCE_LENGTH, Nonce, Request};
use super::script::Script;
use crate::wire::handshake::{self, Choice};
use crate::wire::message::{self, Failure, tag};
use crate::wire::version::Version;
use bytes::BytesMut;
use std::fmt;
use std::rc::Rc;

/// The start of the only record of a shape's own query: RECORD, a list of one, a string of 32 bytes.
const NONCE_RECORD: [u8; 5] = [0xB1, tag::RECORD, 0x91, 0xD0, NONCE_LENGTH as u8];
/// A server's handshake is at most a manifest: 4 bytes, a count, 64 entries, a mask.
const HANDSHAKE_BYTES_MAX: usize = 512;

/// What bytes of the server led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing yet: more is due.
    Waiting,
    LoggedIn,
    Answered(Outcome),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every record was the request's own.
    Fine,
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
    request: Option<Rc<Request>>,
    /// The handshake's bytes as far as they have come.
    handshake: Vec<u8>,
    // Of the request that is being answered:
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
            request: None,
            handshake: Vec::new(),
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
        let request = self.request.as_ref().expect("logged in, so the version is known");
        self.nonce.advance();
        (self.step, self.place, self.records) = (0, 0, 0);
        (self.failure, self.is_mismatch) = (None, false);
        self.phase = Phase::Busy;
        request.steps[0].write(&self.nonce, out);
    }

    /// Takes what the server sent; what is to be sent back at once is appended to `out`.
    pub fn take(&mut self, mut input: &[u8], out: &mut BytesMut) -> Result<Event, Fault> {
        if matches!(self.phase, Phase::Version | Phase::Manifest) {
            self.take_handshake(input, out)?;
            return Ok(Event::Waiting);
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
        self.request = Some(self.script.request(version));
        self.phase = Phase::Login(self.script.write_login(version, out));
        Ok(())
    }

    fn take_message(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<Event, Fault> {
        let [_, came, ..] = *payload else {
            return Err(Fault::Unexpected("a message of one byte"));
        };
        match &mut self.phase {
            Phase::Version | Phase::Manifest => Err(Fault::Unexpected("a message before a version")),
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
        let request = self.request.clone().expect("busy, so the version is known");
        let due = request.steps[self.step].due;
        match (came, due[self.place]) {
            (tag::RECORD, Due::Pull) if self.failure.is_none() => {
                self.check_record(&request, payload);
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
        if self.place < due.len() { Ok(Event::Waiting) } else { Ok(self.end_step(&request, out)) }
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
        Event::Answered(if is_fine { Outcome::Fine } else { Outcome::Mismatch })
    }

    /// Looks first where the last record had the nonce: all records of a result are alike.
    fn check_record(&mut self, request: &Request, payload: &[u8]) {
        self.records += 1;
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
