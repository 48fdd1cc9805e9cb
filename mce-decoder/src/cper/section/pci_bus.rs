//! PCI/PCI-X bus section. UEFI Specification, Appendix N, "PCI/PCI-X Bus Error Section".

use alloc::string::String;
use core::mem::size_of;

use bitfield_struct::bitfield;
use ras_core::{
    AddressMode, Details, ErrorAddress, ErrorClass, ErrorRecord, Guid, PhysAddr, Value,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Fields, Section, error_status};
use crate::cper::names::push_hex;
use crate::mca::findings::meaning;
use crate::mca::phrase;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0xc575_3963, 0x3b84, 0x4095, [0xbf, 0x78, 0xed, 0xda, 0xd3, 0xf9, 0xc9, 0xdd]);

/// The section's body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct PciBusError {
    /// See [`PciBusValid`].
    pub validation_bits: U64,
    pub error_status: U64,
    pub error_type: U16,
    /// Bus in the low byte, segment in the high one.
    pub bus_id: U16,
    pub reserved: U32,
    pub bus_address: U64,
    pub bus_data: U64,
    /// Bit 56: 0 PCI, 1 PCI-X.
    pub bus_command: U64,
    pub bus_requestor_id: U64,
    pub bus_completer_id: U64,
    pub target_id: U64,
}
const _: () = assert!(size_of::<PciBusError>() == 72);

/// Which fields of [`PciBusError`] are valid.
#[bitfield(u64)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct PciBusValid {
    pub error_status: bool,
    pub error_type: bool,
    pub bus_id: bool,
    pub bus_address: bool,
    pub bus_data: bool,
    pub bus_command: bool,
    pub bus_requestor_id: bool,
    pub bus_completer_id: bool,
    pub target_id: bool,
    #[bits(55)]
    __: u64,
}

/// "PCI Bus Error Type".
const ERROR_TYPES: &[(u64, &str)] = &[
    (0, "unknown error"),
    (1, "data parity error"),
    (2, "system error"),
    (3, "master abort"),
    (4, "bus timeout or no device present"),
    (5, "master data parity error"),
    (6, "address parity error"),
    (7, "command parity error"),
];

/// Fills in a record from the section.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<PciBusError>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            super::field!(fields, PciBusError, $valid, $name)
        };
    }
    let valid = field!(true, validation_bits);
    let valid = PciBusValid::from_bits(valid.map_or(0, U64::get));
    let hex = |value: Option<U64>| value.map(|value| Value::Hex(value.get()));

    let details = &mut record.details;
    let error_type = field!(valid.error_type(), error_type).map(|code| u64::from(code.get()));
    details.add_some("error_type", error_type.map(|code| Value::code(code, ERROR_TYPES)));
    if let Some(status) = field!(valid.error_status(), error_status) {
        error_status::add(details, status.get());
    }
    let bus = field!(valid.bus_id(), bus_id).map(U16::to_bytes);
    details.add_some("bus", bus.map(|[bus, _]| bus));
    details.add_some("segment", bus.map(|[_, segment]| segment));
    let address = field!(valid.bus_address(), bus_address);
    details.add_some("bus_data", hex(field!(valid.bus_data(), bus_data)));
    if let Some(command) = field!(valid.bus_command(), bus_command) {
        details.add_hex("bus_command", command.get());
        let pci_x = command.get() >> 56 & 1 == 1;
        details.add("bus_command_type", if pci_x { "PCI-X" } else { "PCI" });
    }
    let requestor = field!(valid.bus_requestor_id(), bus_requestor_id);
    details.add_some("bus_requestor_id", hex(requestor));
    let completer = field!(valid.bus_completer_id(), bus_completer_id);
    details.add_some("bus_completer_id", hex(completer));
    details.add_some("target_id", hex(field!(valid.target_id(), target_id)));
    fields.finish("PCI/PCI-X bus", section, record);

    record.class = ErrorClass::Pcie;
    // What a device put on the bus: memory, I/O or configuration space, by its command.
    record.address = address.map(|address| ErrorAddress {
        addr: PhysAddr(address.get()),
        lsb: 0,
        mode: AddressMode::Generic,
    });
    let mut summary = String::with_capacity(96);
    summary.push_str("PCI bus");
    if let Some([bus, segment]) = bus {
        summary.push(' ');
        push_hex(&mut summary, u16::from_be_bytes([segment, bus]).into());
    }
    summary.push_str(": ");
    let name = error_type.and_then(|code| meaning(ERROR_TYPES, code));
    summary.push_str(name.unwrap_or("error"));
    summary.push_str(", ");
    summary.push_str(phrase(record.severity));
    record.summary = summary;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};

    #[test]
    fn every_field() {
        let body = body::<PciBusError>(|body| {
            body.validation_bits = U64::new((1 << 9) - 1);
            body.error_status = U64::new(22 << 8 | 1 << 16);
            body.error_type = U16::new(6);
            body.bus_id = U16::new(0x0203);
            body.bus_address = U64::new(0xfeed_0000);
            body.bus_command = U64::new(1 << 56 | 6);
            body.target_id = U64::new(9);
        });
        let record = decoded(SECTION_TYPE, 0, &body);
        assert_eq!(record.problems, []);
        assert_eq!(
            record.summary,
            "PCI bus 0x203: address parity error, uncorrected, action optional"
        );
        assert_eq!(detail(&record, "bus"), Some(&Value::Number(3)));
        assert_eq!(detail(&record, "segment"), Some(&Value::Number(2)));
        assert_eq!(detail(&record, "bus_command_type"), Some(&Value::from("PCI-X")));
        assert_eq!(detail(&record, "error_status_bits.0"), Some(&Value::from("address")));
        assert_eq!(record.pages(), None, "a bus address names no page");
    }
}
