//! What each request does, once it is known to be legal.

use super::*;
use crate::synthetic::login::Extra;
use crate::synthetic::query::{self, Answer, Moment, Query};

impl Machine {
    pub(super) fn reset(&mut self, world: &World) {
        self.interrupts = self.interrupts.saturating_sub(1);
        count(&world.counts.resets, 1);
        if self.phase < Phase::Authentication {
            return self.refuse(world);
        }
        self.transaction.close(Outcome::RolledBack, world);
        self.phase = self.phase.min(Phase::Ready);
        if self.interrupts > 0 {
            answers::ignored(&mut self.out);
        } else {
            self.is_failed = false;
            answers::success_empty(&mut self.out);
        }
    }

    pub(super) fn telemetry(&mut self, mut fields: Reader<'_>, world: &World) {
        match fields.integer() {
            Ok(0..=3) if fields.is_at_end() => answers::success_empty(&mut self.out),
            _ => self.fail(INVALID, "Expected an API number from 0 to 3.", world),
        }
    }

    pub(super) fn route(&mut self, fields: Reader<'_>, world: &World) {
        count(&world.counts.routes, 1);
        let Ok(route) = login::route(self.version, fields) else {
            return self.fail(INVALID, "Expected a routing context, bookmarks and extra.", world);
        };
        if !self.may_use(route.database, route.impersonated, world) {
            return;
        }
        let database = route.database.unwrap_or(&world.options.home_database);
        with_roles(world, route.address, |roles| {
            answers::table(&mut self.out, self.version, database, roles);
        });
    }

    /// A malformed extra is a FAILURE that leaves the state as it is (Neo4j 5.26 as observed).
    pub(super) fn begin(&mut self, mut fields: Reader<'_>, world: &World) {
        let Ok(extra) = login::extra(&mut fields) else {
            return self.put_failure(INVALID, "Illegal value in BEGIN's extra.", false, world);
        };
        if self.open(extra, world) {
            self.phase = Phase::InTransaction;
            let database = self.resolved_database(world);
            answers::begun(&mut self.out, database);
        }
    }

