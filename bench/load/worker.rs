//! One load thread: an executor with a ring, and a task for every client.
//!
//! The conductor gives one order at a time: connect a target's clients, let them ask, end. Every
//! client of the order's target does its part and says so; with the last one the thread replies.
//! Clients of other targets wait and watch their connections.
//!
//! Owns the clock, deadlines and counts of its clients. Nothing here is shared with other threads
//! but the channels and one live count. A request costs one read of the clock and no allocation.

use super::client::Client;
use super::pacer::Pacer;
use super::plan::Plan;
use super::schedule::{Schedule, Starts, part};
use super::script::Script;
use super::tally::Tally;
use crate::transport::driver::{Driver, DriverHandle, Options};
use crate::transport::runtime;
use crate::wire::version::Version;
use std::cell::{Cell, RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How late a deadline may be noticed, and how often the live count moves.
const SWEEP: Duration = Duration::from_millis(50);
/// How long a run that is ended early waits for what is asked already.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// Logins under way at a time on one thread: servers hash passwords slowly and accept in a queue.
const LOGINS_MAX: usize = 64;
/// Buffers for accepted sockets, of which there are none, and for ours: 16 MiB, touched when
/// needed.
const BUFFERS: [u16; 2] = [8, 1024];
/// What one receive may bring: enough for rows to come in few turns.
const CREDIT_BYTES: u32 = 128 << 10;

/// What the conductor wants of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Connect and log in one client of a target, so that a wrong password meets the server once:
    /// servers lock a user after a few.
    Try { target: usize },
    /// Connect and log in those clients of a target that are not.
    Connect { target: usize },
    /// Ask for so long, or so many requests on all threads, then finish what is asked. The ramp
    /// comes before.
    Run { target: usize, ramp: Duration, time: Duration, requests: Option<u64> },
    /// Finish what is asked now.
    Stop,
    /// Say GOODBYE and end.
    End,
}

/// A thread's answers: one `Ready` at first, then one for every order but `Stop`.
pub enum Reply {
    Ready(DriverHandle),
    Failed(String),
    /// What went wrong, by kind; the version that was negotiated last.
    Connected {
        tally: Box<Tally>,
        version: Option<Version>,
    },
    Measured {
        tally: Box<Tally>,
        time: Duration,
        /// It was not ended before its time or its number.
        is_whole: bool,
    },
}

/// What a thread is given.
pub struct Assignment {
    pub plan: Plan,
    pub run: u32,
    pub thread: usize,
    pub orders: Receiver<Order>,
    pub replies: Sender<(usize, Reply)>,
    /// Requests answered so far in this round, now and then.
    pub live: Arc<AtomicU64>,
}

/// Starts the thread; it ends with the order to end, or when the conductor is gone.
pub fn start(assignment: Assignment) -> io::Result<runtime::JoinHandle<()>> {
    let (thread, cpus) = (assignment.thread, &assignment.plan.cpus);
    let cpu = (!cpus.is_empty()).then(|| cpus[thread % cpus.len()]);
    runtime::start_executor(&format!("load-{thread}"), cpu, move || work(assignment))
}

/// How long it may take until every client of a target has tried to log in: so many at a time on
/// each thread, and each may take its whole time.
pub fn logins_time_max(plan: &Plan) -> Duration {
    let turns = plan.clients.div_ceil(plan.threads).div_ceil(LOGINS_MAX);
    plan.connect_timeout * turns as u32
}

/// What the clients of one thread share.
pub struct Worker {
    pub driver: Rc<Driver>,
    pub plan: Rc<Plan>,
    /// By target: an idle connection of one may end while another is measured.
    tallies: Vec<RefCell<Tally>>,
    pub version: Cell<Option<Version>>,
    /// The order of the moment and its number.
    order: Cell<(u64, Order)>,
    /// Came while another was carried out.
    early: Cell<Option<Order>>,
    starts: RefCell<Starts>,
    /// No wait lasts longer: the order is ended early.
    limit: Cell<Duration>,
    /// Only where clients wait for moments.
    pacer: Option<Pacer>,
    thread: usize,
    /// Clients that have not done their part.
    remaining: Cell<usize>,
    control: RefCell<Option<Waker>>,
    /// One for every client, target by target.
    slots: Vec<Slot>,
    logins: Cell<usize>,
    login_queue: RefCell<Vec<Waker>>,
}

/// A client's task, and when its wait is over. The sweep looks at all of them, so a request arms no
/// timer.
struct Slot {
    deadline: Cell<Duration>,
    waker: RefCell<Option<Waker>>,
}

/// Of a wait that has no deadline, and of one whose deadline has passed.
pub const NEVER: Duration = Duration::MAX;
const PASSED: Duration = Duration::ZERO;

