//! TLS on both sides: who is let in, what is shown to whom, what is resumed, and what is refused.

use crate::certificates::{Authority, Certificate, Folder, text_of};
use crate::client::{Client, PASSWORD, SILENCE, Said, V5_4, begin, commit, pull, run};
use crate::program::Program;
use crate::stage::{Running, Stage, until};
use boltmux::synthetic::{Options, Server};
use boltmux::wire::message::tag;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const HOST: &str = "bolt.example";

/// A proxy with TLS for `HOST` before a plain server.
struct Secured {
    stage: Stage,
    authority: Authority,
    folder: Folder,
}

impl Secured {
    fn start(pairs: &[&str]) -> Secured {
        let (authority, folder) = (Authority::new(), Folder::new());
        let files = folder.pairs("own", &authority.certificate(&[HOST]));
        let all: Vec<&str> =
            files.iter().map(String::as_str).chain(pairs.iter().copied()).collect();
        Secured { stage: Stage::start(&all, Options::default()), authority, folder }
    }

    fn address(&self) -> SocketAddr {
        self.stage.address()
    }

    fn login(&self, config: &Arc<ClientConfig>) -> Client {
        login(self.address(), config, HOST)
    }

    fn handshakes(&self, outcome: &str) -> u64 {
        self.stage.proxy.metrics().get(&format!("tls_handshakes{{client,{outcome}}}"))
    }

    /// Whether the proxy is as well as ever.
    fn expect_well(&self) {
        self.login(&self.authority.client()).expect_well();
    }
}

fn login(address: SocketAddr, config: &Arc<ClientConfig>, host: &str) -> Client {
    let client = Client::secure(address, config, host).expect("the handshake succeeds");
    client.agree(V5_4).log_in("neo4j", PASSWORD).expect("the login is right")
}

/// What a handshake fails with, before it ends or with the first bytes after it: in TLS 1.3 a
/// client is done before the server has looked at its certificate.
fn refusal(address: SocketAddr, config: &Arc<ClientConfig>) -> String {
    match Client::secure(address, config, HOST) {
        Err(error) => error.to_string(),
        Ok(mut client) => {
            let tls = client.tls.as_mut().unwrap();
            let mut stream = rustls::Stream::new(&mut **tls, &mut client.stream);
            let _ = stream.write_all(&[0; 20]);
            stream.read(&mut [0; 4]).map(|_| String::from("an answer")).unwrap_err().to_string()
        }
    }
}

#[test]
fn clients_of_both_versions_are_served_and_plain_ones_too() {
    let secured = Secured::start(&[]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = secured.login(&secured.authority.client_of(version));
        let tls = client.tls.as_ref().unwrap();
        assert_eq!(tls.protocol_version(), Some(version.version));
        client.expect_well();
    }
    Client::login(secured.address(), V5_4).expect_well();
    assert_eq!((secured.handshakes("full"), secured.handshakes("failed")), (2, 0));
}

#[test]
fn a_listener_may_require_tls_or_its_newest_version() {
    let secured = Secured::start(&["listen.tls=required", "listen.tls_minimum=1.3"]);
    secured.expect_well();
    let mut plain = Client::connect(secured.address());
    plain.send(&crate::client::proposals(&[V5_4.to_bytes()]));
    plain.expect_end();
    let old = secured.authority.client_of(&rustls::version::TLS12);
    assert!(refusal(secured.address(), &old).contains("ProtocolVersion"));
    let metrics = secured.stage.proxy.until("both are closed", |all| {
        all.get("closed{tls_required}") == 1 && all.get("closed{tls_failed}") == 1
    });
    assert_eq!(metrics.get("tls_handshakes{client,failed}"), 1);
}

#[test]
fn tls_where_there_is_none_and_tls_within_tls_are_closed() {
    let stage = Stage::start(&[], Options::default());
    assert!(Client::secure(stage.address(), &Authority::new().client(), HOST).is_err());
    stage.proxy.until("it is counted", |all| all.get("closed{tls_not_offered}") == 1);
    let secured = Secured::start(&[]);
    let mut client = Client::secure(secured.address(), &secured.authority.client(), HOST).unwrap();
    client.send(&hello_of(&secured.authority.client()));
    client.expect_end();
    secured.stage.proxy.until("it is counted", |all| all.get("closed{nested_layer}") == 1);
}

