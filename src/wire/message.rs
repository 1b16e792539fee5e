//! Bolt messages: tags, views of the few fields boltmux reads, encoders for what it says itself.
//!
//! A message is one PackStream structure. Parsers take a payload (without chunk lengths) that
//! begins with the structure's marker and tag; encoders return whole messages, chunked. What is
//! only relayed is never opened here. Invariant: no secret is shown by any `Debug` or error.

mod auth;
mod encode;
mod failure;
mod fields;
mod hello;
mod route;
pub mod tag;

pub use crate::wire::error::MessageError;
pub use auth::{Auth, parse_logon};
pub use encode::{
    COMMIT, GOODBYE, IGNORED, LOGOFF, RESET, ROLLBACK, SUCCESS_EMPTY, encode_begin, encode_discard,
    encode_hello, encode_logon, encode_pull, encode_route, encode_run,
};
pub use failure::Failure;
pub use fields::{FieldScan, Fields, read_fields};
pub use hello::{Hello, HelloSuccess, LogonSuccess, Notifications, Routing, ServerHello};
pub use route::{Role, Route, RoutingCall, RoutingTable, own_table_record, routing_call};

use crate::wire::chunk::Head;
use crate::wire::packstream::Reader;
use crate::wire::version::Version;

/// Whether a request with this head exists in `version`.
pub fn is_request(version: Version, head: Head) -> bool {
    head.is_struct && tag::request_fields(version, head.tag) == Some(head.fields)
}

/// Whether a server may send a message with this head.
pub fn is_response(head: Head) -> bool {
    let fields = match head.tag {
        tag::SUCCESS | tag::RECORD | tag::FAILURE => 1,
        tag::IGNORED => 0,
        _ => return false,
    };
    head.is_struct && head.fields == fields
}

/// A reader of the fields of the message with this tag.
fn fields_of<'a>(payload: &'a [u8], fields: usize, tag: u8) -> Result<Reader<'a>, MessageError> {
    let mut reader = Reader::new(payload);
    let head = reader.take_struct_header()?;
    if head != (fields, tag) {
        let expected = tag::name(tag);
        return Err(MessageError::NotThis { expected, fields: head.0, tag: head.1 });
    }
    Ok(reader)
}

/// Names the key in the error where its value has another type.
fn typed<T>(
    value: Result<T, crate::wire::PackError>,
    message: &'static str,
    key: &'static str,
    expected: &'static str,
) -> Result<T, MessageError> {
    value.map_err(|error| match error {
        crate::wire::PackError::Unexpected { .. } => {
            MessageError::WrongType { message, key, expected }
        }
        other => MessageError::Pack(other),
    })
}
