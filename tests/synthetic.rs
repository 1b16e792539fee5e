//! The synthetic server over loopback, with a blocking client: what Neo4j does, and each
//! misbehaviour it can be told.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test runs beside the shards and ends at the first surprise"
)]

use boltmux::synthetic::{Act, Faults, Misdeed, Options, Outcome, Rule, Server, Table};
use boltmux::wire::handshake;
use boltmux::wire::message::{
    Auth, COMMIT, Failure, GOODBYE, HelloSuccess, LOGOFF, Notifications, RESET, ROLLBACK, Role,
    Routing, RoutingTable, ServerHello, encode_begin, encode_discard, encode_hello, encode_logon,
    encode_pull, encode_route, encode_run, tag,
};
use boltmux::wire::packstream::{Reader, Writer};
use boltmux::wire::version::Version;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const V4_4: Version = Version::new(4, 4);
const V5_0: Version = Version::new(5, 0);
const V5_4: Version = Version::new(5, 4);
const V5_8: Version = Version::new(5, 8);
const PASSWORD: &str = "test-password";
const EMPTY: &[u8] = &[0xA0];
/// Only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(60);

fn start(options: Options) -> Server {
    Server::start(options).expect("a server on a free port")
}

struct Client {
    stream: TcpStream,
    version: Version,
}

/// What a connection gave when a message was awaited.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Message(Vec<u8>),
    EndOfFile,
    Reset,
    Nothing,
}

impl Client {
    fn connect(server: &Server) -> Client {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, version: V5_4 }
    }

    /// Connected, with this version agreed.
    fn negotiate(server: &Server, version: Version) -> Client {
        let mut client = Client::connect(server);
        client.send(&handshake::propose_exact(version));
        assert_eq!(client.read(4), version.to_bytes());
        client.version = version;
        client
    }

    fn login(server: &Server, version: Version) -> Client {
        let mut client = Client::negotiate(server, version);
        client.hello();
        client.expect(&[tag::SUCCESS]);
        if version.has_logon() {
            client.logon(PASSWORD);
            client.expect(&[tag::SUCCESS]);
        }
        client
    }

    fn hello(&mut self) {
        let auth = Auth::from_parts("basic", "neo4j", PASSWORD);
        self.hello_as(&auth);
    }

    fn hello_as(&mut self, auth: &Auth) {
        let hello = ServerHello {
            user_agent: "test/1",
            bolt_agent: "test/1",
            routing: None,
            utc_patch: false,
            notifications: &Notifications::default(),
            auth: Some(auth),
        };
        self.send(&encode_hello(self.version, &hello));
    }

    fn logon(&mut self, password: &str) {
        self.send(&encode_logon(&Auth::from_parts("basic", "neo4j", password)));
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn run(&mut self, query: &str) {
        self.send(&encode_run(query, EMPTY, EMPTY));
    }

    fn run_with_nonce(&mut self, query: &str, nonce: &str) {
        let mut parameters = Writer::new();
        parameters.map_header(1).string("nonce").string(nonce);
        self.send(&encode_run(query, parameters.bytes(), EMPTY));
    }

    fn pull(&mut self, n: i64) {
        self.send(&encode_pull(self.version, n));
    }

    fn query(&mut self, query: &str) {
        let pull = encode_pull(self.version, -1);
        self.send(&[encode_run(query, EMPTY, EMPTY), pull].concat());
    }

    fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next payload; no-ops are skipped, and counted.
    fn next(&mut self) -> (Said, usize) {
        let mut payload = Vec::new();
        let mut noops = 0;
        loop {
            let mut header = [0; 2];
            if let Err(said) = self.read_or_end(&mut header) {
                return (said, noops);
            }
            match usize::from(u16::from_be_bytes(header)) {
                0 if payload.is_empty() => noops += 1,
                0 => return (Said::Message(payload), noops),
                length => {
                    let start = payload.len();
                    payload.resize(start + length, 0);
                    if let Err(said) = self.read_or_end(&mut payload[start..]) {
                        return (said, noops);
                    }
                }
            }
        }
    }

    fn read_or_end(&mut self, bytes: &mut [u8]) -> Result<(), Said> {
        self.stream.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Said::EndOfFile,
            ErrorKind::ConnectionReset => Said::Reset,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Said::Nothing,
            kind => panic!("unexpected {kind:?}"),
        })
    }

    fn message(&mut self) -> Vec<u8> {
        match self.next().0 {
            Said::Message(payload) => payload,
            said => panic!("expected a message, got {said:?}"),
        }
    }

    /// The next messages have these tags.
    fn expect(&mut self, tags: &[u8]) -> Vec<Vec<u8>> {
        let messages: Vec<_> = tags.iter().map(|_| self.message()).collect();
        let seen: Vec<u8> = messages.iter().map(|payload| payload[1]).collect();
        assert_eq!(seen, tags, "{messages:02x?}");
        messages
    }

    fn expect_failure(&mut self, code: &str) -> Failure {
        let payload = self.expect(&[tag::FAILURE]).remove(0);
        let failure = Failure::parse(&payload).unwrap();
        assert_eq!(failure.code, code);
        failure
    }

    fn expect_end(&mut self, end: Said) {
        assert_eq!(self.next().0, end);
    }

    fn expect_silence(&mut self) {
        self.stream.set_read_timeout(Some(SILENCE)).unwrap();
        self.expect_end(Said::Nothing);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// The connection serves, as if nothing had been.
    fn expect_well(&mut self) {
        self.query("RETURN 1");
        self.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    }
}

