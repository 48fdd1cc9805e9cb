//! Firmware error record reference: names another record. UEFI Specification, Appendix N, "Firmware
//! Error Record Reference".

use alloc::string::String;
use core::mem::size_of;

use ras_core::{Details, ErrorClass, ErrorRecord, Guid, Value};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Fields, Section};
use crate::mca::findings::meaning;
use crate::mca::phrase;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0x8121_2a96, 0x09ed, 0x4996, [0x94, 0x71, 0x8d, 0x72, 0x9c, 0x8e, 0x69, 0xed]);

/// The section's body; what follows is the maker's own.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct FirmwareError {
    pub record_type: u8,
    /// From 1 on the record is named by its GUID (types 1 and 2).
    pub revision: u8,
    pub reserved: [u8; 6],
    pub record_id: U64,
    pub record_id_guid: [u8; 16],
}
const _: () = assert!(size_of::<FirmwareError>() == 32);

/// "Firmware Error Record Type".
const RECORD_TYPES: &[(u64, &str)] = &[
    (0, "Itanium SAL record"),
    (1, "SoC firmware record, type 1"),
    (2, "SoC firmware record, type 2"),
];

/// Fills in a record from the section. There are no validation bits; a section of revision 0 may end
/// before the GUID.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<FirmwareError>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            super::field!(fields, FirmwareError, $valid, $name)
        };
    }
    let record_type = field!(true, record_type).map(u64::from);
    let revision = field!(true, revision);
    let record_id = field!(true, record_id);
    let short = section.body.len() < size_of::<FirmwareError>() && revision == Some(0);
    let guid = field!(!short, record_id_guid);
    let details = &mut record.details;
    details.add_some("record_type", record_type.map(|code| Value::code(code, RECORD_TYPES)));
    details.add_some("revision", revision);
    details.add_some("record_id", record_id.map(|id| Value::Hex(id.get())));
    details.add_some("record_id_guid", guid.map(|guid| Value::Guid(Guid(guid))));
    fields.finish("firmware", section, record);

    record.class = ErrorClass::Firmware;
    let mut summary = String::with_capacity(96);
    summary.push_str("firmware error");
    if let Some(name) = record_type.and_then(|code| meaning(RECORD_TYPES, code)) {
        summary.push_str(", see its ");
        summary.push_str(name);
    }
    summary.push_str(", ");
    summary.push_str(phrase(record.severity));
    record.summary = summary;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};

    #[test]
    fn a_reference() {
        let mut body = body::<FirmwareError>(|body| {
            body.record_type = 2;
            body.revision = 2;
            body.record_id = U64::new(7);
            body.record_id_guid = [9; 16];
        });
        body.extend([1, 2, 3]);
        let record = decoded(SECTION_TYPE, 1, &body);
        assert_eq!(record.problems, []);
        assert_eq!(record.class, ErrorClass::Firmware);
        assert_eq!(record.summary, "firmware error, see its SoC firmware record, type 2, fatal");
        assert_eq!(detail(&record, "record_id"), Some(&Value::Hex(7)));
        assert_eq!(detail(&record, "record_id_guid"), Some(&Value::Guid(Guid([9; 16]))));
    }

    #[test]
    fn the_first_revision_may_be_short() {
        let record = decoded(SECTION_TYPE, 1, &[0; 16]);
        assert_eq!(record.problems, []);
        assert_eq!(detail(&record, "record_id_guid"), None);
        assert_eq!(decoded(SECTION_TYPE, 1, &[0, 1, 0, 0, 0, 0, 0, 0]).problems.len(), 1);
    }
}
