//! One connection of the control core to a server, on the executor's own sockets: what a probe
//! needs of Bolt as a client, each step with a time limit. Decides nothing.

use crate::control::wire::Wire;
use crate::transport::proxy_protocol;
use crate::transport::runtime;
use crate::transport::tls::client::Uplink;
use crate::wire::chunk::{self, Kind, Scanner};
use crate::wire::handshake::{self, Choice};
use crate::wire::limits::LOGIN_BYTES_MAX;
use crate::wire::version::Version;
use glommio::net::TcpStream;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// For the server to end the connection after we have; then it is closed as it is.
const END_WAIT: Duration = Duration::from_secs(1);

/// What a server answered to the proposal of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// All versions it speaks and boltmux knows, highest first.
    All(Vec<Version>),
    /// It knows no manifest and chose this one.
    One(Version),
    /// It knows none of the proposals.
    Nothing,
    /// It ended the connection without an answer.
    Closed,
}

pub struct Peer {
    stream: Wire,
    address: SocketAddr,
    limit: Duration,
    /// Received and not used yet; at most a login message and one read.
    received: Vec<u8>,
}

impl Peer {
    /// `limit` is for connecting, for TLS and for each further step.
    pub async fn connect(
        address: SocketAddr,
        limit: Duration,
        tls: Option<&Uplink>,
        opening: Option<proxy_protocol::Version>,
    ) -> Result<Peer, String> {
        let stream = TcpStream::connect_timeout(address, limit).await;
        let stream = stream
            .map_err(|error| format!("cannot connect to {address}: {}", io::Error::from(error)))?;
        let mut peer = Peer { stream: Wire::plain(stream), address, limit, received: Vec::new() };
        if let Some(version) = opening {
            let header = proxy_protocol::header(version, None);
            peer.stream.write_all(&header).await.map_err(text)?;
        }
        if let Some(uplink) = tls {
            let step = async |peer: &mut Peer| peer.stream.encrypt(uplink).await.map_err(text);
            let outcome = peer.step("an answer to the TLS handshake", step).await;
            if let Err(trouble) = outcome {
                peer.end(&[]).await;
                return Err(trouble);
            }
        }
        Ok(peer)
    }

    /// What TLS agreed on, if it is spoken.
    pub fn encryption(&self) -> Option<String> {
        self.stream.encryption()
    }

    /// Proposes the manifest, and for servers without it the highest version of each line.
    pub async fn propose_manifest(&mut self) -> Result<Sighting, String> {
        self.step("an answer to the Bolt handshake", async |peer| {
            peer.send(&handshake::propose_manifest()).await?;
            match peer.read_choice().await? {
                None => Ok(Sighting::Closed),
                Some(Choice::None) => Ok(Sighting::Nothing),
                Some(Choice::Version(version)) => Ok(Sighting::One(version)),
                Some(Choice::Manifest) => peer.read_manifest().await.map(Sighting::All),
            }
        })
        .await
    }

    /// Whether the server speaks exactly this version.
    pub async fn propose(&mut self, version: Version) -> Result<bool, String> {
        self.step("an answer to the Bolt handshake", async |peer| {
            peer.send(&handshake::propose_exact(version)).await?;
            match peer.read_choice().await? {
                Some(Choice::Version(chosen)) => Ok(chosen == version),
                Some(Choice::None) => Ok(false),
                Some(Choice::Manifest) => Err("expected a version, got a manifest".into()),
                None => Err("expected an answer to the Bolt handshake, the server closed".into()),
            }
        })
        .await
    }

    /// Sends a request; the payload of the message that comes back.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, String> {
        self.step("an answer to HELLO", async |peer| {
            peer.send(request).await?;
            peer.read_message().await
        })
        .await
    }

    /// Ends the connection after `last` bytes, and waits until the server has ended it, too: only
    /// then does it no longer count for the server.
    pub async fn end(mut self, last: &[u8]) {
        let _ = self.stream.write_all(last).await;
        let _ = self.stream.shutdown().await;
        let mut rest = Vec::new();
        let drop_rest = async {
            while self.stream.read(&mut rest).await.is_ok_and(|count| count > 0) {
                rest.clear();
            }
        };
        runtime::within(self.limit.min(END_WAIT), drop_rest).await;
    }

    /// Puts the time limit on a step, and the server's address before what went wrong in it.
    async fn step<T>(
        &mut self,
        expected: &str,
        step: impl AsyncFnOnce(&mut Peer) -> Result<T, String>,
    ) -> Result<T, String> {
        let (address, limit) = (self.address, self.limit);
        let late = || {
            let seconds = limit.as_secs_f64();
            format!("expected {expected} within {seconds} s, nothing more came: is it overloaded?")
        };
        let outcome = runtime::within(limit, step(self)).await.unwrap_or_else(|| Err(late()));
        outcome.map_err(|trouble| format!("{address}: {trouble}"))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|error| format!("cannot send: {error}"))
    }

    /// False at the end of what the server sends.
    async fn read_more(&mut self) -> Result<bool, String> {
        match self.stream.read(&mut self.received).await {
            Ok(count) => Ok(count > 0),
            // As good as an end for our purpose: the server wants nothing of us.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(format!("cannot receive: {error}")),
        }
    }

    /// The answer to proposals; `None` if the server closed instead. A manifest begins with these
    /// bytes, so they are left for it.
    async fn read_choice(&mut self) -> Result<Option<Choice>, String> {
        loop {
            if let Some(word) = self.received.first_chunk::<4>() {
                let choice = handshake::parse_answer(word).map_err(text)?;
                if choice != Choice::Manifest {
                    self.received.drain(..4);
                }
                return Ok(Some(choice));
            }
            if !self.read_more().await? {
                return Ok(None);
            }
        }
    }

    async fn read_manifest(&mut self) -> Result<Vec<Version>, String> {
        // Ends: a manifest has a limited number of entries, more of them are an error.
        loop {
            if let Some((length, versions)) =
                handshake::parse_manifest(&self.received).map_err(text)?
            {
                self.received.drain(..length);
                return Ok(versions);
            }
            self.expect_more("the rest of the manifest").await?;
        }
    }

    async fn read_message(&mut self) -> Result<Vec<u8>, String> {
        loop {
            let span = Scanner::default().next(&self.received);
            match span.map(|span| (span.length, span.kind)) {
                Some((length, Kind::Noop)) => {
                    self.received.drain(..length);
                }
                Some((length, Kind::Message { ends: true, .. })) => {
                    let mut scratch = Vec::new();
                    let payload = chunk::payload(&self.received[..length], &mut scratch).to_vec();
                    self.received.drain(..length);
                    return Ok(payload);
                }
                _ if self.received.len() > LOGIN_BYTES_MAX => {
                    return Err(format!("expected an answer of at most {LOGIN_BYTES_MAX} bytes"));
                }
                _ => self.expect_more("a whole message").await?,
            }
        }
    }

    async fn expect_more(&mut self, expected: &str) -> Result<(), String> {
        let closed = || format!("expected {expected}, the server closed the connection");
        self.read_more().await?.then_some(()).ok_or_else(closed)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
