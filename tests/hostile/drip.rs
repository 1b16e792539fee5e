//! Clients that say one byte at a time, in each phase before their login: a byte renews no
//! deadline. All are cut when their time is over, and honest clients notice nothing.
//!
//! The test is small and its deadlines are short; `tests/drip` runs it with thousands of clients
//! and the deadlines that are the default.

mod phases;

use self::phases::{Phase, Step, phases};
use crate::certificates::{Authority, Folder};
use crate::client::{Client, V5_4};
use crate::process::Process;
use boltmux::synthetic::{Options, Server};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How late a cut may be where times are judged: a tick of the ring, and some patience.
const LATE_MAX: Duration = Duration::from_secs(1);
/// Without that, on a machine that does something else: a renewed deadline would never come.
const LATE_MAX_SMALL: Duration = Duration::from_secs(20);
/// How often it is looked whether a connection was cut.
const LOOK: Duration = Duration::from_millis(50);
/// Looks are spread over so many turns.
const LOOK_TURNS: usize = 5;
const HOST: &str = "bolt.example";

/// How the process is reached.
#[derive(Clone)]
struct Doors {
    plain: SocketAddr,
    balanced: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// One client, as far as it has come.
struct Drip {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    phase: usize,
    said: usize,
    started: Instant,
    dripping_since: Instant,
    cut_after: Option<Duration>,
}

impl Drip {
    /// Says all but what drips, and takes the answers.
    fn start(doors: &Doors, phase: usize, setup: &Phase) -> Drip {
        let address = if setup.is_balanced { doors.balanced } else { doors.plain };
        let started = Instant::now();
        let stream = TcpStream::connect(address).expect("the proxy listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(crate::client::PATIENCE)).unwrap();
        let (said, cut_after, dripping_since) = (0, None, started);
        let mut drip = Drip { stream, tls: None, phase, said, started, dripping_since, cut_after };
        setup.before.iter().for_each(|step| drip.go(step, &doors.tls));
        drip.dripping_since = Instant::now();
        drip.stream.set_nonblocking(true).unwrap();
        drip
    }

    fn go(&mut self, step: &Step, config: &Arc<ClientConfig>) {
        let fresh = || {
            let name = ServerName::try_from(HOST).unwrap();
            Box::new(ClientConnection::new(config.clone(), name).unwrap())
        };
        match step {
            Step::Say(bytes) => self.send(bytes).unwrap(),
            Step::Ask(bytes) => self.ask(bytes),
            Step::Leave(bytes) => {
                self.started = Instant::now();
                self.ask(bytes);
            }
            Step::Encrypt => {
                let mut tls = fresh();
                while tls.is_handshaking() {
                    tls.complete_io(&mut self.stream).expect("TLS is agreed on");
                }
                self.tls = Some(tls);
            }
            Step::HalfEncrypt => {
                fresh().write_tls(&mut self.stream).unwrap();
                self.answer();
            }
            Step::Raw => self.tls = None,
        }
    }

    fn ask(&mut self, bytes: &[u8]) {
        self.send(bytes).unwrap();
        self.answer();
    }

    /// An answer comes in one piece, or its rest is read later.
    fn answer(&mut self) {
        let mut bytes = [0; 4096];
        let count = match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(&mut bytes),
            None => self.stream.read(&mut bytes),
        };
        assert!(count.expect("an answer") > 0, "cut before it was slow");
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.tls {
            Some(tls) => {
                tls.writer().write_all(bytes)?;
                tls.write_tls(&mut self.stream).map(|_| ())
            }
            None => self.stream.write_all(bytes),
        }
    }

    fn say_if_due(&mut self, drips: &[Vec<u8>], between: Duration) {
        if self.dripping_since.elapsed() < between * (self.said as u32 + 1) {
            return;
        }
        if let Some(bytes) = drips.get(self.said % drips.len().max(1)) {
            self.said += 1;
            let _ = self.send(bytes);
        }
    }

    /// Notes the end when it is there; what the proxy says before it does not matter.
    fn look(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(count) if count > 0 => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => {
                    self.cut_after = Some(self.started.elapsed());
                    return;
                }
            }
        }
    }
}

