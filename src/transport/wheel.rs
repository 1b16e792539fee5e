//! Deadlines, pure: a hashed wheel. Inserting and cancelling cost O(1); time is a tick number.

/// A power of two. The wheel's ticks are milliseconds, so one turn is half a second: stuck sends
/// and short pauses are met in their first turn, longer deadlines are looked at once per turn.
const BUCKETS: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

struct Entry<T> {
    generation: u32,
    armed: Option<(u64, T)>,
}

pub struct Wheel<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    /// Entry numbers by deadline modulo `BUCKETS`. A cancelled entry leaves its bucket when the
    /// hand passes.
    buckets: Vec<Vec<TimerId>>,
    /// Every tick up to here has been handled.
    hand: u64,
    armed: usize,
}

impl<T> Wheel<T> {
    pub fn new(now: u64) -> Self {
        let buckets = (0..BUCKETS).map(|_| Vec::new()).collect();
        Wheel { entries: Vec::new(), free: Vec::new(), buckets, hand: now, armed: 0 }
    }

    pub fn len(&self) -> usize {
        self.armed
    }

    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Arms a deadline; one that has passed already fires on the next tick.
    pub fn insert(&mut self, deadline: u64, value: T) -> TimerId {
        let deadline = deadline.max(self.hand + 1);
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, armed: None });
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        entry.armed = Some((deadline, value));
        self.armed += 1;
        let id = TimerId { index, generation: entry.generation };
        self.buckets[deadline as usize % BUCKETS].push(id);
        id
    }

    pub fn value_mut(&mut self, id: TimerId) -> Option<&mut T> {
        let entry = self
            .entries
            .get_mut(id.index as usize)
            .filter(|entry| entry.generation == id.generation)?;
        entry.armed.as_mut().map(|(_, value)| value)
    }

    /// Disarms; `None` if it has fired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        let entry = self
            .entries
            .get_mut(id.index as usize)
            .filter(|entry| entry.generation == id.generation)?;
        let (_, value) = entry.armed.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.index);
        self.armed -= 1;
        Some(value)
    }

    /// Moves the hand to `now` and calls `fire` for every deadline passed, in no order within one
    /// call.
    pub fn advance(&mut self, now: u64, mut fire: impl FnMut(T)) {
        let first = self.hand + 1;
        let last = now.min(self.hand + BUCKETS as u64); // one whole turn looks at every bucket
        self.hand = self.hand.max(now);
        for tick in first..=last {
            let mut bucket = std::mem::take(&mut self.buckets[tick as usize % BUCKETS]);
            bucket.retain(|&id| match self.deadline(id) {
                None => false,
                Some(deadline) if deadline > now => true,
                Some(_) => {
                    fire(self.cancel(id).expect("it has a deadline, so it is armed"));
                    false
                }
            });
            self.buckets[tick as usize % BUCKETS] = bucket;
        }
    }

    /// The earliest armed deadline. Looks at every entry: asked only when the shard falls asleep.
    pub fn earliest(&self) -> Option<u64> {
        if self.armed == 0 {
            return None;
        }
        self.entries
            .iter()
            .filter_map(|entry| entry.armed.as_ref().map(|(deadline, _)| *deadline))
            .min()
    }

    fn deadline(&self, id: TimerId) -> Option<u64> {
        let entry = &self.entries[id.index as usize];
        entry
            .armed
            .as_ref()
            .filter(|_| entry.generation == id.generation)
            .map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The wheel against an ordered map: the same deadlines fire in the same call, whatever is
    /// cancelled.
    #[test]
    fn agrees_with_an_ordered_map() {
        let (mut wheel, mut twin) = (Wheel::new(7), BTreeMap::new());
        let (mut seed, mut now, mut serial) = (1u64, 7u64, 0u64);
        let mut random = |bound: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % bound
        };
        for _ in 0..20_000 {
            match random(4) {
                0 | 1 => {
                    let deadline = now + 1 + random(2000);
                    serial += 1;
                    twin.insert((deadline, serial), wheel.insert(deadline, (deadline, serial)));
                }
                2 => {
                    let from = (now + random(2000), 0);
                    if let Some((&key, &id)) = twin.range(from..).next() {
                        assert_eq!(wheel.cancel(id), Some(key));
                        assert_eq!(wheel.cancel(id), None);
                        twin.remove(&key);
                    }
                }
                _ => {
                    now += random(700);
                    let mut fired = Vec::new();
                    wheel.advance(now, |key| fired.push(key));
                    fired.sort();
                    let rest = twin.split_off(&(now + 1, 0));
                    assert_eq!(fired, twin.keys().copied().collect::<Vec<_>>());
                    twin = rest;
                }
            }
            assert_eq!(wheel.len(), twin.len());
            assert_eq!(wheel.earliest(), twin.keys().next().map(|key| key.0));
        }
    }
}
