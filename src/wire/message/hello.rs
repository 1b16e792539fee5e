//! HELLO and LOGON's answers, as a client says and as a server answers them.

use crate::wire::error::MessageError;
use crate::wire::message::auth::{Auth, check_login_limits};
use crate::wire::message::{fields_of, tag, typed};
use crate::wire::packstream::{Reader, Writer};
use crate::wire::version::Version;
use std::collections::BTreeMap;

/// A routing context: what the URI that the user wrote says about routing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Routing {
    /// Host and port as the user spelled them.
    pub address: Option<String>,
    /// Everything else, sorted by key.
    pub entries: Vec<(String, String)>,
}

impl Routing {
    pub(super) fn parse(
        reader: &mut Reader<'_>,
        message: &'static str,
    ) -> Result<Routing, MessageError> {
        let count = typed(reader.take_map_header(), message, "routing", "a map of strings")?;
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let key = reader.take_key()?;
            let value = typed(reader.take_string(), message, "routing", "a map of strings")?;
            entries.insert(key.to_owned(), value.to_owned());
        }
        let address = entries.remove("address");
        Ok(Routing { address, entries: entries.into_iter().collect() })
    }
}

/// Writes a routing context as a map, the address first.
pub(super) fn write_routing(
    writer: &mut Writer,
    address: Option<&str>,
    entries: &[(String, String)],
) {
    writer.map_header(entries.len() + usize::from(address.is_some()));
    if let Some(address) = address {
        writer.string("address").string(address);
    }
    for (key, value) in entries {
        writer.string(key).string(value);
    }
}

/// Which notifications a connection does not want; `None` leaves it to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Notifications {
    pub minimum_severity: Option<String>,
    /// Categories, called classifications from Bolt 5.6 on.
    pub disabled: Option<Vec<String>>,
}

/// Name of the key with the disabled categories.
pub(super) fn disabled_key(version: Version) -> &'static str {
    if version.has_classifications() {
        "notifications_disabled_classifications"
    } else {
        "notifications_disabled_categories"
    }
}

/// A client's HELLO.
#[derive(Clone, Debug)]
pub struct Hello {
    pub user_agent: String,
    /// `Some` where the client asked for routing, be it with an empty map.
    pub routing: Option<Routing>,
    /// The client asks for UTC date-times (Bolt 4.3 and 4.4).
    pub utc_patch: bool,
    pub notifications: Notifications,
    /// The login, which HELLO holds up to Bolt 5.0; `None` later.
    pub auth: Option<Auth>,
}

impl Hello {
    /// Reads a payload; keys that `version` does not know are ignored, as Neo4j does.
    pub fn parse(version: Version, payload: &[u8]) -> Result<Hello, MessageError> {
        let mut reader = fields_of(payload, 1, tag::HELLO)?;
        let map = reader.rest();
        check_login_limits(map)?;
        let mut user_agent = None;
        let mut has_agent = false;
        let mut hello = Hello {
            user_agent: String::new(),
            routing: None,
            utc_patch: false,
            notifications: Notifications::default(),
            auth: None,
        };
        for _ in 0..reader.take_map_header()? {
            match reader.take_key()? {
                "user_agent" => {
                    let text = reader.take_string();
                    user_agent = Some(typed(text, "HELLO", "user_agent", "a string")?.to_owned());
                }
                "bolt_agent" if version.has_bolt_agent() => {
                    has_agent = true;
                    check_bolt_agent(&mut reader)?;
                }
                key => hello.take_optional(version, key, &mut reader)?,
            }
        }
        reader.finish()?;
        let missing = |key| MessageError::MissingKey { message: "HELLO", key };
        hello.user_agent = user_agent.ok_or(missing("user_agent"))?;
        if version.has_bolt_agent() && !has_agent {
            return Err(missing("bolt_agent"));
        }
        if !version.has_logon() {
            hello.auth = Some(Auth::from_map(map, true)?);
        }
        Ok(hello)
    }