async fn work(assignment: Assignment) {
    let Assignment { plan, run, thread, orders, replies, live } = assignment;
    let reply = |reply| {
        // A conductor that is gone wants no replies.
        let _ = replies.send((thread, reply));
    };
    let options = Options { buffers: BUFFERS, credit_bytes: CREDIT_BYTES, ..Options::default() };
    let driver = match Driver::start(options) {
        Ok(driver) => driver,
        Err(error) => return reply(Reply::Failed(error)),
    };
    let pacer = plan.is_paced().then(|| Pacer::start(driver.clone())).transpose();
    let pacer = match pacer {
        Ok(pacer) => pacer,
        Err(error) => return reply(Reply::Failed(format!("no thread for the clock: {error}"))),
    };
    let worker = Worker::new(driver, plan, run, thread, pacer);
    reply(Reply::Ready(worker.driver.handle()));
    let mut mail = 0;
    while worker.order.get().1 != Order::End {
        mail = worker.driver.mail(mail).await;
        while let Some(order) = worker.early.take().or_else(|| orders.try_recv().ok()) {
            if order != Order::Stop {
                reply(worker.carry_out(order, &orders, &live).await);
            }
        }
    }
}

/// Wakes the clients whose moments have come, until the thread ends.
async fn keep_pace(worker: Rc<Worker>) {
    let Some(pacer) = &worker.pacer else { return };
    loop {
        let due = poll_fn(|cx| match worker.order.get().1 {
            Order::End => Poll::Ready(None),
            _ => pacer.poll_due(cx).map(Some),
        });
        match due.await {
            Some(slot) => worker.wake_slot(&worker.slots[slot]),
            None => return,
        }
    }
}

/// Of an order in which nothing is asked.
fn idle_starts(now: Duration) -> Starts {
    Starts { schedule: None, counted_from: now, stop_at: now, left: None, next: 0, given_back: 0 }
}

impl Worker {
    fn new(
        driver: Rc<Driver>,
        plan: Plan,
        run: u32,
        thread: usize,
        pacer: Option<Pacer>,
    ) -> Rc<Worker> {
        let plan = Rc::new(plan);
        let own: Vec<usize> = (thread..plan.clients).step_by(plan.threads).collect();
        let slot = || Slot { deadline: Cell::new(NEVER), waker: RefCell::new(None) };
        let worker = Rc::new(Worker {
            driver,
            tallies: plan.targets.iter().map(|_| RefCell::default()).collect(),
            version: Cell::new(None),
            order: Cell::new((0, Order::Stop)),
            early: Cell::new(None),
            starts: RefCell::new(idle_starts(Duration::ZERO)),
            limit: Cell::new(NEVER),
            pacer,
            thread,
            remaining: Cell::new(0),
            control: RefCell::default(),
            slots: (0..own.len() * plan.targets.len()).map(|_| slot()).collect(),
            logins: Cell::new(0),
            login_queue: RefCell::default(),
            plan: plan.clone(),
        });
        if worker.pacer.is_some() {
            worker.driver.spawn(keep_pace(worker.clone()));
        }
        for target in 0..plan.targets.len() {
            let script = Rc::new(Script::new(plan.clone(), target));
            for (place, number) in own.iter().enumerate() {
                let slot = target * own.len() + place;
                let number = (target * plan.clients + number) as u32;
                let client = Client::new(worker.clone(), script.clone(), run, number, target, slot);
                worker.driver.spawn(client.live());
            }
        }
        worker
    }

    /// Hands an order to the clients it is for and waits until each has done its part.
    async fn carry_out(&self, order: Order, orders: &Receiver<Order>, live: &AtomicU64) -> Reply {
        let own = self.slots.len() / self.plan.targets.len();
        let of = |target: usize| (target, target * own..(target + 1) * own);
        let (target, slots) = match order {
            Order::Try { target } | Order::Connect { target } => of(target),
            Order::Run { target, .. } => of(target),
            Order::Stop | Order::End => (0, 0..self.slots.len()),
        };
        self.starts.replace(self.starts_of(order));
        self.limit.set(NEVER);
        self.remaining.set(slots.len());
        self.order.set((self.order.get().0 + 1, order));
        self.slots[slots.clone()].iter().for_each(|slot| self.wake_slot(slot));
        let mut was_cut = false;
        while !self.is_done_after_a_while().await {
            self.sweep();
            live.store(self.tallies[target].borrow().requests, Ordering::Relaxed);
            if let Ok(early) = orders.try_recv() {
                self.early.set(Some(early));
                was_cut = true;
                self.cut_short(slots.clone());
            }
        }
        if let Some(pacer) = self.pacer.as_ref().filter(|_| order == Order::End) {
            pacer.look();
        }
        let mut tally = self.tallies[target].take();
        live.store(tally.requests, Ordering::Relaxed);
        let Order::Run { requests, .. } = order else {
            return Reply::Connected { tally: Box::new(tally), version: self.version.get() };
        };
        let starts = self.starts.borrow();
        tally.unasked = starts.unasked();
        let end = match requests {
            Some(requests) => self.driver.now().max(starts.whole_of(requests)),
            None => starts.stop_at,
        };
        let time = end.min(starts.stop_at).saturating_sub(starts.counted_from);
        let is_whole = starts.left.map_or(!was_cut, |left| left == 0);
        Reply::Measured { tally: Box::new(tally), time, is_whole }
    }

