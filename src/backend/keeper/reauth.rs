//! Turning an idle connection over to another user, for the pool.

use super::*;

impl Backend {
    /// LOGOFF and LOGON; nobody has the connection before both have succeeded.
    pub(super) async fn turn_over(self: Rc<Self>, id: ServerId, identity: Rc<Identity>) {
        let conn = self.conns.borrow_mut().remove(&id);
        let Some(conn) = conn else {
            return self.not_turned(id, DialFailure::Lost);
        };
        let limit = self.target.borrow().login_within;
        let outcome = connection::within(
            &self.driver,
            limit,
            connection::log_on_again(&conn, &identity.auth),
        );
        let failure = match outcome.await {
            Some(Ok(is_expired)) if !is_expired || identity.is_private => {
                self.keep_idle(id, conn);
                self.renew(identity.fingerprint);
                drop(identity); // the pool counts who still knows a private one
                self.pool.borrow_mut().dialed(id, self.now());
                return self.carry_out();
            }
            Some(Ok(_)) => {
                connection::close(conn, true).await;
                self.pool.borrow_mut().dial_expired(id, self.now());
                return self.carry_out();
            }
            Some(Err(DialError::Failed(failure))) => failure,
            Some(Err(DialError::VersionRefused)) => DialFailure::Lost,
            None => DialFailure::Slow(format!("no answer to LOGON within {limit:?}")),
        };
        connection::close(conn, false).await;
        let refused = failure.about_credentials();
        self.not_turned(id, failure);
        if let Some(failure) = refused {
            self.revoke(identity.fingerprint, failure);
        }
    }

    fn not_turned(self: &Rc<Self>, id: ServerId, failure: DialFailure) {
        self.discarded.borrow_mut()[Discard::ReauthFailed as usize] += 1;
        self.pool.borrow_mut().dial_failed(id, failure, self.now());
        self.carry_out();
    }
}
