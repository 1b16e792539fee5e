//! A client that has agreed on a version: moves bytes between it, the `Exchange`, and the
//! connection it leases.

mod wires;

use crate::backend::approval::LoginOutcome;
use crate::backend::{Discard, KnownServer, Refusal};
use crate::relay::close::CloseReason;
use crate::relay::exchange::Exchange;
use crate::relay::serving::wires::{Outside, Wires};
use crate::relay::session::{Context as SessionContext, Refused, Session};
use crate::relay::world::{Present, World};
use crate::transport::buffer::Chunk;
use crate::transport::driver::Sleep;
use crate::transport::heap::Held;
use crate::transport::stream::Stream;
use crate::wire::version::Version;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// One connection forwards at most this much before others have their turn.
const TURN_BYTES_MAX: usize = 256 << 10;
/// Answers of our own that may wait for a client that does not read, before it is not read either.
const ANSWERS_BYTES_MAX: usize = 256 << 10;
/// How long a request may wait in the buffer it came in. A queue that moves is shorter: a thousand
/// waiters before a server that answers a thousand times per second. What waits longer, for a pause
/// or a server that hangs, is copied, so that it does not keep a queue that moves from buffers.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// See the module.
pub struct Serving {
    world: Rc<World>,
    exchange: Exchange,
    outside: Outside,
    /// What time means for this client: no login by then, no progress since.
    login_by: Option<Duration>,
    progress_at: Duration,
    /// Whether it may send more, as of the last look.
    is_read: bool,
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
    own_address: Box<str>,
    /// The shard's account of what is held for this client.
    held: Option<Held>,
    /// Since when requests have kept a buffer from its ring.
    kept_since: Option<Duration>,
}

impl Serving {
    pub fn new(
        world: &Rc<World>,
        version: Version,
        is_manifest: bool,
        login_by: Duration,
        refused: Option<Box<Refused>>,
    ) -> Serving {
        let client = world.next_serial();
        let mut session = Session::new(version, is_manifest, client);
        session.refused = refused;
        Serving {
            world: world.clone(),
            exchange: Exchange::new(session),
            outside: Outside {
                world: world.clone(),
                client,
                lease: None,
                ticket: None,
                login: None,
                closing: None,
                is_private: None,
            },
            login_by: Some(login_by),
            progress_at: world.driver.now(),
            is_read: true,
            timer: None,
            own_address: "".into(),
            held: None,
            kept_since: None,
        }
    }

    /// Bytes that came with the handshake.
    pub fn feed(&mut self, chunk: Chunk, stream: &Stream) {
        self.own_address = local_name(stream);
        self.client_chunk(chunk, stream);
    }