    /// Nothing is started any more, and what is under way has a moment left.
    fn cut_short(&self, slots: Range<usize>) {
        let now = self.driver.now();
        let stop_at = self.stop_at().min(now);
        self.starts.borrow_mut().stop_at = stop_at;
        self.limit.set(now + STOP_GRACE);
        for slot in &self.slots[slots] {
            let deadline = slot.deadline.get();
            if deadline != NEVER {
                slot.deadline.set(deadline.min(self.limit.get()));
            }
            // Some wait for a moment that is far away.
            self.wake_slot(slot);
        }
    }

    /// The order is ended early: what has no answer then is nobody's error.
    pub fn is_cut(&self) -> bool {
        self.limit.get() != NEVER
    }

    fn starts_of(&self, order: Order) -> Starts {
        let began = self.driver.now();
        let Order::Run { ramp, time, requests, .. } = order else { return idle_starts(began) };
        let (thread, threads) = (self.thread, self.plan.threads);
        let schedule = |per_second| Schedule { began, ramp, per_second, thread, threads };
        Starts {
            schedule: self.plan.rate.map(schedule),
            counted_from: began + ramp,
            stop_at: began + ramp + time,
            left: requests.map(|requests| part(requests, thread, threads)),
            next: 0,
            given_back: 0,
        }
    }

    async fn is_done_after_a_while(&self) -> bool {
        let mut pause = std::pin::pin!(self.driver.sleep(SWEEP));
        poll_fn(|cx| {
            if self.remaining.get() == 0 {
                return Poll::Ready(true);
            }
            *self.control.borrow_mut() = Some(cx.waker().clone());
            pause.as_mut().poll(cx).map(|()| false)
        })
        .await
    }

    /// Ends the waits whose deadline has passed.
    fn sweep(&self) {
        let now = self.driver.now();
        for slot in self.slots.iter().filter(|slot| slot.deadline.get() < now) {
            slot.deadline.set(PASSED);
            self.wake_slot(slot);
        }
    }

    fn wake_slot(&self, slot: &Slot) {
        if let Some(waker) = slot.waker.borrow_mut().take() {
            self.wake(waker);
        }
    }

    pub fn keep_waker(&self, slot: usize, cx: &Context<'_>) {
        let mut waker = self.slots[slot].waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    pub fn tally(&self, target: usize) -> RefMut<'_, Tally> {
        self.tallies[target].borrow_mut()
    }

    /// The next order behind number `seen` for the client of this slot.
    pub fn poll_order(
        &self,
        target: usize,
        slot: usize,
        seen: u64,
        cx: &Context<'_>,
    ) -> Poll<(u64, Order)> {
        let (number, order) = self.order.get();
        let is_for_it = match order {
            Order::Try { target: of } | Order::Connect { target: of } => of == target,
            Order::Run { target: of, .. } => of == target,
            Order::Stop => false,
            Order::End => true,
        };
        if number > seen && is_for_it {
            return Poll::Ready((number, order));
        }
        self.keep_waker(slot, cx);
        Poll::Pending
    }

    /// A client has done its part of the order.
    pub fn done(&self) {
        self.remaining.set(self.remaining.get() - 1);
        if self.remaining.get() == 0
            && let Some(waker) = self.control.borrow_mut().take()
        {
            self.wake(waker);
        }
    }

    /// Until when requests may start.
    pub fn stop_at(&self) -> Duration {
        self.starts.borrow().stop_at
    }

    pub fn starts(&self) -> RefMut<'_, Starts> {
        self.starts.borrow_mut()
    }

    /// Wakes the client of this slot at `at`, or when its round ends.
    pub fn remind(&self, at: Duration, slot: usize) {
        if let Some(pacer) = &self.pacer {
            pacer.add(at.min(self.stop_at()), slot);
        }
    }

    pub fn set_deadline(&self, slot: usize, at: Duration) {
        let limit = if at == NEVER { NEVER } else { self.limit.get() };
        self.slots[slot].deadline.set(at.min(limit));
    }

    /// Ready when the slot's deadline has passed.
    pub fn poll_deadline(&self, slot: usize, cx: &Context<'_>) -> Poll<()> {
        if self.slots[slot].deadline.get() == PASSED {
            return Poll::Ready(());
        }
        self.keep_waker(slot, cx);
        Poll::Pending
    }

    /// A permit to log in.
    pub async fn enter_login(&self) {
        poll_fn(|cx| {
            if self.logins.get() < LOGINS_MAX {
                self.logins.set(self.logins.get() + 1);
                return Poll::Ready(());
            }
            self.login_queue.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    pub fn leave_login(&self) {
        self.logins.set(self.logins.get() - 1);
        if let Some(waker) = self.login_queue.borrow_mut().pop() {
            self.wake(waker);
        }
    }

    /// Wakes a task of this thread without the ring's knowing.
    fn wake(&self, waker: Waker) {
        self.driver.note_wake();
        waker.wake();
    }
}
