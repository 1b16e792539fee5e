//! The table of all keys. The parser, `boltmux check` and the documentation read it, so that a
//! key cannot exist for one of them only.

#[macro_use]
mod macros;

mod forms;
mod kind;

pub use forms::{parse_secret, reset_listeners, set_one};
pub use kind::Kind;

use crate::transport::proxy_protocol::Version as ProxyVersion;
use ipnet::IpNet;
use std::fmt::Write;

use crate::config::keys::forms::*;
use crate::config::settings::{LogLevel, PoolMode, Settings, TlsMode, TlsVersion};
use crate::config::values::{
    AUTO, UplinkAddress, parse_busy_poll, parse_duration, parse_duration_optional,
    parse_duration_positive, parse_number, parse_percent, parse_size, parse_switch, parse_uri,
    parse_versions, parse_word, show_bind, show_busy_poll, show_duration, show_duration_optional,
    show_size, show_uri, show_versions,
};

/// More connections to one server than one address has ports for cannot be opened.
const POOL_SIZE_MAX: u32 = 65_535;
/// A page: the smallest memory the kernel hands out.
const PAGE: u32 = 4096;
const MIB: u32 = 1 << 20;
/// The largest size a `u32` of whole MiB holds.
const BYTES_MAX: u32 = 4095 * MIB;

const MODES: [(&str, PoolMode); 2] =
    [("transaction", PoolMode::Transaction), ("session", PoolMode::Session)];
const TLS_MODES: [(&str, TlsMode); 3] =
    [("off", TlsMode::Off), ("optional", TlsMode::Optional), ("required", TlsMode::Required)];
const TLS_VERSIONS: [(&str, TlsVersion); 2] =
    [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
const PROXY_MODES: [(&str, bool); 2] = [("off", false), ("required", true)];
const PROXY_VERSIONS: [(&str, Option<ProxyVersion>); 3] =
    [("off", None), ("v1", Some(ProxyVersion::One)), ("v2", Some(ProxyVersion::Two))];
const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// One key of the configuration.
pub struct Key {
    /// `section.key`, or `key` at the top level.
    pub name: &'static str,
    /// What its text looks like.
    pub kind: Kind,
    /// One line for operators.
    pub meaning: &'static str,
    /// Reads a text into the settings.
    pub set: fn(&mut Settings, &str) -> Result<(), String>,
    /// Prints the settings' value so that `set` reads it back; secrets are never printed.
    pub show: fn(&Settings) -> String,
}

impl Key {
    /// The section, empty at the top level.
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(section, _)| section)
    }

    /// Whether the file may hold its section several times (`[[listen]]`).
    pub fn is_repeatable(&self) -> bool {
        self.section() == "listen"
    }

    /// The environment variable of this key.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.replace('.', "__").to_ascii_uppercase())
    }
}

/// What the environment's form of a key begins with. Two underscores: an orchestrator that runs
/// a service called boltmux sets `BOLTMUX_PORT` and the like by itself.
pub const VARIABLE_PREFIX: &str = "BOLTMUX__";

