//! The executor, as far as the rest of the program may see it: the one place that names glommio's
//! builder, tasks, timers and blocking pool, so that a patched copy can be swapped in here.
//!
//! Timers of this module are late by up to a tick while a shard is busy; connections have theirs on
//! the driver's wheel. The preempt timer is left at glommio's 100 ms: shorter ones cost interrupts.

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
    check_ring()?;
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(name)
        .io_memory(IO_MEMORY_BYTES)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .spawn(start)
        .map(JoinHandle)
        .map_err(|error| io::Error::other(error.to_string()))
}

/// Whether io_uring is to be had at all, in one line if not: glommio panics where it is refused.
fn check_ring() -> io::Result<()> {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    let check = || Ring::with_entries(8).map(drop).map_err(|error| ring::explain(&error));
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
