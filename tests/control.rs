//! The control core on its own: fake shards on plain threads, a fake Bolt server, and operators.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test runs beside the shards and ends at the first surprise"
)]

use boltmux::backend::Discard;
use boltmux::backend::permits::Permits;
use boltmux::config::{Bind, BindHost, Secret};
use boltmux::control::link::{ControlLink, LINK_SLOTS, Order, ShardLink, Snapshot, link};
use boltmux::control::{Options, Running, Shutdown, Trouble, start};
use boltmux::counters::ShardCounters;
use boltmux::relay::close::CloseReason;
use boltmux::wire::chunk;
use boltmux::wire::handshake::{self, Choice};
use boltmux::wire::message::{Failure, Hello, HelloSuccess};
use boltmux::wire::version::Version;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown as Half, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, Thread};
use std::time::Duration;

/// Far above what any step takes: only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the fake server saw of a client.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Proposals([u8; 20]),
    Hello { version: Version, has_login: bool },
}

/// How the fake server treats one connection.
#[derive(Clone)]
enum Manner {
    Speaks(Speech),
    /// Sends this whatever comes.
    Says(&'static [u8]),
    /// Accepts and says nothing.
    Silent,
    /// Closes as soon as a manifest is proposed, and speaks otherwise.
    ClosesOnManifest(Speech),
}

#[derive(Clone)]
struct Speech {
    versions: Vec<Version>,
    agent: &'static str,
    hint: Option<u64>,
    has_manifest: bool,
    knows_ranges: bool,
    refuses_login: bool,
}

/// A server that treats each connection as `manner` says for its number, until it is dropped.
struct Server {
    address: SocketAddr,
    events: Receiver<Event>,
    connections: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(manner: impl Fn(usize) -> Manner + Send + 'static) -> Server {
        Server::on((Ipv4Addr::LOCALHOST, 0).into(), manner)
    }

    fn on(address: SocketAddr, manner: impl Fn(usize) -> Manner + Send + 'static) -> Server {
        let socket = shared_socket(address);
        socket.listen(64).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let (sender, events) = channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let (count, over) = (connections.clone(), is_over.clone());
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(SeqCst) {
                    return;
                }
                let number = count.fetch_add(1, SeqCst);
                // A client that breaks off ends its own connection only.
                let _ = treat(stream.unwrap(), manner(number), &sender);
            }
        });
        Server { address, events, connections, is_over, thread: Some(thread) }
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
        let outcome = self.thread.take().unwrap().join();
        assert!(outcome.is_ok() || thread::panicking(), "the fake server found a fault");
    }
}

/// Bound but not listening: connecting is refused, and no other test is given the port.
struct Reserved {
    address: SocketAddr,
    _socket: Socket,
}

impl Reserved {
    fn new() -> Reserved {
        let socket = shared_socket((Ipv4Addr::LOCALHOST, 0).into());
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Reserved { address, _socket: socket }
    }
}

