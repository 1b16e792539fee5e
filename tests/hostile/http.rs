//! HTTP on the Bolt port: heads that are no heads, too long ones, other methods.

use crate::case::{Case, Outcome, Start, Table};
use crate::run::run_all;

pub fn cases() -> Vec<Case> {
    let mut table = Table::new("http");
    let start = Start::Connected;
    let broken = || Outcome::Http("400 ");
    let too_long = || Outcome::Http("431 ");
    for (name, text) in [
        ("a path with a control character", "GET /\x01 HTTP/1.1\r\n\r\n"),
        ("a version of HTTP that is not there", "GET / HTTP/9.9\r\n\r\n"),
        ("a header without a colon", "GET / HTTP/1.1\r\nno colon\r\n\r\n"),
        ("a header name with a space", "GET / HTTP/1.1\r\na b: c\r\n\r\n"),
        ("a header value with a zero", "GET / HTTP/1.1\r\na: \0\r\n\r\n"),
        ("an empty header name", "GET / HTTP/1.1\r\n: x\r\n\r\n"),
        ("two spaces behind GET", "GET  / HTTP/1.1\r\n\r\n"),
        ("no version of HTTP", "GET /\r\n\r\n"),
        ("a folded header first", "GET / HTTP/1.1\r\n folded\r\n\r\n"),
        ("a carriage return alone", "GET / HTTP/1.1\rx\r\n\r\n"),
        ("Bolt's magic in the path", "GET \x60\x60\u{b0}\x17 HTTP/1.1\r\nx\r\n\r\n"),
    ] {
        table.add(name, start, text, broken());
    }
    let path = "a".repeat(9 << 10);
    table.add("a path of 9 KiB", start, format!("GET /{path} HTTP/1.1\r\n\r\n"), too_long());
    table.add("a path that never ends", start, format!("GET /{path}"), too_long());
    let header = format!("GET / HTTP/1.1\r\na: {path}\r\n\r\n");
    table.add("a header of 9 KiB", start, header, too_long());
    let many = "A: b\r\n".repeat(65);
    table.add("65 headers", start, format!("GET / HTTP/1.1\r\n{many}\r\n"), too_long());
    let many = "A: b\r\n".repeat(100_000);
    table.add("headers that never end", start, format!("GET / HTTP/1.1\r\n{many}"), too_long());
    let ok = || Outcome::Http("200 OK\r\n");
    table.add("a body behind GET", start, "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", ok());
    let chunked = "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n";
    table.add("a chunked body that lies", start, chunked, ok());
    let two = "GET / HTTP/1.1\r\n\r\n".repeat(50);
    table.add("fifty requests at once", start, two, ok());
    table.add("the path of an attack", start, "GET /../../etc/passwd HTTP/1.1\r\n\r\n", ok());
    table.add("HTTP 1.0 without headers", start, "GET / HTTP/1.0\r\n\r\n", ok());
    let unknown = || Outcome::Silence("unknown_protocol");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "get"] {
        let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        table.add(format!("the method {method}"), start, text, unknown());
    }
    let gone = Outcome::Silence("client_gone");
    table.add_ended("half a head, then the end", start, "GET / HTTP/1.1\r\nHo", gone);
    table.add("half a head and nothing more", start, "GET / HTTP/1.1\r\nHo", Outcome::Waits);
    table.cases
}

#[test]
fn every_http_head_meets_its_outcome() {
    run_all(&cases(), 15);
}
