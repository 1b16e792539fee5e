//! Whole conversations: a client that says anything before an honest server, and an honest client
//! before a server that says anything.

use super::conversation::{Conversation, messages, told};
use super::pieces;
use boltmux::backend::Discard;
use boltmux::backend::approval::LoginOutcome;
use boltmux::wire::message::{
    Auth, COMMIT, Notifications, RESET, Routing, ServerHello, encode_begin, encode_hello,
    encode_logon, encode_pull, encode_route, encode_run, tag,
};
use boltmux::wire::version::Version;

const VERSIONS: [Version; 4] =
    [Version::new(4, 4), Version::new(5, 0), Version::new(5, 4), Version::new(5, 8)];
/// Rounds of answers until nothing is left to answer; each answers at least one request.
const ROUNDS_MAX: usize = 100_000;

fn login(version: Version) -> Vec<u8> {
    let auth = Auth::from_parts("basic", "neo4j", "test-password");
    let hello = ServerHello {
        user_agent: "test/1",
        bolt_agent: "test/1",
        routing: None,
        utc_patch: false,
        notifications: &Notifications::default(),
        auth: (!version.has_logon()).then_some(&auth),
    };
    let mut bytes = encode_hello(version, &hello);
    if version.has_logon() {
        bytes.extend(encode_logon(&auth));
    }
    bytes
}

fn logged_in(version: Version) -> Conversation {
    let mut conversation = Conversation::new(version);
    conversation.client_says(&login(version));
    conversation.logins_end(&LoginOutcome::Accepted);
    assert!(conversation.exchange.session.is_serving(), "the login is right");
    conversation.outside.to_client.clear();
    conversation
}

/// The first byte: version, whether the client is logged in, whether leases are scarce, whether the
/// server answers at once. The second: how the rest is cut.
pub fn client(data: &[u8]) {
    let [setup, seed, bytes @ ..] = data else { return };
    let version = VERSIONS[usize::from(setup & 3)];
    let mut conversation = match setup & 4 {
        0 => Conversation::new(version),
        _ => logged_in(version),
    };
    conversation.outside.is_scarce = setup & 8 != 0;
    for piece in pieces(bytes, *seed) {
        conversation.client_says(piece);
        if setup & 16 != 0 {
            conversation.server_answers();
        }
        if setup & 32 != 0 {
            conversation.logins_end(&LoginOutcome::Accepted);
            conversation.wait_ends(setup & 64 != 0);
        }
        if setup & 128 != 0 {
            conversation.time_passes();
        }
    }
    let mut rounds = 0;
    let is_settled = |conversation: &Conversation| {
        conversation.outside.logins.is_empty() && !conversation.outside.is_waiting
    };
    while conversation.server_answers() || !is_settled(&conversation) {
        conversation.logins_end(&LoginOutcome::Accepted);
        conversation.wait_ends(true);
        rounds += 1;
        assert!(rounds < ROUNDS_MAX, "it goes on for ever");
    }
    let (requests, _) = messages(bytes);
    let summaries = told(&conversation).iter().filter(|tag| **tag != tag::RECORD).count();
    let goodbye = [0xB0, tag::GOODBYE];
    let wanted = requests.iter().filter(|payload| payload[..] != goodbye).count();
    // One that is too long, or no message at all, is refused before its end.
    assert!(summaries <= wanted + 1, "{summaries} answers to {wanted} requests");
    if !conversation.outside.is_closed {
        assert_eq!(summaries, wanted, "each request gets one summary");
    }
}

/// The first byte: version, and what the client asks. The second: how the server's bytes are cut.
pub fn server(data: &[u8]) {
    let [setup, seed, bytes @ ..] = data else { return };
    let version = VERSIONS[usize::from(setup & 3)];
    let mut conversation = logged_in(version);
    let empty = &[0xA0];
    let query = [encode_run("RETURN 1", empty, empty), encode_pull(version, -1)].concat();
    let read = encode_run("RETURN 1", empty, b"\xA1\x84mode\x81r");
    let requests = match setup >> 2 & 7 {
        0 => query.clone(),
        1 => [encode_begin(empty), query.clone(), COMMIT.to_vec()].concat(),
        2 => [encode_begin(empty), query.clone()].concat(),
        3 => [read, encode_pull(version, 10), encode_pull(version, -1)].concat(),
        4 => encode_route(version, &Routing::default(), None, None),
        5 => [query.clone(), RESET.to_vec()].concat(),
        6 => [encode_begin(empty), RESET.to_vec(), query.clone()].concat(),
        _ => [query.clone(), query.clone()].concat(),
    };
    conversation.client_says(&requests);
    let mut sent = requests.clone();
    for (number, piece) in pieces(bytes, *seed).enumerate() {
        conversation.server_says(piece);
        if setup & 32 != 0 && number % 8 == 7 {
            sent.extend_from_slice(&query);
            conversation.client_says(&query);
        }
        if setup & 64 != 0 && number % 8 == 3 {
            sent.extend_from_slice(RESET);
            conversation.client_says(RESET);
        }
        if setup & 128 != 0 {
            conversation.time_passes();
        }
    }
    if conversation.outside.is_closed {
        return check(&conversation, &sent);
    }
    // The server is lost, each time that another takes its place.
    let mut rounds = 0;
    while conversation.outside.is_leased && rounds < ROUNDS_MAX {
        conversation.server_lost(Discard::ServerClosed);
        rounds += 1;
    }
    assert!(rounds < ROUNDS_MAX, "leases without end");
    check(&conversation, &sent);
}

fn check(conversation: &Conversation, sent: &[u8]) {
    let (requests, _) = messages(sent);
    let summaries = told(conversation).iter().filter(|tag| **tag != tag::RECORD).count();
    assert!(summaries <= requests.len(), "{summaries} answers to {} requests", requests.len());
    if !conversation.outside.is_closed {
        assert_eq!(summaries, requests.len(), "each request gets one summary");
    }
}
