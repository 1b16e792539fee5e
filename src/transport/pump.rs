//! The pump: the one task per shard that turns completions into wakes, and puts the shard to sleep.
//!
//! Laws: nothing blocks while a woken task has not run; the eventfd is on around every park in
//! glommio, because glommio 0.9.0 may park with runnable tasks (see `runtime`).

use crate::transport::driver::{Driver, store};
use crate::transport::ring;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Silence before the shard goes idle: shorter pauses between requests are cheaper slept in our own
/// ring.
const SILENT_TICKS: u32 = 3;
/// How often an idle shard is looked at, and glommio woken if it has parked wrongly; of two beats
/// with no common period one comes soon.
const HEARTBEATS: [Duration; 2] = [Duration::from_millis(233), Duration::from_millis(317)];

/// Starts the shard's three background tasks. The error is that of a missing descriptor.
pub fn start(driver: &Rc<Driver>) -> io::Result<()> {
    let bell = driver.doorbell.bell.try_clone()?;
    glommio::spawn_local(answer_doorbell(driver.clone(), bell)).detach();
    glommio::spawn_local(pump(driver.clone())).detach();
    for period in HEARTBEATS {
        glommio::spawn_local(beat(driver.clone(), period)).detach();
    }
    Ok(())
}

/// Besides keeping glommio awake, looks whether an idle shard has work of which nobody told it:
/// with thousands of busy connections about one sleep in ten thousands was such a one (measured,
/// Linux 6.18), and without this it lasted for ever.
async fn beat(driver: Rc<Driver>, period: Duration) {
    loop {
        glommio::timer::sleep(period).await;
        if driver.is_idle() && driver.state.borrow_mut().ring.has_work() {
            driver.doorbell.ring();
        }
    }
}

/// The eventfd the private ring writes, read through glommio: the one bridge between the two.
pub struct Doorbell {
    bell: File,
    is_rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Doorbell {
    pub fn new() -> io::Result<Doorbell> {
        let bell = ring::new_eventfd()?;
        Ok(Doorbell { bell, is_rung: Cell::new(false), waker: RefCell::new(None) })
    }

    /// Lets `wait` return.
    pub fn ring(&self) {
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

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }
}

async fn answer_doorbell(driver: Rc<Driver>, bell: File) {
    let file = ring::glommio_file(bell);
    loop {
        // Eight bytes at offset 0: the only public way to wait for a descriptor in glommio.
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

/// Lets glommio look at its own rings: timers, channels and files. With every task run it parks,
/// and the written doorbell ends that park at once. The eventfd is on meanwhile, in case glommio
/// parks wrongly.
async fn visit_reactor(driver: &Driver) {
    driver.state.borrow_mut().begin_visit();
    driver.doorbell.is_rung.set(false);
    let one = 1u64.to_ne_bytes();
    (&driver.doorbell.bell).write_all(&one).expect("an eventfd takes a write");
    driver.doorbell.wait().await;
    // Tasks that glommio woke may have woken others behind the pump: one more round for those.
    glommio::executor().yield_now().await;
    driver.state.borrow_mut().ring.signal_eventfd(false);
}
