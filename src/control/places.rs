//! Where clients and operators are accepted, as addresses of this machine: names are resolved, and
//! places that would take each other's port are named before any is bound.
//!
//! Resolving may block: for the start, before any shard runs, and for `boltmux check`.

use crate::config::problem::{Place, Problems};
use crate::config::values::show_bind;
use crate::config::{Bind, BindHost, Settings};
use crate::transport::listener;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// The addresses of a `Bind`; none for a Unix socket.
#[expect(clippy::disallowed_methods, reason = "nothing runs yet that a slow name could hold up")]
pub fn resolve(bind: &Bind) -> Result<Vec<SocketAddr>, String> {
    match &bind.host {
        // The IPv6 one takes IPv4 clients, too, where there is IPv6 at all.
        BindHost::Any if listener::has_ipv6() => {
            Ok(vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, bind.port))])
        }
        BindHost::Any => Ok(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, bind.port))]),
        BindHost::Unix(_) => Ok(Vec::new()),
        BindHost::Address(address) => Ok(vec![SocketAddr::from((*address, bind.port))]),
        BindHost::Name(name) => {
            let found = (name.as_str(), bind.port).to_socket_addrs();
            let found = found.map_err(|error| format!("cannot resolve {name}: {error}"))?;
            Ok(listener::own_of_name(name, found.collect()))
        }
    }
}

/// One line for each place that has the port of another one; another program would be blamed
/// otherwise. A name that cannot be resolved is left to the start.
pub fn overlaps(settings: &Settings) -> Problems {
    let listeners = settings.listen.iter();
    let mut all: Vec<_> =
        listeners.map(|listen| ("listen.bind", &listen.bind, listen.ipv6_only)).collect();
    all.extend(settings.admin.bind.iter().map(|bind| ("admin.bind", bind, false)));
    let mut problems = Problems::default();
    let mut taken: Vec<(String, Claim)> = Vec::new();
    for (index, (key, bind, ipv6_only)) in all.iter().enumerate() {
        let is_shared =
            all.iter().enumerate().any(|(other, it)| other != index && it.1.port == bind.port);
        // Names are asked for only where it matters; port 0 is a new one each time. What is written
        // alike twice is refused by a rule of the configuration.
        let is_twice = all.iter().take(index).any(|(_, rival, _)| rival == bind);
        if bind.port == 0 || is_twice || !is_shared {
            continue;
        }
        let label = format!("{key} = {}", show_bind(bind));
        let claims: Vec<Claim> = resolve(bind)
            .unwrap_or_default()
            .into_iter()
            .map(|address| Claim { address, ipv6_only: *ipv6_only })
            .collect();
        let clash = claims.iter().find_map(|claim| {
            let rival = taken.iter().find(|(_, rival)| claim.meets(rival))?;
            Some((claim.address, rival.0.clone()))
        });
        if let Some((address, rival)) = clash {
            let text = format!(
                "{label} means {address}, whose port {rival} has already: leave one of them out, \
                 or choose another port"
            );
            problems.add(Place::Together, text);
        }
        taken.extend(claims.into_iter().map(|claim| (label.clone(), claim)));
    }
    problems
}

/// What a socket that listens takes.
struct Claim {
    address: SocketAddr,
    ipv6_only: bool,
}

impl Claim {
    fn meets(&self, other: &Claim) -> bool {
        self.address.port() == other.address.port()
            && (self.address.ip() == other.address.ip()
                || self.covers(other.address)
                || other.covers(self.address))
    }

    /// Whether the address is one of all those that this one stands for.
    fn covers(&self, address: SocketAddr) -> bool {
        match self.address.ip() {
            IpAddr::V4(own) => own.is_unspecified() && address.is_ipv4(),
            IpAddr::V6(own) => own.is_unspecified() && (address.is_ipv6() || !self.ipv6_only),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listen;
    use crate::config::values::parse_bind;

    fn told(listen: &[(&str, bool)], admin: Option<&str>) -> Vec<String> {
        let listener = |(bind, ipv6_only): &(&str, bool)| {
            let bind = parse_bind(bind).unwrap();
            Listen { bind, ipv6_only: *ipv6_only, ..Listen::default() }
        };
        let listen = listen.iter().map(listener).collect();
        let mut settings = Settings { listen, ..Settings::default() };
        settings.admin.bind = admin.map(|bind| parse_bind(bind).unwrap());
        overlaps(&settings).iter().map(|problem| problem.text.clone()).collect()
    }

    #[test]
    fn places_that_take_each_others_port_are_named() {
        for (listen, admin, parts) in [
            (&[("*:7", false), ("[::]:7", false)][..], None, ["= [::]:7 means", "= *:7 has"]),
            (
                &[("127.0.0.1:7", false), ("localhost:7", false)],
                None,
                ["localhost:7 means 127.0.0.1:7", "listen.bind = 127.0.0.1:7 has already"],
            ),
            (&[("0.0.0.0:7", false), ("127.0.0.2:7", false)], None, ["127.0.0.2:7", "0.0.0.0"]),
            (&[("[::]:7", false), ("127.0.0.1:7", false)], None, ["127.0.0.1:7", "[::]:7"]),
            (&[("[::]:7", true), ("[::1]:7", false)], None, ["[::1]:7", "[::]:7"]),
            (&[("127.0.0.1:7", false)], Some(":7"), ["admin.bind = *:7", "listen.bind"]),
        ] {
            let told = told(listen, admin);
            assert_eq!(told.len(), 1, "{listen:?}: {told:?}");
            assert!(parts.iter().all(|part| told[0].contains(part)), "{told:?}");
        }
    }

    #[test]
    fn others_stand_beside_each_other() {
        let none: [String; 0] = [];
        assert_eq!(told(&[("0.0.0.0:7", false), ("[::]:7", true)], Some("*:8")), none);
        assert_eq!(told(&[("127.0.0.1:7", false), ("127.0.0.2:7", false)], None), none);
        assert_eq!(told(&[("*:0", false), ("*:0", false)], Some("*:0")), none);
        assert_eq!(told(&[("no-such-host.invalid:7", false), ("127.0.0.1:7", false)], None), none);
        assert_eq!(told(&[("unix:/run/a", false), ("unix:/run/b", false)], None), none);
    }
}
