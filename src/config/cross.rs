//! What single values cannot show: settings that contradict each other.

use crate::config::settings::{
    Bind, BindHost, Encryption, Listen, ListenTls, PoolMode, Settings, Timeouts, TlsMode,
};
use crate::config::values::{show_bind, show_size};
use std::time::Duration;

/// A rule over several keys. It is looked at only if all of them could be read.
pub struct Rule {
    /// The keys it is about; the mistake is reported at the first of them that was written.
    pub keys: &'static [&'static str],
    /// What is wrong, if it is broken.
    pub broken: fn(&Settings) -> Option<String>,
}

/// All rules.
pub const RULES: &[Rule] = &[
    Rule { keys: &["uplink.monitor", "pool.mode"], broken: transaction_mode_unmonitored },
    Rule { keys: &["pool.reauth", "pool.mode"], broken: reauth_without_pool },
    Rule { keys: &["pool.reauth", "pool.approval_ttl"], broken: reauth_without_approvals },
    Rule { keys: &["uplink.versions", "pool.mode"], broken: versions_without_pool },
    Rule { keys: &["listen.bind"], broken: bound_twice },
    Rule { keys: &["admin.bind", "listen.bind"], broken: admin_on_listener },
    Rule { keys: &["listen.tls", "listen.cert"], broken: tls_without_certificate },
    Rule { keys: &["listen.key", "listen.cert"], broken: keys_of_other_number },
    Rule { keys: &["listen.client_ca", "listen.tls"], broken: clients_slip_past },
    Rule { keys: &["listen.client_names", "listen.client_ca"], broken: names_of_nobody },
    Rule { keys: &["listen.proxy_networks", "listen.proxy_protocol"], broken: balancers_unknown },
    Rule { keys: &["uplink.ca_file", "uplink.uri"], broken: authority_unused },
    Rule { keys: &["uplink.client_cert", "uplink.uri"], broken: client_certificate_unused },
    Rule { keys: &["uplink.client_key", "uplink.client_cert"], broken: client_key_alone },
    Rule { keys: &["uplink.password_file", "uplink.password"], broken: password_twice },
    Rule { keys: &["limits.login_message", "limits.held_bytes"], broken: login_above_held },
    Rule { keys: &["limits.held_bytes", "limits.heap_bytes"], broken: held_above_heap },
    Rule { keys: &["transport.buffer_size"], broken: buffer_of_odd_size },
    Rule { keys: &["transport.credit", "limits.heap_bytes"], broken: credit_above_heap },
    Rule {
        keys: &["timeouts.transaction", "timeouts.idle_in_transaction"],
        broken: idle_above_transaction,
    },
    Rule { keys: &["timeouts.query", "timeouts.transaction"], broken: query_above_transaction },
    Rule { keys: &["timeouts.first_bytes", "timeouts.login"], broken: first_bytes_above_login },
    Rule { keys: &["timeouts.idle_in_transaction", "pool.mode"], broken: idle_without_pool },
    Rule { keys: &["timeouts.transaction", "pool.mode"], broken: transaction_without_pool },
    Rule { keys: &["timeouts.query", "pool.mode"], broken: query_without_pool },
];

/// Lending per transaction needs to know what the servers speak before a client logs in.
fn transaction_mode_unmonitored(settings: &Settings) -> Option<String> {
    let broken = !settings.uplink.monitor && settings.pool.mode == PoolMode::Transaction;
    broken.then(|| {
        "uplink.monitor = false needs pool.mode = \"session\": what servers speak is not known \
         otherwise"
            .into()
    })
}

fn reauth_without_pool(settings: &Settings) -> Option<String> {
    let broken = settings.pool.reauth && settings.pool.mode == PoolMode::Session;
    broken.then(|| {
        "pool.reauth = true needs pool.mode = \"transaction\": session mode reuses no connection"
            .into()
    })
}

/// Only a user whom the server has accepted lately may take a connection over.
fn reauth_without_approvals(settings: &Settings) -> Option<String> {
    let broken = settings.pool.reauth && settings.pool.approval_ttl.is_zero();
    broken.then(|| {
        "pool.reauth = true needs pool.approval_ttl above 0: a connection is turned over only to \
         credentials that the server has accepted that lately"
            .into()
    })
}

