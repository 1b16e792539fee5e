//! Runs a plan: starts the threads, gives them their orders round by round, gathers what they
//! counted.
//!
//! Blocks its caller and does nothing else; everything it waits for ends by itself, since every
//! wait of a client has a deadline.

use super::cpu;
use super::plan::Plan;
use super::report::{Early, Measurement, Report};
use super::rounds;
use super::schedule;
use super::tally::Tally;
use super::worker::{self, Assignment, Order, Reply};
use crate::transport::driver::DriverHandle;
use crate::transport::raise_open_files_limit;
use crate::transport::runtime::JoinHandle;
use crate::wire::version::Version;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How often progress is told and the wish to stop is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A thread that is silent for so long beyond all its deadlines has died.
const GRACE: Duration = Duration::from_secs(10);
/// Rings, event descriptors and standard streams; measured: 14 for one thread, 9 for each more.
const FILES_RESERVE: usize = 32;

/// How far a run is.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    /// What is being done at the moment, and with which target.
    pub target: &'a str,
    pub is_connecting: bool,
    /// From 0.
    pub round: usize,
    pub rounds: usize,
    /// Measured time of this target in this round so far, of the run so far, and of the whole run.
    pub in_slot: Duration,
    pub elapsed: Duration,
    pub total: Duration,
    /// Answered in this round by this target so far, as of some milliseconds ago.
    pub requests: u64,
    /// Answered in the whole run so far, by all targets.
    pub requests_in_run: u64,
}

/// Measures what `plan` says. Blocks until it is done or `plan.stop` is set, and tells `progress`
/// about ten times a second. Raises the limit of open files as far as it may. The error says what
/// is wrong with the plan or why nothing could be measured; a target that fails is in the report.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(Progress)) -> Result<Report, String> {
    let mut mistakes = plan.mistakes();
    // Where that is refused, the limit of before holds, and is compared with the need.
    let _ = raise_open_files_limit();
    mistakes.extend(too_many_files(plan));
    if !mistakes.is_empty() {
        return Err(mistakes.join("\n"));
    }
    let mut conductor = Conductor::start(plan)?;
    let result = conductor.measure(progress);
    conductor.end();
    result
}

struct Conductor<'a> {
    plan: &'a Plan,
    threads: Vec<Thread>,
    replies: Receiver<(usize, Reply)>,
    versions: Vec<Option<Version>>,
}

struct Thread {
    orders: Sender<Order>,
    handle: Option<DriverHandle>,
    live: Arc<AtomicU64>,
    join: Option<JoinHandle<()>>,
}

