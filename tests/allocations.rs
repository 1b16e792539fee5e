//! A relayed message allocates nothing.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test runs beside the shards and ends at the first surprise"
)]

#[path = "allocations/counting.rs"]
mod counting;
#[path = "transport/plain_relay.rs"]
mod plain_relay;
#[path = "transport/support.rs"]
mod support;

use boltmux::transport::driver::Options;
use counting::allocations;
use std::io::{Read, Write};
use std::net::TcpStream;
use support::*;

#[test]
fn none_per_message() {
    const ROUNDS: u64 = 20_000;
    let remote = Remote::start(Options::default());
    let relay = remote.relay(echo());
    let mut streams: Vec<_> = (0..4).map(|_| TcpStream::connect(relay).unwrap()).collect();
    let mut block = [7; 100];
    let mut round_trips = |count: u64| {
        for _ in 0..count / 4 {
            streams.iter_mut().for_each(|stream| stream.write_all(&block).unwrap());
            streams.iter_mut().for_each(|stream| stream.read_exact(&mut block).unwrap());
        }
    };
    round_trips(1000);
    let (before, visits) = (allocations(), remote.counters().visits);
    round_trips(ROUNDS);
    let (counters, allocations) = (remote.counters(), allocations() - before);
    let visits = counters.visits - visits;
    println!(
        "{allocations} allocations for {} messages, during {visits} visits of glommio's reactor",
        2 * ROUNDS
    );
    assert!(allocations < 50 + 40 * visits, "the visits allocate, the messages must not");
}
