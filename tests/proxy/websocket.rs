//! WebSocket on the Bolt port, over the whole proxy. Conversations are in the scripts, which are
//! all played over WebSocket, too; here is what frames make possible, and what they forbid.

use crate::client::{
    Client, PASSWORD, SILENCE, Said, V5_4, V5_8, Way, begin, commit, goodbye, hello, logon,
    proposals, pull, reset, run, run_with,
};
use crate::frames::{BINARY, CLOSE, PING, frame, request};
use crate::stage::{Stage, http};
use crate::value::{Value, map};
use boltmux::synthetic::Options;
use boltmux::transport::websocket::codec::MESSAGE_BYTES_MAX;
use boltmux::wire::handshake;
use boltmux::wire::message::tag;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

const MASK: [u8; 4] = [0xA5, 0x0F, 0x3C, 0x81];

fn connect(address: SocketAddr) -> Client {
    Client::connect_by(Way::WebSocket, address)
}

fn log_in(address: SocketAddr) -> Client {
    connect(address).agree(V5_4).log_in("neo4j", PASSWORD).expect("the login is right")
}

/// Bytes as they are on the wire, past the client's own frames.
fn send_raw(client: &Client, bytes: &[u8]) {
    (&client.stream).write_all(bytes).unwrap();
}

fn read_raw(client: &Client, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    (&client.stream).read_exact(&mut bytes).unwrap();
    bytes
}

/// The same bytes in frames of several kinds.
fn framings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let single = |byte: &u8| frame(BINARY, &[*byte], MASK);
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let fragments = [
        frame(0x02, first, MASK),
        frame(PING, b"in between", MASK),
        frame(0x00, b"", MASK),
        frame(0x80, rest, [0, 0, 0, 0]),
    ];
    vec![
        frame(BINARY, bytes, MASK),
        bytes.iter().flat_map(single).collect(),
        fragments.concat(),
        [frame(BINARY, first, MASK), frame(BINARY, rest, MASK)].concat(),
    ]
}

fn send_cut(client: &Client, bytes: &[u8], cut: usize) {
    let (front, back) = bytes.split_at(cut);
    send_raw(client, front);
    std::thread::sleep(Duration::from_micros(200));
    send_raw(client, back);
}

#[test]
fn handshake_login_and_query_pass_in_every_cut() {
    let stage = Stage::start(&[], Options::default());
    let query = [run("RETURN $nonce AS n", "cut"), pull(-1)].concat();
    let login = [hello(V5_4, "neo4j", PASSWORD), logon("neo4j", PASSWORD)].concat();
    for (proposed, login, query) in framings(&proposals(&[V5_4.to_bytes()]))
        .into_iter()
        .zip(framings(&login))
        .zip(framings(&query))
        .map(|((proposed, login), query)| (proposed, login, query))
    {
        for cut in (0..login.len().max(query.len())).step_by(3) {
            let mut client = connect(stage.address());
            send_cut(&client, &proposed, cut % proposed.len());
            assert_eq!(client.read(4).as_deref(), Ok(&V5_4.to_bytes()[..]));
            send_cut(&client, &login, cut % login.len());
            client.expect(&[tag::SUCCESS; 2]);
            send_cut(&client, &query, cut % query.len());
            let came = client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
            assert_eq!(came[1].fields, [Value::List(vec!["cut".into()])]);
        }
    }
}

#[test]
fn each_answer_of_the_handshake_is_one_frame() {
    for mode in ["pool.mode=transaction", "pool.mode=session"] {
        let stage = Stage::start(&[mode], Options::default());
        stage.proxy.until("the server is seen", |all| all.get("server_reachable") == 1);
        let mut client = connect(stage.address());
        client.send(&proposals(&[V5_4.to_bytes()]));
        assert_eq!(read_raw(&client, 6), [0x82, 4, 0, 0, 4, 5], "{mode}");
        // As the JavaScript driver proposes.
        let mut client = connect(stage.address());
        client.send(&proposals(&[[0, 0, 1, 0xFF], [0, 8, 8, 5], [0, 2, 4, 4], [0, 0, 0, 3]]));
        let header = read_raw(&client, 2);
        assert_eq!(header[0], BINARY);
        let manifest = read_raw(&client, usize::from(header[1]));
        let (length, entries) = handshake::parse_manifest(&manifest).unwrap().expect("all of it");
        assert!(length == manifest.len() && !entries.is_empty(), "{manifest:02x?}");
        client.version = V5_8;
        client.send(&handshake::manifest_choice(V5_8));
        client.send(&[hello(V5_8, "neo4j", PASSWORD), logon("neo4j", PASSWORD)].concat());
        client.expect(&[tag::SUCCESS; 2]);
        client.expect_well();
        client.send(&goodbye());
        client.expect_end();
        assert_eq!(client.frames.unwrap().close, Some(Some(1000)));
    }
}

