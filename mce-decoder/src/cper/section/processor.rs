//! Processor section of any architecture. UEFI Specification, Appendix N, "Generic Processor Error
//! Section".

use alloc::string::String;
use core::mem::size_of;

use bitfield_struct::bitfield;
use ras_core::{
    AddressMode, Details, ErrorAddress, ErrorClass, ErrorRecord, Guid, PhysAddr, Value,
};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Fields, Section, ia32_x64, registers};
use crate::cper::text;
use crate::mca::findings::meaning;
use crate::mca::phrase;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0x9876_ccad, 0x47b4, 0x4bdb, [0xb6, 0x5e, 0x16, 0xf1, 0x93, 0xc4, 0xf3, 0xdb]);

/// The section's body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct ProcessorError {
    /// See [`ProcessorValid`].
    pub validation_bits: U64,
    pub processor_type: u8,
    pub processor_isa: u8,
    pub error_type: u8,
    pub operation: u8,
    pub flags: u8,
    pub level: u8,
    pub reserved: U16,
    /// CPUID leaf 1, EAX, on x86.
    pub cpu_version: U64,
    /// ASCII.
    pub cpu_brand: [u8; 128],
    /// Local APIC id on x86, `MPIDR_EL1` on ARM.
    pub processor_id: U64,
    pub target_address: U64,
    pub requestor_id: U64,
    pub responder_id: U64,
    pub instruction_pointer: U64,
}
const _: () = assert!(size_of::<ProcessorError>() == 192);

/// Which fields of [`ProcessorError`] are valid.
#[bitfield(u64)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct ProcessorValid {
    pub processor_type: bool,
    pub processor_isa: bool,
    pub error_type: bool,
    pub operation: bool,
    pub flags: bool,
    pub level: bool,
    pub cpu_version: bool,
    pub cpu_brand: bool,
    pub processor_id: bool,
    pub target_address: bool,
    pub requestor_id: bool,
    pub responder_id: bool,
    pub instruction_pointer: bool,
    #[bits(51)]
    __: u64,
}

const X86: u8 = 0;
/// "Processor Type".
const TYPES: &[(u64, &str)] = &[(0, "x86"), (1, "Itanium"), (2, "ARM")];
/// "Processor ISA".
const ISAS: &[(u64, &str)] =
    &[(0, "IA32"), (1, "Itanium"), (2, "x64"), (3, "ARM A32/T32"), (4, "ARM A64")];
/// "Processor Error Type", bit by bit.
const ERROR_TYPES: &[(u32, &str)] =
    &[(0, "cache"), (1, "TLB"), (2, "bus"), (3, "microarchitecture")];
/// "Operation".
const OPERATIONS: &[(u64, &str)] =
    &[(1, "data read"), (2, "data write"), (3, "instruction execution")];
/// "Flags".
const FLAGS: &[(u32, &str)] =
    &[(0, "restartable"), (1, "precise IP"), (2, "overflow"), (3, "corrected")];

