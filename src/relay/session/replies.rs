//! A server's messages, and its loss: what the client gets to see, and when the lease ends.

use super::*;
use crate::wire::error::PackError;
use crate::wire::message::is_response;

/// A server's message as far as it has come.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    pub head: Head,
    /// The payload of a summary, if all of it is there. Details are decided by their head.
    pub payload: Option<&'a [u8]>,
    /// What a summary longer than the buffer says, once it has ended.
    pub fields: Option<Result<Fields, PackError>>,
}

impl Session {
    /// Whether the message is one that may come now. If not the connection is of no use.
    pub fn expects(&self, head: Head) -> bool {
        let due = self.owed.front().filter(|owed| owed.due == Due::Server);
        is_response(head) && due.is_some()
    }

    /// Whether a summary has to be there whole before it is decided on; others pass while they
    /// arrive.
    pub fn needs_whole(&self, head: Head) -> bool {
        let Some(due) = self.owed.front() else { return false };
        let is_aborting = matches!(self.work, Work::Aborting { .. });
        let is_answer_to_ours = due.asker == Asker::Proxy || is_aborting;
        head.tag != tag::RECORD && (is_answer_to_ours || due.tag == tag::ROUTE)
    }

    /// A detail, or a long summary that has not ended yet, is relayed from now on.
    pub fn reply_begun(&mut self) {
        self.is_relaying = true;
    }

    /// A detail has been relayed whole.
    pub fn detail_ended(&mut self) {
        self.is_relaying = false;
    }

    /// A summary is there whole, or has been relayed to its end.
    pub fn summary(&mut self, reply: Reply<'_>, cx: Context<'_>) -> Relay {
        self.is_relaying = false;
        let Some(owed) = self.owed.pop() else { return Relay::Swallow };
        let relay = match owed.asker {
            Asker::Proxy => self.own_reset_answered(reply.head.tag),
            Asker::Client => self.client_answered(owed, reply, cx),
        };
        self.turned_at = cx.now;
        if !matches!(relay, Relay::Swallow) {
            self.spoke_at = cx.now;
        }
        relay
    }

    fn client_answered(&mut self, owed: Owed, reply: Reply<'_>, cx: Context<'_>) -> Relay {
        match reply.head.tag {
            tag::SUCCESS => self.succeeded(owed, reply, cx),
            tag::FAILURE => self.failed(reply),
            _ if matches!(self.work, Work::Aborting { .. }) => self.aborted(),
            _ if self.planted.has(Bug::DropIgnored) => Relay::Swallow,
            _ => {
                self.has_failed = true; // a RESET in flight: nothing is done before its answer
                Relay::Forward
            }
        }
    }

    fn succeeded(&mut self, owed: Owed, reply: Reply<'_>, cx: Context<'_>) -> Relay {
        match (owed.tag, self.work) {
            (tag::PULL | tag::DISCARD, Work::Auto(_)) if self.is_last(reply) => {
                self.work = Work::Finished;
            }
            (tag::PULL | tag::DISCARD, Work::Aborting { was_auto: true, .. })
                if self.is_last(reply) =>
            {
                self.work = Work::Aborting { was_auto: true, is_over: true };
            }
            (tag::COMMIT | tag::ROLLBACK, Work::Aborting { was_auto, .. }) => {
                self.work = Work::Aborting { was_auto, is_over: true };
            }
            (tag::COMMIT | tag::ROLLBACK, Work::Ending) => self.work = Work::Finished,
            (tag::RESET, Work::Resetting) if !self.owed.has_client_reset() => {
                self.has_failed = false;
                self.work = Work::Finished;
            }
            (tag::ROUTE, work) => {
                if work == Work::Routing {
                    self.work = Work::Finished;
                }
                return self.own_table(reply, cx); // also with a RESET behind it
            }
            _ => {}
        }
        Relay::Forward
    }

    /// Whether a result has come to its end. A summary that cannot be read leaves the server in
    /// doubt: nothing more is asked of it before a RESET.
    fn is_last(&mut self, reply: Reply<'_>) -> bool {
        let read = match (reply.fields, reply.payload) {
            (Some(fields), _) => fields,
            (None, payload) => payload.map_or_else(|| Ok(Fields::default()), read_fields),
        };
        match read {
            Ok(fields) => !fields.has_more || !self.version.has_database(),
            Err(_) => {
                self.has_failed = true;
                false
            }
        }
    }

    fn failed(&mut self, reply: Reply<'_>) -> Relay {
        self.has_failed = true;
        if matches!(self.work, Work::Aborting { .. }) {
            return self.aborted();
        }
        if let Some(Ok(failure)) = reply.payload.map(Failure::parse)
            && let Some(identity) = &self.identity
            && is_expired(&failure.code, identity)
        {
            self.actions.push_back(Action::Revoke(Box::new(failure), identity.clone()));
        }
        Relay::Forward
    }

    /// After our RESET: the first FAILURE or IGNORED becomes the time limit's FAILURE, later ones
    /// are IGNORED.
    fn aborted(&mut self) -> Relay {
        self.has_failed = true;
        match self.next_failure.take() {
            Some(failure) => Relay::Replace(self.encode(&failure)),
            None => Relay::Replace(Bytes::from_static(IGNORED)),
        }
    }