/// Honest clients that ask every so often, and how long each answer took.
fn ask(
    address: SocketAddr,
    clients: usize,
    pause: Duration,
    is_over: &Arc<AtomicBool>,
) -> Vec<Duration> {
    let threads: Vec<_> = (0..clients)
        .map(|number| {
            let is_over = is_over.clone();
            std::thread::spawn(move || {
                let mut client = Client::login(address, V5_4);
                // Not all at the same moment.
                std::thread::sleep(Duration::from_millis(number as u64 % 100));
                let mut times = Vec::new();
                while !is_over.load(Relaxed) {
                    let started = Instant::now();
                    client.expect_well();
                    times.push(started.elapsed());
                    std::thread::sleep(pause);
                }
                times
            })
        })
        .collect();
    let mut all: Vec<Duration> =
        threads.into_iter().flat_map(|thread| thread.join().expect("it is served")).collect();
    all.sort_unstable();
    all
}

fn percentile_99(times: &[Duration]) -> Duration {
    assert!(times.len() >= 100, "{} answers are too few", times.len());
    times[times.len() * 99 / 100]
}

/// How many, and how long; the larger run sets them.
struct Scale {
    drips: usize,
    honest: usize,
    /// Between two requests of an honest client.
    pause: Duration,
    first_bytes: Duration,
    login: Duration,
    /// Between two bytes of one client.
    between: Duration,
    /// Also the times of honest clients are judged.
    is_large: bool,
}

impl Scale {
    fn chosen() -> Scale {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seconds = Duration::from_secs;
        match number("HOSTILE_DRIPS") {
            Some(drips) => Scale {
                drips,
                honest: number("HOSTILE_HONEST").unwrap_or(200),
                pause: Duration::from_millis(100),
                first_bytes: seconds(10),
                login: seconds(30),
                between: seconds(1),
                is_large: true,
            },
            None => Scale {
                drips: 111,
                honest: 8,
                pause: Duration::from_millis(20),
                first_bytes: Duration::from_millis(1000),
                login: Duration::from_millis(2000),
                between: Duration::from_millis(100),
                is_large: false,
            },
        }
    }
}

/// A process with a door for clients, TLS or not, and one for balancers.
fn open(scale: &Scale, uplink: SocketAddr, folder: &Folder) -> (Process, Doors) {
    let authority = Authority::new();
    let own = authority.certificate(&[HOST]);
    let chain = folder.write("own.pem", &[own.key.as_str(), own.chain.as_str()].concat());
    let (first_bytes, login) = (scale.first_bytes.as_millis(), scale.login.as_millis());
    let text = format!(
        "[timeouts]\nfirst_bytes = \"{first_bytes}ms\"\nlogin = \"{login}ms\"\n\
         [pool]\nidle_timeout = \"1s\"\n\
         [[listen]]\nbind = \"127.0.0.1:0\"\ncert = [\"{chain}\"]\n\
         [[listen]]\nbind = \"127.0.0.1:0\"\ncert = [\"{chain}\"]\n\
         proxy_protocol = \"required\"\nproxy_networks = [\"127.0.0.0/8\"]\n"
    );
    let process = Process::start_with_file(&folder.path(""), uplink, &text);
    let (plain, balanced) = (process.address, process.last_address);
    assert_ne!(plain, balanced);
    (process, Doors { plain, balanced, tls: authority.client() })
}

