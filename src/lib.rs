//! boltmux: a connection pooler and router for Neo4j's Bolt protocol.
pub mod transport;
pub mod wire;
