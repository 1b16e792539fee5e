//! Every Bolt version from login to goodbye, and that nobody gets one that the server lacks.

use crate::client::{Client, PASSWORD, encode, proposals, reset, run, run_with};
use crate::stage::Stage;
use crate::value::{Value, map};
use boltmux::synthetic::Options;
use boltmux::wire::handshake;
use boltmux::wire::message::{encode_discard, encode_pull, tag};
use boltmux::wire::version::Version;

/// Servers have the manifest since 5.7.
const MANIFEST_SINCE: Version = Version::new(5, 7);
const FAILING: &str = "Neo.ClientError.Statement.SyntaxError";

/// Before a server that speaks this version alone.
fn stage(version: Version) -> Stage {
    let manifest = version >= MANIFEST_SINCE;
    // The monitor's login: servers up to Bolt 5.0 answer HELLO to nobody else.
    let login = ["uplink.user=neo4j".to_owned(), format!("uplink.password={PASSWORD}")];
    let options = Options { versions: vec![version], manifest, ..Options::default() };
    Stage::start(&["pool.size=1", &login[0], &login[1]], options)
}

#[test]
fn every_version_from_login_to_goodbye() {
    for version in Version::ALL {
        let stage = stage(version);
        converse(&mut Client::login(stage.address(), version));
        let opened = stage
            .proxy
            .until("it is back", |all| all.get("leases_acquired") == all.get("leases_returned"));
        assert_eq!(opened.get("server_opened"), 1, "{version}: one connection serves all");
    }
}

/// Queries, transactions, a failure and its shape, RESET.
fn converse(client: &mut Client) {
    let version = client.version;
    let pull = || encode_pull(version, -1);
    let nonce = version.to_string();
    client.send(&[run("RETURN $nonce AS n", &nonce), pull()].concat());
    let came = client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
    assert_eq!(came[1].fields, [Value::List(vec![Value::from(&*nonce)])]);
    let begin = encode(tag::BEGIN, &[map(&[("mode", "r")])]);
    let query = [begin, run("ROWS 3 10", &nonce), pull(), encode(tag::COMMIT, &[])].concat();
    client.send(&query);
    let rows = [tag::RECORD; 3];
    let tags = [&[tag::SUCCESS; 2][..], &rows, &[tag::SUCCESS; 2]].concat();
    client.expect(&tags);
    let undone = [encode(tag::BEGIN, &[map(&[])]), run("WRITE $nonce", &nonce)].concat();
    client.send(&[undone, encode_discard(version, -1), encode(tag::ROLLBACK, &[])].concat());
    client.expect(&[tag::SUCCESS; 4]);
    client.send(&[run(&format!("FAIL {FAILING}"), &nonce), pull()].concat());
    let failure = client.expect_failure(FAILING);
    let has_status = failure.fields[0].get("gql_status").is_some();
    assert_eq!(has_status, version.has_gql_errors(), "{version}: {failure:?}");
    client.expect(&[tag::IGNORED]);
    client.send(&reset());
    client.expect(&[tag::SUCCESS]);
    let extra = map(&[("mode", "r")]);
    client.send(&[run_with("RETURN 1", map(&[]), extra), pull()].concat());
    client.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
}

#[test]
fn nobody_gets_a_version_that_the_server_lacks() {
    for version in Version::ALL {
        let stage = stage(version);
        let others = Version::ALL.into_iter().filter(|other| *other != version);
        let others: Vec<[u8; 4]> = others.map(Version::to_bytes).collect();
        for four in others.chunks(4) {
            let mut client = Client::connect(stage.address());
            client.send(&proposals(four));
            assert_eq!(client.read(4).as_deref(), Ok(&[0; 4][..]), "{version} {four:?}");
            client.expect_end();
        }
        // A range, as drivers propose it, ends at what is there.
        let range = [0, version.minor, version.minor, version.major];
        let mut client = Client::connect(stage.address());
        client.send(&proposals(&[range]));
        assert_eq!(client.read(4).as_deref(), Ok(&version.to_bytes()[..]));
        assert_eq!(listed(&stage), [version]);
    }
}

/// What the manifest lists.
fn listed(stage: &Stage) -> Vec<Version> {
    let mut client = Client::connect(stage.address());
    client.send(&proposals(&[[0, 0, 1, 0xFF]]));
    let mut bytes = Vec::new();
    loop {
        bytes.extend(client.read(1).expect("the manifest"));
        if let Some((_, versions)) = handshake::parse_manifest(&bytes).expect("well formed") {
            return versions;
        }
    }
}
