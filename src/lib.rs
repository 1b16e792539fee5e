//! boltmux: a connection pooler and router for Neo4j's Bolt protocol.
pub mod backend;
pub mod config;
pub mod control;
pub mod counters;
#[path = "../bench/load/mod.rs"]
pub mod load;
pub mod relay;
pub mod synthetic;
pub mod transport;
pub mod wire;