    fn own_reset_answered(&mut self, name: u8) -> Relay {
        match name {
            tag::SUCCESS => {
                let is_over = matches!(self.work, Work::Aborting { is_over: true, .. });
                if is_over {
                    self.next_failure = None; // it ended before our RESET came
                }
                self.release(Release::Clean);
                self.work = if is_over { Work::Idle } else { Work::Failed };
            }
            _ => self.server_lost(Discard::ResetFailed),
        }
        Relay::Swallow
    }

    /// To be called when a summary has gone its way: local answers whose turn has come, then the
    /// lease's end.
    pub fn settle(&mut self) {
        self.answer_here();
        if !self.owed.is_empty() || self.is_sending {
            return;
        }
        match self.work {
            Work::Finished if !self.has_failed => {
                self.release(Release::Clean);
                self.work = Work::Idle;
                self.finish_drain();
            }
            _ if self.is_leased() && (self.has_failed || self.work == Work::Resetting) => {
                match self.planted.has(Bug::SkipReset) {
                    true => self.release(Release::Clean),
                    false => self.release(Release::Dirty(0)),
                }
                self.work = Work::Failed;
            }
            _ => {}
        }
    }

    fn answer_here(&mut self) {
        let mut answers = Vec::new(); // of very many requests perhaps
        while let Some(owed) = self.owed.front().filter(|owed| owed.due != Due::Server) {
            self.owed.pop();
            match owed.due {
                Due::Success => {
                    self.next_failure = None;
                    self.work = Work::Idle;
                    answers.extend_from_slice(SUCCESS_EMPTY);
                }
                _ => answers.extend_from_slice(IGNORED),
            }
        }
        if !answers.is_empty() {
            self.answer(answers.into());
        }
    }

    /// The leased connection has ended or is of no use. What that means is decided by the most
    /// dangerous request that is forwarded and unanswered.
    pub fn server_lost(&mut self, why: Discard) {
        if !self.is_leased() {
            return;
        }
        self.is_dropping = std::mem::take(&mut self.is_sending);
        if self.is_relaying {
            self.release(Release::Broken(why));
            self.work = Work::Idle;
            self.close(CloseReason::HalfMessage);
            return;
        }
        let is_open_write = matches!(self.work, Work::Auto(Risk::Committed));
        let is_unknown =
            (self.owed.is_risky() || is_open_write) && !self.planted.has(Bug::TransientCommit);
        let is_over = matches!(self.work, Work::Finished | Work::Aborting { is_over: true, .. });
        let timed_out = self.next_failure.take();
        let had_failed = self.has_failed;
        self.release(Release::Broken(why));
        if self.work == Work::Leased {
            self.work = Work::Idle; // nothing was sent; the request is decided on again
            return;
        }
        let failure = match timed_out {
            Some(failure) if !is_unknown => failure,
            _ if is_unknown => Box::new(reply::outcome_unknown()),
            _ => Box::new(reply::server_lost()),
        };
        if is_over && !self.owed.has_client_request_at_server() {
            // Everything was answered already; what is left is ours.
            self.work = Work::Idle;
            self.answer_lost();
            return self.finish_drain();
        }
        self.work = Work::Failed;
        // One FAILURE is enough: a client that has seen it gets IGNORED for the rest, as from the
        // server.
        self.next_failure = Some(failure).filter(|_| !had_failed);
        self.answer_lost();
        self.finish_drain();
    }

    /// A planted mistake: an unanswered auto-commit RUN is held again, to be sent to another
    /// connection.
    pub fn replay_run(&mut self, why: Discard) -> bool {
        let is_run = self.owed.front().is_some_and(|owed| owed.tag == tag::RUN);
        let is_alone = is_run && self.owed.due_from_server() == 1 && !self.is_sending;
        if !is_alone || !matches!(self.work, Work::Auto(_)) {
            return false;
        }
        self.owed.clear();
        self.release(Release::Broken(why));
        self.work = Work::Idle;
        self.held.push_front(Head { fields: 3, tag: tag::RUN, is_struct: true });
        true
    }

    /// The first unanswered request fails, the rest is IGNORED; the client's own RESET succeeds.
    fn answer_lost(&mut self) {
        let mut answers = Vec::new();
        while let Some(owed) = self.owed.pop() {
            if owed.asker == Asker::Proxy {
                continue;
            }
            if owed.tag == tag::RESET {
                self.next_failure = None;
                self.work = Work::Idle;
                answers.extend_from_slice(SUCCESS_EMPTY);
                continue;
            }
            match self.next_failure.take() {
                Some(failure) => answers.extend_from_slice(&self.encode(&failure)),
                None => answers.extend_from_slice(IGNORED),
            }
        }
        if !answers.is_empty() {
            self.answer(answers.into());
        }
    }
}

/// Whether no connection of that identity is of use after this code. `Unauthorized` says nothing of
/// that: it may be about an impersonated user; dials tell of the identity's own credentials. Who is
/// known to have to change the password has connections of its own, and goes on with them.
fn is_expired(code: &str, identity: &Identity) -> bool {
    let Some(title) = code.strip_prefix("Neo.ClientError.Security.") else { return false };
    match title {
        "AuthorizationExpired" | "TokenExpired" => true,
        "CredentialsExpired" => !identity.is_private,
        _ => false,
    }
}