#[test]
fn a_ping_is_answered_in_the_middle_of_a_message() {
    let stage = Stage::start(&[], Options::default());
    let mut client = log_in(stage.address());
    let query = [run("RETURN $nonce AS n", "half"), pull(-1)].concat();
    let (front, back) = query.split_at(11);
    send_raw(&client, &frame(0x02, front, MASK));
    send_raw(&client, &frame(PING, b"still there?", MASK));
    assert_eq!(read_raw(&client, 14), [&[0x8A, 12][..], b"still there?"].concat());
    send_raw(&client, &frame(0x80, back, MASK));
    client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    // Several at once may be answered by one; a Pong that nobody asked for means nothing.
    let pings = [frame(PING, b"1", MASK), frame(0x8A, b"2", MASK), frame(PING, b"3", MASK)];
    send_raw(&client, &pings.concat());
    client.expect_well();
    assert_eq!(client.frames.unwrap().pongs.last().map(Vec::as_slice), Some(&b"3"[..]));
}

#[test]
fn a_close_is_echoed_and_ends_the_connection() {
    let stage = Stage::start(&[], Options::default());
    for (payload, code) in
        [(&b""[..], None), (b"\x03\xE8", Some(1000)), (b"\x0F\xA0bye", Some(4000))]
    {
        let mut client = log_in(stage.address());
        client.send(&begin());
        client.expect(&[tag::SUCCESS]);
        // What follows a Close is not read.
        let end = [frame(CLOSE, payload, MASK), frame(BINARY, &commit(), MASK)];
        send_raw(&client, &end.concat());
        client.expect_end();
        assert_eq!(client.frames.unwrap().close, Some(code));
    }
    let mut client = log_in(stage.address());
    send_raw(&client, &[frame(BINARY, &goodbye(), MASK), frame(CLOSE, b"", MASK)].concat());
    client.expect_end();
    stage.proxy.until("three just went", |all| all.get("closed{client_gone}") == 3);
    stage.proxy.until("one took its leave", |all| all.get("closed{goodbye}") == 1);
}

#[test]
fn what_frames_may_not_be_is_told_by_a_code_and_counted() {
    let stage = Stage::start(&[], Options::default());
    let too_long = vec![0; MESSAGE_BYTES_MAX + 1];
    let half = [frame(0x02, &too_long[..40_000], MASK), frame(0x80, &too_long[..30_000], MASK)];
    let cases = [
        ("text", frame(0x81, b"hello", MASK), 1003),
        ("no mask", vec![BINARY, 1, 0], 1002),
        ("a reserved bit", frame(BINARY | 0x40, b"a", MASK), 1002),
        ("a reserved opcode", frame(0x83, b"a", MASK), 1002),
        ("nothing to go on with", frame(0x80, b"a", MASK), 1002),
        ("a half Ping", frame(0x09, b"a", MASK), 1002),
        ("a long frame", frame(BINARY, &too_long, MASK), 1009),
        ("a long message", half.concat(), 1009),
        ("a close that may not be", frame(CLOSE, b"\x03\xED", MASK), 1002),
    ];
    let mut bystander = log_in(stage.address());
    for (what, bytes, code) in &cases {
        let mut client = log_in(stage.address());
        // The proxy need not read all of it.
        let _ = (&client.stream).write_all(bytes);
        assert!(matches!(client.next(), Said::EndOfFile | Said::Reset), "{what}");
        let close = client.frames.unwrap().close;
        assert_eq!(close, Some(Some(*code)), "{what}");
        bystander.expect_well();
    }
    let count = cases.len() as u64;
    stage.proxy.until("all are counted", |all| all.get("closed{websocket_violation}") == count);
}

