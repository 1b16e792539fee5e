//! One client: connects, logs in, asks, and starts over when it loses its connection.
//!
//! Closed loop: the next request starts when the last one is answered, or after a pause. Open loop:
//! a client that is free takes the next start that the thread has planned. Nothing is repeated
//! silently: what fails is counted and the next request is another one. In the shapes *login* and
//! *handshake* every request makes a connection, and leaves it.

use super::plan::Shape;
use super::request::Nonce;
use super::schedule;
use super::script::Script;
use super::session::{Event, Outcome, Session};
use super::worker::{NEVER, Order, Worker};
use crate::transport::buffer::Chunk;
use crate::transport::conn::Conn;
use crate::transport::http;
use crate::transport::stream::Stream;
use crate::transport::tls;
use crate::transport::websocket::WebSocket;
use crate::transport::websocket::upgrade;
use crate::wire::message;
use bytes::{Bytes, BytesMut};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Pause after a failed connect, doubled with each one; a server that restarts is not to be
/// flooded.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a server may take to close after GOODBYE. Waiting for it leaves the connection's last
/// state with the server, so that this machine's ports are free at once.
const LEAVE_MAX: Duration = Duration::from_secs(1);

pub struct Client {
    worker: Rc<Worker>,
    script: Rc<Script>,
    target: usize,
    /// Among the clients of its target; the first tries the login before all others.
    place: usize,
    /// Where its deadline is kept.
    slot: usize,
    nonce: Nonce,
    link: Option<Link>,
    /// What is to be sent; the kernel has read the last bytes long before the next are written, so
    /// that its memory is used again.
    out: BytesMut,
}

/// A connection that is logged in.
struct Link {
    conn: Stream,
    session: Session,
}

/// Why there is no answer; the text is what the report counts.
type Lost = String;

impl Client {
    pub fn new(
        worker: Rc<Worker>,
        script: Rc<Script>,
        run: u32,
        number: u32,
        target: usize,
        slot: usize,
    ) -> Client {
        let place = number as usize - target * worker.plan.clients;
        let nonce = Nonce::new(run, number);
        let (link, out) = (None, BytesMut::new());
        Client { worker, script, target, place, slot, nonce, link, out }
    }

    /// From the first order to the last.
    pub async fn live(mut self) {
        let mut seen = 0;
        loop {
            let (number, order) = self.next_order(seen).await;
            seen = number;
            match order {
                Order::Try { .. } if self.place > 0 => {}
                Order::Try { .. } | Order::Connect { .. } => {
                    self.be_ready(matches!(order, Order::Try { .. })).await;
                }
                Order::Run { .. } => self.ask_until_stopped().await,
                Order::Stop => {}
                Order::End => self.end().await,
            }
            self.worker.done();
            if order == Order::End {
                return;
            }
        }
    }

    /// Waits for an order; a connection that ends meanwhile is counted and given up.
    async fn next_order(&mut self, seen: u64) -> (u64, Order) {
        loop {
            let event = poll_fn(|cx| {
                if let Poll::Ready(order) = self.worker.poll_order(self.target, self.slot, seen, cx)
                {
                    return Poll::Ready(Some(order));
                }
                match &mut self.link {
                    Some(link) => link.poll_unasked(cx).map(|()| None),
                    None => Poll::Pending,
                }
            });
            match event.await {
                Some(order) => return order,
                None => self.lose_idle_link(),
            }
        }
    }

    /// Connects before the clock starts. Where every request connects, only one tries the login.
    async fn be_ready(&mut self, is_try: bool) {
        let is_connecting = self.is_connecting();
        if self.link.is_none() && (is_try || !is_connecting) && !self.worker.is_cut() {
            self.connect().await;
        }
        if is_connecting {
            self.leave().await;
        }
    }

    fn is_connecting(&self) -> bool {
        self.worker.plan.shape.is_connecting()
    }

