//! `--timings FILE`: how long each step of each fault's walk took, one JSON object a line.

use std::fs::File;
use std::io::{LineWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Writes nothing unless asked to.
#[derive(Debug, Default)]
pub struct Timings {
    out: Option<LineWriter<File>>,
}

/// A fault's walk. All times in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Walk {
    /// In the queue.
    pub queued_ns: u64,
    /// Bytes to record.
    pub decode_ns: u64,
    /// Record to fault.
    pub analyze_ns: u64,
    /// Fault to actions.
    pub plan_ns: u64,
    /// Actions to durable `Pending`.
    pub remember_ns: u64,
    /// Taken from the queue to durable `Pending`: the sum of the four above, and what lies between.
    pub event_to_remembered_ns: u64,
    /// Durable `Pending` to everything done.
    pub act_ns: u64,
}

impl Timings {
    /// Into a new file.
    ///
    /// # Errors
    /// It can't be created.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { out: Some(LineWriter::new(File::create(path)?)) })
    }

    /// Puts a walk down.
    pub fn put(&mut self, walk: &Walk) {
        let Some(out) = &mut self.out else { return };
        let written = serde_json::to_string(walk)
            .map_err(std::io::Error::from)
            .and_then(|line| writeln!(out, "{line}"));
        if let Err(error) = written {
            tracing::error!(%error, "timings end here");
            self.out = None;
        }
    }
}

/// A stop-watch with laps.
#[derive(Debug)]
pub struct Watch {
    started: Instant,
    lap: Instant,
}

impl Watch {
    /// Running.
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self { started: now, lap: now }
    }

    /// Nanoseconds since the last lap, and a new lap.
    pub fn lap(&mut self) -> u64 {
        let now = Instant::now();
        nanos(now.duration_since(std::mem::replace(&mut self.lap, now)))
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn total(&self) -> u64 {
        nanos(self.started.elapsed())
    }
}

/// Whole nanoseconds; saturates after 584 years.
#[must_use]
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
