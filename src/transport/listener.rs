//! Listening sockets, one per shard on the same port, and the options that every socket gets.
//!
//! What is set on a listener its accepted sockets inherit: an accept costs no further system call.

use socket2::{Domain, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Connections that may wait for accept: a reconnecting fleet comes at once. The kernel caps it at
/// `net.core.somaxconn`, which is 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;
/// A silent peer is asked after a minute, then every ten seconds, three times: a dead one is gone
/// within 90 seconds, before the usual firewall forgets an idle connection.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// Bytes that the peer's kernel has not acknowledged by then end the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// One listener per shard, all on `address`; port 0 becomes one free port for all of them. The
/// error is one line for the operator.
pub fn bind(address: SocketAddr, shards: usize) -> Result<Vec<TcpListener>, String> {
    let explain = |error: io::Error| explain(address, &error);
    refuse_taken(address).map_err(explain)?;
    let mut bound = address;
    let mut listeners = Vec::with_capacity(shards);
    for _ in 0..shards {
        let listener = listen(bound).map_err(explain)?;
        bound = listener.local_addr().map_err(explain)?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// What every TCP socket gets, dialed or accepted: small messages leave at once, dead peers end.
pub fn set_options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// SO_REUSEPORT would silently share the port with another program of the same user: a bind without
/// it tells. Port 0 is always free.
fn refuse_taken(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    set_options(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    let cure = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "another program has this port: stop it or choose another",
        Some(libc::EADDRNOTAVAIL) => "this machine has no such address: use one of its own",
        Some(libc::EACCES) => "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)",
        _ => "see bind(2)",
    };
    format!("cannot listen on {address}: {error}; {cure}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::net::TcpStream;

    const ANY_PORT: &str = "127.0.0.1:0";

    #[test]
    fn all_shards_listen_on_one_port_and_nobody_else_does() {
        let listeners = bind(ANY_PORT.parse().unwrap(), 3).unwrap();
        let address = listeners[0].local_addr().unwrap();
        assert_eq!(listeners.len(), 3);
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
        let refusal = bind(address, 1).unwrap_err();
        assert!(refusal.contains(&address.to_string()), "{refusal}");
        assert!(refusal.contains("another program") && !refusal.contains('\n'), "{refusal}");
        drop(listeners);
        bind(address, 2).unwrap();
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let listener = bind(ANY_PORT.parse().unwrap(), 1).unwrap().remove(0);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_MAX));
    }

    #[test]
    fn refusals_say_what_to_change() {
        for (error, cure) in [
            (libc::EADDRNOTAVAIL, "its own"),
            (libc::EACCES, "CAP_NET_BIND_SERVICE"),
            (libc::EMFILE, "ulimit -n"),
        ] {
            let error = io::Error::from_raw_os_error(error);
            let line = explain(ANY_PORT.parse().unwrap(), &error);
            assert!(line.contains(cure) && !line.contains('\n'), "{line}");
        }
    }
}