/// A ClientHello.
fn hello_of(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from(HOST).unwrap();
    let mut tls = ClientConnection::new(config.clone(), name).unwrap();
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn each_host_gets_its_own_certificate() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let sets: [&[&str]; 3] = [&["first.example"], &["*.second.example"], &["third.example"]];
    let mut lists = [String::new(), String::new()];
    for (index, names) in sets.iter().enumerate() {
        let algorithm = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519][index % 2];
        let pairs = folder.pairs(&index.to_string(), &authority.with(names, algorithm, |_| ()));
        for (list, pair) in lists.iter_mut().zip(pairs) {
            let path = pair.split_once('=').unwrap().1;
            list.push_str(if list.is_empty() { "" } else { "," });
            list.push_str(path);
        }
    }
    let pairs = [format!("listen.cert={}", lists[0]), format!("listen.key={}", lists[1])];
    let stage = Stage::start(&[&pairs[0], &pairs[1]], Options::default());
    for host in ["first.example", "a.second.example", "b.SECOND.example", "third.example"] {
        login(stage.address(), &authority.client(), host).expect_well();
    }
    // Who names no host of theirs is shown the first one's, and does not believe it.
    let error = Client::secure(stage.address(), &authority.client(), "fourth.example").err();
    let error = error.expect("it is for another name").to_string();
    assert!(error.contains("first.example"), "{error}");
}

#[test]
fn clients_certificates_are_asked_for_and_their_names_looked_at() {
    let (authority, folder, other) = (Authority::new(), Folder::new(), Authority::new());
    let [cert, key] = folder.pairs("own", &authority.certificate(&[HOST]));
    let ca = format!("listen.client_ca={}", folder.write("ca.pem", &authority.pem));
    let names = "listen.client_names=app.example,*.apps.example";
    let stage = Stage::start(&[&cert, &key, &ca, names, "listen.tls=required"], Options::default());
    let address = stage.address();
    for name in ["app.example", "one.apps.example"] {
        let config = authority.client_with(&authority.certificate(&[name]));
        login(address, &config, HOST).expect_well();
        // Resumed, it is the same client.
        let mut again = login(address, &config, HOST);
        assert_eq!(again.tls.as_ref().unwrap().handshake_kind(), Some(HandshakeKind::Resumed));
        again.expect_well();
    }
    let wrong_name = authority.client_with(&authority.certificate(&["other.example"]));
    let stranger = authority.client_with(&other.certificate(&["app.example"]));
    for (config, alert) in [
        (authority.client(), "CertificateRequired"),
        (wrong_name, "AccessDenied"),
        (stranger, "UnknownCA"),
    ] {
        let said = refusal(address, &config);
        assert!(said.contains(alert), "expected {alert}, got {said}");
    }
    stage.proxy.until("all are counted", |all| all.get("closed{tls_failed}") == 3);
}

#[test]
fn a_session_is_resumed_on_whichever_shard() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let secured = Secured::start(&["shards=2"]);
        let config = secured.authority.client_of(version);
        secured.login(&config).expect_well();
        let mut shards = [0, 0];
        while shards.contains(&0) {
            let mut client = secured.login(&config);
            let kind = client.tls.as_ref().unwrap().handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Resumed), "{version:?}, {shards:?}");
            shards[client.serial() % 2] += 1;
            client.expect_well();
        }
        let total: u64 = shards.iter().sum();
        assert_eq!((secured.handshakes("full"), secured.handshakes("resumed")), (1, total));
    }
}

#[test]
fn a_handshake_may_come_in_any_pieces_and_end_anywhere() {
    let secured = Secured::start(&["timeouts.first_bytes=1min", "timeouts.login=1min"]);
    let hello = hello_of(&secured.authority.client());
    for cut in 0..=hello.len() {
        let mut stream = TcpStream::connect(secured.address()).unwrap();
        stream.write_all(&hello[..cut]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        // Nothing, or close_notify: a handshake's record only to a whole ClientHello.
        let is_answered = answer.first() == Some(&22);
        assert_eq!(is_answered, cut == hello.len(), "cut at {cut}: {answer:02x?}");
    }
    let count = hello.len() as u64 + 1;
    let metrics = secured.stage.proxy.until("all are gone", |all| {
        all.get("closed{client_gone}") == count && all.get("client_connections{login}") == 0
    });
    assert_eq!(metrics.get("tls_handshakes{client,failed}"), 0);
    // Byte by byte it is a handshake like any other.
    let mut tls =
        ClientConnection::new(secured.authority.client(), HOST.try_into().unwrap()).unwrap();
    let mut stream = TcpStream::connect(secured.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    while tls.is_handshaking() {
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).unwrap();
        }
        bytes.chunks(1).for_each(|byte| stream.write_all(byte).unwrap());
        if tls.is_handshaking() {
            tls.read_tls(&mut stream).unwrap();
            tls.process_new_packets().unwrap();
        }
    }
}

