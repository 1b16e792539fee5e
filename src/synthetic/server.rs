//! The shell around the machines: threads, sockets, start, stop and restart.
//!
//! One thread accepts, and deals the connections out to the serving threads in turn. Each of those
//! has a driver, one task per connection, and sends what one batch of input brought as one piece.
//! Accepted sockets reset when they are dropped, so that "killed" looks like it; an orderly end is
//! made by `Conn::close`.

use crate::synthetic::acceptor::{Acceptor, Passage};
use crate::synthetic::ledger::{Entry, Ledger};
use crate::synthetic::machine::{Ending, Machine};
use crate::synthetic::world::{Counts, Shared, Stats, World, lock};
use crate::synthetic::{Faults, Options, Table};
use crate::transport::buffer::Chunk;
use crate::transport::conn::Conn;
use crate::transport::driver::{self, Driver, DriverHandle, Sleep};
use crate::transport::stream::Stream;
use crate::transport::{Side, listener, runtime, tls};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How long the last bytes before a reset may take to reach the kernel.
const LAST_BYTES_WITHIN: Duration = Duration::from_secs(1);

/// A running Bolt server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    connections: Arc<Connections>,
    address: SocketAddr,
    threads: Vec<Thread>,
    acceptor: Mutex<Option<Acceptor>>,
}

/// How many connections there are, over all threads.
#[derive(Debug, Default)]
struct Connections {
    open: AtomicU64,
    open_max: AtomicU64,
    total: AtomicU64,
}

struct Thread {
    orders: Sender<Order>,
    bell: DriverHandle,
    counts: Arc<Counts>,
    ledger: Arc<Mutex<Ledger>>,
    join: Option<runtime::JoinHandle<()>>,
}

enum Order {
    Serve(OwnedFd, u64),
    KillAll,
    Stop,
}

impl Server {
    /// Listens and serves. The error says what the system refused.
    pub fn start(options: Options) -> Result<Server, String> {
        let listener = bind(options.listen)?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let shared = Arc::new(Shared::new(options));
        let connections = Arc::new(Connections::default());
        let threads = shared.options().threads.max(1);
        let threads =
            (0..threads).map(|number| start_thread(number, &shared, &connections, address));
        let server = Server {
            threads: threads.collect::<Result<_, _>>()?,
            shared,
            connections,
            address,
            acceptor: Mutex::new(None),
        };
        server.accept_on(listener)?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            connections_open: self.connections.open.load(Relaxed),
            connections_max: self.connections.open_max.load(Relaxed),
            connections_total: self.connections.total.load(Relaxed),
            ..Stats::default()
        };
        self.threads.iter().for_each(|thread| thread.counts.add_to(&mut stats));
        stats
    }

    /// What was executed, oldest first.
    pub fn ledger(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for thread in &self.threads {
            entries.extend(lock(&thread.ledger).entries().cloned());
        }
        entries.sort_unstable_by_key(|entry| entry.sequence);
        entries
    }

    /// Holds from the next batch of each connection on; `die_at_byte` from the next connection on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.change(|options| options.faults = faults);
    }

    /// Changes or adds a user. Who is logged in stays so, as with Neo4j.
    pub fn set_password(&self, name: &str, password: &str) {
        self.shared.change(|options| {
            options.users.retain(|user| user.0 != name);
            options.users.push((name.into(), password.into()));
        });
    }

    /// What ROUTE answers from now on.
    pub fn set_table(&self, table: Option<Table>) {
        self.shared.change(|options| options.table = table);
    }

    /// Whether writes are refused from now on.
    pub fn set_follower(&self, is_follower: bool) {
        self.shared.change(|options| options.is_follower = is_follower);
    }

    /// Resets every connection at once and goes on listening.
    pub fn kill_all(&self) {
        self.threads.iter().for_each(|thread| thread.order(Order::KillAll));
    }

    /// While paused, connections are made by the kernel and nothing is answered on them.
    pub fn pause_accept(&self, paused: bool) {
        if let Some(acceptor) = &*lock(&self.acceptor) {
            acceptor.set(if paused { Passage::Paused } else { Passage::Open });
        }
    }

    /// Closes the listener and resets all connections, as if the process had been killed.
    pub fn stop(&self) {
        if let Some(acceptor) = lock(&self.acceptor).take() {
            acceptor.end();
        }
        self.kill_all();
    }

    /// Listens again on the same port; does nothing if it listens already.
    pub fn restart(&self) -> Result<(), String> {
        if lock(&self.acceptor).is_some() {
            return Ok(());
        }
        self.accept_on(bind(self.address)?)
    }

    /// Deals accepted sockets out to the threads in turn.
    fn accept_on(&self, listener: TcpListener) -> Result<(), String> {
        let (shared, connections) = (self.shared.clone(), self.connections.clone());
        let threads =
            self.threads.iter().map(|thread| (thread.orders.clone(), thread.bell.clone()));
        let threads: Vec<_> = threads.collect();
        let deal = move |socket| {
            if shared.options().faults.refuses_connections {
                return true;
            }
            let id = connections.total.fetch_add(1, Relaxed) + 1;
            let open = connections.open.fetch_add(1, Relaxed) + 1;
            connections.open_max.fetch_max(open, Relaxed);
            let (orders, bell) = &threads[id as usize % threads.len()];
            let is_taken = orders.send(Order::Serve(socket, id)).is_ok();
            bell.ring();
            is_taken
        };
        *lock(&self.acceptor) = Some(Acceptor::start(listener, deal)?);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        for thread in &mut self.threads {
            thread.order(Order::Stop);
            if let Some(join) = thread.join.take() {
                let _ = join.join();
            }
        }
    }
}

