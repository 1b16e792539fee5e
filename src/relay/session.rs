//! One client's session in transaction mode: every rule about who is asked, who answers and when a
//! server connection may be let go. Pure: messages, leases, losses and `now` in; decisions and
//! actions out.
//!
//! ```text
//!  Hello ─HELLO─► Authentication ─LOGON─► LoggingIn ─accepted─► Serving          (5.1+)
//!    └───────────HELLO with credentials──────┘   ▲                 │            (up to 5.0)
//!                       Authentication ◄─────────┼─────LOGOFF──────┘
//!
//!  Serving:   Idle ─RUN, BEGIN, ROUTE─► Waiting ─lease─► Auto | Begun | Routing
//!             Begun ─COMMIT, ROLLBACK─► Ending;   Auto, Ending, Routing ─their SUCCESS─► Idle
//!             any with a lease ─FAILURE, all answers in─► Failed ─RESET─► Idle
//!             any with a lease ─client's RESET─► Resetting ─SUCCESS─► Idle
//!             any with a lease ─a time limit─► Aborting ─SUCCESS of our RESET─► Failed
//! ```
//!
//! A request that this state cannot place yet is held and decided later, in order. Laws: each
//! request gets one summary; a lease is released only with nothing owed by the server, or said to
//! be dirty; once a byte of a request may have left, it is never sent again; no outcome is
//! invented.

use crate::backend::approval::LoginOutcome;
use crate::backend::identity::{Identity, Profile};
use crate::backend::planted::{Bug, Planted};
use crate::backend::{Discard, KnownServer, Refusal};
use crate::relay::close::CloseReason;
use crate::relay::reply;
use crate::relay::routes::{RouteCache, RouteKey};
use crate::wire::chunk::{Head, NOOP};
use crate::wire::limits::LOGIN_BYTES_MAX;
use crate::wire::message::{
    Auth, Failure, Fields, Hello, HelloSuccess, IGNORED, LogonSuccess, Role, Route, SUCCESS_EMPTY,
    is_request, parse_logon, read_fields, tag,
};
use crate::wire::pipeline::{Asker, Due, Owed, Pipeline, Risk};
use crate::wire::version::Version;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

mod limits;
mod login;
mod replies;
mod serving;
mod tables;

pub use replies::Reply;

/// What a session is told of the world with every event.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub now: Duration,
    /// `None` while no server has been reached yet.
    pub server: Option<&'a KnownServer>,
    pub limits: &'a SessionLimits,
    /// Where this client can reach the proxy, if it does not say so itself.
    pub own_address: &'a str,
    pub routes: &'a RefCell<RouteCache>,
}

/// The configuration's part in a session.
#[derive(Clone, Debug)]
pub struct SessionLimits {
    /// Bytes of a message before the login is done.
    pub login_message: usize,
    pub idle_in_transaction: Option<Duration>,
    pub transaction: Option<Duration>,
    pub query: Option<Duration>,
    pub reset: Duration,
}

impl Default for SessionLimits {
    /// As Neo4j's own limits are: none on transactions.
    fn default() -> SessionLimits {
        SessionLimits {
            login_message: LOGIN_BYTES_MAX,
            idle_in_transaction: None,
            transaction: None,
            query: None,
            reset: Duration::from_secs(5),
        }
    }
}

/// A client that is not served.
#[derive(Debug)]
pub struct Refused {
    pub failure: Failure,
    pub why: CloseReason,
}

/// A request as far as it has come.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub head: Head,
    /// The payload, if all of it is there. Longer ones are decided by their head.
    pub payload: Option<&'a [u8]>,
}

/// What becomes of a request's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// To the leased server connection.
    Forward,
    /// Kept in order, and asked about again when `can_retry`.
    Hold,
    /// Answered here, or of no use.
    Drop,
    /// A lease is needed: say `leased` or `must_wait`, then ask again.
    Acquire,
}

/// What becomes of a server's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relay {
    Forward,
    Swallow,
    /// This is sent in its place.
    Replace(Bytes),
}

/// What else is to be done, in this order.
#[derive(Debug)]
pub enum Action {
    /// To the client.
    Answer(Bytes),
    /// RESET to the server, of our own.
    ResetServer,
    /// Leave the queue for a lease.
    Withdraw,
    /// The lease ends.
    Release(Release),
    /// The bytes of so many held requests, the oldest ones, are of no use any more.
    DropHeld(usize),
    /// Ask the server if it accepts these credentials; `login_done` follows.
    LogIn(Box<(Profile, Auth)>),
    /// The identity is not used any more.
    LoggedOff,
    /// The server says that these credentials have expired.
    Revoke(Box<Failure>, Rc<Identity>),
    Close(CloseReason),
}

