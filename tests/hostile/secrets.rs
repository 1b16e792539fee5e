//! What must never be seen: credentials, parameters and queries in the log or in what operators
//! read; and what a peer says there is escaped and cut.

use crate::client::{Client, Said, V5_4, encode, hello, logon, pull, run_with};
use crate::liar::{LIED_TO, Liar, Lie, Moment, Then};
use crate::process::Process;
use crate::value::{Value, map};
use boltmux::synthetic::{Options, Server};
use boltmux::wire::message::tag;

/// Begins what must not be seen; whatever else it holds would end a line or turn it red.
const SECRET: &str = "SECRET-1b7e";
const POISON: &str = "\n\r\u{1b}[31mPOISON-77\u{7}\u{9b}2J\u{202e}";
/// Longest line of the log: what a peer says is cut.
const LINE_BYTES_MAX: usize = 1500;

fn secret(what: &str) -> String {
    format!("{SECRET}-{what}{POISON}")
}

/// Everything that operators can read, and that nothing in it is a peer's secret.
fn expect_clean(process: &Process, with_agent: bool) {
    let mut texts = process.said();
    for path in ["/metrics", "/healthz", "/", "/status", "/servers", "/clients"] {
        texts.push(process.admin_text(path));
    }
    for text in &texts {
        assert!(!text.contains(SECRET), "a secret is shown: {text:?}");
        let is_poisoned = text.contains("\u{1b}[31m") || text.contains('\u{7}');
        assert!(!is_poisoned, "a peer's text came through as it is: {text:?}");
    }
    for line in process.said() {
        assert!(line.len() <= LINE_BYTES_MAX, "{} bytes in a line: {line}", line.len());
        let has_control = line.trim_end().chars().any(char::is_control);
        assert!(!has_control, "a control character in {line:?}");
        assert!(!line.starts_with("POISON"), "a peer made a line of its own: {line:?}");
    }
    let is_told = process.said().iter().any(|line| line.contains("POISON-77"));
    assert_eq!(is_told, with_agent, "{:#?}", process.said());
}

#[test]
fn credentials_parameters_and_queries_are_never_shown() {
    let server = Server::start(Options::default()).unwrap();
    let pairs = ["log.level=trace", "shards=1", "pool.size=1"];
    let process = Process::start(server.address(), &pairs);
    process.until("the server is known", || process.metric("server_reachable", "") == 1);
    // Refused by the server, then refused by boltmux, then a query that fails.
    let said = Client::login_as(process.address, V5_4, &secret("user"), &secret("password"));
    assert!(matches!(said.err(), Some(Said::Message(failure)) if failure.tag == tag::FAILURE));
    let mut odd = Client::negotiate(process.address, V5_4);
    let token = map(&[("scheme", &secret("scheme")), ("credentials", &secret("token"))]);
    let agent = map(&[("user_agent", &secret("agent"))]);
    odd.send(&[encode(tag::HELLO, &[agent]), encode(tag::LOGON, &[token])].concat());
    odd.expect_failure("Neo.ClientError.Request.Invalid");
    let mut client = Client::login(process.address, V5_4);
    let extra = map(&[("db", &secret("missing")), ("imp_user", &secret("user"))]);
    for extra in [map(&[]), extra] {
        let parameters = map(&[("nonce", &secret("parameter"))]);
        client.send(&[run_with(&secret("query"), parameters, extra), pull(-1)].concat());
        let _ = (client.next(), client.next());
        client.send(&crate::client::reset());
        let is_answer = |said| matches!(said, Said::Message(one) if one.tag == tag::SUCCESS);
        assert!((0..5).any(|_| is_answer(client.next())), "RESET is answered");
    }
    let mut http = Client::connect(process.address);
    let path: String = secret("path").chars().filter(char::is_ascii_graphic).collect();
    http.send(format!("GET /{path} HTTP/1.1\r\nAuthorization: {SECRET}\r\n\r\n").as_bytes());
    while http.read(1).is_ok() {}
    let mut garbage = Client::connect(process.address);
    garbage.send(secret("garbage").as_bytes());
    garbage.expect_end();
    expect_clean(&process, false);
}

#[test]
fn what_a_server_says_is_escaped_and_cut() {
    let server = Liar::start();
    let long = format!("Neo4j/5.26.0{POISON}{}", "x".repeat(5000));
    let says = map(&[("server", &long), ("connection_id", "bolt-1")]);
    server.tell_all(Some(Lie {
        moment: Moment::Hello,
        bytes: encode(tag::SUCCESS, &[says]),
        then: Then::GoesOn,
    }));
    let process = Process::start(server.address, &["log.level=trace", "shards=1"]);
    process.until("the server is known", || process.metric("server_reachable", "") == 1);
    let failure = Value::Map(vec![
        ("code".into(), format!("Neo.ClientError.Security.{}", secret("code")).as_str().into()),
        ("message".into(), secret("message").as_str().into()),
    ]);
    server.tell(Some(Lie {
        moment: Moment::Logon,
        bytes: encode(tag::FAILURE, &[failure]),
        then: Then::Closes,
    }));
    let mut client = Client::negotiate(process.address, LIED_TO);
    client.send(&[hello(LIED_TO, "a", "b"), logon("a", "b")].concat());
    client.expect(&[tag::SUCCESS, tag::FAILURE]);
    client.expect_end();
    expect_clean(&process, true);
}
