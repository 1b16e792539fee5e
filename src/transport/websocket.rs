//! A client behind WebSocket: payloads in, frames out, over a plain or an encrypted connection. The
//! load generator is such a client itself: the same, with its own frames masked.
//!
//! Owns: what control frames make necessary (Pong, Close, our own Ping) and the way of payloads
//! through the codec. Does not own: the rules of frames (`codec`), the request that came first
//! (`upgrade`).
//!
//! Invariants: what one `send` is given leaves as one frame, gathered with its header into the same
//! send as everything else of this turn; nothing waits for more. After our Close nothing is sent,
//! after the peer's nothing is read. Payloads are unmasked where they were received.

pub mod codec;
pub mod upgrade;

use crate::transport::buffer::Chunk;
use crate::transport::driver::{Driver, Sleep};
use crate::transport::stream::Stream;
use crate::transport::websocket::codec::{
    CloseCode, Decoder, Event, Fault, Header, MESSAGE_BYTES_MAX,
};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// While so much waits for a peer that does not read, its Pings are not answered one by one: the
/// latest is, once there is room (RFC 6455, 5.5.3).
const PONG_ROOM: usize = 16 << 10;

/// See the module.
pub struct WebSocket {
    inner: Stream,
    driver: Rc<Driver>,
    state: RefCell<State>,
    /// What the Close of `close` says.
    close_code: Cell<CloseCode>,
    /// Of a client: the last mask.
    mask: Option<Cell<u32>>,
}

struct State {
    decoder: Decoder,
    end: Option<End>,
    /// Our Close is queued.
    is_closing: bool,
    /// Payload of the latest Ping that was not answered yet.
    ping: Option<Bytes>,
    heartbeat: Option<Heartbeat>,
    timer: Option<Sleep>,
    /// Empty between sends; keeps its memory.
    frame: Vec<Chunk>,
}

/// How the peer's direction came to its end.
#[derive(Clone, Copy)]
enum End {
    Close,
    Fault(Fault),
}

impl WebSocket {
    /// Over a connection on which the upgrade was granted and nothing of the peer was read since.
    /// With `ping_every` the peer is sent a Ping so often, so that nothing between takes the
    /// connection for dead.
    pub fn new(inner: Stream, driver: Rc<Driver>, ping_every: Option<Duration>) -> WebSocket {
        let now = driver.now();
        let state = State {
            decoder: Decoder::of_client(),
            end: None,
            is_closing: false,
            ping: None,
            heartbeat: ping_every.map(|every| Heartbeat::new(every, now)),
            timer: None,
            frame: Vec::new(),
        };
        let (state, close_code) = (RefCell::new(state), Cell::new(CloseCode::Normal));
        WebSocket { inner, driver, state, close_code, mask: None }
    }

    /// The client's end, over a connection on which the upgrade was granted.
    pub fn client(inner: Stream, driver: Rc<Driver>, seed: u32) -> WebSocket {
        let mut websocket = WebSocket::new(inner, driver, None);
        websocket.mask = Some(Cell::new(seed));
        websocket.state.get_mut().decoder = Decoder::of_server();
        websocket
    }

    /// What lies below.
    pub fn inner(&self) -> &Stream {
        &self.inner
    }

    /// The rule that the peer has broken.
    pub fn fault(&self) -> Option<Fault> {
        match self.state.borrow().end {
            Some(End::Fault(fault)) => Some(fault),
            _ => None,
        }
    }

    /// What the peer is told when this is closed.
    pub fn set_close_code(&self, code: CloseCode) {
        self.close_code.set(code);
    }

