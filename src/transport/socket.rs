//! One socket's slot: what is armed for it, what came, what waits to leave. No system calls.

use crate::transport::buffer::Chunk;
use crate::transport::pools::Size;
use crate::transport::ring::SendFrame;
use crate::transport::wheel::TimerId;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::task::Waker;

/// Names a slot and the socket that was in it: a late completion of a former socket finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub index: u32,
    pub generation: u32,
}

/// Generations have the 24 bits that `user_data` leaves them.
const GENERATION_MASK: u32 = (1 << 24) - 1;

/// What an entry was for: the top byte of `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    Accept,
    Connect,
    Receive,
    Send,
    Poll,
    Cancel,
    Tick,
    Deadline,
    Mail,
    /// Completes only if it failed, and then nothing can be done.
    Silent,
}

const OPERATIONS: [Operation; 10] = {
    use Operation::*;
    [Accept, Connect, Receive, Send, Poll, Cancel, Tick, Deadline, Mail, Silent]
};

pub fn user_data(operation: Operation, key: Key) -> u64 {
    (operation as u64) << 56 | u64::from(key.generation) << 32 | u64::from(key.index)
}

pub fn parse_user_data(data: u64) -> (Operation, Key) {
    (
        OPERATIONS[(data >> 56) as usize],
        Key { index: data as u32, generation: (data >> 32) as u32 & GENERATION_MASK },
    )
}

/// Which buffer ring a socket receives into, so that uploads cannot hold the buffers answers need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Accepted,
    Dialed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiving {
    Off,
    Armed,
    /// A cancel is under way; the last completion is still due.
    Stopping,
    /// Ended for want of buffers; armed again when a quarter of them is back.
    Parked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Connecting,
    Open,
    /// Being handed to another executor: nothing is armed any more, what comes is noticed.
    Leaving,
    /// Nobody owns it; it ends with its last completion.
    Closing,
}

pub struct Socket {
    pub fd: OwnedFd,
    pub side: Side,
    pub life: Life,
    /// Entries whose last completion is due. The slot, the frame and the chunks in flight stay
    /// until 0.
    pub operations: u32,
    pub is_dirty: bool,

    pub receiving: Receiving,
    /// The buffers with which the receive was armed that is under way, or was the last.
    pub size: Size,
    /// Since then bytes came that fill a small buffer, or none was left: the next is a large one.
    pub wants_large: bool,
    pub wants_bytes: bool,
    pub received: VecDeque<Chunk>,
    /// Some of `received` was there at the last tick, and nothing has been taken since.
    pub is_unread: bool,
    /// `Ok` is end-of-file; no receive is armed after either.
    pub end: Option<Result<(), i32>>,
    pub reader: Option<Waker>,

    pub queue: VecDeque<Chunk>,
    pub queued_bytes: usize,
    /// The first chunks of `queue`, which the one send in flight reads; 0 is no send.
    pub in_flight: usize,
    pub frame: Option<Box<SendFrame>>,
    /// The last send found no room for all of it: the next one waits in the kernel.
    pub is_congested: bool,
    pub send_error: Option<i32>,
    /// Runs while the send in flight did not complete at once.
    pub stuck_timer: Option<TimerId>,
    pub is_rescuing: bool,
    pub writer: Option<Waker>,

    pub address: Option<Box<socket2::SockAddr>>,
    pub wants_hangup: bool,
    pub is_polling: bool,
    /// The poll events that came.
    pub hangup: u32,
}

impl Socket {
    pub fn new(fd: OwnedFd, side: Side, life: Life) -> Socket {
        Socket {
            fd,
            side,
            life,
            operations: 0,
            is_dirty: false,
            receiving: Receiving::Off,
            size: Size::Small,
            wants_large: false,
            wants_bytes: false,
            received: VecDeque::new(),
            is_unread: false,
            end: None,
            reader: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            in_flight: 0,
            frame: None,
            is_congested: false,
            send_error: None,
            stuck_timer: None,
            is_rescuing: false,
            writer: None,
            address: None,
            wants_hangup: false,
            is_polling: false,
            hangup: 0,
        }
    }

