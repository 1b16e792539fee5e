//! Routing tables that name the proxy: ROUTE's, and up to Bolt 4.2, which has no ROUTE, those that
//! drivers get by calling a procedure.

use super::*;
use crate::wire::message::{RoutingTable, own_table_record, routing_call};

impl Session {
    /// The proxy itself, as the client spells it, in all three roles: drivers refuse less.
    pub(super) fn own_servers(&self, cx: Context<'_>) -> Vec<(Role, Vec<String>)> {
        let address = self.spelling.as_deref().unwrap_or(cx.own_address);
        let roles = [Role::Write, Role::Read, Role::Route];
        roles.map(|role| (role, vec![address.to_owned()])).into()
    }

    /// The routing table with the proxy's own address in all three roles; `db` and `ttl` are the
    /// server's.
    pub(super) fn own_table(&mut self, reply: Reply<'_>, cx: Context<'_>) -> Relay {
        let Some(Ok(mut table)) = reply.payload.map(RoutingTable::parse) else {
            return Relay::Forward;
        };
        if let Some(key) = self.route.take() {
            cx.routes.borrow_mut().keep(*key, table.clone(), cx.now);
        }
        table.servers = self.own_servers(cx);
        Relay::Replace(table.encode(self.version).into())
    }

    /// Whether this auto-commit query asks for a routing table, as old drivers do.
    pub(super) fn notice_routing_call(&mut self, request: Request<'_>) {
        self.asks_for_table = false;
        if self.version.has_route() {
            return;
        }
        if let Some(call) = request.payload.and_then(routing_call) {
            self.asks_for_table = true;
            let address = call.address.map(Box::from);
            self.spelling = address.or(self.spelling.take());
        }
    }

    /// Whether a record has to be there whole before it is handed on: the table may be in it.
    pub fn needs_whole_record(&self) -> bool {
        self.asks_for_table && matches!(self.work, Work::Auto(_))
    }

    /// A whole record in answer to a routing procedure, with the proxy in place of the servers;
    /// `None` where it holds no table.
    pub fn table_record(&mut self, payload: &[u8], cx: Context<'_>) -> Option<Bytes> {
        self.spoke_at = cx.now;
        own_table_record(payload, &self.own_servers(cx)).map(Bytes::from)
    }
}
