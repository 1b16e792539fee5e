//! `pool.mode = "session"`: a server connection for each client, and both end together.

use crate::client::{Client, PASSWORD, Said, V5_4, V5_8, begin, commit, goodbye, pull, reset, run};
use crate::stage::{Stage, until};
use boltmux::synthetic::{Options, Outcome};
use boltmux::wire::message::tag;
use boltmux::wire::version::Version;

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
