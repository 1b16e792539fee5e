//! Bytes in, the same bytes out; ends of all kinds; nothing left behind.

use super::pressure::LENT_MAX;
use super::support::*;
use boltmux::transport::buffer::POISON;
use boltmux::transport::driver::{Counters, Options, Planted};
use boltmux::transport::ring::Receive;
use boltmux::transport::selftest;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// Echoes through a relay with `options`; the error says where a wrong byte was.
fn echo_through(options: Options) -> Result<Counters, String> {
    let remote = Remote::start(options);
    let relay = remote.relay(echo());
    let session = |number| thread::spawn(move || echo_session(relay, number));
    let clients: Vec<_> = (0..8).map(session).collect();
    let results: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    results.into_iter().collect::<Result<(), String>>()?;
    let all_free = || remote.counters().sockets == 0;
    eventually("all slots free", Duration::from_secs(3), all_free);
    Ok(remote.counters())
}

/// Writes from one thread, reads in another, in sizes from a byte to several buffers; half-closes.
fn echo_session(relay: SocketAddr, number: usize) -> Result<(), String> {
    let stream = TcpStream::connect(relay).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        let (mut position, mut seed) = (0, number);
        for _ in 0..150 {
            seed = seed.wrapping_mul(25_214_903_917).wrapping_add(11);
            let length = [1, 100, 600, 16 << 10, 40_000, 200_000][(seed >> 20) % 6];
            let bytes = (position..position + length).map(|position| byte_of(number, position));
            let bytes: Vec<u8> = bytes.collect();
            // It fails after the reader found a wrong byte and left.
            if writer.write_all(&bytes).is_err() {
                return position;
            }
            position += length;
        }
        let _ = writer.shutdown(Shutdown::Write);
        position
    });
    let result = compare(&stream, number);
    let _ = stream.shutdown(Shutdown::Both);
    let written = writing.join().unwrap();
    match result? {
        read if read == written => Ok(()),
        read => Err(format!("{read} of {written} bytes came back")),
    }
}

/// No client says the same as another at the same place: one would notice the other's bytes.
fn byte_of(number: usize, position: usize) -> u8 {
    pattern(position + number * 77_777)
}

/// Reads to the end and compares with what was written; returns how many bytes came.
fn compare(mut reader: &TcpStream, number: usize) -> Result<usize, String> {
    reader.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (mut buffer, mut position) = (vec![0; 50_000], 0);
    loop {
        let length = reader.read(&mut buffer).map_err(|error| error.to_string())?;
        if length == 0 {
            return Ok(position);
        }
        for &byte in &buffer[..length] {
            if byte != byte_of(number, position) {
                return Err(format!("byte {byte:#x} at {position}"));
            }
            position += 1;
        }
    }
}

fn all_bytes_come_back(options: Options) -> Counters {
    let counters = echo_through(options).unwrap();
    assert_eq!(counters.lent, [0, 0]);
    assert_eq!(counters.received_bytes[0], counters.sent_bytes[1], "client to server");
    assert_eq!(counters.received_bytes[1], counters.sent_bytes[0], "server to client");
    counters
}

#[test]
fn limited_multishot() {
    let counters = all_bytes_come_back(Options::default());
    let sent: u64 = counters.sent_bytes.iter().sum();
    // What is stuck twice may be copied twice.
    assert!(counters.relayed_bytes + counters.copied_bytes >= sent, "{counters:?}");
    assert!(counters.relayed_bytes <= sent, "{counters:?}");
}

#[test]
fn single_shot() {
    all_bytes_come_back(Options { receive: Some(Receive::Single), ..Options::default() });
}

#[test]
fn bundles() {
    if selftest::abilities().bundles {
        all_bytes_come_back(Options { wants_bundles: true, ..Options::default() });
    }
}

/// The comparison above would notice a bundle that is read by consecutive numbers.
#[test]
fn a_bundle_read_in_the_wrong_order_is_caught() {
    if selftest::abilities().bundles {
        let planted = Planted::ConsecutiveBundles;
        let options = Options { wants_bundles: true, planted, ..Options::default() };
        assert!(echo_through(options).is_err());
    }
}

/// And a buffer that goes back before its send has completed: the poison of test builds is sent.
#[test]
#[cfg_attr(not(debug_assertions), ignore = "returned buffers are poisoned in debug builds")]
fn a_buffer_returned_too_early_is_caught() {
    let options = Options { planted: Planted::EarlyReturns, ..Options::default() };
    let error = echo_through(options).unwrap_err();
    assert!(error.contains(&format!("{POISON:#x}")), "{error}");
}

/// So few buffers that receives park for want of them all the time.
#[test]
fn few_buffers() {
    let counters = all_bytes_come_back(Options { buffers: [8, 8], ..Options::default() });
    println!("parked {} times, rescued {}", counters.parked, counters.rescued);
    assert!(counters.parked > 0);
}

