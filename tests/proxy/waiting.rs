//! Clients that wait for a server connection: where their requests lie, and that each gets its own
//! answers.

use crate::client::{Client, V5_4, begin, commit, pull, reset, run};
use crate::stage::{Metrics, Stage};
use crate::value::Value;
use boltmux::synthetic::Options;
use boltmux::wire::message::tag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

const CLIENTS: usize = 128;
/// Of each client, between two looks at the counters.
const REQUESTS: u64 = 50;

/// One client that sends a request each time it has its answer.
fn ask(address: std::net::SocketAddr, answers: &AtomicU64, is_over: &AtomicBool, number: usize) {
    let mut client = Client::login(address, V5_4);
    for count in 0.. {
        let nonce = format!("{number} {count}");
        client.send(&[run("SLEEP 1 RETURN $nonce AS n", &nonce), pull(-1)].concat());
        let came = client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
        assert_eq!(came[1].fields, [Value::List(vec![nonce.as_str().into()])]);
        answers.fetch_add(1, Relaxed);
        if is_over.load(Relaxed) {
            return;
        }
    }
}

/// Counters before and after a while in which 128 clients always want something.
fn busy_while(stage: &Stage) -> [Metrics; 2] {
    let (answers, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (answers, is_over, address) = (answers.clone(), is_over.clone(), stage.address());
            std::thread::spawn(move || ask(address, &answers, &is_over, number))
        })
        .collect();
    let after = |count: u64| {
        let wanted = count * CLIENTS as u64;
        stage.proxy.until("answers come", |_| answers.load(Relaxed) >= wanted)
    };
    // Logins and dials are over by then.
    let metrics = [after(10), after(10 + REQUESTS)];
    is_over.store(true, Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("every answer was its own"));
    metrics
}

#[test]
fn requests_that_wait_are_not_copied() {
    // The last: more clients wait than may keep one of 64 large buffers, not one of 256 small ones.
    let few_buffers = ["pool.size=8", "transport.buffers_client=64"];
    for size in [&["pool.size=32"][..], &["pool.size=8"], &few_buffers] {
        let stage = Stage::start(size, Options::default());
        let [before, after] = busy_while(&stage);
        let grown = |name: &str| after.get(name) - before.get(name);
        let (waited, copied) = (grown("leases_waited"), grown("copied_bytes"));
        let relayed = grown("relayed_bytes");
        assert!(waited > CLIENTS as u64 * REQUESTS / 2, "{size:?}: only {waited} waited");
        assert!(copied * 100 <= relayed, "{size:?}: {copied} of {relayed} bytes were copied");
        stage.proxy.until("no buffer is kept", |all| all.get("buffers_kept") == 0);
    }
}

/// A transaction is open on the only connection.
fn holder(stage: &Stage) -> Client {
    let mut holder = Client::login(stage.address(), V5_4);
    holder.send(&begin());
    holder.expect(&[tag::SUCCESS]);
    holder
}

fn end(mut holder: Client) {
    holder.send(&commit());
    holder.expect(&[tag::SUCCESS]);
}

/// One request of so many is longer than all buffers.
const LONG_ONE_IN: usize = 100;

/// What a client asks for, and nobody else.
fn own_nonce(number: usize) -> String {
    const LONG_BYTES: usize = 100 << 10;
    let nonce = format!("{number} ");
    if number.is_multiple_of(LONG_ONE_IN) { nonce.repeat(LONG_BYTES / nonce.len()) } else { nonce }
}