#[test]
fn an_upgrade_that_is_not_one_is_answered_by_a_status() {
    let stage = Stage::start(&[], Options::default());
    let usual = request() + "\r\n";
    for (request, status) in [
        (usual.replace("GET / ", "GET /db/data "), "404"),
        (usual.replace("HTTP/1.1", "HTTP/1.0"), "400"),
        (usual.replace("Version: 13", "Version: 8"), "426"),
        (usual.replace("Sec-WebSocket-Key", "X"), "400"),
        (usual.replace("\r\n\r\n", &format!("\r\nA: {}\r\n\r\n", "a".repeat(9 << 10))), "431"),
        (usual.replace("\r\n\r\n", &format!("\r\n{}\r\n", "A: b\r\n".repeat(64))), "431"),
    ] {
        let answer = http(stage.address(), &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        let is_told = answer.contains("\r\nSec-WebSocket-Version: 13\r\n");
        assert_eq!(is_told, status == "426", "{answer}");
    }
    stage.proxy.until("each was answered", |all| all.get("closed{http}") == 6);
}

#[test]
fn a_layer_within_a_layer_and_early_bytes_are_closed_and_counted() {
    let stage = Stage::start(&[], Options::default());
    for inner in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01", b"HEAD / "] {
        let mut client = connect(stage.address());
        client.send(inner);
        client.expect_end();
        assert_eq!(client.frames.unwrap().close, Some(Some(1002)));
    }
    stage.proxy.until("they are counted", |all| all.get("closed{nested_layer}") == 3);
    let mut client = connect(stage.address());
    client.send(b"nonsense");
    client.expect_end();
    stage.proxy.until("it is counted", |all| all.get("closed{unknown_protocol}") == 1);
    // Nothing may follow the request before its answer has come.
    let early = [(request() + "\r\n").as_bytes(), &frame(BINARY, b"early", MASK)].concat();
    let mut stream = std::net::TcpStream::connect(stage.address()).unwrap();
    stream.write_all(&early).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"");
    stage.proxy.until("it is counted", |all| all.get("closed{early_bytes}") == 1);
    // TLS where there is none.
    let mut stream = std::net::TcpStream::connect(stage.address()).unwrap();
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03").unwrap();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"");
    stage.proxy.until("it is counted", |all| all.get("closed{tls_not_offered}") == 1);
}

