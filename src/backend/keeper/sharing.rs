//! Connections and permits that go from shard to shard: lending, borrowing, passing on.

use super::*;
use crate::backend::peers::Lent;

impl Backend {
    pub(super) fn lend(self: &Rc<Self>, id: ServerId, shard: usize) {
        let conn = self.conns.borrow_mut().remove(&id);
        let backend = self.clone();
        self.driver.spawn(async move {
            let passport = backend.pool.borrow_mut().passport(id);
            let detached = match conn {
                Some(conn) => conn.detach().await.map_err(Some),
                None => Err(None),
            };
            match (detached, passport) {
                (Ok(socket), Some((fingerprint, born, expires)))
                    if backend.pool.borrow_mut().detached(id, true) =>
                {
                    let lent = Box::new(Lent { socket, fingerprint, born, expires });
                    backend.tell(shard, PeerMessage::Lend(lent));
                }
                (detached, _) => {
                    // It is closed in order: the other shard's dial is to find room at the server.
                    if let Err(Some(conn)) = detached {
                        backend.conns.borrow_mut().insert(id, conn);
                    }
                    backend.pool.borrow_mut().detached(id, false);
                }
            }
            backend.carry_out();
        });
    }

    fn borrow(self: &Rc<Self>, lent: Lent) {
        let Lent { socket, fingerprint, born, expires } = lent;
        let conn = Stream::adopt(&self.driver, socket);
        self.driver.look(); // whatever lay unread in the socket shows now
        let backend = self.clone();
        if !conn.is_quiet() {
            return self.driver.spawn(async move {
                connection::close(conn, true).await;
                backend.discarded.borrow_mut()[Discard::Unread as usize] += 1;
                backend.permit_arrived();
            });
        }
        let slot = self.pool.borrow_mut().borrowed(fingerprint, born, expires);
        match slot {
            Some(id) => {
                self.keep_idle(id, conn);
                self.pool.borrow_mut().checkin(id, self.now());
                self.carry_out();
            }
            None => self.driver.spawn(async move {
                connection::close(conn, true).await;
                backend.discarded.borrow_mut()[Discard::GivenUp as usize] += 1;
                backend.permit_arrived();
            }),
        }
    }

    /// Another shard, or the control core, passed a permit on.
    pub fn permit_arrived(self: &Rc<Self>) {
        self.pool.borrow_mut().permit_arrived(self.now());
        self.carry_out();
    }

    /// Messages of the other shards.
    pub fn hear_peers(self: &Rc<Self>) {
        loop {
            let message = self.peers.borrow_mut().receive();
            match message {
                None => return,
                Some(PeerMessage::Lend(lent)) => self.borrow(*lent),
                Some(PeerMessage::Permit) => self.permit_arrived(),
                Some(PeerMessage::SomebodyWaits) => {
                    self.pool.borrow_mut().others_wait();
                    self.carry_out();
                }
                Some(message) => self.hear_login(message),
            }
        }
    }

    /// Told once, when all shards run.
    pub fn set_wakes(&self, wakes: &[crate::transport::driver::DriverHandle]) {
        self.peers.borrow_mut().set_wakes(wakes);
    }

    pub(super) fn tell(&self, shard: usize, message: PeerMessage) {
        if !self.peers.borrow_mut().send(shard, message) {
            self.wake_keeper();
        }
    }

    pub(super) fn tell_others(&self, message: impl Fn() -> PeerMessage) {
        let (shard, shards) = (self.shard(), self.peers.borrow().shards());
        (0..shards).filter(|&other| other != shard).for_each(|other| self.tell(other, message()));
    }

    pub(super) fn shard(&self) -> usize {
        self.peers.borrow().shard
    }
}