    fn take_optional(
        &mut self,
        version: Version,
        key: &str,
        reader: &mut Reader<'_>,
    ) -> Result<(), MessageError> {
        let has_filter = version.has_notification_filter();
        match key {
            "routing" if version.has_routing_context() => {
                let is_null = reader.take_null()?;
                self.routing = if is_null { None } else { Some(Routing::parse(reader, "HELLO")?) };
            }
            "patch_bolt" if version.has_utc_patch() => {
                self.utc_patch = has_utc(take_strings(reader, "patch_bolt")?);
            }
            "notifications_minimum_severity" if has_filter => {
                let text = reader.take_optional_string();
                let text = typed(text, "HELLO", "notifications_minimum_severity", "a string")?;
                self.notifications.minimum_severity = text.map(str::to_owned);
            }
            key if has_filter && key == disabled_key(version) => {
                self.notifications.disabled = take_strings(reader, disabled_key(version))?;
            }
            _ => reader.skip()?,
        }
        Ok(())
    }
}

/// `bolt_agent` is a map of strings with a `product`; boltmux needs nothing out of it.
fn check_bolt_agent(reader: &mut Reader<'_>) -> Result<(), MessageError> {
    let expected = "a map of strings";
    let count = typed(reader.take_map_header(), "HELLO", "bolt_agent", expected)?;
    let mut has_product = false;
    for _ in 0..count {
        let key = reader.take_key()?;
        let value = typed(reader.take_optional_string(), "HELLO", "bolt_agent", expected)?;
        if key == "product" {
            has_product = value.is_some();
        }
    }
    let missing = MessageError::MissingKey { message: "HELLO", key: "bolt_agent.product" };
    if has_product { Ok(()) } else { Err(missing) }
}

fn has_utc(patches: Option<Vec<String>>) -> bool {
    patches.is_some_and(|patches| patches.iter().any(|patch| patch == "utc"))
}

fn take_strings(
    reader: &mut Reader<'_>,
    key: &'static str,
) -> Result<Option<Vec<String>>, MessageError> {
    if reader.take_null()? {
        return Ok(None);
    }
    let expected = "a list of strings";
    let mut strings = Vec::new();
    for _ in 0..typed(reader.take_list_header(), "HELLO", key, expected)? {
        strings.push(typed(reader.take_string(), "HELLO", key, expected)?.to_owned());
    }
    Ok(Some(strings))
}

/// The HELLO that boltmux says to a server; `encode_hello` writes what the version has of it.
#[derive(Clone, Copy, Debug)]
pub struct ServerHello<'a> {
    pub user_agent: &'a str,
    /// `product` of `bolt_agent`.
    pub bolt_agent: &'a str,
    /// Address and the other entries of the routing context; `None` asks for no routing.
    pub routing: Option<(&'a str, &'a [(String, String)])>,
    pub utc_patch: bool,
    pub notifications: &'a Notifications,
    /// The login, up to Bolt 5.0.
    pub auth: Option<&'a Auth>,
}

/// A server's answer to HELLO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloSuccess {
    /// Product and version, as `Neo4j/5.26.0`; some drivers refuse any other product.
    pub server: String,
    pub connection_id: String,
    /// The hint that a peer silent for so long while it owes an answer is gone.
    pub recv_timeout_seconds: Option<u64>,
    pub utc_patch: bool,
    /// The user may only change the password. Said here up to Bolt 5.0.
    pub credentials_expired: bool,
}

impl HelloSuccess {
    /// Reads the payload of the SUCCESS; absent keys and hints of another type are no errors.
    pub fn parse(payload: &[u8]) -> Result<HelloSuccess, MessageError> {
        let mut reader = fields_of(payload, 1, tag::SUCCESS)?;
        let mut success = HelloSuccess::default();
        for _ in 0..reader.take_map_header()? {
            let key = reader.take_key()?;
            let mut value = Reader::new(reader.take_raw()?);
            match key {
                "server" => success.server = value.take_string()?.to_owned(),
                "connection_id" => success.connection_id = value.take_string()?.to_owned(),
                "credentials_expired" => {
                    success.credentials_expired = value.take_bool().unwrap_or(false);
                }
                "patch_bolt" => {
                    let patches = take_strings(&mut value, "patch_bolt").unwrap_or_default();
                    success.utc_patch = has_utc(patches);
                }
                "hints" => success.recv_timeout_seconds = timeout_hint(value),
                _ => {}
            }
        }
        reader.finish()?;
        Ok(success)
    }

