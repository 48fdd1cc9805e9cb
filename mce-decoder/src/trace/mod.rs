//! Kernel trace events: laid out by each tracepoint's own `format` text, read from ring-buffer pages.
//!
//! Offsets, sizes and even numberings differ between kernels, so nothing about a payload is assumed:
//! [`EventFormat`] is parsed from the running (or the recorded) kernel's text first.
//! Linux `Documentation/trace/events.rst`, "Event formats". Values are little-endian.

pub mod format;
pub mod ring_buffer;

pub mod aer_event;
pub mod cxl;
pub mod firmware;
pub mod mc_event;
pub mod mce_record;
pub mod memory_failure;
pub mod text;

use alloc::string::String;

use ras_core::ErrorRecord;
use thiserror::Error;

pub use self::format::{EventFormat, Field, FieldKind, FormatError};

/// A payload or a ring-buffer page that its format does not fit.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The tracepoint lacks a field that decoding needs.
    #[error("event {event} has no field {field}")]
    MissingField {
        /// The tracepoint.
        event: String,
        /// The field.
        field: String,
    },
    /// No event that is decoded here.
    #[error("nobody decodes event {event}")]
    UnknownEvent {
        /// The tracepoint.
        event: String,
    },
    /// The field is no integer of 1, 2, 4 or 8 bytes.
    #[error("field {field} is no integer: {size} bytes of type {type_name}")]
    NotAnInteger {
        /// The field.
        field: String,
        /// Its type, as the format spells it.
        type_name: String,
        /// Its size in bytes.
        size: usize,
    },
    /// The input ends inside of something.
    #[error("{what} at offset {offset} needs {needed} bytes, {available} are there")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it begins, in bytes from the start of the input.
        offset: usize,
        /// Its size in bytes.
        needed: usize,
        /// Bytes left from `offset`.
        available: usize,
    },
    /// The payload's own event number is another event's.
    #[error("payload is of event {found}, the format is of event {expected}")]
    WrongEvent {
        /// Number in the format.
        expected: u16,
        /// Number in the payload.
        found: u64,
    },
    /// A ring-buffer event whose length can't be.
    #[error("malformed ring-buffer event at offset {offset}: {detail}")]
    Malformed {
        /// Where its header begins, in bytes from the start of the page.
        offset: usize,
        /// What is wrong.
        detail: &'static str,
    },
}

/// Decodes one payload, common fields included, by the name of its event.
///
/// # Errors
/// [`TraceError::UnknownEvent`] for an event that nothing here decodes; else what its decoder says.
pub fn decode(format: &EventFormat, payload: &[u8]) -> Result<ErrorRecord, TraceError> {
    let name = format.name.as_str();
    match name {
        "mce_record" => mce_record::decode(format, payload),
        "mc_event" => mc_event::decode(format, payload),
        "aer_event" => aer_event::decode(format, payload),
        "memory_failure_event" => memory_failure::decode(format, payload),
        "extlog_mem_event" => firmware::extlog_mem(format, payload),
        "arm_event" => firmware::arm(format, payload),
        "non_standard_event" => firmware::non_standard(format, payload),
        _ if cxl::knows(name) => cxl::decode(format, payload),
        _ => Err(TraceError::UnknownEvent { event: name.into() }),
    }
}

/// `size` bytes from `offset`, as a little-endian number. `size` is 0 to 8; larger sizes are cut.
pub(crate) fn little_endian(bytes: &[u8], offset: usize, size: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(size)?)?;
    Some(field.iter().take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
