//! The two ways to sleep: deadlines, glommio's timers and channels, and wakes from other threads in
//! both.

use super::support::*;
use boltmux::transport::driver::{Options, TICK};
use glommio::channels::shared_channel;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A wake or a deadline that comes so late was probably lost, and another one helped: the
/// executor's heartbeats are 233 and 317 ms apart.
const LATE: Duration = Duration::from_millis(100);
/// The median where times are judged; measured is a third of it.
const MEDIAN_MAX: Duration = TICK.saturating_mul(4);

/// What was measured is printed. Always asserted is that most wakes did not need help; more of them
/// may come late only because the machine does something else.
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, last) = (times[times.len() / 2], *times.last().unwrap());
    println!("{what}: median {median:?}, worst {last:?} of {}", times.len());
    assert!(median < LATE, "{what}: median {median:?}");
    if are_times_judged() {
        assert!(median < MEDIAN_MAX, "{what}: median {median:?}");
        let late = times.iter().filter(|&&time| time > LATE).count();
        assert!(late * 4 <= times.len(), "{what}: {late} of {} are late", times.len());
    }
}

/// Ping-pong on 16 connections by 4 threads until dropped.
struct Load(Arc<AtomicBool>, Vec<thread::JoinHandle<u64>>);

impl Load {
    fn start(relay: SocketAddr) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..4).map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut streams: Vec<_> =
                    (0..4).map(|_| TcpStream::connect(relay).unwrap()).collect();
                let (mut block, mut count) = ([1; 100], 0);
                while !stop.load(Ordering::Relaxed) {
                    streams.iter_mut().for_each(|stream| stream.write_all(&block).unwrap());
                    streams.iter_mut().for_each(|stream| stream.read_exact(&mut block).unwrap());
                    count += 4;
                }
                count
            })
        });
        Load(stop.clone(), threads.collect())
    }

    fn stop(self) -> u64 {
        self.0.store(true, Ordering::Relaxed);
        self.1.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

#[test]
fn wheel_deadlines_while_idle() {
    let remote = Remote::start(Options::default());
    let (late, visits) = remote.run(|driver| async move {
        let (mut late, before) = (Vec::new(), driver.counters().visits);
        for wait in [100, 60, 150, 90, 120].map(Duration::from_millis) {
            let started = Instant::now();
            driver.sleep(wait).await;
            late.push(started.elapsed() - wait);
        }
        (late, driver.counters().visits - before)
    });
    report("deadline, set busy, due idle", late);
    assert!(visits < 60, "520 ms awake would be 104 visits, this was {visits}: it did not sleep");

    let late = remote.run(|driver| async move {
        let mut late = Vec::new();
        for wait in [20, 40, 30, 25, 50].map(Duration::from_millis) {
            glommio::timer::sleep(Duration::from_millis(80)).await;
            assert!(driver.is_idle());
            let far = driver.sleep(Duration::from_secs(60)); // the earlier one must come first
            let started = Instant::now();
            futures_lite::future::or(far, driver.sleep(wait)).await;
            late.push(started.elapsed() - wait);
        }
        late
    });
    report("deadline, set and due idle", late);
}

#[test]
fn everything_else_while_busy() {
    let remote = Remote::start(Options::default());
    let load = Load::start(remote.relay(echo()));
    thread::sleep(Duration::from_millis(100));
    let (wheel, timers) = remote.run(|driver| async move {
        let (mut wheel, mut timers) = (Vec::new(), Vec::new());
        for wait in (1..=40).map(Duration::from_millis) {
            let started = Instant::now();
            driver.sleep(wait).await;
            wheel.push(started.elapsed() - wait);
            let started = Instant::now();
            glommio::timer::sleep(wait).await;
            timers.push(started.elapsed() - wait);
        }
        (wheel, timers)
    });
    report("deadline while busy", wheel);
    report("glommio timer while busy", timers);

    let other = Remote::start(Options::default());
    let (sender, receiver) = shared_channel::new_bounded(4);
    let arrivals = remote.begin(|_| async move {
        let (receiver, mut late) = (receiver.connect().await, Vec::new());
        while let Some(sent) = receiver.recv().await {
            late.push(Instant::elapsed(&sent));
        }
        late
    });
    other.run(|_| async move {
        let sender = sender.connect().await;
        for _ in 0..60 {
            glommio::timer::sleep(Duration::from_millis(7)).await;
            sender.send(Instant::now()).await.unwrap();
        }
    });
    report(
        "shared_channel to a busy driver",
        arrivals.recv_timeout(Duration::from_secs(10)).unwrap(),
    );
    println!("{} round trips", load.stop());
}

/// Rings `ring` every `pause`; what a task of the shard saw of it.
fn wake_latencies(remote: &Remote, pause: Duration, ring: impl Fn()) -> Vec<Duration> {
    let base = Instant::now();
    let rung = Arc::new(AtomicU64::new(0));
    let seen_by_task = rung.clone();
    let times = remote.begin(move |driver| async move {
        let (mut seen, mut times) = (driver.mail(0).await, Vec::new());
        while times.len() < 30 {
            seen = driver.mail(seen).await;
            let at = seen_by_task.swap(0, Ordering::Relaxed);
            if at > 0 {
                times.push(base.elapsed() - Duration::from_nanos(at));
            }
        }
        times
    });
    loop {
        thread::sleep(pause);
        rung.store(base.elapsed().as_nanos() as u64, Ordering::Relaxed);
        ring();
        if let Ok(times) = times.recv_timeout(Duration::from_millis(300).min(pause)) {
            return times;
        }
    }
}

/// Looking costs a core: it ends when messages stop following each other.
#[test]
fn a_shard_that_looks_before_it_sleeps_still_sleeps() {
    let limit = Duration::from_millis(1); // the most: round trips here are faster
    let looks = Remote::start(Options { busy_poll: limit, ..Options::default() });
    let ordinary = Remote::start(Options::default());
    let server = echo();
    for remote in [&looks, &ordinary] {
        let mut stream = TcpStream::connect(remote.relay(server)).unwrap();
        let mut block = [1; 100];
        for _ in 0..30 {
            for _ in 0..100 {
                stream.write_all(&block).unwrap();
                stream.read_exact(&mut block).unwrap();
            }
            // 200 pauses each time; on a busy machine some of them are long.
            if looks.counters().pauses_caught > 100 {
                break;
            }
        }
    }
    let caught = looks.counters().pauses_caught;
    assert!(caught > 100, "{caught} pauses were looked through");
    assert_eq!(ordinary.counters().pauses_caught, 0);
    thread::sleep(Duration::from_millis(100));
    let before = looks.counters();
    thread::sleep(Duration::from_millis(500));
    let after = looks.counters();
    // Each job of this test wakes the shard, and it takes a few ticks to fall asleep again.
    assert!(after.sleeps > before.sleeps, "it sleeps");
    let caught = after.pauses_caught - before.pauses_caught;
    assert!(caught < 20, "{caught} pauses in half a second of silence");
    println!("{} enters in 500 ms of silence", after.enters - before.enters);
}

#[test]
fn other_threads_wake_a_shard() {
    let (remote, other) = (Remote::start(Options::default()), Remote::start(Options::default()));
    let mailbox = || remote.handle.ring();
    let message = || {
        let handle = remote.handle.clone();
        other.run(move |driver| async move { driver.message(&handle) });
    };
    let (idle, busy) = (Duration::from_millis(60), Duration::from_millis(4));
    report("mailbox, idle", wake_latencies(&remote, idle, mailbox));
    report("MSG_RING, idle (with the way to the sender)", wake_latencies(&remote, idle, message));
    let load = Load::start(remote.relay(echo()));
    thread::sleep(Duration::from_millis(50));
    report("mailbox, busy", wake_latencies(&remote, busy, mailbox));
    report("MSG_RING, busy (with the way to the sender)", wake_latencies(&remote, busy, message));
    load.stop();
    // Blocked in its own ring, but nothing to do: the dangerous state.
    let relay = remote.relay(echo());
    let mut stream = TcpStream::connect(relay).unwrap();
    let mailbox = || {
        stream.try_clone().unwrap().write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(2));
        remote.handle.ring();
    };
    report(
        "mailbox, asleep in its own ring (with 2 ms of pause)",
        wake_latencies(&remote, busy, mailbox),
    );
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    let _ = stream.read(&mut [0]);
}
