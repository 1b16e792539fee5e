//! What a server executed for whom, and how it ended. Bounded: the oldest entries are forgotten.

use std::collections::VecDeque;

/// Bytes of a query text and of a nonce that are kept: enough to recognise either.
pub const TEXT_BYTES_MAX: usize = 256;

/// One executed query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The order of execution over all threads.
    pub sequence: u64,
    pub connection: u64,
    pub user: String,
    /// At most [`TEXT_BYTES_MAX`] bytes of it.
    pub query: String,
    /// The parameter `nonce`: a string's text, else the value's PackStream bytes in hex.
    pub nonce: Option<String>,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its transaction is not over.
    Open,
    Committed,
    RolledBack,
    /// The query itself or its commit failed.
    Failed,
}

/// One thread's ring of entries. Ids count from 0 and are never used again.
#[derive(Debug)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    first_id: u64,
    entries_max: usize,
}

impl Ledger {
    pub fn new(entries_max: usize) -> Ledger {
        Ledger { entries: VecDeque::new(), first_id: 0, entries_max }
    }

    pub fn is_on(&self) -> bool {
        self.entries_max > 0
    }

    /// Adds an entry and returns its id.
    pub fn add(&mut self, entry: Entry) -> u64 {
        if self.entries.len() >= self.entries_max {
            self.entries.pop_front();
            self.first_id += 1;
        }
        self.entries.push_back(entry);
        self.first_id + self.entries.len() as u64 - 1
    }

    /// Says how an execution ended; an entry that is forgotten, or ended already, stays so.
    pub fn settle(&mut self, id: u64, outcome: Outcome) {
        let index = id.checked_sub(self.first_id).and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index))
            && entry.outcome == Outcome::Open
        {
            entry.outcome = outcome;
        }
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes of `text`, cut between characters.
pub fn bounded(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

/// A parameter's raw bytes as text.
pub fn nonce_text(value: &[u8]) -> String {
    match crate::synthetic::codec::Reader::new(value).string() {
        Ok(text) => bounded(text),
        Err(_) => {
            let bytes = &value[..value.len().min(TEXT_BYTES_MAX / 2)];
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64) -> Entry {
        let (user, query) = ("neo4j".into(), "RETURN 1".into());
        Entry { sequence, connection: 1, user, query, nonce: None, outcome: Outcome::Open }
    }

    #[test]
    fn the_oldest_is_forgotten_and_ids_hold() {
        let mut ledger = Ledger::new(2);
        let ids: Vec<u64> = (0..4).map(|sequence| ledger.add(entry(sequence))).collect();
        for id in ids {
            ledger.settle(id, Outcome::Committed);
            ledger.settle(id, Outcome::Failed);
        }
        let kept: Vec<_> = ledger.entries().map(|entry| (entry.sequence, entry.outcome)).collect();
        assert_eq!(kept, [(2, Outcome::Committed), (3, Outcome::Committed)]);
    }

    #[test]
    fn texts_are_bounded_between_characters() {
        assert_eq!(bounded(&"\u{20ac}".repeat(200)).len(), 255);
        assert_eq!(nonce_text(&[0x81, b'a']), "a");
        assert_eq!(nonce_text(&[0xCC, 2, 0xAB, 1]), "cc02ab01");
    }
}