/// One key of a SUCCESS, raw.
fn field<'a>(payload: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut reader = Reader::new(&payload[2..]);
    let mut found = None;
    for _ in 0..reader.take_map_header().unwrap() {
        let (name, value) = (reader.take_string().unwrap(), reader.take_raw().unwrap());
        if name == key {
            found = Some(value);
        }
    }
    found
}

fn text_field(payload: &[u8], key: &str) -> Option<String> {
    field(payload, key).map(|value| Reader::new(value).take_string().unwrap().into())
}

fn map(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.map_header(pairs.len());
    pairs.iter().for_each(|(key, value)| {
        writer.string(key).string(value);
    });
    writer.into_bytes()
}

#[test]
fn the_classic_handshake_agrees_or_refuses() {
    let server = start(Options { versions: vec![V4_4, V5_0, V5_4], ..Options::default() });
    let mut client = Client::connect(&server);
    let proposals = [0, 8, 8, 5, 0, 2, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    client.send(&[&handshake::MAGIC[..], &proposals].concat());
    assert_eq!(client.read(4), [0, 0, 4, 5]);

    let mut client = Client::connect(&server);
    client.send(&handshake::propose_exact(V5_8));
    assert_eq!(client.read(4), [0; 4]);
    client.expect_end(Said::EndOfFile);

    let mut client = Client::connect(&server);
    client.send(b"GET / HTTP/1.1\r\n\r\n  ");
    client.expect_end(Said::EndOfFile);
    assert_eq!(server.stats().logins_ok, 0);
}

#[test]
fn the_manifest_lists_what_is_spoken() {
    let server = start(Options { versions: vec![V4_4, V5_4, V5_8], ..Options::default() });
    let mut client = Client::connect(&server);
    client.send(&handshake::propose_manifest());
    let mut bytes = Vec::new();
    let versions = loop {
        bytes.extend(client.read(1));
        if let Some((used, versions)) = handshake::parse_manifest(&bytes).unwrap() {
            assert_eq!(used, bytes.len());
            break versions;
        }
    };
    assert_eq!(versions, [V5_8, V5_4, V4_4]);
    client.version = V5_8;
    client.send(&handshake::manifest_choice(V5_8));
    client.hello();
    let welcome = client.expect(&[tag::SUCCESS]).remove(0);
    assert_eq!(text_field(&welcome, "protocol_version").as_deref(), Some("5.8"));

    let mut client = Client::connect(&server);
    client.send(&handshake::propose_manifest());
    client.read(bytes.len());
    client.send(&handshake::manifest_choice(V5_0));
    client.expect_end(Said::EndOfFile);
}

#[test]
fn a_login_is_checked_in_every_version() {
    let options = Options { recv_timeout_seconds: Some(7), ..Options::default() };
    let server = start(Options { versions: Version::ALL.to_vec(), ..options });
    for version in Version::ALL {
        let mut client = Client::negotiate(&server, version);
        client.hello();
        let welcome = HelloSuccess::parse(&client.expect(&[tag::SUCCESS])[0]).unwrap();
        assert_eq!(welcome.server, "Neo4j/5.26.0");
        assert_eq!(welcome.recv_timeout_seconds, version.has_hints().then_some(7), "{version}");
        if version.has_logon() {
            client.logon(PASSWORD);
            let address = text_field(&client.expect(&[tag::SUCCESS])[0], "advertised_address");
            assert_eq!(address.is_some(), version.has_resolved_database());
        }
        client.expect_well();

        let mut stranger = Client::negotiate(&server, version);
        if version.has_logon() {
            stranger.hello();
            stranger.expect(&[tag::SUCCESS]);
            stranger.logon("wrong");
        } else {
            stranger.hello_as(&Auth::from_parts("basic", "neo4j", "wrong"));
        }
        stranger.run("RETURN 1");
        stranger.expect_failure("Neo.ClientError.Security.Unauthorized");
        stranger.expect_end(Said::EndOfFile);
    }
    let stats = server.stats();
    let versions = Version::ALL.len() as u64;
    assert_eq!((stats.logins_ok, stats.logins_failed), (versions, versions));
}

#[test]
fn passwords_change_and_users_log_off() {
    let server = start(Options::default());
    let mut client = Client::login(&server, V5_4);
    server.set_password("neo4j", "test-other");
    client.expect_well();
    client.send(LOGOFF);
    client.logon("test-other");
    client.expect(&[tag::SUCCESS, tag::SUCCESS]);
    client.expect_well();
    client.send(LOGOFF);
    client.logon(PASSWORD);
    client.expect(&[tag::SUCCESS]);
    client.expect_failure("Neo.ClientError.Security.Unauthorized");
    client.expect_end(Said::EndOfFile);
}

#[test]
fn auto_commit_echoes_bytes_and_gives_unique_bookmarks() {
    let server = start(Options::default());
    let mut client = Client::login(&server, V5_8);
    let mut bookmarks = Vec::new();
    for length in [0, 15, 300, 100_000] {
        let nonce = "n".repeat(length);
        client.run_with_nonce("RETURN $nonce AS nonce", &nonce);
        client.pull(-1);
        let messages = client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
        assert_eq!(field(&messages[0], "fields").unwrap(), b"\x91\x85nonce");
        assert_eq!(text_field(&messages[0], "db").as_deref(), Some("neo4j"));
        let mut record = Reader::new(&messages[1][2..]);
        assert_eq!(record.take_list_header(), Ok(1));
        assert_eq!(record.take_string(), Ok(&*nonce));
        bookmarks.extend(text_field(&messages[2], "bookmark"));
        assert_eq!(text_field(&messages[2], "type").as_deref(), Some("r"));
    }
    assert!(bookmarks.iter().all(|bookmark| bookmark.starts_with("FB:")));
    bookmarks.dedup();
    assert_eq!(bookmarks.len(), 4);
    client.send(&encode_run("RETURN 1", EMPTY, &map(&[("db", "other")])));
    client.pull(-1);
    let messages = client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    assert_eq!(field(&messages[0], "db"), None);
    assert_eq!(text_field(&messages[2], "db").as_deref(), Some("other"));
}

#[test]
fn results_come_in_pages_and_can_be_discarded() {
    let server = start(Options::default());
    let mut client = Client::login(&server, V5_4);
    client.run("ROWS 5 3");
    client.expect(&[tag::SUCCESS]);
    client.pull(2);
    let page = client.expect(&[tag::RECORD, tag::RECORD, tag::SUCCESS]);
    assert_eq!(page[1], b"\xB1\x71\x92\x01\x83bbb");
    assert_eq!(field(&page[2], "has_more"), Some(&[0xC3][..]));
    client.send(&encode_discard(V5_4, 2));
    let discarded = client.expect(&[tag::SUCCESS]);
    assert_eq!(field(&discarded[0], "has_more"), Some(&[0xC3][..]));
    client.pull(-1);
    let last = client.expect(&[tag::RECORD, tag::SUCCESS]);
    assert_eq!(last[0], b"\xB1\x71\x92\x04\x83eee");
    assert_eq!(field(&last[1], "has_more"), None);
    client.expect_well();
}

#[test]
fn a_long_result_is_made_as_it_is_read() {
    let server = start(Options { ledger_entries_max: 0, ..Options::default() });
    let mut client = Client::login(&server, V5_4);
    client.query("ROWS 2000 10000");
    client.expect(&[tag::SUCCESS]);
    assert_eq!(client.message().len(), 10_007);
    let made = server.stats().bytes_sent;
    assert!(made < 16 << 20, "{made} bytes were made for a client that does not read");
    (1..2000).for_each(|_| assert_eq!(client.message()[1], tag::RECORD));
    client.expect(&[tag::SUCCESS]);
    client.query("ROWS 1 200000");
    let messages = client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    assert_eq!(messages[1].len(), 200_009);
    assert!(server.ledger().is_empty());
}

#[test]
fn a_transaction_holds_several_results_and_settles_its_entries() {
    let server = start(Options::default());
    let mut client = Client::login(&server, V5_4);
    client.send(&encode_begin(EMPTY));
    client.run("ROWS 3 1");
    client.run("RETURN 1");
    let messages = client.expect(&[tag::SUCCESS; 3]);
    assert_eq!(field(&messages[1], "qid"), Some(&[0][..]));
    assert_eq!(field(&messages[2], "qid"), Some(&[1][..]));
    client.pull(-1);
    client.expect(&[tag::RECORD, tag::SUCCESS]);
    let first = [0, 10, 0xB1, tag::PULL, 0xA2, 0x81, b'n', 2, 0x83, b'q', b'i', b'd', 0, 0];
    let mut first = first.to_vec();
    first.splice(12..12, [0]);
    first[1] = 11;
    client.send(&first);
    let page = client.expect(&[tag::RECORD, tag::RECORD, tag::SUCCESS]);
    assert_eq!(field(&page[2], "has_more"), Some(&[0xC3][..]));
    client.run_with_nonce("WRITE $nonce", "kept");
    client.pull(-1);
    let written = client.expect(&[tag::SUCCESS, tag::SUCCESS]);
    assert_eq!(text_field(&written[1], "type").as_deref(), Some("w"));
    assert_eq!(server.ledger().last().unwrap().outcome, Outcome::Open);
    client.send(COMMIT);
    let committed = client.expect(&[tag::SUCCESS]);
    assert!(text_field(&committed[0], "bookmark").is_some());

    client.send(&encode_begin(EMPTY));
    client.run_with_nonce("WRITE $nonce", "undone");
    client.send(ROLLBACK);
    client.expect(&[tag::SUCCESS; 3]);
    client.send(&encode_begin(EMPTY));
    client.run_with_nonce("WRITE $nonce", "lost");
    client.expect(&[tag::SUCCESS; 2]);
    client.send(GOODBYE);
    client.expect_end(Said::EndOfFile);

    let outcome = |nonce: &str| {
        let ledger = server.ledger();
        let entry = ledger.iter().find(|entry| entry.nonce.as_deref() == Some(nonce)).unwrap();
        assert_eq!((&*entry.user, &*entry.query), ("neo4j", "WRITE $nonce"));
        entry.outcome
    };
    assert_eq!(outcome("kept"), Outcome::Committed);
    assert_eq!(outcome("undone"), Outcome::RolledBack);
    assert_eq!(outcome("lost"), Outcome::RolledBack);
}

#[test]
fn a_failure_is_followed_by_ignored_until_reset() {
    let server = start(Options::default());
    for version in [V4_4, V5_4, V5_8] {
        let mut client = Client::login(&server, version);
        client.query("FAIL Neo.ClientError.Statement.SyntaxError");
        let failure = client.expect_failure("Neo.ClientError.Statement.SyntaxError");
        assert_eq!(failure.gql_status == "42001", version == V5_8, "{failure:?}");
        client.run("RETURN 1");
        client.send(COMMIT);
        client.expect(&[tag::IGNORED, tag::IGNORED, tag::IGNORED]);
        client.send(RESET);
        client.expect(&[tag::SUCCESS]);
        client.expect_well();

        client.query("FAIL AT PULL Neo.TransientError.Transaction.DeadlockDetected");
        client.expect(&[tag::SUCCESS]);
        client.expect_failure("Neo.TransientError.Transaction.DeadlockDetected");
        client.send(RESET);
        client.expect(&[tag::SUCCESS]);

        client.send(&encode_begin(EMPTY));
        client.query("FAIL AT COMMIT Neo.DatabaseError.Transaction.TransactionCommitFailed");
        client.send(COMMIT);
        client.expect(&[tag::SUCCESS, tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
        client.expect_failure("Neo.DatabaseError.Transaction.TransactionCommitFailed");
        client.send(RESET);
        client.expect(&[tag::SUCCESS]);
        client.expect_well();
    }
}

#[test]
fn of_several_resets_only_the_last_succeeds() {
    let server = start(Options::default());
    let mut client = Client::login(&server, V5_4);
    client.query("SLEEP 60000 RETURN 1");
    client.expect_silence();
    client.send(&[RESET, RESET, RESET].concat());
    client.expect_failure("Neo.ClientError.Transaction.Terminated");
    client.expect(&[tag::IGNORED, tag::IGNORED, tag::IGNORED, tag::SUCCESS]);
    client.send(RESET);
    client.expect(&[tag::SUCCESS]);
    client.expect_well();
    assert_eq!(server.ledger()[0].outcome, Outcome::RolledBack);
}

#[test]
fn reset_stops_a_long_result() {
    let server = start(Options::default());
    let mut client = Client::login(&server, V5_4);
    client.query("ROWS 1000000 10000");
    client.expect(&[tag::SUCCESS, tag::RECORD]);
    client.send(RESET);
    let mut last = client.message();
    while last[1] == tag::RECORD {
        last = client.message();
    }
    let failure = Failure::parse(&last).unwrap();
    assert_eq!(failure.code, "Neo.ClientError.Transaction.Terminated");
    client.expect(&[tag::SUCCESS]);
    client.expect_well();
}

#[test]
fn illegal_requests_end_the_connection() {
    let server = start(Options::default());
    let invalid = "Neo.ClientError.Request.Invalid";
    let pull = encode_pull(V5_4, -1);
    let begin = encode_begin(EMPTY);
    let run = encode_run("RETURN 1", EMPTY, EMPTY);
    let cases: [(&str, Vec<u8>, usize); 6] = [
        ("PULL in READY", pull.clone(), 0),
        ("COMMIT in READY", COMMIT.to_vec(), 0),
        ("BEGIN in a transaction", [&*begin, &*begin].concat(), 1),
        ("RUN behind an unfinished result", [&*run, &*run].concat(), 1),
        ("LOGOFF in a transaction", [&*begin, LOGOFF].concat(), 1),
        ("a second LOGON", encode_logon(&Auth::from_parts("basic", "neo4j", PASSWORD)), 0),
    ];
    for (name, bytes, successes) in cases {
        println!("{name}");
        let mut client = Client::login(&server, V5_4);
        client.send(&bytes);
        client.expect(&vec![tag::SUCCESS; successes]);
        client.expect_failure(invalid);
        client.expect_end(Said::EndOfFile);
    }
    let mut client = Client::login(&server, V5_4);
    client.run("FAIL Neo.ClientError.Statement.SyntaxError");
    client.send(LOGOFF);
    client.expect(&[tag::FAILURE]);
    client.expect_failure(invalid);
    client.expect_end(Said::EndOfFile);

    for unknown in [&[0, 2, 0xB1, 0x77, 0, 0][..], &[0, 2, 0xB1, tag::RESET, 0, 0], b"\0\x01x\0\0"]
    {
        let mut client = Client::login(&server, V5_4);
        client.send(unknown);
        client.expect_end(Said::EndOfFile);
    }
    let mut client = Client::negotiate(&server, V5_4);
    client.send(RESET);
    client.expect_failure(invalid);
    client.expect_end(Said::EndOfFile);
    assert_eq!(server.stats().violations, 11);
}

#[test]
fn malformed_extras_and_unknown_results_leave_the_connection() {
    let server = start(Options::default());
    let mut client = Client::login(&server, V5_4);
    client.send(&encode_begin(&map(&[("mode", "x")])));
    client.query("RETURN 1");
    client.expect_failure("Neo.ClientError.Request.Invalid");
    client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);

    client.send(&encode_begin(EMPTY));
    client.pull(-1);
    client.expect(&[tag::SUCCESS]);
    client.expect_failure("Neo.ClientError.Request.InvalidFormat");
    client.send(RESET);
    client.expect(&[tag::SUCCESS]);

    client.send(&encode_begin(&map(&[("db", "missing")])));
    client.expect_failure("Neo.ClientError.Database.DatabaseNotFound");
    client.send(RESET);
    client.expect(&[tag::SUCCESS]);
    client.send(&encode_run("WRITE $nonce", EMPTY, &map(&[("mode", "r")])));
    client.expect_failure("Neo.ClientError.Statement.AccessMode");
    client.send(RESET);
    client.expect(&[tag::SUCCESS]);
    client.send(&encode_begin(&map(&[("imp_user", "nobody")])));
    client.expect_failure("Neo.ClientError.Security.Forbidden");
    client.expect_end(Said::EndOfFile);
}

#[test]
fn route_echoes_the_address_or_tells_the_table() {
    let server = start(Options::default());
    let routing = Routing { address: Some("proxy:7687".into()), entries: Vec::new() };
    for version in [Version::new(4, 3), V4_4, V5_8] {
        let mut client = Client::login(&server, version);
        client.send(&encode_route(version, &routing, Some("movies"), None));
        let table = RoutingTable::parse(&client.expect(&[tag::SUCCESS])[0]).unwrap();
        assert_eq!(table.ttl_seconds, 300);
        let is_told = version.has_route_extra().then_some("movies");
        assert_eq!(table.database.as_deref(), is_told);
        for role in [Role::Read, Role::Write, Role::Route] {
            let of_role = table.servers.iter().find(|(its_role, _)| *its_role == role);
            assert_eq!(of_role.unwrap().1, ["proxy:7687"]);
        }
    }
    let names = |name: &str| vec![name.to_owned()];
    let table = Table { routers: names("a:1"), readers: names("b:2"), writers: names("c:3") };
    server.set_table(Some(table));
    server.set_follower(true);
    let mut client = Client::login(&server, V5_8);
    client.send(&encode_route(V5_8, &routing, None, None));
    let table = RoutingTable::parse(&client.expect(&[tag::SUCCESS])[0]).unwrap();
    assert_eq!(table.database.as_deref(), Some("neo4j"));
    assert!(table.servers.contains(&(Role::Write, names("c:3"))));
    client.run("WRITE $nonce");
    client.expect_failure("Neo.ClientError.Cluster.NotALeader");
}

#[test]
fn workers_run_out() {
    let server = start(Options { worker_limit: Some(1), ..Options::default() });
    let (mut first, mut second) = (Client::login(&server, V5_8), Client::login(&server, V5_8));
    first.send(&encode_begin(EMPTY));
    first.expect(&[tag::SUCCESS]);
    second.run("RETURN 1");
    let code = "Neo.TransientError.Request.NoThreadsAvailable";
    assert!(second.expect_failure(code).idempotent);
    second.expect_end(Said::EndOfFile);
    first.send(ROLLBACK);
    first.expect(&[tag::SUCCESS]);
    Client::login(&server, V5_8).expect_well();
}

#[test]
fn sleeps_end_early_by_the_client_s_timeout_and_are_filled_with_noops() {
    let server = start(Options::default());
    let mut client = Client::login(&server, V5_4);
    let began = Instant::now();
    client.query("KEEPALIVE 10 SLEEP 80 RETURN 1");
    let (said, noops) = client.next();
    assert!(matches!(said, Said::Message(payload) if payload[1] == tag::SUCCESS));
    assert!(began.elapsed() >= Duration::from_millis(80));
    assert!(noops >= 1, "no no-op in 80 ms");
    client.expect(&[tag::RECORD, tag::SUCCESS]);

    let mut extra = Writer::new();
    extra.map_header(1).string("tx_timeout").int(20);
    client.send(&encode_run("SLEEP 60000 RETURN 1", EMPTY, extra.bytes()));
    let code = "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration";
    client.expect_failure(code);
    client.send(RESET);
    client.expect(&[tag::SUCCESS]);
    client.expect_well();
}

#[test]
fn queries_end_connections() {
    let server = start(Options::default());
    // RUN's SUCCESS: t_first 0, fields ["1"].
    let success = 26;
    for (query, bytes, end) in [
        ("DIE RETURN 1", 0, Said::Reset),
        ("DIE AT BYTE 10 RETURN 1", 10, Said::Reset),
        ("CLOSE AT BYTE 10 RETURN 1", 10, Said::EndOfFile),
        ("CLOSE AT PULL AT BYTE 3 RETURN 1", success + 3, Said::EndOfFile),
        ("HALF CLOSE ROWS 1 1000", 0, Said::EndOfFile),
    ] {
        println!("{query}");
        let mut client = Client::login(&server, V5_4);
        client.query(query);
        let mut seen = Vec::new();
        let ended = client.stream.read_to_end(&mut seen).map_err(|error| error.kind());
        let expected = if end == Said::Reset { Err(ErrorKind::ConnectionReset) } else { Ok(0) };
        assert_eq!(ended.map(|_| 0), expected);
        match query.starts_with("HALF") {
            true => assert!((400..1000).contains(&seen.len()), "{}", seen.len()),
            false => assert_eq!(seen.len(), bytes, "{seen:02x?}"),
        }
    }
}

#[test]
fn queries_silence_connections() {
    let server = start(Options::default());
    for (query, tags) in [
        ("STALL RETURN 1", &[][..]),
        ("FREEZE AT PULL RETURN 1", &[tag::SUCCESS]),
        ("STALL AT PULL RETURN 1", &[tag::SUCCESS]),
        ("COMMIT SILENT RETURN 1", &[tag::SUCCESS, tag::RECORD]),
        ("HALF ROWS 1 100", &[tag::SUCCESS]),
        ("OVERSIZED RETURN 1", &[tag::SUCCESS]),
    ] {
        println!("{query}");
        let mut client = Client::login(&server, V5_4);
        client.query(query);
        client.expect(tags);
        client.expect_silence();
        client.send(RESET);
        client.expect_silence();
    }
    let ledger = server.ledger();
    assert_eq!(ledger[3].outcome, Outcome::Committed, "{:?}", ledger[3]);

    let mut client = Client::login(&server, V5_4);
    client.send(&encode_begin(EMPTY));
    client.query("COMMIT DIE WRITE $nonce");
    client.expect(&[tag::SUCCESS; 3]);
    client.send(COMMIT);
    client.expect_end(Said::Reset);
    assert_eq!(server.ledger().last().unwrap().outcome, Outcome::Committed);
}

#[test]
fn queries_break_the_protocol() {
    let server = start(Options::default());
    let mut client = Client::login(&server, V5_4);
    client.query("GARBAGE RETURN 1");
    client.expect(&[tag::SUCCESS, 0x55]);
    client.query("RESERVED RETURN 1");
    let messages = client.expect(&[tag::SUCCESS, tag::RECORD]);
    assert_eq!(messages[1][3], 0xC4);
    client.query("EXTRA RETURN 1");
    client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS, tag::SUCCESS]);
    client.query("NOOP 3 RETURN 1");
    let noops: Vec<usize> = (0..3).map(|_| client.next().1).collect();
    assert_eq!(noops, [3, 3, 0]);
    client.query("CLOSE AFTER RETURN 1");
    client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    client.expect_end(Said::EndOfFile);

    let mut old = Client::login(&server, Version::new(4, 0));
    old.query("NOOP 3 RETURN 1");
    assert_eq!(old.next().1, 0, "4.0 knows no no-ops");
}

