//! Dials to a name with several addresses, of which one swallows everything.

use crate::client::{PASSWORD, V5_4};
use boltmux::backend::connection::{self, DialError, Target};
use boltmux::backend::identity::{FingerprintKey, Profile};
use boltmux::backend::pool::DialFailure;
use boltmux::synthetic::{Options, Server};
use boltmux::transport::driver::{self, Driver};
use boltmux::transport::runtime;
use boltmux::wire::message::{Auth, Notifications};
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

/// Only a test that fails waits so long.
const WITHIN: Duration = Duration::from_secs(60);
/// A loopback that has not answered by then drops what is sent to it.
const SILENCE: Duration = Duration::from_millis(200);

/// A listener whose queue is full: the kernel drops further attempts without a word.
struct BlackHole {
    address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl BlackHole {
    fn open() -> BlackHole {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        loop {
            assert!(sockets.len() < 64, "the queue takes everybody");
            let client = socket();
            let is_full = client.connect_timeout(&address, SILENCE).is_err();
            sockets.push(client);
            if is_full {
                return BlackHole { address: address.as_socket().unwrap(), _sockets: sockets };
            }
        }
    }
}

/// Dials these addresses in turn; the error as text.
fn dial(addresses: Vec<SocketAddr>, connect_within: Duration) -> Result<(), String> {
    let (sender, outcome) = mpsc::channel();
    let thread = runtime::start_executor("dial", None, move || async move {
        let driver = Driver::start(driver::Options::default()).unwrap();
        let (name, login_within) = ("server:7687".into(), WITHIN);
        let target = Target {
            addresses,
            name,
            connect_within,
            login_within,
            tls: None,
            proxy_protocol: None,
        };
        let notifications = Notifications::default();
        let profile = Profile { version: V5_4, routing: None, notifications, utc_patch: false };
        let auth = Auth::from_parts("basic", "neo4j", PASSWORD);
        let identity = FingerprintKey::new(&[7; 32]).identity(profile, auth, None);
        let dialed = connection::dial(&driver, &target, &identity).await;
        let dialed = dialed.map(|_| ()).map_err(|error| match error {
            DialError::Failed(DialFailure::Unreachable(text)) => text,
            _ => "another failure".into(),
        });
        sender.send(dialed).unwrap();
    });
    let came = outcome.recv_timeout(WITHIN).expect("the dial ends");
    thread.unwrap().join().expect("no panic");
    came
}

#[test]
fn an_address_that_swallows_everything_does_not_hide_the_next() {
    let (hole, server) = (BlackHole::open(), Server::start(Options::default()).unwrap());
    let limit = Duration::from_secs(2);
    assert_eq!(dial(vec![hole.address, server.address()], limit), Ok(()));
    assert_eq!(dial(vec![server.address(), hole.address], limit), Ok(()));
    let error = dial(vec![hole.address, hole.address], limit / 4).unwrap_err();
    assert!(error.contains("no answer within"), "{error}");
}
