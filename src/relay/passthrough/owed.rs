//! Whose summary comes next: the requests a server has not answered yet, of which only a few are
//! told apart.
//!
//! Nearly all requests are ordinary, so they are counted and not listed. Invariant: summaries are
//! due in this order: `ordinary` of no interest, then the first watched request, then as many as
//! stand beside it, then the second, and so on.

use std::collections::VecDeque;
use std::rc::Rc;

/// Most watched requests that wait for their summaries. A driver has three at most (HELLO, LOGON,
/// ROUTE in one pipeline); one beyond this bound is counted as ordinary, so its answer is not
/// rewritten.
const WATCHED_MAX: usize = 64;

/// A request whose SUCCESS is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    Hello,
    Logon,
    /// ROUTE, and how the client calls the proxy, if it has said so.
    Route(Option<Rc<str>>),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Owed {
    ordinary: u64,
    watched: VecDeque<(Watched, u64)>,
}

impl Owed {
    #[inline]
    pub fn push_ordinary(&mut self) {
        match self.watched.back_mut() {
            None => self.ordinary += 1,
            Some((_, ordinary_after)) => *ordinary_after += 1,
        }
    }

    pub fn push(&mut self, watched: Watched) {
        if self.watched.len() < WATCHED_MAX {
            self.watched.push_back((watched, 0));
        } else {
            self.push_ordinary();
        }
    }

    /// A summary has come. `None`: of an ordinary request, or of none at all.
    #[inline]
    pub fn pop(&mut self) -> Option<Watched> {
        if self.ordinary > 0 {
            self.ordinary -= 1;
            return None;
        }
        let (watched, ordinary_after) = self.watched.pop_front()?;
        self.ordinary = ordinary_after;
        Some(watched)
    }

    #[inline]
    pub fn is_next_watched(&self) -> bool {
        self.ordinary == 0 && !self.watched.is_empty()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ordinary == 0 && self.watched.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_meet_their_requests_in_order() {
        let mut owed = Owed::default();
        let route = Watched::Route(Some("h:1".into()));
        owed.push(Watched::Hello);
        owed.push(Watched::Logon);
        owed.push_ordinary();
        owed.push_ordinary();
        owed.push(route.clone());
        owed.push_ordinary();
        assert!(owed.is_next_watched());
        let order: Vec<_> = (0..6).map(|_| owed.pop()).collect();
        let expected = [Some(Watched::Hello), Some(Watched::Logon), None, None, Some(route), None];
        assert_eq!(order, expected);
        assert!(owed.is_empty());
        assert_eq!(owed.pop(), None, "a summary too many is nobody's");
        owed.push_ordinary();
        assert!(!owed.is_empty() && !owed.is_next_watched());
    }

    #[test]
    fn the_list_is_bounded_and_the_count_stays_right() {
        let mut owed = Owed::default();
        for _ in 0..2 * WATCHED_MAX {
            owed.push(Watched::Logon);
        }
        let watched = (0..2 * WATCHED_MAX).filter(|_| owed.pop().is_some()).count();
        assert_eq!(watched, WATCHED_MAX);
        assert!(owed.is_empty());
    }
}
