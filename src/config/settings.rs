//! The typed settings every layer is handed at start, with their defaults.
//!
//! A field has the name of its key in the file (`pool.size` is `Settings::pool.size`); its unit
//! is its type (`Duration`) or the first words of its documentation. Nothing here parses or
//! checks: a `Settings` that came out of `command::parse` has been checked already.

use crate::transport::proxy_protocol::Version as ProxyVersion;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::wire::version::Version;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number of shards, one CPU each. `None`: one per CPU the process may run on.
    pub shards: Option<usize>,
    /// Where clients are accepted. Never empty.
    pub listen: Vec<Listen>,
    /// The servers behind the proxy.
    pub uplink: Uplink,
    /// The operators' entrance.
    pub admin: Admin,
    /// How server connections are shared.
    pub pool: Pool,
    /// Bounds on what clients may make the process hold.
    pub limits: Limits,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// The ring, its buffers and its back-pressure.
    pub transport: Transport,
    /// What is written to standard error.
    pub log: Log,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shards: None,
            listen: vec![Listen::default()],
            uplink: Uplink::default(),
            admin: Admin::default(),
            pool: Pool::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            transport: Transport::default(),
            log: Log::default(),
        }
    }
}

/// One place where clients are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `localhost:8888`, where the Go bolt-proxy listens, so that it can be replaced in place.
    pub bind: Bind,
    /// Whether and how its clients encrypt.
    pub tls: ListenTls,
    /// Whether an IPv6 address takes IPv6 clients only. Off, as Linux has it.
    pub ipv6_only: bool,
    /// The rights of a Unix socket: owner and group by default.
    pub unix_mode: u32,
    /// The pages whose scripts may open a WebSocket. Empty: all, as Neo4j has it.
    pub websocket_origins: Vec<String>,
    /// Whether a PROXY header comes before everything else.
    pub proxy_protocol: bool,
    /// Who may send it.
    pub proxy_networks: Vec<IpNet>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            bind: Bind { host: BindHost::Name("localhost".into()), port: 8888 },
            tls: ListenTls::default(),
            ipv6_only: false,
            unix_mode: 0o660,
            websocket_origins: Vec::new(),
            proxy_protocol: false,
            proxy_networks: Vec::new(),
        }
    }
}

/// TLS of one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenTls {
    /// `None`: optional with a certificate, off without one, as in the Go bolt-proxy.
    pub mode: Option<TlsMode>,
    /// Certificate chains, each with the key at the same place in `keys`, or in its own file if
    /// there are no keys. The first is for who names no host that another one has.
    pub certificates: Vec<PathBuf>,
    /// Their keys.
    pub keys: Vec<PathBuf>,
    /// The authorities that clients' certificates come from. `None`: clients need none.
    pub client_ca: Option<PathBuf>,
    /// Who of those clients is let in. Empty: all.
    pub client_names: Vec<String>,
    /// The oldest version: 1.2, since older drivers know nothing newer.
    pub minimum: TlsVersion,
}

impl ListenTls {
    /// What `mode` comes to.
    pub fn effective_mode(&self) -> TlsMode {
        let with_certificate = |is_there: bool| match is_there {
            true => TlsMode::Optional,
            false => TlsMode::Off,
        };
        self.mode.unwrap_or(with_certificate(!self.certificates.is_empty()))
    }
}

/// Whether a listener's clients encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// None does.
    Off,
    /// Each as it likes, on one port.
    Optional,
    /// All do.
    Required,
}

/// A version of TLS that is believed safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// An address to listen on; names are resolved at start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bind {
    /// Which of this machine's addresses.
    pub host: BindHost,
    /// TCP port; 0 lets the system choose. 0 for a Unix socket.
    pub port: u16,
}

/// The host part of a `Bind`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BindHost {
    /// Every address of this machine, IPv4 and IPv6 (`:port` or `*:port`).
    Any,
    /// One address, written as a literal.
    Address(IpAddr),
    /// A name; every address it resolves to is bound.
    Name(String),
    /// A socket in the file system; it has no port.
    Unix(PathBuf),
}

/// How the servers' address is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `bolt://`: that one server.
    Bolt,
    /// `neo4j://`: a member to ask for the routing table.
    Neo4j,
}

