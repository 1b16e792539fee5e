//! TLS over a `Conn`, with the interface of a `Conn`; both as server and as client.
//!
//! `session` is the conversation without a socket. `certificate` reads what files hold, `server`
//! and `client` make configurations of it, `tickets` lets clients resume on any shard, `names`
//! says which certificate is whose, `explain` puts errors into words.
//!
//! The handshake goes on inside `poll_recv` and needs no task of its own: whoever waits for the
//! first plaintext puts the deadline on it. Back-pressure is that of the connection below: who does
//! not ask for plaintext does not ask for ciphertext either, and at most one received chunk is
//! decrypted ahead. What is sent is encrypted at once, so `queued_bytes` and `poll_flushed` count
//! ciphertext, on the shard's heap budget.
//!
//! Invariants: no partial record lies anywhere but in the session; an idle connection holds neither
//! plaintext nor ciphertext; an end without close_notify is an end all the same, as for servers.

pub mod certificate;
pub mod client;
pub mod explain;
pub mod names;
pub mod server;
mod session;
pub mod tickets;

pub use session::{Fed, Session};

use crate::transport::buffer::Chunk;
use crate::transport::conn::{Conn, IdleSocket};
use crate::transport::options::TlsEvent;
use bytes::Bytes;
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What one record carries at most (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 16 << 10;
/// A record's header of 5 bytes, its tag of 16, and in TLS 1.2 a nonce or in TLS 1.3 its type.
const RECORD_OVERHEAD_MAX: usize = 5 + 16 + 8;
const ALERT_BYTES_MAX: usize = 2 + RECORD_OVERHEAD_MAX;
/// A ClientHello, and a server's flight with a usual chain: only where allocation begins.
const HELLO_BYTES: usize = 1 << 10;
const FLIGHT_BYTES: usize = 3 << 10;
/// Spans of one `send` that are encrypted together; more than a relay ever has at once.
const SPANS_MAX: usize = 64;

/// A TLS connection.
pub struct TlsStream {
    conn: Conn,
    inner: RefCell<Inner>,
}

struct Inner {
    session: Box<Session>,
    /// Decrypted and not taken yet.
    plain: Option<Chunk>,
    end: Option<End>,
    is_established: bool,
    is_closing: bool,
    /// Who is to be told of whatever comes while nobody reads: kept, because a record may come that
    /// tells nothing.
    watcher: Option<Waker>,
}

/// How the peer's direction ended.
#[derive(Clone)]
enum End {
    Closed,
    Failed(Arc<str>),
}

/// An idle TLS connection's state as a plain value; see `TlsStream::detach`.
pub struct IdleSession(Box<Session>);

impl fmt::Debug for IdleSession {
    /// No key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("IdleSession")
    }
}

/// Answers the TLS handshake of an accepted client, whose first bytes have been read already.
/// Waits for nothing: the handshake goes on in `poll_recv`. The connection comes back if the
/// configuration cannot be used.
pub fn accept(
    conn: Conn,
    first_bytes: &[u8],
    config: &Arc<rustls::ServerConfig>,
) -> Result<TlsStream, Conn> {
    let Ok(tls) = rustls::ServerConnection::new(config.clone()) else { return Err(conn) };
    let stream = TlsStream::new(conn, Box::new(Session::server(tls)));
    stream.feed(first_bytes);
    Ok(stream)
}

/// Begins the TLS handshake with a server; `poll_established` tells when it is done.
pub fn connect(conn: Conn, uplink: &client::Uplink) -> io::Result<TlsStream> {
    let tls = rustls::ClientConnection::new(uplink.config.clone(), uplink.name.clone());
    let session = Session::client(tls.map_err(io::Error::other)?);
    let stream = TlsStream::new(conn, Box::new(session));
    stream.flush(&mut stream.inner.borrow_mut(), HELLO_BYTES);
    Ok(stream)
}

impl TlsStream {
    fn new(conn: Conn, session: Box<Session>) -> TlsStream {
        let inner = Inner {
            session,
            plain: None,
            end: None,
            is_established: false,
            is_closing: false,
            watcher: None,
        };
        TlsStream { conn, inner: RefCell::new(inner) }
    }

    /// Goes on with a connection that another shard has detached.
    pub fn attach(conn: Conn, session: IdleSession) -> TlsStream {
        let mut stream = TlsStream::new(conn, session.0);
        stream.inner.get_mut().is_established = true;
        stream
    }