/// Shares its port with others made so, be they reserved or servers.
fn shared_socket(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

fn treat(mut stream: TcpStream, manner: Manner, events: &Sender<Event>) -> std::io::Result<()> {
    match manner {
        Manner::Speaks(speech) => speech.hold(&mut stream, events)?,
        Manner::Says(bytes) => stream.write_all(bytes)?,
        Manner::Silent => {}
        Manner::ClosesOnManifest(speech) => {
            let mut proposals = [0; 20];
            stream.peek(&mut proposals)?;
            if proposals[7] != 0xFF {
                speech.hold(&mut stream, events)?;
            }
        }
    }
    stream.shutdown(Half::Write)?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

impl Speech {
    fn hold(&self, stream: &mut TcpStream, events: &Sender<Event>) -> std::io::Result<()> {
        let mut proposals = [0; 20];
        stream.read_exact(&mut proposals)?;
        events.send(Event::Proposals(proposals)).unwrap();
        for word in proposals[4..].chunks_mut(4) {
            if word[3] == 0xFF && !self.has_manifest {
                word.fill(0);
            } else if !self.knows_ranges {
                word[1] = 0;
            }
        }
        let proposals = handshake::parse_hello20(&proposals).unwrap();
        let version = match handshake::choose(&proposals, &self.versions) {
            Choice::Manifest => match self.offer_manifest(stream)? {
                Some(version) => version,
                None => return Ok(()),
            },
            choice => {
                stream.write_all(&handshake::answer(choice))?;
                let Choice::Version(version) = choice else { return Ok(()) };
                version
            }
        };
        let Some(message) = read_message(stream)? else { return Ok(()) };
        let mut scratch = Vec::new();
        let payload = chunk::payload(&message, &mut scratch);
        let auth = if version.has_logon() {
            Hello::parse(version, payload).unwrap();
            None
        } else {
            Hello::parse(version, payload).unwrap().auth
        };
        events.send(Event::Hello { version, has_login: auth.is_some() }).unwrap();
        if self.refuses_login {
            let failure = Failure::new("Neo.ClientError.Security.Unauthorized", "42NFF", "no");
            return stream.write_all(&failure.encode(version));
        }
        let success = HelloSuccess {
            server: self.agent.into(),
            connection_id: "bolt-1".into(),
            recv_timeout_seconds: self.hint,
            ..HelloSuccess::default()
        };
        // A no-op first: servers may send them at any time.
        stream.write_all(&chunk::NOOP)?;
        stream.write_all(&success.encode(version, false, None, None))?;
        // A control core that is ended here says nothing more.
        let last = read_message(stream)?;
        assert!(last.is_none_or(|message| message == boltmux::wire::message::GOODBYE));
        Ok(())
    }

    /// In single bytes, as a network may deliver it.
    fn offer_manifest(&self, stream: &mut TcpStream) -> std::io::Result<Option<Version>> {
        stream.set_nodelay(true)?;
        for byte in handshake::manifest(&self.versions) {
            stream.write_all(&[byte])?;
        }
        let mut choice = [0; 5];
        stream.read_exact(&mut choice)?;
        let (_, version) =
            handshake::parse_manifest_choice(&choice, &self.versions).unwrap().unwrap();
        Ok(version)
    }
}

/// One message of one chunk; `None` at the end.
fn read_message(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut message = vec![0; 2];
    if stream.read(&mut message[..1])? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut message[1..])?;
    let length = usize::from(u16::from_be_bytes([message[0], message[1]]));
    message.resize(length + 4, 0);
    stream.read_exact(&mut message[2..])?;
    Ok(Some(message))
}

fn versions(texts: &[&str]) -> Vec<Version> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn modern() -> Speech {
    Speech {
        versions: versions(&["5.8", "5.7", "5.6", "5.4", "4.4"]),
        agent: "Neo4j/5.26.1",
        hint: Some(120),
        has_manifest: true,
        knows_ranges: true,
        refuses_login: false,
    }
}

fn classic(texts: &[&str]) -> Speech {
    Speech {
        versions: versions(texts),
        agent: "Neo4j/4.2.7",
        hint: None,
        has_manifest: false,
        knows_ranges: false,
        refuses_login: false,
    }
}

/// A shard that does what the control core tells it and hands all but reports on to the test.
struct FakeShard {
    thread: Thread,
    is_over: Arc<AtomicBool>,
    orders: Receiver<Order>,
    /// Leases returned between two reports.
    pace: Arc<AtomicUsize>,
}

impl FakeShard {
    /// `counters` is what it reports; `None`: it never looks at its orders.
    fn start(mut counters: Option<ShardCounters>) -> (FakeShard, ShardLink) {
        let (sender, orders) = channel();
        let (ends, links) = channel::<ControlLink>();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let pace = Arc::new(AtomicUsize::new(0));
        let its_pace = pace.clone();
        let handle = thread::spawn(move || {
            let mut end = links.recv().unwrap();
            while !over.load(SeqCst) {
                if let Some(counters) = &mut counters {
                    follow(&mut end, counters, its_pace.load(SeqCst) as u64, &sender);
                }
                thread::park();
            }
        });
        let thread = handle.thread().clone();
        let woken = thread.clone();
        let (shard_link, end) = link(Box::new(move || woken.unpark()));
        ends.send(end).unwrap();
        (FakeShard { thread, is_over, orders, pace }, shard_link)
    }

    /// The next snapshot that passes `is_right`.
    fn snapshot(&self, is_right: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        loop {
            match self.orders.recv_timeout(PATIENCE).expect("a snapshot that is right") {
                Order::Server(snapshot) if is_right(&snapshot) => return snapshot,
                _ => {}
            }
        }
    }
}

fn follow(end: &mut ControlLink, counters: &mut ShardCounters, pace: u64, sender: &Sender<Order>) {
    while let Ok(order) = end.orders.pop() {
        match order {
            Order::Report => {
                counters.leases_returned += pace;
                let _ = end.reports.push(Box::new(counters.clone()));
            }
            order => drop(sender.send(order)),
        }
    }
}

impl Drop for FakeShard {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
        self.thread.unpark();
    }
}

