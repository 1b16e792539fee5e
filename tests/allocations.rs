//! A relayed message allocates nothing.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test runs beside the shards and ends at the first surprise"
)]

#[path = "transport/plain_relay.rs"]
mod plain_relay;
#[path = "transport/support.rs"]
mod support;

use boltmux::transport::driver::Options;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use support::*;

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
    let (before, visits) = (COUNT.load(Ordering::Relaxed), remote.counters().visits);
    round_trips(ROUNDS);
    let (counters, allocations) = (remote.counters(), COUNT.load(Ordering::Relaxed) - before);
    let visits = counters.visits - visits;
    println!(
        "{allocations} allocations for {} messages, during {visits} visits of glommio's reactor",
        2 * ROUNDS
    );
    assert!(allocations < 50 + 40 * visits, "the visits allocate, the messages must not");
}
