//! An honest client that asks all the time while others misbehave: its answers must be right, and
//! none may take so long that something must have hung.

use crate::client::{Client, V5_4, goodbye};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Far above what a loaded machine takes for a loopback request, far below a client's patience.
const HANG: Duration = Duration::from_secs(10);
/// Between two requests: the cases should find the proxy at work, not the machine.
const PAUSE: Duration = Duration::from_millis(3);
/// Every so often the witness connects anew and logs in.
const REQUESTS_PER_LOGIN: u64 = 20;

pub struct Witness {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Testimony>,
}

/// What the witness saw.
#[derive(Debug)]
pub struct Testimony {
    pub requests: u64,
    pub logins: u64,
    pub slowest: Duration,
}

impl Witness {
    /// `connects_anew`: also new logins are tried all the time, not only one old connection.
    pub fn start(address: SocketAddr, connects_anew: bool) -> Witness {
        let is_over = Arc::new(AtomicBool::new(false));
        let its_end = is_over.clone();
        let first = Client::login(address, V5_4);
        let thread = std::thread::spawn(move || watch(address, first, connects_anew, &its_end));
        Witness { is_over, thread }
    }

    /// Panics if the witness was not served all the time.
    pub fn end(self) -> Testimony {
        self.is_over.store(true, Relaxed);
        let testimony = self.thread.join().expect("the honest client is served all the time");
        assert!(testimony.slowest < HANG, "something hung: {testimony:?}");
        assert!(testimony.requests > 0, "{testimony:?}");
        testimony
    }
}

fn watch(
    address: SocketAddr,
    mut old: Client,
    connects_anew: bool,
    is_over: &AtomicBool,
) -> Testimony {
    let mut testimony = Testimony { requests: 0, logins: 1, slowest: Duration::ZERO };
    loop {
        let started = Instant::now();
        old.expect_well();
        if connects_anew && testimony.requests.is_multiple_of(REQUESTS_PER_LOGIN) {
            let mut new = Client::login(address, V5_4);
            new.expect_well();
            leave(new);
            testimony.logins += 1;
        }
        testimony.slowest = testimony.slowest.max(started.elapsed());
        testimony.requests += 1;
        if is_over.load(Relaxed) {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    leave(old);
    testimony
}

fn leave(mut client: Client) {
    client.send(&goodbye());
    client.expect_end();
}
