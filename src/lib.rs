//! boltmux: a connection pooler for Neo4j's Bolt protocol.
//!
//! Many clients share a few authenticated server connections. A client has one from the first byte
//! of a transaction to the summary that ends it; then the next client gets it.
//!
//! ```text
//!               control core: configuration, DNS, probes, health, metrics
//!                 │ snapshots and orders, one ring per shard
//!                 ▼                       ▲ counts, the same way back
//!  ┌────────── shard 0 on one CPU ──────────┐  ┌─ shard 1 ─┐  ...
//!  │ listener, clients ⇄ leases ⇄ pool ─────┼──│ the same  │──▶ server
//!  │ one io_uring, one wheel of deadlines   │  │ world     │
//!  └────────────────────────────────────────┘  └───────────┘
//! ```
//!
//! A shard is a world of its own: the data path takes no lock and writes no other core's memory.
//! Shared are a few atomic words per server (how many connections there are, who waits), and idle
//! connections, which shards lend each other as plain values.
//!
//! # Layers
//!
//! Each may use those above it, never those below; a test enforces it.
//!
//! | layer | owns |
//! |---|---|
//! | [`counters`] | plain integers of one shard |
//! | [`wire`] | Bolt as bytes and states; pure |
//! | [`transport`] | sockets, the ring, buffers, deadlines |
//! | [`backend`] | connections to servers: pool, permits, approvals, lending |
//! | [`relay`] | one client's life, from its first byte to its last |
//! | [`config`] | raw strings to typed settings |
//! | [`control`] | what watches and steers |
//! | [`synthetic`] | a Bolt server for tests and the demo |
//! | [`load`] | the load generator |
//! | [`shard`], [`proxy`], [`demo`] | one core's world; all of them; a show of it |
//!
//! # A byte's way
//!
//! 1. The kernel writes it into a buffer of the shard's ring ([`transport::buffer`]). The pump
//!    ([`transport::driver`]) wakes the client's task, which takes the bytes as a chunk that lends
//!    the buffer out.
//! 2. The first bytes of a connection say what it speaks ([`transport::detect`]); the handshake
//!    chooses a version ([`wire::handshake`]); then [`relay::serving`] serves.
//! 3. The scanner ([`wire::chunk`]) finds where messages begin and end, and reads their tags. A
//!    RECORD is never opened; of requests and summaries only the fields that are needed.
//! 4. The session ([`relay::session`]), which is pure, decides: forward, hold, answer, or take a
//!    lease first. [`relay::exchange`] turns that into spans of the chunk.
//! 5. A lease comes from the shard's pool ([`backend::pool`]): an idle connection of the same
//!    identity, a new one if a permit is left, one borrowed from another shard, or a place in the
//!    queue.
//! 6. The spans are sent out of the buffer in which they came; it goes back to the ring when the
//!    send has completed. A request that
//!    has to wait for its lease waits there, too; what waits long is copied to the heap.
//! 7. Summaries come back the same way. With the one that ends the transaction the lease ends: the
//!    connection is READY with nothing owed, or RESET proves it so, or it is closed.

pub mod backend;
pub mod config;
pub mod control;
pub mod counters;
pub mod demo;
pub mod proxy;
pub mod relay;
pub mod shard;
pub mod synthetic;
pub mod transport;
pub mod wire;

#[path = "../bench/load/mod.rs"]
pub mod load;