    /// The home database, where the version says it and the client did not.
    fn resolved_database<'a>(&self, world: &'a World) -> Option<&'a str> {
        let is_told = self.version.has_resolved_database() && !self.transaction.has_database;
        is_told.then_some(&*world.options.home_database)
    }

    /// Opens a transaction; false if that was answered by a failure.
    fn open(&mut self, extra: Extra<'_>, world: &World) -> bool {
        if extra.has_foreign_bookmark {
            let message = "A bookmark is none of this server's.";
            self.fail("Neo.ClientError.Transaction.InvalidBookmark", message, world);
            return false;
        }
        if !self.may_use(extra.database, extra.impersonated, world) {
            return false;
        }
        if self.is_expired(world) {
            let message = "The credentials have expired: change the password first.";
            self.fail("Neo.ClientError.Security.CredentialsExpired", message, world);
            return false;
        }
        if !world.take_worker() {
            let message = "There are no available threads to serve this request at the moment.";
            let code = "Neo.TransientError.Request.NoThreadsAvailable";
            self.put_failure(code, message, true, world);
            self.ending = Some(Ending::Close);
            return false;
        }
        self.transaction.open(extra.is_read, extra.database, &world.options.home_database);
        self.transaction.times_out_ms = extra.timeout_ms;
        true
    }

    /// Unknown databases are those whose name begins with `missing`. A failed impersonation ends
    /// the connection, as a failed login does (Neo4j 5.26 as observed).
    fn may_use(&mut self, database: Option<&str>, user: Option<&str>, world: &World) -> bool {
        if user.is_some_and(|name| world.options.users.iter().all(|user| user.0 != name)) {
            let message = "Cannot impersonate that user.";
            self.fail("Neo.ClientError.Security.Forbidden", message, world);
            self.ending = Some(Ending::Close);
            return false;
        }
        if database.is_some_and(|name| name.starts_with("missing")) {
            let message = "The database does not exist.";
            self.fail("Neo.ClientError.Database.DatabaseNotFound", message, world);
            return false;
        }
        true
    }

    pub(super) fn run(&mut self, fields: Reader<'_>, now: Duration, world: &mut World) {
        count(&world.counts.queries, 1);
        let is_auto = self.phase == Phase::Ready;
        let Ok((text, parameters, mut rest)) = run_fields(fields) else {
            return self.fail(INVALID, "Expected a query, parameters and extra.", world);
        };
        if is_auto {
            let Ok(extra) = login::extra(&mut rest) else {
                return self.put_failure(INVALID, "Illegal value in RUN's extra.", false, world);
            };
            if !self.open(extra, world) {
                return;
            }
            self.phase = Phase::AutoCommit;
        } else if !rest.is_map() {
            return self.fail(INVALID, "Expected a map as RUN's extra.", world);
        }
        let query = query::parse(text);
        let nonce = login::parameter(parameters, "nonce").unwrap_or_default();
        self.transaction.note(world.note(self.id, &self.user, text, nonce));
        self.put_noops(query.noops);
        self.answer_start = self.out.len();
        self.transaction.noops = query.noops;
        self.transaction.misdeed = query.misdeed.or(self.transaction.misdeed);
        self.misdeed = self.misdeed.or_else(|| self.transaction.take_misdeed(Moment::Run));
        if let Err((code, message)) = self.start_query(&query, parameters, nonce, world) {
            self.fail(&code, message, world);
            if is_auto {
                self.end_transaction(Outcome::Failed, world);
            }
        }
        let sleep_ms = query.sleep_ms + world.options.faults.run_delay_ms;
        self.delay_answer(now, sleep_ms, query.keepalive_ms, world);
    }

    /// Opens the query's result and writes RUN's answer.
    fn start_query(
        &mut self,
        query: &Query<'_>,
        parameters: &[u8],
        nonce: Option<&[u8]>,
        world: &World,
    ) -> Result<(), (String, &'static str)> {
        let fail = |code: &str, message| Err((code.to_owned(), message));
        let mut table = BytesMut::new();
        let mut value = nonce.unwrap_or_default();
        let fields: &[&str] = match &query.answer {
            Answer::Echo { parameter, alias } => {
                let found = login::parameter(parameters, parameter).unwrap_or_default();
                let Some(found) = found else {
                    let code = "Neo.ClientError.Statement.ParameterMissing";
                    return fail(code, "Expected the parameter that the query names.");
                };
                value = found;
                std::slice::from_ref(alias)
            }
            Answer::One { alias } => std::slice::from_ref(alias),
            Answer::Rows { .. } => &["key", "value"],
            Answer::Table => {
                with_roles(world, None, |roles| answers::table_values(&mut table, roles));
                value = &table;
                &["ttl", "servers"]
            }
            Answer::Write if self.transaction.is_read => {
                let code = "Neo.ClientError.Statement.AccessMode";
                return fail(code, "Writing in read access mode not allowed.");
            }
            Answer::Write if world.options.is_follower => {
                let code = "Neo.ClientError.Cluster.NotALeader";
                return fail(code, "No write operations are allowed on this server.");
            }
            Answer::Write => {
                self.transaction.is_write = true;
                &[]
            }
            Answer::Fail { code, moment } => match moment {
                Moment::Run => return fail(code, "A failure that the query asked for."),
                Moment::Commit => {
                    self.transaction.commit_failure = Some((*code).to_owned());
                    &["x"]
                }
                Moment::Pull => &["x"],
            },
        };
        if self.transaction.is_full() {
            let code = "Neo.TransientError.General.TransactionOutOfMemoryError";
            return fail(code, "Too many open results in one transaction.");
        }
        let qid = self.transaction.add_result(query, value);
        let is_auto = self.phase == Phase::AutoCommit;
        let qid = (!is_auto && self.version.has_database()).then_some(qid);
        let database = if is_auto { self.resolved_database(world) } else { None };
        answers::run(&mut self.out, fields, qid, database);
        Ok(())
    }

    pub(super) fn pull(&mut self, discards: bool, fields: Reader<'_>, world: &mut World) {
        let asked = match self.version.has_database() {
            true => login::pull(fields),
            false => Ok((None, -1)),
        };
        let Ok((amount, qid)) = asked else {
            self.fail(INVALID, "Expected n to be -1 or at least 1.", world);
            return;
        };
        let qid = if self.phase == Phase::AutoCommit { -1 } else { qid };
        if !self.transaction.start_pulling(amount, qid, discards) {
            let code = "Neo.ClientError.Request.InvalidFormat";
            return self.fail(code, "No such statement.", world);
        }
        self.put_noops(self.transaction.noops);
        self.answer_start = self.out.len();
        self.misdeed = self.misdeed.or_else(|| self.transaction.take_misdeed(Moment::Pull));
        self.produce(world);
    }

    /// Makes records, and the summary behind the last one.
    pub(super) fn produce(&mut self, world: &mut World) {
        match self.transaction.produce(&mut self.out, OUTPUT_MAX) {
            Produced::Some => return self.spoil(false),
            Produced::HasMore => answers::has_more(&mut self.out),
            Produced::Failed(code) => {
                self.fail(&code, "A failure that the query asked for.", world);
                if self.phase == Phase::AutoCommit {
                    self.end_transaction(Outcome::Failed, world);
                }
            }
            Produced::All if self.phase == Phase::AutoCommit => self.finish_auto_commit(world),
            Produced::All => self.finish_result(None),
        }
        self.spoil(true);
    }

    /// The commit comes behind the last record, and so does its failure.
    fn finish_auto_commit(&mut self, world: &mut World) {
        let summary = self.out.len();
        if let Some(code) = self.transaction.commit_failure.take() {
            self.fail(&code, "The commit failed, as the query asked for.", world);
            return self.end_transaction(Outcome::Failed, world);
        }
        count(&world.counts.commits, 1);
        self.finish_result(Some(world.next_bookmark()));
        if let Some(misdeed) = self.transaction.take_misdeed(Moment::Commit) {
            (self.answer_start, self.misdeed) = (summary, Some(misdeed));
        }
        self.end_transaction(Outcome::Committed, world);
    }

    fn finish_result(&mut self, bookmark: Option<u128>) {
        let kind = if self.transaction.is_write { "w" } else { "r" };
        let database = &self.transaction.database;
        answers::finished(&mut self.out, self.version, kind, bookmark, database);
    }

    pub(super) fn commit(&mut self, world: &mut World) {
        self.misdeed = self.misdeed.or_else(|| self.transaction.take_misdeed(Moment::Commit));
        if let Some(code) = self.transaction.commit_failure.take() {
            self.fail(&code, "The commit failed, as the query asked for.", world);
            return self.end_transaction(Outcome::Failed, world);
        }
        count(&world.counts.commits, 1);
        answers::committed(&mut self.out, world.next_bookmark());
        self.end_transaction(Outcome::Committed, world);
    }

    pub(super) fn end_transaction(&mut self, outcome: Outcome, world: &World) {
        self.transaction.close(outcome, world);
        self.phase = Phase::Ready;
    }

    /// Sends the answer at `answer_start` so much later, or a timeout's FAILURE before.
    pub(super) fn delay_answer(
        &mut self,
        now: Duration,
        ms: u64,
        keepalive: Option<u64>,
        world: &World,
    ) {
        if ms == 0 {
            return;
        }
        let ending = self.ending.take();
        let mut answer = self.out.split_off(self.answer_start);
        let limit = self.transaction.times_out_ms.filter(|limit| *limit < ms);
        let limit = limit.filter(|_| self.phase >= Phase::AutoCommit);
        if limit.is_some() {
            answer.clear();
            let code = "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration";
            let message = "The transaction has been terminated: it took longer than its timeout.";
            answers::failure(&mut answer, self.version, code, message, false);
        }
        let every = keepalive.or(world.options.faults.keepalive_ms).map(Duration::from_millis);
        let every = every.filter(|_| self.version.has_noop());
        let until = now + Duration::from_millis(limit.unwrap_or(ms));
        let keepalive = every.map(|every| Keepalive { every, next: now + every });
        self.delay = Some(Delay { until, answer, ending, keepalive, times_out: limit.is_some() });
    }

    /// RESET ends the running request.
    pub(super) fn terminate(&mut self, world: &World) {
        let message = "The transaction has been terminated. Retry it, it may succeed then.";
        self.fail("Neo.ClientError.Transaction.Terminated", message, world);
    }

    /// FAILURE by a rule: where a failure has more consequences than the flag, so has this.
    pub(super) fn fail_as_told(&mut self, tag: u8, code: &str, world: &World) {
        self.fail(code, "A failure that the server was told to give.", world);
        match tag {
            tag::HELLO | tag::LOGON | tag::LOGOFF | tag::RESET => {
                self.ending = Some(Ending::Close);
            }
            tag::COMMIT | tag::ROLLBACK => self.end_transaction(Outcome::Failed, world),
            tag::PULL | tag::DISCARD if self.phase == Phase::AutoCommit => {
                self.end_transaction(Outcome::Failed, world);
            }
            _ => {}
        }
    }

    pub(super) fn fail(&mut self, code: &str, message: &str, world: &World) {
        self.is_failed = true;
        self.put_failure(code, message, false, world);
    }

    pub(super) fn put_failure(
        &mut self,
        code: &str,
        message: &str,
        idempotent: bool,
        world: &World,
    ) {
        count(&world.counts.failures, 1);
        answers::failure(&mut self.out, self.version, code, message, idempotent);
    }

    /// A request that is not legal now.
    pub(super) fn refuse(&mut self, world: &World) {
        count(&world.counts.violations, 1);
        let message = "The request is malformed, or not legal in the connection's state.";
        self.fail(INVALID, message, world);
        self.ending = Some(Ending::Close);
    }

    /// A message that no request is: the end, without a word.
    pub(super) fn violate(&mut self, world: &World) {
        count(&world.counts.violations, 1);
        self.ending = Some(Ending::Close);
    }

    pub(super) fn put_noops(&mut self, amount: u32) {
        if self.version.has_noop() {
            answers::noops(&mut self.out, amount);
        }
    }

    /// Does to the current answer what was ordered. An answer that is not complete yet can be
    /// spoilt at its beginning, and keeps orders about its end.
    pub(super) fn spoil(&mut self, is_complete: bool) {
        let is_about_end = matches!(self.misdeed, Some(Misdeed::Extra | Misdeed::CloseAfter));
        let Some(misdeed) = self.misdeed.take_if(|_| is_complete || !is_about_end) else { return };
        let start = self.answer_start;
        match misdeed {
            Misdeed::Die { after_bytes } => {
                self.cut = Some((after_bytes.saturating_add(start as u64), Ending::Reset));
            }
            Misdeed::Close { after_bytes } => {
                self.cut = Some((after_bytes.saturating_add(start as u64), Ending::Close));
            }
            Misdeed::Stall | Misdeed::Freeze => {
                self.out.truncate(start);
                self.is_mute = true;
                self.is_frozen = misdeed == Misdeed::Freeze;
            }
            Misdeed::Half { close } => {
                self.out.truncate(start + (self.out.len() - start) / 2);
                self.is_mute = true;
                self.ending = self.ending.or(close.then_some(Ending::Close));
            }
            Misdeed::Garbage => {
                self.out.truncate(start);
                answers::garbage(&mut self.out);
            }
            Misdeed::ReservedMarker => {
                self.out.truncate(start);
                answers::reserved_marker(&mut self.out);
            }
            Misdeed::OversizedChunk => {
                if let Some(header) = self.out.get_mut(start..start + 2) {
                    header.fill(0xFF);
                }
                self.is_mute = true;
            }
            Misdeed::Extra => answers::success_empty(&mut self.out),
            Misdeed::CloseAfter => self.ending = Some(Ending::Close),
        }
    }

    /// Xorshift: whether this request meets the random end.
    pub(super) fn draws_reset(&mut self, world: &World) -> bool {
        let chance = world.options.faults.reset_per_million;
        if chance == 0 {
            return false;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) % 1_000_000 < u64::from(chance)
    }
}

/// The addresses of each role: those of the options, else the one that the client named, else the
/// server's own.
fn with_roles(world: &World, named: Option<&str>, answer: impl FnOnce([(&str, &[&str]); 3])) {
    let Some(table) = &world.options.table else {
        let address = [named.unwrap_or(&world.address)];
        return answer(["WRITE", "READ", "ROUTE"].map(|role| (role, &address[..])));
    };
    let lists = [&table.writers, &table.readers, &table.routers];
    let [writers, readers, routers] =
        &lists.map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
    answer([("WRITE", &writers[..]), ("READ", readers), ("ROUTE", routers)]);
}

/// Query text, parameters' bytes, and what follows.
fn run_fields(mut fields: Reader<'_>) -> Result<(&str, &[u8], Reader<'_>), Malformed> {
    let text = fields.string()?;
    if !fields.is_map() {
        return Err(Malformed::Type);
    }
    Ok((text, fields.value()?, fields))
}
