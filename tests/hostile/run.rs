//! Runs a table of cases against a process, and looks at what is left behind.

use crate::case::{Case, INVALID, Outcome, Start};
use crate::client::{
    Client, MAGIC, PASSWORD, Said, V5_4, begin, goodbye, hello, logon, pull, reset, run,
};
use crate::process::Process;
use crate::witness::Witness;
use boltmux::synthetic::{Options, Server};
use boltmux::transport::websocket::codec::{Decoder, Event};
use boltmux::wire::message::tag;
use boltmux::wire::version::Version;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Shutdown;

/// Memory that may stay: allocators keep pages. A case that leaked would leak more than once.
const GROWTH_BYTES_MAX: u64 = 16 << 20;
/// What is cut byte by byte; longer ones in pieces of a prime number of bytes.
const BYTEWISE_MAX: usize = 64;
const PIECE_BYTES: usize = 7919;

/// Every case twice, whole and in pieces, beside an honest client.
pub fn run_all(cases: &[Case], count_min: usize) {
    run_before(cases, count_min, &[]);
}

/// The same against a process with further settings.
pub fn run_before(cases: &[Case], count_min: usize, more: &[&str]) {
    let server = Server::start(Options::default()).unwrap();
    let pairs = ["shards=2", "pool.idle_timeout=200ms", "timeouts.connect=2s"];
    let process = Process::start(server.address(), &[&pairs, more].concat());
    run_against(process, cases, count_min);
}

/// The same against a process that is there; idle server connections must end soon.
pub fn run_against(mut process: Process, cases: &[Case], count_min: usize) {
    assert!(cases.len() >= count_min, "{} cases, at least {count_min} are due", cases.len());
    let names: BTreeSet<&str> = cases.iter().map(|case| &*case.name).collect();
    assert_eq!(names.len(), cases.len(), "names are unique");
    warm_up(&process);
    let (files, memory, closed) = at_rest(&process);
    let witness = Witness::start(process.address, true);
    let mut expected = BTreeMap::new();
    let only = std::env::var("HOSTILE_CASE").ok();
    let wanted = |case: &&Case| only.as_ref().is_none_or(|only| case.name.contains(only));
    for case in cases.iter().filter(wanted) {
        for is_whole in [true, false] {
            if case.is_whole_only && !is_whole {
                continue;
            }
            let reason = run_case(&process, case, is_whole);
            *expected.entry(reason.to_owned()).or_insert(0) += 1;
        }
    }
    let testimony = witness.end();
    *expected.entry("goodbye".into()).or_insert(0) += testimony.logins;
    process.until("every client is gone", || process.clients() == 0);
    process.until("each is counted", || {
        let now: u64 = process.closed().values().sum();
        now >= closed.values().sum::<u64>() + expected.values().sum::<u64>()
    });
    let mut counted = process.closed();
    for (reason, before) in closed {
        *counted.get_mut(&reason).expect("counters do not shrink") -= before;
    }
    counted.retain(|_, count| *count > 0);
    assert_eq!(counted, expected, "reasons as counted and as expected");
    is_as_before(&mut process, files, memory);
    println!("{}: {} cases, {testimony:?}", cases[0].group, cases.len());
}

/// So that what is kept for later is there before anything is measured.
fn warm_up(process: &Process) {
    process.until("the server is known", || process.metric("server_reachable", "") == 1);
    for version in [V5_4, crate::case::V4_4, crate::case::V5_0] {
        let mut clients: Vec<Client> =
            (0..8).map(|_| Client::login(process.address, version)).collect();
        clients.iter_mut().for_each(Client::expect_well);
        clients.iter_mut().for_each(|client| client.send(&goodbye()));
        clients.iter_mut().for_each(Client::expect_end);
    }
}

/// Open files, memory and counts when nobody is connected.
pub fn at_rest(process: &Process) -> (usize, u64, BTreeMap<String, u64>) {
    process.until("nobody is connected", || {
        process.clients() == 0 && process.metric("server_connections", "") == 0
    });
    (process.open_files(), process.resident_bytes(), process.closed())
}

/// No panic, and files and memory back at the start.
pub fn is_as_before(process: &mut Process, files: usize, memory: u64) {
    process.until("no server connection is left", || process.metric("server_connections", "") == 0);
    process.until("files are as before", || process.open_files() <= files);
    let now = process.resident_bytes();
    assert!(now < memory + GROWTH_BYTES_MAX, "{memory} bytes have become {now}");
    assert!(!process.has_ended(), "the process ended: {:#?}", process.said());
    let said = process.said();
    assert!(!said.iter().any(|line| line.contains("panicked")), "{said:#?}");
}

