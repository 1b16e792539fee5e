//! `pool.mode = "session"`: a server connection for each client, and both end together.

use crate::client::{
    Client, Message, PASSWORD, Said, V5_4, V5_8, Way, begin, commit, goodbye, hello, proposals,
    pull, reset, run,
};
use crate::stage::{Running, Stage, until};
use crate::value::Value;
use boltmux::synthetic::{Options, Outcome};
use boltmux::wire::message::tag;
use boltmux::wire::version::Version;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

const MODE: &str = "pool.mode=session";

#[test]
fn conversations_of_every_version_pass() {
    let stage = Stage::start(&[MODE], Options::default());
    for version in [Version::new(4, 4), Version::new(5, 0), V5_4, V5_8] {
        let mut client = Client::login(stage.address(), version);
        client.expect_well();
        client.send(&[begin(), run("WRITE $nonce", "kept"), pull(-1), commit()].concat());
        client.expect(&[tag::SUCCESS; 4]);
        client.send(&[run("FAIL Neo.ClientError.Statement.SyntaxError", "f"), pull(-1)].concat());
        client.expect_failure("Neo.ClientError.Statement.SyntaxError");
        client.expect(&[tag::IGNORED]);
        client.send(&reset());
        client.expect(&[tag::SUCCESS]);
        client.expect_well();
        client.send(&goodbye());
        client.expect_end();
    }
    stage.proxy.until("all said goodbye", |all| all.get("closed{goodbye}") == 4);
    until("the server is left alone", || stage.server.stats().connections_open == 0);
    let ledger = stage.server.ledger();
    let kept = ledger.iter().filter(|entry| entry.nonce.as_deref() == Some("kept"));
    assert_eq!(kept.filter(|entry| entry.outcome == Outcome::Committed).count(), 4);
}

#[test]
fn either_ends_end_is_the_others() {
    let stage = Stage::start(&[MODE], Options::default());
    let mut client = Client::login(stage.address(), V5_4);
    stage.server.kill_all();
    assert!(matches!(client.next(), Said::EndOfFile | Said::Reset));
    stage.proxy.until("it is counted", |all| all.get("closed{server_gone}") == 1);
    let mut client = Client::login(stage.address(), V5_4);
    client.send(&[begin(), run("WRITE $nonce", "cut"), pull(-1)].concat());
    client.expect(&[tag::SUCCESS; 3]);
    client.reset_connection();
    until("the transaction is undone", || {
        let ledger = stage.server.ledger();
        ledger.iter().any(|entry| entry.outcome == Outcome::RolledBack)
    });
    stage.proxy.until("nothing is held", |all| all.get("server_permits_taken") == 0);
}

#[test]
fn a_client_without_a_permit_waits_for_one() {
    let stage = Stage::start(&[MODE, "pool.size=1", "shards=2"], Options::default());
    for round in 0..10 {
        let first = Client::login(stage.address(), V5_4);
        let address = stage.address();
        let second = std::thread::spawn(move || Client::login(address, V5_4).expect_well());
        stage.proxy.until("the second waits", |all| all.get("clients_waiting") == 1);
        if round % 2 == 0 {
            drop(first)
        } else {
            first.reset_connection()
        }
        second.join().unwrap();
    }
    stage.proxy.until("nothing is held", |all| all.get("server_permits_taken") == 0);
    let stats = stage.server.stats();
    assert_eq!((stats.connections_max, stats.logins_ok), (1, 20));
}

#[test]
fn a_wrong_password_is_the_servers_to_refuse() {
    let stage = Stage::start(&[MODE], Options::default());
    let said = Client::login_as(stage.address(), V5_4, "neo4j", "wrong").err();
    let Some(Said::Message(failure)) = said else { panic!("got {said:?}") };
    assert_eq!(failure.code(), "Neo.ClientError.Security.Unauthorized");
    assert!(Client::login_as(stage.address(), V5_4, "neo4j", PASSWORD).is_ok());
}

const NO_THREADS: &str = "Neo.TransientError.Request.NoThreadsAvailable";
const EXHAUSTED: &str = "Neo.TransientError.Request.ResourceExhaustion";

/// The FAILURE that a login is answered with, after which the connection ends.
fn refusal(client: Client, version: Version) -> Message {
    let mut client = client.agree(version);
    client.send(&hello(version, "neo4j", PASSWORD));
    let failure = client.expect(&[tag::FAILURE]).remove(0);
    client.expect_end();
    failure
}

#[test]
fn a_client_too_many_is_told_so_in_both_modes_with_the_same_words() {
    let mut told = Vec::new();
    for mode in ["pool.mode=transaction", MODE] {
        let stage = Stage::start(&[mode, "limits.clients=1"], Options::default());
        let mut first = Client::login(stage.address(), V5_4);
        for version in [Version::new(4, 4), Version::new(5, 0), V5_4, V5_8] {
            for way in [Way::Plain, Way::WebSocket] {
                let failure = refusal(Client::connect_by(way, stage.address()), version);
                assert_eq!(failure.code(), NO_THREADS);
                told.push((version, failure));
            }
        }
        let mut client = Client::connect(stage.address());
        client.send(&proposals(&[[0, 0, 1, 0xFF]]));
        let count = usize::from(client.read(5).unwrap()[4]);
        client.read(4 * count + 1).unwrap();
        client.send(&[&[0, 0, 8, 5, 0][..], &hello(V5_8, "neo4j", PASSWORD)].concat());
        client.expect_failure(NO_THREADS);
        client.expect_end();
        stage.proxy.until("all are counted", |all| {
            all.get("closed{too_many_clients}") == 9 && all.get("failures_made") == 9
        });
        first.expect_well();
    }
    let (transaction, session) = told.split_at(told.len() / 2);
    assert_eq!(transaction, session);
}

