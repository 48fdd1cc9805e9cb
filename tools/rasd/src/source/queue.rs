//! The bounded queue between the sources and the walk. It counts what it loses.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Report;

/// Many sources push, one pipeline pops.
///
/// A source that can wait (a file) waits for room; one that can't (the kernel) loses its report,
/// which is counted. `close` lets the walk finish what is queued, `abandon` does not.
#[derive(Debug)]
pub struct Queue {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    reports: VecDeque<Report>,
    lost: u64,
    nudged: bool,
    closed: bool,
}

/// What [`Queue::pop`] found.
#[derive(Debug)]
pub enum Popped {
    /// The oldest report.
    Report(Box<Report>),
    /// Nothing came in time, or somebody [nudged](Queue::nudge).
    Idle,
    /// Nothing will ever come again.
    Closed,
}

impl Queue {
    /// An empty queue for at most `capacity` reports.
    #[must_use]
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self { capacity: capacity.get(), state: Mutex::default(), changed: Condvar::new() }
    }

    /// Puts a report in, or loses and counts it. False once the queue is closed.
    pub fn offer(&self, report: Report) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        if state.reports.len() >= self.capacity {
            state.lost += 1;
            return true;
        }
        state.reports.push_back(report);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Puts a report in as soon as there is room. False once the queue is closed.
    pub fn put(&self, report: Report) -> bool {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| !state.closed && state.reports.len() >= self.capacity)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return false;
        }
        state.reports.push_back(report);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// The oldest report, waiting at most `timeout`.
    pub fn pop(&self, timeout: Duration) -> Popped {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(report) = state.reports.pop_front() {
                drop(state);
                self.changed.notify_all();
                return Popped::Report(Box::new(report));
            }
            if state.closed {
                return Popped::Closed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || std::mem::take(&mut state.nudged) {
                return Popped::Idle;
            }
            (state, _) =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the wait of a `pop`: there is something to do that is not a report.
    pub fn nudge(&self) {
        self.lock().nudged = true;
        self.changed.notify_all();
    }

    /// Nothing more is taken in; what is queued is still handed out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Nothing more is taken in or handed out. Returns the number of reports thrown away.
    pub fn abandon(&self) -> usize {
        let mut state = self.lock();
        state.closed = true;
        let thrown_away = std::mem::take(&mut state.reports).len();
        drop(state);
        self.changed.notify_all();
        thrown_away
    }

    /// Room, use and losses.
    #[must_use]
    pub fn status(&self) -> rasd_api::QueueStatus {
        let state = self.lock();
        rasd_api::QueueStatus {
            capacity: self.capacity as u64,
            waiting: state.reports.len() as u64,
            lost: state.lost,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Body;
    use std::sync::Arc;

    fn report(byte: u8) -> Report {
        Report::now(Body::Cper(vec![byte]), ras_core::Timestamp(0))
    }

    fn bytes(queue: &Queue) -> Vec<u8> {
        std::iter::from_fn(|| match queue.pop(Duration::ZERO) {
            Popped::Report(report) => match report.body {
                Body::Cper(bytes) => bytes.first().copied(),
                _ => None,
            },
            _ => None,
        })
        .collect()
    }

    #[test]
    fn a_full_queue_counts_what_it_loses_and_keeps_order() {
        let queue = Queue::new(NonZeroUsize::new(2).unwrap());
        for byte in 0..5 {
            assert!(queue.offer(report(byte)));
        }
        assert_eq!(queue.status(), rasd_api::QueueStatus { capacity: 2, waiting: 2, lost: 3 });
        assert_eq!(bytes(&queue), [0, 1]);
    }

    #[test]
    fn a_patient_source_loses_nothing() {
        let queue = Arc::new(Queue::new(NonZeroUsize::new(3).unwrap()));
        let source = std::thread::spawn({
            let queue = queue.clone();
            move || (0..100).all(|byte| queue.put(report(byte)))
        });
        let mut seen = Vec::new();
        while seen.len() < 100 {
            seen.extend(bytes(&queue));
        }
        assert!(source.join().unwrap());
        assert_eq!(seen, (0..100).collect::<Vec<u8>>());
        assert_eq!(queue.status().lost, 0);
    }

    #[test]
    fn closing_frees_everybody() {
        let queue = Arc::new(Queue::new(NonZeroUsize::new(1).unwrap()));
        assert!(queue.put(report(1)));
        let source = std::thread::spawn({
            let queue = queue.clone();
            move || queue.put(report(2))
        });
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(queue.abandon(), 1);
        assert!(!source.join().unwrap());
        assert!(matches!(queue.pop(Duration::from_secs(60)), Popped::Closed));
        assert!(!queue.offer(report(3)));
    }
}