/// Returns the reason that is counted for the close.
fn run_case(process: &Process, case: &Case, is_whole: bool) -> &'static str {
    let what =
        format!("{}: {} ({})", case.group, case.name, if is_whole { "whole" } else { "cut" });
    println!("{what}");
    let mut client = bring(process, case.start);
    let piece = match (is_whole, case.bytes.len()) {
        (true, _) => case.bytes.len().max(1),
        (false, 0..=BYTEWISE_MAX) => 1,
        (false, _) => PIECE_BYTES,
    };
    for bytes in case.bytes.chunks(piece) {
        // It may be closed before all is sent.
        if client.try_send(bytes).is_err() {
            break;
        }
    }
    if case.ends {
        let _ = client.stream.shutdown(Shutdown::Write);
    }
    check(&mut client, &case.outcome, &what)
}

fn check(client: &mut Client, outcome: &Outcome, what: &str) -> &'static str {
    match outcome {
        Outcome::Silence(reason) => {
            ended(client, what);
            reason
        }
        Outcome::Says(bytes, reason) => {
            assert_eq!(client.read(bytes.len()).as_ref(), Ok(bytes), "{what}");
            ended(client, what);
            reason
        }
        Outcome::Fails(tags, code, reason) => {
            answers(client, tags, code, what);
            ended(client, what);
            reason
        }
        Outcome::Answers(tags) => {
            answers(client, tags, "", what);
            recovers(client, what)
        }
        Outcome::Refuses(tags, code) => {
            answers(client, tags, code, what);
            recovers(client, what)
        }
        Outcome::Framed(code, reason) => {
            let mut bytes = rest(client, what);
            let mut closed = None;
            let decoded = Decoder::of_server().decode(&mut bytes, |event| {
                if let Event::Close(code) = event {
                    closed = code;
                }
            });
            assert_eq!((closed, decoded.fault), (Some(*code), None), "{what}");
            reason
        }
        Outcome::Alerts(reason) => {
            let bytes = rest(client, what);
            assert!(bytes.first().is_none_or(|kind| *kind == 0x15), "{what}: {bytes:02X?}");
            reason
        }
        Outcome::Http(status) => {
            let head = rest(client, what);
            let text = String::from_utf8_lossy(&head);
            assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {text}");
            "http"
        }
        Outcome::Waits => {
            client.stream.set_read_timeout(Some(crate::client::SILENCE)).unwrap();
            assert_eq!(client.read(1), Err(Said::Nothing), "{what}");
            client.stream.shutdown(Shutdown::Both).unwrap();
            "client_gone"
        }
    }
}

/// These tags come, and every FAILURE among them has this code.
fn answers(client: &mut Client, tags: &[u8], code: &str, what: &str) {
    for expected in tags {
        let Said::Message(message) = client.next() else {
            panic!("{what}: expected a message {expected:02X}");
        };
        assert_eq!(message.tag, *expected, "{what}: {message:?}");
        if message.tag == tag::FAILURE && !code.is_empty() {
            assert_eq!(message.code(), code, "{what}: {message:?}");
        }
    }
}

/// Everything until the end.
fn rest(client: &mut Client, what: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match client.read(1) {
            Ok(byte) => bytes.extend(byte),
            Err(said) => {
                assert_eq!(said, Said::EndOfFile, "{what}");
                return bytes;
            }
        }
    }
}

fn ended(client: &mut Client, what: &str) {
    assert_eq!(client.read(1), Err(Said::EndOfFile), "{what}");
}

/// After a RESET it serves; then it leaves.
fn recovers(client: &mut Client, what: &str) -> &'static str {
    client.send(&reset());
    answers(client, &[tag::SUCCESS], "", what);
    client.expect_well();
    client.send(&goodbye());
    ended(client, what);
    "goodbye"
}

