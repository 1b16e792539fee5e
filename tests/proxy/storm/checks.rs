//! What must be true when a storm is over.

use super::stormer::{Fate, Summary};
use super::{POOL_SIZE, USERS};
use crate::program::Program;
use crate::stage::Metrics;
use boltmux::synthetic::{Entry, Outcome, Server};
use std::collections::HashMap;

/// What a second wave like the first may add to the resident memory: one shard's receive buffers
/// (2 x 512 x 16 KiB) may be touched for the first time in it, and the allocator's pages do not
/// come back in the order in which they were taken. Beside a busy machine 9 MiB were seen.
const GROWTH_BYTES_MAX: u64 = (16 + 8) << 20;

/// The proxy without clients and with nothing under way.
pub struct Quiet {
    /// Without those of idle server connections.
    pub open_files: usize,
}

impl Quiet {
    /// `open_files_max` of 0 is no limit.
    pub fn wait(program: &Program, open_files_max: usize) -> Quiet {
        let open_files = |metrics: &Metrics| {
            program.open_files().saturating_sub(metrics.get("server_connections{idle}") as usize)
        };
        let is_quiet = |metrics: &Metrics| {
            let idle = metrics.get("server_connections{idle}");
            metrics.get("server_reachable") == 1
                && metrics.get("server_permits_taken") == idle
                && metrics.get("server_connections{leased}") == 0
                && metrics.get("server_connections{busy}") == 0
                && metrics.get("client_connections{login}") == 0
                && metrics.get("client_connections{serving}") == 0
                && metrics.get("clients_waiting") == 0
                && metrics.get("heap_bytes") == 0
                && (open_files_max == 0 || open_files(metrics) <= open_files_max)
        };
        let what = "the proxy is quiet and has no more descriptors than at first";
        Quiet { open_files: open_files(&program.until(what, is_quiet)) }
    }
}

/// The server's book against what clients were told.
pub fn ledger(entries: &[Entry], fates: &[(String, Fate)]) {
    assert!(entries.len() < 1 << 21, "the ledger has forgotten its oldest entries");
    let mut commits: HashMap<&str, u32> = HashMap::new();
    for entry in entries {
        let nonce = entry.nonce.as_deref().expect("every query has a nonce");
        let user = nonce.split('/').next();
        assert_eq!(user, Some(&*entry.user), "{nonce} was executed as {}", entry.user);
        if entry.query.contains("WRITE") && entry.outcome == Outcome::Committed {
            *commits.entry(nonce).or_default() += 1;
        }
    }
    for user in USERS {
        assert!(entries.iter().any(|entry| entry.user == user), "{user} has asked nothing");
    }
    let mut known = 0;
    for (nonce, fate) in fates {
        let times = commits.remove(&**nonce).unwrap_or(0);
        match fate {
            Fate::Committed => assert_eq!(times, 1, "{nonce} was said to be committed"),
            Fate::NotCommitted => assert_eq!(times, 0, "{nonce} was said not to be committed"),
            Fate::Unknown => assert!(times <= 1, "{nonce} was committed {times} times"),
        }
        known += u64::from(*fate != Fate::Unknown);
    }
    assert!(known > 0, "no write came to a known end");
    assert!(commits.is_empty(), "nobody has written {commits:?}");
}

/// The proxy's counters against each other, the server and the clients.
pub fn counters(program: &Program, server: &Server, summary: &Summary) {
    let metrics = program.metrics();
    let get = |name| metrics.get(name);
    let open = get("server_connections{idle}");
    assert_eq!(
        get("server_opened") + get("server_borrowed"),
        get("server_closed") + get("server_lent") + open,
        "{metrics:#?}"
    );
    assert_eq!(get("leases_acquired"), get("leases_returned"), "{metrics:#?}");
    assert_eq!(get("leases_returned_twice"), 0);
    assert_eq!(get("clients_accepted"), summary.logins, "{metrics:#?}");
    let closed: u64 = metrics.family("closed").iter().map(|(_, count)| count).sum();
    assert_eq!(closed, get("clients_accepted"), "{metrics:#?}");
    let harmless = ["goodbye", "client_gone", "half_message", "login_unavailable"];
    for (reason, count) in metrics.family("closed") {
        assert!(harmless.contains(&reason), "{count} clients were closed for {reason}");
    }
    assert_eq!(get("closed{half_message}"), summary.ended, "{metrics:#?}");
    assert_eq!(get("closed{login_unavailable}"), summary.logins_refused);
    let stats = server.stats();
    assert!(stats.connections_max <= POOL_SIZE, "{stats:?}");
    assert_eq!((stats.violations, stats.logins_failed), (0, 0), "{stats:?}");
    assert!(summary.cut > 0 && summary.retryable > 0, "nothing was cut: {summary}");
}

pub fn resident(after_waves: &[u64]) {
    let (first, last) = (after_waves[0], after_waves[after_waves.len() - 1]);
    assert!(last < first + GROWTH_BYTES_MAX, "resident memory grew: {after_waves:?}");
}
