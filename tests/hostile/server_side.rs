//! Servers that lie: each case says what one client is told, and that nobody else is concerned.

use crate::case::message;
use crate::client::{
    Client, Said, begin, chunked, commit, encode, goodbye, hello, logon, pull, reset, run,
};
use crate::liar::{LIED_TO, Liar, Lie, Moment, Then};
use crate::process::Process;
use crate::run::{at_rest, is_as_before};
use crate::value::{Value, map};
use crate::witness::Witness;
use boltmux::wire::message::tag;
use std::collections::BTreeSet;

const SUCCESS: u8 = tag::SUCCESS;
const RECORD: u8 = tag::RECORD;
const FAILURE: u8 = tag::FAILURE;
const IGNORED: u8 = tag::IGNORED;

const TRY_AGAIN: &str = "Neo.TransientError.Request.ResourceExhaustion";
const UNKNOWN: &str = "Neo.DatabaseError.Transaction.TransactionCommitFailed";
const LOST: &str = "Neo.TransientError.Transaction.LeaderSwitch";

/// What the client asks after its login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Query,
    /// BEGIN, RUN and PULL.
    Transaction,
    /// The same, and COMMIT.
    Committed,
    Route,
    /// RUN, then RESET.
    Reset,
}

/// What it gets.
#[derive(Clone, Debug)]
enum Gets {
    /// No login: a FAILURE with this code, then the end.
    NoLogin(&'static str),
    /// Messages with these tags, the FAILURE among them of this code; after a RESET it is served.
    Tags(&'static [u8], &'static str),
    /// These bytes unchanged, whatever they mean; after a RESET it is served.
    Bytes(Vec<u8>),
    /// So many bytes of the lie at least, then the end: a message was cut.
    Cut(Vec<u8>),
}

struct Case {
    group: &'static str,
    name: String,
    lie: Lie,
    asks: Asks,
    gets: Gets,
    /// The server connection is not used again.
    is_lost: bool,
}

#[derive(Default)]
struct Table {
    cases: Vec<Case>,
}

impl Table {
    fn add(&mut self, group: &'static str, name: &str, lie: Lie, asks: Asks, gets: Gets) {
        let name = format!("{name}, at {:?}", lie.moment);
        let is_lost = true;
        self.cases.push(Case { group, name, lie, asks, gets, is_lost });
    }