    async fn ask_until_stopped(&mut self) {
        let mut pause = PAUSE_MIN;
        let mut now = self.begin().await;
        while let Some(start) = self.take_start(now) {
            if start > now {
                now = self.wait_until(start).await;
                if now >= self.worker.stop_at() {
                    self.worker.starts().give_back(start);
                    break;
                }
            }
            if self.link.is_none() {
                let is_connected = self.connect().await;
                now = self.worker.driver.now();
                if !is_connected {
                    let rest = self.worker.stop_at().saturating_sub(now);
                    self.worker.driver.sleep(pause.min(rest)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    now = self.worker.driver.now();
                    continue;
                }
            }
            pause = PAUSE_MIN;
            self.worker.set_deadline(self.slot, now + self.worker.plan.request_timeout);
            let answer = self.ask().await;
            now = self.worker.driver.now();
            self.count(answer, start, now);
            if self.is_connecting() {
                self.leave().await;
                now = self.worker.driver.now();
            }
            if !self.worker.plan.think.is_zero() {
                now = self.wait_until(now + self.worker.plan.think).await;
            }
        }
        self.worker.set_deadline(self.slot, NEVER);
    }

    /// In the closed loop with a ramp clients begin one after the other.
    async fn begin(&mut self) -> Duration {
        let now = self.worker.driver.now();
        let plan = &self.worker.plan;
        if plan.rate.is_some() || plan.ramp.is_zero() {
            return now;
        }
        let ramp = self.worker.starts().counted_from.saturating_sub(now);
        let wait = schedule::ramped(ramp, self.place, plan.clients);
        self.wait_until(now + wait).await
    }

    fn take_start(&self, now: Duration) -> Option<Duration> {
        self.worker.starts().take(now)
    }

    /// Waits for a moment of this round, or for the round's end; returns the time. A connection
    /// that ends meanwhile is counted and given up.
    async fn wait_until(&mut self, at: Duration) -> Duration {
        self.worker.set_deadline(self.slot, NEVER);
        self.worker.remind(at, self.slot);
        poll_fn(|cx| {
            let now = self.worker.driver.now();
            if now >= at || now >= self.worker.stop_at() {
                return Poll::Ready(now);
            }
            self.worker.keep_waker(self.slot, cx);
            if self.link.as_mut().is_some_and(|link| link.poll_unasked(cx).is_ready()) {
                self.lose_idle_link();
            }
            Poll::Pending
        })
        .await
    }

    fn lose_idle_link(&mut self) {
        self.link = None;
        self.worker.tally(self.target).error("lost: closed while idle");
    }

    /// Counts from when the request was to start: what a stall has held up shows it.
    fn count(&mut self, answer: Result<Outcome, Lost>, start: Duration, now: Duration) {
        let starts = self.worker.starts();
        let latency = (start >= starts.counted_from).then(|| now.saturating_sub(start));
        let is_in_time = (starts.counted_from..=starts.stop_at).contains(&now);
        drop(starts);
        let mut tally = self.worker.tally(self.target);
        match answer {
            Ok(Outcome::Fine { records }) => return tally.answered(latency, records, is_in_time),
            Ok(Outcome::Failure(code)) => return tally.error(code),
            // Whose answers come here now nobody knows: a new connection.
            Ok(Outcome::Mismatch) => tally.mismatches += 1,
            Err(lost) => {
                drop(tally);
                self.count_lost(lost);
                return self.drop_link();
            }
        }
        drop(tally);
        self.drop_link();
    }

    /// One request and its whole answer.
    async fn ask(&mut self) -> Result<Outcome, Lost> {
        let link = self.link.as_mut().expect("connected before");
        if self.worker.plan.shape == Shape::Handshake {
            // To be connected was the request.
            return Ok(Outcome::Fine { records: 0 });
        }
        link.session.ask(&mut self.out);
        self.nonce = link.session.nonce();
        send(&link.conn, &mut self.out);
        loop {
            if let Event::Answered(outcome) =
                link.step(&self.worker, self.slot, &mut self.out).await?
            {
                return Ok(outcome);
            }
        }
    }

    /// Connects and logs in; false, and counted, if that fails.
    async fn connect(&mut self) -> bool {
        if !self.is_connecting() {
            self.worker.enter_login().await;
        }
        // It may have waited for its turn a long time.
        if self.worker.is_cut() {
            self.give_login_back();
            return false;
        }
        let limit = self.worker.driver.now() + self.worker.plan.connect_timeout;
        self.worker.set_deadline(self.slot, limit);
        let result = self.log_in().await;
        self.worker.set_deadline(self.slot, NEVER);
        self.give_login_back();
        let result = result.map(|link| {
            self.worker.version.set(link.session.version());
            self.link = Some(link);
        });
        result.map_err(|lost| self.count_lost(lost)).is_ok()
    }

    /// Where every request connects, as many log in at a time as there are clients.
    fn give_login_back(&self) {
        if !self.is_connecting() {
            self.worker.leave_login();
        }
    }

    fn count_lost(&self, lost: Lost) {
        let mut tally = self.worker.tally(self.target);
        // Who ends the run early did not wait for the answer, but wants to know of a server that
        // gives none.
        if self.worker.is_cut() { tally.unanswered += 1 } else { tally.error(lost) }
    }

    async fn log_in(&mut self) -> Result<Link, Lost> {
        self.out.clear();
        let mut dial = pin!(self.worker.driver.dial(self.script.target().address));
        let dialed = poll_fn(|cx| match dial.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => self.worker.poll_deadline(self.slot, cx).map(|()| None),
        });
        let dialed = dialed.await.ok_or("connect: timed out")?;
        let conn = dialed.map_err(|error| format!("connect: {error}"))?;
        let conn = self.encrypt(conn).await?;
        let conn = self.upgrade(conn).await?;
        let session = Session::new(self.script.clone(), self.nonce);
        let mut link = Link { conn, session };
        link.session.open(&mut self.out);
        send(&link.conn, &mut self.out);
        loop {
            let event = link.step(&self.worker, self.slot, &mut self.out).await;
            if event.map_err(|lost| format!("login: {lost}"))? == Event::LoggedIn {
                return Ok(link);
            }
        }
    }

