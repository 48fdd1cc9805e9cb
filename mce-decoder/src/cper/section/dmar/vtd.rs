//! Section of Intel's DMA remapping. UEFI Specification, Appendix N, "Intel VT for Directed I/O
//! Specific DMAr Error Section"; the registers are those of Intel's VT-d specification.

use core::mem::size_of;

use ras_core::{Details, ErrorRecord, Guid, Value};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::cper::section::registers::{self, Field};
use crate::cper::section::{Fields, Section};
use crate::mca::findings::meaning;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0x7176_1d37, 0x32b2, 0x45cd, [0xa7, 0xd0, 0xb0, 0xfe, 0xdd, 0x93, 0xe8, 0xcf]);

/// The section's body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct VtdError {
    pub version: u8,
    pub revision: u8,
    pub oem_id: [u8; 6],
    pub capability: U64,
    pub extended_capability: U64,
    pub global_command: U32,
    pub global_status: U32,
    pub fault_status: U32,
    pub reserved: [u8; 12],
    pub fault_record: [U64; 2],
    pub root_entry: [U64; 2],
    pub context_entry: [U64; 2],
    /// From level 6 down to level 1.
    pub page_table_entries: [U64; 6],
}
const _: () = assert!(size_of::<VtdError>() == 144);

/// VT-d Specification, "Fault Status Register".
const FAULT_STATUS: &[Field] = &[
    Field::flag("primary_fault_overflow", 0),
    Field::flag("primary_pending_fault", 1),
    Field::flag("advanced_fault_overflow", 2),
    Field::flag("advanced_pending_fault", 3),
    Field::flag("invalidation_queue_error", 4),
    Field::flag("invalidation_completion_error", 5),
    Field::flag("invalidation_timeout_error", 6),
    Field::flag("page_request_overflow", 7),
    Field::number("fault_record_index", 8, 8),
];

/// VT-d Specification, "Fault Recording Registers", the high word.
const FAULT_RECORD_HIGH: &[Field] = &[
    Field::hex("source_id", 0, 16),
    Field::flag("privilege_mode_requested", 29),
    Field::flag("execute_permission_requested", 30),
    Field::flag("pasid_present", 31),
    Field::code("fault_reason", 32, 8, FAULT_REASONS),
    Field::hex("pasid", 40, 20),
    Field::code("address_type", 60, 2, ADDRESS_TYPES),
    Field::code("type", 62, 1, TYPES),
    Field::flag("fault", 63),
];
const TYPES: &[(u64, &str)] = &[(0, "write request"), (1, "read or AtomicOp request")];
const ADDRESS_TYPES: &[(u64, &str)] =
    &[(0, "untranslated request"), (1, "translation request"), (2, "translated request")];

/// VT-d Specification, "Fault Reason Encodings" of legacy mode.
const FAULT_REASONS: &[(u64, &str)] = &[
    (0x1, "root entry not present"),
    (0x2, "context entry not present"),
    (0x3, "invalid context entry"),
    (0x4, "address beyond the maximum guest width"),
    (0x5, "write not permitted"),
    (0x6, "read not permitted"),
    (0x7, "page table not readable"),
    (0x8, "root table not readable"),
    (0x9, "context table not readable"),
    (0xa, "reserved bit set in a root entry"),
    (0xb, "reserved bit set in a context entry"),
    (0xc, "reserved bit set in a page table entry"),
    (0xd, "translation requests are blocked"),
];

/// Names of the page table entries.
const LEVELS: &[(&str, usize)] = &[
    ("level_6", 8),
    ("level_5", 8),
    ("level_4", 8),
    ("level_3", 8),
    ("level_2", 8),
    ("level_1", 8),
];

/// The page table entries from level 6 down to level 1, as both sections that have them do.
pub(super) fn page_table_entries(entries: &[U64; 6]) -> Value {
    registers::named(entries.as_bytes(), LEVELS)
}

/// Words of 64 bits, the low one first.
pub(super) fn words(words: &[U64]) -> Value {
    registers::wide(words.as_bytes())
}

/// Fills in a record from the section, which has no validation bits.
pub(in crate::cper) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<VtdError>::new(section.body);
    macro_rules! field {
        ($name:ident) => {
            crate::cper::section::field!(fields, VtdError, true, $name)
        };
    }
    let details = &mut record.details;
    details.add_some("version", field!(version));
    details.add_some("revision", field!(revision));
    details.add_some("oem_id", field!(oem_id).map(|id| Value::Bytes(id.into())));
    details.add_some("capability", field!(capability).map(|word| Value::Hex(word.get())));
    let extended = field!(extended_capability);
    details.add_some("extended_capability", extended.map(|word| Value::Hex(word.get())));
    let hex = |word: Option<U32>| word.map(|word| Value::Hex(word.get().into()));
    details.add_some("global_command", hex(field!(global_command)));
    details.add_some("global_status", hex(field!(global_status)));
    let status = field!(fault_status).map(|word| word.get().into());
    details.add_some("fault_status", status.map(|word| registers::fields(word, FAULT_STATUS)));
    let fault = field!(fault_record);
    if let Some([low, high]) = fault {
        let mut group = alloc::vec::Vec::with_capacity(FAULT_RECORD_HIGH.len() + 3);
        group.add("words", words(&[low, high]));
        group.add_hex("fault_information", low.get() >> 12);
        registers::add_fields(&mut group, high.get(), FAULT_RECORD_HIGH);
        details.add("fault_record", Value::Group(group));
    }
    details.add_some("root_entry", field!(root_entry).map(|entry| words(&entry)));
    details.add_some("context_entry", field!(context_entry).map(|entry| words(&entry)));
    let entries = field!(page_table_entries);
    details.add_some("page_table_entries", entries.map(|entries| page_table_entries(&entries)));
    fields.finish("VT-d DMAr", section, record);

    // The faulting page, as the device addressed it; the segment is the unit's, which is not said.
    let address = fault.map(|[low, _]| low.get() & !0xfff);
    let reason = fault.and_then(|[_, high]| meaning(FAULT_REASONS, high.get() >> 32 & 0xff));
    super::fill(record, "VT-d", reason.unwrap_or("error"), address);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};

    #[test]
    fn a_fault_record() {
        let bytes = body::<VtdError>(|body| {
            body.version = 1;
            body.fault_status = U32::new(0x0302);
            body.fault_record =
                [U64::new(0x1234_5000), U64::new(1 << 63 | 1 << 62 | 6 << 32 | 0x3b00)];
            body.page_table_entries[5] = U64::new(0x77);
        });
        let record = decoded(SECTION_TYPE, 1, &bytes);
        assert_eq!(record.problems, []);
        assert_eq!(record.summary, "VT-d: read not permitted, fatal, at device address 0x12345000");
        let told = |path| detail(&record, path).cloned();
        assert_eq!(told("fault_record.source_id"), Some(Value::Hex(0x3b00)));
        assert_eq!(told("fault_record.type"), Some(Value::code(1, TYPES)));
        assert_eq!(told("fault_record.flags.0"), Some(Value::from("fault")));
        assert_eq!(told("fault_status.fault_record_index"), Some(Value::Number(3)));
        assert_eq!(told("page_table_entries.level_1"), Some(Value::Hex(0x77)));
    }
}
