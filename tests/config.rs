//! The configuration from outside: sources as maps, tables of what is taken and what is refused.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use boltmux::config::keys::{KEYS, Kind, find};
use boltmux::config::values::{
    parse_bind, parse_duration, parse_size, parse_uri, show_bind, show_duration, show_size,
};
use boltmux::synthetic::{Options, Server};

use boltmux::config::{
    Bind, BindHost, Command, Demo, Environment, Files, LogLevel, PoolMode, Problems, Scheme,
    Settings, TlsMode, keys_markdown, parse,
};

struct Variables<'a>(&'a [(&'a str, &'a str)]);

impl Environment for Variables<'_> {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        self.0.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }
}

#[derive(Default)]
struct Texts(BTreeMap<&'static str, &'static str>);

impl Files for Texts {
    fn read(&self, path: &Path) -> io::Result<String> {
        if path == Path::new("monitor.password") {
            return Ok("not-a-real-password\r\n".into());
        }
        let found = path.to_str().and_then(|path| self.0.get(path));
        found.map(|text| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn parse_with(
    arguments: &[&str],
    variables: &[(&str, &str)],
    files: &[(&'static str, &'static str)],
) -> Result<Command, Problems> {
    let files = Texts(files.iter().copied().collect());
    parse(arguments.iter().map(OsString::from), &Variables(variables), &files)
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Settings {
    match parse_with(arguments, variables, &[]).expect("these settings are sound") {
        Command::Run(settings) => *settings,
        other => panic!("expected to run, not {other:?}"),
    }
}

fn run_toml(text: &'static str) -> Result<Settings, Problems> {
    match parse_with(&["--config", "a.toml"], &[], &[("a.toml", text)])? {
        Command::Run(settings) => Ok(*settings),
        other => panic!("expected to run, not {other:?}"),
    }
}

/// What all mistakes print.
fn refused(
    arguments: &[&str],
    variables: &[(&str, &str)],
    files: &[(&'static str, &'static str)],
) -> String {
    match parse_with(arguments, variables, files) {
        Err(problems) => problems.to_string(),
        Ok(command) => panic!("{arguments:?} {variables:?} {files:?} were taken: {command:?}"),
    }
}

fn shown(settings: &Settings, key: &str) -> String {
    (find(key).expect("the key exists").show)(settings)
}

fn named(host: &str, port: u16) -> Bind {
    Bind { host: BindHost::Name(host.into()), port }
}

#[test]
fn defaults_are_the_documented_ones() {
    let settings = run(&[], &[]);
    let expected = [
        ("shards", "auto"),
        ("listen.bind", "localhost:8888"),
        ("listen.tls", "auto"),
        ("listen.cert", ""),
        ("listen.key", ""),
        ("listen.client_ca", ""),
        ("listen.client_names", ""),
        ("listen.tls_minimum", "1.2"),
        ("listen.ipv6_only", "false"),
        ("listen.unix_mode", "0660"),
        ("listen.websocket_origins", ""),
        ("listen.proxy_protocol", "off"),
        ("listen.proxy_networks", ""),
        ("uplink.uri", "bolt://localhost:7687"),
        ("uplink.ca_file", ""),
        ("uplink.client_cert", ""),
        ("uplink.client_key", ""),
        ("uplink.user", "neo4j"),
        ("uplink.password", ""),
        ("uplink.password_file", ""),
        ("uplink.versions", "auto"),
        ("uplink.proxy_protocol", "off"),
        ("uplink.monitor", "true"),
        ("admin.bind", "off"),
        ("pool.mode", "transaction"),
        ("pool.size", "64"),
        ("pool.acquisition_timeout", "1min"),
        ("pool.approval_ttl", "1min"),
        ("pool.max_lifetime", "50min"),
        ("pool.max_lifetime_jitter", "10%"),
        ("pool.idle_timeout", "10min"),
        ("pool.liveness_check", "5min"),
        ("pool.reauth", "false"),
        ("limits.clients", "auto"),
        ("limits.login_message", "8KiB"),
        ("limits.held_bytes", "1MiB"),
        ("limits.heap_bytes", "64MiB"),
        ("timeouts.first_bytes", "10s"),
        ("timeouts.login", "30s"),
        ("timeouts.connect", "5s"),
        ("timeouts.reset", "5s"),
        ("timeouts.message", "30s"),
        ("timeouts.idle_in_transaction", "off"),
        ("timeouts.transaction", "off"),
        ("timeouts.query", "off"),
        ("timeouts.client_idle", "off"),
        ("timeouts.websocket_ping", "30s"),
        ("timeouts.drain", "30s"),
        ("transport.credit", "256KiB"),
        ("transport.buffers_client", "512"),
        ("transport.buffers_server", "512"),
        ("transport.buffer_size", "16KiB"),
        ("transport.bundles", "true"),
        ("transport.busy_poll", "0"),
        ("log.level", "info"),
        ("log.debug", "false"),
    ];
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
    for (name, value) in expected {
        assert_eq!(shown(&settings, name), value, "{name}");
    }
}

/// What a key needs beside it to be sound.
const COMPANIONS: [(&str, &[&str]); 9] = [
    ("listen.proxy_protocol", &["listen.proxy_networks=10.0.0.0/8"]),
    ("listen.proxy_networks", &["listen.proxy_protocol=required"]),
    ("listen.tls", &["listen.cert=c"]),
    ("listen.key", &["listen.cert=c"]),
    ("listen.client_ca", &["listen.cert=c", "listen.tls=required"]),
    ("listen.client_names", &["listen.cert=c", "listen.tls=required", "listen.client_ca=a"]),
    ("uplink.ca_file", &["uplink.uri=bolt+s://a"]),
    ("uplink.client_cert", &["uplink.uri=bolt+s://a"]),
    ("uplink.client_key", &["uplink.uri=bolt+s://a", "uplink.client_cert=c"]),
];

/// A value other than the default for each key, printed as it is written.
const OTHERS: [(&str, &str); 56] = [
    ("shards", "3"),
    ("listen.bind", "127.0.0.1:1,[::1]:2,*:3,unix:/run/bolt.sock"),
    ("listen.tls", "required"),
    ("listen.cert", "one.pem,two.pem"),
    ("listen.key", "one.key"),
    ("listen.client_ca", "clients.pem"),
    ("listen.client_names", "app.example.com,The App"),
    ("listen.tls_minimum", "1.3"),
    ("listen.ipv6_only", "true"),
    ("listen.unix_mode", "0600"),
    ("listen.websocket_origins", "https://browser.example,https://b.example:8443"),
    ("listen.proxy_protocol", "required"),
    ("listen.proxy_networks", "10.0.0.0/8,2001:db8::/32"),
    ("uplink.uri", "neo4j+ssc://core1:7688"),
    ("uplink.ca_file", "authority.pem"),
    ("uplink.client_cert", "own.pem"),
    ("uplink.client_key", "own.key"),
    ("uplink.user", "watcher"),
    ("uplink.password", "not-a-real-password"),
    ("uplink.password_file", "monitor.password"),
    ("uplink.versions", "5.8, 5.4, 3.0"),
    ("uplink.proxy_protocol", "v2"),
    ("uplink.monitor", "true"),
    ("admin.bind", "127.0.0.1:9100"),
    ("pool.mode", "session"),
    ("pool.size", "4"),
    ("pool.acquisition_timeout", "250ms"),
    ("pool.approval_ttl", "0s"),
    ("pool.max_lifetime", "1h"),
    ("pool.max_lifetime_jitter", "0%"),
    ("pool.idle_timeout", "7min"),
    ("pool.liveness_check", "1s"),
    ("pool.reauth", "true"),
    ("limits.clients", "10000"),
    ("limits.login_message", "16KiB"),
    ("limits.held_bytes", "2MiB"),
    ("limits.heap_bytes", "128MiB"),
    ("timeouts.first_bytes", "2s"),
    ("timeouts.login", "3s"),
    ("timeouts.connect", "4s"),
    ("timeouts.reset", "6s"),
    ("timeouts.message", "7s"),
    ("timeouts.idle_in_transaction", "1min"),
    ("timeouts.transaction", "2min"),
    ("timeouts.query", "3min"),
    ("timeouts.client_idle", "4h"),
    ("timeouts.websocket_ping", "20s"),
    ("timeouts.drain", "1s"),
    ("transport.credit", "128KiB"),
    ("transport.buffers_client", "1024"),
    ("transport.buffers_server", "64"),
    ("transport.buffer_size", "32KiB"),
    ("transport.bundles", "false"),
    ("transport.busy_poll", "50us"),
    ("log.level", "warn"),
    ("log.debug", "true"),
];

#[test]
fn every_key_is_taken_from_every_source() {
    assert_eq!(OTHERS.map(|(name, _)| name).as_slice(), key_names(), "one value for each key");
    for (name, value) in OTHERS {
        let expected = if name == "uplink.password" { "<secret>" } else { value };
        let flag = format!("{name}={value}");
        let beside = COMPANIONS.iter().find(|(key, _)| *key == name).map_or(&[][..], |it| it.1);
        let beside: Vec<&str> = beside.iter().flat_map(|pair| ["--set", pair]).collect();
        let all = [&beside[..], &["--set", &flag]].concat();
        assert_eq!(shown(&run(&all, &[]), name), expected, "--set {flag}");

        let variable = find(name).unwrap().variable();
        let settings = run(&beside, &[(&variable, value)]);
        assert_eq!(shown(&settings, name), expected, "{variable}={value}");

        // Leaked so that the maps of this test may hold plain references.
        let (section, key) = name.split_once('.').unwrap_or(("", name));
        let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let toml: &'static str = format!("{header}{key} = \"{value}\"\n").leak();
        let all = [&beside[..], &["--config", "a.toml"]].concat();
        let command = parse_with(&all, &[], &[("a.toml", toml)]).unwrap();
        let Command::Run(settings) = command else { panic!("expected to run") };
        assert_eq!(shown(&settings, name), expected, "{toml}");

        let inner = format!("{{\"{key}\": \"{value}\"}}");
        let json = if section.is_empty() { inner } else { format!("{{\"{section}\": {inner}}}") };
        let all = [&beside[..], &["-config=a.json"]].concat();
        let command = parse_with(&all, &[], &[("a.json", json.leak())]).unwrap();
        let Command::Run(settings) = command else { panic!("expected to run") };
        assert_eq!(shown(&settings, name), expected, "JSON of {name}");
    }
}

fn key_names() -> Vec<&'static str> {
    KEYS.iter().map(|key| key.name).collect()
}

#[test]
fn what_a_key_shows_it_also_reads() {
    let mut settings = Settings::default();
    for key in KEYS.iter().filter(|key| key.kind != Kind::Secret) {
        let default = (key.show)(&settings);
        (key.set)(&mut settings, &default).unwrap_or_else(|error| panic!("{}: {error}", key.name));
        assert_eq!((key.show)(&settings), default, "{}", key.name);
    }
}

#[test]
fn flags_win_over_variables_over_the_file() {
    let file = ("a.toml", "[pool]\nsize = 1\n[log]\nlevel = \"trace\"\n[uplink]\nuser = \"f\"\n");
    let variables = [("BOLTMUX__POOL__SIZE", "2"), ("BOLTMUX__LOG__LEVEL", "error")];
    let arguments = ["--config", "a.toml", "--set", "pool.size=3"];
    let Ok(Command::Run(settings)) = parse_with(&arguments, &variables, &[file]) else {
        panic!("these settings are sound")
    };
    assert_eq!(settings.pool.size, 3);
    assert_eq!(settings.log.level, LogLevel::Error);
    assert_eq!(settings.uplink.user, "f");
    assert_eq!(settings.uplink.port, 7687);
}

#[test]
fn boltmux_own_names_win_over_the_go_proxys() {
    let both = [("BOLT_PROXY_USER", "old"), ("BOLTMUX__UPLINK__USER", "new")];
    assert_eq!(run(&[], &both).uplink.user, "new");
    assert_eq!(run(&["--set", "uplink.user=new", "-user", "old"], &both).uplink.user, "new");
    assert_eq!(run(&["-user", "flag"], &both).uplink.user, "flag");
}

#[test]
fn go_proxys_flags_and_variables_work() {
    let flags: [&[&str]; 4] = [
        &["-bind", ":9", "-uri", "neo4j://db", "-user", "u", "-pass", "p", "-debug"],
        &["--bind", ":9", "--uri", "neo4j://db", "--user", "u", "--pass", "p", "--debug"],
        &["-bind=:9", "-uri=neo4j://db", "-user=u", "-pass=p", "-debug=true"],
        &["--bind=:9", "--uri=neo4j://db", "--user=u", "--pass=p", "--debug=1"],
    ];
    let variables = [
        ("BOLT_PROXY_BIND", ":9"),
        ("BOLT_PROXY_URI", "neo4j://db"),
        ("BOLT_PROXY_USER", "u"),
        ("BOLT_PROXY_PASSWORD", "p"),
        ("BOLT_PROXY_DEBUG", "whatever"),
    ];
    let mut all: Vec<Settings> = flags.iter().map(|arguments| run(arguments, &[])).collect();
    all.push(run(&[], &variables));
    for settings in all {
        assert_eq!(settings.listen[0].bind, Bind { host: BindHost::Any, port: 9 });
        assert_eq!(settings.uplink.scheme, Scheme::Neo4j);
        assert_eq!((settings.uplink.host.as_str(), settings.uplink.port), ("db", 7687));
        assert_eq!(settings.uplink.user, "u");
        assert_eq!(settings.uplink.password.as_ref().unwrap().expose(), "p");
        assert_eq!(settings.log.effective_level(), LogLevel::Debug);
    }
}

#[test]
fn flags_keep_gos_manners() {
    assert_eq!(run(&["-user", "a", "-user", "b"], &[]).uplink.user, "b", "the last one wins");
    assert_eq!(run(&["-user", "-uri"], &[]).uplink.user, "-uri", "a value may look like a flag");
    let password = run(&["-pass", "-starts-with-a-dash"], &[]).uplink.password;
    assert_eq!(password.unwrap().expose(), "-starts-with-a-dash");
    assert!(!run(&["-debug=false"], &[("BOLT_PROXY_DEBUG", "1")]).log.debug);
    assert!(!run(&[], &[("BOLT_PROXY_DEBUG", "")]).log.debug, "empty is not set");
    let empty = [("BOLT_PROXY_CERT", ""), ("BOLTMUX__POOL__SIZE", ""), ("BOLT_PROXY_URI", "")];
    assert_eq!(run(&[], &empty).pool.size, 64);
    let foreign = [("BOLTMUX_PORT", "tcp://10.0.0.1:7687"), ("BOLT_PROXY_SERVICE_HOST", "x")];
    assert_eq!(run(&[], &foreign).uplink.host, "localhost", "an orchestrator's are no affair");
}

#[test]
fn words_are_understood() {
    let command = |arguments: &[&str]| parse_with(arguments, &[], &[]).unwrap();
    assert!(matches!(command(&["version"]), Command::Version));
    assert!(matches!(command(&["--version"]), Command::Version));
    assert!(matches!(command(&["-version"]), Command::Version));
    assert!(matches!(command(&["-V"]), Command::Version));
    assert!(matches!(command(&["check", "--keys"]), Command::Keys));
    for help in ["-h", "-help", "--help", "help"] {
        let Command::Help(text) = command(&[help]) else { panic!("{help} gave no help") };
        assert!(text.contains("demo") && text.contains("--bind <ADDRESS>"), "{text}");
    }
    let Command::Check { settings, connect } =
        command(&["-user", "a", "check", "-connect", "-uri", "bolt://b:1"])
    else {
        panic!("expected a check")
    };
    assert!(connect);
    assert_eq!((settings.uplink.user.as_str(), settings.uplink.host.as_str()), ("a", "b"));
    let words = "demo --seconds 5 --clients 100 --pool 4 --shards 2 --once --json out.json";
    let Command::Demo(demo) = command(&words.split(' ').collect::<Vec<_>>()) else {
        panic!("expected a demo")
    };
    let expected = Demo {
        seconds: Some(5),
        clients: Some(100),
        pool: Some(4),
        shards: Some(2),
        once: true,
        json: Some("out.json".into()),
    };
    assert_eq!(demo, expected);
    assert!(matches!(command(&["demo"]), Command::Demo(demo) if demo == Demo::default()));
}

#[test]
fn listeners_come_from_repeated_sections() {
    let text = "[[listen]]\nbind = \"a:1\"\n[[listen]]\nbind = \"b:2\"\n";
    let binds: Vec<Bind> =
        run_toml(text).unwrap().listen.into_iter().map(|listen| listen.bind).collect();
    assert_eq!(binds, [named("a", 1), named("b", 2)]);
}

#[test]
fn numbers_and_switches_need_no_quotes_in_files() {
    let text = "shards = 2\n[pool]\nsize = 1_000\napproval_ttl = 0\n[transport]\nbundles = true\n";
    let settings = run_toml(text).unwrap();
    assert_eq!(
        (settings.shards, settings.pool.size, settings.transport.bundles),
        (Some(2), 1000, true)
    );
    assert_eq!(settings.pool.approval_ttl, Duration::ZERO);
}

#[test]
fn session_mode_may_go_unmonitored() {
    let settings = run(&["--set", "uplink.monitor=false", "--set", "pool.mode=session"], &[]);
    assert_eq!((settings.uplink.monitor, settings.pool.mode), (false, PoolMode::Session));
}

/// `--set` texts that are refused, and a part of what is said.
const REFUSED: [(&str, &str); 78] = [
    ("listen.bind=unix:bolt.sock", "must begin at /"),
    ("listen.bind=unix:", "must begin at /"),
    ("listen.bind=unix:/a,unix:/a", "unix:/a is listed twice"),
    ("admin.bind=unix:/a", "not a Unix socket"),
    ("listen.unix_mode=rw", "expected rights in octal, such as 0660, not \"rw\""),
    ("listen.unix_mode=1777", "expected rights in octal"),
    ("listen.proxy_protocol=required", "needs listen.proxy_networks"),
    ("listen.proxy_networks=10.0.0.0/8", "needs listen.proxy_protocol = \"required\""),
    ("listen.proxy_networks=ten", "expected a network such as 10.0.0.0/8, not \"ten\""),
    ("transport.busy_poll=2ms", "expected 0 or a duration from 1us to 1ms, not \"2ms\""),
    ("transport.busy_poll=50", "expected 0 or a duration from 1us to 1ms, not \"50\""),
    ("pool.size=0", "--set pool.size: expected a whole number from 1 to 65535, not \"0\""),
    ("pool.size=-1", "not \"-1\""),
    ("pool.size=1.5", "expected a whole number"),
    ("pool.size=99999999999", "expected a whole number"),
    ("pool.size=", "expected a whole number"),
    ("shards=0", "from 1 to 64"),
    ("shards=65", "from 1 to 64"),
    ("shards=many", "(or \"auto\")"),
    ("pool.mode=statement", "expected transaction or session, not \"statement\""),
    ("pool.reauth=yes", "expected true or false"),
    ("pool.acquisition_timeout=60", "expected a duration with a unit"),
    ("pool.acquisition_timeout=0s", "expected a duration above zero"),
    ("pool.acquisition_timeout=-5s", "expected a duration with a unit"),
    ("pool.acquisition_timeout=5 parsecs", "expected a duration with a unit"),
    ("pool.acquisition_timeout=off", "expected a duration with a unit"),
    ("pool.max_lifetime=9999999999h", "expected at most 8760h"),
    ("pool.max_lifetime=18446744073709551615h", "expected a duration with a unit"),
    ("pool.max_lifetime_jitter=10", "expected a share from 0% to 50%"),
    ("pool.max_lifetime_jitter=51%", "expected a share from 0% to 50%"),
    ("timeouts.query=0s", "(or \"off\")"),
    ("timeouts.query=", "(or \"off\")"),
    ("limits.login_message=8192", "expected a size with a unit"),
    ("limits.login_message=1B", "expected a size from 512B to 1MiB"),
    ("limits.login_message=8KB", "expected a size with a unit"),
    ("limits.held_bytes=20000000000GiB", "expected a size with a unit"),
    ("limits.held_bytes=8GiB", "expected a size from 64KiB to 1GiB"),
    ("limits.clients=0", "from 1 to"),
    ("limits.heap_bytes=1GB", "expected a size with a unit"),
    ("limits.held_bytes=65MiB", "limits.held_bytes (65MiB) is above limits.heap_bytes (64MiB)"),
    ("transport.buffers_client=500", "expected a power of two from 16 to 32768"),
    ("transport.buffers_server=65536", "expected a power of two"),
    ("transport.buffer_size=5KiB", "multiples of 4KiB"),
    ("listen.bind=localhost", "the port is missing"),
    ("listen.bind=localhost:70000", "the port is not from 0 to 65535"),
    ("listen.bind=localhost:+80", "the port is not a number"),
    ("listen.bind=localhost:", "the port is not from 0 to 65535"),
    ("listen.bind=::1:80", "needs brackets"),
    ("listen.bind=[::1:80", "closing bracket is missing"),
    ("listen.bind=[localhost]:80", "no IPv6 address"),
    ("listen.bind=[::1]80", "no :port"),
    ("listen.bind=a b:80", "a character that no name has"),
    ("listen.bind=a:1,a:1", "a:1 is listed twice"),
    ("admin.bind=localhost:8888", "cannot be admin.bind and listen.bind at once"),
    ("uplink.uri=localhost:7687", "the scheme is missing"),
    ("uplink.uri=http://localhost", "not the scheme \"http\""),
    ("uplink.uri=bolt://", "the host is missing"),
    ("uplink.uri=neo4j://a?policy=eu", "nothing behind it"),
    ("uplink.user=", "expected 1 to 4096 bytes of text, not 0"),
    ("uplink.monitor=false", "uplink.monitor = false needs pool.mode = \"session\""),
    ("uplink.versions=5.5", "expected a Bolt version"),
    ("uplink.versions=5.4,", "expected a Bolt version"),
    ("uplink.versions=5.4,5.4", "expected each version once, not 5.4 twice"),
    ("log.level=loud", "expected error or warn or info or debug or trace"),
    ("listen.tls=required", "needs a certificate"),
    ("listen.tls=on", "expected off or optional or required, not \"on\" (or \"auto\")"),
    ("listen.key=k", "not as many files in listen.key"),
    ("listen.cert=a,,b", "none of them empty"),
    ("listen.client_names=a", "needs listen.client_ca"),
    ("listen.client_ca=a", "set listen.tls = \"required\""),
    ("listen.tls_minimum=1.1", "expected 1.2 or 1.3"),
    ("uplink.ca_file=a", "for bolt+s:// and neo4j+s:// only"),
    ("uplink.client_cert=a", "put +s behind the scheme"),
    ("uplink.client_key=a", "needs uplink.client_cert"),
    ("listen.websocket_origins=example.com", "expected a scheme and a host"),
    ("listen.websocket_origins=https://a.example,https://b.example/", "not \"https://b.example/\""),
    ("timeouts.first_bytes=1min", "timeouts.first_bytes is longer than timeouts.login"),
    ("tls.cert=a", "unknown key \"tls.cert\""),
];

#[test]
fn impossible_values_are_refused_with_a_reason() {
    for (written, part) in REFUSED {
        let said = refused(&["--set", written], &[], &[]);
        assert!(said.contains(part), "{written}: {said}");
        assert_eq!(said.lines().count(), 1, "{written}: {said}");
    }
}

#[test]
fn encrypted_schemes_are_the_drivers_own() {
    use boltmux::config::Encryption::{Off, Unverified, Verified};
    for (name, scheme, encryption) in [
        ("bolt", Scheme::Bolt, Off),
        ("bolt+s", Scheme::Bolt, Verified),
        ("bolt+ssc", Scheme::Bolt, Unverified),
        ("neo4j", Scheme::Neo4j, Off),
        ("neo4j+s", Scheme::Neo4j, Verified),
        ("NEO4J+SSC", Scheme::Neo4j, Unverified),
    ] {
        let uplink = run(&["-uri", &format!("{name}://a:1")], &[]).uplink;
        assert_eq!((uplink.scheme, uplink.encryption), (scheme, encryption), "{name}");
        assert_eq!((uplink.host.as_str(), uplink.port), ("a", 1));
    }
    let said = refused(&["-uri", "bolt+sc://a:1"], &[], &[]);
    assert!(said.contains("not the scheme \"bolt+sc\""), "{said}");
}

#[test]
fn a_certificate_of_the_go_proxy_makes_tls_optional() {
    let pairs = [("BOLT_PROXY_CERT", "c.pem"), ("BOLT_PROXY_KEY", "k.pem")];
    for settings in [run(&["-cert", "c.pem", "--key", "k.pem"], &[]), run(&[], &pairs)] {
        let tls = &settings.listen[0].tls;
        assert_eq!(tls.effective_mode(), TlsMode::Optional);
        assert_eq!(
            (tls.certificates[0].to_str(), tls.keys[0].to_str()),
            (Some("c.pem"), Some("k.pem"))
        );
    }
    assert_eq!(run(&[], &[]).listen[0].tls.effective_mode(), TlsMode::Off);
}

#[test]
fn each_listener_of_a_file_has_its_own_tls_and_flags_are_for_all() {
    let text = "[[listen]]\nbind = \"a:1\"\ntls = \"required\"\ncert = [\"x\", \"y\"]\n\
                client_ca = \"ca\"\nclient_names = [\"app\"]\ntls_minimum = \"1.3\"\n\
                [[listen]]\nbind = \"b:2\"\n";
    let listen = run_toml(text).unwrap().listen;
    let [first, second] = &listen[..] else { panic!("expected two, not {listen:?}") };
    assert_eq!(first.tls.certificates, ["x", "y"].map(std::path::PathBuf::from));
    assert_eq!(first.tls.effective_mode(), TlsMode::Required);
    assert_eq!(
        (&first.tls.client_names, first.tls.minimum),
        (&vec!["app".to_owned()], boltmux::config::TlsVersion::V1_3)
    );
    assert_eq!(second.tls, boltmux::config::ListenTls::default());
    let pairs = ["listen.cert=c", "listen.bind=:1,:2", "listen.tls=required"];
    let arguments: Vec<&str> = pairs.iter().flat_map(|pair| ["--set", pair]).collect();
    let listen = run(&arguments, &[]).listen;
    assert_eq!(listen.len(), 2);
    assert!(listen.iter().all(|one| one.tls.effective_mode() == TlsMode::Required));
    assert!(listen.iter().all(|one| one.tls.certificates.len() == 1));
}

#[test]
fn cross_checks_wait_for_what_cannot_be_read() {
    let arguments = ["--set", "uplink.monitor=false", "--set", "pool.mode=sesion"];
    let said = refused(&arguments, &[], &[]);
    assert!(!said.contains("needs pool.mode") && said.contains("\"sesion\""), "{said}");
    let never = ["--set", "pool.reauth=true", "--set", "pool.approval_ttl=0"];
    assert!(refused(&never, &[], &[]).contains("needs pool.approval_ttl above 0"));
    let session = ["--set", "uplink.versions=5.4", "--set", "pool.mode=session"];
    assert!(refused(&session, &[], &[]).contains("the server answers the handshake itself"));
    let said = refused(&["--set", "pool.reauth=true", "--set", "pool.mode=session"], &[], &[]);
    assert!(said.starts_with("--set pool.reauth: "), "{said}");
    let idle = ["--set", "timeouts.transaction=1s", "--set", "timeouts.idle_in_transaction=2s"];
    assert!(refused(&idle, &[], &[]).contains("would never end anything"));
}

#[test]
fn limits_that_could_never_end_anything_are_refused() {
    let longer = ["--set", "timeouts.query=2s", "--set", "timeouts.transaction=1s"];
    let said = refused(&longer, &[], &[]);
    assert!(said.starts_with("--set timeouts.query: ") && said.contains("never end"), "{said}");
    for key in ["timeouts.idle_in_transaction", "timeouts.transaction", "timeouts.query"] {
        let limit = format!("{key}=1s");
        let said = refused(&["--set", &limit, "--set", "pool.mode=session"], &[], &[]);
        assert!(said.starts_with(&format!("--set {key}: {key} needs pool.mode")), "{said}");
        run(&["--set", &limit], &[]);
    }
    // Less than the default for the first bytes is no contradiction.
    let settings = run(&["--set", "timeouts.login=5s"], &[]);
    assert!(settings.timeouts.first_bytes > settings.timeouts.login);
    let origins = "listen.websocket_origins=https://a.example:8443,app://local,null";
    assert_eq!(run(&["--set", origins], &[]).listen[0].websocket_origins.len(), 3);
}

#[test]
fn all_mistakes_are_reported_at_once_in_order() {
    let file = ("a.toml", "[pool]\nsize = 0\nsiez = 1\n\n[tmeouts]\nlogin = \"5s\"\n");
    let said = refused(
        &["--config", "a.toml", "-bind", "nowhere", "--set", "pool.mode=x", "--set", "novalue"],
        &[("BOLTMUX__POOL__SISE", "1"), ("BOLT_PROXY_URI", "x")],
        &[file],
    );
    let places: Vec<&str> = said.lines().map(|line| line.split(": ").next().unwrap()).collect();
    let expected = [
        "a.toml:3",
        "a.toml:5",
        "BOLTMUX__POOL__SISE",
        "--set",
        "a.toml:2",
        "BOLT_PROXY_URI",
        "-bind",
        "--set pool.mode",
    ];
    assert_eq!(places, expected, "{said}");
}

#[test]
fn a_wrong_flag_does_not_hide_a_wrong_variable() {
    let said = refused(&["--bnd", ":1"], &[("BOLTMUX__POOL__SIZE", "0")], &[]);
    assert!(said.contains("BOLTMUX__POOL__SIZE: expected"), "{said}");
    assert!(said.contains("'--bnd'") && said.contains("did you mean --bind?"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn unknown_arguments_hide_no_wrong_setting() {
    let said = refused(
        &[
            "--set",
            "pool.size=0",
            "--bogus",
            "5",
            "-x",
            "--set",
            "foo=1",
            "--more=7",
            "check",
            "it",
        ],
        &[],
        &[],
    );
    for part in ["'--bogus'", "'-x'", "'--more'", "'it'", "--set pool.size: ", "--set foo: "] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert_eq!(said.lines().count(), 6, "{said}");
    // A value that is missing is none of the unknown: what comes before it is looked at.
    let said = refused(&["--set", "pool.size=0", "--config"], &[], &[]);
    assert!(said.contains("'--config <FILE>'") && said.contains("pool.size"), "{said}");
    let said = refused(&["--bogus", "--set", "listen.tls=required"], &[], &[]);
    assert!(said.contains("'--bogus'") && said.contains("needs a certificate"), "{said}");
}

#[test]
fn wrong_usage_is_refused() {
    let wrong: [&[&str]; 8] = [
        &["serve"],
        &["check", "extra"],
        &["demo", "--seconds", "0"],
        &["demo", "--seconds", "soon"],
        &["demo", "--bind", ":1"],
        &["-bind", ":1", "demo"],
        &["--set", "pool.size=1", "version"],
        &["-b", ":1"],
    ];
    for arguments in wrong {
        assert_eq!(refused(arguments, &[], &[]).lines().count(), 1, "{arguments:?}");
    }
}

#[test]
fn nearest_names_are_suggested_only_when_near() {
    let cases = [
        ("pool.siez=1", Some("\"pool.size\"")),
        ("tiemouts.login=1s", Some("\"timeouts.login\"")),
        ("pool.aquisition_timout=1s", Some("\"pool.acquisition_timeout\"")),
        ("shard=1", Some("\"shards\"")),
        ("size=1", Some("\"pool.size\"")),
        ("limits.drain=1s", Some("\"timeouts.drain\"")),
        ("pool.colour=red", None),
        ("zzz=1", None),
    ];
    for (written, expected) in cases {
        let said = refused(&["--set", written], &[], &[]);
        match expected {
            Some(name) => assert!(said.contains(&format!("did you mean {name}?")), "{said}"),
            None => assert!(said.contains("check --keys"), "{said}"),
        }
    }
    let said = refused(&[], &[("BOLTMUX__POOL__SISE", "1")], &[]);
    assert!(said.contains("did you mean \"BOLTMUX__POOL__SIZE\"?"), "{said}");
}

/// TOML texts that are refused: the line, and a part of what is said.
const REFUSED_TOML: [(&str, usize, &str); 19] = [
    ("pool = 5\n", 1, "expected a section of keys under \"pool\""),
    ("\n[[pool]]\nsize = 1\n", 2, "expected a section of keys under \"pool\""),
    ("[pool.size]\nx = 1\n", 1, "expected one value for \"pool.size\""),
    ("[pool]\nsize = [1, 2]\n", 2, "expected one value"),
    ("[timeouts]\nlogin = 5\n", 2, "expected a duration with a unit"),
    ("[limits]\nheld_bytes = 65536\n", 2, "expected a size in quotes, not 65536"),
    ("[pool]\nsize = 1.5\n", 2, "not \"1.5\""),
    ("[[listen]]\nbind = \"a:1\"\n[[listen]]\nbind = \"b\"\n", 4, "the port is missing"),
    ("[[listen]]\nbnd = \"a:1\"\n", 2, "did you mean \"listen.bind\"?"),
    ("[[listen]]\n", 1, "\"listen\" needs its bind"),
    ("[[listen]]\ntls = \"off\"\n", 1, "\"listen\" needs its bind"),
    ("[[listen]]\nbind = \"a:1,b:2\"\n", 2, "expected one address for each section"),
    ("[[listen]]\nbind = \"a:1\"\ncert = [1]\n", 3, "expected texts in quotes in the list"),
    ("listen = []\n", 1, "expected a section of keys in the list \"listen\", it is empty"),
    ("listen = [\"a:1\"]\n", 1, "expected sections of keys"),
    ("[[listen_raw]]\nbind = \"a:1\"\n", 1, "unknown section \"listen_raw\""),
    ("[pol]\nsize = 1\n", 1, "unknown section \"pol\", did you mean \"pool\"?"),
    ("[pool]\nsize = 1\nsize = 2\n", 3, "not valid TOML"),
    ("[pool]\n\nsize = = 1\n", 3, "not valid TOML"),
];

#[test]
fn mistakes_in_toml_are_found_at_their_line() {
    for (text, line, part) in REFUSED_TOML {
        let said = run_toml(text).expect_err(text).to_string();
        let first = said.lines().next().unwrap();
        assert!(first.starts_with(&format!("a.toml:{line}: ")), "{text}: {said}");
        assert!(first.contains(part), "{text}: {said}");
    }
}

#[test]
fn mistakes_in_json_are_found_at_their_path() {
    let cases = [
        ("{\"pool\": {\"size\": 0}}", "a.json: pool.size: expected a whole number"),
        ("{\"pool\": {\"siz\": 1}}", "a.json: pool.siz: unknown key"),
        ("{\"listen\": [{\"bind\": \"x:1\"}, {\"bind\": \"y\"}]}", "a.json: listen[1].bind: "),
        ("{\"shards\": null}", "a.json: shards: expected a whole number"),
        ("[]", "a.json: expected a JSON object"),
        ("{\n\"pool\": {,}}", "a.json:2: not valid JSON"),
    ];
    for (text, start) in cases {
        let said = refused(&["--config", "a.json"], &[], &[("a.json", text)]);
        assert!(said.starts_with(start), "{text}: {said}");
    }
}

#[test]
fn the_monitors_password_may_come_from_a_file() {
    let named = ["--set", "uplink.password_file=monitor.password"];
    let settings = run(&named, &[]);
    assert_eq!(settings.uplink.password.unwrap().expose(), "not-a-real-password");
    let both = refused(&named, &[("BOLT_PROXY_PASSWORD", "not-a-real-password")], &[]);
    assert!(both.contains("uplink.password or uplink.password_file, not both"), "{both}");
    assert!(!both.contains("not-a-real"), "{both}");
    let gone = refused(&["--set", "uplink.password_file=gone"], &[], &[]);
    assert!(gone.starts_with("gone: cannot be read: "), "{gone}");
    let empty = refused(&["--set", "uplink.password_file=empty"], &[], &[("empty", "\n")]);
    assert!(empty.starts_with("empty: expected a password, it is empty"), "{empty}");
}

#[test]
fn unreadable_files_are_a_mistake_among_others() {
    let said = refused(&["--config", "gone.toml", "--set", "pool.size=0"], &[], &[]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("gone.toml: cannot be read: "), "{said}");
    assert!(lines[1].starts_with("--set pool.size: "), "{said}");
    assert_eq!(lines.len(), 2, "{said}");
}

#[test]
fn secrets_are_never_printed() {
    const SECRET: &str = "correct-horse";
    let settings = run(&["-pass", SECRET], &[]);
    assert_eq!(settings.uplink.password.as_ref().unwrap().expose(), SECRET);
    assert!(!format!("{settings:?}").contains(SECRET));

    let long = SECRET.repeat(1000);
    let assignment = format!("uplnk.password={SECRET}");
    let uri = format!("bolt://neo4j:{SECRET}@db:7687");
    let misspelled = format!("--passs={SECRET}");
    let arguments: [&[&str]; 5] = [
        &["-pass", &long],
        &["--set", SECRET],
        &["--set", &assignment],
        &["-uri", &uri],
        &[&misspelled],
    ];
    for arguments in arguments {
        let said = refused(arguments, &[], &[]);
        assert!(!said.contains(SECRET), "{said}");
    }
    let files = [
        "[uplink]\npassword = correct-horse\n",
        "[uplink]\npassword = \"correct-horse\n",
        "[uplink]\npasswords = \"correct-horse\"\n",
        "[uplink]\npassword = [\"correct-horse\"]\n",
    ];
    for text in files {
        let said = run_toml(text).expect_err(text).to_string();
        assert!(!said.contains(SECRET), "{said}");
    }
    let said = run_toml("[uplink]\npassword = 1234567\n").expect_err("no quotes").to_string();
    assert!(!said.contains("1234567") && said.contains("in quotes"), "{said}");
}

#[test]
fn addresses_are_read_and_printed() {
    let cases = [
        ("localhost:8888", named("localhost", 8888), "localhost:8888"),
        ("127.0.0.1:1", address(Ipv4Addr::LOCALHOST, 1), "127.0.0.1:1"),
        ("[::1]:65535", address(Ipv6Addr::LOCALHOST, 65535), "[::1]:65535"),
        (":0", Bind { host: BindHost::Any, port: 0 }, "*:0"),
        ("*:7687", Bind { host: BindHost::Any, port: 7687 }, "*:7687"),
        ("my_db.local:1", named("my_db.local", 1), "my_db.local:1"),
    ];
    for (text, bind, shown) in cases {
        assert_eq!(parse_bind(text), Ok(bind.clone()), "{text}");
        assert_eq!(show_bind(&bind), shown);
    }
}

fn address(address: impl Into<IpAddr>, port: u16) -> Bind {
    Bind { host: BindHost::Address(address.into()), port }
}

#[test]
fn uris_are_read() {
    let cases = [
        ("bolt://localhost", Scheme::Bolt, "localhost", 7687),
        ("BOLT://db:1/", Scheme::Bolt, "db", 1),
        ("neo4j://10.0.0.1:2", Scheme::Neo4j, "10.0.0.1", 2),
        ("neo4j://[fe80::1]", Scheme::Neo4j, "fe80::1", 7687),
        ("neo4j://[fe80::1]:3", Scheme::Neo4j, "fe80::1", 3),
    ];
    for (text, scheme, host, port) in cases {
        let found = parse_uri(text).unwrap();
        assert_eq!((found.scheme, found.host.as_str(), found.port), (scheme, host, port));
    }
    for text in ["bolt://*", "bolt://:7687", "bolt://a:b", "neo4j://a/b", "bolt//a", ""] {
        assert!(parse_uri(text).is_err(), "{text:?} was taken");
    }
}

#[test]
fn durations_and_sizes_are_read_back_as_printed() {
    for duration_ms in [0, 1, 999, 1000, 1001, 60_000, 90_000, 3_600_000, 3_000_000] {
        let duration = Duration::from_millis(duration_ms);
        assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
    }
    for bytes in [0, 1, 1023, 1024, 1025, 64 << 10, 1 << 20, 3 << 30, u32::MAX] {
        assert_eq!(parse_size(&show_size(bytes), 0, u32::MAX), Ok(bytes));
    }
    assert_eq!(parse_duration(" 5 s "), Ok(Duration::from_secs(5)));
    assert_eq!(show_duration(Duration::from_secs(3000)), "50min");
    assert_eq!(show_size(1 << 20), "1MiB");
}

#[test]
fn documentation_lists_every_key() {
    let table = keys_markdown();
    assert_eq!(table.lines().count(), KEYS.len() + 2);
    for (key, row) in KEYS.iter().zip(table.lines().skip(2)) {
        assert!(row.starts_with(&format!("| `{}` | ", key.name)), "{row}");
        assert_eq!(row.matches(" | ").count(), 3, "a bar would break the table: {row}");
    }
}

/// The program itself, without this process's environment.
fn boltmux(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_boltmux"))
        .args(arguments)
        .env_clear()
        .output()
        .expect("the program was built beside its tests");
    let text = |bytes| String::from_utf8(bytes).expect("the program prints text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_says_how_it_ended() {
    let (status, printed, said) = boltmux(&["version"]);
    assert_eq!((status, said.as_str()), (Some(0), ""));
    assert_eq!(printed, format!("boltmux {}\n", env!("CARGO_PKG_VERSION")));

    let (status, printed, said) = boltmux(&["check", "--keys"]);
    assert_eq!((status, said.as_str()), (Some(0), ""));
    assert_eq!(printed, keys_markdown());

    let (status, _, said) = boltmux(&["check"]);
    assert_eq!((status, said.as_str()), (Some(0), ""));

    let (status, printed, said) = boltmux(&["--config", "does/not/exist.toml", "check"]);
    assert_eq!((status, printed.as_str()), (Some(2), ""));
    assert!(said.starts_with("does/not/exist.toml: cannot be read: "), "{said}");
}

#[test]
fn wrong_settings_hide_no_missing_file() {
    let missing = ["--set", "listen.cert=/does/not/exist.pem", "--set", "pool.size=0"];
    for arguments in [&missing[..], &[&["check"][..], &missing, &["--bogus"]].concat()] {
        let (status, printed, said) = boltmux(arguments);
        assert_eq!((status, printed.as_str()), (Some(2), ""), "{said}");
        assert!(said.contains("/does/not/exist.pem: cannot be read: "), "{said}");
        assert!(said.contains("--set pool.size: "), "{said}");
    }
}

#[test]
fn listeners_that_take_each_others_port_are_refused() {
    for words in [&["check"][..], &[]] {
        let listen = ["--set", "listen.bind=*:7688,[::]:7688"];
        let (status, printed, said) = boltmux(&[words, &listen].concat());
        assert_eq!((status, printed.as_str()), (Some(2), ""), "{said}");
        assert!(said.contains("listen.bind = [::]:7688"), "{said}");
        assert!(!said.contains("another program"), "{said}");
    }
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    for arguments in [&["check", "--keys"][..], &["--help"], &["version"], &["check"]] {
        let (reader, writer) = io::pipe().expect("a pipe can be had");
        drop(reader);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_boltmux"));
        let output = command.args(arguments).env_clear().stdout(writer).output();
        let output = output.expect("the program was built beside its tests");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn check_dials_only_when_asked() {
    let server = Server::start(Options::default()).expect("a server on a free port");
    let address = server.address();
    let uri = format!("bolt://{address}");
    let (status, printed, said) = boltmux(&["check", "--connect", "-uri", &uri]);
    assert_eq!(status, Some(0), "{said}");
    let connected = format!("connected to {address}: Neo4j/");
    assert!(printed.contains(&connected) && printed.contains(", Bolt 5.8, "), "{printed}");
    // Who answers with something else than Bolt is no server.
    let http = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let other = http.local_addr().expect("it is bound");
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = http.accept()?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
        io::copy(&mut stream, &mut io::sink())
    });
    let (status, printed, said) =
        boltmux(&["check", "--connect", "-uri", &format!("bolt://{other}")]);
    assert_eq!((status, printed.lines().count()), (Some(1), 1), "{printed}{said}");
    assert!(said.contains(&other.to_string()), "{said}");
    answers.join().expect("it does not panic").expect("it was connected to");

    // What comes first is what the settings say: a PROXY header.
    let balanced = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = balanced.local_addr().expect("it is bound");
    let first = std::thread::spawn(move || {
        let mut first = [0; 6];
        balanced.accept()?.0.read_exact(&mut first).map(|()| first)
    });
    let words = ["--set", "uplink.proxy_protocol=v1", "-uri", &format!("bolt://{address}")];
    assert_eq!(boltmux(&[&["check", "--connect"][..], &words].concat()).0, Some(1));
    assert_eq!(&first.join().expect("it does not panic").expect("six bytes"), b"PROXY ");

    // Bound but not listening: refused, and nobody else can take the port meanwhile.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
        .expect("a socket can be had");
    let loopback: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    silent.bind(&loopback.into()).expect("a free port");
    let address = silent.local_addr().ok().and_then(|address| address.as_socket());
    let uri = format!("bolt://{}", address.expect("it is bound to an address"));
    let (status, _, said) = boltmux(&["check", "--connect", "-uri", &uri]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("is uplink.uri right?"), "{said}");
    assert_eq!(boltmux(&["check", "-uri", &uri]).0, Some(0));
}

#[test]
fn each_section_of_its_own_is_a_listener_of_its_own() {
    let toml = "[[listen]]\nbind = \"0.0.0.0:1\"\n\n[[listen]]\nbind = \"[::]:1\"\n\
        ipv6_only = true\n\n[[listen]]\nbind = \"unix:/run/b.sock\"\nunix_mode = \"0600\"\n\n\
        [[listen]]\nbind = \":2\"\nproxy_protocol = \"required\"\n\
        proxy_networks = [\"10.0.0.0/8\", \"192.0.2.7\"]\n\
        websocket_origins = [\"https://a.example\"]\n";
    let json = "{\"listen\": [{\"bind\": \"0.0.0.0:1\"}, \
        {\"bind\": \"[::]:1\", \"ipv6_only\": true}, \
        {\"bind\": \"unix:/run/b.sock\", \"unix_mode\": \"0600\"}, {\"bind\": \":2\", \
        \"proxy_protocol\": \"required\", \"proxy_networks\": [\"10.0.0.0/8\", \"192.0.2.7\"], \
        \"websocket_origins\": [\"https://a.example\"]}]}";
    for file in [("a.toml", toml), ("a.json", json)] {
        let command = parse_with(&["--config", file.0], &[], &[file]).unwrap();
        let Command::Run(settings) = command else { panic!("expected to run") };
        let all = &settings.listen;
        let only: Vec<bool> = all.iter().map(|listen| listen.ipv6_only).collect();
        assert_eq!(only, [false, true, false, false], "{}", file.0);
        assert_eq!((all[1].unix_mode, all[2].unix_mode), (0o660, 0o600));
        assert!(!all[0].proxy_protocol && all[3].proxy_protocol);
        let networks: Vec<String> = all[3].proxy_networks.iter().map(|it| it.to_string()).collect();
        assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32"]);
        assert_eq!(all[3].websocket_origins, ["https://a.example"]);
        assert!(all[0].websocket_origins.is_empty());
    }
}