    /// Makes the TLS handshake if the target asks for one; the deadline of the connect is on it.
    /// WebSocket belongs behind it: its upgrade, and then the `Stream` around this one.
    async fn encrypt(&self, conn: Conn) -> Result<Stream, Lost> {
        let Some(uplink) = &self.script.target().tls else { return Ok(conn.into()) };
        let failed = |error: io::Error| format!("connect: {error}");
        let stream = tls::connect(conn, uplink).map_err(failed)?;
        let established = poll_fn(|cx| match stream.poll_established(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => self.worker.poll_deadline(self.slot, cx).map(|()| None),
        });
        let established = established.await.ok_or("connect: timed out")?;
        established.map(|()| stream.into()).map_err(failed)
    }

    /// Goes over to WebSocket if the target is spoken to so; the deadline of the connect is on it.
    async fn upgrade(&self, conn: Stream) -> Result<Stream, Lost> {
        if !self.script.target().is_websocket {
            return Ok(conn);
        }
        conn.send(
            [Bytes::from(upgrade::request(&self.script.target().address.to_string())).into()],
        );
        let mut answer = Vec::new();
        loop {
            let received = poll_fn(|cx| match conn.poll_recv(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => self.worker.poll_deadline(self.slot, cx).map(|()| None),
            });
            let received = received.await.ok_or("connect: timed out")?;
            let chunk = received.map_err(|error| format!("connect: {error}"))?;
            answer.extend_from_slice(&chunk.ok_or("connect: closed by the server")?);
            match upgrade::is_granted(&answer) {
                Some(true) => break,
                None if answer.len() < http::HEAD_BYTES_MAX => {}
                _ => return Err("connect: the upgrade to WebSocket was refused".into()),
            }
        }
        let seed = self.slot as u32;
        Ok(WebSocket::client(conn, self.worker.driver.clone(), seed).into())
    }

    /// Gives the connection up at once.
    fn drop_link(&mut self) {
        self.link = None;
        self.out.clear();
    }

    /// GOODBYE, and waits for the server to close.
    async fn leave(&mut self) {
        let Some(link) = self.link.take() else { return };
        link.conn.send([Chunk::from_static(message::GOODBYE)]);
        self.worker.set_deadline(self.slot, self.worker.driver.now() + LEAVE_MAX);
        poll_fn(|cx| {
            loop {
                match link.conn.poll_recv(cx) {
                    Poll::Ready(Ok(Some(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.worker.poll_deadline(self.slot, cx),
                }
            }
        })
        .await;
        self.worker.set_deadline(self.slot, NEVER);
    }

    async fn end(&mut self) {
        if let Some(link) = self.link.take() {
            link.conn.send([Chunk::from_static(message::GOODBYE)]);
            link.conn.close().await;
        }
    }
}

impl Link {
    /// The next bytes of the server, and what they lead to.
    async fn step(
        &mut self,
        worker: &Worker,
        slot: usize,
        out: &mut BytesMut,
    ) -> Result<Event, Lost> {
        let received = poll_fn(|cx| match self.conn.poll_recv(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => worker.poll_deadline(slot, cx).map(|()| None),
        });
        let received = received.await.ok_or("lost: no answer in time")?;
        let chunk = received.map_err(|error| format!("lost: {error}"))?;
        let chunk = chunk.ok_or("lost: closed by the server")?;
        let event = self.session.take(&chunk, out).map_err(|fault| fault.to_string())?;
        send(&self.conn, out);
        Ok(event)
    }

    /// Ready when the connection has ended or brings what nobody asked for; no-ops are fine.
    fn poll_unasked(&mut self, cx: &std::task::Context<'_>) -> Poll<()> {
        let mut nothing = BytesMut::new();
        loop {
            match self.conn.poll_recv(cx) {
                Poll::Ready(Ok(Some(chunk))) => {
                    if self.session.take(&chunk, &mut nothing).is_err() {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Queues what was written, if anything.
fn send(conn: &Stream, out: &mut BytesMut) {
    if !out.is_empty() {
        conn.send([Chunk::from(out.split().freeze())]);
    }
}
