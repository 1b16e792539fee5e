//! Certificates and authorities that are renewed while the proxy runs: who takes them over.

use crate::certificates::{Authority, Folder};
use crate::client::Client;
use crate::program::Program;
use crate::stage::{Stage, until};
use boltmux::synthetic::{Options, Server};
use std::net::SocketAddr;

const HOST: &str = "bolt.example";

/// The certificate that a new client sees there.
fn shown(address: SocketAddr, authority: &Authority) -> Vec<u8> {
    let client = Client::secure(address, &authority.client(), HOST).expect("a good certificate");
    let tls = client.tls.expect("TLS is spoken");
    tls.peer_certificates().expect("a certificate is shown")[0].to_vec()
}

#[test]
fn listeners_with_one_certificate_all_take_the_new_one_over() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let [cert, key] = folder.pairs("own", &authority.certificate(&[HOST]));
    let pairs = ["listen.bind=127.0.0.1:0,127.0.0.1:0", &cert, &key];
    let stage = Stage::start(&pairs, Options::default());
    let renewed = authority.certificate(&[HOST]);
    folder.pairs("own", &renewed);
    let wanted = renewed.chain()[0].to_vec();
    assert_eq!(stage.proxy.addresses.len(), 2);
    for address in &stage.proxy.addresses {
        until("the new one is shown", || shown(*address, &authority) == wanted);
    }
}

#[test]
fn sighup_reads_the_authorities_of_the_system_anew() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let tls = Some(authority.certificate(&["localhost"]).server(None));
    let server = Server::start(Options { tls, ..Options::default() }).unwrap();
    // Where the system's authorities are looked for first, as in OpenSSL.
    let system = folder.write("system.pem", &Authority::new().pem);
    let uri = format!("uplink.uri=bolt+s://localhost:{}", server.address().port());
    let variables = [("SSL_CERT_FILE", system.as_str())];
    let program = Program::start_with(server.address(), &[&uri, "shards=1"], &variables);
    assert_eq!(program.metrics().get("server_reachable"), 0);
    folder.write("system.pem", &authority.pem);
    program.signal("HUP");
    program.until("the server is believed", |all| all.get("server_reachable") == 1);
}
