//! boltmux: a connection pooler and router for Neo4j's Bolt protocol.
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
