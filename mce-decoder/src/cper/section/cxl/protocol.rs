//! CXL Protocol Error section. UEFI Specification, Appendix N, "CXL Protocol Error Section"; the
//! registers in it: CXL Specification, "CXL RAS Capability Structure" and "PCIe DVSEC for CXL
//! Devices".

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{Details, ErrorClass, ErrorRecord, Guid, PciAddress, ProblemKind, Value};

use crate::cper::report;
use crate::cper::section::Section;
use crate::layout::{
    Field, Part, bytes, code, coded_part, flags, found, hex, meaning, number, number_at, part,
    parts, read, size, skip, words,
};
use crate::mca::phrase;

/// Section type of this section.
pub(super) const SECTION_TYPE: Guid =
    Guid::new(0x80b9_efb4, 0x52b5, 0x4de3, [0xa7, 0x77, 0x68, 0x78, 0x4b, 0x77, 0x10, 0x48]);

/// The fixed part, as for an agent that has a PCI address.
const DEVICE: &[Field] = &[
    hex("validation_bits", 8),
    code("agent_type", 1, AGENT).valid(0),
    skip(7),
    number("function_number", 1).valid(1),
    number("device_number", 1).valid(1),
    number("bus_number", 1).valid(1),
    number("segment_number", 2).valid(1),
    skip(3),
    hex("vendor_id", 2).valid(2),
    hex("device_id", 2).valid(2),
    hex("subsystem_vendor_id", 2).valid(2),
    hex("subsystem_id", 2).valid(2),
    hex("class_code", 2).valid(2),
    parts("slot", 2, &[part("number", 3, 13)]).valid(2),
    skip(4),
    hex("serial", 8).valid(3),
    bytes("capability_structure", 60).valid(4),
    number("dvsec_length", 2).valid(5),
    number("error_log_length", 2).valid(6),
    skip(4),
];
const _: () = assert!(size(DEVICE) == FIXED);
const FIXED: usize = 116;
const AGENT_TYPE: usize = 8;
const ADDRESS: usize = 16;
const DVSEC_LENGTH: usize = 108;
const LOG_LENGTH: usize = 110;

const AGENT: &[(u64, &str)] = &[
    (0, "restricted CXL device"),
    (RCRB_AGENT, "restricted CXL host downstream port"),
    (2, "CXL device"),
    (3, "CXL logical device"),
    (4, "CXL logical device managed by the fabric manager"),
    (5, "CXL root port"),
    (6, "CXL downstream switch port"),
    (7, "CXL upstream switch port"),
];
/// The agent that has no PCI address but a register block somewhere in memory.
const RCRB_AGENT: u64 = 1;

/// "CXL RAS Capability Structure".
const RAS_CAPABILITY: &[Field] = &[
    flags("uncorrectable_status", 4, UNCORRECTABLE),
    flags("uncorrectable_mask", 4, UNCORRECTABLE),
    flags("uncorrectable_severity", 4, UNCORRECTABLE),
    flags("correctable_status", 4, CORRECTABLE),
    flags("correctable_mask", 4, CORRECTABLE),
    parts("capability_control", 4, CONTROL),
    words("header_log", 4, 16),
];
const _: () = assert!(size(RAS_CAPABILITY) == 0x58);

/// "Uncorrectable Error Status Register".
const UNCORRECTABLE: &[(u32, &str)] = &[
    (0, "cache data parity"),
    (1, "cache address parity"),
    (2, "cache byte enable parity"),
    (3, "cache data ECC"),
    (4, "memory data parity"),
    (5, "memory address parity"),
    (6, "memory byte enable parity"),
    (7, "memory data ECC"),
    (8, "REINIT threshold"),
    (9, "reserved encoding violation"),
    (10, "poison received"),
    (11, "receiver overflow"),
    (14, "component internal error"),
    (15, "IDE transmit"),
    (16, "IDE receive"),
];

/// "Correctable Error Status Register".
const CORRECTABLE: &[(u32, &str)] = &[
    (0, "cache data ECC"),
    (1, "memory data ECC"),
    (2, "CRC threshold"),
    (3, "retry threshold"),
    (4, "cache poison received"),
    (5, "memory poison received"),
    (6, "physical layer"),
];

/// "Error Capabilities and Control Register".
const CONTROL: &[Part] = &[
    part("first_error_pointer", 0, 6),
    part("multiple_header_recording", 9, 1),
    part("poison_enabled", 13, 1),
];

/// PCIe's designated vendor-specific extended capability, and the registers that CXL's own begin
/// with.
const DVSEC: &[Field] = &[
    parts(
        "extended_capability",
        4,
        &[part("id", 0, 16), part("version", 16, 4), part("next", 20, 12)],
    ),
    parts(
        "header_1",
        4,
        &[part("vendor_id", 0, 16), part("revision", 16, 4), part("length", 20, 12)],
    ),
    parts("header_2", 2, &[coded_part("id", 0, 16, DVSEC_ID)]),
];
const DVSEC_REGISTERS: &[Field] =
    &[parts("capability", 2, PROTOCOLS), parts("control", 2, PROTOCOLS), hex("status", 2)];

