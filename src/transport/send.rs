//! Sending: one send in flight per socket, and what becomes of it when the peer is slow.
//!
//! A send that does not end keeps ring buffers from everybody. After `STUCK_AFTER`, or when its
//! pool runs low, it is cancelled, its result says what left, and the rest goes on from the heap.
//!
//! Small sends do not wait in the kernel: they complete as they are submitted, so the pump sleeps
//! in the same system call that submits them, for one completion more than there are such sends.

use crate::transport::buffer::Chunk;
use crate::transport::listener;
use crate::transport::receive::is_low;
use crate::transport::ring::{self, Ring, SendFrame, Sending};
use crate::transport::socket::{Key, Life, Operation, Side, Socket, user_data};
use crate::transport::state::{State, Timer, millis};
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A send that has not ended by then gives its ring buffers back and goes on from the heap. Longer
/// than any round trip, shorter than other connections may wait for buffers.
pub const STUCK_AFTER: Duration = Duration::from_millis(100);
/// A send of more bytes waits in the kernel for its end: one that ends short costs a second one,
/// which is dear where buffers are full most of the time. Requests and short results are smaller.
const AT_ONCE_BYTES_MAX: usize = 4 << 10;

/// All sends of a shard.
#[derive(Default)]
pub struct Sends {
    /// Frames for the next sends.
    #[expect(clippy::vec_box, reason = "the kernel reads a frame where it is")]
    frames: Vec<Box<SendFrame>>,
    /// Started this turn; those that outlive the turn's completions get a timer.
    fresh: Vec<Key>,
    in_flight: usize,
    /// Sends in flight with a timer.
    watched: usize,
    /// Completions of this turn's submissions that nobody waits for.
    expected: u32,
}

impl Sends {
    /// Sends the first chunks of the socket's queue, gathered.
    pub fn start(&mut self, ring: &mut Ring, key: Key, socket: &mut Socket) {
        let frame = socket.frame.insert(self.frames.pop().unwrap_or_else(SendFrame::new));
        socket.in_flight = frame.fill(socket.queue.iter());
        let is_all = socket.in_flight == socket.queue.len();
        let is_small = socket.queued_bytes <= AT_ONCE_BYTES_MAX && !socket.is_congested;
        let how = if is_small { Sending::AtOnce } else { Sending::Whole };
        ring.send(socket.fd.as_raw_fd(), frame, how, user_data(Operation::Send, key));
        socket.operations += 1;
        self.in_flight += 1;
        self.fresh.push(key);
        self.expected += u32::from(is_small && is_all && socket.writer.is_none());
    }

    /// How many of the sends started since the last call complete as they are submitted, and wake
    /// nobody: so many completions are no reason to come back.
    pub fn take_expected(&mut self) -> u32 {
        std::mem::take(&mut self.expected)
    }
}

impl State {
    pub fn on_send(&mut self, key: Key, result: i32) {
        let socket = self.completed(key);
        let (frame, timer, side) = (socket.frame.take(), socket.stuck_timer.take(), socket.side);
        // A short or cancelled result counts as that many bytes.
        let behind = socket.queue.len() - socket.in_flight;
        let relayed = socket.sent(result.max(0) as usize);
        socket.is_congested = socket.queue.len() > behind;
        if result < 0 && !matches!(-result, libc::ECANCELED | libc::EAGAIN) {
            socket.send_error = Some(-result);
            socket.drop_queued();
        }
        let is_rescued = std::mem::take(&mut socket.is_rescuing);
        let goes_on = !socket.queue.is_empty() && socket.life == Life::Open;
        self.counters.sent_bytes[side as usize] += result.max(0) as u64;
        self.counters.relayed_bytes += relayed as u64;
        self.sends.in_flight -= 1;
        self.sends.frames.extend(frame);
        if let Some(timer) = timer {
            self.sends.watched -= 1;
            self.wheel.cancel(timer);
        }
        if is_rescued && goes_on {
            self.copy_out(key);
        }
        if goes_on {
            self.touch(key);
        }
        let Some(socket) = self.sockets.get(key) else { return };
        let writer = socket.writer.take();
        // The kernel tells of a reset once, and here it has: who waits in `poll_dead` is to know.
        let reader = socket.reader.take_if(|_| socket.send_error.is_some());
        self.settle(key);
        self.wake(writer);
        self.wake(reader);
    }

