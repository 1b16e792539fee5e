//! The operators' entrance: `GET /metrics` and `GET /healthz` over HTTP/1, on the control core.
//!
//! It asks for no password, so it listens only where it is told to. Every connection is limited in
//! number, size and time, and answers one request. Nothing here holds a shard up: counts that do
//! not come in time are told as they were.

use crate::config::{Bind, BindHost};
use crate::control::Core;
use crate::control::metrics::{self, Scrape};
use crate::transport::address::Address;
use crate::transport::listener;
use crate::transport::ring;
use crate::transport::runtime;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A few scrapers and health checks at once; more wait for nothing and are closed.
pub const CONNECTIONS_MAX: usize = 64;
/// The least that hyper takes; scrapers send a few hundred bytes.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// From accept to the last byte of the answer: Prometheus gives up after 10 s by default.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// For the client to end the connection after the answer; closed at once with bytes unread, the
/// answer could be lost on its way.
const LINGER: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 4 << 10;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between looks for fresh counts: shards that are awake answer within one or two.
const REPORT_LOOK: Duration = Duration::from_millis(2);

/// Binds every address that `bind` means; none for `None`. The error is one line for the operator.
pub async fn bind(bind: Option<&Bind>) -> Result<Vec<(SocketAddr, TcpListener)>, String> {
    let Some(Bind { host, port }) = bind else { return Ok(Vec::new()) };
    let addresses = match host {
        // The IPv6 one takes IPv4 connections, too, where there is IPv6 at all.
        BindHost::Any => {
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
            return listen(any)
                .or_else(|_| listen((IpAddr::from(Ipv4Addr::UNSPECIFIED), *port).into()))
                .map(|listener| vec![listener]);
        }
        BindHost::Address(address) => vec![SocketAddr::from((*address, *port))],
        // The configuration refuses it.
        BindHost::Unix(_) => Vec::new(),
        BindHost::Name(name) => {
            let address = Address { host: name.clone(), port: *port };
            let failed = |error| format!("cannot resolve admin.bind {address}: {error}");
            listener::own_of_name(name, address.resolve().await.map_err(failed)?)
        }
    };
    addresses.into_iter().map(listen).collect()
}

fn listen(address: SocketAddr) -> Result<(SocketAddr, TcpListener), String> {
    let listener = listener::bind(address, 1)?.pop();
    let listener = listener.ok_or_else(|| format!("expected a listener on {address}"))?;
    let failed = |error| format!("cannot listen on {address}: {error}");
    let bound = listener.local_addr().map_err(failed)?;
    Ok((bound, ring::glommio_listener(listener)))
}

/// Accepts until it is dropped.
pub(super) async fn serve(core: Rc<Core>, listener: TcpListener) {
    loop {
        let Ok(stream) = listener.accept().await else {
            runtime::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if core.operators.get() < CONNECTIONS_MAX {
            core.operators.set(core.operators.get() + 1);
            runtime::spawn_local(converse(core.clone(), Connection(stream))).detach();
        }
    }
}

/// One connection: one request, its answer, a clean end.
async fn converse(core: Rc<Core>, mut connection: Connection) {
    let service = service_fn(|request| answer(core.clone(), request));
    let mut builder = http1::Builder::new();
    builder.keep_alive(false).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let served = builder.serve_connection(&mut connection, service);
    // A client that sends no request or goes away is its own trouble.
    let _ = runtime::within(CONNECTION_LIMIT, served).await;
    let mut buffer = [0; READ_BYTES];
    let linger =
        async { while connection.0.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
    runtime::within(LINGER, linger).await;
    core.operators.set(core.operators.get() - 1);
}

async fn answer(core: Rc<Core>, request: Request<Incoming>) -> Result<Response<Whole>, Infallible> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    Ok(match request.uri().path() {
        "/metrics" | "/healthz" if !is_read => {
            let mut refusal = refuse(StatusCode::METHOD_NOT_ALLOWED, "expected GET or HEAD");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refusal
        }
        "/metrics" => scrape(&core).await,
        "/healthz" => health(&core),
        _ => refuse(StatusCode::NOT_FOUND, "expected /metrics or /healthz"),
    })
}

/// Fresh counts where the shards give them in time, else the last ones.
async fn scrape(core: &Core) -> Response<Whole> {
    let before = core.shards.borrow_mut().ask();
    let answered = async {
        while !core.shards.borrow_mut().have_answered(&before) {
            runtime::sleep(REPORT_LOOK).await;
        }
    };
    runtime::within(core.options.report_wait, answered).await;
    let scrape = Scrape {
        shards: core.shards.borrow().counters(),
        server: server(core),
        is_reachable: core.snapshot.borrow().is_reachable,
        permits_taken: core.permits.open(),
        permits_limit: core.permits.limit(),
        certificates: core.certificates.borrow().clone(),
    };
    match metrics::render(scrape) {
        Ok(text) => respond(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the metrics have no text form"),
    }
}

/// 200 while new clients can be served, else 503 with a reason.
fn health(core: &Core) -> Response<Whole> {
    let snapshot = core.snapshot.borrow().clone();
    if core.is_draining.get() {
        return unhealthy("draining", "boltmux is about to end and takes no new clients");
    }
    if let Some(shard) = core.shards.borrow().ended() {
        return unhealthy("failed", &format!("shard {shard} has ended: restart boltmux"));
    }
    if !snapshot.is_reachable {
        let not_yet = "the server has not been probed yet";
        let trouble = snapshot.trouble.as_str();
        return unhealthy("unreachable", if trouble.is_empty() { not_yet } else { trouble });
    }
    let known = snapshot.known.as_ref();
    let versions = known.map(|known| known.versions.iter().map(ToString::to_string));
    let body = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "server": server(core),
        "agent": known.map(|known| known.agent.as_str()),
        "bolt": versions.map(Vec::from_iter),
    });
    respond(StatusCode::OK, "application/json", body.to_string())
}

fn server(core: &Core) -> String {
    Address { host: core.options.host.clone(), port: core.options.port }.to_string()
}

fn unhealthy(status: &str, reason: &str) -> Response<Whole> {
    let body = json!({ "status": status, "reason": reason });
    respond(StatusCode::SERVICE_UNAVAILABLE, "application/json", body.to_string())
}

fn refuse(status: StatusCode, text: &str) -> Response<Whole> {
    respond(status, "application/json", json!({ "error": text }).to_string())
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Whole> {
    let mut response = Response::new(Whole(Some(Bytes::from(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body in one piece.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A socket of the executor as hyper wants it.
struct Connection(TcpStream);

impl hyper::rt::Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = [0; READ_BYTES];
        let wanted = cursor.remaining().min(READ_BYTES);
        Pin::new(&mut self.0)
            .poll_read(context, &mut buffer[..wanted])
            .map_ok(|count| cursor.put_slice(&buffer[..count]))
    }
}

impl hyper::rt::Write for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(context)
    }
}
