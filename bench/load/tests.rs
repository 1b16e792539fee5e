//! Whole runs against a small server of threads that can be told to misbehave.

use super::*;
use crate::synthetic::{Options, Server};
use crate::wire::chunk::{Scanner, chunked, payload};
use crate::wire::message::{IGNORED, SUCCESS_EMPTY, tag};
use crate::wire::packstream::Writer;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What goes wrong with every so-many-th request of the whole server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    Close,
    Failure,
    /// The record holds another request's nonce.
    Foreign,
    Silence,
}

const EVERY: u64 = 50;

/// Accepts until the test's process ends; returns its address.
fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let requests = requests.clone();
            thread::spawn(move || talk(stream.unwrap(), fault, &requests));
        }
    });
    address
}

/// Ends with the connection, or with what the fault says.
fn talk(mut stream: TcpStream, fault: Fault, requests: &AtomicU64) -> Option<()> {
    let mut hello = [0; 20];
    stream.read_exact(&mut hello).ok()?;
    stream.write_all(&[0, 0, 4, 5]).ok()?;
    let (mut scanner, mut held, mut buffer) = (Scanner::default(), Vec::new(), [0; 4096]);
    let (mut nonce, mut is_failed) = ([0; 32], false);
    loop {
        let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
        let mut input = &buffer[..length];
        let mut answer = Vec::new();
        while let Some(span) = scanner.next(input) {
            held.extend_from_slice(&input[..span.length]);
            input = &input[span.length..];
            if !scanner.is_between_messages() {
                continue;
            }
            let mut scratch = Vec::new();
            let message = payload(&held, &mut scratch).to_vec();
            held.clear();
            match message[1] {
                tag::GOODBYE => return None,
                tag::RESET => {
                    is_failed = false;
                    answer.extend_from_slice(SUCCESS_EMPTY);
                }
                _ if is_failed => answer.extend_from_slice(IGNORED),
                tag::RUN => {
                    let at = message.windows(2).position(|pair| pair == [0xD0, 32])?;
                    nonce.copy_from_slice(&message[at + 2..at + 34]);
                    let count = requests.fetch_add(1, Ordering::Relaxed) + 1;
                    match fault {
                        _ if !count.is_multiple_of(EVERY) => {}
                        Fault::Close => return None,
                        Fault::Foreign => nonce[31] ^= 1,
                        Fault::Silence => loop {
                            stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
                        },
                        Fault::Failure => {
                            is_failed = true;
                            answer.extend(failure());
                            continue;
                        }
                        Fault::Nothing => {}
                    }
                    answer.extend_from_slice(SUCCESS_EMPTY);
                }
                tag::PULL => {
                    answer.extend(chunked(&[&[0xB1, 0x71, 0x91, 0xD0, 32], &nonce[..]].concat()));
                    answer.extend_from_slice(SUCCESS_EMPTY);
                }
                _ => answer.extend_from_slice(SUCCESS_EMPTY),
            }
        }
        stream.write_all(&answer).ok()?;
    }
}

fn failure() -> Vec<u8> {
    let mut writer = Writer::new();
    writer.struct_header(1, tag::FAILURE).map_header(2);
    writer.string("code").string("Neo.TransientError.Test").string("message").string("no");
    writer.into_message()
}

fn plan(addresses: &[SocketAddr]) -> Plan {
    let target = |(place, address): (usize, &SocketAddr)| Target {
        name: format!("target-{place}"),
        address: *address,
        user: "neo4j".into(),
        password: "test-password".into(),
        version: None,
        tls: None,
        is_websocket: false,
    };
    Plan {
        targets: addresses.iter().enumerate().map(target).collect(),
        clients: 5,
        threads: 2,
        rounds: 2,
        slot: Duration::from_millis(150),
        request_timeout: Duration::from_millis(200),
        ..Plan::default()
    }
}

fn run_quietly(plan: &Plan) -> Report {
    run(plan, &mut |_| {}).unwrap()
}

