//! What one shard counts: plain integers of its own, copied out when somebody asks. No atomics.

/// Labels of one counter family are indices into a closed list that the family's layer owns.
pub type Tally<const N: usize> = [u64; N];

/// The latest counts of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardCounters {
    /// Clients accepted since start.
    pub accepted: u64,
    /// Clients connected now: before the end of login, and serving.
    pub clients_logging_in: u64,
    pub clients_serving: u64,
    /// Clients whose handshake has come, by `Layers`: connected now, and since start.
    pub clients_by_layers: Tally<4>,
    pub entered: Tally<4>,
    /// Clients that wait for a server connection now.
    pub clients_waiting: u64,
    /// Closed clients by `CloseReason`.
    pub closed: Tally<24>,
    /// Server connections not kept, by `Discard`.
    pub discarded: Tally<15>,
    /// Server connections of this shard now: leased, idle, and in between (dialled, cleaned,
    /// closing, lent).
    pub servers_leased: u64,
    pub servers_idle: u64,
    pub servers_busy: u64,
    /// Server connections since start.
    pub servers_opened: u64,
    pub servers_closed: u64,
    pub servers_turned_over: u64,
    pub servers_borrowed: u64,
    pub servers_lent: u64,
    /// Leases since start.
    pub leases_acquired: u64,
    pub leases_returned: u64,
    pub leases_waited: u64,
    pub dial_failures: u64,
    pub double_returns: u64,
    /// FAILUREs that the proxy itself made.
    pub failures_made: u64,
    /// Bytes sent straight out of the buffers they came in.
    pub relayed_bytes: u64,
    /// Bytes copied in user space on their way.
    pub copied_bytes: u64,
    /// Bytes on the budget of `limits.heap_bytes` now.
    pub heap_bytes: u64,
    /// Receive buffers in which requests wait now.
    pub buffers_kept: u64,
    pub accept_pauses: u64,
    pub over_budget: u64,
    pub enters: u64,
    /// Pauses that ended while a shard still looked for messages.
    pub pauses_caught: u64,
    /// TLS handshakes with clients and with servers: full, resumed, failed.
    pub tls_handshakes: [Tally<3>; 2],
}
