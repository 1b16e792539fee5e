//! One connection of a Neo4j 5.26, as observed: bytes and the time in, bytes out. No sockets.
//!
//! ```text
//! Handshake -> (ManifestChoice) -> Negotiation -HELLO-> Authentication -LOGON-> Ready
//!                                       (up to 5.0: HELLO leads to Ready)
//! Ready -RUN-> AutoCommit -last PULL or DISCARD-> Ready
//! Ready -BEGIN-> InTransaction -COMMIT, ROLLBACK-> Ready
//! Ready -LOGOFF-> Authentication           any -GOODBYE-> end, without an answer
//! ```
//!
//! *Failed* and *interrupted* are flags on top: while one is set all is IGNORED but RESET, GOODBYE
//! and LOGOFF. A request that is not legal in its state is answered by `Request.Invalid` and the
//! end of the connection. RESET counts when it arrives: what came before it and is not done is
//! terminated or IGNORED, and of several only the last is answered by SUCCESS.
//!
//! Invariants: each request but GOODBYE gets one summary, in order, unless the connection is told
//! to misbehave; output that is not taken stops the work at [`OUTPUT_MAX`] and some.

mod logins;
mod requests;

use crate::synthetic::answers::{self, Welcome};
use crate::synthetic::codec::{self, Frame, Malformed, Reader};
use crate::synthetic::faults::Act;
use crate::synthetic::ledger::Outcome;
use crate::synthetic::login::{self, Token};
use crate::synthetic::query::Misdeed;
use crate::synthetic::transaction::{Produced, Transaction};
use crate::synthetic::world::{World, count};
use crate::wire::handshake::{self, Choice};
use crate::wire::message::tag;
use crate::wire::version::Version;
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// Output that waits before more is made: what one connection may queue in the transport.
pub const OUTPUT_MAX: usize = 64 << 10;
/// First capacity of the output: the answers to a short query and some.
const OUTPUT_START: usize = 512;
/// The longest message: a bound for tests; Neo4j has none but its memory.
const MESSAGE_MAX: usize = 64 << 20;
/// Bytes of a message before login (Neo4j 5.26: 8 KiB).
const LOGIN_MESSAGE_MAX: usize = 8 << 10;
/// How long a connection may take to log in (Neo4j 5.26: 30 s).
const LOGIN_WITHIN: Duration = Duration::from_secs(30);
/// Capacity of a scratch buffer that is kept for the next message.
const KEPT_MAX: usize = 64 << 10;

const INVALID: &str = "Neo.ClientError.Request.Invalid";
const UNAUTHORIZED: &str = "Neo.ClientError.Security.Unauthorized";

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What was said is sent, then the end of the stream.
    Close,
    /// A connection reset, as if the process had been killed.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Handshake,
    ManifestChoice,
    Negotiation,
    Authentication,
    Ready,
    AutoCommit,
    InTransaction,
}

/// An answer that is ready and waits for its time.
struct Delay {
    until: Duration,
    answer: BytesMut,
    ending: Option<Ending>,
    keepalive: Option<Keepalive>,
    /// The answer is a timeout's FAILURE.
    times_out: bool,
}

struct Keepalive {
    every: Duration,
    next: Duration,
}

pub struct Machine {
    id: u64,
    phase: Phase,
    version: Version,
    is_manifest: bool,
    is_failed: bool,
    /// RESETs that have arrived and are not answered yet.
    interrupts: u32,
    login_until: Option<Duration>,
    user: String,
    transaction: Transaction,
    delay: Option<Delay>,
    /// Bytes that could not be handled yet; the first `scanned` were searched for RESETs.
    input: Vec<u8>,
    scanned: usize,
    joined: Vec<u8>,
    out: BytesMut,
    /// Where in `out` the current answer begins, and what is to be done to it.
    answer_start: usize,
    misdeed: Option<Misdeed>,
    /// Output bytes until the connection ends so.
    cut: Option<(u64, Ending)>,
    is_mute: bool,
    is_frozen: bool,
    ending: Option<Ending>,
    random: u64,
}

