//! The handshake: first bytes that are no Bolt, proposals that fit nobody, choices out of the
//! manifest that were not offered.

use crate::case::{Case, Outcome, Start, Table};
use crate::client::{MAGIC, V5_4, proposals};
use crate::run::run_all;

const UNKNOWN: &str = "unknown_protocol";

fn unknown() -> Outcome {
    Outcome::Silence(UNKNOWN)
}

fn gone() -> Outcome {
    Outcome::Silence("client_gone")
}

fn no_version() -> Outcome {
    Outcome::Says(vec![0; 4], "no_version")
}

fn not_offered() -> Outcome {
    Outcome::Silence("no_version")
}

pub fn cases() -> Vec<Case> {
    let mut table = Table::new("handshake");
    ended_early(&mut table);
    other_protocols(&mut table);
    strange_proposals(&mut table);
    strange_choices(&mut table);
    table.cases
}

fn ended_early(table: &mut Table) {
    let start = Start::Connected;
    let whole = proposals(&[V5_4.to_bytes()]);
    table.add_ended("an end and nothing before it", start, [], gone());
    table.add_ended("one byte, then the end", start, &MAGIC[..1], gone());
    table.add_ended("the magic, then the end", start, MAGIC, gone());
    table.add_ended("the magic and one byte, then the end", start, &whole[..5], gone());
    table.add_ended("nineteen bytes, then the end", start, &whole[..19], gone());
    table.add("the magic and nothing more", start, MAGIC, Outcome::Waits);
    table.add("nineteen bytes and nothing more", start, &whole[..19], Outcome::Waits);
}

