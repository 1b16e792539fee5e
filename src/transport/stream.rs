//! What a task reads and writes: a plain connection, an encrypted one, or WebSocket over either.
//!
//! Every variant has the interface of `Conn`, so that the tasks above do not know what lies below.
//! The match is static: a plain connection costs one predictable branch.
//!
//! Partial records and frames live in the variant, never in a future. `is_quiet` looks into the
//! variant's own buffers, too.

use crate::transport::buffer::Chunk;
use crate::transport::conn::{Conn, IdleSocket};
use crate::transport::driver::Driver;
use crate::transport::tls::{self, TlsStream};
use crate::transport::websocket::WebSocket;
use crate::transport::websocket::codec::{CloseCode, Fault};
use rustls::ServerConfig;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

pub enum Stream {
    Tcp(Conn),
    Tls(Box<TlsStream>),
    /// Over one of the others.
    WebSocket(Box<WebSocket>),
}

/// What lies around a client's Bolt, as far as operators want to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    Plain,
    Tls,
    WebSocket,
    /// WebSocket over TLS.
    Both,
}

impl Layers {
    pub const ALL: [Layers; 4] = [Layers::Plain, Layers::Tls, Layers::WebSocket, Layers::Both];

    /// The label in `boltmux_clients{transport}`.
    pub fn name(self) -> &'static str {
        match self {
            Layers::Plain => "bolt",
            Layers::Tls => "tls",
            Layers::WebSocket => "websocket",
            Layers::Both => "wss",
        }
    }
}

/// Forwards to the variant's method of the same name.
macro_rules! forward {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::WebSocket($stream) => $call,
        }
    };
}

/// The same for what WebSocket leaves to the connection below it.
macro_rules! forward_below {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::WebSocket(websocket) => {
                let $stream = websocket.inner();
                $call
            }
        }
    };
}

impl Stream {
    /// Goes on with what another shard has detached.
    pub fn adopt(driver: &Rc<Driver>, socket: IdleSocket) -> Stream {
        let conn = driver.adopt(socket.fd, socket.side);
        match socket.session {
            Some(session) => TlsStream::attach(conn, session).into(),
            None => conn.into(),
        }
    }

    /// See `Conn::poll_recv`.
    pub fn poll_recv(&self, cx: &Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        forward!(self, stream => stream.poll_recv(cx))
    }

    /// See `Conn::recv`.
    pub async fn recv(&self) -> io::Result<Option<Chunk>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// See `Conn::take_received`.
    pub fn take_received(&self) -> Option<Chunk> {
        forward!(self, stream => stream.take_received())
    }

    /// See `Conn::send`.
    pub fn send(&self, chunks: impl IntoIterator<Item = Chunk>) {
        forward!(self, stream => stream.send(chunks))
    }

    /// The same without being generic: a stream in a stream would be compiled without end.
    pub(crate) fn send_boxed(&self, chunks: &mut dyn Iterator<Item = Chunk>) {
        self.send(chunks);
    }

    /// See `Conn::fail_send`.
    pub(crate) fn fail_send(&self) {
        forward_below!(self, stream => stream.fail_send())
    }

    /// See `Conn::queued_bytes`.
    pub fn queued_bytes(&self) -> usize {
        forward_below!(self, stream => stream.queued_bytes())
    }

    /// See `Conn::poll_ready`.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        forward_below!(self, stream => stream.poll_ready(cx))
    }

    /// See `Conn::has_room`.
    pub fn has_room(&self) -> bool {
        forward_below!(self, stream => stream.has_room())
    }

    /// See `Conn::poll_flushed`.
    pub fn poll_flushed(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        forward_below!(self, stream => stream.poll_flushed(cx))
    }

    /// See `Conn::is_flushed`.
    pub fn is_flushed(&self) -> bool {
        forward_below!(self, stream => stream.is_flushed())
    }

    /// See `Conn::has_ended`.
    pub fn has_ended(&self) -> bool {
        forward!(self, stream => stream.has_ended())
    }

    /// See `Conn::poll_dead`.
    pub fn poll_dead(&self, cx: &Context<'_>) -> Poll<()> {
        forward!(self, stream => stream.poll_dead(cx))
    }

    /// See `Conn::is_quiet`.
    pub fn is_quiet(&self) -> bool {
        forward!(self, stream => stream.is_quiet())
    }

    /// See `Conn::watch`.
    pub fn watch(&self, waker: &Waker) {
        forward_below!(self, stream => stream.watch(waker))
    }

    /// See `Conn::shutdown`.
    pub fn shutdown(&self) {
        forward_below!(self, stream => stream.shutdown())
    }

    /// See `Conn::is_spent`; TLS and WebSocket have a last word to say.
    pub fn is_spent(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_spent(),
            Stream::Tls(_) | Stream::WebSocket(_) => false,
        }
    }

    /// See `Conn::close`.
    pub async fn close(self) {
        forward!(self, stream => stream.close().await)
    }

    /// See `Conn::detach`.
    pub async fn detach(self) -> Result<IdleSocket, Stream> {
        match self {
            Stream::Tcp(stream) => stream.detach().await.map_err(Stream::from),
            Stream::Tls(stream) => stream.detach().await.map_err(Stream::from),
            // A bare socket would have lost where the frames are.
            Stream::WebSocket(_) => Err(self),
        }
    }

    pub fn layers(&self) -> Layers {
        match self {
            Stream::Tcp(_) => Layers::Plain,
            Stream::Tls(_) => Layers::Tls,
            Stream::WebSocket(stream) => match stream.inner() {
                Stream::Tls(_) => Layers::Both,
                _ => Layers::WebSocket,
            },
        }
    }

    /// The rule of WebSocket that the peer has broken.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Stream::Tcp(_) | Stream::Tls(_) => None,
            Stream::WebSocket(stream) => stream.fault(),
        }
    }

    /// What a peer behind WebSocket is told when this is closed.
    pub fn set_close_code(&self, code: CloseCode) {
        match self {
            Stream::Tcp(_) | Stream::Tls(_) => {}
            Stream::WebSocket(stream) => stream.set_close_code(code),
        }
    }

    /// Answers a client's TLS handshake, `first_bytes` of which have been read. Waits for nothing;
    /// given back as it was if this connection cannot be encrypted.
    pub fn encrypt(self, first_bytes: &[u8], config: &Arc<ServerConfig>) -> Result<Stream, Stream> {
        match self {
            Stream::Tcp(conn) => match tls::accept(conn, first_bytes, config) {
                Ok(stream) => Ok(stream.into()),
                Err(conn) => Err(conn.into()),
            },
            other => Err(other),
        }
    }

    /// Why the peer of a TLS connection was not believed, if it was not.
    pub fn tls_failure(&self) -> Option<Arc<str>> {
        match self {
            Stream::Tcp(_) => None,
            Stream::Tls(stream) => stream.failure(),
            Stream::WebSocket(stream) => stream.inner().tls_failure(),
        }
    }

    /// See `Conn::peer_address`.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        forward_below!(self, stream => stream.peer_address())
    }

    /// See `Conn::local_address`.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        forward_below!(self, stream => stream.local_address())
    }
}

impl From<TlsStream> for Stream {
    fn from(stream: TlsStream) -> Stream {
        Stream::Tls(Box::new(stream))
    }
}

impl From<Conn> for Stream {
    fn from(conn: Conn) -> Stream {
        Stream::Tcp(conn)
    }
}

impl From<WebSocket> for Stream {
    fn from(websocket: WebSocket) -> Stream {
        Stream::WebSocket(Box::new(websocket))
    }
}