    /// Takes `sent` bytes off the queue; returns how many of them lay in a ring's buffers.
    pub fn sent(&mut self, mut sent: usize) -> usize {
        let mut relayed = 0;
        self.in_flight = 0;
        self.queued_bytes -= sent;
        while sent > 0 {
            let front = self.queue.front_mut().expect("the kernel sent no more than was queued");
            let count = sent.min(front.len());
            relayed += if front.is_on_ring() { count } else { 0 };
            sent -= count;
            if count < front.len() {
                front.advance(count);
            } else {
                self.queue.pop_front();
            }
        }
        relayed
    }

    /// Forgets what is queued, but for what the kernel reads at this moment.
    pub fn drop_queued(&mut self) {
        self.queue.truncate(self.in_flight);
        self.queued_bytes = self.queue.iter().map(|chunk| chunk.len()).sum();
    }

    /// The fault `Planted::EarlyReturns`: the kernel still reads these buffers.
    pub fn plant_early_returns(&mut self) {
        for chunk in self.queue.iter_mut().take(self.in_flight) {
            *chunk = Chunk::from(bytes::Bytes::copy_from_slice(chunk));
        }
    }
}

/// The shard's sockets by number.
#[derive(Default)]
pub struct Sockets {
    slots: Vec<(u32, Option<Socket>)>,
    free: Vec<u32>,
}

impl Sockets {
    pub fn insert(&mut self, socket: Socket) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.1 = Some(socket);
        Key { index, generation: slot.0 }
    }

    pub fn get(&mut self, key: Key) -> Option<&mut Socket> {
        let (generation, socket) = self.slots.get_mut(key.index as usize)?;
        if *generation == key.generation { socket.as_mut() } else { None }
    }

    pub fn remove(&mut self, key: Key) -> Option<Socket> {
        let (generation, socket) = &mut self.slots[key.index as usize];
        debug_assert_eq!(*generation, key.generation);
        *generation = (*generation + 1) & GENERATION_MASK;
        self.free.push(key.index);
        socket.take()
    }

    pub fn live(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        let live = self.slots.iter().enumerate().filter(|(_, slot)| slot.1.is_some());
        live.map(|(index, slot)| Key { index: index as u32, generation: slot.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn socket() -> Socket {
        let (socket, _) = UnixStream::pair().unwrap();
        Socket::new(socket.into(), Side::Accepted, Life::Open)
    }

    #[test]
    fn a_late_completion_finds_nobody() {
        let mut sockets = Sockets::default();
        let first = sockets.insert(socket());
        sockets.remove(first);
        let second = sockets.insert(socket());
        assert_eq!(first.index, second.index);
        assert!(sockets.get(first).is_none() && sockets.get(second).is_some());
        assert_eq!((sockets.live(), sockets.keys().collect::<Vec<_>>()), (1, vec![second]));
    }

    #[test]
    fn user_data_holds_operation_and_key() {
        for operation in OPERATIONS {
            for key in [(0, 0), (u32::MAX, GENERATION_MASK), (7, 1)] {
                let key = Key { index: key.0, generation: key.1 };
                assert_eq!(parse_user_data(user_data(operation, key)), (operation, key));
            }
        }
    }

    #[test]
    fn what_was_sent_leaves_the_queue_wherever_it_ends() {
        let total = 9;
        for sent in 0..=total {
            let mut socket = socket();
            for bytes in [&b"abc"[..], b"d", b"efghi"] {
                socket.queue.push_back(Chunk::from_static(bytes));
                socket.queued_bytes += bytes.len();
            }
            socket.in_flight = 3;
            assert_eq!(socket.sent(sent), 0, "nothing of it was a ring buffer's");
            let rest: Vec<u8> = socket.queue.iter().flat_map(|chunk| chunk.to_vec()).collect();
            assert_eq!(rest, b"abcdefghi"[sent..]);
            assert_eq!((socket.queued_bytes, socket.in_flight), (total - sent, 0));
        }
    }
}
