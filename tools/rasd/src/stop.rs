//! Shutdown: one flag that every wait in the daemon looks at.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Set once, seen by all clones.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Stop {
    /// Asks everybody to finish.
    pub fn set(&self) {
        *self.flag() = true;
        self.shared.1.notify_all();
    }

    /// Whether somebody asked to finish.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.flag()
    }

    /// Sleeps for `time`; true at once if it is, or as soon as it becomes, time to finish.
    #[must_use]
    pub fn wait(&self, time: Duration) -> bool {
        let (stopped, _) = self
            .shared
            .1
            .wait_timeout_while(self.flag(), time, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *stopped
    }

    fn flag(&self) -> MutexGuard<'_, bool> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_sleeper_wakes_at_once() {
        let stop = Stop::default();
        assert!(!stop.wait(Duration::from_millis(1)));
        let sleeper = std::thread::spawn({
            let stop = stop.clone();
            move || (stop.wait(Duration::from_secs(60)), Instant::now())
        });
        std::thread::sleep(Duration::from_millis(20));
        let set = Instant::now();
        stop.set();
        let (stopped, woke) = sleeper.join().unwrap();
        assert!(stopped && woke.duration_since(set) < Duration::from_secs(5));
        assert!(stop.wait(Duration::from_secs(60)), "and nobody falls asleep again");
    }
}
