//! The way in: from the first byte to the Bolt handshake, through whatever lies around it.
//!
//! ```text
//!  (a PROXY header, where a balancer stands in front)
//!  first bytes ─┬─ Bolt ────────────────────────────────────────────► handshake
//!               ├─ TLS ─► the same question about its plaintext, without TLS
//!               ├─ HTTP ─┬─ upgrade ─► the same question about its payloads: Bolt only
//!               │        └─ health, discovery, anything else ─► answered and closed
//!               └─ anything else ─► closed without a word, as servers do
//! ```
//!
//! Owns: which layers lie around a client's bytes, and the deadline that all its first bytes share.
//! Does not own: the layers themselves, the handshake. Invariant: when a layer is put on, nothing
//! of the client is left that was not meant for it.

use crate::relay::close::CloseReason;
use crate::relay::world::World;
use crate::transport::buffer::Chunk;
use crate::transport::conn::Conn;
use crate::transport::detect::{Detected, detect};
use crate::transport::driver::Sleep;
use crate::transport::http;
use crate::transport::proxy_protocol::{self, Ends, Parsed};
use crate::transport::stream::Stream;
use crate::transport::websocket::WebSocket;
use crate::transport::websocket::codec::CloseCode;
use crate::transport::websocket::upgrade::Origins;
use bytes::Bytes;
use ipnet::IpNet;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use zeroize::Zeroizing;

/// A client is known by its first 20 bytes; an HTTP head may be 8 KiB. More than that and a
/// handshake's choice is never read before the session takes over.
const FIRST_BYTES_MAX: usize = 10 << 10;
/// A client that has chosen its version may send its login at once, but not more.
const LOGIN_BYTES_MAX: usize = 64 << 10;

/// One listener's conditions.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// Its place among the listeners of the settings.
    pub place: usize,
    pub tls: TlsMode,
    /// Who says of its clients, in a PROXY header, where they come from; `None`: nobody.
    pub balancers: Option<Vec<IpNet>>,
    /// A Unix socket: who comes through the file system was let in by its rights.
    pub is_unix: bool,
    /// From which pages a WebSocket may be opened.
    pub origins: Origins,
    /// How often a client behind WebSocket is sent a Ping.
    pub ping_every: Option<Duration>,
}

/// Whether a listener's clients encrypt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    #[default]
    Off,
    Optional,
    Required,
}

/// A client that has not said all of its first bytes yet.
pub struct Entrance {
    world: Rc<World>,
    door: Rc<Door>,
    /// `None` only while a layer is put on.
    stream: Option<Stream>,
    /// May end with a login; wiped when it is not needed any more.
    bytes: Zeroizing<Vec<u8>>,
    limit: Sleep,
    is_encrypted: bool,
    /// As the balancer in front has told.
    ends: Option<Ends>,
}

impl Entrance {
    pub fn new(world: Rc<World>, door: Rc<Door>, conn: Conn) -> Entrance {
        let limit = world.driver.sleep(world.options.first_bytes_within);
        let stream = Some(Stream::from(conn));
        Entrance {
            world,
            door,
            stream,
            bytes: Zeroizing::default(),
            limit,
            is_encrypted: false,
            ends: None,
        }
    }

    /// Goes through the layers until the first of `bytes` is the Bolt handshake's.
    pub async fn find_bolt(&mut self) -> Result<(), CloseReason> {
        self.hear_balancer().await?;
        loop {
            let is_websocket = matches!(self.stream(), Stream::WebSocket(_));
            let is_plain = !self.is_encrypted && self.door.tls == TlsMode::Required;
            match detect(&self.bytes) {
                Detected::NeedMore => self.more().await?,
                Detected::Tls if self.is_encrypted || is_websocket => {
                    return Err(CloseReason::NestedLayer);
                }
                Detected::Tls if self.door.tls == TlsMode::Off => {
                    return Err(CloseReason::TlsNotOffered);
                }
                Detected::Tls => self.encrypt()?,
                Detected::Close => return Err(CloseReason::UnknownProtocol),
                Detected::Bolt | Detected::Http if is_plain => {
                    return Err(CloseReason::TlsRequired);
                }
                Detected::Http if is_websocket => return Err(CloseReason::NestedLayer),
                Detected::Http => self.serve_http().await?,
                Detected::Bolt => return Ok(()),
            }
        }
    }

