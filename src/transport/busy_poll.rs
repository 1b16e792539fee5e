//! Looking for completions before sleeping: when that is worth it.
//!
//! A shard that sleeps until the next message pays twice: its own way out of the sleep, and the
//! interrupt with which the sender wakes it. Looking costs CPU time instead. So it is off unless
//! somebody asks for it, it ends after `limit`, and a shard whose last pause was too long for it
//! does not look at all until a short one comes: an idle one looks never.

use std::time::Duration;

/// A pause that was slept through includes the way out of the sleep, which takes as long as a short
/// pause itself (20 to 50 µs measured in a virtual machine): up to so many limits it counts as one
/// that looking would have caught.
const CAUGHT_LIMITS: u32 = 2;

#[derive(Clone, Copy, Debug)]
pub struct BusyPoll {
    limit: Duration,
    is_worth_it: bool,
}

impl BusyPoll {
    /// Looks for at most `limit` before a sleep; zero is off.
    pub fn new(limit: Duration) -> BusyPoll {
        BusyPoll { limit, is_worth_it: true }
    }

    pub fn is_off(&self) -> bool {
        self.limit.is_zero()
    }

    /// How long to look before the next sleep.
    pub fn limit(&self) -> Duration {
        if self.is_worth_it { self.limit } else { Duration::ZERO }
    }

    /// The shard had nothing to do for so long, asleep or not.
    pub fn note_pause(&mut self, pause: Duration) {
        self.is_worth_it = pause <= self.limit * CAUGHT_LIMITS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_pauses_are_looked_through() {
        let micros = Duration::from_micros;
        let mut busy_poll = BusyPoll::new(micros(50));
        assert_eq!(busy_poll.limit(), micros(50));
        busy_poll.note_pause(micros(5000));
        assert_eq!(busy_poll.limit(), Duration::ZERO, "an idle shard does not look");
        busy_poll.note_pause(micros(100));
        assert_eq!(busy_poll.limit(), micros(50), "messages follow each other again");
        busy_poll.note_pause(micros(101));
        assert_eq!(busy_poll.limit(), Duration::ZERO);
        assert!(!busy_poll.is_off() && BusyPoll::new(Duration::ZERO).is_off());
    }
}
