//! Bytes in and out of sockets: one private io_uring per shard, inside its executor.
//!
//! Read in this order: `ring` (the kernel's side), `buffer` (memory the kernel fills), `heap` (the
//! budget of copies), `wheel` (deadlines), `socket` and `state` (what is in flight, and what a
//! completion means), `driver` (the pump: wakes out, and how it sleeps), `conn` and `stream` (what
//! a task sees of a socket), `tls` and `websocket` (what may lie around its bytes), `listener`,
//! `proxy_protocol`, `detect` and `http` (how a connection begins), `selftest` (what this kernel
//! can do), `runtime` (the executor). `unsafe` lives in `ring` and `buffer` only.
//! Knows nothing of Bolt beyond its first five bytes.

mod accept;
pub mod address;
pub mod buffer;
mod busy_poll;
pub mod conn;
pub mod detect;
pub mod driver;
pub mod heap;
pub mod http;
pub mod listener;
pub mod options;
mod pools;
pub mod proxy_protocol;
mod pump;
mod receive;
pub mod ring;
pub mod runtime;
pub mod selftest;
mod send;
mod socket;
mod state;
pub mod stream;
pub mod tls;
mod turn;
pub mod websocket;
pub mod wheel;

pub use ring::raise_open_files_limit;
pub use socket::Side;
