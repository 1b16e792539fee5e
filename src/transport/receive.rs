//! Receiving: bytes that came, credit, and what happens when there is no buffer.
//!
//! Every receive ends by itself after its credit and is armed again only when a task asks: not
//! asking is the back-pressure. Invariant: a socket is `Parked` exactly while its key waits in
//! `parked`.

use crate::transport::buffer::{Chunk, Pool, enqueue};
use crate::transport::pools::{self, SMALL_BYTES, Size};
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

/// A credit in small buffers: a large message has had so many bytes in small pieces before it gets
/// large buffers, and a small one arms a receive a hundred times less often than it comes.
const SMALL_CREDIT: u32 = WAITING_CHUNKS_MAX as u32 * SMALL_BYTES;

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
        let (how, size) = fitting(how, std::mem::take(&mut self.wants_large));
        self.size = size;
        let group = pools::group(self.side, size);
        ring.receive(self.fd.as_raw_fd(), group, how, user_data(Operation::Receive, key));
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
        self.pools.large.iter().any(is_half_lent)
            || self.heap.bytes_held() > self.heap.bytes_max() / 4
    }

    /// Whether one more request may wait in the buffer it came in, beside `kept` that do. Small
    /// buffers may be kept while a quarter of them is free: who finds none takes a large one. Of
    /// the clients' large ones a quarter may be kept: that alone neither presses the shard nor
    /// keeps those parked from what they are waiting for. None while half of them are out: what
    /// moves needs the others.
    pub fn may_keep(&self, chunk: &Chunk, kept: usize) -> bool {
        let pool = &self.pools.large[Side::Accepted as usize];
        match chunk.pool() {
            Some(own) if !Rc::ptr_eq(own, pool) => !is_low(own),
            _ => kept < usize::from(pool.entries() / 4) && pool.lent() <= pool.entries() / 2,
        }
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
        socket.wants_large |= length >= SMALL_BYTES;
        pools.of(socket.side, socket.size).lend(first, length, |chunk| match is_taken {
            true => enqueue(&mut socket.received, chunk),
            false => drop(chunk),
        });
        counters.received_bytes[side] += u64::from(length);
        counters.lent_max[side] = counters.lent_max[side].max(pools.lent_of(socket.side));
        if is_running && socket.received.len() > WAITING_CHUNKS_MAX {
            socket.receiving = Receiving::Stopping;
            socket.operations += 1;
            counters.stopped_receives += 1;
            let target = user_data(Operation::Receive, key);
            ring.cancel(target, user_data(Operation::Cancel, key));
        }
    }

    /// The kernel found no buffer and ended the receive: on with a deeper ring, with a large buffer
    /// where the small ones are out, or wait.
    fn without_buffer(&mut self, key: Key) {
        let socket = self.sockets.get(key).expect("a slot outlives its operations");
        let side = socket.side as usize;
        let has_more = self.pools.of(socket.side, socket.size).deepen();
        self.counters.deepened += u64::from(has_more);
        if has_more || socket.size == Size::Small {
            socket.wants_bytes = true;
            socket.wants_large |= !has_more;
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
        for side in 0..self.parked.len() {
            if self.parked[side].is_empty() || is_low(&self.pools.large[side]) {
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

/// What a receive takes its buffers from: who has filled a small one since the last receive was
/// armed gets large ones, and bundles of them. Kernels that take one receive for one buffer get
/// large ones always: each small one would cost a system call.
fn fitting(how: Receive, wants_large: bool) -> (Receive, Size) {
    match how {
        Receive::Limited { total, .. } if !wants_large => {
            (Receive::Limited { bundle: false, total: total.min(SMALL_CREDIT) }, Size::Small)
        }
        _ => (how, Size::Large),
    }
}

/// Whether less than a quarter of a pool is left.
pub fn is_low(pool: &Pool) -> bool {
    pool.free() < pool.entries() / 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::options::Options;
    use crate::transport::pools::Pools;
    use crate::transport::ring::bounded;
    use crate::transport::selftest;
    use crate::transport::socket::Life;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    const LARGE: usize = 4096;
    const SMALL: usize = SMALL_BYTES as usize;

    fn shard(how: Receive, large: u16) -> (State, UnixStream) {
        let (mut ring, (mail, other)) = (Ring::new().unwrap(), UnixStream::pair().unwrap());
        let buffer_bytes = LARGE as u32;
        let options = Options { buffers: [large; 2], buffer_bytes, ..Options::default() };
        let pools = Pools::new(&options).unwrap();
        pools.register(&mut ring).unwrap();
        (State::new(ring, pools, &options, how, mail), other)
    }

    fn connection(state: &mut State) -> (Key, UnixStream) {
        connection_of(state, Side::Accepted)
    }

    fn connection_of(state: &mut State, side: Side) -> (Key, UnixStream) {
        let (ours, peer) = UnixStream::pair().unwrap();
        (state.sockets.insert(Socket::new(ours.into(), side, Life::Open)), peer)
    }

    fn ask(state: &mut State, key: Key) {
        state.sockets.get(key).unwrap().wants_bytes = true;
        state.touch(key);
        state.flush();
    }

    /// Bytes of the completions with which `length` bytes come, by a receive that ends with them.
    fn pieces(state: &mut State, key: Key, mut peer: &UnixStream, length: usize) -> Vec<usize> {
        peer.write_all(&vec![7; length]).unwrap();
        let (mut pieces, mut left) = (Vec::new(), length);
        while left > 0 {
            ask(state, key);
            state.pools.all().for_each(|pool| pool.refill());
            state.ring.enter(1).unwrap();
            for cqe in state.ring.completions() {
                pieces.push(cqe.result as usize);
                left -= cqe.result as usize;
                state.handle(cqe);
            }
            state.sockets.get(key).unwrap().received.clear();
        }
        pieces
    }

    /// Elsewhere all buffers are large: `fitting` is tested on every kernel.
    fn where_receives_can_be_limited(test: impl FnOnce() + Send + 'static) {
        match selftest::abilities().limited {
            true => bounded(test),
            false => println!("not tested: receives cannot be limited on this kernel"),
        }
    }

    #[test]
    fn small_buffers_are_for_limited_receives_of_who_filled_none() {
        let limited = |bundle, total| Receive::Limited { bundle, total };
        assert_eq!(fitting(Receive::Single, false), (Receive::Single, Size::Large));
        assert_eq!(fitting(limited(true, 1 << 18), true), (limited(true, 1 << 18), Size::Large));
        let small = (limited(false, SMALL_CREDIT), Size::Small);
        assert_eq!(fitting(limited(true, 1 << 18), false), small);
        assert_eq!(fitting(limited(true, 4096), false), (limited(false, 4096), Size::Small));
    }

    #[test]
    fn who_fills_small_buffers_gets_large_ones() {
        where_receives_can_be_limited(|| {
            const CREDIT: usize = SMALL_CREDIT as usize;
            let bundle = selftest::abilities().bundles;
            let how = Receive::Limited { bundle, total: SMALL_CREDIT };
            let (mut state, _mail) = shard(how, 16);
            let (key, peer) = connection(&mut state);
            let large = if bundle { vec![CREDIT] } else { vec![LARGE; CREDIT / LARGE] };
            let all = |state: &mut State| pieces(state, key, &peer, CREDIT);
            assert_eq!(all(&mut state), vec![SMALL; CREDIT / SMALL], "nothing is known yet");
            assert_eq!(all(&mut state), large, "small ones were filled");
            assert_eq!(all(&mut state), large, "and were again");
            for _ in 0..CREDIT / 64 {
                assert_eq!(pieces(&mut state, key, &peer, 64), [64]);
            }
            assert_eq!(all(&mut state), vec![SMALL; CREDIT / SMALL], "short ones came between");
            assert_eq!(state.pools.lent(), [0, 0]);
        });
    }

    /// Four large buffers, sixteen small ones: the 21st waits.
    #[test]
    fn who_finds_no_small_buffer_takes_a_large_one() {
        where_receives_can_be_limited(|| {
            let how = Receive::Limited { bundle: false, total: SMALL_CREDIT };
            let (mut state, _mail) = shard(how, 4);
            let connections: Vec<_> = (0..21).map(|_| connection(&mut state)).collect();
            let small = state.pools.of(Side::Accepted, Size::Small).clone();
            let large = state.pools.of(Side::Accepted, Size::Large).clone();
            for (number, (key, peer)) in connections.iter().enumerate() {
                ask(&mut state, *key);
                { peer }.write_all(b"short").unwrap();
                for _ in 0..4 {
                    state.look();
                }
                let lent = (small.lent(), large.lent());
                let number = number as u16 + 1;
                assert_eq!(lent, (number.min(16), number.saturating_sub(16).min(4)));
            }
            assert_eq!(state.counters.parked, 1);
            let socket = |state: &mut State, at: usize| {
                let socket = state.sockets.get(connections[at].0).unwrap();
                socket.received.iter().map(|chunk| chunk.to_vec()).collect::<Vec<_>>()
            };
            assert!((0..20).all(|at| socket(&mut state, at) == [b"short"]));
            assert!(socket(&mut state, 20).is_empty());
            // Large ones come back: it gets one of them.
            state.sockets.get(connections[19].0).unwrap().received.clear();
            state.unpark();
            for _ in 0..4 {
                state.look();
            }
            assert_eq!(socket(&mut state, 20), [b"short"]);
        });
    }

    /// Connections whose bytes differ from those of all others, and from their own elsewhere.
    struct Crowd {
        state: State,
        members: Vec<Member>,
        kept: Vec<(usize, usize, Chunk)>,
        seed: u64,
    }

    struct Member {
        key: Key,
        peer: UnixStream,
        sent: usize,
        came: usize,
    }

    fn byte_of(number: usize, position: usize) -> u8 {
        ((number << 32 ^ position).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
    }

    impl Crowd {
        fn random(&mut self, below: usize) -> usize {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.seed >> 33) as usize % below
        }

        fn send(&mut self, number: usize, length: usize) {
            let Member { peer, sent, .. } = &mut self.members[number];
            let bytes: Vec<u8> =
                (*sent..*sent + length).map(|position| byte_of(number, position)).collect();
            peer.write_all(&bytes).unwrap();
            *sent += length;
        }

        /// Takes what has come; a part of a chunk may stay and the rest go.
        fn take(&mut self, number: usize) {
            let key = self.members[number].key;
            while let Some(mut chunk) = self.state.sockets.get(key).unwrap().take_received() {
                let came = &mut self.members[number].came;
                let start = std::mem::replace(came, *came + chunk.len());
                check(number, start, &chunk);
                let (at, rest) = (self.random(chunk.len()), self.random(3));
                let front = chunk.split_to(at);
                match rest {
                    0 => self.kept.push((number, start, front)),
                    1 => self.kept.push((number, start + at, chunk)),
                    _ => {
                        self.kept.push((number, start + at, chunk));
                        self.kept.push((number, start, front));
                    }
                }
            }
        }

        /// Lets chunks go, whichever; until then their bytes have been the same.
        fn let_go(&mut self, kept_max: usize) {
            while self.kept.len() > kept_max {
                let which = self.random(self.kept.len());
                let (number, start, chunk) = self.kept.swap_remove(which);
                check(number, start, &chunk);
            }
        }
    }

    fn check(number: usize, start: usize, bytes: &[u8]) {
        let is_own = |(at, &byte): (usize, &u8)| byte == byte_of(number, start + at);
        let wrong = bytes.iter().enumerate().find(|&place| !is_own(place));
        assert!(wrong.is_none(), "{wrong:?} of {} from {start} of {number}", bytes.len());
    }

    /// Of both sides and in buffers of both sizes, so few that all of them go round and round.
    #[test]
    fn every_byte_is_of_its_own_connection_however_long_chunks_are_kept() {
        where_receives_can_be_limited(|| {
            const LENGTHS: [usize; 8] =
                [1, 60, 300, SMALL - 1, SMALL, SMALL + 1, LARGE, 2 * LARGE + 5];
            // Most of the 16 small and 4 large buffers: a chunk is kept until they have gone round.
            const KEPT_MAX: usize = 12;
            for bundle in [false, selftest::abilities().bundles] {
                let how = Receive::Limited { bundle, total: 4 * LARGE as u32 };
                let (mut state, _mail) = shard(how, 4);
                let members = (0..10).map(|number| {
                    let side = [Side::Accepted, Side::Dialed][number % 2];
                    let (key, peer) = connection_of(&mut state, side);
                    Member { key, peer, sent: 0, came: 0 }
                });
                let members: Vec<_> = members.collect();
                let mut crowd = Crowd { state, members, kept: Vec::new(), seed: 1 };
                let mut sends = 3000;
                while sends > 0 || crowd.members.iter().any(|member| member.came < member.sent) {
                    let number = crowd.random(crowd.members.len());
                    let Member { key, sent, came, .. } = crowd.members[number];
                    if sends > 0 && sent - came < 4 * LARGE {
                        sends -= 1;
                        let length = LENGTHS[crowd.random(LENGTHS.len())];
                        crowd.send(number, length);
                    }
                    ask(&mut crowd.state, key);
                    crowd.state.unpark();
                    crowd.state.look();
                    let before = crowd.kept.len();
                    (0..crowd.members.len()).for_each(|number| crowd.take(number));
                    // Those that nothing comes for may wait for a buffer.
                    let has_come = crowd.kept.len() > before;
                    crowd.let_go(if has_come { KEPT_MAX } else { before.saturating_sub(1) });
                }
                crowd.let_go(0);
                assert_eq!(crowd.state.pools.lent(), [0, 0]);
            }
        });
    }

    #[test]
    fn requests_are_kept_while_others_find_buffers() {
        let (state, _mail) = shard(Receive::Single, 16);
        let of = |size| state.pools.of(Side::Accepted, size);
        let take = |size, ids: std::ops::Range<u16>| {
            let mut taken = Vec::new();
            ids.for_each(|id| of(size).lend(id, 1, |chunk| taken.push(chunk)));
            taken
        };
        let kept = take(Size::Large, 0..1).remove(0);
        assert!(state.may_keep(&kept, 3) && !state.may_keep(&kept, 4), "a quarter of 16");
        // A ring of 64 small ones: as many as that leaves 16.
        let small = take(Size::Small, 0..48);
        assert!(state.may_keep(&small[0], 1000));
        let _one_more = take(Size::Small, 48..49);
        assert!(!state.may_keep(&small[0], 0) && state.may_keep(&kept, 0));
    }
}