/// Whether connections to servers are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// `bolt://` and `neo4j://`: not at all.
    #[default]
    Off,
    /// `+s`: for servers whose certificate is good for the name dialled.
    Verified,
    /// `+ssc`: whatever certificate they show.
    Unverified,
}

/// The servers behind the proxy, and the account that watches them.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// From `uplink.uri`, `bolt` by default as in the Go bolt-proxy.
    pub scheme: Scheme,
    /// From `uplink.uri`, off by default.
    pub encryption: Encryption,
    /// Whom to believe with `+s`. `None`: the authorities of the system.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show to servers that ask for one.
    pub client_cert: Option<PathBuf>,
    /// Its key. `None`: in the same file.
    pub client_key: Option<PathBuf>,
    /// The PROXY header that servers are sent first. `None`: none.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Name or address literal, IPv6 without brackets. From `uplink.uri`, default `localhost`.
    pub host: String,
    /// TCP port. From `uplink.uri`, default 7687, Bolt's registered port.
    pub port: u16,
    /// The monitor's user; `neo4j` is the first account of every server.
    pub user: String,
    /// The monitor's password. `None`: the monitor probes without logging in.
    pub password: Option<Secret>,
    /// Where `password` was read from, if not given itself.
    pub password_file: Option<PathBuf>,
    /// The Bolt versions clients are offered, the preferred one first; empty: all that the server
    /// speaks. Each version in use has connections of its own in the pool.
    pub versions: Vec<Version>,
    /// Whether the control core dials servers for itself (health, versions, topology).
    /// Without it only `pool.mode = "session"` works.
    pub monitor: bool,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            scheme: Scheme::Bolt,
            encryption: Encryption::Off,
            proxy_protocol: None,
            ca_file: None,
            client_cert: None,
            client_key: None,
            host: "localhost".into(),
            port: 7687,
            user: "neo4j".into(),
            password: None,
            password_file: None,
            versions: Vec::new(),
            monitor: true,
        }
    }
}

/// The operators' entrance: metrics and health over HTTP.
#[derive(Clone, Debug, Default)]
pub struct Admin {
    /// Where it listens. `None`: nowhere, because it asks for no password.
    pub bind: Option<Bind>,
}

/// What a client's lease lasts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// A server connection is lent per transaction.
    Transaction,
    /// A fresh server connection belongs to its client until either ends.
    Session,
}

/// How server connections are shared.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Lease per transaction by default: what a pooler is for.
    pub mode: PoolMode,
    /// Connections per server for the whole process: 64, well below the 400 threads for Bolt
    /// that a Neo4j server has by default, so that several proxies and direct clients fit.
    pub size: u32,
    /// How long a client may wait for a connection: 60 s, as in the official drivers.
    pub acquisition_timeout: Duration,
    /// How long a server's yes to some credentials answers further logins: 60 s, the longest a
    /// revoked password goes on working. Zero: always ask.
    pub approval_ttl: Duration,
    /// Age at which a connection is replaced: 50 min, below the drivers' hour and the usual
    /// hour of firewalls.
    pub max_lifetime: Duration,
    /// Percent by which each connection's `max_lifetime` is varied up or down: 10, so that
    /// connections opened together do not end together.
    pub max_lifetime_jitter: u32,
    /// Idle time after which a connection is closed: 10 min, so that a burst's are given back.
    pub idle_timeout: Duration,
    /// Idle time after which RESET proves a connection before it is lent: 5 min, since a
    /// firewall may have dropped it in silence.
    pub liveness_check: Duration,
    /// Whether LOGOFF and LOGON turn an idle connection over to another user when the pool is
    /// full. Off: servers older than Bolt 5.1 cannot do it.
    pub reauth: bool,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            size: 64,
            acquisition_timeout: Duration::from_secs(60),
            approval_ttl: Duration::from_secs(60),
            max_lifetime: Duration::from_secs(50 * 60),
            max_lifetime_jitter: 10,
            idle_timeout: Duration::from_secs(10 * 60),
            liveness_check: Duration::from_secs(5 * 60),
            reauth: false,
        }
    }
}

/// Bounds on what clients may make the process hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients of the whole process. `None`: what the open-files limit leaves after the pools.
    pub clients: Option<u32>,
    /// Bytes of a message before login: 8 KiB, the limit Neo4j 5.26 has for them.
    pub login_message: u32,
    /// Bytes held for one client that waits for a connection: 1 MiB, a large query with its
    /// parameters.
    pub held_bytes: u32,
    /// Bytes held for clients that wait or are slow, per shard: 64 MiB, 64 waiting clients at
    /// their limit. Above it the largest holder stops being read.
    pub heap_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { clients: None, login_message: 8 * KIB, held_bytes: MIB, heap_bytes: 64 * MIB }
    }
}

