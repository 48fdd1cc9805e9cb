//! Sections: what an error record says about one piece of hardware.
//!
//! A new section type is one file here and one line in [`SECTIONS`].

mod cxl;
mod error_status;
mod fields;
mod vendor;

pub mod memory;
pub mod memory2;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{
    Detail, Details, ErrorRecord, ErrorSource, Guid, Location, Problem, ProblemKind as Kind, Raw,
    RecordFlags, Timestamp, Value,
};

use self::fields::{Fields, field};
pub(crate) use self::vendor::kernel_machine_check;
pub(in crate::cper) use self::vendor::{ERROR_PACKET, identify_processor, place};
use super::names::{self, push_number};
use super::{report, severity};
use crate::mca::phrase;

/// Bytes of a section that are kept in its record and decoded. The longest standard section, an x86
/// processor with the registers of 64 banks, takes 9 KiB; vendors' take a few KiB. With the limit on
/// sections it bounds a record's memory.
pub const RAW_BYTES_MAX: usize = 16 << 10;

/// One section, cut out of its record but not yet trusted.
pub(super) struct Section<'a> {
    pub(super) source: ErrorSource,
    pub(super) time: Option<Timestamp>,
    pub(super) section_type: Guid,
    /// Firmware's number.
    pub(super) severity: u32,
    /// Major in the high byte; `None` for a section that came without a record around it.
    pub(super) revision: Option<u16>,
    /// Flags of the section's descriptor.
    pub(super) flags: u32,
    /// Flags of the record's header.
    pub(super) record_flags: u32,
    /// Text of the field-replaceable unit, or else its id. The record takes it over.
    pub(super) fru: Option<String>,
    /// Its id.
    pub(super) fru_id: Option<Guid>,
    /// Where the body begins in the input.
    pub(super) offset: usize,
    /// The body's length as its descriptor has it.
    pub(super) length: usize,
    /// The body, as far as it is there, and no longer than [`RAW_BYTES_MAX`].
    pub(super) body: &'a [u8],
}

