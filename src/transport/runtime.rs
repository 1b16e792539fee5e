//! The executor, as far as the rest of the program may see it: the one place that names glommio's
//! builder, tasks, timers and blocking pool, so that a patched copy can be swapped in here.
//!
//! Timers of this module are late by up to a tick while a shard is busy; connections have theirs on
//! the driver's wheel.
//!
//! glommio 0.9.0 can park while tasks are ready to run: when its preempt timer fires after it was
//! armed and before the first task runs, as it does if the thread has lost its CPU there. It wakes
//! with the next timer or completion; but if what the tasks wait for has all come already, there is
//! none, and the executor sleeps for ever. So the timer is made a long one, and every executor has
//! beats, timers of which some lie ahead when one fires. A beat is one try: if the executor parks
//! wrongly again the next one follows, but none is set anew before a task has run, so as many
//! failures in a row as there are beats still end in sleep for ever. With a preempt timer of
//! microseconds that happens within seconds; with the long one not one of 900,000 wake-ups failed,
//! 350,000 of them beside three busy loops per CPU (measured, Linux 6.18).

use crate::transport::ring::{self, Ring};
use futures_lite::FutureExt;
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::thread::available_parallelism;
use std::time::Duration;

/// glommio pins its registered I/O memory three times and sockets do not use it; its default of
/// 10 MiB would not fit the usual limit of locked memory.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// One queue of tasks has nobody to be preempted for, so the preempt timer only does harm (see the
/// module): a thread that loses its CPU for glommio's 100 ms is common on a busy machine, one for
/// so long is not.
const PREEMPT_AFTER: Duration = Duration::from_secs(10);
/// Whoever parks wrongly is up again after a second, even if it was late by two for what it should
/// have done before.
const BEATS: Beats = Beats { count: 3, period: Duration::from_secs(3) };

/// A task of the current executor. Dropping it cancels the task; `detach` lets it run on.
pub use glommio::Task;

/// Waits for an executor's thread.
pub struct JoinHandle<T: Send + 'static>(glommio::ExecutorJoinHandle<T>);

impl<T: Send + 'static> JoinHandle<T> {
    /// Blocks until the executor's closure has ended. The error says that the executor could not be
    /// made, or that it panicked.
    pub fn join(self) -> io::Result<T> {
        self.0.join().map_err(|error| {
            let error = io::Error::from(error);
            let text = error.to_string();
            match error.raw_os_error() {
                // glommio keeps this kind of its own only as the text of an I/O error.
                None if text.contains("MemLockLimit") => io::Error::other(format!(
                    "the limit of locked memory is too small ({text}: bytes allowed and needed \
                     by each shard); raise it (ulimit -l 8192, LimitMEMLOCK=8M)"
                )),
                Some(_) => io::Error::other(ring::explain(&error)),
                None => error,
            }
        })
    }
}

/// The CPUs this process may use, in order: those of the inherited affinity mask (glommio's own
/// placements ignore it), and no more of them than the control group's quota (`cpu.max`) pays for.
pub fn allowed_cpus() -> Vec<usize> {
    let mask = core_affinity::get_core_ids().unwrap_or_default();
    let quota = available_parallelism().map_or(usize::MAX, usize::from);
    within_quota(mask.into_iter().map(|core| core.id).collect(), quota)
}

/// At least one, whatever the system says.
fn within_quota(mut cpus: Vec<usize>, quota: usize) -> Vec<usize> {
    cpus.truncate(quota.max(1));
    if cpus.is_empty() {
        cpus.push(0);
    }
    cpus
}

/// Runs `start`'s future on an executor with a thread of its own, pinned to `cpu` or left free.
pub fn start_executor<G, F, T>(
    name: &str,
    cpu: Option<usize>,
    start: G,
) -> io::Result<JoinHandle<T>>
where
    G: FnOnce() -> F + Send + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    start_preempted(name, cpu, PREEMPT_AFTER, BEATS, start)
}

fn start_preempted<G, F, T>(
    name: &str,
    cpu: Option<usize>,
    preempt_after: Duration,
    beats: Beats,
    start: G,
) -> io::Result<JoinHandle<T>>
where
    G: FnOnce() -> F + Send + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    check_ring()?;
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let start = move || {
        (0..beats.count).for_each(|number| drop(spawn_local(beats.keep(number)).detach()));
        start()
    };
    LocalExecutorBuilder::new(placement)
        .name(name)
        .io_memory(IO_MEMORY_BYTES)
        .preempt_timer(preempt_after)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .spawn(start)
        .map(JoinHandle)
        .map_err(|error| io::Error::other(error.to_string()))
}

/// Timers that wake an executor, evenly spread over the period after which each comes again.
#[derive(Clone, Copy)]
struct Beats {
    count: u32,
    period: Duration,
}

impl Beats {
    async fn keep(self, number: u32) {
        loop {
            let now = ring::monotonic();
            sleep(self.next(number, now) - now).await;
        }
    }

    /// By the clock and not by when the last one came: beats that come late together part again.
    fn next(self, number: u32, now: Duration) -> Duration {
        let offset = self.period / self.count * number;
        let passed = (now + self.period - offset).as_millis() / self.period.as_millis();
        self.period * u32::try_from(passed).unwrap_or(u32::MAX) + offset
    }
}

