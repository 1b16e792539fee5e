//! One client's task: enter, handshake, serve, close, in this order.

use crate::relay::close::CloseReason;
use crate::relay::doors::{self, Door, Entrance};
use crate::relay::reply;
use crate::relay::serving::Serving;
use crate::relay::session::Refused;
use crate::relay::whole_session::{self, Opened, Unserved};
use crate::relay::world::{Present, World};
use crate::transport::buffer::Chunk;
use crate::transport::conn::Conn;
use crate::transport::proxy_protocol;
use crate::transport::stream::Stream;
use crate::wire::handshake::{self, Choice};
use crate::wire::version::Version;
use bytes::Bytes;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use zeroize::Zeroizing;

/// Magic and four proposals.
const PROPOSALS_LENGTH: usize = 20;
/// Session mode: for the handshake and HELLO of a client that is told why it is not served. Drivers
/// need two round trips for it.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// Transaction mode: how long a client's handshake waits while no server has ever been reached.
/// The control core looks for one every second or sooner, and a look takes less than another.
/// Refused at once, a client would come back after a pause of its driver's, which grows.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

/// Accepts for as long as the shard lives; every client gets a task.
pub async fn accept(world: Rc<World>, listener: u32, door: Rc<Door>) {
    loop {
        let conn = world.driver.accept_on(listener).await;
        let task = client(world.clone(), door.clone(), conn);
        world.driver.spawn(task);
    }
}

async fn client(world: Rc<World>, door: Rc<Door>, conn: Conn) {
    let present = Present::enter(&world);
    let login_by = world.driver.now() + world.options.login_within;
    // Boxed is what an idle client does not need: a task is as large as the largest that it awaits.
    let entered = Box::pin(enter(&world, door, conn, &present, login_by)).await;
    let Entered { greeted, stream, rest, address } = entered;
    let Some(stream) = stream else { return };
    let why = match greeted {
        Ok(Greeted::Bolt(bolt)) => {
            let mut serving = served(&world, &stream, bolt, rest);
            poll_fn(|cx| serving.poll(&stream, &present, cx)).await
        }
        Ok(Greeted::Session(opened)) => {
            let session = whole_session::serve(&world, &stream, &present, *opened, rest, login_by);
            Box::pin(session).await
        }
        Err(why) => why,
    };
    let reason = doors::reason(&stream, why);
    present.close(reason);
    if let Some(address) = address {
        let said = stream.tls_failure().map(|why| format!(", {why}")).unwrap_or_default();
        tracing::debug!("the client at {address} has gone: {}{said}", reason.name());
    }
    Box::pin(doors::close(stream, why)).await;
}

/// What a client is served with, the way to it, and what it has sent beyond its handshake.
struct Entered {
    greeted: Result<Greeted, CloseReason>,
    stream: Option<Stream>,
    rest: Zeroizing<Vec<u8>>,
    /// For the log, if it wants it.
    address: Option<Box<SocketAddr>>,
}

async fn enter(
    world: &Rc<World>,
    door: Rc<Door>,
    conn: Conn,
    present: &Present,
    login_by: Duration,
) -> Entered {
    let mut entrance = Entrance::new(world.clone(), door, conn);
    let greeted = greet(world, &mut entrance, present, login_by).await;
    // Asking for addresses costs system calls.
    let is_told = tracing::enabled!(tracing::Level::DEBUG);
    let ends = if is_told { entrance.ends() } else { None };
    let address = ends.map(|ends| Box::new(ends.client));
    if let (Some(address), Ok(greeted)) = (&address, &greeted) {
        match greeted {
            Greeted::Bolt(bolt) => {
                tracing::debug!("a client has come from {address}: Bolt {}", bolt.version);
            }
            Greeted::Session(_) => tracing::debug!("a client has come from {address}"),
        }
    }
    let (stream, rest) = entrance.into_parts();
    Entered { greeted, stream, rest, address }
}

/// What an idle client costs; what came before it is gone by then. No future of its own: that would
/// keep room for what it was given.
fn served(world: &Rc<World>, stream: &Stream, bolt: Bolt, rest: Zeroizing<Vec<u8>>) -> Serving {
    let Bolt { version, is_manifest, login_by, refused } = bolt;
    let mut serving = Serving::new(world, version, is_manifest, login_by, refused);
    if !rest.is_empty() {
        serving.feed(Bytes::from_owner(rest).into(), stream);
    }
    serving
}

