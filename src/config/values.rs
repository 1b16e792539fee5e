//! Single values as text: durations, sizes, numbers, addresses; both ways.
//!
//! Each `parse_*` says in its error what was expected and what came. Each `show_*` prints a
//! text that its `parse_*` reads back to the same value.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::config::settings::{Bind, BindHost, Encryption, Scheme};
use crate::wire::version::Version;

/// What an address in the file system begins with.
const UNIX: &str = "unix:";
/// What fits into a socket's address with the zero behind it (Linux, `sockaddr_un`).
const UNIX_PATH_BYTES_MAX: usize = 107;
/// A year: longer than any connection lives, short enough that sums of deadlines never overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Milliseconds of each unit, largest first, so that `show_duration` finds the shortest text.
const DURATION_UNITS: [(&str, u64); 4] =
    [("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];

/// Bytes of each unit, largest first.
const SIZE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A tick of the busy shard is five times as long: its deadlines and channels are not delayed.
pub const BUSY_POLL_MAX: Duration = Duration::from_millis(1);

/// The word for "found out by itself".
pub const AUTO: &str = "auto";

/// The word that turns an optional value off.
pub const OFF: &str = "off";

/// Reads a duration with its unit: `250ms`, `5s`, `50min`, `1h`; zero needs none.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("expected a duration with a unit such as 250ms, 5s, 50min or 1h, not {text:?}");
    let duration_ms = match parse_with_unit(text, &DURATION_UNITS) {
        Some(duration_ms) => duration_ms,
        None if text.trim() == "0" => 0,
        None => return Err(wrong()),
    };
    let duration = Duration::from_millis(duration_ms);
    if duration > DURATION_MAX {
        return Err(format!("expected at most {}, not {text:?}", show_duration(DURATION_MAX)));
    }
    Ok(duration)
}

/// As `parse_duration`, but zero is refused: nothing could ever be done in time.
pub fn parse_duration_positive(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.is_zero() {
        return Err(format!("expected a duration above zero, not {text:?}"));
    }
    Ok(duration)
}

/// As `parse_duration_positive`, or `off`.
pub fn parse_duration_optional(text: &str) -> Result<Option<Duration>, String> {
    if text.trim() == OFF {
        return Ok(None);
    }
    parse_duration_positive(text).map(Some).map_err(|error| format!("{error} (or {OFF:?})"))
}

/// Prints a duration in the largest unit that divides it.
pub fn show_duration(duration: Duration) -> String {
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if duration_ms == 0 {
        return "0s".into();
    }
    show_with_unit(duration_ms, &DURATION_UNITS)
}

/// Reads how long to look before sleeping: `50us`, at most a millisecond; zero needs no unit.
pub fn parse_busy_poll(text: &str) -> Result<Duration, String> {
    let found = match text.trim() {
        "0" => Some(0),
        text => parse_with_unit(text, &[("us", 1), ("ms", 1000)]),
    };
    let duration = found.map(Duration::from_micros).filter(|found| *found <= BUSY_POLL_MAX);
    duration.ok_or_else(|| format!("expected 0 or a duration from 1us to 1ms, not {text:?}"))
}

/// Prints it.
pub fn show_busy_poll(duration: Duration) -> String {
    match duration.as_micros() {
        0 => "0".into(),
        micros => format!("{micros}us"),
    }
}

/// Prints a duration or `off`.
pub fn show_duration_optional(duration: Option<Duration>) -> String {
    duration.map_or_else(|| OFF.into(), show_duration)
}

/// Reads a size in bytes with its unit: `512B`, `64KiB`, `1MiB`; within the bounds given.
pub fn parse_size(text: &str, bytes_min: u32, bytes_max: u32) -> Result<u32, String> {
    let bytes = parse_with_unit(text, &SIZE_UNITS).ok_or_else(|| {
        format!("expected a size with a unit such as 512B, 64KiB or 1MiB, not {text:?}")
    })?;
    match u32::try_from(bytes) {
        Ok(bytes) if (bytes_min..=bytes_max).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "expected a size from {} to {}, not {text:?}",
            show_size(bytes_min),
            show_size(bytes_max)
        )),
    }
}

