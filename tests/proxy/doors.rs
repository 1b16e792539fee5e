//! Where clients come in: several listeners, both families, Unix sockets, and the PROXY protocol
//! from balancers and to servers.

use crate::certificates::{Authority, Folder};
use crate::client::{Client, PASSWORD, V5_4, V5_8, Way, hello, logon, proposals};
use crate::stage::{Running, Stage, http, settings};
use boltmux::proxy::Proxy;
use boltmux::synthetic::Options;
use boltmux::transport::proxy_protocol::{Ends, Parsed, Version, header, parse};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const HOST: &str = "bolt.example";
const BALANCED: [&str; 2] =
    ["listen.proxy_protocol=required", "listen.proxy_networks=127.0.0.0/8,::1"];

fn ends() -> Option<Ends> {
    let (client, reached) = ("203.0.113.9:5000", "198.51.100.1:7687");
    Some(Ends { client: client.parse().unwrap(), reached: reached.parse().unwrap() })
}

/// Connected, and announced by a balancer.
fn announced(address: SocketAddr, header: &[u8]) -> Client {
    let mut client = Client::connect(address);
    client.send(header);
    client
}

#[test]
fn clients_behind_a_balancer_are_served_over_every_layer() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let files = folder.pairs("own", &authority.certificate(&[HOST]));
    let pairs: Vec<&str> = files.iter().map(String::as_str).chain(BALANCED).collect();
    let stage = Stage::start(&pairs, Options::default());
    for version in [Version::One, Version::Two] {
        for ends in [ends(), None] {
            let header = header(version, ends);
            let login = |client: Client| client.agree(V5_4).log_in("neo4j", PASSWORD).unwrap();
            login(announced(stage.address(), &header)).expect_well();
            login(announced(stage.address(), &header).upgrade()).expect_well();
            let secure = announced(stage.address(), &header);
            let secure = secure.encrypt(&authority.client(), HOST).expect("TLS behind the header");
            login(secure.upgrade()).expect_well();
            // In one packet with what follows, and in pieces.
            let mut client = Client::connect(stage.address());
            client.send(&[&header[..], &proposals(&[V5_4.to_bytes()])].concat());
            assert_eq!(client.read(4).as_deref(), Ok(&V5_4.to_bytes()[..]));
            let mut client = Client::connect(stage.address());
            for byte in &header {
                client.send(&[*byte]);
                std::thread::yield_now();
            }
            login(client).expect_well();
        }
        let request = String::from_utf8_lossy(&header(Version::One, ends())).into_owned();
        let answer = http(stage.address(), &(request + "GET /health HTTP/1.1\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[test]
fn clients_are_counted_by_what_lies_around_their_bolt() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let files = folder.pairs("own", &authority.certificate(&[HOST]));
    for mode in ["pool.mode=transaction", "pool.mode=session"] {
        let pairs: Vec<&str> = files.iter().map(String::as_str).chain([mode]).collect();
        let stage = Stage::start(&pairs, Options::default());
        let connect = || Client::connect(stage.address());
        let secure = || connect().encrypt(&authority.client(), HOST).expect("TLS is offered");
        let login = |client: Client| client.agree(V5_4).log_in("neo4j", PASSWORD).unwrap();
        let mut clients: Vec<Client> = vec![login(connect())];
        clients.extend((0..2).map(|_| login(secure())));
        clients.extend((0..3).map(|_| login(connect().upgrade())));
        clients.extend((0..4).map(|_| login(secure().upgrade())));
        // It has not said yet what it is.
        clients.push(connect());
        let all = |now: [u64; 4]| {
            stage.proxy.until("all are counted", |all| {
                let names = ["bolt", "tls", "websocket", "wss"];
                names
                    .iter()
                    .zip(now)
                    .all(|(name, now)| all.get(&format!("clients{{{name}}}")) == now)
                    && names.iter().zip(1..).all(|(name, entered)| {
                        all.get(&format!("clients_entered{{{name}}}")) == entered
                    })
            })
        };
        all([1, 2, 3, 4]);
        drop(clients);
        all([0; 4]);
    }
}

#[test]
fn who_is_not_announced_or_no_balancer_is_closed_and_counted() {
    let stage = Stage::start(&BALANCED, Options::default());
    let mut bare = Client::connect(stage.address());
    bare.send(&proposals(&[V5_4.to_bytes()]));
    bare.expect_end();
    let mut broken = announced(stage.address(), b"PROXY TCP4 1.2.3.4 nowhere 1 2\r\n");
    broken.expect_end();
    // Once only: a second one is no protocol of this port.
    let twice = header(Version::Two, ends()).repeat(2);
    announced(stage.address(), &twice).expect_end();
    stage.proxy.until("they are counted", |all| {
        all.get("closed{proxy_header}") == 2 && all.get("closed{unknown_protocol}") == 1
    });
    let others = ["listen.proxy_protocol=required", "listen.proxy_networks=192.0.2.0/24"];
    let stage = Stage::start(&others, Options::default());
    announced(stage.address(), &header(Version::Two, ends())).expect_end();
    stage.proxy.until("it is counted", |all| all.get("closed{proxy_untrusted}") == 1);
    // Where no balancer stands its header is nothing that is known.
    let stage = Stage::start(&[], Options::default());
    announced(stage.address(), &header(Version::Two, ends())).expect_end();
    stage.proxy.until("it is counted", |all| all.get("closed{unknown_protocol}") == 1);
}

/// The first bytes that a server gets, on connections that are counted from the first.
fn first_bytes(server: &TcpListener) -> Vec<u8> {
    let (mut stream, _) = server.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut bytes = vec![0; 16];
    stream.read_exact(&mut bytes).unwrap();
    let rest = usize::from(bytes[15]) + 20;
    bytes.resize(16 + rest, 0);
    stream.read_exact(&mut bytes[16..]).unwrap();
    bytes
}

#[test]
fn servers_are_told_who_comes_in_session_mode() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let pairs = ["pool.mode=session", "uplink.monitor=false", "uplink.proxy_protocol=v2"];
    let proxy = Running::start(server.local_addr().unwrap(), &pairs);
    let mut client = Client::connect(proxy.address);
    let own = Ends { client: client.stream.local_addr().unwrap(), reached: proxy.address };
    client.send(&proposals(&[V5_4.to_bytes()]));
    let bytes = first_bytes(&server);
    let told = Parsed::Header { bytes: bytes.len() - 20, ends: Some(own) };
    assert_eq!(parse(&bytes), told);
    assert!(bytes.ends_with(&proposals(&[V5_4.to_bytes()])));
    drop(client);
    // Behind a balancer it is the client, not the balancer, that the server is told of.
    let pairs = [&pairs[..], &BALANCED].concat();
    let proxy = Running::start(server.local_addr().unwrap(), &pairs);
    let mut client = announced(proxy.address, &header(Version::One, ends()));
    client.send(&proposals(&[V5_4.to_bytes()]));
    let bytes = first_bytes(&server);
    assert_eq!(parse(&bytes), Parsed::Header { bytes: bytes.len() - 20, ends: ends() });
}

/// A pooled connection is nobody's: the second proxy is told that the first speaks for itself, by
/// probes, too.
#[test]
fn one_proxy_behind_another_works_in_both_modes() {
    for version in ["v1", "v2"] {
        let behind = Stage::start(&BALANCED, Options::default());
        let told = format!("uplink.proxy_protocol={version}");
        for mode in ["pool.mode=transaction", "pool.mode=session"] {
            let front = Running::start(behind.address(), &[mode, &told]);
            front.until("it is seen", |all| all.get("server_reachable") == 1);
            Client::login(front.address, V5_8).expect_well();
        }
        assert_eq!(behind.proxy.metrics().get("closed{proxy_header}"), 0);
    }
}

#[test]
fn every_listener_has_its_own_conditions() {
    let folder = Folder::new();
    let path = folder.path("bolt.sock");
    let unix = path.display();
    let has_both = TcpListener::bind("[::1]:0").is_ok();
    if !has_both {
        println!("not tested: a listener for IPv6, this machine has no ::1");
    }
    let second = if has_both { "[::1]:0" } else { "127.0.0.2:0" };
    let stage = Stage::start(
        &[
            &format!("listen.bind=127.0.0.1:0,{second},unix:{unix}"),
            "listen.unix_mode=0600",
            "shards=2",
        ],
        Options::default(),
    );
    let addresses = &stage.proxy.addresses;
    assert!(addresses.len() == 2 && addresses[0].is_ipv4());
    assert_eq!(addresses[1].is_ipv6(), has_both);
    for _ in 0..4 {
        for address in addresses {
            Client::login(*address, V5_4).expect_well();
        }
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&proposals(&[V5_4.to_bytes()])).unwrap();
        let mut version = [0; 4];
        stream.read_exact(&mut version).unwrap();
        assert_eq!(version, V5_4.to_bytes());
        let login = [hello(V5_4, "neo4j", PASSWORD), logon("neo4j", PASSWORD)].concat();
        stream.write_all(&login).unwrap();
        let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
        // Both answers end in an end marker; that of LOGON is an empty map.
        while !answer.ends_with(b"\x00\x03\xB1\x70\xA0\x00\x00") {
            let count = stream.read(&mut piece).unwrap();
            assert_ne!(count, 0, "{answer:02x?}");
            answer.extend_from_slice(&piece[..count]);
        }
    }
    drop(stage);
    assert!(!path.exists(), "the socket's file goes with the proxy");
}

