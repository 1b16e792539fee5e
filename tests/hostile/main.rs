//! What no peer should send, in named cases: each says what boltmux must do about it, and is tried
//! against the program itself. Fuzz targets and the log's secrets are here, too.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking, their helpers, too")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "blocking clients on threads of their own, against a process that has its own clock"
)]

#[path = "../proxy/certificates.rs"]
#[allow(dead_code, reason = "another test target uses the rest of it")]
mod certificates;
#[path = "../proxy/client.rs"]
#[allow(dead_code, reason = "another test target uses the rest of it")]
mod client;
#[path = "../proxy/frames.rs"]
#[allow(dead_code, reason = "another test target uses the rest of it")]
mod frames;
#[path = "../proxy/value.rs"]
#[allow(dead_code, reason = "another test target uses the rest of it")]
mod value;

mod balancer;
mod case;
mod chunking;
mod drip;
mod handshake;
mod http;
mod liar;

mod messages;
mod packstream;
mod process;
mod replay;
mod run;
mod secrets;
mod server_side;
mod targets;
mod tls;
mod websocket;

mod witness;
