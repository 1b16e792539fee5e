//! A shard's state, and what belongs to every socket: which entries it needs, how it ends.
//!
//! The pump calls `turn` (in `turn`), tasks call in through `conn` and `driver`. What a completion
//! means stands in `receive`, `send` and `accept`; here are dispatch, connecting, hang-ups and
//! ends.
//!
//! Invariants: every entry with a socket's key is counted in its `operations`, and no slot ends
//! before its last completion; a woken task is counted in `wakes`; no borrow of `State` crosses an
//! `.await`.

use crate::transport::accept::Listening;
use crate::transport::busy_poll::BusyPoll;
use crate::transport::heap::HeapBudget;
use crate::transport::options::{Counters, Options, Planted};
use crate::transport::pools::Pools;
use crate::transport::receive::Parked;
use crate::transport::ring::{self, Cqe, Receive, Ring};
use crate::transport::send::Sends;
use crate::transport::socket::{Key, Life, Operation, Side, Socket, Sockets};
use crate::transport::socket::{parse_user_data, user_data};
use crate::transport::wheel::Wheel;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

/// Completions that belong to no socket.
pub const NOBODY: Key = Key { index: 0, generation: 0 };
/// A Mail completion that another ring posted: no read is to be armed again.
pub const MESSENGER: Key = Key { index: 1, generation: 0 };

/// What a deadline of the wheel is for.
pub enum Timer {
    Wake(Waker),
    StuckSend(Key),
    /// The pause of this listener is over.
    Accept(u32),
}

pub struct State {
    /// First, so that it is dropped first: nothing is in flight when memory goes.
    pub ring: Ring,
    pub sockets: Sockets,
    pub listeners: Vec<Listening>,
    pub receive: Receive,
    pub planted: Planted,
    pub pools: Pools,
    pub heap: Rc<HeapBudget>,
    pub wheel: Wheel<Timer>,
    /// Sockets with something to arm or send, by side. Entries are made once per turn, so that
    /// spans gather, and side by side: a peer on this machine then wakes once for a row of
    /// messages.
    dirty: [Vec<Key>; 2],
    pub parked: [Parked; 2],
    pub sends: Sends,
    pub busy_poll: BusyPoll,
    /// Wakes handed to tasks since the pump last yielded.
    pub wakes: u32,
    pub seen: Seen,
    pub tick_generation: u32,
    pub mail: Mail,
    pub counters: Counters,
}

/// What has completed since the pump last looked.
#[derive(Default)]
pub struct Seen {
    pub tick: bool,
    pub mail: bool,
    pub traffic: bool,
}

/// Wakes from other threads: bytes of a socket pair that is read in the ring, and ring messages.
pub struct Mail {
    pub socket: UnixStream,
    pub count: u64,
    pub wakers: Vec<Waker>,
}

impl State {
    pub fn new(
        ring: Ring,
        pools: Pools,
        options: &Options,
        receive: Receive,
        mail: UnixStream,
    ) -> State {
        State {
            ring,
            sockets: Sockets::default(),
            listeners: Vec::new(),
            receive,
            planted: options.planted,
            pools,
            heap: HeapBudget::new(options.heap_bytes_max),
            wheel: Wheel::new(millis(ring::monotonic())),
            dirty: Default::default(),
            parked: Default::default(),
            sends: Sends::default(),
            busy_poll: BusyPoll::new(options.busy_poll),
            wakes: 0,
            seen: Seen::default(),
            tick_generation: 0,
            mail: Mail { socket: mail, count: 0, wakers: Vec::new() },
            counters: Counters::default(),
        }
    }

    /// Marks a socket for `flush`.
    pub fn touch(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get(key)
            && !std::mem::replace(&mut socket.is_dirty, true)
        {
            self.dirty[socket.side as usize].push(key);
        }
    }

    pub fn has_dirty(&self) -> bool {
        self.dirty.iter().any(|keys| !keys.is_empty())
    }

    /// Makes the entries of all dirty sockets: requests first, they have the longer way.
    pub fn flush(&mut self) {
        for side in [Side::Dialed, Side::Accepted] {
            let mut keys = std::mem::take(&mut self.dirty[side as usize]);
            for key in keys.drain(..) {
                self.flush_socket(key);
            }
            self.dirty[side as usize] = keys;
        }
    }

    fn flush_socket(&mut self, key: Key) {
        let Some(socket) = self.sockets.get(key) else { return };
        socket.is_dirty = false;
        if socket.life != Life::Open {
            return;
        }
        if socket.in_flight == 0 && !socket.queue.is_empty() {
            self.sends.start(&mut self.ring, key, socket);
            if self.planted == Planted::EarlyReturns {
                socket.plant_early_returns();
            }
        }
        if socket.may_receive() {
            let how = self.receive_now();
            let socket = self.sockets.get(key).expect("it is still there");
            socket.arm_receive(&mut self.ring, how, key);
        }
        let socket = self.sockets.get(key).expect("it is still there");
        if socket.wants_hangup && !socket.is_polling {
            socket.arm_poll(&mut self.ring, key);
        }
    }

