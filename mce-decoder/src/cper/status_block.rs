//! ACPI's generic error status block, as GHES and BERT hold it.

use alloc::format;
use alloc::vec::Vec;
use core::mem::{offset_of, size_of};

use bitfield_struct::bitfield;
use ras_core::{
    Detail, Details, ErrorClass, ErrorRecord, ErrorSource, Guid, ProblemKind as Kind, Raw, Value,
};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::section::{self, RAW_BYTES_MAX, Section};
use super::{SECTIONS_MAX, attach, fru, names, read, report, severity, size, timestamp};
use crate::Decoded;
use crate::mca::phrase;

/// ACPI Specification, "Generic Error Status Block".
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct StatusBlock {
    /// See [`BlockStatus`].
    pub block_status: U32,
    /// Bytes from the start of the block.
    pub raw_data_offset: U32,
    pub raw_data_length: U32,
    /// Bytes of all data entries.
    pub data_length: U32,
    /// The worst of the entries'.
    pub error_severity: U32,
}
const _: () = assert!(size_of::<StatusBlock>() == 20);

/// What a status block holds. All zero: nothing.
#[bitfield(u32)]
pub struct BlockStatus {
    /// An uncorrectable error is in it.
    pub uncorrectable_valid: bool,
    /// A corrected error is in it.
    pub correctable_valid: bool,
    /// More than one uncorrectable error.
    pub multiple_uncorrectable: bool,
    /// More than one corrected error.
    pub multiple_correctable: bool,
    /// Number of data entries.
    #[bits(10)]
    pub entry_count: u16,
    #[bits(18)]
    __: u32,
}

/// ACPI Specification, "Generic Error Data Entry", revisions 1 and 2.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct DataEntry {
    pub section_type: [u8; 16],
    pub error_severity: U32,
    /// Major revision in the high byte; from 3 on a timestamp follows the entry.
    pub revision: U16,
    /// Bit 0 FRU id, 1 FRU text, 2 timestamp.
    pub validation_bits: u8,
    /// As in CPER's section descriptor.
    pub flags: u8,
    pub error_data_length: U32,
    pub fru_id: [u8; 16],
    pub fru_text: [u8; 20],
}
const _: () = assert!(size_of::<DataEntry>() == 64);

/// ACPI Specification, "Generic Error Data Entry", revision 3.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct DataEntryV3 {
    pub entry: DataEntry,
    /// As in CPER's record header.
    pub timestamp: [u8; 8],
}
const _: () = assert!(size_of::<DataEntryV3>() == 72);

/// Decodes the status block at the start of `input`, which may be longer than the block.
///
/// A block whose status is zero holds nothing: no records, no problems, `consumed` 0. Entries are
/// walked by their lengths, at most [`SECTIONS_MAX`] of them. Problems carry offsets into `input`.
#[must_use]
pub fn decode_status_block(input: &[u8]) -> Decoded {
    const HEADER: usize = size_of::<StatusBlock>();
    let mut decoded = Decoded::default();
    let Some(block) = read::<StatusBlock>(input, 0) else {
        report(
            &mut decoded.problems,
            input.len(),
            Kind::Truncated,
            format!("header of {HEADER} bytes is cut"),
        );
        decoded.consumed = input.len();
        return decoded;
    };
    if block.block_status.get() == 0 {
        return decoded;
    }
    let data_end = HEADER.saturating_add(size(block.data_length));
    let raw_end = match size(block.raw_data_length) {
        0 => 0,
        length => size(block.raw_data_offset).saturating_add(length),
    };
    let block_end = data_end.max(raw_end);
    if block_end > input.len() {
        let detail = format!("block of {block_end} bytes is cut");
        report(&mut decoded.problems, input.len(), Kind::Truncated, detail);
    }
    decoded.consumed = block_end.min(input.len());
    let whole = input;
    let input = &input[..data_end.min(input.len())];

    let raw_data = raw_data(&block, whole, &mut decoded);
    let mut offset = HEADER;
    let mut walked = 0;
    while offset < input.len() {
        if walked == SECTIONS_MAX {
            let detail = format!("more than {SECTIONS_MAX} entries, the others are left out");
            report(&mut decoded.problems, offset, Kind::Limit, detail);
            break;
        }
        let Some((section, time_details, next)) = entry(input, offset, &mut decoded) else { break };
        let mut record = section::decode(section);
        record.details.extend(time_details);
        decoded.problems.extend(record.problems.iter().cloned());
        decoded.records.push(record);
        offset = next;
        walked += 1;
    }
    section::identify_processor(&mut decoded.records);

    let announced = BlockStatus::from_bits(block.block_status.get()).entry_count();
    if usize::from(announced) != walked {
        let at = offset_of!(StatusBlock, block_status);
        report(
            &mut decoded.problems,
            at,
            Kind::Inconsistent,
            format!("{announced} entries announced, {walked} found"),
        );
    }
    // A block of raw data only is a report too, if one that nobody but its maker can read.
    if walked == 0 && !raw_data.is_empty() {
        let (severity, rule) = severity(block.error_severity.get());
        decoded.records.push(ErrorRecord {
            class: ErrorClass::Unknown,
            severity,
            severity_reason: format!("{rule} ({})", block.error_severity.get()),
            summary: format!("error with raw data only, {}", phrase(severity)),
            raw: Raw::Bytes(raw_data.into()),
            ..ErrorRecord::new(ErrorSource::ApeiStatusBlock)
        });
    } else if let [first, ..] = decoded.records.as_mut_slice()
        && !raw_data.is_empty()
    {
        // It belongs to no entry, and is kept once.
        first.details.add("raw_data", Value::Bytes(raw_data.into()));
    }
    attach("status_block", details(&block), &mut decoded.records);
    decoded
}