/// What a listener says inside TLS, to the end.
fn told(client: &mut Client, request: &str) -> String {
    client.send(request.as_bytes());
    let mut told = Vec::new();
    while let Ok(byte) = client.read(1) {
        told.extend(byte);
    }
    String::from_utf8(told).unwrap()
}

#[test]
fn http_and_its_limits_are_the_same_inside_tls() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let files = folder.pairs("own", &authority.certificate(&[HOST]));
    let pairs: Vec<&str> =
        files.iter().map(String::as_str).chain(["timeouts.first_bytes=1s"]).collect();
    let stage = Stage::start(&pairs, Options::default());
    stage.proxy.until("the server is seen", |all| all.get("server_reachable") == 1);
    let secure = || Client::secure(stage.address(), &authority.client(), HOST).unwrap();
    for (request, answer) in [
        ("GET /health HTTP/1.1\r\n\r\n".to_owned(), "HTTP/1.1 200 OK"),
        ("HEAD /health HTTP/1.1\r\n\r\n".into(), "HTTP/1.1 200 OK"),
        ("GET / HTTP/1.1\r\n\r\n".into(), "HTTP/1.1 200 OK"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9 << 10)), "HTTP/1.1 431 "),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65)), "HTTP/1.1 431 "),
    ] {
        let told = told(&mut secure(), &request);
        assert!(told.starts_with(answer), "{told}");
        let has_body = told.split_once("\r\n\r\n").is_some_and(|(_, body)| !body.is_empty());
        assert_eq!(has_body, !request.starts_with("HEAD"), "{told}");
    }
    // Neither a finished handshake nor an upgrade renews the limit.
    secure().expect_end();
    secure().upgrade().expect_end();
    Client::connect(stage.address()).upgrade().expect_end();
    stage.proxy.until("they are counted", |all| all.get("closed{login_timeout}") == 3);
    let mut nested = secure().upgrade();
    nested.send(b"\x16\x03\x01\x02\x00\x01\x00\x01");
    nested.expect_end();
    stage.proxy.until("it is counted", |all| all.get("closed{nested_layer}") == 1);
}

