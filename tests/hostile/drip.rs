//! Clients that say one byte at a time, in each phase before their login: a byte renews no
//! deadline. All are cut when their time is over, and honest clients notice nothing.
//!
//! The test is small and its deadlines are short; `tests/drip` runs it with thousands of clients
//! and the deadlines that are the default.

use crate::client::{Client, MAGIC, PASSWORD, V5_4, chunked, encode, hello, logon, proposals};
use crate::frames::{BINARY, PING, frame, request};
use crate::process::Process;
use boltmux::synthetic::{Options, Server};
use boltmux::wire::message::tag;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How late a cut may be: a tick of the ring, and a machine that does something else.
const LATE_MAX: Duration = Duration::from_secs(1);
/// How often it is looked whether a connection was cut.
const LOOK: Duration = Duration::from_millis(50);
const MASK: [u8; 4] = [0xA5, 0x0F, 0x3C, 0x81];

/// Where a client begins to say one byte at a time.
struct Phase {
    name: &'static str,
    /// Said at once, in this order; each part is answered before the next is said.
    before: Vec<Vec<u8>>,
    /// Said byte by byte, from the beginning again when all is said.
    drips: Vec<u8>,
    /// Whether the deadline is that of the login, or of the first bytes.
    is_login: bool,
}

fn phases() -> Vec<Phase> {
    let upgrade = || (request() + "\r\n").into_bytes();
    let framed = |bytes: &[u8]| frame(BINARY, bytes, MASK);
    let agreed = || proposals(&[V5_4.to_bytes()]);
    let long = encode(tag::HELLO, &[(*"x".repeat(7000)).into()]);
    let long_logon = encode(tag::LOGON, &[(*"x".repeat(7000)).into()]);
    let greeting = || hello(V5_4, "neo4j", PASSWORD);
    let entered = || [greeting(), logon("neo4j", PASSWORD)].concat();
    let phase = |name, before, drips, is_login| Phase { name, before, drips, is_login };
    let get = [b"GET /".to_vec(), vec![b'a'; 6000]].concat();
    let unfinished = request() + "X: ";
    vec![
        phase("says nothing", vec![], vec![], false),
        phase("the magic and proposals of zero", vec![], [&MAGIC[..], &[0; 15]].concat(), false),
        phase("a path of HTTP", vec![], get, false),
        phase("a head of an upgrade", vec![], unfinished.into_bytes(), false),
        phase(
            "a frame",
            vec![upgrade()],
            [&[0x02, 0xFE, 16, 0, 0, 0, 0, 0], &MAGIC[..]].concat(),
            false,
        ),
        phase("Pings behind WebSocket", vec![upgrade()], frame(PING, b"", MASK), false),
        phase(
            "a choice out of the manifest",
            vec![proposals(&[[0, 0, 1, 0xFF]])],
            [&[0, 0, 8, 5][..], &[0x80; 9]].concat(),
            false,
        ),
        phase("no-ops before HELLO", vec![agreed()], vec![0], true),
        phase("a long HELLO", vec![agreed()], long.clone(), true),
        phase("a HELLO in chunks of a byte", vec![agreed()], chunked(&long[2..100], 1), true),
        phase("a HELLO behind WebSocket", vec![upgrade(), framed(&agreed())], framed(&long), true),
        phase("no-ops before LOGON", vec![agreed(), greeting()], vec![0], true),
        phase("a long LOGON", vec![agreed(), greeting()], long_logon.clone(), true),
        phase(
            "a LOGON after LOGOFF",
            vec![agreed(), entered(), encode(tag::LOGOFF, &[])],
            long_logon,
            true,
        ),
    ]
}

/// One client, as far as it has come.
struct Drip {
    stream: TcpStream,
    phase: usize,
    said: usize,
    started: Instant,
    cut_after: Option<Duration>,
}

impl Drip {
    /// Says all but what drips, and takes the answers.
    fn start(address: SocketAddr, phase: usize, setup: &Phase) -> Drip {
        let mut started = Instant::now();
        let mut stream = TcpStream::connect(address).expect("the proxy listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        for part in &setup.before {
            if part == &encode(tag::LOGOFF, &[]) {
                started = Instant::now(); // from here on it is a stranger again
            }
            stream.write_all(part).unwrap();
            // Answers come in one piece, or the rest is read later.
            let _ = stream.read(&mut [0; 4096]);
        }
        stream.set_nonblocking(true).unwrap();
        Drip { stream, phase, said: 0, started, cut_after: None }
    }

    fn say(&mut self, drips: &[u8]) {
        if let Some(byte) = drips.get(self.said % drips.len().max(1)) {
            self.said += 1;
            let _ = self.stream.write(&[*byte]);
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
                drips: 90,
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

#[test]
fn a_byte_at_a_time_renews_no_deadline() {
    let (scale, phases) = (Scale::chosen(), phases());
    let server = Server::start(Options::default()).unwrap();
    let pairs = [
        format!("timeouts.first_bytes={}ms", scale.first_bytes.as_millis()),
        format!("timeouts.login={}ms", scale.login.as_millis()),
        "pool.idle_timeout=1s".into(),
    ];
    let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
    let mut process = Process::start(server.address(), &pairs);
    process.until("the server is known", || process.metric("server_reachable", "") == 1);
    let address = process.address;
    let alone = for_a_while(address, &scale, || std::thread::sleep(scale.login / 2));
    let (files, memory, before) = crate::run::at_rest(&process);
    let mut drips = Vec::new();
    let beside = for_a_while(address, &scale, || drips = drip(address, &scale, &phases));
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
    println!("99 of 100 honest answers within {alone:?} alone, {beside:?} beside the others");
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
fn drip(address: SocketAddr, scale: &Scale, phases: &[Phase]) -> Vec<Drip> {
    let threads: Vec<_> = (0..phases.len())
        .map(|phase| {
            let (share, more) = (scale.drips / phases.len(), scale.drips % phases.len());
            let count = share + usize::from(phase < more);
            let (between, limit) = (scale.between, scale.login * 2 + LATE_MAX);
            std::thread::spawn(move || {
                let setup = &self::phases()[phase];
                let start = |_| Drip::start(address, phase, setup);
                let mut drips: Vec<Drip> = (0..count).map(start).collect();
                let (started, mut said_at) = (Instant::now(), Instant::now());
                while drips.iter().any(|drip| drip.cut_after.is_none()) {
                    assert!(started.elapsed() < limit, "{} goes on for ever", setup.name);
                    let is_due = said_at.elapsed() >= between;
                    for drip in drips.iter_mut().filter(|drip| drip.cut_after.is_none()) {
                        if is_due {
                            drip.say(&setup.drips);
                        }
                        drip.look();
                    }
                    if is_due {
                        said_at = Instant::now();
                    }
                    std::thread::sleep(LOOK);
                }
                drips
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().expect("all are cut")).collect()
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
        assert!(*last <= due + LATE_MAX, "{}: cut later than {due:?} and 1 s", phase.name);
    }
}
