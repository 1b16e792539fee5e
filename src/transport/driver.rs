//! One core's pump: it turns completions into wakes, and sleeps.
//!
//! `Driver` is shared by all tasks of one executor. `State` is what the pump and the tasks both touch;
//! no borrow of it crosses an `.await`. Laws: nothing blocks while `wakes` is not zero; the eventfd is on
//! around every park in glommio.

use crate::transport::buffer::Pool;
use crate::transport::conn::Conn;
use crate::transport::heap::HeapBudget;
use crate::transport::listener;
use crate::transport::ring::{self, Receive, Ring};
use crate::transport::socket::{Key, Life, Operation, Side, Socket, user_data};
use crate::transport::state::{Listening, MESSENGER, NOBODY, State, Timer, millis};
use crate::transport::wheel::TimerId;

pub use crate::transport::state::STUCK_AFTER;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How late glommio's timers and channels may be while the shard is busy; a visit costs about 20 system calls.
pub const TICK: Duration = Duration::from_millis(5);
/// Silence before the shard goes idle: shorter pauses between requests are cheaper slept in our own ring.
const SILENT_TICKS: u32 = 3;
/// glommio 0.9.0 can park with runnable tasks; two beats with no common period bound that stall.
const HEARTBEATS: [Duration; 2] = [Duration::from_millis(233), Duration::from_millis(317)];
#[derive(Clone, Debug)]
pub struct Options {
    pub receive: Receive,
    /// Buffers for accepted and for dialed sockets.
    pub buffers: [u16; 2],
    pub buffer_size: u32,
    /// Bytes a connection may queue towards one peer before its source is not read.
    pub queue_bytes_max: usize,
    /// Bytes of stuck sends on the heap.
    pub heap_max: usize,
}

