//! `pool.reauth`: an idle connection of one user becomes another's by LOGOFF and LOGON.
//!
//! Only when no permit is free; only between users whose connections differ in nothing else; only
//! for credentials that the server has accepted lately, since a LOGON that fails costs the
//! connection, and servers count those. Until LOGON's SUCCESS the connection counts as one that is
//! dialled for its new identity: nobody has it, and nothing is sent on it. One that is lost on the
//! way leaves its waiter in the queue.

use super::*;

impl Pool {
    /// The connection that has been idle for longest and can become one of `key`.
    pub(super) fn turnable(&self, key: u32) -> Option<ServerId> {
        let idle = self.idle_entries().filter(|(_, entry)| self.may_turn(entry.key, key));
        idle.min_by_key(|(id, entry)| (entry.used, *id)).map(|(id, _)| id)
    }

    /// Whether connections of `from` may become connections of `to`.
    pub(super) fn may_turn(&self, from: u32, to: u32) -> bool {
        let (source, target) = (&self.keys[from as usize], &self.keys[to as usize]);
        // A private identity's login may be for one use: it could not come back.
        self.is_turned_to(to)
            && !source.identity.is_private
            && source.identity.profile == target.identity.profile
    }

    fn is_turned_to(&self, key: u32) -> bool {
        let Some(ttl) = self.options.reauth else { return false };
        let Key { identity, approved_at, queue, dialing, .. } = &self.keys[key as usize];
        let is_live = approved_at.is_some_and(|at| self.now < at + ttl);
        (is_live || self.planted.has(Bug::TurnUnapproved))
            && queue.len().min(DIALS_OF_KEY_MAX) > *dialing
            && !identity.is_private
            && identity.profile.version.has_logon()
    }

    /// Orders LOGOFF and LOGON on a connection that is READY and nobody's.
    pub(super) fn turn_over(&mut self, id: ServerId, key: u32) {
        let Some(entry) = self.entry(id) else { return };
        let from = entry.key;
        (entry.key, entry.state) = (key, State::Dialing(None));
        (entry.is_turned, entry.is_stale, entry.has_served) = (true, false, false);
        let source = &mut self.keys[from as usize];
        source.idle.retain(|&other| other != id);
        source.held -= 1;
        let old = source.identity.clone();
        let target = &mut self.keys[key as usize];
        (target.held, target.dialing) = (target.held + 1, target.dialing + 1);
        let identity = match self.planted.has(Bug::KeepIdentity) {
            true => old,
            false => target.identity.clone(),
        };
        self.dialing += 1;
        self.keys.settle(key, self.now);
        self.orders.push_back(Order::TurnOver(id, identity));
        if self.planted.has(Bug::SendBeforeLogon) {
            self.dialed(id, self.now);
        }
    }
}
