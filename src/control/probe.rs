//! What a server is and speaks, learned by asking it: the manifest where it has one, else one
//! connection per version with a single exact proposal.
//!
//! Two depths: `look` is a handshake and an end, which a server hardly notices; `learn` also says
//! HELLO. Owns no state and no permit: the caller holds one for as long as these run, and no more
//! than one connection is open at a time.

use crate::backend::KnownServer;
use crate::control::peer::{Peer, Sighting};
use crate::transport::proxy_protocol;
use crate::transport::tls::client::Uplink;
use crate::wire::handshake;
use crate::wire::message::{
    Auth, Failure, GOODBYE, HelloSuccess, Notifications, ServerHello, encode_hello,
};
use crate::wire::version::Version;
use std::net::SocketAddr;
use std::time::Duration;
use zeroize::Zeroizing;

/// As boltmux calls itself towards servers.
const AGENT: &str = concat!("boltmux/", env!("CARGO_PKG_VERSION"));

/// The first version whose servers have the manifest; there is no need to ask for it singly.
const MANIFEST_SINCE: Version = Version::new(5, 7);

/// Which server, and how.
pub struct Target<'a> {
    pub address: SocketAddr,
    /// For each step of each connection.
    pub step_limit: Duration,
    /// How TLS is spoken, if it is.
    pub tls: Option<&'a Uplink>,
    /// The PROXY header that comes first.
    pub opening: Option<proxy_protocol::Version>,
    /// The login for servers that answer HELLO to nobody else (up to Bolt 5.0).
    pub login: Option<&'a Auth>,
}

/// What `learn` learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    pub sighting: Sighting,
    pub known: KnownServer,
    /// The server refused the login, with this code. Not to be tried again: servers lock a user
    /// after a few wrong passwords.
    pub login_refused: Option<String>,
    /// What TLS agreed on, if it was spoken.
    pub encryption: Option<String>,
}

/// A handshake only: whether the server is there and what it answers.
pub async fn look(target: &Target<'_>) -> Result<Sighting, String> {
    let mut peer =
        Peer::connect(target.address, target.step_limit, target.tls, target.opening).await?;
    let outcome = peer.propose_manifest().await;
    // A client that wants nothing of a manifest says so; others just end.
    let is_manifest = matches!(outcome, Ok(Sighting::All(_)));
    peer.end(if is_manifest { &[0, 0, 0, 0, 0] } else { &[] }).await;
    outcome
}

/// Everything. What `before` says of the versions is kept where the server has no manifest and both
/// its choice and its agent are the same, so that a server without one is asked one by one only
/// after a change.
pub async fn learn(target: &Target<'_>, before: Option<&Learned>) -> Result<Learned, String> {
    let mut peer =
        Peer::connect(target.address, target.step_limit, target.tls, target.opening).await?;
    let encryption = peer.encryption();
    let sighting = match peer.propose_manifest().await {
        Ok(sighting) => sighting,
        Err(trouble) => {
            peer.end(&[]).await;
            return Err(trouble);
        }
    };
    let chosen = match &sighting {
        Sighting::All(versions) => Some(*versions.first().ok_or_else(|| no_version(target))?),
        Sighting::One(version) => Some(*version),
        Sighting::Nothing | Sighting::Closed => None,
    };
    let Some(chosen) = chosen else {
        peer.end(&[]).await;
        let learned = learn_exactly(target, sighting).await?;
        return Ok(Learned { encryption, ..learned });
    };
    let is_manifest = matches!(sighting, Sighting::All(_));
    let greeting = greet(target, peer, chosen, is_manifest).await?;
    let versions = match (&sighting, before) {
        (Sighting::All(versions), _) => versions.clone(),
        (_, Some(before)) if before.sighting == sighting && greeting.is_of(&before.known) => {
            before.known.versions.clone()
        }
        _ => ask_each(target, Some(chosen), Some(MANIFEST_SINCE)).await?,
    };
    Ok(Learned { encryption, ..greeting.learned(sighting, versions) })
}

/// For a server to which the proposal of a manifest says nothing.
async fn learn_exactly(target: &Target<'_>, sighting: Sighting) -> Result<Learned, String> {
    // An end without an answer may be a server's that knows no manifest, or that of a server which
    // was just killed: then nothing is known, and every version is asked for.
    let below = (sighting == Sighting::Nothing).then_some(MANIFEST_SINCE);
    let versions = ask_each(target, None, below).await?;
    let highest = *versions.first().ok_or_else(|| no_version(target))?;
    let mut peer =
        Peer::connect(target.address, target.step_limit, target.tls, target.opening).await?;
    match peer.propose(highest).await {
        Ok(true) => {
            let greeting = greet(target, peer, highest, false).await?;
            Ok(greeting.learned(sighting, versions))
        }
        other => {
            peer.end(&[]).await;
            Err(other.err().unwrap_or_else(|| no_version(target)))
        }
    }
}

