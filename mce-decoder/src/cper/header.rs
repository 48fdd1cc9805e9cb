//! A whole CPER record: header, section descriptors, sections.

use alloc::format;
use alloc::vec::Vec;
use core::mem::{offset_of, size_of};

use ras_core::{Detail, Details, ErrorSource, Guid, Problem, ProblemKind as Kind, Value};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::section::{self, Section};
use super::{SECTIONS_MAX, attach, fru, names, read, report, size, timestamp};
use crate::Decoded;

/// UEFI Specification, Appendix N, "Common Platform Error Record": record header.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct RecordHeader {
    /// `CPER`.
    pub signature: [u8; 4],
    pub revision: U16,
    /// All ones.
    pub signature_end: U32,
    pub section_count: U16,
    /// The worst of the sections'.
    pub error_severity: U32,
    /// Bit 0 platform id, 1 timestamp, 2 partition id.
    pub validation_bits: U32,
    /// Bytes in all, this header included.
    pub record_length: U32,
    pub timestamp: [u8; 8],
    pub platform_id: [u8; 16],
    pub partition_id: [u8; 16],
    pub creator_id: [u8; 16],
    pub notification_type: [u8; 16],
    pub record_id: U64,
    /// Bit 0 recovered, 1 from a previous boot, 2 simulated.
    pub flags: U32,
    pub persistence_information: U64,
    pub reserved: [u8; 12],
}
const _: () = assert!(size_of::<RecordHeader>() == 128);

/// UEFI Specification, Appendix N, "Section Descriptor".
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct SectionDescriptor {
    /// Bytes from the start of the record.
    pub section_offset: U32,
    pub section_length: U32,
    pub revision: U16,
    /// Bit 0 FRU id, 1 FRU text.
    pub validation_bits: u8,
    pub reserved: u8,
    pub flags: U32,
    pub section_type: [u8; 16],
    pub fru_id: [u8; 16],
    pub section_severity: U32,
    pub fru_text: [u8; 20],
}
const _: () = assert!(size_of::<SectionDescriptor>() == 72);

