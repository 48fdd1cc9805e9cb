//! Ampere Altra's sections. Ampere Computing, "Altra RAS" payload types, as rasdaemon's
//! `non-standard-ampere.h` and OpenBMC's libcper have them.

use alloc::format;
use alloc::string::String;

use ras_core::{Details, ErrorClass, ErrorRecord, Guid, Value};

use super::{add, cut, summarize};
use crate::cper::section::Section;
use crate::layout::{Field, code, hex, meaning, number, number_at, size};

/// What the host's firmware reports.
pub(super) const SECTION_TYPE: Guid =
    Guid::new(0xe8ed_898d, 0xdf16, 0x43cc, [0x8e, 0xcc, 0x54, 0xf0, 0x60, 0xef, 0x15, 0x7f]);
/// What its management controller logs: only who it was.
pub(super) const BMC_SECTION_TYPE: Guid =
    Guid::new(0x2826_cc9f, 0x448c, 0x4c2b, [0x86, 0xb6, 0xa9, 0x53, 0x94, 0xb7, 0xef, 0x33]);

/// Payload type 0: an Armv8 error record.
const ARM_RECORD: &[Field] = &[
    hex("err_status", 4),
    hex("err_addr", 8),
    hex("err_misc_0", 8),
    hex("err_misc_1", 8),
    hex("err_misc_2", 8),
    hex("err_misc_3", 8),
];
/// Payload type 1: PCIe AER.
const AER: &[Field] = &[
    hex("uncorrectable_status", 4),
    hex("uncorrectable_mask", 4),
    hex("uncorrectable_severity", 4),
    hex("correctable_status", 4),
    hex("correctable_mask", 4),
    hex("root_error_command", 4),
    hex("root_error_status", 4),
    hex("error_source_id", 4),
    hex("reserved1", 4),
    hex("reserved2", 8),
];
/// Payload type 2: the data path of a PCIe controller.
const RASDP: &[Field] = &[
    hex("ce_register", 4),
    hex("ce_location", 4),
    hex("ce_addr", 4),
    hex("ue_register", 4),
    hex("ue_location", 4),
    hex("ue_addr", 4),
    hex("reserved1", 4),
    hex("reserved2", 8),
    hex("reserved3", 8),
];
/// Payload type 3: the firmware's own data.
const FIRMWARE: &[Field] = &[
    hex("fw_data_0", 4),
    hex("fw_data_1", 8),
    hex("fw_data_2", 8),
    hex("fw_data_3", 8),
    hex("fw_data_4", 8),
    hex("fw_data_5", 8),
];
const _: () = assert!(size(ARM_RECORD) == 44 && size(AER) == 44);
const _: () = assert!(size(RASDP) == 44 && size(FIRMWARE) == 44);

const BMC: &[Field] = &[code("type_id", 2, TYPES), number("sub_type_id", 2), hex("instance_id", 4)];

const TYPES: &[(u64, &str)] = &[
    (0, "CPM"),
    (1, "MCU"),
    (2, "mesh"),
    (3, "2P link (Altra)"),
    (4, "2P link (Altra Max)"),
    (5, "GIC"),
    (6, "SMMU"),
    (7, "PCIe AER"),
    (8, "PCIe RASDP"),
    (9, "OCM"),
    (10, "SMPro"),
    (11, "PMPro"),
    (12, "ATF firmware"),
    (13, "SMPro firmware"),
    (14, "PMPro firmware"),
    (63, "BERT"),
];

const CPM: &[(u64, &str)] = &[(0, "snoop logic"), (1, "core 0"), (2, "core 1")];
const MCU: &[(u64, &str)] = &[
    (0, "ERR0"),
    (1, "ERR1"),
    (2, "ERR2"),
    (3, "ERR3"),
    (4, "ERR4"),
    (5, "ERR5"),
    (6, "ERR6"),
    (7, "link error"),
];
const MESH: &[(u64, &str)] =
    &[(0, "cross point"), (1, "home node (IO)"), (2, "home node (memory)"), (3, "CCIX node")];
