//! The bytes of requests, made once per target and version, and the nonce that is put into each.
//! Pure.
//!
//! Invariant: a step's nonce place is inside one chunk, so that patching it keeps the framing.

use super::mix::{self, MixQuery, Weights};
use super::plan::{Plan, Shape};
use crate::wire::message;
use crate::wire::packstream::Writer;
use crate::wire::version::Version;
use bytes::BytesMut;

/// 8 hexadecimal digits each for the run and the client, 16 for the sequence: unique over all
/// three, and legible in a server's query log.
pub const NONCE_LENGTH: usize = 32;
/// What stands in a template where the nonce goes; no query may contain it.
const PLACEHOLDER: [u8; NONCE_LENGTH] = *b"nonce-goes-here-nonce-goes-here-";

/// What makes a request's answer recognisable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    digits: [u8; NONCE_LENGTH],
    client: u32,
    sequence: u64,
}

impl Nonce {
    /// Before the first request of `client`.
    pub fn new(run: u32, client: u32) -> Nonce {
        let mut digits = [b'0'; NONCE_LENGTH];
        write_hexadecimal(&mut digits[..8], run.into());
        write_hexadecimal(&mut digits[8..16], client.into());
        Nonce { digits, client, sequence: 0 }
    }

    /// Moves on to the next request.
    pub fn advance(&mut self) {
        self.sequence += 1;
        write_hexadecimal(&mut self.digits[16..], self.sequence);
    }

    /// A number that differs between clients and between requests, and not between runs.
    fn seed(&self) -> u64 {
        (u64::from(self.client) << 32) ^ self.sequence
    }

    pub fn bytes(&self) -> &[u8; NONCE_LENGTH] {
        &self.digits
    }
}

fn write_hexadecimal(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

/// The request whose summary is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Begin,
    Run,
    /// Records may come before its summary; it is always the last of its step.
    Pull,
    Commit,
}

/// What goes out in one write, and the summaries it is owed.
pub struct Step {
    bytes: Vec<u8>,
    nonce_at: Option<usize>,
    pub due: &'static [Due],
}

impl Step {
    fn new(parts: &[&[u8]], due: &'static [Due]) -> Step {
        let bytes = parts.concat();
        let nonce_at = bytes.windows(NONCE_LENGTH).position(|window| window == PLACEHOLDER);
        Step { bytes, nonce_at, due }
    }

    /// Appends the step with `nonce` in its place.
    pub fn write(&self, nonce: &Nonce, out: &mut BytesMut) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.nonce_at {
            out[start + at..][..NONCE_LENGTH].copy_from_slice(nonce.bytes());
        }
    }
}

/// What a client asks, in one Bolt version: one request, or one of a mix.
pub struct Requests {
    all: Vec<Request>,
    weights: Weights,
}

impl Requests {
    pub fn new(plan: &Plan, version: Version) -> Requests {
        let all = match plan.shape {
            Shape::Mix => {
                plan.mix.iter().map(|query| Request::new(plan, version, Some(query))).collect()
            }
            _ => vec![Request::new(plan, version, None)],
        };
        Requests { all, weights: Weights::new(plan.mix.iter().map(|query| query.weight)) }
    }

    /// Which of the requests goes with a nonce.
    pub fn pick(&self, nonce: &Nonce) -> usize {
        if self.all.len() > 1 { self.weights.pick(nonce.seed()) } else { 0 }
    }

    pub fn at(&self, place: usize) -> &Request {
        &self.all[place]
    }
}

/// One request of a shape in one Bolt version.
pub struct Request {
    pub steps: Vec<Step>,
    /// Asks for the next records of a stream that has more.
    pub pull: Vec<u8>,
    /// How many records there must be; `None` if only the server knows.
    pub records: Option<u64>,
    /// A record is the nonce and nothing else, so it can be compared as a whole.
    pub is_nonce_alone: bool,
    /// Every record has to hold the nonce.
    pub has_nonce: bool,
}

