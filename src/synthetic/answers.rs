//! The messages a server sends, written straight into a connection's output.

use crate::synthetic::codec::{self, put_boolean, put_integer, put_list, put_map, put_string};
use crate::wire::version::Version;
use bytes::BytesMut;
use std::fmt::Write as _;

const SUCCESS: u8 = 0x70;
const RECORD: u8 = 0x71;
const IGNORED: u8 = 0x7E;
const FAILURE: u8 = 0x7F;
/// A tag that no version of the protocol has.
const UNKNOWN: u8 = 0x55;
/// A marker that PackStream reserves.
const RESERVED: u8 = 0xC4;

pub fn noops(out: &mut BytesMut, count: u32) {
    out.resize(out.len() + 2 * count as usize, 0);
}

pub fn success_empty(out: &mut BytesMut) {
    out.extend_from_slice(&[0, 3, 0xB1, SUCCESS, 0xA0, 0, 0]);
}

pub fn has_more(out: &mut BytesMut) {
    out.extend_from_slice(b"\x00\x0D\xB1\x70\xA1\x88has_more\xC3\x00\x00");
}

pub fn ignored(out: &mut BytesMut) {
    out.extend_from_slice(&[0, 2, 0xB0, IGNORED, 0, 0]);
}

/// What no version knows.
pub fn garbage(out: &mut BytesMut) {
    out.extend_from_slice(&[0, 3, 0xB1, UNKNOWN, 0x2A, 0, 0]);
}

/// A record with a value of a reserved marker.
pub fn reserved_marker(out: &mut BytesMut) {
    out.extend_from_slice(&[0, 4, 0xB1, RECORD, 0x91, RESERVED, 0, 0]);
}

/// What HELLO's SUCCESS tells.
pub struct Welcome<'a> {
    pub agent: &'a str,
    pub connection: u64,
    pub recv_timeout_seconds: Option<u64>,
    pub utc_patch: bool,
    pub is_manifest: bool,
    pub credentials_expired: bool,
}

pub fn welcome(out: &mut BytesMut, version: Version, welcome: &Welcome<'_>) {
    let start = codec::begin(out, 1, SUCCESS);
    let is_expired = welcome.credentials_expired;
    let keys = [version.has_hints(), welcome.utc_patch, welcome.is_manifest, is_expired];
    put_map(out, 2 + keys.iter().filter(|is_there| **is_there).count());
    put_string(out, "server");
    put_string(out, welcome.agent);
    put_string(out, "connection_id");
    put_string(out, &format!("bolt-{}", welcome.connection));
    if version.has_hints() {
        hints(out, version, welcome.recv_timeout_seconds);
    }
    if welcome.utc_patch {
        put_string(out, "patch_bolt");
        put_list(out, 1);
        put_string(out, "utc");
    }
    if is_expired {
        put_string(out, "credentials_expired");
        put_boolean(out, true);
    }
    if welcome.is_manifest {
        put_string(out, "protocol_version");
        put_string(out, &version.to_string());
    }
    codec::end(out, start);
}

fn hints(out: &mut BytesMut, version: Version, recv_timeout_seconds: Option<u64>) {
    let (has_telemetry, has_ssr) = (version.has_telemetry(), version.has_resolved_database());
    put_string(out, "hints");
    let fixed = usize::from(has_telemetry) + usize::from(has_ssr);
    put_map(out, fixed + usize::from(recv_timeout_seconds.is_some()));
    if let Some(seconds) = recv_timeout_seconds {
        put_string(out, "connection.recv_timeout_seconds");
        put_integer(out, seconds.min(i64::MAX as u64) as i64);
    }
    if has_telemetry {
        put_string(out, "telemetry.enabled");
        put_boolean(out, false);
    }
    if has_ssr {
        put_string(out, "ssr.enabled");
        put_boolean(out, true);
    }
}

