//! A proxy before a server, both in this process, and what its metrics say.

use boltmux::config::{Command, Environment, Files, Settings, parse};
use boltmux::proxy::Proxy;
use boltmux::synthetic::{Options, Server};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Only a test that fails waits so long.
const WITHIN: Duration = Duration::from_secs(60);
/// Between looks at something that changes by itself.
const LOOK: Duration = Duration::from_millis(5);

struct Nothing;

impl Environment for Nothing {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        Vec::new()
    }
}

impl Files for Nothing {
    fn read(&self, _path: &Path) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// Settings as `--set` would make them.
pub fn settings(pairs: &[String]) -> Settings {
    let words = pairs.iter().flat_map(|pair| ["--set".into(), pair.into()]);
    match parse(words.collect::<Vec<OsString>>().into_iter(), &Nothing, &Nothing) {
        Ok(Command::Run(settings)) => *settings,
        Ok(_) => panic!("expected a run: {pairs:?}"),
        Err(problems) => panic!("{problems}"),
    }
}

/// A running proxy, drained when dropped.
pub struct Running {
    proxy: Option<Proxy>,
    pub address: SocketAddr,
    /// Of all listeners that have one.
    pub addresses: Vec<SocketAddr>,
    pub admin: SocketAddr,
}

impl Running {
    /// Before the server at `uplink`. Later pairs win over the ones every test wants.
    pub fn start(uplink: SocketAddr, pairs: &[&str]) -> Running {
        let mut all = vec![
            "listen.bind=127.0.0.1:0".to_owned(),
            "admin.bind=127.0.0.1:0".into(),
            format!("uplink.uri=bolt://{uplink}"),
            "shards=1".into(),
            "timeouts.drain=100ms".into(),
            "log.level=error".into(),
        ];
        for pair in pairs {
            let key = pair.split('=').next().unwrap_or_default();
            all.retain(|other| other.split('=').next() != Some(key));
            all.push((*pair).to_owned());
        }
        let proxy = Proxy::start(settings(&all)).expect("the proxy starts");
        let (addresses, admin) = (proxy.addresses().to_vec(), proxy.admin()[0]);
        Running { proxy: Some(proxy), address: addresses[0], addresses, admin }
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::of(self.admin)
    }

    /// Lets it read its certificates anew.
    pub fn reload(&self) {
        self.proxy.as_ref().expect("it runs").reload();
    }

    /// Waits until the metrics are as wanted.
    pub fn until(&self, what: &str, is_so: impl Fn(&Metrics) -> bool) -> Metrics {
        until_metrics(self.admin, what, is_so)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(proxy) = self.proxy.take() {
            let is_well = proxy.drain();
            assert!(is_well || std::thread::panicking(), "a thread of the proxy has panicked");
        }
    }
}

/// A proxy before a synthetic server.
pub struct Stage {
    /// Ends first, while its server still answers.
    pub proxy: Running,
    pub server: Server,
}

impl Stage {
    pub fn start(pairs: &[&str], options: Options) -> Stage {
        let server = Server::start(options).expect("a server on a free port");
        Stage { proxy: Running::start(server.address(), pairs), server }
    }

    pub fn address(&self) -> SocketAddr {
        self.proxy.address
    }
}

/// Polls until it is so; panics when it takes too long.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < WITHIN, "not within {WITHIN:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

pub fn until_metrics(admin: SocketAddr, what: &str, is_so: impl Fn(&Metrics) -> bool) -> Metrics {
    let started = Instant::now();
    loop {
        let metrics = Metrics::of(admin);
        if is_so(&metrics) {
            return metrics;
        }
        assert!(started.elapsed() < WITHIN, "not within {WITHIN:?}: {what}\n{metrics:#?}");
        std::thread::sleep(LOOK);
    }
}

/// One scrape: names without prefix, `_total` and the server's label.
#[derive(Clone, Debug)]
pub struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    pub fn of(admin: SocketAddr) -> Metrics {
        let text = http(admin, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let lines = text.lines().filter_map(|line| line.strip_prefix("boltmux_"));
        let samples = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((plain_name(name), value.parse().ok()?))
        });
        let metrics: BTreeMap<String, u64> = samples.collect();
        assert!(metrics.contains_key("clients_accepted"), "no metrics: {text}");
        Metrics(metrics)
    }

    /// For instance `leases_acquired` or `closed{goodbye}`.
    pub fn get(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no such metric: {name}, of {:#?}", self.0))
    }

    /// The members of a family that are not zero.
    pub fn family(&self, name: &str) -> Vec<(&str, u64)> {
        let members = self.0.iter().filter(|(_, value)| **value > 0);
        let members = members.filter_map(|(member, value)| {
            let label = member.strip_prefix(name)?.strip_prefix('{')?.strip_suffix('}')?;
            Some((label, *value))
        });
        members.collect()
    }
}

/// `closed_total{reason="goodbye"}` as `closed{goodbye}`.
fn plain_name(name: &str) -> String {
    let (family, labels) = name.split_once('{').unwrap_or((name, ""));
    let family = family.strip_suffix("_total").unwrap_or(family);
    let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
    let values = labels.filter(|label| !label.starts_with("server="));
    let values: Vec<&str> =
        values.filter_map(|label| Some(label.split_once('=')?.1.trim_matches('"'))).collect();
    if values.is_empty() { family.into() } else { format!("{family}{{{}}}", values.join(",")) }
}

/// The whole answer to some bytes.
pub fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