const DVSEC_ID: &[(u64, &str)] = &[
    (0, "CXL device"),
    (2, "non-CXL function map"),
    (3, "CXL extensions for ports"),
    (4, "GPF for ports"),
    (5, "GPF for devices"),
    (7, "Flex Bus port"),
    (8, "register locator"),
    (9, "MLD"),
    (10, "test"),
];

const PROTOCOLS: &[Part] = &[part("cache", 0, 1), part("io", 1, 1), part("mem", 2, 1)];

pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    record.class = ErrorClass::Cxl;
    let body = section.body;
    let valid = number_at(body, 0, 8).unwrap_or(0);
    let is = |bit: u32| valid >> bit & 1 == 1;
    let agent = body.get(AGENT_TYPE).map_or(0, |agent| u64::from(*agent));
    let mut details = Vec::with_capacity(24);
    let rcrb = is(0) && agent == RCRB_AGENT;
    // A register block's address takes the place of the PCI address.
    let lacking = read(DEVICE, body, if rcrb { valid & !2 } else { valid }, &mut details);
    if rcrb && is(1) {
        details.add_some("rcrb_base_address", number_at(body, ADDRESS, 8).map(Value::Hex));
    }
    let field = |name| found(&details, name).and_then(|number| u8::try_from(number).ok());
    if let (Some(segment), Some(bus), Some(device @ ..32), Some(function @ ..8)) = (
        found(&details, "segment_number").and_then(|number| u32::try_from(number).ok()),
        field("bus_number"),
        field("device_number"),
        field("function_number"),
    ) {
        record.location.pci = Some(PciAddress { segment, bus, device, function });
    }

    let length = |at: usize| {
        number_at(body, at, 2).and_then(|length| usize::try_from(length).ok()).unwrap_or(0)
    };
    let behind = body.get(FIXED..).unwrap_or_default();
    let (dvsec, behind) = split(behind, length(DVSEC_LENGTH));
    let (log, _) = split(behind, length(LOG_LENGTH));
    let cut =
        (is(5) && dvsec.len() < length(DVSEC_LENGTH)) || (is(6) && log.len() < length(LOG_LENGTH));
    if is(5) && !dvsec.is_empty() {
        let mut group = Vec::new();
        let known = read(DVSEC, dvsec, 0, &mut group).is_none()
            && matches!(number_at(dvsec, 8, 2), Some(0 | 7))
            && number_at(dvsec, 4, 2) == Some(0x1e98);
        if known {
            read(DVSEC_REGISTERS, dvsec.get(10..).unwrap_or_default(), 0, &mut group);
        }
        details.add("cxl_dvsec", Value::Group(group));
    }
    let mut errors = String::new();
    if is(6) && !log.is_empty() {
        let mut group = Vec::new();
        read(RAS_CAPABILITY, log, 0, &mut group);
        errors = named_errors(log);
        // The pointer means something only while an error is logged.
        let status = number_at(log, 0, 4).unwrap_or(0);
        let first = number_at(log, 0x14, 1).map(|pointer| pointer & 0x3f);
        if let Some(first) = first.filter(|first| status >> first & 1 == 1) {
            let first = u32::try_from(first).unwrap_or(0);
            let name = UNCORRECTABLE.iter().find(|(bit, _)| *bit == first).map(|(_, name)| *name);
            group.add_some("first_error", name);
        }
        details.add("cxl_error_log", Value::Group(group));
    }

    if let Some(lacking) = lacking {
        truncated(
            section,
            record,
            &format!("CXL protocol section of {} bytes ends before {lacking}", body.len()),
        );
    } else if cut {
        truncated(section, record, "CXL protocol section ends inside of its DVSEC or error log");
    }
    let agent = meaning(&details, "agent_type").unwrap_or("an unknown agent");
    let place = record.location.pci.map_or_else(String::new, |pci| format!(" {pci}"));
    record.summary =
        format!("CXL protocol error at {agent}{place}{errors}, {}", phrase(record.severity));
    record.details = details;
}

/// The errors that the log names, in brackets.
fn named_errors(log: &[u8]) -> String {
    let set = |at: usize, table: &'static [(u32, &'static str)]| {
        let status = number_at(log, at, 4).unwrap_or(0);
        table.iter().filter(move |(bit, _)| status >> bit & 1 == 1).map(|(_, name)| *name)
    };
    let corrected = set(12, CORRECTABLE).map(|name| format!("corrected {name}"));
    let names: Vec<String> = set(0, UNCORRECTABLE).map(String::from).chain(corrected).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

fn split(bytes: &[u8], length: usize) -> (&[u8], &[u8]) {
    bytes.split_at(length.min(bytes.len()))
}

fn truncated(section: &Section<'_>, record: &mut ErrorRecord, detail: &str) {
    let at = section.offset + section.body.len();
    report(&mut record.problems, at, ProblemKind::Truncated, detail.into());
}
