//! Windows' own sections (WHEA). Windows Driver Kit, `cper.h`, `cperguid.h` and `ntddk.h`; all of
//! their structures are packed.

mod mca;
mod memory;
mod packet;

use alloc::format;
use alloc::vec::Vec;

use ras_core::{Detail, Details, ErrorClass, ErrorRecord, Guid, PciAddress, Value};

use super::{add, cut, summarize};
use crate::cper::section::Section;
use crate::layout::{
    Field, Part, bytes, code, coded_part, flag, flags, found, guid, hex, meaning, number,
    number_at, part, parts, read, size, skip, text, words,
};

pub(in crate::cper) use self::mca::identify_processor;
pub(super) use self::mca::{XPF_MCA, xpf_mca};
pub(super) use self::memory::{
    MEMORY_AMD, MEMORY_CORRECTED, MEMORY_INTEL, MEMORY_RANGE, PMEM, memory_amd, memory_corrected,
    memory_intel, memory_range, pmem,
};
pub(in crate::cper) use self::packet::ERROR_PACKET;
pub(super) use self::packet::{GENERIC, error_packet, generic};

/// `NMI_SECTION_GUID`.
pub(super) const NMI: Guid =
    Guid::new(0xe712_54e7, 0xc1b9, 0x4940, [0xab, 0x76, 0x90, 0x97, 0x03, 0xa4, 0x32, 0x0f]);
/// `RECOVERY_INFO_SECTION_GUID`.
pub(super) const RECOVERY_INFO: Guid =
    Guid::new(0xc348_32a1, 0x02c3, 0x4c52, [0xa9, 0xf1, 0x9f, 0x1d, 0x5d, 0x77, 0x23, 0xfc]);
/// `WHEA_DPC_CAPABILITY_SECTION_GUID`.
pub(super) const PCI_DPC: Guid =
    Guid::new(0xec49_534b, 0x30e7, 0x4358, [0x97, 0x2f, 0xec, 0xa6, 0x95, 0x8f, 0xae, 0x3b]);
/// `PCI_RECOVERY_SECTION_GUID`.
pub(super) const PCI_RECOVERY: Guid =
    Guid::new(0xdd06_0800, 0xf6e1, 0x4204, [0xac, 0x27, 0xc4, 0xbc, 0xa9, 0x56, 0x84, 0x02]);
/// `PCIE_CORRECTABLE_ERROR_SUMMARY_SECTION_GUID`.
pub(super) const PCIE_CORRECTED: Guid =
    Guid::new(0xe96e_ca99, 0x53e2, 0x4f52, [0x9b, 0xe7, 0xd2, 0xdb, 0xe9, 0x50, 0x8e, 0xd0]);
/// `IPMI_MSR_DUMP_SECTION_GUID`.
pub(super) const MSR_DUMP: Guid =
    Guid::new(0x1c15_b445, 0x9b06, 0x4667, [0xac, 0x25, 0x33, 0xc0, 0x56, 0xb8, 0x88, 0x03]);
/// `SEA_SECTION_GUID`.
pub(super) const ARM_SEA: Guid =
    Guid::new(0xf5fe_48a6, 0x84ce, 0x4c1e, [0xaa, 0x64, 0x20, 0xc9, 0xa5, 0x30, 0x99, 0xf1]);
/// `SEI_SECTION_GUID`.
pub(super) const ARM_SEI: Guid =
    Guid::new(0xf2a4_a152, 0x9c6d, 0x4020, [0xae, 0xcf, 0x76, 0x95, 0xb3, 0x89, 0x25, 0x1b]);
/// `ARM_RAS_NODE_SECTION_GUID`.
pub(super) const ARM_RAS_NODE: Guid =
    Guid::new(0xe3eb_f4a2, 0xdf50, 0x4708, [0xb2, 0xd7, 0x0b, 0x29, 0xec, 0x2f, 0x7a, 0xa9]);
