//! Windows' sections about memory: what Intel's and AMD's plug-ins add to a memory error, persistent
//! memory, ranges, and sums of corrected errors.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{
    AddressMode, Details, DimmLocation, ErrorAddress, ErrorClass, ErrorRecord, Guid, PAGE_SHIFT,
    PciAddress, PhysAddr,
};

use super::super::{add, cut, summarize};
use super::{entries, groups};
use crate::cper::section::Section;
use crate::layout::{Field, bytes, code, flags, found, hex, number, number_at, read, size, skip};

/// `MEMORY_ERROR_EXT_SECTION_INTEL_GUID`.
pub(in super::super) const MEMORY_INTEL: Guid =
    Guid::new(0xe16e_db28, 0x6113, 0x4263, [0xa4, 0x1d, 0xe5, 0x3f, 0x8d, 0xe7, 0x87, 0x51]);
/// `MEMORY_ERROR_EXT_SECTION_AMD_GUID`.
pub(in super::super) const MEMORY_AMD: Guid =
    Guid::new(0x0d3a_4a3b, 0x774a, 0x4c72, [0x95, 0xe2, 0x15, 0x2d, 0x43, 0x18, 0x03, 0x74]);
/// `WHEA_MEMORY_RANGE_ERROR_SECTION_GUID`.
pub(in super::super) const MEMORY_RANGE: Guid =
    Guid::new(0xcc24_5308, 0x61d5, 0x4356, [0xa7, 0x07, 0x25, 0x17, 0x2e, 0xc2, 0xf5, 0xea]);
/// `MEMORY_CORRECTABLE_ERROR_SUMMARY_SECTION_GUID`.
pub(in super::super) const MEMORY_CORRECTED: Guid =
    Guid::new(0x0e36_c93e, 0xca15, 0x4a83, [0xba, 0x8a, 0xcb, 0xe8, 0x0f, 0x7f, 0x00, 0x17]);
/// `PMEM_ERROR_SECTION_GUID`.
pub(in super::super) const PMEM: Guid =
    Guid::new(0x8168_7003, 0xdbfd, 0x4728, [0x9f, 0xfd, 0xf0, 0x90, 0x4f, 0x97, 0x59, 0x7d]);

/// `WHEA_MEMORY_ERROR_EXT_SECTION_INTEL`.
const INTEL: &[Field] = &[
    flags("flags", 8, TRANSLATION),
    hex("valid_bits", 8),
    code("memory_definition", 4, MEMORY_DEFINITION).valid(0),
    hex("system_address", 8).valid(1),
    hex("spare_system_address", 8).valid(2),
    hex("device_physical_address", 8).valid(3),
    hex("channel_address", 8).valid(4),
    hex("rank_address", 8).valid(5),
    number("processor_socket_id", 1).valid(6),
    number("memory_controller_id", 1).valid(7),
    number("target_id", 1).valid(8),
    number("logical_channel_id", 1).valid(9),
    number("channel_id", 1).valid(10),
    number("sub_channel_id", 1).valid(11),
    number("physical_rank_id", 1).valid(12),
    number("dimm_slot_id", 1).valid(13),
    number("dimm_rank_id", 1).valid(14),
    number("bank", 1).valid(15),
    number("bank_group", 1).valid(16),
    number("row", 4).valid(17),
    number("column", 4).valid(18),
    number("lock_step_rank", 1).valid(19),
    number("lock_step_physical_rank", 1).valid(20),
    number("lock_step_bank", 1).valid(21),
    number("lock_step_bank_group", 1).valid(22),
    number("chip_select", 1).valid(23),
    number("node", 1).valid(24),
    number("chip_id", 1).valid(25),
    skip(80),
];
const _: () = assert!(size(INTEL) == 166);

/// `WHEA_MEMORY_ERROR_EXT_SECTION_FLAGS`.
const TRANSLATION: &[(u32, &str)] = &[
    (0, "address translated by PRM"),
    (1, "PRM failed to translate the address"),
    (2, "PRM can't translate addresses"),
    (3, "address translated by a plug-in"),
    (4, "a plug-in failed to translate the address"),
    (5, "no plug-in translates addresses"),
];

const MEMORY_DEFINITION: &[(u64, &str)] =
    &[(0, "undefined"), (1, "far memory"), (2, "near memory"), (3, "high-bandwidth memory")];