/// What the block says of all its entries.
fn details(block: &StatusBlock) -> Vec<Detail> {
    let status = block.block_status.get();
    let mut details = Vec::with_capacity(4);
    // The number of entries has a name of its own.
    details.add("block_status", Value::flags((status & !ENTRY_COUNT).into(), BLOCK_STATUS));
    details.add("entry_count", BlockStatus::from_bits(status).entry_count());
    details.add("severity", Value::code(block.error_severity.get().into(), names::SEVERITIES));
    details
}

/// Bits 13:4 of the block status.
const ENTRY_COUNT: u32 = 0x3ff << 4;

/// ACPI Specification, "Generic Error Status Block", Block Status.
const BLOCK_STATUS: &[(u32, &str)] = &[
    (0, "uncorrectable error"),
    (1, "corrected error"),
    (2, "several uncorrectable errors"),
    (3, "several corrected errors"),
];

/// The raw data that goes with the block, as far as it is there and is kept.
fn raw_data<'a>(block: &StatusBlock, input: &'a [u8], decoded: &mut Decoded) -> &'a [u8] {
    let (start, length) = (size(block.raw_data_offset), size(block.raw_data_length));
    let data = input.get(start..).unwrap_or_default();
    let data = data.get(..length).unwrap_or(data);
    data.get(..RAW_BYTES_MAX).map_or(data, |kept| {
        if kept.len() < data.len() {
            let detail = format!("raw data of {length} bytes, the first {RAW_BYTES_MAX} are kept");
            report(&mut decoded.problems, start + RAW_BYTES_MAX, Kind::Limit, detail);
        }
        kept
    })
}