    /// Starts connecting; the address stays in the slot, where the kernel reads it.
    pub fn connect(&mut self, mut socket: Socket, address: Box<socket2::SockAddr>) -> Key {
        self.counters.dialed += 1;
        let fd = socket.fd.as_raw_fd();
        socket.operations = 1;
        let key = self.sockets.insert(socket);
        let socket = self.sockets.get(key).expect("it was put there just now");
        let address = socket.address.insert(address);
        self.ring.connect(fd, address, user_data(Operation::Connect, key));
        key
    }

    /// What one completion means.
    pub fn handle(&mut self, cqe: Cqe) {
        let (operation, key) = parse_user_data(cqe.user_data);
        match operation {
            Operation::Tick => return self.on_tick(key, cqe),
            Operation::Silent => return,
            // We replaced it ourselves.
            Operation::Deadline if cqe.result == -libc::ECANCELED => return,
            Operation::Deadline => self.advance_wheel(),
            Operation::Mail => self.on_mail(key),
            Operation::Accept => self.on_accept(key.index, cqe),
            Operation::Receive => self.on_receive(key, cqe),
            Operation::Send => self.on_send(key, cqe.result),
            Operation::Connect => self.on_connect(key, cqe.result),
            Operation::Poll => self.on_poll(key, cqe.result),
            Operation::Cancel => {
                self.completed(key);
                self.settle(key);
            }
        }
        self.seen.traffic = true;
    }

    fn on_mail(&mut self, key: Key) {
        self.seen.mail = true;
        self.mail.count += 1;
        if key == NOBODY {
            self.ring.read_mail(self.mail.socket.as_raw_fd(), user_data(Operation::Mail, NOBODY));
        }
        for waker in std::mem::take(&mut self.mail.wakers) {
            self.wake(Some(waker));
        }
    }

    fn on_connect(&mut self, key: Key, result: i32) {
        let socket = self.completed(key);
        socket.address = None;
        if socket.life == Life::Connecting {
            socket.life = Life::Open;
        }
        if result < 0 {
            socket.send_error = Some(-result);
            socket.end = Some(Err(-result));
        }
        let waker = socket.writer.take();
        self.settle(key);
        self.wake(waker);
    }

    fn on_poll(&mut self, key: Key, result: i32) {
        let socket = self.completed(key);
        socket.is_polling = false;
        socket.hangup |= result.max(0) as u32;
        let (reader, writer) = (socket.reader.take(), socket.writer.take());
        self.settle(key);
        self.wake(reader);
        self.wake(writer);
    }

    /// Counts the last completion of one of a socket's operations.
    pub fn completed(&mut self, key: Key) -> &mut Socket {
        let socket = self.sockets.get(key).expect("a slot outlives its operations");
        socket.operations -= 1;
        socket
    }

    pub fn wake(&mut self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            self.wakes += 1;
            waker.wake();
        }
    }

    /// Wakes the readers of all accepted sockets.
    pub fn wake_readers(&mut self) {
        let keys: Vec<Key> = self.sockets.keys().collect();
        for key in keys {
            let accepted = self.sockets.get(key).filter(|socket| socket.side == Side::Accepted);
            let waker = accepted.and_then(|socket| socket.reader.clone());
            self.wake(waker);
        }
    }

    /// After a completion: ends a closing socket with its last one, tells a leaving one's owner.
    pub fn settle(&mut self, key: Key) {
        let socket = self.sockets.get(key).expect("called for a live slot");
        match socket.life {
            Life::Closing => socket.received.clear(),
            Life::Leaving if socket.operations == 0 => {
                let waker = socket.writer.take();
                return self.wake(waker);
            }
            _ => return,
        }
        if socket.operations == 0 {
            self.sockets.remove(key);
        }
    }

    /// Gives a socket up: what is armed is cancelled, the slot and the descriptor end with the last
    /// completion.
    pub fn abandon(&mut self, key: Key) {
        let Some(socket) = self.sockets.get(key) else { return };
        socket.life = Life::Closing;
        (socket.reader, socket.writer) = (None, None);
        socket.received.clear();
        socket.drop_queued();
        if socket.operations == 0 {
            self.sockets.remove(key);
        } else {
            socket.operations += 1;
            self.ring.cancel_all(socket.fd.as_raw_fd(), user_data(Operation::Cancel, key));
        }
    }

    /// Cancels what is armed on an idle socket; `detach` waits for the completions.
    pub fn leave(&mut self, key: Key) {
        let socket = self.sockets.get(key).expect("its owner asks");
        socket.life = Life::Leaving;
        if socket.operations > 0 {
            socket.operations += 1;
            self.ring.cancel_all(socket.fd.as_raw_fd(), user_data(Operation::Cancel, key));
        }
    }

    /// The counters as of now.
    pub fn count(&self) -> Counters {
        Counters {
            enters: self.ring.enters,
            sockets: self.sockets.live(),
            timers: self.wheel.len(),
            lent: self.pools.lent(),
            heap_bytes: self.heap.bytes_held(),
            heap_refusals: self.heap.refusals(),
            ..self.counters
        }
    }
}

/// The wheel's time: whole milliseconds of the monotonic clock.
pub fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
