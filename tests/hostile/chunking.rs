//! Chunks: lengths that lie, messages that end too early or never, no-ops in odd places.

use crate::case::{Case, INVALID, Outcome, Start, Table, dropped, message, refused, with_fields};
use crate::client::{PASSWORD, V5_4, chunked, hello, logon, pull, reset, run};
use crate::run::run_all;
use boltmux::wire::message::tag;

const LOGIN: Start = Start::Agreed(V5_4);
const READY: Start = Start::Ready(V5_4);
const SUCCESS: u8 = tag::SUCCESS;
const IGNORED: u8 = tag::IGNORED;
const FAILURE: u8 = tag::FAILURE;

pub fn cases() -> Vec<Case> {
    let mut table = Table::new("chunking");
    before_login(&mut table);
    odd_but_legal(&mut table);
    after_login(&mut table);
    in_a_transaction(&mut table);
    table.cases
}

/// A structure's payload of so many bytes that would be HELLO.
fn long_hello(length: usize) -> Vec<u8> {
    let mut payload = vec![0xB1, tag::HELLO, 0xA1, 0x81, b'x', 0xD2];
    payload.extend((length as u32).to_be_bytes());
    payload.resize(payload.len() + length, b'x');
    payload
}

fn unchunk(message: &[u8]) -> &[u8] {
    &message[2..message.len() - 2]
}

/// A message without its end.
fn endless(payload: &[u8], chunk: usize) -> Vec<u8> {
    let mut bytes = chunked(payload, chunk);
    bytes.truncate(bytes.len() - 2);
    bytes
}

fn before_login(table: &mut Table) {
    let gone = || Outcome::Silence("client_gone");
    table.add("a message of one byte before login", LOGIN, message(&[0xB1]), dropped());
    table.add("a message of one byte that is no marker", LOGIN, message(&[0x00]), dropped());
    let cut = [0, 1, 0xB1, 0, 0, 0, 1, tag::HELLO, 0, 0];
    table.add("a no-op between marker and tag", LOGIN, cut, dropped());
    table.add_ended("half a length, then the end", LOGIN, [0], gone());
    table.add_ended("a length, then the end", LOGIN, [0, 9], gone());
    table.add_ended("half a chunk, then the end", LOGIN, [0, 9, 0xB1, 1], gone());
    let open = endless(unchunk(&hello(V5_4, "a", "b")), 65_535);
    table.add_ended("a HELLO that lacks its end, then the end", LOGIN, open.clone(), gone());
    table.add("a HELLO that lacks its end", LOGIN, open, Outcome::Waits);
    table.add("a length of 65,535 and ten bytes", LOGIN, [0xFF; 12], Outcome::Waits);
    table.add("half a length and nothing more", LOGIN, [0], Outcome::Waits);
    table.add("ten thousand no-ops", LOGIN, vec![0; 20_000], Outcome::Waits);
    let over = long_hello(8 << 10);
    table.add("a HELLO over the limit in one chunk", LOGIN, message(&over), refused());
    table.add("a HELLO over the limit in small chunks", LOGIN, chunked(&over, 100), refused());
    table.add("a HELLO over the limit, its end missing", LOGIN, endless(&over, 100), refused());
    let bytewise = endless(&over, 1);
    table.add("a HELLO over the limit in chunks of a byte", LOGIN, bytewise, refused());
    let huge = long_hello(300_000);
    table.add("a HELLO of 300 KB", LOGIN, message(&huge), refused());
    table.add("a HELLO of 300 KB that never ends", LOGIN, endless(&huge, 65_535), refused());
    let greeted = Start::Greeted(V5_4);
    let mut logon = long_hello(8 << 10);
    logon[1] = tag::LOGON;
    table.add("a LOGON over the limit", greeted, message(&logon), refused());
    table.add("a LOGON over the limit that never ends", greeted, endless(&logon, 50), refused());
    let off = Start::LoggedOff(V5_4);
    table.add("a LOGON over the limit after LOGOFF", off, message(&logon), refused());
    table.add("a message of one byte after LOGOFF", off, message(&[0xB1]), dropped());
}

/// These keep the connection: chunks may be cut anywhere.
fn odd_but_legal(table: &mut Table) {
    let login = [hello(V5_4, "neo4j", PASSWORD), logon("neo4j", PASSWORD)];
    let bytewise: Vec<u8> = login.iter().flat_map(|message| chunked(unchunk(message), 1)).collect();
    table.add("a login in chunks of a byte", LOGIN, bytewise, Outcome::Answers(&[SUCCESS; 2]));
    let spaced: Vec<u8> =
        login.iter().flat_map(|message| [&[0; 2000], &message[..]].concat()).collect();
    table.add("a login between no-ops", LOGIN, spaced, Outcome::Answers(&[SUCCESS; 2]));
    table.add(
        "an odd number of zeros and RESET",
        READY,
        {
            // The last zero is the first half of RESET's length.
            [&[0; 2001][..], &reset()[1..]].concat()
        },
        Outcome::Answers(&[SUCCESS]),
    );
    let query = [run("RETURN $nonce AS n", "x"), pull(-1)];
    let bytewise: Vec<u8> = query.iter().flat_map(|message| chunked(unchunk(message), 1)).collect();
    let answers = Outcome::Answers(&[SUCCESS, tag::RECORD, SUCCESS]);
    table.add("a query in chunks of a byte", READY, bytewise, answers.clone());
    let spaced: Vec<u8> = query.iter().flat_map(|one| [&[0; 10], &one[..]].concat()).collect();
    table.add("a query between no-ops", READY, spaced, answers.clone());
    let long = run("RETURN $nonce AS n", &"x".repeat(100_000));
    let mut several = chunked(unchunk_long(&long).as_slice(), 1000);
    several.extend(pull(-1));
    table.add("a query of 100 KB in chunks of 1,000", READY, several, answers);
    let resets = reset().repeat(500);
    table.add("five hundred RESETs", READY, resets, Outcome::Answers(&[SUCCESS; 500]));
}

