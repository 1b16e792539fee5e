//! The way of a byte: what either side sent, cut into messages, judged by the `Session`, and handed
//! on as the same bytes. Pure: a slice in, calls of `Effects` out.
//!
//! Owns: where both streams are within a message, and the bytes that cannot go on yet (`hold`).
//! They wait in the buffer they came in if `Effects::keep` lets them, else in copies. A request is
//! judged when it is complete or longer than `REQUEST_HELD_MAX`; a record is handed on as it comes;
//! a summary when it is complete.

use crate::backend::identity::Identity;
use crate::backend::planted::Bug;
use crate::backend::{Discard, Refusal};
use crate::relay::close::CloseReason;
use crate::relay::session::{Action, Context, Decision, Relay, Release, Reply, Request, Session};
use crate::transport::buffer::Chunk;
use crate::wire::chunk::{self, Head, Kind, Scanner};
use crate::wire::message::{FieldScan, IGNORED, tag};
use bytes::Bytes;
use hold::{Hold, Taken};
use std::mem;
use std::ops::Range;
use std::rc::Rc;
use zeroize::Zeroize;

mod downward;
mod hold;

/// A request longer than this is judged before its end: four receive buffers, more than a typical
/// query with parameters.
pub const REQUEST_HELD_MAX: usize = 64 << 10;
/// A summary longer than this is relayed before its end; only query plans are.
const SUMMARY_HELD_MAX: usize = 64 << 10;

/// Whether a lease was to be had.
#[derive(Debug)]
pub enum Leased {
    Now,
    MustWait,
    Refused(Refusal),
}

/// What the server sent that belongs to no request of this client: the next owner reads on from
/// there.
pub struct Remainder<'a> {
    pub scanner: Scanner,
    /// The first half of a chunk header.
    pub loose: Option<u8>,
    pub bytes: &'a [u8],
}

/// What happens outside. Ranges are of the slice that was handed in.
pub trait Effects {
    fn to_server(&mut self, range: Range<usize>);
    fn to_server_copied(&mut self, bytes: Bytes);
    /// A part of the slice that is to wait, as what lends it its buffer; `None`: it is copied.
    fn keep(&mut self, range: Range<usize>) -> Option<Chunk>;
    /// What `keep` gave, or a part of it.
    fn to_server_kept(&mut self, chunk: Chunk);
    fn to_client(&mut self, range: Range<usize>);
    fn to_client_copied(&mut self, bytes: Bytes);
    fn acquire(&mut self, identity: &Rc<Identity>) -> Leased;
    fn release(&mut self, how: Release, remainder: Remainder<'_>);
    /// Everything else: `Withdraw`, `LogIn`, `LoggedOff`, `Revoke`, `Close`.
    fn act(&mut self, action: Action);
}

/// What becomes of the client's message that is arriving.
enum Fate {
    Undecided,
    Forward,
    Hold,
    Drop,
}

/// What becomes of the server's message that is arriving.
enum Arriving {
    Undecided,
    Detail,
    /// A summary too long to be kept, and what it has said so far.
    Long(Box<FieldScan>),
}

/// See the module.
pub struct Exchange {
    pub session: Session,
    up: Scanner,
    down: Scanner,
    fate: Fate,
    arriving: Arriving,
    /// First half of a chunk header between messages: client's, server's.
    loose: [Option<u8>; 2],
    hold: Hold,
    /// Reads RUN's extra map in passing, of a request that does not arrive at once.
    scan: Option<Box<FieldScan>>,
    /// The first part of a server's summary.
    stash: Vec<u8>,
    /// The last auto-commit RUN, for a planted mistake alone.
    replay: Vec<u8>,
}

impl Exchange {
    pub fn new(session: Session) -> Exchange {
        Exchange {
            session,
            up: Scanner::default(),
            down: Scanner::default(),
            fate: Fate::Undecided,
            arriving: Arriving::Undecided,
            loose: [None, None],
            hold: Hold::default(),
            scan: None,
            stash: Vec::new(),
            replay: Vec::new(),
        }
    }

    /// Bytes kept for this client.
    pub fn held_bytes(&self) -> usize {
        self.hold.bytes() + self.stash.len()
    }

    /// Whether requests of this client keep a buffer from its ring.
    pub fn is_keeping(&self) -> bool {
        self.hold.is_keeping()
    }

    /// Copies what waits in the buffer it came in: it has waited long.
    pub fn copy_kept(&mut self) {
        self.hold.copy_kept();
    }

    /// Whether the client is in the middle of a message.
    pub fn is_mid_request(&self) -> bool {
        !self.up.is_between_messages() || self.loose[0].is_some()
    }

