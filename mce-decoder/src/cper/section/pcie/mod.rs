//! PCI Express section. UEFI Specification, Appendix N, "PCI Express Error Section".

mod aer;
mod capability;
mod tlp;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::mem::{offset_of, size_of};

use bitfield_struct::bitfield;
use ras_core::{Detail, Details, ErrorClass, ErrorRecord, Guid, PciAddress, ProblemKind, Value};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Fields, Section, pci_class};
use crate::cper::report;
use crate::mca::findings::meaning;
use crate::mca::phrase;
use crate::pci;

pub use self::aer::AerCapability;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0xd995_e954, 0xbbc1, 0x430f, [0xad, 0x91, 0xb4, 0x4d, 0xcb, 0x3c, 0x6f, 0x35]);

/// The section's body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct PcieError {
    /// See [`PcieValid`].
    pub validation_bits: U64,
    pub port_type: U32,
    /// Minor and major version, each in binary-coded decimal; two reserved bytes.
    pub version: [u8; 4],
    pub command: U16,
    pub status: U16,
    pub reserved: U32,
    pub device_id: DeviceId,
    pub serial_number: U64,
    /// Secondary status.
    pub bridge_status: U16,
    pub bridge_control: U16,
    pub capability: [u8; 60],
    pub aer: AerCapability,
}
const _: () = assert!(size_of::<PcieError>() == 208);

/// "Device ID" of [`PcieError`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct DeviceId {
    pub vendor_id: U16,
    pub device_id: U16,
    pub class_code: [u8; 3],
    pub function: u8,
    pub device: u8,
    pub segment: U16,
    /// Of a bridge, the primary bus.
    pub bus: u8,
    pub secondary_bus: u8,
    /// Slot number in bits 15:3.
    pub slot: U16,
    pub reserved: u8,
}
const _: () = assert!(size_of::<DeviceId>() == 16);

/// Which fields of [`PcieError`] are valid.
#[bitfield(u64)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct PcieValid {
    pub port_type: bool,
    pub version: bool,
    pub command_status: bool,
    pub device_id: bool,
    pub serial_number: bool,
    pub bridge_control_status: bool,
    pub capability: bool,
    pub aer: bool,
    #[bits(56)]
    __: u64,
}

/// "Port Type", the same as the capability's "Device/Port Type".
const DEVICE_PORT_TYPES: &[(u64, &str)] = &[
    (0, "endpoint"),
    (1, "legacy endpoint"),
    (4, "root port"),
    (5, "upstream switch port"),
    (6, "downstream switch port"),
    (7, "PCIe to PCI bridge"),
    (8, "PCI to PCIe bridge"),
    (9, "root complex integrated endpoint"),
    (10, "root complex event collector"),
];

/// PCI Local Bus Specification, "Command Register".
const COMMAND: &[(u32, &str)] = &[
    (0, "I/O space"),
    (1, "memory space"),
    (2, "bus master"),
    (3, "special cycles"),
    (4, "memory write and invalidate"),
    (5, "VGA palette snoop"),
    (6, "parity error response"),
    (8, "SERR# enabled"),
    (9, "fast back-to-back"),
    (10, "interrupts disabled"),
];

/// PCI Local Bus Specification, "Status Register"; the secondary status of a bridge has the same.
const STATUS: &[(u32, &str)] = &[
    (0, "immediate readiness"),
    (3, "interrupt"),
    (4, "capabilities list"),
    (5, "66 MHz"),
    (7, "fast back-to-back"),
    (8, "master data parity error"),
    (9, "DEVSEL timing, low bit"),
    (10, "DEVSEL timing, high bit"),
    (11, "signaled target abort"),
    (12, "received target abort"),
    (13, "received master abort"),
    (14, "system error"),
    (15, "detected parity error"),
];

/// PCI-to-PCI Bridge Architecture Specification, "Bridge Control Register".
const BRIDGE_CONTROL: &[(u32, &str)] = &[
    (0, "parity error response"),
    (1, "SERR# enabled"),
    (2, "ISA mode"),
    (3, "VGA enabled"),
    (4, "VGA 16-bit decode"),
    (5, "master abort mode"),
    (6, "secondary bus reset"),
    (7, "fast back-to-back"),
    (8, "short primary discard timer"),
    (9, "short secondary discard timer"),
    (10, "discard timer expired"),
    (11, "discard timer SERR# enabled"),
];