/// The deadline is one for all first bytes: a byte now and then renews nothing.
#[test]
fn first_bytes_have_one_deadline_however_they_come() {
    let stage = Stage::start(&["timeouts.first_bytes=1s"], Options::default());
    let started = std::time::Instant::now();
    let mut stream = std::net::TcpStream::connect(stage.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let (mut bytes, mut end) = (request().into_bytes().into_iter().cycle(), [0]);
    while started.elapsed() < Duration::from_secs(20) {
        let byte = bytes.next().unwrap();
        let is_over = stream.write_all(&[byte]).is_err() || matches!(stream.read(&mut end), Ok(0));
        if is_over {
            break;
        }
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(20), "{took:?}");
    stage.proxy.until("it is counted", |all| all.get("closed{login_timeout}") == 1);
}

#[test]
fn long_values_pass_both_ways_byte_for_byte() {
    for mode in ["pool.mode=transaction", "pool.mode=session"] {
        let stage = Stage::start(&[mode], Options::default());
        let mut client = log_in(stage.address());
        let long: String = (0u32..8 << 20).map(|at| char::from(b'!' + (at % 91) as u8)).collect();
        let mut writer = client.stream.try_clone().unwrap();
        let request = run_with("RETURN $nonce AS n", map(&[("nonce", &long)]), map(&[]));
        let bytes = [request, pull(-1)].concat();
        let writing = std::thread::spawn(move || {
            // Frames of all sizes up to the longest.
            let sizes = [1, 125, 126, 1400, 65_535, MESSAGE_BYTES_MAX];
            let (mut rest, mut sizes) = (&bytes[..], sizes.into_iter().cycle());
            while !rest.is_empty() {
                let size = sizes.next().unwrap().min(rest.len());
                let (piece, more) = rest.split_at(size);
                let mask = (size as u32).wrapping_mul(0x9E37_79B9).to_be_bytes();
                writer.write_all(&frame(BINARY, piece, mask)).unwrap();
                rest = more;
            }
        });
        let came = client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
        assert!(came[1].fields == [Value::List(vec![long.as_str().into()])], "{mode}");
        writing.join().unwrap();
    }
}

/// Of long frames only the shorter side of a border within a piece is moved, and of a request what
/// comes before it is decided on.
#[test]
fn long_payloads_leave_from_where_they_were_received() {
    let stage = Stage::start(&[], Options::default());
    let mut client = log_in(stage.address());
    let long = "x".repeat(16 << 20);
    let request = run_with("RETURN $nonce AS n", map(&[("nonce", "n"), ("x", &long)]), map(&[]));
    let bytes = [request, pull(-1)].concat();
    let before = stage.proxy.metrics();
    for piece in bytes.chunks(MESSAGE_BYTES_MAX) {
        send_raw(&client, &frame(BINARY, piece, MASK));
    }
    client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    let after = stage.proxy.metrics();
    let grown = |name: &str| after.get(name) - before.get(name);
    let (copied, relayed) = (grown("copied_bytes"), grown("relayed_bytes"));
    assert!(relayed >= 8 << 20 && copied <= 2 << 20, "{copied} copied, {relayed} relayed");
    println!("{copied} bytes copied, {relayed} relayed, of {}", bytes.len());
}

#[test]
fn a_client_that_reads_late_holds_little_and_gets_everything() {
    let stage = Stage::start(&["limits.heap_bytes=8MiB"], Options::default());
    let mut client = log_in(stage.address());
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(65_536).unwrap();
    const ROWS: usize = 4000;
    client.send(&[run(&format!("ROWS {ROWS} 10000"), "slow"), pull(-1)].concat());
    let mut writer = client.stream.try_clone().unwrap();
    let pinging = std::thread::spawn(move || {
        // A flood of Pings from somebody who does not read: they are not kept.
        let many = frame(PING, &[7; 125], MASK).repeat(100);
        (0..200).try_for_each(|_| writer.write_all(&many))
    });
    std::thread::sleep(Duration::from_secs(1));
    let held = stage.proxy.metrics().get("heap_bytes");
    assert!(held <= 8 << 20, "{held} bytes are held");
    client.expect(&[tag::SUCCESS]);
    for row in 0..ROWS {
        let message = client.message();
        assert_eq!(message.tag, tag::RECORD, "row {row}");
        let Value::List(values) = &message.fields[0] else { panic!("row {row}: {message:?}") };
        assert_eq!(values[0], "slow".into());
    }
    client.expect(&[tag::SUCCESS]);
    pinging.join().unwrap().unwrap();
    let pongs = &client.frames.as_ref().unwrap().pongs;
    assert!(!pongs.is_empty() && pongs.iter().all(|pong| pong == &[7; 125]));
    client.expect_well();
}

#[test]
fn resets_and_half_closes_leave_nothing_behind() {
    let stage = Stage::start(&[], Options::default());
    let mut client = log_in(stage.address());
    client.send(&[begin(), run("RETURN 1", "x")].concat());
    client.expect(&[tag::SUCCESS; 2]);
    client.reset_connection();
    let mut client = log_in(stage.address());
    client.send(&reset());
    client.expect(&[tag::SUCCESS]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.expect_end();
    // In the middle of a frame's header.
    let client = log_in(stage.address());
    send_raw(&client, &frame(BINARY, &[0; 300], MASK)[..5]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    stage.proxy.until("all are gone", |all| all.get("closed{client_gone}") == 3);
    stage.proxy.until("nothing is held", |all| {
        all.get("server_connections{leased}") == 0 && all.get("heap_bytes") == 0
    });
    std::thread::sleep(SILENCE);
    log_in(stage.address()).expect_well();
}

#[test]
fn a_silent_client_is_sent_pings() {
    let stage = Stage::start(&["timeouts.websocket_ping=50ms"], Options::default());
    let mut client = log_in(stage.address());
    let started = std::time::Instant::now();
    for _ in 0..5 {
        assert_eq!(read_raw(&client, 2), [0x89, 0]);
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(20), "{took:?}");
    // Its answers are no requests.
    send_raw(&client, &frame(0x8A, b"", MASK));
    client.expect_well();
    let quiet = Stage::start(&["timeouts.websocket_ping=off"], Options::default());
    let mut client = log_in(quiet.address());
    std::thread::sleep(SILENCE * 4);
    client.expect_well();
    assert_eq!(client.frames.unwrap().pings, 0);
}

/// Ten minutes without a word, with the usual interval, as a tab in the background does it.
/// `cargo test --test proxy ten_silent_minutes -- --ignored` runs it.
#[test]
#[ignore = "takes ten minutes"]
fn ten_silent_minutes_are_survived() {
    let stage = Stage::start(&[], Options::default());
    let mut client = log_in(stage.address());
    let started = std::time::Instant::now();
    let mut pings = 0;
    client.stream.set_read_timeout(Some(Duration::from_secs(35))).unwrap();
    while started.elapsed() < Duration::from_secs(600) {
        assert_eq!(read_raw(&client, 2), [0x89, 0], "a Ping at the latest every 35 seconds");
        send_raw(&client, &frame(0x8A, b"", MASK));
        pings += 1;
    }
    assert!((19..=21).contains(&pings), "{pings}");
    client.expect_well();
    println!("{pings} Pings in {:?}", started.elapsed());
}
