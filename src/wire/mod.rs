//! Bolt as bytes and states.
//!
//! Owns the encodings (handshake, chunks, PackStream, messages) and the states of a server. Knows
//! no sockets, clock, threads or logging, and not which side of a relay it works for. Invariants:
//! no input makes it panic, no size a peer declares makes it allocate, and every loop is bounded by
//! the bytes at hand.

pub mod chunk;
pub mod error;
pub mod handshake;
pub mod limits;
pub mod message;
pub mod packstream;
pub mod pipeline;
pub mod state;
pub mod version;

#[cfg(test)]
mod tests;

pub use chunk::{Head, Kind, Scanner, Span};
pub use error::{HandshakeError, MessageError, PackError, StateError, VersionError};
pub use state::{ServerState, Summary};
pub use version::Version;