#[test]
fn two_targets_are_measured_in_every_round_and_compared() {
    let mut plan = plan(&[serve(Fault::Nothing), serve(Fault::Nothing)]);
    plan.processes = vec![Process { target: "target-1".into(), pid: std::process::id() }];
    let mut seen = Vec::new();
    let report = run(&plan, &mut |progress| {
        assert!(progress.elapsed <= progress.total);
        seen.push((progress.round, progress.target.to_owned()));
    });
    let report = report.unwrap();
    assert!(report.is_clean() && !report.was_stopped, "{}", report.to_table());
    seen.dedup();
    let order: Vec<_> = seen.iter().rev().take(4).rev().map(|place| place.1.as_str()).collect();
    assert_eq!(order[1..], ["target-1", "target-1", "target-0"], "{seen:?}");
    for target in &report.targets {
        assert!(target.requests() > 100);
        assert_eq!(target.tally.records, target.requests());
        assert!(target.tally.latency.len() >= target.requests());
        assert!(target.rounds.iter().all(|round| round.is_some_and(|round| round.requests > 0)));
        assert_eq!(target.version.unwrap().to_string(), "5.4");
    }
    assert!(report.targets[0].ratios.is_none());
    let rate = report.targets[1].ratios.as_ref().unwrap().rate.unwrap();
    assert!(rate.low <= rate.median && rate.median <= rate.high && rate.low > 0.0);
    assert!(report.targets[1].cpu.is_some());
    let json = report.to_json();
    assert_eq!(json["targets"][1]["rounds"].as_array().unwrap().len(), 2);
    assert!(json["targets"][1]["ratio_to_first"]["p99"]["median"].is_number());
    assert_eq!(report.to_svg().matches("<polyline").count(), 2);
    let hgrm = report.to_hgrm();
    let total = format!("= {:>12}]", report.targets[1].tally.latency.len());
    assert!(hgrm.contains("# target target-1\n") && hgrm.contains(&total), "{hgrm}");
    let table = report.to_table();
    assert!(table.contains("target-1") && table.contains("CPU us/request"), "{table}");
}

#[test]
fn transactions_are_whole_requests() {
    for pipelined_begin in [false, true] {
        let mut plan = plan(&[serve(Fault::Nothing)]);
        plan.shape = Shape::Tx { pipelined_begin };
        let report = run_quietly(&plan);
        assert!(report.is_clean(), "{}", report.to_table());
        assert!(report.targets[0].requests() > 100);
    }
}

#[test]
fn an_open_loop_keeps_its_rate_and_shows_a_stall() {
    let server = Server::start(Options::default()).unwrap();
    let mut plan = plan(&[server.address()]);
    (plan.rate, plan.rounds, plan.slot) = (Some(400.0), 1, Duration::from_millis(500));
    plan.ramp = Duration::from_millis(200);
    let report = run_quietly(&plan);
    let target = &report.targets[0];
    assert!(report.is_clean(), "{}", report.to_table());
    // 200 are due on the clock, however many of them a busy machine lets be asked in time.
    assert!((1..=201).contains(&target.requests()), "{}", target.requests());
    assert_eq!(target.tally.latency.len() + target.tally.unasked, 200);
    // Two clients and 50 ms for each answer: no more than 40 per second of the 400 are asked.
    plan.ramp = Duration::ZERO;
    (plan.clients, plan.query) = (2, Some("SLEEP 50 RETURN $nonce".into()));
    let report = run_quietly(&plan);
    let target = &report.targets[0];
    assert!(target.requests() <= 22 && target.tally.unasked > 150, "{}", report.to_table());
    let slowest = target.tally.max_ms();
    assert!(slowest > 300.0, "the wait for a client is in the latency: {slowest}");
    assert!(report.to_table().contains("no client was free"));
    server.stop();
}

#[test]
fn a_count_of_requests_ends_the_run_and_clients_think() {
    let server = Server::start(Options::default()).unwrap();
    let mut plan = plan(&[server.address()]);
    (plan.requests, plan.slot, plan.rounds) = (Some(101), Duration::from_secs(60), 2);
    plan.think = Duration::from_millis(3);
    let report = run_quietly(&plan);
    assert!(report.is_clean() && !report.was_stopped, "{}", report.to_table());
    let target = &report.targets[0];
    assert_eq!((target.requests(), server.stats().queries), (101, 101));
    // Every client asks ten times a round and pauses in between.
    assert!(target.seconds >= 2.0 * 9.0 * 0.003, "{}", target.seconds);
    server.stop();
}

#[test]
fn a_count_in_the_open_loop_does_not_make_its_rate_higher() {
    let mut plan = plan(&[serve(Fault::Nothing)]);
    (plan.requests, plan.rate, plan.slot) = (Some(8), Some(80.0), Duration::from_secs(60));
    let report = run_quietly(&plan);
    assert!(report.is_clean() && !report.was_stopped, "{}", report.to_table());
    // Four starts a round, three distances between them: the fourth distance counts, too.
    let target = &report.targets[0];
    assert!(target.requests() == 8 && target.seconds >= 0.1, "{}", target.seconds);
}

#[test]
fn rows_come_in_pages_and_are_counted() {
    let server = Server::start(Options::default()).unwrap();
    let mut plan = plan(&[server.address()]);
    (plan.shape, plan.fetch_size) = (Shape::Rows { rows: 50 }, 20);
    plan.query = Some("ROWS 50 100".into());
    let report = run_quietly(&plan);
    assert!(report.is_clean(), "{}", report.to_table());
    assert_eq!(report.targets[0].tally.records, 50 * report.targets[0].requests());
    server.stop();
}

