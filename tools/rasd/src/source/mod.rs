//! Where errors come from: [`tracefs`] while the machine runs, [`replay`] for captures. Sources
//! deliver undecoded [`Report`]s; the pipeline decodes them.

pub mod queue;

pub mod replay;
pub mod tracefs;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mce_decoder::trace::EventFormat;
use ras_core::Timestamp;
use rasd_api::capture::Mce;

pub use queue::{Popped, Queue};

/// One report of errors as it arrived.
#[derive(Debug)]
pub struct Report {
    /// When it arrived; for a capture, when it was captured.
    pub arrived: Timestamp,
    /// The same instant on the clock that measures our own speed.
    pub taken: Instant,
    /// What arrived.
    pub body: Body,
}

/// The bytes of a report, undecoded.
#[derive(Debug)]
pub enum Body {
    /// A trace event and its tracepoint's format.
    Trace {
        /// Which decoder.
        event: Tracepoint,
        /// Where its fields lie.
        format: Arc<EventFormat>,
        /// The event's bytes, common fields included.
        payload: Vec<u8>,
    },
    /// Machine-check registers.
    Mce(Box<Mce>),
    /// CPER records, one after the other.
    Cper(Vec<u8>),
    /// APEI generic error status blocks, one after the other.
    StatusBlock(Vec<u8>),
}

/// The trace events that are understood.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tracepoint {
    /// `mce:mce_record`: one machine-check bank.
    MceRecord,
    /// `ras:memory_failure_event`: what the kernel did about a page.
    MemoryFailure,
}

impl Tracepoint {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::MceRecord, Self::MemoryFailure];

    /// `SYSTEM` and `EVENT`.
    #[must_use]
    pub const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::MceRecord => ("mce", "mce_record"),
            Self::MemoryFailure => ("ras", "memory_failure_event"),
        }
    }

    /// From `SYSTEM:EVENT`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let (system, event) = name.split_once(':')?;
        Self::ALL.into_iter().find(|tracepoint| tracepoint.name() == (system, event))
    }
}

impl Report {
    /// A report that arrived at `arrived`, which is now for the stop-watch.
    #[must_use]
    pub fn now(body: Body, arrived: Timestamp) -> Self {
        Self { arrived, taken: Instant::now(), body }
    }
}

/// The wall clock. The only place that asks it.
#[must_use]
pub fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
