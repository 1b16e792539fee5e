//! `boltmux`: arguments to settings to work; the exit status says how it ended.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use boltmux::config::{
    Command, DiskFiles, ProcessEnvironment, Settings, Uplink, exit, keys_markdown, parse,
};

fn main() -> ExitCode {
    let command = match parse(std::env::args_os().skip(1), &ProcessEnvironment, &DiskFiles) {
        Ok(command) => command,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(exit::USAGE);
        }
    };
    ExitCode::from(match command {
        Command::Version => say(&format!("boltmux {}", env!("CARGO_PKG_VERSION"))),
        Command::Keys => say(keys_markdown().trim_end()),
        Command::Help(text) => say(text.trim_end()),
        Command::Check { settings, connect } => check(&settings, connect),
        Command::Run(_) | Command::Demo(_) => {
            eprintln!("boltmux: this build has no relay, only check and version work");
            exit::FAILED
        }
    })
}

fn say(text: &str) -> u8 {
    println!("{text}");
    exit::DONE
}

fn check(settings: &Settings, connect: bool) -> u8 {
    println!("the configuration is sound");
    if !connect {
        return exit::DONE;
    }
    match dial(&settings.uplink, settings.timeouts.connect) {
        Ok(address) => say(&format!("connected to {address}")),
        Err(error) => {
            eprintln!("boltmux: {error}");
            exit::FAILED
        }
    }
}

/// Tries each address of the servers' name in turn, as clients do.
#[expect(clippy::disallowed_methods, reason = "nothing else runs that a slow name could hold up")]
fn dial(uplink: &Uplink, timeout: Duration) -> Result<SocketAddr, String> {
    let (host, port) = (uplink.host.as_str(), uplink.port);
    let failed = |error: io::Error| {
        format!("cannot connect to {host} port {port}: {error}; is uplink.uri right?")
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}