/// `MU_TELEMETRY_SECTION_GUID`.
pub(super) const MU_TELEMETRY: Guid =
    Guid::new(0x8518_3a8b, 0x9c41, 0x429c, [0x93, 0x9c, 0x5c, 0x3c, 0x08, 0x7c, 0xa2, 0x80]);
/// `PLATFORM_EXTENDED_RAS_SECTION_GUID`.
pub(super) const EXTENDED_RAS: Guid =
    Guid::new(0xc674_9ac0, 0x16fb, 0x4868, [0xb9, 0x76, 0x65, 0xa6, 0x12, 0x99, 0x83, 0x4f]);
/// `IPF_SAL_RECORD_SECTION_GUID`.
pub(super) const IPF_SAL: Guid =
    Guid::new(0x6f33_80d1, 0x6eb0, 0x497f, [0xa5, 0x78, 0x4d, 0x4c, 0x65, 0xa7, 0x16, 0x17]);
/// `WHEA_DEVICE_ERROR_SUMMARY_GUID`.
pub(super) const DEVICE_SUMMARY: Guid =
    Guid::new(0x990b_31e9, 0x541a, 0x4db0, [0xa4, 0x2f, 0x83, 0x7d, 0x34, 0x4f, 0x69, 0x23]);

/// `WHEA_NMI_ERROR_SECTION`.
const NMI_FIELDS: &[Field] = &[bytes("data", 8), flags("flags", 4, &[(0, "hypervisor error")])];

/// `WHEA_ERROR_RECOVERY_INFO_SECTION`.
const RECOVERY_INFO_FIELDS: &[Field] = &[
    flag("recovery_kernel"),
    flags("recovery_action", 8, RECOVERY_ACTION),
    code("recovery_type", 4, &[(1, "action required"), (2, "action optional")]),
    number("irql", 1),
    flag("recovery_succeeded"),
    code("failure_reason", 4, RECOVERY_FAILURE),
    text("process_name", 20),
];
const _: () = assert!(size(RECOVERY_INFO_FIELDS) == 39);

const RECOVERY_ACTION: &[(u32, &str)] = &[
    (0, "none attempted"),
    (1, "process terminated"),
    (2, "forwarded to the virtual machine"),
    (3, "page marked bad"),
    (4, "poison not present"),
];

/// `WHEA_RECOVERY_FAILURE_REASON`.
const RECOVERY_FAILURE: &[(u64, &str)] = &[
    (1, "kernel could not mark the memory bad"),
    (2, "marking the memory bad timed out"),
    (3, "no recovery context"),
    (4, "not continuable"),
    (5, "processor context corrupt"),
    (6, "overflow"),
    (7, "not supported"),
    (8, "MISC or ADDR not valid"),
    (9, "invalid address mode"),
    (10, "high IRQL"),
    (11, "too few alternate context wrappers"),
    (12, "interrupts disabled"),
    (13, "swap busy"),
    (14, "stack overflow"),
    (15, "unexpected failure"),
    (16, "a page fault at this IRQL would crash"),
    (17, "FAR not valid"),
];

/// `PCI_EXPRESS_DPC_CAPABILITY`. PCI Express Base Specification, "Downstream Port Containment
/// Extended Capability".
const PCI_DPC_FIELDS: &[Field] = &[
    parts(
        "extended_capability",
        4,
        &[part("id", 0, 16), part("version", 16, 4), part("next", 20, 12)],
    ),
    parts("dpc_capabilities", 2, DPC_CAPABILITIES),
    parts("dpc_control", 2, DPC_CONTROL),
    parts("dpc_status", 2, DPC_STATUS),
    parts(
        "dpc_error_source",
        2,
        &[part("function", 0, 3), part("device", 3, 5), part("bus", 8, 8)],
    ),
    flags("rp_pio_status", 4, RP_PIO),
    flags("rp_pio_mask", 4, RP_PIO),
    flags("rp_pio_severity", 4, RP_PIO),
    flags("rp_pio_sys_error", 4, RP_PIO),
    flags("rp_pio_exception", 4, RP_PIO),
    words("rp_pio_header_log", 4, 4),
    hex("rp_pio_impl_spec_log", 4),
    words("rp_pio_tlp_prefix_log", 4, 4),
];
const _: () = assert!(size(PCI_DPC_FIELDS) == 68);