impl Request {
    fn new(plan: &Plan, version: Version, query: Option<&MixQuery>) -> Request {
        let is_read = plan.is_read || query.is_some_and(|query| query.read);
        let extra = encode_extra(plan.database.as_deref(), is_read);
        let begin = message::encode_begin(&extra);
        let pull = message::encode_pull(version, plan.fetch_size);
        let text = query.map_or(plan.query(), |query| &query.text);
        let in_tx = matches!(plan.shape, Shape::Tx { .. });
        let own_extra: &[u8] = if in_tx { &[0xA0] } else { &extra };
        let run = message::encode_run(text, &encode_parameters(plan, query), own_extra);
        let commit = message::COMMIT;
        let steps = match plan.shape {
            Shape::Auto | Shape::Rows { .. } | Shape::Login | Shape::Handshake | Shape::Mix => {
                vec![Step::new(&[&run, &pull], &[Due::Run, Due::Pull])]
            }
            Shape::Tx { pipelined_begin: false } => vec![
                Step::new(&[&begin], &[Due::Begin]),
                Step::new(&[&run, &pull], &[Due::Run, Due::Pull]),
                Step::new(&[commit], &[Due::Commit]),
            ],
            Shape::Tx { pipelined_begin: true } => vec![
                Step::new(&[&begin, &run, &pull], &[Due::Begin, Due::Run, Due::Pull]),
                Step::new(&[commit], &[Due::Commit]),
            ],
        };
        let is_own = plan.query.is_none() && query.is_none();
        let is_nonce_alone = is_own && !matches!(plan.shape, Shape::Rows { .. });
        Request {
            steps,
            pull,
            records: records_expected(plan, query),
            is_nonce_alone,
            has_nonce: query.is_none_or(|query| mix::returns_nonce(&query.text)),
        }
    }
}

/// Of the shapes' own queries and of the synthetic server's `ROWS n size` the number is known.
fn records_expected(plan: &Plan, query: Option<&MixQuery>) -> Option<u64> {
    let text = query.map(|query| &query.text).or(plan.query.as_ref());
    match (text, plan.shape) {
        (None, Shape::Rows { rows }) => Some(rows),
        (None, _) => Some(1),
        (Some(query), _) => query.strip_prefix("ROWS ")?.split(' ').next()?.parse().ok(),
    }
}

/// The nonce comes first: what follows may be longer than a chunk.
fn encode_parameters(plan: &Plan, query: Option<&MixQuery>) -> Vec<u8> {
    let mut writer = Writer::new();
    let rows = match plan.shape {
        Shape::Rows { rows } => Some(rows),
        _ => None,
    };
    let others = query.map_or(0, |query| query.parameters.len());
    writer.map_header(1 + usize::from(rows.is_some()) + others);
    writer.string(mix::NONCE);
    writer.string(std::str::from_utf8(&PLACEHOLDER).expect("the placeholder is ASCII"));
    if let Some(rows) = rows {
        writer.string("rows");
        writer.int(i64::try_from(rows).unwrap_or(i64::MAX));
    }
    for (name, value) in query.into_iter().flat_map(|query| &query.parameters) {
        writer.string(name);
        value.write(&mut writer);
    }
    writer.into_bytes()
}

