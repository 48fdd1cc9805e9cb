//! PCI component section: a device, and registers of it. UEFI Specification, Appendix N,
//! "PCI/PCI-X Component Error Section".

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::mem::size_of;

use bitfield_struct::bitfield;
use ras_core::{Details, ErrorClass, ErrorRecord, Guid, PciAddress, ProblemKind, Value};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Fields, Section, error_status, pci_class, registers};
use crate::cper::{report, size};
use crate::mca::phrase;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0xeb5e_4685, 0xca66, 0x4769, [0xb6, 0xa2, 0x26, 0x06, 0x8b, 0x00, 0x13, 0x26]);

/// The section's beginning; pairs of address and value of 16 bytes each follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct PciDeviceError {
    /// See [`PciDeviceValid`].
    pub validation_bits: U64,
    pub error_status: U64,
    pub id: PciDeviceId,
    /// Pairs of memory-mapped registers.
    pub memory_count: U32,
    /// Pairs of I/O registers, after the others.
    pub io_count: U32,
}
const _: () = assert!(size_of::<PciDeviceError>() == 40);

/// "Component identification".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct PciDeviceId {
    pub vendor_id: U16,
    pub device_id: U16,
    pub class_code: [u8; 3],
    pub function: u8,
    pub device: u8,
    pub bus: u8,
    pub segment: u8,
    pub reserved: [u8; 5],
}
const _: () = assert!(size_of::<PciDeviceId>() == 16);

/// Which fields of [`PciDeviceError`] are valid.
#[bitfield(u64)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct PciDeviceValid {
    pub error_status: bool,
    pub id: bool,
    pub memory_count: bool,
    pub io_count: bool,
    pub register_pairs: bool,
    #[bits(59)]
    __: u64,
}

/// Bytes of a pair: an address and a value.
const PAIR: usize = 16;

/// Fills in a record from the section.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<PciDeviceError>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            super::field!(fields, PciDeviceError, $valid, $name)
        };
    }
    let valid = field!(true, validation_bits);
    let valid = PciDeviceValid::from_bits(valid.map_or(0, U64::get));

    let status = field!(valid.error_status(), error_status).map(U64::get);
    let id = field!(valid.id(), id);
    let memory = field!(valid.memory_count(), memory_count);
    let io = field!(valid.io_count(), io_count);
    let details = &mut record.details;
    if let Some(status) = status {
        error_status::add(details, status);
    }
    if let Some(id) = &id {
        details.add_hex("vendor_id", id.vendor_id.get());
        details.add_hex("device_id", id.device_id.get());
        details.add("class_code", pci_class::code(id.class_code));
    }
    details.add_some("memory_count", memory.map(U32::get));
    details.add_some("io_count", io.map(U32::get));
    fields.finish("PCI component", section, record);
    if valid.register_pairs() {
        let counts = [memory, io].map(|count| size(count.unwrap_or_default()));
        pairs(section, counts, record);
    }

    record.class = ErrorClass::Pcie;
    record.location.pci = id.map(|id| PciAddress {
        segment: id.segment.into(),
        bus: id.bus,
        device: id.device,
        function: id.function,
    });
    let mut summary = String::with_capacity(96);
    summary.push_str("PCI device ");
    if let Some(pci) = record.location.pci {
        // Writing to a string can't fail.
        let _ = write!(summary, "{pci}");
    }
    summary.truncate(summary.trim_end().len());
    summary.push_str(": ");
    summary.push_str(status.and_then(error_status::name).unwrap_or("error"));
    summary.push_str(", ");
    summary.push_str(phrase(record.severity));
    record.summary = summary;
}

/// The pairs that are there, first the memory-mapped ones.
fn pairs(section: &Section<'_>, [memory, io]: [usize; 2], record: &mut ErrorRecord) {
    let bytes = section.body.get(size_of::<PciDeviceError>()..).unwrap_or_default();
    let there = bytes.len() / PAIR;
    let announced = memory.saturating_add(io);
    if there < announced {
        let detail = format!("{announced} register pairs announced, {there} there");
        let at = section.offset + section.body.len();
        report(&mut record.problems, at, ProblemKind::Truncated, detail);
    }
    let mut pairs = bytes.chunks_exact(PAIR).map(registers::pair);
    for (name, count) in [("memory_registers", memory), ("io_registers", io)] {
        let list: Vec<Value> = pairs.by_ref().take(count).collect();
        if !list.is_empty() {
            record.details.add(name, Value::List(list));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};

    fn device(memory: u32, io: u32, pairs: &[u64]) -> Vec<u8> {
        let mut bytes = body::<PciDeviceError>(|body| {
            body.validation_bits = U64::new(0x1f);
            body.error_status = U64::new(22 << 8);
            body.id.vendor_id = U16::new(0x1000);
            body.id.class_code = [0, 4, 1];
            body.id.bus = 0x3b;
            body.id.device = 0x1f;
            body.id.function = 7;
            body.memory_count = U32::new(memory);
            body.io_count = U32::new(io);
        });
        bytes.extend(pairs.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    #[test]
    fn memory_registers_come_first() {
        let record = decoded(SECTION_TYPE, 2, &device(1, 1, &[0x1000, 1, 0x60, 2]));
        assert_eq!(record.problems, []);
        assert_eq!(record.summary, "PCI device 0000:3b:1f.7: bus parity, corrected");
        assert_eq!(detail(&record, "memory_registers.0.address"), Some(&Value::Hex(0x1000)));
        assert_eq!(detail(&record, "io_registers.0.value"), Some(&Value::Hex(2)));
        let class = Value::code(0x01_0400, &[(0x01_0400, "RAID controller")]);
        assert_eq!(detail(&record, "class_code"), Some(&class));
    }

    #[test]
    fn counts_are_bounded_by_the_bytes() {
        let record = decoded(SECTION_TYPE, 2, &device(u32::MAX, u32::MAX, &[1, 2, 3]));
        let told: Vec<&str> = record.problems.iter().map(|p| p.detail.as_str()).collect();
        assert_eq!(told, ["8589934590 register pairs announced, 1 there"]);
        assert!(
            matches!(detail(&record, "memory_registers"), Some(Value::List(l)) if l.len() == 1)
        );
        assert_eq!(detail(&record, "io_registers"), None);
    }
}
