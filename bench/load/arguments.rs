//! `boltload`'s command line, and the plan that it means.

use boltmux::config::values;
use boltmux::config::words::{self, Understood};
use boltmux::load::mix::{self, MixQuery};
use boltmux::load::{self, Plan, Process, Shape, Target};
use boltmux::transport::tls::certificate::believed;
use boltmux::transport::tls::client::{Trust, Uplink, system_authorities};
use boltmux::transport::tls::server::provider;
use boltmux::wire::Version;
use clap::{CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

const PASSWORD_VARIABLE: &str = "BOLTLOAD_PASSWORD";
/// Bolt's registered port.
const PORT: u16 = 7687;
/// A year; more is a slip of the finger.
const SECONDS_MAX: f64 = 31_536_000.0;
/// Every target in every place and both directions, for up to three targets.
const ROUNDS: usize = 6;
const SCHEMES: [&str; 9] =
    ["bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc", "ws", "wss", "wss+ssc"];
/// For what a wrong argument stands while the others are looked at.
const ANY: Duration = Duration::from_secs(1);

/// Measures Bolt servers: clients that check every answer, targets compared in one run.
///
/// Exit status: 0 all answers were right, 1 errors or answers of other requests, 2 wrong arguments.
#[derive(Parser)]
#[command(name = "boltload", version)]
pub struct Arguments {
    /// A server to measure: NAME=bolt://HOST:PORT; repeatable, the others are compared with the
    /// first. neo4j:// is that one server, too: nothing is routed. ws:// and wss:// speak Bolt
    /// over WebSocket. +s behind the scheme for TLS,
    /// +ssc for TLS with any certificate
    #[arg(long, value_name = "NAME=URI")]
    target: Vec<String>,
    /// Short for one target
    #[arg(long, value_name = "URI")]
    uri: Option<String>,
    /// Who logs in
    #[arg(long, default_value = "neo4j")]
    user: String,
    /// File that holds the password; else it is taken from BOLTLOAD_PASSWORD
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The password itself; others on this machine can read it, so use it for tests only
    #[arg(long, value_name = "PASSWORD", conflicts_with = "password_file")]
    pass: Option<String>,
    /// Authorities of the servers' certificates, for +s; else the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Resume TLS sessions instead of a full handshake for every connection
    #[arg(long)]
    resume_tls: bool,
    /// Do not authenticate (scheme none)
    #[arg(long, conflicts_with_all = ["pass", "password_file"])]
    no_auth: bool,
    /// auto (RUN and PULL at once), tx (BEGIN, RUN and PULL, COMMIT), rows:N (N records), login
    /// (connect, log in, one query, leave), handshake (connect, agree on a version, leave) or
    /// mix:FILE (queries of a file drawn by weight; TOML, or JSON if it ends in .json)
    #[arg(long, default_value = "auto")]
    shape: String,
    /// With tx: send BEGIN together with RUN and PULL
    #[arg(long)]
    pipeline_begin: bool,
    /// Another query; $nonce is its parameter and has to be in every record
    #[arg(long)]
    query: Option<String>,
    /// The database; else the user's home database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Mark the transactions as reading
    #[arg(long)]
    read: bool,
    /// Records per PULL, -1 for all
    #[arg(long, default_value = "1000", allow_hyphen_values = true, value_name = "N")]
    fetch_size: String,
    /// Connections per target
    #[arg(long, default_value = "16", value_name = "N", allow_hyphen_values = true)]
    clients: String,
    /// Load threads
    #[arg(long, default_value = "1", value_name = "N", allow_hyphen_values = true)]
    threads: String,
    /// CPUs to pin the threads to, like 2,3 or 4-7
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
    /// Open loop: start so many requests per second and target, however long answers take;
    /// latencies count from the moment a request was due
    #[arg(long, value_name = "PER_SECOND", allow_hyphen_values = true)]
    rate: Option<String>,
    /// Before the clock of every round: let the rate grow, or clients begin one by one, like 10s
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    ramp: Option<String>,
    /// Closed loop: a client's pause between answer and next request, like 5ms
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    think: Option<String>,
    /// Requests per target in the whole run, instead of a time [--seconds then only bounds it:
    /// an hour]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    requests: Option<String>,
    /// Every round measures every target once [default: 6, or as many as there are requests]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    rounds: Option<String>,
    /// Measured time of the whole run, all targets and rounds together [default: 10]
    #[arg(
        long,
        conflicts_with = "round_seconds",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    seconds: Option<String>,
    /// Measured time of one target in one round
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    round_seconds: Option<String>,
    /// Ask every target for so long before the first round; servers plan and compile at first
    #[arg(long, default_value = "0", value_name = "SECONDS", allow_hyphen_values = true)]
    warm_up: String,
    /// Longest wait for an answer, in seconds
    #[arg(long, default_value = "30", value_name = "SECONDS", allow_hyphen_values = true)]
    request_timeout: String,
    /// Longest wait for a connection and its login, in seconds
    #[arg(long, default_value = "10", value_name = "SECONDS", allow_hyphen_values = true)]
    connect_timeout: String,
    /// One Bolt version instead of the highest common one
    #[arg(long, value_name = "VERSION")]
    bolt: Option<String>,
    /// Set the CPU time of this process against the target's requests; repeatable
    #[arg(long, value_name = "NAME=PID")]
    pid: Vec<String>,
    /// Write all numbers there
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write each target's latencies by percentile there, as HdrHistogram's tools read them
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Draw latency by percentile there, one line per target
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Only answers of other requests make the exit status 1, errors do not
    #[arg(long)]
    pub allow_errors: bool,
}

/// What a command line asks for.
pub enum Wish {
    Measure(Box<Arguments>, Box<Plan>),
    /// This text: the help, or the version.
    Say(String),
}

/// Reads the words behind the program's name.
///
/// # Errors
/// Every mistake there is, in the words and in what they mean, one line each.
pub fn read(words: impl Iterator<Item = OsString>) -> Result<Wish, Vec<String>> {
    let mut mistakes = Vec::new();
    let mut grammar = Arguments::command().no_binary_name(true);
    let version = grammar.render_version();
    let understood =
        words::understand(&mut grammar, words.collect(), &mut |text| mistakes.push(text));
    let matches = match understood {
        Understood::Matches(matches) => matches,
        Understood::Help(text) if mistakes.is_empty() => return Ok(Wish::Say(text)),
        Understood::Version if mistakes.is_empty() => return Ok(Wish::Say(version)),
        _ => return Err(mistakes),
    };
    // Defaults are missing where a word could not even be left out, which is told already.
    let Ok(arguments) = Arguments::from_arg_matches(&matches) else { return Err(mistakes) };
    match arguments.to_plan() {
        Ok(plan) if mistakes.is_empty() => Ok(Wish::Measure(Box::new(arguments), Box::new(plan))),
        Ok(_) => Err(mistakes),
        Err(more) => {
            mistakes.extend(more);
            Err(mistakes)
        }
    }
}

/// Collects mistakes, so that all are told at once.
#[derive(Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    fn take<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|mistake| self.0.push(mistake)).ok()
    }

    fn number<T: FromStr>(&mut self, option: &str, text: &str) -> Option<T> {
        let parsed = text.trim().parse();
        self.take(parsed.map_err(|_| format!("{option} {text:?}: expected a whole number")))
    }

    /// What the plan finds, except of what was never understood and is told already.
    fn of_plan(&mut self, plan: &Plan, are_targets_wrong: bool) {
        self.0.extend(if are_targets_wrong { plan.load_mistakes() } else { plan.mistakes() });
    }
}

