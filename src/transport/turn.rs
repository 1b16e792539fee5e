//! One turn of a shard: entries in, completions out, and the three ways to wait.
//!
//! Busy: the pump blocks in the private ring and a tick comes every few milliseconds. Visit:
//! glommio looks at its own reactor. Idle: everything sleeps in glommio, the eventfd is on, and one
//! timeout stands at the wheel's earliest deadline.

use crate::transport::ring::{self, Cqe};
use crate::transport::socket::{Key, Operation, user_data};
use crate::transport::state::{NOBODY, State, Timer, millis};
use std::time::Duration;

/// How late glommio's timers and channels may be while the shard is busy; a visit costs about 20
/// system calls (measured).
pub const TICK: Duration = Duration::from_millis(5);
/// Completions of sends that an enter may expect beside the one it waits for. One enter runs about
/// 20 receives (the kernel's limit for deferred work), or as many as it is to wait for: so a busy
/// shard handles longer and longer rows of messages, each of which wakes a peer once. Measured with
/// 128 and 1,024 clients: 256 takes less CPU time than 16 and 64, and p99 is not longer. Such a row
/// takes the shard some 2 ms, which is within its tick.
const EXPECTED_MAX: u32 = 256;
/// How often the buffer rings' depth may shrink: about once a second.
const DEPTH_TICKS: u64 = 200;
/// Generations of the tick are part of 24 bits of `user_data`.
const TICK_GENERATION_MASK: u32 = (1 << 24) - 1;

