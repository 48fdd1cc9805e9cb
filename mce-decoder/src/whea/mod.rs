//! Windows' hardware error events and the records inside of them.
//!
//! An event of the provider `Microsoft-Windows-WHEA-Logger` carries raw data: a CPER record, an entry
//! of WHEA's own log (`WhLg`), or an error packet as a source handed it over. Windows Driver Kit,
//! `ntddk.h`: all of the structures are packed. The events themselves are XML and read elsewhere.

mod events;
mod source;

use alloc::format;
use alloc::vec::Vec;

use ras_core::{
    AddressMode, Details, ErrorAddress, ErrorClass, ErrorRecord, ErrorSource, PAGE_SHIFT, PhysAddr,
    Problem, ProblemKind as Kind, Raw, Severity, Value,
};

use crate::Decoded;
use crate::acpi::come_from;
use crate::cper::{decode_error_packet, decode_record};
use crate::layout::{Field, code, flags, found, hex, meaning, number, number_at, read, size, text};

pub(crate) use self::source::SOURCE_TYPE;

/// Bytes of a log entry kept: the longest in use, of WHEA's start, has some 6 KiB.
const RAW_MAX: usize = 16 * 1024;

/// Bytes of a payload without a layout that are shown among the details.
const SHOWN_MAX: usize = 256;

/// `WHEA_EVENT_LOG_ENTRY_HEADER`.
const HEADER: &[Field] = &[
    text("signature", 4),
    number("version", 4),
    number("length", 4),
    code("type", 4, &[(0, "informational"), (1, "warning"), (ERROR, "error")]),
    text("owner", 4),
    hex("id", 4),
    flags("flags", 4, FLAGS),
    number("payload_length", 4),
];
const _: () = assert!(size(HEADER) == 32);
const ERROR: u64 = 2;

/// `WHEA_EVENT_LOG_ENTRY_FLAGS`.
const FLAGS: &[(u32, &str)] =
    &[(1, "ETW"), (2, "black box"), (3, "SEL"), (4, "raw SEL"), (5, "no format"), (6, "driver")];

/// Decodes raw data of a Windows hardware error event: CPER records, log entries and error packets,
/// as many as follow one another. Problems carry offsets into `input`; time is linear in it.
#[must_use]
pub fn decode_raw(input: &[u8]) -> Decoded {
    Decoded::sequence(input, first)
}

fn first(input: &[u8]) -> Decoded {
    let mut decoded = match input.get(..4) {
        Some(b"WhLg") => entry(input),
        Some(b"CPER") => decode_record(input),
        Some(b"WHEA" | b"ErPt") => decode_error_packet(input),
        // Padding.
        _ if input.iter().all(|byte| *byte == 0) => {
            return Decoded { consumed: input.len(), ..Decoded::default() };
        }
        _ => {
            let detail = "neither a CPER record nor an entry of WHEA's log".into();
            let problem = Problem { offset: 0, kind: Kind::Malformed, detail };
            return Decoded { problems: Vec::from([problem]), ..Decoded::default() };
        }
    };
    decoded.records.iter_mut().for_each(|record| come_from(ErrorSource::Whea, record));
    decoded
}

