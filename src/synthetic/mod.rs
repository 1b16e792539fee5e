//! A Bolt server in the process: for the demo, the benchmarks and the tests.
//!
//! It answers canned results, behaves like Neo4j 5.26 towards states, RESET and failures, and
//! misbehaves on command. It keeps no data: a ledger says what was executed for whom.
//!
//! ```text
//! server.rs       threads, start, stop and restart, one task per connection: the shell
//! acceptor.rs     the thread that accepts
//! machine.rs      one connection: bytes and the time in, bytes out; pure
//! machine/requests.rs   what each legal request does
//! transaction.rs  one transaction's results, and how they end
//! login.rs        the maps in HELLO, LOGON, RUN, BEGIN, PULL and ROUTE
//! query.rs        what a query text asks for
//! answers.rs      the messages it sends
//! codec.rs        PackStream and chunks, independent of the proxy's
//! faults.rs       misbehaviour by rule
//! ledger.rs       what was executed, and how it ended
//! world.rs        what the connections of one thread share
//! ```
//!
//! It is never in the way of a relayed byte, and nothing above it in the layers uses it.
#![allow(
    clippy::disallowed_types,
    reason = "the test server's ledger and options are shared by threads; the proxy is not"
)]

mod acceptor;
mod answers;
mod codec;
pub mod faults;
pub mod ledger;
mod login;
mod machine;
pub mod query;
mod server;
mod transaction;
pub mod world;

pub use faults::{Act, Faults, Rule};
pub use ledger::{Entry, Outcome};
pub use query::{Misdeed, Moment};
pub use server::Server;
pub use world::Stats;

use crate::wire::version::Version;
use rustls::ServerConfig;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// How a server is to be started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 takes a free one; [`Server::address`] tells which.
    pub listen: SocketAddr,
    /// Threads that serve connections, at least one.
    pub threads: usize,
    /// The CPUs the threads are pinned to, in turn; `None` leaves them free.
    pub cpus: Option<Vec<usize>>,
    /// The versions it speaks.
    pub versions: Vec<Version>,
    /// Whether it answers a proposal of the manifest.
    pub manifest: bool,
    /// Whether it agrees to `patch_bolt`; the first releases of Neo4j 4.3 and 4.4 did not.
    pub utc_patch: bool,
    /// Names and passwords that may log in.
    pub users: Vec<(String, String)>,
    /// What else may log in.
    pub logins: Vec<Login>,
    /// Users who are let in, but may only change their passwords: nothing else is executed.
    pub expired: Vec<String>,
    /// What HELLO's answer calls it.
    pub agent: String,
    /// The hint `connection.recv_timeout_seconds`, if any.
    pub recv_timeout_seconds: Option<u64>,
    /// Transactions that may be open at once; above that a request is answered
    /// `NoThreadsAvailable` and its connection closed.
    pub worker_limit: Option<usize>,
    /// The name that clients without a database get.
    pub home_database: String,
    /// What ROUTE answers; `None` echoes the client's address in all three roles.
    pub table: Option<Table>,
    /// Whether writes are refused with `NotALeader`.
    pub is_follower: bool,
    /// Executions the ledger keeps, all threads together; 0 turns it off.
    pub ledger_entries_max: usize,
    pub faults: Faults,
    /// With it every connection is encrypted.
    pub tls: Option<Arc<ServerConfig>>,
}

/// What Neo4j 5.26 speaks.
const VERSIONS: &[Version] = {
    // 5.26 has all of 4.x and 5.x, neither 3 nor 6.
    let (_, from_4_0) = Version::ALL.split_at(1);
    from_4_0.split_at(from_4_0.len() - 2).0
};

/// A login that is not a name and a password alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    pub scheme: String,
    pub principal: Option<String>,
    pub credentials: Option<String>,
    pub realm: Option<String>,
    /// Who that is.
    pub user: String,
}

/// A routing table: the addresses of each role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub routers: Vec<String>,
    pub readers: Vec<String>,
    pub writers: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            threads: 1,
            cpus: None,
            versions: VERSIONS.to_vec(),
            manifest: true,
            utc_patch: true,
            users: vec![("neo4j".into(), "test-password".into())],
            logins: Vec::new(),
            expired: Vec::new(),
            agent: "Neo4j/5.26.0".into(),
            recv_timeout_seconds: None,
            worker_limit: None,
            home_database: "neo4j".into(),
            table: None,
            is_follower: false,
            // 2^20 entries are about 200 MiB if all are as long as they may be.
            ledger_entries_max: 1 << 20,
            faults: Faults::default(),
            tls: None,
        }
    }
}
