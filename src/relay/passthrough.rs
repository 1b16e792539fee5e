//! Session mode: one server connection belongs to one client from the handshake on, and every byte
//! of either side goes to the other. Pure: a slice in, calls of `Pipes` out.
//!
//! ```text
//!  Answer ─four bytes─► Messages
//!    └─ or a manifest ─► Choice ─client's choice─► Messages
//!  any of them ─no version, or no Bolt─► Unfollowed: relayed and not read any more
//! ```
//!
//! A client's bytes are handed on before they are looked at. A server's bytes wait in three cases:
//! the handshake's answer, which drivers want in one piece; the summary of HELLO, LOGON or ROUTE
//! while it is not whole, since a field of it may change; half a chunk length before one of these.
//! What is kept is bounded; what is longer is relayed unread. Nothing a peer sends can end the
//! session from here: where requests and summaries do not match, the bytes go on as they are, and
//! only a SUCCESS that has the field in question is ever changed.

mod opening;
mod owed;
mod rewrite;

#[cfg(test)]
mod tests;

use crate::relay::passthrough::owed::{Owed, Watched};
use crate::wire::chunk::{self, Kind, Scanner};
use crate::wire::limits::LOGIN_BYTES_MAX;
use crate::wire::message::tag;
use crate::wire::version::Version;
use bytes::Bytes;
use std::mem;
use std::ops::Range;
use std::rc::Rc;
use zeroize::Zeroizing;

/// Magic and four proposals.
const PROPOSALS_LENGTH: usize = 20;
/// A summary longer than this is relayed before its end, unchanged. Those we change hold a few
/// addresses: a routing table of a thousand servers is half of it.
const SUMMARY_HELD_MAX: usize = 64 << 10;
/// Most of a request that is copied to read the proxy's address in it. Neo4j takes no longer HELLO,
/// and ROUTE begins with the same routing context.
const REQUEST_READ_MAX: usize = LOGIN_BYTES_MAX;
/// Payload of `SUCCESS {has_more: true}`, which holds nothing else (Neo4j 5.26 as observed). A
/// summary that happens to be as long only makes a session look busy until the next one.
const HAS_MORE_LENGTH: u64 = 13;

/// Where the bytes go. Ranges are of the slice that was handed in; calls are in the stream's order.
pub trait Pipes {
    fn to_server(&mut self, range: Range<usize>);
    fn to_server_copied(&mut self, bytes: Bytes);
    fn to_client(&mut self, range: Range<usize>);
    fn to_client_copied(&mut self, bytes: Bytes);
    /// Where the client reaches the proxy, for one that does not say so itself; may cost a system
    /// call.
    fn own_address(&self) -> String;
}

/// How far the two have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The server's answer to the proposals is awaited, a manifest to its end.
    Answer,
    /// The client's choice out of the manifest is awaited.
    Choice,
    Messages(Version),
    Unfollowed,
}

/// See the module.
pub struct Passthrough {
    phase: Phase,
    /// How the client calls the proxy, once HELLO has said it.
    spelling: Option<Rc<str>>,
    /// Bytes of the client's proposals that have not come.
    proposals_left: usize,
    /// Sent by the client before it was known how to read it: its choice, or a pipelined HELLO.
    unread: Zeroizing<Vec<u8>>,
    up: Scanner,
    down: Scanner,
    /// First half of a chunk length between messages: client's, server's.
    loose: [Option<u8>; 2],
    /// The beginning of a request that arrives in pieces, while it may be HELLO or ROUTE.
    glimpse: Option<Zeroizing<Vec<u8>>>,
    owed: Owed,
    /// Bytes of the server that wait.
    stash: Vec<u8>,
    /// The server's message that is arriving waits in `stash`.
    is_holding: bool,
    /// The client's request that is arriving has its summary already.
    is_answered_early: bool,
    is_in_transaction: bool,
    has_more: bool,
    is_logged_in: bool,
    has_said_goodbye: bool,
}