struct World {
    shards: Vec<FakeShard>,
    permits: Arc<Permits>,
    shutdown: Shutdown,
    running: Option<Running>,
}

impl World {
    fn start(options: Options) -> World {
        let counters = || Some(ShardCounters::default());
        World::with(options, vec![counters(), counters()], 4)
    }

    fn with(options: Options, shards: Vec<Option<ShardCounters>>, limit: u32) -> World {
        let (shards, links) = shards.into_iter().map(FakeShard::start).unzip();
        let permits = Arc::new(Permits::new(limit));
        let shutdown = Shutdown::default();
        let running = start(options, links, permits.clone(), shutdown.clone()).unwrap();
        World { shards, permits, shutdown, running: Some(running) }
    }

    fn admin(&self) -> SocketAddr {
        self.running.as_ref().unwrap().admin[0]
    }

    fn get(&self, path: &str) -> (u16, String, String) {
        request(self.admin(), &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.end.store(true, SeqCst);
        let running = self.running.take().unwrap();
        if !thread::panicking() {
            running.thread.join().unwrap();
        }
    }
}

/// Fast enough for a test, and with time limits that only silence reaches.
fn options(server: SocketAddr) -> Options {
    Options {
        host: server.ip().to_string(),
        port: server.port(),
        admin: Some(Bind { host: BindHost::Address(Ipv4Addr::LOCALHOST.into()), port: 0 }),
        connect_timeout: Duration::from_secs(5),
        first_look: PATIENCE,
        probe_interval: Duration::from_millis(20),
        retry_min: Duration::from_millis(20),
        retry_max: Duration::from_millis(50),
        ..Options::default()
    }
}

/// Status, head and body of the answer, which must end the connection.
fn request(address: SocketAddr, text: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn a_server_with_a_manifest_is_learned_and_its_changes_are_seen() {
    let is_upgraded = Arc::new(AtomicBool::new(false));
    let upgraded = is_upgraded.clone();
    let reserved = Reserved::new();
    let address = reserved.address;
    let server = Server::on(address, move |_| {
        let mut speech = modern();
        if upgraded.load(SeqCst) {
            speech.versions.insert(0, Version::new(6, 0));
            speech.agent = "Neo4j/2025.10.0";
        }
        Manner::Speaks(speech)
    });
    let world = World::start(options(address));
    for shard in &world.shards {
        let snapshot = shard.snapshot(|_| true);
        assert_eq!(snapshot.addresses, [address]);
        assert!(snapshot.is_reachable && snapshot.trouble.is_empty());
        let known = snapshot.known.as_ref().unwrap();
        assert_eq!(known.versions, modern().versions);
        assert_eq!(known.agent, "Neo4j/5.26.1");
        assert_eq!(known.recv_timeout_seconds, Some(120));
    }
    is_upgraded.store(true, SeqCst);
    let snapshot = world.shards[0].snapshot(|_| true);
    let known = snapshot.known.as_ref().unwrap();
    assert_eq!((known.versions[0], known.agent.as_str()), (Version::new(6, 0), "Neo4j/2025.10.0"));
    drop(server);
    let lost = world.shards[1].snapshot(|snapshot| !snapshot.is_reachable);
    assert_eq!(&lost.known, &snapshot.known, "what was learned is kept");
    assert!(lost.trouble.contains(&address.to_string()), "{}", lost.trouble);
    let server = Server::on(address, |_| Manner::Speaks(modern()));
    let back = world.shards[1].snapshot(|snapshot| snapshot.is_reachable);
    assert_eq!(back.known.as_ref().unwrap().agent, "Neo4j/5.26.1", "it learns again");
    drop(world);
    drop(server);
}

#[test]
fn light_probes_say_no_hello() {
    let server = Server::start(|_| Manner::Speaks(modern()));
    let world = World::start(options(server.address));
    let mut hellos = 0;
    for _ in 0..6 {
        match server.events.recv_timeout(PATIENCE).unwrap() {
            Event::Hello { version, has_login } => {
                hellos += 1;
                assert_eq!((version, has_login), (Version::new(5, 8), false));
            }
            Event::Proposals(bytes) => assert_eq!(bytes, handshake::propose_manifest()),
        }
    }
    assert_eq!(hellos, 1);
    drop(world);
}

/// Bytes of proposals that name one version exactly and nothing else.
fn is_exact(bytes: &[u8; 20]) -> bool {
    bytes[4..6] == [0, 0] && bytes[7] != 0xFF && bytes[8..].iter().all(|byte| *byte == 0)
}

#[test]
fn a_classic_server_is_asked_version_by_version() {
    let server = Server::start(|_| Manner::Speaks(classic(&["4.2", "4.1", "3.0"])));
    let world = World::start(options(server.address));
    let snapshot = world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    let known = snapshot.known.clone().unwrap();
    assert_eq!(known.versions, versions(&["4.2", "4.1", "3.0"]));
    assert_eq!(known.agent, "Neo4j/4.2.0", "derived from the version, since nobody may ask");
    assert!(server.connections() < Version::ALL.len() + 3, "{}", server.connections());
    let events: Vec<Event> = server.events.try_iter().collect();
    let exact = events.iter().filter(|event| matches!(event, Event::Proposals(p) if is_exact(p)));
    assert!(exact.count() >= 11, "{events:?}");
    assert!(!events.iter().any(|event| matches!(event, Event::Hello { .. })));
}

#[test]
fn a_classic_server_is_asked_for_its_agent_with_the_login() {
    let server = Server::start(|_| Manner::Speaks(classic(&["4.4", "4.3"])));
    let password = Some(Secret::new("not-a-secret".into()));
    let world = World::start(Options { password, ..options(server.address) });
    let snapshot = world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    let known = snapshot.known.clone().unwrap();
    assert_eq!(
        (known.agent.as_str(), &known.versions),
        ("Neo4j/4.2.7", &versions(&["4.4", "4.3"]))
    );
    let hello = Event::Hello { version: Version::new(4, 4), has_login: true };
    assert!(server.events.try_iter().any(|event| event == hello));
}

#[test]
fn a_refused_login_is_tried_once() {
    let refusing = Speech { refuses_login: true, ..classic(&["4.4"]) };
    let server = Server::start(move |_| Manner::Speaks(refusing.clone()));
    let password = Some(Secret::new("a-wrong-one".into()));
    let resolve_interval = Duration::from_millis(1);
    let options = Options { password, resolve_interval, ..options(server.address) };
    let world = World::start(options);
    let snapshot = world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    assert_eq!(snapshot.known.as_ref().unwrap().agent, "Neo4j/4.4.0");
    let mut hellos = 0;
    for _ in 0..40 {
        let event = server.events.recv_timeout(PATIENCE).unwrap();
        hellos += usize::from(matches!(event, Event::Hello { .. }));
    }
    assert_eq!(hellos, 1);
}

/// A server that dies while it is asked for its manifest must not lose its newest versions by that:
/// clients of those would be told that boltmux speaks none of theirs.
#[test]
fn a_server_that_was_cut_off_at_the_manifest_keeps_all_its_versions() {
    let speech = Speech { has_manifest: false, ..modern() };
    let server = Server::start(move |_| Manner::ClosesOnManifest(speech.clone()));
    let world = World::start(options(server.address));
    let snapshot = world.shards[0].snapshot(|snapshot| snapshot.known.is_some());
    assert_eq!(snapshot.known.clone().unwrap().versions, modern().versions);
}

#[test]
fn a_server_that_closes_on_the_manifest_is_asked_exactly() {
    let server = Server::start(|_| Manner::ClosesOnManifest(classic(&["5.4", "5.3"])));
    let world = World::start(options(server.address));
    let snapshot = world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    let known = snapshot.known.clone().unwrap();
    assert_eq!(
        (known.agent.as_str(), &known.versions),
        ("Neo4j/4.2.7", &versions(&["5.4", "5.3"]))
    );
}

#[test]
fn what_is_no_bolt_server_is_named() {
    let limit = Duration::from_millis(200);
    for (manner, expected) in [
        (Manner::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "is it a Bolt port?"),
        (Manner::Says(b"\0\0"), "the server closed"),
        (Manner::Says(b""), "the server closed"),
        (Manner::Says(&[0, 0, 1, 0xFF, 0xFF, 0xFF, 1]), "manifest"),
        (Manner::Says(&[0, 0, 1, 0xFF, 1, 0, 0]), "the rest of the manifest"),
        (Manner::Says(&[0, 0, 1, 0xFF, 1, 0, 0, 9, 9, 0]), "a version of Bolt"),
        (Manner::Says(&[0, 0, 4, 5]), "a whole message"),
        (Manner::Silent, "within 0.2 s"),
    ] {
        // The silent one keeps the connection open, the others end it.
        let is_silent = matches!(manner, Manner::Silent);
        let server = Server::start(move |_| manner.clone());
        let held = is_silent.then(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let address = held.as_ref().map_or(server.address, |held| held.local_addr().unwrap());
        let world = World::start(Options { connect_timeout: limit, ..options(address) });
        let snapshot = world.shards[0].snapshot(|_| true);
        assert!(!snapshot.is_reachable && snapshot.known.is_none(), "{snapshot:?}");
        assert!(snapshot.trouble.contains(expected), "{expected}: {}", snapshot.trouble);
        assert!(snapshot.trouble.contains(&address.to_string()), "{}", snapshot.trouble);
        let (status, _, body) = world.get("/healthz");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["status"]), (503, &"unreachable".into()));
        assert!(!body["reason"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_refused_connection_and_an_unknown_name_are_told_and_tried_again() {
    let reserved = Reserved::new();
    let address = reserved.address;
    let world = World::start(options(address));
    let snapshot = world.shards[0].snapshot(|_| true);
    assert!(!snapshot.is_reachable && snapshot.trouble.contains("refused"), "{snapshot:?}");
    let server = Server::on(address, |_| Manner::Speaks(modern()));
    assert!(world.shards[0].snapshot(|snapshot| snapshot.is_reachable).known.is_some());
    drop(world);
    drop(server);
    let options = Options { host: "no-such-host.invalid".into(), ..options(address) };
    let world = World::start(options);
    let snapshot = world.shards[0].snapshot(|_| true);
    assert!(snapshot.addresses.is_empty() && !snapshot.is_reachable);
    assert!(snapshot.trouble.contains("no-such-host.invalid"), "{}", snapshot.trouble);
}

/// `localhost` has two addresses on most machines, and servers often listen on one of them only.
#[test]
#[expect(clippy::disallowed_methods, reason = "nothing else runs that a slow name could hold up")]
fn the_address_that_answers_comes_first() {
    let addresses: Vec<SocketAddr> = ("localhost", 0).to_socket_addrs().unwrap().collect();
    let can_listen = |address: &&SocketAddr| TcpListener::bind(**address).is_ok();
    let own = addresses.iter().rev().find(can_listen).expect("localhost is this machine");
    if Some(own) != addresses.last() {
        println!("not tested, the first address is the only one to listen on: {addresses:?}");
    }
    let server = Server::on(*own, |_| Manner::Speaks(modern()));
    let world = World::start(Options { host: "localhost".into(), ..options(server.address) });
    let snapshot = world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    assert_eq!(snapshot.addresses.len(), addresses.len());
    assert_eq!(snapshot.addresses[0], server.address);
}

#[test]
fn a_silent_server_holds_up_no_start() {
    // The kernel takes connections, and nobody else does.
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = server.local_addr().unwrap();
    let (first_look, connect_timeout) = (Duration::from_millis(20), Duration::from_secs(600));
    let options = Options { first_look, connect_timeout, ..options(address) };
    let world = World::start(options);
    world.running.as_ref().unwrap().looked.recv_timeout(PATIENCE).unwrap();
    let snapshot = world.shards[1].snapshot(|_| true);
    assert_eq!(snapshot.addresses, [address]);
    assert!(!snapshot.is_reachable && snapshot.known.is_none());
    assert!(snapshot.trouble.contains("within 0.02 s"), "{}", snapshot.trouble);
    assert_eq!(world.get("/healthz").0, 503);
}

#[test]
fn without_a_monitor_nobody_is_dialled() {
    let server = Server::start(|_| Manner::Speaks(modern()));
    let options = Options { monitor: false, ..options(server.address) };
    let world = World::start(options);
    let snapshot = world.shards[0].snapshot(|_| true);
    assert_eq!(snapshot.addresses, [server.address]);
    assert!(snapshot.is_reachable && snapshot.known.is_none());
    assert_eq!(world.get("/healthz").0, 200);
    drop(world);
    assert_eq!(server.connections(), 0);
}

#[test]
fn a_probe_holds_a_permit_and_passes_it_on() {
    let (go, gone) = channel::<()>();
    let (arrived, arrivals) = channel();
    let server = Server::start(move |number| {
        arrived.send(number).unwrap();
        // The second connection is held until the test has looked at the permits.
        if number == 1 {
            gone.recv_timeout(PATIENCE).unwrap();
        }
        Manner::Speaks(modern())
    });
    let counters = || Some(ShardCounters::default());
    let world = World::with(options(server.address), vec![counters(), counters()], 1);
    while arrivals.recv_timeout(PATIENCE).unwrap() != 1 {}
    assert_eq!(world.permits.open(), 1, "a probe holds a permit");
    world.permits.announce(1, 7);
    go.send(()).unwrap();
    loop {
        match world.shards[1].orders.recv_timeout(PATIENCE).expect("a permit") {
            Order::Permit => break,
            Order::Server(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.permits.open(), 1, "now the shard has it");
    let probes = server.connections();
    let (status, _, _) = world.get("/metrics");
    assert_eq!(status, 200);
    let waited = arrivals.recv_timeout(Duration::from_millis(200));
    assert_eq!(waited, Err(RecvTimeoutError::Timeout), "no permit, no probe");
    assert_eq!(server.connections(), probes);
    assert_eq!(world.get("/healthz").0, 200, "a probe left out is no trouble");
    assert_eq!(world.permits.release(), None);
    arrivals.recv_timeout(PATIENCE).expect("probing goes on");
}

#[test]
fn a_full_pool_that_works_shows_that_a_lost_server_is_back() {
    let reserved = Reserved::new();
    let address = reserved.address;
    let world = World::with(options(address), vec![Some(ShardCounters::default())], 1);
    world.shards[0].snapshot(|snapshot| !snapshot.is_reachable);
    // Probes hold it for a moment only.
    while !world.permits.try_take() {
        thread::yield_now();
    }
    let server = Server::on(address, |_| Manner::Speaks(modern()));
    let quiet = world.shards[0].orders.recv_timeout(Duration::from_millis(200));
    assert!(quiet.is_err(), "no permit and no work: {quiet:?}");
    world.shards[0].pace.store(1, SeqCst);
    world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    assert_eq!(server.connections(), 0);
    drop(world);
    drop(server);
}

/// Hands every line of the log to a channel.
struct LogLines(Sender<String>);

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_outage_is_logged_with_one_line_at_each_end() {
    let (sender, lines) = channel();
    let writer = move || LogLines(sender.clone());
    tracing_subscriber::fmt().with_writer(writer).with_ansi(false).init();
    let reserved = Reserved::new();
    let address = reserved.address;
    let world = World::start(options(address));
    let shard = &world.shards[0];
    shard.snapshot(|snapshot| !snapshot.is_reachable);
    // Long enough for many more attempts.
    assert!(shard.orders.recv_timeout(Duration::from_millis(300)).is_err());
    for _ in 0..2 {
        let server = Server::on(address, |_| Manner::Speaks(modern()));
        shard.snapshot(|snapshot| snapshot.is_reachable);
        drop(server);
        shard.snapshot(|snapshot| !snapshot.is_reachable);
    }
    drop(world);
    let ours = |line: &String| line.contains(&format!("the server {address} "));
    let lines: Vec<String> = lines.try_iter().filter(ours).collect();
    let texts = ["cannot be reached", "can be reached: it is Neo4j/5.26.1, Bolt 5.8, 5.7"];
    assert_eq!(lines.len(), 5, "{lines:?}");
    for (index, line) in lines.iter().enumerate() {
        assert!(line.contains(texts[index % 2]), "{line}");
    }
}

/// The value of one sample line, which must be there once.
fn sample(text: &str, name: &str) -> u64 {
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let values: Vec<&str> = values.collect();
    assert_eq!(values.len(), 1, "{name} in:\n{text}");
    values[0].parse().unwrap()
}

fn counts(base: u64) -> ShardCounters {
    let mut closed = [0; CloseReason::ALL.len()];
    closed[CloseReason::ALL.iter().position(|&r| r == CloseReason::IdleTimeout).unwrap()] =
        base + 1;
    let mut discarded = [0; Discard::ALL.len()];
    discarded[Discard::ALL.iter().position(|&d| d == Discard::Evicted).unwrap()] = base + 2;
    ShardCounters {
        accepted: base + 3,
        clients_logging_in: base + 4,
        clients_serving: base + 5,
        clients_waiting: base + 6,
        closed,
        discarded,
        servers_leased: base + 7,
        servers_idle: base + 8,
        servers_busy: base + 9,
        servers_opened: base + 10,
        servers_closed: base + 11,
        servers_borrowed: base + 12,
        servers_lent: base + 13,
        leases_acquired: base + 14,
        leases_returned: base + 15,
        leases_waited: base + 16,
        dial_failures: base + 17,
        double_returns: base + 18,
        failures_made: base + 19,
        relayed_bytes: base + 20,
        copied_bytes: base + 21,
        heap_bytes: base + 22,
        buffers_kept: base + 33,
        accept_pauses: base + 23,
        over_budget: base + 24,
        enters: base + 25,
        pauses_caught: base + 41,
        servers_turned_over: base + 26,
        clients_by_layers: [base + 33, base + 34, base + 35, base + 36],
        entered: [base + 37, base + 38, base + 39, base + 40],
        tls_handshakes: [[base + 27, base + 28, base + 29], [base + 30, base + 31, base + 32]],
    }
}

#[test]
fn metrics_are_the_sums_over_the_shards() {
    let server = Server::start(|_| Manner::Speaks(modern()));
    let world =
        World::with(options(server.address), vec![Some(counts(100)), Some(counts(1000))], 9);
    world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    let (status, head, text) = world.get("/metrics");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    let of_server = |name: &str| format!("boltmux_{name}{{server=\"{}\"}}", server.address);
    let state = |state: &str| {
        format!("boltmux_server_connections{{server=\"{}\",state=\"{state}\"}}", server.address)
    };
    for (name, offset) in [
        ("boltmux_closed_total{reason=\"idle_timeout\"}".into(), 1),
        ("boltmux_server_discarded_total{reason=\"evicted\"}".into(), 2),
        ("boltmux_clients_accepted_total".into(), 3),
        ("boltmux_client_connections{state=\"login\"}".into(), 4),
        ("boltmux_client_connections{state=\"serving\"}".into(), 5),
        ("boltmux_clients_waiting".into(), 6),
        (state("leased"), 7),
        (state("idle"), 8),
        (state("busy"), 9),
        (of_server("server_opened_total"), 10),
        (of_server("server_closed_total"), 11),
        (of_server("server_borrowed_total"), 12),
        (of_server("server_turned_over_total"), 26),
        (of_server("server_lent_total"), 13),
        ("boltmux_leases_acquired_total".into(), 14),
        ("boltmux_leases_returned_total".into(), 15),
        ("boltmux_leases_waited_total".into(), 16),
        ("boltmux_dial_failures_total".into(), 17),
        ("boltmux_leases_returned_twice_total".into(), 18),
        ("boltmux_failures_made_total".into(), 19),
        ("boltmux_relayed_bytes_total".into(), 20),
        ("boltmux_copied_bytes_total".into(), 21),
        ("boltmux_heap_bytes".into(), 22),
        ("boltmux_buffers_kept".into(), 33),
        ("boltmux_accept_pauses_total".into(), 23),
        ("boltmux_over_budget_total".into(), 24),
        ("boltmux_ring_enters_total".into(), 25),
        ("boltmux_pauses_caught_total".into(), 41),
        ("boltmux_tls_handshakes_total{peer=\"client\",outcome=\"full\"}".into(), 27),
        ("boltmux_tls_handshakes_total{peer=\"client\",outcome=\"failed\"}".into(), 29),
        ("boltmux_tls_handshakes_total{peer=\"server\",outcome=\"resumed\"}".into(), 31),
        ("boltmux_clients{transport=\"bolt\"}".into(), 33),
        ("boltmux_clients{transport=\"wss\"}".into(), 36),
        ("boltmux_clients_entered_total{transport=\"tls\"}".into(), 38),
        ("boltmux_clients_entered_total{transport=\"websocket\"}".into(), 39),
    ] {
        let name: String = name;
        assert_eq!(sample(&text, &name), 1100 + 2 * offset, "{name}");
    }
    assert_eq!(sample(&text, "boltmux_closed_total{reason=\"goodbye\"}"), 0);
    assert_eq!(sample(&text, "boltmux_shard_client_connections{shard=\"1\"}"), 2009);
    assert_eq!(sample(&text, &of_server("server_connections_limit")), 9);
    assert!(sample(&text, &of_server("server_permits_taken")) <= 1, "a probe's at most");
    assert_eq!(sample(&text, &of_server("server_reachable")), 1);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(sample(&text, &format!("boltmux_build_info{{version=\"{version}\"}}")), 1);
    check_format(&text);
}

/// Every sample has a family announced before it with help and type; counters end in `_total`.
fn check_format(text: &str) {
    assert!(text.ends_with("# EOF\n"));
    let (mut family, mut kind, mut families) = ("", "", Vec::new());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(!families.contains(&name) && help.len() > 10, "{line}");
                families.push(name);
                family = name;
            }
            ["#", "TYPE", name, of] => {
                assert_eq!(name, family);
                kind = of;
            }
            _ => {
                let name = line.split(['{', ' ']).next().unwrap();
                let suffix = if kind == "counter" { "_total" } else { "" };
                assert_eq!(name.strip_prefix(family), Some(suffix), "{line}");
            }
        }
    }
    assert!(families.iter().all(|name| name.starts_with("boltmux_")), "{families:?}");
}

#[test]
fn a_stuck_shard_delays_nobody_for_long_and_a_full_ring_is_no_error() {
    let server = Server::start(|_| Manner::Speaks(modern()));
    let options = Options { report_wait: Duration::from_millis(5), ..options(server.address) };
    let world = World::with(options, vec![Some(counts(100)), None], 4);
    for _ in 0..LINK_SLOTS + 4 {
        let (status, _, text) = world.get("/metrics");
        assert_eq!((status, sample(&text, "boltmux_heap_bytes") <= 122), (200, true));
    }
    world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    assert_eq!(world.get("/healthz").0, 200);
}

#[test]
fn operators_get_clear_answers() {
    let server = Server::start(|_| Manner::Speaks(modern()));
    let world = World::start(options(server.address));
    world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    let (status, head, body) = world.get("/healthz?full");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "ok");
    assert_eq!(body["agent"], "Neo4j/5.26.1");
    assert_eq!(body["bolt"][0], "5.8");
    let admin = world.admin();
    for (text, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 404),
        ("GET /metricsx HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 404),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned(), 405),
        ("HEAD /healthz HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("\x16\x03\x01\r\n\r\n".to_owned(), 400),
        (format!("GET /metrics HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(20_000)), 431),
        (format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65)), 431),
    ] {
        assert_eq!(request(admin, &text).0, expected, "{:.40}", text);
    }
}

#[test]
fn idle_operators_do_not_pile_up() {
    let server = Server::start(|_| Manner::Speaks(modern()));
    let world = World::start(options(server.address));
    let idle: Vec<_> = (0..64).map(|_| TcpStream::connect(world.admin()).unwrap()).collect();
    let mut one_more = TcpStream::connect(world.admin()).unwrap();
    one_more.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(one_more.read(&mut [0]).unwrap(), 0, "more are closed at once");
    drop(idle);
    // Their places come free as their ends are read.
    let is_answered = || {
        let mut stream = TcpStream::connect(world.admin()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer.starts_with(b"HTTP/1.0 200")
    };
    assert!((0..100).any(|_| is_answered()));
}

#[test]
fn a_drain_is_told_to_shards_and_operators() {
    let server = Server::start(|_| Manner::Speaks(modern()));
    let world = World::start(options(server.address));
    world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    world.shutdown.drain.store(true, SeqCst);
    for shard in &world.shards {
        while !matches!(shard.orders.recv_timeout(PATIENCE).expect("a drain"), Order::Drain) {}
    }
    let (status, _, body) = world.get("/healthz");
    assert_eq!(status, 503);
    assert!(body.contains("draining"), "{body}");
    assert_eq!(world.get("/metrics").0, 200, "the drain can be watched");
}

#[test]
fn a_dead_shard_is_told() {
    let server = Server::start(|_| Manner::Speaks(modern()));
    let mut world = World::start(options(server.address));
    world.shards[0].snapshot(|snapshot| snapshot.is_reachable);
    drop(world.shards.remove(1));
    let mut answers = (0..1000).map(|_| world.get("/healthz"));
    let (_, _, body) = answers.find(|(status, _, _)| *status == 503).expect("it is noticed");
    assert!(body.contains("shard 1 has ended"), "{body}");
}

#[test]
fn a_taken_admin_port_is_one_line_at_start() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let host = BindHost::Address(address.ip());
    let admin = Some(Bind { host, port: address.port() });
    let options = Options { admin, ..options(address) };
    let permits = Arc::new(Permits::new(1));
    let outcome = start(options, Vec::new(), permits, Shutdown::default());
    let refusal = outcome.err().expect("the port is taken");
    let Trouble::Failed(refusal) = refusal else { panic!("expected a failure") };
    assert!(refusal.contains(&address.to_string()) && !refusal.contains('\n'), "{refusal}");
}
