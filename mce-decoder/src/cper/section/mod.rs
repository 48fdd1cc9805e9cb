//! Sections: what an error record says about one piece of hardware.
//!
//! A new section type is one file here and one line in [`SECTIONS`].

mod cxl;
mod error_status;
mod fields;
mod pci_class;
mod registers;
mod vendor;

pub mod memory;
pub mod memory2;

pub mod arm;
pub mod arm_ras;
pub mod ia32_x64;
pub mod processor;

pub mod ccix;
pub mod dmar;
pub mod firmware;
pub mod pci_bus;
pub mod pci_device;
pub mod pcie;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{
    Detail, Details, ErrorRecord, ErrorSource, Guid, Location, Problem, ProblemKind as Kind, Raw,
    RecordFlags, Severity, SmolStr, Timestamp, Value,
};

use self::fields::{Fields, field};
pub(crate) use self::vendor::kernel_machine_check;
pub(in crate::cper) use self::vendor::{ERROR_PACKET, identify_processor, place};
use super::names::{self, push_number};
use super::{report, severity};
use crate::mca::phrase;
use crate::pci;

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
    pub(super) fru: Option<SmolStr>,
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
    /// Its errors are those of a link: see [`pci::NON_FATAL`].
    link: bool,
}

/// UEFI Specification, Appendix N, "Section Type".
const SECTIONS: &[SectionType] = &[
    SectionType::new(memory::SECTION_TYPE, "memory", memory::decode),
    SectionType::new(memory2::SECTION_TYPE, "memory (2)", memory2::decode),
    SectionType::new(processor::SECTION_TYPE, "generic processor", processor::decode),
    SectionType::new(ia32_x64::SECTION_TYPE, "IA32/X64 processor", ia32_x64::decode),
    SectionType::new(arm::SECTION_TYPE, "ARM processor", arm::decode),
    SectionType::new(arm_ras::SECTION_TYPE, "ARM RAS", arm_ras::decode),
    SectionType::new(pcie::SECTION_TYPE, "PCI Express", pcie::decode).of_link(),
    SectionType::new(pci_bus::SECTION_TYPE, "PCI/PCI-X bus", pci_bus::decode),
    SectionType::new(pci_device::SECTION_TYPE, "PCI component", pci_device::decode),
    SectionType::new(firmware::SECTION_TYPE, "firmware", firmware::decode),
    SectionType::new(dmar::generic::SECTION_TYPE, "DMAr", dmar::generic::decode),
    SectionType::new(dmar::vtd::SECTION_TYPE, "VT-d DMAr", dmar::vtd::decode),
    SectionType::new(dmar::iommu::SECTION_TYPE, "IOMMU DMAr", dmar::iommu::decode),
    SectionType::new(ccix::SECTION_TYPE, "CCIX PER", ccix::decode),
];

impl SectionType {
    const fn new(guid: Guid, name: &'static str, decode: Decode) -> Self {
        Self { guid, name, decode: Some(decode), link: false }
    }

    const fn of_link(self) -> Self {
        Self { link: true, ..self }
    }

    const fn named(name: &'static str, guid: Guid) -> Self {
        Self { guid, name, decode: None, link: false }
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
    let (severity, rule) = match severity(section.severity) {
        (Severity::Srao, _) if known.is_some_and(|known| known.link) => pci::NON_FATAL,
        severity => severity,
    };
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
