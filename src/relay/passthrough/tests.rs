use super::*;
use crate::wire::chunk::{NOOP, chunked};
use crate::wire::handshake::{manifest, manifest_choice, propose_exact, propose_manifest};
use crate::wire::message::{
    Auth, GOODBYE, HelloSuccess, IGNORED, LogonSuccess, Notifications, RESET, Role, Routing,
    RoutingTable, SUCCESS_EMPTY, ServerHello, encode_begin, encode_hello, encode_logon,
    encode_pull, encode_route, encode_run,
};
use crate::wire::packstream::Writer;

const V3: Version = Version::new(3, 0);
const V4_4: Version = Version::new(4, 4);
const V5_0: Version = Version::new(5, 0);
const V5_7: Version = Version::new(5, 7);
const V5_8: Version = Version::new(5, 8);
const OWN: &str = "listener:7687";
const SPELLED: &str = "proxy.test:7687";
const RECORD: &[u8] = &[0, 4, 0xB1, 0x71, 0x91, 1, 0, 0];
const HAS_MORE: &[u8] = b"\x00\x0D\xB1\x70\xA1\x88has_more\xC3\x00\x00";
const FAILURE: &[u8] = b"\x00\x09\xB1\x7F\xA1\x84code\x80\x00\x00";

/// What one side says, and what the other is to get.
enum Turn {
    Client(Vec<u8>),
    Server { sent: Vec<u8>, seen: Vec<u8> },
}

fn client(parts: &[&[u8]]) -> Turn {
    Turn::Client(parts.concat())
}

fn server(parts: &[&[u8]]) -> Turn {
    Turn::Server { sent: parts.concat(), seen: parts.concat() }
}

fn changed(sent: &[u8], seen: &[u8]) -> Turn {
    Turn::Server { sent: sent.to_vec(), seen: seen.to_vec() }
}

#[derive(Default)]
struct Received {
    server: Vec<u8>,
    client: Vec<u8>,
    client_calls: usize,
    copied: usize,
}

struct Out<'a>(&'a [u8], &'a mut Received);

impl Pipes for Out<'_> {
    fn to_server(&mut self, range: Range<usize>) {
        self.1.server.extend_from_slice(&self.0[range]);
    }

    fn to_server_copied(&mut self, bytes: Bytes) {
        self.1.copied += bytes.len();
        self.1.server.extend_from_slice(&bytes);
    }

    fn to_client(&mut self, range: Range<usize>) {
        assert!(!range.is_empty(), "an empty range is a call for nothing");
        self.1.client_calls += 1;
        self.1.client.extend_from_slice(&self.0[range]);
    }

    fn to_client_copied(&mut self, bytes: Bytes) {
        self.1.client_calls += 1;
        self.1.copied += bytes.len();
        self.1.client.extend_from_slice(&bytes);
    }

    fn own_address(&self) -> String {
        OWN.into()
    }
}

/// A session and all that came out of it.
struct Relayed {
    pass: Passthrough,
    out: Received,
}

impl Relayed {
    fn new() -> Relayed {
        Relayed { pass: Passthrough::default(), out: Received::default() }
    }

    /// After the handshake and the login, with nothing recorded.
    fn logged_in() -> Relayed {
        let mut relayed = Relayed::new();
        login(V5_8, false).iter().for_each(|turn| relayed.play(turn, usize::MAX));
        assert!(relayed.pass.is_logged_in() && relayed.pass.is_idle());
        relayed.out = Received::default();
        relayed
    }

    fn hear_client(&mut self, input: &[u8]) {
        self.pass.client_bytes(input, &mut Out(input, &mut self.out));
    }

    fn hear_server(&mut self, input: &[u8]) {
        self.pass.server_bytes(input, &mut Out(input, &mut self.out));
    }

    /// Plays a turn in pieces of this size, and checks what arrived.
    fn play(&mut self, turn: &Turn, size: usize) {
        self.play_cut(turn, |bytes| bytes.chunks(size).collect());
    }

    fn play_cut(&mut self, turn: &Turn, cut: impl Fn(&[u8]) -> Vec<&[u8]>) {
        let before = (self.out.server.len(), self.out.client.len());
        match turn {
            Turn::Client(sent) => {
                cut(sent).into_iter().for_each(|piece| self.hear_client(piece));
                assert_eq!(self.out.server[before.0..], **sent, "requests are never changed");
            }
            Turn::Server { sent, seen } => {
                cut(sent).into_iter().for_each(|piece| self.hear_server(piece));
                assert_eq!(self.out.client[before.1..], **seen);
            }
        }
    }

