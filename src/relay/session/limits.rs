//! Time in a session: the configured limits, and the signs of life that a waiting client was
//! promised.

use super::*;

impl Session {
    /// When `deadline_passed` has something to do.
    pub fn deadline(&self, limits: &SessionLimits) -> Option<Duration> {
        let mut first = None::<Duration>;
        let mut add = |since: Duration, after: Option<Duration>| {
            let at = after.map(|after| since + after);
            first = first.into_iter().chain(at).min();
        };
        if matches!(self.work, Work::Aborting { .. }) {
            add(self.turned_at, Some(limits.reset));
        } else if self.is_limited() {
            add(self.leased_at, limits.transaction);
            match self.owed.is_empty() {
                true if self.work == Work::Begun => add(self.turned_at, limits.idle_in_transaction),
                true => {}
                false if self.blocked_since.is_none() => add(self.turned_at, limits.query),
                false => {}
            }
        }
        if self.is_waited_for() && !self.is_relaying {
            add(self.spoke_at, self.noop_after);
        }
        first
    }

    /// A deadline has come: a time limit, or a client that was promised a sign of life.
    pub fn deadline_passed(&mut self, cx: Context<'_>) {
        let passed = |since: Duration, after: Option<Duration>| {
            after.is_some_and(|after| since + after <= cx.now)
        };
        let (limits, leased) = (cx.limits, self.is_limited());
        let is_silent = self.owed.is_empty();
        if matches!(self.work, Work::Aborting { .. }) {
            if passed(self.turned_at, Some(limits.reset)) {
                self.server_lost(Discard::ResetFailed);
            }
        } else if leased && passed(self.leased_at, limits.transaction) {
            self.abort("timeouts.transaction", cx);
        } else if leased
            && !is_silent
            && self.blocked_since.is_none()
            && passed(self.turned_at, limits.query)
        {
            self.abort("timeouts.query", cx);
        } else if leased
            && self.work == Work::Begun
            && is_silent
            && passed(self.turned_at, limits.idle_in_transaction)
        {
            self.abort("timeouts.idle_in_transaction", cx);
        }
        if self.is_waited_for() && !self.is_relaying && passed(self.spoke_at, self.noop_after) {
            self.answer(Bytes::from_static(&NOOP));
            self.spoke_at = cx.now;
        }
    }

    /// The client got bytes.
    pub fn spoke(&mut self, now: Duration) {
        self.spoke_at = now;
    }

    /// Whether the client takes what there is for it. `timeouts.query` is the server's: it does not
    /// count while a slow client keeps the answer from coming.
    pub fn client_takes(&mut self, takes: bool, now: Duration) {
        match (takes, self.blocked_since) {
            (false, None) => self.blocked_since = Some(now),
            (true, Some(since)) => {
                self.turned_at += now.saturating_sub(since.max(self.turned_at));
                self.blocked_since = None;
            }
            _ => {}
        }
    }

    /// As `client_takes` was last told.
    pub fn is_client_slow(&self) -> bool {
        self.blocked_since.is_some()
    }

    fn is_waited_for(&self) -> bool {
        self.is_owed() || matches!(self.phase, Phase::LoggingIn)
    }

    /// A client's own RESET ends its transaction already: no limit is looked at before the answer.
    fn is_limited(&self) -> bool {
        self.is_leased() && !self.owed.has_client_reset()
    }

    /// Ends a transaction whose time is up.
    fn abort(&mut self, limit: &'static str, cx: Context<'_>) {
        // After a FAILURE the client gets nothing but IGNORED.
        let failure = (!self.has_failed).then(|| Box::new(reply::timed_out(limit)));
        self.next_failure = failure;
        if self.is_sending {
            return self.server_lost(Discard::HalfMessage);
        }
        if self.owed.is_empty() {
            self.release(Release::Dirty(0));
            self.work = Work::Failed;
            return;
        }
        let (asker, due) = (Asker::Proxy, Due::Server);
        self.owed.push(Owed { tag: tag::RESET, asker, due, risk: Risk::None });
        self.actions.push_back(Action::ResetServer);
        let was_auto = matches!(self.work, Work::Auto(_));
        let is_over = self.work == Work::Finished;
        (self.work, self.turned_at) = (Work::Aborting { was_auto, is_over }, cx.now);
    }
}