#[test]
fn rules_fail_and_spoil_by_tag() {
    let server = start(Options::default());
    let mut client = Client::login(&server, V5_4);
    server.set_faults(Faults::failing(tag::BEGIN, "Neo.TransientError.General.Busy", 2));
    for fails in [true, false, true] {
        client.send(&encode_begin(EMPTY));
        client.expect(&[if fails { tag::FAILURE } else { tag::SUCCESS }]);
        client.send(RESET);
        client.expect(&[tag::SUCCESS]);
    }
    let stall = Rule { tag: tag::COMMIT, every_nth: 1, act: Act::Spoil(Misdeed::Stall) };
    let noops_before_answer = 2;
    server.set_faults(Faults { rules: vec![stall], noops_before_answer, ..Faults::default() });
    client.send(&encode_begin(EMPTY));
    assert_eq!(client.next().1, 2);
    client.send(COMMIT);
    client.expect_silence();

    server.set_faults(Faults::spoiling(tag::LOGON, Misdeed::Extra, 1));
    let mut client = Client::login(&server, V5_4);
    client.expect(&[tag::SUCCESS]);

    server.set_faults(Faults::failing(
        tag::LOGON,
        "Neo.ClientError.Security.AuthProviderFailed",
        1,
    ));
    let mut client = Client::negotiate(&server, V5_4);
    client.hello();
    client.logon(PASSWORD);
    client.expect(&[tag::SUCCESS]);
    client.expect_failure("Neo.ClientError.Security.AuthProviderFailed");
    client.expect_end(Said::EndOfFile);
}

