//! One client's life, from its first byte to its last.
//!
//! `doors` leads to Bolt's first byte and `task` moves the bytes. `session` holds the rules and is
//! pure; `exchange` maps bytes to messages for it and is pure too. `reply` is what boltmux itself
//! says, `close` why a connection ended.

pub mod close;
pub mod doors;
pub mod early;
pub mod exchange;
pub mod passthrough;
pub mod reply;
pub mod routes;
pub mod serving;
pub mod session;
pub mod task;
pub mod whole_session;
pub mod world;