impl Arguments {
    /// The plan, or everything that is wrong.
    fn to_plan(&self) -> Result<Plan, Vec<String>> {
        let mut mistakes = Mistakes::default();
        let targets = self.targets(&mut mistakes);
        let are_targets_wrong = !mistakes.0.is_empty() && targets.is_empty();
        let requests =
            self.requests.as_deref().and_then(|text| mistakes.number("--requests", text));
        let few =
            requests.map_or(ROUNDS, |requests: u64| requests.clamp(1, ROUNDS as u64) as usize);
        let rounds = self.rounds.as_deref().map(|text| mistakes.number("--rounds", text));
        let rounds = rounds.map_or(few, |rounds| rounds.unwrap_or(1));
        let slot = self.slot(&mut mistakes, (rounds * targets.len().max(1)).max(1));
        let processes = self.pid.iter().filter_map(|text| mistakes.take(parse_process(text)));
        let processes = processes.collect();
        let cpus = self.cpus.as_deref().and_then(|text| mistakes.take(parse_cpus(text)));
        let warm_up = match self.warm_up.trim() {
            "0" => Some(Duration::ZERO),
            seconds => mistakes.take(parse_seconds("--warm-up", seconds)),
        };
        let threads = mistakes.number("--threads", &self.threads).unwrap_or(1);
        let mut seconds = |name, text| mistakes.take(parse_seconds(name, text)).unwrap_or(ANY);
        let connect_timeout = seconds("--connect-timeout", &self.connect_timeout);
        let request_timeout = seconds("--request-timeout", &self.request_timeout);
        let rate = self.rate.as_deref().and_then(|text| mistakes.take(parse_rate(text)));
        let mut time = |option: &str, text: &Option<String>| {
            let parsed = text.as_deref().map(values::parse_duration).transpose();
            let parsed = parsed.map_err(|error| format!("{option}: {error}"));
            mistakes.take(parsed).flatten().unwrap_or_default()
        };
        let (ramp, think) = (time("--ramp", &self.ramp), time("--think", &self.think));
        let (shape, mix) = self.shape(&mut mistakes);
        let plan = Plan {
            targets,
            shape,
            mix,
            query: self.query.clone(),
            database: self.database.clone(),
            is_read: self.read,
            fetch_size: mistakes.number("--fetch-size", &self.fetch_size).unwrap_or(-1),
            clients: mistakes.number("--clients", &self.clients).unwrap_or(threads),
            threads,
            cpus: cpus.unwrap_or_default(),
            rate,
            ramp,
            think,
            requests,
            rounds,
            slot,
            warm_up: warm_up.unwrap_or_default(),
            connect_timeout,
            request_timeout,
            processes,
            resumes_tls: self.resume_tls,
            ..Plan::default()
        };
        mistakes.of_plan(&plan, are_targets_wrong);
        for path in [&self.json, &self.hgrm, &self.plot].into_iter().flatten() {
            mistakes.take(check_writable(path));
        }
        if mistakes.0.is_empty() { Ok(plan) } else { Err(mistakes.0) }
    }