/// Every key there is, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key!(
        "shards",
        Number,
        shards,
        parse_shards,
        show_shards,
        "CPU cores to use, one shard each, at most 64; auto: all the process may run on"
    ),
    Key {
        name: "listen.bind",
        kind: Kind::Bind,
        meaning: "where clients are accepted: host:port, [IPv6]:port, :port for all addresses, \
                  unix:/path",
        set: set_listen,
        show: |settings| {
            let binds: Vec<String> =
                settings.listen.iter().map(|listen| show_bind(&listen.bind)).collect();
            binds.join(",")
        },
    },
    listener!(
        "listen.tls",
        Word,
        tls.mode,
        parse_tls_mode,
        |it: &Option<_>| it.map_or_else(|| AUTO.into(), |mode| show_word(mode, &TLS_MODES)),
        "off, optional (TLS and plain on one port) or required; auto: optional with a certificate"
    ),
    listener!(
        "listen.cert",
        Files,
        tls.certificates,
        parse_files,
        show_files,
        "certificate chains in PEM form; who names a host gets the one that has it, else the first"
    ),
    listener!(
        "listen.key",
        Files,
        tls.keys,
        parse_files,
        show_files,
        "their keys, in the same order; none: each key stands in its certificate's file"
    ),
    listener!(
        "listen.client_ca",
        File,
        tls.client_ca,
        parse_file,
        show_file,
        "authorities of clients' certificates; with it every client must show one"
    ),
    listener!(
        "listen.client_names",
        List,
        tls.client_names,
        parse_list,
        |it: &Vec<String>| it.join(","),
        "names of clients that are let in, of the certificate's alternative names or its common \
         name; none: all"
    ),
    listener!(
        "listen.tls_minimum",
        Word,
        tls.minimum,
        |text| parse_word(text, &TLS_VERSIONS),
        |it: &_| show_word(*it, &TLS_VERSIONS),
        "oldest TLS version that clients may speak: 1.2 or 1.3"
    ),
    listener!(
        "listen.ipv6_only",
        Switch,
        ipv6_only,
        parse_switch,
        bool::to_string,
        "whether an IPv6 address takes IPv6 clients only"
    ),
    listener!(
        "listen.unix_mode",
        Text,
        unix_mode,
        parse_rights,
        show_rights,
        "who may connect to a Unix socket, as chmod says it"
    ),
    listener!(
        "listen.websocket_origins",
        List,
        websocket_origins,
        parse_origins,
        |it: &Vec<String>| it.join(","),
        "pages whose scripts may open a WebSocket, such as https://browser.example; none: all"
    ),
    listener!(
        "listen.proxy_protocol",
        Word,
        proxy_protocol,
        |text| parse_word(text, &PROXY_MODES),
        |it: &_| show_word(*it, &PROXY_MODES),
        "off, or required: a PROXY header, version 1 or 2, comes before everything else"
    ),
    listener!(
        "listen.proxy_networks",
        List,
        proxy_networks,
        parse_networks,
        |it: &Vec<IpNet>| show_networks(it),
        "networks of the balancers that send it, such as 10.0.0.0/8; others are closed"
    ),
    Key {
        name: "uplink.uri",
        kind: Kind::Uri,
        meaning: "the servers: bolt:// for that one server, neo4j:// for a cluster's member; +s \
                  behind the scheme for TLS, +ssc for TLS with any certificate",
        set: |settings, text| {
            let address = parse_uri(text)?;
            settings.uplink.scheme = address.scheme;
            settings.uplink.encryption = address.encryption;
            settings.uplink.host = address.host;
            settings.uplink.port = address.port;
            Ok(())
        },
        show: |settings| {
            let uplink = &settings.uplink;
            show_uri(&UplinkAddress {
                scheme: uplink.scheme,
                encryption: uplink.encryption,
                host: uplink.host.clone(),
                port: uplink.port,
            })
        },
    },
    key!(
        "uplink.ca_file",
        File,
        uplink.ca_file,
        parse_file,
        show_file,
        "authorities of servers' certificates, for +s; none: those of the system"
    ),
    key!(
        "uplink.client_cert",
        File,
        uplink.client_cert,
        parse_file,
        show_file,
        "certificate chain shown to servers that ask for one"
    ),
    key!(
        "uplink.client_key",
        File,
        uplink.client_key,
        parse_file,
        show_file,
        "its key; none: it stands in the same file"
    ),
    key!("uplink.user", Text, uplink.user, parse_text, String::clone, "the monitor's user"),
    key!(
        "uplink.password",
        Secret,
        uplink.password,
        parse_secret,
        show_secret,
        "the monitor's password; better in the environment or the file than on the command line"
    ),
    key!(
        "uplink.password_file",
        File,
        uplink.password_file,
        parse_file,
        show_file,
        "file with the monitor's password, in place of uplink.password"
    ),
    key!(
        "uplink.versions",
        Versions,
        uplink.versions,
        parse_versions,
        |it: &Vec<_>| show_versions(it),
        "Bolt versions offered to clients, preferred first: 5.8, 5.4; auto: all the server speaks"
    ),
    key!(
        "uplink.proxy_protocol",
        Word,
        uplink.proxy_protocol,
        |text| parse_word(text, &PROXY_VERSIONS),
        |it: &_| show_word(*it, &PROXY_VERSIONS),
        "PROXY header to servers, which must expect it: off, v1 or v2"
    ),
    switch!(
        "uplink.monitor",
        uplink.monitor,
        "whether servers are watched; false needs pool.mode = \"session\""
    ),
    key!(
        "admin.bind",
        Bind,
        admin.bind,
        parse_admin,
        show_admin,
        "where metrics and health are served; off: nowhere"
    ),
    key!(
        "pool.mode",
        Word,
        pool.mode,
        |text| parse_word(text, &MODES),
        |it: &_| show_word(*it, &MODES),
        "what a server connection is lent for: transaction or session"
    ),
    key!(
        "pool.size",
        Number,
        pool.size,
        |text| parse_number(text, 1, POOL_SIZE_MAX),
        u32::to_string,
        "connections per server, for the whole process"
    ),
    duration!(
        "pool.acquisition_timeout",
        pool.acquisition_timeout,
        "how long a client waits for a connection before it is told to retry"
    ),
    key!(
        "pool.approval_ttl",
        Duration,
        pool.approval_ttl,
        parse_duration,
        |it: &_| show_duration(*it),
        "how long accepted credentials are believed without asking a server; 0: always ask"
    ),
    duration!(
        "pool.max_lifetime",
        pool.max_lifetime,
        "age at which a server connection is replaced"
    ),
    key!(
        "pool.max_lifetime_jitter",
        Percent,
        pool.max_lifetime_jitter,
        |text| parse_percent(text, 50),
        |it: &u32| format!("{it}%"),
        "how far each connection's lifetime strays, up and down"
    ),
    duration!(
        "pool.idle_timeout",
        pool.idle_timeout,
        "idle time after which a server connection is closed"
    ),
    duration!(
        "pool.liveness_check",
        pool.liveness_check,
        "idle time after which a server connection is proven by RESET before use"
    ),
    switch!(
        "pool.reauth",
        pool.reauth,
        "whether an idle connection may be logged on again for another user (Bolt 5.1)"
    ),
    key!(
        "limits.clients",
        Number,
        limits.clients,
        parse_clients,
        show_clients,
        "clients at a time; auto, and at most: what the open-files limit leaves"
    ),
    size!("limits.login_message", limits.login_message, 512, MIB, "largest message before login"),
    size!(
        "limits.held_bytes",
        limits.held_bytes,
        64 << 10,
        1 << 30,
        "bytes held for a client that waits for a connection"
    ),
    size!(
        "limits.heap_bytes",
        limits.heap_bytes,
        MIB,
        BYTES_MAX,
        "bytes held for clients that wait or are slow, per shard"
    ),
    duration!(
        "timeouts.first_bytes",
        timeouts.first_bytes,
        "from accept to the end of the handshake"
    ),
    duration!("timeouts.login", timeouts.login, "from accept to the end of login"),
    duration!("timeouts.connect", timeouts.connect, "for one dial to a server"),
    duration!("timeouts.reset", timeouts.reset, "for RESET to prove a server connection"),
    duration!(
        "timeouts.message",
        timeouts.message,
        "without progress inside a message of a client that holds a connection"
    ),
    optional_duration!(
        "timeouts.idle_in_transaction",
        timeouts.idle_in_transaction,
        "without a request inside a transaction"
    ),
    optional_duration!("timeouts.transaction", timeouts.transaction, "for a whole transaction"),
    optional_duration!("timeouts.query", timeouts.query, "for one query"),
    optional_duration!(
        "timeouts.client_idle",
        timeouts.client_idle,
        "without a request outside a transaction"
    ),
    optional_duration!(
        "timeouts.websocket_ping",
        timeouts.websocket_ping,
        "between Pings to a client behind WebSocket"
    ),
    duration!("timeouts.drain", timeouts.drain, "for clients to finish after SIGTERM"),
    size!(
        "transport.credit",
        transport.credit,
        PAGE,
        16 * MIB,
        "bytes read from a connection ahead of what is passed on"
    ),
    key!(
        "transport.buffers_client",
        Number,
        transport.buffers_client,
        parse_buffers,
        u16::to_string,
        "large receive buffers for clients, per shard; a power of two; four of 1KiB with each"
    ),
    key!(
        "transport.buffers_server",
        Number,
        transport.buffers_server,
        parse_buffers,
        u16::to_string,
        "large receive buffers for servers, per shard; a power of two; four of 1KiB with each"
    ),
    size!("transport.buffer_size", transport.buffer_size, PAGE, MIB, "bytes of one large buffer"),
    switch!(
        "transport.bundles",
        transport.bundles,
        "whether one receive may fill several buffers, where the kernel does that right"
    ),
    key!(
        "transport.busy_poll",
        Duration,
        transport.busy_poll,
        parse_busy_poll,
        |it: &_| show_busy_poll(*it),
        "how long a shard looks for messages before it sleeps, at most 1ms; 0: not at all"
    ),
    key!(
        "log.level",
        Word,
        log.level,
        |text| parse_word(text, &LEVELS),
        |it: &_| show_word(*it, &LEVELS),
        "error, warn, info, debug (each client's beginning and end) or trace (the same)"
    ),
    switch!("log.debug", log.debug, "raises the level to debug"),
];

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether some key lies in a section of this name.
pub fn is_section(name: &str) -> bool {
    !name.is_empty() && KEYS.iter().any(|key| key.section() == name)
}

/// The table for the documentation.
pub fn keys_markdown() -> String {
    let defaults = Settings::default();
    let mut table = String::from("| key | type | default | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let (name, kind, meaning) = (key.name, key.kind.name(), key.meaning);
        let default = match (key.show)(&defaults) {
            shown if shown.is_empty() => "none".into(),
            shown => format!("`{shown}`"),
        };
        writeln!(table, "| `{name}` | {kind} | {default} | {meaning} |")
            .expect("writing to a String cannot fail");
    }
    table
}