/// How a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// READY and nothing owed.
    Clean,
    /// RESET first; the server owes this many summaries.
    Dirty(usize),
    /// Of no use.
    Broken(Discard),
}

/// Actions of one event, nearly always: an idle client keeps the room.
const ACTIONS_ROOM: usize = 2;

/// How far the client has logged in.
#[derive(Clone, Debug)]
enum Phase {
    Hello,
    Authentication,
    LoggingIn,
    Serving,
    Closed,
}

/// What a logged-in client is doing, as the requests decided so far make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Idle,
    Waiting,
    /// The lease is there; the request that asked for it comes next.
    Leased,
    /// An auto-commit query; what a lost answer would mean.
    Auto(Risk),
    Begun,
    /// COMMIT or ROLLBACK is on its way.
    Ending,
    Routing,
    /// The server is READY; answers that are ours may still be due.
    Finished,
    Resetting,
    /// Our own RESET is on its way. Was it an auto-commit query, and has the transaction ended
    /// after all?
    Aborting {
        was_auto: bool,
        is_over: bool,
    },
    Failed,
}

/// See the module.
pub struct Session {
    version: Version,
    phase: Phase,
    work: Work,
    owed: Pipeline,
    /// The server said FAILURE and no RESET has followed.
    has_failed: bool,
    /// A request is forwarded in part.
    is_sending: bool,
    /// A message of the server has been relayed in part.
    is_relaying: bool,
    /// The rest of the client's present message is dropped.
    is_dropping: bool,
    is_draining: bool,
    is_manifest: bool,
    /// Requests whose bytes are held.
    held: VecDeque<Head>,
    /// For the client's next request: something happened while it asked for nothing.
    next_failure: Option<Box<Failure>>,
    profile: Option<Box<Profile>>,
    /// The proxy's address as the client spells it.
    spelling: Option<Box<str>>,
    identity: Option<Rc<Identity>>,
    /// The auto-commit query is a call of a routing procedure.
    asks_for_table: bool,
    /// The ROUTE that is being asked of the server.
    route: Option<Box<RouteKey>>,
    connection_id: u64,
    leased_at: Duration,
    /// When the oldest unanswered request was forwarded, or the last answer came.
    turned_at: Duration,
    /// Since when the client has not taken what there is for it.
    blocked_since: Option<Duration>,
    /// When the client last got a byte.
    spoke_at: Duration,
    noop_after: Option<Duration>,
    actions: VecDeque<Action>,
    /// Whoever greets is told this and closed.
    pub refused: Option<Box<Refused>>,
    /// FAILUREs of our own since this was last looked at.
    pub failures_made: u32,
    pub planted: Planted,
}

impl Session {
    /// `connection_id` is told to the client; `is_manifest`: the version came from a manifest
    /// handshake.
    pub fn new(version: Version, is_manifest: bool, connection_id: u64) -> Session {
        Session {
            version,
            phase: Phase::Hello,
            work: Work::Idle,
            owed: Pipeline::default(),
            has_failed: false,
            is_sending: false,
            is_relaying: false,
            is_dropping: false,
            is_draining: false,
            is_manifest,
            held: VecDeque::new(),
            next_failure: None,
            profile: None,
            spelling: None,
            identity: None,
            asks_for_table: false,
            route: None,
            connection_id,
            leased_at: Duration::ZERO,
            turned_at: Duration::ZERO,
            blocked_since: None,
            spoke_at: Duration::ZERO,
            noop_after: None,
            actions: VecDeque::with_capacity(ACTIONS_ROOM),
            refused: None,
            failures_made: 0,
            planted: Planted::default(),
        }
    }

    /// The next thing to be done besides moving bytes.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Who the client is, once it is logged in.
    pub fn identity(&self) -> Option<&Rc<Identity>> {
        self.identity.as_ref()
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Whether login is done.
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }

    /// Whether a server connection is this client's.
    pub fn is_leased(&self) -> bool {
        !matches!(self.work, Work::Idle | Work::Waiting | Work::Failed)
    }

    /// READY with nothing asked for: what `timeouts.client_idle` and a drain look at.
    pub fn is_idle(&self) -> bool {
        self.is_serving() && self.work == Work::Idle && self.held.is_empty()
    }

    /// Whether a request waits for its summary.
    pub fn is_owed(&self) -> bool {
        !self.owed.is_empty() || !self.held.is_empty()
    }

    /// The oldest request that waits for a decision.
    pub fn oldest_held(&self) -> Option<Head> {
        self.held.front().copied()
    }

    /// Decides on a request; `Hold` keeps it in line.
    pub fn request(&mut self, request: Request<'_>, cx: Context<'_>) -> Decision {
        let decision = self.decide(request, cx, self.held.len());
        if decision == Decision::Hold {
            self.held.push_back(request.head);
        }
        decision
    }