impl State {
    /// Submits, waits and handles completions until a task was woken (false) or glommio is due
    /// (true).
    pub fn turn(&mut self) -> bool {
        loop {
            // Buffers may have come back since the last completion.
            self.unpark();
            self.flush();
            // Never wait while a woken task has not run.
            let may_wait = self.wakes == 0 && !self.seen.mail && !self.seen.tick;
            self.enter(may_wait);
            if std::mem::take(&mut self.seen.tick) | std::mem::take(&mut self.seen.mail) {
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
            self.enter(false);
        }
        has_work
    }

    /// Makes the entries of all dirty sockets and handles what the kernel has ready then.
    pub fn look(&mut self) {
        self.flush();
        self.enter(false);
    }

    /// Waits for one completion at most, beside those that are certain to be there by then: waiting
    /// for one that a full socket holds back would be waiting for its peer.
    fn enter(&mut self, may_wait: bool) {
        let expected = self.sends.take_expected();
        let want = match may_wait {
            false => 0,
            // A row without an end would keep tasks and deadlines waiting; and who waits for
            // buffers needs those of the sends.
            true if expected > EXPECTED_MAX || self.has_parked() => 1,
            true => 1 + expected,
        };
        self.pools.all().for_each(|pool| pool.refill());
        if may_wait && !self.busy_poll.is_off() {
            self.enter_looking(want);
        } else {
            self.enter_ring(want);
        }
        let completions = self.ring.completions();
        for cqe in &completions {
            self.handle(*cqe);
        }
        self.ring.recycle(completions);
        if self.ring.is_short {
            // The tick may be among the entries that wait: deadlines and glommio are due without
            // it. And nobody is to fall asleep on such entries.
            (self.seen.tick, self.seen.traffic) = (true, true);
            self.advance_wheel();
        }
        self.watch_fresh_sends();
    }

    fn enter_ring(&mut self, want: u32) {
        self.ring.enter(want).expect("a ring that was set up can be entered");
    }

    /// Looks for completions before it sleeps until they come.
    fn enter_looking(&mut self, want: u32) {
        let (began, limit) = (ring::monotonic(), self.busy_poll.limit());
        let mut is_asleep = limit.is_zero();
        self.enter_ring(if is_asleep { want } else { 0 });
        while !is_asleep && self.ring.ready() < want as usize {
            is_asleep = ring::monotonic() - began >= limit;
            if is_asleep || self.ring.has_deferred() {
                self.enter_ring(if is_asleep { want } else { 0 });
            }
            std::hint::spin_loop();
        }
        self.counters.pauses_caught += u64::from(!is_asleep);
        self.busy_poll.note_pause(ring::monotonic() - began);
    }

    /// From idle to busy.
    pub fn wake_up(&mut self) {
        self.ring.signal_eventfd(false);
        self.tick_generation += 1;
        self.ring.start_tick(TICK, user_data(Operation::Tick, self.tick_key()));
        self.seen.traffic = true;
        self.advance_wheel();
    }

    /// Before a look at glommio's reactor, which may park wrongly: completions must be able to end
    /// that.
    pub fn begin_visit(&mut self) {
        self.counters.visits += 1;
        self.wakes = 0;
        self.ring.signal_eventfd(true);
    }

    /// From busy to idle; false if there is something to do after all. The order matters: first the
    /// timeouts are changed and their completions read, else those would ring the doorbell and the
    /// shard would never sleep; then the eventfd goes on; then one enter that flushes what came
    /// before; then a look.
    pub fn fall_asleep(&mut self) -> bool {
        let silent = user_data(Operation::Silent, NOBODY);
        let deadline_data = user_data(Operation::Deadline, NOBODY);
        self.ring.stop_timeout(user_data(Operation::Tick, self.tick_key()), silent);
        if let Some(deadline) = self.wheel.earliest() {
            self.ring.stop_timeout(deadline_data, silent);
            self.ring.start_deadline(Duration::from_millis(deadline), deadline_data);
        }
        self.seen.traffic = false;
        self.unpark();
        self.flush();
        self.enter(false);
        self.ring.signal_eventfd(true);
        self.enter(false);
        self.seen.tick = false;
        self.counters.sleeps += 1;
        // A parked receive waits for buffers that a task gives back without telling anybody.
        let has_news = self.seen.traffic || self.wakes > 0 || self.has_dirty();
        // Work that was there before the eventfd was on signals nobody, and what comes behind it
        // does not either: the kernel signals the first of a list only, and an enter handles no
        // more than twenty of it.
        let has_work = self.ring.has_work() || self.ring.queued() > 0;
        !has_news && !self.has_parked() && !has_work
    }

    fn has_parked(&self) -> bool {
        self.parked.iter().any(|keys| !keys.is_empty())
    }

    /// True if nothing but the tick happened since the last one.
    pub fn end_of_tick(&mut self) -> bool {
        self.counters.ticks += 1;
        if self.counters.ticks.is_multiple_of(DEPTH_TICKS) {
            self.pools.all().for_each(|pool| pool.settle_depth());
        }
        self.rescue_if_low();
        !std::mem::take(&mut self.seen.traffic)
    }

    /// A tick of an earlier busy time may still come: its generation is another. The kernel cannot
    /// cancel a multishot timeout that has expired but not been told of, and goes on with it (seen
    /// on Linux 6.18): such a one is cancelled anew, or it would keep the shard awake for ever.
    pub fn on_tick(&mut self, key: Key, cqe: Cqe) {
        if key != self.tick_key() {
            if cqe.more() {
                self.ring.stop_timeout(cqe.user_data, user_data(Operation::Silent, NOBODY));
            }
            return;
        }
        self.seen.tick = true;
        self.advance_wheel();
        if !cqe.more() && cqe.result != -libc::ECANCELED {
            // A multishot may end, for instance when the completion queue is full.
            self.ring.start_tick(TICK, cqe.user_data);
        }
    }

    pub fn advance_wheel(&mut self) {
        let mut fired = Vec::new();
        self.wheel.advance(millis(ring::monotonic()), |timer| fired.push(timer));
        for timer in fired {
            match timer {
                Timer::Wake(waker) => self.wake(Some(waker)),
                Timer::StuckSend(key) => {
                    self.wait_for_server(key);
                    self.rescue(key);
                }
                Timer::Accept(number) => self.arm_accept(number),
            }
        }
    }

    fn tick_key(&self) -> Key {
        Key { index: 0, generation: self.tick_generation & TICK_GENERATION_MASK }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::buffer::Chunk;
    use crate::transport::listener;
    use crate::transport::options::Options;
    use crate::transport::pools::{Pools, Size};
    use crate::transport::ring::{Receive, Ring, bounded};
    use crate::transport::socket::{Life, Side, Socket};
    use bytes::Bytes;
    use std::io::Write;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;
    use std::task::Waker;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "no executor runs here")]
    fn a_tick_that_outlived_its_removal_is_removed_when_it_comes() {
        let (mut ring, (mail, _other)) = (Ring::new().unwrap(), UnixStream::pair().unwrap());
        let former = Key { index: 0, generation: 1 };
        ring.start_tick(Duration::from_millis(1), user_data(Operation::Tick, former));
        let options = Options::default();
        let mut state =
            State::new(ring, Pools::new(&options).unwrap(), &options, Receive::Single, mail);
        state.tick_generation = 2;
        state.enter(true);
        state.enter(false); // the removal leaves
        std::thread::sleep(Duration::from_millis(20));
        state.ring.enter(0).unwrap();
        let mut seen = state.ring.completions();
        seen.retain(Cqe::more);
        assert!(seen.is_empty() && !state.seen.tick, "{} more ticks", seen.len());
    }

    /// Else the shard would spin without a tick, or sleep on entries that nobody submits.
    #[test]
    fn a_shard_whose_entries_are_refused_visits_and_stays_awake() {
        bounded(|| {
            let (ring, (mail, _other)) = (Ring::new().unwrap(), UnixStream::pair().unwrap());
            let options = Options::default();
            let mut state =
                State::new(ring, Pools::new(&options).unwrap(), &options, Receive::Single, mail);
            state.ring.starve(0);
            state.wake_up();
            state.wheel.insert(millis(ring::monotonic()), Timer::Wake(Waker::noop().clone()));
            let mut queued = Vec::new();
            for _ in 0..20 {
                assert!(state.turn(), "glommio is due");
                assert!(!state.end_of_tick(), "not the time to sleep");
                state.begin_visit();
                queued.push(state.ring.queued());
            }
            assert_eq!((state.wheel.len(), &queued[..]), (0, &[1; 20][..]), "the tick waits");
            assert!(!state.fall_asleep());
            state.ring.starve(u32::MAX);
            state.seen.traffic = false;
            state.enter(false);
            assert!(state.ring.queued() == 0 && !state.seen.traffic, "no longer short");
        });
    }

