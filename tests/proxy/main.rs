//! The whole proxy over loopback, before the synthetic server or servers that are worse: scripted
//! conversations, bad input, several shards, session mode, the program itself, and the storm.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking, their helpers, too")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "blocking clients on threads of their own, against a proxy that has others"
)]

mod bad_input;
mod bad_server;
mod certificates;
mod client;
mod dial;
mod doors;
mod frames;
mod http;
mod idle_memory;
mod program;
mod renewals;
mod rotation;
mod script;
mod scripts;
mod session_mode;
mod shards;
mod slow;
mod stage;
mod storm;
mod tls;
mod trouble;
mod value;
mod versions;
mod waiting;
mod websocket;
