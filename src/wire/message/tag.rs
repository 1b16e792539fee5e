//! The tags of messages, and which requests each version has (Bolt specification, messages).

use crate::wire::version::Version;

pub const HELLO: u8 = 0x01;
pub const LOGON: u8 = 0x6A;
pub const LOGOFF: u8 = 0x6B;
pub const GOODBYE: u8 = 0x02;
pub const RESET: u8 = 0x0F;
pub const RUN: u8 = 0x10;
pub const PULL: u8 = 0x3F;
pub const DISCARD: u8 = 0x2F;
pub const BEGIN: u8 = 0x11;
pub const COMMIT: u8 = 0x12;
pub const ROLLBACK: u8 = 0x13;
pub const ROUTE: u8 = 0x66;
pub const TELEMETRY: u8 = 0x54;
pub const SUCCESS: u8 = 0x70;
pub const RECORD: u8 = 0x71;
pub const IGNORED: u8 = 0x7E;
pub const FAILURE: u8 = 0x7F;

/// The specification's name of a message; `UNKNOWN` for any other tag.
pub fn name(tag: u8) -> &'static str {
    match tag {
        HELLO => "HELLO",
        LOGON => "LOGON",
        LOGOFF => "LOGOFF",
        GOODBYE => "GOODBYE",
        RESET => "RESET",
        RUN => "RUN",
        PULL => "PULL",
        DISCARD => "DISCARD",
        BEGIN => "BEGIN",
        COMMIT => "COMMIT",
        ROLLBACK => "ROLLBACK",
        ROUTE => "ROUTE",
        TELEMETRY => "TELEMETRY",
        SUCCESS => "SUCCESS",
        RECORD => "RECORD",
        IGNORED => "IGNORED",
        FAILURE => "FAILURE",
        _ => "UNKNOWN",
    }
}

/// Number of fields of a request in `version`; `None` where that version has no such request.
pub fn request_fields(version: Version, tag: u8) -> Option<u8> {
    match tag {
        HELLO | BEGIN => Some(1),
        GOODBYE | RESET | COMMIT | ROLLBACK => Some(0),
        RUN => Some(3),
        PULL | DISCARD => Some(u8::from(version.has_database())),
        LOGON => version.has_logon().then_some(1),
        LOGOFF => version.has_logon().then_some(0),
        ROUTE => version.has_route().then_some(3),
        TELEMETRY => version.has_telemetry().then_some(1),
        _ => None,
    }
}