    /// Decides on the oldest held request again.
    pub fn retry(&mut self, request: Request<'_>, cx: Context<'_>) -> Decision {
        debug_assert!(!self.held.is_empty());
        let decision = self.decide(request, cx, 0);
        if !matches!(decision, Decision::Hold | Decision::Acquire) {
            self.held.pop_front();
        }
        decision
    }

    /// The forwarded request, decided on before its end, has been forwarded whole.
    pub fn request_ended(&mut self, is_read: bool) {
        if std::mem::take(&mut self.is_dropping) || !std::mem::take(&mut self.is_sending) {
            return;
        }
        if let (Work::Auto(risk), Some(last)) = (&mut self.work, self.owed.last_mut())
            && last.tag == tag::RUN
        {
            *risk = risk_of(is_read);
            last.risk = *risk;
        }
        self.settle();
    }

    /// Whether the rest of a request that was being forwarded has nowhere to go any more.
    pub fn is_dropping(&self) -> bool {
        self.is_dropping
    }

    /// `before`: how many held requests came before this one.
    fn decide(&mut self, request: Request<'_>, cx: Context<'_>, before: usize) -> Decision {
        let (head, is_behind) = (request.head, before > 0);
        let is_goodbye = head.tag == tag::GOODBYE && head.is_struct && head.fields == 0;
        if is_goodbye && !has_more_than_its_head(request) {
            return self.close(CloseReason::Goodbye);
        }
        if !is_request(self.version, head) || has_more_than_its_head(request) {
            if is_behind || !self.owed.is_empty() || matches!(self.phase, Phase::LoggingIn) {
                return Decision::Hold;
            }
            return self.refuse_request("the message is not one of this Bolt version");
        }
        match self.phase {
            Phase::Closed => Decision::Drop,
            Phase::Hello => self.hello(request, cx),
            Phase::Authentication => self.authenticate(request, cx),
            Phase::LoggingIn => Decision::Hold,
            Phase::Serving if head.tag == tag::RESET => self.reset(before),
            Phase::Serving if is_behind || self.owed.is_full() => Decision::Hold,
            Phase::Serving => self.serve(request, cx),
        }
    }

    /// What Neo4j does with a message that it cannot accept: FAILURE, then the end.
    fn refuse_request(&mut self, text: impl Into<std::borrow::Cow<'static, str>>) -> Decision {
        let bytes = self.encode(&reply::invalid(text));
        self.answer(bytes);
        self.close(CloseReason::InvalidRequest)
    }

    /// Ends the session. A lease goes back dirty: nobody knows what the server is doing.
    pub fn close(&mut self, why: CloseReason) -> Decision {
        if matches!(self.phase, Phase::Closed) {
            return Decision::Drop;
        }
        self.let_go();
        self.phase = Phase::Closed;
        let held = self.held.drain(..).count();
        self.actions.push_back(Action::DropHeld(held));
        self.actions.push_back(Action::Close(why));
        Decision::Drop
    }

    /// Gives back whatever the session has or waits for.
    fn let_go(&mut self) {
        let due = self.owed.due_from_server();
        match self.work {
            Work::Waiting => self.actions.push_back(Action::Withdraw),
            _ if !self.is_leased() => {}
            _ if self.planted.has(Bug::KeepVanished) => self.release(Release::Clean),
            _ if self.is_sending => self.release(Release::Broken(Discard::HalfMessage)),
            // If our own RESET is on its way already, it counts as one more answer.
            _ => self.release(Release::Dirty(due)),
        }
        self.owed.clear();
        self.work = Work::Idle;
    }

    fn release(&mut self, how: Release) {
        self.actions.push_back(Action::Release(how));
        if self.planted.has(Bug::DoubleReturn) {
            self.actions.push_back(Action::Release(how));
        }
        self.has_failed = false;
        self.is_relaying = false;
    }

    /// A FAILURE of our own, in the client's version's shape.
    fn encode(&mut self, failure: &Failure) -> Bytes {
        self.failures_made += 1;
        failure.encode(self.version).into()
    }

    fn answer(&mut self, bytes: Bytes) {
        self.actions.push_back(Action::Answer(bytes));
    }
}

/// Bytes behind a structure without fields. What is answered here is judged here; and nobody knows
/// if a server takes such a COMMIT for one.
fn has_more_than_its_head(request: Request<'_>) -> bool {
    request.head.fields == 0 && request.payload.is_none_or(|payload| payload.len() > 2)
}

fn risk_of(is_read: bool) -> Risk {
    if is_read { Risk::None } else { Risk::Committed }
}

/// The fields of a complete request; a malformed one is the server's to judge, and counts as a
/// write.
fn fields_of(request: Request<'_>) -> Fields {
    request.payload.and_then(|payload| read_fields(payload).ok()).unwrap_or_default()
}
