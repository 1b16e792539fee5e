//! Every bound that reading Bolt bytes needs, each with its reason.

/// Largest payload of one chunk: its length is two bytes (Bolt specification, chunking).
pub const CHUNK_PAYLOAD_MAX: usize = 65_535;
/// Largest size or count one PackStream header may declare: implementations hold it in a signed
/// 32-bit number, so nobody can mean more.
pub const PACK_SIZE_MAX: u32 = i32::MAX as u32;
/// Largest message before login, and again after LOGOFF: what Neo4j allows there.
pub const LOGIN_BYTES_MAX: usize = 8 * 1024;
/// Most entries of one map, list or structure before login: what Neo4j allows there.
pub const LOGIN_ELEMENTS_MAX: usize = 64;
/// Deepest nesting of a value before login: what Neo4j allows there.
pub const LOGIN_DEPTH_MAX: usize = 4;
/// Longest varint of the manifest: 64 bits, 7 in each byte.
pub const VARINT_BYTES_MAX: usize = 10;
/// Most entries of a server's manifest we read. Bolt has 16 versions; four times that is room for
/// a server that lists every one by itself for years to come.
pub const MANIFEST_ENTRIES_MAX: u64 = 64;
