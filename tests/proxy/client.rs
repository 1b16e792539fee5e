//! A blocking Bolt client that says what it is told and checks nothing by itself.

use crate::frames::Frames;
use crate::value::{Value, map};
use boltmux::wire::message::tag;
use boltmux::wire::version::Version;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Only a test that fails waits so long: the storm's clients wait for each other, too.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long silence is listened to.
pub const SILENCE: Duration = Duration::from_millis(80);
pub const PASSWORD: &str = "test-password";
pub const MAGIC: [u8; 4] = [0x60, 0x60, 0xB0, 0x17];
pub const V5_4: Version = Version::new(5, 4);
pub const V5_8: Version = Version::new(5, 8);

/// One message: its tag and its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub tag: u8,
    pub fields: Vec<Value>,
}

impl Message {
    /// The code of a FAILURE in either shape.
    pub fn code(&self) -> &str {
        let map = self.fields.first();
        let code = map.and_then(|map| map.get("neo4j_code").or(map.get("code")));
        code.and_then(Value::text).unwrap_or("no code")
    }
}

/// What a connection gave when a message was awaited.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Message(Message),
    EndOfFile,
    Reset,
    Nothing,
}

/// A message as bytes, in one chunk unless it is too long for one.
pub fn encode(tag: u8, fields: &[Value]) -> Vec<u8> {
    let mut payload = Vec::new();
    Value::Struct(tag, fields.to_vec()).pack(&mut payload);
    chunked(&payload, 65_535)
}

/// Chunks of at most so many bytes.
pub fn chunked(payload: &[u8], chunk_bytes_max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in payload.chunks(chunk_bytes_max) {
        out.extend((chunk.len() as u16).to_be_bytes());
        out.extend(chunk);
    }
    out.extend([0, 0]);
    out
}

pub fn run(query: &str, nonce: &str) -> Vec<u8> {
    run_with(query, map(&[("nonce", nonce)]), map(&[]))
}

pub fn run_with(query: &str, parameters: Value, extra: Value) -> Vec<u8> {
    encode(tag::RUN, &[query.into(), parameters, extra])
}

pub fn pull(n: i64) -> Vec<u8> {
    encode(tag::PULL, &[Value::Map(vec![("n".into(), Value::Int(n))])])
}

pub fn begin() -> Vec<u8> {
    encode(tag::BEGIN, &[map(&[])])
}

pub fn commit() -> Vec<u8> {
    encode(tag::COMMIT, &[])
}

pub fn rollback() -> Vec<u8> {
    encode(tag::ROLLBACK, &[])
}

pub fn reset() -> Vec<u8> {
    encode(tag::RESET, &[])
}

pub fn goodbye() -> Vec<u8> {
    encode(tag::GOODBYE, &[])
}

/// HELLO with the agents that `version` asks for, and with the login where it belongs there.
pub fn hello(version: Version, user: &str, password: &str) -> Vec<u8> {
    let Value::Map(mut pairs) = map(&[("user_agent", "test/1")]) else { unreachable!() };
    if version.has_bolt_agent() {
        pairs.push(("bolt_agent".into(), map(&[("product", "test/1")])));
    }
    if !version.has_logon() {
        let Value::Map(login) = token(user, password) else { unreachable!() };
        pairs.extend(login);
    }
    encode(tag::HELLO, &[Value::Map(pairs)])
}

pub fn logon(user: &str, password: &str) -> Vec<u8> {
    encode(tag::LOGON, &[token(user, password)])
}

fn token(user: &str, password: &str) -> Value {
    map(&[("scheme", "basic"), ("principal", user), ("credentials", password)])
}

/// Magic and up to four proposals.
pub fn proposals(versions: &[[u8; 4]]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(versions.iter().flatten());
    bytes.resize(20, 0);
    bytes
}

pub struct Client {
    pub stream: TcpStream,
    /// Between the bytes and the socket, if the connection is encrypted.
    pub tls: Option<Box<ClientConnection>>,
    pub version: Version,
    buffer: Vec<u8>,
    start: usize,
    /// No-ops seen since the last message.
    pub noops: usize,
    /// From HELLO's answer.
    pub connection_id: String,
    /// Of a client that speaks WebSocket.
    pub frames: Option<Frames>,
}

/// What a client's bytes go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    #[default]
    Plain,
    WebSocket,
}

