//! One core's world: its ring, listener, clients, pools and counters, from start to the end of the
//! drain.

use crate::backend::connection::Target;
use crate::backend::identity::FingerprintKey;
use crate::backend::keeper::{Backend, BackendOptions};
use crate::backend::peers::Peers;
use crate::backend::permits::Permits;
use crate::backend::pool::PoolOptions;
use crate::config::settings::{BindHost, Listen, PoolMode, Settings, TlsMode};
use crate::control::Shutdown;
use crate::control::certificates::Encryption;
use crate::control::link::{ControlLink, Order, Snapshot};
use crate::counters::ShardCounters;
use crate::relay::doors::{Door, TlsMode as DoorTls};
use crate::relay::early::EarlyClients;
use crate::relay::routes::RouteCache;
use crate::relay::session::SessionLimits;
use crate::relay::task;
use crate::relay::world::{RelayOptions, World};
use crate::transport::driver::{self, Driver, DriverHandle};
use crate::transport::http::Health;
use crate::transport::websocket::upgrade::Origins;
use rustls::ServerConfig;
use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

/// How long clients have to take their last bytes after the drain's own limit.
const LAST_BYTES: Duration = Duration::from_millis(1500);
/// How often a draining shard looks whether everybody has gone.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// What a shard is made of; made by `main` for each.
pub struct Parts {
    pub shard: usize,
    pub shards: usize,
    pub settings: Arc<Settings>,
    /// One per address, and which of the settings' listeners it belongs to.
    pub listeners: Vec<(usize, OwnedFd)>,
    pub encryption: Encryption,
    pub permits: Arc<Permits>,
    pub clients: Arc<AtomicU32>,
    pub clients_max: u32,
    pub peers: Peers,
    pub link: ControlLink,
    pub shutdown: Shutdown,
    /// Secret of this process, for fingerprints.
    pub secret: [u8; 32],
    /// Where the shard says that it runs, or why it does not.
    pub started: mpsc::Sender<Result<(usize, DriverHandle), String>>,
    /// How the others are woken; comes once all shards run.
    pub wakes: mpsc::Receiver<Vec<DriverHandle>>,
}

/// Runs until an order to drain has been carried out. Call it inside the shard's executor.
pub async fn run(parts: Parts) {
    let driver = match Driver::start(driver_options(&parts.settings)) {
        Ok(driver) => driver,
        Err(error) => {
            let _ = parts.started.send(Err(error));
            return;
        }
    };
    let _ = parts.started.send(Ok((parts.shard, driver.handle())));
    let Ok(wakes) = parts.wakes.recv() else { return };
    let world = make_world(
        &parts.settings,
        &driver,
        &parts.permits,
        parts.peers,
        Cells {
            shard: parts.shard,
            shards: parts.shards,
            clients: parts.clients,
            clients_max: parts.clients_max,
            secret: parts.secret,
        },
    );
    encrypt(&world, &parts.encryption);
    world.backend.set_wakes(&wakes);
    let (link, shutdown) = (Rc::new(RefCell::new(parts.link)), parts.shutdown);
    let (mut listeners, mut seen) = (Some(parts.listeners), 0);
    loop {
        world.backend.hear_peers();
        #[cfg(test)]
        assert_ne!((shutdown.planted_panic.load(Relaxed), parts.shard), (2, 0), "planted");
        // The control core's order would do, if it could be sure to live.
        if hear_orders(&world, &link) || shutdown.drain.load(Relaxed) {
            break;
        }
        // Who connects earlier waits in the listeners' queues: until the server has been looked at,
        // be it in vain, nothing true can be answered.
        if world.has_news.get() {
            let doors = doors(&parts.settings);
            for (place, listener) in listeners.take().into_iter().flatten() {
                let number = driver.listen(listener);
                driver.spawn(task::accept(world.clone(), number, doors[place].clone()));
            }
        }
        seen = driver.mail(seen).await;
    }
    drain(&world, &link, parts.settings.timeouts.drain).await;
}

/// What `make_world` needs besides settings.
struct Cells {
    shard: usize,
    shards: usize,
    clients: Arc<AtomicU32>,
    clients_max: u32,
    secret: [u8; 32],
}