impl Default for Passthrough {
    /// For a connection whose first byte is the magic's.
    fn default() -> Passthrough {
        Passthrough {
            phase: Phase::Answer,
            spelling: None,
            proposals_left: PROPOSALS_LENGTH,
            unread: Zeroizing::new(Vec::new()),
            up: Scanner::default(),
            down: Scanner::default(),
            loose: [None, None],
            glimpse: None,
            owed: Owed::default(),
            stash: Vec::new(),
            is_holding: false,
            is_answered_early: false,
            is_in_transaction: false,
            has_more: false,
            is_logged_in: false,
            has_said_goodbye: false,
        }
    }
}

impl Passthrough {
    /// The client's next bytes: all of them go on, and as they are.
    #[inline]
    pub fn client_bytes(&mut self, input: &[u8], pipes: &mut impl Pipes) {
        if input.is_empty() {
            return;
        }
        pipes.to_server(0..input.len());
        match self.phase {
            Phase::Messages(_) => self.read_requests(input),
            _ => self.client_handshake(input),
        }
    }

    /// The server's next bytes.
    #[inline]
    pub fn server_bytes(&mut self, input: &[u8], pipes: &mut impl Pipes) {
        if input.is_empty() {
            return;
        }
        match self.phase {
            Phase::Messages(version) => self.relay_replies(version, input, 0, pipes),
            Phase::Answer => self.server_handshake(input, pipes),
            Phase::Choice | Phase::Unfollowed => {
                self.phase = Phase::Unfollowed;
                self.flush(pipes);
                pipes.to_client(0..input.len());
            }
        }
    }

    /// The server has ended: what still waits for its rest goes to the client.
    pub fn server_ended(&mut self, pipes: &mut impl Pipes) {
        self.flush(pipes);
    }

    /// Ending the session now would cut nothing short: nothing is owed or half sent, no transaction
    /// is open and no result half pulled. For draining.
    pub fn is_idle(&self) -> bool {
        let is_between = !self.is_mid_request() && !self.is_mid_reply();
        let is_busy = self.is_in_transaction || self.has_more || !self.owed.is_empty();
        matches!(self.phase, Phase::Messages(_)) && is_between && !is_busy
    }

    /// Whether the client is in the middle of its handshake or of a message.
    pub fn is_mid_request(&self) -> bool {
        match self.phase {
            Phase::Messages(_) => !self.up.is_between_messages() || self.loose[0].is_some(),
            Phase::Answer => self.proposals_left > 0,
            Phase::Choice => true,
            Phase::Unfollowed => false,
        }
    }

    /// Whether the server is in the middle of a message.
    pub fn is_mid_reply(&self) -> bool {
        let is_waiting = !self.stash.is_empty() || self.loose[1].is_some();
        is_waiting || !self.down.is_between_messages()
    }

    /// Whether the server has accepted the client's credentials, for the time a login may take.
    pub fn is_logged_in(&self) -> bool {
        self.is_logged_in
    }

    /// Whether the bytes are relayed without being read any more.
    pub fn is_unfollowed(&self) -> bool {
        matches!(self.phase, Phase::Unfollowed)
    }

    /// Whether the client has taken its leave: the server will close.
    pub fn has_said_goodbye(&self) -> bool {
        self.has_said_goodbye
    }

    /// What client and server agreed on.
    pub fn version(&self) -> Option<Version> {
        match self.phase {
            Phase::Messages(version) => Some(version),
            _ => None,
        }
    }

    /// Bytes kept for this session.
    pub fn held_bytes(&self) -> usize {
        let glimpse = self.glimpse.as_ref().map_or(0, |glimpse| glimpse.capacity());
        self.unread.capacity() + glimpse + self.stash.capacity()
    }

    /// Looks at a client's messages, which are on their way already.
    fn read_requests(&mut self, input: &[u8]) {
        let Some(second) = input.first() else { return };
        let mut at = 0;
        if let Some(first) = self.loose[0].take() {
            at = 1;
            let span = self.up.next(&[first, *second]);
            if span.is_some_and(|span| span.kind != Kind::Noop) {
                self.glimpse = Some(Zeroizing::new(Vec::new()));
            } else {
                self.is_answered_early = false;
            }
        }
        while at < input.len() {
            let glimpse = &mut self.glimpse;
            let each = |piece: &[u8]| {
                if let Some(glimpse) = glimpse {
                    add(glimpse, piece);
                }
            };
            let Some(span) = self.up.next_with(&input[at..], each) else {
                self.loose[0] = Some(input[at]);
                return;
            };
            let message = &input[at..at + span.length];
            at += span.length;
            match span.kind {
                Kind::Noop => {}
                Kind::Message { starts: true, ends: true } => self.whole_request(message),
                Kind::Message { starts, ends } => self.request_part(message, starts, ends),
            }
        }
    }

