//! All shards as the control core sees them: their links, what could not be delivered yet, and the
//! counts they reported last.
//!
//! Nothing here waits. A full ring keeps an order back until `deliver` is called again; of
//! snapshots and certificates only the newest is kept. A permit is never lost: it is held for its
//! shard, or goes on to the next one if that shard has ended.

use crate::backend::permits::Permits;
use crate::control::certificates::Encryption;
use crate::control::link::{Order, ShardLink, Snapshot};
use crate::counters::ShardCounters;
use std::sync::Arc;

pub struct Shards {
    shards: Vec<Shard>,
    permits: Arc<Permits>,
}

struct Shard {
    link: ShardLink,
    latest: ShardCounters,
    reports_seen: u64,
    /// Not delivered yet.
    snapshot: Option<Arc<Snapshot>>,
    encryption: Option<Arc<Encryption>>,
    permits: u32,
    drain: bool,
}

impl Shards {
    pub fn new(links: Vec<ShardLink>, permits: Arc<Permits>) -> Shards {
        let shard = |link| Shard {
            link,
            latest: ShardCounters::default(),
            reports_seen: 0,
            snapshot: None,
            encryption: None,
            permits: 0,
            drain: false,
        };
        Shards { shards: links.into_iter().map(shard).collect(), permits }
    }

    /// Sends the newest view of the server to every shard.
    pub fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        for shard in &mut self.shards {
            shard.snapshot = Some(snapshot.clone());
        }
        self.deliver();
    }

    /// Gives every shard what new connections are to be encrypted with.
    pub fn encrypt(&mut self, encryption: &Arc<Encryption>) {
        for shard in &mut self.shards {
            shard.encryption = Some(encryption.clone());
        }
        self.deliver();
    }

    /// Tells every shard to drain.
    pub fn drain(&mut self) {
        for shard in &mut self.shards {
            shard.drain = true;
        }
        self.deliver();
    }

    /// Gives back a permit that the control core held; a shard that waits for one is told.
    pub fn release(&mut self) {
        // Ends: a shard that is gone announces itself no more.
        while let Some(number) = self.permits.release() {
            if let Some(shard) = self.shards.get_mut(number).filter(|shard| !shard.has_ended()) {
                shard.permits += 1;
                break;
            }
        }
        self.deliver();
    }

    /// Sends what is still to be sent, as far as the rings have room.
    pub fn deliver(&mut self) {
        for shard in &mut self.shards {
            shard.deliver();
        }
    }

    /// Asks every living shard for its counts. Returns what `have_answered` needs to know.
    pub fn ask(&mut self) -> Vec<u64> {
        self.collect();
        for shard in &mut self.shards {
            // A full ring holds a question already.
            if shard.link.orders.push(Order::Report).is_ok() {
                (shard.link.wake)();
            }
        }
        self.shards.iter().map(|shard| shard.reports_seen).collect()
    }

    /// Takes in the reports that have arrived; whether every living shard has sent one since `ask`
    /// returned `before`.
    pub fn have_answered(&mut self, before: &[u64]) -> bool {
        self.collect();
        let mut pairs = self.shards.iter().zip(before);
        pairs.all(|(shard, before)| shard.reports_seen > *before || shard.has_ended())
    }

    /// The latest counts, by shard.
    pub fn counters(&self) -> Vec<ShardCounters> {
        self.shards.iter().map(|shard| shard.latest.clone()).collect()
    }

    /// Grows with every server connection opened and every lease returned, as far as was reported.
    pub fn work_done(&self) -> u64 {
        let counts = self.shards.iter().map(|shard| &shard.latest);
        counts.map(|counts| counts.servers_opened + counts.leases_returned).sum()
    }

    /// The first shard whose thread is gone.
    pub fn ended(&self) -> Option<usize> {
        self.shards.iter().position(Shard::has_ended)
    }

    fn collect(&mut self) {
        for shard in &mut self.shards {
            while let Ok(report) = shard.link.reports.pop() {
                shard.latest = *report;
                shard.reports_seen += 1;
            }
        }
    }
}