fn encode_extra(database: Option<&str>, is_read: bool) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.map_header(usize::from(is_read) + usize::from(database.is_some()));
    if is_read {
        writer.string("mode");
        writer.string("r");
    }
    if let Some(database) = database {
        writer.string("db");
        writer.string(database);
    }
    writer.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::chunk::{Scanner, payload};
    use crate::wire::packstream::Reader;

    fn request(plan: Plan) -> Request {
        Request::new(&plan, Version::new(5, 4), None)
    }

    fn written(step: &Step, nonce: &Nonce) -> Vec<u8> {
        let mut out = BytesMut::new();
        step.write(nonce, &mut out);
        out.to_vec()
    }

    /// Payloads of the messages in `bytes`.
    fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut scanner, mut found, mut scratch) = (Scanner::default(), Vec::new(), Vec::new());
        while let Some(span) = scanner.next(bytes) {
            found.push(payload(&bytes[..span.length], &mut scratch).to_vec());
            bytes = &bytes[span.length..];
        }
        found
    }

    #[test]
    fn a_nonce_is_unique_over_run_client_and_sequence() {
        let mut nonce = Nonce::new(0xABCD, 0x12);
        assert_eq!(nonce.bytes(), b"0000abcd000000120000000000000000");
        nonce.advance();
        assert_eq!(nonce.bytes(), b"0000abcd000000120000000000000001");
        (0..255).for_each(|_| nonce.advance());
        assert_eq!(nonce.bytes(), b"0000abcd000000120000000000000100");
    }

    #[test]
    fn auto_is_run_and_pull_with_the_nonce_as_parameter() {
        let request = request(Plan::default());
        let nonce = Nonce::new(1, 2);
        let messages = messages(&written(&request.steps[0], &nonce));
        assert_eq!(request.steps.len(), 1);
        let mut reader = Reader::new(&messages[0]);
        assert_eq!(reader.take_struct_header(), Ok((3, message::tag::RUN)));
        assert_eq!(reader.take_string(), Ok("RETURN $nonce AS nonce"));
        assert_eq!(reader.take_map_header(), Ok(1));
        assert_eq!(reader.take_string(), Ok("nonce"));
        assert_eq!(reader.take_string().unwrap().as_bytes(), nonce.bytes());
        assert_eq!(reader.take_map_header(), Ok(0));
        assert_eq!(messages[1], [0xB1, 0x3F, 0xA1, 0x81, b'n', 0xC9, 0x03, 0xE8]);
        assert_eq!((request.records, request.is_nonce_alone), (Some(1), true));
    }

    #[test]
    fn a_transaction_carries_mode_and_database_in_begin_only() {
        let plan = |pipelined_begin| Plan {
            shape: Shape::Tx { pipelined_begin },
            is_read: true,
            database: Some("neo4j".into()),
            ..Plan::default()
        };
        let begin = b"\xB1\x11\xA2\x84mode\x81r\x82db\x85neo4j".to_vec();
        let nonce = Nonce::new(1, 2);
        for (pipelined, tags) in [
            (false, vec![vec![0x11], vec![0x10, 0x3F], vec![0x12]]),
            (true, vec![vec![0x11, 0x10, 0x3F], vec![0x12]]),
        ] {
            let request = request(plan(pipelined));
            let steps: Vec<_> =
                request.steps.iter().map(|step| messages(&written(step, &nonce))).collect();
            assert_eq!(steps[0][0], begin);
            let run = steps.iter().flatten().find(|message| message[1] == 0x10).unwrap();
            assert_eq!(run.last(), Some(&0xA0));
            let of = |step: &Vec<Vec<u8>>| step.iter().map(|message| message[1]).collect();
            assert_eq!(steps.iter().map(of).collect::<Vec<Vec<u8>>>(), tags);
            assert!(
                request.steps.iter().zip(&tags).all(|(step, tags)| step.due.len() == tags.len())
            );
        }
    }

    #[test]
    fn rows_are_counted_where_their_number_is_known() {
        let plan = |query: Option<&str>| Plan {
            shape: Shape::Rows { rows: 7 },
            query: query.map(String::from),
            ..Plan::default()
        };
        assert_eq!(request(plan(None)).records, Some(7));
        assert_eq!(request(plan(Some("ROWS 50 1024"))).records, Some(50));
        assert_eq!(request(plan(Some("MATCH (n) RETURN n, $nonce"))).records, None);
        assert!(!request(plan(None)).is_nonce_alone);
    }
}
