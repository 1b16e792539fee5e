//! What a client's exchange changes outside: bytes to both sockets, the lease, the login.

use crate::backend::cleaner::Cleaner;
use crate::backend::identity::{Identity, Profile, is_shareable};
use crate::backend::keeper::LeaseOrTicket;
use crate::backend::lease::Lease;
use crate::backend::pool::Ticket;
use crate::relay::close::CloseReason;
use crate::relay::exchange::{Effects, Leased, Remainder};
use crate::relay::session::{Action, Release};
use crate::relay::world::World;
use crate::transport::buffer::Chunk;
use crate::transport::stream::Stream;
use crate::wire::message::Auth;
use bytes::Bytes;
use std::ops::Range;
use std::rc::Rc;

/// What the exchange's effects change.
pub struct Outside {
    pub world: Rc<World>,
    pub client: u64,
    pub lease: Option<Lease>,
    pub ticket: Option<Ticket>,
    pub login: Option<Rc<Identity>>,
    pub closing: Option<CloseReason>,
    /// Of a client that must not share its connections.
    pub is_private: Option<Rc<Identity>>,
}

impl Outside {
    /// The client leaves whatever it waits for; a lease that is left is closed by its drop.
    pub fn part(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.world.backend.withdraw(ticket);
        }
        if self.login.take().is_some() {
            self.world.backend.stop_asking(self.client);
        }
        self.lease = None;
        self.retire();
    }

    fn retire(&mut self) {
        if let Some(identity) = self.is_private.take() {
            self.world.backend.retire(identity.fingerprint);
        }
    }

    /// The same credentials, for this client alone.
    pub fn make_private(&mut self, identity: &Identity) -> Rc<Identity> {
        let (profile, auth) = (identity.profile.clone(), identity.auth.clone());
        self.own(Rc::new(self.world.fingerprints.identity(profile, auth, Some(self.client))))
    }

    /// Keeps in mind that nobody else will use this identity's connections.
    pub fn own(&mut self, identity: Rc<Identity>) -> Rc<Identity> {
        self.is_private = Some(identity.clone());
        identity
    }
}

/// Both sides' sockets, what has waited, and ranges of the present chunk that go on together.
pub struct Wires<'a> {
    pub stream: &'a Stream,
    pub chunk: Option<&'a Chunk>,
    /// Requests that lie behind each other go on as one piece, however many they are.
    pub kept: Option<Chunk>,
    pub up: Range<usize>,
    pub down: Range<usize>,
    /// Our own short answers that go on together: an event may make very many.
    pub own: Vec<u8>,
    pub outside: &'a mut Outside,
}

/// A message of ours that is longer goes by itself.
const JOINED_BYTES_MAX: usize = 1 << 10;
/// So much of our own answers to one event is nobody's business; more counts for the shard's heap
/// budget, as whatever else waits for a client.
const UNCOUNTED_BYTES_MAX: usize = 4 << 10;

impl Wires<'_> {
    pub fn flush(&mut self) {
        self.flush_up();
        self.flush_own();
        self.flush_down();
    }

    fn flush_own(&mut self) {
        let own = std::mem::take(&mut self.own);
        if !own.is_empty() {
            self.send_own(own.into());
        }
    }

    /// Over the budget the client's connection fails: answers are missing.
    fn send_own(&self, bytes: Bytes) {
        let chunk = match bytes.len() <= UNCOUNTED_BYTES_MAX {
            true => Some(Chunk::from(bytes)),
            false => Chunk::on_budget(bytes.into(), &self.outside.world.driver.heap()),
        };
        match chunk {
            Some(chunk) => self.stream.send([chunk]),
            None => self.stream.fail_send(),
        }
    }

    fn flush_up(&mut self) {
        if let (Some(kept), Some(lease)) = (self.kept.take(), &self.outside.lease) {
            lease.conn().send([kept]);
        }
        let range = std::mem::take(&mut self.up);
        if let (Some(chunk), Some(lease)) = (self.chunk, &self.outside.lease)
            && !range.is_empty()
        {
            lease.conn().send([chunk.slice(range)]);
        }
    }

    fn flush_down(&mut self) {
        let range = std::mem::take(&mut self.down);
        if let Some(chunk) = self.chunk
            && !range.is_empty()
        {
            self.stream.send([chunk.slice(range)]);
        }
    }

    fn log_in(&mut self, profile: Profile, auth: Auth) {
        let outside = &mut *self.outside;
        let owner = (!is_shareable(&auth.scheme)).then_some(outside.client);
        let identity = outside.world.fingerprints.identity(profile, auth, owner);
        let identity = outside.world.backend.known_identity(identity);
        outside.login = Some(identity.clone());
        outside.world.backend.log_in(&identity, outside.client);
    }
}