const DPC_CAPABILITIES: &[Part] = &[
    part("interrupt_message_number", 0, 5),
    part("rp_extensions", 5, 1),
    part("poisoned_tlp_egress_blocking", 6, 1),
    part("software_triggering", 7, 1),
    part("rp_pio_log_size", 8, 4),
    part("dl_active_err_cor", 12, 1),
];
const DPC_CONTROL: &[Part] = &[
    coded_part("trigger_enable", 0, 2, &[(0, "disabled"), (1, "fatal"), (2, "non-fatal or fatal")]),
    part("completion_control", 2, 1),
    part("interrupt_enable", 3, 1),
    part("err_cor_enable", 4, 1),
    part("poisoned_tlp_egress_blocking_enable", 5, 1),
    part("software_trigger", 6, 1),
    part("dl_active_err_cor_enable", 7, 1),
];
const DPC_STATUS: &[Part] = &[
    part("trigger_status", 0, 1),
    coded_part("trigger_reason", 1, 2, TRIGGER_REASON),
    part("interrupt_status", 3, 1),
    part("rp_busy", 4, 1),
    coded_part("trigger_reason_extension", 5, 2, &[(0, "RP PIO"), (1, "software trigger")]),
    part("rp_pio_first_error_pointer", 8, 5),
];
const TRIGGER_REASON: &[(u64, &str)] = &[
    (0, "unmasked uncorrectable error"),
    (1, "ERR_NONFATAL"),
    (2, "ERR_FATAL"),
    (3, "see the extension"),
];
const RP_PIO: &[(u32, &str)] = &[
    (0, "configuration: unsupported request"),
    (1, "configuration: completer abort"),
    (2, "configuration: completion timeout"),
    (8, "I/O: unsupported request"),
    (9, "I/O: completer abort"),
    (10, "I/O: completion timeout"),
    (16, "memory: unsupported request"),
    (17, "memory: completer abort"),
    (18, "memory: completion timeout"),
];

/// `WHEA_PCI_RECOVERY_SECTION`.
const PCI_RECOVERY_FIELDS: &[Field] = &[
    code("signal_type", 1, &[(0, "unknown"), (1, "AER"), (2, "DPC")]),
    flag("recovery_attempted"),
    code("recovery_status", 1, PCI_RECOVERY_STATUS),
];
const PCI_RECOVERY_STATUS: &[(u64, &str)] = &[
    (0, "unknown"),
    (1, "no error"),
    (2, "link did not get disabled in time"),
    (3, "link did not get enabled in time"),
    (4, "root port stayed busy"),
    (5, "tree too complex"),
    (6, "bus not found"),
    (7, "device not found"),
    (8, "directly assigned device not recoverable"),
    (9, "recovery failed"),
    (10, "recovered without devices"),
    (11, "CXL device not recoverable"),
];

/// One of `WHEA_PCIE_CORRECTABLE_ERROR_DEVICES`, behind a version and a count.
const PCIE_CORRECTED_DEVICE: &[Field] = &[
    hex("valid_bits", 8),
    number("segment", 4).valid(0),
    number("bus", 4).valid(1),
    number("device", 4).valid(2),
    number("function", 4).valid(3),
    hex("mask", 4).valid(4),
    words("correctable_error_count", 4, 32).valid(5),
];
const _: () = assert!(size(PCIE_CORRECTED_DEVICE) == 156);

/// Version and count of a summary's entries.
const SUMMARY_HEADER: &[Field] = &[number("version", 2), number("count", 2)];

/// `WHEA_MSR_DUMP_SECTION`.
const MSR_DUMP_FIELDS: &[Field] = &[number("msr_dump_buffer", 1), number("msr_dump_length", 4)];