    /// Sends of this turn that did not complete at once get a timer; there are none unless a peer
    /// is slow.
    pub fn watch_fresh_sends(&mut self) {
        while let Some(key) = self.sends.fresh.pop() {
            if self.sends.in_flight == self.sends.watched {
                return self.sends.fresh.clear();
            }
            let is_new = |socket: &mut Socket| socket.in_flight > 0 && socket.stuck_timer.is_none();
            if self.sockets.get(key).is_some_and(is_new) {
                self.sends.watched += 1;
                self.arm_stuck_timer(key);
            }
        }
    }

    fn arm_stuck_timer(&mut self, key: Key) {
        let end = millis(ring::monotonic() + STUCK_AFTER);
        let timer = self.wheel.insert(end, Timer::StuckSend(key));
        let socket = self.sockets.get(key).expect("it is sending");
        if let Some(old) = socket.stuck_timer.replace(timer) {
            self.wheel.cancel(old);
        }
    }

    /// A server that does not read lives, as far as anybody knows: the kernel is told to wait.
    pub fn wait_for_server(&mut self, key: Key) {
        let stuck = self.sockets.get(key).filter(|socket| socket.in_flight > 0);
        if let Some(socket) = stuck.filter(|socket| socket.side == Side::Dialed) {
            // One that refuses has ended already.
            let _ = listener::wait_for_reader(&socket2::SockRef::from(&socket.fd));
        }
    }

    /// Takes a stuck socket's bytes out of the ring's buffers.
    pub fn rescue(&mut self, key: Key) {
        let Some(socket) = self.sockets.get(key) else { return };
        if socket.life != Life::Open || socket.in_flight == 0 || socket.is_rescuing {
            return;
        }
        if socket.queue.iter().take(socket.in_flight).any(Chunk::is_on_ring) {
            socket.is_rescuing = true;
            socket.operations += 1;
            self.ring.cancel(user_data(Operation::Send, key), user_data(Operation::Cancel, key));
        } else if socket.queue.iter().any(Chunk::is_on_ring) {
            // The kernel reads heap chunks at the front; those behind are moved.
            self.copy_out(key);
        }
        self.arm_stuck_timer(key);
    }

    /// Once per tick: does not wait for the timers while a pool is low, nor for those who do not
    /// read.
    pub fn rescue_if_low(&mut self) {
        let is_low = self.pools.large.each_ref().map(|pool| is_low(pool));
        if is_low == [false; 2] {
            return;
        }
        let keys: Vec<Key> = self.sockets.keys().collect();
        for key in keys {
            let Some(socket) = self.sockets.get(key) else { continue };
            let (is_stuck, side) = (socket.stuck_timer.is_some(), socket.side);
            if is_low[side as usize] {
                self.copy_unread(key);
            }
            if is_stuck {
                self.rescue(key);
            }
        }
    }

    /// Copies what is queued behind the send in flight to the heap; over budget, the connection
    /// fails.
    fn copy_out(&mut self, key: Key) {
        let socket = self.sockets.get(key).expect("it is sending");
        let tail = socket.queue.split_off(socket.in_flight);
        let Some(chunk) = self.copy_to_heap(tail) else { return self.fail(key) };
        let socket = self.sockets.get(key).expect("it is sending");
        socket.queue.push_back(chunk);
        let waker = socket.writer.take(); // there is room for more chunks now
        self.wake(waker);
    }

    /// One copy of these chunks on the heap, counted; `None` if the budget has no room for it.
    pub fn copy_to_heap(&mut self, mut chunks: VecDeque<Chunk>) -> Option<Chunk> {
        let length = chunks.iter().map(|chunk| chunk.len()).sum();
        let chunk = Chunk::copied(&mut chunks.drain(..), length, &self.heap)?;
        self.counters.rescued += 1;
        self.counters.copied_bytes += length as u64;
        Some(chunk)
    }

    /// Ends a connection of which bytes could not be kept: whoever reads or writes it is told. What
    /// came until now can be read; nothing is sent or taken in any more.
    pub fn fail(&mut self, key: Key) {
        let Some(socket) = self.sockets.get(key) else { return };
        if socket.end == Some(Err(libc::ENOBUFS)) {
            return; // it is told already
        }
        self.counters.over_budget += 1;
        socket.send_error.get_or_insert(libc::ENOBUFS);
        socket.end = Some(Err(libc::ENOBUFS)); // also where the peer has ended: bytes are missing
        socket.drop_queued();
        let (reader, writer) = (socket.reader.take(), socket.writer.take());
        self.wake(reader);
        self.wake(writer);
    }
}
