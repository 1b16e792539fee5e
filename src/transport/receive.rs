//! Receiving: bytes that came, credit, and what happens when there is no buffer.
//!
//! Every receive ends by itself after its credit and is armed again only when a task asks: not
//! asking is the back-pressure. Invariant: a socket is `Parked` exactly while its key waits in
//! `parked`.

use crate::transport::buffer::{Chunk, Pool, enqueue};
use crate::transport::ring::{Cqe, Receive, Ring};
use crate::transport::socket::{Key, Operation, Receiving, Side, Socket, user_data};
use crate::transport::state::State;
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// Received chunks waiting for their task; above it the receive is cancelled. Credit counts bytes,
/// and a trickle of small messages would take a buffer each. The default credit in full buffers.
const WAITING_CHUNKS_MAX: usize = 16;

/// A credit, and what may be queued towards a peer, while the shard is short of memory: large ones
/// save system calls for large results, small ones let more slow readers fit into the same memory.
pub const PRESSED_BYTES: u32 = 64 << 10;

/// Sockets of one pool that found no buffer, first come, first served.
pub type Parked = VecDeque<Key>;

impl Socket {
    pub fn take_received(&mut self) -> Option<Chunk> {
        self.is_unread = false;
        self.received.pop_front()
    }

    pub fn may_receive(&self) -> bool {
        self.wants_bytes && self.receiving == Receiving::Off && self.end.is_none()
    }

    pub fn arm_receive(&mut self, ring: &mut Ring, how: Receive, key: Key) {
        (self.wants_bytes, self.receiving) = (false, Receiving::Armed);
        let data = user_data(Operation::Receive, key);
        ring.receive(self.fd.as_raw_fd(), self.side as u16, how, data);
        self.operations += 1;
    }

    /// Asks to be told of a hang-up while nothing is received.
    pub fn arm_poll(&mut self, ring: &mut Ring, key: Key) {
        (self.wants_hangup, self.is_polling) = (false, true);
        // The first poll tells of a half-close; after that only a dead connection is news.
        let events = if self.hangup == 0 { libc::POLLRDHUP as u32 } else { 0 };
        ring.poll(self.fd.as_raw_fd(), events, user_data(Operation::Poll, key));
        self.operations += 1;
    }
}

impl State {
    /// Whether slow readers hold half of a pool's buffers or a quarter of the heap budget: half and
    /// three quarters are left for those that come then.
    pub fn is_pressed(&self) -> bool {
        let is_half_lent = |pool: &Rc<Pool>| pool.lent() > pool.entries() / 2;
        self.pools.iter().any(is_half_lent) || self.heap.bytes_held() > self.heap.bytes_max() / 4
    }

    /// Whether one more request may wait in the buffer it came in, beside `kept` that do. A quarter
    /// of the clients' buffers may: that alone neither presses the shard nor keeps those parked
    /// from what they are waiting for. None while half of the buffers are out: what moves needs
    /// the others.
    pub fn may_keep(&self, kept: usize) -> bool {
        let pool = &self.pools[Side::Accepted as usize];
        kept < usize::from(pool.entries() / 4) && pool.lent() <= pool.entries() / 2
    }

    /// How a receive is armed now.
    pub fn receive_now(&self) -> Receive {
        match self.receive {
            Receive::Limited { bundle, total } if self.is_pressed() => {
                Receive::Limited { bundle, total: total.min(PRESSED_BYTES) }
            }
            receive => receive,
        }
    }

    pub fn on_receive(&mut self, key: Key, cqe: Cqe) {
        let socket = self.sockets.get(key).expect("a slot outlives its operations");
        let was_armed = socket.receiving == Receiving::Armed;
        if !cqe.more() {
            socket.operations -= 1;
            socket.receiving = Receiving::Off;
        }
        match cqe.result {
            0 => drop(socket.end.get_or_insert(Ok(()))),
            1.. => self.take_bytes(key, cqe, was_armed && cqe.more()),
            result if result == -libc::ENOBUFS => self.without_buffer(key),
            result if result == -libc::ECANCELED => {}
            result => drop(socket.end.get_or_insert(Err(-result))),
        }
        let socket = self.sockets.get(key).expect("it is still there");
        // Armed again soon by itself: its task has nothing to do.
        let waits = socket.wants_bytes || socket.receiving == Receiving::Parked;
        let waker = if waits { None } else { socket.reader.take() };
        self.settle(key);
        self.wake(waker);
    }

    fn take_bytes(&mut self, key: Key, cqe: Cqe, is_running: bool) {
        let State { sockets, pools, ring, counters, .. } = self;
        let socket = sockets.get(key).expect("a slot outlives its operations");
        let (side, length) = (socket.side as usize, cqe.result as u32);
        let first = cqe.buffer().expect("bytes come in a buffer");
        // Behind an end of our own making nothing is taken in any more, but buffers come back.
        let is_taken = socket.end.is_none();
        pools[side].lend(first, length, |chunk| match is_taken {
            true => enqueue(&mut socket.received, chunk),
            false => drop(chunk),
        });
        counters.received_bytes[side] += u64::from(length);
        counters.lent_max[side] = counters.lent_max[side].max(pools[side].lent());
        if is_running && socket.received.len() > WAITING_CHUNKS_MAX {
            socket.receiving = Receiving::Stopping;
            socket.operations += 1;
            counters.stopped_receives += 1;
            let target = user_data(Operation::Receive, key);
            ring.cancel(target, user_data(Operation::Cancel, key));
        }
    }

    /// The kernel found no buffer and ended the receive: on with a deeper ring, or wait.
    fn without_buffer(&mut self, key: Key) {
        let socket = self.sockets.get(key).expect("a slot outlives its operations");
        let side = socket.side as usize;
        if self.pools[side].deepen() {
            self.counters.deepened += 1;
            socket.wants_bytes = true;
            self.touch(key);
        } else {
            self.counters.parked += 1;
            socket.receiving = Receiving::Parked;
            self.parked[side].push_back(key);
        }
    }

    /// Moves what came and was not read for a tick out of the ring's buffers: others need them, and
    /// a short message keeps a whole one. Over budget the connection fails.
    pub fn copy_unread(&mut self, key: Key) {
        let Some(socket) = self.sockets.get(key) else { return };
        let Some(first) = socket.received.iter().position(Chunk::is_on_ring) else { return };
        if !std::mem::replace(&mut socket.is_unread, true) {
            return;
        }
        let unread = socket.received.split_off(first);
        let Some(chunk) = self.copy_to_heap(unread) else { return self.fail(key) };
        self.sockets.get(key).expect("it was there").received.push_back(chunk);
    }

    /// Arms parked receives again once a quarter of their pool is back: so that each gets a credit,
    /// not each a buffer.
    pub fn unpark(&mut self) {
        for side in 0..self.pools.len() {
            if self.parked[side].is_empty() || is_low(&self.pools[side]) {
                continue;
            }
            for key in std::mem::take(&mut self.parked[side]) {
                if let Some(socket) = self.sockets.get(key)
                    && socket.receiving == Receiving::Parked
                {
                    (socket.receiving, socket.wants_bytes) = (Receiving::Off, true);
                    self.touch(key);
                }
            }
        }
    }
}

/// Whether less than a quarter of a pool is left.
pub fn is_low(pool: &Pool) -> bool {
    pool.free() < pool.entries() / 4
}
