//! What single values cannot show: settings that contradict each other.

use crate::config::settings::{PoolMode, Settings};
use crate::config::values::{show_bind, show_size};

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
    Rule { keys: &["limits.login_message", "limits.held_bytes"], broken: login_above_held },
    Rule { keys: &["limits.held_bytes", "limits.heap_bytes"], broken: held_above_heap },
    Rule { keys: &["transport.buffer_size"], broken: buffer_of_odd_size },
    Rule { keys: &["transport.credit", "limits.heap_bytes"], broken: credit_above_heap },
    Rule {
        keys: &["timeouts.transaction", "timeouts.idle_in_transaction"],
        broken: idle_above_transaction,
    },
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

/// Port 0 is a new port each time.
fn bound_twice(settings: &Settings) -> Option<String> {
    let binds = || settings.listen.iter().map(|listen| &listen.bind);
    let twice = binds()
        .enumerate()
        .find(|(index, bind)| bind.port != 0 && binds().take(*index).any(|other| other == *bind));
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

fn above(lesser: &str, lesser_bytes: u32, greater: &str, greater_bytes: u32) -> Option<String> {
    (lesser_bytes > greater_bytes).then(|| {
        format!(
            "{lesser} ({}) is above {greater} ({}), raise the one or lower the other",
            show_size(lesser_bytes),
            show_size(greater_bytes)
        )
    })
}