/// How long anything may take.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// From accept to the end of the Bolt handshake: 10 s, generous for a far client, short
    /// for a port scanner.
    pub first_bytes: Duration,
    /// From accept to the end of login, all steps together: 30 s, as Neo4j gives.
    pub login: Duration,
    /// For one dial to a server, name to handshake: 5 s.
    pub connect: Duration,
    /// For RESET to prove a connection READY: 5 s, then it is closed.
    pub reset: Duration,
    /// Without progress inside one message of a client that holds a connection: 30 s.
    pub message: Duration,
    /// Between requests inside a transaction. `None`: off, the server has its own limit.
    pub idle_in_transaction: Option<Duration>,
    /// For a whole transaction. `None`: off, as above.
    pub transaction: Option<Duration>,
    /// For a single query. `None`: off, long queries are legitimate.
    pub query: Option<Duration>,
    /// Without any request from a client. `None`: off, drivers keep idle connections.
    pub client_idle: Option<Duration>,
    /// Between Pings to a client behind WebSocket: 30 s, half of what proxies on the way usually
    /// give a silent connection. `None`: off.
    pub websocket_ping: Option<Duration>,
    /// For clients to finish after a signal: 30 s, the usual grace of supervisors.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            first_bytes: Duration::from_secs(10),
            login: Duration::from_secs(30),
            connect: Duration::from_secs(5),
            reset: Duration::from_secs(5),
            message: Duration::from_secs(30),
            idle_in_transaction: None,
            transaction: None,
            query: None,
            client_idle: None,
            websocket_ping: Some(Duration::from_secs(30)),
            drain: Duration::from_secs(30),
        }
    }
}

/// The ring, its buffers and its back-pressure; per shard.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Bytes one receive may take before its task must ask again: 256 KiB, as much as one
    /// connection forwards in a turn; with 64 KiB a large result costs half as much CPU time again
    /// (measured). Not asking is the back-pressure. A shard whose slow readers hold half of the
    /// buffers goes down to 64 KiB.
    pub credit: u32,
    /// Large buffers for clients' bytes: 512, a power of two; 8 MiB with the default size, beside
    /// 2 MiB of small ones. Requests that wait may keep three quarters of the small ones and a
    /// quarter of the large ones.
    pub buffers_client: u16,
    /// Buffers for servers' bytes: 512, apart from the clients', so that uploads never hold
    /// what answers need.
    pub buffers_server: u16,
    /// Bytes of one large buffer: 16 KiB, which takes nearly every message whole.
    pub buffer_size: u32,
    /// Whether one receive may fill several buffers: yes, a fifth less CPU time for large results
    /// (measured). Kernels from 6.10 to the fixes of mid-2025 can misplace data then, so it takes
    /// effect only where receives can be limited, which came after the fixes (Linux 6.17), and
    /// where a test at start finds every byte in its place.
    pub bundles: bool,
    /// How long a shard looks for messages before it sleeps: not at all, since that trades CPU time
    /// for latency.
    pub busy_poll: Duration,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            credit: 256 * KIB,
            buffers_client: 512,
            buffers_server: 512,
            buffer_size: 16 * KIB,
            bundles: true,
            busy_poll: Duration::ZERO,
        }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What needs an operator.
    Error,
    /// What an operator should know of.
    Warn,
    /// Start, stop, and changes of the servers' state.
    Info,
    /// Each client's beginning and end, and dials to the server that failed.
    Debug,
    /// The same: no message is told of, be it by its tag alone.
    Trace,
}

/// What is written to standard error.
#[derive(Clone, Debug)]
pub struct Log {
    /// `info` by default: quiet while nothing changes.
    pub level: LogLevel,
    /// The Go bolt-proxy's switch: raises `level` to at least `debug`.
    pub debug: bool,
}

impl Log {
    /// The level after the `debug` switch.
    pub fn effective_level(&self) -> LogLevel {
        if self.debug { self.level.max(LogLevel::Debug) } else { self.level }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, debug: false }
    }
}

/// A text that is never printed and is wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for the login message and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<secret>")
    }
}
