//! An idle connection goes from one executor to another; what arrives meanwhile is delivered or
//! seen.

use super::support::*;
use boltmux::transport::buffer::Chunk;
use boltmux::transport::driver::Options;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

const ROUNDS: u64 = 300;

#[test]
fn nothing_is_lost_silently() {
    if !is_alone("handover::nothing_is_lost_silently", 1024) {
        return;
    }
    let (owner, borrower) = (Remote::start(Options::default()), Remote::start(Options::default()));
    let address = server(|mut stream| {
        stream.read_exact(&mut [0; 5]).unwrap(); // who dials speaks first
        // Somewhere around the hand-over, which begins after one to eight milliseconds.
        let port = u64::from(stream.peer_addr().unwrap().port());
        thread::sleep(Duration::from_micros(port * 7919 % 10_000));
        let _ = stream.write_all(b"unexpected");
        thread::sleep(Duration::from_micros(port % 200));
    });
    let before = open_files();
    let (mut discarded, mut delivered) = (0, 0);
    for round in 0..ROUNDS {
        let idle = owner.run(move |driver| async move {
            let conn = driver.dial(address).await.unwrap();
            conn.send([Chunk::from_static(b"hello")]);
            poll_fn(|cx| conn.poll_flushed(cx)).await.unwrap();
            driver.sleep(Duration::from_micros(round * 1009 % 2000)).await;
            conn.detach().await.ok()
        });
        let Some(idle) = idle else {
            discarded += 1;
            continue;
        };
        let bytes = borrower.run(move |driver| async move {
            let conn = driver.adopt(idle.fd, idle.side);
            let mut bytes = Vec::new();
            while let Some(chunk) = conn.recv().await.unwrap() {
                bytes.extend_from_slice(&chunk);
            }
            conn.close().await;
            bytes
        });
        assert_eq!(bytes, b"unexpected");
        delivered += 1;
    }
    println!("{discarded} discarded, {delivered} delivered");
    assert!(discarded > 0 && delivered > 0, "both must have been tried");
    for remote in [&owner, &borrower] {
        eventually("slots and buffers free", Duration::from_secs(2), || {
            let counters = remote.counters();
            counters.sockets == 0 && counters.lent == [0, 0]
        });
    }
    eventually("descriptors closed", Duration::from_secs(2), || open_files() <= before);
}

/// What came between the two owners shows before the new one says a word.
#[test]
fn unread_bytes_and_ends_show_at_once() {
    for says in [&b"x"[..], &b""[..]] {
        let (owner, borrower) =
            (Remote::start(Options::default()), Remote::start(Options::default()));
        let (speak, order) = std::sync::mpsc::channel::<()>();
        let order = std::sync::Mutex::new(order);
        let address = server(move |mut stream| {
            let _ = order.lock().unwrap().recv();
            let _ = stream.write_all(says);
        });
        let idle = owner.run(move |driver| async move {
            driver.dial(address).await.unwrap().detach().await.ok().expect("silence so far")
        });
        let probe = idle.fd.try_clone().unwrap();
        speak.send(()).unwrap();
        let peeked = socket2::Socket::from(probe);
        let mut byte = [std::mem::MaybeUninit::uninit()];
        peeked.peek(&mut byte).unwrap(); // blocks until the byte or the end is there
        let is_quiet = borrower.run(move |driver| async move {
            let conn = driver.adopt(idle.fd, idle.side);
            driver.look();
            conn.is_quiet()
        });
        assert!(!is_quiet, "{says:?} must have been seen");
    }
}

/// Not idle, so not handed over: whoever wanted to still has it, and can end it in order.
#[test]
fn a_connection_that_is_not_idle_comes_back_whole() {
    let (told, heard) = std::sync::mpsc::channel();
    let address = server(move |mut stream| {
        stream.write_all(b"unexpected").unwrap();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).map(drop).map_err(|error| error.kind());
        told.send((bytes, end)).unwrap();
    });
    let remote = Remote::start(Options::default());
    let came = remote.run(move |driver| async move {
        let conn = driver.dial(address).await.unwrap();
        while conn.is_quiet() {
            driver.sleep(Duration::from_millis(1)).await;
        }
        let conn = conn.detach().await.expect_err("something came");
        let came = conn.recv().await.unwrap().map(|chunk| chunk.to_vec());
        conn.send([Chunk::from_static(b"goodbye")]);
        conn.close().await;
        came
    });
    assert_eq!(came.as_deref(), Some(&b"unexpected"[..]));
    assert_eq!(heard.recv_timeout(Duration::from_secs(10)).unwrap(), (b"goodbye".to_vec(), Ok(())));
    eventually("slots free", Duration::from_secs(2), || remote.counters().sockets == 0);
}