fn make_world(
    settings: &Settings,
    driver: &Rc<Driver>,
    permits: &Arc<Permits>,
    peers: Peers,
    cells: Cells,
) -> Rc<World> {
    let target = Target {
        addresses: Vec::new(),
        name: format!("{}:{}", settings.uplink.host, settings.uplink.port),
        connect_within: settings.timeouts.connect,
        login_within: settings.timeouts.login,
        tls: None,
        proxy_protocol: settings.uplink.proxy_protocol,
    };
    let options = BackendOptions {
        pool: PoolOptions {
            acquisition_timeout: settings.pool.acquisition_timeout,
            max_lifetime: settings.pool.max_lifetime,
            max_lifetime_jitter_percent: settings.pool.max_lifetime_jitter,
            idle_timeout: settings.pool.idle_timeout,
            liveness_check: settings.pool.liveness_check,
            reauth: settings.pool.reauth.then_some(settings.pool.approval_ttl),
            claim: settings.pool.size / cells.shards as u32,
        },
        approval_ttl: settings.pool.approval_ttl,
        reset_within: settings.timeouts.reset,
    };
    let mut seed = [0; 8];
    seed.copy_from_slice(&cells.secret[..8]);
    let seed = u64::from_le_bytes(seed) ^ cells.shard as u64;
    let backend = Backend::start(driver.clone(), permits.clone(), peers, target, options, seed);
    let fingerprints = FingerprintKey::new(&cells.secret);
    Rc::new(World {
        driver: driver.clone(),
        backend,
        options: relay_options(settings, &cells),
        routes: RefCell::new(RouteCache::new(settings.pool.approval_ttl)),
        raw: Rc::new(fingerprints.raw()),
        fingerprints,
        counters: RefCell::default(),
        clients: cells.clients,
        told: Cell::new(0),
        health: RefCell::new(Health { version: env!("CARGO_PKG_VERSION"), ..Health::default() }),
        is_draining: Cell::new(false),
        is_over: Cell::new(false),
        serial: Cell::new(0),
        holders: RefCell::default(),
        kept: Cell::new(0),
        condemned: Cell::new(None),
        has_news: Cell::new(false),
        early: EarlyClients::default(),
        tls: RefCell::default(),
    })
}

/// The conditions of each listener, in their order in the settings.
fn doors(settings: &Settings) -> Vec<Rc<Door>> {
    let door = |(place, listen): (usize, &Listen)| {
        Rc::new(Door {
            place,
            tls: match listen.tls.effective_mode() {
                TlsMode::Off => DoorTls::Off,
                TlsMode::Optional => DoorTls::Optional,
                TlsMode::Required => DoorTls::Required,
            },
            balancers: listen.proxy_protocol.then(|| listen.proxy_networks.clone()),
            is_unix: matches!(listen.bind.host, BindHost::Unix(_)),
            origins: match listen.websocket_origins.is_empty() {
                true => Origins::Any,
                false => Origins::Listed(listen.websocket_origins.clone()),
            },
            ping_every: settings.timeouts.websocket_ping,
        })
    };
    settings.listen.iter().enumerate().map(door).collect()
}

fn relay_options(settings: &Settings, cells: &Cells) -> RelayOptions {
    let timeouts = &settings.timeouts;
    RelayOptions {
        is_session_mode: settings.pool.mode == PoolMode::Session,
        // Behind TLS it would come too late: such connections are dialled before their client is
        // known.
        tells_clients: settings
            .uplink
            .proxy_protocol
            .filter(|_| settings.uplink.encryption == crate::config::settings::Encryption::Off),
        versions: settings.uplink.versions.clone(),
        first_bytes_within: timeouts.first_bytes,
        login_within: timeouts.login,
        message_within: timeouts.message,
        client_idle: timeouts.client_idle,
        limits: SessionLimits {
            login_message: settings.limits.login_message as usize,
            idle_in_transaction: timeouts.idle_in_transaction,
            transaction: timeouts.transaction,
            query: timeouts.query,
            reset: timeouts.reset,
        },
        clients_max: cells.clients_max,
        held_bytes_max: settings.limits.held_bytes as usize,
        shards: cells.shards as u64,
        shard: cells.shard as u64,
    }
}

fn driver_options(settings: &Settings) -> driver::Options {
    let transport = &settings.transport;
    driver::Options {
        credit_bytes: transport.credit,
        wants_bundles: transport.bundles,
        busy_poll: transport.busy_poll,
        buffers: [transport.buffers_client, transport.buffers_server],
        buffer_bytes: transport.buffer_size,
        queue_bytes_max: transport.credit as usize,
        heap_bytes_max: settings.limits.heap_bytes as usize,
        ..driver::Options::default()
    }
}

