//! HELLO and LOGON: what a client has to say first, and what it is told when the server has judged
//! it.

use super::*;

impl Session {
    /// HELLO: answered from what is known of the server from 5.1 on, else after the login.
    pub(super) fn hello(&mut self, request: Request<'_>, cx: Context<'_>) -> Decision {
        let limit = cx.limits.login_message;
        let Some(payload) = request.payload.filter(|payload| payload.len() <= limit) else {
            return self.refuse_request(format!("expected HELLO of at most {limit} bytes"));
        };
        if request.head.tag != tag::HELLO {
            return self.refuse_request("expected HELLO as the first message");
        }
        let mut hello = match Hello::parse(self.version, payload) {
            Ok(hello) => hello,
            Err(error) => return self.refuse_request(error.to_string()),
        };
        if let Some(refused) = self.refused.take() {
            return self.fail_login(refused.failure, refused.why);
        }
        if cx.server.is_none() {
            let refusal = Refusal::Unreachable("it has not been reached yet".into());
            return self.fail_login(reply::refused(&refusal), CloseReason::LoginUnavailable);
        }
        let profile = Profile::of(self.version, &hello);
        let routing = hello.routing.take();
        self.spelling = routing.and_then(|routing| routing.address).map(String::into_boxed_str);
        match hello.auth.take() {
            Some(auth) => self.log_in(profile, auth, cx),
            None => {
                self.profile = Some(Box::new(profile));
                self.phase = Phase::Authentication;
                let success = self.hello_success(cx, false);
                self.answer(success);
                Decision::Drop
            }
        }
    }

    fn hello_success(&mut self, cx: Context<'_>, credentials_expired: bool) -> Bytes {
        let server = cx.server.cloned().unwrap_or_default();
        let hint = server.recv_timeout_seconds.filter(|_| self.version.has_hints());
        // Twice per period, so that one late turn of ours does not cost the client its connection.
        self.noop_after = hint.map(|seconds| Duration::from_secs(seconds.max(2)) / 2);
        let profile = self.profile.as_deref().or(self.identity.as_deref().map(|id| &id.profile));
        let success = HelloSuccess {
            server: server.agent,
            connection_id: format!("boltmux-{}", self.connection_id),
            recv_timeout_seconds: hint,
            utc_patch: profile.is_some_and(|profile| profile.utc_patch),
            credentials_expired,
        };
        let protocol_version = self.is_manifest.then_some(self.version);
        success.encode(self.version, false, Some(true), protocol_version).into()
    }

    /// LOGON, and nothing else.
    pub(super) fn authenticate(&mut self, request: Request<'_>, cx: Context<'_>) -> Decision {
        let limit = cx.limits.login_message;
        let Some(payload) = request.payload.filter(|payload| payload.len() <= limit) else {
            return self.refuse_request(format!("expected LOGON of at most {limit} bytes"));
        };
        if request.head.tag == tag::RESET {
            // As Neo4j does: RESET does not log off, nor on.
            self.answer(Bytes::from_static(SUCCESS_EMPTY));
            return Decision::Drop;
        }
        if request.head.tag != tag::LOGON {
            return self.refuse_request("expected LOGON");
        }
        let auth = match parse_logon(payload) {
            Ok(auth) => auth,
            Err(error) => return self.refuse_request(error.to_string()),
        };
        let Some(profile) = self.profile.take() else {
            return self.refuse_request("expected HELLO before LOGON");
        };
        self.log_in(*profile, auth, cx)
    }

    fn log_in(&mut self, profile: Profile, auth: Auth, cx: Context<'_>) -> Decision {
        self.spoke_at = cx.now;
        self.phase = Phase::LoggingIn;
        if self.planted.has(Bug::AnswerBeforeLogon) {
            self.answer(Bytes::from_static(SUCCESS_EMPTY));
        }
        self.actions.push_back(Action::LogIn(Box::new((profile, auth))));
        Decision::Drop
    }

    /// The server has accepted or refused the credentials, or could not be asked.
    pub fn login_done(&mut self, identity: Rc<Identity>, outcome: &LoginOutcome, cx: Context<'_>) {
        if !matches!(self.phase, Phase::LoggingIn) {
            return;
        }
        let is_expired = matches!(outcome, LoginOutcome::Failed(Refusal::Expired));
        match outcome {
            LoginOutcome::Failed(Refusal::PatchRefused) if identity.profile.utc_patch => {
                // Then without: the answer will not confirm it.
                let profile = Profile { utc_patch: false, ..identity.profile.clone() };
                self.log_in(profile, identity.auth.clone(), cx);
            }
            LoginOutcome::Failed(refusal) if !is_expired => {
                let why = match refusal {
                    Refusal::Server(_) => CloseReason::Unauthorized,
                    _ => CloseReason::LoginUnavailable,
                };
                self.fail_login(reply::refused(refusal), why);
            }
            _ => {
                self.identity = match self.planted.has(Bug::ForgetLogoff) {
                    true => self.identity.take().or(Some(identity)),
                    false => Some(identity),
                };
                self.phase = Phase::Serving;
                self.work = Work::Idle;
                self.accept_login(cx, is_expired);
                self.find_held_reset();
            }
        }
    }

    /// A RESET that came while the login was under way: what was held before it is IGNORED.
    fn find_held_reset(&mut self) {
        let Some(before) = self.held.iter().rposition(|head| head.tag == tag::RESET) else {
            return;
        };
        self.actions.push_back(Action::DropHeld(before));
        if self.held.drain(..before).count() > 0 {
            self.answer(IGNORED.repeat(before).into());
        }
    }

    fn accept_login(&mut self, cx: Context<'_>, credentials_expired: bool) {
        if self.planted.has(Bug::AnswerBeforeLogon) {
            return;
        }
        let success = match self.version.has_logon() {
            true => {
                let success = LogonSuccess { advertised_address: None, credentials_expired };
                success.encode(self.version).into()
            }
            false => self.hello_success(cx, credentials_expired),
        };
        self.answer(success);
    }

    /// The login has taken too long. While the server is being asked the client hears of it.
    pub fn login_over(&mut self) {
        match self.phase {
            Phase::LoggingIn => {
                self.fail_login(reply::refused(&Refusal::TimedOut), CloseReason::LoginTimeout)
            }
            _ => self.close(CloseReason::LoginTimeout),
        };
    }

    fn fail_login(&mut self, failure: Failure, why: CloseReason) -> Decision {
        let bytes = self.encode(&failure);
        self.answer(bytes);
        self.close(why)
    }
}
