//! The program itself, in a process of its own: how it starts, drains and ends.

use crate::client::{Client, V5_4, begin, commit, pull, run};
use crate::stage::{Metrics, until, until_metrics};
use boltmux::synthetic::{Options, Outcome, Server};
use boltmux::transport::listener;
use boltmux::wire::message::tag;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// Only a test that fails waits so long.
const WITHIN: Duration = Duration::from_secs(60);

/// A `boltmux` process; killed when dropped.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

/// `boltmux` with these settings, its standard error piped.
fn command(pairs: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_boltmux"));
    pairs.iter().for_each(|pair| {
        command.args(["--set", pair]);
    });
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A port that was free just now.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn usual(uplink: SocketAddr, admin: SocketAddr, pairs: &[&str]) -> Vec<String> {
    let mut all = vec![
        "listen.bind=127.0.0.1:0".to_owned(),
        format!("admin.bind={admin}"),
        format!("uplink.uri=bolt://{uplink}"),
    ];
    all.extend(pairs.iter().map(|pair| (*pair).to_owned()));
    all
}

impl Program {
    pub fn start(uplink: SocketAddr, pairs: &[&str]) -> Program {
        Program::start_with(uplink, pairs, &[])
    }

    /// With variables of the environment, which is empty otherwise.
    pub fn start_with(uplink: SocketAddr, pairs: &[&str], variables: &[(&str, &str)]) -> Program {
        let admin = free_port();
        let mut command = command(&usual(uplink, admin, pairs));
        command.envs(variables.iter().copied());
        let mut child = command.spawn().expect("the program starts");
        let lines = lines_of(&mut child);
        let mut said = Vec::new();
        let address = loop {
            let line = lines.recv_timeout(WITHIN).unwrap_or_else(|_| panic!("it said {said:?}"));
            let listening = line.strip_prefix("boltmux: accepting clients on ");
            if let Some(address) = listening.and_then(|rest| rest.split(' ').next()) {
                break address.parse().expect("an address");
            }
            said.push(line);
        };
        Program { child, lines, address, admin }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::of(self.admin)
    }

    pub fn until(&self, what: &str, is_so: impl Fn(&Metrics) -> bool) -> Metrics {
        until_metrics(self.admin, what, is_so)
    }

    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
        kib * 1024
    }

    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    pub fn signal(&self, name: &str) {
        // The shell's own: a machine without procps has no program of that name.
        let (script, pid) = ("kill -s $0 $1", self.pid().to_string());
        let status = Command::new("sh").args(["-c", script, name, &pid]).status();
        assert!(status.expect("sh runs").success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    pub fn expect_line(&self, part: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(WITHIN).unwrap_or_else(|_| panic!("no {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Lines that nobody has looked at.
    pub fn rest(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > WITHIN {
            let _ = child.kill();
            panic!("the program did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Exit status and lines of a start that fails.
fn failed_start(mut command: Command) -> (Option<i32>, Vec<String>) {
    let mut child = command.spawn().unwrap();
    let lines = lines_of(&mut child);
    let status = wait(&mut child);
    (status.code(), lines.iter().collect())
}

/// Exit status and lines of a start with settings that cannot be.
pub fn fail(pairs: &[String]) -> (Option<i32>, Vec<String>) {
    failed_start(command(pairs))
}

fn server() -> Server {
    Server::start(Options::default()).unwrap()
}

#[test]
fn a_bad_configuration_is_2_and_names_every_mistake() {
    let pairs = ["pool.size=none".to_owned(), "pool.colour=red".into()];
    let (status, lines) = failed_start(command(&pairs));
    assert_eq!(status, Some(2), "{lines:?}");
    let text = lines.join("\n");
    assert!(text.contains("pool.size") && text.contains("pool.colour"), "{text}");
}

#[test]
fn a_taken_port_is_1_and_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let pairs = [format!("listen.bind={address}"), "uplink.uri=bolt://127.0.0.1:1".into()];
    let (status, lines) = failed_start(command(&pairs));
    assert_eq!((status, lines.len()), (Some(1), 1), "{lines:?}");
    assert!(lines[0].contains(&address.to_string()), "{lines:?}");
}

#[test]
fn a_taken_admin_port_is_1_and_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = taken.local_addr().unwrap();
    let (status, lines) = failed_start(command(&usual(free_port(), admin, &[])));
    assert_eq!((status, lines.len()), (Some(1), 1), "{lines:?}");
    assert!(lines[0].contains(&admin.to_string()), "{lines:?}");
}

#[test]
fn ports_are_free_soon_for_the_next_start() {
    let server = server();
    for _ in 0..3 {
        let mut program = Program::start(server.address(), &["shards=1"]);
        let address = program.address;
        // Both end their connections before the other side does.
        let admin = format!("admin.bind={}", program.admin);
        program.metrics();
        let said = crate::stage::http(address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        program.signal("TERM");
        assert_eq!(program.wait().code(), Some(0));
        expect_free(&[address, program.admin]);
        let listen = format!("listen.bind={address}");
        let mut again = Program::start(server.address(), &[&listen, &admin, "shards=1"]);
        assert_eq!(again.address, address);
        again.signal("TERM");
        assert_eq!(again.wait().code(), Some(0));
        expect_free(&[address, program.admin]);
    }
}

/// The kernel ends a process's rings, and what they accept on, a moment after the process. A port
/// that is kept for the sake of late packets would be kept for a minute.
fn expect_free(addresses: &[SocketAddr]) {
    let started = Instant::now();
    while addresses.iter().any(|address| listener::bind(*address, 1).is_err()) {
        assert!(started.elapsed() < WITHIN / 4, "{addresses:?} are not free");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The program's start under a limit of the shell's.
fn refused_under(limit: &str, pairs: &[&str]) -> String {
    let pairs = usual(free_port(), free_port(), pairs);
    let mut words = vec![format!("{limit} && exec \"$0\" \"$@\"")];
    words.push(env!("CARGO_BIN_EXE_boltmux").into());
    words.extend(pairs.iter().flat_map(|pair| ["--set".to_owned(), pair.clone()]));
    let mut shell = Command::new("sh");
    shell.arg("-c").args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let (status, mut lines) = failed_start(shell);
    assert_eq!((status, lines.len()), (Some(78), 1), "{lines:?}");
    lines.remove(0)
}

#[test]
fn too_few_descriptors_are_78_and_one_line() {
    let line = refused_under("ulimit -n 150", &["pool.size=100", "shards=1"]);
    assert!(line.contains("open-files limit"), "{line}");
}

#[test]
fn too_little_locked_memory_is_78_and_one_line() {
    let line = refused_under("ulimit -l 64", &["shards=2"]);
    assert!(line.contains("locked memory") && line.contains("ulimit -l 8192"), "{line}");
}

#[test]
fn a_soft_limit_of_locked_memory_is_raised() {
    let hard = Command::new("sh").args(["-c", "ulimit -Hl"]).output().unwrap();
    let hard = String::from_utf8(hard.stdout).unwrap();
    // In KiB, or "unlimited".
    if hard.trim().parse::<u64>().is_ok_and(|kib| kib < 8192) {
        eprintln!("skipped: the hard limit of locked memory is {} KiB", hard.trim());
        return;
    }
    let pairs = usual(free_port(), free_port(), &["shards=1"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -Sl 64 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_boltmux")]);
    shell.args(pairs.iter().flat_map(|pair| ["--set", pair]));
    let mut child = shell.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = lines_of(&mut child);
    let address = free_port();
    let mut program = Program { child, lines, address, admin: address };
    program.expect_line("accepting clients on ");
    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn sigterm_lets_an_open_transaction_finish_and_closes_who_is_idle() {
    let server = server();
    let mut program = Program::start(server.address(), &["shards=2"]);
    let mut idle = Client::login(program.address, V5_4);
    let mut busy = Client::login(program.address, V5_4);
    busy.send(&[begin(), run("WRITE $nonce", "kept"), pull(-1)].concat());
    busy.expect(&[tag::SUCCESS; 3]);
    program.signal("TERM");
    program.expect_line("draining");
    idle.expect_end();
    busy.send(&commit());
    busy.expect(&[tag::SUCCESS]);
    busy.expect_end();
    assert_eq!(program.wait().code(), Some(0));
    let ledger = server.ledger();
    let kept = ledger.iter().find(|entry| entry.nonce.as_deref() == Some("kept"));
    assert_eq!(kept.map(|entry| entry.outcome), Some(Outcome::Committed));
    until("the server is left alone", || server.stats().connections_open == 0);
}

#[test]
fn a_clients_beginning_and_end_are_logged_if_wanted() {
    let server = server();
    for (mode, version) in [("transaction", ": Bolt 5.4"), ("session", "")] {
        let mode = format!("pool.mode={mode}");
        let program = Program::start(server.address(), &["shards=1", "log.level=debug", &mode]);
        let client = Client::login(program.address, V5_4);
        let address = client.stream.local_addr().unwrap();
        let came = program.expect_line("a client has come from ");
        assert!(came.ends_with(&format!("from {address}{version}")), "{came}");
        drop(client);
        program.expect_line(&format!("the client at {address} has gone: "));
    }
}

#[test]
fn it_drains_when_nobody_reads_its_log_any_more() {
    let server = server();
    let mut command = command(&usual(server.address(), free_port(), &["shards=1"]));
    let (reader, writer) = std::io::pipe().unwrap();
    let child = command.args(["--set", "log.level=debug"]).stderr(writer).spawn().unwrap();
    drop(command); // and its end of the pipe
    let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
    let prefix = "boltmux: accepting clients on ";
    let address = lines.find_map(|line| Some(line.strip_prefix(prefix)?.to_owned())).unwrap();
    let address = address.split(' ').next().unwrap().parse().unwrap();
    drop(lines);
    let (_, lines) = mpsc::channel();
    let mut program = Program { child, lines, address, admin: address };
    Client::login(address, V5_4).expect_well(); // logged as it ends
    Client::login(address, V5_4).expect_well();
    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let server = server();
    let mut program = Program::start(server.address(), &["shards=1", "timeouts.drain=10min"]);
    let mut busy = Client::login(program.address, V5_4);
    busy.send(&begin());
    busy.expect(&[tag::SUCCESS]);
    program.signal("INT");
    program.expect_line("draining");
    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(1));
}

#[test]
fn a_drain_that_takes_too_long_ends_what_is_left() {
    let server = server();
    let mut program = Program::start(server.address(), &["shards=1", "timeouts.drain=100ms"]);
    let mut busy = Client::login(program.address, V5_4);
    busy.send(&[begin(), run("WRITE $nonce", "cut"), pull(-1)].concat());
    busy.expect(&[tag::SUCCESS; 3]);
    program.signal("TERM");
    busy.expect_end();
    assert_eq!(program.wait().code(), Some(0));
    until("the transaction is undone", || {
        let ledger = server.ledger();
        ledger.iter().all(|entry| entry.outcome == Outcome::RolledBack) && !ledger.is_empty()
    });
}

#[test]
fn it_starts_without_a_server_and_serves_when_there_is_one() {
    let address = free_port();
    let program = Program::start(address, &["shards=1", "timeouts.connect=1s"]);
    let transient = "Neo.TransientError.Request.ResourceExhaustion";
    let mut early = Client::negotiate(program.address, V5_4);
    early.send(&crate::client::hello(V5_4, "neo4j", crate::client::PASSWORD));
    early.expect_failure(transient);
    early.expect_end();
    assert_eq!(program.metrics().get("server_reachable"), 0);
    let server = Server::start(Options { listen: address, ..Options::default() }).unwrap();
    program.until("the server is seen", |metrics| metrics.get("server_reachable") == 1);
    Client::login(program.address, V5_4).expect_well();
    // Away and back again: connections that lie idle are lost without a word.
    server.stop();
    program.until("idle ones are gone", |metrics| metrics.get("server_connections{idle}") == 0);
    server.restart().unwrap();
    program.until("the server is seen", |metrics| metrics.get("server_reachable") == 1);
    Client::login(program.address, V5_4).expect_well();
}
