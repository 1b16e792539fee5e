//! Slow peers: bounded memory, no starvation, no deadlock, and buffers that come back.

use super::support::*;
use boltmux::transport::driver::{Options, STUCK_AFTER};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A peer's queue and one credit, in 16 KiB buffers, with room for partly filled ones.
pub const LENT_MAX: u16 = 40;

#[test]
fn a_slow_reader_costs_little_and_starves_nobody() {
    const TOTAL: usize = 256 << 20;
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
    let reading = thread::spawn(move || {
        let (mut total, mut block, started) = (0, vec![0; 1 << 20], Instant::now());
        while total < TOTAL {
            let is_slow = started.elapsed() < Duration::from_secs(1);
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
    assert!(times[times.len() / 2] < Duration::from_millis(20));
    assert!(counters.lent_max.iter().all(|&lent| lent <= LENT_MAX), "{:?}", counters.lent_max);
    assert!(counters.heap_bytes == 0 && counters.sent_bytes[0] >= TOTAL as u64);
}

/// Both peers write 64 MiB before they read a byte.
#[test]
fn upload_and_download_block_without_deadlock() {
    const TOTAL: usize = 64 << 20;
    fn write_then_read(stream: TcpStream) {
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || {
            let block: Vec<u8> = (0..1 << 20).map(pattern).collect();
            (0..TOTAL >> 20).for_each(|_| writer.write_all(&block).unwrap());
            writer.shutdown(Shutdown::Write).unwrap();
        });
        thread::sleep(Duration::from_millis(700));
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
        assert_eq!(position, TOTAL);
        writing.join().unwrap();
    }
    let remote = Remote::start(Options::default());
    let (done, finished) = mpsc::channel();
    let relay = remote.relay(server(move |stream| {
        write_then_read(stream);
        done.send(()).unwrap();
    }));
    let client = TcpStream::connect(relay).unwrap();
    let middle = thread::spawn({
        let remote = remote.clone();
        move || {
            thread::sleep(STUCK_AFTER + Duration::from_millis(300));
            remote.counters()
        }
    });
    write_then_read(client);
    finished.recv_timeout(Duration::from_secs(20)).unwrap();
    let blocked = middle.join().unwrap();
    println!("while both were blocked: {blocked:?}");
    assert_eq!(blocked.lent, [0, 0], "stuck sends hold no ring buffer");
    assert!(blocked.heap_bytes > 0 && blocked.heap_bytes < 512 << 10);
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