/// `WHEA_SEA_SECTION`.
const ARM_SEA_FIELDS: &[Field] = &[hex("esr", 4), hex("far", 8), hex("par", 8), flag("was_kernel")];
/// `WHEA_SEI_SECTION`.
const ARM_SEI_FIELDS: &[Field] = &[hex("esr", 4), hex("far", 8)];

/// `WHEA_ARM_RAS_NODE_SECTION`.
const ARM_RAS_NODE_FIELDS: &[Field] = &[
    number("node_field_count", 4),
    number("node_index", 4),
    code("interface_type", 1, &[(0, "system register"), (1, "MMIO")]),
    code("aest_node_type", 1, AEST_NODE),
    skip(6),
    hex("err_fr", 8),
    hex("err_ctlr", 8),
    hex("err_status", 8),
    hex("err_addr", 8),
    hex("err_misc0", 8),
    hex("err_misc1", 8),
    hex("err_misc2", 8),
    hex("err_misc3", 8),
];
const _: () = assert!(size(ARM_RAS_NODE_FIELDS) == 80);
/// ACPI for the Armv8 RAS Extensions, "AEST node types".
const AEST_NODE: &[(u64, &str)] =
    &[(0, "processor"), (1, "memory"), (2, "SMMU"), (3, "vendor-defined"), (4, "GIC")];

/// `MU_TELEMETRY_SECTION`.
const MU_TELEMETRY_FIELDS: &[Field] = &[
    guid("component_id"),
    guid("sub_component_id"),
    skip(4),
    hex("error_status_value", 4),
    hex("additional_info_1", 8),
    hex("additional_info_2", 8),
];

pub(super) fn nmi(section: &Section<'_>, record: &mut ErrorRecord) {
    add("NMI", NMI_FIELDS, 0, 0, section, record);
    summarize(record, ErrorClass::Platform, "non-maskable interrupt".into());
}

pub(super) fn recovery_info(section: &Section<'_>, record: &mut ErrorRecord) {
    add("recovery information", RECOVERY_INFO_FIELDS, 0, 0, section, record);
    let details = &record.details;
    // Bit 0 of the action: none attempted.
    let attempted = number_at(section.body, 1, 1).is_some_and(|action| action & 1 == 0);
    let what = match (found(details, "recovery_succeeded"), meaning(details, "failure_reason")) {
        (Some(1), _) => "Windows recovered from the error".into(),
        (_, Some(reason)) => format!("Windows did not recover from the error: {reason}"),
        _ if !attempted => "Windows attempted no recovery".into(),
        _ => "Windows did not recover from the error".into(),
    };
    summarize(record, ErrorClass::Unknown, what);
}

pub(super) fn pci_dpc(section: &Section<'_>, record: &mut ErrorRecord) {
    add("PCIe DPC", PCI_DPC_FIELDS, 0, 0, section, record);
    let status = record.details.iter().find(|detail| detail.name == "dpc_status");
    let reason = match status.map(|status| &status.value) {
        Some(Value::Group(status)) => meaning(status, "trigger_reason").unwrap_or("unknown"),
        _ => "unknown",
    };
    let what = format!("PCIe port contained an error, trigger reason {reason}");
    summarize(record, ErrorClass::Pcie, what);
}

pub(super) fn pci_recovery(section: &Section<'_>, record: &mut ErrorRecord) {
    add("PCI recovery", PCI_RECOVERY_FIELDS, 0, 0, section, record);
    let status = meaning(&record.details, "recovery_status").unwrap_or("undefined");
    let what = format!("Windows' PCI recovery: {status}");
    summarize(record, ErrorClass::Pcie, what);
}