impl Client {
    pub fn connect_by(way: Way, address: SocketAddr) -> Client {
        let client = Client::connect(address);
        if way == Way::WebSocket { client.upgrade() } else { client }
    }

    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the proxy listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let (buffer, connection_id) = (Vec::new(), String::new());
        Client {
            stream,
            tls: None,
            frames: None,
            version: V5_4,
            buffer,
            start: 0,
            noops: 0,
            connection_id,
        }
    }

    /// Connected, with TLS agreed for a host of this name.
    pub fn secure(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        host: &str,
    ) -> std::io::Result<Client> {
        Client::connect(address).encrypt(config, host)
    }

    /// The same on a connection that has said nothing of its own yet.
    pub fn encrypt(mut self, config: &Arc<ClientConfig>, host: &str) -> std::io::Result<Client> {
        let name = ServerName::try_from(host.to_owned()).expect("the name of a host");
        let mut tls = ClientConnection::new(config.clone(), name).expect("a sound configuration");
        while tls.is_handshaking() {
            tls.complete_io(&mut self.stream)?;
        }
        self.tls = Some(Box::new(tls));
        Ok(self)
    }

    /// Goes on in frames of WebSocket, whatever lies below.
    pub fn upgrade(mut self) -> Client {
        self.frames = Some(match &mut self.tls {
            Some(tls) => Frames::upgrade(&mut rustls::Stream::new(&mut **tls, &mut self.stream)),
            None => Frames::upgrade(&mut self.stream),
        });
        self
    }

    /// Connected, with this version agreed.
    pub fn negotiate(address: SocketAddr, version: Version) -> Client {
        Client::connect(address).agree(version)
    }

    /// Agrees on this version.
    pub fn agree(mut self, version: Version) -> Client {
        self.send(&proposals(&[version.to_bytes()]));
        assert_eq!(self.read(4).as_deref(), Ok(&version.to_bytes()[..]));
        self.version = version;
        self
    }

    pub fn login(address: SocketAddr, version: Version) -> Client {
        Client::login_as(address, version, "neo4j", PASSWORD).expect("the login is right")
    }

    /// Logged in, or what came instead.
    pub fn login_as(
        address: SocketAddr,
        version: Version,
        user: &str,
        password: &str,
    ) -> Result<Client, Said> {
        Client::negotiate(address, version).log_in(user, password)
    }

    /// Logs in on the version agreed; or what came instead.
    pub fn log_in(self, user: &str, password: &str) -> Result<Client, Said> {
        let version = self.version;
        let mut client = self;
        let mut bytes = hello(version, user, password);
        if version.has_logon() {
            bytes.extend(logon(user, password));
        }
        client.try_send(&bytes).map_err(|_| Said::Reset)?;
        for _ in 0..1 + usize::from(version.has_logon()) {
            match client.next() {
                Said::Message(message) if message.tag == tag::SUCCESS => {
                    let id = message.fields[0].get("connection_id").and_then(Value::text);
                    client.connection_id = id.map_or(client.connection_id, String::from);
                }
                said => return Err(said),
            }
        }
        Ok(client)
    }

    /// The number in `boltmux-N`.
    pub fn serial(&self) -> usize {
        let number = self.connection_id.strip_prefix("boltmux-");
        number.and_then(|number| number.parse().ok()).expect("boltmux-N")
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// One write; behind WebSocket one frame.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let packed = self.frames.as_mut().map(|frames| frames.pack(bytes));
        let bytes = packed.as_deref().unwrap_or(bytes);
        match &mut self.tls {
            Some(tls) => {
                let mut stream = rustls::Stream::new(&mut **tls, &mut self.stream);
                stream.write_all(bytes)?;
                stream.flush()
            }
            None => self.stream.write_all(bytes),
        }
    }

    /// Exactly so many bytes.
    pub fn read(&mut self, length: usize) -> Result<Vec<u8>, Said> {
        while self.buffer.len() - self.start < length {
            self.fill()?;
        }
        let bytes = self.buffer[self.start..self.start + length].to_vec();
        self.start += length;
        Ok(bytes)
    }

    fn fill(&mut self) -> Result<(), Said> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        let mut bytes = [0; 4096];
        let read = match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(&mut bytes),
            None => self.stream.read(&mut bytes),
        };
        match read {
            Ok(0) => Err(Said::EndOfFile),
            Ok(length) => {
                match &mut self.frames {
                    Some(frames) => self.buffer.extend(frames.unpack(&bytes[..length])),
                    None => self.buffer.extend_from_slice(&bytes[..length]),
                }
                Ok(())
            }
            Err(error) => Err(match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Said::Reset,
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Said::Nothing,
                kind => panic!("unexpected {kind:?}"),
            }),
        }
    }

    /// The next message; no-ops are counted.
    pub fn next(&mut self) -> Said {
        self.try_next().unwrap_or_else(|said| said)
    }

    fn try_next(&mut self) -> Result<Said, Said> {
        let payload = self.payload()?;
        let mut rest = &payload[..];
        match Value::unpack(&mut rest) {
            Some(Value::Struct(tag, fields)) if rest.is_empty() => {
                Ok(Said::Message(Message { tag, fields }))
            }
            other => panic!("expected a message, got {other:?} of {payload:02x?}"),
        }
    }

    fn payload(&mut self) -> Result<Vec<u8>, Said> {
        let mut payload = Vec::new();
        self.noops = 0;
        loop {
            let header = self.read(2)?;
            match usize::from(header[0]) << 8 | usize::from(header[1]) {
                0 if payload.is_empty() => self.noops += 1,
                0 => return Ok(payload),
                length => payload.extend(self.read(length)?),
            }
        }
    }

    pub fn message(&mut self) -> Message {
        match self.next() {
            Said::Message(message) => message,
            said => panic!("expected a message, got {said:?}"),
        }
    }

    /// The next messages have these tags.
    pub fn expect(&mut self, tags: &[u8]) -> Vec<Message> {
        let messages: Vec<Message> = tags.iter().map(|_| self.message()).collect();
        let came: Vec<u8> = messages.iter().map(|message| message.tag).collect();
        assert_eq!(came, tags, "{messages:?}");
        messages
    }

    pub fn expect_failure(&mut self, code: &str) -> Message {
        let failure = self.expect(&[tag::FAILURE]).remove(0);
        assert_eq!(failure.code(), code, "{failure:?}");
        failure
    }

    pub fn expect_end(&mut self) {
        assert_eq!(self.next(), Said::EndOfFile);
    }

    /// The connection serves, as if nothing had been.
    pub fn expect_well(&mut self) {
        self.send(&[run("RETURN $nonce AS n", "well"), pull(-1)].concat());
        let came = self.expect(&[tag::SUCCESS, tag::RECORD, tag::SUCCESS]);
        assert_eq!(came[1].fields, [Value::List(vec!["well".into()])]);
    }

    /// Ends the connection by a reset instead of an orderly end.
    pub fn reset_connection(self) {
        let linger = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        linger.expect("a socket has this option");
    }
}
