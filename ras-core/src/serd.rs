//! Soft error rate discrimination: has a thing failed `n` times within `window`?

use alloc::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A rate above which corrected errors count as a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Number of errors, at least 1.
    pub count: u32,
    /// Window in seconds. 0 means ever.
    pub window_s: u64,
}

/// Counts events in a sliding window; the name and the idea are from illumos FMA.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SerdEngine {
    /// Ascending, at most `Rate::count` entries: older ones can't change the verdict.
    times: VecDeque<Timestamp>,
}

impl SerdEngine {
    /// Records `errors` events at `now`; true when `rate` is reached, counting events in
    /// `(now - window, now]`. Late arrivals are inserted in order.
    pub fn record(&mut self, rate: Rate, now: Timestamp, errors: u32) -> bool {
        let keep = rate.count.max(1) as usize;
        for _ in 0..(errors as usize).min(keep) {
            let place = self.times.partition_point(|time| *time <= now);
            self.times.insert(place, now);
            if self.times.len() > keep {
                self.times.pop_front();
            }
        }
        let newest = self.times.back().copied().unwrap_or(now);
        if rate.window_s > 0 {
            let window = rate.window_s.saturating_mul(1_000_000_000);
            while self.times.front().is_some_and(|time| newest.nanos_since(*time) >= window) {
                self.times.pop_front();
            }
        }
        self.times.len() >= keep
    }

    /// Adds the events of another engine of the same rate; true when the rate is reached.
    pub fn join(&mut self, rate: Rate, other: &Self) -> bool {
        let mut fired = false;
        for time in &other.times {
            fired = self.record(rate, *time, 1);
        }
        fired
    }

    /// Events currently in the window.
    #[must_use]
    pub fn count(&self) -> usize {
        self.times.len()
    }

    /// The newest event.
    #[must_use]
    pub fn newest(&self) -> Option<Timestamp> {
        self.times.back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_A_DAY: Rate = Rate { count: 2, window_s: 86_400 };

    #[test]
    fn fires_on_the_second_error_within_the_window_only() {
        let at = Timestamp::from_secs;
        let mut engine = SerdEngine::default();
        assert!(!engine.record(TWO_A_DAY, at(0), 1));
        assert!(!engine.record(TWO_A_DAY, at(86_400), 1), "exactly a window later is outside");
        assert!(engine.record(TWO_A_DAY, at(86_401), 1));
    }

    #[test]
    fn one_report_of_several_errors_counts_them_all() {
        assert!(SerdEngine::default().record(TWO_A_DAY, Timestamp(0), 2));
    }

    #[test]
    fn a_report_that_arrives_late_still_counts() {
        let mut engine = SerdEngine::default();
        engine.record(TWO_A_DAY, Timestamp::from_secs(100), 1);
        assert!(engine.record(TWO_A_DAY, Timestamp::from_secs(50), 1));
    }

    #[test]
    fn memory_is_bounded_by_the_rate() {
        let mut engine = SerdEngine::default();
        for second in 0..10_000 {
            engine.record(TWO_A_DAY, Timestamp::from_secs(second), u32::MAX);
        }
        assert_eq!(engine.count(), 2);
    }
}
