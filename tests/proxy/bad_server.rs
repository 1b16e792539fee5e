//! A server on threads of its own that answers properly up to a point, and then as it is told.

use crate::client::encode;
use crate::value::map;
use boltmux::wire::message::tag;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Where a server goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Handshake,
    Hello,
    /// LOGON's answer.
    Logon,
    /// RUN's answer.
    Run,
    /// After the first record.
    Result,
    Nowhere,
}

type Badness = Arc<Mutex<(Phase, Vec<u8>)>>;

pub struct BadServer {
    pub address: SocketAddr,
    badness: Badness,
    is_over: Arc<AtomicBool>,
}

impl BadServer {
    /// Speaks 5.4 and behaves, until it is told otherwise.
    pub fn start() -> BadServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let badness: Badness = Arc::new(Mutex::new((Phase::Nowhere, Vec::new())));
        let is_over = Arc::new(AtomicBool::new(false));
        let (its_badness, its_end) = (badness.clone(), is_over.clone());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if its_end.load(Relaxed) {
                    return;
                }
                let badness = its_badness.clone();
                // A connection that ends in the middle ends its thread; that is all.
                std::thread::spawn(move || serve(stream, &badness));
            }
        });
        BadServer { address, badness, is_over }
    }

    /// From the next answer of that kind on, these bytes come instead.
    pub fn say(&self, phase: Phase, bytes: &[u8]) {
        *self.badness.lock().unwrap() = (phase, bytes.to_vec());
    }
}

impl Drop for BadServer {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, badness: &Badness) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let bad = |phase| {
        let badness = badness.lock().unwrap();
        (badness.0 == phase).then(|| badness.1.clone())
    };
    let mut hello = [0; 20];
    stream.read_exact(&mut hello).ok()?;
    let answer = bad(Phase::Handshake).unwrap_or(vec![0, 0, 4, 5]);
    stream.write_all(&answer).ok()?;
    let success = encode(tag::SUCCESS, &[map(&[])]);
    loop {
        let answer = match message(&mut stream)? {
            tag::HELLO => bad(Phase::Hello).unwrap_or_else(|| {
                let says = map(&[("server", "Neo4j/5.26.0"), ("connection_id", "bolt-1")]);
                encode(tag::SUCCESS, &[says])
            }),
            tag::LOGON => bad(Phase::Logon).unwrap_or_else(|| success.clone()),
            tag::RUN => bad(Phase::Run).unwrap_or_else(|| success.clone()),
            tag::PULL => {
                let row = crate::value::Value::List(vec!["well".into()]);
                let mut bytes = encode(tag::RECORD, &[row]);
                bytes.extend(bad(Phase::Result).unwrap_or_else(|| success.clone()));
                bytes
            }
            tag::GOODBYE => return None,
            _ => success.clone(),
        };
        stream.write_all(&answer).ok()?;
    }
}

/// Reads one message and returns its tag.
fn message(stream: &mut TcpStream) -> Option<u8> {
    let mut payload = Vec::new();
    loop {
        let mut header = [0; 2];
        stream.read_exact(&mut header).ok()?;
        match usize::from(u16::from_be_bytes(header)) {
            0 if payload.is_empty() => {}
            0 => return payload.get(1).copied(),
            length => {
                let start = payload.len();
                payload.resize(start + length, 0);
                stream.read_exact(&mut payload[start..]).ok()?;
            }
        }
    }
}
