//! Wakes the clients of one thread at the moments they wait for, to some microseconds.
//!
//! The transport's deadlines are met to a tick of milliseconds, which is nothing beside a request's
//! latency. So a helper thread sleeps until shortly before the next moment and then writes a byte
//! to the load thread, which looks at the clock until the moment has come. The helper inherits the
//! load thread's CPU, which is idle then.
//!
//! Owns the moments and the helper. Does not own what waits: a moment is a slot's number.
//! Invariant: while a moment is kept, the helper's alarm is set to it or to an earlier one, or the
//! load thread turns.

use crate::transport::Side;
use crate::transport::conn::Conn;
use crate::transport::driver::Driver;
use crate::transport::ring::monotonic;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread::Thread;
use std::time::Duration;

/// How long before a moment the helper wakes the load thread: the kernel's timers are 50 us late by
/// default (prctl(2), PR_SET_TIMERSLACK), and two wake-ups lie between.
const LEAD: Duration = Duration::from_micros(200);
/// The helper's alarm is off; and: the helper is to end.
const OFF: u64 = u64::MAX;
const END: u64 = 0;

pub struct Pacer {
    driver: Rc<Driver>,
    /// The earliest first.
    moments: RefCell<BinaryHeap<Reverse<(Duration, usize)>>>,
    /// The task that runs `poll_due`.
    waker: RefCell<Option<Waker>>,
    bell: Conn,
    helper: Thread,
    /// When the helper is to ring, in nanoseconds of the monotonic clock.
    alarm: Arc<AtomicU64>,
}

impl Pacer {
    /// Call it on the load thread, so that the helper gets its CPU.
    pub fn start(driver: Rc<Driver>) -> io::Result<Pacer> {
        let (ours, theirs) = UnixStream::pair()?;
        // A full socket has been rung often enough.
        theirs.set_nonblocking(true)?;
        let alarm = Arc::new(AtomicU64::new(OFF));
        let kept = alarm.clone();
        let helper = std::thread::Builder::new().name("load-alarm".into());
        let helper = helper.spawn(move || keep_alarm(&kept, theirs))?.thread().clone();
        let bell = driver.adopt(OwnedFd::from(ours), Side::Dialed);
        let (moments, waker) = (RefCell::default(), RefCell::default());
        Ok(Pacer { driver, moments, waker, bell, helper, alarm })
    }

    /// Slot `slot` is to be woken at `at`; it may be woken earlier.
    pub fn add(&self, at: Duration, slot: usize) {
        let mut moments = self.moments.borrow_mut();
        let is_first = moments.peek().is_none_or(|Reverse((first, _))| at < *first);
        moments.push(Reverse((at, slot)));
        if is_first {
            self.look();
        }
    }

    /// Lets the task look at the moments anew.
    pub fn look(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            self.driver.note_wake();
            waker.wake();
        }
    }

    /// The next slot whose moment has come. To be polled by one task, always by the same.
    pub fn poll_due(&self, cx: &Context<'_>) -> Poll<usize> {
        // What rings carries no news but the clock's.
        while let Poll::Ready(Ok(Some(_))) = self.bell.poll_recv(cx) {}
        let mut moments = self.moments.borrow_mut();
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        let Some(Reverse((first, slot))) = moments.peek().copied() else { return Poll::Pending };
        let rest = first.saturating_sub(self.driver.now());
        if rest.is_zero() {
            moments.pop();
            return Poll::Ready(slot);
        }
        if rest > LEAD {
            self.set_alarm(first - LEAD);
        } else {
            self.look();
        }
        Poll::Pending
    }

    fn set_alarm(&self, at: Duration) {
        let at = u64::try_from(at.as_nanos()).unwrap_or(OFF);
        // One that is earlier still stands for the moment it was set for, and looks then.
        if self.alarm.fetch_min(at, Ordering::AcqRel) > at {
            self.helper.unpark();
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.alarm.store(END, Ordering::Release);
        self.helper.unpark();
    }
}

/// The helper thread: sleeps until the alarm and rings, until it is to end.
fn keep_alarm(alarm: &AtomicU64, mut bell: UnixStream) {
    loop {
        let at = alarm.load(Ordering::Acquire);
        let rest = Duration::from_nanos(at).checked_sub(monotonic()).unwrap_or_default();
        match at {
            END => return,
            OFF => std::thread::park(),
            _ if !rest.is_zero() => std::thread::park_timeout(rest),
            _ => {
                if alarm.compare_exchange(at, OFF, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    // Whoever is gone needs no bell.
                    let _ = bell.write_all(&[0]);
                }
            }
        }
    }
}
