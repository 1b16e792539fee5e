//! Listening sockets, one per shard on the same port, and the options that every socket gets. A
//! Unix socket is one socket that all shards accept from.
//!
//! What is set on a listener its accepted sockets inherit: an accept costs no further system call.

use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Connections that may wait for accept: a reconnecting fleet comes at once. The kernel caps it at
/// `net.core.somaxconn`, which is 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;
/// A silent peer is asked after a minute, then every ten seconds, three times: a dead one is gone
/// within 90 seconds, before the usual firewall forgets an idle connection.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// Bytes that the server's kernel has not acknowledged by then end the connection: a server whose
/// machine is gone is noticed soon.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// One listener per shard, all on `address`; port 0 becomes one free port for all of them. The
/// error is one line for the operator.
pub fn bind(address: SocketAddr, shards: usize) -> Result<Vec<TcpListener>, String> {
    bind_family(address, shards, false)
}

/// The same; an IPv6 address takes IPv4 clients, too, unless it is to be `ipv6_only`.
pub fn bind_family(
    address: SocketAddr,
    shards: usize,
    ipv6_only: bool,
) -> Result<Vec<TcpListener>, String> {
    let explain = |error: io::Error| explain(address, &error);
    refuse_taken(address, ipv6_only).map_err(explain)?;
    let mut bound = address;
    let mut listeners = Vec::with_capacity(shards);
    for _ in 0..shards {
        let listener = listen(bound, ipv6_only).map_err(explain)?;
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
    socket.set_tcp_keepalive(&keepalive)
}

/// What a dialed socket gets, until its server leaves a send unread (`wait_for_reader`).
pub fn set_dial_options(socket: &Socket) -> io::Result<()> {
    set_options(socket)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// Lets a peer leave bytes unread for as long as it lives. The kernel would count bytes for which
/// it has no room as unacknowledged, though it answers every probe (tcp(7), TCP_USER_TIMEOUT). If
/// its machine is gone it takes as long as `net.ipv4.tcp_retries2` to notice, about 15 minutes.
pub fn wait_for_reader(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_user_timeout(None)
}

/// SO_REUSEPORT would silently share the port with another program of the same user: a bind without
/// it tells. Port 0 is always free.
fn refuse_taken(address: SocketAddr, ipv6_only: bool) -> io::Result<()> {
    socket_for(address, ipv6_only)?.bind(&address.into())
}

fn socket_for(address: SocketAddr, ipv6_only: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(ipv6_only)?;
    }
    Ok(socket)
}

/// Whether this machine knows IPv6 at all.
pub fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).is_ok()
}

/// Those of a name's addresses that can be listened on, each once: many a `localhost` is also
/// `::1` where IPv6 is switched off. All of them if this machine has none, so that a bind tells
/// why. Port 0 would be another one for each, so then it is the first only.
pub fn own_of_name(name: &str, mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    found.sort();
    found.dedup();
    let (mut own, foreign): (Vec<_>, Vec<_>) =
        found.iter().copied().partition(|address| is_own(*address));
    if own.is_empty() {
        own = found;
    } else {
        for address in foreign {
            tracing::info!("{name} is also {address}, which this machine has not: left out");
        }
    }
    if own.first().is_some_and(|address| address.port() == 0) {
        own.truncate(1);
    }
    own
}

/// False only if the kernel says that it knows no such address or family.
fn is_own(address: SocketAddr) -> bool {
    let any_port = SocketAddr::new(address.ip(), 0);
    let outcome = socket_for(any_port, true).and_then(|socket| socket.bind(&any_port.into()));
    let is_unknown = |error: io::Error| {
        matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
    };
    !outcome.is_err_and(is_unknown)
}

/// A Unix socket's place in the file system; it goes when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: what others have put there meanwhile stays.
    identity: (u64, u64),
}

