//! Errors over time, in as many steps as fit.

use std::collections::BTreeMap;

use ras_core::{Severity, Timestamp};

use super::Levels;

/// Errors as a timeline stacks them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// No data was lost.
    Corrected,
    /// Data was lost: deferred, UCNA, SRAO, SRAR.
    Uncorrected,
    /// The host could not go on.
    Fatal,
    /// The source's severity is not known.
    Unclassified,
}

impl Level {
    /// All, the mildest first; what is not known comes last.
    pub const ALL: [Self; 4] =
        [Self::Corrected, Self::Uncorrected, Self::Fatal, Self::Unclassified];

    /// `None` for what is no error.
    #[must_use]
    pub const fn of(severity: Severity) -> Option<Self> {
        match severity {
            Severity::Informational => None,
            Severity::Corrected => Some(Self::Corrected),
            Severity::Fatal => Some(Self::Fatal),
            severity if severity.is_uncorrected() => Some(Self::Uncorrected),
            _ => Some(Self::Unclassified),
        }
    }

    /// The stable name used in JSON and text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Corrected => "corrected",
            Self::Uncorrected => "uncorrected",
            Self::Fatal => "fatal",
            Self::Unclassified => "unclassified",
        }
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Widths of a step in seconds; each divides the next, so that steps can be joined. The last covers
/// all that a [`Timestamp`] can be in 14 steps.
const WIDTHS_S: [u64; 28] = [
    1,
    5,
    10,
    30,
    MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    30 * MINUTE,
    HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    4 * DAY,
    8 * DAY,
    16 * DAY,
    32 * DAY,
    64 * DAY,
    128 * DAY,
    256 * DAY,
    512 * DAY,
    1024 * DAY,
    2048 * DAY,
    4096 * DAY,
    8192 * DAY,
    16_384 * DAY,
    32_768 * DAY,
];

/// Steps with errors that are kept; where there are more, they are joined to wider ones.
const STEPS_MAX: usize = 4096;

/// Counts by time.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Index into [`WIDTHS_S`].
    width: usize,
    steps: BTreeMap<u64, Levels>,
    /// Errors without a time.
    pub untimed: Levels,
}

/// A timeline of at most so many steps as were asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// When the first step begins, in seconds since the epoch.
    pub start_s: u64,
    /// How long each step is.
    pub step_s: u64,
    /// The steps; none where no error has a time.
    pub steps: Vec<Levels>,
}

impl Timeline {
    /// Counts errors.
    pub fn add(&mut self, time: Option<Timestamp>, level: Level, errors: u64) {
        let Some(time) = time else {
            self.untimed.add(level, errors);
            return;
        };
        self.steps.entry(time.secs() / WIDTHS_S[self.width]).or_default().add(level, errors);
        while self.steps.len() > STEPS_MAX && self.width + 1 < WIDTHS_S.len() {
            let times = WIDTHS_S[self.width + 1] / WIDTHS_S[self.width];
            self.width += 1;
            self.steps = joined(&self.steps, times);
        }
    }

    /// All of it in at most `max` steps, which has to be 16 or more.
    #[must_use]
    pub fn view(&self, max: usize) -> View {
        let finest = WIDTHS_S[self.width];
        let first = self.steps.keys().next().copied();
        let (Some(first), Some(last)) = (first, self.steps.keys().next_back().copied()) else {
            return View { start_s: 0, step_s: finest, steps: Vec::new() };
        };
        let mut wider = WIDTHS_S[self.width..].iter().map(|width| width / finest);
        let count = |times: u64| last / times - first / times + 1;
        let times = wider.clone().find(|times| count(*times) <= max as u64);
        let times = times.or(wider.next_back()).unwrap_or(1);
        let mut steps = vec![Levels::default(); usize::try_from(count(times)).unwrap_or(max)];
        for (index, levels) in &self.steps {
            let at = usize::try_from(index / times - first / times);
            if let Some(step) = at.ok().and_then(|at| steps.get_mut(at)) {
                step.join(levels);
            }
        }
        let step_s = finest * times;
        View { start_s: first / times * step_s, step_s, steps }
    }
}

impl View {
    /// The length of a step in words: `10 minutes`.
    #[must_use]
    pub fn step(&self) -> String {
        let (count, unit) = match self.step_s {
            seconds if seconds < MINUTE => (seconds, "second"),
            seconds if seconds < HOUR => (seconds / MINUTE, "minute"),
            seconds if seconds < DAY => (seconds / HOUR, "hour"),
            seconds => (seconds / DAY, "day"),
        };
        if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
    }

    /// The most errors in one step.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.steps.iter().map(Levels::total).max().unwrap_or(0)
    }

    /// When the last step ends, in seconds since the epoch.
    #[must_use]
    pub fn end_s(&self) -> u64 {
        self.start_s.saturating_add(self.step_s.saturating_mul(self.steps.len() as u64))
    }
}

fn joined(steps: &BTreeMap<u64, Levels>, times: u64) -> BTreeMap<u64, Levels> {
    let mut wider: BTreeMap<u64, Levels> = BTreeMap::new();
    for (index, levels) in steps {
        wider.entry(index / times).or_default().join(levels);
    }
    wider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_divides_the_next_and_the_last_covers_all_time() {
        assert!(WIDTHS_S.windows(2).all(|pair| pair[1] % pair[0] == 0));
        assert!(Timestamp(u64::MAX).secs() / WIDTHS_S[WIDTHS_S.len() - 1] < 16);
    }

    #[test]
    fn steps_are_as_fine_as_fits() {
        let mut timeline = Timeline::default();
        for second in [1000, 1001, 1001, 1095] {
            timeline.add(Some(Timestamp::from_secs(second)), Level::Corrected, 2);
        }
        timeline.add(None, Level::Fatal, 1);
        let view = timeline.view(96);
        assert_eq!((view.start_s, view.step_s, view.steps.len()), (1000, 1, 96));
        assert_eq!(view.steps[1].get(Level::Corrected), 4);
        let coarse = timeline.view(20);
        assert_eq!((coarse.start_s, coarse.step_s, coarse.steps.len()), (1000, 5, 20));
        assert_eq!((coarse.highest(), coarse.step()), (6, "5 seconds".into()));
        assert_eq!(timeline.untimed.total(), 1);
    }

    #[test]
    fn memory_is_bounded_over_all_of_time_and_nothing_is_lost() {
        let mut timeline = Timeline::default();
        for n in 0..20_000_u64 {
            let time = Timestamp(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            timeline.add(Some(time), Level::Corrected, 1);
            assert!(timeline.steps.len() <= STEPS_MAX);
        }
        let view = timeline.view(16);
        assert!(view.steps.len() <= 16);
        assert_eq!(view.steps.iter().map(Levels::total).sum::<u64>(), 20_000);
    }

    proptest::proptest! {
        #[test]
        fn a_view_has_all_errors_in_its_steps(
            times in proptest::collection::vec(proptest::num::u64::ANY, 1..50), max in 16..200_usize
        ) {
            let mut timeline = Timeline::default();
            for time in &times {
                timeline.add(Some(Timestamp(*time)), Level::Corrected, 1);
            }
            let view = timeline.view(max);
            proptest::prop_assert!(view.steps.len() <= max);
            let sum: u64 = view.steps.iter().map(Levels::total).sum();
            proptest::prop_assert_eq!(sum, times.len() as u64);
        }
    }
}
