//! What an idle client costs. `BOLTMUX_IDLE_CLIENTS` makes it many; `tests/idle-memory` does.

use crate::certificates::{Authority, Folder};
use crate::client::{Client, PASSWORD, V5_8};
use crate::program::Program;
use boltmux::synthetic::{Options, Server};

/// Clients of a usual test run.
const CLIENTS: usize = 500;
/// What a client may cost, unless `BOLTMUX_IDLE_BYTES_MAX` says otherwise. Few of them find room in
/// pages that are there already; who kept a buffer for each would need more than this.
const BYTES_MAX: u64 = 4 << 10;
/// What a client over TLS may cost: keys and tables of the ciphers, and 4 KiB that rustls keeps for
/// the next record.
const TLS_BYTES_MAX: u64 = 16 << 10;
/// Of descriptors, for what is not a client's: the server, the program's pipes, other tests.
const FILES_RESERVED: u64 = 300;

#[test]
fn idle_clients_cost_little_and_all_live() {
    let each = cost_of(&[], |program| Client::login(program.address, V5_8));
    let bytes_max = std::env::var("BOLTMUX_IDLE_BYTES_MAX").ok();
    let bytes_max = bytes_max.map_or(BYTES_MAX, |text| text.parse().expect("a number of bytes"));
    assert!(each <= bytes_max, "an idle client costs {each} bytes, more than {bytes_max}");
}

#[test]
fn idle_clients_over_tls_cost_little_and_all_live() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let [cert, key] = folder.pairs("own", &authority.certificate(&["localhost"]));
    let config = authority.client();
    let each = cost_of(&[&cert, &key], |program| {
        let client = Client::secure(program.address, &config, "localhost").unwrap();
        client.agree(V5_8).log_in("neo4j", PASSWORD).expect("the login is right")
    });
    assert!(each <= TLS_BYTES_MAX, "an idle client over TLS costs {each} bytes");
}

/// Resident bytes of each of many clients that have logged in, been served once, and are silent.
fn cost_of(pairs: &[&str], login: impl Fn(&Program) -> Client) -> u64 {
    let wanted = std::env::var("BOLTMUX_IDLE_CLIENTS").ok();
    let wanted = wanted.map(|text| text.parse::<usize>().expect("a number of clients"));
    let files = boltmux::transport::raise_open_files_limit().unwrap();
    let allowed = files.saturating_sub(FILES_RESERVED) as usize;
    let count = wanted.unwrap_or(CLIENTS).min(allowed);
    let server = Server::start(Options::default()).unwrap();
    let pairs = [&["shards=1", "pool.size=8"], pairs].concat();
    let program = Program::start(server.address(), &pairs);
    let logged_in = || {
        let mut client = login(&program);
        client.expect_well();
        client
    };
    // What is made once is made now: buffers, tables, the first pages of the heap.
    let warm: Vec<Client> = (0..100).map(|_| logged_in()).collect();
    drop(warm);
    program.until("they have gone", |all| all.get("client_connections{serving}") == 0);
    let before = program.resident_bytes();
    let mut clients: Vec<Client> = (0..count).map(|_| logged_in()).collect();
    let metrics = program.metrics();
    assert_eq!(metrics.get("client_connections{serving}"), count as u64);
    let after = program.resident_bytes();
    let each = after.saturating_sub(before) / count as u64;
    println!("idle memory: {count} clients, {before} to {after} bytes resident, {each} each");
    let step = (count / 100).max(1);
    clients.iter_mut().step_by(step).for_each(Client::expect_well);
    each
}
