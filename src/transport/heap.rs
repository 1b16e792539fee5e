//! How many copied bytes one shard may hold. Pure bookkeeping, one shard's own. A request that
//! waits in the buffer it came in counts as if it were copied, so that it can be at any time.
//!
//! Invariant: `bytes_held` is the sum of all living `Held`, and never above the limit.

use std::cell::Cell;
use std::rc::Rc;

/// The budget of one shard for bytes that are taken out of the ring's buffers, or may have to be.
pub struct HeapBudget {
    bytes_max: usize,
    bytes_held: Cell<usize>,
    refusals: Cell<u64>,
}

impl HeapBudget {
    pub fn new(bytes_max: usize) -> Rc<HeapBudget> {
        Rc::new(HeapBudget { bytes_max, bytes_held: Cell::new(0), refusals: Cell::new(0) })
    }

    /// Reserves `bytes` until the value is dropped. `None`: the shard holds too much already; the
    /// caller stops reading from whoever sent them, or closes it.
    pub fn try_hold(self: &Rc<Self>, bytes: usize) -> Option<Held> {
        let mut held = Held { budget: self.clone(), bytes: 0 };
        held.try_grow(bytes).then_some(held)
    }

    pub fn bytes_held(&self) -> usize {
        self.bytes_held.get()
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// How often there was no room.
    pub fn refusals(&self) -> u64 {
        self.refusals.get()
    }
}

/// A reservation of a `HeapBudget`, given back when dropped.
pub struct Held {
    budget: Rc<HeapBudget>,
    bytes: usize,
}

impl Held {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves `bytes` more; false, and nothing changed, if there is no room.
    #[must_use]
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let held = self.budget.bytes_held.get();
        if bytes > self.budget.bytes_max - held {
            self.budget.refusals.set(self.budget.refusals.get() + 1);
            return false;
        }
        self.budget.bytes_held.set(held + bytes);
        self.bytes += bytes;
        true
    }

    /// Gives `bytes` of it back; at most all of it.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.bytes_held.set(self.budget.bytes_held.get() - bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_kept_and_comes_back() {
        let budget = HeapBudget::new(100);
        let mut first = budget.try_hold(60).unwrap();
        assert!(budget.try_hold(41).is_none());
        let second = budget.try_hold(40).unwrap();
        assert!(!first.try_grow(1));
        assert_eq!((budget.bytes_held(), budget.refusals()), (100, 2));
        drop(second);
        assert!(first.try_grow(40));
        first.shrink(90);
        assert_eq!((first.bytes(), budget.bytes_held()), (10, 10));
        first.shrink(1000);
        assert_eq!(budget.bytes_held(), 0);
        assert!(budget.try_hold(usize::MAX).is_none());
    }
}
