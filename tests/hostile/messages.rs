//! Messages: tags nobody knows, wrong numbers of fields, requests in states that forbid them.

use crate::case::{
    Case, INVALID, Outcome, Start, Table, V4_4, V5_0, message, refused, with_fields,
};
use crate::client::{PASSWORD, V5_4, V5_8, begin, encode, hello, logon, pull, run};
use crate::run::run_all;
use crate::value::{Value, map};
use boltmux::wire::message::tag;
use boltmux::wire::version::Version;

const READY: Start = Start::Ready(V5_4);
const SUCCESS: u8 = tag::SUCCESS;
const IGNORED: u8 = tag::IGNORED;
const FAILURE: u8 = tag::FAILURE;

pub fn cases() -> Vec<Case> {
    let mut table = Table::new("messages");
    misplaced(&mut table);
    ignored_in_failed(&mut table);
    unknown_tags(&mut table);
    wrong_fields(&mut table);
    other_versions(&mut table);
    no_structures(&mut table);
    pipelines(&mut table);
    wrong_values(&mut table);
    table.cases
}

/// Every request of Bolt 5.4, well formed.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let route = [Value::Map(Vec::new()), Value::List(Vec::new()), Value::Map(Vec::new())];
    vec![
        ("HELLO", hello(V5_4, "neo4j", PASSWORD)),
        ("LOGON", logon("neo4j", PASSWORD)),
        ("LOGOFF", encode(tag::LOGOFF, &[])),
        ("RESET", encode(tag::RESET, &[])),
        ("RUN", run("RETURN $nonce AS n", "x")),
        ("PULL", pull(-1)),
        ("DISCARD", encode(tag::DISCARD, &[Value::Map(vec![("n".into(), Value::Int(-1))])])),
        ("BEGIN", begin()),
        ("COMMIT", encode(tag::COMMIT, &[])),
        ("ROLLBACK", encode(tag::ROLLBACK, &[])),
        ("ROUTE", encode(tag::ROUTE, &route)),
        ("TELEMETRY", encode(tag::TELEMETRY, &[Value::Int(0)])),
    ]
}

/// A request in a state that forbids it: FAILURE, then the end, as Neo4j does.
fn misplaced(table: &mut Table) {
    let all = "HELLO LOGON LOGOFF RESET RUN PULL DISCARD BEGIN COMMIT ROLLBACK ROUTE TELEMETRY";
    let states: [(&str, Start, &str); 6] = [
        ("before HELLO", Start::Agreed(V5_4), &all["HELLO ".len()..]),
        ("before LOGON", Start::Greeted(V5_4), {
            "HELLO LOGOFF RUN PULL DISCARD BEGIN COMMIT ROLLBACK ROUTE TELEMETRY"
        }),
        ("in READY", READY, "HELLO LOGON PULL DISCARD COMMIT ROLLBACK"),
        ("in TX_READY", Start::InTransaction(V5_4), "HELLO LOGON LOGOFF BEGIN ROUTE TELEMETRY"),
        ("in STREAMING", Start::Streaming(V5_4), {
            "HELLO LOGON LOGOFF RUN BEGIN COMMIT ROLLBACK ROUTE TELEMETRY"
        }),
        ("after LOGOFF", Start::LoggedOff(V5_4), {
            "HELLO LOGOFF RUN PULL DISCARD BEGIN COMMIT ROLLBACK ROUTE TELEMETRY"
        }),
    ];
    for (state, start, forbidden) in states {
        for (name, bytes) in requests() {
            if forbidden.split(' ').any(|word| word == name) {
                table.add(format!("{name} {state}"), start, bytes, refused());
            }
        }
    }
    table.add("LOGOFF in FAILED", Start::Failed(V5_4), encode(tag::LOGOFF, &[]), refused());
}

fn ignored_in_failed(table: &mut Table) {
    for (name, bytes) in requests() {
        if !matches!(name, "LOGOFF" | "RESET") {
            let outcome = Outcome::Answers(&[IGNORED]);
            table.add(format!("{name} in FAILED"), Start::Failed(V5_4), bytes, outcome);
        }
    }
}

