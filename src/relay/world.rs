//! What all clients of one shard share.

use crate::backend::identity::{FingerprintKey, Identity};
use crate::backend::keeper::Backend;
use crate::relay::close::CloseReason;
use crate::relay::early::EarlyClients;
use crate::relay::routes::RouteCache;
use crate::relay::session::SessionLimits;
use crate::transport::driver::Driver;
use crate::transport::http::Health;
use crate::transport::proxy_protocol;
use crate::transport::stream::Layers;
use crate::wire::handshake::{self, Choice, Proposal};
use crate::wire::version::Version;
use rustls::ServerConfig;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The configuration's part in a client's life.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// One server connection per client instead of one per transaction.
    pub is_session_mode: bool,
    /// Session mode: how the server is told where each client comes from, if it is.
    pub tells_clients: Option<proxy_protocol::Version>,
    /// `uplink.versions`: empty for all that the server speaks.
    pub versions: Vec<Version>,
    pub first_bytes_within: Duration,
    /// From accept to the end of the login.
    pub login_within: Duration,
    /// Without progress inside one message.
    pub message_within: Duration,
    pub client_idle: Option<Duration>,
    pub limits: SessionLimits,
    /// `limits.clients`, of the whole process.
    pub clients_max: u32,
    /// `limits.held_bytes`, per client.
    pub held_bytes_max: usize,
    /// Shards, for connection ids that differ between them.
    pub shards: u64,
    pub shard: u64,
}

/// Counts of this shard's clients.
#[derive(Clone, Debug, Default)]
pub struct ClientCounters {
    pub accepted: u64,
    pub logging_in: u64,
    pub serving: u64,
    /// Clients whose handshake has come, by `Layers`: now, and since the start.
    pub entered_now: [u64; Layers::ALL.len()],
    pub entered: [u64; Layers::ALL.len()],
    pub waiting: u64,
    pub closed: [u64; CloseReason::ALL.len()],
    pub failures_made: u64,
}

/// Session mode: clients of one shard that are told at a time why they are not served. They are let
/// through the handshake for that; whoever comes beyond is closed without a word.
pub const TOLD_MAX: u32 = 32;

/// See the module.
pub struct World {
    pub driver: Rc<Driver>,
    pub backend: Rc<Backend>,
    pub options: RelayOptions,
    pub routes: RefCell<RouteCache>,
    pub fingerprints: FingerprintKey,
    /// Session mode's connections: no identity of their own until the client gives them one.
    pub raw: Rc<Identity>,
    pub counters: RefCell<ClientCounters>,
    /// Clients of the whole process; written at accept and close.
    pub clients: Arc<AtomicU32>,
    /// Clients that are told why they are not served.
    pub told: Cell<u32>,
    pub health: RefCell<Health>,
    pub is_draining: Cell<bool>,
    /// Draining has taken long enough.
    pub is_over: Cell<bool>,
    pub serial: Cell<u64>,
    /// Clients that bytes are held for, and how many.
    pub holders: RefCell<HashMap<u64, usize>>,
    /// Clients whose requests wait in the buffer they came in.
    pub kept: Cell<usize>,
    /// Who is to be closed because the shard holds too much.
    pub condemned: Cell<Option<u64>>,
    /// What new clients are encrypted with, by listener, in the settings' order.
    pub tls: RefCell<Vec<Option<Arc<ServerConfig>>>>,
    /// The control core has said something of the server.
    pub has_news: Cell<bool>,
    /// Clients that wait for such a word.
    pub early: EarlyClients,
}

impl World {
    /// A number for a new client, unique in the process.
    pub fn next_serial(&self) -> u64 {
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        serial * self.options.shards + self.options.shard
    }

    /// What clients are offered: what the servers speak, and a good guess before that is known; of
    /// that only what the configuration names, in its order.
    pub fn offered(&self) -> Vec<Version> {
        let spoken = match self.backend.known() {
            Some(known) if !known.versions.is_empty() => known.versions.clone(),
            _ => Version::DEFAULT_OFFER.to_vec(),
        };
        let preferred = &self.options.versions;
        if preferred.is_empty() {
            return spoken;
        }
        preferred.iter().copied().filter(|version| spoken.contains(version)).collect()
    }

    /// How a client's classic proposals are answered.
    pub fn choose(&self, proposals: &[Proposal; 4], offered: &[Version]) -> Choice {
        match self.options.versions.is_empty() {
            true => handshake::choose(proposals, offered),
            false => handshake::choose_preferred(proposals, offered),
        }
    }