impl Effects for Wires<'_> {
    fn to_server(&mut self, range: Range<usize>) {
        if self.up.end == range.start && !self.up.is_empty() {
            self.up.end = range.end;
        } else {
            self.flush_up();
            self.up = range;
        }
    }

    fn to_server_copied(&mut self, bytes: Bytes) {
        self.flush_up();
        if let Some(lease) = &self.outside.lease {
            self.outside.world.driver.note_copied(bytes.len());
            lease.conn().send([Chunk::from(bytes)]);
        }
    }

    /// Only buffers of the ring: bytes of TLS have been copied already, and the whole of what was
    /// decrypted at once would stay for a part of it.
    fn keep(&mut self, range: Range<usize>) -> Option<Chunk> {
        let world = &self.outside.world;
        let chunk = self.chunk.filter(|chunk| chunk.is_on_ring())?;
        world.driver.may_keep(chunk, world.kept.get()).then(|| chunk.slice(range))
    }

    fn to_server_kept(&mut self, chunk: Chunk) {
        if !self.kept.as_mut().is_some_and(|kept| kept.try_join(&chunk)) {
            self.flush_up();
            self.kept = Some(chunk);
        }
    }

    fn to_client(&mut self, range: Range<usize>) {
        if self.down.end == range.start && !self.down.is_empty() {
            self.down.end = range.end;
        } else {
            self.flush_own();
            self.flush_down();
            self.down = range;
        }
    }

    fn to_client_copied(&mut self, bytes: Bytes) {
        self.flush_down();
        self.outside.world.driver.note_copied(bytes.len());
        if bytes.len() <= JOINED_BYTES_MAX {
            return self.own.extend_from_slice(&bytes);
        }
        self.flush_own();
        self.send_own(bytes);
    }

    fn acquire(&mut self, identity: &Rc<Identity>) -> Leased {
        self.flush();
        match self.outside.world.backend.acquire(identity) {
            Ok(LeaseOrTicket::Lease(lease)) => {
                self.outside.lease = Some(lease);
                Leased::Now
            }
            Ok(LeaseOrTicket::Ticket(ticket)) => {
                self.outside.ticket = Some(ticket);
                Leased::MustWait
            }
            Err(refusal) => Leased::Refused(refusal),
        }
    }

    fn release(&mut self, how: Release, remainder: Remainder<'_>) {
        self.flush();
        let Some(lease) = self.outside.lease.take() else { return };
        match how {
            Release::Clean => lease.check_in(),
            Release::Dirty(due) => {
                let cleaner = Cleaner::new(remainder.scanner, remainder.loose, due);
                lease.clean(cleaner, remainder.bytes);
            }
            Release::Broken(why) => lease.discard(why),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Withdraw => {
                if let Some(ticket) = self.outside.ticket.take() {
                    self.outside.world.backend.withdraw(ticket);
                }
            }
            Action::LogIn(login) => {
                let (profile, auth) = *login;
                self.log_in(profile, auth);
            }
            Action::LoggedOff => self.outside.retire(),
            Action::Revoke(failure, identity) => {
                self.outside.world.backend.revoke(identity.fingerprint, failure);
            }
            Action::Close(why) => self.outside.closing = Some(why),
            Action::Answer(_) | Action::ResetServer | Action::Release(_) | Action::DropHeld(_) => {}
        }
    }
}