fn unknown_tags(table: &mut Table) {
    for unknown in [0x00, 0x03, 0x0E, 0x13 + 1, 0x55, 0x7D, 0x80, 0xFF] {
        let name = format!("the unknown tag {unknown:02X}");
        table.add(name, READY, with_fields(unknown, 1), refused());
    }
    for (name, response) in [
        ("SUCCESS", with_fields(tag::SUCCESS, 1)),
        ("RECORD", encode(tag::RECORD, &[Value::List(Vec::new())])),
        ("IGNORED", encode(tag::IGNORED, &[])),
        ("FAILURE", with_fields(tag::FAILURE, 1)),
    ] {
        table.add(format!("{name} from a client"), READY, response.clone(), refused());
        let start = Start::Agreed(V5_4);
        table.add(format!("{name} instead of HELLO"), start, response, refused());
    }
    let start = Start::InTransaction(V5_4);
    table.add("an unknown tag in a transaction", start, with_fields(0x55, 1), refused());
    let start = Start::Failed(V5_4);
    table.add("an unknown tag in FAILED", start, with_fields(0x55, 1), refused());
}

fn wrong_fields(table: &mut Table) {
    for (name, tag, right) in [
        ("RUN", tag::RUN, 3),
        ("BEGIN", tag::BEGIN, 1),
        ("PULL", tag::PULL, 1),
        ("COMMIT", tag::COMMIT, 0),
        ("RESET", tag::RESET, 0),
        ("LOGOFF", tag::LOGOFF, 0),
        ("ROUTE", tag::ROUTE, 3),
        ("TELEMETRY", tag::TELEMETRY, 1),
        ("GOODBYE", tag::GOODBYE, 0),
    ] {
        for count in [0, 1, 2, 4, 15] {
            if count != right {
                let name = format!("{name} with {count} fields");
                table.add(name, READY, with_fields(tag, count), refused());
            }
        }
    }
    table.add("HELLO with two fields", Start::Agreed(V5_4), with_fields(tag::HELLO, 2), refused());
    table.add("LOGON without fields", Start::Greeted(V5_4), with_fields(tag::LOGON, 0), refused());
}

fn other_versions(table: &mut Table) {
    let mut add = |name: &str, version: Version, bytes: Vec<u8>| {
        table.add(format!("{name} in {version}"), Start::Ready(version), bytes, refused());
    };
    add("LOGON", V4_4, logon("neo4j", PASSWORD));
    add("LOGON", V5_0, logon("neo4j", PASSWORD));
    add("LOGOFF", V4_4, encode(tag::LOGOFF, &[]));
    add("LOGOFF", V5_0, encode(tag::LOGOFF, &[]));
    add("TELEMETRY", V4_4, encode(tag::TELEMETRY, &[Value::Int(0)]));
    add("TELEMETRY", V5_0, encode(tag::TELEMETRY, &[Value::Int(0)]));
    add("PULL_ALL", V4_4, encode(tag::PULL, &[]));
    add("PULL_ALL", V5_8, encode(tag::PULL, &[]));
    add("DISCARD_ALL", V5_8, encode(tag::DISCARD, &[]));
    add("ACK_FAILURE", V5_8, encode(0x0E, &[]));
    add("INIT", V4_4, encode(tag::HELLO, &["agent".into(), map(&[])]));
    add("an unknown tag", V5_8, with_fields(0x55, 1));
}

fn no_structures(table: &mut Table) {
    let payloads: [(&str, &[u8]); 8] = [
        ("a map", &[0xA0, 0xA0]),
        ("a list", &[0x91, 0x01]),
        ("a text", b"\x84text"),
        ("a number", &[0xC9, 0x01, 0x02]),
        ("two nulls", &[0xC0, 0xC0]),
        ("a structure with a long header", &[0xDC, 0x00, tag::RESET]),
        ("a structure with a longer header", &[0xDD, 0x00, 0x00, tag::RESET]),
        ("HTTP in a chunk", b"GET / HTTP/1.1\r\n\r\n"),
    ];
    for (name, payload) in payloads {
        table.add(format!("{name} as a message"), READY, message(payload), refused());
        let start = Start::Agreed(V5_4);
        table.add(format!("{name} as the first message"), start, message(payload), refused());
    }
}