fn versions_without_pool(settings: &Settings) -> Option<String> {
    let broken = !settings.uplink.versions.is_empty() && settings.pool.mode == PoolMode::Session;
    broken.then(|| {
        "uplink.versions needs pool.mode = \"transaction\": in session mode the server answers \
         the handshake itself"
            .into()
    })
}

/// Whether any listener's TLS is so, and which.
fn any_tls(settings: &Settings, is_so: impl Fn(&ListenTls) -> bool) -> Option<String> {
    let listen = settings.listen.iter().find(|listen| is_so(&listen.tls))?;
    Some(show_bind(&listen.bind))
}

fn tls_without_certificate(settings: &Settings) -> Option<String> {
    let is_missing =
        |tls: &ListenTls| tls.certificates.is_empty() && tls.effective_mode() != TlsMode::Off;
    let bind = any_tls(settings, is_missing)?;
    Some(format!("TLS on {bind} needs a certificate: give listen.cert and listen.key"))
}

fn keys_of_other_number(settings: &Settings) -> Option<String> {
    let differ = |tls: &ListenTls| !tls.keys.is_empty() && tls.keys.len() != tls.certificates.len();
    let bind = any_tls(settings, differ)?;
    Some(format!("{bind} has not as many files in listen.key as in listen.cert: give each its key"))
}

fn clients_slip_past(settings: &Settings) -> Option<String> {
    let is_open =
        |tls: &ListenTls| tls.client_ca.is_some() && tls.effective_mode() != TlsMode::Required;
    let bind = any_tls(settings, is_open)?;
    Some(format!(
        "{bind} asks for clients' certificates, but clients without TLS have none: set \
         listen.tls = \"required\""
    ))
}

fn names_of_nobody(settings: &Settings) -> Option<String> {
    let is_alone = |tls: &ListenTls| !tls.client_names.is_empty() && tls.client_ca.is_none();
    let bind = any_tls(settings, is_alone)?;
    Some(format!("{bind} has listen.client_names, which needs listen.client_ca"))
}

fn balancers_unknown(settings: &Settings) -> Option<String> {
    let is_unix = |bind: &Bind| matches!(bind.host, BindHost::Unix(_));
    let open = settings.listen.iter().find(|listen| {
        listen.proxy_protocol && listen.proxy_networks.is_empty() && !is_unix(&listen.bind)
    });
    if let Some(listen) = open {
        let bind = show_bind(&listen.bind);
        return Some(format!(
            "listen.proxy_protocol on {bind} needs listen.proxy_networks: who may send the header \
             (0.0.0.0/0,::/0 for everybody, who can then claim any address)"
        ));
    }
    let is_unused = |listen: &Listen| !listen.proxy_networks.is_empty() && !listen.proxy_protocol;
    let bind = show_bind(&settings.listen.iter().find(|listen| is_unused(listen))?.bind);
    Some(format!("listen.proxy_networks of {bind} needs listen.proxy_protocol = \"required\""))
}

fn authority_unused(settings: &Settings) -> Option<String> {
    let uplink = &settings.uplink;
    let is_unused = uplink.ca_file.is_some() && uplink.encryption != Encryption::Verified;
    is_unused
        .then(|| "uplink.ca_file is for bolt+s:// and neo4j+s:// only, change uplink.uri".into())
}

fn client_certificate_unused(settings: &Settings) -> Option<String> {
    let uplink = &settings.uplink;
    let is_unused = uplink.client_cert.is_some() && uplink.encryption == Encryption::Off;
    is_unused.then(|| "uplink.client_cert needs TLS: put +s behind the scheme of uplink.uri".into())
}

fn client_key_alone(settings: &Settings) -> Option<String> {
    let uplink = &settings.uplink;
    let is_alone = uplink.client_key.is_some() && uplink.client_cert.is_none();
    is_alone.then(|| "uplink.client_key needs uplink.client_cert".into())
}

fn password_twice(settings: &Settings) -> Option<String> {
    let is_twice = settings.uplink.password_file.is_some() && settings.uplink.password.is_some();
    is_twice.then(|| "expected uplink.password or uplink.password_file, not both".into())
}