    /// Asks for a table, which is to name this address.
    fn routes_to(&mut self, address: &str, size: usize) {
        self.play(&client(&[&route(V5_8, None)]), size);
        self.play(&changed(&server_table(V5_8), &table(V5_8, [address; 3])), size);
    }
}

fn hello(version: Version, address: Option<&str>) -> Vec<u8> {
    let hello = ServerHello {
        user_agent: "p/1",
        bolt_agent: "p/1",
        routing: address.map(|address| (address, &[][..])),
        utc_patch: true,
        notifications: &Notifications::default(),
        auth: Some(&Auth::from_parts("basic", "test", "test-password")),
    };
    encode_hello(version, &hello)
}

fn hello_success(version: Version, ssr: bool) -> Vec<u8> {
    let success = HelloSuccess { connection_id: "bolt-61".into(), ..HelloSuccess::default() };
    success.encode(version, false, Some(ssr), None)
}

fn logon_success(address: Option<&str>) -> Vec<u8> {
    let advertised_address = address.map(str::to_owned);
    LogonSuccess { advertised_address, credentials_expired: true }.encode(V5_8)
}

fn route(version: Version, address: Option<&str>) -> Vec<u8> {
    let routing = Routing { address: address.map(str::to_owned), entries: Vec::new() };
    encode_route(version, &routing, Some("neo4j"), None)
}

fn table(version: Version, addresses: [&str; 3]) -> Vec<u8> {
    let roles = [Role::Write, Role::Read, Role::Route];
    let servers = roles.into_iter().zip(addresses.map(|address| vec![address.to_owned()]));
    let (ttl_seconds, database) = (300, Some("neo4j".into()));
    RoutingTable { ttl_seconds, database, servers: servers.collect() }.encode(version)
}

fn server_table(version: Version) -> Vec<u8> {
    table(version, ["core-1:7687", "core-2:7687", "core-3:7687"])
}

fn run() -> Vec<u8> {
    encode_run("RETURN 1", &[0xA0], &[0xA0])
}

fn query(version: Version) -> [Turn; 2] {
    [
        client(&[&run(), &encode_pull(version, -1)]),
        server(&[SUCCESS_EMPTY, RECORD, RECORD, SUCCESS_EMPTY]),
    ]
}

fn login(version: Version, has_manifest: bool) -> Vec<Turn> {
    let hello = hello(version, Some(SPELLED));
    let [ask, answer, choice] = match has_manifest {
        true => [propose_manifest().to_vec(), manifest(&Version::ALL), manifest_choice(version)],
        false => [propose_exact(version).to_vec(), version.to_bytes().to_vec(), Vec::new()],
    };
    let mut turns = vec![client(&[&ask]), server(&[&answer]), client(&[&choice, &hello])];
    turns.push(changed(&hello_success(version, false), &hello_success(version, true)));
    if version.has_logon() {
        let sees = Some("core-1:7687").filter(|_| version < V5_8);
        let auth = Auth::from_parts("basic", "test", "test-password");
        turns.push(client(&[&encode_logon(&auth)]));
        turns.push(changed(&logon_success(Some("core-1:7687")), &logon_success(sees)));
    }
    turns
}

fn conversation(version: Version, has_manifest: bool) -> Vec<Turn> {
    let mut turns = login(version, has_manifest);
    turns.extend(query(version));
    if version.has_route() {
        turns.push(client(&[&route(version, Some(SPELLED)), &NOOP]));
        turns.push(changed(&server_table(version), &table(version, [SPELLED; 3])));
    }
    turns.push(client(&[&encode_begin(&[0xA0])]));
    turns.push(server(&[&NOOP, &NOOP, SUCCESS_EMPTY]));
    turns.push(client(&[&run(), &encode_pull(version, 1), RESET]));
    turns.push(server(&[FAILURE, IGNORED, SUCCESS_EMPTY]));
    turns.extend(query(version));
    turns.push(client(&[GOODBYE]));
    turns
}

fn conversations() -> Vec<Vec<Turn>> {
    let mut all: Vec<_> =
        [V3, V4_4, V5_0, V5_7, V5_8].map(|version| conversation(version, false)).into();
    all.extend([V5_8, V5_0].map(|version| conversation(version, true)));
    all
}

