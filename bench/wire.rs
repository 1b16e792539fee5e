//! What it costs to find and to read messages: scanner, skipper and the fields that are judged.
//! In memory; see `bench/measure.rs` for how it is run.

mod measure;

use boltmux::wire::chunk::{Kind, Scanner, chunked};
use boltmux::wire::message::{FieldScan, encode_pull, encode_run, read_fields, tag};
use boltmux::wire::packstream::{Skipper, Writer};
use boltmux::wire::version::Version;
use measure::Case;
use std::hint::black_box;
use std::process::ExitCode;

const VERSION: Version = Version::new(5, 4);
/// Records in one buffer of the rows case: 16 KiB of 100 bytes each.
const RECORDS: u64 = 160;
/// A parameter that needs several receive buffers.
const LONG_BYTES: usize = 200_000;
/// What one receive brings at most, as `transport.buffer_size` has it.
const BUFFER_BYTES: usize = 16 << 10;

fn main() -> ExitCode {
    measure::run(vec![
        scanner_requests(),
        scanner_records(),
        scanner_pieces(),
        skipper_record(),
        fields_of_run(),
        fields_of_success(),
        fields_in_pieces(),
    ])
}

/// A small query with one parameter, as drivers send it.
fn run_payload() -> Vec<u8> {
    let mut writer = Writer::new();
    writer.struct_header(3, tag::RUN).string("MATCH (n) WHERE n.id = $id RETURN n");
    writer.map_header(1).string("id").int(4711);
    writer.map_header(2).string("mode").string("r").string("db").string("neo4j");
    writer.into_bytes()
}

/// A record of about 100 bytes with values of several kinds.
fn record_payload() -> Vec<u8> {
    let mut writer = Writer::new();
    writer.struct_header(1, tag::RECORD).list_header(5).int(1_234_567).float(0.5);
    writer.string("a name of an ordinary length").list_header(3).int(1).int(2).int(3);
    writer.map_header(2).string("key").string("a value of an ordinary length");
    writer.string("other").bool(true);
    writer.into_bytes()
}

/// Walks over `input` and tells how many messages have ended in it.
fn scan(scanner: &mut Scanner, input: &[u8]) -> u64 {
    let (mut at, mut messages) = (0, 0);
    while let Some(span) = scanner.next(&input[at..]) {
        at += span.length;
        messages += u64::from(matches!(span.kind, Kind::Message { ends: true, .. }));
    }
    assert_eq!(at, input.len());
    messages
}

fn scanner_requests() -> Case {
    let run = encode_run("RETURN 1", &[0xA0], &[0xA0]);
    let input = [run, encode_pull(VERSION, 1000)].concat();
    let mut scanner = Scanner::default();
    Case::of_messages("scanner: RUN and PULL", 2, move || {
        assert_eq!(scan(&mut scanner, black_box(&input)), 2);
    })
}

fn scanner_records() -> Case {
    let input = chunked(&record_payload()).repeat(RECORDS as usize);
    let mut scanner = Scanner::default();
    Case::of_messages("scanner: records", RECORDS, move || {
        assert_eq!(scan(&mut scanner, black_box(&input)), RECORDS);
    })
}

/// The same records, cut where a buffer ends and not where a message does.
fn scanner_pieces() -> Case {
    let input = chunked(&record_payload()).repeat(RECORDS as usize);
    let mut scanner = Scanner::default();
    Case::of_messages("scanner: records cut in 1,000 bytes", RECORDS, move || {
        let pieces = black_box(&input).chunks(1000);
        let ended: u64 = pieces.map(|piece| scan(&mut scanner, piece)).sum();
        assert_eq!(ended, RECORDS);
    })
}

fn skipper_record() -> Case {
    let payload = record_payload();
    Case::of_messages("skipper: a record", 1, move || {
        let mut skipper = Skipper::new();
        let passed = skipper.feed(black_box(&payload));
        assert!(passed == Ok(payload.len()) && skipper.is_done());
    })
}

fn fields_of_run() -> Case {
    let payload = run_payload();
    Case::of_messages("read_fields: RUN", 1, move || {
        let fields = read_fields(black_box(&payload)).expect("a RUN as Bolt has it");
        assert!(fields.is_read && fields.has_database);
    })
}

/// The last SUCCESS of a result, as Neo4j sends it.
fn fields_of_success() -> Case {
    let mut writer = Writer::new();
    writer.struct_header(1, tag::SUCCESS).map_header(4);
    writer.string("bookmark").string("FB:kcwQ4VfJ2cSKQVmq0dLrUzDfNskGkA==");
    writer.string("type").string("r").string("t_last").int(1).string("db").string("neo4j");
    let payload = writer.into_bytes();
    Case::of_messages("read_fields: SUCCESS", 1, move || {
        let fields = read_fields(black_box(&payload)).expect("a SUCCESS as Bolt has it");
        assert!(!fields.has_more);
    })
}

/// A RUN with a long parameter, read in passing: nanoseconds and instructions are per buffer.
fn fields_in_pieces() -> Case {
    let mut writer = Writer::new();
    writer.struct_header(3, tag::RUN).string("RETURN $x").map_header(1).string("x");
    writer.byte_array(&vec![7; LONG_BYTES]).map_header(1).string("mode").string("r");
    let payload = writer.into_bytes();
    let pieces = payload.len().div_ceil(BUFFER_BYTES) as u64;
    let pass = move || {
        let mut scan = FieldScan::new(tag::RUN);
        let pieces = black_box(&payload).chunks(BUFFER_BYTES);
        pieces.for_each(|piece| scan.feed(piece).expect("a RUN as Bolt has it"));
        assert!(scan.finish().is_ok_and(|fields| fields.is_read));
    };
    let name = "FieldScan: RUN of 200 kB";
    Case { unit: "buffer", ..Case::of_messages(name, pieces, pass) }
}