    /// The control core has looked at the server.
    pub fn note_news(&self) {
        self.has_news.set(true);
        self.early.wake(|| self.driver.note_wake());
    }

    /// Lets open transactions end and closes READY clients.
    pub fn drain(&self) {
        self.is_draining.set(true);
        self.early.wake(|| self.driver.note_wake());
        self.backend.drain();
        self.driver.wake_readers();
    }

    /// Notes what is held for a client. Over the budget: who holds most, and is to be closed for
    /// it.
    pub fn note_holder(&self, client: u64, bytes: usize, is_in_budget: bool) -> Option<u64> {
        let mut holders = self.holders.borrow_mut();
        match bytes {
            0 => drop(holders.remove(&client)),
            _ => drop(holders.insert(client, bytes)),
        }
        if is_in_budget {
            return None;
        }
        let (&largest, _) = holders.iter().max_by_key(|(_, bytes)| **bytes)?;
        if largest != client {
            self.condemned.set(Some(largest));
            drop(holders);
            self.driver.wake_readers();
        }
        Some(largest)
    }

    /// Counts a client that begins or ends to keep a buffer from its ring.
    pub fn note_kept(&self, is_kept: bool) {
        let kept = self.kept.get();
        self.kept.set(if is_kept { kept + 1 } else { kept - 1 });
    }

    /// Whether this client is the one to be closed for what it holds.
    pub fn is_condemned(&self, client: u64) -> bool {
        let is_condemned = self.condemned.get() == Some(client);
        if is_condemned {
            self.condemned.set(None);
        }
        is_condemned
    }

    /// Closes whoever is left.
    pub fn end(&self) {
        self.is_over.set(true);
        self.driver.wake_readers();
    }

    /// Clients of this shard.
    pub fn clients_here(&self) -> u64 {
        let counters = self.counters.borrow();
        counters.logging_in + counters.serving
    }
}

/// One client in the counts, from its accept to its close.
pub struct Present {
    world: Rc<World>,
    is_serving: Cell<bool>,
    /// Whether it counts for `limits.clients`: one that is not served does not.
    is_counted: Cell<bool>,
    is_told: Cell<bool>,
    layers: Cell<Option<Layers>>,
    pub is_too_many: bool,
}

impl Present {
    pub fn enter(world: &Rc<World>) -> Present {
        let count = world.clients.fetch_add(1, Ordering::Relaxed);
        let mut counters = world.counters.borrow_mut();
        (counters.accepted, counters.logging_in) = (counters.accepted + 1, counters.logging_in + 1);
        let present = Present {
            world: world.clone(),
            is_serving: Cell::new(false),
            is_counted: Cell::new(true),
            is_told: Cell::new(false),
            layers: Cell::new(None),
            is_too_many: count >= world.options.clients_max,
        };
        if present.is_too_many {
            present.uncount();
        }
        present
    }

    /// Makes room to tell it why it is not served; false if there is none.
    pub fn tell(&self) -> bool {
        let told = self.world.told.get();
        if told >= TOLD_MAX {
            return false;
        }
        self.uncount();
        self.is_told.set(true);
        self.world.told.set(told + 1);
        true
    }

    /// Its handshake has come, through these layers.
    pub fn note_layers(&self, layers: Layers) {
        let mut counters = self.world.counters.borrow_mut();
        counters.entered[layers as usize] += 1;
        counters.entered_now[layers as usize] += 1;
        self.layers.set(Some(layers));
    }

    /// The login is done.
    pub fn serve(&self) {
        if !self.is_serving.replace(true) {
            let mut counters = self.world.counters.borrow_mut();
            counters.logging_in -= 1;
            counters.serving += 1;
        }
    }

    pub fn close(&self, why: CloseReason) {
        self.world.counters.borrow_mut().closed[why as usize] += 1;
    }

    fn uncount(&self) {
        if self.is_counted.replace(false) {
            self.world.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.uncount();
        if self.is_told.get() {
            self.world.told.set(self.world.told.get() - 1);
        }
        let mut counters = self.world.counters.borrow_mut();
        if let Some(layers) = self.layers.get() {
            counters.entered_now[layers as usize] -= 1;
        }
        match self.is_serving.get() {
            true => counters.serving -= 1,
            false => counters.logging_in -= 1,
        }
    }
}
