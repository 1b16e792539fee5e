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
        writer.string("servers");
        write_servers(&mut writer, &self.servers);
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

/// A call of the procedure by which drivers ask for a routing table up to Bolt 4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingCall<'a> {
    /// The proxy's address as the driver spells it; from Bolt 4.1 on the context names it.
    pub address: Option<&'a str>,
}

/// The procedures, of Neo4j 4.0 and up to 3.5 (Neo4j operations manual, routing). Both have the
/// columns `ttl` and `servers`.
const ROUTING_PROCEDURES: [&str; 3] = [
    "dbms.routing.getRoutingTable",
    "dbms.cluster.routing.getRoutingTable",
    "dbms.cluster.routing.getServers",
];

/// Whether the payload of a RUN is such a call, as drivers write it.
pub fn routing_call(payload: &[u8]) -> Option<RoutingCall<'_>> {
    let mut reader = fields_of(payload, 3, tag::RUN).ok()?;
    let query = reader.take_string().ok()?.trim_start();
    let (call, rest) = query.split_at_checked(4)?;
    let name = rest.trim_start();
    let is_named = |procedure: &&str| {
        let start = name.get(..procedure.len());
        let behind = name.as_bytes().get(procedure.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(procedure))
            && behind.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')
    };
    let is_call = call.eq_ignore_ascii_case("CALL") && name.len() < rest.len();
    if !is_call || !ROUTING_PROCEDURES.iter().any(is_named) {
        return None;
    }
    Some(RoutingCall { address: context_address(reader).filter(|address| !address.is_empty()) })
}

/// `address` in the parameter `context`.
fn context_address(mut parameters: Reader<'_>) -> Option<&str> {
    for _ in 0..parameters.take_map_header().ok()? {
        if parameters.take_key().ok()? != "context" {
            parameters.skip().ok()?;
            continue;
        }
        for _ in 0..parameters.take_map_header().ok()? {
            if parameters.take_key().ok()? == "address" {
                return parameters.take_string().ok();
            }
            parameters.skip().ok()?;
        }
        return None;
    }
    None
}

/// The chunked RECORD with `servers` in the place of the list of servers in it; all other values
/// keep their bytes. `None` where there is no such list.
pub fn own_table_record(payload: &[u8], servers: &[(Role, Vec<String>)]) -> Option<Vec<u8>> {
    let mut reader = fields_of(payload, 1, tag::RECORD).ok()?;
    let count = reader.take_list_header().ok()?;
    let mut writer = Writer::new();
    writer.struct_header(1, tag::RECORD).list_header(count);
    let mut has_table = false;
    for _ in 0..count {
        let value = reader.take_raw().ok()?;
        let table = take_servers(&mut Reader::new(value)).ok();
        if table.is_some_and(|table| table.iter().any(|(_, addresses)| !addresses.is_empty())) {
            has_table = true;
            write_servers(&mut writer, servers);
        } else {
            writer.raw(value);
        }
    }
    (has_table && reader.is_at_end()).then(|| writer.into_message())
}

fn write_servers(writer: &mut Writer, servers: &[(Role, Vec<String>)]) {
    writer.list_header(servers.len());
    for (role, addresses) in servers {
        writer.map_header(2).string("addresses").list_header(addresses.len());
        for address in addresses {
            writer.string(address);
        }
        writer.string("role").string(role.name());
    }
}
