//! The storm: many clients on few server connections, both sides cut at random moments, and every
//! answer checked. `BOLTMUX_STORM_ANSWERS` and `BOLTMUX_STORM_SEED` widen it; `tests/storm` does.

mod checks;
mod stormer;

use crate::client::PASSWORD;
use crate::program::Program;
use boltmux::synthetic::{Faults, Options, Server};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use stormer::{Stormer, Summary};

const CLIENTS: usize = 1000;
const POOL_SIZE: u64 = 20;
pub const USERS: [&str; 2] = ["neo4j", "reader"];
/// Of a client's thread: it holds a message or two.
const STACK_BYTES: usize = 256 << 10;
/// In a run of the usual length each variant sees about thirty deaths of all server connections.
const KILL_EVERY: Duration = Duration::from_millis(150);

/// How many shards, and whether all clients are on the first of them.
#[derive(Clone, Copy, Debug)]
struct Variant {
    shards: usize,
    is_lopsided: bool,
    /// `pool.reauth`: connections go from user to user.
    has_reauth: bool,
}

const VARIANTS: [Variant; 6] = [
    Variant { shards: 1, is_lopsided: false, has_reauth: false },
    Variant { shards: 2, is_lopsided: false, has_reauth: false },
    Variant { shards: 4, is_lopsided: false, has_reauth: false },
    Variant { shards: 4, is_lopsided: true, has_reauth: false },
    Variant { shards: 1, is_lopsided: false, has_reauth: true },
    Variant { shards: 4, is_lopsided: true, has_reauth: true },
];

/// What all clients of one wave share.
pub struct Sky {
    pub address: std::net::SocketAddr,
    pub answers: AtomicU64,
    pub answers_wanted: u64,
    pub shards: usize,
    pub is_lopsided: bool,
}

#[test]
fn a_storm_mixes_nothing_up_and_leaves_nothing_behind() {
    let number = |name: &str, otherwise: u64| {
        let text = std::env::var(name).ok();
        text.map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let answers = number("BOLTMUX_STORM_ANSWERS", 100_000);
    let seed = number("BOLTMUX_STORM_SEED", 1);
    println!("storm: {answers} answers, BOLTMUX_STORM_SEED={seed}");
    boltmux::transport::raise_open_files_limit().unwrap();
    let mut answered = 0;
    for variant in VARIANTS {
        answered += storm(variant, answers.div_ceil(VARIANTS.len() as u64), seed);
    }
    assert!(answered >= answers, "{answered} answers only");
}

/// One proxy, two waves of clients; returns the answers.
fn storm(variant: Variant, answers: u64, seed: u64) -> u64 {
    let started = Instant::now();
    let server = Arc::new(Server::start(server_options(seed)).expect("a server on a free port"));
    let shards = format!("shards={}", variant.shards);
    let size = format!("pool.size={POOL_SIZE}");
    let reauth = format!("pool.reauth={}", variant.has_reauth);
    let settings = [&shards, &size, &reauth, "log.level=error"];
    let program = Program::start(server.address(), &settings);
    let before = checks::Quiet::wait(&program, 0);
    let mut summary = Summary::default();
    let mut resident = Vec::new();
    for wave in 0..2 {
        let wave_seed = seed * 1000 + wave;
        summary.add(blow(variant, answers / 2 + 1, wave_seed, &program, &server));
        checks::Quiet::wait(&program, before.open_files);
        resident.push(program.resident_bytes());
    }
    checks::ledger(&server.ledger(), &summary.fates);
    checks::counters(&program, &server, &summary);
    let turned_over = program.metrics().get("server_turned_over");
    assert_eq!(turned_over > 0, variant.has_reauth, "{turned_over} connections turned over");
    checks::resident(&resident);
    println!(
        "storm: {variant:?}: {} answers in {:.1?}, {summary}; {} connections of the server, \
         at most {} at once, {turned_over} turned over; resident {resident:?}",
        summary.answers,
        started.elapsed(),
        server.stats().connections_total,
        server.stats().connections_max,
    );
    summary.answers
}

fn server_options(seed: u64) -> Options {
    Options {
        users: USERS.map(|user| (user.into(), PASSWORD.into())).into(),
        ledger_entries_max: 1 << 21,
        faults: Faults {
            seed,
            reset_per_million: 300,
            noops_before_answer: 1,
            ..Faults::default()
        },
        ..Options::default()
    }
}

/// One wave of clients; they are gone when this returns.
fn blow(
    variant: Variant,
    answers_wanted: u64,
    seed: u64,
    program: &Program,
    server: &Arc<Server>,
) -> Summary {
    let sky = Arc::new(Sky {
        address: program.address,
        answers: AtomicU64::new(0),
        answers_wanted,
        shards: variant.shards,
        is_lopsided: variant.is_lopsided,
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let killer = std::thread::spawn({
        let (server, is_over) = (server.clone(), is_over.clone());
        move || {
            while !is_over.load(Relaxed) {
                std::thread::sleep(KILL_EVERY);
                server.kill_all();
            }
        }
    });
    let threads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let sky = sky.clone();
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            let body = move || Stormer::new(number, seed, sky).run();
            thread.spawn(body).expect("a thread for each client")
        })
        .collect();
    let mut summary = Summary::default();
    let mut clients = Vec::new();
    for thread in threads {
        let (theirs, client) = thread.join().expect("no client found anything wrong");
        summary.add(theirs);
        clients.extend(client);
    }
    is_over.store(true, Relaxed);
    killer.join().unwrap();
    // Everybody is still there, and wants nothing: then nobody holds anything.
    program.until("nobody holds a server connection", |metrics| {
        metrics.get("server_connections{leased}") == 0
            && metrics.get("clients_waiting") == 0
            && metrics.get("server_connections{busy}") == 0
    });
    assert!(program.metrics().get("client_connections{serving}") >= clients.len() as u64);
    assert_sleeps(program, variant.shards);
    drop(clients);
    summary
}

/// With nothing to do a shard wakes for its heartbeats only, seven times a second; one that
/// believes that there is something wakes every few milliseconds, for ever.
fn assert_sleeps(program: &Program, shards: usize) {
    let enters = || program.metrics().get("ring_enters");
    let mut seen = Vec::new();
    for _ in 0..20 {
        let before = enters();
        std::thread::sleep(Duration::from_millis(500));
        seen.push(enters() - before);
        if seen.last().is_some_and(|count| *count < 25 * shards as u64) {
            return;
        }
    }
    panic!("{shards} shards do not sleep: {seen:?} enters in half seconds");
}
