//! Firmware's error records: UEFI's CPER and ACPI's generic error status block.
//!
//! ```text
//!  CPER record                              status block
//!  | RecordHeader 128 |                     | StatusBlock 20 |
//!  | SectionDescriptor 72 | x N --+         | DataEntry 64/72 | section | DataEntry | section | ...
//!  | section | section | ... <----+
//! ```
//! Both carry the same sections, each with a severity of its own; every section becomes one record.
//! UEFI Specification, Appendix N; ACPI Specification, "Generic Error Status Block".

pub mod header;
pub mod section;
pub mod status_block;

pub(crate) mod names;
mod timestamp;

use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{
    Detail, Details, ErrorRecord, ErrorSource, Guid, Problem, ProblemKind, Severity, SmolStr,
    Value, format_smolstr,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::{Decoded, layout};

pub use self::header::decode_record;
pub(crate) use self::section::kernel_machine_check;
pub use self::status_block::decode_status_block;

/// Sections taken from one record. The specifications set no limit; real records have fewer than
/// ten. It bounds time and memory on a record whose descriptors all point to the same large section.
pub const SECTIONS_MAX: usize = 64;

/// Decodes a section that came without a record around it.
pub(crate) fn decode_section(
    source: ErrorSource,
    section_type: Guid,
    severity: u32,
    fru: Option<SmolStr>,
    body: &[u8],
) -> ErrorRecord {
    section::decode(section::Section {
        source,
        time: None,
        section_type,
        severity,
        revision: None,
        flags: 0,
        record_flags: 0,
        fru,
        fru_id: None,
        offset: 0,
        length: body.len(),
        body,
    })
}

/// Decodes a Windows error packet that came by itself.
pub(crate) fn decode_error_packet(packet: &[u8]) -> Decoded {
    /// Where the two versions have their length and their severity.
    const PLACES: [(usize, usize); 2] = [(8, 20), (8, 36)];
    let (length, severity) = PLACES[usize::from(packet.starts_with(b"ErPt"))];
    let length =
        layout::number_at(packet, length, 4).and_then(|length| usize::try_from(length).ok());
    let length = length.unwrap_or(usize::MAX).max(4);
    let severity =
        layout::number_at(packet, severity, 4).and_then(|number| u32::try_from(number).ok());
    let body = packet.get(..length).unwrap_or(packet);
    let source = ErrorSource::Whea;
    let severity = severity.unwrap_or(u32::MAX);
    let mut record = decode_section(source, section::ERROR_PACKET, severity, None, body);
    if length > packet.len() {
        let detail = "error packet is cut".into();
        report(&mut record.problems, packet.len(), ProblemKind::Truncated, detail);
    }
    Decoded { consumed: body.len(), ..Decoded::from(record) }
}

/// Firmware's own grades. UEFI Specification, Appendix N, "Error Severity"; the status block has the
/// same numbers.
///
/// *Recoverable* says that data is lost and software can go on without it; whether somebody has
/// already consumed it only a processor section could tell. It is taken as action optional.
pub(crate) fn severity(number: u32) -> (Severity, &'static str) {
    match number {
        0 => (Severity::Srao, "firmware says recoverable: lost, but not said to be consumed"),
        1 => (Severity::Fatal, "firmware says fatal"),
        2 => (Severity::Corrected, "firmware says corrected"),
        3 => (Severity::Informational, "firmware says informational"),
        _ => (Severity::Unknown, "firmware gives a severity that is not defined"),
    }
}

/// Gives every record of a container what the container says, under `name`.
fn attach(name: &'static str, details: Vec<Detail>, records: &mut [ErrorRecord]) {
    if let [others @ .., last] = records {
        for record in others {
            record.details.add(name, Value::Group(details.clone()));
        }
        last.details.add(name, Value::Group(details));
    }
}

/// The field-replaceable unit: its text, or else its id.
fn fru(text: Option<&[u8]>, id: Option<[u8; 16]>) -> Option<SmolStr> {
    let id = || id.filter(|id| *id != [0; 16]).map(|id| format_smolstr!("{}", Guid(id)));
    text.map(self::text).filter(|text: &SmolStr| !text.is_empty()).or_else(id)
}

/// ASCII in a fixed field, which a zero byte may end early.
fn text<T: for<'a> From<&'a str> + FromIterator<char>>(bytes: &[u8]) -> T {
    let used = bytes.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    // Nearly always all of it can be shown.
    if let Ok(text) = core::str::from_utf8(used)
        && used.iter().all(|byte| matches!(byte, 0x20..=0x7e))
    {
        return text.into();
    }
    let shown = |byte: &u8| match byte {
        0x20..=0x7e => char::from(*byte),
        _ => char::REPLACEMENT_CHARACTER,
    };
    used.iter().map(shown).collect()
}

/// The fixed structure at `offset`, if all of it is there.
fn read<T: FromBytes + KnownLayout + Immutable>(input: &[u8], offset: usize) -> Option<T> {
    T::read_from_prefix(input.get(offset..)?).ok().map(|(value, _)| value)
}

fn report(problems: &mut Vec<Problem>, offset: usize, kind: ProblemKind, detail: String) {
    problems.push(Problem { offset: offset as u64, kind, detail });
}

/// Sizes in records are 32 bits wide.
fn size(value: zerocopy::little_endian::U32) -> usize {
    usize::try_from(value.get()).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// A record as firmware would build it, from a header's severity and its sections.
    pub(crate) fn record(sections: &[(Guid, u32, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = b"CPER".to_vec();
        bytes.extend(0x0101u16.to_le_bytes());
        bytes.extend([0xff; 4]);
        bytes.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
        bytes.extend(sections.iter().map(|s| s.1).min().unwrap_or(3).to_le_bytes());
        bytes.extend(2u32.to_le_bytes());
        let start = 128 + 72 * sections.len();
        let length = start + sections.iter().map(|s| s.2.len()).sum::<usize>();
        bytes.extend(u32::try_from(length).unwrap().to_le_bytes());
        // 2024-02-29 23:59:58, precise.
        bytes.extend([0x58, 0x59, 0x23, 0x01, 0x29, 0x02, 0x24, 0x20]);
        bytes.resize(128, 0);
        let mut offset = start;
        for (section_type, severity, body) in sections {
            bytes.extend(u32::try_from(offset).unwrap().to_le_bytes());
            bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
            bytes.extend([0x00, 0x03, 0x02, 0x00]);
            bytes.extend(0u32.to_le_bytes());
            bytes.extend(section_type.0);
            bytes.extend([0; 16]);
            bytes.extend(severity.to_le_bytes());
            bytes.extend(*b"DIMM_A1\0\0\0\0\0\0\0\0\0\0\0\0\0");
            offset += body.len();
        }
        sections.iter().for_each(|section| bytes.extend(&section.2));
        bytes
    }

    #[test]
    fn units_are_text_or_else_an_id() {
        assert_eq!(fru(Some(b"DIMM 3\0junk"), None).as_deref(), Some("DIMM 3"));
        assert_eq!(fru(Some(b"a\x01\xffb\0"), None).as_deref(), Some("a\u{fffd}\u{fffd}b"));
        assert_eq!(fru(Some(b"   \0"), None), None);
        assert_eq!(fru(None, Some([0; 16])), None);
        assert_eq!(
            fru(Some(b"\0"), Some([1; 16])).as_deref(),
            Some("01010101-0101-0101-0101-010101010101")
        );
    }

    fn consistent(input: &[u8], decoded: &Decoded) -> Result<(), TestCaseError> {
        prop_assert!(decoded.consumed <= input.len());
        prop_assert!(decoded.records.len() <= SECTIONS_MAX);
        prop_assert!(decoded.problems.iter().all(|p| p.offset <= input.len() as u64));
        for record in &decoded.records {
            prop_assert!(record.problems.iter().all(|p| decoded.problems.contains(p)));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            consistent(&bytes, &decode_record(&bytes))?;
            consistent(&bytes, &decode_status_block(&bytes))?;
        }

        #[test]
        fn a_damaged_record_is_still_bounded(
            damage in proptest::collection::vec((0usize..444, any::<u8>()), 1..12),
        ) {
            let memory = section::memory::SECTION_TYPE;
            let mut bytes = record(&[
                (memory, 2, vec![0xff; 80]), (memory, 0, vec![0x7f; 73]), (Guid([9; 16]), 1, vec![1; 19]),
            ]);
            for (at, value) in damage {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            consistent(&bytes, &decode_record(&bytes))?;
            consistent(&bytes, &decode_status_block(&bytes))?;
        }
    }
}
