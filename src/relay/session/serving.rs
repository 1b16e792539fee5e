//! A logged-in client's requests: what is forwarded, held, or answered here.

use super::*;

impl Session {
    pub(super) fn serve(&mut self, request: Request<'_>, cx: Context<'_>) -> Decision {
        let head = request.head;
        match self.work {
            Work::Idle | Work::Leased => self.begin(request, cx),
            Work::Failed => self.ignore(head.tag),
            // The answers due will tell if it is IGNORED.
            _ if self.has_failed || self.is_undecided() => Decision::Hold,
            Work::Auto(risk) => match head.tag {
                tag::PULL | tag::DISCARD => self.forward(request, risk, cx),
                _ => self.misplaced(head.tag),
            },
            Work::Begun => match head.tag {
                tag::RUN | tag::PULL | tag::DISCARD => self.forward(request, Risk::None, cx),
                tag::COMMIT => {
                    self.work = Work::Ending;
                    self.forward(request, Risk::Committed, cx)
                }
                tag::ROLLBACK => {
                    self.work = Work::Ending;
                    self.forward(request, Risk::None, cx)
                }
                _ => self.misplaced(head.tag),
            },
            _ => Decision::Hold,
        }
    }

    /// What comes next depends on an answer that is not here yet.
    fn is_undecided(&self) -> bool {
        use Work::*;
        matches!(self.work, Waiting | Ending | Routing | Resetting | Finished | Aborting { .. })
    }

    /// READY; with a lease if the request asked for one just now.
    fn begin(&mut self, request: Request<'_>, cx: Context<'_>) -> Decision {
        if let Some(failure) = self.next_failure.take() {
            return self.fail_here(&failure);
        }
        match request.head.tag {
            tag::ROUTE if self.work == Work::Idle => self.route(request, cx),
            tag::RUN | tag::BEGIN if self.work == Work::Idle => self.acquire(),
            tag::RUN => {
                let risk = match request.payload {
                    Some(_) => risk_of(fields_of(request).is_read),
                    // Half a RUN cannot be executed; its end tells (`request_ended`).
                    None => Risk::None,
                };
                self.notice_routing_call(request);
                self.start(Work::Auto(risk), cx);
                self.forward(request, risk, cx)
            }
            tag::BEGIN => {
                self.start(Work::Begun, cx);
                self.forward(request, Risk::None, cx)
            }
            tag::ROUTE => {
                self.start(Work::Routing, cx);
                self.forward(request, Risk::None, cx)
            }
            tag::TELEMETRY => self.telemetry(request),
            tag::LOGOFF => self.log_off(),
            name => self.misplaced(name),
        }
    }

    fn acquire(&mut self) -> Decision {
        match self.is_draining {
            true => self.fail_here(&reply::refused(&Refusal::Draining)),
            false => Decision::Acquire,
        }
    }

    /// ROUTE: from the cache, or asked of the server on a connection of this identity.
    fn route(&mut self, request: Request<'_>, cx: Context<'_>) -> Decision {
        self.route = None; // an earlier ROUTE may have failed, and this one has a key of its own
        let parsed = request.payload.map(|payload| Route::parse(self.version, payload));
        let (Some(Ok(route)), Some(identity)) = (parsed, &self.identity) else {
            return self.acquire(); // the server says what is wrong with it
        };
        let mut address = route.routing.address.clone().map(String::into_boxed_str);
        let key = RouteKey::new(identity.fingerprint, route);
        let cached = cx.routes.borrow_mut().find(&key, cx.now);
        self.spelling = address.take().or(self.spelling.take());
        let Some(mut table) = cached else {
            self.route = Some(Box::new(key));
            return self.acquire();
        };
        table.servers = self.own_servers(cx);
        self.answer(table.encode(self.version).into());
        Decision::Drop
    }

    fn start(&mut self, work: Work, cx: Context<'_>) {
        self.work = work;
        self.turned_at = cx.now;
    }

    fn log_off(&mut self) -> Decision {
        let identity = match self.planted.has(Bug::ForgetLogoff) {
            true => self.identity.clone(),
            false => self.identity.take(),
        };
        self.profile = identity.map(|identity| Box::new(identity.profile.clone()));
        self.phase = Phase::Authentication;
        self.answer(Bytes::from_static(SUCCESS_EMPTY));
        self.actions.push_back(Action::LoggedOff);
        Decision::Drop
    }

    /// Answered here: 0 to 3 are the known uses, anything else gets the server's FAILURE.
    fn telemetry(&mut self, request: Request<'_>) -> Decision {
        match request.payload {
            Some([_, _, 0..=3]) => {
                self.answer(Bytes::from_static(SUCCESS_EMPTY));
                Decision::Drop
            }
            _ => self.fail_here(&reply::invalid("expected TELEMETRY with an integer from 0 to 3")),
        }
    }