/// The control core's orders; true if one of them is to drain.
fn hear_orders(world: &Rc<World>, link: &RefCell<ControlLink>) -> bool {
    loop {
        let order = link.borrow_mut().orders.pop();
        match order {
            Err(_) => return false,
            Ok(Order::Drain) => return true,
            Ok(Order::Server(snapshot)) => see_server(world, &snapshot),
            Ok(Order::Encrypt(encryption)) => encrypt(world, &encryption),
            Ok(Order::Permit) => world.backend.permit_arrived(),
            Ok(Order::Report) => {
                let report = Box::new(report(world));
                // If nobody reads, the next one will do.
                let _ = link.borrow_mut().reports.push(report);
            }
        }
    }
}

/// New connections are encrypted so from now on. Configurations become the shard's own, so that no
/// shard writes what another reads.
fn encrypt(world: &World, encryption: &Encryption) {
    let own = |config: &Option<Arc<ServerConfig>>| {
        config.as_ref().map(|config| Arc::new(ServerConfig::clone(config)))
    };
    world.tls.replace(encryption.listeners.iter().map(own).collect());
    world.backend.set_tls(encryption.uplink.as_ref());
}

fn see_server(world: &World, snapshot: &Snapshot) {
    world.backend.set_server(snapshot.addresses.clone(), snapshot.known.as_ref());
    world.note_news();
    if world.options.shard == 0 && snapshot.known.is_some() && world.offered().is_empty() {
        tracing::warn!(
            "uplink.versions names none of the Bolt versions that the server speaks: no client \
             can be served; name one of them, or leave the key out"
        );
    }
    let agent = snapshot.known.as_ref().map(|known| known.agent.clone());
    let mut health = world.health.borrow_mut();
    health.healthy = snapshot.is_reachable;
    health.servers_known = 1;
    health.servers_up = snapshot.is_reachable.into();
    health.server_versions = agent.into_iter().collect();
}

/// Finishes what is open, within the limit; then ends what is left.
async fn drain(world: &Rc<World>, link: &RefCell<ControlLink>, limit: Duration) {
    let driver = &world.driver;
    driver.stop_listening();
    world.health.borrow_mut().draining = true;
    world.drain();
    let (started, mut is_over) = (driver.now(), false);
    loop {
        let passed = driver.now() - started;
        let (leased, idle, busy) = world.backend.pool().census();
        let is_empty = world.clients_here() == 0 && leased + idle + busy == 0;
        if is_empty || passed > limit + LAST_BYTES {
            return;
        }
        if passed > limit && !std::mem::replace(&mut is_over, true) {
            world.end();
        }
        world.backend.hear_peers();
        hear_orders(world, link);
        driver.sleep(DRAIN_LOOK).await;
    }
}

/// The shard's counters, copied.
fn report(world: &World) -> ShardCounters {
    let clients = world.counters.borrow();
    let pool = world.backend.pool();
    let driver = world.driver.counters();
    let (leased, idle, busy) = pool.census();
    ShardCounters {
        accepted: clients.accepted,
        clients_logging_in: clients.logging_in,
        clients_serving: clients.serving,
        clients_by_layers: clients.entered_now,
        entered: clients.entered,
        clients_waiting: pool.waiters() as u64,
        closed: clients.closed,
        discarded: world.backend.discarded(),
        servers_leased: leased as u64,
        servers_idle: idle as u64,
        servers_busy: busy as u64,
        servers_opened: pool.counters.opened,
        servers_closed: pool.counters.closed,
        servers_borrowed: pool.counters.borrowed,
        servers_turned_over: pool.counters.turned_over,
        servers_lent: pool.counters.lent,
        leases_acquired: pool.counters.acquired,
        leases_returned: pool.counters.returned,
        leases_waited: pool.counters.waited,
        dial_failures: pool.counters.dial_failures,
        double_returns: pool.counters.double_returns,
        failures_made: clients.failures_made,
        relayed_bytes: driver.relayed_bytes,
        copied_bytes: driver.copied_bytes,
        heap_bytes: driver.heap_bytes as u64,
        buffers_kept: world.kept.get() as u64,
        accept_pauses: driver.accept_pauses,
        over_budget: driver.over_budget,
        enters: driver.enters,
        pauses_caught: driver.pauses_caught,
        tls_handshakes: driver.tls_handshakes,
    }
}
