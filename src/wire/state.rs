//! The states of a server and their transitions, as the specification prints them.
//!
//! ```text
//!                HELLO                LOGON
//!  Negotiation ---------> Authentication ---------> Ready <---------- RESET's turn
//!        \__________ HELLO, up to Bolt 5.0 __________/ | ^                |
//!                                                      | |                |
//!             LOGOFF -> Authentication                 | |                |
//!             ROUTE, TELEMETRY -> Ready                | |                |
//!             RUN   -> Streaming --- last PULL, DISCARD -+                |
//!             BEGIN -> TxReady  --- COMMIT, ROLLBACK ----+                |
//!                       |  ^                                              |
//!                   RUN v  | last open stream ended                       |
//!                     TxStreaming                                         |
//!
//!  a FAILURE -> Failed, where all is IGNORED       RESET sent -> Interrupted
//!  a FAILURE before login or to RESET, GOODBYE -> Defunct
//! ```
//!
//! Any pair not listed is a protocol error. One row follows Neo4j as observed (5.26), not the
//! printed table: COMMIT and ROLLBACK are accepted while streams are open.

pub use crate::wire::error::StateError;
use crate::wire::message::tag;
use crate::wire::version::Version;

/// Where a server connection is (Bolt specification, server states).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// HELLO is due. The specification calls it CONNECTED up to Bolt 5.0.
    Negotiation,
    /// LOGON is due (Bolt 5.1).
    Authentication,
    Ready,
    /// An auto-commit result is open.
    Streaming,
    TxReady,
    /// In a transaction with at least one open result.
    TxStreaming,
    /// Everything is ignored until RESET.
    Failed,
    /// RESET was sent, its answer is due.
    Interrupted,
    /// Of no use any more.
    Defunct,
}

/// The message that answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Summary {
    Success { has_more: bool },
    Failure,
    Ignored,
}

use ServerState::*;

impl ServerState {
    pub const ALL: [ServerState; 9] = [
        Negotiation,
        Authentication,
        Ready,
        Streaming,
        TxReady,
        TxStreaming,
        Failed,
        Interrupted,
        Defunct,
    ];

    /// Whether a client may send this request now. In `Failed` and `Interrupted` that only means
    /// that it will be ignored.
    pub fn allows(self, version: Version, tag: u8) -> bool {
        if tag::request_fields(version, tag).is_none() {
            return false;
        }
        match (self, tag) {
            (Defunct, _) => false,
            (_, tag::GOODBYE) => true,
            (Negotiation, tag) => tag == tag::HELLO,
            (Authentication, tag) => tag == tag::LOGON,
            // Neo4j may never answer again after a second HELLO (5.26 as observed).
            (_, tag::HELLO) => false,
            (_, tag::RESET) => true,
            (Failed | Interrupted, _) => true,
            (Ready, tag) => {
                matches!(tag, tag::RUN | tag::BEGIN | tag::ROUTE | tag::TELEMETRY | tag::LOGOFF)
            }
            (Streaming, tag) => matches!(tag, tag::PULL | tag::DISCARD),
            (TxReady, tag) => matches!(tag, tag::RUN | tag::COMMIT | tag::ROLLBACK),
            (TxStreaming, tag) => {
                matches!(tag, tag::RUN | tag::PULL | tag::DISCARD | tag::COMMIT | tag::ROLLBACK)
            }
        }
    }

    /// What the arrival of a request changes at once, before any answer: RESET interrupts, GOODBYE
    /// ends, all others wait for their summary.
    pub fn at_once(self, version: Version, tag: u8) -> Result<ServerState, StateError> {
        match tag {
            _ if !self.allows(version, tag) => Err(StateError { state: self, tag, summary: None }),
            tag::RESET => Ok(Interrupted),
            tag::GOODBYE => Ok(Defunct),
            _ => Ok(self),
        }
    }

    /// The state after `summary` answered the request. `open_streams` counts the results of the
    /// transaction still open after it; outside `TxStreaming` it does not matter.
    pub fn after(
        self,
        version: Version,
        tag: u8,
        summary: Summary,
        open_streams: usize,
    ) -> Result<ServerState, StateError> {
        let error = |summary| StateError { state: self, tag, summary };
        if !self.allows(version, tag) {
            return Err(error(None));
        }
        let next = match (tag, summary) {
            // No answer is due to it.
            (tag::GOODBYE, _) => None,
            // Ignored where a later RESET is on its way.
            (tag::RESET, Summary::Ignored) => Some(Interrupted),
            (tag::RESET, Summary::Success { .. }) => Some(Ready),
            (tag::RESET, Summary::Failure) => Some(Defunct),
            (_, Summary::Success { has_more }) => {
                // Bolt 3 pulls and discards all, and knows no `has_more`.
                let has_more = has_more && version.has_database();
                self.after_success(version, tag, has_more, open_streams)
            }
            (_, Summary::Failure) => self.after_failure(tag),
            (_, Summary::Ignored) => matches!(self, Failed | Interrupted).then_some(self),
        };
        next.ok_or(error(Some(summary)))
    }

    fn after_success(
        self,
        version: Version,
        tag: u8,
        has_more: bool,
        open_streams: usize,
    ) -> Option<ServerState> {
        Some(match (self, tag) {
            (Negotiation, _) if version.has_logon() => Authentication,
            (Negotiation | Authentication, _) => Ready,
            (Ready, tag::RUN) => Streaming,
            (Ready, tag::BEGIN) => TxReady,
            (Ready, tag::LOGOFF) => Authentication,
            (Ready, _) => Ready,
            (Streaming, _) if has_more => Streaming,
            (Streaming, _) => Ready,
            (TxReady | TxStreaming, tag::RUN) => TxStreaming,
            (TxReady | TxStreaming, tag::COMMIT | tag::ROLLBACK) => Ready,
            (TxStreaming, _) if has_more || open_streams > 0 => TxStreaming,
            (TxStreaming, _) => TxReady,
            // What ran when RESET arrived may still succeed.
            (Interrupted, _) => Interrupted,
            (TxReady | Failed | Defunct, _) => return None,
        })
    }

    fn after_failure(self, tag: u8) -> Option<ServerState> {
        match self {
            Negotiation | Authentication => Some(Defunct),
            // Neo4j answers LOGOFF so, and closes, where the specification says IGNORED.
            Failed | Interrupted if tag == tag::LOGOFF => Some(Defunct),
            Ready | Streaming | TxReady | TxStreaming => Some(Failed),
            Interrupted => Some(Interrupted),
            Failed | Defunct => None,
        }
    }
}