    /// The client's next bytes.
    pub fn client_bytes(&mut self, input: &[u8], cx: Context<'_>, fx: &mut impl Effects) {
        let mut at = 0;
        if let Some(first) = self.loose[0].take()
            && let Some(&second) = input.first()
        {
            let header = [first, second];
            at = 1;
            if let Some(span) = self.up.next(&header)
                && matches!(span.kind, Kind::Message { .. })
            {
                self.begin_request();
                self.hold.arrive(&header);
            }
        }
        while at < input.len() && !self.session.is_closed() {
            let scan = &mut self.scan;
            let each = |piece: &[u8]| {
                if let Some(scan) = scan {
                    let _ = scan.feed(piece); // a malformed request is the server's to judge
                }
            };
            let Some(span) = self.up.next_with(&input[at..], each) else {
                self.loose[0] = Some(input[at]);
                return;
            };
            let range = at..at + span.length;
            at = range.end;
            if let Kind::Message { starts, ends } = span.kind {
                self.request_span(input, range, (starts, ends), cx, fx);
            }
        }
    }

    fn begin_request(&mut self) {
        self.fate = Fate::Undecided;
        self.scan = Some(Box::new(FieldScan::new(tag::RUN)));
    }

    fn request_span(
        &mut self,
        input: &[u8],
        range: Range<usize>,
        (starts, ends): (bool, bool),
        cx: Context<'_>,
        fx: &mut impl Effects,
    ) {
        if starts && ends {
            return self.whole_request(input, range, cx, fx);
        }
        if starts {
            self.begin_request();
            let scan = self.scan.as_mut().expect("made just now");
            let mut scanner = Scanner::default();
            let _ = scanner.next_with(&input[range.clone()], |piece| {
                let _ = scan.feed(piece);
            });
        }
        match self.fate {
            Fate::Undecided => self.partial_request(&input[range], ends, cx, fx),
            Fate::Forward => fx.to_server(range),
            Fate::Drop => {}
            Fate::Hold => self.hold.grow_last(&input[range]),
        }
        if ends {
            self.end_request();
            self.after(cx, fx);
        }
    }

    /// The usual case: all of a request in one piece.
    fn whole_request(
        &mut self,
        input: &[u8],
        range: Range<usize>,
        cx: Context<'_>,
        fx: &mut impl Effects,
    ) {
        let Some(head) = self.up.head() else {
            self.session.close(CloseReason::InvalidRequest);
            return self.run_actions(fx, &[]);
        };
        let mut scratch = Vec::new();
        let payload = Some(chunk::payload(&input[range.clone()], &mut scratch));
        match self.decide(Request { head, payload }, cx, fx) {
            Decision::Forward => {
                if self.session.planted.has(Bug::ReplayRun) && head.tag == tag::RUN {
                    self.replay = input[range.clone()].to_vec();
                }
                fx.to_server(range);
            }
            Decision::Hold => {
                let may_keep = self.hold.can_keep() && !is_secret(head);
                let chunk = if may_keep { fx.keep(range.clone()) } else { None };
                if !chunk.is_some_and(|chunk| self.hold.keep(chunk)) {
                    self.hold.copy(&input[range]);
                }
            }
            Decision::Drop | Decision::Acquire => {}
        }
        self.after(cx, fx);
    }

    /// A piece of a request that is not decided on: at its end, or once it is long.
    fn partial_request(
        &mut self,
        piece: &[u8],
        ends: bool,
        cx: Context<'_>,
        fx: &mut impl Effects,
    ) {
        self.reserve_for_secret(piece.len(), cx);
        self.hold.arrive(piece);
        let length = self.hold.arriving_bytes();
        let length_max = match self.session.is_serving() {
            true => REQUEST_HELD_MAX,
            false => cx.limits.login_message.min(REQUEST_HELD_MAX),
        };
        if !ends && length <= length_max {
            return;
        }
        let Some(head) = self.up.head() else {
            if ends || length > REQUEST_HELD_MAX {
                self.session.close(CloseReason::InvalidRequest);
                self.run_actions(fx, &[]);
            }
            return;
        };
        let (mut bytes, mut scratch) = (self.hold.take_arriving(), Vec::new());
        let payload = ends.then(|| chunk::payload(&bytes, &mut scratch));
        let decision = self.decide(Request { head, payload }, cx, fx);
        if is_secret(head) {
            scratch.zeroize();
        }
        match decision {
            Decision::Forward => {
                fx.to_server_copied(bytes.freeze());
                self.fate = Fate::Forward;
            }
            Decision::Hold => {
                self.hold.hold_arriving(bytes);
                self.fate = Fate::Hold;
            }
            Decision::Drop | Decision::Acquire => {
                if is_secret(head) {
                    bytes.zeroize();
                }
                self.fate = Fate::Drop;
            }
        }
    }

    /// Before the login what is held is one message at a time: with room for all of it no copy of
    /// a secret stays behind when it grows.
    fn reserve_for_secret(&mut self, more: usize, cx: Context<'_>) {
        if self.hold.bytes() == 0 && !self.session.is_serving() {
            self.hold.reserve(cx.limits.login_message.min(REQUEST_HELD_MAX) + more);
        }
    }

    fn end_request(&mut self) {
        let scan = self.scan.take();
        let fields = scan.and_then(|scan| scan.finish().ok()).unwrap_or_default();
        if matches!(mem::replace(&mut self.fate, Fate::Undecided), Fate::Forward | Fate::Drop) {
            self.session.request_ended(fields.is_read);
        }
    }