/// How the first bytes were answered.
enum Greeted {
    Bolt(Bolt),
    /// Session mode: the server answers the handshake itself.
    Session(Box<Opened>),
}

/// A version is agreed on.
struct Bolt {
    version: Version,
    is_manifest: bool,
    login_by: Duration,
    /// A client that is only told why it is not served.
    refused: Option<Box<Refused>>,
}

/// Finds the handshake; in session mode, who answers it; and agrees on a version.
async fn greet(
    world: &Rc<World>,
    entrance: &mut Entrance,
    present: &Present,
    mut login_by: Duration,
) -> Result<Greeted, CloseReason> {
    entrance.find_bolt().await?;
    present.note_layers(entrance.stream().layers());
    let mut refused = present.is_too_many.then(|| {
        let (failure, why) = (reply::too_many_clients(), CloseReason::TooManyClients);
        Box::new(Refused { failure, why })
    });
    if world.options.is_session_mode {
        let refusal = match refused {
            Some(refused) => refused,
            None => match whole_session::lease(world, entrance.stream(), login_by).await {
                Ok(lease) => {
                    let tells = world.options.tells_clients;
                    let opening =
                        tells.map(|version| proxy_protocol::header(version, entrance.ends()));
                    let opening = opening.map(own);
                    return Ok(Greeted::Session(Box::new(Opened { lease, opening })));
                }
                Err(Unserved::Silent(why)) => return Err(why),
                Err(Unserved::Told(refused)) => refused,
            },
        };
        if !present.tell() {
            return Err(refusal.why);
        }
        entrance.give_time(TOLD_WITHIN);
        login_by = world.driver.now() + TOLD_WITHIN;
        refused = Some(refusal);
    } else if refused.is_none() {
        wait_for_server(world, entrance.stream()).await;
    }
    let agreed = agree(world, entrance).await;
    let (version, is_manifest) = agreed.map_err(|why| match (why, &refused) {
        (CloseReason::NoVersion, Some(refused)) => refused.why,
        _ => why,
    })?;
    Ok(Greeted::Bolt(Bolt { version, is_manifest, login_by, refused }))
}

/// Until a server has been reached, or it makes no sense to wait on.
async fn wait_for_server(world: &Rc<World>, stream: &Stream) {
    if world.backend.known().is_some() {
        return;
    }
    let mut limit = Box::pin(world.driver.sleep(KNOWN_WITHIN));
    let mut early = world.early.enter();
    poll_fn(|cx| {
        let is_over = stream.poll_dead(cx).is_ready() || stream.has_ended();
        let is_known = world.backend.known().is_some() || world.is_draining.get();
        if is_known || is_over || limit.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        early.stay(cx);
        Poll::Pending
    })
    .await;
}

/// Agrees on a version; whether by the manifest.
async fn agree(world: &Rc<World>, entrance: &mut Entrance) -> Result<(Version, bool), CloseReason> {
    while entrance.bytes().len() < PROPOSALS_LENGTH {
        entrance.more().await?;
    }
    let mut proposals = [0; PROPOSALS_LENGTH];
    proposals.copy_from_slice(&entrance.take(PROPOSALS_LENGTH));
    let proposals =
        handshake::parse_hello20(&proposals).map_err(|_| CloseReason::UnknownProtocol)?;
    let offered = world.offered();
    match world.choose(&proposals, &offered) {
        Choice::Version(version) => {
            entrance.stream().send([own(version.to_bytes().to_vec())]);
            Ok((version, false))
        }
        Choice::None => {
            entrance.stream().send([own(vec![0; 4])]);
            Err(CloseReason::NoVersion)
        }
        Choice::Manifest => {
            entrance.stream().send([own(handshake::manifest(&offered))]);
            loop {
                match handshake::parse_manifest_choice(entrance.bytes(), &offered) {
                    Ok(Some((length, Some(version)))) => {
                        entrance.take(length);
                        return Ok((version, true));
                    }
                    Ok(Some((_, None))) | Err(_) => return Err(CloseReason::NoVersion),
                    Ok(None) => entrance.more().await?,
                }
            }
        }
    }
}

fn own(bytes: Vec<u8>) -> Chunk {
    Chunk::from(Bytes::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mimalloc has blocks of 1,024 bytes, and then of 1,280; glommio has 48 bytes before the task.
    /// Ten thousand idle clients took 4 MB more than now with a task of 1,048 bytes.
    #[test]
    fn an_idle_client_fits_a_block() {
        fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(client);
        assert!(size <= 1024 - 48, "the task of a client has {size} bytes");
    }
}