/// Fills in a record from the section.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<PcieError>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            super::field!(fields, PcieError, $valid, $name)
        };
    }
    let valid = field!(true, validation_bits);
    let valid = PcieValid::from_bits(valid.map_or(0, U64::get));

    let port_type = field!(valid.port_type(), port_type).map(|code| u64::from(code.get()));
    let device = field!(valid.device_id(), device_id);
    let aer = field!(valid.aer(), aer);
    let details = &mut record.details;
    details.add_some("port_type", port_type.map(|code| Value::code(code, DEVICE_PORT_TYPES)));
    let version = field!(valid.version(), version);
    let version = version.map(|[minor, major, ..]| format!("{major:x}.{minor:x}"));
    details.add_some("version", version);
    let names = [("command", COMMAND), ("status", STATUS)];
    let words = [field!(valid.command_status(), command), field!(valid.command_status(), status)];
    add_registers(details, names, words);
    if let Some(device) = &device {
        add_device(details, device);
    }
    let serial = field!(valid.serial_number(), serial_number);
    details.add_some("serial_number", serial.map(|serial| Value::Hex(serial.get())));
    let names = [("bridge_status", STATUS), ("bridge_control", BRIDGE_CONTROL)];
    let words = [
        field!(valid.bridge_control_status(), bridge_status),
        field!(valid.bridge_control_status(), bridge_control),
    ];
    add_registers(details, names, words);
    if let Some(bytes) = field!(valid.capability(), capability) {
        details.add("capability", Value::Group(capability::details(&bytes)));
    }
    if let Some(aer) = &aer {
        details.add("aer", Value::Group(aer.details()));
    }
    fields.finish("PCI Express", section, record);
    if let Some(number) = device.map(|device| device.device).filter(|number| *number > 31) {
        let at = section.offset + offset_of!(PcieError, device_id) + offset_of!(DeviceId, device);
        let detail = format!("device {number}, a bus has 32");
        report(&mut record.problems, at, ProblemKind::Malformed, detail);
    }

    record.class = ErrorClass::Pcie;
    record.location.pci = device.map(|device| PciAddress {
        segment: device.segment.get().into(),
        bus: device.bus,
        device: device.device,
        function: device.function,
    });
    record.summary = summary(record, port_type, aer.as_ref());
}