    /// Ready when the handshake is done, and with the reason if it failed.
    pub fn poll_established(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let inner = self.inner.borrow();
            if inner.is_established {
                return Poll::Ready(Ok(()));
            }
            match &inner.end {
                Some(End::Failed(why)) => return Poll::Ready(Err(broken(why))),
                Some(End::Closed) => {
                    let text = "the peer ended the connection during the TLS handshake";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
                }
                None => drop(inner),
            }
            match self.conn.poll_recv(cx) {
                Poll::Ready(received) => self.take(received)?,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The next plaintext; `None` is close_notify or end-of-file. An error is the connection's, or
    /// `InvalidData` for a peer that breaks the rules.
    pub fn poll_recv(&self, cx: &Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        loop {
            if let Some(ready) = self.inner.borrow_mut().next() {
                return Poll::Ready(ready);
            }
            match self.conn.poll_recv(cx) {
                Poll::Ready(received) => self.take(received)?,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// See `Conn::take_received`.
    pub fn take_received(&self) -> Option<Chunk> {
        loop {
            if let Some(ready) = self.inner.borrow_mut().next() {
                return ready.ok().flatten();
            }
            self.feed(&self.conn.take_received()?);
        }
    }

    /// See `Conn::send`. The spans of one call share records, 16 KiB in each.
    pub fn send(&self, chunks: impl IntoIterator<Item = Chunk>) {
        let mut chunks = chunks.into_iter();
        while let Some(first) = chunks.next() {
            // Nearly always it is the only one.
            let Some(second) = chunks.next() else { return self.encrypt(&[IoSlice::new(&first)]) };
            let behind = chunks.by_ref().take(SPANS_MAX - 2);
            let spans: Vec<Chunk> = [first, second].into_iter().chain(behind).collect();
            let slices: Vec<IoSlice<'_>> = spans.iter().map(|span| IoSlice::new(span)).collect();
            self.encrypt(&slices);
        }
    }

    fn encrypt(&self, spans: &[IoSlice<'_>]) {
        let mut inner = self.inner.borrow_mut();
        if inner.is_closing || matches!(inner.end, Some(End::Failed(_))) {
            return;
        }
        let length: usize = spans.iter().map(|span| span.len()).sum();
        self.conn.driver().note_copied(length);
        if !inner.session.write(spans) {
            let text = "more is to be sent than the TLS handshake keeps";
            inner.end.get_or_insert(End::Failed(text.into()));
        }
        let records = length / RECORD_BYTES_MAX + 1;
        self.flush(&mut inner, length + records * RECORD_OVERHEAD_MAX);
    }

    /// See `Conn::fail_send`.
    pub(crate) fn fail_send(&self) {
        self.conn.fail_send()
    }

    /// Of ciphertext; see `Conn::queued_bytes`.
    pub fn queued_bytes(&self) -> usize {
        self.conn.queued_bytes()
    }

    /// See `Conn::poll_ready`.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.conn.poll_ready(cx)
    }

    /// See `Conn::has_room`.
    pub fn has_room(&self) -> bool {
        self.conn.has_room()
    }

    /// See `Conn::poll_flushed`.
    pub fn poll_flushed(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.conn.poll_flushed(cx)
    }

    /// See `Conn::is_flushed`.
    pub fn is_flushed(&self) -> bool {
        self.conn.is_flushed()
    }

    /// See `Conn::has_ended`; close_notify is an end, too.
    pub fn has_ended(&self) -> bool {
        self.inner.borrow().end.is_some() || self.conn.has_ended()
    }

    /// See `Conn::poll_dead`.
    pub fn poll_dead(&self, cx: &Context<'_>) -> Poll<()> {
        self.conn.poll_dead(cx)
    }

    /// See `Conn::is_quiet`. Records that say nothing to us, such as a server's session tickets,
    /// are no noise: they are taken in here.
    pub fn is_quiet(&self) -> bool {
        let mut has_taken = false;
        loop {
            let inner = self.inner.borrow();
            if inner.plain.is_some() || inner.end.is_some() {
                return false;
            }
            drop(inner);
            let Some(chunk) = self.conn.take_received() else { break };
            self.feed(&chunk);
            has_taken = true;
        }
        let is_quiet = self.conn.is_quiet();
        if has_taken
            && is_quiet
            && let Some(watcher) = &self.inner.borrow().watcher
        {
            self.conn.watch(watcher);
        }
        is_quiet
    }

    /// See `Conn::watch`.
    pub fn watch(&self, waker: &Waker) {
        self.inner.borrow_mut().watcher = Some(waker.clone());
        if self.is_quiet() {
            self.conn.watch(waker);
        } else {
            self.conn.driver().note_wake();
            waker.wake_by_ref();
        }
    }

    /// Says close_notify. The socket's direction ends in `close`, behind what is queued.
    pub fn shutdown(&self) {
        let mut inner = self.inner.borrow_mut();
        if !std::mem::replace(&mut inner.is_closing, true) {
            inner.session.close();
            self.flush(&mut inner, ALERT_BYTES_MAX);
        }
    }

    /// See `Conn::close`; close_notify is the last that is sent.
    pub async fn close(self) {
        self.shutdown();
        let TlsStream { conn, inner } = self;
        drop(inner); // its memory is not needed while the peer takes its time
        conn.close().await;
    }

    /// See `Conn::detach`. The session goes with the socket; plaintext that nobody has read stays
    /// here, and the connection with it.
    pub async fn detach(self) -> Result<IdleSocket, TlsStream> {
        let TlsStream { conn, inner } = self;
        let inner = inner.into_inner();
        if inner.plain.is_some() || inner.end.is_some() || !inner.is_established {
            return Err(TlsStream { conn, inner: RefCell::new(inner) });
        }
        match conn.detach().await {
            Ok(mut socket) => {
                socket.session = Some(IdleSession(inner.session));
                Ok(socket)
            }
            Err(conn) => Err(TlsStream { conn, inner: RefCell::new(inner) }),
        }
    }

    /// See `Conn::peer_address`.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.conn.peer_address()
    }

    /// See `Conn::local_address`.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.conn.local_address()
    }

    /// Why the peer was not believed, if it was not.
    pub fn failure(&self) -> Option<Arc<str>> {
        match &self.inner.borrow().end {
            Some(End::Failed(why)) => Some(why.clone()),
            _ => None,
        }
    }

    /// What the connection below has received.
    fn take(&self, received: io::Result<Option<Chunk>>) -> io::Result<()> {
        match received? {
            Some(chunk) => self.feed(&chunk),
            None => drop(self.inner.borrow_mut().end.get_or_insert(End::Closed)),
        }
        Ok(())
    }

    fn feed(&self, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        if inner.end.is_some() {
            return; // behind the end nothing has a meaning
        }
        let mut plain = Vec::new();
        let fed = inner.session.feed(bytes, &mut plain);
        if !plain.is_empty() {
            self.conn.driver().note_copied(plain.len());
            inner.plain = Some(Chunk::from(Bytes::from(plain)));
        }
        match fed {
            Fed::Open => {}
            Fed::Closed => inner.end = Some(End::Closed),
            Fed::Failed(why) => inner.end = Some(End::Failed(why.into())),
        }
        self.note(&mut inner);
        self.flush(&mut inner, FLIGHT_BYTES);
    }

    /// Counts a handshake that is done or has failed.
    fn note(&self, inner: &mut Inner) {
        if inner.is_established {
            return;
        }
        let event = match (&inner.end, inner.session.is_handshaking()) {
            (Some(End::Failed(_)), _) => TlsEvent::Failed,
            (_, true) => return,
            (_, false) if inner.session.is_resumed() => TlsEvent::Resumed,
            (_, false) => TlsEvent::Full,
        };
        inner.is_established = event != TlsEvent::Failed;
        self.conn.note_tls(event);
    }

    /// Queues what the session has to send. Over the shard's budget the connection ends: bytes of
    /// it would be missing.
    fn flush(&self, inner: &mut Inner, expected_bytes: usize) {
        if !inner.session.has_output() {
            return;
        }
        let mut out = Vec::with_capacity(expected_bytes);
        inner.session.take_output(&mut out);
        match Chunk::on_budget(out, &self.conn.driver().heap()) {
            Some(chunk) => self.conn.send([chunk]),
            None => self.conn.fail_send(),
        }
    }
}

impl Inner {
    /// What can be told without asking for more.
    fn next(&mut self) -> Option<io::Result<Option<Chunk>>> {
        if let Some(chunk) = self.plain.take() {
            return Some(Ok(Some(chunk)));
        }
        self.end.as_ref().map(|end| match end {
            End::Closed => Ok(None),
            End::Failed(why) => Err(broken(why)),
        })
    }
}

/// Waits until the handshake is done.
pub async fn established(stream: &TlsStream) -> io::Result<()> {
    poll_fn(|cx| stream.poll_established(cx)).await
}

fn broken(why: &Arc<str>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}