#[test]
fn a_byte_at_a_time_renews_no_deadline() {
    let (scale, phases) = (Scale::chosen(), phases());
    let (server, folder) = (Server::start(Options::default()).unwrap(), Folder::new());
    let (mut process, doors) = open(&scale, server.address(), &folder);
    process.until("the server is known", || process.metric("server_reachable", "") == 1);
    let address = doors.plain;
    let alone = for_a_while(address, &scale, || std::thread::sleep(scale.login / 2));
    let (files, memory, before) = crate::run::at_rest(&process);
    let mut drips = Vec::new();
    let beside = for_a_while(address, &scale, || drips = drip(&doors, &scale, &phases));
    report(&scale, &phases, &drips);
    process.until("all are counted", || {
        process.clients() == 0 && {
            let cut = |closed: &std::collections::BTreeMap<String, u64>| {
                closed.get("login_timeout").copied().unwrap_or_default()
            };
            cut(&process.closed()) - cut(&before) == scale.drips as u64
        }
    });
    crate::run::is_as_before(&mut process, files, memory + (64 << 20));
    let (alone, beside) = (percentile_99(&alone), percentile_99(&beside));
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    println!("99 of 100 honest answers within {alone:?} alone, {beside:?} beside: {ratio:.2}");
    if scale.is_large {
        assert!(beside <= 2 * alone, "honest clients wait more than twice as long");
    }
}

fn for_a_while(address: SocketAddr, scale: &Scale, work: impl FnOnce()) -> Vec<Duration> {
    let is_over = Arc::new(AtomicBool::new(false));
    let (its_end, honest, pause) = (is_over.clone(), scale.honest, scale.pause);
    let asking = std::thread::spawn(move || ask(address, honest, pause, &its_end));
    work();
    is_over.store(true, Relaxed);
    asking.join().expect("honest clients are served")
}

/// All phases side by side, until the last connection was cut.
fn drip(doors: &Doors, scale: &Scale, phases: &[Phase]) -> Vec<Drip> {
    let threads: Vec<_> = (0..phases.len())
        .map(|phase| {
            let (share, more) = (scale.drips / phases.len(), scale.drips % phases.len());
            let count = share + usize::from(phase < more);
            let (between, limit) = (scale.between, scale.login * 2 + LATE_MAX_SMALL);
            let (doors, pause) = (doors.clone(), LOOK * phase as u32 / phases.len() as u32);
            std::thread::spawn(move || {
                std::thread::sleep(pause);
                drip_phase(&doors, phase, count, between, limit)
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().expect("all are cut")).collect()
}

/// Clients that come one after the other, and neither speak nor are looked at all at once: what is
/// judged is the proxy, and it shares its CPUs with this test.
fn drip_phase(
    doors: &Doors,
    phase: usize,
    count: usize,
    between: Duration,
    limit: Duration,
) -> Vec<Drip> {
    let setup = &phases()[phase];
    let (mut drips, started): (Vec<Drip>, _) = (Vec::new(), Instant::now());
    for turn in 0.. {
        if drips.len() < count && turn % LOOK_TURNS == 0 {
            drips.push(Drip::start(doors, phase, setup));
        }
        for (index, drip) in drips.iter_mut().enumerate() {
            if drip.cut_after.is_some() {
                continue;
            }
            drip.say_if_due(&setup.drips, between);
            if (index + turn) % LOOK_TURNS == 0 {
                drip.look();
            }
        }
        if drips.len() == count && drips.iter().all(|drip| drip.cut_after.is_some()) {
            break;
        }
        assert!(started.elapsed() < limit, "{} goes on for ever", setup.name);
        std::thread::sleep(LOOK / LOOK_TURNS as u32);
    }
    drips
}

fn report(scale: &Scale, phases: &[Phase], drips: &[Drip]) {
    assert_eq!(drips.len(), scale.drips);
    for (number, phase) in phases.iter().enumerate() {
        let due = if phase.is_login { scale.login } else { scale.first_bytes };
        let cuts: Vec<Duration> = drips
            .iter()
            .filter(|drip| drip.phase == number)
            .map(|drip| drip.cut_after.expect("all were cut"))
            .collect();
        let (first, last) = (cuts.iter().min().unwrap(), cuts.iter().max().unwrap());
        println!("{}: {} cut after {first:?} to {last:?}", phase.name, cuts.len());
        // A clock that is read at another moment may show a little less.
        assert!(*first + LOOK * 2 >= due, "{}: cut before {due:?}", phase.name);
        let late_max = if scale.is_large { LATE_MAX } else { LATE_MAX_SMALL };
        assert!(*last <= due + late_max, "{}: cut {last:?} after it began", phase.name);
    }
}
