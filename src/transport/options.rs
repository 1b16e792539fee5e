//! What a driver is told and what it counts. Values only.

use crate::transport::ring::Receive;
use std::time::Duration;

/// How one shard's data plane is laid out.
#[derive(Clone, Debug)]
pub struct Options {
    /// How receives are armed; `None` is the best way that the self-test finds on this kernel.
    pub receive: Option<Receive>,
    /// Bytes a connection may deliver before its task asks again: the unit of back-pressure.
    pub credit_bytes: u32,
    /// Several buffers per completion, if the self-test finds that this kernel does it right.
    pub wants_bundles: bool,
    /// How long a shard looks for completions before it sleeps; zero: not at all.
    pub busy_poll: Duration,
    /// Buffers for accepted and for dialed sockets, each a power of two: apart, so that uploads
    /// can never hold the buffers that answers need.
    pub buffers: [u16; 2],
    pub buffer_bytes: u32,
    /// Bytes a connection may queue towards one peer before its source is not read; fewer while the
    /// shard is short of memory, as of the credit (`receive::PRESSED_BYTES`).
    pub queue_bytes_max: usize,
    /// Bytes held for peers that wait or are slow: stuck sends, and what tasks hold
    /// (`Driver::heap`).
    pub heap_bytes_max: usize,
    pub planted: Planted,
}

impl Default for Options {
    /// 512 x 16 KiB twice, touched only when needed; a credit is four buffers; 64 MiB of copies are
    /// a thousand clients that wait with 64 KiB each.
    fn default() -> Self {
        Options {
            receive: None,
            credit_bytes: 64 << 10,
            wants_bundles: false,
            busy_poll: Duration::ZERO,
            buffers: [512; 2],
            buffer_bytes: 16 << 10,
            queue_bytes_max: 64 << 10,
            heap_bytes_max: 64 << 20,
            planted: Planted::Nothing,
        }
    }
}

/// A fault put in on purpose, by tests only: they prove that the checks would notice it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    #[default]
    Nothing,
    /// The buffers of a bundle are read by consecutive number instead of in the ring's order.
    ConsecutiveBundles,
    /// Buffers go back to the ring when their send starts, not when it has completed.
    EarlyReturns,
}

/// How a TLS handshake came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsEvent {
    Full,
    /// From an earlier session, with less to compute and to send.
    Resumed,
    /// One of the two did not believe the other, or broke the rules.
    Failed,
}

/// What one shard has done and holds. Pairs are for accepted and dialed sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// System calls of the private ring.
    pub enters: u64,
    /// Pauses that ended while the shard still looked (`Options::busy_poll`).
    pub pauses_caught: u64,
    /// Slots in use now.
    pub sockets: usize,
    /// Deadlines on the wheel now.
    pub timers: usize,
    pub accepted: u64,
    pub dialed: u64,
    pub received_bytes: [u64; 2],
    pub sent_bytes: [u64; 2],
    /// TLS handshakes: by `TlsEvent`.
    pub tls_handshakes: [[u64; 3]; 2],
    /// Sent straight out of the buffers they came in.
    pub relayed_bytes: u64,
    /// Copied to the heap: by stuck sends, and by tasks that said so (`Driver::note_copied`).
    pub copied_bytes: u64,
    /// Buffers lent out now, and the most ever.
    pub lent: [u16; 2],
    pub lent_max: [u16; 2],
    /// Bytes on the heap budget now.
    pub heap_bytes: usize,
    /// Connections that failed because the heap budget was used up.
    pub over_budget: u64,
    /// Reservations that the heap budget refused, those of tasks too.
    pub heap_refusals: u64,
    /// Receives that found the ring empty and made it deeper.
    pub deepened: u64,
    /// Receives that found no buffer at all and waited.
    pub parked: u64,
    /// Receives cancelled because many small chunks waited for their task.
    pub stopped_receives: u64,
    /// Stuck sends, and bytes that nobody read, that went on from the heap.
    pub rescued: u64,
    /// Accepting stopped for a moment: out of descriptors or memory.
    pub accept_pauses: u64,
    /// Looks at the executor's own reactor, sleeps, and ticks of the busy state.
    pub visits: u64,
    pub sleeps: u64,
    pub ticks: u64,
}
