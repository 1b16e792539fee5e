//! When requests are to start, where that does not depend on answers. Pure.
//!
//! Open loop: starts are evenly spaced, at a rate that grows to the wanted one over the ramp; a
//! client that is late takes the start that is due longest. Closed loop: only the first start of
//! every client is planned, spread over the ramp.

use std::time::Duration;

/// The starts of one thread; each thread takes every so-many-th of them all.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// When the ramp begins.
    pub began: Duration,
    pub ramp: Duration,
    /// Wanted of all threads together.
    pub per_second: f64,
    pub thread: usize,
    pub threads: usize,
}

impl Schedule {
    /// When this thread's start number `index` is due, from 0.
    pub fn start(&self, index: u64) -> Duration {
        let number = (index * self.threads as u64 + self.thread as u64) as f64;
        let ramp = self.ramp.as_secs_f64();
        // A rate that grows evenly from 0 gives half of what it ends with.
        let in_ramp = self.per_second * ramp / 2.0;
        let seconds = if number < in_ramp {
            (2.0 * ramp * number / self.per_second).sqrt()
        } else {
            ramp + (number - in_ramp) / self.per_second
        };
        // A start that no duration can hold is never reached.
        let after = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.began.saturating_add(after)
    }

    /// How many starts from number `from` on are due before `end`.
    pub fn count_before(&self, from: u64, end: Duration) -> u64 {
        (from..).take_while(|index| self.start(*index) < end).count() as u64
    }
}

/// What one thread is to start in one round of a target, and when.
#[derive(Clone, Debug)]
pub struct Starts {
    /// `None`: closed loop.
    pub schedule: Option<Schedule>,
    /// Ends the ramp: what starts before is asked and not counted.
    pub counted_from: Duration,
    /// Nothing starts any more.
    pub stop_at: Duration,
    /// Starts that are still to be counted; `None` if only the time ends them.
    pub left: Option<u64>,
    /// Number of the next start.
    pub next: u64,
    /// Starts that were due, and whose client found the round over.
    pub given_back: u64,
}

impl Starts {
    /// A client that is free takes the next start; `None` if there is none in this round.
    pub fn take(&mut self, now: Duration) -> Option<Duration> {
        let start = self.schedule.map_or(now, |schedule| schedule.start(self.next));
        if now >= self.stop_at || start >= self.stop_at {
            return None;
        }
        if start >= self.counted_from
            && let Some(left) = &mut self.left
        {
            *left = left.checked_sub(1)?;
        }
        self.next += 1;
        Some(start)
    }

    /// A start that was taken has come to nothing: the round is over.
    pub fn give_back(&mut self, start: Duration) {
        self.given_back += u64::from(start < self.stop_at);
    }

    /// When so many starts of all threads have had their time: the last one's ends where the next
    /// would be due, however soon it is answered.
    pub fn whole_of(&self, count: u64) -> Duration {
        let seconds = self.schedule.map_or(0.0, |schedule| count as f64 / schedule.per_second);
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.counted_from.saturating_add(time)
    }

    /// What was due in the round and no client was free for; the latencies do not show it.
    pub fn unasked(&self) -> u64 {
        let Some(schedule) = self.schedule.filter(|_| self.left.is_none()) else { return 0 };
        self.given_back + schedule.count_before(self.next, self.stop_at)
    }
}

/// When client `place` of `count` begins, so that over the ramp one begins after the other.
pub fn ramped(ramp: Duration, place: usize, count: usize) -> Duration {
    ramp.mul_f64(place as f64 / count.max(1) as f64)
}

