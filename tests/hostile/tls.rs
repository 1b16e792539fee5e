//! TLS: records that are none, and hellos that nobody should answer.

use crate::case::{Case, Outcome, Start, Table};
use crate::client::{V5_4, proposals};
use crate::run::run_before;
use std::path::PathBuf;

/// A record: content type, version, length, payload.
fn record(kind: u8, minor: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, minor][..], &(payload.len() as u16).to_be_bytes(), payload].concat()
}

/// A handshake message: its type, its length, its body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

/// A ClientHello with these cipher suites and raw extensions.
fn client_hello(minor: u8, suites: &[u8], extensions: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| (bytes.len() as u16).to_be_bytes();
    let random = [7; 32];
    let body = [
        &[3, minor][..],
        &random,
        &[0],
        &length(suites),
        suites,
        &[1, 0],
        &length(extensions),
        extensions,
    ];
    message(1, &body.concat())
}

pub fn cases() -> Vec<Case> {
    let mut table = Table::new("tls");
    let start = Start::Connected;
    let failed = || Outcome::Alerts("tls_failed");
    let suites = &[0x13, 0x01, 0xC0, 0x2F];
    for (name, bytes) in [
        ("an empty record", record(22, 1, &[])),
        ("an alert first", record(21, 3, &[2, 40])),
        ("data before a handshake", record(23, 3, &[0; 32])),
        ("a change of ciphers first", record(20, 3, &[1])),
        ("a heartbeat", record(24, 3, &[1, 0x40, 0])),
        ("a record of 65,535 bytes", [&[22, 3, 1, 0xFF, 0xFF][..], &[1; 65_535]].concat()),
        ("a ServerHello from a client", record(22, 3, &message(2, &[3; 40]))),
        ("a Finished first", record(22, 3, &message(20, &[0; 12]))),
        ("an unknown handshake message", record(22, 3, &message(99, &[0; 12]))),
        ("a ClientHello of garbage", record(22, 1, &message(1, &[0xFF; 60]))),
        ("a ClientHello of four bytes", record(22, 1, &message(1, &[3, 3, 0, 0]))),
        ("a ClientHello without suites", record(22, 1, &client_hello(3, &[], &[]))),
        ("a ClientHello of unknown suites", record(22, 1, &client_hello(3, &[0xFA, 0xFB], &[]))),
        ("a ClientHello without extensions", record(22, 1, &client_hello(3, suites, &[]))),
        ("a ClientHello of TLS 1.0", record(22, 1, &client_hello(1, &[0, 0x2F], &[]))),
        ("a ClientHello of SSL 3", record(22, 0, &client_hello(0, &[0, 0x2F], &[]))),
        ("extensions that are cut", record(22, 1, &client_hello(3, suites, &[0, 43, 0, 9, 2]))),
        (
            "an extension twice",
            record(22, 1, &client_hello(3, suites, &[0, 23, 0, 0, 0, 23, 0, 0])),
        ),
        (
            "a message of 16 MiB",
            record(22, 1, &[&[1, 0xFF, 0xFF, 0xFF][..], &[0; 16_000]].concat()),
        ),
        ("an empty message", record(22, 1, &message(1, &[]))),
    ] {
        table.add(name, start, bytes, failed());
    }
    let hello = record(22, 1, &client_hello(3, suites, &[]));
    let gone = || Outcome::Alerts("client_gone");
    table.add_ended("half a ClientHello, then the end", start, &hello[..30], gone());
    table.add_ended("a record's header, then the end", start, &hello[..5], gone());
    table.add("half a ClientHello", start, &hello[..30], Outcome::Waits);
    let version_2 = b"\x80\x2E\x01\0\x02\0\x15\0\0\0\x10";
    table.add("a hello of SSL 2", start, *version_2, Outcome::Silence("unknown_protocol"));
    table.cases
}

/// A folder of this test's own; gone when dropped.
pub struct Folder {
    pub path: PathBuf,
}

impl Folder {
    pub fn new(name: &str) -> Folder {
        let own = format!("boltmux-hostile-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(own);
        std::fs::create_dir_all(&path).unwrap();
        Folder { path }
    }

    /// A certificate and its key, as settings.
    fn certificate(&self) -> [String; 2] {
        let made = rcgen::generate_simple_self_signed(vec!["bolt.example".into()]).unwrap();
        let (certificate, key) = (self.path.join("certificate.pem"), self.path.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        [format!("listen.cert={}", certificate.display()), format!("listen.key={}", key.display())]
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[test]
fn every_record_of_a_client_meets_its_outcome() {
    let folder = Folder::new("tls");
    let files = folder.certificate();
    run_before(&cases(), 15, &[&files[0], &files[1]]);
}

#[test]
fn tls_that_was_not_asked_for_and_plain_where_it_was() {
    let mut table = Table::new("tls");
    let hello = record(22, 1, &client_hello(3, &[0x13, 0x01], &[]));
    table.add("TLS on a plain port", Start::Connected, hello, {
        Outcome::Silence("tls_not_offered")
    });
    table.add("an alert on a plain port", Start::Connected, record(21, 3, &[2, 40]), {
        Outcome::Silence("tls_not_offered")
    });
    let plain = proposals(&[V5_4.to_bytes()]);
    table.add_ended("Bolt on a plain port", Start::Connected, plain, {
        Outcome::Says(V5_4.to_bytes().to_vec(), "client_gone")
    });
    run_before(&table.cases, 3, &[]);
}
