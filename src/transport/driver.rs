//! One core's data plane as its tasks see it: accept, dial, deadlines, wakes from other threads.
//!
//! `Driver` is shared by all tasks of one executor. `State` is what the pump (in `pump`) and the
//! tasks both touch; no borrow of it crosses an `.await`.

use crate::transport::buffer::Chunk;
use crate::transport::conn::Conn;
use crate::transport::heap::HeapBudget;
use crate::transport::listener;
use crate::transport::pools::Pools;
use crate::transport::pump::{self, Doorbell};
use crate::transport::receive::PRESSED_BYTES;
use crate::transport::ring::{self, Receive, Ring};
use crate::transport::selftest;
use crate::transport::socket::{Life, Operation, Side, Socket, user_data};
use crate::transport::state::{MESSENGER, NOBODY, State, Timer, millis};
use crate::transport::wheel::TimerId;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use crate::transport::options::{Counters, Options, Planted};
pub use crate::transport::send::STUCK_AFTER;
pub use crate::transport::turn::TICK;

pub struct Driver {
    pub(crate) state: RefCell<State>,
    pub(crate) doorbell: Doorbell,
    mailbox: Arc<UnixStream>,
    ring_fd: RawFd,
    pub(crate) is_idle: Cell<bool>,
    options: Options,
}

impl Driver {
    /// Makes the ring, its pools and the pump. Call it inside the executor: the ring belongs to
    /// this thread. The error is one line for the operator: what refused, and what to change.
    pub fn start(options: Options) -> Result<Rc<Driver>, String> {
        let mut ring = Ring::new()?;
        let text = |error: io::Error| ring::explain(&error);
        let pools = Pools::new(&options).map_err(text)?;
        pools.register(&mut ring).map_err(text)?;
        let doorbell = Doorbell::new().map_err(text)?;
        ring.register_eventfd(doorbell.as_raw_fd()).map_err(text)?;
        let (mailbox, mail) = UnixStream::pair().map_err(text)?;
        // A full mailbox has been rung often enough.
        mailbox.set_nonblocking(true).map_err(text)?;
        ring.read_mail(mail.as_raw_fd(), user_data(Operation::Mail, NOBODY));
        let ring_fd = ring.as_raw_fd();
        let receive = options.receive.unwrap_or_else(|| {
            Receive::choose(selftest::abilities(), options.wants_bundles, options.credit_bytes)
        });
        let driver = Rc::new(Driver {
            state: RefCell::new(State::new(ring, pools, &options, receive, mail)),
            doorbell,
            mailbox: Arc::new(mailbox),
            ring_fd,
            is_idle: Cell::new(false),
            options,
        });
        pump::start(&driver).map_err(text)?;
        Ok(driver)
    }

    /// What it was started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// How receives are armed on this kernel.
    pub fn receive(&self) -> Receive {
        self.state.borrow().receive
    }

    /// Starts accepting on `socket`; returns the listener's number, the first is 0.
    pub fn listen(&self, socket: impl Into<OwnedFd>) -> u32 {
        let number = self.state.borrow_mut().listen(socket.into());
        self.kick();
        number
    }

    /// Ends accepting on all listeners; what was accepted already is still handed out.
    pub fn stop_listening(&self) {
        self.state.borrow_mut().stop_listening();
        self.kick();
    }

    /// The next connection of the first listener.
    pub async fn accept(self: &Rc<Self>) -> Conn {
        self.accept_on(0).await
    }

