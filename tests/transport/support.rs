//! A relay on an executor of its own, and plain blocking peers.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use super::plain_relay;
use boltmux::transport::driver::{Counters, Driver, DriverHandle, Options};
use boltmux::transport::{listener, runtime};
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

pub type Job = Box<dyn FnOnce(Rc<Driver>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A shard on a thread that is never ended (glommio leaks an eventfd per finished executor).
#[derive(Clone)]
pub struct Remote {
    jobs: mpsc::Sender<Job>,
    pub handle: DriverHandle,
}

impl Remote {
    pub fn start(options: Options) -> Remote {
        let (started, start) = mpsc::channel();
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = runtime::start_executor("test", None, move || async move {
            let driver = Driver::start(options).unwrap();
            started.send(driver.handle()).unwrap();
            let mut seen = 0;
            loop {
                while let Ok(job) = queue.try_recv() {
                    driver.spawn(job(driver.clone()));
                }
                seen = driver.mail(seen).await;
            }
        });
        std::mem::forget(thread.unwrap());
        Remote { jobs, handle: start.recv_timeout(Duration::from_secs(10)).unwrap() }
    }

    /// Runs `job` on the shard and waits for what it returns.
    pub fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        job: impl FnOnce(Rc<Driver>) -> F + Send + 'static,
    ) -> T {
        self.begin(job).recv_timeout(Duration::from_secs(60)).unwrap()
    }

    pub fn begin<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        job: impl FnOnce(Rc<Driver>) -> F + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (sender, receiver) = mpsc::channel();
        let job: Job = Box::new(move |driver| {
            let future = job(driver);
            Box::pin(async move { drop(sender.send(future.await)) })
        });
        self.jobs.send(job).unwrap();
        self.handle.ring();
        receiver
    }

    pub fn counters(&self) -> Counters {
        self.run(|driver| async move { driver.counters() })
    }

    /// Makes the shard relay to `server`; returns where it listens.
    pub fn relay(&self, server: SocketAddr) -> SocketAddr {
        let any_port = "127.0.0.1:0".parse().unwrap();
        let listener = listener::bind(any_port, 1).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        self.run(move |driver| async move {
            let number = driver.listen(listener);
            driver.spawn(plain_relay::serve(driver.clone(), number, server));
        });
        address
    }
}

/// A server that gives each connection a thread.
pub fn server(serve: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            thread::spawn(move || serve(stream));
        }
    });
    address
}

pub fn echo() -> SocketAddr {
    server(|stream| drop(std::io::copy(&mut &stream, &mut &stream)))
}

/// Marks a process that runs one test alone.
const ALONE: &str = "BOLTMUX_TEST_ALONE";

/// For tests that look at the whole process: true in a process of its own with at most `files_max`
/// descriptors; else starts that process, waits for its success and is false.
pub fn is_alone(test: &str, files_max: usize) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -n {files_max}; exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
    false
}

pub fn eventually(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether times are judged, too. They say something about this machine while it does nothing else,
/// so it is asked for: `BOLTMUX_TIMES=1`. All else is about what happens, and in which order.
pub fn are_times_judged() -> bool {
    std::env::var_os("BOLTMUX_TIMES").is_some()
}

pub fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A repeatable stream of bytes that differs at every position.
pub fn pattern(position: usize) -> u8 {
    (position.wrapping_mul(2_654_435_761) >> 11) as u8
}

/// Like `SO_LINGER` 0: the close is a reset.
pub fn reset(stream: std::net::TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}
