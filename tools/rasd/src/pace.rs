//! When a copy of the list is written, where every write costs: flash wears out, and gives little room
//! back before a reboot.

use std::time::{Duration, Instant};

/// Collects changes: a copy is due once nothing changed for a while, and not too soon after the last time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    settle: Duration,
    pause: Duration,
    /// The changes of the ledger that the copy has; none before the first look.
    known: Option<u64>,
    seen: u64,
    changed: Instant,
    written: Option<Instant>,
}

impl Pace {
    /// Waits until nothing changed for `settle`, and between two writes for `pause`.
    #[must_use]
    pub const fn new(settle: Duration, pause: Duration, now: Instant) -> Self {
        Self { settle, pause, known: None, seen: 0, changed: now, written: None }
    }

    /// Whether a list with `changes` is to be looked at `now`; the first time at once.
    pub fn is_due(&mut self, changes: u64, now: Instant) -> bool {
        let rested = self.written.is_none_or(|written| now.duration_since(written) >= self.pause);
        let Some(known) = self.known else { return rested };
        if changes != self.seen {
            (self.seen, self.changed) = (changes, now);
        }
        changes != known && rested && now.duration_since(self.changed) >= self.settle
    }

    /// Whether the copy is not known to have all `changes`.
    #[must_use]
    pub fn is_behind(&self, changes: u64) -> bool {
        self.known != Some(changes)
    }

    /// The copy has `changes`; without a write, if it had them before.
    pub fn has(&mut self, changes: u64) {
        (self.known, self.seen) = (Some(changes), changes);
    }

    /// The medium was written to.
    pub fn wrote(&mut self, now: Instant) {
        self.written = Some(now);
    }

    /// Nobody knows what the copy has: it is tried again after the pause, changed or not.
    pub fn failed(&mut self, now: Instant) {
        (self.known, self.written) = (None, Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_collected_and_pauses_kept() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(Duration::from_secs(30), Duration::from_secs(600), start);
        assert!(pace.is_due(3, at(0)), "at the start");
        pace.has(3);
        assert!(!pace.is_due(3, at(1000)) && !pace.is_behind(3), "nothing changed");
        assert!(!pace.is_due(4, at(1001)) && pace.is_behind(4), "it may go on changing");
        assert!(!pace.is_due(5, at(1030)));
        assert!(!pace.is_due(5, at(1059)));
        assert!(pace.is_due(5, at(1060)));
        pace.has(5);
        pace.wrote(at(1060));
        assert!(!pace.is_due(6, at(1100)) && !pace.is_due(6, at(1659)), "not so soon again");
        assert!(pace.is_due(6, at(1660)));
        pace.failed(at(1660));
        assert!(pace.is_behind(6) && !pace.is_due(6, at(2000)));
        assert!(pace.is_due(6, at(2260)), "although nothing changed");
    }
}
