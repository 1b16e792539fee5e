//! Session mode's task: a fresh server connection for one client, every byte relayed, both ends
//! together.

use crate::backend::keeper::LeaseOrTicket;
use crate::backend::lease::Lease;
use crate::backend::{Discard, Refusal};
use crate::relay::close::CloseReason;
use crate::relay::passthrough::{Passthrough, Pipes};
use crate::relay::reply;
use crate::relay::session::Refused;
use crate::relay::world::{Present, World};
use crate::transport::buffer::Chunk;
use crate::transport::driver::Sleep;
use crate::transport::stream::Stream;
use bytes::Bytes;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use zeroize::Zeroizing;

/// One connection forwards at most this much before others have their turn.
const TURN_BYTES_MAX: usize = 256 << 10;

/// A server connection for one client, and what is sent on it first.
pub struct Opened {
    pub lease: Lease,
    /// Who comes, if the server is to be told.
    pub opening: Option<Chunk>,
}

/// Until either side ends. `first` are the client's own bytes which have come already, the magic at
/// their front.
pub async fn serve(
    world: &Rc<World>,
    stream: &Stream,
    present: &Present,
    opened: Opened,
    first: Zeroizing<Vec<u8>>,
    login_by: Duration,
) -> CloseReason {
    let Opened { lease, opening } = opened;
    let mut relaying = Relaying {
        world: world.clone(),
        passthrough: Passthrough::default(),
        lease,
        login_by: Some(login_by),
        progress_at: world.driver.now(),
        timer: None,
    };
    relaying.lease.conn().send(opening);
    relaying.client_chunk(Chunk::from(Bytes::from_owner(first)), stream);
    let why = poll_fn(|cx| relaying.poll(stream, present, cx)).await;
    relaying.lease.discard(Discard::SessionEnded);
    why
}

/// Why a client gets no connection.
pub enum Unserved {
    /// There is nobody to be told, or no time.
    Silent(CloseReason),
    Told(Box<Refused>),
}

/// A connection that nobody has said a word on.
pub async fn lease(
    world: &Rc<World>,
    stream: &Stream,
    login_by: Duration,
) -> Result<Lease, Unserved> {
    let ticket = match world.backend.acquire(&world.raw) {
        Ok(LeaseOrTicket::Lease(lease)) => return Ok(lease),
        Ok(LeaseOrTicket::Ticket(ticket)) => ticket,
        Err(refusal) => return Err(unserved(&refusal, CloseReason::LoginUnavailable)),
    };
    let mut limit = pin!(world.driver.sleep(login_by.saturating_sub(world.driver.now())));
    let result = poll_fn(|cx| {
        if let Poll::Ready(result) = world.backend.poll_lease(ticket, cx) {
            let failed = |refusal| unserved(&refusal, CloseReason::LoginUnavailable);
            return Poll::Ready(result.map_err(failed));
        }
        if limit.as_mut().poll(cx).is_ready() {
            // The word that transaction mode has for it.
            return Poll::Ready(Err(unserved(&Refusal::TimedOut, CloseReason::LoginTimeout)));
        }
        // Before the handshake's answer a half-close is an end as well: nothing can be asked.
        match stream.poll_dead(cx).is_ready() || stream.has_ended() {
            true => Poll::Ready(Err(Unserved::Silent(CloseReason::ClientGone))),
            false => Poll::Pending,
        }
    })
    .await;
    if result.is_err() {
        world.backend.withdraw(ticket);
    }
    result
}

fn unserved(refusal: &Refusal, why: CloseReason) -> Unserved {
    match refusal {
        Refusal::Draining => Unserved::Silent(why),
        _ => Unserved::Told(Box::new(Refused { failure: reply::refused(refusal), why })),
    }
}

struct Relaying {
    world: Rc<World>,
    passthrough: Passthrough,
    lease: Lease,
    login_by: Option<Duration>,
    progress_at: Duration,
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Relaying {
    fn poll(
        &mut self,
        stream: &Stream,
        present: &Present,
        cx: &mut Context<'_>,
    ) -> Poll<CloseReason> {
        let mut moved = 0;
        loop {
            let is_draining = self.world.is_draining.get() && self.passthrough.is_idle();
            if is_draining || self.world.is_over.get() {
                return Poll::Ready(CloseReason::Drain);
            }
            let down = match self.poll_server(stream, cx) {
                Ok(moved) => moved,
                Err(why) => return Poll::Ready(why),
            };
            let up = match self.poll_client(stream, cx) {
                Ok(moved) => moved,
                Err(why) => return Poll::Ready(why),
            };
            // What is not read says nothing of a login: the server has its own limit.
            let is_past_login = self.passthrough.is_logged_in() || self.passthrough.is_unfollowed();
            if self.login_by.is_some() && is_past_login {
                present.serve();
                self.login_by = None;
            }
            moved += up + down;
            if moved > TURN_BYTES_MAX {
                self.world.driver.note_wake();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if up + down == 0 {
                return self.poll_time(cx);
            }
        }
    }

    /// Server to client; the bytes moved.
    fn poll_server(&mut self, stream: &Stream, cx: &Context<'_>) -> Result<usize, CloseReason> {
        let mut moved = 0;
        while moved <= TURN_BYTES_MAX {
            let received = match stream.poll_ready(cx) {
                Poll::Ready(Ok(())) => self.lease.conn().poll_recv(cx),
                Poll::Ready(Err(_)) => return Err(CloseReason::ClientGone),
                Poll::Pending if !stream.has_room() => break,
                Poll::Pending => match self.lease.conn().take_received() {
                    Some(chunk) => Poll::Ready(Ok(Some(chunk))),
                    None if self.lease.conn().poll_dead(cx).is_ready() => {
                        return Err(CloseReason::ServerGone);
                    }
                    None => break,
                },
            };
            match received {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(chunk))) => {
                    moved += chunk.len();
                    let mut wires = Wires::new(&self.world, &self.lease, stream, Some(&chunk));
                    self.passthrough.server_bytes(&chunk, &mut wires);
                    wires.flush();
                    if self.passthrough.is_idle() {
                        self.progress_at = self.world.driver.now(); // idle from now on
                    }
                }
                Poll::Ready(_) => {
                    let mut wires = Wires::new(&self.world, &self.lease, stream, None);
                    self.passthrough.server_ended(&mut wires);
                    return Err(match self.passthrough.has_said_goodbye() {
                        true => CloseReason::Goodbye,
                        false => CloseReason::ServerGone,
                    });
                }
            }
        }
        Ok(moved)
    }