#[test]
fn conversations_cut_at_every_offset_give_the_same() {
    for turns in conversations() {
        for at in 0..=400 {
            let mut relayed = Relayed::new();
            for turn in &turns {
                relayed.play_cut(turn, |bytes| {
                    let (first, second) = bytes.split_at(at.min(bytes.len()));
                    vec![first, second]
                });
            }
            assert!(relayed.pass.has_said_goodbye() && relayed.pass.is_logged_in());
            assert!(relayed.pass.is_idle());
            assert_eq!(relayed.pass.held_bytes(), 0);
        }
    }
}

#[test]
fn conversations_in_pieces_of_any_size_give_the_same() {
    for turns in conversations() {
        for size in 1..40 {
            let mut relayed = Relayed::new();
            turns.iter().for_each(|turn| relayed.play(turn, size));
            assert!(relayed.pass.is_idle() && relayed.pass.has_said_goodbye());
        }
    }
}

#[test]
fn the_handshakes_answer_goes_on_in_one_piece() {
    for answer in [manifest(&Version::ALL), V5_8.to_bytes().to_vec()] {
        let mut relayed = Relayed::new();
        relayed.hear_client(&propose_manifest());
        relayed.play(&server(&[&answer]), 1);
        assert_eq!(relayed.out.client_calls, 1);
    }
}

#[test]
fn the_usual_exchange_is_one_range_for_each_input() {
    let mut relayed = Relayed::logged_in();
    query(V5_8).iter().for_each(|turn| relayed.play(turn, usize::MAX));
    assert_eq!((relayed.out.client_calls, relayed.out.copied), (1, 0));
    assert_eq!(relayed.pass.held_bytes(), 0);
}

#[test]
fn the_table_names_the_proxy_as_the_client_spells_it() {
    let cases = [
        (Some("hello:1"), Some("route:2"), "route:2"),
        (Some("hello:1"), None, "hello:1"),
        (None, Some("route:2"), "route:2"),
        (Some(""), None, OWN),
        (None, None, OWN),
    ];
    for (in_hello, in_route, expected) in cases {
        let mut relayed = Relayed::new();
        relayed.hear_client(&propose_exact(V4_4));
        relayed.hear_server(&V4_4.to_bytes());
        relayed.hear_client(&hello(V4_4, in_hello));
        relayed.hear_server(&hello_success(V4_4, false));
        relayed.hear_client(&route(V4_4, in_route));
        relayed.play(&changed(&server_table(V4_4), &table(V4_4, [expected; 3])), 5);
    }
}

#[test]
fn an_answer_in_many_chunks_is_changed_too() {
    let (message, mut scratch, mut sent) = (server_table(V5_8), Vec::new(), Vec::new());
    for piece in chunk::payload(&message, &mut scratch).chunks(7) {
        sent.extend([0, piece.len() as u8]);
        sent.extend(piece);
    }
    sent.extend(NOOP);
    for size in [1, 2, 9, 10_000] {
        let mut relayed = Relayed::logged_in();
        relayed.hear_client(&route(V5_8, None));
        relayed.play(&changed(&sent, &table(V5_8, [SPELLED; 3])), size);
    }
}

#[test]
fn only_answers_with_the_field_are_changed() {
    let empty = chunked(&[0xB1, tag::SUCCESS, 0xA1, 0x82, b'r', b't', 0xA0]);
    let broken = chunked(&[0xB1, tag::SUCCESS, 0xA2, 0x82, b'r', b't']);
    for answer in [FAILURE, IGNORED, SUCCESS_EMPTY, &empty, &broken] {
        let mut relayed = Relayed::logged_in();
        relayed.hear_client(&route(V5_8, None));
        // The table behind it is one that nobody asked for.
        relayed.play(&server(&[answer, &server_table(V5_8)]), 3);
        relayed.routes_to(SPELLED, 3);
    }
}

#[test]
fn an_ignored_route_does_not_confuse_the_next() {
    let mut relayed = Relayed::logged_in();
    let (pull, route) = (encode_pull(V5_8, -1), route(V5_8, None));
    relayed.hear_client(&[&run()[..], &pull, &route, RESET, &run(), &route, &pull].concat());
    let first = [FAILURE, IGNORED, IGNORED, SUCCESS_EMPTY, SUCCESS_EMPTY].concat();
    let sent = [&first[..], &server_table(V5_8)].concat();
    let seen = [&first[..], &table(V5_8, [SPELLED; 3])].concat();
    relayed.play(&changed(&sent, &seen), 3);
    assert!(!relayed.pass.is_idle(), "PULL is not answered");
    relayed.play(&server(&[RECORD, SUCCESS_EMPTY]), usize::MAX);
    assert!(relayed.pass.is_idle());
}