/// `WHEA_MEMORY_ERROR_EXT_SECTION_AMD`.
const AMD: &[Field] = &[
    flags("flags", 8, TRANSLATION),
    hex("valid_bits", 8),
    hex("system_physical_address", 8).valid(0),
    hex("normalized_address", 8).valid(1),
    hex("umc_bank_instance_id", 8).valid(2),
    number("socket_number", 1).valid(3),
    number("chip_select", 1).valid(4),
    number("bank_group", 1).valid(5),
    number("bank", 1).valid(6),
    number("row", 4).valid(7),
    number("column", 2).valid(8),
    number("rank_multiplier", 1).valid(9),
    number("sub_channel", 1).valid(10),
    number("channel_id", 1).valid(11),
];

/// `WHEA_PMEM_ERROR_SECTION`, before its page ranges.
const PMEM_FIELDS: &[Field] = &[
    hex("valid_bits", 8),
    bytes("location_info", 64).valid(2),
    hex("error_status", 8).valid(0),
    hex("nfit_handle", 4).valid(1),
    number("page_range_count", 4),
];
const _: () = assert!(size(PMEM_FIELDS) == 88);
/// `WHEA_PMEM_PAGE_RANGE`.
const PAGE_RANGE: &[Field] =
    &[hex("starting_pfn", 8), number("page_count", 8), hex("marked_bad_bitmap", 8)];

/// `WHEA_MEMORY_RANGE_ERROR_SECTION`, before its ranges; the device is a CXL one.
const RANGE_FIELDS: &[Field] = &[
    hex("valid_bits", 8),
    number("version", 4).valid(0),
    hex("vendor_id", 2).valid(1),
    hex("device_id", 2).valid(1),
    number("function_number", 1).valid(1),
    number("device_number", 1).valid(1),
    number("bus_number", 1).valid(1),
    number("segment_number", 2).valid(1),
    hex("slot", 2).valid(1),
    skip(1),
    hex("serial", 8).valid(1),
    skip(52),
    code("device_type", 1, &[(0, "CXL")]).valid(2),
    skip(1),
    number("range_count", 2).valid(3),
];
const _: () = assert!(size(RANGE_FIELDS) == 88);
const RANGE: &[Field] = &[hex("start", 8), hex("length", 8)];

/// `WHEA_MEMORY_CORRECTABLE_ERROR_DATA`.
const CORRECTED: &[Field] = &[
    hex("valid_bits", 8),
    number("socket_id", 4).valid(0),
    number("channel_id", 4).valid(1),
    number("dimm_slot", 4).valid(2),
    number("correctable_error_count", 4).valid(3),
];
const _: () = assert!(size(CORRECTED) == 24);

const VALID: usize = 8;

pub(in super::super) fn memory_intel(section: &Section<'_>, record: &mut ErrorRecord) {
    let valid = number_at(section.body, VALID, 8).unwrap_or(0);
    add("Intel memory extension", INTEL, 0, valid, section, record);
    place(&INTEL_NAMES, record);
    summary("system_address", "Intel", record);
}

pub(in super::super) fn memory_amd(section: &Section<'_>, record: &mut ErrorRecord) {
    let valid = number_at(section.body, VALID, 8).unwrap_or(0);
    add("AMD memory extension", AMD, 0, valid, section, record);
    place(&AMD_NAMES, record);
    summary("system_physical_address", "AMD", record);
}

/// How a maker's section calls the parts of a location.
struct Names {
    socket: &'static str,
    imc: &'static str,
    channel: &'static str,
    module: &'static str,
    rank: &'static str,
    chip: &'static str,
}

const INTEL_NAMES: Names = Names {
    socket: "processor_socket_id",
    imc: "memory_controller_id",
    channel: "channel_id",
    module: "dimm_slot_id",
    rank: "dimm_rank_id",
    chip: "chip_id",
};
const AMD_NAMES: Names = Names {
    socket: "socket_number",
    imc: "",
    channel: "channel_id",
    module: "",
    rank: "",
    chip: "rank_multiplier",
};

fn place(names: &Names, record: &mut ErrorRecord) {
    let details = &record.details;
    let byte = |name| found(details, name).and_then(|number| u8::try_from(number).ok());
    let word = |name| found(details, name).and_then(|number| u32::try_from(number).ok());
    let dimm = DimmLocation {
        node: byte("node").map(u16::from),
        module: byte(names.module).map(u16::from),
        rank: byte(names.rank).map(u16::from),
        bank_group: byte("bank_group"),
        bank: byte("bank").map(u16::from),
        chip: byte(names.chip),
        row: word("row"),
        column: word("column"),
        ..DimmLocation::default()
    };
    let (socket, imc, channel) =
        (word(names.socket), byte(names.imc).map(u16::from), byte(names.channel));
    let location = &mut record.location;
    location.dimm = dimm;
    location.socket = socket;
    location.imc = imc;
    location.channel = channel;
}

