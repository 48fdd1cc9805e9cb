//! The watchdog timer of an iBASE IB700 board, as QEMU has it: two ports and no bus, so that Linux'
//! `ib700wdt` drives it without any table (`modprobe ib700wdt`).
//!
//! A guest that computes gets its time: the timer stands still while the guest is stopped.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Writing anything here stops the timer.
pub const DISABLE_PORT: u16 = 0x441;

/// Writing a timeout's code here starts the timer, or starts it again.
pub const ENABLE_PORT: u16 = 0x443;

/// The timer.
#[derive(Debug, Default)]
pub struct Watchdog {
    timer: Timer,
    /// The guest runs, and so does the timer.
    running: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Timer {
    #[default]
    Off,
    /// Time left once the guest runs.
    Left(Duration),
    Due(Instant),
}

/// The state a migration carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    /// Time left until it goes off, if it is on.
    left_ns: Option<u64>,
}

/// The timeout of a code: 30 seconds down to none, in steps of two. Only four bits count.
fn timeout(code: u8) -> Duration {
    Duration::from_secs(30 - 2 * u64::from(code & 0xf))
}

impl Watchdog {
    /// The guest writes to [`ENABLE_PORT`]. True if it is due earlier than before.
    pub fn enable(&mut self, code: u8, now: Instant) -> bool {
        let before = self.due();
        self.timer = Timer::Left(timeout(code));
        if self.running {
            self.start(now);
        }
        self.due().is_some_and(|due| before.is_none_or(|before| due < before))
    }

    /// The guest writes to [`DISABLE_PORT`], or is reset.
    pub fn disable(&mut self) {
        self.timer = Timer::Off;
    }

    /// The guest runs from now on.
    pub fn start(&mut self, now: Instant) {
        self.running = true;
        if let Timer::Left(left) = self.timer {
            self.timer = Timer::Due(now + left);
        }
    }

    /// The guest has stopped.
    pub fn stop(&mut self, now: Instant) {
        self.running = false;
        if let Timer::Due(due) = self.timer {
            self.timer = Timer::Left(due.saturating_duration_since(now));
        }
    }

    /// When it goes off, if it is on and the guest runs.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        match self.timer {
            Timer::Due(due) => Some(due),
            Timer::Off | Timer::Left(_) => None,
        }
    }

    /// Whether it goes off now. It is off then.
    pub fn expire(&mut self, now: Instant) -> bool {
        let expired = self.due().is_some_and(|due| due <= now);
        if expired {
            self.timer = Timer::Off;
        }
        expired
    }

    /// The state for a migration.
    #[must_use]
    pub fn save(&self, now: Instant) -> Saved {
        let left = match self.timer {
            Timer::Off => None,
            Timer::Left(left) => Some(left),
            Timer::Due(due) => Some(due.saturating_duration_since(now)),
        };
        let nanoseconds = |left: Duration| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        Saved { left_ns: left.map(nanoseconds) }
    }

    /// Takes over the state of a migrated timer, whose guest does not run yet.
    pub fn restore(&mut self, saved: Saved) {
        // No more than a guest can set, whatever arrived.
        let left = saved.left_ns.map(|left| Duration::from_nanos(left).min(timeout(0)));
        self.timer = left.map_or(Timer::Off, Timer::Left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_guest_that_feeds_it_lives() {
        let (mut dog, now) = (Watchdog::default(), Instant::now());
        dog.start(now);
        assert!(dog.enable(0xe, now), "two seconds from now");
        assert!(!dog.enable(0xe, now + S), "later than before: nobody has to wake up");
        assert!(dog.enable(0xff, now + S), "a code has four bits");
        assert_eq!(dog.due(), Some(now + S));
        dog.enable(0, now + S);
        assert!(!dog.expire(now + 30 * S));
        assert!(dog.expire(now + 31 * S));
        assert!(!dog.expire(now + 99 * S), "it goes off once");
        dog.enable(0xe, now);
        dog.disable();
        assert!(!dog.expire(now + 99 * S));
    }

    #[test]
    fn time_stands_still_for_a_stopped_guest() {
        let (mut dog, now) = (Watchdog::default(), Instant::now());
        dog.start(now);
        dog.enable(0xd, now);
        dog.stop(now + S);
        assert!(!dog.expire(now + 99 * S));
        dog.start(now + 100 * S);
        assert_eq!(dog.due(), Some(now + 103 * S));
        dog.stop(now + 999 * S);
        dog.start(now + 1000 * S);
        assert!(dog.expire(now + 1000 * S), "overdue before it was stopped");
    }

    #[test]
    fn it_travels() {
        let (mut dog, now) = (Watchdog::default(), Instant::now());
        assert_eq!(dog.save(now), Saved { left_ns: None });
        dog.start(now);
        dog.enable(0xd, now);
        let saved = dog.save(now + S);
        assert_eq!(saved, Saved { left_ns: Some(3_000_000_000) });
        let mut there = Watchdog::default();
        there.restore(saved);
        assert_eq!(there.save(now), saved);
        there.start(now);
        assert_eq!(there.due(), Some(now + 3 * S));
        there.restore(Saved { left_ns: Some(u64::MAX) });
        there.start(now);
        assert_eq!(there.due(), Some(now + 30 * S), "no guest sets more");
    }
}