/// Port 0 is a new port each time.
fn bound_twice(settings: &Settings) -> Option<String> {
    let binds = || settings.listen.iter().map(|listen| &listen.bind);
    let twice = binds().enumerate().find(|(index, bind)| {
        let is_fixed = bind.port != 0 || matches!(bind.host, BindHost::Unix(_));
        is_fixed && binds().take(*index).any(|other| other == *bind)
    });
    twice.map(|(_, bind)| format!("{} is listed twice, list it once", show_bind(bind)))
}

fn admin_on_listener(settings: &Settings) -> Option<String> {
    let admin = settings.admin.bind.as_ref().filter(|admin| admin.port != 0)?;
    let clash = settings.listen.iter().find(|listen| listen.bind == *admin)?;
    let shown = show_bind(&clash.bind);
    Some(format!("{shown} cannot be admin.bind and listen.bind at once, choose another port"))
}

fn login_above_held(settings: &Settings) -> Option<String> {
    let (login, held) = (settings.limits.login_message, settings.limits.held_bytes);
    above("limits.login_message", login, "limits.held_bytes", held)
}

fn held_above_heap(settings: &Settings) -> Option<String> {
    let (held, heap) = (settings.limits.held_bytes, settings.limits.heap_bytes);
    above("limits.held_bytes", held, "limits.heap_bytes", heap)
}

fn credit_above_heap(settings: &Settings) -> Option<String> {
    let (credit, heap) = (settings.transport.credit, settings.limits.heap_bytes);
    above("transport.credit", credit, "limits.heap_bytes", heap)
}

/// Buffers lie side by side on pages of their own.
fn buffer_of_odd_size(settings: &Settings) -> Option<String> {
    let size = settings.transport.buffer_size;
    (!size.is_multiple_of(4096)).then(|| {
        format!("expected transport.buffer_size in multiples of 4KiB, not {}", show_size(size))
    })
}

fn idle_above_transaction(settings: &Settings) -> Option<String> {
    let (idle, whole) = (settings.timeouts.idle_in_transaction?, settings.timeouts.transaction?);
    (idle > whole).then(|| {
        "timeouts.idle_in_transaction is longer than timeouts.transaction and would never end \
         anything, lower it or turn it off"
            .into()
    })
}

fn query_above_transaction(settings: &Settings) -> Option<String> {
    let (query, whole) = (settings.timeouts.query?, settings.timeouts.transaction?);
    (query > whole).then(|| {
        "timeouts.query is longer than timeouts.transaction, which counts for a query alone, too, \
         and would never end anything: lower it or turn it off"
            .into()
    })
}

/// A login that is given less than the default for its beginning alone is no contradiction.
fn first_bytes_above_login(settings: &Settings) -> Option<String> {
    let Timeouts { first_bytes, login, .. } = settings.timeouts;
    let broken = first_bytes > login && first_bytes != Timeouts::default().first_bytes;
    broken.then(|| {
        "timeouts.first_bytes is longer than timeouts.login, which counts from accept, too, and \
         would never end anything: lower the one or raise the other"
            .into()
    })
}

fn idle_without_pool(settings: &Settings) -> Option<String> {
    limit_without_pool(settings, "timeouts.idle_in_transaction", |all| all.idle_in_transaction)
}

fn transaction_without_pool(settings: &Settings) -> Option<String> {
    limit_without_pool(settings, "timeouts.transaction", |all| all.transaction)
}

fn query_without_pool(settings: &Settings) -> Option<String> {
    limit_without_pool(settings, "timeouts.query", |all| all.query)
}

fn limit_without_pool(
    settings: &Settings,
    key: &str,
    limit: fn(&Timeouts) -> Option<Duration>,
) -> Option<String> {
    let broken = settings.pool.mode == PoolMode::Session && limit(&settings.timeouts).is_some();
    broken.then(|| {
        format!(
            "{key} needs pool.mode = \"transaction\": session mode relays and knows no \
             transactions; set the server's own limits"
        )
    })
}

fn above(lesser: &str, lesser_bytes: u32, greater: &str, greater_bytes: u32) -> Option<String> {
    (lesser_bytes > greater_bytes).then(|| {
        format!(
            "{lesser} ({}) is above {greater} ({}), raise the one or lower the other",
            show_size(lesser_bytes),
            show_size(greater_bytes)
        )
    })
}
