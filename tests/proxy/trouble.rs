//! How the proxy reacts to trouble: a server that is away for a while, and clients with wrong
//! passwords beside those who are in.

use crate::client::{Client, PASSWORD, V5_4, hello, logon, proposals, pull, run};
use crate::stage::{Running, Stage, until};
use boltmux::synthetic::{Faults, Options, Server};
use boltmux::wire::message::tag;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

/// A client's handshake waits two seconds for a server; a machine that stands still for longer must
/// not fail the test.
const TRIES: usize = 5;

/// Whether a client that came while the server was away is in at its first attempt.
fn is_in_at_once() -> bool {
    let server = Server::start(Options::default()).unwrap();
    server.stop();
    let proxy = Running::start(server.address(), &[]);
    let mut client = Client::connect(proxy.address);
    let bytes =
        [proposals(&[V5_4.to_bytes()]), hello(V5_4, "neo4j", PASSWORD), logon("neo4j", PASSWORD)];
    client.send(&bytes.concat());
    proxy.until("it has come", |all| all.get("clients_accepted") == 1);
    server.restart().unwrap();
    client.read(4).unwrap();
    if client.message().tag != tag::SUCCESS {
        return false;
    }
    client.expect(&[tag::SUCCESS]);
    client.expect_well();
    true
}

#[test]
fn who_comes_before_the_server_does_is_served_when_it_comes() {
    assert!((0..TRIES).any(|_| is_in_at_once()));
}

/// Asks on and on, and counts the answers.
fn honest(address: SocketAddr, answers: &AtomicU64, is_over: &AtomicBool) {
    let mut client = Client::login(address, V5_4);
    while !is_over.load(Relaxed) {
        client.send(&[run("RETURN $nonce AS n", "right"), pull(-1)].concat());
        client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
        answers.fetch_add(1, Relaxed);
    }
}

/// Logs in with one wrong password after another.
fn attacker(address: SocketAddr, number: usize, is_over: &AtomicBool) {
    for count in 0.. {
        if is_over.load(Relaxed) {
            return;
        }
        let password = format!("wrong-{number}-{count}");
        assert!(Client::login_as(address, V5_4, "neo4j", &password).is_err());
    }
}

/// The server takes half a second to refuse a login, and refuses one after the other; meanwhile
/// those who are in get many answers. If every wrong login took a connection, each of them would
/// wait for one.
#[test]
fn wrong_passwords_do_not_hold_up_those_who_are_in() {
    const WRONG: u64 = 8;
    for shards in ["shards=1", "shards=2"] {
        let stage = Stage::start(&["pool.size=2", shards], Options::default());
        let (answers, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut clients: Vec<JoinHandle<()>> = Vec::new();
        for _ in 0..4 {
            let (address, answers, is_over) = (stage.address(), answers.clone(), is_over.clone());
            clients.push(std::thread::spawn(move || honest(address, &answers, &is_over)));
        }
        until("all are in", || answers.load(Relaxed) >= 100);
        stage.server.set_faults(Faults { login_delay_ms: 500, ..Faults::default() });
        for number in 0..12 {
            let (address, is_over) = (stage.address(), is_over.clone());
            clients.push(std::thread::spawn(move || attacker(address, number, &is_over)));
        }
        until("a login was refused", || stage.server.stats().logins_failed > 0);
        let (before, failed) = (answers.load(Relaxed), stage.server.stats().logins_failed);
        until("more were refused", || stage.server.stats().logins_failed >= failed + WRONG);
        let answered = answers.load(Relaxed) - before;
        is_over.store(true, Relaxed);
        stage.server.set_faults(Faults::default());
        clients.into_iter().for_each(|client| client.join().expect("it got what is due"));
        assert!(answered > 10 * WRONG, "{shards}: {answered} answers beside {WRONG} wrong logins");
    }
}