/// The payload of a message of several chunks.
fn unchunk_long(message: &[u8]) -> Vec<u8> {
    let (mut rest, mut payload) = (message, Vec::new());
    while let [high, low, more @ ..] = rest {
        let length = usize::from(*high) << 8 | usize::from(*low);
        payload.extend(&more[..length]);
        rest = &more[length..];
    }
    payload
}

fn after_login(table: &mut Table) {
    let gone = || Outcome::Silence("client_gone");
    table.add("a message of one byte", READY, message(&[0xB0]), dropped());
    table.add("half a length after login", READY, [0], Outcome::Waits);
    table.add_ended("half a length after login, then the end", READY, [0], gone());
    table.add_ended("half a RUN, then the end", READY, [0, 9, 0xB3, tag::RUN], gone());
    let whole = run("RETURN $nonce AS n", &"x".repeat(100_000));
    table.add_ended("most of a long RUN, then the end", READY, &whole[..90_000], gone());
    table.add("most of a long RUN", READY, &whole[..90_000], Outcome::Waits);
    table.add("200,000 times FF", READY, vec![0xFF; 200_000], refused());
    table.add(
        "a structure of 200,000 times FF",
        READY,
        [&[0xFF, 0xFF, 0xB0, 0xFF][..], &[0xFF; 200_000]].concat(),
        refused(),
    );
    let cut = [0, 2, 0xB3, tag::RUN, 0, 0];
    let outcome = || Outcome::Refuses(&[FAILURE], INVALID);
    table.add("a RUN that ends behind its tag", READY, cut, outcome());
    let cut = [0, 2, 0xB1, tag::BEGIN, 0, 0];
    // A server says FAILURE and stays READY; the proxy RESETs that connection.
    table.add("a BEGIN that ends behind its tag", READY, cut, outcome());
    table.add(
        "a PULL that ends behind its tag",
        Start::Streaming(V5_4),
        [0, 2, 0xB1, tag::PULL, 0, 0],
        outcome(),
    );
    table.add("two RESETs in one message", READY, message(&[0xB0, 0x0F, 0xB0, 0x0F]), refused());
    table.add("a RESET with a byte behind it", READY, message(&[0xB0, 0x0F, 0]), refused());
    table.add("a RESET of 100 KB", READY, message(&[&[0xB0, 0x0F][..], &[0; 100_000]].concat()), {
        refused()
    });
    table.add("a LOGOFF with a byte behind it", READY, message(&[0xB0, 0x6B, 0]), refused());
    let goodbye = message(&[0xB0, tag::GOODBYE, 0]);
    table.add("a GOODBYE with a byte behind it", READY, goodbye, refused());
    let failed = Start::Failed(V5_4);
    table.add("a message of one byte in FAILED", failed, message(&[0xB0]), dropped());
    let ignored = Outcome::Answers(&[IGNORED]);
    let long = chunked(unchunk_long(&whole).as_slice(), 333);
    table.add("a RUN of 100 KB in FAILED", failed, long, ignored);
}

fn in_a_transaction(table: &mut Table) {
    let start = Start::InTransaction(V5_4);
    table.add("a message of one byte in a transaction", start, message(&[0xB0]), dropped());
    let commit = message(&[0xB0, tag::COMMIT, 0]);
    table.add("a COMMIT with a byte behind it", start, commit, refused());
    let rollback = message(&[0xB0, tag::ROLLBACK, 0xB0, tag::ROLLBACK]);
    table.add("two ROLLBACKs in one message", start, rollback, refused());
    let reset = message(&[0xB0, tag::RESET, 0]);
    table.add("a RESET with a byte behind it in a transaction", start, reset, refused());
    let whole = run("RETURN $nonce AS n", &"x".repeat(100_000));
    let gone = Outcome::Silence("client_gone");
    table.add_ended("most of a RUN in a transaction, then the end", start, &whole[..90_000], gone);
    let unknown = endless(unchunk_long(&with_fields(0x55, 1)).as_slice(), 65_535);
    table.add("an unknown message that lacks its end", start, unknown, Outcome::Waits);
}

#[test]
fn every_chunk_of_a_client_meets_its_outcome() {
    run_all(&cases(), 50);
}
