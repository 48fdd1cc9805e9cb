//! Addresses as memory controllers count them, to system addresses.
//!
//! Offline: all that has to be known about the machine is in a snapshot of its registers. Absent:
//! reading those registers, and Intel's.

pub mod amd;

pub use amd::{NormalizedAddr, Snapshot, StationId, TranslateError};