    /// The chunked SUCCESS with what `version` has of it: `telemetry` and `ssr` (server-side
    /// routing) are hints, `protocol_version` is said after a manifest only.
    pub fn encode(
        &self,
        version: Version,
        telemetry: bool,
        ssr: Option<bool>,
        protocol_version: Option<Version>,
    ) -> Vec<u8> {
        let timeout = self.recv_timeout_seconds.filter(|_| version.has_hints());
        let ssr = ssr.filter(|_| version.has_resolved_database());
        let hints = usize::from(timeout.is_some())
            + usize::from(version.has_telemetry())
            + usize::from(ssr.is_some());
        let has_patch = self.utc_patch && version.has_utc_patch();
        let is_expired = self.credentials_expired && !version.has_logon();
        let optional = [hints > 0, has_patch, is_expired, protocol_version.is_some()];
        let mut writer = Writer::new();
        writer.struct_header(1, tag::SUCCESS);
        writer.map_header(2 + optional.into_iter().filter(|is_there| *is_there).count());
        writer.string("server").string(&self.server);
        writer.string("connection_id").string(&self.connection_id);
        if hints > 0 {
            writer.string("hints").map_header(hints);
            if let Some(seconds) = timeout {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                writer.string("connection.recv_timeout_seconds").int(seconds);
            }
            if version.has_telemetry() {
                writer.string("telemetry.enabled").bool(telemetry);
            }
            if let Some(is_enabled) = ssr {
                writer.string("ssr.enabled").bool(is_enabled);
            }
        }
        if has_patch {
            writer.string("patch_bolt").list_header(1).string("utc");
        }
        if is_expired {
            writer.string("credentials_expired").bool(true);
        }
        if let Some(version) = protocol_version {
            writer.string("protocol_version").string(&version.to_string());
        }
        writer.into_message()
    }
}

/// Drivers ignore a hint of another type, and so do we.
fn timeout_hint(mut hints: Reader<'_>) -> Option<u64> {
    let mut timeout = None;
    for _ in 0..hints.take_map_header().ok()? {
        let key = hints.take_key().ok()?;
        let mut value = Reader::new(hints.take_raw().ok()?);
        if key == "connection.recv_timeout_seconds" {
            let seconds = value.take_integer().ok().and_then(|value| u64::try_from(value).ok());
            timeout = seconds.filter(|seconds| *seconds > 0);
        }
    }
    timeout
}

/// A server's answer to LOGON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogonSuccess {
    /// The server's configured Bolt address (Bolt 5.8).
    pub advertised_address: Option<String>,
    /// The user may only change the password.
    pub credentials_expired: bool,
}

impl LogonSuccess {
    /// Reads the payload of the SUCCESS.
    pub fn parse(payload: &[u8]) -> Result<LogonSuccess, MessageError> {
        let mut reader = fields_of(payload, 1, tag::SUCCESS)?;
        let mut success = LogonSuccess::default();
        for _ in 0..reader.take_map_header()? {
            match reader.take_key()? {
                "advertised_address" => {
                    success.advertised_address = reader.take_optional_string()?.map(str::to_owned);
                }
                "credentials_expired" => {
                    let mut value = Reader::new(reader.take_raw()?);
                    success.credentials_expired = value.take_bool().unwrap_or(false);
                }
                _ => reader.skip()?,
            }
        }
        reader.finish()?;
        Ok(success)
    }

    /// The chunked SUCCESS with what `version` has of it.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let has_address = version.has_resolved_database();
        let address = self.advertised_address.as_deref().filter(|_| has_address);
        let mut writer = Writer::new();
        writer.struct_header(1, tag::SUCCESS);
        writer.map_header(usize::from(address.is_some()) + usize::from(self.credentials_expired));
        if let Some(address) = address {
            writer.string("advertised_address").string(address);
        }
        if self.credentials_expired {
            writer.string("credentials_expired").bool(true);
        }
        writer.into_message()
    }
}
