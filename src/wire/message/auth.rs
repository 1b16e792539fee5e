//! The authentication map, in one canonical form so that equal logins are equal bytes.

use crate::wire::error::{MessageError, PackError};
use crate::wire::limits::{LOGIN_DEPTH_MAX, LOGIN_ELEMENTS_MAX};
use crate::wire::message::{fields_of, tag, typed};
use crate::wire::packstream::{Kind, Reader, Writer, shape};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// Keys of HELLO that are not part of the authentication map it holds up to Bolt 5.0.
const NOT_AUTH: [&str; 7] = [
    "user_agent",
    "bolt_agent",
    "routing",
    "patch_bolt",
    "notifications_minimum_severity",
    "notifications_disabled_categories",
    "notifications_disabled_classifications",
];

/// Who a client says it is, and its proof. The bytes are wiped when dropped. Not comparable: how
/// long a plain comparison of secrets takes tells how much of them is right.
#[derive(Clone)]
pub struct Auth {
    pub scheme: String,
    pub principal: Option<String>,
    /// The whole map: keys sorted in it and in every map inside, of duplicates the last, every
    /// header in its shortest form.
    canonical: Zeroizing<Vec<u8>>,
}

impl Auth {
    /// The canonical map as PackStream bytes: equal for equal logins, and usable as LOGON's field.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// A login of our own. `none` has no parts and `bearer` no principal; those are left out.
    pub fn from_parts(scheme: &str, principal: &str, credentials: &str) -> Auth {
        let has_principal = !matches!(scheme, "none" | "bearer");
        let has_credentials = scheme != "none";
        // Three keys with their headers take under 64 bytes.
        let mut writer =
            Writer::with_capacity(scheme.len() + principal.len() + credentials.len() + 64);
        writer.map_header(1 + usize::from(has_principal) + usize::from(has_credentials));
        if has_credentials {
            writer.string("credentials").string(credentials);
        }
        if has_principal {
            writer.string("principal").string(principal);
        }
        writer.string("scheme").string(scheme);
        Auth {
            scheme: scheme.to_owned(),
            principal: has_principal.then(|| principal.to_owned()),
            canonical: Zeroizing::new(writer.into_bytes()),
        }
    }

    /// From the map that begins at `map`; `in_hello` leaves HELLO's other keys out.
    pub(super) fn from_map(map: &[u8], in_hello: bool) -> Result<Auth, MessageError> {
        let message = if in_hello { "HELLO" } else { "LOGON" };
        let mut entries = sorted_entries(&mut Reader::new(map))?;
        if in_hello {
            entries.retain(|key, _| !NOT_AUTH.contains(key));
        }
        let text = |key: &'static str| match entries.get(key) {
            Some(value) => {
                typed(Reader::new(value).take_optional_string(), message, key, "a string")
            }
            None => Ok(None),
        };
        let scheme =
            text("scheme")?.ok_or(MessageError::MissingKey { message, key: "scheme" })?.to_owned();
        // A principal of another type is the server's to judge.
        let principal = text("principal").ok().flatten().map(str::to_owned);
        // The canonical form is never longer, so this writer moves no secret while it grows.
        let mut writer = Writer::with_capacity(map.len());
        let outcome = write_entries(&entries, &mut writer, 1);
        let canonical = Zeroizing::new(writer.into_bytes()); // also wiped where writing failed
        outcome?;
        Ok(Auth { scheme, principal, canonical })
    }

    /// Number of entries, and their bytes without the map's header.
    pub(super) fn entries(&self) -> (usize, &[u8]) {
        let mut reader = Reader::new(&self.canonical);
        let count = reader.take_map_header().expect("the canonical form is a map we wrote");
        (count, reader.rest())
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

/// LOGON's authentication map, from its payload.
pub fn parse_logon(payload: &[u8]) -> Result<Auth, MessageError> {
    let mut reader = fields_of(payload, 1, tag::LOGON)?;
    check_login_limits(reader.rest())?;
    let map = reader.rest();
    reader.skip()?;
    reader.finish()?;
    Auth::from_map(map, false)
}

/// Refuses a value with more entries or deeper nesting than Neo4j reads before login. It recurses
/// at most as deep as that limit.
pub(super) fn check_login_limits(value: &[u8]) -> Result<(), MessageError> {
    check_value(&mut Reader::new(value), 1)
}

fn check_value(reader: &mut Reader<'_>, depth: usize) -> Result<(), MessageError> {
    let (count, is_map) = match shape(reader.peek_marker()?)?.kind {
        Kind::List => (reader.take_list_header()?, false),
        Kind::Map => (reader.take_map_header()?, true),
        Kind::Struct => (reader.take_struct_header()?.0, false),
        Kind::Scalar | Kind::Bytes | Kind::String => return Ok(reader.skip()?),
    };
    if depth > LOGIN_DEPTH_MAX {
        return Err(MessageError::TooDeep);
    }
    if count > LOGIN_ELEMENTS_MAX {
        return Err(MessageError::TooManyElements { count });
    }
    for _ in 0..count {
        if is_map {
            reader.take_key()?;
        }
        check_value(reader, depth + 1)?;
    }
    Ok(())
}

type Entries<'a> = BTreeMap<&'a str, &'a [u8]>;

/// A map's raw values by key; of duplicates the last.
fn sorted_entries<'a>(reader: &mut Reader<'a>) -> Result<Entries<'a>, PackError> {
    let mut entries = Entries::new();
    for _ in 0..reader.take_map_header()? {
        let key = reader.take_key()?;
        entries.insert(key, reader.take_raw()?);
    }
    Ok(entries)
}

fn write_entries(
    entries: &Entries<'_>,
    writer: &mut Writer,
    depth: usize,
) -> Result<(), MessageError> {
    writer.map_header(entries.len());
    for (key, value) in entries {
        writer.string(key);
        write_canonical(&mut Reader::new(value), writer, depth + 1)?;
    }
    Ok(())
}

/// Recurses at most as deep as the limit, which the caller has checked already.
fn write_canonical(
    reader: &mut Reader<'_>,
    writer: &mut Writer,
    depth: usize,
) -> Result<(), MessageError> {
    let marker = reader.peek_marker()?;
    let kind = shape(marker)?.kind;
    let is_container = matches!(kind, Kind::List | Kind::Map | Kind::Struct);
    if is_container && depth > LOGIN_DEPTH_MAX {
        return Err(MessageError::TooDeep);
    }
    match kind {
        Kind::String => _ = writer.string(reader.take_string()?),
        Kind::Bytes => _ = writer.byte_array(reader.take_bytes()?),
        Kind::Scalar => match reader.take_integer() {
            Ok(value) => _ = writer.int(value),
            Err(_) => _ = writer.raw(reader.take_raw()?),
        },
        Kind::Map => write_entries(&sorted_entries(reader)?, writer, depth)?,
        Kind::List => {
            let count = reader.take_list_header()?;
            writer.list_header(count);
            for _ in 0..count {
                write_canonical(reader, writer, depth + 1)?;
            }
        }
        // No authentication map has one; kept as it came, since its meaning is unknown.
        Kind::Struct => _ = writer.raw(reader.take_raw()?),
    }
    Ok(())
}
