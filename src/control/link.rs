//! What travels between the control core and one shard: values over two bounded, wait-free rings,
//! and a wake.

use crate::backend::KnownServer;
use crate::control::certificates::Encryption;
use crate::counters::ShardCounters;
use std::net::SocketAddr;
use std::sync::Arc;

/// Orders or reports that may be under way at once; more means that the other side is stuck. A
/// report is then dropped; an order waits with the control core.
pub const LINK_SLOTS: usize = 16;

/// From the control core to a shard.
#[derive(Clone, Debug)]
pub enum Order {
    /// Where the server is and what is known of it. `known` is `None` while it has not been
    /// reached.
    Server(Arc<Snapshot>),
    /// Certificates have changed: what new connections are encrypted with.
    Encrypt(Arc<Encryption>),
    /// A permit came free, and the shard owns it now: `Permits::release` named this shard.
    Permit,
    /// Send a `ShardCounters`.
    Report,
    /// Accept nobody more; finish what is open; then end.
    Drain,
}

/// The server as the control core sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All addresses of the server's name, the one that answered last first.
    pub addresses: Vec<SocketAddr>,
    /// What was learned last; kept while the server cannot be reached.
    pub known: Option<KnownServer>,
    /// Whether the last probe succeeded. Without a monitor: whether the name has an address.
    pub is_reachable: bool,
    /// What the last probe said, if it failed.
    pub trouble: String,
}

/// How the control core wakes a shard after it has sent an order; callable from its thread.
pub type Wake = Box<dyn Fn() + Send>;

/// The control core's end. The shard's thread has ended when its rings are abandoned.
pub struct ShardLink {
    pub orders: rtrb::Producer<Order>,
    pub reports: rtrb::Consumer<Box<ShardCounters>>,
    pub wake: Wake,
}

/// The shard's end.
pub struct ControlLink {
    pub orders: rtrb::Consumer<Order>,
    pub reports: rtrb::Producer<Box<ShardCounters>>,
}

/// Both ends of one shard's link; `wake` is made of its `DriverHandle`.
pub fn link(wake: Wake) -> (ShardLink, ControlLink) {
    let (order_sender, order_receiver) = rtrb::RingBuffer::new(LINK_SLOTS);
    let (report_sender, report_receiver) = rtrb::RingBuffer::new(LINK_SLOTS);
    let shard_link = ShardLink { orders: order_sender, reports: report_receiver, wake };
    (shard_link, ControlLink { orders: order_receiver, reports: report_sender })
}
