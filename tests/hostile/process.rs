//! A `boltmux` process: what it listens on, what it says, what it has open.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Only a test that fails waits so long.
const WITHIN: Duration = Duration::from_secs(60);
/// Between looks at something that changes by itself.
const LOOK: Duration = Duration::from_millis(5);

/// Killed when dropped.
pub struct Process {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    pub address: SocketAddr,
    /// The last listener of several; else the same.
    pub last_address: SocketAddr,
    pub admin: SocketAddr,
}

/// A port that was free just now.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Process {
    /// Before the server at `uplink`; later pairs win over the usual ones.
    pub fn start(uplink: SocketAddr, pairs: &[&str]) -> Process {
        let admin = free_port();
        let mut all = vec![
            "listen.bind=127.0.0.1:0".to_owned(),
            format!("admin.bind={admin}"),
            format!("uplink.uri=bolt://{uplink}"),
        ];
        for pair in pairs {
            let key = pair.split('=').next().unwrap_or_default();
            all.retain(|other| other.split('=').next() != Some(key));
            all.push((*pair).to_owned());
        }
        Process::run(&all, admin)
    }

    /// Several listeners can only be named in a file, this text.
    pub fn start_with_file(folder: &Path, uplink: SocketAddr, text: &str) -> Process {
        let (path, admin) = (folder.join("boltmux.toml"), free_port());
        let common = format!("[uplink]\nuri = \"bolt://{uplink}\"\n[admin]\nbind = \"{admin}\"\n");
        fs::write(&path, common + text).unwrap();
        Process::run(&[format!("config={}", path.display())], admin)
    }

    fn run(pairs: &[String], admin: SocketAddr) -> Process {
        // Another build of the program can be tried, too.
        let own = || env!("CARGO_BIN_EXE_boltmux").into();
        let mut command = Command::new(std::env::var_os("HOSTILE_PROGRAM").unwrap_or_else(own));
        for pair in pairs {
            match pair.strip_prefix("config=") {
                Some(path) => command.args(["--config", path]),
                None => command.args(["--set", pair]),
            };
        }
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let (stderr, its_said) = (child.stderr.take().expect("piped"), said.clone());
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                its_said.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        });
        let (address, last_address) = (admin, admin);
        let mut process = Process { child, said, address, last_address, admin };
        let accepting = "boltmux: accepting clients on ";
        process.until_said(accepting);
        let said = process.said();
        let line = said.iter().find_map(|line| line.strip_prefix(accepting)).unwrap();
        let words = line.split([' ', ',', '\n']).take_while(|word| *word != "for");
        let addresses: Vec<SocketAddr> = words.filter_map(|word| word.parse().ok()).collect();
        process.address = *addresses.first().expect("an address");
        process.last_address = *addresses.last().expect("an address");
        process
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lines of standard error so far.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    pub fn until_said(&self, part: &str) {
        self.until(part, || self.said().iter().any(|line| line.contains(part)));
    }

    /// Polls until it is so.
    pub fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_so() {
            let is_late = started.elapsed() > WITHIN;
            assert!(!is_late, "not within {WITHIN:?}: {what}; it said {:#?}", self.said());
            std::thread::sleep(LOOK);
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
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

    /// The whole answer of the admin port.
    pub fn admin_text(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The sum of a metric over all its labels but those that are given as `label="value"`.
    pub fn metric(&self, family: &str, label: &str) -> u64 {
        let samples = samples(&self.admin_text("/metrics"));
        let wanted = samples
            .iter()
            .filter(|(name, _)| name.split('{').next() == Some(family) && name.contains(label));
        wanted.map(|(_, value)| value).sum()
    }

    /// Server connections given up so far, for other than the usual reasons.
    pub fn discarded(&self) -> u64 {
        let samples = samples(&self.admin_text("/metrics"));
        let is_unusual = |name: &str| {
            let usual = ["idle_timeout", "evicted", "given_up"];
            name.starts_with("server_discarded_total{")
                && !usual.iter().any(|reason| name.contains(reason))
        };
        samples.iter().filter(|(name, _)| is_unusual(name)).map(|(_, value)| value).sum()
    }

    /// Client connections closed so far, by reason.
    pub fn closed(&self) -> BTreeMap<String, u64> {
        let samples = samples(&self.admin_text("/metrics"));
        let closed = samples.into_iter().filter_map(|(name, value)| {
            let reason = name.strip_prefix("closed_total{reason=\"")?.strip_suffix("\"}")?;
            Some((reason.to_owned(), value))
        });
        closed.filter(|(_, value)| *value > 0).collect()
    }

    /// Clients that are connected.
    pub fn clients(&self) -> u64 {
        self.metric("client_connections", "")
    }
}

fn samples(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("boltmux_"));
    let samples = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    let samples: BTreeMap<String, u64> = samples.collect();
    assert!(!samples.is_empty(), "no metrics: {text}");
    samples
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
