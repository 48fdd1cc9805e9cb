//! Text about errors: kernel logs, mcelog, EDAC's counters.
//!
//! Text comes line by line and one error takes several of them, so every decoder here is a state
//! machine with bounded memory that is fed lines and hands out records.

pub mod kernel_log;

pub mod mcelog;

mod rasdaemon;

pub mod edac_sysfs;

pub mod bgl;

pub(crate) mod edac_detail;
mod retry_log;

mod bytes;

use alloc::boxed::Box;
use alloc::vec::Vec;

use ras_core::ErrorRecord;

/// A record, and where in the input its first line begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Bytes from the start of the input.
    pub offset: u64,
    /// The record. It is large, and passes through many hands.
    pub record: Box<ErrorRecord>,
}

impl Found {
    pub(crate) fn new(offset: u64, record: ErrorRecord) -> Self {
        Self { offset, record: Box::new(record) }
    }
}

/// A decoder that is fed lines.
pub trait LineDecoder {
    /// Takes one line, without its line feed, that begins at `offset`. Records that it completes are
    /// appended to `found`. Lines that have nothing to do with errors are passed over.
    fn line(&mut self, line: &[u8], offset: u64, found: &mut Vec<Found>);

    /// The input has ended: what was begun is completed.
    fn finish(&mut self, found: &mut Vec<Found>);
}