#[test]
fn pages_of_other_origins_are_turned_away() {
    let stage = Stage::start(
        &["listen.websocket_origins=https://a.example,https://browser.example"],
        Options::default(),
    );
    Client::connect_by(Way::WebSocket, stage.address()).agree(V5_4);
    let request = crate::frames::request() + "\r\n";
    let other = request.replace("https://browser.example", "https://evil.example");
    let answer = http(stage.address(), &other);
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("origins"), "{answer}");
    // A program names no origin, and Bolt without WebSocket has none.
    let none = request.replace("Origin: https://browser.example\r\n", "");
    let mut program = Client::connect(stage.address());
    program.send(none.as_bytes());
    let first = program.read(12).unwrap();
    assert_eq!(first, b"HTTP/1.1 101");
    Client::login(stage.address(), V5_4).expect_well();
}

#[test]
fn a_place_that_is_taken_is_told_in_one_line() {
    let folder = Folder::new();
    let path = folder.path("taken.sock");
    let bind = format!("listen.bind=unix:{}", path.display());
    let stage = Stage::start(&[&format!("{bind},127.0.0.1:0")], Options::default());
    let taken = Proxy::start(settings(&[bind])).map(|_| ()).unwrap_err();
    assert!(taken.text.contains("another program") && !taken.text.contains('\n'), "{taken:?}");
    assert!(path.exists());
    TcpStream::connect(stage.address()).unwrap();
}