impl Default for Options {
    /// 512 x 16 KiB twice; 64 KiB of credit is four buffers; 64 MiB of copies.
    fn default() -> Self {
        let receive = Receive::Limited { bundle: false, total: 64 << 10 };
        Options {
            receive,
            buffers: [512; 2],
            buffer_size: 16 << 10,
            queue_bytes_max: 64 << 10,
            heap_max: 64 << 20,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub enters: u64,
    pub sockets: usize,
    pub timers: usize,
    pub lent: [u16; 2],
    pub lent_max: [u16; 2],
    pub heap_bytes: usize,
    pub deepened: u64,
    pub parked: u64,
    pub rescued: u64,
    pub over_budget: u64,
    pub stopped_receives: u64,
    pub accept_pauses: u64,
    pub visits: u64,
    pub sleeps: u64,
    pub ticks: u64,
    pub relayed_bytes: u64,
    pub copied_bytes: u64,
}

pub struct Driver {
    pub(crate) state: RefCell<State>,
    doorbell: Doorbell,
    mailbox: Arc<UnixStream>,
    ring_fd: RawFd,
    is_idle: Cell<bool>,
    pub options: Options,
}

impl Driver {
    /// Makes the ring, its pools and the pump. Call it inside the executor: the ring belongs to this thread.
    pub fn start(options: Options) -> Result<Rc<Driver>, String> {
        let mut ring = Ring::new()?;
        let text = |error: io::Error| format!("io_uring set-up failed: {error}");
        let pool = |entries| Pool::new(entries, options.buffer_size).map_err(text);
        let pools = [pool(options.buffers[0])?, pool(options.buffers[1])?];
        for (group, pool) in pools.iter().enumerate() {
            ring.register_pool(pool, group as u16).map_err(text)?;
        }
        let doorbell = Doorbell::new().map_err(text)?;
        ring.register_eventfd(doorbell.bell.as_raw_fd()).map_err(text)?;
        let (mailbox, mail) = UnixStream::pair().map_err(text)?;
        mailbox.set_nonblocking(true).map_err(text)?; // a full one has been rung often enough
        ring.read_mail(mail.as_raw_fd(), user_data(Operation::Mail, NOBODY));
        let ring_fd = ring.as_raw_fd();
        let state = RefCell::new(State::new(ring, pools, options.clone(), mail));
        let mailbox = Arc::new(mailbox);
        let driver = Rc::new(Driver {
            state,
            doorbell,
            mailbox,
            ring_fd,
            is_idle: Cell::new(false),
            options,
        });
        glommio::spawn_local(answer_doorbell(driver.clone())).detach();
        glommio::spawn_local(pump(driver.clone())).detach();
        for period in HEARTBEATS {
            glommio::spawn_local(async move {
                loop {
                    glommio::timer::sleep(period).await
                }
            })
            .detach();
        }
        Ok(driver)
    }

    /// Starts accepting on `socket`.
    pub fn listen(&self, socket: TcpListener) {
        let mut state = self.state.borrow_mut();
        state.ring.accept(socket.as_raw_fd(), user_data(Operation::Accept, NOBODY));
        state.listener = Some(Listening { socket, accepted: VecDeque::new(), waker: None });
        drop(state);
        self.kick();
    }

    /// The next accepted connection. What was accepted waits in the shard: dropping this loses nothing.
    pub async fn accept(self: &Rc<Self>) -> Conn {
        let fd = poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            let listener = state.listener.as_mut().expect("listen was called");
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

    /// Connects; the address is a value, names are resolved elsewhere.
    pub async fn dial(self: &Rc<Self>, address: std::net::SocketAddr) -> io::Result<Conn> {
        let address = Box::new(socket2::SockAddr::from(address));
        // Not O_NONBLOCK: such a socket makes the ring answer EAGAIN instead of waiting.
        let fd = socket2::Socket::new(address.domain(), socket2::Type::STREAM, None)?;
        listener::set_options(&fd)?;
        let conn = Conn::new(self.clone(), self.begin_connect(fd.into(), address));
        self.kick();
        conn.connected().await.map(|()| conn)
    }

    fn begin_connect(&self, fd: OwnedFd, address: Box<socket2::SockAddr>) -> Key {
        let state = &mut *self.state.borrow_mut();
        let mut socket = Socket::new(fd, Side::Dialed, Life::Connecting);
        (socket.address, socket.operations) = (Some(address), 1);
        let raw = socket.fd.as_raw_fd();
        let key = state.sockets.insert(socket);
        let address = state
            .sockets
            .get(key)
            .and_then(|socket| socket.address.as_deref())
            .expect("just put there");
        state.ring.connect(raw, address, user_data(Operation::Connect, key));
        key
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

    /// To be called by whatever wakes a task of this shard without the ring (a local queue, a notification):
    /// else that task waits for the next completion or tick.
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
            if state.mail_count > seen {
                return Poll::Ready(state.mail_count);
            }
            state.mail_wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The time of this shard's deadlines: monotonic, since some fixed moment.
    pub fn now(&self) -> Duration {
        ring::monotonic()
    }

    /// The budget of this shard for bytes held outside the ring's buffers.
    pub fn heap(&self) -> Rc<HeapBudget> {
        self.state.borrow().heap.clone()
    }

    /// Reads the completions that the kernel has ready, without waiting: to be called before an idle
    /// connection is used again, so that `Conn::is_quiet` speaks of now. Costs a system call only if
    /// the kernel says that there is work.
    pub fn catch_up(&self) {
        let caught = self.state.borrow_mut().catch_up();
        if caught {
            self.kick();
        }
    }

    pub fn counters(&self) -> Counters {
        self.state.borrow_mut().count()
    }

    pub fn is_idle(&self) -> bool {
        self.is_idle.get()
    }

    /// A task that glommio woke (a timer, a channel) queued work: the pump may be parked and must see it.
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
    /// From any thread. Writing the *doorbell* instead would not wake a shard that sleeps in its own ring.
    pub fn ring(&self) {
        let _ = (&*self.mailbox).write(&[1]);
    }
}

/// The eventfd the private ring writes, read through glommio: the one bridge between the two.
struct Doorbell {
    bell: File,
    is_rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Doorbell {
    fn new() -> io::Result<Doorbell> {
        Ok(Doorbell {
            bell: ring::new_eventfd()?,
            is_rung: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    /// Lets `wait` return.
    fn ring(&self) {
        self.is_rung.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            if self.is_rung.replace(false) {
                return Poll::Ready(());
            }
            store(&mut self.waker.borrow_mut(), cx);
            Poll::Pending
        })
        .await
    }
}

async fn answer_doorbell(driver: Rc<Driver>) {
    let file = ring::glommio_file(
        driver.doorbell.bell.try_clone().expect("a descriptor for the doorbell"),
    );
    loop {
        // A read of eight bytes at offset 0 is the only public way to wait for a descriptor in glommio.
        file.read_at(0, size_of::<u64>()).await.expect("an eventfd can be read");
        driver.doorbell.ring();
    }
}

/// Busy until three silent ticks, then idle until the doorbell.
async fn pump(driver: Rc<Driver>) {
    loop {
        driver.state.borrow_mut().wake_up();
        let mut silent = 0;
        while silent < SILENT_TICKS {
            let visit = driver.state.borrow_mut().turn();
            if visit {
                let quiet = driver.state.borrow_mut().end_of_tick();
                silent = if quiet { silent + 1 } else { 0 };
                visit_reactor(&driver).await;
            } else {
                // Tasks first: the pump comes back behind all it has woken.
                driver.state.borrow_mut().wakes = 0;
                glommio::executor().yield_now().await;
            }
        }
        if driver.state.borrow_mut().fall_asleep() {
            driver.is_idle.set(true);
            driver.doorbell.wait().await;
            driver.is_idle.set(false);
        }
    }
}

/// Lets glommio look at its own rings: timers, channels and files. With every task run it parks, and the
/// written doorbell ends that park at once. The eventfd is on meanwhile, in case glommio parks wrongly.
async fn visit_reactor(driver: &Driver) {
    driver.state.borrow_mut().begin_visit();
    driver.doorbell.is_rung.set(false);
    (&driver.doorbell.bell).write_all(&1u64.to_ne_bytes()).expect("an eventfd takes a write");
    driver.doorbell.wait().await;
    // Tasks that glommio woke may have woken others behind the pump: one more round for those.
    glommio::executor().yield_now().await;
    driver.state.borrow_mut().ring.signal_eventfd(false);
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