#[test]
fn faults_hold_for_new_connections() {
    let server = start(Options::default());
    server.set_faults(Faults { refuses_versions: true, ..Faults::default() });
    let mut client = Client::connect(&server);
    client.send(&handshake::propose_exact(V5_4));
    assert_eq!(client.read(4), [0; 4]);
    client.expect_end(Said::EndOfFile);

    server.set_faults(Faults { die_at_byte: Some(6), ..Faults::default() });
    let mut client = Client::negotiate(&server, V5_4);
    client.hello();
    assert_eq!(client.read(2).len(), 2);
    client.expect_end(Said::Reset);

    server.set_faults(Faults { login_delay_ms: 80, ..Faults::default() });
    let began = Instant::now();
    Client::login(&server, V5_4).expect_well();
    Client::login(&server, V5_0).expect_well();
    assert!(began.elapsed() >= Duration::from_millis(160));

    server.set_faults(Faults { refuses_connections: true, ..Faults::default() });
    Client::connect(&server).expect_end(Said::Reset);
}

#[test]
fn random_resets_are_repeatable() {
    let ends = |seed| {
        let faults = Faults { seed, reset_per_million: 100_000, ..Faults::default() };
        let server = start(Options { faults, ..Options::default() });
        let mut client = Client::negotiate(&server, V5_4);
        client.hello();
        client.logon(PASSWORD);
        client.send(&RESET.repeat(1000));
        let mut answers = 0;
        loop {
            match client.next().0 {
                Said::Message(_) => answers += 1,
                said => break assert_eq!(said, Said::Reset),
            }
        }
        answers
    };
    assert_eq!(ends(1), ends(1));
    let different: Vec<usize> = (2..6).map(ends).collect();
    assert!(different.iter().any(|answers| *answers != different[0]), "{different:?}");
}

#[test]
fn a_server_is_killed_stopped_restarted_and_paused() {
    let server = start(Options { threads: 2, ..Options::default() });
    let mut clients: Vec<_> = (0..4).map(|_| Client::login(&server, V5_4)).collect();
    assert_eq!(server.stats().connections_open, 4);
    server.kill_all();
    clients.iter_mut().for_each(|client| client.expect_end(Said::Reset));
    let mut client = Client::login(&server, V5_4);
    client.expect_well();

    server.stop();
    client.expect_end(Said::Reset);
    let refused = TcpStream::connect(server.address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    server.restart().unwrap();
    Client::login(&server, V5_4).expect_well();

    server.pause_accept(true);
    let mut client = Client::connect(&server);
    client.send(&handshake::propose_exact(V5_4));
    client.expect_silence();
    server.pause_accept(false);
    assert_eq!(client.read(4), V5_4.to_bytes());
    assert_eq!(server.stats().connections_total, 7);
}