/// Prints a size in the largest unit that divides it.
pub fn show_size(bytes: u32) -> String {
    if bytes == 0 { "0B".into() } else { show_with_unit(u64::from(bytes), &SIZE_UNITS) }
}

/// Reads a whole number within the bounds given.
pub fn parse_number(text: &str, minimum: u32, maximum: u32) -> Result<u32, String> {
    match text.trim().parse::<u32>() {
        Ok(number) if (minimum..=maximum).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {minimum} to {maximum}, not {text:?}")),
    }
}

/// Reads a share: `10%`.
pub fn parse_percent(text: &str, maximum: u32) -> Result<u32, String> {
    text.trim()
        .strip_suffix('%')
        .and_then(|number| number.trim_end().parse::<u32>().ok())
        .filter(|percent| *percent <= maximum)
        .ok_or_else(|| format!("expected a share from 0% to {maximum}%, not {text:?}"))
}

/// Reads `true` or `false`.
pub fn parse_switch(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("expected true or false, not {text:?}")),
    }
}

/// Reads one of a few words.
pub fn parse_word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text.trim());
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("expected {}, not {text:?}", known.join(" or "))
    })
}

/// Reads Bolt versions in the order of preference: `5.8, 5.4, 4.4`; none for `auto`.
pub fn parse_versions(text: &str) -> Result<Vec<Version>, String> {
    let mut versions = Vec::new();
    if text.trim() == AUTO {
        return Ok(versions);
    }
    for part in text.split(',') {
        let version: Version =
            part.trim().parse().map_err(|error| format!("{error} (or {AUTO:?})"))?;
        if versions.contains(&version) {
            return Err(format!("expected each version once, not {version} twice in {text:?}"));
        }
        versions.push(version);
    }
    Ok(versions)
}

/// Prints versions, or `auto` for none.
pub fn show_versions(versions: &[Version]) -> String {
    let shown: Vec<String> = versions.iter().map(Version::to_string).collect();
    if shown.is_empty() { AUTO.into() } else { shown.join(", ") }
}

/// Reads an address to listen on: `host:port`, `1.2.3.4:port`, `[::1]:port`, `:port`, `*:port`.
/// `unix:/path` is a socket in the file system.
pub fn parse_bind(text: &str) -> Result<Bind, String> {
    let expected = "expected host:port, [IPv6]:port, :port, *:port or unix:/path";
    if let Some(path) = text.trim().strip_prefix(UNIX) {
        let is_path = path.starts_with('/') && path.len() <= UNIX_PATH_BYTES_MAX;
        return match is_path {
            true => Ok(Bind { host: BindHost::Unix(path.into()), port: 0 }),
            false => Err(format!(
                "{expected}, not {text:?}: the path must begin at / and have at most \
                 {UNIX_PATH_BYTES_MAX} bytes"
            )),
        };
    }
    let (host, port) =
        split_port(text.trim()).map_err(|why| format!("{expected}, not {text:?}: {why}"))?;
    let port = port.ok_or_else(|| format!("{expected}, not {text:?}: the port is missing"))?;
    let host = match host {
        Host::Empty => BindHost::Any,
        Host::Name(name) if name == "*" => BindHost::Any,
        Host::Address(address) => BindHost::Address(address),
        Host::Name(name) => BindHost::Name(name),
    };
    Ok(Bind { host, port })
}

/// Prints an address to listen on.
pub fn show_bind(bind: &Bind) -> String {
    match &bind.host {
        BindHost::Any => format!("*:{}", bind.port),
        BindHost::Address(IpAddr::V6(address)) => format!("[{address}]:{}", bind.port),
        BindHost::Address(IpAddr::V4(address)) => format!("{address}:{}", bind.port),
        BindHost::Name(name) => format!("{name}:{}", bind.port),
        BindHost::Unix(path) => format!("{UNIX}{}", path.display()),
    }
}

/// Where the servers are, as `uplink.uri` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkAddress {
    pub scheme: Scheme,
    /// `+s` and `+ssc`.
    pub encryption: Encryption,
    /// Name or address literal, without brackets.
    pub host: String,
    /// 7687 where the URI gives none.
    pub port: u16,
}