impl Thread {
    fn order(&self, order: Order) {
        // A thread that is gone has nothing left to be told.
        if self.orders.send(order).is_ok() {
            self.bell.ring();
        }
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let mut listeners = listener::bind(address, 1)?;
    listeners.pop().ok_or_else(|| format!("expected one listener on {address}, got none"))
}

fn start_thread(
    number: usize,
    shared: &Arc<Shared>,
    connections: &Arc<Connections>,
    address: SocketAddr,
) -> Result<Thread, String> {
    let options = shared.options();
    let cpus = options.cpus.as_deref().filter(|cpus| !cpus.is_empty());
    let cpu = cpus.map(|cpus| cpus[number % cpus.len()]);
    let (orders, received) = mpsc::channel();
    let (started, is_started) = mpsc::channel();
    let entries_max = options.ledger_entries_max.div_ceil(options.threads.max(1));
    let ledger = Arc::new(Mutex::new(Ledger::new(entries_max)));
    let counts = Arc::new(Counts::default());
    let (shared, connections) = (shared.clone(), connections.clone());
    let (its_counts, its_ledger) = (counts.clone(), ledger.clone());
    let body = move || async move {
        let driver = match Driver::start(driver::Options::default()) {
            Ok(driver) => driver,
            Err(error) => return drop(started.send(Err(error))),
        };
        if started.send(Ok(driver.handle())).is_err() {
            return;
        }
        let world = World::new(shared, its_counts, its_ledger, address.to_string(), number as u32);
        let local = Rc::new(Local {
            driver,
            world: RefCell::new(world),
            kills: Cell::new(0),
            wakers: RefCell::new(Slab::new()),
            connections,
        });
        obey(&local, &received).await;
    };
    let join =
        runtime::start_executor("bolt-serve", cpu, body).map_err(|error| error.to_string())?;
    let bell = is_started.recv().map_err(|_| "the serving thread ended at its start")??;
    Ok(Thread { orders, bell, counts, ledger, join: Some(join) })
}

/// What the tasks of one thread share.
struct Local {
    driver: Rc<Driver>,
    world: RefCell<World>,
    /// How often all connections were killed.
    kills: Cell<u64>,
    wakers: RefCell<Slab<Option<Waker>>>,
    connections: Arc<Connections>,
}

async fn obey(local: &Rc<Local>, orders: &Receiver<Order>) {
    let mut seen = 0;
    loop {
        seen = local.driver.mail(seen).await;
        while let Ok(order) = orders.try_recv() {
            match order {
                Order::Serve(fd, id) => {
                    let conn = local.driver.adopt(fd, Side::Accepted);
                    local.driver.spawn(serve(local.clone(), conn, id));
                }
                Order::KillAll => local.kill_all(),
                Order::Stop => return local.kill_all(),
            }
        }
    }
}

impl Local {
    fn kill_all(&self) {
        self.kills.set(self.kills.get() + 1);
        for (_, waker) in self.wakers.borrow_mut().iter_mut() {
            if let Some(waker) = waker.take() {
                self.driver.note_wake();
                waker.wake();
            }
        }
    }
}

/// What a connection's task waits for.
enum Event {
    Bytes(Chunk),
    /// Time, or room in the send queue.
    GoOn,
    EndOfFile,
    Dead,
}

/// One connection's life.
async fn serve(local: Rc<Local>, conn: Conn, id: u64) {
    let slot = local.wakers.borrow_mut().insert(None);
    local.world.borrow_mut().refresh();
    let machine = Machine::new(id, local.driver.now(), &local.world.borrow());
    let tls = local.world.borrow().options.tls.clone();
    let conn = match tls {
        Some(config) => tls::accept(conn, &[], &config).map_or_else(Stream::from, Stream::from),
        None => conn.into(),
    };
    let mut connection = Connection { local, conn, slot, machine, sleep: None };
    let is_orderly = connection.run().await;
    let Connection { local, conn, mut machine, .. } = connection;
    machine.abandon(&local.world.borrow());
    local.wakers.borrow_mut().remove(slot);
    // Before its peer can hear of the end and connect anew.
    local.connections.open.fetch_sub(1, Relaxed);
    if is_orderly {
        conn.close().await;
    } else {
        drop(conn);
    }
}

struct Connection {
    local: Rc<Local>,
    conn: Stream,
    slot: usize,
    machine: Machine,
    /// The armed timer and its time.
    sleep: Option<(Duration, Sleep)>,
}

impl Connection {
    /// Serves until the end; true if that is to be an orderly one.
    async fn run(&mut self) -> bool {
        let kills = self.local.kills.get();
        loop {
            let is_full = self.send_output();
            match self.machine.ending() {
                Some(Ending::Close) => return true,
                Some(Ending::Reset) => {
                    self.flush().await;
                    return false;
                }
                None => {}
            }
            match poll_fn(|cx| self.poll_event(cx, kills, is_full)).await {
                Event::Bytes(chunk) => self.receive(&chunk),
                Event::GoOn => self.advance(),
                Event::EndOfFile => return true,
                Event::Dead => return false,
            }
        }
    }