/// A trickle of small messages while the other side does not read: chunks are capped, not only
/// bytes.
#[test]
fn small_chunks_hold_few_buffers() {
    let remote = Remote::start(Options::default());
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let (told, total) = mpsc::channel();
    let relay = remote.relay(server(move |mut stream| {
        let _ = wait.lock().unwrap().recv();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        told.send(bytes.len()).unwrap();
    }));
    let mut client = TcpStream::connect(relay).unwrap();
    client.set_nodelay(true).unwrap();
    // Fills what the kernels hold, then one small segment after another.
    client.set_nonblocking(true).unwrap();
    let (block, mut sent, mut full) = (vec![1; 64 << 10], 0, 0);
    while full < 20 {
        match client.write(&block) {
            Ok(length) => (sent, full) = (sent + length, 0),
            Err(_) => {
                full += 1;
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    assert!(remote.counters().lent_max[0] <= LENT_MAX, "{:?}", remote.counters());
    client.set_nonblocking(false).unwrap();
    go.send(()).unwrap();
    for _ in 0..2000 {
        client.write_all(b"tiny").unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(total.recv_timeout(Duration::from_secs(10)).unwrap(), sent + 8000);
    assert!(remote.counters().lent_max[0] <= LENT_MAX, "{:?}", remote.counters());
    eventually("buffers back", Duration::from_secs(2), || remote.counters().lent == [0, 0]);
}

/// The server hears the client's end-of-file and can still answer; and the other way round.
#[test]
fn half_close_both_ways() {
    let remote = Remote::start(Options::default());
    let late_answer = remote.relay(server(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        thread::sleep(Duration::from_millis(50));
        stream.write_all(&question).unwrap();
    }));
    let mut client = TcpStream::connect(late_answer).unwrap();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "question");

    let (heard, hearing) = mpsc::channel();
    let remote = Remote::start(Options::default());
    let server_ends_first = remote.relay(server(move |mut stream| {
        stream.write_all(b"greeting").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        heard.send(rest).unwrap();
    }));
    let mut client = TcpStream::connect(server_ends_first).unwrap();
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "greeting");
    client.write_all(b"still here").unwrap();
    drop(client);
    assert_eq!(hearing.recv_timeout(Duration::from_secs(2)).unwrap(), "still here");
}

/// A reset on one side ends the other soon, whichever side it is; what was sent before a clean
/// close arrives.
#[test]
fn aborts_reach_the_other_side() {
    let (ended, endings) = mpsc::channel();
    let remote = Remote::start(Options::default());
    let relay = remote.relay(server(move |mut stream| {
        let mut bytes = Vec::new();
        let result = stream.read_to_end(&mut bytes);
        ended.send((bytes.len(), result.is_ok())).unwrap();
    }));
    let mut client = TcpStream::connect(relay).unwrap();
    client.write_all(b"abc").unwrap();
    thread::sleep(Duration::from_millis(50));
    reset(client);
    let (length, _) = endings.recv_timeout(Duration::from_secs(2)).unwrap();
    assert_eq!(length, 3);

    let remote = Remote::start(Options::default());
    let relay = remote.relay(server(|mut stream| {
        stream.read_exact(&mut [0; 3]).unwrap();
        reset(stream);
    }));
    let mut client = TcpStream::connect(relay).unwrap();
    client.write_all(b"abc").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
    eventually("slots free", Duration::from_secs(3), || remote.counters().sockets == 0);
}

/// The client dies while the server does not read: nobody receives from the client then, the poll
/// tells.
#[test]
fn client_abort_is_seen_while_it_is_not_read() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let remote = Remote::start(Options::default());
    let relay = remote.relay(server(move |stream| {
        let _ = wait.lock().unwrap().recv(); // does not read
        drop(stream);
    }));
    let client = TcpStream::connect(relay).unwrap();
    client.set_nonblocking(true).unwrap();
    let block = vec![1; 64 << 10];
    let mut full = 0;
    while full < 20 {
        match (&client).write(&block) {
            Ok(length) if length > 0 => full = 0,
            _ => {
                full += 1;
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    reset(client);
    eventually("both sides gone", Duration::from_secs(3), || remote.counters().sockets == 0);
    drop(go);
}

/// 10,000 connections, a tenth of them reset by the client and a tenth by the server: descriptors,
/// slots, buffers and timers are what they were.
#[test]
fn nothing_is_left_after_ten_thousand_connections() {
    const CYCLES: usize = 10_000;
    if !is_alone("relay::nothing_is_left_after_ten_thousand_connections", 1024) {
        return;
    }
    let remote = Remote::start(Options::default());
    let relay = remote.relay(server(|mut stream| {
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            if byte[0] == b'x' {
                return reset(stream);
            }
            let _ = stream.write_all(&byte);
        }
    }));
    let before = open_files();
    let next = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let next = next.clone();
            thread::spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CYCLES {
                        return;
                    }
                    let mut stream = TcpStream::connect(relay).unwrap();
                    let mut byte = [if number % 10 == 3 { b'x' } else { b'a' }];
                    stream.write_all(&byte).unwrap();
                    let _ = stream.read(&mut byte);
                    if number % 10 == 7 {
                        reset(stream);
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    eventually("slots and timers free", Duration::from_secs(5), || {
        let counters = remote.counters();
        counters.sockets == 0 && counters.timers == 0
    });
    assert_eq!(remote.counters().lent, [0, 0]);
    eventually("descriptors closed", Duration::from_secs(5), || open_files() <= before);
}
