//! `boltmux demo`: servers, the proxy and the load generator in one process, so that a first look
//! needs neither Neo4j nor a configuration.
//!
//! ```text
//! load ── direct ──────────────────────────────▶ synthetic server A
//!   └──── boltmux ──▶ proxy ── pool of servers ─▶ synthetic server B
//! ```
//!
//! Two servers with equal options, because each counts its own connections: what reaches B came
//! from the proxy alone. Both ways are measured in turn, in the rounds of one run; the servers
//! share their CPUs, since only one of them is asked at a time.
//!
//! Owns the choice of CPUs, the text and the JSON of the result. Measures nothing itself. The
//! numbers hold for this machine with everything on it, and for a server that computes nothing.

use crate::backend::permits::SHARDS_MAX;
use crate::config::output::{print, tell};
use crate::config::{Bind, BindHost, Demo, Listen, Secret, Settings, exit};
use crate::load::{self, Plan, Progress, Report, Target};
use crate::proxy::Proxy;
use crate::synthetic::{self, Server};
use crate::transport::{raise_open_files_limit, runtime};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// Enough clients to show what sharing is, and few enough for any laptop.
const CLIENTS: u32 = 500;
/// 25 clients share a connection then.
const POOL: u32 = 20;
const SECONDS: u32 = 10;
/// An even number lets each target come first equally often; fewer than four say nothing about
/// their spread.
const ROUNDS_MIN: u32 = 4;
/// A round of two slots of two seconds, in longer runs.
const ROUND_SECONDS: u32 = 4;
/// Fills the pool and wakes every CPU before the clock starts.
const WARM_UP: Duration = Duration::from_millis(300);
/// What an executor and its ring have open: measured 60 in all with 6 executors, and more to spare.
const EXECUTOR_FILES: usize = 16;
/// Beside the executors' threads: the control core, both acceptors, standard streams, the signals.
const FILES_RESERVED: usize = 64;
/// Nobody's transaction is worth a long wait for the demo's end.
const DRAIN: Duration = Duration::from_secs(2);

/// The synthetic servers' only account.
const USER: &str = "neo4j";
const PASSWORD: &str = "test-password";

/// Runs the demo and returns the exit status: 1 if one answer was wrong, missing or an error.
pub fn run(demo: &Demo) -> u8 {
    match show(demo) {
        Ok(true) => exit::DONE,
        Ok(false) => exit::FAILED,
        Err(error) => {
            tell(&format!("boltmux: {}", error.text));
            error.status
        }
    }
}

/// Why the demo could not be shown.
struct Trouble {
    status: u8,
    text: String,
}

fn failed(text: String) -> Trouble {
    Trouble { status: exit::FAILED, text }
}

