//! Storms: corrected errors of one part in quick succession.

use std::collections::BTreeMap;

use ras_core::Timestamp;

/// Longest gap within a storm: 60 s, as the SmartMem benchmark has it.
pub const GAP_NS: u64 = 60_000_000_000;
/// Errors that make a storm, likewise.
pub const ERRORS_MIN: u64 = 10;
/// Reports that make one: a single report of many errors says nothing about their gaps.
pub const REPORTS_MIN: u64 = 2;

/// Runs of errors remembered at the same time, storms and those that may become one.
const RUNS_MAX: usize = 65_536;
/// Of those that are no storms, the newest ones that survive when there are too many.
const RECENT: usize = 1024;

/// One storm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Storm {
    /// The number of the part.
    pub part: u32,
    /// Its first error.
    pub start: Timestamp,
    /// Its last error.
    pub end: Timestamp,
    /// Its corrected errors.
    pub errors: u64,
    /// Reports of them.
    pub reports: u64,
}

/// Finds storms, in whatever order errors come.
#[derive(Debug, Default)]
pub struct Storms {
    runs: BTreeMap<(u32, Timestamp), Run>,
    forgotten: u64,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    end: Timestamp,
    errors: u64,
    reports: u64,
}

impl Run {
    const fn is_storm(&self) -> bool {
        self.errors >= ERRORS_MIN && self.reports >= REPORTS_MIN
    }

    fn join(&mut self, other: Self) {
        self.end = self.end.max(other.end);
        self.errors = self.errors.saturating_add(other.errors);
        self.reports = self.reports.saturating_add(other.reports);
    }
}

impl Storms {
    /// Adds a report of corrected errors.
    pub fn add(&mut self, part: u32, time: Timestamp, errors: u64) {
        let mut run = Run { end: time, errors, reports: 1 };
        let mut start = time;
        let before = self.runs.range((part, Timestamp(0))..=(part, time)).next_back();
        if let Some((&key, earlier)) = before
            && time.nanos_since(earlier.end) <= GAP_NS
        {
            let mut earlier = *earlier;
            earlier.join(run);
            (run, start) = (earlier, key.1);
            self.runs.remove(&key);
        }
        let after = self.runs.range((part, time)..=(part, Timestamp(u64::MAX))).next();
        if let Some((&key, later)) = after
            && key.1.nanos_since(run.end) <= GAP_NS
        {
            run.join(*later);
            self.runs.remove(&key);
        }
        self.runs.insert((part, start), run);
        if self.runs.len() > RUNS_MAX {
            self.forget();
        }
    }

    /// Makes room: single errors go first, the oldest first, then the smallest storms.
    fn forget(&mut self) {
        let before = self.runs.len();
        let mut ends: Vec<Timestamp> =
            self.runs.values().filter(|run| !run.is_storm()).map(|run| run.end).collect();
        let oldest = ends.len().saturating_sub(RECENT);
        let limit = match ends.get(oldest) {
            Some(_) => *ends.select_nth_unstable(oldest).1,
            None => Timestamp(0),
        };
        self.runs.retain(|_, run| run.is_storm() || run.end >= limit);
        if self.runs.len() > RUNS_MAX / 2 {
            let mut sizes: Vec<u64> = self.runs.values().map(|run| run.errors).collect();
            let middle = sizes.len() / 2;
            let (_, &mut median, _) = sizes.select_nth_unstable(middle);
            let mut left = middle;
            self.runs.retain(|_, run| {
                let forget = left > 0 && run.errors <= median;
                left -= usize::from(forget);
                !forget
            });
        }
        self.forgotten += (before - self.runs.len()) as u64;
    }

    /// The storms in order of time, and how many runs were forgotten.
    #[must_use]
    pub fn finish(self) -> (Vec<Storm>, u64) {
        let storms = self.runs.into_iter().filter(|(_, run)| run.is_storm());
        let mut storms: Vec<Storm> = storms
            .map(|((part, start), Run { end, errors, reports })| Storm {
                part,
                start,
                end,
                errors,
                reports,
            })
            .collect();
        storms.sort_by_key(|storm| (storm.start, storm.part));
        (storms, self.forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(times: impl IntoIterator<Item = u64>) -> Vec<(u64, u64, u64)> {
        let mut storms = Storms::default();
        for second in times {
            storms.add(0, Timestamp::from_secs(second), 1);
        }
        let (found, _) = storms.finish();
        found.iter().map(|storm| (storm.start.secs(), storm.end.secs(), storm.errors)).collect()
    }

    #[test]
    fn ten_errors_with_gaps_of_a_minute_are_a_storm() {
        assert_eq!(found((0..10).map(|n| n * 60)), [(0, 540, 10)]);
        assert_eq!(found((0..9).map(|n| n * 60)), []);
        assert_eq!(found((0..20).map(|n| n * 61)), []);
    }

    #[test]
    fn the_order_does_not_matter() {
        let mut times: Vec<u64> = (0..40).map(|n| n * 50).collect();
        times.extend((0..12).map(|n| 100_000 + n));
        let forward = found(times.clone());
        assert_eq!(forward, [(0, 1950, 40), (100_000, 100_011, 12)]);
        times.reverse();
        assert_eq!(found(times.clone()), forward);
        times.sort_by_key(|time| time.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert_eq!(found(times), forward);
    }

    #[test]
    fn a_single_report_of_many_errors_is_none_and_parts_storm_by_themselves() {
        let mut storms = Storms::default();
        storms.add(0, Timestamp::from_secs(0), 500);
        for n in 0..10 {
            storms.add(n % 2, Timestamp::from_secs(1000 + u64::from(n)), 1);
        }
        assert_eq!(storms.finish().0, []);
    }

    #[test]
    fn memory_is_bounded_and_a_big_storm_survives() {
        let mut storms = Storms::default();
        for second in 0..100 {
            storms.add(7, Timestamp::from_secs(second), 1);
        }
        for n in 0..200_000_u64 {
            storms.add(0, Timestamp::from_secs(1_000_000 + n * 1000), 1);
            assert!(storms.runs.len() <= RUNS_MAX);
        }
        let (found, forgotten) = storms.finish();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].errors, 100);
        assert!(forgotten > 0);
    }
}