/// Whether io_uring is to be had at all, in one line if not: glommio panics where it is refused.
/// Raises the soft limit of locked memory first, once for the process.
fn check_ring() -> io::Result<()> {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    let check = || {
        // If it stays too low, what needs more says so.
        let _ = ring::raise_locked_memory_limit();
        Ring::with_entries(8).map(drop).map_err(|error| ring::explain(&error))
    };
    CHECKED.get_or_init(check).clone().map_err(io::Error::other)
}

/// Starts a task on this executor. On a shard use `Driver::spawn`, which the pump knows of.
pub fn spawn_local<T: 'static>(task: impl Future<Output = T> + 'static) -> Task<T> {
    glommio::spawn_local(task)
}

/// Waits, on glommio's timer.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

/// Waits for `future` for at most `duration`; `None` if the time ran out.
pub async fn within<T>(duration: Duration, future: impl Future<Output = T>) -> Option<T> {
    let value = async { Some(future.await) };
    let limit = async {
        sleep(duration).await;
        None
    };
    value.or(limit).await
}

/// Lets the other tasks run first.
pub async fn yield_now() {
    glommio::executor().yield_now().await;
}

/// Runs `work` on the executor's blocking thread: DNS, files. A panic in it becomes an error here
/// (glommio 0.9.0 would let the caller wait for ever).
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let caught = move || catch_unwind(AssertUnwindSafe(work)).ok();
    let result = glommio::executor().spawn_blocking(caught).await;
    result.ok_or_else(|| io::Error::other("the blocking work panicked; see the message above"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_caps_the_mask_and_one_is_left() {
        assert_eq!(within_quota(vec![2, 3, 7], 2), [2, 3]);
        assert_eq!(within_quota(vec![5], 0), [5]);
        assert_eq!(within_quota(Vec::new(), 4), [0]);
        assert!(!allowed_cpus().is_empty());
    }

    #[test]
    fn a_later_beat_stands_whenever_one_is_due() {
        let mut now = Duration::from_millis(7);
        for _ in 0..100 {
            let all = (0..BEATS.count).map(|number| BEATS.next(number, now));
            let beats: Vec<Duration> = all.collect();
            let first = *beats.iter().min().unwrap();
            assert!(beats.iter().all(|beat| *beat > now && *beat <= now + BEATS.period));
            assert!(first <= now + BEATS.period / BEATS.count);
            // Two of the three stand later than this one by a third of the period.
            let later = |beat: &&Duration| **beat >= first + BEATS.period / BEATS.count;
            assert_eq!(beats.iter().filter(later).count(), 2);
            now = first;
        }
    }

    /// With the preempt timers below a beat is often in vain: the timer comes before the first task
    /// again, the more so the longer the thread has slept. Three in a row are common (the executor
    /// sleeps in io_uring_enter, woken once by each and then no more), so here are more and sooner.
    const MANY_BEATS: Beats = Beats { count: 100, period: Duration::from_secs(1) };

    /// Below, an executor is hardly ever let run, and nothing can be said of it.
    const STEPS_MIN: usize = 40;
    /// So many later nearly every executor without beats has stopped, whatever its timer.
    const STEPS_MORE: usize = 500;

    /// How many steps of a millisecond an executor has made after half a second, and whether it
    /// then makes more: its preempt timer fires as soon as this.
    fn steps(preempt_after: Duration) -> (usize, bool) {
        let (sender, receiver) = std::sync::mpsc::channel();
        let start = move || async move {
            while sender.send(()).is_ok() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let _runs_on = start_preempted("test", None, preempt_after, MANY_BEATS, start);
        #[expect(clippy::disallowed_methods, reason = "the executor has a thread of its own")]
        std::thread::sleep(Duration::from_millis(500));
        let count = receiver.try_iter().count();
        let next = |_| receiver.recv_timeout(MANY_BEATS.period * 10).is_ok();
        let goes_on = count < STEPS_MIN || (0..STEPS_MORE).all(next);
        (count, goes_on)
    }

    #[test]
    fn an_executor_that_parks_with_runnable_tasks_wakes_again() {
        // Somewhere between, the timer fires now and then at the wrong moment.
        let threads: Vec<_> = (16..48u64)
            .step_by(2)
            .map(|micros| std::thread::spawn(move || steps(Duration::from_micros(micros))))
            .collect();
        let all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        println!("{all:?}");
        let judged = all.iter().filter(|(count, _)| *count >= STEPS_MIN).count();
        let stopped = all.iter().filter(|(_, goes_on)| !goes_on).count();
        assert!(judged > 0, "none ran: {all:?}");
        // A load that comes in between can bring one to where no beat helps (one of a thousand,
        // measured); without the beats more than half of those that ran have stopped for ever.
        assert!(stopped * 4 <= judged, "{stopped} of {judged} have stopped for ever: {all:?}");
    }

    #[test]
    fn an_executor_runs_tasks_timers_and_blocking_work() {
        let cpu = allowed_cpus()[0];
        let handle = start_executor("test", Some(cpu), || async {
            let task = spawn_local(async { 20 });
            let late = within(Duration::from_millis(1), std::future::pending::<()>()).await;
            assert!(late.is_none());
            let blocking = run_blocking(|| 1).await.unwrap();
            let panicked = run_blocking(|| panic!("planted")).await.is_err();
            yield_now().await;
            task.await + blocking + i32::from(panicked)
        });
        assert_eq!(handle.unwrap().join().unwrap(), 22);
    }
}