#[test]
fn who_is_not_served_takes_no_place_of_who_could_be() {
    for mode in ["pool.mode=transaction", MODE] {
        let stage = Stage::start(&[mode, "limits.clients=1"], Options::default());
        let mut first = Client::login(stage.address(), V5_4);
        let silent: Vec<Client> = (0..5).map(|_| Client::connect(stage.address())).collect();
        let is_there = |count| {
            move |all: &crate::stage::Metrics| {
                all.get("client_connections{login}") + all.get("client_connections{serving}")
                    == count
            }
        };
        stage.proxy.until("they are there", is_there(6));
        first.send(&goodbye());
        first.expect_end();
        stage.proxy.until("it is gone", is_there(5));
        Client::login(stage.address(), V5_4).expect_well();
        drop(silent);
    }
}

#[test]
fn only_so_many_are_told_at_once_and_only_for_so_long() {
    let stage = Stage::start(&[MODE, "limits.clients=1"], Options::default());
    let _first = Client::login(stage.address(), V5_4);
    let agreed = |_| Client::negotiate(stage.address(), V5_4);
    let mut told: Vec<Client> = (0..32).map(agreed).collect();
    let mut client = Client::connect(stage.address());
    client.send(&proposals(&[V5_4.to_bytes()]));
    client.expect_end();
    stage.proxy.until("it is counted", |all| all.get("closed{too_many_clients}") == 1);
    // The others say nothing more: they are cut, and make room.
    told.iter_mut().for_each(Client::expect_end);
    drop(told);
    stage.proxy.until("they are counted and gone", |all| {
        all.get("closed{login_timeout}") == 32 && all.get("client_connections{login}") == 0
    });
    assert_eq!(refusal(Client::connect(stage.address()), V5_4).code(), NO_THREADS);
}

#[test]
fn who_gets_no_server_connection_is_told_why() {
    let full = |limit: &str, reason: &str| {
        let stage = Stage::start(&[MODE, "pool.size=1", limit], Options::default());
        let mut first = Client::login(stage.address(), V5_4);
        let failure = refusal(Client::connect(stage.address()), V5_4);
        assert_eq!(failure.code(), EXHAUSTED);
        let text = failure.fields[0].get("message").and_then(Value::text).unwrap();
        assert!(text.contains("pool.acquisition_timeout"), "{text}");
        stage.proxy.until("it is counted", |all| all.get(reason) == 1);
        first.expect_well();
    };
    full("pool.acquisition_timeout=200ms", "closed{login_unavailable}");
    full("timeouts.login=1s", "closed{login_timeout}");
    let stage = Stage::start(&[MODE, "timeouts.connect=1s"], Options::default());
    let Stage { proxy, server } = stage;
    drop(server);
    let failure = refusal(Client::connect(proxy.address), V5_4);
    assert_eq!(failure.code(), EXHAUSTED);
    let text = failure.fields[0].get("message").and_then(Value::text).unwrap();
    assert!(text.contains("cannot be reached"), "{text}");
}

#[test]
fn who_speaks_no_version_of_ours_is_closed_and_counted_for_the_limit() {
    let stage = Stage::start(&[MODE, "limits.clients=1"], Options::default());
    let _first = Client::login(stage.address(), V5_4);
    let mut client = Client::connect(stage.address());
    client.send(&proposals(&[[0, 0, 0, 9]]));
    assert_eq!(client.read(4).as_deref(), Ok(&[0; 4][..]));
    client.expect_end();
    stage.proxy.until("it is counted", |all| all.get("closed{too_many_clients}") == 1);
}

/// It has said all it will, but cannot be answered without a server connection.
#[test]
fn who_has_ended_its_side_does_not_wait_for_a_connection() {
    let pairs = [MODE, "pool.size=1", "timeouts.login=5min", "pool.acquisition_timeout=5min"];
    let stage = Stage::start(&pairs, Options::default());
    let _first = Client::login(stage.address(), V5_4);
    let mut second = Client::connect(stage.address());
    second.send(&proposals(&[V5_4.to_bytes()]));
    stage.proxy.until("it waits", |all| all.get("clients_waiting") == 1);
    second.stream.shutdown(Shutdown::Write).unwrap();
    stage.proxy.until("it has left", |all| {
        all.get("clients_waiting") == 0 && all.get("closed{client_gone}") == 1
    });
}

/// A handshake of the future: nobody here can tell when its login is done.
#[test]
fn what_is_not_understood_has_no_time_limit_for_its_login() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let pairs = [MODE, "uplink.monitor=false", "timeouts.login=500ms"];
    let proxy = Running::start(server.local_addr().unwrap(), &pairs);
    let mut client = TcpStream::connect(proxy.address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.write_all(&proposals(&[V5_4.to_bytes()])).unwrap();
    let (mut server, _) = server.accept().unwrap();
    server.read_exact(&mut [0; 20]).unwrap();
    server.write_all(&[0, 0, 2, 0xFF]).unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    client.write_all(b"whatever").unwrap();
    let mut heard = [0; 8];
    server.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"whatever");
}

/// As of transaction mode: from the last answer on.
#[test]
fn a_long_query_is_no_idle_time() {
    let stage = Stage::start(&[MODE, "timeouts.client_idle=1s"], Options::default());
    let mut client = Client::login(stage.address(), V5_4);
    client.send(&[run("SLEEP 1500 RETURN $nonce", "long"), pull(-1)].concat());
    client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    client.expect_well();
    client.expect_end();
}
