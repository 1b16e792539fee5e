//! HELLO and LOGON: who is let in.

use super::*;
use crate::synthetic::Login;

impl Machine {
    pub(super) fn hello(&mut self, fields: Reader<'_>, now: Duration, world: &World) {
        let Ok(hello) = login::hello(self.version, fields) else { return self.refuse(world) };
        if !self.version.has_logon() && !self.admits(hello.token, world) {
            return self.reject(now, world);
        }
        let options = &world.options;
        let welcome = Welcome {
            agent: &options.agent,
            connection: self.id,
            recv_timeout_seconds: options.recv_timeout_seconds,
            utc_patch: hello.wants_utc && options.utc_patch,
            is_manifest: self.is_manifest,
            credentials_expired: !self.version.has_logon() && self.is_expired(world),
        };
        answers::welcome(&mut self.out, self.version, &welcome);
        self.phase = Phase::Authentication;
        if !self.version.has_logon() {
            self.log_in(now, world);
        }
    }

    pub(super) fn logon(&mut self, fields: Reader<'_>, now: Duration, world: &World) {
        let Ok(token) = login::logon(fields) else { return self.refuse(world) };
        if !self.admits(token, world) {
            return self.reject(now, world);
        }
        let is_expired = self.is_expired(world);
        answers::logged_on(&mut self.out, self.version, &world.address, is_expired);
        self.log_in(now, world);
    }

    fn admits(&mut self, token: Token<'_>, world: &World) -> bool {
        let options = &world.options;
        let is_it = |login: &&Login| {
            let parts = (&*login.scheme, login.principal.as_deref(), login.realm.as_deref());
            parts == (token.scheme.unwrap_or_default(), token.principal, token.realm)
                && login.credentials.as_deref() == token.credentials
        };
        let name = match (options.logins.iter().find(is_it), token.principal, token.credentials) {
            (Some(login), ..) => &*login.user,
            (None, Some(name), Some(password)) if token.realm.is_none() => {
                let is_known = |user: &(String, String)| (&*user.0, &*user.1) == (name, password);
                if !options.users.iter().any(is_known) {
                    return false;
                }
                name
            }
            _ => return false,
        };
        self.user.clear();
        self.user.push_str(name);
        true
    }

    pub(super) fn is_expired(&self, world: &World) -> bool {
        world.options.expired.contains(&self.user)
    }

    fn log_in(&mut self, now: Duration, world: &World) {
        count(&world.counts.logins_ok, 1);
        (self.phase, self.login_until) = (Phase::Ready, None);
        self.delay_answer(now, world.options.faults.login_delay_ms, None, world);
    }

    fn reject(&mut self, now: Duration, world: &World) {
        count(&world.counts.logins_failed, 1);
        let message = "The client is unauthorized due to authentication failure.";
        self.put_failure(UNAUTHORIZED, message, false, world);
        self.ending = Some(Ending::Close);
        self.delay_answer(now, world.options.faults.login_delay_ms, None, world);
    }
}
