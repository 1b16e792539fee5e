//! Certificates that change again and again under load: each is taken over, and no client notices.

use crate::certificates::{Authority, Certificate, Folder, text_of};
use crate::client::{Client, PASSWORD, V5_4, begin, commit, goodbye, pull, run};
use crate::stage::{Running, Stage, until};
use boltmux::synthetic::Options;
use boltmux::wire::message::tag;
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Changes unless `BOLTMUX_SWAPS` says otherwise: every fourth takes up to a second.
const SWAPS: usize = 20;
/// Its files are put in place one after the other.
const RENAMED: &str = "renamed.example";
/// Its files lie behind a link to their folder, which is turned, as secret mounts do it.
const LINKED: &str = "linked.example";
/// New connections that must all see a new certificate: some on each of two shards.
const LOOKS: usize = 8;

struct Files {
    folder: Folder,
    authority: Authority,
}

impl Files {
    fn new() -> (Files, [String; 2]) {
        let files = Files { folder: Folder::new(), authority: Authority::new() };
        files.rename(&files.authority.certificate(&[RENAMED]));
        files.turn(0, &files.authority.certificate(&[LINKED]));
        let paths = |ending: &str| {
            let linked = files.folder.path(&format!("linked.{ending}"));
            symlink(format!("data/linked.{ending}"), &linked).unwrap();
            let renamed = files.folder.path(&format!("renamed.{ending}"));
            format!("{},{}", text_of(&renamed), text_of(&linked))
        };
        let pairs =
            [format!("listen.cert={}", paths("pem")), format!("listen.key={}", paths("key"))];
        (files, pairs)
    }

    fn rename(&self, certificate: &Certificate) {
        self.folder.pairs("renamed", certificate);
    }

    /// Both files at once; those of before are gone then.
    fn turn(&self, number: usize, certificate: &Certificate) {
        let place = |number: usize| self.folder.path(&format!("data-{number}"));
        std::fs::create_dir(place(number)).unwrap();
        std::fs::write(place(number).join("linked.pem"), &certificate.chain).unwrap();
        std::fs::write(place(number).join("linked.key"), &certificate.key).unwrap();
        let fresh = self.folder.path("data.new");
        symlink(place(number), &fresh).unwrap();
        std::fs::rename(&fresh, self.folder.path("data")).unwrap();
        if number > 0 {
            std::fs::remove_dir_all(place(number - 1)).unwrap();
        }
    }
}

/// The certificate that a new client of this host sees.
fn shown(address: SocketAddr, config: &Arc<ClientConfig>, host: &str) -> Vec<u8> {
    let client = Client::secure(address, config, host).expect("every handshake succeeds");
    client.tls.unwrap().peer_certificates().unwrap()[0].to_vec()
}

/// Logs in again and again, at one host and the other; each second time with a ticket, if there is
/// one. Any error is a panic.
fn load(address: SocketAddr, authority: &Authority, is_over: &AtomicBool, logins: &AtomicU64) {
    let known = authority.client();
    let mut number = 0;
    while !is_over.load(Relaxed) {
        number += 1;
        let config = if number % 4 < 2 { known.clone() } else { authority.client() };
        let host = if number % 2 == 0 { RENAMED } else { LINKED };
        let client = Client::secure(address, &config, host).expect("every handshake succeeds");
        let mut client = client.agree(V5_4).log_in("neo4j", PASSWORD).expect("a right login");
        client.expect_well();
        client.send(&[begin(), run("WRITE $nonce", "n"), pull(-1), commit()].concat());
        client.expect(&[tag::SUCCESS; 4]);
        client.send(&goodbye());
        client.expect_end();
        logins.fetch_add(1, Relaxed);
    }
}

/// Changes one certificate and waits until nobody sees the former.
fn swap(number: usize, files: &Files, proxy: &Running, config: &Arc<ClientConfig>) {
    let count = || proxy.metrics().get("certificate_changes{taken_over}");
    let is_linked = number % 2 == 1;
    let host = if is_linked { LINKED } else { RENAMED };
    let (before, fresh) = (count(), files.authority.certificate(&[host]));
    match is_linked {
        true => files.turn(number / 2 + 1, &fresh),
        false => files.rename(&fresh),
    }
    // Each fourth is found by looking, which takes up to a second.
    if number % 4 != 3 {
        proxy.reload();
    }
    let expected = fresh.chain()[0].to_vec();
    until("the new certificate is shown", || shown(proxy.address, config, host) == expected);
    until("both shards show it", || {
        (0..LOOKS).all(|_| shown(proxy.address, config, host) == expected)
    });
    assert!(count() > before, "swap {number} is counted");
}

#[test]
fn certificates_change_again_and_again_under_load_and_no_client_notices() {
    let swaps = std::env::var("BOLTMUX_SWAPS").ok();
    let swaps = swaps.map_or(SWAPS, |text| text.parse().expect("a number of changes"));
    let (files, pairs) = Files::new();
    let pairs: Vec<&str> = pairs.iter().map(String::as_str).chain(["shards=2"]).collect();
    let stage = Stage::start(&pairs, Options::default());
    let (is_over, logins) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let work = || load(stage.address(), &files.authority, &is_over, &logins);
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        let swapping = scope.spawn(|| {
            // No tickets: who resumes a session is shown nothing.
            let mut config = ClientConfig::clone(&files.authority.client());
            config.resumption = rustls::client::Resumption::disabled();
            let config = Arc::new(config);
            for number in 0..swaps {
                let before = logins.load(Relaxed);
                swap(number, &files, &stage.proxy, &config);
                until("clients go on", || logins.load(Relaxed) > before);
            }
        });
        let swapped = swapping.join();
        is_over.store(true, Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("no client has an error"));
        swapped.expect("each change is taken over");
    });
    let metrics = stage.proxy.metrics();
    let changes = |outcome: &str| metrics.get(&format!("certificate_changes{{{outcome}}}"));
    let (taken, refused) = (changes("taken_over"), changes("refused"));
    let logins = logins.load(Relaxed);
    println!("{swaps} changes: {taken} taken over, {refused} refused halfway, {logins} logins");
    assert!(taken >= swaps as u64, "{taken} of {swaps}");
    assert_eq!(metrics.get("tls_handshakes{client,failed}"), 0);
    assert!(metrics.get("tls_handshakes{client,resumed}") > 0, "tickets outlive a change");
}