    /// Until the client is to be closed.
    pub fn poll(
        &mut self,
        stream: &Stream,
        present: &Present,
        cx: &mut Context<'_>,
    ) -> Poll<CloseReason> {
        if self.own_address.is_empty() {
            self.own_address = local_name(stream);
        }
        let mut moved = 0;
        loop {
            let before = moved;
            if self.outside.closing.is_none() {
                self.poll_waits(stream, cx);
                moved += self.poll_server(stream, cx);
                moved += self.poll_client(stream, cx);
                self.account(stream);
            }
            if self.exchange.session.is_serving() {
                present.serve();
                if self.login_by.take().is_some() {
                    self.timer = None; // it would stay with an idle client for its whole time
                }
            } else if self.login_by.is_none() {
                // Logged off: as long for the next login as everybody has, as servers do it.
                let (now, limit) = (self.world.driver.now(), self.world.options.login_within);
                self.login_by = Some(now + limit);
            }
            if let Some(why) = self.outside.closing.take() {
                self.part();
                return Poll::Ready(why);
            }
            if moved == before && self.poll_time(stream, cx).is_pending() {
                return Poll::Pending;
            }
            if moved > TURN_BYTES_MAX {
                self.world.driver.note_wake();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Leaves nothing of this client behind.
    fn part(&mut self) {
        self.world.note_holder(self.outside.client, 0, true);
        if self.kept_since.take().is_some() {
            self.world.note_kept(false);
        }
        self.outside.part();
    }

    /// A login's outcome, or a lease.
    fn poll_waits(&mut self, stream: &Stream, cx: &mut Context<'_>) {
        // Its outcome may be another login, which has to know whom to wake.
        while let Some(identity) = &self.outside.login
            && let Poll::Ready(outcome) = self.world.backend.poll_login(self.outside.client, cx)
        {
            let identity = identity.clone();
            self.outside.login = None;
            let is_expired = outcome == LoginOutcome::Failed(Refusal::Expired);
            let identity = match (identity.is_private, is_expired) {
                // The pool knows by this very value that its client is still there.
                (true, _) => self.outside.own(identity),
                (false, true) => self.outside.make_private(&identity),
                (false, false) => identity,
            };
            self.event(stream, None, |exchange, cx, wires| {
                exchange.session.login_done(identity, &outcome, cx);
                exchange.after(cx, wires);
            });
        }
        if let Some(ticket) = self.outside.ticket
            && let Poll::Ready(result) = self.world.backend.poll_lease(ticket, cx)
        {
            self.outside.ticket = None;
            self.progress_at = self.world.driver.now(); // it may have been kept from going on
            self.event(stream, None, |exchange, cx, wires| match result {
                Ok(lease) => {
                    wires.outside.lease = Some(lease);
                    exchange.granted(cx, wires);
                }
                Err(refusal) => exchange.refused(&refusal, cx, wires),
            });
        }
        if self.world.is_condemned(self.outside.client) {
            self.close(CloseReason::HeapBudget, stream);
        }
        if self.world.is_draining.get() {
            let is_over = self.world.is_over.get();
            self.event(stream, None, |exchange, cx, wires| {
                exchange.session.drain();
                if is_over {
                    exchange.session.close(CloseReason::Drain);
                }
                exchange.after(cx, wires);
            });
        }
    }

    /// Server to client; returns the bytes moved.
    fn poll_server(&mut self, stream: &Stream, cx: &mut Context<'_>) -> usize {
        let mut moved = 0;
        while let Some(lease) = &self.outside.lease {
            let is_ready = stream.poll_ready(cx);
            if is_ready.is_ready() == self.exchange.session.is_client_slow() {
                let now = self.world.driver.now();
                self.exchange.session.client_takes(is_ready.is_ready(), now);
            }
            let received = match is_ready {
                Poll::Ready(Ok(())) => lease.conn().poll_recv(cx),
                Poll::Ready(Err(error)) => {
                    self.close(why_gone(&error), stream);
                    break;
                }
                Poll::Pending if stream.has_room() => match lease.conn().take_received() {
                    Some(chunk) => Poll::Ready(Ok(Some(chunk))),
                    None => break,
                },
                Poll::Pending => break,
            };
            match received {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(chunk))) => {
                    moved += chunk.len();
                    self.server_chunk(chunk, stream);
                    if self.exchange.session.is_idle() {
                        self.progress_at = self.world.driver.now(); // idle from now on
                    }
                }
                Poll::Ready(_) => self.server_lost(Discard::ServerClosed, stream),
            }
            if moved > TURN_BYTES_MAX || self.outside.closing.is_some() {
                break;
            }
        }
        moved
    }

    /// Client to server; returns the bytes moved.
    fn poll_client(&mut self, stream: &Stream, cx: &mut Context<'_>) -> usize {
        let mut moved = 0;
        while self.outside.closing.is_none() && moved <= TURN_BYTES_MAX {
            let may_read = self.may_read(stream, cx);
            if may_read && !self.is_read {
                self.progress_at = self.world.driver.now(); // it was kept from going on
            }
            self.is_read = may_read;
            let received = match may_read {
                true => stream.poll_recv(cx),
                false => {
                    if stream.poll_dead(cx).is_ready() {
                        self.close(CloseReason::ClientGone, stream);
                    }
                    // What has come already must not lie in the ring's buffers.
                    let lease = self.outside.lease.as_ref();
                    match lease.filter(|lease| lease.conn().has_room()) {
                        Some(_) if self.may_hold() => match stream.take_received() {
                            Some(chunk) => Poll::Ready(Ok(Some(chunk))),
                            None => break,
                        },
                        _ => break,
                    }
                }
            };
            match received {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(chunk))) => {
                    moved += chunk.len();
                    self.progress_at = self.world.driver.now();
                    self.client_chunk(chunk, stream);
                }
                Poll::Ready(Ok(None)) => self.close(CloseReason::ClientGone, stream),
                Poll::Ready(Err(error)) => self.close(why_gone(&error), stream),
            }
        }
        moved
    }

    fn may_hold(&self) -> bool {
        self.exchange.held_bytes() < self.world.options.held_bytes_max
    }

    /// Whether more from the client has somewhere to go.
    fn may_read(&mut self, stream: &Stream, cx: &mut Context<'_>) -> bool {
        let has_way = match &self.outside.lease {
            Some(lease) => match lease.conn().poll_ready(cx) {
                Poll::Ready(Ok(())) => true,
                // The end of the connection comes by its receive, behind its last answers.
                Poll::Ready(Err(_)) => false,
                Poll::Pending => false,
            },
            None => true,
        };
        // Without a lease nobody else waits until the answers have gone. A short one costs ten
        // times its bytes: not any number of them may wait.
        let is_short = stream.queued_bytes() < ANSWERS_BYTES_MAX && stream.has_room();
        let can_answer = is_short || stream.poll_ready(cx).is_ready();
        has_way && self.may_hold() && can_answer
    }

    /// Deadlines. Ready if one has passed and something may have changed.
    fn poll_time(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due() else { return Poll::Pending };
        let now = self.world.driver.now();
        if due > now {
            // An earlier timer that is armed is left to fire: most deadlines move on before they
            // come.
            let is_armed = self.timer.as_ref().is_some_and(|(at, _)| *at <= due);
            if !is_armed {
                self.timer = Some((due, Box::pin(self.world.driver.sleep(due - now))));
            }
            let (_, timer) = self.timer.as_mut().expect("armed just now");
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.timer = None;
            return Poll::Ready(());
        }
        self.timer = None;
        self.time_over(stream, now);
        Poll::Ready(())
    }

    /// The next moment at which time alone changes something.
    fn due(&self) -> Option<Duration> {
        let options = &self.world.options;
        let session = self.exchange.session.deadline(&options.limits);
        let message = self.is_stalling().then_some(self.progress_at + options.message_within);
        let idle = options.client_idle.filter(|_| self.exchange.session.is_idle());
        let idle = idle.map(|limit| self.progress_at + limit);
        let kept = self.kept_since.map(|since| since + KEPT_FOR);
        let all = session.into_iter().chain(message).chain(idle).chain(kept);
        let mut all = all.chain(self.login_by);
        let first = all.next()?;
        Some(all.fold(first, Duration::min))
    }

    /// Whether the client owes the rest of a message. One that nobody reads is not to blame, unless
    /// it has a lease that others may want.
    fn is_stalling(&self) -> bool {
        self.exchange.is_mid_request() && (self.outside.lease.is_some() || self.is_read)
    }

    fn time_over(&mut self, stream: &Stream, now: Duration) {
        let options = &self.world.options;
        let idle = options.client_idle.filter(|_| self.exchange.session.is_idle());
        if self.kept_since.is_some_and(|since| since + KEPT_FOR <= now) {
            self.exchange.copy_kept();
            return self.note_kept();
        }
        if self.login_by.is_some_and(|by| by <= now) {
            return self.event(stream, None, |exchange, cx, wires| {
                exchange.session.login_over();
                exchange.after(cx, wires);
            });
        }
        if self.is_stalling() && self.progress_at + options.message_within <= now {
            return self.close(CloseReason::MessageTimeout, stream);
        }
        if idle.is_some_and(|limit| self.progress_at + limit <= now) {
            return self.close(CloseReason::IdleTimeout, stream);
        }
        self.event(stream, None, |exchange, cx, wires| {
            exchange.session.deadline_passed(cx);
            exchange.after(cx, wires);
        });
    }

    fn client_chunk(&mut self, mut chunk: Chunk, stream: &Stream) {
        let was_serving = self.exchange.session.is_serving();
        self.event(stream, Some(&chunk), |exchange, cx, wires| {
            exchange.client_bytes(&chunk, cx, wires);
        });
        if !was_serving || !self.exchange.session.is_serving() {
            chunk.wipe(); // a login may have come in it
        }
    }

    /// Keeps the account of held bytes: after every event, since any may have sent them on. When
    /// the shard's budget is used up, whoever holds most is closed.
    fn account(&mut self, stream: &Stream) {
        self.note_kept();
        let bytes = self.exchange.held_bytes();
        let (client, before) = (self.outside.client, self.held.as_ref().map_or(0, Held::bytes));
        if bytes == before {
            return;
        }
        let is_in_budget = match &mut self.held {
            Some(held) if bytes >= before => held.try_grow(bytes - before),
            Some(held) => {
                held.shrink(before - bytes);
                true
            }
            None => {
                self.held = self.world.driver.heap().try_hold(bytes);
                self.held.is_some()
            }
        };
        if bytes == 0 {
            self.held = None;
        }
        if self.world.note_holder(client, bytes, is_in_budget) == Some(client) {
            self.close(CloseReason::HeapBudget, stream);
        }
    }

    fn note_kept(&mut self) {
        let is_kept = self.exchange.is_keeping();
        if is_kept != self.kept_since.is_some() {
            self.kept_since = is_kept.then_some(self.progress_at); // it came just now
            self.world.note_kept(is_kept);
        }
    }

    fn server_chunk(&mut self, chunk: Chunk, stream: &Stream) {
        let mut result = Ok(());
        self.event(stream, Some(&chunk), |exchange, cx, wires| {
            result = exchange.server_bytes(&chunk, cx, wires);
        });
        if let Err(why) = result {
            self.server_lost(why, stream);
        }
    }

    fn server_lost(&mut self, why: Discard, stream: &Stream) {
        self.event(stream, None, |exchange, cx, wires| exchange.server_lost(why, cx, wires));
    }

    fn close(&mut self, why: CloseReason, stream: &Stream) {
        self.event(stream, None, |exchange, cx, wires| {
            exchange.session.close(why);
            exchange.after(cx, wires);
        });
    }

    /// Runs `body` with the world as the session sees it and the wires to both sides.
    fn event(
        &mut self,
        stream: &Stream,
        chunk: Option<&Chunk>,
        body: impl FnOnce(&mut Exchange, SessionContext<'_>, &mut Wires<'_>),
    ) {
        for fingerprint in self.world.backend.take_revoked() {
            self.world.routes.borrow_mut().revoke(fingerprint);
        }
        let known: Option<Rc<KnownServer>> = self.world.backend.known();
        let cx = SessionContext {
            now: self.world.driver.now(),
            server: known.as_deref(),
            limits: &self.world.options.limits,
            own_address: &self.own_address,
            routes: &self.world.routes,
        };
        let outside = &mut self.outside;
        let (up, down, own) = (0..0, 0..0, Vec::new());
        let mut wires = Wires { stream, chunk, kept: None, up, down, own, outside };
        body(&mut self.exchange, cx, &mut wires);
        wires.flush();
        let made = std::mem::take(&mut self.exchange.session.failures_made);
        if made > 0 {
            self.world.counters.borrow_mut().failures_made += u64::from(made);
        }
    }
}

/// What a failed connection to a client says of it.
fn why_gone(error: &io::Error) -> CloseReason {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => CloseReason::HeapBudget,
        _ => CloseReason::ClientGone,
    }
}

/// `host:port` of the socket, for routing tables of clients that name no address.
fn local_name(stream: &Stream) -> Box<str> {
    let address = stream.local_address().map(|address| address.to_string());
    address.unwrap_or_else(|_| "localhost:7687".into()).into()
}
