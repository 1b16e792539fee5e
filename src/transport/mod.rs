//! Bytes in and out of sockets.
pub mod buffer;
pub mod conn;
pub mod ring;
pub mod selftest;
pub mod driver;
mod socket;
mod state;
pub mod wheel;
