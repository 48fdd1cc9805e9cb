//! Sections: what an error record says about one piece of hardware.
//!
//! A new section type is one file here and one line in [`SECTIONS`].

mod cxl;
mod fields;
mod vendor;

pub mod memory;

use alloc::format;
use alloc::string::String;
use alloc::vec;

use ras_core::{
    ErrorRecord, ErrorSource, Guid, Location, Problem, ProblemKind as Kind, Raw, Timestamp,
};

use self::fields::{Fields, field};
pub(crate) use self::vendor::kernel_machine_check;
pub(in crate::cper) use self::vendor::{ERROR_PACKET, identify_processor, place};
use super::{report, severity};
use crate::mca::phrase;

/// Bytes of a section kept in its record. The longest standard sections (processor contexts) take a
/// few hundred; vendors' may take a few KiB. With the limit on sections it bounds a record's memory.
pub const RAW_BYTES_MAX: usize = 4096;

/// One section, cut out of its record but not yet trusted.
pub(super) struct Section<'a> {
    pub(super) source: ErrorSource,
    pub(super) time: Option<Timestamp>,
    pub(super) section_type: Guid,
    /// Firmware's number.
    pub(super) severity: u32,
    /// Flags of the section's descriptor.
    pub(super) flags: u32,
    /// Flags of the record's header.
    pub(super) record_flags: u32,
    pub(super) fru: Option<String>,
    /// Where the body begins in the input.
    pub(super) offset: usize,
    /// The body's length as its descriptor has it.
    pub(super) length: usize,
    /// The body, as far as it is there.
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
    SectionType::named(
        "generic processor",
        Guid::new(0x9876_ccad, 0x47b4, 0x4bdb, [0xb6, 0x5e, 0x16, 0xf1, 0x93, 0xc4, 0xf3, 0xdb]),
    ),
    SectionType::named(
        "IA32/X64 processor",
        Guid::new(0xdc3e_a0b0, 0xa144, 0x4797, [0xb9, 0x5b, 0x53, 0xfa, 0x24, 0x2b, 0x6e, 0x1d]),
    ),
    SectionType::named(
        "memory (2)",
        Guid::new(0x61ec_04fc, 0x48e6, 0xd813, [0x25, 0xc9, 0x8d, 0xaa, 0x44, 0x75, 0x0b, 0x12]),
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
pub(super) fn decode(section: &Section<'_>) -> ErrorRecord {
    let known = SECTIONS.iter().chain(cxl::SECTIONS).chain(vendor::SECTIONS);
    let known = known.clone().find(|known| known.guid == section.section_type);
    let (severity, rule) = severity(section.severity);
    let kept = section.body.get(..RAW_BYTES_MAX).unwrap_or(section.body);
    let mut record = ErrorRecord {
        time: section.time,
        severity,
        severity_reason: format!("{rule} ({}{})", section.severity, flags(section)),
        location: Location { fru: section.fru.clone(), ..Location::default() },
        summary: match known {
            Some(known) => {
                format!("{} error, section not decoded, {}", known.name, phrase(severity))
            }
            None => {
                format!("section of unknown type {}, {}", section.section_type, phrase(severity))
            }
        },
        raw: Raw::Section { section_type: section.section_type, bytes: kept.into() },
        problems: length_problems(section, kept.len()),
        ..ErrorRecord::new(section.source)
    };
    if let Some(decode) = known.and_then(|known| known.decode) {
        decode(section, &mut record);
    }
    record
}

fn length_problems(section: &Section<'_>, kept: usize) -> vec::Vec<Problem> {
    let (there, announced) = (section.body.len(), section.length);
    let mut problems = vec![];
    if there < announced {
        let detail = format!("section of {announced} bytes is cut to {there}");
        report(&mut problems, section.offset + there, Kind::Truncated, detail);
    }
    if kept < there {
        let detail = format!("section of {there} bytes, the first {kept} are kept");
        report(&mut problems, section.offset + kept, Kind::Limit, detail);
    }
    problems
}

/// The flags that are set. UEFI Specification, Appendix N, "Section Descriptor" and "Error Record
/// Header Flags".
fn flags(section: &Section<'_>) -> String {
    let names = [
        (section.flags, 1 << 1, "not contained"),
        (section.flags, 1 << 2, "component was reset"),
        (section.flags, 1 << 3, "threshold exceeded"),
        (section.flags, 1 << 4, "resource not accessible"),
        (section.flags, 1 << 5, "latent"),
        (section.flags, 1 << 6, "propagated"),
        (section.flags, 1 << 7, "overflow"),
        (section.record_flags, 1 << 0, "already recovered"),
        (section.record_flags, 1 << 1, "of a previous boot"),
        (section.record_flags, 1 << 2, "simulated"),
    ];
    let mut text = String::new();
    for (_, _, name) in names.into_iter().filter(|(flags, bit, _)| flags & bit != 0) {
        text.push_str(", ");
        text.push_str(name);
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::vendor::tests::{error_packet_v2, struct_mce, xpf_mca};
}
