//! One error, several witnesses: the machine check, the firmware's record of it, the kernel's
//! account of what it did. They must not count, or act, twice.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use crate::{ErrorSource, Pfn, Timestamp};

/// Remembers recent events so that a second source's report of one joins it.
///
/// Two reports are the same event when they name the same page, agree on whether data was lost, come
/// from *different* sources and lie within the window. Two reports from one source are always two
/// events: that is how corrected errors are counted.
#[derive(Clone, Debug, Default)]
pub struct Dedupe {
    recent: VecDeque<Event>,
}

#[derive(Clone, Debug)]
struct Event {
    pfn: Pfn,
    uncorrected: bool,
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
        uncorrected: bool,
        source: ErrorSource,
        now: Timestamp,
        window_ns: u64,
    ) -> Option<ErrorSource> {
        let same = |event: &&mut Event| {
            event.pfn == pfn
                && event.uncorrected == uncorrected
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
        self.recent.push_back(Event { pfn, uncorrected, time: now, witnesses: vec![source] });
        None
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
        let mut see = |source, time| dedupe.witness(Pfn(7), false, source, at(time), WINDOW);
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
            dedupe.witness(Pfn(page), false, ErrorSource::MceRecord, Timestamp(page), WINDOW);
        }
        assert_eq!(dedupe.recent.len(), Dedupe::EVENTS_MAX);
    }
}