    /// See `Conn::poll_recv`. A peer's Close is the end; a broken rule is an error.
    pub fn poll_recv(&self, cx: &Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.poll_heartbeat(cx);
        loop {
            match self.state.borrow().end {
                Some(End::Close) => return Poll::Ready(Ok(None)),
                Some(End::Fault(fault)) => {
                    let text = format!("expected frames of RFC 6455, came {fault:?}");
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                None => {}
            }
            match self.inner.poll_recv(cx) {
                Poll::Ready(Ok(Some(chunk))) => {
                    if let Some(payload) = self.read(chunk) {
                        return Poll::Ready(Ok(Some(payload)));
                    }
                }
                other => return other,
            }
        }
    }

    /// See `Conn::take_received`.
    pub fn take_received(&self) -> Option<Chunk> {
        while self.state.borrow().end.is_none() {
            if let Some(payload) = self.read(self.inner.take_received()?) {
                return Some(payload);
            }
        }
        None
    }

    /// See `Conn::poll_dead`.
    pub fn poll_dead(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_heartbeat(cx);
        self.inner.poll_dead(cx)
    }

    /// See `Conn::has_ended`.
    pub fn has_ended(&self) -> bool {
        self.state.borrow().end.is_some() || self.inner.has_ended()
    }

    /// See `Conn::is_quiet`.
    pub fn is_quiet(&self) -> bool {
        self.state.borrow().end.is_none() && self.inner.is_quiet()
    }

    /// Sends the chunks as one frame; see `Conn::send`.
    pub fn send(&self, chunks: impl IntoIterator<Item = Chunk>) {
        self.send_pong();
        let mut state = self.state.borrow_mut();
        let mut frame = std::mem::take(&mut state.frame);
        frame.extend(chunks);
        let length: usize = frame.iter().map(|chunk| chunk.len()).sum();
        match &self.mask {
            _ if state.is_closing || length == 0 => frame.clear(),
            Some(mask) if length > MESSAGE_BYTES_MAX => self.send_long(mask, &mut frame),
            Some(mask) => self.send_masked(mask, &mut frame, length),
            None => {
                let header = match codec::binary_header(length) {
                    Header::Short(bytes) => Chunk::from_static(bytes),
                    header => Chunk::from(Bytes::copy_from_slice(header.as_ref())),
                };
                self.send_frame(header, &mut frame);
            }
        }
        state.frame = frame;
    }

    /// Says Close, if that has not been said, and ends as the connection below ends.
    pub async fn close(self) {
        self.send_close(Some(self.close_code.get() as u16));
        Box::pin(self.inner.close()).await;
    }

    /// What one received chunk holds for the one above; control frames are answered.
    fn read(&self, mut chunk: Chunk) -> Option<Chunk> {
        let mut state = self.state.borrow_mut();
        let State { decoder, end, ping, .. } = &mut *state;
        let mut closed = None;
        let each = |event: Event<'_>| match event {
            Event::Ping(payload) => *ping = Some(Bytes::copy_from_slice(payload)),
            Event::Pong(_) => {}
            Event::Close(code) => closed = Some(code),
        };
        let (decoded, copied) = chunk.edit(|bytes| decoder.decode(bytes, each));
        if copied + decoded.moved > 0 {
            self.driver.note_copied(copied + decoded.moved);
        }
        if let Some(fault) = decoded.fault {
            *end = Some(End::Fault(fault));
            closed = Some(Some(fault.code() as u16));
        } else if closed.is_some() {
            *end = Some(End::Close);
        }
        drop(state);
        self.send_pong();
        if let Some(code) = closed {
            self.send_close(code);
        }
        let payload = decoded.payload;
        (!payload.is_empty()).then(|| {
            chunk.advance(payload.start);
            chunk.split_to(payload.len())
        })
    }

    /// Answers the latest Ping, if there is room.
    fn send_pong(&self) {
        let mut state = self.state.borrow_mut();
        if state.ping.is_none() || self.inner.queued_bytes() > PONG_ROOM {
            return;
        }
        if let Some(payload) = state.ping.take().filter(|_| !state.is_closing) {
            self.send_control(codec::pong(&payload));
        }
    }

    fn send_close(&self, code: Option<u16>) {
        if !std::mem::replace(&mut self.state.borrow_mut().is_closing, true) {
            self.send_control(codec::close(code));
        }
    }

    fn send_control(&self, frame: Vec<u8>) {
        let frame = if self.mask.is_some() { codec::masked_control(frame) } else { frame };
        self.inner.send([Chunk::from(Bytes::from(frame))]);
    }

    /// A client's frames have a limit, of servers that know the same.
    fn send_long(&self, mask: &Cell<u32>, payload: &mut Vec<Chunk>) {
        let (mut frame, mut room) = (Vec::new(), MESSAGE_BYTES_MAX);
        for mut chunk in payload.drain(..) {
            while !chunk.is_empty() {
                let part = chunk.split_to(chunk.len().min(room));
                room -= part.len();
                frame.push(part);
                if room == 0 {
                    self.send_masked(mask, &mut frame, MESSAGE_BYTES_MAX);
                    room = MESSAGE_BYTES_MAX;
                }
            }
        }
        self.send_masked(mask, &mut frame, MESSAGE_BYTES_MAX - room);
    }