    fn targets(&self, mistakes: &mut Mistakes) -> Vec<Target> {
        let password = mistakes.take(self.password()).unwrap_or_default();
        let version = self.bolt.as_deref().and_then(|text| mistakes.take(parse_version(text)));
        let named = self.uri.iter().map(|uri| Ok(("target".to_owned(), uri.clone())));
        let named = named.chain(self.target.iter().map(|text| split_pair("--target", text, "URI")));
        let mut targets = Vec::new();
        for target in named {
            let resolved = target.and_then(|(name, uri)| {
                if uri.contains('@') {
                    // With a password in it, maybe, so it is not shown.
                    return Err(format!("target {name}: a URI takes no user; give --user"));
                }
                let address = resolve(&uri)?;
                let tls = encryption(&uri, self.ca_file.as_deref())?;
                let is_websocket =
                    uri.split_once("://").is_some_and(|(it, _)| it.starts_with("ws"));
                Ok((name, address, tls, is_websocket))
            });
            if let Some((name, address, tls, is_websocket)) = mistakes.take(resolved) {
                let user = if self.no_auth { String::new() } else { self.user.clone() };
                let password = password.clone();
                targets.push(Target { name, address, user, password, version, tls, is_websocket });
            }
        }
        targets
    }

    /// The time of one target in one round, of which there are `slots`.
    fn slot(&self, mistakes: &mut Mistakes, slots: usize) -> Duration {
        let default = if self.requests.is_some() { "3600" } else { "10" };
        let slot = match (&self.round_seconds, &self.seconds) {
            (Some(seconds), _) => parse_seconds("--round-seconds", seconds),
            (None, seconds) => parse_seconds("--seconds", seconds.as_deref().unwrap_or(default))
                .map(|time| time.div_f64(slots as f64)),
        };
        mistakes.take(slot).unwrap_or(ANY)
    }

