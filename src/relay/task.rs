//! One client's task: detect, handshake, serve, close, in this order.

use crate::relay::close::CloseReason;
use crate::relay::serving::Serving;
use crate::relay::world::{Present, TlsMode, World};
use crate::transport::buffer::Chunk;
use crate::transport::conn::Conn;
use crate::transport::detect::{Detected, detect};
use crate::transport::driver::Sleep;
use crate::transport::http;
use crate::transport::stream::Stream;
use crate::wire::handshake::{self, Choice};
use crate::wire::version::Version;
use bytes::Bytes;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

/// A client is known by its first 20 bytes; an HTTP head may be 8 KiB. More than that and a
/// handshake's choice is never read before the session takes over.
const FIRST_BYTES_MAX: usize = 10 << 10;

/// Accepts for as long as the shard lives; every client gets a task.
pub async fn accept(world: Rc<World>, listener: u32, place: usize) {
    loop {
        let conn = world.driver.accept_on(listener).await;
        let task = client(world.clone(), conn, place);
        world.driver.spawn(task);
    }
}

async fn client(world: Rc<World>, conn: Conn, place: usize) {
    let present = Present::enter(&world);
    let mut first = FirstBytes { world: world.clone(), bytes: Vec::new() };
    let limit = world.driver.sleep(world.options.first_bytes_within);
    let (stream, refusal) = secure(&world, conn, &mut first, place).await;
    let why = match refusal {
        None => run(&world, &stream, &present, first, limit).await,
        Some(why) => why,
    };
    let is_broken = stream.tls_failure().is_some();
    present.close(if is_broken { CloseReason::TlsFailed } else { why });
    stream.close().await;
}

/// Puts TLS between the client and its bytes if it begins so.
async fn secure(
    world: &Rc<World>,
    conn: Conn,
    first: &mut FirstBytes,
    place: usize,
) -> (Stream, Option<CloseReason>) {
    let stream = Stream::from(conn);
    let mode = world.options.tls_modes.get(place).copied().unwrap_or_default();
    let config = world.tls.borrow().get(place).cloned().flatten();
    let mut limit = pin!(world.driver.sleep(world.options.first_bytes_within));
    while detect(&first.bytes) == Detected::NeedMore {
        if first.more(&stream, limit.as_mut()).await.is_err() {
            break;
        }
    }
    match (detect(&first.bytes), config) {
        (Detected::Tls, Some(config)) if mode != TlsMode::Off => {
            let bytes = std::mem::take(&mut first.bytes);
            match stream.encrypt(&bytes, &config) {
                Ok(stream) => (stream, None),
                Err(stream) => (stream, Some(CloseReason::TlsFailed)),
            }
        }
        (Detected::Tls, _) => (stream, Some(CloseReason::TlsNotOffered)),
        (Detected::Bolt | Detected::Http, _) if mode == TlsMode::Required => {
            (stream, Some(CloseReason::TlsRequired))
        }
        _ => (stream, None),
    }
}

async fn run(
    world: &Rc<World>,
    stream: &Stream,
    present: &Present,
    mut first: FirstBytes,
    limit: Sleep,
) -> CloseReason {
    let accepted_at = world.driver.now();
    let greeted = match greet(world, stream, &mut first, limit).await {
        Ok(greeted) => greeted,
        Err(why) => return why,
    };
    let rest = std::mem::take(&mut first.bytes);
    let login_by = accepted_at + world.options.login_within;
    match greeted {
        Greeted::Bolt { version, is_manifest } => {
            // The serving state is what an idle client costs; what came before it is gone by now.
            let mut serving = Serving::new(world, version, is_manifest, login_by, present);
            if !rest.is_empty() {
                serving.feed(Chunk::from(Bytes::from(rest)), stream);
            }
            poll_fn(|cx| serving.poll(stream, present, cx)).await
        }
        Greeted::Session => {
            crate::relay::whole_session::serve(world, stream, present, rest, login_by).await
        }
    }
}

/// How the first bytes were answered.
enum Greeted {
    Bolt {
        version: Version,
        is_manifest: bool,
    },
    /// Session mode: the server answers the handshake itself.
    Session,
}

