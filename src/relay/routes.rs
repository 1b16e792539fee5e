//! Routing tables that servers gave, kept for a moment so that every short-lived driver need not
//! ask again. Pure.

use crate::backend::identity::Fingerprint;
use crate::wire::message::{Route, Routing, RoutingTable};
use std::collections::HashMap;
use std::time::Duration;

/// Tables kept per shard; the drivers of one application ask for a handful.
pub const ROUTES_MAX: usize = 1024;
/// A table is believed no longer than this, whatever its `ttl` says: a change must be seen soon.
const AGE_MAX: Duration = Duration::from_secs(60);

/// What a table depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    fingerprint: Fingerprint,
    routing: Routing,
    database: Option<String>,
    imp_user: Option<String>,
}

impl RouteKey {
    /// The client's spelling of the address and its bookmarks do not matter to the answer.
    pub fn new(fingerprint: Fingerprint, route: Route) -> RouteKey {
        let routing = Routing { address: None, entries: route.routing.entries };
        RouteKey { fingerprint, routing, database: route.database, imp_user: route.imp_user }
    }
}

/// See the module. Failures are never kept.
#[derive(Debug)]
pub struct RouteCache {
    tables: HashMap<RouteKey, (RoutingTable, Duration)>,
    age_max: Duration,
}

impl RouteCache {
    /// `approval_ttl` bounds how long a table is given out without asking the server.
    pub fn new(approval_ttl: Duration) -> RouteCache {
        RouteCache { tables: HashMap::new(), age_max: AGE_MAX.min(approval_ttl) }
    }

    /// A table that is still believed.
    pub fn find(&mut self, key: &RouteKey, now: Duration) -> Option<RoutingTable> {
        let (table, until) = self.tables.get(key)?;
        (now < *until).then(|| table.clone())
    }

    /// Keeps a server's table for its `ttl`, but not for long.
    pub fn keep(&mut self, key: RouteKey, table: RoutingTable, now: Duration) {
        if self.tables.len() >= ROUTES_MAX {
            self.tables.retain(|_, (_, until)| now < *until);
        }
        let ttl = Duration::from_secs(table.ttl_seconds.max(0).unsigned_abs());
        if self.tables.len() < ROUTES_MAX {
            self.tables.insert(key, (table, now + ttl.min(self.age_max)));
        }
    }

    /// The server no longer accepts this identity.
    pub fn revoke(&mut self, fingerprint: Fingerprint) {
        self.tables.retain(|key, _| key.fingerprint != fingerprint);
    }
}