/// True if every answer was right.
fn show(demo: &Demo) -> Result<bool, Trouble> {
    let stop = Stop::listen()?;
    let size = Size::of(demo, &runtime::allowed_cpus())?;
    size.check_files()?;
    let stage = Stage::build(&size)?;
    let plan = size.plan(&stage, &stop);
    let mistakes = plan.mistakes();
    if !mistakes.is_empty() {
        return Err(Trouble { status: exit::USAGE, text: mistakes.join("\n") });
    }
    tell(&size.announce());
    let bar = stderr().is_terminal().then(new_bar);
    let report = load::run(&plan, &mut |progress| {
        if let Some(bar) = &bar {
            move_bar(bar, &progress);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let outcome = Outcome::of(report.map_err(failed)?, &stage, &size);
    let print = |text: String| print(&text).map_err(|error| failed(error.to_string()));
    print(outcome.to_text())?;
    if let Some(path) = &demo.json {
        let text = format!("{:#}\n", outcome.to_json());
        std::fs::write(path, text)
            .map_err(|error| failed(format!("cannot write {}: {error}", path.display())))?;
    }
    if !demo.once && !stop.is_set() {
        print(invitation(stage.proxy_address))?;
        stop.wait();
    }
    stage.proxy.drain();
    Ok(outcome.is_fine())
}

/// SIGINT and SIGTERM: the first ends the measurement or the serving, the second the process.
struct Stop {
    is_set: Arc<AtomicBool>,
    signal: Receiver<()>,
}

impl Stop {
    fn listen() -> Result<Stop, Trouble> {
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
            .map_err(|error| failed(format!("cannot listen for signals: {error}")))?;
        let is_set = Arc::new(AtomicBool::new(false));
        let (sender, signal) = mpsc::channel();
        let flag = is_set.clone();
        std::thread::spawn(move || {
            for _ in signals.forever() {
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(i32::from(exit::FAILED));
                }
                // Nobody waits while it measures: the flag tells then.
                let _ = sender.send(());
            }
        });
        Ok(Stop { is_set, signal })
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    fn wait(&self) {
        let _ = self.signal.recv();
    }
}

/// How large everything is, and which CPUs are whose.
#[derive(Debug, PartialEq)]
struct Size {
    seconds: u32,
    clients: u32,
    pool: u32,
    shards: u32,
    /// Of the servers and of the load generator, one thread each; empty: wherever there is room.
    server_cpus: Vec<usize>,
    load_cpus: Vec<usize>,
}

impl Size {
    /// The proxy takes the first CPUs, as it always does; half of what it leaves is the servers',
    /// the rest the load generator's. A shard that owns no connection only borrows, so unless it
    /// is asked for there are no more shards than connections.
    fn of(demo: &Demo, cpus: &[usize]) -> Result<Size, Trouble> {
        let pool = demo.pool.unwrap_or(POOL);
        let half = (cpus.len() / 2).clamp(1, SHARDS_MAX) as u32;
        let shards = demo.shards.unwrap_or(half.min(pool));
        if shards as usize > SHARDS_MAX {
            let text = format!("{shards} shards; expected 1 to {SHARDS_MAX}");
            return Err(Trouble { status: exit::USAGE, text });
        }
        let rest = cpus.get(shards as usize..).unwrap_or_default();
        let (server, load) = match rest {
            [] => (&[][..], &[][..]),
            [_] => (rest, rest),
            _ => rest.split_at(rest.len() / 2),
        };
        Ok(Size {
            seconds: demo.seconds.unwrap_or(SECONDS),
            clients: demo.clients.unwrap_or(CLIENTS),
            pool,
            shards,
            server_cpus: server.to_vec(),
            load_cpus: load.to_vec(),
        })
    }

    /// Both ends of every connection are in this process.
    fn check_files(&self) -> Result<(), Trouble> {
        let refused = |text| Trouble { status: exit::REFUSED, text };
        let limit = raise_open_files_limit()
            .map_err(|error| refused(format!("cannot read the open-files limit: {error}")))?;
        let executors = self.shards as usize + 2 * self.server_threads() + self.load_threads();
        let beside = EXECUTOR_FILES * executors + FILES_RESERVED;
        let needed = 4 * u64::from(self.clients) + 2 * u64::from(self.pool) + beside as u64;
        if needed > limit {
            return Err(refused(format!(
                "the demo needs about {needed} open files, the hard limit is {limit}; \
                 raise it (ulimit -Hn) or take fewer --clients"
            )));
        }
        Ok(())
    }

    fn server_threads(&self) -> usize {
        self.server_cpus.len().max(1)
    }

    fn load_threads(&self) -> usize {
        self.load_cpus.len().clamp(1, self.clients as usize)
    }

    fn plan(&self, stage: &Stage, stop: &Stop) -> Plan {
        let rounds = (self.seconds / ROUND_SECONDS).max(ROUNDS_MIN).next_multiple_of(2);
        let target = |name: &str, address| Target {
            name: name.into(),
            address,
            user: USER.into(),
            password: PASSWORD.into(),
            version: None,
            tls: None,
            is_websocket: false,
        };
        Plan {
            targets: vec![
                target("direct", stage.direct.address()),
                target("boltmux", stage.proxy_address),
            ],
            clients: self.clients as usize,
            threads: self.load_threads(),
            cpus: self.load_cpus.clone(),
            rounds: rounds as usize,
            slot: Duration::from_secs(self.seconds.into()) / (2 * rounds),
            warm_up: WARM_UP,
            stop: stop.is_set.clone(),
            ..Plan::default()
        }
    }

    fn announce(&self) -> String {
        format!(
            "boltmux demo: {} clients ask for {} s in all, by turns directly and through boltmux \
             with a pool of {};\n{} shard(s), {} server thread(s), {} load thread(s)",
            self.clients,
            self.seconds,
            self.pool,
            self.shards,
            self.server_threads(),
            self.load_threads(),
        )
    }
}

/// Everything that runs beside the load generator.
struct Stage {
    direct: Server,
    pooled: Server,
    proxy: Proxy,
    proxy_address: SocketAddr,
}

impl Stage {
    fn build(size: &Size) -> Result<Stage, Trouble> {
        let options = synthetic::Options {
            threads: size.server_threads(),
            cpus: Some(size.server_cpus.clone()),
            users: vec![(USER.into(), PASSWORD.into())],
            // Nobody reads it, and it would grow with every answer.
            ledger_entries_max: 0,
            ..synthetic::Options::default()
        };
        let start = || {
            Server::start(options.clone()).map_err(|text| Trouble { status: exit::REFUSED, text })
        };
        let (direct, pooled) = (start()?, start()?);
        let proxy = Proxy::start(settings(size, pooled.address()))
            .map_err(|error| Trouble { status: error.status, text: error.text })?;
        let proxy_address = proxy.addresses().first().copied();
        let proxy_address =
            proxy_address.ok_or_else(|| failed("the proxy listens nowhere".into()))?;
        Ok(Stage { direct, pooled, proxy, proxy_address })
    }
}

/// Transaction mode and defaults, on a free port.
fn settings(size: &Size, server: SocketAddr) -> Settings {
    let mut settings = Settings { shards: Some(size.shards as usize), ..Settings::default() };
    let host = BindHost::Address(IpAddr::from(Ipv4Addr::LOCALHOST));
    settings.listen = vec![Listen { bind: Bind { host, port: 0 }, ..Listen::default() }];
    settings.uplink.host = server.ip().to_string();
    settings.uplink.port = server.port();
    settings.uplink.user = USER.into();
    settings.uplink.password = Some(Secret::new(PASSWORD.into()));
    settings.pool.size = size.pool;
    settings.timeouts.drain = DRAIN;
    settings
}

/// What came out.
struct Outcome {
    report: Report,
    seconds: u32,
    pool: u32,
    shards: u32,
    /// The most that were open at a time, as each server counted.
    connections_direct: u64,
    connections_boltmux: u64,
}

impl Outcome {
    fn of(mut report: Report, stage: &Stage, size: &Size) -> Outcome {
        // It counts the whole process, and here that is not the generator alone.
        report.generator_busy = None;
        Outcome {
            report,
            seconds: size.seconds,
            pool: size.pool,
            shards: size.shards,
            connections_direct: stage.direct.stats().connections_max,
            connections_boltmux: stage.pooled.stats().connections_max,
        }
    }

    fn errors(&self) -> u64 {
        self.report.targets.iter().map(|target| target.tally.errors_total()).sum()
    }

    fn mismatches(&self) -> u64 {
        self.report.targets.iter().map(|target| target.mismatches()).sum()
    }

    /// A run that was ended early may not have asked everybody yet.
    fn is_fine(&self) -> bool {
        let is_whole = self.report.was_stopped || self.report.is_clean();
        let is_within = self.connections_boltmux <= u64::from(self.pool);
        self.errors() == 0 && self.mismatches() == 0 && is_whole && is_within
    }

    fn to_text(&self) -> String {
        let mut text = self.report.to_table();
        let (direct, boltmux) = (self.connections_direct, self.connections_boltmux);
        let _ = writeln!(
            text,
            "\nserver connections, the most at a time: {direct} direct, {boltmux} through boltmux \
             (pool {});\neach counted by a synthetic server of its own, with equal options",
            self.pool
        );
        let _ = writeln!(
            text,
            "{} errors, {} mismatches (answers that belong to another request)",
            self.errors(),
            self.mismatches()
        );
        if boltmux > u64::from(self.pool) {
            let _ = writeln!(text, "boltmux opened more than its pool: a defect, report it");
        }
        if cfg!(debug_assertions) {
            text.push_str("a debug build: for numbers run `cargo run --release -- demo`\n");
        }
        text
    }

    fn to_json(&self) -> Value {
        json!({
            "seconds": self.seconds,
            "clients": self.report.clients,
            "pool": self.pool,
            "shards": self.shards,
            "is_debug_build": cfg!(debug_assertions),
            "is_fine": self.is_fine(),
            "errors": self.errors(),
            "mismatches": self.mismatches(),
            "server_connections_max": {
                "direct": self.connections_direct,
                "boltmux": self.connections_boltmux,
            },
            "load": self.report.to_json(),
        })
    }
}

/// How to look for oneself.
fn invitation(address: SocketAddr) -> String {
    format!(
        "\nboltmux serves on at this address; Ctrl-C ends it\n\
         \x20 URI       bolt://{address}\n\
         \x20 user      {USER}\n\
         \x20 password  {PASSWORD}\n\
         \x20 Python    from neo4j import GraphDatabase as G; \
         print(G.driver(\"bolt://{address}\", auth=(\"{USER}\", \"{PASSWORD}\"))\
         .execute_query(\"RETURN $name AS name\", name=\"you\").records)\n"
    )
}

fn new_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {percent:>3} % {msg}");
    let bar = ProgressBar::new(0);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn move_bar(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.total.as_millis() as u64);
    bar.set_position(progress.elapsed.as_millis() as u64);
    let seconds = progress.in_slot.as_secs_f64();
    let doing = match progress.is_connecting || seconds <= 0.0 {
        true => "connecting".into(),
        false => format!("{:.0} requests/s", progress.requests as f64 / seconds),
    };
    bar.set_message(format!("{}: {doing}", progress.target));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Tally, TargetReport};

    fn size(cpus: usize, shards: Option<u32>) -> Size {
        let cpus: Vec<usize> = (0..cpus).collect();
        let demo = Demo { shards, ..Demo::default() };
        Size::of(&demo, &cpus).unwrap_or_else(|trouble| panic!("{}", trouble.text))
    }

    #[test]
    fn the_proxy_leaves_cpus_for_servers_and_load() {
        for (cpus, shards, server, load) in [
            (1, 1, vec![], vec![]),
            (2, 1, vec![1], vec![1]),
            (3, 1, vec![1], vec![2]),
            (4, 2, vec![2], vec![3]),
            (8, 4, vec![4, 5], vec![6, 7]),
        ] {
            let size = size(cpus, None);
            assert_eq!((size.shards, size.server_cpus, size.load_cpus), (shards, server, load));
        }
        let crowded = size(4, Some(9));
        assert_eq!((crowded.shards, crowded.load_threads()), (9, 1));
        let demo = Demo { shards: Some(65), ..Demo::default() };
        let refused = Size::of(&demo, &[0]).err().map(|trouble| (trouble.status, trouble.text));
        assert_eq!(refused, Some((exit::USAGE, "65 shards; expected 1 to 64".into())));
    }

    /// A report of one request, answered right, both ways.
    fn outcome() -> Outcome {
        let mut tally = Tally::default();
        tally.answered(Some(Duration::from_millis(1)), 1, true);
        let target = |name: &str| TargetReport {
            name: name.into(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            is_lame: false,
            version: None,
            seconds: 1.0,
            tally: tally.clone(),
            cpu: None,
            requests_with_cpu: 0,
            rounds: Vec::new(),
            ratios: None,
        };
        let report = Report {
            shape: "auto".into(),
            clients: 9,
            threads: 1,
            rate: None,
            targets: vec![target("direct"), target("boltmux")],
            generator_busy: None,
            was_stopped: false,
        };
        let (connections_direct, connections_boltmux) = (9, 2);
        Outcome { report, seconds: 1, pool: 2, shards: 1, connections_direct, connections_boltmux }
    }

    #[test]
    fn one_wrong_answer_or_one_connection_too_many_is_told() {
        assert!(outcome().is_fine());
        let spoil: [fn(&mut Outcome); 4] = [
            |outcome| outcome.report.targets[1].tally.mismatches = 1,
            |outcome| outcome.report.targets[0].tally.error("lost"),
            |outcome| outcome.report.targets[1].tally = Tally::default(),
            |outcome| outcome.connections_boltmux = 3,
        ];
        for (case, spoil) in spoil.iter().enumerate() {
            let mut spoilt = outcome();
            spoil(&mut spoilt);
            assert!(!spoilt.is_fine(), "case {case}");
            assert_eq!(spoilt.to_json()["is_fine"], false, "case {case}");
        }
        let mut stopped = outcome();
        stopped.report.was_stopped = true;
        stopped.report.targets[1].tally = Tally::default();
        assert!(stopped.is_fine(), "a run that was ended before the first answer is no failure");
    }

    #[test]
    fn more_files_than_there_can_be_are_refused_before_anything_starts() {
        let all = Size { clients: u32::MAX, ..size(4, None) };
        let trouble = all.check_files().err().map(|trouble| (trouble.status, trouble.text));
        let (status, text) = trouble.expect("no system allows that many files");
        assert_eq!(status, exit::REFUSED);
        assert!(text.contains("fewer --clients"), "{text}");
    }
}