    /// What lies between the client and its bytes.
    pub fn stream(&self) -> &Stream {
        self.stream.as_ref().expect("a layer is put on without a pause")
    }

    /// Bytes that came and were not taken.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn take(&mut self, count: usize) -> Vec<u8> {
        self.bytes.drain(..count).collect()
    }

    /// Gives it so long from now on.
    pub fn give_time(&mut self, within: Duration) {
        self.limit = self.world.driver.sleep(within);
    }

    /// Ends the entrance; what was not taken comes along.
    pub fn into_parts(self) -> (Option<Stream>, Zeroizing<Vec<u8>>) {
        (self.stream, self.bytes)
    }

    /// Both ends of the client's connection: as a balancer told, else those of the socket.
    pub fn ends(&self) -> Option<Ends> {
        self.ends.or_else(|| {
            let (client, reached) = (self.stream().peer_address(), self.stream().local_address());
            Some(Ends { client: client.ok()?, reached: reached.ok()? })
        })
    }

    /// Where a balancer stands in front it speaks first, and nobody else may.
    async fn hear_balancer(&mut self) -> Result<(), CloseReason> {
        let Some(balancers) = &self.door.balancers else { return Ok(()) };
        let peer = self.stream().peer_address();
        if !self.door.is_unix && !is_trusted(peer, balancers) {
            return Err(CloseReason::ProxyUntrusted);
        }
        loop {
            match proxy_protocol::parse(&self.bytes) {
                Parsed::NeedMore => self.more().await?,
                Parsed::Broken => return Err(CloseReason::ProxyHeader),
                Parsed::Header { bytes, ends } => {
                    self.bytes.drain(..bytes);
                    self.ends = ends;
                    return Ok(());
                }
            }
        }
    }

    /// Waits for more, until the deadline that all first bytes share.
    pub async fn more(&mut self) -> Result<(), CloseReason> {
        let Entrance { world, stream, limit, .. } = self;
        let stream = stream.as_ref().expect("a layer is put on without a pause");
        let received = poll_fn(|cx| match stream.poll_recv(cx) {
            Poll::Ready(received) => Poll::Ready(Some(received)),
            // Nobody who has not said anything yet is waited for.
            Poll::Pending if world.is_draining.get() => Poll::Ready(None),
            Poll::Pending => Pin::new(&mut *limit).poll(cx).map(|()| None),
        });
        let received: Option<io::Result<Option<Chunk>>> = received.await;
        match received {
            Some(Ok(Some(chunk))) => {
                let was_long = self.bytes.len() + chunk.len() > FIRST_BYTES_MAX;
                append(&mut self.bytes, &chunk);
                match was_long && self.bytes.len() > FIRST_BYTES_MAX + LOGIN_BYTES_MAX {
                    true => Err(CloseReason::InvalidRequest),
                    false => Ok(()),
                }
            }
            Some(Ok(None)) | Some(Err(_)) => Err(CloseReason::ClientGone),
            None if self.world.is_draining.get() => Err(CloseReason::Drain),
            None => Err(CloseReason::LoginTimeout),
        }
    }

    /// Puts TLS around what comes; its first bytes have come already.
    fn encrypt(&mut self) -> Result<(), CloseReason> {
        let config = self.world.tls.borrow().get(self.door.place).cloned().flatten();
        let config = config.ok_or(CloseReason::TlsNotOffered)?;
        let first = std::mem::take(&mut self.bytes);
        let stream = self.stream.take().expect("a layer is put on without a pause");
        self.is_encrypted = true;
        match stream.encrypt(&first, &config) {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(stream) => {
                self.stream = Some(stream);
                Err(CloseReason::TlsFailed)
            }
        }
    }

    /// Health checks, discovery, whoever speaks HTTP by mistake, and upgrades.
    async fn serve_http(&mut self) -> Result<(), CloseReason> {
        loop {
            let answer = match http::parse(&self.bytes, &self.door.origins) {
                http::Parsed::NeedMore => {
                    self.more().await?;
                    continue;
                }
                http::Parsed::Request(request) => {
                    let answer = http::answer(&request, &self.world.health.borrow());
                    if matches!(request.wants, http::Wants::WebSocket(_)) {
                        return self.upgrade(request.head_bytes, answer);
                    }
                    answer
                }
                http::Parsed::Broken(fault) => http::refusal(fault),
            };
            self.stream().send([Chunk::from(answer)]);
            return Err(CloseReason::Http);
        }
    }

    fn upgrade(&mut self, head_bytes: usize, answer: Bytes) -> Result<(), CloseReason> {
        // A client waits for the answer before its first frame (RFC 6455, 4.1).
        if self.bytes.len() > head_bytes {
            return Err(CloseReason::EarlyBytes);
        }
        self.bytes.clear();
        self.stream().send([Chunk::from(answer)]);
        let inner = self.stream.take().expect("a layer is put on without a pause");
        let (driver, ping_every) = (self.world.driver.clone(), self.door.ping_every);
        self.stream = Some(WebSocket::new(inner, driver, ping_every).into());
        Ok(())
    }
}