/// Fills in what the section type knows: class, address, location, summary, problems.
type Decode = fn(&Section<'_>, &mut ErrorRecord);

struct SectionType {
    guid: Guid,
    name: &'static str,
    /// `None`: known by name, kept as raw bytes.
    decode: Option<Decode>,
}

/// UEFI Specification, Appendix N, "Section Type".
const SECTIONS: &[SectionType] = &[
    SectionType { guid: memory::SECTION_TYPE, name: "memory", decode: Some(memory::decode) },
    SectionType { guid: memory2::SECTION_TYPE, name: "memory (2)", decode: Some(memory2::decode) },
    SectionType::named(
        "generic processor",
        Guid::new(0x9876_ccad, 0x47b4, 0x4bdb, [0xb6, 0x5e, 0x16, 0xf1, 0x93, 0xc4, 0xf3, 0xdb]),
    ),
    SectionType::named(
        "IA32/X64 processor",
        Guid::new(0xdc3e_a0b0, 0xa144, 0x4797, [0xb9, 0x5b, 0x53, 0xfa, 0x24, 0x2b, 0x6e, 0x1d]),
    ),
    SectionType::named(
        "PCI Express",
        Guid::new(0xd995_e954, 0xbbc1, 0x430f, [0xad, 0x91, 0xb4, 0x4d, 0xcb, 0x3c, 0x6f, 0x35]),
    ),
    SectionType::named(
        "PCI/PCI-X bus",
        Guid::new(0xc575_3963, 0x3b84, 0x4095, [0xbf, 0x78, 0xed, 0xda, 0xd3, 0xf9, 0xc9, 0xdd]),
    ),
    SectionType::named(
        "PCI component",
        Guid::new(0xeb5e_4685, 0xca66, 0x4769, [0xb6, 0xa2, 0x26, 0x06, 0x8b, 0x00, 0x13, 0x26]),
    ),
    SectionType::named(
        "firmware",
        Guid::new(0x8121_2a96, 0x09ed, 0x4996, [0x94, 0x71, 0x8d, 0x72, 0x9c, 0x8e, 0x69, 0xed]),
    ),
];

impl SectionType {
    const fn named(name: &'static str, guid: Guid) -> Self {
        Self { guid, name, decode: None }
    }
}

/// One section to one record; a type that isn't known, or only by name, keeps its bytes.
///
/// What lies beyond [`RAW_BYTES_MAX`] is neither kept nor decoded, so that time and memory do not grow
/// with what descriptors claim.
pub(super) fn decode(mut section: Section<'_>) -> ErrorRecord {
    let known = SECTIONS.iter().chain(cxl::SECTIONS).chain(vendor::SECTIONS);
    let known = known.clone().find(|known| known.guid == section.section_type);
    let problems = length_problems(&section);
    section.body = section.body.get(..RAW_BYTES_MAX).unwrap_or(section.body);
    let (severity, rule) = severity(section.severity);
    let mut record = ErrorRecord {
        time: section.time,
        severity,
        severity_reason: reason(rule, &section),
        flags: record_flags(&section),
        location: Location { fru: section.fru.take(), ..Location::default() },
        details: Vec::with_capacity(DETAILS_USUAL),
        raw: Raw::Section { section_type: section.section_type, bytes: section.body.into() },
        problems,
        ..ErrorRecord::new(section.source)
    };
    if let Some(decode) = known.and_then(|known| known.decode) {
        decode(&section, &mut record);
    }
    if record.summary.is_empty() {
        record.summary = match known {
            Some(known) => {
                format!("{} error, section not decoded, {}", known.name, phrase(severity))
            }
            None => {
                format!("section of unknown type {}, {}", section.section_type, phrase(severity))
            }
        };
    }
    let descriptor = descriptor(&section, known);
    if !descriptor.is_empty() {
        record.details.add("section", Value::Group(descriptor));
    }
    record
}

/// Details most records have: more only cost one allocation more.
const DETAILS_USUAL: usize = 16;

fn length_problems(section: &Section<'_>) -> Vec<Problem> {
    let (there, announced) = (section.body.len(), section.length);
    let mut problems = Vec::new();
    if there < announced {
        let detail = format!("section of {announced} bytes is cut to {there}");
        report(&mut problems, section.offset + there, Kind::Truncated, detail);
    }
    if there > RAW_BYTES_MAX {
        let detail = format!("section of {there} bytes, the first {RAW_BYTES_MAX} are kept");
        report(&mut problems, section.offset + RAW_BYTES_MAX, Kind::Limit, detail);
    }
    problems
}

/// What firmware says, its number, and the flags that are set.
fn reason(rule: &str, section: &Section<'_>) -> String {
    // Room for one or two flags beside the longest rule.
    let mut text = String::with_capacity(96);
    text.push_str(rule);
    text.push_str(" (");
    push_number(&mut text, section.severity.into());
    // "Primary" only tells which section of several caused the record.
    let flags =
        [(section.flags & !1, names::SECTION_FLAGS), (section.record_flags, names::RECORD_FLAGS)];
    for (bits, table) in flags {
        for (_, name) in table.iter().filter(|(bit, _)| bits >> bit & 1 == 1) {
            text.push_str(", ");
            text.push_str(name);
        }
    }
    text.push(')');
    text
}

fn record_flags(section: &Section<'_>) -> RecordFlags {
    let is = |flags: u32, bit: u32| flags >> bit & 1 == 1;
    RecordFlags {
        threshold_exceeded: is(section.flags, 3),
        overflow: is(section.flags, 7),
        recovered: is(section.record_flags, 0),
        previous_boot: is(section.record_flags, 1),
        simulated: is(section.record_flags, 2),
    }
}

/// What the descriptor says. The text of the field-replaceable unit is in the record's location.
fn descriptor(section: &Section<'_>, known: Option<&SectionType>) -> Vec<Detail> {
    let mut details = Vec::with_capacity(7);
    details.add_some("type", known.map(|known| known.name));
    if let Some(revision) = section.revision {
        details.add("severity", Value::code(section.severity.into(), names::SEVERITIES));
        details.add("revision", names::revision(revision));
        details.add("flags", Value::flags(section.flags.into(), names::SECTION_FLAGS));
        details.add("offset", section.offset as u64);
        details.add("length", section.length as u64);
    }
    details.add_some("fru_id", section.fru_id.map(Value::Guid));
    details
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::vendor::tests::{error_packet_v2, struct_mce, xpf_mca};
    use super::*;
    use crate::cper::{decode_record, tests::record};
    use zerocopy::{FromZeros, Immutable, IntoBytes};

    /// A section's structure, filled in.
    pub(crate) fn body<T: FromZeros + IntoBytes + Immutable>(fill: impl FnOnce(&mut T)) -> Vec<u8> {
        let mut body = T::new_zeroed();
        fill(&mut body);
        body.as_bytes().into()
    }

    /// The record of one section in a record of its own; the section begins at 200.
    pub(crate) fn decoded(section_type: Guid, severity: u32, body: &[u8]) -> ErrorRecord {
        let mut decoded = decode_record(&record(&[(section_type, severity, body.into())]));
        assert_eq!(decoded.records.len(), 1);
        decoded.records.remove(0)
    }

    /// The value of a detail, `a.b` that of one in a group, `a.0.b` that of one in a list.
    pub(crate) fn detail<'a>(record: &'a ErrorRecord, path: &str) -> Option<&'a Value> {
        let find = |details: &'a [Detail], name: &str| {
            details.iter().find(|detail| detail.name == name).map(|detail| &detail.value)
        };
        let mut names = path.split('.');
        let mut value = find(&record.details, names.next()?)?;
        for name in names {
            value = match value {
                Value::Group(details) => find(details, name)?,
                Value::List(values) => values.get(name.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(value)
    }

    #[test]
    fn a_descriptor_is_told_whole() {
        let record = decoded(Guid([7; 16]), 1, &[1, 2, 3]);
        assert_eq!(detail(&record, "section.type"), None);
        assert_eq!(detail(&record, "section.revision"), Some(&Value::from("3.0")));
        assert_eq!(detail(&record, "section.offset"), Some(&Value::Number(200)));
        assert_eq!(detail(&record, "section.length"), Some(&Value::Number(3)));
        assert_eq!(detail(&record, "section.severity"), Some(&Value::code(1, names::SEVERITIES)));
    }

    #[test]
    fn nothing_beyond_the_limit_is_kept() {
        let record = decoded(memory::SECTION_TYPE, 2, &alloc::vec![0; RAW_BYTES_MAX + 1]);
        assert!(
            matches!(record.raw, Raw::Section { ref bytes, .. } if bytes.len() == RAW_BYTES_MAX)
        );
        assert_eq!(record.problems.len(), 1);
        assert_eq!(record.problems[0].offset, 200 + RAW_BYTES_MAX as u64);
    }
}
