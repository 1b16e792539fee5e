//! A server connection from its dial to READY, and its end: the shell around one socket.

use crate::backend::identity::Identity;
use crate::backend::pool::DialFailure;
use crate::transport::driver::Driver;
use crate::transport::proxy_protocol;
use crate::transport::stream::Stream;
use crate::transport::tls;
use crate::transport::tls::client::Uplink;
use crate::wire::chunk::{self, Head, Kind, Scanner};
use crate::wire::handshake::{self, Choice};
use crate::wire::message::{
    Auth, Failure, GOODBYE, HelloSuccess, LOGOFF, LogonSuccess, ServerHello, encode_hello,
    encode_logon, tag,
};
use crate::wire::version::Version;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use zeroize::Zeroizing;

/// What boltmux calls itself towards servers; their listings show it.
pub const AGENT: &str = concat!("boltmux/", env!("CARGO_PKG_VERSION"));
/// Longest answer to HELLO or LOGON that is read: real ones have less than 1 KiB.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where and how to dial.
#[derive(Clone, Debug)]
pub struct Target {
    pub addresses: Vec<SocketAddr>,
    /// The server's own address, as its routing context should name it.
    pub name: String,
    /// For the connection and the handshake.
    pub connect_within: Duration,
    /// For HELLO and LOGON.
    pub login_within: Duration,
    /// How TLS is spoken, if it is.
    pub tls: Option<Uplink>,
    /// The PROXY header that comes first. A pooled connection belongs to no client: boltmux speaks
    /// for itself.
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

/// A connection that is READY, and what its server said on the way.
pub struct Dialed {
    pub conn: Stream,
    pub hello: HelloSuccess,
    /// The user may only change the password.
    pub credentials_expired: bool,
}

/// Why there is no connection.
pub enum DialError {
    /// As the pool is told.
    Failed(DialFailure),
    /// The server does not speak this version.
    VersionRefused,
}

impl From<String> for DialError {
    fn from(text: String) -> DialError {
        DialError::Failed(DialFailure::Unreachable(text))
    }
}

/// Connects, agrees on the identity's exact version, says HELLO and LOGON.
pub async fn dial(
    driver: &Rc<Driver>,
    target: &Target,
    identity: &Identity,
) -> Result<Dialed, DialError> {
    let version = identity.profile.version;
    let limit = target.connect_within;
    let started = driver.now();
    let no_answer = || DialError::from(format!("no answer within {limit:?}"));
    // Session mode tells of its client, where that is not too late.
    let is_told_later = is_raw(version) && target.tls.is_none();
    let opening = target.proxy_protocol.filter(|_| !is_told_later);
    let conn = connect(driver, target, opening, limit).await?;
    if is_raw(version) {
        let hello = HelloSuccess::default();
        return Ok(Dialed { conn, hello, credentials_expired: false });
    }
    let left = limit.saturating_sub(driver.now() - started);
    let greeted = within(driver, left, shake_hands(&conn, version)).await;
    let logged_in = match greeted.unwrap_or_else(|| Err(no_answer())) {
        Ok(()) => {
            let limit = target.login_within;
            let late = || {
                let text = format!("no answer to the login within {limit:?}");
                Err(DialError::Failed(DialFailure::Slow(text)))
            };
            let login = within(driver, limit, log_in(&conn, target, identity));
            login.await.unwrap_or_else(late)
        }
        Err(error) => Err(error),
    };
    match logged_in {
        Ok((hello, credentials_expired)) => Ok(Dialed { conn, hello, credentials_expired }),
        Err(error) => {
            close(conn, false).await; // its permit is free only when the server sees it no more
            Err(error)
        }
    }
}

/// The identity of session mode's connections: nothing is said on them before the client speaks.
pub fn is_raw(version: Version) -> bool {
    version.major == 0
}

/// `None` when the time is over; the future is dropped then.
pub async fn within<T>(
    driver: &Rc<Driver>,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let timer = driver.sleep(limit);
    futures_lite::future::or(async { Some(future.await) }, async {
        timer.await;
        None
    })
    .await
}

/// The first address that answers. Each has its share of the time: one that swallows everything
/// must not hide the others.
async fn connect(
    driver: &Rc<Driver>,
    target: &Target,
    opening: Option<proxy_protocol::Version>,
    limit: Duration,
) -> Result<Stream, DialError> {
    let (started, count) = (driver.now(), target.addresses.len());
    let mut last = String::from("the name has no address");
    for (index, &address) in target.addresses.iter().enumerate() {
        let left = limit.saturating_sub(driver.now() - started);
        let share = left / (count - index) as u32;
        let opened = open(driver, address, target.tls.as_ref(), opening);
        match within(driver, share, opened).await {
            Some(Ok(conn)) => return Ok(conn),
            Some(Err(error)) => last = format!("{address}: {error}"),
            None => last = format!("{address}: no answer within {share:?}"),
        }
    }
    Err(last.into())
}

async fn open(
    driver: &Rc<Driver>,
    address: SocketAddr,
    tls: Option<&Uplink>,
    opening: Option<proxy_protocol::Version>,
) -> io::Result<Stream> {
    let conn = driver.dial(address).await?;
    if let Some(version) = opening {
        conn.send([Bytes::from(proxy_protocol::header(version, None)).into()]);
    }
    let Some(uplink) = tls else { return Ok(conn.into()) };
    let stream = tls::connect(conn, uplink)?;
    match tls::established(&stream).await {
        Ok(()) => Ok(stream.into()),
        Err(error) => {
            stream.close().await; // the server may want to know why
            Err(error)
        }
    }
}

async fn shake_hands(conn: &Stream, version: Version) -> Result<(), DialError> {
    conn.send([Bytes::copy_from_slice(&handshake::propose_exact(version)).into()]);
    let mut answer = Vec::with_capacity(4);
    while answer.len() < 4 {
        match conn.recv().await {
            Ok(Some(chunk)) => answer.extend_from_slice(&chunk),
            Ok(None) => return Err(String::from("closed during the handshake").into()),
            Err(error) => return Err(format!("handshake: {error}").into()),
        }
    }
    let Ok(bytes) = <[u8; 4]>::try_from(&answer[..]) else {
        return Err(String::from("more than a version came as answer to the handshake").into());
    };
    match handshake::parse_answer(&bytes) {
        Ok(Choice::Version(chosen)) if chosen == version => Ok(()),
        Ok(Choice::None) => Err(DialError::VersionRefused),
        Ok(_) => Err(format!("expected Bolt {version}, the server chose another").into()),
        Err(error) => Err(error.to_string().into()),
    }
}

/// HELLO, and LOGON behind it without waiting, as drivers do.
async fn log_in(
    conn: &Stream,
    target: &Target,
    identity: &Identity,
) -> Result<(HelloSuccess, bool), DialError> {
    let profile = &identity.profile;
    let has_logon = profile.version.has_logon();
    let hello = ServerHello {
        user_agent: AGENT,
        bolt_agent: AGENT,
        routing: profile.routing.as_deref().map(|entries| (target.name.as_str(), entries)),
        utc_patch: profile.utc_patch,
        notifications: &profile.notifications,
        auth: (!has_logon).then_some(&identity.auth),
    };
    let mut bytes = Zeroizing::new(encode_hello(profile.version, &hello));
    if has_logon {
        bytes.extend_from_slice(&Zeroizing::new(encode_logon(&identity.auth)));
    }
    conn.send([Bytes::from_owner(bytes).into()]);
    let mut answers = Answers::default();
    let payload = answers.success(conn).await?;
    let hello = HelloSuccess::parse(&payload).map_err(|error| error.to_string())?;
    let mut credentials_expired = hello.credentials_expired;
    if has_logon {
        let payload = answers.success(conn).await?;
        let logon = LogonSuccess::parse(&payload).map_err(|error| error.to_string())?;
        credentials_expired |= logon.credentials_expired;
    }
    match answers.bytes.is_empty() {
        true => Ok((hello, credentials_expired)),
        false => Err(String::from("bytes came after the answer to the login").into()),
    }
}

/// LOGOFF and LOGON on a connection that is READY; whether the user may only change the password.
/// Nothing else may be on its way.
pub async fn log_on_again(conn: &Stream, auth: &Auth) -> Result<bool, DialError> {
    let lost = || DialError::Failed(DialFailure::Lost);
    if !conn.is_quiet() {
        return Err(lost());
    }
    let mut bytes = Zeroizing::new(LOGOFF.to_vec());
    bytes.extend_from_slice(&Zeroizing::new(encode_logon(auth)));
    conn.send([Bytes::from_owner(bytes).into()]);
    let mut answers = Answers::default();
    answers.success(conn).await.map_err(|_| lost())?;
    let payload = match answers.success(conn).await {
        Err(DialError::Failed(DialFailure::Unreachable(_))) => return Err(lost()),
        answer => answer?,
    };
    let logon = LogonSuccess::parse(&payload).map_err(|_| lost())?;
    if answers.bytes.is_empty() { Ok(logon.credentials_expired) } else { Err(lost()) }
}

/// Reads summaries one by one.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
}