#[test]
fn a_mix_draws_all_its_queries_and_checks_the_nonce() {
    let server = Server::start(Options::default()).unwrap();
    let mut plan = plan(&[server.address()]);
    plan.shape = Shape::Mix;
    plan.mix = mix::parse(include_str!("mix.toml"), false).unwrap();
    let report = run_quietly(&plan);
    assert!(report.is_clean(), "{}", report.to_table());
    let entries = server.ledger();
    for query in &plan.mix {
        let times = entries.iter().filter(|entry| entry.query == query.text).count();
        let share = times as f64 / entries.len() as f64;
        // Hundreds of draws: half or double of its part is out of reach of chance.
        let wanted = f64::from(query.weight) / 10.0;
        assert!((wanted / 2.0..wanted * 2.0).contains(&share), "{}: {share}", query.text);
    }
    // The server answers this one without the nonce.
    plan.mix[0].text = "CREATE (n) RETURN n, $nonce".into();
    assert!(run_quietly(&plan).has_mismatches());
    server.stop();
}

#[test]
fn a_login_is_a_connection_of_its_own_that_is_left() {
    let server = Server::start(Options::default()).unwrap();
    let mut plan = plan(&[server.address()]);
    (plan.shape, plan.rounds) = (Shape::Login, 1);
    let report = run_quietly(&plan);
    assert!(report.is_clean(), "{}", report.to_table());
    let (requests, stats) = (report.targets[0].requests(), server.stats());
    assert!(requests > 10 && stats.connections_total > requests, "{stats:?}");
    assert_eq!(stats.connections_open, 0, "{stats:?}");
    server.stop();
}

#[test]
fn a_handshake_ends_before_the_login() {
    let server = Server::start(Options::default()).unwrap();
    let mut plan = plan(&[server.address()]);
    (plan.shape, plan.rounds) = (Shape::Handshake, 1);
    let report = run_quietly(&plan);
    assert!(report.is_clean(), "{}", report.to_table());
    let (requests, stats) = (report.targets[0].requests(), server.stats());
    assert!(requests > 10 && stats.connections_total > requests, "{stats:?}");
    assert_eq!((stats.connections_open, stats.queries), (0, 0), "{stats:?}");
    server.stop();
}

#[test]
fn what_goes_wrong_is_counted_by_kind_and_the_run_goes_on() {
    for (fault, kind) in [
        (Fault::Close, "lost: closed by the server"),
        (Fault::Failure, "Neo.TransientError.Test"),
        (Fault::Silence, "lost: no answer in time"),
    ] {
        let report = run_quietly(&plan(&[serve(fault)]));
        let target = &report.targets[0];
        assert!(!report.is_clean() && !report.has_mismatches(), "{fault:?}");
        assert!(target.requests() > EVERY, "{fault:?}: {}", report.to_table());
        assert_eq!(target.errors().keys().collect::<Vec<_>>(), [kind]);
        assert!(report.to_table().contains(kind));
    }
}

#[test]
fn an_answer_of_another_request_is_a_mismatch() {
    let report = run_quietly(&plan(&[serve(Fault::Foreign)]));
    assert!(report.has_mismatches() && !report.is_clean());
    assert!(report.targets[0].errors().is_empty(), "{}", report.to_table());
    assert!(report.targets[0].requests() > EVERY);
}

#[test]
fn a_warm_up_counts_only_what_goes_wrong() {
    let mut plan = plan(&[serve(Fault::Foreign)]);
    (plan.warm_up, plan.clients, plan.threads) = (Duration::from_millis(300), 1, 1);
    (plan.rounds, plan.slot) = (1, Duration::from_millis(1));
    let report = run_quietly(&plan);
    let target = &report.targets[0];
    assert!(target.mismatches() > target.requests() / EVERY, "{}", report.to_table());
    assert_eq!(target.tally.records, target.requests());
    assert!(target.seconds < 0.1);
}