/// Whether a peer's word is taken. One that has reset its connection has no address any more, but
/// what it sent can still be read: it is nobody's word.
fn is_trusted(peer: io::Result<SocketAddr>, balancers: &[IpNet]) -> bool {
    let Ok(peer) = peer else { return false };
    let address = peer.ip().to_canonical();
    balancers.iter().any(|network| network.contains(&address))
}

/// Appends, and wipes what is left behind where that moves the bytes.
fn append(bytes: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    let length = bytes.len() + more.len();
    if length > bytes.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(length.next_power_of_two()));
        larger.extend_from_slice(bytes);
        *bytes = larger;
    }
    bytes.extend_from_slice(more);
}

/// Why a client was closed: what a layer found wrong is the reason above others.
pub fn reason(stream: &Stream, why: CloseReason) -> CloseReason {
    if stream.tls_failure().is_some() {
        CloseReason::TlsFailed
    } else if stream.fault().is_some() {
        CloseReason::WebSocketViolation
    } else {
        why
    }
}

/// Ends a client's connection; behind WebSocket it is told why.
pub async fn close(stream: Stream, why: CloseReason) {
    stream.set_close_code(match why {
        CloseReason::Drain => CloseCode::GoingAway,
        CloseReason::UnknownProtocol | CloseReason::InvalidRequest | CloseReason::NestedLayer => {
            CloseCode::Protocol
        }
        CloseReason::TooManyClients | CloseReason::HeapBudget => CloseCode::TryAgainLater,
        CloseReason::LoginTimeout | CloseReason::MessageTimeout | CloseReason::IdleTimeout => {
            CloseCode::Policy
        }
        _ => CloseCode::Normal,
    });
    stream.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_balancer_whose_address_is_known_is_trusted() {
        let balancers = ["192.0.2.0/24".parse().unwrap()];
        let peer = |text: &str| Ok(text.parse().unwrap());
        assert!(is_trusted(peer("192.0.2.7:1"), &balancers));
        assert!(is_trusted(peer("[::ffff:192.0.2.7]:1"), &balancers));
        assert!(!is_trusted(peer("198.51.100.7:1"), &balancers));
        let gone = io::Error::from_raw_os_error(libc::ENOTCONN);
        assert!(!is_trusted(Err(gone), &balancers), "reset by now, and it may be anybody");
    }
}