/// The entry at `offset`, and where the next one begins: always further on.
fn entry<'a>(
    input: &'a [u8],
    offset: usize,
    decoded: &mut Decoded,
) -> Option<(Section<'a>, Option<Detail>, usize)> {
    let cut = |problems: &mut Vec<_>| {
        report(problems, input.len(), Kind::Truncated, "data entry is cut".into());
    };
    let Some(entry) = read::<DataEntry>(input, offset) else {
        cut(&mut decoded.problems);
        return None;
    };
    let (mut time, mut time_details) = (None, None);
    let mut body_start = offset + size_of::<DataEntry>();
    if entry.revision.get() >> 8 >= 3 {
        let Some(extended) = read::<DataEntryV3>(input, offset) else {
            cut(&mut decoded.problems);
            return None;
        };
        let valid = entry.validation_bits & 4 != 0;
        (time, time_details) =
            timestamp::read(valid, extended.timestamp, body_start, &mut decoded.problems);
        body_start = offset + size_of::<DataEntryV3>();
    }
    let length = size(entry.error_data_length);
    let body_end = body_start.saturating_add(length).min(input.len());
    let valid = entry.validation_bits;
    let section = Section {
        source: ErrorSource::ApeiStatusBlock,
        time,
        section_type: Guid(entry.section_type),
        severity: entry.error_severity.get(),
        revision: Some(entry.revision.get()),
        flags: entry.flags.into(),
        record_flags: 0,
        fru: fru(
            (valid & 2 != 0).then_some(entry.fru_text.as_slice()),
            (valid & 1 != 0).then_some(entry.fru_id),
        ),
        fru_id: (valid & 1 != 0).then_some(Guid(entry.fru_id)),
        offset: body_start,
        length,
        body: input.get(body_start..body_end).unwrap_or_default(),
    };
    Some((section, time_details, body_end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::memory::SECTION_TYPE;
    use crate::cper::section::tests::detail;
    use alloc::vec;
    use ras_core::{ErrorClass, Severity, Timestamp};

    fn block(entries: &[Vec<u8>]) -> Vec<u8> {
        let data: Vec<u8> = entries.concat();
        let status = 2 | u32::try_from(entries.len()).unwrap() << 4;
        let words = [status, 0, 0, u32::try_from(data.len()).unwrap(), 2];
        words.iter().flat_map(|word| word.to_le_bytes()).chain(data).collect()
    }

    fn entry(revision: u16, severity: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = SECTION_TYPE.0.to_vec();
        bytes.extend(severity.to_le_bytes());
        bytes.extend(revision.to_le_bytes());
        bytes.extend([0x06, 0x08]);
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(*b"P0_DIMM_B2\0\0\0\0\0\0\0\0\0\0");
        if revision >= 0x300 {
            bytes.extend([0x20, 0x13, 0x22, 0, 0x14, 0x11, 0x23, 0x20]);
        }
        bytes.extend(body);
        bytes
    }

    #[test]
    fn entries_of_both_sizes() {
        let mut bytes = block(&[entry(0x201, 2, &[0; 73]), entry(0x300, 0, &[0; 80])]);
        let length = bytes.len();
        bytes.extend([0; 20]);
        let decoded = decode_status_block(&bytes);
        assert_eq!(decoded.problems, []);
        assert_eq!(decoded.consumed, length);
        let [older, newer] = decoded.records.as_slice() else { panic!("{decoded:?}") };
        assert_eq!((older.class, older.severity), (ErrorClass::Memory, Severity::Corrected));
        assert_eq!((newer.class, newer.severity), (ErrorClass::Memory, Severity::Srao));
        assert_eq!((older.time, newer.time), (None, Some(Timestamp::from_secs(1_700_000_000))));
        assert_eq!(newer.location.fru.as_deref(), Some("P0_DIMM_B2"));
        assert!(older.severity_reason.contains("threshold exceeded"), "{}", older.severity_reason);
    }

    #[test]
    fn an_empty_block_is_no_error() {
        assert_eq!(decode_status_block(&[0; 64]), Decoded::default());
    }

    #[test]
    fn every_truncation_is_reported() {
        let bytes = block(&[entry(0x201, 2, &[0; 73]), entry(0x300, 0, &[0; 80])]);
        for len in 0..bytes.len() {
            let decoded = decode_status_block(&bytes[..len]);
            assert!(!decoded.problems.is_empty(), "{len}");
            assert!(decoded.problems.iter().all(|p| p.offset <= len as u64), "{len}");
            assert_eq!(decoded.consumed, len);
        }
    }

    #[test]
    fn raw_data_after_the_entries_belongs_to_the_block() {
        let mut bytes = block(&[entry(0x201, 2, &[0; 73])]);
        let length = bytes.len();
        bytes[4..8].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        bytes[8..12].copy_from_slice(&32u32.to_le_bytes());
        bytes.extend([0xaa; 40]);
        let decoded = decode_status_block(&bytes);
        assert_eq!((decoded.consumed, decoded.records.len()), (length + 32, 1));
        assert_eq!(decoded.problems, []);
        let record = &decoded.records[0];
        assert_eq!(detail(record, "raw_data"), Some(&Value::Bytes(vec![0xaa; 32])));
        assert_eq!(detail(record, "status_block.entry_count"), Some(&Value::Number(1)));
        assert_eq!(
            detail(record, "status_block.block_status"),
            Some(&Value::List(vec![Value::from("corrected error")]))
        );
    }

    #[test]
    fn raw_data_alone_is_a_report() {
        let words = [1u32, 20, 8, 0, 1];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend([0xaa; 8]);
        let decoded = decode_status_block(&bytes);
        assert_eq!((decoded.consumed, decoded.problems.len()), (28, 0));
        let [record] = decoded.records.as_slice() else { panic!("{decoded:?}") };
        assert_eq!((record.severity, &record.raw), (Severity::Fatal, &Raw::Bytes(vec![0xaa; 8])));
        assert_eq!(record.summary, "error with raw data only, fatal");
    }

    #[test]
    fn a_wrong_count_is_a_problem_and_no_more() {
        let mut bytes = block(&[entry(0x201, 2, &[0; 73])]);
        bytes[0] = 2 | 5 << 4;
        let decoded = decode_status_block(&bytes);
        assert_eq!(decoded.records.len(), 1);
        assert_eq!(decoded.problems[0].detail, "5 entries announced, 1 found");
    }

    #[test]
    fn many_empty_entries_end() {
        let decoded = decode_status_block(&block(&vec![entry(0x201, 2, &[]); 1000]));
        assert_eq!(decoded.records.len(), SECTIONS_MAX);
        assert!(decoded.problems.iter().any(|p| p.detail.starts_with("more than 64 entries")));
    }
}