/// Brings a client as far as the case wants it.
fn bring(process: &Process, start: Start) -> Client {
    let address = process.address;
    let ready = |version: Version| Client::login(address, version);
    match start {
        Start::Connected => Client::connect(address),
        Start::Balanced => Client::connect(process.last_address),
        Start::Upgraded => {
            let mut client = Client::connect(address);
            client.send((crate::frames::request() + "\r\n").as_bytes());
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.extend(client.read(1).expect("the upgrade is granted"));
            }
            assert!(head.starts_with(b"HTTP/1.1 101 "));
            client
        }
        Start::Manifest => {
            let mut client = Client::connect(address);
            client.send(&crate::client::proposals(&[[0, 0, 1, 0xFF]]));
            assert_eq!(client.read(4).as_deref(), Ok(&[0, 0, 1, 0xFF][..]));
            let count = usize::from(client.read(1).unwrap()[0]);
            client.read(4 * count + 1).unwrap();
            client
        }
        Start::Agreed(version) => Client::negotiate(address, version),
        Start::Greeted(version) => {
            let mut client = Client::negotiate(address, version);
            client.send(&hello(version, "neo4j", PASSWORD));
            client.expect(&[tag::SUCCESS]);
            client
        }
        Start::Ready(version) => ready(version),
        Start::InTransaction(version) => {
            let mut client = ready(version);
            client.send(&begin());
            client.expect(&[tag::SUCCESS]);
            client
        }
        Start::Streaming(version) => {
            let mut client = ready(version);
            client.send(&run("RETURN $nonce AS n", "streaming"));
            client.expect(&[tag::SUCCESS]);
            client
        }
        Start::Failed(version) => {
            let mut client = ready(version);
            client
                .send(&[run("FAIL Neo.ClientError.Statement.SyntaxError", "f"), pull(-1)].concat());
            client.expect(&[tag::FAILURE, tag::IGNORED]);
            client
        }
        Start::LoggedOff(version) => {
            let mut client = ready(version);
            client.send(&crate::client::encode(tag::LOGOFF, &[]));
            client.expect(&[tag::SUCCESS]);
            client
        }
    }
}

/// What is promised, by group; both sides together.
const PROMISED: [(&str, usize); 8] = [
    ("handshake", 60),
    ("chunking", 50),
    ("packstream", 100),
    ("messages", 80),
    ("websocket", 50),
    ("proxy", 30),
    ("tls", 15),
    ("http", 15),
];

#[test]
fn there_are_as_many_cases_as_promised() {
    let tables = [
        crate::handshake::cases(),
        crate::chunking::cases(),
        crate::packstream::cases(),
        crate::messages::cases(),
        crate::websocket::cases(),
        crate::balancer::cases(),
        crate::tls::cases(),
        crate::http::cases(),
    ];
    let clients = tables.into_iter().flatten().map(|case| (case.group, case.name));
    let all: Vec<(&str, String)> = clients.chain(crate::server_side::names()).collect();
    let unique: BTreeSet<&(&str, String)> = all.iter().collect();
    assert_eq!(unique.len(), all.len(), "no name stands for two cases");
    for (group, promised) in PROMISED {
        let count = all.iter().filter(|(of, _)| *of == group).count();
        println!("{group}: {count}");
        assert!(count >= promised, "{group}: {count} cases, at least {promised} are due");
    }
    println!("{} cases", all.len());
}

#[test]
fn an_outcome_that_does_not_come_is_noticed() {
    let server = Server::start(Options::default()).unwrap();
    let process = Process::start(server.address(), &["shards=1"]);
    warm_up(&process);
    let wrong = [
        (Start::Connected, vec![0; 20], Outcome::Says(vec![0], "unknown_protocol")),
        (Start::Connected, MAGIC.to_vec(), Outcome::Silence("client_gone")),
        (Start::Ready(V5_4), reset(), Outcome::Fails(&[tag::FAILURE], INVALID, "x")),
        (Start::Ready(V5_4), reset(), Outcome::Answers(&[tag::IGNORED])),
        (Start::Ready(V5_4), begin(), Outcome::Waits),
    ];
    for (start, bytes, outcome) in wrong {
        let mut client = bring(&process, start);
        client.send(&bytes);
        if matches!(outcome, Outcome::Waits) {
            // The answer that must be noticed is there, however long it takes.
            assert!(client.stream.peek(&mut [0]).unwrap() > 0);
        }
        client.stream.set_read_timeout(Some(crate::client::SILENCE)).unwrap();
        let check = std::panic::AssertUnwindSafe(|| check(&mut client, &outcome, "wrong"));
        assert!(std::panic::catch_unwind(check).is_err(), "{outcome:?} was accepted");
    }
}

#[test]
fn login_needs_both_messages() {
    // The helpers above would hide it if HELLO alone let a client in.
    let server = Server::start(Options::default()).unwrap();
    let process = Process::start(server.address(), &["shards=1"]);
    warm_up(&process);
    let mut client = bring(&process, Start::Greeted(V5_4));
    client.send(&logon("neo4j", PASSWORD));
    client.expect(&[tag::SUCCESS]);
    client.expect_well();
    let mut client = bring(&process, Start::Greeted(V5_4));
    client.send(&begin());
    client.expect_failure(INVALID);
}
