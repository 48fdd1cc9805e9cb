//! Section of AMD's DMA remapping. UEFI Specification, Appendix N, "IOMMU Specific DMAr Error
//! Section"; the registers are those of AMD's IOMMU specification.

use core::mem::size_of;

use ras_core::{Details, ErrorRecord, Guid, Value};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::vtd::{page_table_entries, words};
use crate::cper::section::{Fields, Section};
use crate::mca::findings::meaning;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0x036f_84e1, 0x7f37, 0x428c, [0xa7, 0x9e, 0x57, 0x5f, 0xdf, 0xaa, 0x84, 0xec]);

/// The section's body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct IommuError {
    pub revision: u8,
    pub reserved: [u8; 7],
    pub control: U64,
    pub status: U64,
    pub reserved_2: [u8; 8],
    pub event_log_entry: [U64; 2],
    pub reserved_3: [u8; 16],
    pub device_table_entry: [U64; 4],
    /// From level 6 down to level 1.
    pub page_table_entries: [U64; 6],
}
const _: () = assert!(size_of::<IommuError>() == 144);

/// AMD I/O Virtualization Technology Specification, "Event Log Entries", bits 63:60.
const EVENT_CODES: &[(u64, &str)] = &[
    (1, "illegal device table entry"),
    (2, "I/O page fault"),
    (3, "device table hardware error"),
    (4, "page table hardware error"),
    (5, "illegal command"),
    (6, "command hardware error"),
    (7, "IOTLB invalidation timeout"),
    (8, "invalid device request"),
    (9, "invalid PPR request"),
    (10, "event counter zero"),
    (11, "guest event fault"),
    (13, "RMP page fault"),
    (14, "RMP hardware error"),
];

/// Fills in a record from the section, which has no validation bits.
pub(in crate::cper) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<IommuError>::new(section.body);
    macro_rules! field {
        ($name:ident) => {
            crate::cper::section::field!(fields, IommuError, true, $name)
        };
    }
    let details = &mut record.details;
    details.add_some("revision", field!(revision));
    details.add_some("control", field!(control).map(|word| Value::Hex(word.get())));
    details.add_some("status", field!(status).map(|word| Value::Hex(word.get())));
    let event = field!(event_log_entry);
    let code = event.map(|[low, _]| low.get() >> 60);
    details.add_some("event_code", code.map(|code| Value::code(code, EVENT_CODES)));
    details.add_some("event_log_entry", event.map(|entry| words(&entry)));
    details.add_some("device_table_entry", field!(device_table_entry).map(|entry| words(&entry)));
    let entries = field!(page_table_entries);
    details.add_some("page_table_entries", entries.map(|entries| page_table_entries(&entries)));
    fields.finish("IOMMU DMAr", section, record);

    let what = code.and_then(|code| meaning(EVENT_CODES, code)).unwrap_or("error");
    // The second word is an address in all events that have one; which kind depends on the event.
    let address = event.filter(|_| matches!(code, Some(2))).map(|[_, address]| address.get());
    super::fill(record, "IOMMU", what, address);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};

    #[test]
    fn a_page_fault() {
        let bytes = body::<IommuError>(|body| {
            body.revision = 1;
            body.status = U64::new(8);
            body.event_log_entry = [U64::new(2 << 60 | 0x3b00), U64::new(0x1234_5000)];
            body.device_table_entry[3] = U64::new(9);
        });
        let record = decoded(SECTION_TYPE, 2, &bytes);
        assert_eq!(record.problems, []);
        assert_eq!(
            record.summary,
            "IOMMU: I/O page fault, corrected, at device address 0x12345000"
        );
        assert_eq!(detail(&record, "event_code"), Some(&Value::code(2, EVENT_CODES)));
        assert_eq!(detail(&record, "device_table_entry.3"), Some(&Value::Hex(9)));
    }
}