impl SocketFile {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = identity(&self.path).is_ok_and(|identity| identity == self.identity);
        if is_ours {
            // Somebody else was faster, or may: there is nothing more to do about it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A Unix socket with these rights, once for each shard. A file that a former process has left is
/// replaced; one that somebody listens on is not.
pub fn bind_unix(
    path: &Path,
    rights: u32,
    shards: usize,
) -> Result<(Vec<UnixListener>, SocketFile), String> {
    let shown = path.display();
    let explain = |error: io::Error| format!("cannot listen on unix:{shown}: {error}");
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(explain)?;
    socket.bind(&SockAddr::unix(path).map_err(explain)?).map_err(explain)?;
    let file = SocketFile { path: path.into(), identity: identity(path).map_err(explain)? };
    // Nobody can connect before `listen`, so the rights are never wider than they should be.
    fs::set_permissions(path, fs::Permissions::from_mode(rights)).map_err(explain)?;
    socket.listen(BACKLOG).map_err(explain)?;
    let listener = UnixListener::from(OwnedFd::from(socket));
    let clones = (1..shards).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>();
    let mut listeners = clones.map_err(explain)?;
    listeners.push(listener);
    Ok((listeners, file))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

fn remove_stale(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(format!("cannot listen on unix:{shown}: it is there and is no socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| format!("cannot remove unix:{shown}, which nobody uses: {error}")),
        Ok(_) => Err(format!(
            "cannot listen on unix:{shown}: another program does; stop it or choose another path"
        )),
        Err(error) => Err(format!("cannot tell whether somebody uses unix:{shown}: {error}")),
    }
}

fn listen(address: SocketAddr, ipv6_only: bool) -> io::Result<TcpListener> {
    let socket = socket_for(address, ipv6_only)?;
    socket.set_reuse_port(true)?;
    set_options(&socket)?; // clients may read late: see `wait_for_reader`
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
        assert_eq!(socket.tcp_user_timeout().unwrap(), None, "it may read late");
    }

    #[test]
    fn one_port_serves_both_families_or_each_its_own() {
        let any = |port| SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
        // A kernel that knows IPv6 may be told to have none of its addresses.
        if TcpListener::bind("[::1]:0").is_err() {
            println!("not tested: this machine has no ::1");
            return;
        }
        let both = bind(any(0), 2).unwrap();
        let port = both[0].local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        let only = bind_family(any(0), 1, true).unwrap();
        let port = only[0].local_addr().unwrap().port();
        let four = bind(SocketAddr::from(([0, 0, 0, 0], port)), 1).unwrap();
        TcpStream::connect(("::1", port)).unwrap();
        drop(four);
        TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    }

    #[test]
    fn addresses_of_a_name_that_this_machine_has_not_are_left_out() {
        // For documentation (RFC 5737, RFC 3849): no machine has them.
        let foreign = ["192.0.2.1:7687", "[2001:db8::1]:7687"].map(|text| text.parse().unwrap());
        let own: SocketAddr = "127.0.0.1:7687".parse().unwrap();
        let found = vec![foreign[1], own, foreign[0], own];
        assert_eq!(own_of_name("localhost", found), [own]);
        // Nothing is left: all stay, and a bind says why.
        assert_eq!(own_of_name("elsewhere", foreign.to_vec()), foreign);
        assert!(bind(foreign[0], 1).unwrap_err().contains("its own"));
        let any_port = ["192.0.2.1:0", "127.0.0.1:0", "127.0.0.2:0"];
        let any_port = any_port.map(|text| text.parse().unwrap());
        assert_eq!(own_of_name("localhost", any_port.to_vec()), [any_port[1]]);
    }

    #[test]
    fn a_unix_socket_replaces_a_stale_file_and_goes_with_its_owner() {
        let folder = std::env::temp_dir().join(format!("boltmux-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("bolt.sock");
        let (listeners, file) = bind_unix(&path, 0o600, 2).unwrap();
        assert_eq!((listeners.len(), file.path()), (2, &*path));
        let rights = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(rights, 0o600);
        let taken = bind_unix(&path, 0o600, 1).unwrap_err();
        assert!(taken.contains("another program") && !taken.contains('\n'), "{taken}");
        drop(file);
        assert!(!path.exists());
        // As after a crash: the file is there, and nobody listens.
        let (listeners, file) = bind_unix(&path, 0o600, 1).unwrap();
        std::mem::forget(file);
        drop(listeners);
        let (_listeners, file) = bind_unix(&path, 0o666, 1).unwrap();
        // What another program has put there meanwhile stays.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "not a socket").unwrap();
        drop(file);
        let refusal = bind_unix(&path, 0o600, 1).unwrap_err();
        assert!(refusal.contains("no socket"), "{refusal}");
        fs::remove_dir_all(&folder).unwrap();
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