    /// The usual case: all of a request in one piece.
    #[inline]
    fn whole_request(&mut self, message: &[u8]) {
        let Some(head) = self.up.head() else { return };
        if is_read(head.tag) {
            let mut scratch = Zeroizing::new(Vec::with_capacity(message.len()));
            let payload = chunk::payload(message, &mut scratch);
            self.request_ended(head.tag, payload);
        } else {
            self.request_ended(head.tag, &[]);
        }
    }

    fn request_part(&mut self, part: &[u8], starts: bool, ends: bool) {
        let head = self.up.head();
        if starts {
            self.is_answered_early = false;
        }
        if starts && head.is_none_or(|head| is_read(head.tag)) {
            let mut glimpse = Zeroizing::new(Vec::new());
            Scanner::default().next_with(part, |piece| add(&mut glimpse, piece));
            self.glimpse = Some(glimpse);
        } else if head.is_some_and(|head| !is_read(head.tag)) {
            self.glimpse = None;
        }
        if !ends {
            return;
        }
        let glimpse = self.glimpse.take().unwrap_or_default();
        let is_answered = mem::take(&mut self.is_answered_early);
        if let Some(head) = head
            && !is_answered
        {
            self.request_ended(head.tag, &glimpse);
        }
    }

    /// Notes what the server now owes. The payload is there for `is_read` only.
    #[inline]
    fn request_ended(&mut self, request: u8, payload: &[u8]) {
        match request {
            tag::HELLO | tag::LOGON | tag::ROUTE => return self.watch(request, payload),
            tag::GOODBYE => {
                self.has_said_goodbye = true;
                return; // it has no summary
            }
            tag::BEGIN => self.is_in_transaction = true,
            tag::COMMIT | tag::ROLLBACK | tag::RESET => self.is_in_transaction = false,
            tag::LOGOFF => self.is_logged_in = false,
            _ => {}
        }
        self.owed.push_ordinary();
    }

    fn watch(&mut self, request: u8, payload: &[u8]) {
        let spelling = rewrite::spelling(payload);
        let spelling = spelling.filter(|spelling| self.spelling.as_deref() != Some(*spelling));
        let spelling = spelling.map(Rc::from).or_else(|| self.spelling.clone());
        self.owed.push(match request {
            tag::ROUTE => Watched::Route(spelling),
            tag::LOGON => Watched::Logon,
            _ => {
                self.spelling = spelling;
                Watched::Hello
            }
        });
    }

    /// Hands on a server's messages from `at` on, in as few ranges as their changes allow.
    fn relay_replies(
        &mut self,
        version: Version,
        input: &[u8],
        mut at: usize,
        pipes: &mut impl Pipes,
    ) {
        // What has not been handed on begins here.
        let mut from = at;
        if let Some(first) = self.loose[1].take() {
            at += 1;
            from += self.second_of_length([first, input[from]], pipes);
        }
        while at < input.len() {
            let Some(span) = self.down.next(&input[at..]) else {
                self.loose[1] = Some(input[at]);
                if self.owed.is_next_watched() {
                    hand_on(from..at, pipes);
                    self.stash.push(input[at]);
                    return;
                }
                break;
            };
            let range = at..at + span.length;
            at = range.end;
            let Kind::Message { starts, ends } = span.kind else { continue };
            if !(starts && ends) {
                from = self.reply_part(version, input, from, range, (starts, ends), pipes);
            } else if let Some(watched) = self.reply_ended(version)
                && let Some(bytes) = rewritten(&watched, version, &input[range.clone()], pipes)
            {
                hand_on(from..range.start, pipes);
                pipes.to_client_copied(bytes);
                from = at;
            }
        }
        hand_on(from..input.len(), pipes);
    }

