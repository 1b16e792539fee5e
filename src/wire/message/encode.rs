//! The requests that boltmux says itself, and the answers that never vary. All chunked.

use crate::wire::chunk::chunked;
use crate::wire::message::hello::{Routing, ServerHello, disabled_key, write_routing};
use crate::wire::message::{Auth, tag};
use crate::wire::packstream::Writer;
use crate::wire::version::Version;
use zeroize::Zeroizing;

pub const RESET: &[u8] = &[0, 2, 0xB0, tag::RESET, 0, 0];
pub const GOODBYE: &[u8] = &[0, 2, 0xB0, tag::GOODBYE, 0, 0];
pub const LOGOFF: &[u8] = &[0, 2, 0xB0, tag::LOGOFF, 0, 0];
pub const COMMIT: &[u8] = &[0, 2, 0xB0, tag::COMMIT, 0, 0];
pub const ROLLBACK: &[u8] = &[0, 2, 0xB0, tag::ROLLBACK, 0, 0];
pub const IGNORED: &[u8] = &[0, 2, 0xB0, tag::IGNORED, 0, 0];
pub const SUCCESS_EMPTY: &[u8] = &[0, 3, 0xB1, tag::SUCCESS, 0xA0, 0, 0];

/// HELLO with what `version` has of `hello`; up to Bolt 5.0 it holds the login, so wipe it then.
pub fn encode_hello(version: Version, hello: &ServerHello<'_>) -> Vec<u8> {
    let routing = hello.routing.filter(|_| version.has_routing_context());
    let has_patch = hello.utc_patch && version.has_utc_patch();
    let filter = Some(hello.notifications).filter(|_| version.has_notification_filter());
    let severity = filter.and_then(|filter| filter.minimum_severity.as_deref());
    let disabled = filter.and_then(|filter| filter.disabled.as_deref());
    let auth = hello.auth.filter(|_| !version.has_logon());
    let (auth_count, auth_entries) = auth.map_or((0, &[][..]), Auth::entries);
    let optional = [
        version.has_bolt_agent(),
        routing.is_some(),
        has_patch,
        severity.is_some(),
        disabled.is_some(),
    ];
    let optional = optional.into_iter().filter(|is_there| *is_there).count();

    let mut writer = Writer::new();
    writer.struct_header(1, tag::HELLO);
    writer.map_header(1 + optional + auth_count);
    writer.string("user_agent").string(hello.user_agent);
    if version.has_bolt_agent() {
        writer.string("bolt_agent").map_header(1).string("product").string(hello.bolt_agent);
    }
    if let Some((address, entries)) = routing {
        writer.string("routing");
        write_routing(&mut writer, Some(address), entries);
    }
    if has_patch {
        writer.string("patch_bolt").list_header(1).string("utc");
    }
    if let Some(severity) = severity {
        writer.string("notifications_minimum_severity").string(severity);
    }
    if let Some(disabled) = disabled {
        writer.string(disabled_key(version)).list_header(disabled.len());
        for category in disabled {
            writer.string(category);
        }
    }
    // The login comes last and into a buffer that does not move any more, so no copy of it stays.
    let mut payload = Zeroizing::new(Vec::with_capacity(writer.bytes().len() + auth_entries.len()));
    payload.extend_from_slice(writer.bytes());
    payload.extend_from_slice(auth_entries);
    chunked(&payload)
}

/// LOGON. It holds the login: wipe it when it is sent.
pub fn encode_logon(auth: &Auth) -> Vec<u8> {
    let mut payload = Zeroizing::new(Vec::with_capacity(auth.canonical().len() + 2));
    payload.extend_from_slice(&[0xB1, tag::LOGON]);
    payload.extend_from_slice(auth.canonical());
    chunked(&payload)
}

/// RUN; `parameters` and `extra` are maps in PackStream.
pub fn encode_run(query: &str, parameters: &[u8], extra: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.struct_header(3, tag::RUN).string(query).raw(parameters).raw(extra);
    writer.into_message()
}

/// BEGIN; `extra` is a map in PackStream.
pub fn encode_begin(extra: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.struct_header(1, tag::BEGIN).raw(extra);
    writer.into_message()
}

/// PULL of `n` records, all for -1; Bolt 3 knows only all.
pub fn encode_pull(version: Version, n: i64) -> Vec<u8> {
    encode_stream_request(version, tag::PULL, n)
}

/// DISCARD of `n` records, all for -1; Bolt 3 knows only all.
pub fn encode_discard(version: Version, n: i64) -> Vec<u8> {
    encode_stream_request(version, tag::DISCARD, n)
}

fn encode_stream_request(version: Version, tag: u8, n: i64) -> Vec<u8> {
    let mut writer = Writer::new();
    if version.has_database() {
        writer.struct_header(1, tag).map_header(1).string("n").int(n);
    } else {
        writer.struct_header(0, tag);
    }
    writer.into_message()
}

/// ROUTE without bookmarks, which servers ignore. Before 4.4 there is no impersonation.
pub fn encode_route(
    version: Version,
    routing: &Routing,
    database: Option<&str>,
    imp_user: Option<&str>,
) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.struct_header(3, tag::ROUTE);
    write_routing(&mut writer, routing.address.as_deref(), &routing.entries);
    writer.list_header(0);
    if version.has_route_extra() {
        writer.map_header(usize::from(database.is_some()) + usize::from(imp_user.is_some()));
        if let Some(database) = database {
            writer.string("db").string(database);
        }
        if let Some(imp_user) = imp_user {
            writer.string("imp_user").string(imp_user);
        }
    } else {
        writer.optional_string(database);
    }
    writer.into_message()
}