    fn forward(&mut self, request: Request<'_>, risk: Risk, cx: Context<'_>) -> Decision {
        if self.owed.is_empty() {
            self.turned_at = cx.now;
            self.spoke_at = self.spoke_at.max(cx.now); // silence counts from the request on
        }
        self.is_sending = request.payload.is_none();
        let (asker, due) = (Asker::Client, Due::Server);
        self.owed.push(Owed { tag: request.head.tag, asker, due, risk });
        Decision::Forward
    }

    /// FAILED: everything but RESET is IGNORED; LOGOFF ends the connection, as a server does it.
    fn ignore(&mut self, name: u8) -> Decision {
        if name == tag::LOGOFF {
            return self.refuse_request("LOGOFF is not possible in the state FAILED");
        }
        match self.next_failure.take() {
            Some(failure) => self.fail_here(&failure),
            None => {
                self.answer(Bytes::from_static(IGNORED));
                Decision::Drop
            }
        }
    }

    /// A request that the state does not allow. Earlier ones are answered first: after a FAILURE it
    /// is IGNORED.
    fn misplaced(&mut self, name: u8) -> Decision {
        if !self.owed.is_empty() || self.is_sending {
            return Decision::Hold;
        }
        let state = match self.work {
            Work::Begun => "TX_READY",
            Work::Auto(_) => "STREAMING",
            _ => "READY",
        };
        self.refuse_request(format!("{} is not possible in the state {state}", tag::name(name)))
    }

    /// A FAILURE of our own; the rest of the pipeline is IGNORED until RESET.
    fn fail_here(&mut self, failure: &Failure) -> Decision {
        let bytes = self.encode(failure);
        self.answer(bytes);
        if !self.planted.has(Bug::ForwardAfterFailure) {
            self.work = Work::Failed;
        }
        Decision::Drop
    }

    /// RESET: seen ahead of everything held before it.
    pub(super) fn reset(&mut self, held: usize) -> Decision {
        if held > 0 {
            self.held.drain(..held);
            self.actions.push_back(Action::DropHeld(held));
        }
        match self.work {
            Work::Idle | Work::Leased | Work::Failed | Work::Waiting => {
                if self.work == Work::Waiting {
                    self.actions.push_back(Action::Withdraw);
                }
                if held > 0 {
                    self.answer(IGNORED.repeat(held).into());
                }
                self.work = Work::Idle;
                self.next_failure = None;
                self.answer(Bytes::from_static(SUCCESS_EMPTY));
                self.finish_drain();
                Decision::Drop
            }
            Work::Aborting { .. } => {
                self.owe_ignored(held);
                self.owe(tag::RESET, Due::Success);
                Decision::Drop
            }
            _ => {
                self.owe_ignored(held);
                self.owe(tag::RESET, Due::Server);
                self.work = Work::Resetting;
                Decision::Forward
            }
        }
    }

    /// Held requests that will never be forwarded: IGNORED when their turn comes.
    fn owe_ignored(&mut self, held: usize) {
        (0..held).for_each(|_| self.owe(tag::IGNORED, Due::Ignored));
    }

    fn owe(&mut self, tag: u8, due: Due) {
        self.owed.push(Owed { tag, asker: Asker::Client, due, risk: Risk::None });
    }

    /// A server connection is there: decide on the request that asked for it again.
    pub fn leased(&mut self, cx: Context<'_>) {
        debug_assert!(matches!(self.work, Work::Idle | Work::Waiting));
        (self.work, self.leased_at) = (Work::Leased, cx.now);
        (self.has_failed, self.is_sending, self.blocked_since) = (false, false, None);
    }

    /// Nothing is free: the request is held until `leased` or `refused`.
    pub fn must_wait(&mut self, cx: Context<'_>) {
        self.work = Work::Waiting;
        self.spoke_at = self.spoke_at.max(cx.now);
    }

    /// No connection could be had: the first request in line fails, the rest of the pipeline is
    /// IGNORED.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.work = Work::Idle;
        self.next_failure = Some(Box::new(reply::refused(refusal)));
    }

    /// Whether the oldest held request could be decided now.
    pub fn can_retry(&self) -> bool {
        let is_open = match self.phase {
            Phase::LoggingIn => false,
            Phase::Serving => !self.is_undecided(),
            _ => true,
        };
        !self.held.is_empty() && is_open && !self.owed.is_full() && !self.is_sending
    }

    /// Finish what is open, then close.
    pub fn drain(&mut self) {
        self.is_draining = true;
        if matches!(self.phase, Phase::Hello | Phase::Authentication) {
            self.close(CloseReason::Drain);
        }
        self.finish_drain();
    }

    pub(super) fn finish_drain(&mut self) {
        if self.is_draining && self.is_idle() && self.owed.is_empty() {
            self.close(CloseReason::Drain);
        }
    }
}
