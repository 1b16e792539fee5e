//! The data plane against blocking peers over loopback.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test runs beside the shards and ends at the first surprise"
)]

mod handover;
mod interface;
mod plain_relay;
mod pressure;
mod relay;
mod sleep;
mod support;
