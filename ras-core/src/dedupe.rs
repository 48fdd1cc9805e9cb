//! One error, several witnesses: the machine check, the firmware's record of it, the kernel's
//! account of what it did. They must not count, or act, twice.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use crate::{ErrorSource, Pfn, Severity, Timestamp};

/// Remembers recent events so that a second source's report of one joins it.
///
/// Two reports are the same event when they name the same page, agree on whether the error was
/// corrected, uncorrected or fatal (sources name the classes in between differently), come from
/// *different* sources and lie within the window. Two reports from one source are always two events:
/// that is how corrected errors are counted.
#[derive(Clone, Debug, Default)]
pub struct Dedupe {
    recent: VecDeque<Event>,
}

#[derive(Clone, Debug)]
struct Event {
    pfn: Pfn,
    gravity: Gravity,
    time: Timestamp,
    witnesses: Vec<ErrorSource>,
}

impl Dedupe {
    /// Events remembered; older ones can no longer be joined. Bounds memory in an error storm.
    pub const EVENTS_MAX: usize = 1024;

    /// Records a report. `Some(first witness)` if another source already reported this event.
    pub fn witness(
        &mut self,
        pfn: Pfn,
        severity: Severity,
        source: ErrorSource,
        now: Timestamp,
        window_ns: u64,
    ) -> Option<ErrorSource> {
        let gravity = Gravity::of(severity);
        let same = |event: &&mut Event| {
            event.pfn == pfn
                && event.gravity == gravity
                && now.0.abs_diff(event.time.0) <= window_ns
                && !event.witnesses.contains(&source)
        };
        if let Some(event) = self.recent.iter_mut().find(same) {
            event.witnesses.push(source);
            return event.witnesses.first().copied();
        }
        if self.recent.len() == Self::EVENTS_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Event { pfn, gravity, time: now, witnesses: vec![source] });
        None
    }
}

/// What different sources agree on about one event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gravity {
    Corrected,
    Uncorrected,
    /// Of its own, so that no milder witness can swallow it.
    Fatal,
}

impl Gravity {
    pub(crate) fn of(severity: Severity) -> Self {
        match severity {
            Severity::Fatal => Self::Fatal,
            severity if severity.is_uncorrected() => Self::Uncorrected,
            _ => Self::Corrected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 2_000_000_000;

    #[test]
    fn a_second_source_joins_and_a_second_report_counts() {
        let mut dedupe = Dedupe::default();
        let at = Timestamp::from_secs;
        let mut see =
            |source, time| dedupe.witness(Pfn(7), Severity::Corrected, source, at(time), WINDOW);
        assert_eq!(see(ErrorSource::MceRecord, 10), None);
        assert_eq!(see(ErrorSource::ApeiStatusBlock, 11), Some(ErrorSource::MceRecord));
        assert_eq!(
            see(ErrorSource::ApeiStatusBlock, 11),
            None,
            "the same source again is a new error"
        );
        assert_eq!(see(ErrorSource::MceRecord, 12), Some(ErrorSource::ApeiStatusBlock));
        assert_eq!(see(ErrorSource::Cper, 20), None, "outside the window");
    }

    #[test]
    fn a_storm_is_bounded() {
        let mut dedupe = Dedupe::default();
        for page in 0..10_000 {
            dedupe.witness(
                Pfn(page),
                Severity::Corrected,
                ErrorSource::MceRecord,
                Timestamp(page),
                WINDOW,
            );
        }
        assert_eq!(dedupe.recent.len(), Dedupe::EVENTS_MAX);
    }
}