/// As many requests as that need another's end, some of them longer than all buffers.
#[test]
fn thousands_wait_on_one_connection_with_few_buffers() {
    const WAITING: usize = 2000;
    boltmux::transport::raise_open_files_limit().unwrap();
    let pairs = ["pool.size=1", "transport.buffers_client=16", "transport.buffer_size=4KiB"];
    let stage = Stage::start(&pairs, Options::default());
    let holder = holder(&stage);
    let mut clients: Vec<Client> = Vec::with_capacity(WAITING);
    for number in 0..WAITING {
        let mut client = Client::login(stage.address(), V5_4);
        client.send(&[run("RETURN $nonce AS n", &own_nonce(number)), pull(-1)].concat());
        clients.push(client);
    }
    let all = stage.proxy.until("all wait", |all| all.get("clients_waiting") == WAITING as u64);
    // Three quarters of the 64 small buffers, and a quarter of the 16 large ones.
    assert!(all.get("buffers_kept") <= 48 + 4, "{} are kept", all.get("buffers_kept"));
    let copied = all.get("copied_bytes");
    end(holder);
    for (number, client) in clients.iter_mut().enumerate() {
        expect_own(client, &own_nonce(number));
    }
    let all = stage
        .proxy
        .until("nothing is held", |all| all.get("heap_bytes") == 0 && all.get("buffers_kept") == 0);
    let requests = (WAITING * 40 + WAITING / LONG_ONE_IN * own_nonce(0).len()) as u64;
    assert!(all.get("copied_bytes") - copied > requests, "they did not lie in 80 buffers");
}

fn ask_for(client: &mut Client, nonce: &str) {
    client.send(&[run("RETURN $nonce AS n", nonce), pull(-1)].concat());
    expect_own(client, nonce);
}

fn expect_own(client: &mut Client, nonce: &str) {
    let came = client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    assert!(came[1].fields == [Value::List(vec![nonce.into()])], "not the answer to {nonce:.20}");
}

/// Who has filled small buffers waits in a large one, while requests of another fill all the rest,
/// over and over.
#[test]
fn requests_that_wait_in_large_buffers_stay_what_they_are() {
    const WAITING: u64 = 4; // a quarter of the 16
    let pairs = ["pool.size=1", "transport.buffers_client=16", "transport.buffer_size=4KiB"];
    let stage = Stage::start(&pairs, Options::default());
    let [filling, long] = [20 << 10, 100 << 10].map(|length| "x".repeat(length));
    let mut clients: Vec<_> = (0..WAITING).map(|_| Client::login(stage.address(), V5_4)).collect();
    // What waits for a second is copied; on a busy machine that may be before they are asked.
    let have_stayed = (0..20).any(|round| {
        clients.iter_mut().for_each(|client| ask_for(client, &filling));
        let mut holder = holder(&stage);
        let own = |number| format!("{round} {number}");
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&[run("RETURN $nonce AS n", &own(number)), pull(-1)].concat());
        }
        stage.proxy.until("all wait", |all| all.get("clients_waiting") == WAITING);
        (0..4).for_each(|_| ask_for(&mut holder, &long));
        let kept = stage.proxy.metrics().get("buffers_kept");
        end(holder);
        for (number, client) in clients.iter_mut().enumerate() {
            expect_own(client, &own(number));
        }
        kept == WAITING
    });
    assert!(have_stayed, "they were copied each time");
}

/// Those who wait for long give their buffers back; whoever gives up, before that or after it, and
/// whoever does not, gets what is due.
#[test]
fn a_long_wait_is_waited_outside_the_buffers() {
    let stage = Stage::start(&["pool.size=1"], Options::default());
    let holder = holder(&stage);
    let mut clients: Vec<_> = (0..6).map(|_| Client::login(stage.address(), V5_4)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&[run("RETURN $nonce AS n", &number.to_string()), pull(-1)].concat());
    }
    drop(clients.pop());
    let mut early = give_up(clients.pop());
    stage.proxy.until("all are copied", |all| {
        all.get("clients_waiting") == 4 && all.get("buffers_kept") == 0
    });
    assert_ne!(stage.proxy.metrics().get("heap_bytes"), 0);
    drop(clients.pop());
    let mut late = give_up(clients.pop());
    stage.proxy.until("two are left", |all| all.get("clients_waiting") == 2);
    end(holder);
    for (number, client) in clients.iter_mut().enumerate() {
        expect_own(client, &number.to_string());
    }
    early.expect_well();
    late.expect_well();
    stage.proxy.until("nothing is held", |all| all.get("heap_bytes") == 0);
}

/// RESET, while RUN and PULL wait.
fn give_up(client: Option<Client>) -> Client {
    let mut client = client.expect("there are six");
    client.send(&reset());
    client.expect(&[tag::IGNORED, tag::IGNORED, tag::SUCCESS]);
    client
}
