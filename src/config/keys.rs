//! The table of all keys. The parser, `boltmux check` and the documentation read it, so that a
//! key cannot exist for one of them only.

use std::fmt::Write;

use crate::config::settings::{Listen, LogLevel, PoolMode, Secret, Settings};
use crate::config::values::{
    AUTO, OFF, parse_bind, parse_duration, parse_duration_optional, parse_duration_positive,
    parse_number, parse_percent, parse_size, parse_switch, parse_uri, parse_versions, parse_word,
    show_bind, show_duration, show_duration_optional, show_size, show_uri, show_versions,
};

/// glommio and `sched_getaffinity` count CPUs up to here (Linux, `CPU_SETSIZE`).
const SHARDS_MAX: u32 = 1024;
/// More connections to one server than one address has ports for cannot be opened.
const POOL_SIZE_MAX: u32 = 65_535;
/// A longer user name or password is a file given by mistake.
const TEXT_BYTES_MAX: usize = 4096;
/// A page: the smallest memory the kernel hands out.
const PAGE: u32 = 4096;
const MIB: u32 = 1 << 20;
/// The largest size a `u32` of whole MiB holds.
const BYTES_MAX: u32 = 4095 * MIB;
/// Listening sockets per shard; each costs a descriptor and a ring entry.
const LISTEN_MAX: usize = 16;

const MODES: [(&str, PoolMode); 2] =
    [("transaction", PoolMode::Transaction), ("session", PoolMode::Session)];
const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// What a key's text looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `host:port`; several, separated by commas, where the section may be repeated.
    Bind,
    /// `bolt://host:port`.
    Uri,
    /// Any text.
    Text,
    /// Any text; never printed.
    Secret,
    /// `5s`.
    Duration,
    /// `5s` or `off`.
    OptionalDuration,
    /// `64KiB`.
    Size,
    /// `64`.
    Number,
    /// `10%`.
    Percent,
    /// `true` or `false`.
    Switch,
    /// One of a few words.
    Word,
    /// `5.8, 5.4`.
    Versions,
}

impl Kind {
    /// For the table's type column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "address",
            Self::Uri => "URI",
            Self::Text => "text",
            Self::Secret => "secret",
            Self::Duration => "duration",
            Self::OptionalDuration => "duration or off",
            Self::Size => "size",
            Self::Number => "number",
            Self::Percent => "share",
            Self::Switch => "true or false",
            Self::Word => "word",
            Self::Versions => "versions",
        }
    }

    /// Whether a file must put the value in quotes: an unquoted one would have lost its form.
    pub fn needs_quotes(self) -> bool {
        !matches!(self, Self::Number | Self::Switch | Self::Duration | Self::OptionalDuration)
    }
}

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

/// A key whose field holds a value of one of the kinds with a parser and a printer.
macro_rules! key {
    ($name:literal, $kind:ident, $($field:ident).+, $parse:expr, $show:expr, $meaning:literal) => {
        Key {
            name: $name,
            kind: Kind::$kind,
            meaning: $meaning,
            set: |settings, text| {
                settings.$($field).+ = $parse(text)?;
                Ok(())
            },
            show: |settings| $show(&settings.$($field).+),
        }
    };
}

/// A duration above zero.
macro_rules! duration {
    ($name:literal, $($field:ident).+, $meaning:literal) => {
        key!($name, Duration, $($field).+, parse_duration_positive, |it: &_| show_duration(*it),
             $meaning)
    };
}

/// A duration that may be off.
macro_rules! optional_duration {
    ($name:literal, $($field:ident).+, $meaning:literal) => {
        key!($name, OptionalDuration, $($field).+, parse_duration_optional,
             |it: &_| show_duration_optional(*it), $meaning)
    };
}

/// A size within bounds.
macro_rules! size {
    ($name:literal, $($field:ident).+, $minimum:expr, $maximum:expr, $meaning:literal) => {
        key!($name, Size, $($field).+, |text| parse_size(text, $minimum, $maximum),
             |it: &u32| show_size(*it), $meaning)
    };
}

/// A plain `true` or `false`.
macro_rules! switch {
    ($name:literal, $($field:ident).+, $meaning:literal) => {
        key!($name, Switch, $($field).+, parse_switch, bool::to_string, $meaning)
    };
}

