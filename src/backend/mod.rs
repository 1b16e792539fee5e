//! Connections to Neo4j servers: who may have one, how they are shared, cleaned and given up.
//!
//! `permits`, `pool`, `approval` and `cleaner` are pure: events in, orders out, `now` as an
//! argument. The shell carries orders out: it dials, resets, closes, lends.

pub mod approval;
pub mod cleaner;
pub mod connection;
pub mod identity;
pub mod keeper;
pub mod lease;
pub mod peers;
pub mod permits;
pub mod planted;
pub mod pool;

use crate::wire::message::Failure;
use crate::wire::version::Version;

/// Why a client could not get a server connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `pool.acquisition_timeout` passed.
    TimedOut,
    /// The server cannot be reached; the text says what happened, for the log.
    Unreachable(String),
    /// The server did not answer this one login, or not in the client's version; others may fare
    /// better.
    Unanswered(String),
    /// The server refused the login with this FAILURE.
    Server(Box<Failure>),
    /// The server let the client in, but only to change its password.
    Expired,
    /// The server does not agree to `patch_bolt`, for which these clients asked.
    PatchRefused,
    /// Too many clients wait already.
    QueueFull,
    /// The proxy is shutting down.
    Draining,
}

/// What is known of the server, learned by the control core or by a dial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownServer {
    /// As its HELLO's SUCCESS says, for instance `Neo4j/5.26.0`.
    pub agent: String,
    /// The hint `connection.recv_timeout_seconds`, if it gives one.
    pub recv_timeout_seconds: Option<u64>,
    /// What it speaks, highest first.
    pub versions: Vec<Version>,
}

/// Why a server connection was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Discard {
    /// `pool.max_lifetime`.
    Lifetime,
    /// `pool.idle_timeout`.
    IdleTimeout,
    /// Closed for a waiter of another identity.
    Evicted,
    /// Its permit was passed to another shard.
    GivenUp,
    /// Bytes nobody asked for, before or after an answer.
    Unread,
    /// The server ended the connection.
    ServerClosed,
    /// RESET was not answered with SUCCESS in time.
    ResetFailed,
    /// A request or an answer was cut in the middle.
    HalfMessage,
    /// The server sent what Bolt forbids.
    Protocol,
    /// The server no longer accepts these credentials.
    Revoked,
    /// Its client is gone, and it belonged to that one alone.
    Private,
    /// The dial or its login failed.
    DialFailed,
    /// LOGOFF and LOGON as another user failed.
    ReauthFailed,
    /// Session mode: a connection is used once.
    SessionEnded,
    /// The proxy shuts down.
    Drain,
}

impl Discard {
    pub const ALL: [Discard; 15] = [
        Discard::Lifetime,
        Discard::IdleTimeout,
        Discard::Evicted,
        Discard::GivenUp,
        Discard::Unread,
        Discard::ServerClosed,
        Discard::ResetFailed,
        Discard::HalfMessage,
        Discard::Protocol,
        Discard::Revoked,
        Discard::Private,
        Discard::DialFailed,
        Discard::ReauthFailed,
        Discard::SessionEnded,
        Discard::Drain,
    ];

    /// The label in `boltmux_server_discarded_total{reason}`.
    pub fn name(self) -> &'static str {
        match self {
            Discard::Lifetime => "lifetime",
            Discard::IdleTimeout => "idle_timeout",
            Discard::Evicted => "evicted",
            Discard::GivenUp => "given_up",
            Discard::Unread => "unread",
            Discard::ServerClosed => "server_closed",
            Discard::ResetFailed => "reset_failed",
            Discard::HalfMessage => "half_message",
            Discard::Protocol => "protocol",
            Discard::Revoked => "revoked",
            Discard::Private => "private",
            Discard::DialFailed => "dial_failed",
            Discard::ReauthFailed => "reauth_failed",
            Discard::SessionEnded => "session_ended",
            Discard::Drain => "drain",
        }
    }
}
