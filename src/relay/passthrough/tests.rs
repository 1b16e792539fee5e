use super::*;
use crate::wire::chunk::{NOOP, chunked};
use crate::wire::message::{
    Auth, Failure, GOODBYE, HelloSuccess, IGNORED, LOGOFF, LogonSuccess, Notifications, RESET,
    Role, RoutingTable, SUCCESS_EMPTY, ServerHello, encode_begin, encode_hello, encode_logon,
    encode_pull, encode_route, encode_run,
};
use crate::wire::packstream::Writer;

#[test]
fn nothing() {}