impl Answers {
    /// The payload of the next summary, if it is SUCCESS.
    async fn success(&mut self, conn: &Stream) -> Result<Vec<u8>, DialError> {
        let payload = self.next(conn).await?;
        let head = match *payload {
            [first, second, ..] => Head::of([first, second]),
            _ => return Err(String::from("the answer is no Bolt message").into()),
        };
        match head.tag {
            tag::SUCCESS => Ok(payload),
            tag::FAILURE => match Failure::parse(&payload) {
                Ok(failure) => Err(DialError::Failed(DialFailure::Refused(Box::new(failure)))),
                Err(error) => Err(error.to_string().into()),
            },
            other => Err(format!("expected SUCCESS, got {}", tag::name(other)).into()),
        }
    }

    async fn next(&mut self, conn: &Stream) -> Result<Vec<u8>, DialError> {
        loop {
            if let Some(message) = self.take() {
                return Ok(message);
            }
            if self.bytes.len() > ANSWER_BYTES_MAX {
                return Err(String::from("the answer to the login is too long").into());
            }
            match conn.recv().await {
                Ok(Some(chunk)) => self.bytes.extend_from_slice(&chunk),
                Ok(None) => return Err(String::from("closed during the login").into()),
                Err(error) => return Err(format!("login: {error}").into()),
            }
        }
    }

    /// A complete message off the front; no-op chunks are dropped.
    fn take(&mut self) -> Option<Vec<u8>> {
        loop {
            let span = Scanner::default().next(&self.bytes)?;
            match span.kind {
                Kind::Noop => drop(self.bytes.drain(..span.length)),
                Kind::Message { ends: false, .. } => return None,
                Kind::Message { .. } => {
                    let wire: Vec<u8> = self.bytes.drain(..span.length).collect();
                    return Some(chunk::payload(&wire, &mut Vec::new()).to_vec());
                }
            }
        }
    }
}

/// GOODBYE, then a clean close: the server's end-of-file or a second.
pub async fn close(conn: Stream, says_goodbye: bool) {
    if says_goodbye {
        conn.send([crate::transport::buffer::Chunk::from_static(GOODBYE)]);
    }
    conn.close().await;
}
