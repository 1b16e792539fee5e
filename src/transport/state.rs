//! What the pump does with completions: the shard's state, and every rule about sockets in flight.
//!
//! Pure of tasks and sleeping: `turn` is called by the pump, the rest by completions or by `conn`. Every
//! entry with a socket's key is counted in `operations`, and no slot ends before its last completion.

use crate::transport::buffer::{Chunk, Pool};
use crate::transport::driver::{Counters, Options, TICK};
use crate::transport::heap::HeapBudget;
use crate::transport::ring::{self, Cqe, Ring, SendFrame};
use crate::transport::socket::{
    Key, Life, Operation, Receiving, Side, Sockets, parse_user_data, user_data,
};
use crate::transport::wheel::Wheel;
use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

/// A send that has not ended by then gives its ring buffers back and goes on from the heap.
pub const STUCK_AFTER: Duration = Duration::from_millis(100);
/// Received chunks waiting for their task; above it the receive is cancelled: its credit counts bytes, and
/// a trickle of small ones would take a buffer each.
const WAITING_CHUNKS_MAX: usize = 16;
/// How often the buffer rings' depth may shrink: about once a second.
const DEPTH_TICKS: u64 = 200;
/// Pause after running out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Completions that belong to no socket.
pub const NOBODY: Key = Key { index: 0, generation: 0 };
/// A Mail completion that another ring posted: no read is to be armed again.
pub const MESSENGER: Key = Key { index: 1, generation: 0 };

pub enum Timer {
    Wake(Waker),
    StuckSend(Key),
    /// Descriptors ran out; accept again.
    Accept,
}

pub struct State {
    /// First, so that it is dropped first: nothing is in flight when memory goes.
    pub ring: Ring,
    pub sockets: Sockets,
    pub listener: Option<Listening>,
    options: Options,
    pools: [Rc<Pool>; 2],
    pub heap: Rc<HeapBudget>,
    pub wheel: Wheel<Timer>,
    /// Sockets with something to arm or send, by side. Entries are made once per turn, so that spans gather,
    /// and side by side: a peer on this machine then wakes once for a row of messages, not for each.
    dirty: [Vec<Key>; 2],
    /// Receives that found no buffer, per pool.
    parked: [VecDeque<Key>; 2],
    #[expect(clippy::vec_box, reason = "the kernel reads a frame where it is")]
    frames: Vec<Box<SendFrame>>,
    /// Sends started this turn; those that outlive the turn's completions get a stuck timer.
    fresh_sends: Vec<Key>,
    sends: usize,
    stuck_timers: usize,
    /// Wakes handed to tasks since the pump last yielded.
    pub wakes: u32,
    saw_tick: bool,
    saw_mail: bool,
    saw_traffic: bool,
    tick_generation: u32,
    mail: UnixStream,
    pub mail_count: u64,
    pub mail_wakers: Vec<Waker>,
    pub counters: Counters,
}

pub struct Listening {
    pub socket: TcpListener,
    pub accepted: VecDeque<OwnedFd>,
    pub waker: Option<Waker>,
}

