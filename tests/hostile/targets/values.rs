//! PackStream values and the messages that boltmux reads, whole and in pieces.

use super::pieces;
use boltmux::wire::chunk::payload;
use boltmux::wire::message::{
    Failure, FieldScan, Hello, HelloSuccess, LogonSuccess, Route, RoutingTable, encode_logon,
    parse_logon, read_fields,
};
use boltmux::wire::packstream::{Reader, Skipper};
use boltmux::wire::version::Version;

/// The first byte says how the rest is cut.
pub fn packstream(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else { return };
    skipping(bytes, seed);
    fields(bytes, seed);
    requests(bytes);
    responses(bytes);
}

/// Passing over a value: at once, and in pieces.
fn skipping(bytes: &[u8], seed: u8) {
    let mut reader = Reader::new(bytes);
    let raw = reader.take_raw();
    let (mut skipper, mut passed) = (Skipper::new(), 0);
    let mut outcome = Ok(());
    for piece in pieces(bytes, seed) {
        match skipper.feed(piece) {
            Ok(count) => passed += count,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
        if skipper.is_done() {
            break;
        }
    }
    match raw {
        Ok(raw) => {
            assert!(outcome.is_ok() && skipper.is_done(), "{outcome:?}");
            assert_eq!((passed, reader.rest().len()), (raw.len(), bytes.len() - raw.len()));
        }
        Err(_) => assert!(outcome.is_err() || !skipper.is_done(), "only one of the two passed it"),
    }
}

/// The fields of RUN, BEGIN and SUCCESS: in the quick way, and in pieces.
fn fields(bytes: &[u8], seed: u8) {
    let Some(&tag) = bytes.get(1) else { return };
    let whole = read_fields(bytes);
    let mut scan = FieldScan::new(tag);
    let outcome = pieces(bytes, seed).try_for_each(|piece| scan.feed(piece));
    let pieced = outcome.and_then(|()| scan.finish());
    assert_eq!(whole.is_ok(), pieced.is_ok(), "{whole:?} and {pieced:?}");
    if let (Ok(whole), Ok(pieced)) = (whole, pieced) {
        assert_eq!(whole, pieced);
    }
}

fn requests(bytes: &[u8]) {
    for version in Version::ALL {
        if let Ok(hello) = Hello::parse(version, bytes) {
            assert_eq!(hello.auth.is_some(), !version.has_logon());
        }
        let _ = Route::parse(version, bytes);
    }
    if let Ok(auth) = parse_logon(bytes) {
        // The canonical form is one: reading it again changes nothing.
        let again = encode_logon(&auth);
        let mut scratch = Vec::new();
        let again = parse_logon(payload(&again, &mut scratch)).expect("our own LOGON");
        assert_eq!(again.canonical(), auth.canonical());
        assert!(!format!("{auth:?}").contains("credentials"), "no secret is shown");
    }
}

/// What a server says, read, written and read again.
fn responses(bytes: &[u8]) {
    let mut scratch = Vec::new();
    for version in [Version::new(4, 4), Version::new(5, 4), Version::new(5, 8)] {
        if let Ok(failure) = Failure::parse(bytes) {
            let wire = failure.encode(version);
            let again = Failure::parse(payload(&wire, &mut scratch)).expect("our own FAILURE");
            assert_eq!((&again.code, &again.message), (&failure.code, &failure.message));
        }
        if let Ok(table) = RoutingTable::parse(bytes) {
            let wire = table.encode(version);
            let again = RoutingTable::parse(payload(&wire, &mut scratch)).expect("our own table");
            assert_eq!(again.servers, table.servers);
        }
        if let Ok(success) = HelloSuccess::parse(bytes) {
            let wire = success.encode(version, false, Some(true), None);
            let again = HelloSuccess::parse(payload(&wire, &mut scratch)).expect("our own SUCCESS");
            assert_eq!(
                (again.server, again.connection_id),
                (success.server, success.connection_id)
            );
        }
    }
    let _ = LogonSuccess::parse(bytes);
}
