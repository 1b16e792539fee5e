//! What no client and no server should say: each is answered or closed, counted, and nobody else's
//! trouble. The simplest of it is in the scripts; here is what needs many clients, memory or a
//! server that lies.

use crate::bad_server::{BadServer, Phase};
use crate::client::{
    Client, MAGIC, Said, V5_4, V5_8, chunked, encode, hello, logon, proposals, pull, reset, run,
};
use crate::program::Program;
use crate::stage::{Running, Stage};
use crate::value::{Value, map};
use boltmux::synthetic::{Options, Server};
use boltmux::wire::message::tag;

const INVALID: &str = "Neo.ClientError.Request.Invalid";
/// Far below every size that is declared here.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// A login map with raw bytes where the agent's text should be.
fn hello_with(raw: &[u8]) -> Vec<u8> {
    let mut payload = vec![0xB1, tag::HELLO, 0xA1, 0x8A];
    payload.extend(b"user_agent");
    payload.extend(raw);
    chunked(&payload, 65_535)
}

/// Said before the login; all are answered by `Request.Invalid` and a close.
fn malformed_logins() -> Vec<(&'static str, Vec<u8>)> {
    let nested = |count: usize| [vec![0x91; count], vec![0x01]].concat();
    vec![
        ("an agent that is a number", hello_with(&[0x01])),
        ("a reserved marker", hello_with(&[0xC4])),
        ("a text that is cut", hello_with(&[0xD0, 200, b'x'])),
        ("a text of 2 GiB", hello_with(&[0xD2, 0x7F, 0xFF, 0xFF, 0xFF, b'x'])),
        ("a text of 4 GiB", hello_with(&[0xD2, 0xFF, 0xFF, 0xFF, 0xFF])),
        ("a list of 2^31 items", hello_with(&[0xD6, 0x7F, 0xFF, 0xFF, 0xFF])),
        ("a map of 2^32 - 1 pairs", hello_with(&[0xDA, 0xFF, 0xFF, 0xFF, 0xFF])),
        ("lists in lists", hello_with(&nested(7000))),
        ("text that is no UTF-8", hello_with(&[0x82, 0xFF, 0xFE])),
        ("bytes behind the map", {
            let mut payload = Vec::new();
            Value::Struct(tag::HELLO, vec![map(&[("user_agent", "x")])]).pack(&mut payload);
            payload.push(0x01);
            chunked(&payload, 65_535)
        }),
        ("no structure", chunked(&[0x81, b'x'], 65_535)),
        ("one byte", chunked(&[0xB1], 65_535)),
        ("HELLO without a field", encode(tag::HELLO, &[])),
        ("a message of no version", encode(0x55, &[map(&[])])),
        ("a login of 9 KiB", {
            let long = "x".repeat(9000);
            encode(tag::HELLO, &[map(&[("user_agent", &long)])])
        }),
    ]
}

#[test]
fn malformed_logins_are_refused_and_nobody_else_suffers() {
    let stage = Stage::start(&[], Options::default());
    let mut bystander = Client::login(stage.address(), V5_4);
    let cases = malformed_logins();
    for (name, bytes) in &cases {
        println!("{name}");
        let mut client = Client::negotiate(stage.address(), V5_4);
        client.send(bytes);
        // What has no tag at all is no request that could be answered.
        if *name != "one byte" {
            client.expect_failure(INVALID);
        }
        client.expect_end();
        bystander.expect_well();
    }
    let count = cases.len() as u64;
    stage.proxy.until("each is counted", |all| all.get("closed{invalid_request}") == count);
    assert_eq!(stage.server.stats().logins_failed, 0);
}

#[test]
fn malformed_requests_are_answered_as_a_server_would() {
    let stage = Stage::start(&["pool.size=1"], Options::default());
    let mut bystander = Client::login(stage.address(), V5_4);
    let nested = [vec![0xB3, tag::RUN], vec![0x91; 200_000]].concat();
    let cases: [(&str, Vec<u8>); 5] = [
        ("RUN with a number for a query", encode(tag::RUN, &[1.into(), map(&[]), map(&[])])),
        ("RUN with a mode that is a list", {
            let extra = Value::Map(vec![("mode".into(), Value::List(vec![]))]);
            encode(tag::RUN, &["RETURN 1".into(), map(&[]), extra])
        }),
        ("RUN with a reserved marker", chunked(&[0xB3, tag::RUN, 0xC4, 0xA0, 0xA0], 65_535)),
        ("RUN that is lists in lists", chunked(&nested, 65_535)),
        ("RUN with a text of 2 GiB", {
            chunked(&[0xB3, tag::RUN, 0xD2, 0x7F, 0xFF, 0xFF, 0xFF, b'x'], 65_535)
        }),
    ];
    for (name, bytes) in cases {
        println!("{name}");
        let mut client = Client::login(stage.address(), V5_4);
        client.send(&bytes);
        let failure = client.expect(&[tag::FAILURE]).remove(0);
        assert!(failure.code().starts_with("Neo.ClientError.Request."), "{failure:?}");
        drop(client);
        bystander.expect_well();
    }
}