pub fn logged_on(out: &mut BytesMut, version: Version, address: &str, is_expired: bool) {
    let has_address = version.has_resolved_database();
    let start = codec::begin(out, 1, SUCCESS);
    put_map(out, usize::from(has_address) + usize::from(is_expired));
    if has_address {
        put_string(out, "advertised_address");
        put_string(out, address);
    }
    if is_expired {
        put_string(out, "credentials_expired");
        put_boolean(out, true);
    }
    codec::end(out, start);
}

/// RUN's SUCCESS.
pub fn run(out: &mut BytesMut, fields: &[&str], qid: Option<i64>, database: Option<&str>) {
    let start = codec::begin(out, 1, SUCCESS);
    put_map(out, 2 + usize::from(qid.is_some()) + usize::from(database.is_some()));
    put_string(out, "t_first");
    put_integer(out, 0);
    put_string(out, "fields");
    put_list(out, fields.len());
    fields.iter().for_each(|field| put_string(out, field));
    if let Some(qid) = qid {
        put_string(out, "qid");
        put_integer(out, qid);
    }
    if let Some(database) = database {
        put_string(out, "db");
        put_string(out, database);
    }
    codec::end(out, start);
}

/// BEGIN's SUCCESS.
pub fn begun(out: &mut BytesMut, database: Option<&str>) {
    let Some(database) = database else { return success_empty(out) };
    let start = codec::begin(out, 1, SUCCESS);
    put_map(out, 1);
    put_string(out, "db");
    put_string(out, database);
    codec::end(out, start);
}

/// A record of values that the caller's bytes hold, already encoded.
pub fn record(out: &mut BytesMut, count: usize, values: &[u8]) {
    let start = codec::begin(out, 1, RECORD);
    put_list(out, count);
    out.extend_from_slice(values);
    codec::end(out, start);
}

/// A record of an encoded value, or an index in its stead, and a string of `size` letters.
pub fn row(out: &mut BytesMut, value: &[u8], index: u64, size: usize) {
    let start = codec::begin(out, 1, RECORD);
    put_list(out, 2);
    match value {
        [] => put_integer(out, index.min(i64::MAX as u64) as i64),
        value => out.extend_from_slice(value),
    }
    codec::put_string_header(out, size);
    let letter = b'a' + (index % 26) as u8;
    out.resize(out.len() + size, letter);
    codec::end(out, start);
}

/// The last SUCCESS of a result.
pub fn finished(
    out: &mut BytesMut,
    version: Version,
    kind: &str,
    bookmark: Option<u128>,
    database: &str,
) {
    let start = codec::begin(out, 1, SUCCESS);
    let is_write = kind == "w";
    let has_database = version.has_database();
    let fixed = 2 + usize::from(has_database) + usize::from(is_write);
    put_map(out, fixed + usize::from(bookmark.is_some()));
    if let Some(number) = bookmark {
        put_bookmark(out, number);
    }
    put_string(out, "type");
    put_string(out, kind);
    put_string(out, "t_last");
    put_integer(out, 0);
    if has_database {
        put_string(out, "db");
        put_string(out, database);
    }
    if is_write {
        put_string(out, "stats");
        put_map(out, 2);
        put_string(out, "nodes-created");
        put_integer(out, 1);
        put_string(out, "contains-updates");
        put_boolean(out, true);
    }
    codec::end(out, start);
}

/// COMMIT's SUCCESS.
pub fn committed(out: &mut BytesMut, bookmark: u128) {
    let start = codec::begin(out, 1, SUCCESS);
    put_map(out, 1);
    put_bookmark(out, bookmark);
    codec::end(out, start);
}

/// `FB:` and 32 hexadecimal digits.
fn put_bookmark(out: &mut BytesMut, number: u128) {
    put_string(out, "bookmark");
    codec::put_string_header(out, 35);
    // Writing into memory that grows cannot fail.
    let _ = write!(out, "FB:{number:032x}");
}