impl Machine {
    /// A connection that was accepted `now`; `id` is unique in its server.
    pub fn new(id: u64, now: Duration, world: &World) -> Machine {
        let faults = &world.options.faults;
        Machine {
            id,
            phase: Phase::Handshake,
            version: Version::ALL[0],
            is_manifest: false,
            is_failed: false,
            interrupts: 0,
            login_until: Some(now + LOGIN_WITHIN),
            user: String::new(),
            transaction: Transaction::default(),
            delay: None,
            input: Vec::new(),
            scanned: 0,
            joined: Vec::new(),
            out: BytesMut::with_capacity(OUTPUT_START),
            answer_start: 0,
            misdeed: None,
            cut: faults.die_at_byte.map(|bytes| (bytes, Ending::Reset)),
            is_mute: false,
            is_frozen: false,
            ending: None,
            random: (faults.seed ^ id.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1,
        }
    }

    /// Takes what has been received and does what it asks for.
    pub fn receive(&mut self, bytes: &[u8], now: Duration, world: &mut World) {
        if self.is_mute || self.ending.is_some() {
            return;
        }
        count(&world.counts.bytes_received, bytes.len() as u64);
        if self.input.is_empty() && !self.is_blocked() {
            let used = self.work_through(bytes, now, world);
            self.input.extend_from_slice(&bytes[used..]);
        } else {
            self.input.extend_from_slice(bytes);
            self.advance(now, world);
        }
    }

    /// Goes on after output was taken or time has passed.
    pub fn advance(&mut self, now: Duration, world: &mut World) {
        if self.login_until.is_some_and(|until| now >= until) {
            self.ending = Some(Ending::Close);
        }
        if self.input.is_empty() && !self.is_blocked() {
            return;
        }
        let mut input = std::mem::take(&mut self.input);
        self.note_resets(&input);
        self.go_on(now, world);
        let used = self.work_through(&input, now, world);
        if used == input.len() && input.capacity() > KEPT_MAX {
            input = Vec::new();
        } else {
            input.drain(..used);
        }
        self.input = input;
    }

    /// The bytes to send next. More may follow after `advance`.
    pub fn take_output(&mut self, world: &World) -> Option<Bytes> {
        if let Some((left, ending)) = &mut self.cut {
            let length = self.out.len() as u64;
            if length >= *left {
                (self.ending, self.is_mute) = (Some(*ending), true);
                self.out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                self.cut = None;
            } else {
                *left -= length;
            }
        }
        self.answer_start = 0;
        if self.out.is_empty() {
            return None;
        }
        count(&world.counts.bytes_sent, self.out.len() as u64);
        Some(self.out.split().freeze())
    }

    /// How the connection is to end, once the output is taken.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Whether more input may come: a client that pipelines without end is not read further.
    pub fn wants_input(&self) -> bool {
        !self.is_frozen && (!self.is_blocked() || self.input.len() < OUTPUT_MAX)
    }

    /// When `advance` is due, if nothing comes before.
    pub fn wake_at(&self) -> Option<Duration> {
        let delay = self.delay.as_ref().map(|delay| {
            delay.keepalive.as_ref().map_or(delay.until, |noops| noops.next.min(delay.until))
        });
        [delay, self.login_until].into_iter().flatten().min()
    }

    /// The connection is gone: what is open is rolled back.
    pub fn abandon(&mut self, world: &World) {
        self.transaction.close(Outcome::RolledBack, world);
    }

    fn is_blocked(&self) -> bool {
        let has_work = self.delay.is_some() || self.transaction.is_pulling();
        has_work || self.out.len() >= OUTPUT_MAX || self.is_mute || self.ending.is_some()
    }

    /// Handles what it can of `input`; returns how many bytes that were.
    fn work_through(&mut self, input: &[u8], now: Duration, world: &mut World) -> usize {
        self.note_resets(input);
        let mut used = 0;
        while !self.is_blocked() {
            let rest = &input[used..];
            let taken = match self.phase {
                Phase::Handshake => self.handshake(rest, world),
                Phase::ManifestChoice => self.manifest_choice(rest, world),
                _ => self.message(rest, now, world),
            };
            let Some(taken) = taken else { break };
            used += taken;
            self.scanned = self.scanned.saturating_sub(taken);
        }
        let limit = if self.phase < Phase::Ready { LOGIN_MESSAGE_MAX } else { MESSAGE_MAX };
        if !self.is_blocked() && input.len() - used > limit {
            self.ending = Some(Ending::Close);
        }
        if self.is_mute || self.ending.is_some() { input.len() } else { used }
    }

    /// RESET acts when it arrives, not when its turn comes.
    fn note_resets(&mut self, input: &[u8]) {
        if self.phase < Phase::Ready {
            return;
        }
        loop {
            let rest = input.get(self.scanned..).unwrap_or_default();
            self.scanned += match codec::frame(rest) {
                Frame::Partial => return,
                Frame::Noop => 2,
                Frame::Single { length } => {
                    self.interrupts += u32::from(rest[2..2 + length] == [0xB0, tag::RESET]);
                    length + 4
                }
                Frame::Several { wire } => wire,
            };
        }
    }

    /// Ends or continues what blocks.
    fn go_on(&mut self, now: Duration, world: &mut World) {
        if let Some(delay) = &mut self.delay {
            if self.interrupts > 0 {
                self.delay = None;
                self.answer_start = self.out.len();
                self.terminate(world);
            } else if now >= delay.until {
                self.answer_start = self.out.len();
                self.out.extend_from_slice(&delay.answer);
                self.ending = self.ending.or(delay.ending);
                self.is_failed |= delay.times_out;
                self.delay = None;
            } else if let Some(keepalive) = &mut delay.keepalive
                && now >= keepalive.next
            {
                keepalive.next = now + keepalive.every;
                answers::noops(&mut self.out, 1);
                return;
            } else {
                return;
            }
            self.spoil(true);
        }
        if self.transaction.is_pulling() && self.out.len() < OUTPUT_MAX {
            if self.interrupts > 0 {
                self.transaction.stop_pulling();
                self.terminate(world);
                self.spoil(true);
            } else {
                self.produce(world);
            }
        }
    }

    fn handshake(&mut self, input: &[u8], world: &World) -> Option<usize> {
        let proposals = input.first_chunk::<20>()?;
        let options = &world.options;
        let choice = match handshake::parse_hello20(proposals) {
            Ok(_) if options.faults.refuses_versions => Choice::None,
            Ok(proposals) if options.manifest => handshake::choose(&proposals, &options.versions),
            Ok(proposals) => {
                let classic = proposals.map(|proposal| match proposal.major {
                    0xFF => handshake::Proposal { major: 0, minor: 0, range: 0 },
                    _ => proposal,
                });
                handshake::choose(&classic, &options.versions)
            }
            Err(_) => {
                self.ending = Some(Ending::Close);
                return Some(input.len());
            }
        };
        match choice {
            Choice::Manifest => {
                self.out.extend_from_slice(&handshake::manifest(&options.versions));
                (self.phase, self.is_manifest) = (Phase::ManifestChoice, true);
            }
            Choice::Version(version) => {
                self.out.extend_from_slice(&version.to_bytes());
                (self.phase, self.version) = (Phase::Negotiation, version);
            }
            Choice::None => {
                self.out.extend_from_slice(&[0; 4]);
                self.ending = Some(Ending::Close);
            }
        }
        Some(proposals.len())
    }

    fn manifest_choice(&mut self, input: &[u8], world: &World) -> Option<usize> {
        match handshake::parse_manifest_choice(input, &world.options.versions) {
            Ok(None) => None,
            Ok(Some((used, Some(version)))) => {
                (self.phase, self.version) = (Phase::Negotiation, version);
                Some(used)
            }
            Ok(Some((_, None))) | Err(_) => {
                self.ending = Some(Ending::Close);
                Some(input.len())
            }
        }
    }

    /// Handles the first message of `input`, if it is all there.
    fn message(&mut self, input: &[u8], now: Duration, world: &mut World) -> Option<usize> {
        match codec::frame(input) {
            Frame::Partial => None,
            Frame::Noop => Some(2),
            Frame::Single { length } => {
                self.request(&input[2..2 + length], now, world);
                Some(length + 4)
            }
            Frame::Several { wire } => {
                let mut joined = std::mem::take(&mut self.joined);
                codec::join(&input[..wire], &mut joined);
                self.request(&joined, now, world);
                if joined.capacity() <= KEPT_MAX {
                    self.joined = joined;
                }
                Some(wire)
            }
        }
    }

    fn request(&mut self, payload: &[u8], now: Duration, world: &mut World) {
        let &[marker, tag, ref fields @ ..] = payload else { return self.violate(world) };
        if tag::request_fields(self.version, tag).map(|fields| 0xB0 | fields) != Some(marker) {
            return self.violate(world);
        }
        if tag == tag::GOODBYE {
            self.ending = Some(Ending::Close);
            return;
        }
        if (self.is_failed || self.interrupts > 0) && tag != tag::RESET {
            let loses_race = tag == tag::BEGIN && world.options.faults.loses_reset_race;
            return match tag == tag::LOGOFF || (loses_race && !self.is_failed) {
                true => self.refuse(world),
                false => answers::ignored(&mut self.out),
            };
        }
        if self.draws_reset(world) {
            self.ending = Some(Ending::Reset);
            return;
        }
        self.put_noops(world.options.faults.noops_before_answer);
        self.answer_start = self.out.len();
        match world.act(tag) {
            Some(Act::Fail(code)) => self.fail_as_told(tag, &code, world),
            Some(Act::Spoil(misdeed)) => {
                self.misdeed = Some(misdeed);
                self.execute(tag, Reader::new(fields), now, world);
            }
            None => self.execute(tag, Reader::new(fields), now, world),
        }
        if self.delay.is_none() && !self.transaction.is_pulling() {
            self.spoil(true);
        }
    }

    /// The transitions; whatever is not listed is illegal.
    fn execute(&mut self, tag: u8, fields: Reader<'_>, now: Duration, world: &mut World) {
        match (self.phase, tag) {
            (_, tag::RESET) => self.reset(world),
            (Phase::Negotiation, tag::HELLO) => self.hello(fields, now, world),
            (Phase::Authentication, tag::LOGON) => self.logon(fields, now, world),
            (Phase::Ready, tag::LOGOFF) => {
                (self.phase, self.login_until) = (Phase::Authentication, Some(now + LOGIN_WITHIN));
                answers::success_empty(&mut self.out);
            }
            (Phase::Ready, tag::TELEMETRY) => self.telemetry(fields, world),
            (Phase::Ready, tag::ROUTE) => self.route(fields, world),
            (Phase::Ready, tag::BEGIN) => self.begin(fields, world),
            (Phase::Ready | Phase::InTransaction, tag::RUN) => self.run(fields, now, world),
            (Phase::AutoCommit | Phase::InTransaction, tag::PULL | tag::DISCARD) => {
                self.pull(tag == tag::DISCARD, fields, world);
            }
            (Phase::InTransaction, tag::COMMIT) => self.commit(world),
            (Phase::InTransaction, tag::ROLLBACK) => {
                self.transaction.close(Outcome::RolledBack, world);
                self.phase = Phase::Ready;
                answers::success_empty(&mut self.out);
            }
            _ => self.refuse(world),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::ledger::Ledger;
    use crate::synthetic::world::{Counts, Shared};
    use crate::synthetic::{Faults, Options};
    use crate::wire::message::{
        COMMIT, RESET, encode_begin, encode_logon, encode_pull, encode_run, tag as tags,
    };
    use crate::wire::packstream::Writer;
    use std::sync::{Arc, Mutex};

    const EMPTY: &[u8] = &[0xA0];
    const START: Duration = Duration::from_secs(1);
    const V5_1: Version = Version::new(5, 1);

    fn world(faults: Faults) -> World {
        let options = Options { faults, ..Options::default() };
        let (counts, ledger) = (Arc::default(), Mutex::new(Ledger::new(100)));
        let _: &Arc<Counts> = &counts;
        World::new(Arc::new(Shared::new(options)), counts, ledger.into(), "a:1".into(), 0)
    }

    fn hello() -> Vec<u8> {
        let mut writer = Writer::new();
        writer.struct_header(1, tags::HELLO).map_header(1).string("user_agent").string("t/1");
        writer.into_message()
    }

    fn login() -> Vec<u8> {
        let auth = crate::wire::message::Auth::from_parts("basic", "neo4j", "test-password");
        [&handshake::propose_exact(V5_1)[..], &hello(), &encode_logon(&auth)].concat()
    }

    fn ready(world: &mut World) -> Machine {
        let mut machine = Machine::new(1, START, world);
        machine.receive(&login(), START, world);
        let answer = output(&mut machine, world);
        assert!(answer.ends_with(&[0, 3, 0xB1, tags::SUCCESS, 0xA0, 0, 0]), "{answer:02x?}");
        machine
    }

    fn output(machine: &mut Machine, world: &mut World) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(output) = machine.take_output(world) {
            bytes.extend_from_slice(&output);
            machine.advance(START, world);
        }
        bytes
    }

    /// The tags of whole messages in one chunk each.
    fn tags_of(mut bytes: &[u8]) -> Vec<u8> {
        let mut tags = Vec::new();
        while let Frame::Single { length } = codec::frame(bytes) {
            tags.push(bytes[3]);
            bytes = &bytes[length + 4..];
        }
        assert!(bytes.is_empty(), "{bytes:02x?}");
        tags
    }

    fn query(text: &str) -> Vec<u8> {
        [encode_run(text, EMPTY, EMPTY), encode_pull(V5_1, -1)].concat()
    }

    #[test]
    fn every_split_gives_the_same_answers() {
        let long = "x".repeat(70_000);
        let conversation = [
            login(),
            vec![0, 0],
            query("RETURN 1"),
            encode_begin(EMPTY),
            query("ROWS 3 5"),
            query(&long),
            COMMIT.to_vec(),
            query("FAIL AT PULL A.ClientError.B.C"),
            query("RETURN 1"),
        ]
        .concat();
        let mut whole = Vec::new();
        for piece in [conversation.len(), 1, 2, 3, 7, 4096] {
            let mut world = world(Faults::default());
            let mut machine = Machine::new(1, START, &world);
            let mut seen = Vec::new();
            for bytes in conversation.chunks(piece) {
                machine.receive(bytes, START, &mut world);
                seen.extend(output(&mut machine, &mut world));
            }
            if whole.is_empty() {
                whole = seen.clone();
                let ends = [tags::SUCCESS, tags::FAILURE, tags::IGNORED, tags::IGNORED];
                assert!(tags_of(&seen[4..]).ends_with(&ends), "{:02x?}", tags_of(&seen[4..]));
            }
            assert!(seen == whole, "in pieces of {piece}");
            assert_eq!(machine.ending(), None);
        }
    }

    #[test]
    fn whatever_comes_there_is_no_panic() {
        let mut random = 1u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let good = [query("RETURN $x"), encode_begin(EMPTY), COMMIT.to_vec(), RESET.to_vec()];
        let good = [good.concat(), query("ROWS 9 9"), query("HALF RETURN 1")].concat();
        for _ in 0..2000 {
            let mut world = world(Faults::default());
            let mut machine = ready(&mut world);
            let mut bytes = good.clone();
            for _ in 0..1 + next() % 4 {
                let position = next() as usize % bytes.len();
                bytes[position] = next() as u8;
            }
            machine.receive(&bytes, START, &mut world);
            output(&mut machine, &mut world);
            machine.abandon(&world);
        }
    }

    #[test]
    fn a_reset_acts_when_it_arrives() {
        let mut world = world(Faults::default());
        let mut machine = ready(&mut world);
        machine.receive(
            &[query("SLEEP 50 RETURN 1"), query("RETURN 1")].concat(),
            START,
            &mut world,
        );
        assert!(output(&mut machine, &mut world).is_empty());
        assert_eq!(machine.wake_at(), Some(START + Duration::from_millis(50)));
        machine.receive(RESET, START, &mut world);
        let seen = tags_of(&output(&mut machine, &mut world));
        let ignored = tags::IGNORED;
        assert_eq!(seen, [tags::FAILURE, ignored, ignored, ignored, tags::SUCCESS]);
        machine.receive(&[RESET, &query("RETURN 1")].concat(), START, &mut world);
        let seen = tags_of(&output(&mut machine, &mut world));
        assert_eq!(seen, [tags::SUCCESS, tags::SUCCESS, tags::RECORD, tags::SUCCESS]);
    }

    #[test]
    fn the_race_of_begin_and_reset_can_be_lost() {
        for loses_reset_race in [false, true] {
            let mut world = world(Faults { loses_reset_race, ..Faults::default() });
            let mut machine = ready(&mut world);
            machine.receive(&[&*encode_begin(EMPTY), RESET].concat(), START, &mut world);
            let seen = tags_of(&output(&mut machine, &mut world));
            match loses_reset_race {
                true => assert_eq!(seen, [tags::FAILURE]),
                false => assert_eq!(seen, [tags::IGNORED, tags::SUCCESS]),
            }
            assert_eq!(machine.ending().is_some(), loses_reset_race);
        }
    }

    #[test]
    fn a_login_has_its_time_and_its_size() {
        let mut world = world(Faults::default());
        let mut machine = Machine::new(1, START, &world);
        assert_eq!(machine.wake_at(), Some(START + LOGIN_WITHIN));
        machine.advance(START + LOGIN_WITHIN, &mut world);
        assert_eq!(machine.ending(), Some(Ending::Close));

        let mut machine = Machine::new(1, START, &world);
        machine.receive(&handshake::propose_exact(V5_1), START, &mut world);
        machine.receive(&[0xFF; LOGIN_MESSAGE_MAX + 1], START, &mut world);
        assert_eq!(machine.ending(), Some(Ending::Close));
    }
}
