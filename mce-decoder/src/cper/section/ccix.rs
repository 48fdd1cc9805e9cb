//! CCIX PER log. UEFI Specification, Appendix N, "CCIX PER Log Error Section".

use alloc::format;
use alloc::string::String;
use core::mem::size_of;

use ras_core::{Details, ErrorClass, ErrorRecord, Guid, ProblemKind, Value};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Fields, Section};
use crate::cper::names::push_number;
use crate::cper::{report, size};
use crate::mca::phrase;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0x9133_5ef6, 0xebfb, 0x4478, [0xa6, 0xa6, 0x88, 0xb7, 0x28, 0xcf, 0x75, 0xd7]);

/// The section's beginning; the log follows, in the form of the CCIX Base Specification's "PER Log
/// Structure".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct CcixPer {
    /// Bytes of all of it.
    pub length: U32,
    /// Bit 0 source, 1 port, 2 log.
    pub validation_bits: U64,
    pub source_id: u8,
    pub port_id: u8,
    pub reserved: U16,
}
const _: () = assert!(size_of::<CcixPer>() == 16);

/// Fills in a record from the section.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<CcixPer>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            super::field!(fields, CcixPer, $valid, $name)
        };
    }
    let length = field!(true, length);
    let valid = field!(true, validation_bits).map_or(0, U64::get);
    let source = field!(valid & 1 != 0, source_id);
    let port = field!(valid & 2 != 0, port_id);
    let details = &mut record.details;
    details.add_some("length", length.map(U32::get));
    details.add_some("source_id", source);
    details.add_some("port_id", port);
    let length = size(length.unwrap_or_default());
    if length > section.body.len() {
        let detail = format!("log of {length} bytes in a section of {}", section.body.len());
        let at = section.offset + section.body.len();
        report(&mut record.problems, at, ProblemKind::Truncated, detail);
    }
    let end = length.min(section.body.len());
    let log = section.body.get(size_of::<CcixPer>()..end).unwrap_or_default();
    if valid & 4 != 0 && !log.is_empty() {
        record.details.add("per_log", Value::Bytes(log.into()));
    }
    fields.finish("CCIX PER", section, record);

    // An interconnect over PCI Express links.
    record.class = ErrorClass::Bus;
    let mut summary = String::with_capacity(64);
    summary.push_str("CCIX protocol error");
    for (name, id) in [(", source ", source), (", port ", port)] {
        if let Some(id) = id {
            summary.push_str(name);
            push_number(&mut summary, id.into());
        }
    }
    summary.push_str(", ");
    summary.push_str(phrase(record.severity));
    record.summary = summary;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};
    use alloc::vec;

    #[test]
    fn the_log_is_as_long_as_it_says() {
        let mut bytes = body::<CcixPer>(|body| {
            body.length = U32::new(24);
            body.validation_bits = U64::new(7);
            body.source_id = 3;
            body.port_id = 12;
        });
        bytes.extend([5; 12]);
        let record = decoded(SECTION_TYPE, 2, &bytes);
        assert_eq!(record.problems, []);
        assert_eq!(record.summary, "CCIX protocol error, source 3, port 12, corrected");
        assert_eq!(detail(&record, "per_log"), Some(&Value::Bytes(vec![5; 8])));
        let record = decoded(SECTION_TYPE, 2, &bytes[..20]);
        assert_eq!(record.problems[0].detail, "log of 24 bytes in a section of 20");
        assert_eq!(detail(&record, "per_log"), Some(&Value::Bytes(vec![5; 4])));
    }
}