fn summary(address: &str, maker: &str, record: &mut ErrorRecord) {
    let address = found(&record.details, address).map(|address| ErrorAddress {
        addr: PhysAddr(address >> 6 << 6),
        lsb: 6,
        mode: AddressMode::Physical,
    });
    record.address = address;
    let at = address.map_or_else(String::new, |at| format!(" at {}", at.addr));
    summarize(record, ErrorClass::Memory, format!("memory error{at}, place by {maker}'s plug-in"));
}

pub(in super::super) fn pmem(section: &Section<'_>, record: &mut ErrorRecord) {
    let valid = number_at(section.body, 0, 8).unwrap_or(0);
    let mut ranges = 0;
    if add("persistent memory", PMEM_FIELDS, 0, valid, section, record) {
        let list = list(PAGE_RANGE, size(PMEM_FIELDS), "page_range_count", section, record);
        ranges = list.len();
        if let [only] = list.as_slice()
            && found(only, "page_count") == Some(1)
            && let Some(pfn) =
                found(only, "starting_pfn").and_then(|pfn| pfn.checked_mul(1 << PAGE_SHIFT))
        {
            let lsb = PAGE_SHIFT.to_le_bytes()[0];
            record.address =
                Some(ErrorAddress { addr: PhysAddr(pfn), lsb, mode: AddressMode::Physical });
        }
        record.details.add("page_ranges", groups(list));
    }
    let what = format!("persistent memory error in {ranges} ranges of pages");
    summarize(record, ErrorClass::Memory, what);
}

/// Fixed entries at `at`, as many as the detail `count` announces.
fn list(
    fields: &[Field],
    at: usize,
    count: &str,
    section: &Section<'_>,
    record: &mut ErrorRecord,
) -> Vec<Vec<ras_core::Detail>> {
    let announced = found(&record.details, count).unwrap_or(0);
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    let mut list = Vec::new();
    let bodies = section.body.get(at..).unwrap_or_default();
    for entry in bodies.chunks_exact(size(fields)).take(announced) {
        let mut group = Vec::with_capacity(fields.len());
        read(fields, entry, 0, &mut group);
        list.push(group);
    }
    if list.len() < announced {
        let there = list.len();
        cut(section, record, &format!("{announced} entries announced, {there} are there"));
    }
    list
}

pub(in super::super) fn memory_range(section: &Section<'_>, record: &mut ErrorRecord) {
    let valid = number_at(section.body, 0, 8).unwrap_or(0);
    if add("memory range", RANGE_FIELDS, 0, valid, section, record) && valid >> 4 & 1 == 1 {
        let list = list(RANGE, size(RANGE_FIELDS), "range_count", section, record);
        record.details.add("ranges", groups(list));
    }
    let details = &record.details;
    let byte = |name| found(details, name).and_then(|number| u8::try_from(number).ok());
    if let (Some(segment), Some(bus), Some(device @ ..32), Some(function @ ..8)) = (
        found(details, "segment_number").and_then(|number| u32::try_from(number).ok()),
        byte("bus_number"),
        byte("device_number"),
        byte("function_number"),
    ) {
        record.location.pci = Some(PciAddress { segment, bus, device, function });
    }
    let ranges = found(&record.details, "range_count").unwrap_or(0);
    summarize(
        record,
        ErrorClass::Cxl,
        format!("errors in {ranges} ranges of a CXL device's memory"),
    );
}

pub(in super::super) fn memory_corrected(section: &Section<'_>, record: &mut ErrorRecord) {
    let list = entries("memory summary", CORRECTED, section, record);
    let errors: u64 = list
        .iter()
        .filter_map(|entry| found(entry, "correctable_error_count"))
        .fold(0, u64::saturating_add);
    if let [only] = list.as_slice() {
        let number = |name| found(only, name);
        record.location.socket = number("socket_id").and_then(|id| u32::try_from(id).ok());
        record.location.channel = number("channel_id").and_then(|id| u8::try_from(id).ok());
        record.location.dimm.module = number("dimm_slot").and_then(|id| u16::try_from(id).ok());
    }
    let modules = list.len();
    record.count = u32::try_from(errors).unwrap_or(u32::MAX).max(1);
    record.details.add("modules", groups(list));
    let what = format!("{errors} corrected memory errors on {modules} modules, summed up");
    summarize(record, ErrorClass::Memory, what);
}
