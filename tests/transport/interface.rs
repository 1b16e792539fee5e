//! What tasks ask of a connection beyond relaying: watching, quiet, own bytes, accepting, limits.

use super::support::*;
use boltmux::transport::buffer::Chunk;
use boltmux::transport::driver::Options;
use boltmux::transport::listener;
use boltmux::transport::stream::Stream;
use bytes::Bytes;
use std::fs::File;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn own_bytes_and_received_ones_leave_in_order() {
    let remote = Remote::start(Options::default());
    let address = echo();
    let answer = remote.run(move |driver| async move {
        let stream = Stream::from(driver.dial(address).await.unwrap());
        let mut made = Chunk::from(Bytes::from_static(b"-one-two"));
        stream.send([Chunk::from_static(b"zero"), made.split_to(4), Chunk::from_static(b"")]);
        assert_eq!(stream.queued_bytes(), 8);
        stream.send([made]);
        assert!(!stream.is_flushed());
        let mut answer = Vec::new();
        while answer.len() < 12 {
            answer.extend_from_slice(&stream.recv().await.unwrap().unwrap());
        }
        assert!(stream.is_flushed() && stream.queued_bytes() == 0);
        assert_eq!(stream.peer_address().unwrap(), address);
        stream.close().await;
        answer
    });
    assert_eq!(answer, b"zero-one-two");
}

/// An idle connection is quiet until its peer says something; the watcher is woken, nothing is
/// taken.
#[test]
fn a_watched_connection_tells_of_bytes_and_of_the_end() {
    for says_something in [true, false] {
        let (go, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let address = server(move |mut stream| {
            let _ = wait.lock().unwrap().recv();
            if says_something {
                stream.write_all(b"goodbye").unwrap();
                let _ = wait.lock().unwrap().recv();
            }
        });
        let remote = Remote::start(Options::default());
        let woken = Arc::new(CountingWaker::default());
        let waker = Waker::from(woken.clone());
        remote.run(move |driver| async move {
            let conn = driver.dial(address).await.unwrap();
            conn.watch(&waker);
            driver.sleep(Duration::from_millis(30)).await;
            assert!(conn.is_quiet() && woken.0.load(Ordering::SeqCst) == 0);
            go.send(()).unwrap();
            let started = Instant::now();
            while conn.is_quiet() {
                assert!(started.elapsed() < Duration::from_secs(5));
                driver.sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(woken.0.load(Ordering::SeqCst), 1);
            // What came already wakes a new watcher at once.
            conn.watch(&waker);
            assert_eq!(woken.0.load(Ordering::SeqCst), 2);
            match conn.recv().await.unwrap() {
                Some(chunk) => assert_eq!(&*chunk, b"goodbye"),
                None => assert!(!says_something),
            }
        });
    }
}

/// A byte that reached the kernel is seen by `catch_up` without a turn of the pump.
#[test]
fn catching_up_sees_what_came_since_the_last_turn() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let remote = Remote::start(Options::default());
    remote.run(move |driver| async move {
        let conn = driver.dial(address).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        driver.sleep(Duration::from_millis(10)).await;
        driver.catch_up();
        assert!(conn.is_quiet());
        // No await from here on: the pump cannot run in between.
        peer.write_all(b"x").unwrap();
        assert!(conn.is_quiet());
        let started = Instant::now();
        while conn.is_quiet() && started.elapsed() < Duration::from_secs(5) {
            driver.catch_up();
        }
        assert!(!conn.is_quiet());
        assert_eq!(&*conn.recv().await.unwrap().unwrap(), b"x");
    });
}

#[test]
fn several_listeners_accept_until_they_are_stopped() {
    let any_port = "127.0.0.1:0".parse().unwrap();
    let listeners = [(); 2].map(|()| listener::bind(any_port, 1).unwrap().remove(0));
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let remote = Remote::start(Options::default());
    remote.run(move |driver| async move {
        let numbers = listeners.map(|listener| driver.listen(listener));
        for (number, greeting) in numbers.into_iter().zip([b"first.", b"second"]) {
            let task = driver.clone();
            driver.spawn(async move {
                loop {
                    let conn = task.accept_on(number).await;
                    conn.send([Chunk::from_static(greeting)]);
                    conn.close().await;
                }
            });
        }
    });
    for (address, greeting) in addresses.into_iter().zip(["first.", "second"]) {
        let mut text = String::new();
        TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, greeting);
    }
    assert_eq!(remote.counters().accepted, 2);
    remote.run(|driver| async move { driver.stop_listening() });
    eventually("refused", Duration::from_secs(2), || {
        addresses.iter().all(|address| TcpStream::connect(address).is_err())
    });
}