#[test]
fn a_varint_that_never_ends_is_no_choice() {
    let stage = Stage::start(&[], Options::default());
    let mut client = Client::connect(stage.address());
    client.send(&proposals(&[[0, 0, 1, 0xFF], V5_4.to_bytes()]));
    assert_eq!(client.read(4).as_deref(), Ok(&[0, 0, 1, 0xFF][..]));
    client.send(&[&V5_8.to_bytes()[..], &[0x80; 64]].concat());
    while client.read(1).is_ok() {}
    stage.proxy.until("it is counted", |all| all.get("closed{no_version}") == 1);
}

#[test]
fn endless_first_bytes_are_not_kept() {
    let stage = Stage::start(&[], Options::default());
    let mut client = Client::connect(stage.address());
    client.send(b"GET /");
    // It is closed long before this is through.
    for _ in 0..64 {
        if client.try_send(&[b'a'; 16 << 10]).is_err() {
            break;
        }
    }
    stage.proxy.until("it is closed", |all| all.get("closed{http}") == 1);
    Client::login(stage.address(), V5_4).expect_well();
}

#[test]
fn twenty_clients_that_stall_in_a_run_do_not_keep_a_pool_of_twenty() {
    let pairs = ["pool.size=20", "timeouts.message=300ms"];
    let stage = Stage::start(&pairs, Options::default());
    let mut stalled: Vec<Client> = (0..20).map(|_| Client::login(stage.address(), V5_4)).collect();
    let parameters = "x".repeat(200_000);
    let long = run("RETURN $nonce AS n", &parameters);
    for client in &mut stalled {
        // More than 64 KiB: it is on its way to a server before it is complete.
        client.send(&long[..150_000]);
    }
    let mut late = Client::login(stage.address(), V5_4);
    late.expect_well();
    stalled.iter_mut().for_each(|client| while client.read(1).is_ok() {});
    stage.proxy.until("all are counted", |all| {
        all.get("closed{message_timeout}") == 20 && all.get("server_connections{leased}") == 0
    });
    late.expect_well();
}

#[test]
fn memory_is_not_sized_by_what_a_peer_declares() {
    let server = Server::start(Options::default()).unwrap();
    let program = Program::start(server.address(), &["shards=1"]);
    let mut bystander = Client::login(program.address, V5_4);
    bystander.expect_well();
    let before = program.resident_bytes();
    let mut clients = Vec::new();
    for marker in [0xCE, 0xD2, 0xD6, 0xDA] {
        for _ in 0..10 {
            let mut client = Client::login(program.address, V5_4);
            // A chunk of 65,535 bytes is announced, and in it a value of 2 GiB.
            client.send(&[0xFF, 0xFF, 0xB3, tag::RUN, marker, 0x7F, 0xFF, 0xFF, 0xFF, 1]);
            clients.push(client);
        }
    }
    bystander.expect_well();
    let after = program.resident_bytes();
    assert!(after < before + GROWTH_BYTES_MAX, "{before} bytes have become {after}");
    drop(clients);
    program.until("all have gone", |all| all.get("client_connections{serving}") == 1);
}

#[test]
fn a_client_that_reads_nothing_stops_only_itself() {
    let server = Server::start(Options::default()).unwrap();
    let program = Program::start(server.address(), &["shards=1", "pool.size=4"]);
    let mut bystander = Client::login(program.address, V5_4);
    bystander.expect_well();
    let before = program.resident_bytes();
    let mut deaf = Client::login(program.address, V5_4);
    deaf.send(&[run("ROWS 20000 50000", "x"), pull(-1)].concat());
    for _ in 0..50 {
        bystander.expect_well();
    }
    let after = program.resident_bytes();
    assert!(after < before + GROWTH_BYTES_MAX, "{before} bytes have become {after}");
    assert!(server.stats().bytes_sent < 200 << 20, "the server was not held back");
    drop(deaf);
    program.until("its connection is free", |all| all.get("server_connections{leased}") == 0);
}

