//! What is counted while a target is measured in one round, by one thread or by all of them. Pure.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Latencies are kept in nanoseconds to three digits, from a microsecond (less is not a round trip)
/// to an hour (no request may take so long); that takes 260 KiB.
const LATENCY_NS_MIN: u64 = 1_000;
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// A histogram of latencies in nanoseconds.
pub fn histogram() -> Histogram<u64> {
    let bounds = Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, DIGITS);
    bounds.expect("the bounds are constants that the histogram takes")
}

#[derive(Clone, Debug)]
pub struct Tally {
    /// Answered right, and before the round's clock ran out.
    pub requests: u64,
    /// Every right answer, also those that came after the clock: what hangs must show in the
    /// maximum.
    pub latency: Histogram<u64>,
    pub records: u64,
    /// FAILUREs by code, lost and refused connections by kind.
    pub errors: BTreeMap<String, u64>,
    /// Answers that belong to another request.
    pub mismatches: u64,
    /// Starts of the open loop that were due, and for which no client was free before the end.
    pub unasked: u64,
    /// Requests and logins that were under way when the run was ended early, and had no answer a
    /// moment later.
    pub unanswered: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            requests: 0,
            latency: histogram(),
            records: 0,
            errors: BTreeMap::new(),
            mismatches: 0,
            unasked: 0,
            unanswered: 0,
        }
    }
}

impl Tally {
    /// A right answer; without a latency if it was asked for before the clock started.
    pub fn answered(&mut self, latency: Option<Duration>, records: u64, is_in_time: bool) {
        self.requests += u64::from(is_in_time);
        self.records += if is_in_time { records } else { 0 };
        let Some(latency) = latency else { return };
        self.latency.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn error(&mut self, kind: impl Into<String>) {
        *self.errors.entry(kind.into()).or_default() += 1;
    }

    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    pub fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.records += other.records;
        self.mismatches += other.mismatches;
        self.unasked += other.unasked;
        self.unanswered += other.unanswered;
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }

    /// In milliseconds; 0 while nothing was answered.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }

    pub fn max_ms(&self) -> f64 {
        self.latency.max() as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up_and_late_answers_show_only_in_the_latency() {
        let (mut one, mut two) = (Tally::default(), Tally::default());
        one.answered(Some(Duration::from_millis(2)), 1, true);
        one.error("closed");
        two.answered(Some(Duration::from_secs(7_200)), 5, false);
        two.answered(None, 7, false);
        (two.unasked, two.unanswered) = (2, 4);
        two.error("closed");
        two.error(String::from("Neo.X"));
        two.mismatches = 3;
        one.add(&two);
        assert_eq!((one.requests, one.records, one.mismatches, one.errors_total()), (1, 1, 3, 3));
        assert_eq!(one.errors["closed"], 2);
        assert_eq!((one.latency.len(), one.unasked, one.unanswered), (2, 2, 4));
        assert!((one.quantile_ms(0.5) - 2.0).abs() < 0.01);
        assert!((one.max_ms() / 3_600_000.0 - 1.0).abs() < 0.01);
    }
}