#[test]
fn garbage_in_a_handshake_is_answered_by_an_alert_and_counted() {
    let secured = Secured::start(&[]);
    let mut hello = hello_of(&secured.authority.client());
    hello[5] ^= 0x40; // the kind of message
    let count = 4;
    for flaw in 0..count {
        let mut stream = TcpStream::connect(secured.address()).unwrap();
        let bytes = match flaw {
            0 => hello.clone(),
            1 => [&[22, 3, 1, 255, 255][..], &[0; 64]].concat(),
            2 => [&[23, 3, 3, 0, 32][..], &[7; 32]].concat(),
            _ => [&[22, 3, 1, 0, 4][..], &[1, 255, 255, 255]].concat(),
        };
        stream.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.first(), Some(&21), "flaw {flaw}: an alert, not {answer:02x?}");
    }
    secured.stage.proxy.until("all are counted", |all| all.get("closed{tls_failed}") == count);
    secured.expect_well();
}

#[test]
fn a_handshake_that_stands_still_ends_with_the_first_bytes_limit() {
    let secured = Secured::start(&["timeouts.first_bytes=300ms"]);
    let hello = hello_of(&secured.authority.client());
    for length in [3, 40, hello.len()] {
        let mut stream = TcpStream::connect(secured.address()).unwrap();
        stream.write_all(&hello[..length]).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    secured.stage.proxy.until("all are counted", |all| all.get("closed{login_timeout}") == 3);
}

#[test]
fn an_end_without_close_notify_is_an_end() {
    let secured = Secured::start(&[]);
    let mut client = secured.login(&secured.authority.client());
    client.send(&begin());
    client.expect(&[tag::SUCCESS]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    secured.stage.proxy.until("it is gone", |all| all.get("closed{client_gone}") == 1);
    // And with one: what came before it is answered, and the proxy says close_notify as well.
    let mut client = secured.login(&secured.authority.client());
    client.send(&crate::client::goodbye());
    assert_eq!(client.next(), Said::EndOfFile, "close_notify, not a mere end");
}

#[test]
fn long_results_and_long_requests_come_through_byte_by_byte() {
    let secured = Secured::start(&[]);
    let mut client = secured.login(&secured.authority.client());
    for size in [1, 100, 16_000, 16_384, 16_385, 70_000, 3_000_000] {
        client.send(&[run(&format!("ROWS 3 {size}"), "n"), pull(-1)].concat());
        let plain = {
            let mut plain = Client::login(secured.address(), V5_4);
            plain.send(&[run(&format!("ROWS 3 {size}"), "n"), pull(-1)].concat());
            let tags = [&[tag::SUCCESS][..], &[tag::RECORD; 3], &[tag::SUCCESS]].concat();
            plain.expect(&tags)
        };
        for expected in plain {
            assert_eq!(client.message().fields.len(), expected.fields.len());
        }
        let nonce = "x".repeat(size);
        client.send(&[run("RETURN $nonce AS n", &nonce), pull(-1)].concat());
        let came = client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
        let expected = crate::value::Value::List(vec![nonce.as_str().into()]);
        assert!(came[1].fields == [expected], "{size} bytes came back as they were");
    }
}

#[test]
fn a_new_certificate_is_shown_by_itself_and_a_bad_one_never() {
    let secured = Secured::start(&[]);
    let before = shown(&secured);
    let expired = secured.authority.with(&[HOST], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let refusals = |count: u64| {
        secured
            .stage
            .proxy
            .until("it is refused", |all| all.get("certificate_changes{refused}") >= count)
    };
    let mut count = refusals(0).get("certificate_changes{refused}");
    for (chain, key) in [
        (expired.chain.as_str(), expired.key.as_str()),
        ("no certificate", expired.key.as_str()),
        (expired.chain.as_str(), "no key"),
        ("", ""),
    ] {
        secured.folder.write("own.key", key);
        secured.folder.write("own.pem", chain);
        count = refusals(count + 1).get("certificate_changes{refused}");
        assert_eq!(shown(&secured), before);
    }
    std::fs::remove_file(secured.folder.path("own.pem")).unwrap();
    refusals(count + 1);
    assert_eq!(shown(&secured), before);
    // A good one behind a symbolic link, as secret stores have it.
    let good = secured.authority.certificate(&[HOST]);
    secured.folder.write("own.key", &good.key);
    let path = secured.folder.write("elsewhere.pem", &good.chain);
    std::os::unix::fs::symlink(path, secured.folder.path("own.pem")).unwrap();
    until("it is shown", || shown(&secured) != before);
    assert_eq!(shown(&secured), good.chain()[0].to_vec());
}

/// The certificate that a new client sees.
fn shown(secured: &Secured) -> Vec<u8> {
    let client = Client::secure(secured.address(), &secured.authority.client(), HOST).unwrap();
    client.tls.unwrap().peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn all_bad_files_are_named_at_start_with_2_and_no_secret() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let good = authority.certificate(&[HOST]);
    let [first, second] = [&good, &authority.certificate(&[HOST])];
    let chain = folder.write("a.pem", &first.chain);
    let key = folder.write("b.key", &second.key);
    let missing = text_of(&folder.path("missing.pem"));
    let junk = folder.write("junk.pem", "junk-that-may-be-secret");
    let pairs = [
        "listen.tls=required".to_owned(),
        format!("listen.cert={chain},{missing},{junk}"),
        format!("listen.key={key},{key},{key}"),
        format!("listen.client_ca={junk}"),
    ];
    let (status, lines) = crate::program::fail(&pairs);
    assert_eq!((status, lines.len()), (Some(2), 4), "{lines:#?}");
    let text = lines.join("\n");
    assert!(!text.contains("junk-that") && !text.contains("PRIVATE"), "{text}");
    for part in [
        format!("{key}: it is not the key of this certificate"),
        format!("{missing}: cannot be read: No such file"),
        format!("{junk}: expected a certificate in PEM form"),
        "(listen.client_ca)".into(),
    ] {
        assert!(text.contains(&part), "no {part:?} in {text}");
    }
}

/// A server that speaks TLS only.
fn encrypted_server(certificate: &Certificate, clients: Option<&Authority>) -> Server {
    let tls = Some(certificate.server(clients));
    Server::start(Options { tls, ..Options::default() }).unwrap()
}

#[test]
fn servers_are_spoken_to_over_tls_and_sessions_resumed() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let server = encrypted_server(&authority.certificate(&["localhost"]), None);
    let ca = format!("uplink.ca_file={}", folder.write("ca.pem", &authority.pem));
    let port = server.address().port();
    for (uri, ca) in [
        (format!("uplink.uri=bolt+ssc://127.0.0.1:{port}"), None),
        (format!("uplink.uri=neo4j+s://localhost:{port}"), Some(ca.as_str())),
    ] {
        for mode in ["transaction", "session"] {
            let mode = format!("pool.mode={mode}");
            let pairs: Vec<&str> = [uri.as_str(), &mode].into_iter().chain(ca).collect();
            let proxy = Running::start(server.address(), &pairs);
            let mut clients: Vec<Client> =
                (0..3).map(|_| Client::login(proxy.address, V5_4)).collect();
            clients.iter_mut().for_each(|client| client.send(&begin()));
            clients.iter_mut().for_each(|client| drop(client.expect(&[tag::SUCCESS])));
            clients.iter_mut().for_each(|client| client.send(&commit()));
            clients.iter_mut().for_each(|client| drop(client.expect(&[tag::SUCCESS])));
            clients.iter_mut().for_each(Client::expect_well);
            let metrics = proxy.metrics();
            assert_eq!(metrics.get("tls_handshakes{server,failed}"), 0);
            assert!(metrics.get("tls_handshakes{server,resumed}") >= 1, "{metrics:#?}");
            assert_eq!(metrics.get("server_discarded{unread}"), 0);
        }
    }
}

#[test]
fn an_encrypted_idle_connection_is_lent_to_another_shard() {
    let authority = Authority::new();
    let server = encrypted_server(&authority.certificate(&["localhost"]), None);
    let uri = format!("uplink.uri=bolt+ssc://{}", server.address());
    let proxy = Running::start(server.address(), &[&uri, "shards=2", "pool.size=1"]);
    let mut clients: [Option<Client>; 2] = [None, None];
    while clients.iter().any(Option::is_none) {
        let client = Client::login(proxy.address, V5_4);
        let shard = client.serial() % 2;
        clients[shard] = Some(client);
    }
    for _ in 0..10 {
        clients.iter_mut().flatten().for_each(Client::expect_well);
    }
    let metrics = proxy.metrics();
    assert!(metrics.get("server_lent") >= 10, "{metrics:#?}");
    assert_eq!(metrics.get("server_borrowed"), metrics.get("server_lent"));
    assert!(metrics.get("tls_handshakes{server,full}") <= 2, "{metrics:#?}");
}

#[test]
fn a_server_that_is_not_believed_is_said_to_be_so() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let expired = authority.with(&["localhost"], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let stranger = Authority::new();
    let ca = format!("uplink.ca_file={}", folder.write("ca.pem", &authority.pem));
    for (certificate, clients, reason) in [
        (&expired, None, "has expired, on Jan  1"),
        (&authority.certificate(&["a.example", "b.example"]), None, "not for localhost, but for"),
        (&stranger.certificate(&["localhost"]), None, "the issuer of the peer's certificate"),
        (&authority.certificate(&["localhost"]), Some(&authority), "uplink.client_cert"),
    ] {
        let server = encrypted_server(certificate, clients);
        let uri = format!("uplink.uri=bolt+s://localhost:{}", server.address().port());
        let proxy = Running::start(server.address(), &[&uri, &ca]);
        let said = crate::stage::http(proxy.admin, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(said.starts_with("HTTP/1.1 503"), "{said}");
        assert!(said.contains(reason), "expected {reason:?} in {said}");
    }
    // The other way round: no TLS where TLS is expected.
    let server = Server::start(Options::default()).unwrap();
    let uri = format!("uplink.uri=bolt+ssc://localhost:{}", server.address().port());
    let proxy = Running::start(server.address(), &[&uri, "timeouts.connect=1s"]);
    let said = crate::stage::http(proxy.admin, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(said.contains("during the TLS handshake"), "{said}");
}

#[test]
fn a_server_that_is_its_own_authority_is_believed_for_its_name_only() {
    let (certificate, folder) = (crate::certificates::own_authority("localhost"), Folder::new());
    let server = encrypted_server(&certificate, None);
    let ca = format!("uplink.ca_file={}", folder.write("own.pem", &certificate.chain));
    let port = server.address().port();
    let uri = format!("uplink.uri=bolt+s://localhost:{port}");
    let proxy = Running::start(server.address(), &[&uri, &ca]);
    Client::login(proxy.address, V5_4).expect_well();
    let uri = format!("uplink.uri=bolt+s://127.0.0.1:{port}");
    let proxy = Running::start(server.address(), &[&uri, &ca]);
    let said = crate::stage::http(proxy.admin, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(said.contains("not for 127.0.0.1, but for"), "{said}");
}

#[test]
fn a_server_that_asks_is_shown_our_certificate() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let server = encrypted_server(&authority.certificate(&["localhost"]), Some(&authority));
    let own = authority.certificate(&["boltmux.example"]);
    let uri = format!("uplink.uri=bolt+s://localhost:{}", server.address().port());
    let ca = format!("uplink.ca_file={}", folder.write("ca.pem", &authority.pem));
    let cert = format!("uplink.client_cert={}", folder.write("own.pem", &own.chain));
    let key = format!("uplink.client_key={}", folder.write("own.key", &own.key));
    let both = folder.write("both.pem", &[own.key.as_str(), own.chain.as_str()].concat());
    let both = format!("uplink.client_cert={both}");
    for pairs in [&[&uri, &ca, &cert, &key][..], &[&uri, &ca, &both]] {
        let pairs: Vec<&str> = pairs.iter().map(|pair| pair.as_str()).collect();
        let proxy = Running::start(server.address(), &pairs);
        Client::login(proxy.address, V5_4).expect_well();
    }
}

#[test]
fn sighup_reads_the_certificates_anew_and_logs_no_secret() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let first = authority.certificate(&[HOST]);
    let [cert, key] = folder.pairs("own", &first);
    let server = Server::start(Options::default()).unwrap();
    let mut program =
        Program::start(server.address(), &[&cert, &key, "shards=1", "log.level=debug"]);
    program.signal("HUP");
    program.expect_line("took over new certificates, for bolt.example");
    login(program.address, &authority.client(), HOST).expect_well();
    folder.write("own.key", "not a key");
    program.signal("HUP");
    let line = program.expect_line("the certificate that was in use stays");
    assert!(line.contains("own.key: expected a private key"), "{line}");
    login(program.address, &authority.client(), HOST).expect_well();
    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(0));
    let secret = first.key.lines().nth(1).unwrap();
    assert!(program.rest().iter().all(|line| !line.contains(secret) && !line.contains(PASSWORD)));
}

#[test]
fn a_client_that_says_nothing_is_sent_nothing() {
    let secured = Secured::start(&[]);
    let mut client = secured.login(&secured.authority.client());
    client.expect_well();
    client.stream.set_read_timeout(Some(SILENCE)).unwrap();
    assert_eq!(client.next(), Said::Nothing);
}