/// Every key there is, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key!(
        "shards",
        Number,
        shards,
        parse_shards,
        show_shards,
        "CPU cores to use, one shard each; auto: all the process may run on"
    ),
    Key {
        name: "listen.bind",
        kind: Kind::Bind,
        meaning: "where clients are accepted: host:port, [IPv6]:port, or :port for all addresses",
        set: set_listen,
        show: |settings| {
            let binds: Vec<String> =
                settings.listen.iter().map(|listen| show_bind(&listen.bind)).collect();
            binds.join(",")
        },
    },
    Key {
        name: "uplink.uri",
        kind: Kind::Uri,
        meaning: "the servers: bolt:// for that one server, neo4j:// for a cluster's member",
        set: |settings, text| {
            let address = parse_uri(text)?;
            settings.uplink.scheme = address.scheme;
            settings.uplink.host = address.host;
            settings.uplink.port = address.port;
            Ok(())
        },
        show: |settings| {
            show_uri(settings.uplink.scheme, &settings.uplink.host, settings.uplink.port)
        },
    },
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
        "uplink.versions",
        Versions,
        uplink.versions,
        parse_versions,
        |it: &Vec<_>| show_versions(it),
        "Bolt versions offered to clients, preferred first: 5.8, 5.4; auto: all the server speaks"
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
        "where metrics and orders are served; off: nowhere"
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
        "clients at a time; auto: from the open-files limit"
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
        "bytes held outside the ring's buffers, per shard"
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
        "receive buffers for clients, per shard; a power of two"
    ),
    key!(
        "transport.buffers_server",
        Number,
        transport.buffers_server,
        parse_buffers,
        u16::to_string,
        "receive buffers for servers, per shard; a power of two"
    ),
    size!("transport.buffer_size", transport.buffer_size, PAGE, MIB, "bytes of one receive buffer"),
    switch!(
        "transport.bundles",
        transport.bundles,
        "whether one receive may fill several buffers, where the kernel does that right"
    ),
    key!(
        "log.level",
        Word,
        log.level,
        |text| parse_word(text, &LEVELS),
        |it: &_| show_word(*it, &LEVELS),
        "error, warn, info, debug or trace"
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

/// Replaces all listeners by those named, separated by commas.
fn set_listen(settings: &mut Settings, text: &str) -> Result<(), String> {
    let binds = text.split(',').map(|part| parse_bind(part).map(|bind| Listen { bind }));
    let listen: Vec<Listen> = binds.collect::<Result<_, _>>()?;
    if listen.len() > LISTEN_MAX {
        return Err(format!("expected at most {LISTEN_MAX} addresses, not {}", listen.len()));
    }
    settings.listen = listen;
    Ok(())
}

fn parse_shards(text: &str) -> Result<Option<usize>, String> {
    if text.trim() == AUTO {
        return Ok(None);
    }
    let shards = parse_number(text, 1, SHARDS_MAX).map_err(|error| or_word(&error, AUTO))?;
    Ok(usize::try_from(shards).ok())
}

fn show_shards(shards: &Option<usize>) -> String {
    shards.map_or_else(|| AUTO.into(), |shards| shards.to_string())
}

fn parse_clients(text: &str) -> Result<Option<u32>, String> {
    if text.trim() == AUTO {
        return Ok(None);
    }
    parse_number(text, 1, u32::MAX).map(Some).map_err(|error| or_word(&error, AUTO))
}

fn show_clients(clients: &Option<u32>) -> String {
    clients.map_or_else(|| AUTO.into(), |clients| clients.to_string())
}

fn parse_admin(text: &str) -> Result<Option<crate::config::Bind>, String> {
    if text.trim() == OFF {
        return Ok(None);
    }
    parse_bind(text).map(Some).map_err(|error| or_word(&error, OFF))
}

fn show_admin(bind: &Option<crate::config::Bind>) -> String {
    bind.as_ref().map_or_else(|| OFF.into(), show_bind)
}

fn parse_text(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return Err(format!("expected 1 to {TEXT_BYTES_MAX} bytes of text, not {}", text.len()));
    }
    Ok(text.into())
}

/// An empty one is none, so that a variable that is set to nothing means nothing.
fn parse_secret(text: &str) -> Result<Option<Secret>, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("expected at most {TEXT_BYTES_MAX} bytes, not {}", text.len()));
    }
    Ok((!text.is_empty()).then(|| Secret::new(text.into())))
}

fn show_secret(secret: &Option<Secret>) -> String {
    if secret.is_some() { "<secret>".into() } else { String::new() }
}

/// The kernel's rings of buffers are powers of two, at most 2^15 (`io_uring_buf_reg`).
fn parse_buffers(text: &str) -> Result<u16, String> {
    let number = text.trim().parse::<u16>().ok();
    number
        .filter(|number| number.is_power_of_two() && (16..=1 << 15).contains(number))
        .ok_or_else(|| format!("expected a power of two from 16 to 32768, not {text:?}"))
}

fn show_word<T: PartialEq>(value: T, words: &[(&str, T)]) -> String {
    let found = words.iter().find(|(_, known)| *known == value);
    found.map_or_else(String::new, |(word, _)| (*word).into())
}

fn or_word(error: &str, word: &str) -> String {
    format!("{error} (or {word:?})")
}
