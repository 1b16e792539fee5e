//! What the control core is told at start. Values only.

use crate::config::{Bind, Secret, Settings};
use crate::control::certificates::Certificates;
use crate::transport::proxy_protocol;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Options {
    /// Name or address literal of the server, IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// Whether the server is dialled at all; without it only its name is resolved.
    pub monitor: bool,
    /// The PROXY header that the server is sent first.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// Tells a server that speaks nothing above Bolt 5.0, where HELLO is the login, who asks; such
    /// a server's agent stays unknown without a password.
    pub user: String,
    pub password: Option<Secret>,
    /// Looked after from now on.
    pub certificates: Option<Certificates>,
    /// Where operators are answered over HTTP.
    pub admin: Option<Bind>,
    /// For one connection to the server: connecting, then the handshake, then HELLO, each.
    pub connect_timeout: Duration,
    /// How long shards wait for the first look at the server before they accept clients.
    pub first_look: Duration,
    /// Between probes of a healthy server.
    pub probe_interval: Duration,
    /// Between probes of a server that cannot be reached: first and last step of the back-off.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// Between look-ups of the name; and how often a healthy server is asked for its agent again.
    pub resolve_interval: Duration,
    /// How long a request for metrics waits for fresh counts.
    pub report_wait: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options::from(&Settings::default())
    }
}

impl From<&Settings> for Options {
    fn from(settings: &Settings) -> Options {
        let uplink = &settings.uplink;
        Options {
            host: uplink.host.clone(),
            port: uplink.port,
            monitor: uplink.monitor,
            proxy_protocol: uplink.proxy_protocol,
            user: uplink.user.clone(),
            password: uplink.password.clone(),
            certificates: None,
            admin: settings.admin.bind.clone(),
            connect_timeout: settings.timeouts.connect,
            // A server that is well answers at once. Who waits longer takes the start for hung.
            first_look: Duration::from_secs(2),
            // An outage shows on the data path at once; this is for a server nobody uses just now.
            probe_interval: Duration::from_secs(5),
            // A server back from a restart is seen within what a person calls at once, while
            // clients still wait for it, and a hundred proxies ask a dead one 133 times a second at
            // most.
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(1),
            // The usual lifetime of DNS records that are meant to change.
            resolve_interval: Duration::from_secs(30),
            // Shards answer within a tick of 10 ms; one that is late for 200 ms is stuck, and a
            // scrape that shows so is worth more than none.
            report_wait: Duration::from_millis(200),
        }
    }
}