    fn decide(&mut self, request: Request<'_>, cx: Context<'_>, fx: &mut impl Effects) -> Decision {
        loop {
            let decision = self.session.request(request, cx);
            if decision != Decision::Acquire {
                self.run_actions(fx, &[]);
                return decision;
            }
            self.acquire(cx, fx);
        }
    }

    fn acquire(&mut self, cx: Context<'_>, fx: &mut impl Effects) {
        let Some(identity) = self.session.identity().cloned() else { return };
        match fx.acquire(&identity) {
            Leased::Now => self.leased(cx),
            Leased::MustWait => self.session.must_wait(cx),
            Leased::Refused(refusal) => self.session.refused(&refusal),
        }
    }

    fn leased(&mut self, cx: Context<'_>) {
        (self.down, self.loose[1], self.arriving) = (Scanner::default(), None, Arriving::Undecided);
        self.stash.clear();
        self.session.leased(cx);
    }

    /// The lease that was waited for is there.
    pub fn granted(&mut self, cx: Context<'_>, fx: &mut impl Effects) {
        self.leased(cx);
        self.after(cx, fx);
    }

    /// The lease that was waited for is not to be had.
    pub fn refused(&mut self, refusal: &Refusal, cx: Context<'_>, fx: &mut impl Effects) {
        self.session.refused(refusal);
        self.after(cx, fx);
    }

    /// The leased connection ended, or sent what Bolt forbids.
    pub fn server_lost(&mut self, why: Discard, cx: Context<'_>, fx: &mut impl Effects) {
        if self.session.planted.has(Bug::ReplayRun) && self.session.replay_run(why) {
            self.hold.put_first(mem::take(&mut self.replay).into());
        }
        self.session.server_lost(why);
        self.after(cx, fx);
    }

    /// After any event: actions, then held requests as far as they can go.
    pub fn after(&mut self, cx: Context<'_>, fx: &mut impl Effects) {
        self.run_actions(fx, &[]);
        if self.session.is_dropping() && matches!(self.fate, Fate::Forward) {
            self.fate = Fate::Drop;
        }
        while self.session.can_retry() && self.retry(cx, fx) {}
        self.hold.settle();
    }

    /// Decides on the oldest held request again; false if it has to stay.
    fn retry(&mut self, cx: Context<'_>, fx: &mut impl Effects) -> bool {
        let (Some(head), 1..) = (self.session.oldest_held(), self.hold.count()) else {
            return false;
        };
        let is_whole = self.hold.count() > 1 || !matches!(self.fate, Fate::Hold);
        let (hold, mut scratch) = (mem::take(&mut self.hold), Vec::new());
        let payload = is_whole.then(|| chunk::payload(hold.oldest(), &mut scratch));
        let request = Request { head, payload };
        let mut decision = self.session.retry(request, cx);
        if decision == Decision::Acquire {
            self.acquire(cx, fx);
            decision = self.session.retry(request, cx);
        }
        self.hold = hold;
        if matches!(decision, Decision::Hold | Decision::Acquire) {
            self.run_actions(fx, &[]);
            return false;
        }
        let taken = self.hold.take_oldest();
        let is_forward = decision == Decision::Forward;
        if !is_whole {
            self.fate = if is_forward { Fate::Forward } else { Fate::Drop };
        }
        self.run_actions(fx, &[]);
        match taken {
            Some(Taken::Kept(chunk)) if is_forward => fx.to_server_kept(chunk),
            Some(Taken::Copied(bytes)) if is_forward => fx.to_server_copied(bytes.freeze()),
            Some(Taken::Copied(mut bytes)) if is_secret(head) => bytes.zeroize(),
            _ => {}
        }
        true
    }

    /// `rest` is what the server has sent behind the message that led here.
    fn run_actions(&mut self, fx: &mut impl Effects, rest: &[u8]) {
        while let Some(action) = self.session.next_action() {
            match action {
                Action::Answer(bytes) => fx.to_client_copied(bytes),
                Action::DropHeld(count) => self.hold.drop_oldest(count),
                Action::ResetServer => {
                    fx.to_server_copied(Bytes::from_static(crate::wire::message::RESET))
                }
                Action::Release(how) => self.release(how, rest, fx),
                other => fx.act(other),
            }
        }
    }

    fn release(&mut self, how: Release, rest: &[u8], fx: &mut impl Effects) {
        let is_quiet = rest.iter().all(|&byte| byte == 0) && rest.len().is_multiple_of(2);
        let is_unread = !is_quiet || self.loose[1].is_some() || !self.down.is_between_messages();
        let how = match how {
            Release::Clean if is_unread && !self.session.planted.has(Bug::ReuseUnread) => {
                Release::Broken(Discard::Unread)
            }
            how => how,
        };
        let remainder = Remainder { scanner: self.down, loose: self.loose[1].take(), bytes: rest };
        fx.release(how, remainder);
    }
}

/// Whether a request holds credentials.
fn is_secret(head: Head) -> bool {
    matches!(head.tag, tag::HELLO | tag::LOGON)
}

#[cfg(test)]
mod tests;
