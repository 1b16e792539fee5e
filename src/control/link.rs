//! What travels between the control core and one shard: values over two bounded, wait-free rings, and a wake.

use crate::backend::KnownServer;
use crate::counters::ShardCounters;
use std::net::SocketAddr;
use std::sync::Arc;

/// Orders or reports that may be under way at once; more means that the other side is stuck, and they are dropped.
pub const LINK_SLOTS: usize = 16;

/// From the control core to a shard.
#[derive(Clone, Debug)]
pub enum Order {
    /// Where the server is and what is known of it. `known` is `None` while it has not been reached.
    Server(Arc<Snapshot>),
    /// Send a `ShardCounters`.
    Report,
    /// Accept nobody more; finish what is open; then end.
    Drain,
}

/// The server as the control core sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub addresses: Vec<SocketAddr>,
    pub known: Option<KnownServer>,
    /// Whether the last probe succeeded.
    pub is_reachable: bool,
    /// What the last probe said, if it failed.
    pub trouble: String,
}

/// The control core's end.
pub struct ShardLink {
    pub orders: rtrb::Producer<Order>,
    pub reports: rtrb::Consumer<Box<ShardCounters>>,
    pub wake: crate::transport::driver::DriverHandle,
}

/// The shard's end.
pub struct ControlLink {
    pub orders: rtrb::Consumer<Order>,
    pub reports: rtrb::Producer<Box<ShardCounters>>,
}
