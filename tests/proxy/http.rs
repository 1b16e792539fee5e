//! HTTP on the Bolt port.

use crate::client::{Client, V5_4};
use crate::stage::{Stage, http};
use boltmux::synthetic::Options;

const GET_HEALTH: &str = "GET /health HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn health_is_200_with_a_server_and_503_without() {
    let stage = Stage::start(&[], Options::default());
    stage.proxy.until("the server is seen", |all| all.get("server_reachable") == 1);
    let answer = http(stage.address(), GET_HEALTH);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\"healthy\":true") && answer.contains("Neo4j/5.26.0"), "{answer}");
    stage.server.stop();
    stage.proxy.until("it is missed", |all| all.get("server_reachable") == 0);
    let is_unhealthy = || {
        let answer = http(stage.address(), GET_HEALTH);
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"healthy\":false")
    };
    crate::stage::until("health says so", is_unhealthy);
    stage.server.restart().unwrap();
    let is_healthy = || http(stage.address(), GET_HEALTH).starts_with("HTTP/1.1 200 ");
    crate::stage::until("health is back", is_healthy);
    stage
        .proxy
        .until("all are counted", |all| all.get("closed{http}") == all.get("clients_accepted"));
}

#[test]
fn other_requests_get_discovery_or_an_error() {
    let stage = Stage::start(&[], Options::default());
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n", "200 OK", "{}"),
        ("GET /anything?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK", "{}"),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK", ""),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "405 ", "{\"error\""),
        ("GET / HTTP/1.1\r\nbroken header\r\n\r\n", "400 ", "{\"error\""),
        ("GET \x01 nonsense\r\n\r\n", "400 ", "{\"error\""),
    ];
    for (request, status, body) in cases {
        let answer = http(stage.address(), request);
        let (head, came) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
        assert!(came.starts_with(body) && (came.is_empty() == body.is_empty()), "{answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9 << 10));
    assert!(http(stage.address(), &long).starts_with("HTTP/1.1 431 "));
    let head = http(stage.address(), "HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(head.ends_with("\r\n\r\n") && head.contains("Content-Length: "), "{head}");
    Client::login(stage.address(), V5_4).expect_well();
}