/// Detects the protocol, and agrees on a version.
async fn greet(
    world: &Rc<World>,
    stream: &Stream,
    first: &mut FirstBytes,
    limit: Sleep,
) -> Result<Greeted, CloseReason> {
    let mut limit = pin!(limit);
    loop {
        match detect(&first.bytes) {
            Detected::Bolt if world.options.is_session_mode => return Ok(Greeted::Session),
            Detected::Bolt => break,
            Detected::Http => return Err(serve_http(world, stream, first, limit).await),
            Detected::NeedMore => first.more(stream, limit.as_mut()).await?,
            // TLS within TLS, or nothing we know: closed without a word, as servers do.
            Detected::Tls => return Err(CloseReason::NestedLayer),
            Detected::Close => return Err(CloseReason::UnknownProtocol),
        }
    }
    while first.bytes.len() < 20 {
        first.more(stream, limit.as_mut()).await?;
    }
    let mut proposals = [0; 20];
    proposals.copy_from_slice(&first.take(20));
    let proposals =
        handshake::parse_hello20(&proposals).map_err(|_| CloseReason::UnknownProtocol)?;
    let offered = world.offered();
    match handshake::choose(&proposals, &offered) {
        Choice::Version(version) => {
            stream.send([own(version.to_bytes().to_vec())]);
            Ok(Greeted::Bolt { version, is_manifest: false })
        }
        Choice::None => {
            stream.send([own(vec![0; 4])]);
            Err(CloseReason::NoVersion)
        }
        Choice::Manifest => {
            stream.send([own(handshake::manifest(&offered))]);
            loop {
                match handshake::parse_manifest_choice(&first.bytes, &offered) {
                    Ok(Some((length, Some(version)))) => {
                        first.take(length);
                        return Ok(Greeted::Bolt { version, is_manifest: true });
                    }
                    Ok(Some((_, None))) | Err(_) => return Err(CloseReason::NoVersion),
                    Ok(None) => first.more(stream, limit.as_mut()).await?,
                }
            }
        }
    }
}

/// Health checks, discovery, and whoever speaks HTTP by mistake.
async fn serve_http(
    world: &Rc<World>,
    stream: &Stream,
    first: &mut FirstBytes,
    mut limit: std::pin::Pin<&mut Sleep>,
) -> CloseReason {
    loop {
        match http::parse(&first.bytes) {
            http::Parsed::NeedMore => {
                if let Err(why) = first.more(stream, limit.as_mut()).await {
                    return why;
                }
            }
            http::Parsed::Request(request) => {
                let answer = http::answer(&request, &world.health.borrow());
                stream.send([Chunk::from(answer)]);
                return CloseReason::Http;
            }
            http::Parsed::Broken(fault) => {
                stream.send([Chunk::from(http::refusal(fault))]);
                return CloseReason::Http;
            }
        }
    }
}

/// What has come before the session takes over.
struct FirstBytes {
    world: Rc<World>,
    bytes: Vec<u8>,
}

impl FirstBytes {
    /// Waits for more, until the deadline that all first bytes share.
    async fn more(
        &mut self,
        stream: &Stream,
        mut limit: std::pin::Pin<&mut Sleep>,
    ) -> Result<(), CloseReason> {
        let received = poll_fn(|cx| match stream.poll_recv(cx) {
            Poll::Ready(received) => Poll::Ready(Some(received)),
            // Nobody who has not said anything yet is waited for.
            Poll::Pending if self.world.is_draining.get() => Poll::Ready(None),
            Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
        });
        let received: Option<io::Result<Option<Chunk>>> = received.await;
        match received {
            Some(Ok(Some(chunk))) if self.bytes.len() + chunk.len() > FIRST_BYTES_MAX => {
                // A client that has chosen its version may send its login at once, but not more.
                self.bytes.extend_from_slice(&chunk);
                match self.bytes.len() > FIRST_BYTES_MAX + (64 << 10) {
                    true => Err(CloseReason::InvalidRequest),
                    false => Ok(()),
                }
            }
            Some(Ok(Some(chunk))) => {
                self.bytes.extend_from_slice(&chunk);
                Ok(())
            }
            Some(Ok(None)) | Some(Err(_)) => Err(CloseReason::ClientGone),
            None if self.world.is_draining.get() => Err(CloseReason::Drain),
            None => Err(CloseReason::LoginTimeout),
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.bytes.drain(..count).collect()
    }
}

fn own(bytes: Vec<u8>) -> Chunk {
    Chunk::from(Bytes::from(bytes))
}