    /// A chunk length between messages that came in two pieces; how many bytes of the second have
    /// been taken care of.
    fn second_of_length(&mut self, length: [u8; 2], pipes: &mut impl Pipes) -> usize {
        self.is_holding = !self.stash.is_empty();
        let is_noop = self.down.next(&length).is_none_or(|span| span.kind == Kind::Noop);
        if !self.is_holding {
            return 0; // the first is with the client already
        }
        self.stash.push(length[1]);
        if is_noop {
            self.flush(pipes);
        }
        1
    }

    /// A piece of a server's message; returns where the bytes begin that are to be handed on.
    fn reply_part(
        &mut self,
        version: Version,
        input: &[u8],
        from: usize,
        range: Range<usize>,
        (starts, ends): (bool, bool),
        pipes: &mut impl Pipes,
    ) -> usize {
        if starts {
            self.is_holding = self.owed.is_next_watched();
        }
        if !self.is_holding {
            if ends {
                self.reply_ended(version);
            }
            return from;
        }
        hand_on(from..range.start, pipes);
        self.stash.extend_from_slice(&input[range.clone()]);
        if ends {
            let watched = self.reply_ended(version);
            let stash = &self.stash;
            let bytes = watched.and_then(|watched| rewritten(&watched, version, stash, pipes));
            match bytes {
                Some(bytes) => {
                    self.stash = Vec::new();
                    pipes.to_client_copied(bytes);
                }
                None => self.flush(pipes),
            }
        } else {
            let is_success = self.down.head().is_none_or(|head| head.tag == tag::SUCCESS);
            if !is_success || self.stash.len() > SUMMARY_HELD_MAX {
                self.is_holding = false;
                self.flush(pipes);
            }
        }
        range.end
    }

    /// A server's message has ended. Returns whose it is, if it is a SUCCESS that may change.
    #[inline]
    fn reply_ended(&mut self, version: Version) -> Option<Watched> {
        let tag = self.down.head()?.tag;
        if !matches!(tag, tag::SUCCESS | tag::FAILURE | tag::IGNORED) {
            return None;
        }
        self.has_more = tag == tag::SUCCESS && self.down.payload_length() == HAS_MORE_LENGTH;
        if self.owed.is_empty() && self.is_mid_request() {
            self.is_answered_early = true;
        }
        let watched = self.owed.pop().filter(|_| tag == tag::SUCCESS)?;
        self.is_logged_in |= match watched {
            Watched::Hello => !version.has_logon(),
            Watched::Logon => true,
            Watched::Route(_) => false,
        };
        Some(watched)
    }

    fn flush(&mut self, pipes: &mut impl Pipes) {
        if !self.stash.is_empty() {
            pipes.to_client_copied(mem::take(&mut self.stash).into());
        }
    }
}

/// Whether the client may spell the proxy's address in such a request.
fn is_read(request: u8) -> bool {
    matches!(request, tag::HELLO | tag::ROUTE)
}

/// Keeps the beginning of a request, in a buffer that never moves: HELLO may hold a secret.
fn add(glimpse: &mut Vec<u8>, piece: &[u8]) {
    if glimpse.is_empty() {
        if let [_, tag, ..] = piece
            && !is_read(*tag)
        {
            return; // nearly always; the glimpse is given up when the piece has passed
        }
        glimpse.reserve_exact(REQUEST_READ_MAX);
    }
    let room = REQUEST_READ_MAX - glimpse.len();
    glimpse.extend_from_slice(&piece[..piece.len().min(room)]);
}

fn rewritten(
    watched: &Watched,
    version: Version,
    message: &[u8],
    pipes: &impl Pipes,
) -> Option<Bytes> {
    let mut scratch = Vec::new();
    let payload = chunk::payload(message, &mut scratch);
    rewrite::success(watched, version, payload, || pipes.own_address())
}

#[inline]
fn hand_on(range: Range<usize>, pipes: &mut impl Pipes) {
    if !range.is_empty() {
        pipes.to_client(range);
    }
}