    fn password(&self) -> Result<String, String> {
        if self.no_auth {
            return Ok(String::new());
        }
        if let Some(password) = &self.pass {
            return Ok(password.clone());
        }
        let Some(path) = &self.password_file else {
            return std::env::var(PASSWORD_VARIABLE).map_err(|_| {
                format!("no password: set {PASSWORD_VARIABLE}, or --password-file, or --no-auth")
            });
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("--password-file {}: {error}", path.display()))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn shape(&self, mistakes: &mut Mistakes) -> (Shape, Vec<MixQuery>) {
        if self.pipeline_begin && self.shape != "tx" {
            mistakes.0.push(format!("--pipeline-begin needs --shape tx, not {}", self.shape));
        }
        let shape = match self.shape.as_str() {
            "auto" => Shape::Auto,
            "tx" => Shape::Tx { pipelined_begin: self.pipeline_begin },
            "login" => Shape::Login,
            "handshake" => Shape::Handshake,
            other => {
                if let Some(path) = other.strip_prefix("mix:") {
                    return match read_mix(path) {
                        Ok(mix) => (Shape::Mix, mix),
                        Err(wrong) => {
                            mistakes.0.extend(wrong);
                            (Shape::Auto, Vec::new())
                        }
                    };
                }
                let rows = other.strip_prefix("rows:").and_then(|rows| rows.parse().ok());
                let rows = rows.map(|rows| Shape::Rows { rows }).ok_or_else(|| {
                    let expected = "expected auto, tx, rows:N, login, handshake or mix:FILE";
                    format!("--shape {other:?}: {expected}")
                });
                mistakes.take(rows).unwrap_or(Shape::Auto)
            }
        };
        (shape, Vec::new())
    }
}

/// What a run has measured is not to be lost for a slip in a path; nothing is written yet.
fn check_writable(path: &Path) -> Result<(), String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if path.is_dir() || !folder.unwrap_or(Path::new(".")).is_dir() {
        return Err(format!("{}: expected a file in a folder that exists", path.display()));
    }
    Ok(())
}

fn read_mix(path: &str) -> Result<Vec<MixQuery>, Vec<String>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![format!("--shape mix:{path}: cannot read it: {error}")])?;
    mix::parse(&text, path.ends_with(".json")).map_err(|mistakes| {
        mistakes.into_iter().map(|mistake| format!("--shape mix:{path}: {mistake}")).collect()
    })
}

fn split_pair(option: &str, text: &str, value: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!("{option} {text:?}: expected NAME={value}")),
    }
}

fn parse_version(text: &str) -> Result<Version, String> {
    text.parse().map_err(|error| format!("--bolt: {error}"))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    text.trim().parse().map_err(|_| format!("--rate {text:?}: expected requests per second"))
}

fn parse_process(text: &str) -> Result<Process, String> {
    let (target, pid) = split_pair("--pid", text, "PID")?;
    let pid = pid.parse().map_err(|_| format!("--pid {text:?}: expected a process number"))?;
    load::cpu_time_used(pid).map_err(|error| format!("--pid {text}: {error}"))?;
    Ok(Process { target, pid })
}

fn parse_seconds(option: &str, text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.trim().parse().ok();
    // Less than a nanosecond is no time either.
    let time = seconds.filter(|seconds| (1e-9..=SECONDS_MAX).contains(seconds));
    time.map(Duration::from_secs_f64).ok_or_else(|| {
        format!("{option} {text:?}: expected more than 0 seconds, as a number, at most a year")
    })
}