    /// The next connection of a listener, by the number that `listen` returned. One task per
    /// listener. What was accepted waits in the shard: dropping this loses nothing. Waits for ever
    /// once accepting has ended.
    pub async fn accept_on(self: &Rc<Self>, listener: u32) -> Conn {
        let fd = poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            let listener = state.listeners.get_mut(listener as usize).expect("listen was called");
            match listener.accepted.pop_front() {
                Some(fd) => Poll::Ready(fd),
                None => {
                    store(&mut listener.waker, cx);
                    Poll::Pending
                }
            }
        });
        let fd = fd.await;
        self.adopt(fd, Side::Accepted)
    }

    /// Makes a connected socket this shard's and arms its receive.
    pub fn adopt(self: &Rc<Self>, fd: OwnedFd, side: Side) -> Conn {
        let mut state = self.state.borrow_mut();
        let mut socket = Socket::new(fd, side, Life::Open);
        socket.wants_bytes = true;
        let key = state.sockets.insert(socket);
        state.touch(key);
        drop(state);
        self.kick();
        Conn::new(self.clone(), key)
    }

    /// Connects; the address is a value, names are resolved elsewhere. No time limit of its own;
    /// dropping it ends the attempt. Whoever dials speaks first, and soon: the first bytes carry
    /// the acknowledgement that opens the connection, so a server accepts it with something to
    /// read. Without bytes it leaves by itself after 200 ms (Linux, `TCP_DELACK_MAX`).
    pub async fn dial(self: &Rc<Self>, address: SocketAddr) -> io::Result<Conn> {
        let address = Box::new(socket2::SockAddr::from(address));
        // Not O_NONBLOCK: such a socket makes the ring answer EAGAIN instead of waiting.
        let fd = socket2::Socket::new(address.domain(), socket2::Type::STREAM, None)?;
        listener::set_dial_options(&fd)?;
        fd.set_tcp_quickack(false)?;
        let socket = Socket::new(fd.into(), Side::Dialed, Life::Connecting);
        let key = self.state.borrow_mut().connect(socket, address);
        let conn = Conn::new(self.clone(), key);
        self.kick();
        conn.connected().await.map(|()| conn)
    }

    /// A deadline on the shard's wheel; dropping it disarms it.
    pub fn sleep(self: &Rc<Self>, duration: Duration) -> Sleep {
        Sleep {
            driver: self.clone(),
            deadline: ring::monotonic() + duration,
            timer: None,
            is_done: false,
        }
    }

    /// Spawns a task of this shard; it runs before the pump may block.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.note_wake();
        glommio::spawn_local(task).detach();
    }

    /// To be called by whatever wakes a task of this shard without the ring (a local queue, a
    /// notification): else that task waits for the next completion or tick.
    pub fn note_wake(&self) {
        self.state.borrow_mut().wakes += 1;
    }

    /// How other threads wake this shard.
    pub fn handle(&self) -> DriverHandle {
        DriverHandle { mailbox: self.mailbox.clone(), ring_fd: self.ring_fd }
    }

    /// Wakes another shard through its ring.
    pub fn message(&self, other: &DriverHandle) {
        let mut state = self.state.borrow_mut();
        state.ring.message(
            other.ring_fd,
            user_data(Operation::Mail, MESSENGER),
            user_data(Operation::Silent, NOBODY),
        );
        drop(state);
        self.kick();
    }

    /// Waits until the mailbox was rung more than `seen` times; returns how often it was.
    pub async fn mail(&self, seen: u64) -> u64 {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.mail.count > seen {
                return Poll::Ready(state.mail.count);
            }
            state.mail.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Bytes that a connection may queue towards its peer now; see `PRESSED_BYTES`.
    pub fn queue_bytes_max(&self) -> usize {
        match self.state.borrow().is_pressed() {
            true => self.options.queue_bytes_max.min(PRESSED_BYTES as usize),
            false => self.options.queue_bytes_max,
        }
    }

    /// Whether one more request may wait in the buffer it came in, beside `kept` that do.
    pub fn may_keep(&self, chunk: &Chunk, kept: usize) -> bool {
        self.state.borrow().may_keep(chunk, kept)
    }

    /// The time of this shard's deadlines: monotonic, since some fixed moment.
    pub fn now(&self) -> Duration {
        ring::monotonic()
    }

    /// The budget of this shard for bytes held outside the ring's buffers.
    pub fn heap(&self) -> Rc<HeapBudget> {
        self.state.borrow().heap.clone()
    }

    /// Reads the completions that the kernel has ready, without waiting: to be called before an
    /// idle connection is used again, so that `Conn::is_quiet` speaks of now. Costs a system call
    /// only if the kernel says that there is work.
    pub fn catch_up(&self) {
        let caught = self.state.borrow_mut().catch_up();
        if caught {
            self.kick();
        }
    }

    /// Arms what is to be armed and reads what the kernel has ready then, without waiting: after
    /// `adopt`, whatever lay unread in the socket shows in `Conn::is_quiet`. Costs a system call.
    pub fn look(&self) {
        self.state.borrow_mut().look();
        self.kick();
    }

    /// Wakes every task that waits for bytes of an accepted connection: something concerns all of
    /// them.
    pub fn wake_readers(&self) {
        self.state.borrow_mut().wake_readers();
        self.kick();
    }

    /// Adds to `Counters::copied_bytes` what a task copied out of received chunks.
    pub fn note_copied(&self, bytes: usize) {
        self.state.borrow_mut().counters.copied_bytes += bytes as u64;
    }

    /// What the shard has done and holds now.
    pub fn counters(&self) -> Counters {
        self.state.borrow().count()
    }

    /// Whether the pump sleeps in the executor's reactor.
    pub fn is_idle(&self) -> bool {
        self.is_idle.get()
    }

    /// A task that glommio woke (a timer, a channel) queued work: the pump may be parked and must
    /// see it.
    pub(crate) fn kick(&self) {
        if self.is_idle.get() {
            self.doorbell.ring();
        }
    }
}

/// The way to wake a shard from anywhere.
#[derive(Clone)]
pub struct DriverHandle {
    mailbox: Arc<UnixStream>,
    ring_fd: RawFd,
}

impl DriverHandle {
    /// From any thread. Writing the *doorbell* instead would not wake a shard that sleeps in its
    /// own ring.
    pub fn ring(&self) {
        let _ = (&*self.mailbox).write(&[1]);
    }
}

/// Waits for a deadline of the wheel.
pub struct Sleep {
    driver: Rc<Driver>,
    deadline: Duration,
    timer: Option<TimerId>,
    is_done: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.driver.clone();
        let mut state = driver.state.borrow_mut();
        match self.timer.map(|timer| state.wheel.value_mut(timer)) {
            None => {
                let deadline = millis(self.deadline) + 1; // never early
                self.timer = Some(state.wheel.insert(deadline, Timer::Wake(cx.waker().clone())));
                drop(state);
                driver.kick(); // an idle shard's one timeout may stand later
                Poll::Pending
            }
            Some(Some(Timer::Wake(waker))) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            Some(_) => {
                self.is_done = true;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.filter(|_| !self.is_done) {
            self.driver.state.borrow_mut().wheel.cancel(timer);
        }
    }
}

/// Keeps `cx`'s waker, without a clone if it is there already.
pub(crate) fn store(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
