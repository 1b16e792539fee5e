//! How shards reach each other: one bounded, wait-free ring per pair of them, and a wake through
//! the other's io_uring.

use crate::backend::approval::{LoginOutcome, Verdict};
use crate::backend::identity::Fingerprint;
use crate::transport::conn::IdleSocket;
use crate::transport::driver::DriverHandle;
use rtrb::{Consumer, Producer, RingBuffer};
use std::collections::VecDeque;
use std::time::Duration;

/// Messages under way from one shard to another. Above it they wait in the sender, whose number is
/// bounded by its connections and its clients.
const PEER_SLOTS: usize = 256;

/// From one shard to another.
pub enum PeerMessage {
    /// An idle connection, with its permit.
    Lend(Box<Lent>),
    /// A permit of the server's limit.
    Permit,
    /// The sender waits for a connection; look at the waiting word.
    SomebodyWaits,
    /// May this client in? To the shard that looks after the identity.
    Ask { key: Fingerprint, client: u64, shard: usize },
    /// The answer to `Ask`.
    Answer { key: Fingerprint, client: u64, verdict: Verdict },
    /// A login has ended; to the identity's shard.
    Report { key: Fingerprint, outcome: LoginOutcome },
    /// What `client` waited for, and when it was decided; from the identity's shard. By then it may
    /// ask for another identity.
    Outcome { key: Fingerprint, client: u64, outcome: LoginOutcome, at: Duration },
    /// The server no longer accepts this identity; to every shard.
    Revoke { key: Fingerprint, outcome: LoginOutcome },
    /// A dial's login succeeded; to the identity's shard.
    Renew { key: Fingerprint },
}

/// An idle server connection as a plain value.
pub struct Lent {
    pub socket: IdleSocket,
    pub fingerprint: Fingerprint,
    /// Of the process's monotonic clock.
    pub born: Duration,
    pub expires: Duration,
}

/// One shard's ends.
pub struct Peers {
    pub shard: usize,
    outgoing: Vec<Option<Outgoing>>,
    incoming: Vec<Consumer<PeerMessage>>,
}

struct Outgoing {
    ring: Producer<PeerMessage>,
    /// What found the ring full.
    backlog: VecDeque<PeerMessage>,
    wake: Option<DriverHandle>,
}

impl Peers {
    /// The ends of every shard, in order.
    pub fn connect(shards: usize) -> Vec<Peers> {
        let empty = |shard| Peers { shard, outgoing: Vec::new(), incoming: Vec::new() };
        let mut all: Vec<Peers> = (0..shards).map(empty).collect();
        for from in 0..shards {
            for to in 0..shards {
                if from == to {
                    all[from].outgoing.push(None);
                    continue;
                }
                let (ring, incoming) = RingBuffer::new(PEER_SLOTS);
                let outgoing = Outgoing { ring, backlog: VecDeque::new(), wake: None };
                all[from].outgoing.push(Some(outgoing));
                all[to].incoming.push(incoming);
            }
        }
        all
    }

    /// Tells how to wake the other shards, once all of them run.
    pub fn set_wakes(&mut self, wakes: &[DriverHandle]) {
        for (outgoing, wake) in self.outgoing.iter_mut().zip(wakes) {
            if let Some(outgoing) = outgoing {
                outgoing.wake = Some(wake.clone());
            }
        }
    }

    pub fn shards(&self) -> usize {
        self.outgoing.len()
    }

    /// Sends, or keeps until `flush` finds room and returns false; wakes the other shard.
    pub fn send(&mut self, to: usize, message: PeerMessage) -> bool {
        let Some(Some(outgoing)) = self.outgoing.get_mut(to) else { return true };
        outgoing.backlog.push_back(message);
        outgoing.flush();
        outgoing.backlog.is_empty()
    }

    /// Sends what found a ring full; false if something still does. Nobody tells when there is room
    /// again: try soon.
    pub fn flush(&mut self) -> bool {
        self.outgoing.iter_mut().flatten().for_each(Outgoing::flush);
        self.outgoing.iter().flatten().all(|outgoing| outgoing.backlog.is_empty())
    }

    /// The next message of any shard.
    pub fn receive(&mut self) -> Option<PeerMessage> {
        self.flush();
        self.incoming.iter_mut().find_map(|incoming| incoming.pop().ok())
    }
}

impl Outgoing {
    fn flush(&mut self) {
        let mut has_sent = false;
        while let Some(message) = self.backlog.pop_front() {
            if let Err(rtrb::PushError::Full(message)) = self.ring.push(message) {
                self.backlog.push_front(message);
                break;
            }
            has_sent = true;
        }
        if has_sent && let Some(wake) = &self.wake {
            wake.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_found_the_ring_full_is_sent_later_and_in_order() {
        let mut shards = Peers::connect(2);
        let (mut second, mut first) = (shards.pop().unwrap(), shards.pop().unwrap());
        let count = PEER_SLOTS as u64 * 2 + 1;
        for client in 0..count {
            let key = Fingerprint([1; 32]);
            first.send(1, PeerMessage::Ask { key, client, shard: 0 });
        }
        let mut heard = Vec::new();
        let mut is_flushed = false;
        while !is_flushed {
            assert!(heard.len() < count as usize);
            while let Some(PeerMessage::Ask { client, .. }) = second.receive() {
                heard.push(client);
            }
            is_flushed = first.flush();
        }
        while let Some(PeerMessage::Ask { client, .. }) = second.receive() {
            heard.push(client);
        }
        assert_eq!(heard, (0..count).collect::<Vec<_>>());
    }
}