/// One entry of the log.
fn entry(input: &[u8]) -> Decoded {
    let mut record = ErrorRecord::new(ErrorSource::Whea);
    if let Some(lacking) = read(HEADER, input, 0, &mut record.details) {
        report(
            &mut record,
            input.len(),
            Kind::Truncated,
            &format!("log entry ends before {lacking}"),
        );
        record.summary = "Windows hardware error log entry, cut".into();
        return Decoded { consumed: input.len(), ..Decoded::from(record) };
    }
    let field =
        |name| usize::try_from(found(&record.details, name).unwrap_or(0)).unwrap_or(usize::MAX);
    let (announced, payload_length) = (field("length"), field("payload_length"));
    let expected = size(HEADER).saturating_add(payload_length);
    if announced != expected {
        let detail = format!("log entry of {announced} bytes has a payload of {payload_length}");
        report(&mut record, 8, Kind::Inconsistent, &detail);
    }
    let length = announced.max(size(HEADER));
    if length > input.len() {
        let detail = format!("log entry of {length} bytes is cut");
        report(&mut record, input.len(), Kind::Truncated, &detail);
    }
    let whole = input.get(..length).unwrap_or(input);
    let payload = whole.get(size(HEADER)..).unwrap_or_default();
    record.raw = Raw::Bytes(whole.get(..RAW_MAX).unwrap_or(whole).into());
    if whole.len() > RAW_MAX {
        let detail = format!("log entry of {length} bytes, the first {RAW_MAX} are kept");
        report(&mut record, RAW_MAX, Kind::Limit, &detail);
    }
    describe(payload, &mut record);
    Decoded { consumed: whole.len(), ..Decoded::from(record) }
}

fn describe(payload: &[u8], record: &mut ErrorRecord) {
    let id = found(&record.details, "id").unwrap_or(0);
    let event = events::EVENTS.iter().find(|event| event.id == id);
    let (severity, reason) = match found(&record.details, "type") {
        Some(0) => (Severity::Informational, "Windows logged it as information"),
        Some(1) => (Severity::Informational, "Windows logged it as a warning"),
        Some(ERROR) => {
            (Severity::Unknown, "Windows logged it as an error, with nothing about data")
        }
        _ => (Severity::Unknown, "Windows logged it with a type that is not defined"),
    };
    (record.severity, record.severity_reason) = (severity, reason.into());
    record.class = event.map_or(ErrorClass::Platform, |event| event.class);
    let name = event.map(|event| event.name);
    record.details.add_some("event", name);
    let before = record.details.len();
    match event {
        Some(event) if event.has_source => {
            source::decode(event, payload, record);
        }
        Some(event) if !event.fields.is_empty() => {
            let lacking = read(event.fields, payload, 0, &mut record.details);
            if let Some(lacking) = lacking {
                let at = size(HEADER) + payload.len();
                report(record, at, Kind::Truncated, &format!("payload ends before {lacking}"));
            }
        }
        _ if !payload.is_empty() => {
            let shown = payload.get(..SHOWN_MAX).unwrap_or(payload);
            record.details.add("payload", Value::Bytes(shown.into()));
        }
        _ => {}
    }
    place(before, record);
    record.summary = match name {
        Some(name) => format!("Windows: {name}"),
        None => format!("Windows: log entry {id:#x} of unknown meaning"),
    };
    for name in ["error", "function", "platform_name"] {
        if let Some(text) = meaning(record.details.get(before..).unwrap_or_default(), name) {
            record.summary = format!("{}: {text}", record.summary);
            break;
        }
    }
}

/// The page or address that an event names.
fn place(before: usize, record: &mut ErrorRecord) {
    let details = record.details.get(before..).unwrap_or_default();
    let page_lsb = PAGE_SHIFT.to_le_bytes()[0];
    let page = found(details, "page").and_then(|page| page.checked_mul(1 << PAGE_SHIFT));
    let address = found(details, "physical_address");
    record.address = match (page, address) {
        (Some(page), _) => Some((page, page_lsb)),
        (None, Some(address)) if record.class == ErrorClass::Memory => Some((address >> 6 << 6, 6)),
        _ => None,
    }
    .map(|(addr, lsb)| ErrorAddress { addr: PhysAddr(addr), lsb, mode: AddressMode::Physical });
}

fn report(record: &mut ErrorRecord, offset: usize, kind: Kind, detail: &str) {
    let offset = u64::try_from(offset).unwrap_or(u64::MAX);
    record.problems.push(Problem { offset, kind, detail: detail.into() });
}

/// Bytes of a field at `at`, for the parts that have no layout of their own.
fn bytes_at(payload: &[u8], at: usize, width: usize) -> u64 {
    number_at(payload, at, width).unwrap_or(0)
}

#[cfg(test)]
mod tests;