    #[test]
    fn a_server_that_does_not_read_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket2::SockAddr::from(listener.local_addr().unwrap());
        let (mail, _other) = UnixStream::pair().unwrap();
        let (ring, options) = (Ring::new().unwrap(), Options::default());
        let mut state =
            State::new(ring, Pools::new(&options).unwrap(), &options, Receive::Single, mail);
        let fd = socket2::Socket::new(address.domain(), socket2::Type::STREAM, None).unwrap();
        listener::set_dial_options(&fd).unwrap();
        let socket = Socket::new(fd.into(), Side::Dialed, Life::Connecting);
        let key = state.connect(socket, Box::new(address));
        while state.sockets.get(key).unwrap().operations > 0 {
            state.enter(true);
        }
        let is_patient = |state: &mut State| {
            let socket = socket2::SockRef::from(&state.sockets.get(key).unwrap().fd);
            socket.tcp_user_timeout().unwrap().is_none()
        };
        state.wait_for_server(key);
        assert!(!is_patient(&mut state), "nothing waits for it");
        // More than the largest buffers of both sockets (`tcp_wmem`, `tcp_rmem`).
        let socket = state.sockets.get(key).unwrap();
        socket.queue.push_back(Chunk::from(Bytes::from(vec![0; 32 << 20])));
        socket.queued_bytes = 32 << 20;
        state.touch(key);
        state.flush();
        while !is_patient(&mut state) {
            state.enter(false);
            state.advance_wheel();
        }
        state.abandon(key);
        while state.sockets.get(key).is_some() {
            state.enter(true);
        }
    }

    /// The kernel reads them until then: nobody else's bytes may come into them.
    #[test]
    fn a_socket_given_up_while_it_sends_keeps_its_buffers_until_the_send_ends() {
        bounded(|| {
            let (ring, (mail, _other)) = (Ring::new().unwrap(), UnixStream::pair().unwrap());
            let options = Options::default();
            let pools = Pools::new(&options).unwrap();
            let pool = pools.of(Side::Accepted, Size::Small).clone();
            let mut state = State::new(ring, pools, &options, Receive::Single, mail);
            let (ours, _peer) = UnixStream::pair().unwrap();
            let mut socket = Socket::new(ours.into(), Side::Accepted, Life::Open);
            pool.lend(0, 100, |chunk| socket.queue.push_back(chunk));
            // More than the peer's queue takes while it does not read.
            socket.queue.push_back(Chunk::from(Bytes::from(vec![0; 32 << 20])));
            socket.queued_bytes = 100 + (32 << 20);
            let key = state.sockets.insert(socket);
            state.touch(key);
            state.look();
            state.abandon(key);
            assert_eq!(pool.lent(), 1, "it is being sent");
            while state.sockets.get(key).is_some() {
                state.enter(true);
            }
            assert_eq!(pool.lent(), 0);
        });
    }

    /// Otherwise it is about twenty of them, and a peer is woken for each twenty.
    #[test]
    fn behind_a_row_of_sends_one_enter_runs_as_many_receives() {
        const ROW: usize = 60; // a buffer ring begins with 64
        let (mut ring, (mail, _other)) = (Ring::new().unwrap(), UnixStream::pair().unwrap());
        let options = Options { buffers: [64; 2], ..Options::default() };
        let pools = Pools::new(&options).unwrap();
        pools.register(&mut ring).unwrap();
        let mut state = State::new(ring, pools, &options, Receive::Single, mail);
        let mut peers = Vec::new();
        for _ in 0..ROW {
            let (ours, peer) = UnixStream::pair().unwrap();
            let mut socket = Socket::new(ours.into(), Side::Accepted, Life::Open);
            socket.wants_bytes = true;
            let key = state.sockets.insert(socket);
            state.touch(key);
            peers.push((key, peer));
        }
        state.look();
        for (key, peer) in &mut peers {
            peer.write_all(b"request").unwrap();
            let socket = state.sockets.get(*key).unwrap();
            socket.queue.push_back(Chunk::from_static(b"answer"));
            socket.queued_bytes = b"answer".len();
            state.touch(*key);
        }
        state.flush();
        state.enter(true);
        let mut came = 0;
        for (key, _) in &peers {
            came += state.sockets.get(*key).unwrap().received.len();
        }
        assert_eq!(came, ROW);
    }
}