#[test]
fn a_failed_login_is_relayed() {
    for version in [V5_0, V5_8] {
        let mut relayed = Relayed::new();
        relayed.hear_client(&propose_exact(version));
        relayed.hear_server(&version.to_bytes());
        relayed.hear_client(&hello(version, None));
        relayed.play(&server(&[FAILURE]), 1);
        assert!(!relayed.pass.is_logged_in() && !relayed.pass.is_mid_reply());
    }
}

#[test]
fn a_request_answered_before_its_end_is_not_owed_again() {
    let mut relayed = Relayed::logged_in();
    relayed.hear_client(&run()[..9]);
    relayed.play(&server(&[FAILURE]), usize::MAX);
    relayed.hear_client(&run()[9..]);
    assert!(relayed.pass.is_idle());
}

#[test]
fn what_is_too_long_to_keep_passes_in_bounded_memory() {
    let mut relayed = Relayed::logged_in();
    let mut long = Writer::new();
    long.struct_header(3, tag::ROUTE).map_header(1).string("address").string("far:9");
    long.list_header(1).string(&"b".repeat(300_000)).map_header(0);
    for piece in long.into_message().chunks(999) {
        relayed.hear_client(piece);
        assert!(relayed.pass.held_bytes() <= REQUEST_READ_MAX);
    }
    relayed.play(&changed(&server_table(V5_8), &table(V5_8, ["far:9"; 3])), 7);
    relayed.hear_client(&route(V5_8, None));
    let mut long = Writer::new();
    long.struct_header(1, tag::SUCCESS).map_header(1).string("x");
    long.byte_array(&vec![7; 3 * SUMMARY_HELD_MAX]);
    relayed.play(&server(&[&long.into_message()]), 1000);
    assert_eq!(relayed.pass.held_bytes(), 0);
    relayed.routes_to(SPELLED, 7);
}

#[test]
fn half_a_summary_goes_on_when_the_server_ends() {
    let mut relayed = Relayed::logged_in();
    relayed.hear_client(&route(V5_8, None));
    let half = &server_table(V5_8)[..40];
    half.chunks(1).for_each(|piece| relayed.hear_server(piece));
    assert!(relayed.out.client.is_empty() && relayed.pass.is_mid_reply());
    relayed.pass.server_ended(&mut Out(&[], &mut relayed.out));
    assert_eq!(relayed.out.client, half);
}

#[test]
fn open_work_is_not_idle() {
    let mut relayed = Relayed::logged_in();
    relayed.hear_client(&encode_begin(&[0xA0]));
    relayed.hear_server(SUCCESS_EMPTY);
    assert!(!relayed.pass.is_idle(), "a transaction is open");
    relayed.hear_client(RESET);
    relayed.hear_server(SUCCESS_EMPTY);
    assert!(relayed.pass.is_idle());
    relayed.hear_client(&[run(), encode_pull(V5_8, 1)].concat());
    relayed.hear_server(&[SUCCESS_EMPTY, RECORD, HAS_MORE].concat());
    assert!(!relayed.pass.is_idle(), "the result has more");
    relayed.hear_client(&encode_pull(V5_8, -1));
    relayed.hear_server(&[RECORD, SUCCESS_EMPTY].concat());
    assert!(relayed.pass.is_idle());
    relayed.hear_client(&[0]);
    assert!(relayed.pass.is_mid_request() && !relayed.pass.is_idle());
}

#[test]
fn what_is_no_bolt_is_relayed_and_not_followed() {
    let answers: [&[u8]; 3] = [&[0; 4], b"HTTP/1.1 400 Bad Request\r\n", &[0, 0, 2, 0xFF, 1]];
    for answer in answers {
        for size in [1, 3, 100] {
            let mut relayed = Relayed::new();
            relayed.play(&client(&[&propose_manifest()]), 20);
            relayed.play(&server(&[answer]), size);
            relayed.play(&client(&[b"anything"]), size);
            assert_eq!((relayed.pass.version(), relayed.pass.is_idle()), (None, false));
        }
    }
}

