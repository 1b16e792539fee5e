//! RESET and prove: makes a server connection that was left in any state READY again. Pure.
//!
//! The shell sends RESET, feeds what comes, and asks after each piece. The server owes one summary
//! for each request that was unanswered, then RESET's own; records of a running PULL may come in
//! between.

use crate::backend::Discard;
use crate::wire::chunk::{Kind, Scanner};
use crate::wire::message::{is_response, tag};

/// What a piece of the server's answers has proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaned {
    /// RESET's SUCCESS is still to come.
    NotYet,
    /// READY, with an empty pipeline and nothing unread.
    Clean,
    /// Close it.
    Broken(Discard),
}

/// See the module.
pub struct Cleaner {
    scanner: Scanner,
    /// Summaries due before RESET's own.
    due: usize,
    /// The first byte of a chunk header whose second one has not come.
    loose: Option<u8>,
}

impl Cleaner {
    /// `scanner` has read what came before; `due` requests are unanswered, RESET not counted.
    pub fn new(scanner: Scanner, loose: Option<u8>, due: usize) -> Cleaner {
        Cleaner { scanner, due, loose }
    }

    /// Looks at bytes that came before RESET was sent: nothing in them can be its answer.
    pub fn feed_early(&mut self, bytes: &[u8]) -> Cleaned {
        match self.feed(bytes) {
            Cleaned::Clean => Cleaned::Broken(Discard::Unread),
            other => other,
        }
    }

    /// Looks at the next bytes from the server.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Cleaned {
        let mut state = Cleaned::NotYet;
        while !bytes.is_empty() {
            if state == Cleaned::Clean {
                return Cleaned::Broken(Discard::Unread);
            }
            let taken = match self.loose.take() {
                Some(first) => {
                    let header = [first, bytes[0]];
                    bytes = &bytes[1..];
                    self.scanner.next(&header)
                }
                None => self.scanner.next(bytes).inspect(|span| bytes = &bytes[span.length..]),
            };
            let Some(span) = taken else {
                self.loose = bytes.first().copied();
                break;
            };
            if let Kind::Message { ends: true, .. } = span.kind {
                state = self.message();
            }
            if matches!(state, Cleaned::Broken(_)) {
                return state;
            }
        }
        match (state, self.loose) {
            (Cleaned::Clean, Some(_)) => Cleaned::Broken(Discard::Unread),
            _ => state,
        }
    }

    fn message(&mut self) -> Cleaned {
        match self.scanner.head() {
            Some(head) if !is_response(head) => Cleaned::Broken(Discard::Protocol),
            None => Cleaned::Broken(Discard::Protocol),
            Some(head) if head.tag == tag::RECORD => Cleaned::NotYet,
            Some(_) if self.due > 0 => {
                self.due -= 1;
                Cleaned::NotYet
            }
            Some(head) if head.tag == tag::SUCCESS => Cleaned::Clean,
            Some(_) => Cleaned::Broken(Discard::ResetFailed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::{IGNORED, SUCCESS_EMPTY};

    const RECORD: &[u8] = &[0, 4, 0xB1, 0x71, 0x91, 1, 0, 0];

    fn verdict(due: usize, bytes: &[u8], cut: usize) -> Cleaned {
        let mut cleaner = Cleaner::new(Scanner::default(), None, due);
        let (front, back) = bytes.split_at(cut);
        match cleaner.feed(front) {
            Cleaned::NotYet => cleaner.feed(back),
            other if back.is_empty() => other,
            Cleaned::Clean => Cleaned::Broken(Discard::Unread),
            broken => broken,
        }
    }

    #[test]
    fn proves_ready_however_the_answers_are_cut() {
        let answers = [RECORD, IGNORED, &[0, 0], SUCCESS_EMPTY].concat();
        for cut in 0..=answers.len() {
            assert_eq!(verdict(1, &answers, cut), Cleaned::Clean, "cut at {cut}");
        }
    }

    #[test]
    fn an_answer_before_the_reset_proves_nothing() {
        let mut cleaner = Cleaner::new(Scanner::default(), None, 1);
        assert_eq!(cleaner.feed_early(IGNORED), Cleaned::NotYet);
        assert_eq!(cleaner.feed_early(SUCCESS_EMPTY), Cleaned::Broken(Discard::Unread));
    }

    #[test]
    fn anything_else_is_broken() {
        let unread = [SUCCESS_EMPTY, RECORD].concat();
        for cut in 0..=unread.len() {
            assert_eq!(verdict(0, &unread, cut), Cleaned::Broken(Discard::Unread), "cut at {cut}");
        }
        assert_eq!(verdict(0, IGNORED, 0), Cleaned::Broken(Discard::ResetFailed));
        assert_eq!(verdict(1, SUCCESS_EMPTY, 0), Cleaned::NotYet);
        let request = [0, 2, 0xB0, 0x0F, 0, 0];
        assert_eq!(verdict(0, &request, 0), Cleaned::Broken(Discard::Protocol));
    }
}
