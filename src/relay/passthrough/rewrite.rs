//! The fields that a relayed session changes on their way to the client, and the one it reads on
//! the way to the server: how the client spells the proxy's address.
//!
//! An answer that has nothing to change, or is not what it should be, is left as it is: every
//! function here returns `None` for "relay the bytes you have". All other values of a changed
//! message keep their bytes.

use crate::relay::passthrough::owed::Watched;
use crate::wire::message::{Role, tag};
use crate::wire::packstream::{Reader, Writer};
use crate::wire::version::Version;
use bytes::Bytes;
use std::borrow::Cow;

/// The chunked message to send instead of the SUCCESS with this payload. `own_address` is asked for
/// where the client has not said how it calls the proxy.
pub fn success(
    watched: &Watched,
    version: Version,
    payload: &[u8],
    own_address: impl FnOnce() -> String,
) -> Option<Bytes> {
    match watched {
        Watched::Hello if version.has_resolved_database() => edited(payload, promise_routing),
        Watched::Logon if version.has_resolved_database() => {
            edited(payload, |map| map.remove("advertised_address"))
        }
        Watched::Route(Some(address)) => edited(payload, |map| own_table(map, address)),
        Watched::Route(None) => edited(payload, |map| own_table(map, &own_address())),
        _ => None,
    }
}

/// How the client of this HELLO or ROUTE spells the proxy's address; the payload may end early.
pub fn spelling(payload: &[u8]) -> Option<&str> {
    let mut reader = Reader::new(payload);
    match reader.take_struct_header().ok()? {
        (1, tag::HELLO) => {
            for _ in 0..reader.take_map_header().ok()? {
                if reader.take_key().ok()? == "routing" {
                    return address(reader);
                }
                reader.skip().ok()?;
            }
            None
        }
        (3, tag::ROUTE) => address(reader),
        _ => None,
    }
}

/// `address` of the routing context that is next.
fn address(mut reader: Reader<'_>) -> Option<&str> {
    for _ in 0..reader.take_map_header().ok()? {
        if reader.take_key().ok()? == "address" {
            return reader.take_string().ok().filter(|address| !address.is_empty());
        }
        reader.skip().ok()?;
    }
    None
}

/// Drivers then trust a home database they know and ask for no table per session. Behind the
/// proxy every table names the proxy alone, so the choice of a server never depends on it.
fn promise_routing(map: &mut Pairs<'_>) -> Option<()> {
    let mut hints = match map.find("hints") {
        Some(hints) => Pairs::parse(hints)?,
        None => Pairs(Vec::new()),
    };
    let mut yes = Writer::new();
    yes.bool(true);
    if hints.find("ssr.enabled") == Some(yes.bytes()) {
        return None;
    }
    hints.set("ssr.enabled", yes.into_bytes());
    let hints = hints.encode();
    map.set("hints", hints);
    Some(())
}

/// The proxy itself in all three roles: drivers refuse less.
fn own_table(map: &mut Pairs<'_>, address: &str) -> Option<()> {
    let mut table = Pairs::parse(map.find("rt")?)?;
    table.find("servers")?;
    let mut servers = Writer::new();
    let roles = [Role::Write, Role::Read, Role::Route];
    servers.list_header(roles.len());
    for role in roles {
        servers.map_header(2).string("addresses").list_header(1).string(address);
        servers.string("role").string(role.name());
    }
    table.set("servers", servers.into_bytes());
    let table = table.encode();
    map.set("rt", table);
    Some(())
}

/// The chunked SUCCESS with its map changed; `None` where `edit` has nothing to change.
fn edited(payload: &[u8], edit: impl FnOnce(&mut Pairs<'_>) -> Option<()>) -> Option<Bytes> {
    let mut reader = Reader::new(payload);
    if reader.take_struct_header().ok()? != (1, tag::SUCCESS) {
        return None;
    }
    let mut map = Pairs::parse(reader.rest())?;
    edit(&mut map)?;
    let mut writer = Writer::new();
    writer.struct_header(1, tag::SUCCESS).raw(&map.encode());
    Some(writer.into_message().into())
}

/// A map with its values as PackStream.
struct Pairs<'a>(Vec<(&'a str, Cow<'a, [u8]>)>);

impl<'a> Pairs<'a> {
    /// Reads bytes that are one map and nothing else.
    fn parse(map: &'a [u8]) -> Option<Pairs<'a>> {
        let mut reader = Reader::new(map);
        let mut pairs = Vec::new();
        for _ in 0..reader.take_map_header().ok()? {
            pairs.push((reader.take_key().ok()?, Cow::Borrowed(reader.take_raw().ok()?)));
        }
        reader.is_at_end().then_some(Pairs(pairs))
    }

    /// The last one of a key that is there twice, as drivers read it.
    fn find(&self, key: &str) -> Option<&[u8]> {
        let (_, value) = self.0.iter().rfind(|(name, _)| *name == key)?;
        Some(value)
    }

    fn set(&mut self, key: &'a str, value: Vec<u8>) {
        match self.0.iter_mut().rfind(|(name, _)| *name == key) {
            Some((_, old)) => *old = Cow::Owned(value),
            None => self.0.push((key, Cow::Owned(value))),
        }
    }

    /// `None` where the key is not there.
    fn remove(&mut self, key: &str) -> Option<()> {
        let count = self.0.len();
        self.0.retain(|(name, _)| *name != key);
        (self.0.len() < count).then_some(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.map_header(self.0.len());
        for (key, value) in &self.0 {
            writer.string(key).raw(value);
        }
        writer.into_bytes()
    }
}
