//! The whole proxy in one value: shards on their CPUs, the control core beside them, and the drain.

use crate::backend::peers::Peers;
use crate::backend::permits::{Permits, SHARDS_MAX};
use crate::config::Problems;
use crate::config::exit;
use crate::config::settings::{BindHost, PoolMode, Settings};
use crate::control::admin::CONNECTIONS_MAX as OPERATORS_MAX;
use crate::control::certificates::{Certificates, Encryption};
use crate::control::link::{ControlLink, LINK_SLOTS, ShardLink};
use crate::control::{self, Shutdown, places};
use crate::relay::world::TOLD_MAX;
use crate::shard;
use crate::transport::driver::DriverHandle;
use crate::transport::listener::{self, SocketFile};
use crate::transport::runtime;
use rtrb::RingBuffer;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// A shard that has not said by then whether it runs has hung, and so has the control core if it
/// has told nothing of the server.
const START_WITHIN: Duration = Duration::from_secs(20);
/// Descriptors beside clients, server connections, shards and operators: the control core's rings,
/// a probe, standard streams, files that are read. Measured 12, and more to spare.
const FILES_RESERVED: u64 = 32;
/// What a shard has open beside its listeners: its executor's rings and its own. Measured 9.
const FILES_PER_SHARD: u64 = 12;

/// Fewer are not worth a start.
const CLIENTS_MIN: u64 = 16;

/// Why the proxy does not run: the exit status and one line.
#[derive(Debug)]
pub struct StartError {
    pub status: u8,
    pub text: String,
}

/// A running proxy.
pub struct Proxy {
    addresses: Vec<SocketAddr>,
    /// Of Unix sockets; they go with the proxy.
    files: Vec<SocketFile>,
    admin: Vec<SocketAddr>,
    shards: Vec<Watched>,
    control: Watched,
    wakes: Vec<DriverHandle>,
    shutdown: Shutdown,
}

/// A thread of the proxy has panicked: a mistake in the program.
#[derive(Debug)]
pub struct Failure {
    /// Without the control core shards serve on. With a shard the permits of its connections are
    /// lost, and its clients hang: the program should end.
    pub is_shard: bool,
    /// One line.
    pub text: String,
}

/// Waits for a thread of the proxy; true if it has ended without a panic.
type Watched = std::thread::JoinHandle<bool>;

impl Proxy {
    /// Binds, starts one shard per CPU and the control core, and returns when all of them run.
    pub fn start(settings: Settings) -> Result<Proxy, StartError> {
        Proxy::start_and_tell(settings, mpsc::channel().0)
    }