const NUMBERED: &[(u64, &str)] = &[(0, "ERR0"), (1, "ERR1"), (2, "ERR2"), (3, "ERR3")];
const GIC: &[(u64, &str)] = &[
    (13, "ERR13 (ITS 0)"),
    (14, "ERR14 (ITS 1)"),
    (15, "ERR15 (ITS 2)"),
    (16, "ERR16 (ITS 3)"),
    (17, "ERR17 (ITS 4)"),
    (18, "ERR18 (ITS 5)"),
    (19, "ERR19 (ITS 6)"),
    (20, "ERR20 (ITS 7)"),
];
const SMMU: &[(u64, &str)] = &[
    (0, "TBU0"),
    (1, "TBU1"),
    (2, "TBU2"),
    (3, "TBU3"),
    (4, "TBU4"),
    (5, "TBU5"),
    (6, "TBU6"),
    (7, "TBU7"),
    (8, "TBU8"),
    (9, "TBU9"),
    (100, "TCU"),
];
const PCIE_AER: &[(u64, &str)] = &[(0, "root port"), (1, "device")];
const PCIE_RASDP: &[(u64, &str)] = &[(0, "RCA HB error"), (1, "RCB HB error"), (8, "RASDP error")];
const PROCESSOR: &[(u64, &str)] = &[(0, "ERR0"), (1, "ERR1"), (2, "MPA_ERR")];
const ATF: &[(u64, &str)] = &[(0, "EL3"), (1, "SPM"), (2, "secure partition")];
const MESSAGE: &[(u64, &str)] = &[(0, "RAS_MSG_ERR")];
const BERT: &[(u64, &str)] =
    &[(0, "default"), (1, "watchdog"), (2, "ATF fatal"), (3, "SMPro fatal"), (4, "PMPro fatal")];

fn sub_types(kind: u64) -> &'static [(u64, &'static str)] {
    match kind {
        0 => CPM,
        1 => MCU,
        2 => MESH,
        4 | 9 => NUMBERED,
        5 => GIC,
        6 => SMMU,
        7 => PCIE_AER,
        8 => PCIE_RASDP,
        10 | 11 => PROCESSOR,
        12 => ATF,
        13 | 14 => MESSAGE,
        63 => BERT,
        _ => &[],
    }
}

const fn class(kind: u64) -> ErrorClass {
    match kind {
        0 => ErrorClass::Processor,
        1 => ErrorClass::Memory,
        2..=4 => ErrorClass::Bus,
        6 => ErrorClass::Iommu,
        7 | 8 => ErrorClass::Pcie,
        10..=14 => ErrorClass::Firmware,
        _ => ErrorClass::Platform,
    }
}

pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let Some((head, _)) = section.body.split_at_checked(4) else {
        return cut(section, record, "Ampere section has no header");
    };
    let (payload, kind) = (head[0] >> 6, u64::from(head[0] & 0x3f));
    let instance = u16::from_le_bytes([head[2], head[3]]);
    record.details.add("payload_type", payload);
    record.details.add("type", Value::code(kind, TYPES));
    record.details.add("sub_type", Value::code(head[1].into(), sub_types(kind)));
    record.details.add_hex("instance", instance & 0x3fff);
    record.location.socket = Some(u32::from(instance >> 14));
    let fields = [ARM_RECORD, AER, RASDP, FIRMWARE][usize::from(payload)];
    add("Ampere", fields, 4, 0, section, record);
    let name = meaning(&record.details, "type").unwrap_or("component of unknown type");
    let part =
        meaning(&record.details, "sub_type").map_or(String::new(), |part| format!(" ({part})"));
    let what = format!("Ampere {name}{part} error");
    summarize(record, class(kind), what);
}

pub(super) fn decode_ids(section: &Section<'_>, record: &mut ErrorRecord) {
    add("Ampere", BMC, 0, 0, section, record);
    let kind = number_at(section.body, 0, 2).unwrap_or(u64::MAX);
    let name = meaning(&record.details, "type_id").unwrap_or("component of unknown type");
    let what = format!("Ampere {name} error");
    summarize(record, class(kind), what);
}