    /// Client to server; the bytes moved.
    fn poll_client(&mut self, stream: &Stream, cx: &Context<'_>) -> Result<usize, CloseReason> {
        let mut moved = 0;
        while moved <= TURN_BYTES_MAX {
            let received = match self.lease.conn().poll_ready(cx) {
                Poll::Ready(Ok(())) => stream.poll_recv(cx),
                Poll::Ready(Err(_)) => return Err(CloseReason::ServerGone),
                Poll::Pending if !self.lease.conn().has_room() => break,
                Poll::Pending => match stream.take_received() {
                    Some(chunk) => Poll::Ready(Ok(Some(chunk))),
                    None if stream.poll_dead(cx).is_ready() => {
                        return Err(CloseReason::ClientGone);
                    }
                    None => break,
                },
            };
            match received {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(chunk))) => {
                    moved += chunk.len();
                    self.client_chunk(chunk, stream);
                }
                Poll::Ready(_) => {
                    return Err(match self.passthrough.has_said_goodbye() {
                        true => CloseReason::Goodbye,
                        false => CloseReason::ClientGone,
                    });
                }
            }
        }
        if moved > 0 {
            self.progress_at = self.world.driver.now();
        }
        Ok(moved)
    }

    fn client_chunk(&mut self, chunk: Chunk, stream: &Stream) {
        let mut wires = Wires::new(&self.world, &self.lease, stream, Some(&chunk));
        self.passthrough.client_bytes(&chunk, &mut wires);
        wires.flush();
    }

    /// Deadlines: the login, a message without progress, a client that is silent for long.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let Some((due, why)) = self.due() else { return Poll::Pending };
            let now = self.world.driver.now();
            if due <= now {
                return Poll::Ready(why);
            }
            if self.timer.as_ref().is_none_or(|(at, _)| *at > due) {
                self.timer = Some((due, Box::pin(self.world.driver.sleep(due - now))));
            }
            let (_, timer) = self.timer.as_mut().expect("armed just now");
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.timer = None;
        }
    }

    fn due(&self) -> Option<(Duration, CloseReason)> {
        let options = &self.world.options;
        let is_mid = self.passthrough.is_mid_request();
        let message = is_mid.then_some(self.progress_at + options.message_within);
        let idle = options.client_idle.filter(|_| self.passthrough.is_idle());
        let idle = idle.map(|limit| self.progress_at + limit);
        [
            self.login_by.map(|at| (at, CloseReason::LoginTimeout)),
            message.map(|at| (at, CloseReason::MessageTimeout)),
            idle.map(|at| (at, CloseReason::IdleTimeout)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }
}

/// Both sockets, and ranges of the present chunk that go on together.
struct Wires<'a> {
    world: &'a World,
    lease: &'a Lease,
    stream: &'a Stream,
    chunk: Option<&'a Chunk>,
    up: Range<usize>,
    down: Range<usize>,
}

impl<'a> Wires<'a> {
    fn new(
        world: &'a World,
        lease: &'a Lease,
        stream: &'a Stream,
        chunk: Option<&'a Chunk>,
    ) -> Wires<'a> {
        Wires { world, lease, stream, chunk, up: 0..0, down: 0..0 }
    }

    fn flush(&mut self) {
        let (up, down) = (std::mem::take(&mut self.up), std::mem::take(&mut self.down));
        let Some(chunk) = self.chunk else { return };
        if !up.is_empty() {
            self.lease.conn().send([chunk.slice(up)]);
        }
        if !down.is_empty() {
            self.stream.send([chunk.slice(down)]);
        }
    }
}

impl Pipes for Wires<'_> {
    fn to_server(&mut self, range: Range<usize>) {
        if self.up.is_empty() || self.up.end != range.start {
            self.flush();
            self.up = range;
        } else {
            self.up.end = range.end;
        }
    }

    fn to_server_copied(&mut self, bytes: Bytes) {
        self.flush();
        self.world.driver.note_copied(bytes.len());
        self.lease.conn().send([Chunk::from(bytes)]);
    }

    fn to_client(&mut self, range: Range<usize>) {
        if self.down.is_empty() || self.down.end != range.start {
            self.flush();
            self.down = range;
        } else {
            self.down.end = range.end;
        }
    }

    fn to_client_copied(&mut self, bytes: Bytes) {
        self.flush();
        self.world.driver.note_copied(bytes.len());
        self.stream.send([Chunk::from(bytes)]);
    }

    fn own_address(&self) -> String {
        let address = self.stream.local_address().map(|address| address.to_string());
        address.unwrap_or_else(|_| "localhost:7687".into())
    }
}