/// Registers of 16 bits: `NAME`, and the names of what is set in it.
fn add_registers(
    details: &mut Vec<Detail>,
    names: [(&'static str, &'static [(u32, &'static str)]); 2],
    words: [Option<U16>; 2],
) {
    for ((name, table), word) in names.into_iter().zip(words) {
        let Some(word) = word.map(U16::get) else { continue };
        let mut group = Vec::with_capacity(2);
        group.add_hex("value", word);
        group.add("flags", Value::flags(word.into(), table));
        details.add(name, Value::Group(group));
    }
}

/// Its address is in the record's location.
fn add_device(details: &mut Vec<Detail>, device: &DeviceId) {
    details.add_hex("vendor_id", device.vendor_id.get());
    details.add_hex("device_id", device.device_id.get());
    details.add("class_code", pci_class::code(device.class_code));
    details.add("secondary_bus", device.secondary_bus);
    details.add("slot", device.slot.get() >> 3);
}

fn summary(record: &ErrorRecord, port_type: Option<u64>, aer: Option<&AerCapability>) -> String {
    let mut text = String::with_capacity(128);
    text.push_str("PCIe ");
    if let Some(name) = port_type.and_then(|code| meaning(DEVICE_PORT_TYPES, code)) {
        text.push_str(name);
        text.push(' ');
    }
    if let Some(pci) = record.location.pci {
        // Writing to a string can't fail.
        let _ = write!(text, "{pci} ");
    }
    text.pop();
    text.push_str(": ");
    match aer.map(AerCapability::errors) {
        Some((errors, table)) if errors != 0 => text.push_str(&pci::named(errors, table)),
        _ => text.push_str("error"),
    }
    text.push_str(", ");
    text.push_str(phrase(record.severity));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};
    use proptest::prelude::*;

    fn root_port(fill: impl FnOnce(&mut PcieError)) -> Vec<u8> {
        body::<PcieError>(|body| {
            body.validation_bits = U64::new(0xff);
            body.port_type = U32::new(4);
            body.version = [0x10, 0x03, 0, 0];
            body.command = U16::new(0x0547);
            body.status = U16::new(0x4010);
            body.device_id.vendor_id = U16::new(0x8086);
            body.device_id.device_id = U16::new(0x347a);
            body.device_id.class_code = [0, 4, 6];
            body.device_id.device = 2;
            body.device_id.segment = U16::new(1);
            body.device_id.bus = 0x3a;
            body.device_id.secondary_bus = 0x3b;
            body.device_id.slot = U16::new(21 << 3);
            body.serial_number = U64::new(0x0102_0304_0506_0708);
            body.capability[0] = 0x10;
            body.capability[2] = 0x42;
            body.capability[18] = 0x83;
            fill(body);
        })
    }

    #[test]
    fn a_malformed_packet_at_a_root_port() {
        let bytes = root_port(|body| {
            body.aer.uncorrectable_status = U32::new(1 << 18 | 1 << 20);
            body.aer.uncorrectable_mask = U32::new(1 << 20);
            body.aer.uncorrectable_severity = U32::new(1 << 18);
            body.aer.control = U32::new(18);
            body.aer.header_log = [0x4000_0001, 0x3b00_12ff, 0xfee0_0000, 0].map(U32::new);
        });
        let record = decoded(SECTION_TYPE, 1, &bytes);
        assert_eq!(record.problems, []);
        assert_eq!(record.class, ErrorClass::Pcie);
        assert_eq!(record.summary, "PCIe root port 0001:3a:02.0: malformed TLP, fatal");
        let told = |path| detail(&record, path).cloned();
        assert_eq!(told("version"), Some(Value::from(String::from("3.10"))));
        assert_eq!(told("aer.uncorrectable_masked.0"), Some(Value::from("unsupported request")));
        let first = Value::code(18, &[(18, "malformed TLP")]);
        assert_eq!(told("aer.control.first_error"), Some(first));
        assert_eq!(told("aer.tlp.address"), Some(Value::Hex(0xfee0_0000)));
        assert_eq!(told("class_code"), Some(Value::code(0x06_0400, &[(0x06_0400, "PCI bridge")])));
        assert_eq!(told("slot"), Some(Value::Number(21)));
        assert_eq!(told("status.flags.1"), Some(Value::from("system error")));
        let port = Value::code(4, &[(4, "root port")]);
        assert_eq!(told("capability.capabilities.device_port_type"), Some(port));
        let speed = Value::code(3, &[(3, "8 GT/s")]);
        assert_eq!(told("capability.link_status.current_link_speed"), Some(speed));
    }

    #[test]
    fn a_masked_error_is_no_cause_while_there_is_another() {
        let bytes = root_port(|body| {
            body.aer.uncorrectable_status = U32::new(1 << 14);
            body.aer.uncorrectable_mask = U32::new(1 << 14);
            body.aer.correctable_status = U32::new(1);
        });
        let record = decoded(SECTION_TYPE, 2, &bytes);
        assert_eq!(record.summary, "PCIe root port 0001:3a:02.0: receiver error, corrected");
    }

    #[test]
    fn a_device_that_no_bus_has() {
        let record = decoded(SECTION_TYPE, 2, &root_port(|body| body.device_id.device = 77));
        let told: Vec<(u64, &str)> =
            record.problems.iter().map(|p| (p.offset, p.detail.as_str())).collect();
        assert_eq!(told, [(200 + 32, "device 77, a bus has 32")]);
    }

    #[test]
    fn nothing_valid_is_nothing_known() {
        let bytes = root_port(|body| body.validation_bits = U64::new(0));
        let record = decoded(SECTION_TYPE, 0, &bytes);
        assert_eq!(record.summary, "PCIe: error, uncorrected, no action required");
        assert_eq!((record.location.pci, record.details.len()), (None, 2));
    }

    proptest! {
        #[test]
        fn fields_come_back(
            valid in 0u64..256,
            (segment, bus, device, function) in any::<(u16, u8, u8, u8)>(),
            (serial, status, mask) in any::<(u64, u32, u32)>(),
            log in any::<[u32; 4]>(),
        ) {
            let bytes = root_port(|body| {
                body.validation_bits = U64::new(valid);
                body.device_id.segment = U16::new(segment);
                body.device_id.bus = bus;
                body.device_id.device = device;
                body.device_id.function = function;
                body.serial_number = U64::new(serial);
                body.aer.uncorrectable_status = U32::new(status);
                body.aer.uncorrectable_mask = U32::new(mask);
                body.aer.header_log = log.map(U32::new);
            });
            let record = decoded(SECTION_TYPE, 2, &bytes);
            let is = |bit: u32| valid >> bit & 1 == 1;
            let hex = |path| detail(&record, path).cloned();
            prop_assert_eq!(record.location.pci, is(3).then_some(PciAddress {
                segment: segment.into(), bus, device, function,
            }));
            prop_assert_eq!(hex("serial_number"), is(4).then_some(Value::Hex(serial)));
            let told = is(7).then_some(Value::Hex(status.into()));
            prop_assert_eq!(hex("aer.uncorrectable_status"), told);
            let told = is(7).then_some(Value::Hex(mask.into()));
            prop_assert_eq!(hex("aer.uncorrectable_mask"), told);
            let told = is(7).then_some(Value::Hex(log[3].into()));
            prop_assert_eq!(hex("aer.header_log.3"), told);
        }

        #[test]
        fn any_body_is_one_record(bytes in proptest::collection::vec(any::<u8>(), 0..220)) {
            let record = decoded(SECTION_TYPE, 1, &bytes);
            prop_assert_eq!(record.class, ErrorClass::Pcie);
        }
    }
}
