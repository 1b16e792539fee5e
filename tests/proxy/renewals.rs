//! Certificates and authorities that are renewed while the proxy runs: who takes them over.

use crate::certificates::{Authority, Folder};
use crate::client::Client;
use crate::stage::{Stage, until};
use boltmux::synthetic::Options;
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