impl Shard {
    fn has_ended(&self) -> bool {
        self.link.orders.is_abandoned()
    }

    fn deliver(&mut self) {
        let mut has_sent = false;
        while self.permits > 0 && self.link.orders.push(Order::Permit).is_ok() {
            self.permits -= 1;
            has_sent = true;
        }
        if let Some(snapshot) = &self.snapshot
            && self.link.orders.push(Order::Server(snapshot.clone())).is_ok()
        {
            self.snapshot = None;
            has_sent = true;
        }
        if let Some(encryption) = &self.encryption
            && self.link.orders.push(Order::Encrypt(encryption.clone())).is_ok()
        {
            self.encryption = None;
            has_sent = true;
        }
        if self.drain && self.link.orders.push(Order::Drain).is_ok() {
            self.drain = false;
            has_sent = true;
        }
        if has_sent {
            (self.link.wake)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::link::{ControlLink, LINK_SLOTS, link};

    fn shards(count: usize, limit: u32) -> (Shards, Vec<ControlLink>, Arc<Permits>) {
        let permits = Arc::new(Permits::new(limit));
        let (links, ends) = (0..count).map(|_| link(Box::new(|| ()))).unzip();
        (Shards::new(links, permits.clone()), ends, permits)
    }

    fn named(trouble: &str) -> Arc<Snapshot> {
        Arc::new(Snapshot { trouble: trouble.into(), ..Snapshot::default() })
    }

    #[test]
    fn a_full_ring_keeps_orders_back_and_only_the_newest_snapshot() {
        let (mut shards, mut ends, permits) = shards(1, 1);
        for _ in 0..LINK_SLOTS + 3 {
            shards.ask();
        }
        assert!(permits.try_take());
        permits.announce(0, 7);
        shards.release();
        shards.publish(&named("old"));
        shards.publish(&named("new"));
        shards.drain();
        let reports = std::iter::from_fn(|| ends[0].orders.pop().ok());
        assert!(reports.take(LINK_SLOTS).all(|order| matches!(order, Order::Report)));
        assert!(ends[0].orders.is_empty());
        shards.deliver();
        assert!(matches!(ends[0].orders.pop(), Ok(Order::Permit)));
        let Ok(Order::Server(snapshot)) = ends[0].orders.pop() else { panic!("no snapshot") };
        assert_eq!(snapshot.trouble, "new");
        assert!(matches!(ends[0].orders.pop(), Ok(Order::Drain)));
        shards.deliver();
        assert!(ends[0].orders.is_empty(), "everything is delivered once");
        assert_eq!(permits.open(), 1, "the shard owns the permit");
    }

    #[test]
    fn a_permit_of_a_shard_that_has_ended_goes_on() {
        let (mut shards, mut ends, permits) = shards(2, 1);
        assert!(permits.try_take());
        permits.announce(0, 1);
        permits.announce(1, 1);
        drop(ends.remove(0));
        shards.release();
        assert!(matches!(ends[0].orders.pop(), Ok(Order::Permit)));
        assert_eq!(permits.open(), 1);
        drop(ends);
        shards.release();
        assert_eq!(permits.open(), 0);
        assert_eq!(shards.ended(), Some(0));
    }

    #[test]
    fn counts_are_the_latest_and_the_dead_are_not_waited_for() {
        let (mut shards, mut ends, _) = shards(2, 1);
        let before = shards.ask();
        assert!(!shards.have_answered(&before));
        for accepted in [1, 2] {
            let report = ShardCounters { accepted, ..ShardCounters::default() };
            ends[0].reports.push(Box::new(report)).unwrap();
        }
        assert!(!shards.have_answered(&before));
        assert_eq!(shards.counters()[0].accepted, 2);
        drop(ends.remove(1));
        assert!(shards.have_answered(&before));
    }
}
