//! PROXY headers: lines and binary ones that are broken, lie about their length, or never end.

use crate::case::{Case, Outcome, Start, Table};
use crate::client::{MAGIC, V5_4, proposals};
use crate::process::Process;
use crate::run::run_against;
use crate::tls::Folder;
use boltmux::synthetic::{Options, Server};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const START: Start = Start::Balanced;

fn broken() -> Outcome {
    Outcome::Silence("proxy_header")
}

/// A binary header: version and command, family, length as it says, payload.
fn binary(command: u8, family: u8, length: u16, payload: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &length.to_be_bytes(), payload].concat()
}

/// A header that is right, and bytes behind it.
fn right(more: &[u8]) -> Vec<u8> {
    [&binary(0x21, 0x11, 12, &[192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2]), more].concat()
}

pub fn cases() -> Vec<Case> {
    let mut table = Table::new("proxy");
    lines(&mut table);
    binaries(&mut table);
    behind(&mut table);
    table.cases
}

fn lines(table: &mut Table) {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    let unknown = format!("PROXY UNKNOWN ffff:: ffff:: 1 2 {}\r\n", "1 ".repeat(50));
    let endless = format!("PROXY TCP4 {}", "1".repeat(5000));
    for (name, text) in [
        ("no header but Bolt", "\x60\x60"),
        ("a line of another protocol", "PROXX TCP4 1.2.3.4 1.2.3.4 1 2\r\n"),
        ("a line in small letters", "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n"),
        ("a line without a family", "PROXY \r\n"),
        ("an unknown family", "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n"),
        ("a line without ports", "PROXY TCP4 1.2.3.4 1.2.3.4\r\n"),
        ("a port of 65,536", "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n"),
        ("a negative port", "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n"),
        ("an address of 256", "PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n"),
        ("a name for an address", "PROXY TCP4 localhost 1.2.3.4 1 2\r\n"),
        ("addresses of the other family", "PROXY TCP4 ::1 ::1 1 2\r\n"),
        ("one address of each family", "PROXY TCP6 1.2.3.4 ::1 1 2\r\n"),
        ("more than a line holds", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n"),
        ("HTTP where a header is due", "GET / HTTP/1.1\r\n\r\n"),
        ("a line of 116 bytes", &long),
        ("a line that never ends", &endless),
        ("a line of unknown addresses that is too long", &unknown),
    ] {
        table.add(name, START, text, broken());
    }
    let text = [&b"PROXY TCP4 \xFF\xFE 1.2.3.4 1 2\r\n"[..]].concat();
    table.add("a line that is no text", START, text, broken());
    let gone = Outcome::Silence("client_gone");
    table.add_ended("half a line, then the end", START, "PROXY TCP4 1.2", gone);
    table.add("half a line and nothing more", START, "PROXY TCP4 1.2", Outcome::Waits);
}

fn binaries(table: &mut Table) {
    for (name, bytes) in [
        ("a signature that ends wrong", b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\0".to_vec()),
        ("version 1 in binary", binary(0x11, 0x11, 12, &[0; 12])),
        ("version 3 in binary", binary(0x31, 0x11, 12, &[0; 12])),
        ("an unknown command", binary(0x22, 0x11, 12, &[0; 12])),
        ("addresses that are too short", binary(0x21, 0x11, 4, &[0; 4])),
        ("addresses of IPv6 that are too short", binary(0x21, 0x21, 12, &[0; 12])),
        ("an unknown family in binary", binary(0x21, 0x51, 12, &[0; 12])),
        ("a header of 65,535 bytes", binary(0x21, 0x11, 65_535, &[0; 9000])),
        ("a header of 5,000 bytes", binary(0x20, 0, 5000, &[0; 5000])),
        ("TLS where a header is due", b"\x16\x03\x01\0\x05\x01\0\0\x01\0".to_vec()),
        ("FF where a header is due", vec![0xFF; 32]),
    ] {
        table.add(name, START, bytes, broken());
    }
    let half = &right(&[])[..20];
    table.add("half a binary header", START, half, Outcome::Waits);
    let gone = Outcome::Silence("client_gone");
    table.add_ended("half a binary header, then the end", START, half, gone);
}

fn behind(table: &mut Table) {
    let agreed = || Outcome::Says(V5_4.to_bytes().to_vec(), "client_gone");
    let bolt = proposals(&[V5_4.to_bytes()]);
    table.add_ended("Bolt behind a header", START, right(&bolt), agreed());
    let local = [binary(0x20, 0, 0, &[]), bolt.clone()].concat();
    table.add_ended("Bolt behind a balancer's own header", START, local, agreed());
    let unknown = [&b"PROXY UNKNOWN\r\n"[..], &bolt].concat();
    table.add_ended("Bolt behind an unknown address", START, unknown, agreed());
    let twice = right(&right(&bolt));
    table.add("two headers", START, twice, Outcome::Silence("unknown_protocol"));
    table.add("garbage behind a header", START, right(&[7; 20]), {
        Outcome::Silence("unknown_protocol")
    });
    table.add("nothing behind a header", START, right(&MAGIC), Outcome::Waits);
}

#[test]
fn every_header_of_a_balancer_meets_its_outcome() {
    let (server, folder) = (Server::start(Options::default()).unwrap(), Folder::new("balancer"));
    let text = "[pool]\nidle_timeout = \"200ms\"\n\
        [[listen]]\nbind = \"127.0.0.1:0\"\n\
        [[listen]]\nbind = \"127.0.0.1:0\"\n\
        proxy_protocol = \"required\"\nproxy_networks = [\"127.0.0.0/8\"]\n";
    let process = Process::start_with_file(&folder.path, server.address(), text);
    assert_ne!(process.address, process.last_address);
    run_against(process, &cases(), 30);
}
