//! ACPI's tables about error sources (HEST, BERT, ERST, EINJ), and what firmware stores for the next
//! boot: the boot error region and the error record store.
//!
//! ACPI Specification, "ACPI Platform Error Interfaces (APEI)".

mod actions;
mod erst_image;
mod hest;

use alloc::format;
use alloc::string::String;

use ras_core::{ErrorClass, ErrorRecord, ErrorSource, Problem, ProblemKind as Kind, Raw, Severity};

use crate::Decoded;
use crate::cper::decode_status_block;
use crate::layout::{Field, found, hex, number, number_at, read, size, text};

pub use self::erst_image::decode_erst_image;

/// Bytes of a table kept in its record. A HEST with hundreds of sources has some 40 KiB.
const TABLE_MAX: usize = 64 * 1024;

/// Entries of a table shown: sources or instructions. Real tables have up to a few hundred.
const ENTRIES_MAX: usize = 4096;

/// "System Description Table Header".
const HEADER: &[Field] = &[
    text("signature", 4),
    number("length", 4),
    number("revision", 1),
    hex("checksum", 1),
    text("oem_id", 6),
    text("oem_table_id", 8),
    hex("oem_revision", 4),
    text("creator_id", 4),
    hex("creator_revision", 4),
];
const _: () = assert!(size(HEADER) == BODY);

/// Where a table's own fields begin.
const BODY: usize = 36;

/// "Boot Error Record Table".
const BERT: &[Field] = &[number("region_length", 4), hex("region_address", 8)];

/// Generic Address Structure.
pub(crate) const GENERIC_ADDRESS: &[Field] = &[
    crate::layout::code("space_id", 1, SPACE),
    number("bit_width", 1),
    number("bit_offset", 1),
    number("access_size", 1),
    hex("address", 8),
];
const _: () = assert!(size(GENERIC_ADDRESS) == 12);

const SPACE: &[(u64, &str)] = &[
    (0, "system memory"),
    (1, "system I/O"),
    (2, "PCI configuration"),
    (3, "embedded controller"),
    (4, "SMBus"),
    (10, "platform communications channel"),
    (127, "functional fixed hardware"),
];

/// Decodes one table: a record without an error, whose details are the table's contents.
///
/// Bytes behind a BERT table are taken as the region that it points to, as some tools save them
/// together; the region's errors are further records. Time and memory are linear in the input.
#[must_use]
pub fn decode_table(input: &[u8]) -> Decoded {
    let mut record = ErrorRecord {
        class: ErrorClass::Firmware,
        severity: Severity::Informational,
        severity_reason: "a table is no error".into(),
        ..ErrorRecord::new(ErrorSource::ErrorSourceTable)
    };
    if let Some(lacking) = read(HEADER, input, 0, &mut record.details) {
        let detail = format!("table header ends before {lacking}");
        report(&mut record, input.len(), Kind::Truncated, detail);
        return Decoded { consumed: input.len(), ..Decoded::from(record) };
    }
    let announced = found(&record.details, "length").unwrap_or(0);
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    let table = table(input, announced, &mut record);
    if table.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)) != 0
        && table.len() == announced
    {
        report(&mut record, 9, Kind::Inconsistent, "checksum of the table is wrong".into());
    }
    record.raw = Raw::Bytes(table.get(..TABLE_MAX).unwrap_or(table).into());
    if table.len() > TABLE_MAX {
        let detail = format!("table of {announced} bytes, the first {TABLE_MAX} are kept");
        report(&mut record, TABLE_MAX, Kind::Limit, detail);
    }
    let signature: [u8; 4] = [input[0], input[1], input[2], input[3]];
    record.summary = match &signature {
        b"HEST" => hest::decode(table, &mut record),
        b"ERST" => actions::erst(table, &mut record),
        b"EINJ" => actions::einj(table, &mut record),
        b"BERT" => bert(table, &mut record),
        _ => {
            let detail = "table of a kind that says nothing about error sources".into();
            report(&mut record, 0, Kind::Unknown, detail);
            format!("ACPI table {}", crate::layout::ascii(&signature))
        }
    };
    let consumed = table.len();
    let mut decoded = Decoded { consumed, ..Decoded::from(record) };
    if &signature == b"BERT" && consumed < input.len() {
        let region = decode_bert_region(input.get(consumed..).unwrap_or_default());
        decoded
            .problems
            .extend(region.problems.into_iter().map(|problem| shift(problem, consumed)));
        decoded.records.extend(region.records.into_iter().map(|mut record| {
            record.problems =
                record.problems.into_iter().map(|problem| shift(problem, consumed)).collect();
            record
        }));
        decoded.consumed += region.consumed;
    }
    decoded
}

/// The table's bytes, as far as they are there.
fn table<'a>(input: &'a [u8], announced: usize, record: &mut ErrorRecord) -> &'a [u8] {
    if announced < BODY {
        let detail = format!("table length {announced} is less than its header's {BODY}");
        report(record, 4, Kind::Inconsistent, detail);
        return input;
    }
    if announced > input.len() {
        report(record, input.len(), Kind::Truncated, format!("table of {announced} bytes is cut"));
    }
    input.get(..announced).unwrap_or(input)
}

fn bert(table: &[u8], record: &mut ErrorRecord) -> String {
    fields("BERT", BERT, BODY, table, record);
    let length = number_at(table, BODY, 4).unwrap_or(0);
    let address = number_at(table, BODY + 4, 8).unwrap_or(0);
    format!("BERT: boot error region of {length} bytes at {address:#x}")
}

/// Adds the fields of a layout at `at` in the table. Returns whether all of them were there.
fn fields(name: &str, layout: &[Field], at: usize, table: &[u8], record: &mut ErrorRecord) -> bool {
    let body = table.get(at..).unwrap_or_default();
    let lacking = read(layout, body, 0, &mut record.details);
    if let Some(lacking) = lacking {
        let detail = format!("{name} of {} bytes ends before {lacking}", table.len());
        report(record, table.len(), Kind::Truncated, detail);
    }
    lacking.is_none()
}

/// Decodes the boot error region: status blocks, one behind the other, of errors before this boot (ACPI
/// Specification, "Boot Error Source").
#[must_use]
pub fn decode_bert_region(input: &[u8]) -> Decoded {
    let mut decoded = Decoded::sequence(input, decode_status_block);
    for record in &mut decoded.records {
        come_from(ErrorSource::Bert, record);
        record.flags.previous_boot = true;
    }
    decoded
}

/// The records inside of a container come from it.
pub(crate) fn come_from(source: ErrorSource, record: &mut ErrorRecord) {
    record.source = source;
    record.witnesses.iter_mut().for_each(|witness| come_from(source, witness));
}

pub(crate) fn shift(problem: Problem, by: usize) -> Problem {
    let by = u64::try_from(by).unwrap_or(u64::MAX);
    Problem { offset: problem.offset.saturating_add(by), ..problem }
}

fn report(record: &mut ErrorRecord, offset: usize, kind: Kind, detail: String) {
    let offset = u64::try_from(offset).unwrap_or(u64::MAX);
    record.problems.push(Problem { offset, kind, detail });
}

#[cfg(test)]
mod tests;