    /// Handles a chunk, and what else has come meanwhile.
    fn receive(&mut self, first: &[u8]) {
        let now = self.local.driver.now();
        let mut world = self.local.world.borrow_mut();
        world.refresh();
        self.machine.receive(first, now, &mut world);
        while self.machine.wants_input()
            && let Some(chunk) = self.conn.take_received()
        {
            self.machine.receive(&chunk, now, &mut world);
        }
    }

    fn advance(&mut self) {
        let now = self.local.driver.now();
        let mut world = self.local.world.borrow_mut();
        world.refresh();
        self.machine.advance(now, &mut world);
    }

    /// Queues the machine's output, until nothing is left or the queue is full, which it returns.
    fn send_output(&mut self) -> bool {
        let limit = self.local.driver.options().queue_bytes_max;
        loop {
            let bytes = self.machine.take_output(&self.local.world.borrow());
            let Some(bytes) = bytes else { return false };
            self.conn.send([Chunk::from(bytes)]);
            if self.machine.ending().is_some() {
                return false;
            }
            if self.conn.queued_bytes() >= limit {
                return true;
            }
            self.advance();
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, kills: u64, is_full: bool) -> Poll<Event> {
        if self.local.kills.get() != kills {
            return Poll::Ready(Event::Dead);
        }
        driver::store(&mut self.local.wakers.borrow_mut()[self.slot], cx);
        if self.machine.wants_input() {
            match self.conn.poll_recv(cx) {
                Poll::Ready(Ok(Some(chunk))) => return Poll::Ready(Event::Bytes(chunk)),
                Poll::Ready(Ok(None)) => return Poll::Ready(Event::EndOfFile),
                // A peer that TLS does not believe is to read the alert.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    return Poll::Ready(Event::EndOfFile);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Dead),
                Poll::Pending => {}
            }
        } else if self.conn.poll_dead(cx).is_ready() {
            return Poll::Ready(Event::Dead);
        }
        if is_full {
            match self.conn.poll_ready(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Event::GoOn),
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Dead),
                Poll::Pending => {}
            }
        }
        self.poll_sleep(cx).map(|()| Event::GoOn)
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(wake_at) = self.machine.wake_at() else {
            self.sleep = None;
            return Poll::Pending;
        };
        if self.sleep.as_ref().is_none_or(|(armed, _)| *armed != wake_at) {
            let duration = wake_at.saturating_sub(self.local.driver.now());
            self.sleep = Some((wake_at, self.local.driver.sleep(duration)));
        }
        let Some((_, sleep)) = &mut self.sleep else { return Poll::Pending };
        let poll = Pin::new(sleep).poll(cx);
        if poll.is_ready() {
            self.sleep = None;
        }
        poll
    }

    /// Waits until the kernel has what was sent, for a while.
    async fn flush(&self) {
        let mut limit = self.local.driver.sleep(LAST_BYTES_WITHIN);
        poll_fn(|cx| match self.conn.poll_flushed(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Pin::new(&mut limit).poll(cx),
        })
        .await;
    }
}