/// ROUTE's SUCCESS.
pub fn table(out: &mut BytesMut, version: Version, database: &str, roles: [(&str, &[&str]); 3]) {
    let start = codec::begin(out, 1, SUCCESS);
    put_map(out, 1);
    put_string(out, "rt");
    put_map(out, 2 + usize::from(version.has_route_extra()));
    put_string(out, "ttl");
    put_integer(out, 300);
    if version.has_route_extra() {
        put_string(out, "db");
        put_string(out, database);
    }
    put_string(out, "servers");
    put_servers(out, roles);
    codec::end(out, start);
}

/// What the routing procedures of Bolt 3 to 4.2 answer: the values of `ttl` and `servers`.
pub fn table_values(out: &mut BytesMut, roles: [(&str, &[&str]); 3]) {
    put_integer(out, 300);
    put_servers(out, roles);
}

fn put_servers(out: &mut BytesMut, roles: [(&str, &[&str]); 3]) {
    put_list(out, roles.len());
    for (role, addresses) in roles {
        put_map(out, 2);
        put_string(out, "addresses");
        put_list(out, addresses.len());
        addresses.iter().for_each(|address| put_string(out, address));
        put_string(out, "role");
        put_string(out, role);
    }
}

/// A FAILURE in the version's shape. `idempotent` promises that nothing was executed.
pub fn failure(out: &mut BytesMut, version: Version, code: &str, message: &str, idempotent: bool) {
    let start = codec::begin(out, 1, FAILURE);
    if !version.has_gql_errors() {
        put_map(out, 2);
        put_string(out, "code");
        put_string(out, code);
        put_string(out, "message");
        put_string(out, message);
        return codec::end(out, start);
    }
    let (status, condition) = gql(code);
    put_map(out, 5);
    put_string(out, "neo4j_code");
    put_string(out, code);
    put_string(out, "message");
    put_string(out, message);
    put_string(out, "gql_status");
    put_string(out, status);
    put_string(out, "description");
    put_string(out, &format!("error: {condition}. {message}"));
    put_string(out, "diagnostic_record");
    put_map(out, 1 + usize::from(idempotent));
    put_string(out, "_classification");
    put_string(out, classification(code));
    if idempotent {
        put_string(out, "_idempotent");
        put_boolean(out, true);
    }
    codec::end(out, start);
}

fn classification(code: &str) -> &'static str {
    match code.split('.').nth(1) {
        Some("ClientError") => "CLIENT_ERROR",
        Some("TransientError") => "TRANSIENT_ERROR",
        _ => "DATABASE_ERROR",
    }
}

/// The GQL status and condition of a code (Neo4j 5.26, its table of error codes).
fn gql(code: &str) -> (&'static str, &'static str) {
    let mut parts = code.split('.').skip(1);
    let (class, category) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    match (class, category, parts.next().unwrap_or("")) {
        (_, "Request", "Invalid" | "InvalidFormat") => {
            ("08N06", "connection exception - protocol error")
        }
        (_, "Request", _) => ("51N59", "system configuration or operation exception"),
        (_, "Security", _) => {
            ("42NFF", "syntax error or access rule violation - permission/access denied")
        }
        (_, "Cluster", "NotALeader") => ("08N07", "connection exception - not the leader"),
        (_, "General", "DatabaseUnavailable") => {
            ("08N09", "connection exception - database unavailable")
        }
        (_, "General", "ForbiddenOnReadOnlyDatabase") => {
            ("08N08", "connection exception - database is read only")
        }
        (_, "Database", "DatabaseNotFound") => {
            ("22N51", "data exception - database does not exist")
        }
        (_, "Statement", "SyntaxError") => {
            ("42001", "syntax error or access rule violation - invalid syntax")
        }
        (
            "ClientError",
            "Transaction",
            "Terminated" | "LockClientStopped" | "TransactionTimedOut",
        ) => ("25N14", "invalid transaction state - transaction termination client error"),
        ("TransientError", "Transaction", "LeaderSwitch") => {
            ("51N34", "system configuration or operation exception - not the leader")
        }
        _ => ("50N42", "general processing exception - unexpected error"),
    }
}