/// Fills in a record from the section.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<ProcessorError>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            super::field!(fields, ProcessorError, $valid, $name)
        };
    }
    let valid = field!(true, validation_bits);
    let valid = ProcessorValid::from_bits(valid.map_or(0, U64::get));
    let hex = |value: Option<U64>| value.map(|value| Value::Hex(value.get()));
    let code = |value: Option<u8>, table| value.map(|code| Value::code(code.into(), table));

    let processor_type = field!(valid.processor_type(), processor_type);
    let error_type = field!(valid.error_type(), error_type);
    let operation = field!(valid.operation(), operation);
    let level = field!(valid.level(), level);
    let address = field!(valid.target_address(), target_address);
    let version = field!(valid.cpu_version(), cpu_version).map(U64::get);
    let details = &mut record.details;
    details.add_some("processor_type", code(processor_type, TYPES));
    details.add_some("processor_isa", code(field!(valid.processor_isa(), processor_isa), ISAS));
    details.add_some(
        "error_type",
        error_type.map(|bits| match bits {
            0 => Value::code(0, &[(0, "unknown")]),
            bits => registers::bits(bits.into(), ERROR_TYPES),
        }),
    );
    details.add_some(
        "operation",
        operation.map(|code| match code {
            0 => Value::code(0, &[(0, "unknown or generic")]),
            code => Value::code(code.into(), OPERATIONS),
        }),
    );
    let flags = field!(valid.flags(), flags);
    details.add_some("flags", flags.map(|flags| Value::flags(flags.into(), FLAGS)));
    details.add_some("level", level);
    details.add_some("cpu_version", version.map(Value::Hex));
    if let Some(version) = version
        && processor_type == Some(X86)
    {
        ia32_x64::add_signature(details, version);
    }
    let brand = field!(valid.cpu_brand(), cpu_brand).map(|brand| text::<String>(&brand));
    details.add_some("cpu_brand", brand.filter(|brand| !brand.is_empty()));
    details.add_some("processor_id", hex(field!(valid.processor_id(), processor_id)));
    details.add_some("requestor_id", hex(field!(valid.requestor_id(), requestor_id)));
    details.add_some("responder_id", hex(field!(valid.responder_id(), responder_id)));
    let ip = hex(field!(valid.instruction_pointer(), instruction_pointer));
    details.add_some("instruction_pointer", ip);
    fields.finish("processor", section, record);

    let error_type = error_type.unwrap_or(0);
    record.class = class(error_type);
    // The specification does not say what kind of address the target's is.
    record.address = address.map(|address| ErrorAddress {
        addr: PhysAddr(address.get()),
        lsb: 0,
        mode: AddressMode::Generic,
    });
    let mut summary = String::with_capacity(96);
    summary.push_str("processor ");
    summary.push_str(kind(record.class));
    if let Some(operation) = operation.and_then(|code| meaning(OPERATIONS, code.into())) {
        summary.push_str(" during ");
        summary.push_str(operation);
    }
    if let Some(level) = level {
        summary.push_str(", level ");
        crate::cper::names::push_number(&mut summary, level.into());
    }
    summary.push_str(", ");
    summary.push_str(phrase(record.severity));
    record.summary = summary;
}

/// One bit names a part; several or none, the processor as a whole.
const fn class(error_type: u8) -> ErrorClass {
    match error_type {
        1 => ErrorClass::Cache,
        2 => ErrorClass::Tlb,
        4 => ErrorClass::Bus,
        8 => ErrorClass::Internal,
        _ => ErrorClass::Processor,
    }
}

/// An error of a class, for a summary.
pub(super) const fn kind(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Cache => "cache error",
        ErrorClass::Tlb => "TLB error",
        ErrorClass::Bus => "bus error",
        ErrorClass::Internal => "microarchitecture error",
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};
    use proptest::prelude::*;

    #[test]
    fn an_x86_cache_error() {
        let body = body::<ProcessorError>(|body| {
            body.validation_bits = U64::new((1 << 13) - 1);
            body.processor_isa = 2;
            body.error_type = 1;
            body.operation = 1;
            body.flags = 0b1001;
            body.level = 2;
            body.cpu_version = U64::new(0x606a6);
            body.cpu_brand[..4].copy_from_slice(b"Brnd");
            body.processor_id = U64::new(0x42);
            body.target_address = U64::new(0x1_2345_6789);
            body.instruction_pointer = U64::new(0xffff_ffff_8100_0000);
        });
        let record = decoded(SECTION_TYPE, 2, &body);
        assert_eq!(record.problems, []);
        assert_eq!(record.class, ErrorClass::Cache);
        assert_eq!(record.summary, "processor cache error during data read, level 2, corrected");
        assert_eq!(
            record.address.map(|a| (a.addr.0, a.mode)),
            Some((0x1_2345_6789, AddressMode::Generic))
        );
        assert_eq!(detail(&record, "model"), Some(&Value::Hex(0x6a)));
        assert_eq!(detail(&record, "cpu_brand"), Some(&Value::from(String::from("Brnd"))));
        assert_eq!(detail(&record, "flags.1"), Some(&Value::from("corrected")));
        assert_eq!(detail(&record, "processor_id"), Some(&Value::Hex(0x42)));
    }

    proptest! {
        #[test]
        fn fields_are_told_where_they_are_valid_and_there(
            bytes in proptest::collection::vec(any::<u8>(), 8..200),
        ) {
            let record = decoded(SECTION_TYPE, 1, &bytes);
            let valid = bytes[0];
            let told = |name, bit: u32, end| {
                let expected = valid >> bit & 1 == 1 && bytes.len() >= end;
                prop_assert_eq!(detail(&record, name).is_some(), expected, "{}", name);
                Ok(())
            };
            told("processor_type", 0, 9)?;
            told("error_type", 2, 11)?;
            told("level", 5, 14)?;
            told("cpu_version", 6, 24)?;
        }
    }
}
