//! Bytes and text to [`ErrorRecord`]: machine checks, CPER, kernel trace events.
//!
//! ```text
//!  tracepoint format + payload --trace--> McaRegisters --mca--+
//!  CPER record, APEI status block ------------------cper------+--> ErrorRecord + Problem
//! ```
//!
//! **Promises.** No I/O, no clock, no unsafe, no panic on any input; time and memory are bounded by
//! the input's size and by limits that are constants with their reasons. Damaged input gives what
//! could still be decoded, and a [`Problem`] with its offset for what could not. A code without a
//! known meaning stays `Unknown` and keeps its raw bits: nothing is guessed from it.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cpu;

mod layout;

pub mod mca;
pub mod vendor;

pub mod cper;

mod date;
mod digits;
mod pci;

pub mod trace;

pub mod text;

pub mod acpi;

pub mod pstore;

pub mod whea;

use alloc::vec::Vec;

use ras_core::{ErrorRecord, Problem};

/// What came out of one binary record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decoded {
    /// One record for each section that could be decoded, in the order of the sections.
    pub records: Vec<ErrorRecord>,
    /// What is damaged or missing. Problems inside a section are also in its record.
    pub problems: Vec<Problem>,
    /// Bytes this record takes in the input: the next one of a stream begins there. Never more than
    /// the input's length; 0 where the input does not begin with a record at all.
    pub consumed: usize,
}

impl Decoded {
    /// Decodes records that follow one another. `first` decodes the one a slice begins with; this ends
    /// where that finds none. Offsets of problems count from the start of `bytes`.
    #[must_use]
    pub fn sequence(bytes: &[u8], first: impl Fn(&[u8]) -> Self) -> Self {
        let mut all = Self::default();
        while let Some(rest @ [_, ..]) = bytes.get(all.consumed..) {
            let decoded = first(rest);
            all.records.extend(decoded.records);
            all.problems.extend(decoded.problems.into_iter().map(|problem| Problem {
                offset: problem.offset.saturating_add(all.consumed as u64),
                ..problem
            }));
            if decoded.consumed == 0 {
                break;
            }
            all.consumed += decoded.consumed;
        }
        all
    }
}

/// One record that is not part of a stream.
impl From<ErrorRecord> for Decoded {
    fn from(record: ErrorRecord) -> Self {
        Self { problems: record.problems.clone(), records: Vec::from([record]), consumed: 0 }
    }
}
