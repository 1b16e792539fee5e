//! Slow peers: bounded memory, no starvation, no deadlock, and buffers that come back.

use super::support::*;
use boltmux::transport::driver::{Options, STUCK_AFTER};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

/// A peer's queue and one credit, in 16 KiB buffers, with room for partly filled ones.
pub const LENT_MAX: u16 = 40;

#[test]
fn a_slow_reader_costs_little_and_starves_nobody() {
    const TOTAL: usize = 256 << 20;
    /// Answers to the other, before which the slow one is not done being slow. A starved one has
    /// none until all is read.
    const SERVED_MIN: usize = 300;
    let remote = Remote::start(Options::default());
    let relay = remote.relay(server(|mut stream| {
        let mut order = [0];
        while stream.read_exact(&mut order).is_ok() {
            let (count, block) =
                if order[0] == b'g' { (TOTAL >> 20, vec![7; 1 << 20]) } else { (1, vec![7; 100]) };
            (0..count).for_each(|_| stream.write_all(&block).unwrap());
        }
    }));
    let mut slow = TcpStream::connect(relay).unwrap();
    slow.write_all(b"g").unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let seen = served.clone();
    let reading = thread::spawn(move || {
        let (mut total, mut block) = (0, vec![0; 1 << 20]);
        while total < TOTAL {
            let is_slow = seen.load(Ordering::Relaxed) < SERVED_MIN;
            let length = slow.read(if is_slow { &mut block[..8192] } else { &mut block }).unwrap();
            assert!(length > 0);
            total += length;
            if is_slow {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let (mut other, mut times, mut answer) =
        (TcpStream::connect(relay).unwrap(), Vec::new(), [0; 100]);
    while !reading.is_finished() {
        let started = Instant::now();
        other.write_all(b"p").unwrap();
        other.read_exact(&mut answer).unwrap();
        times.push(started.elapsed());
        served.store(times.len(), Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
    reading.join().unwrap();
    times.sort();
    let counters = remote.counters();
    println!(
        "the other: median {:?}, worst {:?} of {}; {counters:?}",
        times[times.len() / 2],
        times.last().unwrap(),
        times.len()
    );
    assert!(times.len() >= SERVED_MIN, "{} answers beside a slow reader", times.len());
    assert!(!are_times_judged() || times[times.len() / 2] < Duration::from_millis(20));
    assert!(counters.lent_max.iter().all(|&lent| lent <= LENT_MAX), "{:?}", counters.lent_max);
    assert!(counters.heap_bytes == 0 && counters.sent_bytes[0] >= TOTAL as u64);
}

/// Writes and, once told, reads as much; both are the pattern of a MiB over and over.
fn write_then_read(stream: TcpStream, total: usize, may_read: &AtomicBool) {
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        let block: Vec<u8> = (0..1 << 20).map(pattern).collect();
        (0..total >> 20).for_each(|_| writer.write_all(&block).unwrap());
        writer.shutdown(Shutdown::Write).unwrap();
    });
    eventually("leave to read", Duration::from_secs(20), || may_read.load(Ordering::Relaxed));
    let (mut reader, mut block, mut position) = (stream, vec![0; 100_000], 0);
    loop {
        let length = reader.read(&mut block).unwrap();
        if length == 0 {
            break;
        }
        let is_right =
            |(index, &byte): (usize, &u8)| byte == pattern((position + index) % (1 << 20));
        assert!(block[..length].iter().enumerate().all(is_right), "after {position}");
        position += length;
    }
    assert_eq!(position, total);
    writing.join().unwrap();
}

/// Both peers write until nothing moves before they read a byte.
#[test]
fn upload_and_download_block_without_deadlock() {
    const TOTAL: usize = 64 << 20;
    let remote = Remote::start(Options::default());
    let may_read = Arc::new(AtomicBool::new(false));
    let (done, finished) = mpsc::channel();
    let served = may_read.clone();
    let relay = remote.relay(server(move |stream| {
        write_then_read(stream, TOTAL, &served);
        done.send(()).unwrap();
    }));
    let (client, reads) = (TcpStream::connect(relay).unwrap(), may_read.clone());
    let client = thread::spawn(move || write_then_read(client, TOTAL, &reads));
    let mut before = remote.counters();
    eventually("nothing moves", Duration::from_secs(10), || {
        thread::sleep(STUCK_AFTER * 3);
        let now = remote.counters();
        let is_still = now.sent_bytes == before.sent_bytes && now.heap_bytes > 0;
        before = now;
        is_still
    });
    println!("while both were blocked: {before:?}");
    assert_eq!(before.lent, [0, 0], "stuck sends hold no ring buffer");
    assert!(before.heap_bytes < 512 << 10);
    may_read.store(true, Ordering::Relaxed);
    finished.recv_timeout(Duration::from_secs(20)).unwrap();
    client.join().unwrap();
    assert_eq!(remote.counters().heap_bytes, 0);
}

/// Without a heap budget a stuck connection is closed and counted; the others live.
#[test]
fn over_the_copy_budget_the_connection_ends() {
    let remote = Remote::start(Options { heap_bytes_max: 1000, ..Options::default() });
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let relay = remote.relay(server(move |mut stream| {
        let mut order = [0];
        stream.read_exact(&mut order).unwrap();
        if order[0] == b's' {
            let _ = held.lock().unwrap().recv();
        }
        let _ = stream.write_all(&order);
    }));
    let mut stuck = TcpStream::connect(relay).unwrap();
    let writing = thread::spawn(move || {
        let (block, started) = (vec![b's'; 1 << 20], Instant::now());
        while stuck.write_all(&block).is_ok() {
            // It is read and dropped for a second first: a clean close.
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "the stuck client's connection is closed"
            );
        }
    });
    writing.join().unwrap();
    let counters = remote.counters();
    assert!(counters.over_budget > 0, "{counters:?}");
    let mut other = TcpStream::connect(relay).unwrap();
    other.write_all(b"q").unwrap();
    other.read_exact(&mut [0]).unwrap();
    drop(release);
}

/// Large credits are for few: many readers that stand still get small ones, so that their rest fits
/// into the budget.
#[test]
fn many_stuck_readers_share_the_copy_budget() {
    const READERS: usize = 48;
    let (queue_bytes_max, heap_bytes_max) = (256 << 10, 16 << 20);
    let credit_bytes = queue_bytes_max as u32;
    assert!(READERS * 2 * queue_bytes_max > heap_bytes_max, "a queue and a credit for each");
    let options = Options { credit_bytes, queue_bytes_max, heap_bytes_max, ..Options::default() };
    let remote = Remote::start(options);
    let relay = remote.relay(server(|mut stream| {
        let block = vec![7; 1 << 20];
        while stream.write_all(&block).is_ok() {}
    }));
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let reader = TcpStream::connect(relay).unwrap();
        socket2::SockRef::from(&reader).set_recv_buffer_size(65_536).unwrap();
        readers.push(reader);
    }
    let mut before = remote.counters();
    eventually("nothing moves", Duration::from_secs(20), || {
        thread::sleep(STUCK_AFTER * 3);
        let now = remote.counters();
        let is_still = now.sent_bytes == before.sent_bytes && now.heap_bytes > 0;
        before = now;
        is_still
    });
    println!("while all were stuck: {before:?}");
    assert_eq!((before.over_budget, before.sockets), (0, 2 * READERS), "{before:?}");
    for reader in &mut readers {
        reader.read_exact(&mut vec![0; 8 << 20]).unwrap();
    }
}

/// Once bytes of a queue were given up, nothing more leaves on that connection: no gap.
#[test]
fn after_a_failed_send_nothing_follows() {
    const TOTAL: usize = 12 << 20;
    let source = server(|mut stream| {
        let bytes: Vec<u8> = (0..TOTAL).map(pattern).collect();
        let _ = stream.write_all(&bytes);
    });
    let (told, heard) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let sink = server(move |mut stream| {
        let _ = wait.lock().unwrap().recv();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let is_prefix = bytes.iter().enumerate().all(|(at, &byte)| byte == pattern(at));
        told.send((bytes.len(), is_prefix)).unwrap();
    });
    let remote = Remote::start(Options { heap_bytes_max: 1000, ..Options::default() });
    remote.run(move |driver| async move {
        let (source, sink) = (driver.dial(source).await.unwrap(), driver.dial(sink).await.unwrap());
        while let Some(chunk) = source.recv().await.unwrap() {
            // Neither the limit nor the error is heeded.
            sink.send([chunk]);
        }
        go.send(()).unwrap();
        assert!(!sink.is_flushed());
        sink.close().await;
    });
    let (length, is_prefix) = heard.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(is_prefix && length > 0 && length < TOTAL, "{length}");
    eventually("slots free", Duration::from_secs(3), || remote.counters().sockets == 0);
    let counters = remote.counters();
    assert_eq!((counters.over_budget, counters.lent), (1, [0, 0]), "{counters:?}");
}

/// Whoever waits for bytes of a connection that was given up hears of it: else it would wait for
/// ever for a peer that waits for the rest.
#[test]
fn a_failed_send_ends_the_connection_for_its_reader() {
    let source = server(|mut stream| drop(stream.write_all(&vec![7; 12 << 20])));
    let (_release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let sink = server(move |_stream| {
        let _ = held.lock().unwrap().recv();
    });
    let remote = Remote::start(Options { heap_bytes_max: 1000, ..Options::default() });
    let told = remote.run(move |driver| async move {
        let source = driver.dial(source).await.unwrap();
        let sink = Rc::new(driver.dial(sink).await.unwrap());
        let writer = sink.clone();
        driver.spawn(async move {
            while let Ok(Some(chunk)) = source.recv().await {
                writer.send([chunk]);
            }
        });
        let received = async { Some(sink.recv().await) };
        let late = async {
            driver.sleep(Duration::from_secs(10)).await;
            None
        };
        let told = futures_lite::future::or(received, late).await;
        (told.map(|told| told.unwrap_err().raw_os_error()), driver.counters().over_budget)
    });
    assert_eq!(told, (Some(Some(libc::ENOBUFS)), 1));
}

/// A source that is not read any more, while its last receive is still armed.
#[test]
fn a_reset_is_seen_by_whoever_does_not_read() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let peer = server(move |stream| {
        wait.lock().unwrap().recv().unwrap();
        reset(stream);
    });
    let remote = Remote::start(Options::default());
    let is_seen = remote.run(move |driver| async move {
        let conn = driver.dial(peer).await.unwrap();
        let is_silent = poll_fn(|cx| Poll::Ready(conn.poll_recv(cx).is_pending())).await;
        assert!(is_silent, "armed, and nothing came");
        driver.sleep(Duration::from_millis(20)).await;
        go.send(()).unwrap();
        let seen = async {
            poll_fn(|cx| conn.poll_dead(cx)).await;
            true
        };
        let late = async {
            driver.sleep(Duration::from_secs(10)).await;
            false
        };
        futures_lite::future::or(seen, late).await
    });
    assert!(is_seen);
}

/// Nothing happens on the shard but that a task lets its chunks go: that must be enough.
#[test]
fn a_parked_receive_goes_on_when_buffers_come_back() {
    let greedy = server(|mut stream| {
        stream.write_all(&[1; 1 << 20]).unwrap(); // ten times what fits into all buffers
        let _ = stream.read(&mut [0]);
    });
    let modest = server(|mut stream| {
        stream.write_all(b"modest").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let remote = Remote::start(Options { buffers: [4, 4], ..Options::default() });
    let waited = remote.run(move |driver| async move {
        let conn = driver.dial(greedy).await.unwrap();
        let mut held = Vec::new();
        while driver.counters().parked == 0 {
            let received = async { Some(conn.recv().await.unwrap().unwrap()) };
            let late = async {
                driver.sleep(Duration::from_millis(10)).await;
                None
            };
            held.extend(futures_lite::future::or(received, late).await);
        }
        let other = driver.dial(modest).await.unwrap();
        driver.sleep(Duration::from_millis(100)).await;
        assert!(other.is_quiet() && driver.counters().parked > 1, "{:?}", driver.counters());
        let started = Instant::now();
        drop(held);
        assert_eq!(&*other.recv().await.unwrap().unwrap(), b"modest");
        started.elapsed()
    });
    println!("the parked receive came {waited:?} after the buffers");
    assert!(!are_times_judged() || waited < Duration::from_millis(500));
}

/// A short message each on as many connections as there are buffers, small and large, and nobody
/// takes them; then whether somebody else gets bytes, and what each of those says.
fn others_beside_those_not_read(heap_bytes_max: usize) -> Vec<(Vec<u8>, Option<i32>)> {
    const LARGE: u16 = 4;
    const ALL: u16 = LARGE + 4 * LARGE;
    let unread = server(|mut stream| {
        stream.write_all(b"short").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let other = server(|mut stream| {
        stream.write_all(b"other").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let options = Options { buffers: [LARGE; 2], heap_bytes_max, ..Options::default() };
    Remote::start(options).run(move |driver| async move {
        let mut conns = Vec::new();
        for _ in 0..ALL {
            let conn = driver.dial(unread).await.unwrap();
            // As a session does: armed, and not read again.
            assert!(poll_fn(|cx| Poll::Ready(conn.poll_recv(cx).is_pending())).await);
            conns.push(conn);
        }
        while driver.counters().lent_max[1] < ALL {
            driver.sleep(Duration::from_millis(1)).await;
        }
        let other = driver.dial(other).await.unwrap();
        let late = async {
            driver.sleep(Duration::from_secs(10)).await;
            Ok(None)
        };
        let heard = futures_lite::future::or(other.recv(), late).await.unwrap();
        assert_eq!(&*heard.expect("bytes, not only silence"), b"other");
        let mut all = Vec::new();
        for conn in conns {
            all.push(match poll_fn(|cx| Poll::Ready(conn.poll_recv(cx))).await {
                Poll::Ready(Ok(bytes)) => (bytes.expect("it has not ended").to_vec(), None),
                Poll::Ready(Err(error)) => (Vec::new(), error.raw_os_error()),
                Poll::Pending => (Vec::new(), None),
            });
        }
        all
    })
}

#[test]
fn who_is_not_read_keeps_no_buffers_from_others() {
    let whole = (b"short".to_vec(), None);
    let all = others_beside_those_not_read(1000);
    assert!(all.iter().all(|one| *one == whole), "{all:?}");
    let (refused, served): (Vec<_>, Vec<_>) =
        others_beside_those_not_read(3).into_iter().partition(|one| one.1.is_some());
    assert!(served.iter().all(|one| *one == whole), "{served:?}");
    assert!(!refused.is_empty() && refused.iter().all(|one| one.1 == Some(libc::ENOBUFS)));
}

/// Small messages into a socket that is full: what found no room waits its turn, and nobody else
/// waits for it.
#[test]
fn small_messages_to_a_peer_that_does_not_read_arrive_in_order() {
    const MESSAGE: usize = 250;
    const MESSAGES: usize = 60_000;
    let (go, wait) = mpsc::channel::<()>();
    let (told, heard) = mpsc::channel();
    let wait = Mutex::new(wait);
    let sink = server(move |mut stream| {
        let _ = wait.lock().unwrap().recv();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let is_whole = bytes.iter().enumerate().all(|(at, &byte)| byte == pattern(at));
        told.send((bytes.len(), is_whole)).unwrap();
    });
    let remote = Remote::start(Options::default());
    let (relay, other) = (remote.relay(sink), remote.relay(echo()));
    let mut client = TcpStream::connect(relay).unwrap();
    client.set_nodelay(true).unwrap();
    let writing = thread::spawn(move || {
        let bytes: Vec<u8> = (0..MESSAGES * MESSAGE).map(pattern).collect();
        bytes.chunks(MESSAGE).for_each(|message| client.write_all(message).unwrap());
        client.shutdown(Shutdown::Write).unwrap();
        client
    });
    eventually("a stuck send", Duration::from_secs(20), || remote.counters().rescued > 0);
    let (mut other, mut answer) = (TcpStream::connect(other).unwrap(), [0; 3]);
    for _ in 0..50 {
        other.write_all(b"abc").unwrap();
        other.read_exact(&mut answer).unwrap();
    }
    go.send(()).unwrap();
    let (length, is_whole) = heard.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!((length, is_whole), (MESSAGES * MESSAGE, true));
    drop((writing.join().unwrap(), other));
    eventually("slots free", Duration::from_secs(3), || remote.counters().sockets == 0);
    assert_eq!(remote.counters().lent, [0, 0]);
}