    /// The connection survives: RESET proves it.
    fn add_kept(&mut self, group: &'static str, name: &str, lie: Lie, asks: Asks, gets: Gets) {
        self.add(group, name, lie, asks, gets);
        self.cases.last_mut().expect("added just now").is_lost = false;
    }
}

fn says(moment: Moment, bytes: impl Into<Vec<u8>>) -> Lie {
    Lie { moment, bytes: bytes.into(), then: Then::GoesOn }
}

fn closes(moment: Moment, bytes: impl Into<Vec<u8>>) -> Lie {
    Lie { moment, bytes: bytes.into(), then: Then::Closes }
}

fn dies(moment: Moment, bytes: impl Into<Vec<u8>>) -> Lie {
    Lie { moment, bytes: bytes.into(), then: Then::Dies }
}

fn success() -> Vec<u8> {
    encode(tag::SUCCESS, &[map(&[])])
}

fn record() -> Vec<u8> {
    encode(tag::RECORD, &[Value::List(vec!["well".into()])])
}

fn no_login() -> Gets {
    Gets::NoLogin(TRY_AGAIN)
}

/// A query of which nothing is known to have happened, or not.
fn unknown() -> Gets {
    Gets::Tags(&[FAILURE, IGNORED], UNKNOWN)
}

fn cases() -> Vec<Case> {
    let mut table = Table::default();
    handshakes(&mut table);
    chunks_at_login(&mut table);
    values_at_login(&mut table);
    messages_at_login(&mut table);
    chunks_of_answers(&mut table);
    values_of_answers(&mut table);
    messages_of_answers(&mut table);
    transactions(&mut table);
    table.cases
}

fn handshakes(table: &mut Table) {
    let group = "handshake";
    let lies: [(&str, Lie); 19] = [
        ("HTTP", says(Moment::Handshake, b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        ("no version", says(Moment::Handshake, [0; 4])),
        ("another version", says(Moment::Handshake, [0, 0, 4, 5])),
        ("version 5.5", says(Moment::Handshake, [0, 0, 5, 5])),
        ("version 7", says(Moment::Handshake, [0, 0, 0, 7])),
        ("a range", says(Moment::Handshake, [0, 1, 3, 5])),
        ("a reserved byte that is set", says(Moment::Handshake, [1, 0, 3, 5])),
        ("a manifest nobody asked for", says(Moment::Handshake, [0, 0, 1, 0xFF, 1, 0, 0, 3, 5, 0])),
        ("an unknown manifest", says(Moment::Handshake, [0, 0, 2, 0xFF])),
        ("the magic", says(Moment::Handshake, [0x60, 0x60, 0xB0, 0x17])),
        ("a byte more than a version", says(Moment::Handshake, [0, 0, 3, 5, 0])),
        (
            "a version and a message",
            says(Moment::Handshake, [&[0, 0, 3, 5][..], &success()].concat()),
        ),
        ("FF", says(Moment::Handshake, [0xFF; 4])),
        ("a banner of SSH", says(Moment::Handshake, b"SSH-2.0-x\r\n")),
        ("64 KiB", says(Moment::Handshake, vec![7; 65_536])),
        ("an end without a word", closes(Moment::Handshake, [])),
        ("half a version and the end", closes(Moment::Handshake, [0, 0])),
        ("a version and the end", closes(Moment::Handshake, [0, 0, 3, 5])),
        ("a reset", dies(Moment::Handshake, [])),
    ];
    for (name, lie) in lies {
        table.add(group, name, lie, Asks::Query, no_login());
    }
    table.add(group, "silence", says(Moment::Handshake, []), Asks::Query, no_login());
    table.add(group, "half a version", says(Moment::Handshake, [0, 0]), Asks::Query, no_login());
}

fn chunks_at_login(table: &mut Table) {
    let group = "chunking";
    for moment in [Moment::Hello, Moment::Logon] {
        let lies: [(&str, Lie); 7] = [
            ("a message of one byte", says(moment, message(&[0xB1]))),
            ("half a length and the end", closes(moment, [0])),
            ("half a chunk and the end", closes(moment, [0, 9, 0xB1, SUCCESS])),
            ("a message of 100 KB", says(moment, message(&[0xB1; 100_000]))),
            ("a message that does not end", says(moment, vec![0xFF; 100_000])),
            ("a reset inside a chunk", dies(moment, [0, 9, 0xB1])),
            ("no-ops and the end", closes(moment, [0; 2000])),
        ];
        for (name, lie) in lies {
            table.add(group, name, lie, Asks::Query, no_login());
        }
    }
}

fn values_at_login(table: &mut Table) {
    let group = "packstream";
    for moment in [Moment::Hello, Moment::Logon] {
        let lies: [(&str, Vec<u8>); 7] = [
            ("SUCCESS that is no map", vec![0xB1, SUCCESS, 1]),
            ("SUCCESS with a reserved marker", vec![0xB1, SUCCESS, 0xC4]),
            ("SUCCESS that is cut", vec![0xB1, SUCCESS, 0xA1, 0x81]),
            ("SUCCESS of 2^31 - 1 pairs", vec![0xB1, SUCCESS, 0xDA, 0x7F, 0xFF, 0xFF, 0xFF]),
            ("SUCCESS with a number as a key", vec![0xB1, SUCCESS, 0xA1, 1, 1]),
            ("SUCCESS with bytes behind it", vec![0xB1, SUCCESS, 0xA0, 0xA0]),
            ("FAILURE that is no map", vec![0xB1, FAILURE, 0x90]),
        ];
        for (name, payload) in lies {
            table.add(group, name, says(moment, message(&payload)), Asks::Query, no_login());
        }
    }
    let agent = encode(tag::SUCCESS, &[Value::Map(vec![("server".into(), Value::Int(1))])]);
    let lie = says(Moment::Hello, agent);
    table.add(group, "SUCCESS whose server is a number", lie, Asks::Query, no_login());
}

fn messages_at_login(table: &mut Table) {
    let group = "messages";
    for moment in [Moment::Hello, Moment::Logon] {
        let lies: [(&str, Lie); 7] = [
            ("IGNORED", says(moment, encode(tag::IGNORED, &[]))),
            ("a record", says(moment, record())),
            ("a message of no version", says(moment, encode(0x55, &[map(&[])]))),
            ("a request", says(moment, reset())),
            ("no structure", says(moment, message(b"\x82xx"))),
            ("silence and the end", closes(moment, [])),
            ("a reset", dies(moment, [])),
        ];
        for (name, lie) in lies {
            table.add(group, name, lie, Asks::Query, no_login());
        }
    }
    let twice = says(Moment::Logon, [success(), success()].concat());
    table.add(group, "SUCCESS twice", twice, Asks::Query, no_login());
}

fn chunks_of_answers(table: &mut Table) {
    let group = "chunking";
    let lie = says(Moment::Run, message(&[0xB1]));
    table.add(group, "a message of one byte", lie, Asks::Query, unknown());
    let lie = closes(Moment::Run, [0]);
    table.add(group, "half a length and the end", lie, Asks::Query, unknown());
    let lie = closes(Moment::Run, [0, 9, 0xB1, SUCCESS]);
    table.add(group, "half an answer and the end", lie, Asks::Query, unknown());
    let lie = dies(Moment::Run, [0, 9, 0xB1, SUCCESS]);
    table.add(group, "half an answer and a reset", lie, Asks::Query, unknown());
    let half = record()[..5].to_vec();
    let lie = closes(Moment::Pull, half.clone());
    table.add(group, "half a record and the end", lie, Asks::Query, Gets::Cut(half.clone()));
    let lie = dies(Moment::Pull, half.clone());
    table.add(group, "half a record and a reset", lie, Asks::Query, Gets::Cut(Vec::new()));
    let lie = closes(Moment::Pull, record());
    let gets = Gets::Tags(&[SUCCESS, RECORD, FAILURE], UNKNOWN);
    table.add(group, "a record and the end", lie, Asks::Query, gets.clone());
    let lie = closes(Moment::Pull, [record(), vec![0]].concat());
    table.add(group, "a record, a byte and the end", lie, Asks::Query, gets);
    let long = encode(tag::RECORD, &[Value::List(vec![Value::from(&*"x".repeat(200_000))])]);
    let lie = closes(Moment::Pull, long[..150_000].to_vec());
    let gets = Gets::Cut(long[..100_000].to_vec());
    table.add(group, "most of a long record and the end", lie, Asks::Query, gets);
    let spaced = [&[0; 2000][..], &record(), &[0; 2001], &success()[1..]].concat();
    let gets = Gets::Bytes([record(), success()].concat());
    table.add_kept(group, "no-ops all over", says(Moment::Pull, spaced), Asks::Query, gets);
    let bytewise: Vec<u8> =
        [record(), success()].iter().flat_map(|one| chunked(&one[2..one.len() - 2], 1)).collect();
    let gets = Gets::Bytes(bytewise.clone());
    table.add_kept(group, "chunks of a byte", says(Moment::Pull, bytewise), Asks::Query, gets);
}

fn values_of_answers(table: &mut Table) {
    let group = "packstream";
    // Nobody opens what is only relayed.
    let relayed = |table: &mut Table, name: &str, payload: &[u8]| {
        let bytes = [message(payload), success()].concat();
        let gets = Gets::Bytes(bytes.clone());
        table.add_kept(group, name, says(Moment::Pull, bytes), Asks::Query, gets);
    };
    relayed(table, "a record with a reserved marker", &[0xB1, RECORD, 0xC4]);
    relayed(table, "a record that is cut", &[0xB1, RECORD, 0x92, 1]);
    relayed(table, "a record of 2^31 - 1 values", &[0xB1, RECORD, 0xD6, 0x7F, 0xFF, 0xFF, 0xFF]);
    relayed(table, "a record that is a number", &[0xB1, RECORD, 1]);
    let deep = [&[0xB1, RECORD][..], &[0x91; 50_000]].concat();
    relayed(table, "a record of lists in lists", &deep);
    // What cannot be read leaves the state in doubt: RESET must prove the connection.
    for (name, payload) in [
        ("SUCCESS that is no map", &[0xB1, SUCCESS, 1][..]),
        ("SUCCESS that is cut", &[0xB1, SUCCESS, 0xA1, 0x88]),
        ("SUCCESS with a reserved marker", &[0xB1, SUCCESS, 0xA1, 0x81, b'a', 0xC4]),
        ("SUCCESS of 2^31 - 1 pairs", &[0xB1, SUCCESS, 0xDA, 0x7F, 0xFF, 0xFF, 0xFF]),
        ("SUCCESS with bytes behind it", &[0xB1, SUCCESS, 0xA0, 0xA0]),
    ] {
        let bytes = [record(), message(payload)].concat();
        let gets = Gets::Bytes(bytes.clone());
        table.add_kept(group, name, says(Moment::Pull, bytes), Asks::Query, gets);
    }
    let table_of = |value| encode(tag::SUCCESS, &[Value::Map(vec![("rt".into(), value)])]);
    for (name, value) in [
        ("a routing table that is a number", Value::Int(1)),
        ("an empty routing table", map(&[])),
        ("a routing table whose time is a text", map(&[("ttl", "x")])),
    ] {
        let bytes = table_of(value);
        let gets = Gets::Bytes(bytes.clone());
        table.add_kept(group, name, says(Moment::Route, bytes), Asks::Route, gets);
    }
}

fn messages_of_answers(table: &mut Table) {
    let group = "messages";
    for (name, bytes) in [
        ("a message of no version", encode(0x55, &[map(&[])])),
        ("no structure", message(b"\x82xx")),
        ("a request", reset()),
        ("SUCCESS without fields", encode(tag::SUCCESS, &[])),
        ("SUCCESS with two fields", encode(tag::SUCCESS, &[map(&[]), map(&[])])),
        ("IGNORED with a field", encode(tag::IGNORED, &[map(&[])])),
        ("HTTP", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
    ] {
        let lie = closes(Moment::Run, bytes.clone());
        table.add(group, name, lie, Asks::Query, unknown());
        let lie = closes(Moment::Pull, bytes);
        let gets = Gets::Tags(&[SUCCESS, FAILURE], UNKNOWN);
        table.add(group, name, lie, Asks::Query, gets);
    }
    for (name, bytes) in [
        ("SUCCESS nobody asked for", success()),
        ("a record nobody asked for", record()),
        ("one byte nobody asked for", vec![1]),
        ("64 KiB nobody asked for", vec![1; 65_536]),
    ] {
        let gets = Gets::Tags(&[SUCCESS, RECORD, SUCCESS], "");
        table.add(group, name, says(Moment::Idle, bytes.clone()), Asks::Query, gets.clone());
        let bytes = [record(), success(), bytes].concat();
        table.add(group, name, says(Moment::Pull, bytes), Asks::Query, gets);
    }
    let gets = Gets::Tags(&[SUCCESS, RECORD, SUCCESS], "");
    table.add(group, "an end", closes(Moment::Idle, []), Asks::Query, gets.clone());
    table.add(group, "a reset", dies(Moment::Idle, []), Asks::Query, gets);
}

fn transactions(table: &mut Table) {
    let group = "messages";
    let lost = |tags| Gets::Tags(tags, LOST);
    table.add(group, "an end", closes(Moment::Begin, []), Asks::Transaction, {
        lost(&[FAILURE, IGNORED, IGNORED])
    });
    let garbage = encode(0x55, &[map(&[])]);
    table.add(group, "garbage", closes(Moment::Begin, garbage.clone()), Asks::Transaction, {
        lost(&[FAILURE, IGNORED, IGNORED])
    });
    let lie = closes(Moment::Begin, garbage.clone());
    table.add(group, "garbage before a COMMIT", lie, Asks::Committed, {
        Gets::Tags(&[FAILURE, IGNORED, IGNORED, IGNORED], UNKNOWN)
    });
    let lie = closes(Moment::Commit, garbage.clone());
    table.add(group, "garbage instead of an outcome", lie, Asks::Committed, {
        Gets::Tags(&[SUCCESS, SUCCESS, RECORD, SUCCESS, FAILURE], UNKNOWN)
    });
    table.add(
        group,
        "an end instead of an outcome",
        closes(Moment::Commit, []),
        Asks::Committed,
        Gets::Tags(&[SUCCESS, SUCCESS, RECORD, SUCCESS, FAILURE], UNKNOWN),
    );
    let lie = closes(Moment::Commit, record());
    table.add(group, "a record and no outcome", lie, Asks::Committed, {
        Gets::Tags(&[SUCCESS, SUCCESS, RECORD, SUCCESS, RECORD, FAILURE], UNKNOWN)
    });
    // The client's own RESET succeeds, whatever the server makes of it.
    table.add(group, "garbage", closes(Moment::Reset, garbage), Asks::Reset, {
        Gets::Tags(&[SUCCESS, SUCCESS], "")
    });
    table.add(group, "an end", closes(Moment::Reset, []), Asks::Reset, {
        Gets::Tags(&[SUCCESS, SUCCESS], "")
    });
}

fn request(asks: Asks) -> Vec<u8> {
    let query = [run("RETURN $nonce AS n", "well"), pull(-1)].concat();
    match asks {
        Asks::Query => query,
        Asks::Transaction => [begin(), query].concat(),
        Asks::Committed => [begin(), query, commit()].concat(),
        Asks::Route => {
            let fields = [map(&[("address", "proxy:7687")]), Value::List(Vec::new()), map(&[])];
            encode(tag::ROUTE, &fields)
        }
        Asks::Reset => [run("RETURN $nonce AS n", "well"), reset()].concat(),
    }
}

/// Group and name of each.
pub fn names() -> Vec<(&'static str, String)> {
    cases().into_iter().map(|case| (case.group, case.name)).collect()
}

#[test]
fn every_lie_of_a_server_meets_its_outcome() {
    let cases = cases();
    let names: BTreeSet<(&str, &str)> =
        cases.iter().map(|case| (case.group, &*case.name)).collect();
    assert_eq!(names.len(), cases.len(), "names are unique");
    for (group, count_min) in [("handshake", 20), ("chunking", 20), ("packstream", 25)] {
        let count = cases.iter().filter(|case| case.group == group).count();
        assert!(count >= count_min, "{group}: {count} cases, at least {count_min} are due");
    }
    let server = Liar::start();
    let pairs = [
        "shards=1",
        "pool.idle_timeout=200ms",
        "pool.approval_ttl=0",
        "timeouts.connect=300ms",
        "timeouts.reset=300ms",
        "timeouts.login=5s",
    ];
    let mut process = Process::start(server.address, &pairs);
    process.until("the server is known", || process.metric("server_reachable", "") == 1);
    drop(login(&process, "warm-up").expect("the truth lets a client in"));
    let (files, memory, _) = at_rest(&process);
    let witness = Witness::start(process.address, true);
    let only = std::env::var("HOSTILE_CASE").ok();
    for (number, case) in cases.iter().enumerate() {
        if only.as_ref().is_none_or(|only| case.name.contains(only)) {
            run_case(&process, &server, case, number);
        }
    }
    let testimony = witness.end();
    process.until("every client is gone", || process.clients() == 0);
    is_as_before(&mut process, files, memory);
    println!("{} lies, {testimony:?}", cases.len());
}

/// Logged in with the version that is lied to, each time as somebody new.
fn login(process: &Process, user: &str) -> Result<Client, Said> {
    let mut client = Client::negotiate(process.address, LIED_TO);
    client.send(&[hello(LIED_TO, user, "test"), logon(user, "test")].concat());
    for _ in 0..2 {
        match client.next() {
            Said::Message(message) if message.tag == SUCCESS => {}
            said => return Err(said),
        }
    }
    Ok(client)
}

fn run_case(process: &Process, server: &Liar, case: &Case, number: usize) {
    let what = format!("{}: {}", case.group, case.name);
    println!("{what}");
    let user = format!("user-{number}");
    let discarded = || process.discarded();
    let before = discarded();
    server.tell(Some(case.lie.clone()));
    let came = login(process, &user);
    let mut client = match (&case.gets, came) {
        (Gets::NoLogin(code), Err(Said::Message(failure))) => {
            assert_eq!(failure.code(), *code, "{what}: {failure:?}");
            server.tell(None);
            process.until(&format!("{what}: the dial is counted"), || discarded() > before);
            return drop(login(process, &user).expect("the truth lets it in"));
        }
        (Gets::NoLogin(_), came) => panic!("{what}: {:?}", came.map(|_| "a login")),
        (_, came) => came.unwrap_or_else(|said| panic!("{what}: no login, {said:?}")),
    };
    client.send(&request(case.asks));
    let serves_on = check(&mut client, case, &what);
    if case.lie.moment == Moment::Idle {
        process.until(&format!("{what}: it is noticed"), || discarded() > before);
    }
    server.tell(None);
    if serves_on {
        client.send(&reset());
        client.expect(&[SUCCESS]);
        client.expect_well();
        client.send(&goodbye());
        client.expect_end();
    }
    if case.is_lost {
        process.until(&format!("{what}: it is counted"), || discarded() > before);
    } else {
        assert_eq!(discarded(), before, "{what}: the connection was to be kept");
    }
    process.until(&format!("{what}: nothing is leased"), || {
        process.metric("server_connections", "leased") <= 1
    });
}

/// Whether the client's connection lives on.
fn check(client: &mut Client, case: &Case, what: &str) -> bool {
    match &case.gets {
        Gets::NoLogin(_) => unreachable!("looked at already"),
        Gets::Tags(tags, code) => {
            for expected in *tags {
                let message = client.message();
                assert_eq!(message.tag, *expected, "{what}: {message:?}");
                if message.tag == FAILURE {
                    assert_eq!(message.code(), *code, "{what}: {message:?}");
                }
            }
            true
        }
        Gets::Bytes(bytes) => {
            if case.asks == Asks::Query {
                client.expect(&[SUCCESS]);
            }
            assert_eq!(client.read(bytes.len()).as_ref(), Ok(bytes), "{what}");
            true
        }
        Gets::Cut(bytes) => {
            client.expect(&[SUCCESS]);
            if !bytes.is_empty() {
                assert_eq!(client.read(bytes.len()).as_ref(), Ok(bytes), "{what}");
            }
            while client.read(1).is_ok() {}
            assert_eq!(client.read(1), Err(Said::EndOfFile), "{what}");
            false
        }
    }
}
