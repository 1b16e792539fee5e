//! One transaction, explicit or auto-commit: its results and how it will end. Pure but for the
//! ledger that it tells.

use crate::synthetic::answers;
use crate::synthetic::ledger::Outcome;
use crate::synthetic::query::{Answer, Misdeed, Moment, Query};
use crate::synthetic::world::World;
use bytes::BytesMut;

/// Results that may be open in one transaction: a bound for tests, drivers open few.
pub const RESULTS_MAX: usize = 1024;
/// Capacity of a value's buffer that is kept for the next result.
const KEPT_MAX: usize = 4 << 10;

/// The open transaction's state; when none is open it keeps its buffers.
#[derive(Default)]
pub struct Transaction {
    is_open: bool,
    pub is_read: bool,
    pub is_write: bool,
    /// The client named the database, so that answers do not.
    pub has_database: bool,
    pub database: String,
    /// What the latest query that misbehaves wants.
    pub misdeed: Option<(Moment, Misdeed)>,
    pub noops: u32,
    pub times_out_ms: Option<u64>,
    pub commit_failure: Option<String>,
    results: Vec<Open>,
    next_qid: i64,
    pull: Option<Pull>,
    entries: Vec<u64>,
    spare: Vec<u8>,
}

/// A result that is not exhausted.
struct Open {
    qid: i64,
    kind: Kind,
    total: u64,
    sent: u64,
    /// The encoded value or values of its records, or the code of its failure.
    value: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Kind {
    Values,
    Rows {
        size: usize,
    },
    /// A routing table: time to live and servers.
    Table,
    Failing,
}

struct Pull {
    index: usize,
    left: u64,
    discards: bool,
}

/// How far a PULL or DISCARD got.
pub enum Produced {
    /// The output is full.
    Some,
    /// As many records as were asked for, and there are more.
    HasMore,
    /// The result is exhausted and forgotten.
    All,
    /// The query failed, with this code.
    Failed(String),
}

impl Transaction {
    pub fn open(&mut self, is_read: bool, database: Option<&str>, home: &str) {
        self.is_open = true;
        (self.is_read, self.is_write) = (is_read, false);
        self.has_database = database.is_some();
        self.database.clear();
        self.database.push_str(database.unwrap_or(home));
        (self.misdeed, self.noops, self.commit_failure, self.next_qid) = (None, 0, None, 0);
        self.times_out_ms = None;
    }

    /// Ends it, if it is open: executed queries are settled, results forgotten, the worker freed.
    pub fn close(&mut self, outcome: Outcome, world: &World) {
        self.results.clear();
        self.pull = None;
        if std::mem::take(&mut self.is_open) {
            world.settle(&mut self.entries, outcome);
            world.free_worker();
        }
    }

    pub fn note(&mut self, entry: Option<u64>) {
        self.entries.extend(entry);
    }

    pub fn is_full(&self) -> bool {
        self.results.len() >= RESULTS_MAX
    }

    /// Opens a query's result; `value` is the parameter it wants. Returns the result's number.
    pub fn add_result(&mut self, query: &Query<'_>, value: &[u8]) -> i64 {
        let mut kept = std::mem::take(&mut self.spare);
        kept.clear();
        let (kind, total) = match query.answer {
            Answer::Rows { count, size } => (Kind::Rows { size }, count),
            Answer::Write => (Kind::Values, 0),
            Answer::Table => (Kind::Table, 1),
            Answer::Fail { moment: Moment::Pull, .. } => (Kind::Failing, 1),
            _ => (Kind::Values, 1),
        };
        match query.answer {
            Answer::Fail { code, moment: Moment::Pull } => kept.extend_from_slice(code.as_bytes()),
            Answer::Echo { .. } | Answer::Rows { .. } | Answer::Table => {
                kept.extend_from_slice(value)
            }
            _ => kept.push(1),
        }
        let qid = self.next_qid;
        self.next_qid += 1;
        self.results.push(Open { qid, kind, total, sent: 0, value: kept });
        qid
    }

    /// Begins a PULL or DISCARD; false if there is no such result. A `qid` of -1 is the latest.
    pub fn start_pulling(&mut self, count: Option<u64>, qid: i64, discards: bool) -> bool {
        let qid = if qid == -1 { self.next_qid - 1 } else { qid };
        let index = self.results.iter().position(|open| open.qid == qid);
        let left = count.unwrap_or(u64::MAX);
        self.pull = index.map(|index| Pull { index, left, discards });
        self.pull.is_some()
    }

    pub fn is_pulling(&self) -> bool {
        self.pull.is_some()
    }

    pub fn stop_pulling(&mut self) {
        self.pull = None;
    }

    /// Writes records until the output holds `output_max` bytes, or nothing is left to do.
    pub fn produce(&mut self, out: &mut BytesMut, output_max: usize) -> Produced {
        let Some(pull) = &mut self.pull else { return Produced::All };
        let open = &mut self.results[pull.index];
        if pull.discards {
            open.sent = open.sent.saturating_add(pull.left).min(open.total);
            pull.left = 0;
        }
        let mut is_failed = false;
        while pull.left > 0 && open.sent < open.total && !is_failed {
            if out.len() >= output_max {
                return Produced::Some;
            }
            match open.kind {
                Kind::Values => answers::record(out, 1, &open.value),
                Kind::Table => answers::record(out, 2, &open.value),
                Kind::Rows { size } => answers::row(out, &open.value, open.sent, size),
                Kind::Failing => is_failed = true,
            }
            open.sent += 1;
            pull.left -= 1;
        }
        let index = pull.index;
        self.pull = None;
        if is_failed || matches!(self.results[index].kind, Kind::Failing) {
            let code = self.results.remove(index).value;
            return Produced::Failed(String::from_utf8_lossy(&code).into_owned());
        }
        if open_is_left(&self.results[index]) {
            return Produced::HasMore;
        }
        let value = self.results.remove(index).value;
        if value.capacity() <= KEPT_MAX {
            self.spare = value;
        }
        Produced::All
    }

    /// Takes the misdeed, if it is for this moment.
    pub fn take_misdeed(&mut self, now: Moment) -> Option<Misdeed> {
        let (_, misdeed) = self.misdeed.take_if(|(moment, _)| *moment == now)?;
        Some(misdeed)
    }
}

fn open_is_left(open: &Open) -> bool {
    open.sent < open.total
}
