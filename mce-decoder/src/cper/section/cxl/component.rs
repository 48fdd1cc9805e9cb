//! CXL Component Events sections: UEFI's wrapper, and one record of the device's event log in it.
//!
//! UEFI Specification, Appendix N, "CXL Component Events Section".

use alloc::format;
use alloc::vec::Vec;

use ras_core::{
    AddressMode, Detail, Details, DimmLocation, ErrorAddress, ErrorClass, ErrorRecord, PciAddress,
    PhysAddr, ProblemKind, Timestamp, Value,
};

use super::records;
use crate::cper::report;
use crate::cper::section::Section;
use crate::layout::{Field, found, hex, little, meaning, number, number_at, read, size, skip};
use crate::mca::phrase;

/// The wrapper.
const WRAPPER: &[Field] = &[
    number("section_length", 4),
    hex("validation_bits", 8),
    hex("vendor_id", 2).valid(0),
    hex("device_id", 2).valid(0),
    number("function_number", 1).valid(0),
    number("device_number", 1).valid(0),
    number("bus_number", 1).valid(0),
    number("segment_number", 2).valid(0),
    number("slot", 2).valid(0),
    skip(1),
    hex("serial", 8).valid(1),
];
const _: () = assert!(size(WRAPPER) == 32);
const VALIDATION: usize = 4;
const EVENT_LOG_VALID: u32 = 2;

/// What differs between the kinds of records.
struct Kind {
    name: &'static str,
    fields: &'static [Field],
    /// Where its validity flags are, and how many bytes they take.
    validity: Option<(usize, usize)>,
    /// The type code of a data path error or, for modules, of an FRU error: the one with sub-types.
    typed: Option<(usize, u8)>,
}

pub(super) fn general_media(section: &Section<'_>, record: &mut ErrorRecord) {
    let kind = Kind {
        name: "CXL general media",
        fields: records::GENERAL_MEDIA_FIELDS,
        validity: Some((records::MEDIA_VALIDITY, 2)),
        typed: Some((9, 2)),
    };
    decode(&kind, section, record);
    media(3, record);
}

pub(super) fn dram(section: &Section<'_>, record: &mut ErrorRecord) {
    let kind = Kind {
        name: "CXL DRAM",
        fields: records::DRAM_FIELDS,
        validity: Some((records::MEDIA_VALIDITY, 2)),
        typed: Some((9, 3)),
    };
    decode(&kind, section, record);
    media(8, record);
}

pub(super) fn memory_module(section: &Section<'_>, record: &mut ErrorRecord) {
    let kind = Kind {
        name: "CXL memory module",
        fields: records::MEMORY_MODULE_FIELDS,
        validity: Some((records::MODULE_VALIDITY, 2)),
        typed: Some((0, 7)),
    };
    decode(&kind, section, record);
    component_id(0, 1, record);
}

pub(super) fn memory_sparing(section: &Section<'_>, record: &mut ErrorRecord) {
    let kind = Kind {
        name: "CXL memory sparing",
        fields: records::MEMORY_SPARING_FIELDS,
        validity: Some((records::SPARING_VALIDITY, 2)),
        typed: None,
    };
    decode(&kind, section, record);
    cells(record);
    component_id(7, 8, record);
}

pub(super) fn physical_switch(section: &Section<'_>, record: &mut ErrorRecord) {
    decode(&plain("CXL physical switch", records::PHYSICAL_SWITCH_FIELDS), section, record);
}

pub(super) fn virtual_switch(section: &Section<'_>, record: &mut ErrorRecord) {
    decode(&plain("CXL virtual switch", records::VIRTUAL_SWITCH_FIELDS), section, record);
}

pub(super) fn mld_port(section: &Section<'_>, record: &mut ErrorRecord) {
    decode(&plain("CXL MLD port", records::MLD_PORT_FIELDS), section, record);
}

pub(super) fn dynamic_capacity(section: &Section<'_>, record: &mut ErrorRecord) {
    let kind = Kind {
        validity: Some((records::CAPACITY_VALIDITY, 1)),
        ..plain("CXL dynamic capacity", records::DYNAMIC_CAPACITY_FIELDS)
    };
    decode(&kind, section, record);
}

const fn plain(name: &'static str, fields: &'static [Field]) -> Kind {
    Kind { name, fields, validity: None, typed: None }
}