    /// The same; `told` hears of threads that panic later.
    pub fn start_and_tell(
        settings: Settings,
        told: mpsc::Sender<Failure>,
    ) -> Result<Proxy, StartError> {
        let wrong =
            |problems: Problems| StartError { status: exit::USAGE, text: problems.to_string() };
        let certificates = Certificates::read(&settings).map_err(wrong)?;
        let overlaps = places::overlaps(&settings);
        if !overlaps.is_empty() {
            return Err(wrong(overlaps));
        }
        let files = crate::transport::raise_open_files_limit()
            .map_err(|error| refused(format!("cannot read the open-files limit: {error}")))?;
        let cpus = runtime::allowed_cpus();
        let shards = settings.shards.unwrap_or_else(|| shards_of(cpus.len()));
        let Bound { rows, addresses, files: socket_files } = bind(&settings, shards)?;
        let clients_max = clients_max(&settings, files, &rows)?;
        let settings = Arc::new(settings);
        let permits = Arc::new(Permits::new(settings.pool.size));
        let launch = Launch {
            settings: settings.clone(),
            permits,
            clients: Arc::new(AtomicU32::new(0)),
            clients_max,
            encryption: certificates.encryption(),
            secret: secret()?,
            cpus,
            shutdown: Shutdown::default(),
        };
        let (shards, links, wakes) = launch.shards(rows)?;
        let shutdown = launch.shutdown.clone();
        let mut options = control::Options::from(&*settings);
        options.certificates = Some(certificates);
        let failed = |text| StartError { status: exit::FAILED, text };
        let control = control::start(options, links, launch.permits, shutdown.clone());
        let control = control.map_err(|trouble| match trouble {
            control::Trouble::Refused(text) => refused(text),
            control::Trouble::Failed(text) => failed(text),
        })?;
        // The shards accept from then on: they know the server, or that it cannot be reached.
        control
            .looked
            .recv_timeout(START_WITHIN)
            .map_err(|_| failed("the control core did not look at the server".into()))?;
        let numbered = shards.into_iter().enumerate();
        let shards = numbered
            .map(|(number, join)| watch(Some(number), join, told.clone(), shutdown.clone()));
        Ok(Proxy {
            addresses,
            files: socket_files,
            admin: control.admin,
            shards: shards.collect(),
            control: watch(None, control.thread, told, shutdown.clone()),
            wakes,
            shutdown,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// All places where it listens, as operators write them.
    pub fn places(&self) -> Vec<String> {
        let files = self.files.iter().map(|file| format!("unix:{}", file.path().display()));
        self.addresses.iter().map(SocketAddr::to_string).chain(files).collect()
    }

    /// Finishes what is open, within `timeouts.drain`, and returns when every shard has ended; true
    /// if no thread has panicked since the start.
    pub fn drain(self) -> bool {
        self.shutdown.drain.store(true, Ordering::Relaxed);
        self.wakes.iter().for_each(DriverHandle::ring);
        let mut is_well = true;
        for shard in self.shards {
            is_well &= shard.join().unwrap_or(false);
        }
        self.shutdown.end.store(true, Ordering::Relaxed);
        is_well & self.control.join().unwrap_or(false)
    }

    /// Reads all certificates anew, soon.
    pub fn reload(&self) {
        self.shutdown.reload.store(true, Ordering::Relaxed);
    }

    /// Where operators are answered.
    pub fn admin(&self) -> &[SocketAddr] {
        &self.admin
    }
}

/// One per CPU, as many as there may be.
fn shards_of(cpus: usize) -> usize {
    if cpus > SHARDS_MAX {
        tracing::info!(
            "{SHARDS_MAX} of {cpus} CPUs are used, one for each shard: there is no more"
        );
    }
    cpus.clamp(1, SHARDS_MAX)
}

/// What all shards are made from.
struct Launch {
    settings: Arc<Settings>,
    permits: Arc<Permits>,
    clients: Arc<AtomicU32>,
    clients_max: u32,
    encryption: Encryption,
    secret: [u8; 32],
    cpus: Vec<usize>,
    shutdown: Shutdown,
}

/// Waits for a thread, on one of its own; `number` is that of a shard. A panic is told unless the
/// drain has begun: then its end is wanted.
fn watch(
    number: Option<usize>,
    join: runtime::JoinHandle<()>,
    told: mpsc::Sender<Failure>,
    shutdown: Shutdown,
) -> Watched {
    std::thread::spawn(move || {
        let Err(error) = join.join() else { return true };
        let text = match number {
            Some(number) => format!("shard {number} has failed, and its clients with it: {error}"),
            None => format!("the control core has failed, clients are served on: {error}"),
        };
        if !shutdown.drain.load(Ordering::Relaxed) {
            let _ = told.send(Failure { is_shard: number.is_some(), text }); // if anybody listens
        }
        false
    })
}

/// The threads of shards, and how they are reached.
type Shards = (Vec<runtime::JoinHandle<()>>, Vec<ShardLink>, Vec<DriverHandle>);

type Started = Result<(usize, DriverHandle), String>;

impl Launch {
    /// One executor per shard, each with a listener of every row.
    fn shards(&self, listeners: Rows) -> Result<Shards, StartError> {
        let shards = listeners.first().map_or(0, |(_, row)| row.len());
        let (started, starting) = mpsc::channel::<Started>();
        let (mut joins, mut links, mut wakes) = (Vec::new(), Vec::new(), Vec::new());
        let mut rows: Vec<_> =
            listeners.into_iter().map(|(place, row)| (place, row.into_iter())).collect();
        for (shard, peers) in Peers::connect(shards).into_iter().enumerate() {
            let (orders, order_queue) = RingBuffer::new(LINK_SLOTS);
            let (report_queue, reports) = RingBuffer::new(LINK_SLOTS);
            let (wake, woken) = mpsc::channel();
            let parts = shard::Parts {
                shard,
                shards,
                settings: self.settings.clone(),
                listeners: next_of_each(&mut rows),
                encryption: self.encryption.clone(),
                permits: self.permits.clone(),
                clients: self.clients.clone(),
                clients_max: self.clients_max,
                peers,
                link: ControlLink { orders: order_queue, reports: report_queue },
                shutdown: self.shutdown.clone(),
                secret: self.secret,
                started: started.clone(),
                wakes: woken,
            };
            let cpu = self.cpus[shard % self.cpus.len()];
            let run = move || shard::run(parts);
            let join = runtime::start_executor(&format!("shard-{shard}"), Some(cpu), run)
                .map_err(|error| refused(error.to_string()))?;
            joins.push(join);
            links.push((orders, reports));
            wakes.push(wake);
        }
        drop(started);
        let handles = match gather(&starting, shards) {
            Ok(handles) => handles,
            Err(error) => {
                drop(wakes); // lets the shards end that have started
                let failed = joins.into_iter().find_map(|join| join.join().err());
                return Err(failed.map_or(error, |error| refused(error.to_string())));
            }
        };
        wakes.iter().for_each(|wake| drop(wake.send(handles.clone())));
        let links = links.into_iter().zip(handles.clone());
        let links = links.map(|((orders, reports), handle)| {
            let wake = Box::new(move || handle.ring());
            ShardLink { orders, reports, wake }
        });
        Ok((joins, links.collect(), handles))
    }
}

/// One shard's listeners: the next one of each row.
fn next_of_each(rows: &mut [(usize, impl Iterator<Item = OwnedFd>)]) -> Vec<(usize, OwnedFd)> {
    rows.iter_mut().filter_map(|(place, row)| Some((*place, row.next()?))).collect()
}

/// Waits until every shard runs.
fn gather(
    starting: &mpsc::Receiver<Started>,
    shards: usize,
) -> Result<Vec<DriverHandle>, StartError> {
    let mut handles = Vec::new();
    for _ in 0..shards {
        match starting.recv_timeout(START_WITHIN) {
            Ok(Ok(handle)) => handles.push(handle),
            Ok(Err(text)) => return Err(refused(text)),
            Err(_) => return Err(refused("a shard did not start".into())),
        }
    }
    handles.sort_by_key(|(shard, _)| *shard);
    Ok(handles.into_iter().map(|(_, handle)| handle).collect())
}

/// One row of listeners per address, one listener per shard in it, and its place in the settings.
type Rows = Vec<(usize, Vec<OwnedFd>)>;

/// Everything that is listened on.
#[derive(Default)]
struct Bound {
    rows: Rows,
    addresses: Vec<SocketAddr>,
    files: Vec<SocketFile>,
}

fn bind(settings: &Settings, shards: usize) -> Result<Bound, StartError> {
    let failed = |text| StartError { status: exit::FAILED, text };
    let mut bound = Bound::default();
    for (place, listen) in settings.listen.iter().enumerate() {
        if let BindHost::Unix(path) = &listen.bind.host {
            let made = listener::bind_unix(path, listen.unix_mode, shards).map_err(failed)?;
            bound.rows.push((place, made.0.into_iter().map(OwnedFd::from).collect()));
            bound.files.push(made.1);
            continue;
        }
        for address in places::resolve(&listen.bind).map_err(failed)? {
            let row = listener::bind_family(address, shards, listen.ipv6_only).map_err(failed)?;
            bound.addresses.extend(row.first().and_then(|first| first.local_addr().ok()));
            bound.rows.push((place, row.into_iter().map(OwnedFd::from).collect()));
        }
    }
    Ok(bound)
}

/// `limits.clients`, or what the open-files limit leaves. A connection of the pool is a descriptor,
/// in session mode, too: there up to `pool.size` clients have one beside their own. Those who are
/// only told there why they are not served have one as well and do not count as clients.
fn clients_max(settings: &Settings, files: u64, rows: &Rows) -> Result<u32, StartError> {
    let shards = rows.first().map_or(0, |(_, row)| row.len()) as u64;
    let listeners: u64 = rows.iter().map(|(_, row)| row.len() as u64).sum();
    let operators = settings.admin.bind.as_ref().map_or(0, |_| OPERATORS_MAX as u64);
    let is_session_mode = settings.pool.mode == PoolMode::Session;
    let told = if is_session_mode { u64::from(TOLD_MAX) * shards } else { 0 };
    let own = FILES_RESERVED + FILES_PER_SHARD * shards + listeners + operators + told;
    let left = files.saturating_sub(own + u64::from(settings.pool.size));
    if left < CLIENTS_MIN {
        return Err(refused(format!(
            "the open-files limit of {files} is too small for pool.size = {} and {shards} \
             shard(s): {own} are for boltmux itself; raise it (ulimit -n), make the pool smaller \
             or take fewer shards",
            settings.pool.size
        )));
    }
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    let wanted = settings.limits.clients.unwrap_or(left);
    if wanted > left {
        tracing::warn!(
            "limits.clients = {wanted} is more than the open-files limit of {files} has room for: \
             {left} clients are let in at a time; raise the limit (ulimit -n)"
        );
    }
    Ok(wanted.min(left))
}

fn secret() -> Result<[u8; 32], StartError> {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret)
        .map_err(|_| refused("the system gives no random bytes".into()))?;
    Ok(secret)
}

fn refused(text: String) -> StartError {
    StartError { status: exit::REFUSED, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bind;
    use std::net::Ipv4Addr;

    /// A row of `shards` descriptors for each listener.
    fn rows(listeners: usize, shards: usize) -> Rows {
        let open = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        (0..listeners).map(|place| (place, (0..shards).map(|_| open()).collect())).collect()
    }

    #[test]
    fn clients_get_what_shards_listeners_pool_and_operators_leave() {
        let mut settings = Settings::default();
        settings.pool.size = 50;
        let most = |settings: &Settings, files, rows| clients_max(settings, files, &rows).unwrap();
        let one = most(&settings, 1000, rows(1, 1));
        assert_eq!(u64::from(one), 1000 - 50 - FILES_RESERVED - FILES_PER_SHARD - 1);
        let many = most(&settings, 1000, rows(2, 24));
        assert_eq!(u64::from(one - many), 23 * FILES_PER_SHARD + 2 * 24 - 1);
        // A client's own server connection is one of the pool's; whoever is told that there is none
        // has a descriptor of its own.
        settings.pool.mode = PoolMode::Session;
        assert_eq!(most(&settings, 1000, rows(1, 1)), one - TOLD_MAX);
        assert_eq!(most(&settings, 1000, rows(1, 2)), one - 2 * TOLD_MAX - 13);
        settings.pool.mode = PoolMode::Transaction;
        settings.admin.bind = Some(settings.listen[0].bind.clone());
        assert_eq!(most(&settings, 1000, rows(1, 1)), one - 64);
        settings.limits.clients = Some(100);
        assert_eq!(most(&settings, 1000, rows(1, 1)), 100);
        assert_eq!(most(&settings, 200, rows(1, 1)), 200 - 50 - 64 - 45);
        let refusal = clients_max(&settings, 256, &rows(1, 24)).unwrap_err();
        assert_eq!(refusal.status, exit::REFUSED);
        assert!(refusal.text.contains("24 shard(s)"), "{}", refusal.text);
    }

    #[test]
    fn a_panic_is_told_and_the_drain_ends_all_the_same() {
        for (planted, is_shard) in [(1, false), (2, true)] {
            let mut settings = Settings { shards: Some(2), ..Settings::default() };
            let host = BindHost::Address(Ipv4Addr::LOCALHOST.into());
            settings.listen[0].bind = Bind { host: host.clone(), port: 0 };
            // Nobody listens there.
            (settings.uplink.host, settings.uplink.port) = ("127.0.0.1".into(), 1);
            let (told, failures) = mpsc::channel();
            let proxy = Proxy::start_and_tell(settings, told).unwrap();
            proxy.shutdown.planted_panic.store(planted, Ordering::Relaxed);
            proxy.wakes.iter().for_each(DriverHandle::ring);
            let failure = failures.recv_timeout(START_WITHIN).unwrap();
            assert_eq!(failure.is_shard, is_shard, "{failure:?}");
            let (told, drained) = mpsc::channel();
            std::thread::spawn(move || told.send(proxy.drain()));
            assert!(!drained.recv_timeout(START_WITHIN).expect("the drain ends"));
        }
    }
}
