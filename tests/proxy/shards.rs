//! Several shards: one limit of connections, lent from shard to shard, and one login for all.

use crate::client::{Client, PASSWORD, V5_4, begin, commit, hello, logon, pull, run};
use crate::stage::{Stage, until};
use boltmux::synthetic::{Faults, Options};
use boltmux::wire::message::tag;
use std::net::SocketAddr;

/// A client that landed on this one of `shards`; the kernel decides by its port.
fn on_shard(address: SocketAddr, shards: usize, shard: usize, user: &str) -> Client {
    // 2^-200 is never.
    for _ in 0..200 {
        let client = Client::login_as(address, V5_4, user, PASSWORD).expect("a right login");
        if client.serial() % shards == shard {
            return client;
        }
    }
    panic!("no client landed on shard {shard} of {shards}");
}

fn two_users() -> Options {
    let users = ["neo4j", "reader"].map(|user| (user.into(), PASSWORD.into()));
    Options { users: users.into(), ..Options::default() }
}

#[test]
fn an_idle_connection_is_lent_to_the_shard_that_waits() {
    for size in [1, 2] {
        let pairs = ["shards=2".to_owned(), format!("pool.size={size}")];
        let stage = Stage::start(&[&pairs[0], &pairs[1]], Options::default());
        let mut here: Vec<Client> =
            (0..size).map(|_| on_shard(stage.address(), 2, 0, "neo4j")).collect();
        let mut there = on_shard(stage.address(), 2, 1, "neo4j");
        // All connections are shard 0's, and then they idle there.
        here.iter_mut().for_each(|client| client.send(&begin()));
        here.iter_mut().for_each(|client| drop(client.expect(&[tag::SUCCESS])));
        here.iter_mut().for_each(|client| client.send(&commit()));
        here.iter_mut().for_each(|client| drop(client.expect(&[tag::SUCCESS])));
        let before = stage.proxy.metrics();
        there.expect_well();
        let after = stage.proxy.metrics();
        let more = |name| after.get(name) - before.get(name);
        assert_eq!((more("server_lent"), more("server_borrowed")), (1, 1));
        assert_eq!(more("server_opened"), 0, "none was dialled for it");
        // And back, while the other transaction is open.
        there.send(&begin());
        there.expect(&[tag::SUCCESS]);
        let mut back = on_shard(stage.address(), 2, 0, "neo4j");
        back.send(&[run("RETURN $nonce AS n", "back"), pull(-1)].concat());
        if size == 1 {
            stage.proxy.until("it waits", |all| all.get("clients_waiting") == 1);
        }
        there.send(&commit());
        there.expect(&[tag::SUCCESS]);
        back.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
        assert!(stage.server.stats().connections_max <= size);
    }
}

#[test]
fn the_permit_of_another_identitys_connection_is_passed_on() {
    let stage = Stage::start(&["shards=2", "pool.size=1"], two_users());
    let mut first = on_shard(stage.address(), 2, 0, "neo4j");
    first.expect_well();
    let mut second = on_shard(stage.address(), 2, 1, "reader");
    second.expect_well();
    first.expect_well();
    second.expect_well();
    let metrics = stage.proxy.metrics();
    let passed_on = metrics.get("server_discarded{given_up}");
    assert!(passed_on >= 2, "{metrics:#?}");
    assert_eq!(stage.server.stats().connections_max, 1);
}

#[test]
fn nobody_starves_while_other_shards_are_busy() {
    let pairs = ["shards=4", "pool.size=2", "pool.acquisition_timeout=20s"];
    let stage = Stage::start(&pairs, two_users());
    let address = stage.address();
    let clients: Vec<Client> = (0..4)
        .flat_map(|shard| {
            let users = ["neo4j", "reader"];
            users.map(|user| on_shard(address, 4, shard, user))
        })
        .collect();
    std::thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || {
                for round in 0..25 {
                    let nonce = format!("{round}");
                    let tx = [begin(), run("WRITE $nonce", &nonce), pull(-1), commit()];
                    client.send(&tx.concat());
                    client.expect(&[tag::SUCCESS; 4]);
                }
            });
        }
    });
    let metrics = stage.proxy.until("all is quiet", |all| {
        all.get("server_connections{leased}") == 0 && all.get("server_connections{busy}") == 0
    });
    assert_eq!(metrics.get("clients_waiting"), 0);
    let commits = stage.server.stats().commits;
    assert_eq!((commits, stage.server.stats().connections_max <= 2), (200, true));
}

#[test]
fn a_wrong_password_of_eight_clients_meets_the_server_once() {
    let faults = Faults { login_delay_ms: 300, ..Faults::default() };
    let options = Options { faults, ..Options::default() };
    let stage = Stage::start(&["shards=4"], options);
    let mut clients: Vec<Client> =
        (0..8).map(|_| Client::negotiate(stage.address(), V5_4)).collect();
    let words = [hello(V5_4, "neo4j", "wrong"), logon("neo4j", "wrong")].concat();
    clients.iter_mut().for_each(|client| client.send(&words));
    for client in &mut clients {
        client.expect(&[tag::SUCCESS]);
        client.expect_failure("Neo.ClientError.Security.Unauthorized");
        client.expect_end();
    }
    assert_eq!(stage.server.stats().logins_failed, 1);
    stage.proxy.until("all are counted", |all| all.get("closed{unauthorized}") == 8);
    Client::login(stage.address(), V5_4).expect_well();
}

#[test]
fn a_right_password_of_eight_clients_meets_the_server_once() {
    let faults = Faults { login_delay_ms: 200, ..Faults::default() };
    let options = Options { faults, ..Options::default() };
    let stage = Stage::start(&["shards=4"], options);
    let mut clients: Vec<Client> =
        (0..8).map(|_| Client::negotiate(stage.address(), V5_4)).collect();
    let words = [hello(V5_4, "neo4j", PASSWORD), logon("neo4j", PASSWORD)].concat();
    clients.iter_mut().for_each(|client| client.send(&words));
    clients.iter_mut().for_each(|client| drop(client.expect(&[tag::SUCCESS; 2])));
    assert_eq!(stage.server.stats().logins_ok, 1);
    drop(clients);
    until("the server's connection stays", || stage.server.stats().connections_open == 1);
}

/// Nobody knows that they are wrong before the server has said so: half of the dials is theirs.
#[test]
fn wrong_passwords_of_many_users_take_few_connections_at_once() {
    let faults = Faults { login_delay_ms: 300, ..Faults::default() };
    let options = Options { faults, ..Options::default() };
    let stage = Stage::start(&["shards=1", "pool.size=20"], options);
    let mut clients: Vec<Client> =
        (0..12).map(|_| Client::negotiate(stage.address(), V5_4)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let user = format!("user-{number}");
        client.send(&[hello(V5_4, &user, "wrong"), logon(&user, "wrong")].concat());
        client.expect(&[tag::SUCCESS]);
    }
    clients.truncate(10); // some leave before their turn; nobody waits for them
    for client in &mut clients {
        client.expect_failure("Neo.ClientError.Security.Unauthorized");
        client.expect_end();
    }
    let stats = stage.server.stats();
    assert!(stats.connections_max <= 4 + 1, "with a probe: {stats:?}");
    Client::login(stage.address(), V5_4).expect_well();
    stage.proxy.until("nothing waits", |all| all.get("clients_waiting") == 0);
}