impl<'a> Conductor<'a> {
    fn start(plan: &'a Plan) -> Result<Conductor<'a>, String> {
        let (sender, replies) = mpsc::channel();
        // A fresh hasher's seed is random: answers of another run must not pass for this one's.
        let run = RandomState::new().hash_one(0) as u32;
        let versions = vec![None; plan.targets.len()];
        let mut conductor = Conductor { plan, threads: Vec::new(), replies, versions };
        for thread in 0..plan.threads {
            let (orders, receiver) = mpsc::channel();
            let live = Arc::new(AtomicU64::new(0));
            let assignment = Assignment {
                plan: plan.clone(),
                run,
                thread,
                orders: receiver,
                replies: sender.clone(),
                live: live.clone(),
            };
            let join = worker::start(assignment)
                .map_err(|error| format!("cannot start load thread {thread}: {error}"))?;
            conductor.threads.push(Thread { orders, handle: None, live, join: Some(join) });
        }
        drop(sender);
        match conductor.wait_until_ready() {
            Ok(()) => Ok(conductor),
            Err(error) => {
                conductor.end();
                Err(error)
            }
        }
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let mut failed = Ok(());
        for _ in 0..self.threads.len() {
            match self.replies.recv_timeout(GRACE) {
                Ok((thread, Reply::Ready(handle))) => self.threads[thread].handle = Some(handle),
                Ok((thread, Reply::Failed(error))) => {
                    failed = Err(format!("load thread {thread}: {error}"));
                }
                Ok(_) => return Err("a load thread answered what was not asked".into()),
                Err(_) => return Err("a load thread did not start".into()),
            }
        }
        failed
    }

    fn measure(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<Report, String> {
        let plan = self.plan;
        let mut measurements: Vec<Measurement> = Vec::new();
        // What went wrong before the first round, and `None` where nothing else can be measured.
        let mut early = Vec::new();
        for target in 0..plan.targets.len() {
            // A process that is not there is a mistake; one that ends later takes only its column.
            self.cpu_of(target)?;
            early.push(self.prepare(target, progress)?);
        }
        'run: for round in 0..plan.rounds {
            for target in rounds::order(round, plan.targets.len()) {
                if early[target].is_lame {
                    continue;
                }
                if self.is_stopped() {
                    break 'run;
                }
                // What was lost since its last round is connected again before the clock starts.
                let order = Order::Connect { target };
                let before = self.connect(order, target, round, &measurements, progress)?;
                if self.is_stopped() {
                    early[target].tally.add(&before);
                    break 'run;
                }
                let requests =
                    plan.requests.map(|requests| schedule::part(requests, round, plan.rounds));
                let (ramp, time) = (plan.ramp, plan.slot);
                let run = Run { target, round, ramp, time, requests };
                let mut measured = self.measure_one(run, &measurements, progress)?;
                measured.tally.add(&before);
                measurements.push(measured);
            }
        }
        Ok(Report::new(plan, measurements, early, &self.versions))
    }

    /// Connects the clients of a target for the first time, and lets it warm up.
    fn prepare(
        &mut self,
        target: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Early, String> {
        if self.is_stopped() {
            return Ok(Early { tally: Tally::default(), is_lame: false });
        }
        let mut tally = self.connect(Order::Try { target }, target, 0, &[], progress)?;
        if !tally.errors.is_empty() {
            return Ok(Early { tally, is_lame: true });
        }
        if !self.is_stopped() {
            tally.add(&self.connect(Order::Connect { target }, target, 0, &[], progress)?);
        }
        if !self.plan.warm_up.is_zero() && !self.is_stopped() {
            // Only what went wrong counts.
            let (ramp, time) = (Duration::ZERO, self.plan.warm_up);
            let run = Run { target, round: 0, ramp, time, requests: None };
            let warm = self.measure_one(run, &[], progress)?;
            let Tally { errors, mismatches, unanswered, .. } = warm.tally;
            tally.add(&Tally { errors, mismatches, unanswered, ..Tally::default() });
        }
        Ok(Early { tally, is_lame: false })
    }

    fn connect(
        &mut self,
        order: Order,
        target: usize,
        round: usize,
        done: &[Measurement],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Tally, String> {
        self.order(order);
        let place = Place { target, round, is_connecting: true };
        let limit = worker::logins_time_max(self.plan);
        let mut sum = Tally::default();
        let wait = Wait { place, ramp: Duration::ZERO, limit };
        for reply in self.gather(wait, done, progress)?.0 {
            if let Reply::Connected { tally, version } = reply {
                sum.add(&tally);
                self.versions[target] = version.or(self.versions[target]);
            }
        }
        Ok(sum)
    }

    fn measure_one(
        &mut self,
        run: Run,
        done: &[Measurement],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Measurement, String> {
        let plan = self.plan;
        let Run { target, round, ramp, time, requests } = run;
        self.order(Order::Run { target, ramp, time, requests });
        let place = Place { target, round, is_connecting: false };
        let limit = ramp + time + plan.request_timeout + worker::logins_time_max(plan);
        let (replies, [before, own_before]) =
            self.gather(Wait { place, ramp, limit }, done, progress)?;
        let [after, own_after] = self.cpu_times(target);
        let (mut sum, mut longest, mut is_whole) = (Tally::default(), Duration::ZERO, true);
        for reply in replies {
            if let Reply::Measured { tally, time, is_whole: is_part_whole } = reply {
                sum.add(&tally);
                longest = longest.max(time);
                is_whole &= is_part_whole;
            }
        }
        let used = |before: Option<Duration>, after: Option<Duration>| {
            before.zip(after).map(|(before, after)| after.saturating_sub(before))
        };
        Ok(Measurement {
            round,
            target,
            time: longest,
            tally: sum,
            cpu: used(before, after),
            generator_cpu: used(own_before, own_after),
            is_whole,
        })
    }

    /// CPU time so far of the target's processes, if it has any, and of this one.
    fn cpu_times(&self, target: usize) -> [Option<Duration>; 2] {
        let own = cpu::time_used(std::process::id()).ok();
        [self.cpu_of(target).ok().flatten(), own]
    }

    fn cpu_of(&self, target: usize) -> Result<Option<Duration>, String> {
        let name = &self.plan.targets[target].name;
        let own = self.plan.processes.iter().filter(|process| process.target == *name);
        let times = own.map(|process| cpu::time_used(process.pid));
        let times: Vec<Duration> = times.collect::<Result<_, String>>()?;
        Ok((!times.is_empty()).then(|| times.into_iter().sum()))
    }

    fn order(&self, order: Order) {
        for thread in &self.threads {
            // A thread that is gone shows when its reply is missing.
            let _ = thread.orders.send(order);
            if let Some(handle) = &thread.handle {
                handle.ring();
            }
        }
    }

    /// One reply of every thread, and the CPU times at the ramp's end; tells progress meanwhile,
    /// and passes the wish to stop on, once.
    fn gather(
        &self,
        wait: Wait,
        done: &[Measurement],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Vec<Reply>, [Option<Duration>; 2]), String> {
        let started = now();
        let (mut replies, mut has_stopped) = (Vec::new(), false);
        let mut cpu_before = None;
        while replies.len() < self.threads.len() {
            let rest = wait.ramp.saturating_sub(started.elapsed());
            if rest.is_zero() && cpu_before.is_none() && !wait.place.is_connecting {
                cpu_before = Some(self.cpu_times(wait.place.target));
            }
            let look = if rest.is_zero() { LOOK } else { LOOK.min(rest) };
            match self.replies.recv_timeout(look) {
                Ok((_, reply)) => replies.push(reply),
                Err(RecvTimeoutError::Disconnected) => return Err("all load threads died".into()),
                Err(RecvTimeoutError::Timeout) if started.elapsed() > wait.limit + GRACE => {
                    return Err("a load thread does not answer any more".into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.is_stopped() && !std::mem::replace(&mut has_stopped, true) {
                self.order(Order::Stop);
            }
            progress(self.progress(wait, started.elapsed(), done));
        }
        Ok((replies, cpu_before.unwrap_or_default()))
    }

    fn progress(&self, wait: Wait, running: Duration, done: &[Measurement]) -> Progress<'a> {
        let (plan, place) = (self.plan, wait.place);
        let measured: Duration = done.iter().map(|measurement| measurement.time).sum();
        let running = running.saturating_sub(wait.ramp).min(plan.slot);
        let running = if place.is_connecting { Duration::ZERO } else { running };
        let requests = self.threads.iter().map(|thread| thread.live.load(Ordering::Relaxed)).sum();
        let before: u64 = done.iter().map(|measurement| measurement.tally.requests).sum();
        Progress {
            target: &plan.targets[place.target].name,
            is_connecting: place.is_connecting,
            round: place.round,
            rounds: plan.rounds,
            in_slot: running,
            elapsed: measured + running,
            total: plan.slot * (plan.rounds * plan.targets.len()) as u32,
            requests,
            requests_in_run: before + requests,
        }
    }

    fn is_stopped(&self) -> bool {
        self.plan.stop.load(Ordering::Relaxed)
    }

    /// Ends all threads: GOODBYE on every connection, and joins those that still answer.
    fn end(&mut self) {
        self.order(Order::End);
        for thread in &mut self.threads {
            // A thread that never got ready has ended by itself, or nobody knows how to wake it.
            if let Some(join) = thread.join.take().filter(|_| thread.handle.is_some()) {
                // What it panicked of is on standard error; the missing reply was reported.
                let _ = join.join();
            }
        }
    }
}

/// The conductor stands on a thread of its own, beside all executors; it times nothing it reports.
#[expect(clippy::disallowed_methods, reason = "no driver, and so no driver's clock, is here")]
fn now() -> Instant {
    Instant::now()
}

/// Which part of the run is under way.
#[derive(Clone, Copy)]
struct Place {
    target: usize,
    round: usize,
    is_connecting: bool,
}

/// One target in one round, as it is to be measured.
#[derive(Clone, Copy)]
struct Run {
    target: usize,
    round: usize,
    ramp: Duration,
    time: Duration,
    requests: Option<u64>,
}

/// For the replies to an order.
#[derive(Clone, Copy)]
struct Wait {
    place: Place,
    ramp: Duration,
    limit: Duration,
}

/// Every client is an open file; what else the process has open is in the reserve.
fn too_many_files(plan: &Plan) -> Option<String> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let limit: usize = line.split_ascii_whitespace().next()?.parse().ok()?;
    let needed = plan.clients * plan.targets.len() + FILES_RESERVE * (plan.threads + 1);
    (needed > limit).then(|| {
        format!("{needed} open files are needed, {limit} are allowed; raise it with ulimit -n")
    })
}
