//! What a pool is asked, answers and orders.

use crate::backend::Discard;
use crate::backend::Refusal;
use crate::backend::identity::Identity;
use crate::backend::pool::{ServerId, Ticket};
use crate::wire::message::Failure;
use std::rc::Rc;

/// What a waiter wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Any connection of its identity.
    Lease,
    /// A fresh login of its identity, to learn if the server accepts it.
    Login,
}

/// The answer to `acquire`.
#[derive(Debug, PartialEq, Eq)]
pub enum Acquired {
    Now(ServerId),
    /// `Granted`, `LoggedIn` or `Refused` will come for this ticket.
    Waiting(Ticket),
    Refused(Refusal),
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Order {
    /// Dial and log in; report `dialed` or `dial_failed`.
    Dial(ServerId, Rc<Identity>),
    /// LOGOFF and LOGON as this identity; report `dialed`, `dial_failed` or `dial_expired`.
    TurnOver(ServerId, Rc<Identity>),
    /// The waiter has its connection.
    Grant(Ticket, ServerId),
    /// The server accepted the waiter's credentials.
    LoggedIn(Ticket),
    /// The waiter gets nothing.
    Refuse(Ticket, Refusal),
    /// RESET and prove READY; report `checkin` or `close`.
    Probe(ServerId),
    /// GOODBYE and close; report `closed` at the server's end-of-file, or after a second.
    Close(ServerId, Discard),
    /// Take it off this shard for another one; report `lent`, or `closed` if it was not quiet.
    Lend(ServerId, usize),
    /// Tell the shard that it owns a permit.
    PassPermit(usize),
    /// Tell the other shards that somebody waits.
    RingOthers,
}

/// Why a dial failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// No connection, no handshake, or silence.
    Unreachable(String),
    /// The server is there, but did not answer the login in time: its users may live elsewhere, and
    /// that place be slow. Says nothing of other users.
    Slow(String),
    /// The server said FAILURE to HELLO or LOGON.
    Refused(Box<Failure>),
    /// The server does not speak the identity's version any more.
    VersionRefused,
    /// The server did not confirm the `patch_bolt` that the identity asks for: date-times would not
    /// be what its clients were told.
    PatchRefused,
    /// A connection that was to be turned over has ended; that says nothing of new ones.
    Lost,
}

impl DialFailure {
    /// The server's FAILURE, if it says that these credentials will not do.
    pub fn about_credentials(&self) -> Option<Box<Failure>> {
        match self {
            DialFailure::Refused(failure) if failure.is_about_credentials() => {
                Some(failure.clone())
            }
            _ => None,
        }
    }
}
