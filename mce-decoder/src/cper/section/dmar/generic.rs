//! DMA remapping section of any architecture. UEFI Specification, Appendix N, "DMAr Generic Error
//! Section".

use core::mem::size_of;

use ras_core::{Details, ErrorRecord, Guid, Value};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::cper::section::{Fields, Section};
use crate::mca::findings::meaning;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0x5b51_fef7, 0xc79d, 0x4434, [0x8f, 0x1b, 0xaa, 0x62, 0xde, 0x3e, 0x2c, 0x64]);

/// The section's body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct DmarError {
    pub requester_id: U16,
    pub segment: U16,
    pub fault_reason: u8,
    pub access_type: u8,
    pub address_type: u8,
    pub architecture: u8,
    pub device_address: U64,
    pub reserved: [u8; 16],
}
const _: () = assert!(size_of::<DmarError>() == 32);

/// "Fault Reason".
const FAULT_REASONS: &[(u64, &str)] = &[
    (1, "domain mapping entry not present"),
    (2, "invalid domain mapping entry"),
    (3, "domain mapping table not readable"),
    (4, "reserved bit set in the domain mapping table"),
    (5, "address beyond the device's width"),
    (6, "invalid read or write"),
    (7, "invalid device request"),
    (8, "address translation table not readable"),
    (9, "reserved bit set in the address translation table"),
    (10, "illegal command"),
    (11, "command buffer not readable"),
];
/// "Access Type".
const ACCESS_TYPES: &[(u64, &str)] = &[(0, "DMA write"), (1, "DMA read")];
/// "Address Type".
const ADDRESS_TYPES: &[(u64, &str)] = &[(0, "untranslated request"), (1, "translation request")];
/// "Architecture Type".
const ARCHITECTURES: &[(u64, &str)] = &[(0, "VT-d"), (1, "IOMMU")];

/// Fills in a record from the section, which has no validation bits.
pub(in crate::cper) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<DmarError>::new(section.body);
    macro_rules! field {
        ($name:ident) => {
            crate::cper::section::field!(fields, DmarError, true, $name)
        };
    }
    let code = |code: Option<u8>, table| code.map(|code| Value::code(code.into(), table));
    let requester = field!(requester_id);
    let segment = field!(segment);
    let reason = field!(fault_reason);
    let details = &mut record.details;
    details.add_some("fault_reason", code(reason, FAULT_REASONS));
    details.add_some("access_type", code(field!(access_type), ACCESS_TYPES));
    details.add_some("address_type", code(field!(address_type), ADDRESS_TYPES));
    details.add_some("architecture", code(field!(architecture), ARCHITECTURES));
    details.add_some("requester_id", requester.map(|id| Value::Hex(id.get().into())));
    let address = field!(device_address).map(U64::get);
    fields.finish("DMAr", section, record);

    let pci = requester.zip(segment);
    record.location.pci = pci.map(|(id, segment)| super::requester(segment.get(), id.get()));
    let what = reason.and_then(|reason| meaning(FAULT_REASONS, reason.into()));
    super::fill(record, "DMA remapping", what.unwrap_or("error"), address);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};
    use alloc::string::ToString;
    use ras_core::ErrorClass;

    #[test]
    fn a_fault() {
        let bytes = body::<DmarError>(|body| {
            body.requester_id = U16::new(0x3bfa);
            body.segment = U16::new(2);
            body.fault_reason = 5;
            body.access_type = 1;
            body.architecture = 1;
            body.device_address = U64::new(0x1_0000);
        });
        let record = decoded(SECTION_TYPE, 2, &bytes);
        assert_eq!(record.problems, []);
        assert_eq!(record.class, ErrorClass::Iommu);
        assert_eq!(
            record.summary,
            "DMA remapping: address beyond the device's width, corrected, at device address 0x10000"
        );
        assert_eq!(record.location.pci.unwrap().to_string(), "0002:3b:1f.2");
        assert_eq!(detail(&record, "access_type"), Some(&Value::code(1, ACCESS_TYPES)));
        assert_eq!(record.pages(), None, "a device's address names no page");
        let short = decoded(SECTION_TYPE, 2, &bytes[..7]);
        assert_eq!(
            short.problems[0].detail,
            "DMAr section of 7 bytes lacks architecture, device_address"
        );
    }
}