#[test]
fn a_wish_to_stop_ends_the_run_with_what_was_measured() {
    let mut plan = plan(&[serve(Fault::Nothing)]);
    plan.slot = Duration::from_secs(60);
    plan.stop = Arc::new(AtomicBool::new(false));
    let stop = plan.stop.clone();
    let report = run(&plan, &mut |progress| {
        if progress.requests > 0 {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let report = report.unwrap();
    assert!(report.targets[0].seconds < 30.0);
    assert!(report.was_stopped && report.is_clean(), "{}", report.to_table());
}

#[test]
fn a_wish_to_stop_does_not_wait_for_slow_answers_nor_counts_them() {
    let server = Server::start(Options::default()).unwrap();
    let mut plan = plan(&[server.address()]);
    plan.query = Some("SLEEP 60000 RETURN $nonce".into());
    (plan.slot, plan.request_timeout) = (Duration::from_secs(60), Duration::from_secs(60));
    let (stop, watched) = (plan.stop.clone(), &server);
    let report = run(&plan, &mut |_| {
        if watched.stats().queries >= 5 {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let report = report.unwrap();
    let table = report.to_table();
    assert!(report.was_stopped && report.targets[0].errors().is_empty(), "{table}");
    assert!(report.targets[0].seconds < 30.0);
    // But they are told: a server that hangs is not to pass for one that answers.
    assert!(table.contains("target-0: 5 x no answer yet"), "{table}");
    assert_eq!(report.to_json()["targets"][0]["unanswered"], 5);
    server.stop();
}

#[test]
fn a_silent_server_is_counted_and_a_wish_to_stop_ends_the_wait_for_it() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut plan = plan(&[silent.local_addr().unwrap()]);
    plan.connect_timeout = Duration::from_millis(100);
    let report = run_quietly(&plan);
    let errors = report.targets[0].errors();
    assert_eq!(errors.keys().collect::<Vec<_>>(), ["login: lost: no answer in time"]);
    plan.connect_timeout = Duration::from_secs(3600);
    let stop = plan.stop.clone();
    let report = run(&plan, &mut |_| stop.store(true, Ordering::Relaxed)).unwrap();
    assert!(report.targets[0].errors().is_empty() && !report.is_clean());
    assert_eq!(report.targets[0].tally.unanswered, 1);
}

#[test]
fn what_was_lost_while_another_was_measured_is_told_when_the_run_is_ended() {
    let server = Server::start(Options::default()).unwrap();
    let plan = plan(&[server.address(), serve(Fault::Nothing)]);
    let (stop, mut is_up) = (plan.stop.clone(), true);
    let report = run(&plan, &mut |progress| {
        let is_seconds_turn = progress.target == "target-1" && !progress.is_connecting;
        if is_seconds_turn && std::mem::take(&mut is_up) {
            server.stop();
        }
        // The order of the targets turns around.
        if progress.round == 1 && progress.target == "target-0" {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let report = report.unwrap();
    let errors = report.targets[0].errors();
    assert_eq!(errors.get("lost: closed while idle"), Some(&5), "{}", report.to_table());
    assert!(report.was_stopped && !report.is_clean());
}

#[test]
fn a_target_that_nobody_can_log_in_to_is_counted_and_the_others_measured() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report = run_quietly(&plan(&[free, serve(Fault::Nothing)]));
    let [lame, fine] = &report.targets[..] else { panic!("two targets were given") };
    assert!(lame.is_lame && lame.rounds.iter().all(Option::is_none));
    assert_eq!(lame.errors().values().sum::<u64>(), 1);
    assert!(fine.requests() > 100 && !report.is_clean() && !report.was_stopped);
    let table = report.to_table();
    assert!(table.contains("was not measured") && table.contains("Connection refused"), "{table}");
    let many = Plan { clients: 60_000, ..plan(&vec![free; 400]) };
    let error = run(&many, &mut |_| {}).unwrap_err();
    assert!(error.contains("ulimit -n"), "{error}");
    let mut watched = plan(&[free]);
    watched.processes = vec![Process { target: "target-0".into(), pid: u32::MAX }];
    let error = run(&watched, &mut |_| {}).unwrap_err();
    assert!(error.contains("4294967295"), "{error}");
    let error = run(&Plan::default(), &mut |_| {}).unwrap_err();
    assert!(error.contains("no target"), "{error}");
}

#[test]
fn a_target_that_speaks_no_bolt_is_counted_by_what_it_does() {
    for (answer, part) in [
        (&b""[..], "closed by the server"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ""),
        (&[0, 0, 0, 0], ""),
        (&[0, 0, 9, 9], ""),
        (&[0, 0, 4, 5, 0, 3, 0xB1, 0x7F, 0xA0, 0, 0], ""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut hello) = (stream.unwrap(), [0; 20]);
                // What the client has sent behind that is of no interest.
                let _ = stream.read_exact(&mut hello).and_then(|()| stream.write_all(answer));
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let report = run_quietly(&plan(&[address, serve(Fault::Nothing)]));
        let [wrong, fine] = &report.targets[..] else { panic!("two targets were given") };
        let kinds: Vec<&String> = wrong.errors().keys().collect();
        assert!(wrong.is_lame && kinds.len() == 1, "{answer:?}: {kinds:?}");
        assert!(kinds[0].starts_with("login: ") && kinds[0].contains(part), "{kinds:?}");
        assert!(fine.requests() > 100 && !report.is_clean(), "{}", report.to_table());
    }
}