impl State {
    pub fn new(ring: Ring, pools: [Rc<Pool>; 2], options: Options, mail: UnixStream) -> State {
        let heap = HeapBudget::new(options.heap_max);
        State {
            ring,
            sockets: Sockets::default(),
            listener: None,
            options,
            pools,
            heap,
            wheel: Wheel::new(millis(ring::monotonic())),
            dirty: Default::default(),
            parked: Default::default(),
            frames: Vec::new(),
            fresh_sends: Vec::new(),
            sends: 0,
            stuck_timers: 0,
            wakes: 0,
            saw_tick: false,
            saw_mail: false,
            saw_traffic: false,
            tick_generation: 0,
            mail,
            mail_count: 0,
            mail_wakers: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Submits, waits and handles completions until a task was woken (false) or glommio is due (true).
    pub fn turn(&mut self) -> bool {
        loop {
            self.flush();
            // Rule: never wait for more than one completion, and never while a woken task has not run.
            self.enter(u32::from(self.wakes == 0 && !self.saw_mail && !self.saw_tick));
            if std::mem::take(&mut self.saw_tick) | std::mem::take(&mut self.saw_mail) {
                return true;
            }
            if self.wakes > 0 {
                return false;
            }
        }
    }

    /// Handles what the kernel has ready; false if there was nothing.
    pub fn catch_up(&mut self) -> bool {
        let has_work = self.ring.has_work();
        if has_work {
            self.enter(0);
        }
        has_work
    }

    fn enter(&mut self, want: u32) {
        self.pools.iter().for_each(|pool| pool.refill());
        self.ring.enter(want).expect("io_uring_enter");
        let completions = self.ring.completions();
        for cqe in &completions {
            self.handle(*cqe);
        }
        self.ring.recycle(completions);
        self.watch_fresh_sends();
        self.unpark();
    }

    pub fn wake_up(&mut self) {
        self.ring.signal_eventfd(false);
        self.tick_generation += 1;
        self.ring.start_tick(TICK, user_data(Operation::Tick, self.tick_key()));
        self.saw_traffic = true;
        self.advance_wheel();
    }

    /// Before a look at glommio's reactor, which may park wrongly: completions must be able to end that.
    pub fn begin_visit(&mut self) {
        self.counters.visits += 1;
        self.wakes = 0;
        self.ring.signal_eventfd(true);
    }

    /// Prepares a park in glommio; false if there is something to do after all. The order matters: first the
    /// timeouts are changed and their completions read, else those would ring the doorbell and the shard would
    /// never sleep; then the eventfd goes on; then one enter that flushes what came before; then a look.
    pub fn fall_asleep(&mut self) -> bool {
        self.ring.stop_timeout(
            user_data(Operation::Tick, self.tick_key()),
            user_data(Operation::Silent, NOBODY),
        );
        if let Some(deadline) = self.wheel.earliest() {
            self.ring.stop_timeout(
                user_data(Operation::Deadline, NOBODY),
                user_data(Operation::Silent, NOBODY),
            );
            self.ring.start_deadline(
                Duration::from_millis(deadline),
                user_data(Operation::Deadline, NOBODY),
            );
        }
        self.saw_traffic = false;
        self.flush();
        self.enter(0);
        self.ring.signal_eventfd(true);
        self.enter(0);
        self.saw_tick = false;
        self.counters.sleeps += 1;
        !self.saw_traffic
            && self.wakes == 0
            && self.dirty.iter().all(Vec::is_empty)
            && self.ring.queued() == 0
    }

    fn tick_key(&self) -> Key {
        Key { index: 0, generation: self.tick_generation & 0xff_ffff }
    }

    fn advance_wheel(&mut self) {
        let mut fired = Vec::new();
        self.wheel.advance(millis(ring::monotonic()), |timer| fired.push(timer));
        for timer in fired {
            match timer {
                Timer::Wake(waker) => self.wake(Some(waker)),
                Timer::StuckSend(key) => self.rescue(key),
                Timer::Accept => {
                    let fd = self.listener.as_ref().expect("it was accepting").socket.as_raw_fd();
                    self.ring.accept(fd, user_data(Operation::Accept, NOBODY));
                }
            }
        }
    }

    /// True if nothing but the tick happened since the last one.
    pub fn end_of_tick(&mut self) -> bool {
        self.counters.ticks += 1;
        if self.counters.ticks.is_multiple_of(DEPTH_TICKS) {
            self.pools.iter().for_each(|pool| pool.settle_depth());
        }
        let low = |pool: &Rc<Pool>| pool.free() < pool.entries() / 4;
        if self.stuck_timers > 0 && self.pools.iter().any(low) {
            self.rescue_all();
        }
        !std::mem::take(&mut self.saw_traffic)
    }

    /// Marks a socket for `flush`.
    pub fn touch(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get(key)
            && !std::mem::replace(&mut socket.is_dirty, true)
        {
            self.dirty[socket.side as usize].push(key);
        }
    }

    /// Makes the entries of all dirty sockets: requests first, they have the longer way.
    fn flush(&mut self) {
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
        let (ring, fd) = (&mut self.ring, socket.fd.as_raw_fd());
        if socket.in_flight == 0 && !socket.queue.is_empty() {
            let frame = socket.frame.insert(self.frames.pop().unwrap_or_else(SendFrame::new));
            socket.in_flight = frame.fill(socket.queue.iter());
            ring.send(fd, frame, user_data(Operation::Send, key));
            socket.operations += 1;
            self.sends += 1;
            self.fresh_sends.push(key);
        }
        if socket.wants_bytes && socket.receiving == Receiving::Off && socket.end.is_none() {
            (socket.wants_bytes, socket.receiving) = (false, Receiving::Armed);
            ring.receive(
                fd,
                socket.side as u16,
                self.options.receive,
                user_data(Operation::Receive, key),
            );
            socket.operations += 1;
        }
        if socket.wants_hangup && !socket.is_polling {
            (socket.wants_hangup, socket.is_polling) = (false, true);
            // The first poll tells of a half-close; after that only a dead connection is news.
            let events = if socket.hangup == 0 { libc::POLLRDHUP as u32 } else { 0 };
            ring.poll(fd, events, user_data(Operation::Poll, key));
            socket.operations += 1;
        }
    }

    fn handle(&mut self, cqe: Cqe) {
        let (operation, key) = parse_user_data(cqe.user_data);
        match operation {
            Operation::Tick if key == self.tick_key() => {
                self.saw_tick = true;
                self.advance_wheel();
                if !cqe.more() && cqe.result != -libc::ECANCELED {
                    self.ring.start_tick(TICK, cqe.user_data); // a multishot may end, for instance when the CQ is full
                }
                return;
            }
            Operation::Tick | Operation::Silent => return,
            Operation::Deadline if cqe.result == -libc::ECANCELED => return, // we replaced it ourselves
            Operation::Deadline => self.advance_wheel(),
            Operation::Mail => self.on_mail(key),
            Operation::Accept => self.on_accept(cqe),
            Operation::Receive => self.on_receive(key, cqe),
            Operation::Send => self.on_send(key, cqe.result),
            Operation::Connect | Operation::Poll | Operation::Cancel => {
                self.on_other(operation, key, cqe.result)
            }
        }
        self.saw_traffic = true;
    }

    fn on_mail(&mut self, key: Key) {
        (self.saw_mail, self.mail_count) = (true, self.mail_count + 1);
        if key == NOBODY {
            self.ring.read_mail(self.mail.as_raw_fd(), user_data(Operation::Mail, NOBODY));
        }
        for waker in std::mem::take(&mut self.mail_wakers) {
            self.wake(Some(waker));
        }
    }

    fn on_accept(&mut self, cqe: Cqe) {
        let Some(listener) = &mut self.listener else { return };
        let fd = listener.socket.as_raw_fd();
        match cqe.accepted() {
            Some(socket) => listener.accepted.push_back(socket),
            // A pause: the timer's waker is the accept task's, and the multishot is armed again below.
            None if matches!(-cqe.result, libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                self.counters.accept_pauses += 1;
                self.wheel.insert(millis(ring::monotonic() + ACCEPT_PAUSE), Timer::Accept);
                return;
            }
            None => {}
        }
        let waker = listener.waker.take();
        if !cqe.more() {
            self.ring.accept(fd, user_data(Operation::Accept, NOBODY));
        }
        self.wake(waker);
    }

    fn on_receive(&mut self, key: Key, cqe: Cqe) {
        let State { sockets, pools, ring, counters, .. } = self;
        let socket = sockets.get(key).expect("a slot outlives its operations");
        let (side, was, mut again) = (socket.side as usize, socket.receiving, false);
        if !cqe.more() {
            socket.operations -= 1;
            socket.receiving = Receiving::Off;
        }
        match cqe.result {
            0 => socket.end = Some(Ok(())),
            length @ 1.. => {
                let first = cqe.buffer().expect("bytes come in a buffer");
                pools[side].lend(first, length as u32, |chunk| socket.received.push_back(chunk));
                counters.relayed_bytes += length as u64;
                counters.lent_max[side] = counters.lent_max[side].max(pools[side].lent());
                if cqe.more()
                    && was == Receiving::Armed
                    && socket.received.len() > WAITING_CHUNKS_MAX
                {
                    socket.receiving = Receiving::Stopping;
                    socket.operations += 1;
                    counters.stopped_receives += 1;
                    ring.cancel(
                        user_data(Operation::Receive, key),
                        user_data(Operation::Cancel, key),
                    );
                }
            }
            error if error == -libc::ENOBUFS && pools[side].deepen() => {
                counters.deepened += 1;
                socket.wants_bytes = true;
                again = true;
            }
            error if error == -libc::ENOBUFS => {
                counters.parked += 1;
                socket.receiving = Receiving::Parked;
                self.parked[side].push_back(key);
            }
            error if error == -libc::ECANCELED => {}
            error => socket.end = Some(Err(-error)),
        }
        // Armed again at once, its task has nothing to do.
        let waker = if again { None } else { socket.reader.take() };
        if again {
            self.touch(key);
        }
        self.settle(key);
        self.wake(waker);
    }

    fn on_send(&mut self, key: Key, result: i32) {
        let socket = self.sockets.get(key).expect("a slot outlives its operations");
        socket.operations -= 1;
        self.sends -= 1;
        self.frames.extend(socket.frame.take());
        if let Some(timer) = socket.stuck_timer.take() {
            self.stuck_timers -= 1;
            self.wheel.cancel(timer);
        }
        // A short or cancelled result counts as that many bytes.
        socket.sent(result.max(0) as usize);
        if result < 0 && result != -libc::ECANCELED {
            socket.send_error = Some(-result);
            socket.queue.clear();
            socket.queued_bytes = 0;
        }
        if std::mem::take(&mut socket.is_rescuing)
            && !socket.queue.is_empty()
            && socket.life == Life::Open
        {
            self.copy_out(key);
        }
        let socket = self.sockets.get(key).expect("still there");
        let (waker, more) = (socket.writer.take(), !socket.queue.is_empty());
        if more {
            self.touch(key);
        }
        self.settle(key);
        self.wake(waker);
    }

    fn on_other(&mut self, operation: Operation, key: Key, result: i32) {
        let socket = self.sockets.get(key).expect("a slot outlives its operations");
        socket.operations -= 1;
        let mut wakers = [None, None];
        match operation {
            Operation::Connect => {
                socket.address = None;
                if socket.life == Life::Connecting {
                    socket.life = Life::Open;
                }
                if result < 0 {
                    socket.send_error = Some(-result);
                    socket.end = Some(Err(-result));
                }
                wakers[0] = socket.writer.take();
            }
            Operation::Poll => {
                socket.is_polling = false;
                socket.hangup |= result.max(0) as u32;
                wakers = [socket.reader.take(), socket.writer.take()];
            }
            _ => {}
        }
        self.settle(key);
        wakers.into_iter().for_each(|waker| self.wake(waker));
    }

    fn wake(&mut self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            self.wakes += 1;
            waker.wake();
        }
    }

    /// After a completion: ends a closing socket with its last one, tells a leaving one's owner.
    fn settle(&mut self, key: Key) {
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

    /// Gives a socket up: what is armed is cancelled, the slot and the descriptor end with the last completion.
    pub fn abandon(&mut self, key: Key) {
        let Some(socket) = self.sockets.get(key) else { return };
        socket.life = Life::Closing;
        (socket.reader, socket.writer) = (None, None);
        socket.received.clear();
        socket.queue.truncate(socket.in_flight);
        socket.queued_bytes = socket.queue.iter().map(|chunk| chunk.len()).sum();
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

    /// Sends of this turn that did not complete at once get a timer; there are none unless a peer is slow.
    fn watch_fresh_sends(&mut self) {
        while let Some(key) = self.fresh_sends.pop() {
            if self.sends == self.stuck_timers {
                self.fresh_sends.clear();
                return;
            }
            if self
                .sockets
                .get(key)
                .is_some_and(|socket| socket.in_flight > 0 && socket.stuck_timer.is_none())
            {
                self.stuck_timers += 1;
                self.arm_stuck_timer(key);
            }
        }
    }

    fn arm_stuck_timer(&mut self, key: Key) {
        let timer =
            self.wheel.insert(millis(ring::monotonic() + STUCK_AFTER), Timer::StuckSend(key));
        if let Some(old) = self.sockets.get(key).expect("it is sending").stuck_timer.replace(timer)
        {
            self.wheel.cancel(old);
        }
    }

    /// Takes a stuck socket's bytes out of the ring's buffers.
    fn rescue(&mut self, key: Key) {
        let Some(socket) = self.sockets.get(key) else { return };
        if socket.life != Life::Open || socket.in_flight == 0 || socket.is_rescuing {
            return;
        }
        if socket.queue.iter().take(socket.in_flight).any(Chunk::is_on_ring) {
            socket.is_rescuing = true;
            socket.operations += 1;
            self.ring.cancel(user_data(Operation::Send, key), user_data(Operation::Cancel, key));
        } else if socket.queue.iter().any(Chunk::is_on_ring) {
            self.copy_out(key); // the kernel reads heap chunks at the front; those behind are moved
        }
        self.arm_stuck_timer(key);
    }

    fn rescue_all(&mut self) {
        let keys: Vec<Key> = self.sockets.keys().collect();
        for key in keys {
            if self.sockets.get(key).is_some_and(|socket| socket.stuck_timer.is_some()) {
                self.rescue(key);
            }
        }
    }

    /// Copies what is queued behind the send in flight to the heap; over budget, the connection fails.
    fn copy_out(&mut self, key: Key) {
        let socket = self.sockets.get(key).expect("its send completed just now");
        let mut tail = socket.queue.split_off(socket.in_flight);
        let length = tail.iter().map(|chunk| chunk.len()).sum();
        match Chunk::copied(&mut tail.drain(..), length, &self.heap) {
            Some(chunk) => {
                socket.queue.push_back(chunk);
                self.counters.rescued += 1;
                self.counters.copied_bytes += length as u64;
            }
            None => {
                socket.send_error = Some(libc::ENOBUFS);
                socket.queued_bytes -= length;
                self.counters.over_budget += 1;
            }
        }
        let waker = socket.writer.take(); // there is room for more chunks, or an error
        self.wake(waker);
    }

    /// Arms parked receives again once a quarter of their pool is back.
    fn unpark(&mut self) {
        for side in 0..self.pools.len() {
            while !self.parked[side].is_empty()
                && self.pools[side].free() >= self.pools[side].entries() / 4
            {
                let keys = std::mem::take(&mut self.parked[side]);
                for key in keys {
                    let parked = self
                        .sockets
                        .get(key)
                        .filter(|socket| socket.receiving == Receiving::Parked);
                    if let Some(socket) = parked {
                        (socket.receiving, socket.wants_bytes) = (Receiving::Off, true);
                        self.touch(key);
                    }
                }
            }
        }
    }

    pub fn count(&mut self) -> Counters {
        self.counters.enters = self.ring.enters;
        self.counters.sockets = self.sockets.live();
        self.counters.timers = self.wheel.len();
        self.counters.lent = [self.pools[0].lent(), self.pools[1].lent()];
        self.counters.heap_bytes = self.heap.bytes_held();
        self.counters
    }
}

pub fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
