//! An error source as Windows knows it: `WHEA_ERROR_SOURCE_DESCRIPTOR`.

use alloc::format;
use alloc::vec::Vec;

use ras_core::{Details, ErrorRecord, ProblemKind as Kind, Value};

use super::events::Event;
use super::{bytes_at, report};
use crate::acpi::GENERIC_ADDRESS;
use crate::layout::{Field, code, flag, flags, guid, hex, number, part, parts, read, size, skip};

/// The descriptor, before what depends on its type; 972 bytes in all.
const DESCRIPTOR: &[Field] = &[
    number("descriptor_length", 4),
    number("descriptor_version", 4),
    code("source_type", 4, SOURCE_TYPE),
    code(
        "source_state",
        4,
        &[(1, "stopped"), (2, "started"), (3, "removed"), (4, "remove pending")],
    ),
    number("max_raw_data_length", 4),
    number("records_to_preallocate", 4),
    number("max_sections_per_record", 4),
    number("error_source_id", 4),
    number("platform_error_source_id", 4),
    flags("source_flags", 4, SOURCE_FLAGS),
];
const INFO: usize = size(DESCRIPTOR);
const LENGTH: usize = 972;
const _: () = assert!(INFO == 40);

/// `WHEA_ERROR_SOURCE_TYPE`.
pub(crate) const SOURCE_TYPE: &[(u64, &str)] = &[
    (0, "MCE"),
    (1, "CMC"),
    (2, "CPE"),
    (3, "NMI"),
    (4, "PCIe"),
    (5, "generic"),
    (6, "INIT"),
    (7, "BOOT"),
    (8, "SCI, generic"),
    (9, "Itanium MCA"),
    (10, "Itanium CMC"),
    (11, "Itanium CPE"),
    (12, "generic, version 2"),
    (13, "SCI, generic, version 2"),
    (14, "BMC"),
    (15, "persistent memory"),
    (DRIVER, "device driver"),
    (17, "SEA"),
    (18, "SEI"),
];

/// A source that a driver made; its descriptor has a form of its own.
const DRIVER: u64 = 16;

const SOURCE_FLAGS: &[(u32, &str)] = &[
    (0, "firmware first"),
    (1, "global"),
    (2, "GHES assist"),
    (3, "version 2 descriptor"),
    (30, "override"),
    (31, "default source"),
];

const MCE: &[Field] = &[
    skip(2),
    flag("enabled"),
    number("hardware_banks", 1),
    skip(4),
    hex("mcg_capability", 8),
    hex("mcg_global_control", 8),
];
const CMC: &[Field] = &[skip(2), flag("enabled"), number("hardware_banks", 1), skip(4)];
const NMI: &[Field] = &[skip(2), flag("enabled")];
const AER: &[Field] = &[
    skip(2),
    flag("enabled"),
    skip(1),
    number("bus", 4),
    parts("slot", 4, &[part("device", 0, 5), part("function", 5, 3)]),
    hex("device_control", 2),
    hex("aer_flags", 2),
    hex("uncorrectable_mask", 4),
    hex("uncorrectable_severity", 4),
    hex("correctable_mask", 4),
    hex("advanced_capabilities", 4),
];
const GENERIC: &[Field] = &[
    skip(3),
    flag("enabled"),
    number("error_status_block_length", 4),
    hex("related_source_id", 4),
];
const DEVICE_DRIVER: &[Field] =
    &[skip(2), flag("enabled"), skip(1), guid("source_guid"), hex("log_tag", 2)];

/// An event whose payload begins with a descriptor; its own fields follow.
pub(super) fn decode(event: &Event, payload: &[u8], record: &mut ErrorRecord) {
    let mut group = Vec::with_capacity(24);
    let mut lacking = read(DESCRIPTOR, payload, 0, &mut group);
    if lacking.is_none() {
        let info = payload.get(INFO..LENGTH).or(payload.get(INFO..)).unwrap_or_default();
        let kind = bytes_at(info, 0, 2);
        let fields = match (bytes_at(payload, 8, 4), kind) {
            (DRIVER, _) => DEVICE_DRIVER,
            (_, 0) => MCE,
            (_, 1) => CMC,
            (_, 2) => NMI,
            (_, 6..=8) => AER,
            (_, 9 | 10) => GENERIC,
            _ => &[],
        };
        group.add("descriptor_type", kind);
        lacking = read(fields, info, 0, &mut group);
        if fields.len() == GENERIC.len() && matches!(kind, 9 | 10) {
            let mut address = Vec::with_capacity(5);
            read(GENERIC_ADDRESS, info.get(size(GENERIC)..).unwrap_or_default(), 0, &mut address);
            group.add("error_status_address", Value::Group(address));
        }
    }
    record.details.add("error_source", Value::Group(group));
    let behind = payload.get(LENGTH..).unwrap_or_default();
    let lacking = lacking.or(read(event.fields, behind, 0, &mut record.details));
    if let Some(lacking) = lacking {
        report(
            record,
            32 + payload.len(),
            Kind::Truncated,
            &format!("payload ends before {lacking}"),
        );
    }
}