/// What a server may not say, wherever it says it.
fn garbage() -> [(&'static str, Vec<u8>); 5] {
    [
        ("no Bolt", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("a message of no version", encode(0x55, &[map(&[])])),
        ("no structure", chunked(b"xx", 65_535)),
        ("SUCCESS that is no map", encode(tag::SUCCESS, &[Value::Int(1)])),
        ("two answers", [encode(tag::SUCCESS, &[map(&[])]), encode(tag::IGNORED, &[])].concat()),
    ]
}

#[test]
fn a_server_that_lies_at_login_is_unreachable_until_it_behaves() {
    for phase in [Phase::Handshake, Phase::Hello, Phase::Logon] {
        let server = BadServer::start();
        let proxy =
            Running::start(server.address, &["timeouts.connect=500ms", "timeouts.login=500ms"]);
        proxy.until("it is known", |all| all.get("server_reachable") == 1);
        for (name, bytes) in garbage() {
            println!("{phase:?}: {name}");
            server.say(phase, &bytes);
            let failures = proxy.metrics().get("dial_failures");
            let mut client = Client::negotiate(proxy.address, V5_4);
            client.send(&[hello(V5_4, "neo4j", "test"), logon("neo4j", "test")].concat());
            // HELLO is answered at once from what is known of the server, if it is known.
            let mut said = client.next();
            if matches!(&said, Said::Message(message) if message.tag == tag::SUCCESS) {
                said = client.next();
            }
            let Said::Message(failure) = said else { panic!("got {said:?}") };
            assert!(failure.code().starts_with("Neo.TransientError."), "{failure:?}");
            client.expect_end();
            assert!(proxy.metrics().get("server_discarded{dial_failed}") >= failures);
        }
        server.say(Phase::Nowhere, &[]);
        proxy.until("it is seen again", |all| all.get("server_reachable") == 1);
        let logged_in = || Client::login_as(proxy.address, V5_4, "neo4j", "test").is_ok();
        crate::stage::until("a login succeeds", logged_in);
        proxy.until("nothing is left", |all| {
            all.get("server_permits_taken") == all.get("server_connections{idle}")
        });
    }
}

#[test]
fn a_server_that_lies_in_a_result_loses_its_connection_only() {
    let server = BadServer::start();
    let proxy = Running::start(server.address, &["pool.size=2"]);
    for phase in [Phase::Run, Phase::Result] {
        for (name, bytes) in garbage() {
            // Of RUN's SUCCESS nothing is read: it is relayed as it came. A test below has PULL's.
            if name == "SUCCESS that is no map" {
                continue;
            }
            println!("{phase:?}: {name}");
            let discarded = |all: &crate::stage::Metrics| {
                let family = all.family("server_discarded");
                family.iter().map(|(_, count)| count).sum::<u64>()
            };
            let before = discarded(&proxy.metrics());
            server.say(phase, &bytes);
            let mut client = Client::login_as(proxy.address, V5_4, "neo4j", "test").unwrap();
            client.send(&[run("RETURN 1", "x"), pull(-1)].concat());
            // Two summaries or the end: whatever was relayed, no unknown message is.
            let mut summaries = 0;
            while summaries < 2 {
                match client.next() {
                    Said::Message(message) => {
                        let is_known = [tag::SUCCESS, tag::RECORD, tag::FAILURE, tag::IGNORED];
                        assert!(is_known.contains(&message.tag), "{message:?}");
                        summaries += u32::from(message.tag != tag::RECORD);
                    }
                    Said::EndOfFile => break,
                    said => panic!("got {said:?}"),
                }
            }
            drop(client);
            proxy.until("it is counted", |all| discarded(all) > before);
            server.say(Phase::Nowhere, &[]);
            let mut bystander = Client::login_as(proxy.address, V5_4, "neo4j", "test").unwrap();
            bystander.expect_well();
        }
    }
    proxy.until("nobody holds anything", |all| all.get("server_connections{leased}") == 0);
}

#[test]
fn after_a_summary_that_cannot_be_read_a_reset_proves_the_server() {
    let server = BadServer::start();
    let proxy = Running::start(server.address, &["pool.size=1"]);
    let mut client = Client::login_as(proxy.address, V5_4, "neo4j", "test").unwrap();
    server.say(Phase::Result, &encode(tag::SUCCESS, &[Value::Int(1)]));
    client.send(&[run("RETURN 1", "x"), pull(-1)].concat());
    client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    server.say(Phase::Nowhere, &[]);
    proxy.until("it is proven", |all| all.get("server_connections{idle}") == 1);
    assert_eq!(server.resets(), 1);
    client.send(&reset());
    client.expect(&[tag::SUCCESS]);
    client.expect_well();
}

#[test]
fn the_magic_alone_is_waited_for_and_then_given_up() {
    let stage = Stage::start(&["timeouts.first_bytes=150ms"], Options::default());
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(stage.address())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&MAGIC[..number % 5]);
    }
    clients.iter_mut().for_each(Client::expect_end);
    let count = clients.len() as u64;
    stage.proxy.until("all are counted", |all| all.get("closed{login_timeout}") == count);
}
