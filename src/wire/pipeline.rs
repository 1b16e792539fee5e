//! Requests in flight: who asked, who owes the summary, and which one is due next.
//!
//! Every request but GOODBYE gets exactly one summary, in order (Bolt specification, "Messages").
//! The pipeline is the order; what a summary means for the session is decided elsewhere.

use crate::wire::message::tag;
use std::collections::VecDeque;

/// Requests one client may have in flight. Neo4j stops reading at 300 queued messages of a
/// connection (`AtomicSchedulingConnection`), so more gains nothing; past this the client is not
/// read.
pub const PIPELINE_MAX: usize = 512;

/// Whose request it is: a summary for the proxy's own request never reaches the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    Client,
    Proxy,
}

/// Who gives the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The request was forwarded; the server answers.
    Server,
    /// The request stays here; the proxy says IGNORED when its turn comes.
    Ignored,
    /// The request stays here; the proxy says SUCCESS when its turn comes.
    Success,
}

/// What a lost answer would leave open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Risk {
    /// The server rolls back when the connection is lost.
    None,
    /// It may have committed: COMMIT, or an auto-commit write.
    Committed,
}

/// One request that is owed a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    pub tag: u8,
    pub asker: Asker,
    pub due: Due,
    pub risk: Risk,
}

/// The first-in, first-out queue of requests owed a summary.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    queue: VecDeque<Owed>,
}

impl Pipeline {
    /// Adds a request behind the others.
    pub fn push(&mut self, owed: Owed) {
        self.queue.push_back(owed);
    }

    /// The request whose summary is due next.
    pub fn front(&self) -> Option<Owed> {
        self.queue.front().copied()
    }

    /// Takes the request whose summary has come.
    pub fn pop(&mut self) -> Option<Owed> {
        self.queue.pop_front()
    }

    /// The request added last, for instance to add its risk once all of it has been forwarded.
    pub fn last_mut(&mut self) -> Option<&mut Owed> {
        self.queue.back_mut()
    }

    /// Drops everything that is owed.
    pub fn clear(&mut self) {
        self.queue.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.queue.len() >= PIPELINE_MAX
    }

    /// How many summaries the server still owes.
    pub fn due_from_server(&self) -> usize {
        self.queue.iter().filter(|owed| owed.due == Due::Server).count()
    }

    /// Whether the server owes the client anything, not only the proxy.
    pub fn has_client_request_at_server(&self) -> bool {
        self.queue.iter().any(|owed| owed.due == Due::Server && owed.asker == Asker::Client)
    }

    /// Whether a lost server leaves it open if something was committed.
    pub fn is_risky(&self) -> bool {
        self.queue.iter().any(|owed| owed.risk == Risk::Committed)
    }

    /// Whether the client itself has a RESET in flight.
    pub fn has_client_reset(&self) -> bool {
        self.queue.iter().any(|owed| owed.tag == tag::RESET && owed.asker == Asker::Client)
    }
}