/// Decodes the record at the start of `input`, which may be longer than the record.
///
/// Time and memory are bounded by [`SECTIONS_MAX`] and the limit on a section's raw bytes, whatever
/// the descriptors claim. Problems carry offsets into `input`.
#[must_use]
pub fn decode_record(input: &[u8]) -> Decoded {
    const HEADER: usize = size_of::<RecordHeader>();
    const DESCRIPTOR: usize = size_of::<SectionDescriptor>();
    let mut decoded = Decoded::default();
    let problems = &mut decoded.problems;
    if !input.starts_with(b"CPER") {
        report(problems, 0, Kind::Malformed, "no CPER signature".into());
        return decoded;
    }
    let Some(header) = read::<RecordHeader>(input, 0) else {
        report(
            problems,
            input.len(),
            Kind::Truncated,
            format!("record header of {HEADER} bytes is cut"),
        );
        decoded.consumed = input.len();
        return decoded;
    };
    if header.signature_end.get() != u32::MAX {
        report(
            problems,
            offset_of!(RecordHeader, signature_end),
            Kind::Malformed,
            "wrong end of signature".into(),
        );
    }
    let end = record_end(&header, input.len(), problems);
    decoded.consumed = end;

    let timed = header.validation_bits.get() & 2 != 0;
    let time_at = offset_of!(RecordHeader, timestamp);
    let (time, time_details) = timestamp::read(timed, header.timestamp, time_at, problems);

    let count = usize::from(header.section_count.get());
    let count_offset = offset_of!(RecordHeader, section_count);
    if count == 0 {
        report(problems, count_offset, Kind::Malformed, "record without sections".into());
    }
    if count > SECTIONS_MAX {
        report(
            problems,
            count_offset,
            Kind::Limit,
            format!("{count} sections, only {SECTIONS_MAX} are decoded"),
        );
    }
    let mut seen: Vec<(usize, usize)> = Vec::new();
    for index in 0..count.min(SECTIONS_MAX) {
        let at = HEADER + DESCRIPTOR * index;
        let descriptor = read::<SectionDescriptor>(input.get(..end).unwrap_or(input), at);
        let Some(descriptor) = descriptor else {
            report(
                &mut decoded.problems,
                end,
                Kind::Truncated,
                format!("descriptor {index} of {count} is cut"),
            );
            break;
        };
        let (offset, length) = (size(descriptor.section_offset), size(descriptor.section_length));
        // Not "behind all descriptors": a wrong count must not cost the sections that are there.
        let first = at + DESCRIPTOR;
        let (offset, length) = section::place(Guid(descriptor.section_type), offset, length, first);
        if offset < first || offset > end {
            let detail = format!("section {index} at {offset} is outside of {first} to {end}");
            report(&mut decoded.problems, at, Kind::OutOfBounds, detail);
            continue;
        }
        let body_end = offset.saturating_add(length).min(end);
        if let Some(other) = seen.iter().position(|(from, to)| offset < *to && *from < body_end) {
            report(
                &mut decoded.problems,
                at,
                Kind::Overlap,
                format!("section {index} overlaps section {other}"),
            );
        }
        seen.push((offset, body_end));
        let valid = descriptor.validation_bits;
        let record = section::decode(Section {
            source: ErrorSource::Cper,
            time,
            section_type: Guid(descriptor.section_type),
            severity: descriptor.section_severity.get(),
            revision: Some(descriptor.revision.get()),
            flags: descriptor.flags.get(),
            record_flags: header.flags.get(),
            fru: fru(
                (valid & 2 != 0).then_some(descriptor.fru_text.as_slice()),
                (valid & 1 != 0).then_some(descriptor.fru_id),
            ),
            fru_id: (valid & 1 != 0).then_some(Guid(descriptor.fru_id)),
            offset,
            length,
            body: input.get(offset..body_end).unwrap_or_default(),
        });
        decoded.problems.extend(record.problems.iter().cloned());
        decoded.records.push(record);
    }
    section::identify_processor(&mut decoded.records);
    attach("record", details(&header, time_details), &mut decoded.records);
    decoded
}

/// What the header says of the whole record.
fn details(header: &RecordHeader, time: Option<Detail>) -> Vec<Detail> {
    let valid = header.validation_bits.get();
    let id = |bit: u32, id: [u8; 16]| (valid & bit != 0).then_some(Value::Guid(Guid(id)));
    let creator = Guid(header.creator_id);
    let notification = Guid(header.notification_type);
    let mut details = Vec::with_capacity(16);
    details.add("revision", names::revision(header.revision.get()));
    details.add("severity", Value::code(header.error_severity.get().into(), names::SEVERITIES));
    details.add("length", header.record_length.get());
    details.add("section_count", header.section_count.get());
    details.extend(time);
    details.add_some("platform_id", id(1, header.platform_id));
    details.add_some("partition_id", id(4, header.partition_id));
    details.add("creator_id", Value::Guid(creator));
    details.add_some("creator", names::creator(creator));
    details.add("notification_type", Value::Guid(notification));
    details.add_some("notification", names::notification_type(notification));
    details.add_hex("record_id", header.record_id);
    details.add("flags", Value::flags(header.flags.get().into(), names::RECORD_FLAGS));
    details.add_hex("persistence_information", header.persistence_information);
    if header.reserved != [0; 12] {
        details.add("reserved", Value::Bytes(header.reserved.into()));
    }
    details
}

