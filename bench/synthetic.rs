//! A synthetic Bolt server in a process of its own, for comparisons: prints its address and serves
//! until it is killed.
//!
//!     cargo run --release --example synthetic -- [ADDRESS] [CPU[,CPU...]]

use boltmux::synthetic::{Options, Server};

/// Keeps `BOLTLOAD_PASSWORD` and `perf/` in agreement; it protects nothing.
const PASSWORD: &str = "test-password";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let cpus: Option<Vec<usize>> =
        arguments.next().map(|list| list.split(',').filter_map(|cpu| cpu.parse().ok()).collect());
    let Ok(listen) = listen.parse() else {
        eprintln!("synthetic: expected ADDRESS:PORT, got {listen}");
        std::process::exit(2);
    };
    let options = Options {
        listen,
        threads: cpus.as_ref().map_or(1, Vec::len),
        cpus,
        users: vec![("neo4j".into(), PASSWORD.into())],
        ledger_entries_max: 0,
        ..Options::default()
    };
    let _ = boltmux::transport::raise_open_files_limit();
    match Server::start(options) {
        Ok(server) => {
            println!("{}", server.address());
            loop {
                std::thread::park();
            }
        }
        Err(error) => {
            eprintln!("synthetic: {error}");
            std::process::exit(1);
        }
    }
}
