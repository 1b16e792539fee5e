//! One client's life, from its first byte to its last.
//!
//! `session` holds the rules and is pure; `exchange` maps bytes to messages for it and is pure too;
//! `doors` leads to Bolt's first byte, `task` moves the bytes. `reply` is what boltmux itself says, `close` why a connection ended.

pub mod close;
pub mod doors;
pub mod exchange;
pub mod passthrough;
pub mod reply;
pub mod routes;
pub mod serving;
pub mod session;
pub mod task;
pub mod whole_session;
pub mod world;