/// Where the record ends in an input of `available` bytes. A length that can't be true tells nothing
/// about where the next record begins: the rest of the input is then taken as this one.
fn record_end(header: &RecordHeader, available: usize, problems: &mut Vec<Problem>) -> usize {
    let length = size(header.record_length);
    let count = usize::from(header.section_count.get());
    let least = size_of::<RecordHeader>() + size_of::<SectionDescriptor>() * count;
    if length < least {
        let detail = format!("record length {length} is less than its headers' {least}");
        report(problems, offset_of!(RecordHeader, record_length), Kind::Inconsistent, detail);
        return available;
    }
    if length > available {
        report(problems, available, Kind::Truncated, format!("record of {length} bytes is cut"));
        return available;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::memory::SECTION_TYPE;
    use crate::cper::section::tests::detail;
    use crate::cper::tests::record;
    use alloc::string::String;
    use alloc::vec;
    use ras_core::{ErrorClass, Raw, Severity, Timestamp};

    const OTHER: Guid = Guid([7; 16]);

    fn details(decoded: &Decoded) -> Vec<(u64, &str)> {
        decoded.problems.iter().map(|p| (p.offset, p.detail.as_str())).collect()
    }

    #[test]
    fn each_section_is_a_record() {
        let mut bytes = record(&[(SECTION_TYPE, 2, vec![0; 80]), (OTHER, 1, vec![5; 9])]);
        let length = bytes.len();
        bytes.extend(b"CPERnext");
        let decoded = decode_record(&bytes);
        assert_eq!(details(&decoded), []);
        assert_eq!(decoded.consumed, length);
        let [memory, other] = decoded.records.as_slice() else { panic!("{decoded:?}") };
        assert_eq!((memory.class, memory.severity), (ErrorClass::Memory, Severity::Corrected));
        assert_eq!((other.class, other.severity), (ErrorClass::Unknown, Severity::Fatal));
        assert_eq!(other.raw, Raw::Section { section_type: OTHER, bytes: vec![5; 9] });
        assert_eq!(memory.time, Some(Timestamp::from_secs(1_709_251_198)));
        assert_eq!(memory.location.fru.as_deref(), Some("DIMM_A1"));
    }

    #[test]
    fn the_header_is_told_to_every_section_s_record() {
        let mut bytes = record(&[(SECTION_TYPE, 2, vec![0; 80]), (OTHER, 1, vec![5; 9])]);
        bytes[16] = 0b111;
        bytes[32] = 0x11;
        bytes[48] = 0x22;
        bytes[80..96].copy_from_slice(
            &Guid::new(
                0xe8f5_6ffe,
                0x919c,
                0x4cc5,
                [0xba, 0x88, 0x65, 0xab, 0xe1, 0x49, 0x13, 0xbb],
            )
            .0,
        );
        bytes[96] = 0x77;
        bytes[104] = 0b1110;
        bytes[108] = 9;
        bytes[140] = 0b1000_1001;
        let decoded = decode_record(&bytes);
        for record in &decoded.records {
            let detail = |name| detail(record, name).unwrap();
            assert_eq!(*detail("record.revision"), Value::from("1.1"));
            assert_eq!(*detail("record.severity"), Value::code(1, names::SEVERITIES));
            assert_eq!(*detail("record.section_count"), Value::Number(2));
            assert_eq!(*detail("record.time_precise"), Value::Flag(true));
            assert!(matches!(detail("record.platform_id"), Value::Guid(Guid([0x11, ..]))));
            assert!(matches!(detail("record.partition_id"), Value::Guid(Guid([0x22, ..]))));
            assert_eq!(*detail("record.notification"), Value::from("MCE: machine check exception"));
            assert_eq!(*detail("record.record_id"), Value::Hex(0x77));
            assert_eq!(*detail("record.flags.2"), Value::from(String::from("bit 3")));
            assert_eq!(*detail("record.persistence_information"), Value::Hex(9));
            assert!(
                record.flags.previous_boot && record.flags.simulated && !record.flags.recovered
            );
        }
        let [memory, other] = decoded.records.as_slice() else { panic!("{decoded:?}") };
        assert!(memory.flags.threshold_exceeded && memory.flags.overflow);
        assert!(!other.flags.threshold_exceeded && !other.flags.overflow);
        assert_eq!(detail(memory, "section.flags.0"), Some(&Value::from("primary")));
        assert!(
            memory
                .severity_reason
                .ends_with("(2, threshold exceeded, overflow, of a previous boot, simulated)")
        );
    }

    #[test]
    fn every_truncation_is_reported() {
        let bytes = record(&[(SECTION_TYPE, 2, vec![0; 80]), (OTHER, 1, vec![5; 9])]);
        for len in 0..bytes.len() {
            let decoded = decode_record(&bytes[..len]);
            assert!(!decoded.problems.is_empty(), "{len}");
            assert!(decoded.problems.iter().all(|p| p.offset <= len as u64), "{len}");
            // What is whole is still decoded.
            let expected = usize::from(len >= 128 + 144 + 80) + usize::from(len > 128 + 144 + 80);
            let whole = decoded.records.iter().filter(|r| r.problems.is_empty()).count();
            assert!(whole <= expected, "{len}");
        }
    }

    #[test]
    fn lies_in_the_header() {
        let good = record(&[(SECTION_TYPE, 2, vec![0; 80])]);
        let check = |at: usize, with: &[u8], offset: u64, detail: &str, records: usize| {
            let mut bytes = good.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            let decoded = decode_record(&bytes);
            assert_eq!(details(&decoded), [(offset, detail)]);
            assert_eq!(decoded.records.len(), records);
        };
        check(0, b"X", 0, "no CPER signature", 0);
        check(6, &[0; 4], 6, "wrong end of signature", 1);
        check(10, &[0; 2], 10, "record without sections", 0);
        check(20, &[9, 0, 0, 0], 20, "record length 9 is less than its headers' 200", 1);
        check(20, &[0xff; 4], 280, "record of 4294967295 bytes is cut", 1);
        check(24, &[0xff; 8], 24, "timestamp is no date from 1970 to 2554", 1);
        check(128, &[0; 4], 128, "section 0 at 0 is outside of 200 to 280", 0);
        check(128, &[0xff; 4], 128, "section 0 at 4294967295 is outside of 200 to 280", 0);
        check(132, &[0xff; 4], 280, "section of 4294967295 bytes is cut to 80", 1);
    }

    /// 65,535 descriptors, all naming one section of a megabyte: 64 GiB if it were believed.
    #[test]
    fn a_bomb_stays_small() {
        let count = 65_535usize;
        let start = 128 + 72 * count;
        let mut bytes = record(&[(OTHER, 1, vec![])]);
        bytes[10..12].copy_from_slice(&u16::MAX.to_le_bytes());
        let mut descriptor = bytes[128..200].to_vec();
        descriptor[..4].copy_from_slice(&u32::try_from(start).unwrap().to_le_bytes());
        descriptor[4..8].copy_from_slice(&(1u32 << 20).to_le_bytes());
        bytes.truncate(128);
        bytes.extend(descriptor.repeat(count));
        bytes.resize(start + (1 << 20), 0xee);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[20..24].copy_from_slice(&length.to_le_bytes());

        let decoded = decode_record(&bytes);
        assert_eq!(decoded.records.len(), SECTIONS_MAX);
        let kept: usize = decoded
            .records
            .iter()
            .map(|record| match &record.raw {
                Raw::Section { bytes, .. } => bytes.len(),
                _ => 0,
            })
            .sum();
        assert!(kept <= SECTIONS_MAX * section::RAW_BYTES_MAX, "{kept}");
        // One for the count, then for each section: cut short, and all but the first overlap.
        assert_eq!(decoded.problems.len(), 2 * SECTIONS_MAX);
        let told: Vec<String> = decoded.problems.iter().map(|p| p.detail.clone()).collect();
        assert!(told.iter().any(|detail| detail == "section 63 overlaps section 0"));
    }
}
