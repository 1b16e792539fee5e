//! boltmux: a connection pooler and router for Neo4j's Bolt protocol.
#[path = "../bench/load/mod.rs"]
pub mod load;
pub mod synthetic;
pub mod transport;
pub mod wire;
