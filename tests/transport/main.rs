//! The data plane against blocking peers over loopback.

mod handover;
mod interface;
mod plain_relay;
mod pressure;
mod relay;
mod sleep;
mod support;