/// CPUs by number and range, as taskset takes them.
fn parse_cpus(text: &str) -> Result<Vec<usize>, String> {
    let wrong = || format!("--cpus {text:?}: expected a list like 2,3 or 4-7");
    let allowed = boltmux::transport::runtime::allowed_cpus();
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| wrong())?;
        let last: usize = last.parse().map_err(|_| wrong())?;
        // Checked before the range is walked, which may be written as long as one likes.
        if first > last || !allowed.contains(&first) || !allowed.contains(&last) {
            return Err(format!("--cpus {text:?}: this process may use {allowed:?}"));
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// How the scheme of a target says that TLS is spoken.
fn encryption(uri: &str, ca_file: Option<&Path>) -> Result<Option<Uplink>, String> {
    let Some((scheme, authority)) = uri.split_once("://") else { return Ok(None) };
    let failed = |text: String| format!("{uri}: {text}");
    let trust = match scheme {
        "bolt+s" | "neo4j+s" | "wss" => {
            let read = match ca_file {
                None => system_authorities().map(|roots| (roots, Vec::new())),
                Some(path) => std::fs::read(path)
                    .map_err(|error| format!("{}: {error}", path.display()))
                    .and_then(|text| believed(&text)),
            };
            let (roots, exact) = read.map_err(failed)?;
            Trust::Authorities { roots: Arc::new(roots), exact: exact.into() }
        }
        "bolt+ssc" | "neo4j+ssc" | "wss+ssc" => Trust::Anybody,
        _ => return Ok(None),
    };
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    Uplink::new(host, &trust, None, &provider()).map(Some).map_err(failed)
}

/// `bolt://HOST[:PORT]`, `neo4j://HOST[:PORT]` or `HOST[:PORT]`; the first address the name has.
fn resolve(uri: &str) -> Result<SocketAddr, String> {
    let authority = match uri.split_once("://") {
        Some((scheme, authority)) if SCHEMES.contains(&scheme) => authority,
        Some((scheme, _)) => {
            return Err(format!("{uri}: scheme {scheme} is not supported; use bolt://HOST:PORT"));
        }
        None => uri,
    };
    // A routing context means nothing where nothing is routed.
    let authority = authority.split_once('?').map_or(authority, |(authority, _)| authority);
    let (host, port) = split_port(authority.trim_end_matches('/'))
        .ok_or_else(|| format!("{uri:?}: expected bolt://HOST:PORT"))?;
    #[expect(clippy::disallowed_methods, reason = "names are resolved once, before the run")]
    let addresses = (host, port).to_socket_addrs();
    let mut addresses = addresses.map_err(|error| format!("{uri}: {error}"))?;
    addresses.next().ok_or_else(|| format!("{uri}: the name has no address"))
}

/// The host, without the brackets of an IPv6 address, and its port; `None` if it is neither.
fn split_port(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, if behind.is_empty() { None } else { Some(behind.strip_prefix(':')?) })
        }
        None if authority.parse::<Ipv6Addr>().is_ok() => (authority, None),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_host = |letter: char| letter.is_alphanumeric() || "-._:".contains(letter);
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    (!host.is_empty() && host.chars().all(is_host)).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &str) -> Result<Plan, Vec<String>> {
        let words = ["boltload"].into_iter().chain(words.split_whitespace());
        Arguments::try_parse_from(words).expect("known options").to_plan()
    }

    #[test]
    fn a_whole_command_line_becomes_a_plan() {
        let plan = plan(&format!(
            "--target direct=bolt://127.0.0.1:7001 --target mux=[::1]:7002 --pass secret-for-test \
             --shape tx --pipeline-begin --rounds 4 --seconds 4 --clients 8 --threads 2 --cpus 0 \
             --pid mux={} --bolt 5.4 --fetch-size -1 --read --database movies \
             --ramp 10s --rate 2.5e3",
            std::process::id()
        ))
        .unwrap();
        let names: Vec<_> = plan.targets.iter().map(|target| target.name.as_str()).collect();
        assert_eq!(names, ["direct", "mux"]);
        assert_eq!(plan.targets[0].address, "127.0.0.1:7001".parse().unwrap());
        assert_eq!(plan.targets[1].address, "[::1]:7002".parse().unwrap());
        assert_eq!(plan.targets[1].password, "secret-for-test");
        assert_eq!(plan.targets[0].version, Some(Version::new(5, 4)));
        assert_eq!(plan.shape, Shape::Tx { pipelined_begin: true });
        assert_eq!(plan.slot, Duration::from_millis(500));
        assert_eq!(plan.processes, [Process { target: "mux".into(), pid: std::process::id() }]);
        assert_eq!((plan.fetch_size, plan.is_read, plan.cpus), (-1, true, vec![0]));
        assert_eq!(plan.database.as_deref(), Some("movies"));
        assert_eq!((plan.rate, plan.ramp), (Some(2500.0), Duration::from_secs(10)));
        let counted = super::tests::plan("--uri 127.0.0.1:1 --pass x --requests 1000 --think 5ms");
        let counted = counted.unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        assert_eq!((counted.requests, counted.think), (Some(1000), Duration::from_millis(5)));
        assert_eq!(counted.slot, Duration::from_secs(600));
        let one =
            super::tests::plan("--uri 127.0.0.1:1 --pass x --requests 1").map(|one| one.rounds);
        assert_eq!(one, Ok(1));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mistakes = plan(
            "--target nonsense --uri http://h --pass x --shape rows:x --pid a --bolt 9.9 \
             --pid b=4294967295 --seconds 0 --cpus 3-x --request-timeout 0 --clients many \
             --rounds -1 --rate -5 --ramp 5 --think soon --requests few --json /no/x --plot /",
        );
        let mistakes = mistakes.unwrap_err().join("\n");
        let parts = "nonsense;http;rows:x;--pid \"a\";--pid b=4294967295;9.9;--seconds;--cpus;\
                     --clients;--rounds;/no/x;/: ;a rate of -5;--ramp;--think;--requests";
        for part in parts.split(';') {
            assert!(mistakes.contains(part), "{part} is missing in {mistakes}");
        }
        assert!(mistakes.contains("--request-timeout"));
    }

    #[test]
    fn a_mix_is_read_from_its_file() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/load/mix.toml");
        let one = plan(&format!("--uri 127.0.0.1:1 --pass x --shape mix:{example}")).unwrap();
        assert_eq!((one.shape, one.mix.len()), (Shape::Mix, 3));
        let missing = plan("--uri 127.0.0.1:1 --pass x --shape mix:/missing --rate x").unwrap_err();
        assert!(missing[0].contains("/missing") || missing[1].contains("/missing"), "{missing:?}");
        assert_eq!(missing.len(), 2, "{missing:?}");
    }

    #[test]
    fn what_is_no_uri_is_told_without_asking_for_its_address() {
        for uri in
            ["bolt://", "a b", ":::", "h:99999", "h:x", "bolt://[::1", "[h]:1", "[::1]1", "a/b"]
        {
            let mistake = resolve(uri).unwrap_err();
            assert_eq!(mistake, format!("{uri:?}: expected bolt://HOST:PORT"));
        }
        let mistakes = plan("--pass x --target a=bolt://me:hidden@127.0.0.1").unwrap_err();
        assert!(mistakes[0].contains("target a") && mistakes.len() == 1, "{mistakes:?}");
        assert!(!mistakes[0].contains("hidden"));
    }

    #[test]
    fn the_port_is_optional() {
        assert_eq!(resolve("bolt://127.0.0.1"), Ok(([127, 0, 0, 1], PORT).into()));
        assert_eq!(resolve("127.0.0.1:9/"), Ok(([127, 0, 0, 1], 9).into()));
        assert_eq!(resolve("wss://127.0.0.1"), Ok(([127, 0, 0, 1], PORT).into()));
        assert_eq!(resolve("bolt+ssc://127.0.0.1:1"), Ok(([127, 0, 0, 1], 1).into()));
        assert_eq!(resolve("bolt://[::1]"), Ok("[::1]:7687".parse().unwrap()));
        assert_eq!(resolve("::1"), Ok("[::1]:7687".parse().unwrap()));
        assert_eq!(resolve("neo4j://127.0.0.1:8/?policy=x"), Ok(([127, 0, 0, 1], 8).into()));
    }
}