fn other_protocols(table: &mut Table) {
    let start = Start::Connected;
    let proxy_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\x7F\0\0\x01\x7F\0\0\x01\0\x01\0\x02";
    let others: [(&str, &[u8]); 24] = [
        ("a magic that ends wrong", b"\x60\x60\xB0\x18\0\0\x04\x05"),
        ("a magic that begins wrong", b"\x61\x60\xB0\x17\0\0\x04\x05"),
        ("a magic turned round", b"\x17\xB0\x60\x60\0\0\x04\x05"),
        ("a zero before the magic", b"\0\x60\x60\xB0\x17\0\0\x04\x05"),
        ("twenty zeros", &[0; 20]),
        ("twenty times FF", &[0xFF; 20]),
        ("the banner of SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
        ("the greeting of SMTP", b"EHLO test\r\n"),
        ("a PING of Redis", b"*1\r\n$4\r\nPING\r\n"),
        ("a start of Postgres", b"\0\0\0\x08\x04\xD2\x16\x2F"),
        ("a connect of RDP", b"\x03\0\0\x13\x0E\xE0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0"),
        ("a negotiation of SMB", b"\0\0\0\x85\xFFSMB\x72\0\0\0\0"),
        ("a bind of LDAP", b"\x30\x0C\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0"),
        ("a connect of MQTT", b"\x10\x0C\0\x04MQTT\x04\x02\0\x3C\0\0"),
        ("a greeting of SOCKS", b"\x05\x03\0\x01\x02"),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("a text PROXY header nobody asked for", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"),
        ("a binary PROXY header nobody asked for", proxy_2),
        ("a record of an unknown version of TLS", b"\x16\x04\x01\x00\x05\x01\0\0\x01\0"),
        ("a ClientHello of SSL 2", b"\x80\x2E\x01\0\x02\0\x15\0\0\0\x10"),
        ("a byte order mark before GET", b"\xEF\xBB\xBFGET / HTTP/1.1\r\n\r\n"),
        ("a line end before GET", b"\r\nGET / HTTP/1.1\r\n\r\n"),
        ("PackStream without a handshake", b"\0\x03\xB1\x01\xA0\0\0"),
        ("an unknown record of TLS", b"\x19\x03\x03\0\x02\x02\x28"),
    ];
    for (name, bytes) in others {
        table.add(name, start, bytes, unknown());
    }
}

fn strange_proposals(table: &mut Table) {
    let start = Start::Connected;
    let fitting_nobody: [(&str, &[[u8; 4]]); 12] = [
        ("no proposal at all", &[]),
        ("a version that is not there yet", &[[0, 0, 0, 7]]),
        ("versions 1 and 2", &[[0, 0, 0, 1], [0, 0, 0, 2]]),
        ("version 5.5, which never was", &[[0, 0, 5, 5]]),
        ("a range that would reach another major", &[[0, 255, 0, 7]]),
        ("a range above all minors", &[[0, 5, 200, 5]]),
        ("the magic as a proposal", &[MAGIC]),
        ("manifest version 0", &[[0, 0, 0, 255]]),
        ("manifest version 2", &[[0, 0, 2, 255]]),
        ("manifest version 255", &[[255, 255, 255, 255]; 4]),
        ("proposals in the other byte order", &[[5, 4, 0, 0]]),
        ("four proposals of major 0", &[[0, 9, 9, 0]; 4]),
    ];
    for (name, words) in fitting_nobody {
        table.add(name, start, proposals(words), no_version());
    }
    let taken: [(&str, &[[u8; 4]]); 4] = [
        ("a proposal whose reserved byte is set", &[[1, 0, 4, 5]]),
        ("a range wider than its minor", &[[0, 255, 4, 5]]),
        ("one proposal four times", &[[0, 0, 4, 5]; 4]),
        ("an unknown manifest before a version", &[[0, 0, 9, 255], [0, 0, 4, 5]]),
    ];
    for (name, words) in taken {
        let answer = Outcome::Says(V5_4.to_bytes().to_vec(), "client_gone");
        table.add_ended(name, start, proposals(words), answer);
    }
    let flood = [proposals(&[V5_4.to_bytes()]), vec![0; 100_000]].concat();
    let answer = Outcome::Says(V5_4.to_bytes().to_vec(), "client_gone");
    table.add_ended("a flood of no-ops behind the proposals", start, flood, answer);
}

fn strange_choices(table: &mut Table) {
    let start = Start::Manifest;
    let refused: [(&str, &[u8]); 14] = [
        ("the choice of no version", b"\0\0\0\0\0"),
        ("no version, with a capability", b"\0\0\0\0\x01"),
        ("the choice of 5.5", b"\0\0\x05\x05\0"),
        ("the choice of version 7", b"\0\0\0\x07\0"),
        ("a range as the choice", b"\0\x02\x08\x05\0"),
        ("a choice whose reserved byte is set", b"\x01\0\x08\x05\0"),
        ("the manifest as the choice", b"\0\0\x01\xFF\0"),
        ("the magic as the choice", b"\x60\x60\xB0\x17\0"),
        ("HTTP as the choice", b"GET / HTTP/1.1\r\n\r\n"),
        ("a capability nobody offered", b"\0\0\x08\x05\x01"),
        ("all capabilities", b"\0\0\x08\x05\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"),
        ("capabilities of 65 bits", b"\0\0\x08\x05\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02"),
        ("capabilities that do not end", b"\0\0\x08\x05\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"),
        ("a choice of FF", &[0xFF; 5]),
    ];
    for (name, bytes) in refused {
        table.add(name, start, bytes, not_offered());
    }
    table.add_ended("half a choice, then the end", start, [0, 0], gone());
    table.add_ended("a choice without capabilities, then the end", start, [0, 0, 8, 5], gone());
    table.add_ended("no capabilities, in two bytes", start, [0, 0, 8, 5, 0x80, 0], gone());
    table.add("half a choice and nothing more", start, [0, 0], Outcome::Waits);
    table.add("capabilities that go on", start, [0, 0, 8, 5, 0x80], Outcome::Waits);
}

#[test]
fn every_client_handshake_meets_its_outcome() {
    run_all(&cases(), 60);
}