    fn send_masked(&self, mask: &Cell<u32>, frame: &mut Vec<Chunk>, length: usize) {
        let header = self.mask_frame(mask, frame, length);
        self.send_frame(header, frame);
    }

    fn send_frame(&self, header: Chunk, payload: &mut Vec<Chunk>) {
        if !payload.is_empty() {
            self.inner.send_boxed(&mut std::iter::once(header).chain(payload.drain(..)));
        }
    }

    /// Masks a client's payload, and makes its header.
    fn mask_frame(&self, last: &Cell<u32>, frame: &mut [Chunk], length: usize) -> Chunk {
        // Masks protect caches between from what a page may send (RFC 6455, 10.3); a program that
        // speaks for itself need not be unpredictable.
        last.set(last.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let mask = last.get().to_be_bytes();
        let mut done = 0;
        for chunk in frame {
            chunk.edit(|bytes| codec::apply_mask(bytes, mask, done));
            done += chunk.len();
        }
        Chunk::from(Bytes::from(codec::masked_header(length, mask)))
    }

    fn poll_heartbeat(&self, cx: &Context<'_>) {
        let mut state = self.state.borrow_mut();
        let State { heartbeat: Some(heartbeat), timer, is_closing, .. } = &mut *state else {
            return;
        };
        loop {
            let sleep = timer.get_or_insert_with(|| {
                self.driver.sleep(heartbeat.due().saturating_sub(self.driver.now()))
            });
            let mut cx = Context::from_waker(cx.waker());
            if Pin::new(sleep).poll(&mut cx).is_pending() {
                return;
            }
            *timer = None;
            let is_idle = self.inner.queued_bytes() == 0 && !*is_closing;
            if heartbeat.beat(self.driver.now()) && is_idle {
                self.inner.send([Chunk::from_static(codec::PING)]);
            }
        }
    }
}

/// When a Ping is due. Pure: it is told the time.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    every: Duration,
    due: Duration,
}

impl Heartbeat {
    pub fn new(every: Duration, now: Duration) -> Heartbeat {
        Heartbeat { every, due: now + every }
    }

    /// When `beat` is to be called next.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// Whether a Ping is due; then the next one is an interval later. After a pause (a machine that
    /// slept) there is one, not one for each that was missed.
    pub fn beat(&mut self, now: Duration) -> bool {
        let is_due = self.due <= now;
        if is_due {
            self.due = now + self.every;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::wheel::Wheel;

    /// Browsers leave a tab open for days; what lies between forgets a silent connection after a
    /// minute or more.
    #[test]
    fn a_silent_day_has_no_gap_longer_than_the_interval() {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        const TICK_MS: u64 = 7;
        let every = Duration::from_secs(30);
        let mut wheel = Wheel::new(0);
        let mut heartbeat = Heartbeat::new(every, Duration::ZERO);
        wheel.insert(heartbeat.due().as_millis() as u64, ());
        let (mut pings, mut last_ms) = (0, 0);
        for now_ms in (0..=DAY_MS).step_by(TICK_MS as usize) {
            let mut is_due = false;
            wheel.advance(now_ms, |()| is_due = true);
            if is_due {
                assert!(heartbeat.beat(Duration::from_millis(now_ms)), "the wheel is never early");
                assert!(now_ms - last_ms <= 30_000 + TICK_MS, "{last_ms} to {now_ms}");
                (pings, last_ms) = (pings + 1, now_ms);
                wheel.insert(heartbeat.due().as_millis() as u64, ());
            }
        }
        assert!(DAY_MS - last_ms <= 30_000 && pings >= 2879, "{pings}, the last at {last_ms}");
    }

    #[test]
    fn a_long_pause_is_followed_by_one_ping() {
        let mut heartbeat = Heartbeat::new(Duration::from_secs(30), Duration::ZERO);
        assert!(!heartbeat.beat(Duration::from_secs(29)));
        let after = Duration::from_secs(3600);
        assert!(heartbeat.beat(after) && !heartbeat.beat(after));
        assert_eq!(heartbeat.due(), after + Duration::from_secs(30));
    }
}