/// The part of `total` that is due to `place` of `count`; all parts add up.
pub fn part(total: u64, place: usize, count: usize) -> u64 {
    let (place, count) = (place as u64, count.max(1) as u64);
    total / count + u64::from(place < total % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(ramp: Duration, thread: usize, threads: usize) -> Schedule {
        Schedule { began: 5 * SECOND, ramp, per_second: 1000.0, thread, threads }
    }

    #[test]
    fn starts_are_evenly_spaced_and_threads_take_turns() {
        let [one, two] = [0, 1].map(|thread| schedule(Duration::ZERO, thread, 2));
        for index in 0..5000 {
            let at = |milliseconds: u64| 5 * SECOND + Duration::from_millis(milliseconds);
            let is_near = |start: Duration, due: Duration| start.abs_diff(due).as_nanos() < 1000;
            assert!(is_near(one.start(index), at(2 * index)), "{index}");
            assert!(is_near(two.start(index), at(2 * index + 1)), "{index}");
        }
        let end = 6 * SECOND - Duration::from_micros(500);
        assert_eq!(one.count_before(0, end) + two.count_before(0, end), 1000);
        assert_eq!(one.count_before(400, end), 100);
        assert_eq!(one.count_before(400, 5 * SECOND), 0);
    }

    #[test]
    fn a_ramp_brings_half_of_the_starts_and_ends_at_the_whole_rate() {
        let schedule = schedule(4 * SECOND, 0, 1);
        let before = |seconds: f64| {
            schedule.count_before(0, 5 * SECOND + Duration::from_secs_f64(seconds)) as f64
        };
        assert!((before(4.0) - 2000.0).abs() <= 1.0, "{}", before(4.0));
        // The integral of a rate that grows evenly: a quarter of it by half time.
        assert!((before(2.0) - 500.0).abs() <= 1.0, "{}", before(2.0));
        assert!((before(5.0) - before(4.0) - 1000.0).abs() <= 1.0);
        assert!((1..9000).all(|index| schedule.start(index - 1) < schedule.start(index)));
    }

    #[test]
    fn a_rate_of_almost_nothing_is_never_due() {
        let slow = Schedule { per_second: 1e-300, ..schedule(Duration::ZERO, 0, 1) };
        assert_eq!(slow.start(0), 5 * SECOND);
        assert_eq!(slow.start(1), Duration::MAX);
        assert_eq!(slow.count_before(0, 9 * SECOND), 1);
    }

    fn starts(schedule: Option<Schedule>, left: Option<u64>) -> Starts {
        let (counted_from, stop_at) = (6 * SECOND, 7 * SECOND);
        Starts { schedule, counted_from, stop_at, left, next: 0, given_back: 0 }
    }

    #[test]
    fn a_stall_makes_starts_late_and_not_fewer() {
        let mut starts = starts(Some(schedule(Duration::ZERO, 0, 1)), None);
        assert_eq!(starts.take(5 * SECOND), Some(5 * SECOND));
        // The only client comes back after a second and a half: what it starts now is long due.
        let late = starts.take(6 * SECOND + SECOND / 2).unwrap();
        assert!(late < 5 * SECOND + Duration::from_millis(2));
        assert_eq!(starts.unasked(), 1998);
        starts.give_back(late);
        assert_eq!(starts.unasked(), 1999);
        assert_eq!(starts.take(7 * SECOND), None);
    }

    #[test]
    fn a_count_is_of_what_starts_after_the_ramp() {
        let mut starts = starts(None, Some(2));
        assert!((0..10).all(|_| starts.take(5 * SECOND) == Some(5 * SECOND)));
        assert_eq!(starts.take(6 * SECOND), Some(6 * SECOND));
        assert_eq!(starts.take(6 * SECOND), Some(6 * SECOND));
        assert_eq!((starts.take(6 * SECOND), starts.left), (None, Some(0)));
        assert_eq!(starts.unasked(), 0);
    }

    #[test]
    fn a_count_at_a_rate_has_the_time_of_all_its_starts() {
        let [open, closed] = [Some(schedule(Duration::ZERO, 0, 1)), None];
        assert_eq!(starts(open, Some(500)).whole_of(500), 6 * SECOND + SECOND / 2);
        assert_eq!(starts(closed, Some(500)).whole_of(500), 6 * SECOND);
        assert_eq!(starts(open, Some(u64::MAX)).whole_of(0), 6 * SECOND);
        let slow = Schedule { per_second: 1e-300, ..schedule(Duration::ZERO, 0, 1) };
        assert_eq!(starts(Some(slow), Some(1)).whole_of(1), Duration::MAX);
    }

    #[test]
    fn clients_begin_one_after_the_other_and_parts_add_up() {
        let begins: Vec<_> = (0..4).map(|place| ramped(8 * SECOND, place, 4)).collect();
        assert_eq!(begins, [0, 2, 4, 6].map(|seconds| seconds * SECOND));
        assert_eq!(ramped(Duration::ZERO, 3, 4), Duration::ZERO);
        for (total, count) in [(0, 3), (2, 3), (10, 4), (7, 1)] {
            let parts = (0..count).map(|place| part(total, place, count));
            assert_eq!(parts.clone().sum::<u64>(), total);
            assert!(parts.clone().max().unwrap() - parts.min().unwrap() <= 1);
        }
    }
}