#[test]
fn a_dialed_connection_is_accepted_with_its_first_bytes() {
    let remote = Remote::start(Options::default());
    // Without bytes the acknowledgement leaves after 200 ms, which a slow machine may exceed.
    let is_seen = (0..20).any(|_| {
        remote.run(|driver| async move {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let conn = driver.dial(listener.local_addr().unwrap()).await.unwrap();
            let came_alone = listener.accept().is_ok();
            conn.send([Chunk::from_static(b"first")]);
            while !came_alone && listener.accept().is_err() {
                driver.sleep(Duration::from_millis(1)).await;
            }
            !came_alone
        })
    });
    assert!(is_seen, "a server is woken twice for each connection");
}

/// A close that says nothing first: the kernel sends what it has, and then the end.
#[test]
fn a_connection_whose_peer_has_ended_is_closed_at_once_and_loses_nothing() {
    const ANSWER: &[u8] = &[7; 64 << 10];
    let remote = Remote::start(Options::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, closed) = mpsc::channel();
    let closing = remote.begin(move |driver| async move {
        let conn = driver.dial(address).await.unwrap();
        conn.send([Chunk::from_static(b"hello")]);
        while conn.recv().await.unwrap().is_some() {}
        conn.send([Chunk::from_static(ANSWER)]);
        let was_spent = conn.is_spent();
        poll_fn(|cx| conn.poll_flushed(cx)).await.unwrap();
        let is_spent = conn.is_spent();
        conn.close().await;
        ended.send(driver.counters().sockets).unwrap();
        (was_spent, is_spent)
    });
    let (mut peer, _) = listener.accept().unwrap();
    peer.read_exact(&mut [0; 5]).unwrap();
    peer.write_all(b"question").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(closed.recv_timeout(Duration::from_secs(10)), Ok(0), "the slot is gone");
    assert_eq!(closing.recv().unwrap(), (false, true), "spent once all of it has left");
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, ANSWER);
}

#[test]
fn a_refused_dial_says_so_and_a_dropped_one_leaves_nothing() {
    let remote = Remote::start(Options::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let error = remote.run(move |driver| async move { driver.dial(nobody).await.err() });
    assert_eq!(error.unwrap().kind(), std::io::ErrorKind::ConnectionRefused);
    remote.run(|driver| async move {
        // A documentation address: nobody answers, or the network refuses at once.
        let dial = driver.dial("192.0.2.1:7687".parse().unwrap());
        let limit = async {
            driver.sleep(Duration::from_millis(50)).await;
            Err(std::io::ErrorKind::TimedOut.into())
        };
        assert!(futures_lite::future::or(dial, limit).await.is_err());
    });
    eventually("slots free", Duration::from_secs(3), || remote.counters().sockets == 0);
}

/// Uses up the few descriptors it may have, and lets them go.
#[test]
fn without_descriptors_accept_pauses_and_clients_are_served_on() {
    let name = "interface::without_descriptors_accept_pauses_and_clients_are_served_on";
    if !is_alone(name, 100) {
        return;
    }
    let remote = Remote::start(Options::default());
    let relay = remote.relay(echo());
    let mut inside = TcpStream::connect(relay).unwrap();
    let mut ping = || {
        inside.write_all(b"ping").unwrap();
        inside.read_exact(&mut [0; 4]).unwrap();
    };
    ping();
    let mut fillers: Vec<File> = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        fillers.push(file);
    }
    fillers.pop();
    let mut outside = TcpStream::connect(relay).unwrap();
    eventually("a pause", Duration::from_secs(5), || remote.counters().accept_pauses > 0);
    ping();
    let pauses = remote.counters().accept_pauses;
    thread::sleep(Duration::from_millis(250));
    assert!(remote.counters().accept_pauses <= pauses + 4, "a pause is 100 ms, not a spin");
    drop(fillers);
    outside.write_all(b"late").unwrap();
    outside.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    outside.read_exact(&mut [0; 4]).unwrap();
    ping();
}

/// The shard sleeps in the call that submits a send: one for each message, not two.
#[test]
fn a_request_and_its_answer_take_two_system_calls() {
    const REQUESTS: u64 = 1000;
    let remote = Remote::start(Options::default());
    let mut stream = TcpStream::connect(remote.relay(echo())).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answer = [0; 3];
    let mut ask = |count| {
        for _ in 0..count {
            stream.write_all(b"ask").unwrap();
            stream.read_exact(&mut answer).unwrap();
        }
    };
    ask(10);
    let before = remote.counters();
    ask(REQUESTS);
    let after = remote.counters();
    let (enters, ticks) = (after.enters - before.enters, after.ticks - before.ticks);
    println!("{enters} system calls and {ticks} ticks for {REQUESTS} requests");
    // Between two ticks, and around falling asleep, come a few that are nobody's.
    assert!(enters < 3 * REQUESTS + 6 * ticks, "{enters} for {REQUESTS}, {ticks} ticks");
}