/// The versions of a server without a manifest, highest first: one connection and one exact
/// proposal each, since such servers may not understand ranges. `below` bounds what is asked for
/// beside `spoken`. An end instead of an answer is an error, never "not spoken".
async fn ask_each(
    target: &Target<'_>,
    spoken: Option<Version>,
    below: Option<Version>,
) -> Result<Vec<Version>, String> {
    let mut versions = Vec::new();
    let is_asked =
        |version: &Version| spoken == Some(*version) || below.is_none_or(|below| *version < below);
    for version in Version::ALL.into_iter().rev().filter(is_asked) {
        let is_spoken = spoken == Some(version) || {
            let mut peer =
                Peer::connect(target.address, target.step_limit, target.tls, target.opening)
                    .await?;
            let outcome = peer.propose(version).await;
            peer.end(&[]).await;
            outcome?
        };
        if is_spoken {
            versions.push(version);
        }
    }
    versions.sort_unstable_by(|one, other| other.cmp(one));
    Ok(versions)
}

/// What HELLO brought.
#[derive(Default)]
struct Greeting {
    agent: Option<String>,
    recv_timeout_seconds: Option<u64>,
    login_refused: Option<String>,
}

impl Greeting {
    /// Nothing speaks against the same server.
    fn is_of(&self, known: &KnownServer) -> bool {
        self.agent.as_ref().is_none_or(|agent| *agent == known.agent)
    }

    fn learned(self, sighting: Sighting, versions: Vec<Version>) -> Learned {
        let highest = versions.first().copied().unwrap_or(Version::ALL[0]);
        let agent = self.agent.unwrap_or_else(|| agent_of(highest).to_owned());
        let recv_timeout_seconds = self.recv_timeout_seconds;
        let known = KnownServer { agent, recv_timeout_seconds, versions };
        Learned { sighting, known, login_refused: self.login_refused, encryption: None }
    }
}

/// Says HELLO where that needs no login or there is one, and ends the connection.
async fn greet(
    target: &Target<'_>,
    mut peer: Peer,
    version: Version,
    is_manifest: bool,
) -> Result<Greeting, String> {
    if !version.has_logon() && target.login.is_none() {
        peer.end(&[]).await;
        return Ok(Greeting::default());
    }
    let hello = ServerHello {
        user_agent: AGENT,
        bolt_agent: AGENT,
        routing: None,
        utc_patch: false,
        notifications: &Notifications::default(),
        auth: target.login,
    };
    let hello = Zeroizing::new(encode_hello(version, &hello));
    let choice = if is_manifest { handshake::manifest_choice(version) } else { Vec::new() };
    let mut request = Zeroizing::new(Vec::with_capacity(choice.len() + hello.len()));
    request.extend_from_slice(&choice);
    request.extend_from_slice(&hello);
    let answer = peer.ask(&request).await;
    peer.end(GOODBYE).await;
    let answer = answer?;
    if let Ok(success) = HelloSuccess::parse(&answer) {
        return Ok(Greeting {
            agent: Some(success.server).filter(|agent| !agent.is_empty()),
            recv_timeout_seconds: success.recv_timeout_seconds,
            login_refused: None,
        });
    }
    let failure = Failure::parse(&answer).map_err(|error| {
        format!("{}: expected SUCCESS or FAILURE in answer to HELLO: {error}", target.address)
    })?;
    let login_refused = (!version.has_logon()).then(|| failure.code.into_owned());
    Ok(Greeting { login_refused, ..Greeting::default() })
}

fn no_version(target: &Target<'_>) -> String {
    format!("{}: expected a version of Bolt that boltmux knows, it speaks none", target.address)
}

/// What to call a server that has not said it: the first Neo4j with its highest version (Bolt
/// compatibility table of the documentation). Drivers take nothing that does not begin so.
fn agent_of(highest: Version) -> &'static str {
    match (highest.major, highest.minor) {
        (..=3, _) => "Neo4j/3.5.0",
        (4, 0) => "Neo4j/4.0.0",
        (4, 1) => "Neo4j/4.1.0",
        (4, 2) => "Neo4j/4.2.0",
        (4, 3) => "Neo4j/4.3.0",
        (4, _) => "Neo4j/4.4.0",
        (5, 0) => "Neo4j/5.0.0",
        (5, 1) => "Neo4j/5.5.0",
        (5, 2) => "Neo4j/5.7.0",
        (5, 3) => "Neo4j/5.9.0",
        (5, 4) => "Neo4j/5.13.0",
        (5, 5 | 6) => "Neo4j/5.23.0",
        (5, _) => "Neo4j/5.26.0",
        (6.., _) => "Neo4j/2025.10.0",
    }
}