fn decode(kind: &Kind, section: &Section<'_>, record: &mut ErrorRecord) {
    record.class = ErrorClass::Cxl;
    record.summary = format!("{} event, {}", kind.name, phrase(record.severity));
    let valid = number_at(section.body, VALIDATION, 8).unwrap_or(0);
    let mut details = Vec::with_capacity(32);
    let mut lacking = read(WRAPPER, section.body, valid, &mut details);
    if let Some(slot) = details.iter_mut().find(|detail| detail.name == "slot") {
        // Bits 2:0 are reserved.
        slot.value = Value::Number(found(core::slice::from_ref(slot), "slot").unwrap_or(0) >> 3);
    }
    if let Some(pci) = pci(&details) {
        record.location.pci = Some(pci);
    }
    if lacking.is_none() && valid >> EVENT_LOG_VALID & 1 == 1 {
        let log = section.body.get(size(WRAPPER)..).unwrap_or_default();
        lacking = event(kind, log, &mut details);
        if let Some(time) = found(&details, "timestamp").filter(|time| *time != 0) {
            record.time = Some(Timestamp(time));
        }
    }
    record.details = details;
    if let Some(lacking) = lacking {
        let length = section.body.len();
        let detail = format!("{} section of {length} bytes ends before {lacking}", kind.name);
        report(&mut record.problems, section.offset + length, ProblemKind::Truncated, detail);
    }
    let what = meaning(&record.details, "type").or(meaning(&record.details, "event_type"));
    if let Some(what) = what {
        record.summary = format!("{}: {what}, {}", kind.name, phrase(record.severity));
    }
}

/// One event record, without its identifier.
fn event(kind: &Kind, log: &[u8], details: &mut Vec<Detail>) -> Option<&'static str> {
    let (common, body) = log.split_at_checked(size(records::COMMON)).unwrap_or((log, &[]));
    let flags = number_at(common, 1, 3).unwrap_or(0);
    let lacking = read(records::COMMON, common, flags, details);
    if lacking.is_some() {
        return lacking;
    }
    let validity = kind.validity.and_then(|(at, width)| number_at(body, at, width)).unwrap_or(0);
    let typed = kind.typed.is_some_and(|(at, value)| body.get(at) == Some(&value));
    let threshold = body.get(8).is_some_and(|descriptor| descriptor & 2 != 0);
    let valid = validity
        | u64::from(typed) << records::DATA_PATH
        | u64::from(threshold) << records::THRESHOLD;
    read(kind.fields, body, valid, details)
}

fn pci(details: &[Detail]) -> Option<PciAddress> {
    let byte = |name| found(details, name).and_then(|number| u8::try_from(number).ok());
    let address = PciAddress {
        segment: u32::try_from(found(details, "segment_number")?).ok()?,
        bus: byte("bus_number")?,
        device: byte("device_number")?,
        function: byte("function_number")?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

/// What media errors have in common: an address of the device's own, and cells. `id_valid` is the
/// validity bit of the component identifier; the next one tells its format.
fn media(id_valid: u32, record: &mut ErrorRecord) {
    let Some(dpa) = record.details.iter_mut().find(|detail| detail.name == "dpa") else { return };
    let raw = found(core::slice::from_ref(dpa), "dpa").unwrap_or(0);
    // Bits 5:0 are flags, not address.
    let address = raw >> 6 << 6;
    dpa.value = Value::Hex(address);
    record
        .details
        .add("dpa_flags", Value::flags(raw & 0x3f, &[(0, "volatile"), (1, "not repairable")]));
    record.address =
        Some(ErrorAddress { addr: PhysAddr(address), lsb: 6, mode: AddressMode::Memory });
    if let Some(by) = meaning(&record.details, "transaction_type").filter(|by| *by != "unknown") {
        record.summary = format!("{}, met by {by}", record.summary);
    }
    record.summary = format!("{}, at the device's own address {address:#x}", record.summary);
    cells(record);
    component_id(id_valid, id_valid + 1, record);
}

fn cells(record: &mut ErrorRecord) {
    let details = &record.details;
    let byte = |name| found(details, name).and_then(|number| u8::try_from(number).ok());
    let word = |name| found(details, name).and_then(|number| u32::try_from(number).ok());
    let dimm = DimmLocation {
        rank: byte("rank").map(u16::from),
        bank_group: byte("bank_group"),
        bank: byte("bank").map(u16::from),
        row: word("row"),
        column: word("column"),
        ..DimmLocation::default()
    };
    record.location.channel = byte("channel");
    record.location.dimm = dimm;
}

/// Takes the component identifier apart where the record says that it is PLDM's.
fn component_id(valid: u32, format: u32, record: &mut ErrorRecord) {
    let validity = found(&record.details, "validity_flags").unwrap_or(0);
    if validity >> valid & 1 == 0 || validity >> format & 1 == 0 {
        return;
    }
    let id = record.details.iter().find(|detail| detail.name == "comp_id");
    let Some(Detail { value: Value::Bytes(id), .. }) = id else { return };
    let mut parts = Vec::new();
    read(records::COMPONENT_ID, id, little(id.get(..1).unwrap_or_default()), &mut parts);
    record.details.add("component", Value::Group(parts));
}