#[test]
fn a_newer_version_is_followed_like_the_newest() {
    let mut relayed = Relayed::new();
    relayed.hear_client(&propose_manifest());
    relayed.hear_server(&[0, 0, 1, 0xFF, 1, 0, 0, 3, 9, 0]);
    relayed.hear_client(&[0, 0, 3, 9, 0x81, 0x01]);
    assert_eq!(relayed.pass.version(), Some(Version::new(9, 3)));
    relayed.routes_to(OWN, 4);
}

#[test]
fn a_hello_behind_the_proposals_is_read_when_the_version_is_known() {
    let mut relayed = Relayed::new();
    let hello = hello(V5_8, Some("early:1"));
    relayed.play(&client(&[&propose_exact(V5_8), &hello]), 11);
    let sent = [&V5_8.to_bytes()[..], &hello_success(V5_8, false)].concat();
    let seen = [&V5_8.to_bytes()[..], &hello_success(V5_8, true)].concat();
    relayed.play(&changed(&sent, &seen), usize::MAX);
    relayed.routes_to("early:1", usize::MAX);
}

#[test]
fn a_flood_behind_the_proposals_is_relayed_unread() {
    let mut relayed = Relayed::new();
    relayed.hear_server(&[0, 0]);
    let flood = [0x41; 3 * REQUEST_READ_MAX];
    for piece in [&propose_exact(V5_8)[..], &flood].concat().chunks(500) {
        relayed.hear_client(piece);
        assert!(relayed.pass.held_bytes() <= REQUEST_READ_MAX + 64);
    }
    assert!(relayed.pass.held_bytes() <= 64, "only half an answer is kept");
    relayed.hear_server(&[8, 5, 1, 2]);
    assert_eq!(relayed.out.client, [0, 0, 8, 5, 1, 2]);
}

/// The multiplier is Knuth's, from MMIX; a failure replays by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % bound
    }

    /// Some payload behind this head, in chunks of any size.
    fn message(&mut self, head: [u8; 2]) -> Vec<u8> {
        let length_max = [20, 2_000, 100_000][self.below(20).saturating_sub(17)];
        let mut payload = head.to_vec();
        payload.resize(2 + self.below(length_max), 0x5A);
        let (mut rest, mut message) = (&payload[..], Vec::new());
        while !rest.is_empty() {
            let limit = [1, 300, 65_535][self.below(3)].min(rest.len());
            let (piece, more) = rest.split_at(1 + self.below(limit));
            message.extend((piece.len() as u16).to_be_bytes());
            message.extend(piece);
            rest = more;
        }
        message.extend(NOOP);
        message
    }

    /// Adds a request, its answer, and what is to be seen of that.
    fn exchange(&mut self, asked: &mut Vec<u8>, sent: &mut Vec<u8>, seen: &mut Vec<u8>) {
        if self.below(6) == 0 {
            asked.extend(route(V5_8, None));
            sent.extend(server_table(V5_8));
            return seen.extend(table(V5_8, [SPELLED; 3]));
        }
        let request = [tag::RUN, tag::PULL, tag::COMMIT, tag::RESET][self.below(4)];
        asked.extend(self.message([0xB3, request]));
        let mut answer = if self.below(3) == 0 { NOOP.to_vec() } else { Vec::new() };
        for _ in 0..self.below(4) {
            answer.extend(self.message([0xB1, tag::RECORD]));
        }
        let summary = [tag::SUCCESS, tag::FAILURE, tag::IGNORED][self.below(3)];
        answer.extend(self.message([0xB1, summary]));
        sent.extend_from_slice(&answer);
        seen.extend(answer);
    }
}

#[test]
fn random_conversations_keep_every_other_byte() {
    for seed in 0..40 {
        let (mut random, mut relayed) = (Random(seed), Relayed::logged_in());
        for _ in 0..30 {
            let (mut asked, mut sent, mut seen) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..1 + random.below(5) {
                random.exchange(&mut asked, &mut sent, &mut seen);
            }
            let size_max = [3, 200, 100_000][random.below(3)];
            let size = 1 + random.below(size_max);
            relayed.play(&Turn::Client(asked), size);
            relayed.play(&Turn::Server { sent, seen }, size);
            assert!(relayed.pass.owed.is_empty(), "seed {seed}");
        }
    }
}