pub(super) fn pcie_corrected(section: &Section<'_>, record: &mut ErrorRecord) {
    let list = entries("PCIe summary", PCIE_CORRECTED_DEVICE, section, record);
    if let [only] = list.as_slice() {
        record.location.pci = pci(only);
    }
    let count = list.len();
    record.details.add("devices", groups(list));
    summarize(
        record,
        ErrorClass::Pcie,
        format!("corrected PCIe errors of {count} devices, summed up"),
    );
}

fn pci(device: &[Detail]) -> Option<PciAddress> {
    let byte = |name| found(device, name).and_then(|number| u8::try_from(number).ok());
    let segment = found(device, "segment").and_then(|number| u32::try_from(number).ok());
    let address = PciAddress {
        segment: segment.unwrap_or(0),
        bus: byte("bus")?,
        device: byte("device")?,
        function: byte("function")?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

/// The entries behind a [`SUMMARY_HEADER`]; each begins with its validity bits.
fn entries(
    name: &str,
    fields: &[Field],
    section: &Section<'_>,
    record: &mut ErrorRecord,
) -> Vec<Vec<Detail>> {
    if !add(name, SUMMARY_HEADER, 0, 0, section, record) {
        return Vec::new();
    }
    let announced = number_at(section.body, 2, 2).and_then(|count| usize::try_from(count).ok());
    let announced = announced.unwrap_or(0);
    let bodies = section.body.get(size(SUMMARY_HEADER)..).unwrap_or_default();
    let mut list = Vec::new();
    for entry in bodies.chunks_exact(size(fields)).take(announced) {
        let mut group = Vec::with_capacity(fields.len());
        read(fields, entry, number_at(entry, 0, 8).unwrap_or(0), &mut group);
        list.push(group);
    }
    if list.len() < announced {
        let there = list.len();
        cut(section, record, &format!("{announced} entries announced, {there} are there"));
    }
    list
}

fn groups(list: Vec<Vec<Detail>>) -> Value {
    Value::List(list.into_iter().map(Value::Group).collect())
}

pub(super) fn msr_dump(section: &Section<'_>, record: &mut ErrorRecord) {
    add("MSR dump", MSR_DUMP_FIELDS, 0, 0, section, record);
    if let Some(rest) = section.body.get(size(MSR_DUMP_FIELDS)..) {
        // The section's raw bytes have all of it.
        let shown = rest.get(..256).unwrap_or(rest);
        record.details.add("msr_dump_data", Value::Bytes(shown.into()));
    }
    summarize(record, ErrorClass::Platform, "dump of machine-specific registers".into());
}

pub(super) fn arm_sea(section: &Section<'_>, record: &mut ErrorRecord) {
    add("ARM SEA", ARM_SEA_FIELDS, 0, 0, section, record);
    summarize(record, ErrorClass::Processor, "Arm synchronous external abort".into());
}

pub(super) fn arm_sei(section: &Section<'_>, record: &mut ErrorRecord) {
    add("ARM SEI", ARM_SEI_FIELDS, 0, 0, section, record);
    summarize(record, ErrorClass::Processor, "Arm SError interrupt".into());
}

pub(super) fn arm_ras_node(section: &Section<'_>, record: &mut ErrorRecord) {
    add("ARM RAS node", ARM_RAS_NODE_FIELDS, 0, 0, section, record);
    let (class, node) = match found(&record.details, "aest_node_type") {
        Some(0) => (ErrorClass::Processor, "processor"),
        Some(1) => (ErrorClass::Memory, "memory"),
        Some(2) => (ErrorClass::Iommu, "SMMU"),
        Some(4) => (ErrorClass::Platform, "GIC"),
        _ => (ErrorClass::Platform, "vendor-defined"),
    };
    summarize(record, class, format!("Arm RAS node error ({node})"));
}

pub(super) fn mu_telemetry(section: &Section<'_>, record: &mut ErrorRecord) {
    add("Mu telemetry", MU_TELEMETRY_FIELDS, 0, 0, section, record);
    summarize(record, ErrorClass::Firmware, "firmware telemetry (Project Mu)".into());
}

#[cfg(test)]
pub(crate) mod tests;
