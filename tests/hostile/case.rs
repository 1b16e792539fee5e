//! One malformed case of the client's side: how far the client comes, what it says then, and what
//! boltmux must do about it.

use crate::client::encode;
use crate::value::Value;
use boltmux::wire::message::tag;
use boltmux::wire::version::Version;

pub const INVALID: &str = "Neo.ClientError.Request.Invalid";
pub const V4_4: Version = Version::new(4, 4);
pub const V5_0: Version = Version::new(5, 0);

/// How far the client has come properly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Connected,
    /// Connected where a balancer's header is due.
    Balanced,
    /// The upgrade to WebSocket is granted.
    Upgraded,
    /// It proposed the manifest, and has it.
    Manifest,
    /// A version is agreed.
    Agreed(Version),
    /// HELLO is answered.
    Greeted(Version),
    Ready(Version),
    InTransaction(Version),
    /// An auto-commit query whose result is not pulled.
    Streaming(Version),
    /// After a FAILURE, before RESET.
    Failed(Version),
    LoggedOff(Version),
}

/// What must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Closed without a word, for this counted reason.
    Silence(&'static str),
    /// Exactly these bytes, then closed for that reason.
    Says(Vec<u8>, &'static str),
    /// Messages with these tags and at last a FAILURE of this code, then closed for that reason.
    Fails(&'static [u8], &'static str, &'static str),
    /// Messages with these tags; after a RESET the connection serves.
    Answers(&'static [u8]),
    /// Messages with these tags, the FAILURE among them of this code; after a RESET it serves.
    Refuses(&'static [u8], &'static str),
    /// Frames of WebSocket, the last a Close with this code, then closed for that reason.
    Framed(u16, &'static str),
    /// An alert of TLS or nothing, then closed for that reason.
    Alerts(&'static str),
    /// An HTTP answer that begins so, then closed as HTTP.
    Http(&'static str),
    /// Nothing is said and the connection stays: there is more to come. Closed by its client.
    Waits,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Case {
    pub group: &'static str,
    pub name: String,
    pub start: Start,
    pub bytes: Vec<u8>,
    /// The client ends its side behind the bytes.
    pub ends: bool,
    /// It means something else in pieces.
    pub is_whole_only: bool,
    pub outcome: Outcome,
}

/// Collects the cases of one group.
pub struct Table {
    group: &'static str,
    pub cases: Vec<Case>,
}

impl Table {
    pub fn new(group: &'static str) -> Table {
        Table { group, cases: Vec::new() }
    }

    pub fn add(
        &mut self,
        name: impl Into<String>,
        start: Start,
        bytes: impl Into<Vec<u8>>,
        outcome: Outcome,
    ) {
        let (name, bytes) = (name.into(), bytes.into());
        let (group, ends, is_whole_only) = (self.group, false, false);
        self.cases.push(Case { group, name, start, bytes, ends, is_whole_only, outcome });
    }

    /// As `add`; the client ends its side behind the bytes.
    pub fn add_ended(
        &mut self,
        name: impl Into<String>,
        start: Start,
        bytes: impl Into<Vec<u8>>,
        outcome: Outcome,
    ) {
        self.add(name, start, bytes, outcome);
        self.cases.last_mut().expect("added just now").ends = true;
    }
}

/// A FAILURE `Request.Invalid` and nothing else before the close.
pub fn refused() -> Outcome {
    Outcome::Fails(&[tag::FAILURE], INVALID, "invalid_request")
}

/// Closed without a word, as an invalid request.
pub fn dropped() -> Outcome {
    Outcome::Silence("invalid_request")
}

/// A payload as one message in one chunk.
pub fn message(payload: &[u8]) -> Vec<u8> {
    crate::client::chunked(payload, 65_535)
}

/// A HELLO of Bolt 5.4 with raw bytes as the value of one more key.
pub fn hello_with(key: &str, raw: &[u8]) -> Vec<u8> {
    let mut payload = vec![0xB1, tag::HELLO];
    payload.extend(login_map(&[("user_agent", "t/1".into())], key, raw));
    message(&payload)
}

/// A LOGON with raw bytes as the value of one more key.
pub fn logon_with(key: &str, raw: &[u8]) -> Vec<u8> {
    let mut payload = vec![0xB1, tag::LOGON];
    payload.extend(login_map(&[("scheme", "basic".into())], key, raw));
    message(&payload)
}

fn login_map(pairs: &[(&str, Value)], key: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = vec![0xA1 + pairs.len() as u8];
    for (name, value) in pairs {
        Value::from(*name).pack(&mut out);
        value.pack(&mut out);
    }
    Value::from(key).pack(&mut out);
    out.extend(raw);
    out
}

/// A RUN with raw bytes as its three fields.
pub fn run_of(fields: &[u8]) -> Vec<u8> {
    message(&[&[0xB3, tag::RUN], fields].concat())
}

/// Some message with this tag and so many empty maps as fields.
pub fn with_fields(tag: u8, count: usize) -> Vec<u8> {
    encode(tag, &vec![Value::Map(Vec::new()); count])
}
