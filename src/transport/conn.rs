//! What a task sees of a socket: receive a chunk, queue chunks, shut down, close, hand over.
//!
//! Nothing is lost when a future here is dropped: what came waits in the slot, what was queued is
//! sent.

use crate::transport::buffer::{Chunk, enqueue};
use crate::transport::driver::{Driver, store};
use crate::transport::options::TlsEvent;
use crate::transport::ring;
use crate::transport::socket::{Key, Life, Receiving, Side, Socket};
use crate::transport::tls::IdleSession;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How long a closing connection may take to send its last bytes and to see the peer's end-of-file.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// One socket of a shard. Dropping it closes at once, which may reset the connection; `close` ends
/// it cleanly.
pub struct Conn {
    driver: Rc<Driver>,
    key: Key,
}

/// A connection that belongs to no executor: a plain value that can be sent to another.
#[derive(Debug)]
pub struct IdleSocket {
    pub fd: OwnedFd,
    pub side: Side,
    /// Of a TLS connection.
    pub session: Option<IdleSession>,
}

impl Conn {
    pub(crate) fn new(driver: Rc<Driver>, key: Key) -> Conn {
        Conn { driver, key }
    }

    /// The shard it belongs to.
    pub fn driver(&self) -> &Rc<Driver> {
        &self.driver
    }

    /// The next bytes; `None` is end-of-file. Asking is what arms the receive: who does not ask
    /// gets at most the rest of one credit more.
    pub fn poll_recv(&self, cx: &Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.with(|socket| {
            if let Some(chunk) = socket.take_received() {
                return (Poll::Ready(Ok(Some(chunk))), false);
            }
            if let Some(end) = socket.end {
                let end = end.map(|()| None).map_err(io::Error::from_raw_os_error);
                return (Poll::Ready(end), false);
            }
            store(&mut socket.reader, cx);
            let arm = socket.receiving == Receiving::Off;
            socket.wants_bytes |= arm;
            (Poll::Pending, arm)
        })
    }

    /// The next bytes; `None` is end-of-file. Dropping the future loses nothing.
    pub async fn recv(&self) -> io::Result<Option<Chunk>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// What has come already, without asking for more: for a source whose peer is slow, so that its
    /// bytes wait in the peer's queue.
    pub fn take_received(&self) -> Option<Chunk> {
        self.with(|socket| (socket.take_received(), false))
    }

    /// Queues bytes behind what is queued. They leave in this turn, gathered; see `poll_ready` for
    /// the limit. After a failed send they are dropped: bytes before them are missing.
    pub fn send(&self, chunks: impl IntoIterator<Item = Chunk>) {
        // Slot by slot: the iterator may be one that takes from another connection.
        for chunk in chunks {
            self.with(|socket| {
                let is_taken = !chunk.is_empty() && socket.send_error.is_none();
                if is_taken {
                    socket.queued_bytes += chunk.len();
                    enqueue(&mut socket.queue, chunk);
                }
                ((), is_taken && socket.in_flight == 0)
            });
        }
    }

    /// Ends the connection, since what was to be sent could not be kept: bytes are missing.
    pub(crate) fn fail_send(&self) {
        self.driver.state.borrow_mut().fail(self.key);
        self.driver.kick();
    }

    /// Counts a TLS handshake of this connection.
    pub(crate) fn note_tls(&self, event: TlsEvent) {
        let side = self.with(|socket| (socket.side, false));
        let mut state = self.driver.state.borrow_mut();
        state.counters.tls_handshakes[side as usize][event as usize] += 1;
    }

    /// Bytes queued that the kernel has not taken yet.
    pub fn queued_bytes(&self) -> usize {
        self.with(|socket| (socket.queued_bytes, false))
    }

    /// Whether the kernel has taken everything queued, and no send has failed.
    pub fn is_flushed(&self) -> bool {
        self.with(|socket| (socket.queue.is_empty() && socket.send_error.is_none(), false))
    }

