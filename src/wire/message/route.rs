//! ROUTE and the routing table that answers it.

use crate::wire::error::MessageError;
use crate::wire::message::hello::Routing;
use crate::wire::message::{fields_of, tag, typed};
use crate::wire::packstream::{Reader, Writer};
use crate::wire::version::Version;

/// A client's ROUTE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub routing: Routing,
    /// The list of bookmarks as PackStream.
    pub bookmarks: Vec<u8>,
    /// `None` asks for the home database; so does an empty name.
    pub database: Option<String>,
    pub imp_user: Option<String>,
}

impl Route {
    /// Reads a payload.
    pub fn parse(version: Version, payload: &[u8]) -> Result<Route, MessageError> {
        let mut reader = fields_of(payload, 3, tag::ROUTE)?;
        let routing = Routing::parse(&mut reader, "ROUTE")?;
        let bookmarks = reader.take_raw()?;
        typed(Reader::new(bookmarks).take_list_header(), "ROUTE", "bookmarks", "a list")?;
        let mut database = None;
        let mut imp_user = None;
        if version.has_route_extra() {
            for _ in 0..typed(reader.take_map_header(), "ROUTE", "extra", "a map")? {
                match reader.take_key()? {
                    "db" => database = take_text(&mut reader, "db")?,
                    "imp_user" => imp_user = take_text(&mut reader, "imp_user")?,
                    _ => reader.skip()?,
                }
            }
        } else {
            database = take_text(&mut reader, "db")?;
        }
        reader.finish()?;
        let database = database.filter(|name| !name.is_empty());
        Ok(Route { routing, bookmarks: bookmarks.to_vec(), database, imp_user })
    }
}

fn take_text(reader: &mut Reader<'_>, key: &'static str) -> Result<Option<String>, MessageError> {
    let text = typed(reader.take_optional_string(), "ROUTE", key, "a string or null")?;
    Ok(text.map(str::to_owned))
}

/// What the servers of a routing table are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Write,
    Read,
    Route,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Write => "WRITE",
            Role::Read => "READ",
            Role::Route => "ROUTE",
        }
    }

    fn of(name: &str) -> Option<Role> {
        [Role::Write, Role::Read, Role::Route].into_iter().find(|role| role.name() == name)
    }
}

/// Which addresses serve a database, and for how long to believe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingTable {
    pub ttl_seconds: i64,
    /// The database the table is for, from Bolt 4.4 on.
    pub database: Option<String>,
    pub servers: Vec<(Role, Vec<String>)>,
}

impl RoutingTable {
    /// Reads the payload of ROUTE's SUCCESS. Roles nobody knows are left out.
    pub fn parse(payload: &[u8]) -> Result<RoutingTable, MessageError> {
        let mut reader = fields_of(payload, 1, tag::SUCCESS)?;
        let mut table = None;
        for _ in 0..reader.take_map_header()? {
            match reader.take_key()? {
                "rt" => table = Some(RoutingTable::take(&mut reader)?),
                _ => reader.skip()?,
            }
        }
        reader.finish()?;
        table.ok_or(MessageError::MissingKey { message: "ROUTE's SUCCESS", key: "rt" })
    }

    /// The chunked SUCCESS.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let database = self.database.as_deref().filter(|_| version.has_route_extra());
        let mut writer = Writer::new();
        writer.struct_header(1, tag::SUCCESS).map_header(1).string("rt");
        writer.map_header(2 + usize::from(database.is_some()));
        writer.string("ttl").int(self.ttl_seconds);
        if let Some(database) = database {
            writer.string("db").string(database);
        }
        writer.string("servers").list_header(self.servers.len());
        for (role, addresses) in &self.servers {
            writer.map_header(2).string("addresses").list_header(addresses.len());
            for address in addresses {
                writer.string(address);
            }
            writer.string("role").string(role.name());
        }
        writer.into_message()
    }

    fn take(reader: &mut Reader<'_>) -> Result<RoutingTable, MessageError> {
        let message = "the routing table";
        let mut ttl_seconds = None;
        let mut database = None;
        let mut servers = None;
        for _ in 0..typed(reader.take_map_header(), message, "rt", "a map")? {
            match reader.take_key()? {
                "ttl" => {
                    let ttl = typed(reader.take_integer(), message, "ttl", "an integer")?;
                    ttl_seconds = Some(ttl);
                }
                "db" => {
                    let name = reader.take_optional_string();
                    database = typed(name, message, "db", "a string")?.map(str::to_owned);
                }
                "servers" => servers = Some(take_servers(reader)?),
                _ => reader.skip()?,
            }
        }
        let missing = |key| MessageError::MissingKey { message, key };
        let ttl_seconds = ttl_seconds.ok_or(missing("ttl"))?;
        let servers = servers.ok_or(missing("servers"))?;
        Ok(RoutingTable { ttl_seconds, database, servers })
    }
}

fn take_servers(reader: &mut Reader<'_>) -> Result<Vec<(Role, Vec<String>)>, MessageError> {
    let message = "the routing table";
    let mut servers = Vec::new();
    for _ in 0..typed(reader.take_list_header(), message, "servers", "a list")? {
        let mut role = None;
        let mut addresses = Vec::new();
        for _ in 0..typed(reader.take_map_header(), message, "servers", "a list of maps")? {
            match reader.take_key()? {
                "role" => {
                    role = Role::of(typed(reader.take_string(), message, "role", "a string")?);
                }
                "addresses" => {
                    addresses.clear();
                    let expected = "a list of strings";
                    let count = reader.take_list_header();
                    for _ in 0..typed(count, message, "addresses", expected)? {
                        let address = reader.take_string();
                        let address = typed(address, message, "addresses", expected)?;
                        addresses.push(address.to_owned());
                    }
                }
                _ => reader.skip()?,
            }
        }
        servers.extend(role.map(|role| (role, addresses)));
    }
    Ok(servers)
}