fn pipelines(table: &mut Table) {
    let query = [run("RETURN $nonce AS n", "x"), pull(-1)].concat();
    let unknown = with_fields(0x55, 1);
    let reason = "invalid_request";
    let late = [query.clone(), unknown.clone(), query.clone()].concat();
    let tags = &[SUCCESS, tag::RECORD, SUCCESS, FAILURE];
    table.add("an unknown tag behind a query", READY, late, {
        Outcome::Fails(tags, INVALID, reason)
    });
    let twice = [begin(), begin(), query.clone()].concat();
    table.add("BEGIN twice in one write", READY, twice, {
        Outcome::Fails(&[SUCCESS, FAILURE], INVALID, reason)
    });
    let early = [encode(tag::COMMIT, &[]), query.clone()].concat();
    table.add("COMMIT before a query in one write", READY, early, refused());
    let failing = [run("FAIL Neo.ClientError.Statement.SyntaxError", "x"), pull(-1)].concat();
    let behind = [failing, query.clone(), query.clone()].concat();
    table.add("two queries behind one that fails", READY, behind, {
        Outcome::Answers(&[FAILURE, IGNORED, IGNORED, IGNORED, IGNORED, IGNORED])
    });
    let greeting = [hello(V5_4, "neo4j", PASSWORD), hello(V5_4, "neo4j", PASSWORD)].concat();
    table.add("HELLO twice in one write", Start::Agreed(V5_4), greeting, {
        Outcome::Fails(&[SUCCESS, FAILURE], INVALID, reason)
    });
    let skipped = [hello(V5_4, "neo4j", PASSWORD), query].concat();
    table.add("a query behind HELLO, without LOGON", Start::Agreed(V5_4), skipped, {
        Outcome::Fails(&[SUCCESS, FAILURE], INVALID, reason)
    });
    let mistaken = [hello(V5_4, "x", "x"), logon("neo4j", "wrong"), logon("neo4j", PASSWORD)];
    table.add("a right LOGON behind a wrong one", Start::Agreed(V5_4), mistaken.concat(), {
        let unauthorized = "Neo.ClientError.Security.Unauthorized";
        Outcome::Fails(&[SUCCESS, FAILURE], unauthorized, "unauthorized")
    });
    let deaf = [logon("neo4j", "wrong"), unknown.repeat(1000)].concat();
    table.add("unknown messages behind a wrong LOGON", Start::Greeted(V5_4), deaf, {
        Outcome::Fails(&[FAILURE], "Neo.ClientError.Security.Unauthorized", "unauthorized")
    });
}

fn wrong_values(table: &mut Table) {
    let refuses = || Outcome::Refuses(&[FAILURE], INVALID);
    for (name, value) in [
        ("4", Value::Int(4)),
        ("-1", Value::Int(-1)),
        ("a text", "0".into()),
        ("null", Value::Null),
        ("a map", map(&[])),
        ("a large number", Value::Int(i64::MAX)),
    ] {
        let bytes = encode(tag::TELEMETRY, &[value]);
        table.add(format!("TELEMETRY of {name}"), READY, bytes, refuses());
    }
    let pair = |key: &str, value: Value| Value::Map(vec![(key.into(), value)]);
    for (name, extra) in [
        ("a number for its mode", pair("mode", Value::Int(1))),
        ("a list for its database", pair("db", Value::List(Vec::new()))),
        ("a text for its bookmarks", pair("bookmarks", "x".into())),
        ("a text for its time limit", pair("tx_timeout", "x".into())),
    ] {
        let bytes = encode(tag::BEGIN, &[extra]);
        table.add(format!("BEGIN with {name}"), READY, bytes, refuses());
    }
    for (name, fields) in [
        ("a number for a query", vec![Value::Int(1), map(&[]), map(&[])]),
        ("a null for parameters", vec!["RETURN 1".into(), Value::Null, map(&[])]),
        ("a list for an extra", vec!["RETURN 1".into(), map(&[]), Value::List(Vec::new())]),
    ] {
        table.add(format!("RUN with {name}"), READY, encode(tag::RUN, &fields), refuses());
    }
    let fields = [Value::Int(1), Value::Int(2), Value::Int(3)];
    table.add("ROUTE of numbers", READY, encode(tag::ROUTE, &fields), refuses());
}

#[test]
fn every_message_of_a_client_meets_its_outcome() {
    run_all(&cases(), 80);
}