/// Every scheme there is, as the official drivers know them.
const SCHEMES: [(&str, Scheme, Encryption); 6] = [
    ("bolt", Scheme::Bolt, Encryption::Off),
    ("bolt+s", Scheme::Bolt, Encryption::Verified),
    ("bolt+ssc", Scheme::Bolt, Encryption::Unverified),
    ("neo4j", Scheme::Neo4j, Encryption::Off),
    ("neo4j+s", Scheme::Neo4j, Encryption::Verified),
    ("neo4j+ssc", Scheme::Neo4j, Encryption::Unverified),
];

/// Reads `bolt://host[:port]` or `neo4j://host[:port]`, with `+s` or `+ssc` behind the scheme for
/// TLS.
///
/// # Errors
/// User information, paths and queries are refused. What came is repeated only
/// where no `@` stands in it, since a password may stand before one.
pub fn parse_uri(text: &str) -> Result<UplinkAddress, String> {
    let expected = "expected bolt://host[:port] or neo4j://host[:port]";
    let (scheme, rest) = text
        .trim()
        .split_once("://")
        .ok_or_else(|| format!("{expected}: the scheme is missing"))?;
    let known = SCHEMES.iter().find(|(name, ..)| scheme.eq_ignore_ascii_case(name));
    let &(_, scheme, encryption) = known.ok_or_else(|| {
        format!("{expected}, +s or +ssc behind the scheme for TLS, not the scheme {scheme:?}")
    })?;
    if rest.contains('@') {
        return Err(format!(
            "{expected} without a user: give it as uplink.user and uplink.password"
        ));
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(format!(
            "{expected} and nothing behind it: the routing context is the clients' to give"
        ));
    }
    let (host, port) =
        split_port(rest).map_err(|why| format!("{expected}, not {text:?}: {why}"))?;
    let host = match host {
        Host::Name(name) if name != "*" => name,
        Host::Address(address) => address.to_string(),
        _ => return Err(format!("{expected}, not {text:?}: the host is missing")),
    };
    Ok(UplinkAddress { scheme, encryption, host, port: port.unwrap_or(7687) })
}

/// Prints the URI of these parts.
pub fn show_uri(address: &UplinkAddress) -> String {
    let UplinkAddress { scheme, encryption, host, port } = address;
    let mut known = SCHEMES.iter();
    let known = known.find(|(_, one, how)| one == scheme && how == encryption);
    let scheme = known.map_or("bolt", |(name, ..)| name);
    if host.contains(':') {
        format!("{scheme}://[{host}]:{port}")
    } else {
        format!("{scheme}://{host}:{port}")
    }
}

enum Host {
    Empty,
    Address(IpAddr),
    Name(String),
}

/// Splits `host`, `host:port` and `[v6]:port`; says what is wrong otherwise.
fn split_port(text: &str) -> Result<(Host, Option<u16>), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, behind) = rest.split_once(']').ok_or("the closing bracket is missing")?;
            let address: Ipv6Addr =
                inside.parse().map_err(|_| "between brackets stands no IPv6 address")?;
            let port = match behind {
                "" => None,
                _ => Some(behind.strip_prefix(':').ok_or("behind the bracket stands no :port")?),
            };
            (Host::Address(IpAddr::V6(address)), port)
        }
        None if text.matches(':').count() > 1 => {
            return Err("an IPv6 address needs brackets around it");
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            (parse_host(host)?, port)
        }
    };
    // `parse` alone would take "+80".
    let port = match port {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse::<u16>().map_err(|_| "the port is not from 0 to 65535")?)
        }
        Some(_) => return Err("the port is not a number"),
        None => None,
    };
    Ok((host, port))
}

fn parse_host(host: &str) -> Result<Host, &'static str> {
    if host.is_empty() {
        return Ok(Host::Empty);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(Host::Address(address));
    }
    if host != "*" && host.chars().any(|letter| !is_name_letter(letter)) {
        return Err("the host holds a character that no name has");
    }
    Ok(Host::Name(host.into()))
}

/// Underscores are no host names by the book, but container networks make them.
fn is_name_letter(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '-' | '.' | '_')
}

fn parse_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show_with_unit(value: u64, units: &[(&str, u64)]) -> String {
    let unit = units.iter().find(|(_, factor)| value.is_multiple_of(*factor));
    unit.map_or_else(|| value.to_string(), |(name, factor)| format!("{}{name}", value / factor))
}