    /// Whether the peer has ended its direction, or the connection is dead; bytes that came before
    /// may still be unread. While nothing is received, `poll_dead` is what finds out.
    pub fn has_ended(&self) -> bool {
        self.with(|socket| (socket.end.is_some() || socket.hangup != 0, false))
    }

    /// Whether nothing is known of the peer that an idle connection would not show: no byte, no
    /// end, no hang-up, no failed send. It looks at what the pump has read; see `Driver::catch_up`.
    pub fn is_quiet(&self) -> bool {
        self.with(|socket| {
            let is_silent = socket.received.is_empty() && socket.end.is_none();
            (is_silent && socket.hangup == 0 && socket.send_error.is_none(), false)
        })
    }

    /// Arms the receive and keeps `waker` for whatever comes, without taking anything. What came
    /// already wakes at once.
    pub fn watch(&self, waker: &Waker) {
        let is_quiet = self.is_quiet();
        self.with(|socket| {
            socket.reader = Some(waker.clone());
            let arm = is_quiet && socket.receiving == Receiving::Off;
            socket.wants_bytes |= arm;
            ((), arm)
        });
        if !is_quiet {
            self.driver.note_wake();
            waker.wake_by_ref();
        }
    }

    /// Who is at the other end; a system call, so for logs and checks at the start.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.with(|socket| (address_of(socket2::SockRef::from(&socket.fd).peer_addr()), false))
    }

    /// The address the peer reached us at; a system call.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.with(|socket| (address_of(socket2::SockRef::from(&socket.fd).local_addr()), false))
    }

    /// Ready while less than the limit is queued. While it is not, look at the source with
    /// `poll_dead` only.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let limit = self.driver.queue_bytes_max();
        self.poll_queue(cx, |socket| {
            socket.queued_bytes < limit && socket.queue.len() < ring::GATHER_MAX
        })
    }

    /// Whether bytes that came already may still be queued above the limit: all of one credit, but
    /// not any number of small chunks, each of which holds a whole buffer.
    pub fn has_room(&self) -> bool {
        self.with(|socket| (socket.queue.len() < 2 * ring::GATHER_MAX, false))
    }

    /// Ready when the kernel has taken everything queued.
    pub fn poll_flushed(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.poll_queue(cx, |socket| socket.queue.is_empty())
    }

    fn poll_queue(
        &self,
        cx: &Context<'_>,
        is_met: impl Fn(&Socket) -> bool,
    ) -> Poll<io::Result<()>> {
        self.with(|socket| {
            if let Some(error) = socket.send_error {
                return (Poll::Ready(Err(io::Error::from_raw_os_error(error))), false);
            }
            if is_met(socket) {
                return (Poll::Ready(Ok(())), false);
            }
            store(&mut socket.writer, cx);
            (Poll::Pending, false)
        })
    }

    /// Ready when the peer has reset the connection, or it has failed. For a source that is not
    /// read: its bytes are not taken. POLLRDHUP is a mere half-close and POLLHUP two of them; both
    /// come while bytes are still unread, so only POLLERR is death. Whatever is armed when a reset
    /// comes is told, once: the poll, the receive or the send.
    pub fn poll_dead(&self, cx: &Context<'_>) -> Poll<()> {
        const DEAD: u32 = libc::POLLERR as u32;
        const LAST: u32 = (libc::POLLERR | libc::POLLHUP) as u32;
        self.with(|socket| {
            let has_failed = matches!(socket.end, Some(Err(_))) || socket.send_error.is_some();
            if socket.hangup & DEAD != 0 || has_failed {
                return (Poll::Ready(()), false);
            }
            store(&mut socket.reader, cx);
            let is_off = socket.receiving == Receiving::Off && socket.end.is_none();
            let arm = is_off && !socket.is_polling && socket.hangup & LAST == 0;
            socket.wants_hangup |= arm;
            (Poll::Pending, arm)
        })
    }

    pub(crate) async fn connected(&self) -> io::Result<()> {
        poll_fn(|cx| {
            self.with(|socket| {
                if socket.life == Life::Connecting {
                    store(&mut socket.writer, cx);
                    return (Poll::Pending, false);
                }
                socket.wants_bytes = true;
                let error = socket.send_error.map(io::Error::from_raw_os_error);
                (Poll::Ready(error.map_or(Ok(()), Err)), true)
            })
        })
        .await
    }

    /// Ends our direction; what was queued must have been flushed.
    pub fn shutdown(&self) {
        self.with(|socket| {
            debug_assert!(socket.queue.is_empty() || socket.send_error.is_some());
            // ENOTCONN: the peer was faster. Nothing to do about either.
            let _ = socket2::SockRef::from(&socket.fd).shutdown(Shutdown::Write);
            ((), false)
        });
    }

    /// Whether dropping it ends it as cleanly as `close`, at once: the peer has ended its side, so
    /// nothing unread can come any more that the kernel would answer with a reset, and nothing is
    /// queued or armed. Bytes that the kernel has not sent yet go before the end.
    pub fn is_spent(&self) -> bool {
        self.with(|socket| {
            let is_sent = socket.queue.is_empty() && socket.send_error.is_none();
            (socket.end == Some(Ok(())) && is_sent && socket.operations == 0, false)
        })
    }

    /// Last bytes, end of our direction, the peer's end-of-file, then the descriptor: in this
    /// order, so that the kernel never answers unread bytes with a reset that destroys what we sent
    /// last.
    pub async fn close(self) {
        if self.is_spent() {
            return;
        }
        let mut limit = pin!(self.driver.sleep(CLOSE_WITHIN));
        let mut is_shut = false;
        poll_fn(|cx| {
            if limit.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !is_shut {
                match self.poll_flushed(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(())) => self.shutdown(),
                }
                is_shut = true;
            }
            loop {
                match self.poll_recv(cx) {
                    Poll::Ready(Ok(Some(_))) => continue,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    /// Takes an idle connection off this shard. It comes back if it is not idle: something waits to
    /// leave, or came until the receive's last completion. What comes later stays in the socket for
    /// the next owner.
    pub async fn detach(self) -> Result<IdleSocket, Conn> {
        let is_idle =
            self.with(|socket| (socket.queue.is_empty() && socket.send_error.is_none(), false));
        if !is_idle {
            return Err(self);
        }
        self.driver.state.borrow_mut().leave(self.key);
        self.driver.kick();
        poll_fn(|cx| {
            self.with(|socket| {
                store(&mut socket.writer, cx);
                (if socket.operations == 0 { Poll::Ready(()) } else { Poll::Pending }, false)
            })
        })
        .await;
        if !self.is_quiet() {
            self.with(|socket| (socket.life = Life::Open, false));
            return Err(self);
        }
        let socket = self.driver.state.borrow_mut().sockets.remove(self.key);
        let socket = socket.expect("a connection owns its slot");
        Ok(IdleSocket { fd: socket.fd, side: socket.side, session: None })
    }

    /// Runs `body` on the slot; when it says so, the socket is looked at before the next enter.
    fn with<T>(&self, body: impl FnOnce(&mut Socket) -> (T, bool)) -> T {
        let mut state = self.driver.state.borrow_mut();
        let socket = state.sockets.get(self.key).expect("a connection owns its slot");
        let (result, touch) = body(socket);
        if touch {
            state.touch(self.key);
            drop(state);
            self.driver.kick();
        }
        result
    }
}

impl Drop for Conn {
    /// Cannot wait: cancels what is armed; the shard ends the slot with its last completion.
    fn drop(&mut self) {
        self.driver.state.borrow_mut().abandon(self.key);
        self.driver.kick();
    }
}

fn address_of(address: io::Result<socket2::SockAddr>) -> io::Result<SocketAddr> {
    address?.as_socket().ok_or_else(|| io::Error::other("expected an IP socket"))
}
