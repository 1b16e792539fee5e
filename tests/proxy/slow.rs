//! Clients that are slow, or that the proxy keeps waiting: reading stops, and goes on again.

use crate::client::{Client, V5_4, begin, commit, pull, reset, run_with};
use crate::stage::Stage;
use crate::value::map;
use boltmux::synthetic::Options;
use boltmux::wire::message::tag;
use std::io::Read;
use std::time::Duration;

/// More answers than the sockets' buffers and what may be queued: 4 MiB is the largest send buffer
/// of Linux (`tcp_wmem`).
const RESETS: usize = 1_200_000;

#[test]
fn a_client_without_a_lease_that_reads_late_gets_all_its_answers() {
    let stage = Stage::start(&[], Options::default());
    let mut client = Client::login(stage.address(), V5_4);
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(65_536).unwrap();
    let mut writer = client.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let many = reset().repeat(1000);
        (0..RESETS / 1000).try_for_each(|_| std::io::Write::write_all(&mut writer, &many))
    });
    // Until nothing moves any more: the proxy has stopped reading.
    std::thread::sleep(Duration::from_secs(2));
    let (mut left, mut bytes) = (RESETS * boltmux::wire::message::SUCCESS_EMPTY.len(), [0; 65_536]);
    while left > 0 {
        let count = client.stream.read(&mut bytes).expect("answers come on");
        assert_ne!(count, 0, "{left} bytes of answers are missing");
        left -= count;
    }
    writing.join().unwrap().unwrap();
}

#[test]
fn a_long_request_waits_for_its_lease_beyond_the_limit_of_a_message() {
    let pairs = ["pool.size=1", "timeouts.message=1s", "limits.held_bytes=128KiB"];
    let stage = Stage::start(&pairs, Options::default());
    let mut holder = Client::login(stage.address(), V5_4);
    holder.send(&begin());
    holder.expect(&[tag::SUCCESS]);
    let mut client = Client::login(stage.address(), V5_4);
    let mut writer = client.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let long = "x".repeat(16 << 20);
        let parameters = map(&[("nonce", "long"), ("filler", &long)]);
        let request = run_with("RETURN $nonce", parameters, map(&[]));
        std::io::Write::write_all(&mut writer, &[request, pull(-1)].concat())
    });
    stage.proxy.until("it waits", |all| all.get("clients_waiting") == 1);
    std::thread::sleep(Duration::from_millis(1500));
    holder.send(&commit());
    holder.expect(&[tag::SUCCESS]);
    client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    writing.join().unwrap().unwrap();
}
